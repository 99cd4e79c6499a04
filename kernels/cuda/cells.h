/* Matrices of F32 or BF16 as row-wise kernels see them: 8 neighbours of a row at a time, as f32 in registers. WIDE: by
 * accesses of 16 bytes, which the host has found possible; else one by one, with any alignment and a row's odd end.
 * Both give the same numbers to the same threads, so that a result does not depend on where a matrix lies. */
#ifndef VP_CUDA_CELLS_H
#define VP_CUDA_CELLS_H
#include "kernels/cuda/cuda.h"

enum { VP_CELLS = 8 };
struct vp_cells {
    char *p;
    int64_t ld;
    uint32_t half; /* all bits: BF16; none: F32. A mask, so that either is decoded without a branch between loads */
    vp_cells(const vp_mat &m) : p((char *)m.ptr), ld(m.ld), half(m.dtype == VP_BF16 ? ~0u : 0u) {}
    vp_cells(const float *row) : p((char *)row), ld(0), half(0) {} /* one row for all, or NULL */
};
/* As the type of a matrix's elements: which of both is found at run time. */
struct vp_either {};

/* Whether all rows of m can be read and written 16 bytes at a time; a matrix without memory is not touched. */
static inline bool vp_wide(const vp_mat &m) {
    const size_t size = vp_dtype_size(m.dtype);
    return !m.ptr || ((uintptr_t)m.ptr % 16 == 0 && (size_t)m.ld * size % 16 == 0 && m.cols % VP_CELLS == 0);
}
static inline bool vp_wide(const float *row) {
    return (uintptr_t)row % 16 == 0;
}
template <class... M> bool vp_wide(const vp_mat &m, const M &...more) {
    return vp_wide(m) && (vp_wide(more) && ...);
}

struct alignas(16) vp_words {
    uint32_t w[4];
};

template <class T> VP_DEVICE uint32_t vp_is_half(const vp_cells &m) {
    if constexpr (sizeof(T) == sizeof(vp_either))
        return m.half;
    else
        return sizeof(T) == sizeof(vp_bf16) ? ~0u : 0u;
}
VP_DEVICE uint32_t vp_choose(uint32_t mask, uint32_t yes, uint32_t no) {
    return (yes & mask) | (no & ~mask);
}

/* v[i] = m[row, col + i] where i < n, else 0. WIDE: n >= 8 */
template <class T, bool WIDE> VP_DEVICE void vp_load8(const vp_cells &m, int64_t row, int col, int n, float v[8]) {
    const uint32_t half = vp_is_half<T>(m);
    const int64_t at = row * m.ld + col;
    if constexpr (WIDE) {
        const vp_words *from = (const vp_words *)(m.p + at * (half ? 2 : 4));
        vp_words a = from[0], b = {};
        if (!half) b = from[1];
        for (int i = 0; i < VP_CELLS; i++) {
            const uint32_t two = a.w[i / 2], one = i < 4 ? a.w[i % 4] : b.w[i % 4];
            v[i] = vp_float_of(vp_choose(half, i % 2 ? two & 0xffff0000u : two << 16, one));
        }
    } else {
        for (int i = 0; i < VP_CELLS; i++)
            v[i] = i >= n ? 0.0f : half ? vp_float(((const vp_bf16 *)m.p)[at + i]) : ((const float *)m.p)[at + i];
    }
}

/* m[row, col + i] = v[i], rounded once, where i < n. WIDE: n >= 8 */
template <class T, bool WIDE>
VP_DEVICE void vp_store8(const vp_cells &m, int64_t row, int col, int n, const float v[8]) {
    const uint32_t half = vp_is_half<T>(m);
    const int64_t at = row * m.ld + col;
    if constexpr (WIDE) {
        vp_words *to = (vp_words *)(m.p + at * (half ? 2 : 4)), a, b;
        for (int i = 0; i < 4; i++) {
            a.w[i] = vp_choose(half, vp_pack(v[2 * i], v[2 * i + 1]), vp_bits_of(v[i]));
            b.w[i] = vp_bits_of(v[i + 4]);
        }
        to[0] = a;
        if (!half) to[1] = b;
    } else {
        for (int i = 0; i < VP_CELLS; i++) {
            if (i >= n) continue;
            if (half)
                ((uint16_t *)m.p)[at + i] = (uint16_t)vp_pack(v[i], 0.0f);
            else
                ((float *)m.p)[at + i] = v[i];
        }
    }
}

#endif
