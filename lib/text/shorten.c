/* LLM2Vec's way to shorten a document: whole words go, as many as the share of tokens that are too many, until it fits.
 */
#include "lib/text/shorten.h"
#include "lib/text/unicode.h"

void vp_shortener_free(vp_shortener *s) {
    vp_buf_free(&s->words);
    vp_tokens_free(&s->tokens);
}

/* White space as Python's str.split has it: Unicode's and the four separators of ASCII. */
static bool is_blank(int32_t c) {
    return vp_char_is_space(c) || (c >= 0x1C && c <= 0x1F);
}

size_t vp_text_first(const char *text, size_t n, int64_t characters) {
    size_t at = 0;
    if (!characters) return n;
    for (size_t len; at < n && characters > 0; at += len, characters--) vp_char_at(text + at, n - at, &len);
    return at;
}

size_t vp_text_stripped(const char *text, size_t n) {
    size_t len;
    while (n && is_blank(vp_char_before(text, n, &len))) n -= len;
    return n;
}

size_t vp_text_indent(const char *text, size_t n) {
    size_t at = 0;
    for (size_t len; at < n && is_blank(vp_char_at(text + at, n - at, &len)); at += len) continue;
    return at;
}

/* The words of text[0..n) joined by one space. */
static int join(const char *text, size_t n, vp_buf *out, size_t *words, vp_error *err) {
    size_t len, from = 0;
    out->len = 0;
    *words = 0;
    VP_TRY(vp_buf_reserve(out, n + 1, err));
    for (size_t at = 0; at <= n; at += len) {
        len = 1;
        if (at < n && !is_blank(vp_char_at(text + at, n - at, &len))) continue;
        if (at > from) {
            if ((*words)++) VP_TRY(vp_buf_add(out, " ", 1, err));
            VP_TRY(vp_buf_add(out, text + from, at - from, err));
        }
        from = at + len;
    }
    return VP_OK;
}

/* Bytes of the first k of the joined words; there are more. */
static size_t first_words(const vp_buf *joined, size_t k) {
    size_t at = 0;
    if (!k) return 0;
    for (;; at++)
        if (joined->data[at] == ' ' && --k == 0) return at;
}

static int count(vp_shortener *s, const vp_tokenizer *t, const char *text, size_t n, int64_t most, int64_t *tokens,
                 vp_error *err) {
    s->tokens.n = 0;
    VP_TRY(vp_tokenizer_encode(t, text, n, false, &s->tokens, err));
    *tokens = (int64_t)s->tokens.n;
    if (most && *tokens > most) *tokens = most;
    return VP_OK;
}

int vp_text_shorten(vp_shortener *s, const vp_tokenizer *t, int64_t limit, int64_t most, const char **text, size_t *n,
                    bool *cut, vp_error *err) {
    int64_t tokens;
    size_t words = 0;
    *cut = false;
    for (;;) {
        VP_TRY(count(s, t, *text, *n, most, &tokens, err));
        if (tokens <= limit || !*n) return VP_OK;
        if (!*cut) VP_TRY(join(*text, *n, &s->words, &words, err));
        *cut = true;
        /* the ratio is rounded first, like the reference's, so that the same words remain */
        const double ratio = (double)limit / (double)tokens;
        words = (size_t)((double)words * ratio);
        *text = s->words.data;
        *n = first_words(&s->words, words);
    }
}
