/* The operations that kernels/math.h is written over, one float at a time on a GPU: a product and a sum round
 * separately, v_fma once. */
#ifndef VP_CUDA_VEC_H
#define VP_CUDA_VEC_H
#include "kernels/cuda/cuda.h"
#include <math.h>

typedef float vec;
VP_DEVICE vec v_set1(float a) {
    return a;
}
VP_DEVICE vec v_zero() {
    return 0.0f;
}
VP_DEVICE vec v_add(vec a, vec b) {
    return a + b;
}
VP_DEVICE vec v_sub(vec a, vec b) {
    return a - b;
}
VP_DEVICE vec v_mul(vec a, vec b) {
    return a * b;
}
VP_DEVICE vec v_div(vec a, vec b) {
    return a / b;
}
VP_DEVICE vec v_fma(vec a, vec b, vec c) {
    return fmaf(a, b, c);
}
VP_DEVICE vec v_max(vec a, vec b) { /* b when either is NaN */
    return a > b ? a : b;
}
VP_DEVICE vec v_min(vec a, vec b) {
    return a < b ? a : b;
}
VP_DEVICE vec v_select_lt(vec a, vec b, vec yes, vec no) {
    return a < b ? yes : no;
}
VP_DEVICE vec v_abs(vec a) {
    return fabsf(a);
}
VP_DEVICE vec v_with_sign(vec magnitude, vec sign) {
    return copysignf(magnitude, sign);
}
VP_DEVICE vec v_round(vec a) { /* |a| < 2^22 */
    float magic = 12582912.0f;
    return (a + magic) - magic;
}
VP_DEVICE vec v_scale2(vec a, vec n) { /* a * 2^n, n a whole number in [-126, 127]; a conversion would cost more */
    const uint32_t low = vp_bits_of(n + 12582912.0f); /* n modulo 2^22, the exponent's bits above */
    return a * vp_float_of((low << 23) + (127u << 23));
}

#define VP_FN    VP_DEVICE
#define VP_TABLE const float
#include "kernels/math.h"

#endif
