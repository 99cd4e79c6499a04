/* Gradient units: the product of a weight gradient is taken over one unit, so how rows are grouped is part of what a
 * step computes, and frames, which may be cut anywhere between units, are not. */
#include "lib/text/text.h"

int32_t vp_units_assign(const int32_t *cu, int64_t B, int32_t first, int32_t *unit) {
    int64_t begin = 0; /* the first row of the current unit */
    for (int64_t b = 0; b < B; b++) {
        if (b > begin && cu[b + 1] - cu[begin] > VP_UNIT_TOKENS) {
            first++;
            begin = b;
        }
        unit[b] = first;
    }
    return B ? first + 1 : first;
}
