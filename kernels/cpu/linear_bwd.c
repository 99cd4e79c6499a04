/* The backward of linear, without its activation (act_bwd comes first): dx = dout W by the forward's own tiles over the
 * transposed weight, and dw += dout^T x, dbias += sum of dout's rows, a gradient unit. */
#include "kernels/cpu/units.h"

static int check_dout(vp_queue *q, const char *what, const vp_linear_op *op) {
    if (!op->weight || !op->dout) return vp_queue_fail(q, VP_BUG, "%s: no weight or no gradient", what);
    if (op->act != VP_ACT_NONE) return vp_queue_fail(q, VP_BUG, "%s: activations are not part of it", what);
    if (op->weight->expert) return vp_queue_fail(q, VP_BUG, "%s: a weight of experts without their rows", what);
    return vp_check_mat(q, what, op->dout, VP_F32, op->dout->rows, op->weight->out);
}

int vp_linear_bwd_x_run(vp_queue *q, const vp_linear_op *op, const vp_tile_sum *sum) {
    VP_TRY(check_dout(q, "linear_bwd_x.dout", op));
    if (!op->weight->backward) return vp_queue_fail(q, VP_BUG, "linear_bwd_x: the weight is packed for forward only");
    if (!op->dx) return vp_queue_fail(q, VP_BUG, "linear_bwd_x: no dx");
    VP_TRY(vp_check_mat(q, "linear_bwd_x.dx", op->dx, VP_F32, op->dout->rows, op->weight->in));
    vp_linear_op turned = {.weight = op->weight->backward, .x = *op->dout, .out = *op->dx};
    return vp_linear_run(q, &turned, sum);
}

int vp_cpu_linear_bwd_x(vp_queue *q, const vp_linear_op *op) {
    if (op->group) return vp_experts_bwd_x(q, op);
    return vp_linear_bwd_x_run(q, op, NULL);
}

/* ---- dbias: an item owns COLUMNS of them ---- */
enum { COLUMNS = 64 };
typedef struct bias_job {
    const vp_simd *simd;
    const vp_mat *dout;
    const vp_units *units;
    float *dbias;
} bias_job;

static void bias_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const bias_job *j = ctx;
    const int64_t column = item * COLUMNS, left = j->dout->cols - column, n = left < COLUMNS ? left : COLUMNS;
    for (int64_t u = 0; u < j->units->count; u++) {
        float sum[COLUMNS] = {0};
        for (int64_t t = j->units->first[u]; t < j->units->first[u + 1]; t++)
            j->simd->rows->axpby(1.0f, vp_row(j->dout, t) + column, 1.0f, sum, sum, n);
        j->simd->rows->axpby(1.0f, sum, 1.0f, j->dbias + column, j->dbias + column, n);
    }
}

int vp_cpu_linear_bwd_w(vp_queue *q, const vp_linear_op *op) {
    if (op->group) return vp_experts_bwd_w(q, op);
    VP_TRY(check_dout(q, "linear_bwd_w.dout", op));
    if (!op->dw) return vp_queue_fail(q, VP_BUG, "linear_bwd_w: no dw");
    VP_TRY(vp_check_mat(q, "linear_bwd_w.x", &op->x, VP_F32, op->dout->rows, op->weight->in));
    vp_units units;
    size_t mark = vp_arena_mark(q);
    int status = vp_units_make(q, "linear_bwd_w", op->batch, op->x.rows, &units);
    vp_units_op product = {.units = &units, .left = op->dout, .right = &op->x};
    if (!status && !(product.dw = vp_units_rows(q, "linear_bwd_w", op->dw, op->weight->out, op->weight->in)))
        status = VP_MEMORY;
    if (!status) status = vp_units_product(q, "linear_bwd_w", &product);
    if (!status && op->dbias) {
        bias_job j = {.simd = q->device->simd, .dout = op->dout, .units = &units, .dbias = op->dbias};
        vp_threads_run(q->device->threads, (op->dout->cols + COLUMNS - 1) / COLUMNS, bias_item, &j);
    }
    vp_arena_release(q, mark);
    return status;
}
