/* Rows that are stored as F32, BF16 or I8, read as vectors of f32. Included by simd_*.c only. */
#ifndef VP_CPU_SIMD_TYPED_H
#define VP_CPU_SIMD_TYPED_H
#include "kernels/cpu/simd.h"
#include "lib/base/dtype.h"

/* Elements [i, i + n) of the row at p, of any alignment; n >= VW: all; elements past n are 0. `dtype` is a constant
 * where this is called. */
static inline vec v_load_typed(const uint8_t *p, int64_t i, int64_t n, vp_dtype dtype) {
    if (dtype == VP_F32) return v_load_upto((const float *)(const void *)p + i, n);
    size_t size = dtype == VP_BF16 ? 2 : 1;
    uint8_t tail[2 * VW] = {0};
    const uint8_t *at = p + (size_t)i * size;
    if (n < VW) at = memcpy(tail, at, (size_t)n * size);
    return dtype == VP_BF16 ? v_load_bf16(at) : v_load_i8(at);
}

#endif
