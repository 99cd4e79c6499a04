/* Whether generated texts hold their answers (the match score of GRIT's RAG, from Contriever and Atlas), or are them
 * (exact match), after the normalisation of SQuAD's evaluation script (Rajpurkar et al., 2016). */
#include "lib/score/private.h"
#include <string.h>
#include <utf8proc.h>

enum { MEASURES = 2 };

typedef struct matching {
    vp_buf value;        /* double [units, MEASURES] */
    vp_buf text, answer; /* normalised */
    int64_t units, without;
} matching;

/* ---- normalisation ---- */
static bool is_blank(utf8proc_int32_t c, utf8proc_category_t category) {
    return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP ||
           (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f) || c == 0x85;
}

static bool is_word(utf8proc_category_t c) {
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) ||
           (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

static bool is_punctuation(utf8proc_int32_t c) { /* ASCII's alone, as string.punctuation */
    return c > 0 && c < 0x80 && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", c);
}

/* The word from `from` to the end of `out`, if it is an article, becomes a blank. */
static void drop_article(vp_buf *out, size_t from) {
    static const char *const articles[] = {"a", "an", "the"};
    const size_t n = out->len - from;
    for (int i = 0; i < 3; i++) {
        if (strlen(articles[i]) != n || memcmp(out->data + from, articles[i], n) != 0) continue;
        out->len = from;
        out->data[out->len++] = ' ';
        return;
    }
}

/* Runs of blanks as one, none at the ends. */
static void fold_blanks(vp_buf *out) {
    size_t to = 0;
    for (size_t i = 0; i < out->len; i++)
        if (out->data[i] != ' ' || (to && out->data[to - 1] != ' ')) out->data[to++] = out->data[i];
    out->len = to && out->data[to - 1] == ' ' ? to - 1 : to;
}

/* Lower case, without punctuation, articles and more blanks than one between words. */
static int normalise(const char *s, size_t n, vp_buf *out, vp_error *err) {
    size_t word = 0; /* where the word begins that grows; the end of out: none */
    out->len = 0;
    VP_TRY(vp_buf_reserve(out, 3 * n + 4, err)); /* a letter's lower case has at most 3 bytes where it has 2 */
    for (size_t at = 0; at < n;) {
        utf8proc_int32_t c;
        const utf8proc_ssize_t taken =
            utf8proc_iterate((const utf8proc_uint8_t *)s + at, (utf8proc_ssize_t)(n - at), &c);
        if (taken <= 0) return vp_fail(err, VP_DATA, "a text is not UTF-8");
        at += (size_t)taken;
        if (is_punctuation(c)) continue;
        c = utf8proc_tolower(c);
        const utf8proc_category_t category = utf8proc_category(c);
        if (!is_word(category)) drop_article(out, word);
        if (is_blank(c, category))
            out->data[out->len++] = ' ';
        else
            out->len += (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)out->data + out->len);
        if (!is_word(category)) word = out->len;
    }
    drop_article(out, word);
    fold_blanks(out);
    return VP_OK;
}

/* ---- lines ---- */
/* Raise value[0] to 1 where the text holds the answer, value[1] where it is the answer. *counts: it has words. */
static int try_answer(matching *m, const json_t *answer, double value[MEASURES], bool *counts, vp_error *err) {
    const vp_buf *text = &m->text, *sought = &m->answer;
    VP_TRY(normalise(json_string_value(answer), json_string_length(answer), &m->answer, err));
    if (!sought->len) return VP_OK;
    *counts = true;
    if (!text->len || !memmem(text->data, text->len, sought->data, sought->len)) return VP_OK;
    value[0] = 1;
    if (text->len == sought->len) value[1] = 1;
    return VP_OK;
}

static int take_answers(matching *m, const json_t *o, const char *file, const vp_record *line, vp_error *err) {
    const json_t *text = json_object_get(o, "text"), *answers = json_object_get(o, "answers");
    double value[MEASURES] = {0};
    bool counts = false;
    if (!answers) answers = json_object_get(o, "answer");
    const size_t n = json_is_array(answers) ? json_array_size(answers) : 1;
    if (!json_is_string(text)) return vp_score_bad(file, line, err, "no 'text', a string");
    VP_TRY(normalise(json_string_value(text), json_string_length(text), &m->text, err));
    for (size_t i = 0; i < n; i++) {
        const json_t *answer = json_is_array(answers) ? json_array_get(answers, i) : answers;
        if (!json_is_string(answer))
            return vp_score_bad(file, line, err, "no 'answer', a string, nor 'answers', a list of strings");
        VP_TRY(try_answer(m, answer, value, &counts, err));
    }
    m->units += counts;
    m->without += !counts;
    return counts ? vp_buf_add(&m->value, value, sizeof value, err) : VP_OK;
}

static int take_line(void *self, const char *file, const vp_record *line, vp_error *err) {
    json_t *o;
    VP_TRY(vp_score_object(&o, file, line, err));
    const int status = take_answers(self, o, file, line, err);
    json_decref(o);
    return status;
}

int vp_score_match(vp_score *s, vp_score_file answers, const vp_score_options *o, vp_error *err) {
    matching m = {0};
    *s = (vp_score){.task = "match", .unit = "texts"};
    vp_score_name(s, "match");
    vp_score_name(s, "exact_match");
    int status = vp_score_lines(answers, take_line, &m, err);
    s->units = m.units;
    vp_score_count(s, "texts_left_out", m.without);
    if (!status) status = vp_score_take_means(s, (const double *)(const void *)m.value.data, o, err);
    vp_buf_free(&m.value);
    vp_buf_free(&m.text);
    vp_buf_free(&m.answer);
    return status;
}
