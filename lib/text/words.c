/* Texts that come as words: joined by one space, as LLM2Vec's word tasks have them, and found again by the places where
 * tokens begin. */
#include "lib/text/words.h"

void vp_joined_free(vp_joined *w) {
    vp_buf_free(&w->text);
    vp_buf_free(&w->end);
}

static int bad(const char *name, int64_t number, vp_error *err, const char *why, size_t word) {
    return vp_fail(err, VP_DATA, "%s:%lld: word %zu %s", name, (long long)number, word, why);
}

int vp_words_join(vp_joined *w, const json_t *object, const char *name, int64_t number, vp_error *err) {
    const json_t *words = json_object_get(object, "words"), *labels = json_object_get(object, "labels");
    w->text.len = w->end.len = 0;
    if (!json_is_array(words))
        return vp_fail(err, VP_DATA, "%s:%lld: 'words' is not an array", name, (long long)number);
    const size_t n = json_array_size(words);
    if (labels && (!json_is_array(labels) || json_array_size(labels) != n))
        return vp_fail(err, VP_DATA, "%s:%lld: 'labels' is not an array of %zu, one a word", name, (long long)number,
                       n);
    VP_TRY(vp_buf_reserve(&w->text, 1, err)); /* no words are an empty text */
    for (size_t i = 0; i < n; i++) {
        const json_t *word = json_array_get(words, i);
        if (!json_is_string(word)) return bad(name, number, err, "is not a string", i);
        if (!json_string_length(word)) return bad(name, number, err, "is empty", i);
        if (i) VP_TRY(vp_buf_add(&w->text, " ", 1, err));
        VP_TRY(vp_buf_add(&w->text, json_string_value(word), json_string_length(word), err));
        const uint32_t end = (uint32_t)w->text.len; /* lines are shorter than 2^32 */
        VP_TRY(vp_buf_add(&w->end, &end, sizeof end, err));
    }
    return VP_OK;
}

void vp_words_of_tokens(const uint32_t *begin, size_t n, const uint32_t *word_end, size_t words, int32_t *word) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        word[i] = -1;
        if (begin[i] == VP_NO_TEXT) continue;
        while (k < words && word_end[k] <= begin[i]) k++;
        if (k < words) word[i] = (int32_t)k;
    }
}
