/* Pooling of token rows into one row a sequence, and picking of marked rows. Sums run over a sequence's kept tokens in
 * their order, in f32. And backward. */
#include "kernels/cpu/cpu.h"
#include <stdatomic.h>
#include <string.h>

typedef struct pool_job {
    const vp_pool_op *op;
    const vp_simd *simd;
    float *row; /* [threads, C]: a bf16 row as f32 */
    _Atomic int64_t empty;
} pool_job;

static const float *token_row(const pool_job *j, int64_t t, int thread) {
    const vp_mat *x = &j->op->x;
    if (x->dtype == VP_F32) return vp_row(x, t);
    float *row = j->row + thread * x->cols;
    j->simd->rows->from_bf16((const uint16_t *)x->ptr + t * x->ld, row, x->cols);
    return row;
}

static bool kept(const vp_pool_op *op, int64_t t) {
    return !op->keep || op->keep[t];
}

/* sum of w_i x_i / sum of w_i over the kept tokens; w_i = 1, or i = 1, 2, 3, ... */
static bool pool_mean(const pool_job *j, int64_t first, int64_t last, float *out, int thread) {
    const vp_pool_op *op = j->op;
    double total = 0.0;
    int64_t count = 0;
    for (int64_t t = first; t < last; t++) {
        if (!kept(op, t)) continue;
        count++;
        float w = op->kind == VP_POOL_WEIGHTED_MEAN ? (float)count : 1.0f;
        total += (double)w;
        j->simd->rows->axpby(w, token_row(j, t, thread), 1.0f, out, out, op->x.cols);
    }
    if (count == 0) return false;
    j->simd->rows->axpby((float)(1.0 / total), out, 0.0f, NULL, out, op->x.cols);
    return true;
}

/* the first or the last kept token; EOS is the last one, where tokenising has put it */
static bool pool_one(const pool_job *j, int64_t first, int64_t last, float *out, int thread) {
    const vp_pool_op *op = j->op;
    int64_t step = op->kind == VP_POOL_FIRST ? 1 : -1;
    for (int64_t t = step > 0 ? first : last - 1; t >= first && t < last; t += step)
        if (kept(op, t)) {
            memcpy(out, token_row(j, t, thread), (size_t)op->x.cols * sizeof *out);
            return true;
        }
    return false;
}

static void pool_item(void *ctx, int64_t b, int thread) {
    pool_job *j = ctx;
    const vp_pool_op *op = j->op;
    float *out = vp_row(&op->out, b);
    memset(out, 0, (size_t)op->x.cols * sizeof *out);
    bool mean = op->kind == VP_POOL_MEAN || op->kind == VP_POOL_WEIGHTED_MEAN;
    if (!(mean ? pool_mean : pool_one)(j, op->cu[b], op->cu[b + 1], out, thread)) atomic_fetch_add(&j->empty, 1);
}

static int pool_check(vp_queue *q, const vp_pool_op *op) {
    if (op->x.dtype != VP_F32 && op->x.dtype != VP_BF16)
        return vp_queue_fail(q, VP_BUG, "pool.x: is %s", vp_dtype_name(op->x.dtype));
    VP_TRY(vp_check_mat(q, "pool.x", &op->x, op->x.dtype, op->x.rows, op->out.cols));
    VP_TRY(vp_check_mat(q, "pool.out", &op->out, VP_F32, op->B, op->x.cols));
    if (op->kind < VP_POOL_MEAN || op->kind > VP_POOL_FIRST)
        return vp_queue_fail(q, VP_BUG, "pool: no kind %d", (int)op->kind);
    if (op->B > 0 && !op->cu) return vp_queue_fail(q, VP_BUG, "pool: no offsets");
    for (int64_t b = 0; b < op->B; b++)
        if (op->cu[b] < 0 || op->cu[b] > op->cu[b + 1] || op->cu[b + 1] > op->x.rows)
            return vp_queue_fail(q, VP_BUG, "pool: sequence %lld is not within %lld rows", (long long)b,
                                 (long long)op->x.rows);
    return VP_OK;
}

int vp_cpu_pool(vp_queue *q, const vp_pool_op *op) {
    VP_TRY(pool_check(q, op));
    pool_job j = {.op = op, .simd = q->device->simd};
    size_t mark = vp_arena_mark(q);
    if (op->x.dtype == VP_BF16 &&
        !(j.row = vp_queue_floats(q, "pool", op->x.cols * vp_threads_count(q->device->threads))))
        return VP_MEMORY;
    vp_threads_run(q->device->threads, op->B, pool_item, &j);
    vp_arena_release(q, mark);
    if (op->empty) *op->empty += j.empty;
    return VP_OK;
}

/* dx[t] = w_t / sum of w * dout[b] where out[b] used row t, else 0 */
static void pool_bwd_item(void *ctx, int64_t b, int thread) {
    (void)thread;
    const pool_job *j = ctx;
    const vp_pool_op *op = j->op;
    bool mean = op->kind == VP_POOL_MEAN || op->kind == VP_POOL_WEIGHTED_MEAN;
    int64_t first = op->cu[b], last = op->cu[b + 1], count = 0, seen = 0;
    for (int64_t t = first; t < last; t++) count += kept(op, t);
    int64_t chosen = op->kind == VP_POOL_FIRST ? 1 : count;
    double total = op->kind == VP_POOL_WEIGHTED_MEAN ? (double)count * (double)(count + 1) / 2.0 : (double)count;
    for (int64_t t = first; t < last; t++) {
        bool use = kept(op, t) && (++seen == chosen || mean);
        double w = !mean ? 1.0 : (op->kind == VP_POOL_WEIGHTED_MEAN ? (double)seen : 1.0) / total;
        if (use)
            j->simd->rows->axpby((float)w, vp_row(op->dout, b), 0.0f, NULL, vp_row(op->dx, t), op->x.cols);
        else
            memset(vp_row(op->dx, t), 0, (size_t)op->x.cols * sizeof(float));
    }
}

int vp_cpu_pool_bwd(vp_queue *q, const vp_pool_op *op) {
    VP_TRY(pool_check(q, op));
    VP_TRY(vp_check_grad(q, "pool_bwd.dout", op->dout, op->B, op->x.cols));
    VP_TRY(vp_check_grad(q, "pool_bwd.dx", op->dx, op->x.rows, op->x.cols));
    pool_job j = {.op = op, .simd = q->device->simd};
    vp_threads_run(q->device->threads, op->B, pool_bwd_item, &j);
    return VP_OK;
}

/* ---- pick: out[m] = x[index[m]] ---- */
static void pick_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const vp_pick_op *op = ctx;
    size_t size = vp_dtype_size(op->x.dtype);
    for (int64_t m = first; m < last; m++)
        memcpy((char *)op->out.ptr + (size_t)(m * op->out.ld) * size,
               (const char *)op->x.ptr + (size_t)(op->index[m] * op->x.ld) * size, (size_t)op->x.cols * size);
}

static int pick_check(vp_queue *q, const vp_pick_op *op) {
    VP_TRY(vp_check_mat(q, "pick.x", &op->x, op->x.dtype, op->x.rows, op->out.cols));
    VP_TRY(vp_check_mat(q, "pick.out", &op->out, op->x.dtype, op->M, op->x.cols));
    if (op->M > 0 && !op->index) return vp_queue_fail(q, VP_BUG, "pick: no index");
    for (int64_t m = 0; m < op->M; m++)
        if (op->index[m] < 0 || op->index[m] >= op->x.rows)
            return vp_queue_fail(q, VP_BUG, "pick: row %d of %lld", (int)op->index[m], (long long)op->x.rows);
    return VP_OK;
}

int vp_cpu_pick(vp_queue *q, const vp_pick_op *op) {
    VP_TRY(pick_check(q, op));
    vp_pick_op copy = *op;
    vp_rows(q, op->M, vp_grain(op->x.cols), pick_rows, &copy);
    return VP_OK;
}

/* dx = 0, dx[index[m]] += dout[m] in the order of m; an item owns some columns */
typedef struct pick_job {
    const vp_pick_op *op;
    const vp_simd *simd;
} pick_job;

static void pick_columns(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const pick_job *j = ctx;
    const vp_mat *dx = j->op->dx;
    for (int64_t i = 0; i < dx->rows; i++) memset(vp_row(dx, i) + first, 0, (size_t)(last - first) * sizeof(float));
    for (int64_t m = 0; m < j->op->M; m++) {
        float *to = vp_row(dx, j->op->index[m]) + first;
        j->simd->rows->axpby(1.0f, vp_row(j->op->dout, m) + first, 1.0f, to, to, last - first);
    }
}

int vp_cpu_pick_bwd(vp_queue *q, const vp_pick_op *op) {
    enum { COLUMNS = 64 };
    VP_TRY(pick_check(q, op));
    VP_TRY(vp_check_grad(q, "pick_bwd.dout", op->dout, op->M, op->x.cols));
    VP_TRY(vp_check_grad(q, "pick_bwd.dx", op->dx, op->x.rows, op->x.cols));
    pick_job j = {.op = op, .simd = q->device->simd};
    vp_rows(q, op->x.cols, COLUMNS, pick_columns, &j);
    return VP_OK;
}
