/* Batched products and their backward, by our own kernel. */
#include "kernels/cpu/cpu.h"

enum { ROWS = 48 }; /* of an item: a multiple of every kernel's block */

/* ---- bmm: out[i] = alpha a[i] (b[i] or b[i]^T); a [M, K], b [K, N] or [N, K], out [M, N] ---- */
typedef struct bmm_job {
    const vp_bmm_op *op;
    const vp_simd *simd;
    float *packed; /* [count, each] */
    int64_t each, blocks;
} bmm_job;

static void bmm_pack(void *ctx, int64_t item, int thread) {
    (void)thread;
    const bmm_job *j = ctx;
    const vp_bmm_op *op = j->op;
    j->simd->gemm->pack((const float *)op->b.ptr + item * op->stride_b, op->b.ld, op->transpose_b, op->a.cols,
                        op->out.cols, j->packed + item * j->each);
}

static void bmm_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const bmm_job *j = ctx;
    const vp_bmm_op *op = j->op;
    int64_t i = item / j->blocks, first = item % j->blocks * ROWS;
    int64_t rows = op->a.rows - first < ROWS ? op->a.rows - first : ROWS;
    float *out = vp_row(&op->out, first) + i * op->stride_out;
    j->simd->gemm->product(vp_row(&op->a, first) + i * op->stride_a, op->a.ld, j->packed + i * j->each, op->a.cols, out,
                           op->out.ld, rows, op->a.cols, op->out.cols, false);
    for (int64_t r = 0; op->alpha != 1.0f && r < rows; r++)
        j->simd->rows->axpby(op->alpha, out + r * op->out.ld, 0.0f, NULL, out + r * op->out.ld, op->out.cols);
}

int vp_cpu_bmm(vp_queue *q, const vp_bmm_op *op) {
    int64_t m = op->a.rows, k = op->a.cols, n = op->transpose_b ? op->b.rows : op->b.cols;
    VP_TRY(vp_check_mat(q, "bmm.a", &op->a, VP_F32, m, k));
    VP_TRY(vp_check_mat(q, "bmm.b", &op->b, VP_F32, op->transpose_b ? n : k, op->transpose_b ? k : n));
    VP_TRY(vp_check_mat(q, "bmm.out", &op->out, VP_F32, m, n));
    if (op->count <= 0 || m == 0 || n == 0) return VP_OK;
    bmm_job j = {.op = op, .simd = q->device->simd, .blocks = (m + ROWS - 1) / ROWS};
    j.each = vp_packed_floats(j.simd, k, n);
    size_t mark = vp_arena_mark(q);
    if (!(j.packed = vp_queue_floats(q, "bmm", op->count * j.each))) return VP_MEMORY;
    vp_threads_run(q->device->threads, op->count, bmm_pack, &j);
    vp_threads_run(q->device->threads, op->count * j.blocks, bmm_item, &j);
    vp_arena_release(q, mark);
    return VP_OK;
}

/* ---- bmm: da = alpha dout b^T (b: [K, N]) or alpha dout b (b: [N, K], transposed in the forward);
 * db = alpha a^T dout, or alpha dout^T a ---- */
typedef struct turn_job {
    const vp_mat *from;
    int64_t stride;
    float *to; /* [count, cols, rows] */
} turn_job;

static void turn_item(void *ctx, int64_t i, int thread) {
    (void)thread;
    const turn_job *j = ctx;
    int64_t rows = j->from->rows, cols = j->from->cols;
    float *to = j->to + i * rows * cols;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) to[c * rows + r] = (vp_row(j->from, r) + i * j->stride)[c];
}

static int bmm_db(vp_queue *q, const vp_bmm_op *op) {
    const vp_mat *left = op->transpose_b ? op->dout : &op->a, *right = op->transpose_b ? &op->a : op->dout;
    turn_job turn = {.from = left, .stride = op->transpose_b ? op->stride_out : op->stride_a};
    int64_t each = left->rows * left->cols;
    if (!(turn.to = vp_queue_floats(q, "bmm_bwd", op->count * each))) return VP_MEMORY;
    vp_threads_run(q->device->threads, op->count, turn_item, &turn);
    vp_mat turned = {.ptr = turn.to, .dtype = VP_F32, .rows = left->cols, .cols = left->rows, .ld = left->rows};
    vp_bmm_op db = {.a = turned, .b = *right, .out = *op->db, .count = op->count, .alpha = op->alpha};
    db.stride_a = each;
    db.stride_b = op->transpose_b ? op->stride_a : op->stride_out;
    db.stride_out = op->stride_b;
    return vp_cpu_bmm(q, &db);
}

int vp_cpu_bmm_bwd(vp_queue *q, const vp_bmm_op *op) {
    int64_t n = op->transpose_b ? op->b.rows : op->b.cols;
    if (!op->dout) return vp_queue_fail(q, VP_BUG, "bmm_bwd: no gradient");
    VP_TRY(vp_check_mat(q, "bmm_bwd.dout", op->dout, VP_F32, op->a.rows, n));
    if (op->da) {
        VP_TRY(vp_check_mat(q, "bmm_bwd.da", op->da, VP_F32, op->a.rows, op->a.cols));
        vp_bmm_op da = {.a = *op->dout, .b = op->b, .out = *op->da, .count = op->count, .alpha = op->alpha};
        da.transpose_b = !op->transpose_b;
        da.stride_a = op->stride_out;
        da.stride_b = op->stride_b;
        da.stride_out = op->stride_a;
        VP_TRY(vp_cpu_bmm(q, &da));
    }
    if (!op->db || op->count <= 0) return VP_OK;
    VP_TRY(vp_check_mat(q, "bmm_bwd.db", op->db, VP_F32, op->b.rows, op->b.cols));
    size_t mark = vp_arena_mark(q);
    int status = bmm_db(q, op);
    vp_arena_release(q, mark);
    return status;
}
