/* linear: out = act(x W^T + what joins + bias) + residual, in tiles of 64 rows (16 for tails and short inputs) times
 * column panels. In bf16 all rows are rounded first, once for all panels. Legend: x [T, K], out [T, N]. Which tile a
 * row falls in cannot be seen in its result: product.h certifies that. */
#include "kernels/cpu/cpu.h"
#include <string.h>

typedef struct linear_job {
    const vp_linear_op *op;
    const vp_weight *w;
    const vp_simd *simd;
    const vp_tile_sum *sum; /* or NULL */
    int64_t T, tall, tiles; /* tiles of 64 rows come first */
    float *rounded;         /* bf16: [rows of all tiles, words], zeros past T */
    char *scratch;          /* per thread: x tile, out tile, the library's */
    size_t scratch_stride, out_at, product_at;
    vp_failure failure;
} linear_job;

static void epilogue(const linear_job *j, const vp_panel *p, int64_t first, int64_t rows, const float *tile,
                     int64_t ld) {
    const vp_linear_op *op = j->op;
    for (int64_t r = 0; r < rows; r++) {
        const float *residual = op->residual.ptr ? vp_row(&op->residual, first + r) + p->first : NULL;
        j->simd->acts->epilogue(op->act, tile + r * ld, j->w->bias ? j->w->bias + p->first : NULL, residual,
                                vp_row(&op->out, first + r) + p->first, p->n);
    }
}

/* Rows of all tiles in bf16. */
static void round_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const linear_job *j = ctx;
    const int64_t words = j->w->words;
    for (int64_t t = first; t < last; t++) {
        float *to = j->rounded + t * words;
        if (t < j->T)
            vp_bf16_round(vp_row(&j->op->x, t), (uint16_t *)(void *)to, j->w->in);
        else
            memset(to, 0, (size_t)words * sizeof *to);
    }
}

/* The tile's rows of x, dense and aligned as they were when the shape was certified; those past the end are zeros. */
static const float *dense_rows(const linear_job *j, int64_t first, int64_t rows, int height, float *buffer) {
    const vp_mat *x = &j->op->x;
    int64_t k = j->w->in;
    if (j->rounded) return j->rounded + first * j->w->words;
    if (rows == height && x->ld == k && (uintptr_t)vp_row(x, first) % 64 == 0) return vp_row(x, first);
    for (int64_t r = 0; r < rows; r++) memcpy(buffer + r * k, vp_row(x, first + r), (size_t)k * sizeof *buffer);
    memset(buffer + rows * k, 0, (size_t)((height - rows) * k) * sizeof *buffer);
    return buffer;
}

static void linear_item(void *ctx, int64_t item, int thread) {
    linear_job *j = ctx;
    int64_t tile = item % j->tiles, k = j->w->in;
    const vp_panel *p = &j->w->panel[item / j->tiles]; /* neighbours share the panel, which stays in the cache */
    int height = tile < j->tall ? VP_TILE : VP_TILE_SHORT;
    int64_t first = tile < j->tall ? tile * VP_TILE : j->tall * VP_TILE + (tile - j->tall) * VP_TILE_SHORT;
    int64_t rows = j->T - first < height ? j->T - first : height;
    char *scratch = j->scratch + (size_t)thread * j->scratch_stride;
    const bool bf16 = j->w->compute != VP_F32, direct = !p->shape && !j->op->residual.ptr;
    float *out = direct ? vp_row(&j->op->out, first) + p->first : (float *)(void *)(scratch + j->out_at);
    const int64_t ldo = direct ? j->op->out.ld : p->n;
    const float *x = p->shape || bf16 ? dense_rows(j, first, rows, height, (float *)(void *)scratch) : NULL;
    if (p->shape) {
        if (vp_product_run(p->shape, thread, height, x, p->packed, out, scratch + j->product_at)) {
            vp_error err = {0};
            vp_fail(&err, VP_MEMORY, "linear: oneDNN failed");
            vp_failure_set(&j->failure, item, &err);
            return;
        }
    } else if (j->w->scale) {
        vp_bf16_i8_product((const uint16_t *)(const void *)x, p->packed, out, ldo, rows, j->w->words, p->n);
        for (int64_t r = 0; r < rows; r++)
            j->simd->acts->glu(VP_ACT_NONE, out + r * ldo, j->w->scale + p->first, out + r * ldo, p->n);
    } else if (bf16) {
        vp_bf16_product((const uint16_t *)(const void *)x, p->packed, out, ldo, rows, j->w->words, p->n);
    } else {
        j->simd->gemm->product(vp_row(&j->op->x, first), j->op->x.ld, p->packed, k, out, ldo, rows, k, p->n, false);
    }
    if (j->sum) j->sum->add(j->sum->ctx, p, first, rows, out, ldo, thread);
    if (!direct || j->op->act || j->w->bias) epilogue(j, p, first, rows, out, ldo);
}

static int check_linear(vp_queue *q, const vp_linear_op *op) {
    if (!op->weight) return vp_queue_fail(q, VP_BUG, "linear: no weight");
    if (op->weight->expert) return vp_queue_fail(q, VP_BUG, "linear: a weight of experts without their rows");
    VP_TRY(vp_check_mat(q, "linear.x", &op->x, VP_F32, op->x.rows, op->weight->in));
    VP_TRY(vp_check_mat(q, "linear.out", &op->out, VP_F32, op->x.rows, op->weight->out));
    if (op->residual.ptr)
        VP_TRY(vp_check_mat(q, "linear.residual", &op->residual, VP_F32, op->x.rows, op->weight->out));
    return VP_OK;
}

static size_t aligned(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

int vp_linear_run(vp_queue *q, const vp_linear_op *op, const vp_tile_sum *sum) {
    VP_TRY(check_linear(q, op));
    linear_job j = {.op = op, .w = op->weight, .simd = q->device->simd, .sum = sum, .T = op->x.rows};
    if (j.T == 0) return VP_OK;
    if (j.w->row) return vp_linear_rows(q, op);
    int64_t tail = j.T % VP_TILE, low = (tail + VP_TILE_SHORT - 1) / VP_TILE_SHORT;
    bool fills = low * VP_TILE_SHORT == VP_TILE; /* four short tiles are one tall one */
    j.tall = j.T / VP_TILE + fills;
    j.tiles = j.tall + (fills ? 0 : low);
    size_t mark = vp_arena_mark(q);
    const bool bf16 = j.w->compute != VP_F32;
    j.out_at = bf16 ? 0 : aligned((size_t)(VP_TILE * j.w->in) * sizeof(float));
    j.product_at = j.out_at + aligned((size_t)(VP_TILE * j.w->widest) * sizeof(float));
    j.scratch_stride = j.product_at + aligned(j.w->scratch);
    size_t bytes = j.scratch_stride * (size_t)vp_threads_count(q->device->threads);
    if (!(j.scratch = vp_arena_alloc(q, bytes)))
        return vp_queue_fail(q, VP_MEMORY, "out of memory: linear needs %zu bytes", bytes);
    const int64_t padded = j.tall * VP_TILE + (j.tiles - j.tall) * VP_TILE_SHORT;
    if (bf16 && !(j.rounded = vp_queue_floats(q, "linear", padded * j.w->words))) return VP_MEMORY;
    if (bf16) vp_rows(q, padded, vp_grain(j.w->in), round_rows, &j);
    vp_failure_begin(&j.failure);
    vp_threads_run(q->device->threads, j.tiles * j.w->panels, linear_item, &j);
    vp_arena_release(q, mark);
    vp_error err = {0};
    int status = vp_failure_end(&j.failure, &err);
    return status ? vp_queue_fail(q, status, "%s", err.text) : VP_OK;
}

int vp_cpu_linear(vp_queue *q, const vp_linear_op *op) {
    if (op->group) return vp_experts_linear(q, op);
    return vp_linear_run(q, op, NULL);
}
