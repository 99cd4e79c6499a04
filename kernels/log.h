/* The logarithm of a softmax's sum: one copy for every backend. */
#ifndef VP_KERNELS_LOG_H
#define VP_KERNELS_LOG_H
#include "lib/base/anywhere.h"
#include <math.h>
#include <stdint.h>
#include <string.h>

/* log x of a positive, finite, normal x: x = 2^e m, m in [1/sqrt 2, sqrt 2), log m = 2 atanh((m - 1) / (m + 1)) as a
 * series of ten terms (|z| < 0.172: error under 2^-52), in double: one rounding, and the same one everywhere. */
VP_ANYWHERE double vp_log(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1022;
    bits = (bits & 0xfffffffffffffu) | (uint64_t)1022 << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m < 0.70710678118654752) {
        m *= 2.0;
        e--;
    }
    double z = (m - 1.0) / (m + 1.0), square = z * z, sum = 1.0 / 19.0;
    sum = sum * square + 1.0 / 17.0;
    sum = sum * square + 1.0 / 15.0;
    sum = sum * square + 1.0 / 13.0;
    sum = sum * square + 1.0 / 11.0;
    sum = sum * square + 1.0 / 9.0;
    sum = sum * square + 1.0 / 7.0;
    sum = sum * square + 1.0 / 5.0;
    sum = sum * square + 1.0 / 3.0;
    sum = sum * square + 1.0;
    return (double)e * 0.69314718055994531 + 2.0 * z * sum;
}

/* log(sum of e^score), from the top score and the sum of e^(score - top); +inf when nothing was summed, so that
 * e^(score - lse) is 0 */
VP_ANYWHERE float vp_lse(float top, double sum) {
    if (!(sum > 0.0)) return INFINITY;
    return sum < 1e300 ? (float)((double)top + vp_log(sum)) : (float)sum;
}

#endif
