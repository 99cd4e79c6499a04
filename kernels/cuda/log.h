/* The natural logarithm in double precision, as losses need it: the same on every device. */
#ifndef VP_CUDA_LOG_H
#define VP_CUDA_LOG_H
#include "kernels/cuda/gpu.h"
#include <string.h>

/* x = 2^e m, m in [sqrt 1/2, sqrt 2): log x = e log 2 + 2 (s + s^3 / 3 + s^5 / 5 ...), s = (m - 1) / (m + 1), |s| <
 * 0.172, to 1e-16. x positive, finite and normal. */
VP_DEVICE double vp_log(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52 & 0x7ff) - 1023;
    bits = (bits & 0xfffffffffffffu) | (uint64_t)1023 << 52;
    memcpy(&x, &bits, sizeof x);
    if (x > 1.4142135623730951) {
        x *= 0.5;
        e++;
    }
    const double s = (x - 1.0) / (x + 1.0), z = s * s;
    double sum = 0.0;
    for (int n = 21; n >= 1; n -= 2) sum = sum * z + 1.0 / n;
    return (double)e * 0.6931471805599453 + 2.0 * s * sum;
}

#endif
