/* topk: exact search over one block of rows. Chunks of rows are scored against all queries; every thread keeps its own
 * best lists, which are merged at the end. The order (score, then lower row) is total, so who scored what cannot be
 * seen. */
#include "kernels/cpu/cpu.h"
#include <math.h>
#include <string.h>

enum { CHUNK_ROWS = 128, QUERY_GROUP = 32 };

typedef struct topk_job {
    const vp_topk_op *op;
    const vp_simd *simd;
    vp_hit *best;   /* [threads, Q, k] */
    int32_t *found; /* [threads, Q] */
    float *scores;  /* [threads, QUERY_GROUP, CHUNK_ROWS] */
    int threads;
} topk_job;

static bool better(float score, int64_t row, const vp_hit *h) {
    return score > h->score || (score == h->score && row < h->row);
}

/* Insert into a sorted list of at most k; a NaN is never a hit. */
static void insert(vp_hit *best, int32_t *found, int32_t k, float score, int64_t row) {
    if (!(score == score)) return;
    int32_t n = *found;
    if (n == k && !better(score, row, &best[k - 1])) return;
    int32_t low = 0, high = n; /* the first that is worse */
    while (low < high) {
        int32_t middle = (low + high) / 2;
        if (better(score, row, &best[middle]))
            high = middle;
        else
            low = middle + 1;
    }
    if (n < k) *found = ++n;
    memmove(best + low + 1, best + low, (size_t)(n - 1 - low) * sizeof *best);
    best[low] = (vp_hit){.score = score, .row = row};
}

static bool is_live(const uint8_t *live, int64_t i) {
    return !live || (live[i >> 3] >> (i & 7) & 1);
}

static void keep_best(const topk_job *j, int64_t query, int thread, const float *scores, int64_t first, int64_t n) {
    const vp_topk_op *op = j->op;
    int64_t list = thread * op->queries.rows + query;
    vp_hit *best = j->best + list * op->k;
    int32_t *found = j->found + list;
    /* nothing under the worst of what this thread, or an earlier call, has found can become a hit */
    float bar = *found == op->k ? best[op->k - 1].score : -INFINITY;
    if (op->found[query] == op->k && op->best[(query + 1) * op->k - 1].score > bar)
        bar = op->best[(query + 1) * op->k - 1].score;
    for (int64_t r = 0; r < n; r++) {
        float score = op->rows.scale ? scores[r] * op->rows.scale[first + r] : scores[r];
        if (score >= bar && is_live(op->live, first + r)) {
            insert(best, found, op->k, score, op->base + first + r);
            if (*found == op->k && best[op->k - 1].score > bar) bar = best[op->k - 1].score;
        }
    }
}

static void topk_chunk(void *ctx, int64_t item, int thread) {
    const topk_job *j = ctx;
    const vp_topk_op *op = j->op;
    int64_t first = item * CHUNK_ROWS, n = op->rows.rows - first;
    if (n > CHUNK_ROWS) n = CHUNK_ROWS;
    int64_t stride = op->rows.ld * (int64_t)vp_dtype_size(op->rows.dtype);
    float *scores = j->scores + (int64_t)thread * QUERY_GROUP * CHUNK_ROWS;
    for (int64_t a = 0; a < op->queries.rows; a += QUERY_GROUP) {
        int64_t nq = op->queries.rows - a < QUERY_GROUP ? op->queries.rows - a : QUERY_GROUP;
        j->simd->topk->scores(vp_row(&op->queries, a), op->queries.ld, nq,
                              (const uint8_t *)op->rows.ptr + first * stride, stride, n, op->rows.dtype,
                              op->queries.cols, scores, CHUNK_ROWS);
        for (int64_t i = 0; i < nq; i++) keep_best(j, a + i, thread, scores + i * CHUNK_ROWS, first, n);
    }
}

static void merge_query(void *ctx, int64_t query, int thread) {
    (void)thread;
    const topk_job *j = ctx;
    const vp_topk_op *op = j->op;
    for (int t = 0; t < j->threads; t++) {
        int64_t list = t * op->queries.rows + query;
        for (int32_t i = 0; i < j->found[list]; i++) {
            const vp_hit *h = j->best + list * op->k + i;
            insert(op->best + query * op->k, op->found + query, op->k, h->score, h->row);
        }
    }
}

static int topk_check(vp_queue *q, const vp_topk_op *op) {
    vp_dtype type = op->rows.dtype;
    if (type != VP_F32 && type != VP_BF16 && type != VP_I8)
        return vp_queue_fail(q, VP_BUG, "topk.rows: is %s", vp_dtype_name(type));
    VP_TRY(vp_check_mat(q, "topk.queries", &op->queries, VP_F32, op->queries.rows, op->rows.cols));
    VP_TRY(vp_check_mat(q, "topk.rows", &op->rows, type, op->rows.rows, op->queries.cols));
    if (op->k < 1 || (op->queries.rows > 0 && (!op->best || !op->found)))
        return vp_queue_fail(q, VP_BUG, "topk: k is %d, or no lists", (int)op->k);
    for (int64_t i = 0; i < op->queries.rows; i++)
        if (op->found[i] < 0 || op->found[i] > op->k)
            return vp_queue_fail(q, VP_BUG, "topk: query %lld has %d of %d hits", (long long)i, (int)op->found[i],
                                 (int)op->k);
    return VP_OK;
}

static int topk_run(vp_queue *q, topk_job *j) {
    const vp_topk_op *op = j->op;
    size_t lists = (size_t)j->threads * (size_t)op->queries.rows, bytes;
    if (__builtin_mul_overflow(lists * sizeof(vp_hit), (size_t)op->k, &bytes)) bytes = SIZE_MAX;
    j->best = vp_arena_alloc(q, bytes);
    j->found = vp_arena_alloc(q, lists * sizeof *j->found);
    j->scores = vp_queue_floats(q, "topk", (int64_t)j->threads * QUERY_GROUP * CHUNK_ROWS);
    if (!j->best || !j->found || !j->scores)
        return vp_queue_fail(q, VP_MEMORY, "out of memory: topk needs %zu bytes", bytes);
    memset(j->found, 0, lists * sizeof *j->found);
    vp_threads_run(q->device->threads, (op->rows.rows + CHUNK_ROWS - 1) / CHUNK_ROWS, topk_chunk, j);
    vp_threads_run(q->device->threads, op->queries.rows, merge_query, j);
    return VP_OK;
}

int vp_cpu_topk(vp_queue *q, const vp_topk_op *op) {
    VP_TRY(topk_check(q, op));
    if (op->queries.rows == 0 || op->rows.rows == 0) return VP_OK;
    topk_job j = {.op = op, .simd = q->device->simd, .threads = vp_threads_count(q->device->threads)};
    size_t mark = vp_arena_mark(q);
    int status = topk_run(q, &j);
    vp_arena_release(q, mark);
    return status;
}
