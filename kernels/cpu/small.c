/* Products whose right side comes with the call: low-rank adapters and batched products, by our own kernel. */
#include "kernels/cpu/cpu.h"

enum { ROWS = 48 }; /* of an item: a multiple of every kernel's block */

/* ---- lora: out[:, first .. first + n) += scale (x A^T) B^T; x [T, K], A [R, K], B [n, R] ---- */
typedef struct lora_job {
    const vp_lora_op *op;
    const vp_simd *simd;
    float **a, **b; /* packed, one a part */
    float *t;       /* [threads, ROWS, widest rank] */
    int64_t stride;
} lora_job;

/* The end of the run of rows from `first` that this part applies to, or not. */
static int64_t same_adapter(const int32_t *adapter_row, int32_t adapter, int64_t first, int64_t last) {
    if (!adapter_row) return last;
    int64_t end = first + 1;
    while (end < last && (adapter_row[end] == adapter) == (adapter_row[first] == adapter)) end++;
    return end;
}

static void lora_rows(void *ctx, int64_t first, int64_t last, int thread) {
    const lora_job *j = ctx;
    const vp_lora_op *op = j->op;
    const int32_t *adapter_row = op->batch ? op->batch->adapter_row : NULL;
    float *t = j->t + thread * j->stride;
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        int64_t r = p->rank, end;
        for (int64_t at = first; at < last; at = end) {
            end = same_adapter(adapter_row, p->adapter, at, last);
            if (adapter_row && adapter_row[at] != p->adapter) continue;
            j->simd->gemm->product(vp_row(&op->x, at), op->x.ld, j->a[i], op->x.cols, t, r, end - at, op->x.cols, r,
                                   false);
            j->simd->rows->axpby(p->scale, t, 0.0f, NULL, t, (end - at) * r);
            j->simd->gemm->product(t, r, j->b[i], r, vp_row(&op->out, at) + p->first, op->out.ld, end - at, r, p->n,
                                   true);
        }
    }
}

static void lora_pack(void *ctx, int64_t item, int thread) {
    (void)thread;
    const lora_job *j = ctx;
    const vp_lora_part *p = &j->op->part[item];
    j->simd->gemm->pack(p->a, j->op->x.cols, true, j->op->x.cols, p->rank, j->a[item]);
    j->simd->gemm->pack(p->b, p->rank, true, p->rank, p->n, j->b[item]);
}

int vp_lora_check(vp_queue *q, const vp_lora_op *op) {
    VP_TRY(vp_check_mat(q, "lora.x", &op->x, VP_F32, op->out.rows, op->x.cols));
    VP_TRY(vp_check_mat(q, "lora.out", &op->out, VP_F32, op->x.rows, op->out.cols));
    if (op->drop.p > 0.0f) return vp_queue_fail(q, VP_BUG, "lora: the CPU has no dropout");
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        if (!p->a || !p->b || p->rank < 1 || p->n < 1 || p->first < 0 || p->first > op->out.cols - p->n)
            return vp_queue_fail(q, VP_BUG, "lora: part %d has rank %d and columns %lld + %lld of %lld", (int)i,
                                 (int)p->rank, (long long)p->first, (long long)p->n, (long long)op->out.cols);
    }
    return VP_OK;
}

static int lora_run(vp_queue *q, lora_job *j) {
    const vp_lora_op *op = j->op;
    int64_t rank = 1;
    size_t pointers = (size_t)op->nparts * sizeof(float *);
    j->a = vp_arena_alloc(q, pointers);
    j->b = vp_arena_alloc(q, pointers);
    if (!j->a || !j->b) return vp_queue_fail(q, VP_MEMORY, "out of memory: lora needs %zu bytes", pointers);
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        rank = p->rank > rank ? p->rank : rank;
        j->a[i] = vp_queue_floats(q, "lora", vp_packed_floats(j->simd, op->x.cols, p->rank));
        j->b[i] = vp_queue_floats(q, "lora", vp_packed_floats(j->simd, p->rank, p->n));
        if (!j->a[i] || !j->b[i]) return VP_MEMORY;
    }
    j->stride = ROWS * rank;
    if (!(j->t = vp_queue_floats(q, "lora", j->stride * vp_threads_count(q->device->threads)))) return VP_MEMORY;
    vp_threads_run(q->device->threads, op->nparts, lora_pack, j);
    vp_rows(q, op->x.rows, ROWS, lora_rows, j);
    return VP_OK;
}

int vp_cpu_lora(vp_queue *q, const vp_lora_op *op) {
    VP_TRY(vp_lora_check(q, op));
    if (op->nparts == 0 || op->x.rows == 0) return VP_OK;
    lora_job j = {.op = op, .simd = q->device->simd};
    size_t mark = vp_arena_mark(q);
    int status = lora_run(q, &j);
    vp_arena_release(q, mark);
    return status;
}

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
