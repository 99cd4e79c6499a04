/* Added tokens: found in a text leftmost first and longest first, with the white space around that they take. */
#include "lib/text/tokenizer.h"
#include <stdlib.h>
#include <string.h>

int vp_added_begin(vp_added *a, size_t count, vp_error *err) {
    if (count == 0) return VP_OK;
    VP_TRY(vp_vocab_begin(&a->texts, (int64_t)count, err));
    VP_TRY(vp_words_begin(&a->words, &a->texts, count, 0, err));
    a->token = calloc(count, sizeof *a->token);
    a->length = calloc(count, sizeof *a->length);
    if (!a->token || !a->length) return vp_fail_memory(err, "added tokens", count * sizeof *a->token);
    return VP_OK;
}

int vp_added_add(vp_added *a, const vp_added_token *token, const char *s, size_t n, vp_error *err) {
    if (n == 0) return vp_fail(err, VP_DATA, "an added token without text");
    VP_TRY(vp_vocab_set(&a->texts, a->n, s, n, err));
    VP_TRY(vp_words_add(&a->words, a->n, err));
    a->first[(unsigned char)s[0]] = true;
    a->token[a->n] = *token;
    a->length[a->n++] = (uint32_t)n;
    return VP_OK;
}

static int longest_first(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x < y) - (x > y);
}

int vp_added_finish(vp_added *a, vp_error *err) {
    if (a->n) qsort(a->length, (size_t)a->n, sizeof *a->length, longest_first);
    for (int32_t i = 0; i < a->n; i++)
        if (!a->nlengths || a->length[a->nlengths - 1] != a->length[i]) a->length[a->nlengths++] = a->length[i];
    return a->nlengths > 256 ? vp_fail(err, VP_DATA, "added tokens of more than 256 different lengths") : VP_OK;
}

void vp_added_free(vp_added *a) {
    vp_vocab_free(&a->texts);
    vp_words_free(&a->words);
    free(a->token);
    free(a->length);
    *a = (vp_added){0};
}

static bool stands_alone(const char *s, size_t n, size_t start, size_t end) {
    size_t len;
    return (start == 0 || !vp_char_is_word(vp_char_before(s, start, &len))) &&
           (end == n || !vp_char_is_word(vp_char_at(s + end, n - end, &len)));
}

/* The longest token at this place, or -1. */
static int32_t match_at(const vp_added *a, const char *s, size_t n) {
    for (size_t i = 0; i < a->nlengths; i++) {
        int32_t found = a->length[i] <= n ? vp_words_find(&a->words, s, a->length[i]) : -1;
        if (found >= 0) return found;
    }
    return -1;
}

void vp_added_next(const vp_added *a, const char *s, size_t n, size_t from, size_t *start, size_t *end, int32_t *id) {
    *id = -1;
    for (size_t at = from, len; a->n && at < n; at++) {
        if (!a->first[(unsigned char)s[at]]) continue;
        int32_t found = match_at(a, s + at, n - at);
        if (found < 0) continue;
        const vp_added_token *token = &a->token[found];
        size_t stop = at;
        vp_vocab_text(&a->texts, found, &len);
        stop += len;
        if (token->single_word && !stands_alone(s, n, at, stop)) {
            at = stop - 1; /* as the reference: it is passed over whole */
            continue;
        }
        while (token->lstrip && at > from && vp_char_is_space(vp_char_before(s + from, at - from, &len))) at -= len;
        while (token->rstrip && stop < n && vp_char_is_space(vp_char_at(s + stop, n - stop, &len))) stop += len;
        *start = at;
        *end = stop;
        *id = token->id;
        return;
    }
}
