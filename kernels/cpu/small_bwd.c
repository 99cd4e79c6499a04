/* The backward of low-rank adapters and of batched products. */
#include "kernels/cpu/units.h"
#include <string.h>

enum { ROWS = 48 }; /* of an item: a multiple of every kernel's block */

/* ---- lora, a part at a time: t = x A^T and u = scale dout B are [T, R]; da += u^T x and db += scale dout^T t a unit,
 * dx += u A. Rows of other adapters have zeros in t and u. ---- */
typedef struct lora_job {
    const vp_lora_op *op;
    const vp_lora_part *part;
    const vp_simd *simd;
    float *a_t, *a, *b; /* packed: A^T [K, R], A [R, K], B [n, R] */
    vp_mat t, u;        /* t already scaled */
} lora_job;

static bool applies(const lora_job *j, int64_t row) {
    const int32_t *adapter_row = j->op->batch ? j->op->batch->adapter_row : NULL;
    return !adapter_row || adapter_row[row] == j->part->adapter;
}

static void lora_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const lora_job *j = ctx;
    const vp_lora_op *op = j->op;
    const vp_lora_part *p = j->part;
    int64_t n = last - first, r = p->rank, k = op->x.cols;
    float *t = vp_row(&j->t, first), *u = vp_row(&j->u, first);
    if (p->db) j->simd->gemm->product(vp_row(&op->x, first), op->x.ld, j->a_t, k, t, r, n, k, r, false);
    j->simd->gemm->product(vp_row(op->dout, first) + p->first, op->dout->ld, j->b, p->n, u, r, n, p->n, r, false);
    for (int64_t i = 0; i < n; i++) {
        float *ti = t + i * r, *ui = u + i * r;
        if (!applies(j, first + i)) {
            memset(ti, 0, (size_t)r * sizeof *ti);
            memset(ui, 0, (size_t)r * sizeof *ui);
            continue;
        }
        if (p->db) j->simd->rows->axpby(p->scale, ti, 0.0f, NULL, ti, r);
        j->simd->rows->axpby(p->scale, ui, 0.0f, NULL, ui, r);
    }
    if (op->dx) j->simd->gemm->product(u, r, j->a, r, vp_row(op->dx, first), op->dx->ld, n, r, k, true);
}

static int lora_part(vp_queue *q, lora_job *j, const vp_units *units) {
    const vp_lora_part *p = j->part;
    int64_t T = j->op->x.rows, k = j->op->x.cols, r = p->rank;
    j->t = j->u = (vp_mat){.dtype = VP_F32, .rows = T, .cols = r, .ld = r};
    j->t.ptr = vp_queue_floats(q, "lora_bwd", T * r);
    j->u.ptr = vp_queue_floats(q, "lora_bwd", T * r);
    j->a_t = vp_queue_floats(q, "lora_bwd", vp_packed_floats(j->simd, k, r));
    j->a = vp_queue_floats(q, "lora_bwd", vp_packed_floats(j->simd, r, k));
    j->b = vp_queue_floats(q, "lora_bwd", vp_packed_floats(j->simd, p->n, r));
    if (!j->t.ptr || !j->u.ptr || !j->a_t || !j->a || !j->b) return VP_MEMORY;
    j->simd->gemm->pack(p->a, k, true, k, r, j->a_t);
    j->simd->gemm->pack(p->a, k, false, r, k, j->a);
    j->simd->gemm->pack(p->b, r, false, p->n, r, j->b);
    vp_rows(q, T, ROWS, lora_rows, j);
    vp_mat dout = *j->op->dout;
    dout.ptr = (float *)dout.ptr + p->first;
    dout.cols = p->n;
    if (p->da) VP_TRY(vp_units_product(q, "lora_bwd", units, &j->u, &j->op->x, p->da));
    return p->db ? vp_units_product(q, "lora_bwd", units, &dout, &j->t, p->db) : VP_OK;
}

int vp_cpu_lora_bwd(vp_queue *q, const vp_lora_op *op) {
    VP_TRY(vp_lora_check(q, op));
    if (!op->dout) return vp_queue_fail(q, VP_BUG, "lora_bwd: no gradient");
    VP_TRY(vp_check_mat(q, "lora_bwd.dout", op->dout, VP_F32, op->x.rows, op->out.cols));
    if (op->dx) VP_TRY(vp_check_mat(q, "lora_bwd.dx", op->dx, VP_F32, op->x.rows, op->x.cols));
    if (op->x.rows == 0) return VP_OK;
    vp_units units;
    size_t mark = vp_arena_mark(q);
    int status = vp_units_make(q, "lora_bwd", op->batch, op->x.rows, &units);
    for (int32_t i = 0; i < op->nparts && !status; i++) {
        lora_job j = {.op = op, .part = &op->part[i], .simd = q->device->simd};
        size_t part = vp_arena_mark(q);
        status = lora_part(q, &j, &units);
        vp_arena_release(q, part);
    }
    vp_arena_release(q, mark);
    return status;
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
