/* The texts of an index, as mining asks for them: all rows of one snapshot in memory, without their texts, by number,
 * by name and by what they say; their scores against the queries at hand. They are in the order of their ids: in which
 * order they came into the index cannot be seen. */
#include "lib/mine/private.h"
#include <stdlib.h>
#include <string.h>

enum { NUMBER, SEGMENT, SLOT, ID, PARENT, TEXT, META }; /* columns of ENTRIES_BY_ID */

/* ---- loading ---- */
/* The number of a string in a set, given in order of appearance. */
static int number_of(vp_idset *set, const char *s, size_t n, int64_t number, int32_t *out, vp_error *err) {
    int64_t earlier;
    VP_TRY(vp_idset_add(set, s, n, number, &earlier, err));
    *out = (int32_t)(earlier < 0 ? number : earlier);
    return VP_OK;
}

/* Chains the row to its record; a chunk is found by its own name, too. */
static int join_record(vp_catalogue *c, sqlite3_stmt *q, vp_mine_text *t, int32_t row, vp_error *err) {
    const char *id, *parent;
    size_t id_len, parent_len;
    int32_t own;
    VP_TRY(vp_store_text(c->x, q, ID, &id, &id_len, err));
    VP_TRY(vp_store_text(c->x, q, PARENT, &parent, &parent_len, err));
    if (!id) return vp_store_damaged(c->x, err, "an entry has no id");
    VP_TRY(number_of(&c->by_name, parent ? parent : id, parent ? parent_len : id_len, row, &t->record, err));
    if (parent) VP_TRY(number_of(&c->by_name, id, id_len, t->record, &own, err));
    t->next = -1;
    if (t->record == row) return VP_OK;
    vp_mine_text *first = &c->text[t->record];
    t->next = first->next;
    first->next = row;
    return VP_OK;
}

/* A pair of a text, by its first row, and a label. */
static void class_key(int32_t same, int32_t label, char key[8]) {
    memcpy(key, &same, sizeof same);
    memcpy(key + sizeof same, &label, sizeof label);
}

static int take_labels(vp_catalogue *c, sqlite3_stmt *q, const char *field, int32_t same, vp_error *err) {
    const char *meta;
    size_t n;
    json_error_t why;
    int status = VP_OK;
    bool more = true;
    VP_TRY(vp_store_text(c->x, q, META, &meta, &n, err));
    json_t *object = meta ? json_loadb(meta, n, JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &why) : NULL;
    for (size_t i = 0; more && !status; i++) {
        int32_t label;
        int64_t earlier;
        char key[8];
        status = vp_mine_label(object, field, i, &more, &c->scratch, err);
        if (status || !c->scratch.len) continue;
        status = number_of(&c->labels, c->scratch.data, c->scratch.len, (int64_t)c->labels.n, &label, err);
        class_key(same, label, key);
        if (!status) status = vp_idset_add(&c->classes, key, sizeof key, 0, &earlier, err);
    }
    json_decref(object);
    return status;
}

static int take_entry(vp_catalogue *c, sqlite3_stmt *q, const char *label, vp_error *err) {
    const char *text;
    size_t n;
    if (c->n == INT32_MAX) return vp_fail(err, VP_DATA, "'%s': more than 2^31 rows", c->x->path);
    VP_TRY(vp_grow(&c->text, &c->cap, c->n, sizeof *c->text, "the texts of an index", err));
    const int32_t row = (int32_t)c->n;
    vp_mine_text *t = &c->text[row];
    *t = (vp_mine_text){.n = sqlite3_column_int64(q, NUMBER),
                        .place = {sqlite3_column_int64(q, SEGMENT), sqlite3_column_int64(q, SLOT)}};
    VP_TRY(vp_store_text(c->x, q, TEXT, &text, &n, err));
    if (!text)
        return vp_fail(err, VP_DATA, "'%s': a row has no text: `tok --text` carries it to `knn add`", c->x->path);
    VP_TRY(vp_mine_key(text, n, &c->scratch, &t->key, err));
    VP_TRY(number_of(&c->by_text, c->scratch.data, c->scratch.len, row, &t->same, err));
    VP_TRY(join_record(c, q, t, row, err));
    if (label) VP_TRY(take_labels(c, q, label, t->same, err));
    c->n++;
    return VP_OK;
}

static int load(vp_catalogue *c, const char *label, vp_error *err) {
    sqlite3_stmt *q;
    bool row;
    VP_TRY(vp_store_statement(c->x, VP_SQL_ENTRIES_BY_ID, &q, err));
    for (;;) {
        VP_TRY(vp_store_step(c->x, q, &row, err));
        if (!row) break;
        VP_TRY(take_entry(c, q, label, err));
    }
    sqlite3_reset(q);
    return VP_OK;
}

static int by_number(const void *a, const void *b, void *text) {
    const int64_t x = ((const vp_mine_text *)text)[*(const int32_t *)a].n;
    const int64_t y = ((const vp_mine_text *)text)[*(const int32_t *)b].n;
    return (x > y) - (x < y);
}

static int sort_numbers(vp_catalogue *c, vp_error *err) {
    c->by_number = vp_calloc(c->n + 1, sizeof *c->by_number);
    if (!c->by_number) return vp_fail_memory(err, "the texts of an index", c->n * sizeof *c->by_number);
    for (size_t i = 0; i < c->n; i++) c->by_number[i] = (int32_t)i;
    qsort_r(c->by_number, c->n, sizeof *c->by_number, by_number, c->text);
    return VP_OK;
}

int vp_catalogue_load(vp_catalogue *c, const vp_frame *header, const vp_search_options *o, const char *label,
                      vp_error *err) {
    VP_TRY(vp_search_open(&c->searcher, c->x, header, o, err));
    VP_TRY(vp_snapshot_begin(&c->searcher->snapshot, c->x, err));
    if (o->mode != VP_SEARCH_BM25) VP_TRY(vp_store_match(c->x, header->keys, false, err));
    VP_TRY(load(c, label, err));
    if (!c->n) return vp_fail(err, VP_DATA, "'%s': an empty index: nothing to mine from", c->x->path);
    if (label && !c->labels.n)
        return vp_fail(err, VP_DATA, "'%s': no text has the field '%s', a string, a number or a list of them",
                       c->x->path, label);
    return sort_numbers(c, err);
}

void vp_catalogue_close(vp_catalogue *c) {
    vp_search_close(c->searcher);
    vp_index_close(c->x);
    free(c->text);
    free(c->by_number);
    free(c->rows);
    vp_idset_free(&c->by_text);
    vp_idset_free(&c->by_name);
    vp_idset_free(&c->labels);
    vp_idset_free(&c->classes);
    vp_buf_free(&c->scratch);
    *c = (vp_catalogue){0};
}

/* ---- looking up ---- */
int32_t vp_catalogue_by_number(const vp_catalogue *c, int64_t n) {
    size_t low = 0, high = c->n;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (c->text[c->by_number[middle]].n < n)
            low = middle + 1;
        else
            high = middle;
    }
    return low < c->n && c->text[c->by_number[low]].n == n ? c->by_number[low] : -1;
}

static int32_t find(const vp_idset *set, const char *s, size_t n) {
    int64_t number;
    return vp_idset_find(set, s, n, &number) ? (int32_t)number : -1;
}

int32_t vp_catalogue_by_name(const vp_catalogue *c, const char *id, size_t len) {
    return find(&c->by_name, id, len);
}

int vp_catalogue_by_text(vp_catalogue *c, const char *s, size_t len, int32_t *row, vp_error *err) {
    c->scratch.len = 0;
    VP_TRY(vp_mine_normalise(s, len, &c->scratch, err));
    *row = find(&c->by_text, c->scratch.data, c->scratch.len);
    return VP_OK;
}

int vp_catalogue_labels(vp_catalogue *c, const json_t *object, const char *field, vp_buf *labels, vp_error *err) {
    bool more = true;
    labels->len = 0;
    for (size_t i = 0; more; i++) {
        VP_TRY(vp_mine_label(object, field, i, &more, &c->scratch, err));
        const int32_t label = c->scratch.len ? find(&c->labels, c->scratch.data, c->scratch.len) : -1;
        if (label >= 0) VP_TRY(vp_buf_add(labels, &label, sizeof label, err));
    }
    return VP_OK;
}

bool vp_catalogue_has_label(const vp_catalogue *c, int32_t row, const vp_buf *labels) {
    const int32_t *label = (const int32_t *)(const void *)labels->data;
    for (size_t i = 0; i < labels->len / sizeof *label; i++) {
        int64_t number;
        char key[8];
        class_key(c->text[row].same, label[i], key);
        if (vp_idset_find(&c->classes, key, sizeof key, &number)) return true;
    }
    return false;
}

int vp_catalogue_content(vp_catalogue *c, int32_t row, vp_buf *out, size_t *at, size_t *text_len, size_t *id_len,
                         vp_error *err) {
    static const vp_statement statement[] = {VP_SQL_DOCUMENT, VP_SQL_HIT_BY_N};
    size_t *len[] = {text_len, id_len};
    *at = out->len;
    for (int i = 0; i < 2; i++) {
        sqlite3_stmt *q;
        bool found;
        const char *s = NULL;
        VP_TRY(vp_store_statement(c->x, statement[i], &q, err));
        sqlite3_bind_int64(q, 1, c->text[row].n);
        VP_TRY(vp_store_step(c->x, q, &found, err));
        if (found) VP_TRY(vp_store_text(c->x, q, i, &s, len[i], err));
        if (!s) return vp_store_damaged(c->x, err, "a row lacks its text or id");
        VP_TRY(vp_buf_add(out, s, *len[i], err));
        sqlite3_reset(q);
    }
    return VP_OK;
}

/* ---- scores ---- */
/* The rows, one behind the other. */
static int gather(vp_catalogue *c, const int32_t *rows, size_t n, vp_error *err) {
    const size_t bytes = c->x->row_bytes;
    if (n > c->rows_cap) {
        free(c->rows);
        c->rows = vp_calloc(n, bytes);
        c->rows_cap = c->rows ? n : 0;
        if (!c->rows) return vp_fail_memory(err, "rows to score", n * bytes);
    }
    for (size_t i = 0; i < n; i++) {
        const uint8_t *v = vp_snapshot_row(&c->searcher->snapshot, c->x, c->text[rows[i]].place, err);
        if (!v) return err->code;
        memcpy((uint8_t *)c->rows + i * bytes, v, bytes);
    }
    return VP_OK;
}

int vp_catalogue_score(vp_catalogue *c, int64_t query, const int32_t *rows, size_t n, float *score, vp_error *err) {
    vp_searcher *s = c->searcher;
    const vp_scan *cpu = &s->scan; /* which mine.c asks for */
    const vp_index *x = c->x;
    if (!n) return VP_OK;
    VP_TRY(gather(c, rows, n, err));
    vp_hit *hit = vp_calloc(n, sizeof *hit);
    if (!hit) return vp_fail_memory(err, "scores", n * sizeof *hit);
    int32_t found = 0;
    vp_topk_op op = {
        .queries = {.ptr = s->queries + query * x->dims, .dtype = VP_F32, .rows = 1, .cols = x->dims, .ld = x->dims},
        .rows = {.ptr = c->rows, .dtype = x->dtype, .rows = (int64_t)n, .cols = x->dims, .ld = x->dims},
        .k = (int32_t)n,
        .best = hit,
        .found = &found};
    int status = cpu->ops->topk(cpu->queue, &op);
    if (!status) status = cpu->ops->queue_wait(cpu->queue, err);
    if (status) vp_fail(err, status, "scores: %s", cpu->ops->why(cpu->queue));
    for (int32_t i = 0; i < found; i++) score[hit[i].row] = hit[i].score;
    free(hit);
    return status;
}

int vp_catalogue_bm25(vp_catalogue *c, int32_t row, float *score, vp_error *err) {
    sqlite3_stmt *q;
    bool found = false;
    *score = 0;
    const vp_buf *words = &c->searcher->expression;
    if (!words->len) return VP_OK;
    VP_TRY(vp_store_statement(c->x, VP_SQL_BM25_ONE, &q, err));
    VP_TRY(vp_store_bind_text(c->x, q, 1, words->data, words->len, err));
    sqlite3_bind_int64(q, 2, c->text[row].n);
    VP_TRY(vp_store_step(c->x, q, &found, err));
    if (found) *score = (float)sqlite3_column_double(q, 0);
    sqlite3_reset(q);
    return VP_OK;
}
