/* One vector a word: its tokens as a row of their own, and the columns of the sentence taken apart. */
#include "lib/model/pool_words.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

void vp_word_spans_free(vp_word_spans *w) {
    free(w->cu);
    free(w->sentence);
    free(w->index);
    free(w->keep);
    *w = (vp_word_spans){0};
}

/* Row b's words: the span of one begins with its first state and goes on to where the next word's begins. */
static int find_row(vp_word_spans *w, const vp_frame *f, const int32_t *cu, int32_t b, const int32_t *word, bool shift,
                    vp_error *err) {
    int32_t last = -1;
    for (int32_t t = cu[b]; t < cu[b + 1]; t++) {
        if (word[t] < 0) continue;
        if (word[t] < last)
            return vp_frame_fail(f, VP_DATA, err, "row %d: word %d after word %d", (int)b, (int)word[t], (int)last);
        const bool state = !shift || t > cu[b];
        const int32_t at = shift && state ? t - 1 : t;
        if (word[t] > last) {
            w->cu[w->n] = at;
            w->sentence[w->n] = b;
            w->index[w->n++] = word[t];
        }
        last = word[t];
        if (state) w->keep[at] = 1;
    }
    return VP_OK;
}

static int find(vp_word_spans *w, const vp_frame *f, const int32_t *cu, const int32_t *word, bool shift,
                vp_error *err) {
    const size_t T = (size_t)f->T;
    w->cu = vp_calloc(T + 1, sizeof *w->cu);
    w->sentence = vp_calloc(T + 1, sizeof *w->sentence);
    w->index = vp_calloc(T + 1, sizeof *w->index);
    w->keep = vp_calloc(T + 1, sizeof *w->keep);
    if (!w->cu || !w->sentence || !w->index || !w->keep) return vp_fail_memory(err, "words", T * sizeof *w->cu);
    for (int32_t b = 0; b < f->B; b++) VP_TRY(find_row(w, f, cu, b, word, shift, err));
    w->cu[0] = 0; /* what stands before the first word is not kept */
    w->cu[w->n] = w->n ? (int32_t)T : 0;
    return VP_OK;
}

int vp_word_spans_find(vp_word_spans *w, const vp_frame *f, bool shift, vp_error *err) {
    int32_t *cu = NULL, *word = NULL;
    int64_t tokens = 0, offsets = 0;
    *w = (vp_word_spans){0};
    int status = vp_frame_ints(f, "cu", &cu, &offsets, err);
    if (!status) status = vp_frame_ints(f, "word", &word, &tokens, err);
    if (!status && (!cu || offsets != f->B + 1)) status = vp_frame_fail(f, VP_DATA, err, "no column cu");
    if (!status && (!word || tokens != f->T))
        status = vp_frame_fail(f, VP_DATA, err, "no column word: tok --words makes it");
    if (!status) status = find(w, f, cu, word, shift, err);
    free(cu);
    free(word);
    return status;
}

/* ---- columns ---- */

/* Strings of a column as they are put together, one a word. */
typedef struct strings {
    vp_buf bytes, at; /* size_t: where each begins; SIZE_MAX: nil */
    bool any;
} strings;

static int begin_string(strings *s, bool nil, vp_error *err) {
    const size_t at = nil ? SIZE_MAX : s->bytes.len;
    s->any |= !nil;
    VP_TRY(vp_buf_reserve(&s->bytes, 1, err)); /* an empty string has an address, too */
    return vp_buf_add(&s->at, &at, sizeof at, err);
}

static int put_strings(vp_frame *f, const char *name, const strings *s, int64_t n, vp_error *err) {
    const size_t *at = (const size_t *)(const void *)s->at.data;
    const char **text = vp_calloc((size_t)n + 1, sizeof *text);
    size_t *len = vp_calloc((size_t)n + 1, sizeof *len), end = s->bytes.len;
    int status = text && len ? VP_OK : vp_fail_memory(err, name, (size_t)n * sizeof *len);
    for (int64_t i = n - 1; !status && i >= 0; i--) {
        if (at[i] == SIZE_MAX) continue;
        text[i] = s->bytes.data + at[i];
        len[i] = end - at[i];
        end = at[i];
    }
    if (!status && s->any) status = vp_frame_put_strs(f, name, n, text, len, err);
    free(text);
    free(len);
    return status;
}

static int add_names(strings *id, strings *parent, const vp_frame *f, const vp_column *c, int32_t row, int32_t word,
                     vp_error *err) {
    const char *s = NULL;
    size_t n = 0;
    char scratch[32];
    if (c) VP_TRY(vp_column_str(f, c, row, &s, &n, scratch, err));
    VP_TRY(begin_string(id, !s, err));
    VP_TRY(begin_string(parent, !s, err));
    if (!s) return VP_OK;
    VP_TRY(vp_buf_add(&id->bytes, s, n, err));
    VP_TRY(vp_buf_printf(&id->bytes, err, "#%d", (int)word));
    return vp_buf_add(&parent->bytes, s, n, err);
}

/* The array `labels` of a row's meta (json_decref it), or NULL. */
static int read_labels(const vp_frame *f, const vp_column *c, int32_t row, json_t **labels, vp_error *err) {
    const char *s = NULL;
    size_t n = 0;
    char scratch[32];
    *labels = NULL;
    if (c) VP_TRY(vp_column_str(f, c, row, &s, &n, scratch, err));
    if (!s) return VP_OK;
    json_t *meta = json_loadb(s, n, JSON_ALLOW_NUL, NULL);
    *labels = json_incref(json_object_get(meta, "labels"));
    json_decref(meta);
    return VP_OK;
}

static int add_label(strings *meta, const vp_frame *f, const json_t *labels, int32_t row, int32_t word, vp_error *err) {
    VP_TRY(begin_string(meta, !labels, err));
    if (!labels) return VP_OK;
    const json_t *label = json_array_get(labels, (size_t)word);
    if (!label) return vp_frame_fail(f, VP_DATA, err, "row %d: no label for word %d", (int)row, (int)word);
    char *text = json_dumps(label, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!text) return vp_fail_memory(err, "a label", 1);
    const int status = vp_buf_printf(&meta->bytes, err, "{\"label\":%s}", text);
    free(text);
    return status;
}

static int gather(const vp_word_spans *w, const vp_frame *f, strings *id, strings *parent, strings *meta,
                  vp_error *err) {
    const vp_column *names = vp_frame_find(f, "id"), *metas = vp_frame_find(f, "meta");
    json_t *labels = NULL;
    int status = VP_OK;
    for (int64_t i = 0; i < w->n && !status; i++) {
        const int32_t row = w->sentence[i];
        if (!i || row != w->sentence[i - 1]) {
            json_decref(labels);
            status = read_labels(f, metas && metas->is_values ? metas : NULL, row, &labels, err);
        }
        if (!status) status = add_names(id, parent, f, names && names->is_values ? names : NULL, row, w->index[i], err);
        if (!status) status = add_label(meta, f, labels, row, w->index[i], err);
    }
    json_decref(labels);
    return status;
}

static int take_rows(const vp_word_spans *w, const vp_frame *f, int64_t first, int64_t *rows, vp_error *err) {
    const vp_column *c = vp_frame_find(f, "row");
    if (c) VP_TRY(vp_frame_need(f, "row", VP_I64, 1, &f->B, &c, err));
    for (int64_t i = 0; i < w->n; i++) {
        rows[i] = first + w->sentence[i];
        if (c) memcpy(&rows[i], c->data + (size_t)w->sentence[i] * sizeof *rows, sizeof *rows);
    }
    return VP_OK;
}

int vp_words_frame(const vp_word_spans *w, vp_frame *f, int64_t first, int64_t *rows, vp_error *err) {
    strings id = {0}, parent = {0}, meta = {0};
    int status = gather(w, f, &id, &parent, &meta, err);
    if (!status) status = take_rows(w, f, first, rows, err);
    while (!status && f->ncolumns) vp_frame_drop(f, f->column[f->ncolumns - 1].name);
    if (!status) status = vp_frame_put(f, "row", VP_I64, 1, &w->n, rows, err);
    if (!status) status = put_strings(f, "id", &id, w->n, err);
    if (!status) status = put_strings(f, "parent", &parent, w->n, err);
    if (!status) status = put_strings(f, "meta", &meta, w->n, err);
    strings *const all[] = {&id, &parent, &meta};
    for (int i = 0; i < 3; i++) {
        vp_buf_free(&all[i]->bytes);
        vp_buf_free(&all[i]->at);
    }
    return status;
}

int vp_words_declare(vp_map *header, vp_error *err) {
    static const char *const names[] = {"id", "parent", "meta", "row"};
    vp_map_remove(header, "columns");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const vp_schema *s = vp_schema_find(names[i]);
        if (!s) return vp_fail(err, VP_BUG, "column '%s' is not in the table", names[i]);
        VP_TRY(vp_header_declare(header, s->name, s->dtype, s->shape, err));
    }
    return VP_OK;
}
