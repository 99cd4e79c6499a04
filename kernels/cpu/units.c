/* Gradient units and the product that every weight gradient is made of (units.h). */
#include "kernels/cpu/units.h"

int vp_units_make(vp_queue *q, const char *what, const vp_batch *batch, int64_t rows, vp_units *units) {
    const int32_t *unit = batch ? batch->unit : NULL;
    int64_t B = unit ? batch->B : 0;
    if (unit && (!batch->cu_q || batch->cu_q[0] != 0 || batch->cu_q[B] != rows))
        return vp_queue_fail(q, VP_BUG, "%s: the batch's sequences do not span %lld rows", what, (long long)rows);
    size_t bytes = (size_t)(B + 2) * sizeof *units->first;
    *units = (vp_units){.first = vp_arena_alloc(q, bytes)};
    if (!units->first) return vp_queue_fail(q, VP_MEMORY, "out of memory: %s needs %zu bytes", what, bytes);
    if (!unit) units->first[units->count++] = 0;
    for (int64_t b = 0; b < B; b++) {
        if (batch->cu_q[b + 1] < batch->cu_q[b])
            return vp_queue_fail(q, VP_BUG, "%s: sequence %lld has a negative length", what, (long long)b);
        if (b == 0 || unit[b] != unit[b - 1]) units->first[units->count++] = batch->cu_q[b];
    }
    units->first[units->count] = rows;
    return VP_OK;
}

/* ---- products: an item owns ROWS rows and COLUMNS columns of dw, and walks the units TOKENS tokens at a time, so that
 * what it packs stays in its cache ---- */
enum { ROWS = 192, COLUMNS = 128, TOKENS = 256 };
typedef struct product_job {
    const vp_units_op *op;
    const vp_simd *simd;
    int64_t across; /* items along K */
    float *scratch; /* per thread: packed and dropped [TOKENS, COLUMNS], one unit's product [ROWS, COLUMNS] */
    int64_t scratch_each;
} product_job;

/* Rows [first, first + n) of right, columns [column, column + columns), dropped if need be. */
static void pack_block(const product_job *j, int64_t first, int64_t n, int64_t column, int64_t columns, float *packed,
                       float *dropped) {
    const vp_mat *right = j->op->right;
    const float *from = vp_row(right, first) + column;
    if (j->op->drop && j->op->drop->on) {
        vp_drop_part part = {first, n, right->cols, column, columns};
        vp_drop_rows(j->op->drop, &part, from, right->ld, dropped, COLUMNS);
        j->simd->gemm->pack(dropped, COLUMNS, false, n, columns, packed);
    } else {
        j->simd->gemm->pack(from, right->ld, false, n, columns, packed);
    }
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static void product_item(void *ctx, int64_t item, int thread) {
    const product_job *j = ctx;
    const vp_units *units = j->op->units;
    const vp_mat *left = j->op->left;
    int64_t row = item / j->across * ROWS, column = item % j->across * COLUMNS;
    int64_t rows = least(ROWS, left->cols - row), columns = least(COLUMNS, j->op->right->cols - column);
    float *packed = j->scratch + thread * j->scratch_each, *dropped = packed + TOKENS * COLUMNS;
    float *sum = dropped + TOKENS * COLUMNS;
    for (int64_t u = 0; u < units->count; u++) {
        int64_t first = units->first[u], past = units->first[u + 1];
        for (int64_t t = first; t < past; t += TOKENS) {
            int64_t n = least(TOKENS, past - t);
            pack_block(j, t, n, column, columns, packed, dropped);
            j->simd->gemm->product_turned(vp_row(left, t) + row, left->ld, packed, n, sum, COLUMNS, rows, n, columns,
                                          t > first);
        }
        for (int64_t r = 0; r < rows && first < past; r++) {
            float *to = j->op->dw[row + r];
            if (to) j->simd->rows->axpby(1.0f, sum + r * COLUMNS, 1.0f, to + column, to + column, columns);
        }
    }
}

int vp_units_product(vp_queue *q, const char *what, const vp_units_op *op) {
    product_job j = {.op = op, .simd = q->device->simd};
    j.across = (op->right->cols + COLUMNS - 1) / COLUMNS;
    j.scratch_each = (2 * TOKENS + ROWS) * COLUMNS;
    size_t mark = vp_arena_mark(q);
    j.scratch = vp_queue_floats(q, what, j.scratch_each * vp_threads_count(q->device->threads));
    if (!j.scratch) return VP_MEMORY;
    vp_threads_run(q->device->threads, (op->left->cols + ROWS - 1) / ROWS * j.across, product_item, &j);
    vp_arena_release(q, mark);
    return VP_OK;
}

float **vp_units_rows(vp_queue *q, const char *what, float *dw, int64_t rows, int64_t cols) {
    size_t bytes = (size_t)rows * sizeof(float *);
    float **row = vp_arena_alloc(q, bytes);
    if (!row) {
        vp_queue_fail(q, VP_MEMORY, "out of memory: %s needs %zu bytes", what, bytes);
        return NULL;
    }
    for (int64_t i = 0; i < rows; i++) row[i] = dw ? dw + i * cols : NULL;
    return row;
}
