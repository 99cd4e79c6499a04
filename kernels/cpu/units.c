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
    for (int64_t u = 0; u < units->count; u++) {
        int64_t n = units->first[u + 1] - units->first[u];
        units->longest = n > units->longest ? n : units->longest;
    }
    return VP_OK;
}

/* ---- products: `right` is packed a unit at a time; an item owns ROWS rows and COLUMNS columns of dw ---- */
enum { ROWS = 48, COLUMNS = 512 };
typedef struct product_job {
    const vp_units *units;
    const vp_mat *left, *right;
    const vp_simd *simd;
    float *dw, *packed;
    int64_t padded, across; /* floats of a packed row; items along K */
    float *scratch;         /* per thread: left^T [ROWS, longest], one unit's product [ROWS, COLUMNS] */
    int64_t scratch_each;
} product_job;

static void pack_unit(void *ctx, int64_t u, int thread) {
    (void)thread;
    const product_job *j = ctx;
    int64_t first = j->units->first[u], n = j->units->first[u + 1] - first;
    j->simd->gemm->pack(vp_row(j->right, first), j->right->ld, false, n, j->right->cols, j->packed + first * j->padded);
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static void product_item(void *ctx, int64_t item, int thread) {
    const product_job *j = ctx;
    int64_t row = item / j->across * ROWS, column = item % j->across * COLUMNS, k = j->right->cols;
    int64_t rows = least(ROWS, j->left->cols - row), columns = least(COLUMNS, k - column);
    float *turned = j->scratch + thread * j->scratch_each, *sum = turned + ROWS * j->units->longest;
    for (int64_t u = 0; u < j->units->count; u++) {
        int64_t first = j->units->first[u], n = j->units->first[u + 1] - first;
        if (n == 0) continue;
        for (int64_t t = 0; t < n; t++)
            for (int64_t r = 0; r < rows; r++) turned[r * n + t] = vp_row(j->left, first + t)[row + r];
        /* COLUMNS is a multiple of a panel's width: panel `column / nr` starts at packed[column * n] */
        const float *panel = j->packed + first * j->padded + column * n;
        j->simd->gemm->product(turned, n, panel, n, sum, COLUMNS, rows, n, columns, false);
        for (int64_t r = 0; r < rows; r++) {
            float *to = j->dw + (row + r) * k + column;
            j->simd->rows->axpby(1.0f, sum + r * COLUMNS, 1.0f, to, to, columns);
        }
    }
}

int vp_units_product(vp_queue *q, const char *what, const vp_units *units, const vp_mat *left, const vp_mat *right,
                     float *dw) {
    product_job j = {.units = units, .left = left, .right = right, .simd = q->device->simd, .dw = dw};
    j.padded = vp_packed_floats(j.simd, 1, right->cols);
    j.across = (right->cols + COLUMNS - 1) / COLUMNS;
    j.scratch_each = ROWS * (units->longest + COLUMNS);
    size_t mark = vp_arena_mark(q);
    j.packed = vp_queue_floats(q, what, j.padded * right->rows);
    j.scratch = vp_queue_floats(q, what, j.scratch_each * vp_threads_count(q->device->threads));
    bool ready = j.packed && j.scratch;
    if (ready) {
        vp_threads_run(q->device->threads, units->count, pack_unit, &j);
        vp_threads_run(q->device->threads, (left->cols + ROWS - 1) / ROWS * j.across, product_item, &j);
    }
    vp_arena_release(q, mark);
    return ready ? VP_OK : VP_MEMORY;
}
