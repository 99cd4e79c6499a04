/* Rows of a weight as every backend reads and quantises them. */
#ifndef VP_KERNELS_WEIGHT_ROWS_H
#define VP_KERNELS_WEIGHT_ROWS_H
#include "kernels/ops.h"
#include <math.h>

/* Row `row` of the stacked parts, as f32. */
static inline int vp_weight_read(const vp_weight_desc *desc, int64_t row, float *out, vp_error *err) {
    const vp_weight_part *part = desc->part;
    for (; row >= part->rows; part++) row -= part->rows;
    return part->read_row(part->ctx, row, out, err);
}

/* max |x|; not finite where a number is not */
static inline float vp_row_largest(const float *x, int64_t n) {
    float most = 0.0f;
    for (int64_t i = 0; i < n; i++) most = fabsf(x[i]) > most || x[i] != x[i] ? fabsf(x[i]) : most;
    return most;
}

/* scale = max |x| / 127, out = x / scale, to the nearest; a row of zeros gets scale 0. VP_DATA: x is not finite. */
static inline int vp_quantise_row(const float *x, int64_t n, int8_t *out, float *scale) {
    const float most = vp_row_largest(x, n);
    if (!isfinite(most)) return VP_DATA;
    const float by = most > 0.0f ? 127.0f / most : 0.0f;
    for (int64_t i = 0; i < n; i++) out[i] = (int8_t)lrintf(x[i] * by);
    *scale = most / 127.0f;
    return VP_OK;
}

#endif
