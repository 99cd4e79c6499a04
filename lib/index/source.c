/* Where hits come from: exact inner products over the segments (scan.c), and FTS5's BM25. */
#include "lib/index/rank.h"
#include <stdlib.h>
#include <string.h>

enum { TOPK_ENTRIES = 1 << 22 }; /* hits of one call to topk */

/* The rows {n, score} of a bound statement. */
static int take_hits(vp_searcher *s, sqlite3_stmt *q, const vp_raw_hit **hit, int64_t *n, vp_error *err) {
    vp_buf hits = {0};
    bool row;
    int status;
    *n = 0;
    while (!(status = vp_store_step(s->x, q, &row, err)) && row) {
        vp_raw_hit h = {sqlite3_column_double(q, 1), sqlite3_column_int64(q, 0)};
        status = vp_buf_add(&hits, &h, sizeof h, err);
        if (status) break;
        ++*n;
    }
    sqlite3_reset(q);
    free(s->raw);
    s->raw = (vp_raw_hit *)(void *)hits.data;
    *hit = s->raw;
    return status;
}

static int entry_of_n(vp_searcher *s, int64_t key, sqlite3_stmt **out, vp_error *err) {
    VP_TRY(vp_store_statement(s->x, VP_SQL_HIT_BY_N, out, err));
    sqlite3_bind_int64(*out, 1, key);
    return VP_OK;
}

/* ---- the dense source ---- */

/* The best `width` rows of queries [first, first + count) over all segments. */
static int run_scan(vp_searcher *s, int64_t first, int64_t count, int64_t width, vp_error *err) {
    free(s->best);
    free(s->found);
    s->best = vp_calloc((size_t)(count * width), sizeof *s->best);
    s->found = vp_calloc((size_t)count, sizeof *s->found);
    if (!s->best || !s->found) return vp_fail_memory(err, "hits", (size_t)(count * width) * sizeof *s->best);
    s->first = first;
    s->count = count;
    s->width = width;
    const vp_scan_job job = {
        .queries = s->queries + first * s->x->dims, .count = count, .width = width, .best = s->best, .found = s->found};
    return vp_scan_run(&s->scan, s->x, &s->snapshot, &job, err);
}

typedef struct dense_source {
    vp_searcher *s;
    int64_t query;
    bool is_zero;
} dense_source;

static int fetch_dense(void *ctx, int64_t want, const vp_raw_hit **hit, int64_t *n, vp_error *err) {
    dense_source *d = ctx;
    vp_searcher *s = d->s;
    int64_t width = want < s->snapshot.live + 1
                        ? want
                        : s->snapshot.live + 1; /* one more than there are: a full list always has more */
    if (width > INT32_MAX) return vp_fail(err, VP_USAGE, "too many hits wanted");
    if (d->query < s->first || d->query >= s->first + s->count || s->width < width) {
        /* the neighbours of a query will want as many; ties are its own */
        int64_t many = TOPK_ENTRIES / width > 1 ? TOPK_ENTRIES / width : 1;
        bool grown = d->query >= s->first && d->query < s->first + s->count;
        if (grown) many = 1;
        VP_TRY(run_scan(s, d->query, many < s->batch - d->query ? many : s->batch - d->query, width, err));
    }
    const vp_hit *best = s->best + (d->query - s->first) * s->width;
    *n = s->found[d->query - s->first];
    if (*n > width) *n = width;
    vp_raw_hit *raw = realloc(s->raw, (size_t)(*n + 1) * sizeof *raw);
    if (!raw) return vp_fail_memory(err, "hits", (size_t)*n * sizeof *raw);
    s->raw = raw;
    for (int64_t i = 0; i < *n; i++) raw[i] = (vp_raw_hit){best[i].score, best[i].row};
    *hit = raw;
    return VP_OK;
}

static int dense_entry(void *ctx, int64_t key, sqlite3_stmt **out, vp_error *err) {
    const dense_source *d = ctx;
    vp_searcher *s = d->s;
    if (d->is_zero) return entry_of_n(s, key, out, err);
    VP_TRY(vp_store_statement(s->x, VP_SQL_HIT, out, err));
    sqlite3_bind_int64(*out, 1, s->snapshot.segments.item[key / VP_SEGMENT_SLOTS].id);
    sqlite3_bind_int64(*out, 2, key % VP_SEGMENT_SLOTS);
    return VP_OK;
}

/* Every row scores 0 against a query of zeros: their order is that of the ids, which the database has sorted. */
static int fetch_by_id(void *ctx, int64_t want, const vp_raw_hit **hit, int64_t *n, vp_error *err) {
    vp_searcher *s = ((dense_source *)ctx)->s;
    sqlite3_stmt *q;
    VP_TRY(vp_store_statement(s->x, VP_SQL_FIRST_BY_ID, &q, err));
    sqlite3_bind_int64(q, 1, want);
    VP_TRY(take_hits(s, q, hit, n, err));
    for (int64_t i = 0; i < *n; i++) s->raw[i].score = -(double)i;
    return VP_OK;
}

static bool is_zero(const float *v, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (v[i] != 0) return false;
    return true;
}

/* The batch's emb as f32 [B, D], scaled so that products with the stored rows are scores; NULL in an empty index. */
static int take_queries(vp_searcher *s, const vp_frame *f, float **out, vp_error *err) {
    const vp_column *emb = vp_frame_find(f, "emb");
    const vp_index *x = s->x;
    *out = NULL;
    if (!emb) return vp_frame_fail(f, VP_DATA, err, "no column emb: put `pool` before");
    if (!x->dims) return VP_OK;
    if (emb->is_values || emb->ndim != 2 || emb->shape[1] != x->dims)
        return vp_frame_fail(f, VP_DATA, err, "emb has %lld dims, the index '%s' has %lld",
                             emb->is_values || emb->ndim != 2 ? 0LL : (long long)emb->shape[1], x->path,
                             (long long)x->dims);
    if ((emb->dtype == VP_I8) != (x->dtype == VP_I8))
        return vp_frame_fail(f, VP_DATA, err,
                             "emb is %s, the index '%s' holds %s: float and int8 vectors are not compared",
                             vp_dtype_name(emb->dtype), x->path, vp_dtype_name(x->dtype));
    if (emb->dtype != VP_I8) return vp_frame_floats(f, "emb", out, NULL, err);
    vp_map *encoder = vp_map_sub(s->header, "encoder");
    double scale = (encoder ? vp_map_real(encoder, "scale", 1) : 1) * vp_map_real(x->encoder, "scale", 1);
    vp_map_free(encoder);
    size_t n = (size_t)(f->B * x->dims);
    *out = vp_calloc(n + 1, sizeof **out);
    if (!*out) return vp_fail_memory(err, "queries", n * sizeof **out);
    for (size_t i = 0; i < n; i++) (*out)[i] = (float)(scale * (int8_t)emb->data[i]);
    return VP_OK;
}

/* ---- the BM25 source ---- */

static int fetch_bm25(void *ctx, int64_t want, const vp_raw_hit **hit, int64_t *n, vp_error *err) {
    vp_searcher *s = ctx;
    sqlite3_stmt *q;
    *n = 0;
    *hit = NULL;
    if (!s->expression.len) return VP_OK;
    VP_TRY(vp_store_statement(s->x, VP_SQL_BM25_SEARCH, &q, err));
    VP_TRY(vp_store_bind_text(s->x, q, 1, s->expression.data, s->expression.len, err));
    sqlite3_bind_int64(q, 2, want);
    return take_hits(s, q, hit, n, err);
}

int vp_candidates_dense_begin(vp_searcher *s, const vp_frame *f, vp_error *err) {
    free(s->queries);
    s->count = 0;
    s->batch = f->B;
    VP_TRY(take_queries(s, f, &s->queries, err));
    return s->queries ? vp_scan_open(&s->scan, s->options.device, s->options.threads, err) : VP_OK;
}

int vp_candidates_dense(vp_searcher *s, int64_t query, int64_t want, vp_found_list *out, vp_error *err) {
    out->n = 0;
    if (!s->queries) return VP_OK;
    dense_source d = {s, query, is_zero(s->queries + query * s->x->dims, s->x->dims)};
    vp_hit_source source = {d.is_zero ? fetch_by_id : fetch_dense, dense_entry, &d};
    VP_TRY(vp_rank(s->x, &source, want, s->options.by_parent, out, err));
    for (size_t i = 0; d.is_zero && i < out->n; i++) out->item[i].score = 0;
    return VP_OK;
}

static int bm25_entry(void *ctx, int64_t key, sqlite3_stmt **out, vp_error *err) {
    return entry_of_n(ctx, key, out, err);
}

int vp_candidates_bm25(vp_searcher *s, const char *text, size_t n, int64_t want, vp_found_list *out, vp_error *err) {
    vp_hit_source source = {fetch_bm25, bm25_entry, s};
    VP_TRY(vp_bm25_expression(text, n, &s->expression, err));
    return vp_rank(s->x, &source, want, s->options.by_parent, out, err);
}

void vp_candidates_close(vp_searcher *s) {
    vp_scan_close(&s->scan);
    vp_buf_free(&s->expression);
    free(s->queries);
    free(s->best);
    free(s->found);
    free(s->raw);
}
