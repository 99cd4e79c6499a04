/* The backward of operations that work row by row: embedding, norms, softmax, l2norm, activations. Gradients of rows
 * are written over; gradients of weights are added to, a norm's by gradient unit, a table's in the order of tokens. */
#include "kernels/cpu/units.h"
#include <stdlib.h>
#include <string.h>

typedef struct row_job {
    const void *op;
    const vp_simd *simd;
} row_job;

static int run_rows(vp_queue *q, const void *op, int64_t rows, int64_t work, vp_rows_fn *fn) {
    row_job j = {.op = op, .simd = q->device->simd};
    vp_rows(q, rows, vp_grain(work), fn, &j);
    return VP_OK;
}

/* ---- embed: dtable[ids[t]] += scale dout[t], the tokens of an id in their order ---- */
typedef struct embed_job {
    const vp_embed_op *op;
    const vp_simd *simd;
    const int64_t *sorted; /* id << 32 | token, ascending */
    int64_t T;
} embed_job;

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The ids whose first token is in [first, last) of the sorted ones. */
static void embed_ids(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const embed_job *j = ctx;
    int64_t i = first;
    while (i > 0 && i < last && j->sorted[i] >> 32 == j->sorted[i - 1] >> 32) i++;
    for (; i < j->T && (i < last || j->sorted[i] >> 32 == j->sorted[i - 1] >> 32); i++) {
        const int64_t id = (j->sorted[i] >> 32) - j->op->dfirst;
        if (id < 0) continue;
        float *row = j->op->dtable + id * j->op->C;
        const float *dout = vp_row(j->op->dout, j->sorted[i] & 0xffffffff);
        j->simd->rows->axpby(j->op->scale, dout, 1.0f, row, row, j->op->C);
    }
}

int vp_cpu_embed_bwd(vp_queue *q, const vp_embed_op *op) {
    int64_t T = op->batch ? op->batch->T : op->out.rows, rows = op->table.rows + op->extra.rows;
    VP_TRY(vp_check_grad(q, "embed_bwd.dout", op->dout, T, op->C));
    if (T > 0 && (!op->ids || !op->dtable)) return vp_queue_fail(q, VP_BUG, "embed_bwd: no ids or no dtable");
    size_t mark = vp_arena_mark(q), bytes = (size_t)T * sizeof(int64_t);
    int64_t *sorted = vp_arena_alloc(q, bytes);
    if (!sorted) return vp_queue_fail(q, VP_MEMORY, "out of memory: embed_bwd needs %zu bytes", bytes);
    int status = VP_OK;
    for (int64_t t = 0; t < T && !status; t++) {
        if (op->ids[t] < 0 || op->ids[t] >= rows)
            status = vp_queue_fail(q, VP_BUG, "embed_bwd: token %lld has id %d, not in a table of %lld rows",
                                   (long long)t, (int)op->ids[t], (long long)rows);
        sorted[t] = (int64_t)op->ids[t] * (INT64_C(1) << 32) + t;
    }
    if (!status) {
        qsort(sorted, (size_t)T, sizeof *sorted, by_value);
        embed_job j = {.op = op, .simd = q->device->simd, .sorted = sorted, .T = T};
        vp_rows(q, T, vp_grain(op->C), embed_ids, &j);
    }
    vp_arena_release(q, mark);
    return status;
}

/* ---- norm ---- */
enum { COLUMNS = 64 }; /* of dweight and dbias that an item owns */
typedef struct norm_job {
    const vp_norm_op *op;
    const vp_simd *simd;
    int64_t heads, d;
    float *stats; /* [T, heads, 2]: mean, 1 / deviation */
    const vp_units *units;
} norm_job;

static void norm_stats(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const norm_job *j = ctx;
    for (int64_t i = first * j->heads; i < last * j->heads; i++)
        j->simd->rows->norm_stats(j->op->kind, vp_row(&j->op->x, i / j->heads) + i % j->heads * j->d, j->op->eps, j->d,
                                  &j->stats[2 * i], &j->stats[2 * i + 1]);
}

static void norm_dx(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const norm_job *j = ctx;
    for (int64_t i = first * j->heads; i < last * j->heads; i++) {
        int64_t t = i / j->heads, at = i % j->heads * j->d;
        j->simd->grads->norm_dx(j->op->kind, vp_row(&j->op->x, t) + at, vp_row(j->op->dout, t) + at, j->op->weight,
                                j->stats[2 * i], j->stats[2 * i + 1], vp_row(j->op->dx, t) + at, j->d);
    }
}

static void norm_dw(void *ctx, int64_t item, int thread) {
    (void)thread;
    const norm_job *j = ctx;
    const vp_norm_op *op = j->op;
    int64_t column = item * COLUMNS, n = j->d - column < COLUMNS ? j->d - column : COLUMNS;
    for (int64_t u = 0; u < j->units->count; u++) {
        float dw[COLUMNS] = {0}, db[COLUMNS] = {0};
        for (int64_t i = j->units->first[u] * j->heads; i < j->units->first[u + 1] * j->heads; i++) {
            int64_t t = i / j->heads, at = i % j->heads * j->d + column;
            j->simd->grads->norm_dw(vp_row(&op->x, t) + at, vp_row(op->dout, t) + at, j->stats[2 * i],
                                    j->stats[2 * i + 1], op->dweight ? dw : NULL, op->dbias ? db : NULL, n);
        }
        for (int64_t c = 0; c < n; c++) {
            if (op->dweight) op->dweight[column + c] += dw[c];
            if (op->dbias) op->dbias[column + c] += db[c];
        }
    }
}

static int norm_run(vp_queue *q, norm_job *j) {
    const vp_norm_op *op = j->op;
    int64_t T = op->x.rows;
    if (!(j->stats = vp_queue_floats(q, "norm_bwd", 2 * T * j->heads))) return VP_MEMORY;
    vp_rows(q, T, vp_grain(op->x.cols), norm_stats, j);
    if (op->dweight || op->dbias) { /* before dx, which may be dout's own memory */
        vp_units units;
        VP_TRY(vp_units_make(q, "norm_bwd", op->batch, T, &units));
        j->units = &units;
        vp_threads_run(q->device->threads, (j->d + COLUMNS - 1) / COLUMNS, norm_dw, j);
    }
    if (op->dx) vp_rows(q, T, vp_grain(3 * op->x.cols), norm_dx, j);
    return VP_OK;
}

int vp_cpu_norm_bwd(vp_queue *q, const vp_norm_op *op) {
    int64_t T = op->x.rows, C = op->x.cols;
    VP_TRY(vp_check_mat(q, "norm_bwd.x", &op->x, VP_F32, T, C));
    VP_TRY(vp_check_grad(q, "norm_bwd.dout", op->dout, T, C));
    if (op->dx) VP_TRY(vp_check_grad(q, "norm_bwd.dx", op->dx, T, C));
    if (!op->weight) return vp_queue_fail(q, VP_BUG, "norm_bwd: no weight");
    if (op->heads < 0 || C < 1 || (op->heads > 0 && C % op->heads != 0))
        return vp_queue_fail(q, VP_BUG, "norm_bwd: %lld columns in %d heads", (long long)C, (int)op->heads);
    norm_job j = {.op = op, .simd = q->device->simd, .heads = op->heads > 0 ? op->heads : 1};
    j.d = C / j.heads;
    size_t mark = vp_arena_mark(q);
    int status = norm_run(q, &j);
    vp_arena_release(q, mark);
    return status;
}

/* ---- softmax (from its output), l2norm (from its input) ---- */
static void softmax_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_softmax_op *op = j->op;
    for (int64_t t = first; t < last; t++)
        j->simd->grads->softmax_dx(vp_row(&op->out, t), vp_row(op->dout, t), vp_row(op->dx, t), op->out.cols);
}

int vp_cpu_softmax_rows_bwd(vp_queue *q, const vp_softmax_op *op) {
    VP_TRY(vp_check_mat(q, "softmax_bwd.out", &op->out, VP_F32, op->out.rows, op->out.cols));
    VP_TRY(vp_check_grad(q, "softmax_bwd.dout", op->dout, op->out.rows, op->out.cols));
    VP_TRY(vp_check_grad(q, "softmax_bwd.dx", op->dx, op->out.rows, op->out.cols));
    return run_rows(q, op, op->out.rows, 4 * op->out.cols, softmax_rows);
}

static void l2norm_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_l2norm_op *op = j->op;
    for (int64_t t = first; t < last; t++)
        j->simd->grads->l2norm_dx(vp_row(&op->x, t), vp_row(op->dout, t), vp_row(op->dx, t), op->x.cols);
}

int vp_cpu_l2norm_bwd(vp_queue *q, const vp_l2norm_op *op) {
    VP_TRY(vp_check_mat(q, "l2norm_bwd.x", &op->x, VP_F32, op->x.rows, op->x.cols));
    VP_TRY(vp_check_grad(q, "l2norm_bwd.dout", op->dout, op->x.rows, op->x.cols));
    VP_TRY(vp_check_grad(q, "l2norm_bwd.dx", op->dx, op->x.rows, op->x.cols));
    return run_rows(q, op, op->x.rows, 4 * op->x.cols, l2norm_rows);
}

/* ---- activations ---- */
static void act_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_act_op *op = j->op;
    for (int64_t t = first; t < last; t++)
        j->simd->acts->act_bwd(op->act, vp_row(&op->x, t), vp_row(op->dout, t), vp_row(op->dx, t), op->x.cols);
}

int vp_cpu_act_bwd(vp_queue *q, const vp_act_op *op) {
    VP_TRY(vp_check_act(q, "act_bwd", op->act));
    VP_TRY(vp_check_mat(q, "act_bwd.x", &op->x, VP_F32, op->x.rows, op->x.cols));
    VP_TRY(vp_check_grad(q, "act_bwd.dout", op->dout, op->x.rows, op->x.cols));
    VP_TRY(vp_check_grad(q, "act_bwd.dx", op->dx, op->x.rows, op->x.cols));
    return run_rows(q, op, op->x.rows, 8 * op->x.cols, act_rows);
}

static void glu_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const row_job *j = ctx;
    const vp_glu_op *op = j->op;
    for (int64_t t = first; t < last; t++)
        j->simd->acts->glu_bwd(op->act, vp_row(&op->gate, t), vp_row(&op->up, t), vp_row(op->dout, t),
                               vp_row(op->dgate, t), vp_row(op->dup, t), op->gate.cols);
}

int vp_cpu_glu_bwd(vp_queue *q, const vp_glu_op *op) {
    int64_t T = op->gate.rows, F = op->gate.cols;
    VP_TRY(vp_check_act(q, "glu_bwd", op->act));
    VP_TRY(vp_check_mat(q, "glu_bwd.gate", &op->gate, VP_F32, T, F));
    VP_TRY(vp_check_mat(q, "glu_bwd.up", &op->up, VP_F32, T, F));
    VP_TRY(vp_check_grad(q, "glu_bwd.dout", op->dout, T, F));
    VP_TRY(vp_check_grad(q, "glu_bwd.dgate", op->dgate, T, F));
    VP_TRY(vp_check_grad(q, "glu_bwd.dup", op->dup, T, F));
    return run_rows(q, op, T, 12 * F, glu_rows);
}
