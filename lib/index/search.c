/* Searching: all queries of a batch on one snapshot of the database and the mapped segments. */
#include "lib/index/rank.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ID, PARENT, TEXT, META }; /* strings of a hit */

/* BM25 over an index whose rows came without texts would find nothing, silently. */
static int need_texts(vp_index *x, vp_error *err) {
    sqlite3_stmt *q;
    bool textless;
    VP_TRY(vp_store_statement(x, VP_SQL_TEXTLESS, &q, err));
    VP_TRY(vp_store_step(x, q, &textless, err));
    sqlite3_reset(q);
    return textless ? vp_fail(err, VP_DATA, "the index has no texts for BM25: `tok --text` carries them to `knn add`")
                    : VP_OK;
}

int vp_search_open(vp_searcher **out, vp_index *x, const vp_frame *header, const vp_search_options *o, vp_error *err) {
    if (o->mode != VP_SEARCH_BM25) VP_TRY(vp_store_match(x, header->keys, false, err));
    if (o->mode != VP_SEARCH_DENSE) VP_TRY(need_texts(x, err));
    vp_searcher *s = vp_calloc(1, sizeof *s);
    if (!s) return vp_fail_memory(err, "a searcher", sizeof *s);
    s->x = x;
    s->header = header->keys;
    s->options = *o;
    *out = s;
    return VP_OK;
}

void vp_search_device(const vp_searcher *s, char out[40]) {
    vp_scan_device(&s->scan, out);
}

void vp_search_close(vp_searcher *s) {
    if (!s) return;
    vp_snapshot_drop(&s->snapshot);
    vp_candidates_close(s);
    for (int i = 0; i < 3; i++) vp_found_free(&s->list[i]);
    vp_buf_free(&s->strings);
    free(s->result);
    free(s->hit);
    free(s->out);
    free(s);
}

/* ---- the queries of a batch ---- */

static int keep_string(vp_searcher *s, vp_hit_strings *h, int which, const char *text, size_t n, vp_error *err) {
    h->at[which] = s->strings.len;
    h->len[which] = text ? n : SIZE_MAX;
    return text ? vp_buf_add(&s->strings, text, n, err) : VP_OK;
}

static int keep_content(vp_searcher *s, vp_hit_strings *h, int64_t n, vp_error *err) {
    sqlite3_stmt *q;
    bool row;
    VP_TRY(vp_store_statement(s->x, VP_SQL_CONTENT, &q, err));
    sqlite3_bind_int64(q, 1, n);
    VP_TRY(vp_store_step(s->x, q, &row, err));
    if (!row) return vp_store_damaged(s->x, err, "a hit has no entry");
    for (int i = 0; i < 2; i++) {
        const char *text;
        size_t len;
        VP_TRY(vp_store_text(s->x, q, i, &text, &len, err));
        VP_TRY(keep_string(s, h, TEXT + i, text, len, err));
    }
    sqlite3_reset(q);
    return VP_OK;
}

static int keep_hits(vp_searcher *s, const vp_found_list *l, vp_search_result *r, vp_error *err) {
    r->n = (int64_t)l->n;
    for (size_t i = 0; i < l->n; i++) {
        VP_TRY(vp_grow(&s->hit, &s->hit_cap, s->hits, sizeof *s->hit, "hits", err));
        const vp_found *f = &l->item[i];
        vp_hit_strings *h = &s->hit[s->hits++];
        const char *parent = f->parent_len == SIZE_MAX ? NULL : l->strings.data + f->parent;
        *h = (vp_hit_strings){.score = f->score, .len = {SIZE_MAX, SIZE_MAX, SIZE_MAX, SIZE_MAX}};
        VP_TRY(keep_string(s, h, ID, l->strings.data + f->id, f->id_len, err));
        VP_TRY(keep_string(s, h, PARENT, parent, f->parent_len, err));
        if (s->options.content) VP_TRY(keep_content(s, h, f->n, err));
    }
    return VP_OK;
}

static int search_query(vp_searcher *s, const vp_frame *f, int64_t i, vp_search_result *r, vp_error *err) {
    const vp_search_options *o = &s->options;
    vp_found_list *dense = &s->list[0], *bm25 = &s->list[1], *fused = &s->list[2];
    int64_t want = o->k;
    if (o->mode == VP_SEARCH_HYBRID) want = o->k > 10 ? 10 * o->k : 100;
    if (o->mode != VP_SEARCH_BM25) VP_TRY(vp_candidates_dense(s, i, want, dense, err));
    if (o->mode == VP_SEARCH_DENSE) return keep_hits(s, dense, r, err);
    const vp_column *text = vp_frame_find(f, "text");
    char scratch[32];
    const char *query = NULL;
    size_t n = 0;
    if (!text || !text->is_values)
        return vp_frame_fail(f, VP_DATA, err, "no column text for BM25: `tok --text` carries it");
    VP_TRY(vp_column_str(f, text, i, &query, &n, scratch, err));
    VP_TRY(vp_candidates_bm25(s, query ? query : "", n, want, bm25, err));
    if (o->mode == VP_SEARCH_BM25) return keep_hits(s, bm25, r, err);
    VP_TRY(vp_rank_fuse(dense, bm25, o->k, o->by_parent, fused, err));
    return keep_hits(s, fused, r, err);
}

/* The query's id, text and ordinal; where the stream has no ids, the ordinal's spelling. */
static int name_query(vp_searcher *s, const vp_frame *f, int64_t i, vp_search_result *r, vp_error *err) {
    const vp_column *id = vp_frame_find(f, "id"), *words = vp_frame_find(f, "text");
    char scratch[32];
    const char *text = NULL;
    size_t n = 0;
    r->row = vp_row_ordinal(f, i, s->rows_seen);
    if (id && id->is_values) VP_TRY(vp_column_str(f, id, i, &text, &n, scratch, err));
    if (!text) {
        n = (size_t)snprintf(scratch, sizeof scratch, "%lld", (long long)r->row);
        text = scratch;
    }
    r->query_len = n;
    if (vp_utf8_valid(text, n) != n) return vp_frame_fail(f, VP_DATA, err, "row %lld: id is not UTF-8", (long long)i);
    VP_TRY(vp_buf_add(&s->strings, text, n, err));
    text = NULL;
    if (words && words->is_values) VP_TRY(vp_column_str(f, words, i, &text, &n, scratch, err));
    r->text_len = text ? n : SIZE_MAX; /* until the pointers are set */
    return text ? vp_buf_add(&s->strings, text, n, err) : VP_OK;
}

/* Offsets become pointers: the strings no longer move. */
static int point(vp_searcher *s, int64_t queries, vp_error *err) {
    free(s->out);
    s->out = vp_calloc(s->hits + 1, sizeof *s->out);
    if (!s->out) return vp_fail_memory(err, "hits", s->hits * sizeof *s->out);
    size_t hit = 0, query_at = 0;
    for (int64_t i = 0; i < queries; i++) {
        vp_search_result *r = &s->result[i];
        r->query = s->strings.data + query_at;
        query_at += r->query_len;
        if (r->text_len == SIZE_MAX)
            r->text_len = 0;
        else
            r->text = s->strings.data + query_at;
        query_at += r->text_len;
        r->hit = s->out + hit;
        for (int64_t j = 0; j < r->n; j++, hit++) {
            const vp_hit_strings *h = &s->hit[hit];
            vp_search_hit *o = &s->out[hit];
            const char **text[] = {&o->id, &o->parent, &o->text, &o->meta};
            size_t *len[] = {&o->id_len, &o->parent_len, &o->text_len, &o->meta_len};
            o->score = h->score;
            for (int k = 0; k < 4; k++)
                if (h->len[k] != SIZE_MAX) *text[k] = s->strings.data + h->at[k], *len[k] = h->len[k];
        }
    }
    return VP_OK;
}

static int search_batch(vp_searcher *s, const vp_frame *f, vp_error *err) {
    if (s->options.mode != VP_SEARCH_BM25) VP_TRY(vp_candidates_dense_begin(s, f, err));
    for (int64_t i = 0; i < f->B; i++) VP_TRY(name_query(s, f, i, &s->result[i], err));
    for (int64_t i = 0; i < f->B; i++) VP_TRY(search_query(s, f, i, &s->result[i], err));
    return point(s, f->B, err);
}

int vp_search_frame(vp_searcher *s, const vp_frame *f, const vp_search_result **results, int64_t *n, vp_error *err) {
    free(s->result);
    s->result = vp_calloc((size_t)f->B + 1, sizeof *s->result);
    if (!s->result) return vp_fail_memory(err, "results", (size_t)f->B * sizeof *s->result);
    s->strings.len = s->hits = 0;
    bool dense = s->options.mode != VP_SEARCH_BM25;
    int status = vp_snapshot_begin(&s->snapshot, s->x, err);
    if (!status && dense) status = vp_store_match(s->x, s->header, false, err);
    if (!status) status = search_batch(s, f, err);
    vp_store_rollback(s->x);
    s->rows_seen += f->B;
    *results = s->result;
    *n = f->B;
    return status;
}
