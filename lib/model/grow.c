/* New rows of a vocabulary's matrices (grow.h). */
#include "lib/model/grow.h"
#include "kernels/ops.h"
#include "lib/base/philox.h"
#include <math.h>
#include <stdlib.h>

int vp_new_rows_begin(vp_new_rows *r, int64_t cols, vp_error *err) {
    vp_new_rows_free(r);
    *r = (vp_new_rows){.sum = vp_calloc((size_t)cols, sizeof *r->sum),
                       .square = vp_calloc((size_t)cols, sizeof *r->square),
                       .cols = cols};
    return r->sum && r->square ? VP_OK : vp_fail_memory(err, "new rows", 2 * (size_t)cols * sizeof *r->sum);
}

void vp_new_rows_add(vp_new_rows *r, const float *row) {
    for (int64_t i = 0; i < r->cols; i++) {
        r->sum[i] += (double)row[i];
        r->square[i] += (double)row[i] * (double)row[i];
    }
    r->rows++;
}

void vp_new_rows_draw(const vp_new_rows *r, int64_t k, float *out) {
    const double n = r->rows ? (double)r->rows : 1;
    uint32_t word[4] = {0};
    for (int64_t i = 0; i < r->cols; i++) {
        const uint32_t counter[4] = {(uint32_t)(i >> 2), (uint32_t)k, 0, VP_SITE_START << 14};
        if (!(i & 3)) vp_philox(word, counter, 0);
        const double mean = r->sum[i] / n, variance = fmax(r->square[i] / n - mean * mean, 0);
        const double u = ((double)word[i & 3] + 0.5) / 2147483648.0 - 1; /* in (-1, 1): its variance is 1 / 3 */
        out[i] = (float)(mean + u * sqrt(3 * variance));
    }
}

void vp_new_rows_free(vp_new_rows *r) {
    free(r->sum);
    free(r->square);
    *r = (vp_new_rows){0};
}
