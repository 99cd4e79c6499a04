/* Inner products in f32 on tensor cores, which multiply bf16: a number is written as a sum of bf16 parts, and every
 * product of two parts is exact. bf16 and int8 are one part; an f32 (below 3.3e38) is three: its rounding, the rounding
 * of what is left, and the rest. Products of parts below 2^-24 of the whole are left out, so f32 times bf16 takes three
 * products and f32 times f32 six.
 *
 * Eight neighbours of a row make an octet, the unit that a lane loads. Lane l, g = l / 4, t = l % 4, brings the octet
 * of columns [8t, 8t + 8) of row g of either operand: two mma steps over 32 columns, whose numbering within the step
 * both operands permute alike. So neither needs ldmatrix, and a row may as well be read straight from memory. */
#ifndef VP_CUDA_PARTS_H
#define VP_CUDA_PARTS_H
#include "kernels/cuda/gpu.h"

static constexpr int VP_OCTET = 8, VP_OCTET_STEP = 32; /* elements; columns of a step of vp_octet_mma */

struct alignas(16) vp_wide {
    uint32_t w[4];
};
/* How many parts, and how many steps, an operand pair takes. */
template <class T> constexpr int vp_parts = sizeof(T) == 4 ? 3 : 1;

/* Eight elements as they are stored, and as parts: two bf16 a register, the lower element in the low half. */
template <class T> struct vp_raw { uint32_t w[2 * sizeof(T)]; };
template <int P> struct vp_octet { vp_wide part[P]; };

/* n of the eight elements at p (others: 0). WIDE: p at a multiple of their size in bytes (16 at most), n 8 or <= 0;
 * else at any address. */
template <bool WIDE, class T> VP_DEVICE void vp_fetch(vp_raw<T> &raw, const void *p, int n) {
    constexpr int words = 2 * sizeof(T), each = words < 4 ? words : 4;
    struct alignas(4 * each) piece {
        uint32_t w[each];
    };
    if constexpr (WIDE) {
#pragma unroll
        for (int i = 0; i < words / each; i++) {
            const piece x = n > 0 ? ((const piece *)p)[i] : piece{};
#pragma unroll
            for (int k = 0; k < each; k++) raw.w[each * i + k] = x.w[k];
        }
    } else {
#pragma unroll
        for (int i = 0; i < words; i++) {
            raw.w[i] = 0;
#pragma unroll
            for (int k = 0; k < 4; k++)
                if ((4 * i + k) / (int)sizeof(T) < n)
                    raw.w[i] |= (uint32_t)((const unsigned char *)p)[4 * i + k] << 8 * k;
        }
    }
}

/* The parts of two floats, in place of which stays what is left of them. */
VP_DEVICE uint32_t vp_take_part(float &low, float &high) {
    const uint32_t both = vp_pack(low, high);
    low -= vp_float_of(both << 16);
    high -= vp_float_of(both & 0xffff0000u);
    return both;
}
VP_DEVICE void vp_expand(vp_octet<3> &to, const vp_raw<float> &raw) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float low = vp_float_of(raw.w[2 * i]), high = vp_float_of(raw.w[2 * i + 1]);
#pragma unroll
        for (int p = 0; p < 3; p++) to.part[p].w[i] = vp_take_part(low, high);
    }
}
VP_DEVICE void vp_expand(vp_octet<1> &to, const vp_raw<vp_bf16> &raw) {
#pragma unroll
    for (int i = 0; i < 4; i++) to.part[0].w[i] = raw.w[i];
}
/* int8 x: the float with the bits of 2^23 and x + 128 in its last ones is 2^23 + 128 + x */
VP_DEVICE float vp_float_byte(uint32_t word, int byte) {
    return vp_float_of(0x4b000000u | ((word >> 8 * byte & 0xffu) ^ 0x80u)) - 8388736.0f;
}
VP_DEVICE void vp_expand(vp_octet<1> &to, const vp_raw<int8_t> &raw) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        to.part[0].w[i] = vp_pack(vp_float_byte(raw.w[i / 2], i % 2 * 2), vp_float_byte(raw.w[i / 2], i % 2 * 2 + 1));
}

/* d [16, 8] += A [16, 32] B [32, 8]: `low` and `high` are rows g and g + 8 of A, b row g of B's transpose; the greatest
 * products last. */
template <int PA, int PB>
VP_DEVICE void vp_octet_mma(float d[4], const vp_octet<PA> &low, const vp_octet<PA> &high, const vp_octet<PB> &b) {
#pragma unroll
    for (int order = 2; order >= 0; order--)
#pragma unroll
        for (int i = 0; i < PA; i++)
#pragma unroll
            for (int k = 0; k < PB; k++) {
                if (i + k != order) continue;
#pragma unroll
                for (int half = 0; half < 4; half += 2) {
                    const uint32_t a[4] = {low.part[i].w[half], high.part[i].w[half], low.part[i].w[half + 1],
                                           high.part[i].w[half + 1]};
                    vp_mma(d, a, &b.part[k].w[half]);
                }
            }
}

#endif
