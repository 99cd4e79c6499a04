/* linear for weights that are kept row by row, [N, K] in F32, or, where the processor has no products of bf16, in BF16
 * or I8 with a scale a row: what generation uses, one copy for prompts and for single tokens. An output is one chain
 * over K, the same however many rows x has (simd_topk.c's register tiles). With few rows the product reads every weight
 * once, as fast as memory gives them; with many, a panel of weights stays in the second-level cache while all of them
 * pass. Legend: x [T, K], out [T, N]. */
#include "kernels/cpu/cpu.h"
#include "kernels/weight_rows.h"
#include <stdlib.h>
#include <string.h>

enum { PANEL = 48, BLOCK = 256 }; /* rows of weights of an item; rows of x of one pass */

/* ---- preparing ---- */
typedef struct rows_job {
    const vp_device *device;
    const vp_weight_desc *desc;
    vp_weight *w;
    float *line; /* [threads, K] */
    vp_failure failure;
} rows_job;

int vp_weight_quantise(const vp_weight_desc *desc, int64_t row, const float *x, int64_t n, int8_t *out, float *scale,
                       vp_error *err) {
    if (!vp_quantise_row(x, n, out, scale)) return VP_OK;
    return vp_fail(err, VP_DATA, "%s: row %lld has a weight that is not finite", desc->name ? desc->name : "weight",
                   (long long)row);
}

static int store_row(const rows_job *j, int64_t row, float *line, vp_error *err) {
    vp_weight *w = j->w;
    char *to = w->row + row * w->in * (int64_t)vp_dtype_size(w->compute);
    VP_TRY(vp_weight_read(j->desc, row, w->compute == VP_F32 ? (float *)(void *)to : line, err));
    if (w->compute == VP_BF16) j->device->simd->rows->to_bf16(line, (uint16_t *)(void *)to, w->in);
    if (w->compute != VP_I8) return VP_OK;
    return vp_weight_quantise(j->desc, row, line, w->in, (int8_t *)to, &w->scale[row], err);
}

static void store_panel(void *ctx, int64_t item, int thread) {
    rows_job *j = ctx;
    vp_error err = {0};
    int status = VP_OK;
    if (vp_failure_before(&j->failure, item)) return;
    for (int64_t r = item * PANEL; r < (item + 1) * PANEL && r < j->w->out && !status; r++)
        status = store_row(j, r, j->line + thread * j->w->in, &err);
    if (status) vp_failure_set(&j->failure, item, &err);
}

int vp_weight_rows_prepare(vp_device *d, const vp_weight_desc *desc, vp_weight *w, vp_error *err) {
    if (desc->backward) return vp_fail(err, VP_BUG, "weights row by row have no backward pass");
    const size_t bytes = (size_t)w->out * (size_t)w->in * vp_dtype_size(desc->compute);
    const size_t lines = (size_t)vp_threads_count(d->threads) * (size_t)w->in;
    if (!(w->row = vp_slab_take(&d->slab, bytes, &w->slab))) return vp_fail_memory(err, "weight", bytes);
    rows_job j = {.device = d, .desc = desc, .w = w};
    if (!(j.line = vp_calloc(lines, sizeof(float)))) return vp_fail_memory(err, "weight", lines * sizeof(float));
    vp_failure_begin(&j.failure);
    vp_threads_run(d->threads, (w->out + PANEL - 1) / PANEL, store_panel, &j);
    free(j.line);
    return vp_failure_end(&j.failure, err);
}

/* ---- the product ---- */
typedef struct product_job {
    const vp_linear_op *op;
    const vp_weight *w;
    const vp_simd *simd;
    int64_t first, rows; /* of x */
    float *scratch;      /* [threads, BLOCK, PANEL] */
} product_job;

/* out[first..] of row r = act(sums * scale + bias) + residual */
static void finish_row(const product_job *j, int64_t r, int64_t first, int64_t n, float *sums) {
    const vp_linear_op *op = j->op;
    const vp_weight *w = j->w;
    float *out = vp_row(&op->out, j->first + r) + first;
    const float *bias = w->bias ? w->bias + first : NULL;
    const float *residual = op->residual.ptr ? vp_row(&op->residual, j->first + r) + first : NULL;
    if (w->scale) j->simd->acts->glu(VP_ACT_NONE, sums, w->scale + first, sums, n);
    j->simd->acts->epilogue(op->act, sums, bias, residual, out, n);
}

static void multiply_panel(void *ctx, int64_t item, int thread) {
    const product_job *j = ctx;
    const vp_linear_op *op = j->op;
    const vp_weight *w = j->w;
    const int64_t first = item * PANEL, n = w->out - first < PANEL ? w->out - first : PANEL;
    const int64_t stride = w->in * (int64_t)vp_dtype_size(w->compute);
    float *tile = j->scratch + (int64_t)thread * BLOCK * PANEL;
    j->simd->topk->scores(vp_row(&op->x, j->first), op->x.ld, j->rows, (const uint8_t *)w->row + first * stride, stride,
                          n, w->compute, w->in, tile, PANEL);
    for (int64_t r = 0; r < j->rows; r++) finish_row(j, r, first, n, tile + r * PANEL);
}

int vp_linear_rows(vp_queue *q, const vp_linear_op *op) {
    const vp_weight *w = op->weight;
    product_job j = {.op = op, .w = w, .simd = q->device->simd};
    const int64_t T = op->x.rows;
    const size_t mark = vp_arena_mark(q);
    j.scratch = vp_queue_floats(q, "linear", (int64_t)BLOCK * PANEL * vp_threads_count(q->device->threads));
    for (; j.scratch && j.first < T; j.first += BLOCK) {
        j.rows = T - j.first < BLOCK ? T - j.first : BLOCK;
        vp_threads_run(q->device->threads, (w->out + PANEL - 1) / PANEL, multiply_panel, &j);
    }
    vp_arena_release(q, mark);
    return j.scratch ? VP_OK : VP_MEMORY;
}
