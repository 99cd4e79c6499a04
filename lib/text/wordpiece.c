/* WordPiece: the longest token that begins the word, then the longest ones that go on with it; all or nothing. */
#include "lib/text/tokenizer.h"

static bool longer_than(const char *s, size_t n, size_t limit) {
    size_t chars = 0;
    for (size_t i = 0; i < n && chars <= limit; i++) chars += ((unsigned char)s[i] & 0xC0) != 0x80;
    return chars > limit;
}

static size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

int vp_wordpiece_word(const vp_tokenizer *t, const char *s, size_t n, vp_tokens *out, vp_error *err) {
    size_t first = out->n;
    bool known = !longer_than(s, n, t->max_word);
    for (size_t at = 0, end; known && at < n; at = end) {
        const vp_words *words = at == 0 ? &t->words : &t->continuing;
        int32_t id = -1;
        for (end = at + min_size(n - at, words->longest); end > at; end--) {
            if (end < n && ((unsigned char)s[end] & 0xC0) == 0x80) continue; /* not between characters */
            id = vp_words_find(words, s + at, end - at);
            if (id >= 0) break;
        }
        known = id >= 0;
        if (known) VP_TRY(vp_tokens_add(out, id, at, end, err));
    }
    if (known) return VP_OK;
    out->n = first;
    return vp_tokens_add(out, t->unk, 0, n, err);
}
