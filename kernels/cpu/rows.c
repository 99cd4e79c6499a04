/* Operations that work row by row: embedding, norms, softmax, rotary embedding, activations, sums, conversions. Each
 * checks its shapes and hands rows to the functions of simd_rows.c and simd_acts.c. */
#include "kernels/cpu/cpu.h"
#include <string.h>

/* What a loop over rows gets: the operation and the functions. */
typedef struct row_job {
    const void *op;
    const vp_simd *simd;
    vp_failure *failure;
} row_job;

static int run_rows(vp_queue *q, const void *op, int64_t rows, int64_t work, vp_rows_fn *fn) {
    row_job j = {.op = op, .simd = q->device->simd};
    vp_rows(q, rows, vp_grain(work), fn, &j);
    return VP_OK;
}

/* ---- embed: out[t] = scale table[ids[t]] (+ positions[pos[t]]) (+ types) ---- */
static int embed_row(const row_job *j, const vp_embed_op *op, int64_t t, vp_error *err) {
    int64_t id = op->ids[t];
    const vp_weight_part *table = id < op->table.rows ? &op->table : &op->extra;
    if (table == &op->extra) id -= op->table.rows;
    if (id < 0 || id >= table->rows)
        return vp_fail(err, VP_BUG, "embed: token %lld has id %d, not in a table of %lld rows", (long long)t,
                       (int)op->ids[t], (long long)(op->table.rows + op->extra.rows));
    float *out = vp_row(&op->out, t);
    VP_TRY(table->read_row(table->ctx, id, out, err));
    const float *position = op->positions ? op->positions + op->batch->pos[t] * op->C : NULL;
    if (op->scale != 1.0f || position) j->simd->rows->axpby(op->scale, out, 1.0f, position, out, op->C);
    if (op->types) j->simd->rows->axpby(1.0f, out, 1.0f, op->types, out, op->C);
    return VP_OK;
}

static void embed_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    for (int64_t t = first; t < last; t++) {
        vp_error err = {0};
        if (vp_failure_before(j->failure, t)) return;
        if (embed_row(j, j->op, t, &err)) {
            vp_failure_set(j->failure, t, &err);
            return;
        }
    }
}

int vp_cpu_embed(vp_queue *q, const vp_embed_op *op) {
    int64_t T = op->batch ? op->batch->T : op->out.rows;
    VP_TRY(vp_check_mat(q, "embed.out", &op->out, VP_F32, T, op->C));
    if (T > 0 && !op->ids) return vp_queue_fail(q, VP_BUG, "embed: no ids");
    if (op->positions && !(op->batch && op->batch->pos)) return vp_queue_fail(q, VP_BUG, "embed: no positions");
    vp_failure failure;
    vp_failure_begin(&failure);
    row_job j = {.op = op, .simd = q->device->simd, .failure = &failure};
    vp_rows(q, T, vp_grain(op->C), embed_rows, &j);
    vp_error err = {0};
    int status = vp_failure_end(&failure, &err);
    return status ? vp_queue_fail(q, status, "%s", err.text) : VP_OK;
}

/* ---- norm ---- */
static void norm_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_norm_op *op = j->op;
    int64_t heads = op->heads > 0 ? op->heads : 1, d = op->x.cols / heads;
    for (int64_t t = first; t < last; t++)
        for (int64_t h = 0; h < heads; h++) {
            const float *add = op->d.ptr ? vp_row(&op->d, t) + h * d : NULL;
            float rstd = j->simd->rows->norm(op->kind, vp_row(&op->x, t) + h * d, add, vp_row(&op->out, t) + h * d,
                                             op->weight, op->bias, op->eps, d);
            if (op->rstd) op->rstd[t * heads + h] = rstd;
        }
}

int vp_cpu_norm(vp_queue *q, const vp_norm_op *op) {
    int64_t T = op->x.rows, C = op->x.cols;
    VP_TRY(vp_check_mat(q, "norm.x", &op->x, VP_F32, T, C));
    VP_TRY(vp_check_mat(q, "norm.out", &op->out, VP_F32, T, C));
    if (op->d.ptr) VP_TRY(vp_check_mat(q, "norm.d", &op->d, VP_F32, T, C));
    if (!op->weight) return vp_queue_fail(q, VP_BUG, "norm: no weight");
    if (op->heads < 0 || C < 1 || (op->heads > 0 && C % op->heads != 0))
        return vp_queue_fail(q, VP_BUG, "norm: %lld columns in %d heads", (long long)C, (int)op->heads);
    return run_rows(q, op, T, 2 * C, norm_rows);
}

/* ---- softmax, l2norm ---- */
static void softmax_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_softmax_op *op = j->op;
    for (int64_t t = first; t < last; t++) j->simd->rows->softmax(vp_row(&op->x, t), vp_row(&op->out, t), op->x.cols);
}

int vp_cpu_softmax_rows(vp_queue *q, const vp_softmax_op *op) {
    VP_TRY(vp_check_mat(q, "softmax.x", &op->x, VP_F32, op->x.rows, op->x.cols));
    VP_TRY(vp_check_mat(q, "softmax.out", &op->out, VP_F32, op->x.rows, op->x.cols));
    return run_rows(q, op, op->x.rows, 8 * op->x.cols, softmax_rows);
}

static void l2norm_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_l2norm_op *op = j->op;
    for (int64_t t = first; t < last; t++) {
        float norm = j->simd->rows->l2norm(vp_row(&op->x, t), vp_row(&op->out, t), op->x.cols);
        if (op->norm) op->norm[t] = norm;
    }
}

int vp_cpu_l2norm(vp_queue *q, const vp_l2norm_op *op) {
    VP_TRY(vp_check_mat(q, "l2norm.x", &op->x, VP_F32, op->x.rows, op->x.cols));
    VP_TRY(vp_check_mat(q, "l2norm.out", &op->out, VP_F32, op->x.rows, op->x.cols));
    return run_rows(q, op, op->x.rows, op->x.cols, l2norm_rows);
}

/* ---- rope ---- */
static void rope_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_rope_op *op = j->op;
    int64_t half = op->rotary / 2;
    for (int64_t t = first; t < last; t++) {
        int64_t at = op->batch->pos[t] * half;
        j->simd->rows->rope(vp_row(&op->x, t), op->heads, op->d, op->rotary, op->interleaved, op->cos + at,
                            op->sin + at, op->sign < 0 ? -1.0f : 1.0f);
    }
}

static int check_rotation(vp_queue *q, int32_t heads, int32_t d, int32_t rotary) {
    if (heads >= 1 && d >= 1 && rotary >= 0 && rotary <= d && rotary % 2 == 0) return VP_OK;
    return vp_queue_fail(q, VP_BUG, "rope: %d heads of width %d, %d rotated", (int)heads, (int)d, (int)rotary);
}

int vp_cpu_rope(vp_queue *q, const vp_rope_op *op) {
    if (!op->batch || !op->cos || !op->sin || (op->batch->T > 0 && !op->batch->pos))
        return vp_queue_fail(q, VP_BUG, "rope: no positions or no table");
    VP_TRY(check_rotation(q, op->heads, op->d, op->rotary));
    VP_TRY(vp_check_mat(q, "rope.x", &op->x, VP_F32, op->batch->T, (int64_t)op->heads * op->d));
    return run_rows(q, op, op->batch->T, op->x.cols, rope_rows);
}

/* Rotations add up: one more by the angle of `s` positions. */
typedef struct shift_job {
    const vp_rope_shift_op *op;
    const vp_simd_rows *rows;
    float *wide; /* [threads, heads * d] a row of bf16 */
} shift_job;

static void shift_rows(void *ctx, int64_t first, int64_t last, int thread) {
    const shift_job *j = ctx;
    const vp_rope_shift_op *op = j->op;
    const int64_t n = op->k.cols;
    for (int64_t t = first; t < last; t++) {
        uint16_t *narrow = op->k.dtype == VP_BF16 ? (uint16_t *)op->k.ptr + t * op->k.ld : NULL;
        float *row = narrow ? j->wide + thread * n : vp_row(&op->k, t);
        if (narrow) j->rows->from_bf16(narrow, row, n);
        j->rows->rope(row, op->heads, op->d, op->rotary, op->interleaved, op->cos, op->sin, 1.0f);
        if (narrow) j->rows->to_bf16(row, narrow, n);
    }
}

int vp_cpu_rope_shift(vp_queue *q, const vp_rope_shift_op *op) {
    const vp_dtype type = op->k.dtype == VP_BF16 ? VP_BF16 : VP_F32;
    if (!op->cos || !op->sin) return vp_queue_fail(q, VP_BUG, "rope_shift: no angles");
    VP_TRY(check_rotation(q, op->heads, op->d, op->rotary));
    VP_TRY(vp_check_mat(q, "rope_shift.k", &op->k, type, op->k.rows, (int64_t)op->heads * op->d));
    shift_job j = {.op = op, .rows = q->device->simd->rows};
    const size_t mark = vp_arena_mark(q);
    const int64_t wide = type == VP_BF16 ? op->k.cols * vp_threads_count(q->device->threads) : 0;
    if (wide && !(j.wide = vp_queue_floats(q, "rope_shift", wide))) return VP_MEMORY;
    vp_rows(q, op->k.rows, vp_grain(op->k.cols), shift_rows, &j);
    vp_arena_release(q, mark);
    return VP_OK;
}

/* ---- activations ---- */
int vp_check_act(vp_queue *q, const char *what, vp_act act) {
    return act >= VP_ACT_NONE && act <= VP_ACT_TANH ? VP_OK
                                                    : vp_queue_fail(q, VP_BUG, "%s: no activation %d", what, (int)act);
}

static void glu_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_glu_op *op = j->op;
    for (int64_t t = first; t < last; t++)
        j->simd->acts->glu(op->act, vp_row(&op->gate, t), vp_row(&op->up, t), vp_row(&op->out, t), op->out.cols);
}

int vp_cpu_glu(vp_queue *q, const vp_glu_op *op) {
    VP_TRY(vp_check_act(q, "glu", op->act));
    VP_TRY(vp_check_mat(q, "glu.gate", &op->gate, VP_F32, op->out.rows, op->out.cols));
    VP_TRY(vp_check_mat(q, "glu.up", &op->up, VP_F32, op->out.rows, op->out.cols));
    VP_TRY(vp_check_mat(q, "glu.out", &op->out, VP_F32, op->out.rows, op->out.cols));
    return run_rows(q, op, op->out.rows, 6 * op->out.cols, glu_rows);
}

static void act_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_act_op *op = j->op;
    for (int64_t t = first; t < last; t++)
        j->simd->acts->act(op->act, vp_row(&op->x, t), vp_row(&op->out, t), op->x.cols);
}

int vp_cpu_act(vp_queue *q, const vp_act_op *op) {
    VP_TRY(vp_check_act(q, "act", op->act));
    VP_TRY(vp_check_mat(q, "act.x", &op->x, VP_F32, op->x.rows, op->x.cols));
    VP_TRY(vp_check_mat(q, "act.out", &op->out, VP_F32, op->x.rows, op->x.cols));
    return run_rows(q, op, op->x.rows, 6 * op->x.cols, act_rows);
}

/* ---- element-wise: add (a x + b y), cast (x to out's type), fill (a) ---- */
static void add_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_elem_op *op = j->op;
    for (int64_t t = first; t < last; t++)
        j->simd->rows->axpby(op->a, vp_row(&op->x, t), op->b, op->y.ptr ? vp_row(&op->y, t) : NULL, vp_row(&op->out, t),
                             op->out.cols);
}

int vp_cpu_add(vp_queue *q, const vp_elem_op *op) {
    VP_TRY(vp_check_mat(q, "add.x", &op->x, VP_F32, op->out.rows, op->out.cols));
    if (op->y.ptr) VP_TRY(vp_check_mat(q, "add.y", &op->y, VP_F32, op->out.rows, op->out.cols));
    VP_TRY(vp_check_mat(q, "add.out", &op->out, VP_F32, op->out.rows, op->out.cols));
    return run_rows(q, op, op->out.rows, op->out.cols, add_rows);
}

static void cast_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_elem_op *op = j->op;
    int64_t n = op->out.cols;
    for (int64_t t = first; t < last; t++) {
        if (op->x.dtype == op->out.dtype)
            memmove(vp_row(&op->out, t), vp_row(&op->x, t), (size_t)n * sizeof(float));
        else if (op->out.dtype == VP_BF16)
            j->simd->rows->to_bf16(vp_row(&op->x, t), (uint16_t *)op->out.ptr + t * op->out.ld, n);
        else
            j->simd->rows->from_bf16((const uint16_t *)op->x.ptr + t * op->x.ld, vp_row(&op->out, t), n);
    }
}

int vp_cpu_cast(vp_queue *q, const vp_elem_op *op) {
    vp_dtype from = op->x.dtype, to = op->out.dtype;
    if ((from != VP_F32 && from != VP_BF16) || (to != VP_F32 && to != VP_BF16) || (from == VP_BF16 && to == VP_BF16))
        return vp_queue_fail(q, VP_BUG, "cast: the CPU has none from %s to %s", vp_dtype_name(from), vp_dtype_name(to));
    VP_TRY(vp_check_mat(q, "cast.x", &op->x, from, op->out.rows, op->out.cols));
    VP_TRY(vp_check_mat(q, "cast.out", &op->out, to, op->out.rows, op->out.cols));
    return run_rows(q, op, op->out.rows, op->out.cols, cast_rows);
}

static void fill_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_elem_op *op = j->op;
    for (int64_t t = first; t < last; t++)
        for (int64_t i = 0; i < op->out.cols; i++) vp_row(&op->out, t)[i] = op->a;
}

int vp_cpu_fill(vp_queue *q, const vp_elem_op *op) {
    VP_TRY(vp_check_mat(q, "fill.out", &op->out, VP_F32, op->out.rows, op->out.cols));
    return run_rows(q, op, op->out.rows, op->out.cols, fill_rows);
}
