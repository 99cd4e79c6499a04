/* Inside searching: what is found for one query, as exact ranked lists. A source (source.c) hands out its best rows;
 * rank.c looks up their ids, orders equal scores by id bytes, keeps one row a record if asked, and merges lists;
 * search.c holds the snapshot and collects the results. */
#ifndef VP_INDEX_RANK_H
#define VP_INDEX_RANK_H
#include "lib/index/store.h"
#include "kernels/ops.h"

typedef struct vp_raw_hit {
    double score;
    int64_t key; /* what the source calls the row */
} vp_raw_hit;

/* The best `want` rows of one query, best first, in *hit (the source's, until the next call); fewer: there are no more.
 */
typedef struct vp_hit_source {
    int (*fetch)(void *ctx, int64_t want, const vp_raw_hit **hit, int64_t *n, vp_error *err);
    /* The statement, bound, that gives the entry (n, id, parent) of a key. */
    int (*entry)(void *ctx, int64_t key, sqlite3_stmt **s, vp_error *err);
    void *ctx;
} vp_hit_source;

typedef struct vp_found {
    double score;
    int64_t n;
    size_t id, id_len, parent, parent_len; /* offsets into vp_found_list.strings; parent_len SIZE_MAX: none */
} vp_found;
typedef struct vp_found_list {
    vp_found *item;
    size_t n, cap;
    vp_buf strings;
} vp_found_list;
void vp_found_free(vp_found_list *l);

/* The first `want` of the order (score descending, id bytes ascending) over everything that the source has; with
 * by_parent only the first row of each record counts. Ties across the cut are resolved by fetching more. */
int vp_rank(vp_index *x, const vp_hit_source *source, int64_t want, bool by_parent, vp_found_list *out, vp_error *err);
/* Reciprocal rank fusion of two lists into `out`: the sum of 1 / (60 + rank), rank from 1; Cormack, Clarke and
 * Buettcher, SIGIR 2009. Rows are the same when their ids are, with by_parent when their records are. */
int vp_rank_fuse(const vp_found_list *a, const vp_found_list *b, int64_t want, bool by_parent, vp_found_list *out,
                 vp_error *err);

/* A query as an FTS5 expression of quoted words joined by OR; empty when there is no word in it. */
int vp_bm25_expression(const char *text, size_t n, vp_buf *out, vp_error *err);

/* Where the strings of a hit or query lie in searcher.strings while that still grows; SIZE_MAX: absent. */
typedef struct vp_hit_strings {
    double score;
    size_t at[4], len[4]; /* id, parent, text, meta */
} vp_hit_strings;

/* scan.c: exact search by a backend. {0} is closed. */
typedef struct vp_scan {
    const vp_backend *ops;
    vp_device *device;
    vp_queue *queue;
    bool separate;    /* the device's memory is not the host's: then */
    vp_queue *memory; /* its arena holds what stays on the device, */
    size_t room;      /* at most so much of it: */
    void *rows;       /* those of all segments, or NULL, */
    bool loaded;      /* of the snapshot of this generation */
    int64_t generation;
} vp_scan;
/* On the device that `device` names (kernels/load.h), but auto is the CPU here. Once; nothing is done then. */
int vp_scan_open(vp_scan *c, const char *device, int threads, vp_error *err);
void vp_scan_close(vp_scan *c);
void vp_scan_device(const vp_scan *c, char out[40]);
typedef struct vp_scan_job { /* the best `width` rows of each query */
    const float *queries;    /* [count, dims] */
    int64_t count, width;
    vp_hit *best;   /* [count, width] */
    int32_t *found; /* [count], zeros */
} vp_scan_job;
int vp_scan_run(vp_scan *c, const vp_index *x, const vp_snapshot *s, const vp_scan_job *j, vp_error *err);

struct vp_searcher {
    vp_index *x;
    const vp_map *header;
    vp_search_options options;
    vp_snapshot snapshot; /* kept while the generation is the same */
    vp_scan scan;         /* open from the first dense batch on */
    /* of the batch */
    float *queries; /* [B, D], NULL: nothing to search */
    int64_t batch;  /* B */
    int64_t rows_seen;
    vp_hit *best;
    int32_t *found;
    vp_raw_hit *raw;
    int64_t first, count, width; /* best: queries [first, first + count), `width` entries each */
    vp_buf expression;
    vp_found_list list[3]; /* dense, BM25, fused */
    /* what the caller reads */
    vp_search_result *result;
    vp_hit_strings *hit;
    size_t hits, hit_cap;
    vp_search_hit *out;
    vp_buf strings;
};

/* ---- source.c ---- */
/* Before the queries of a batch: emb of `f` as f32 [B, D] into s->queries, and the backend ready. Nothing is there to
 * find in an index that knows no dims yet. */
int vp_candidates_dense_begin(vp_searcher *s, const vp_frame *f, vp_error *err);
int vp_candidates_dense(vp_searcher *s, int64_t query, int64_t want, vp_found_list *out, vp_error *err);
int vp_candidates_bm25(vp_searcher *s, const char *text, size_t n, int64_t want, vp_found_list *out, vp_error *err);
void vp_candidates_close(vp_searcher *s);

#endif
