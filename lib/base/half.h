/* f16 and bf16 as f32, exactly, and back, to the nearest, ties to even. Inline, so that loops over tensors vectorise.
 */
#ifndef VP_HALF_H
#define VP_HALF_H
#include <stdint.h>
#include <string.h>

static inline float vp_float_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float vp_bf16_float(uint16_t bits) {
    return vp_float_from_bits((uint32_t)bits << 16);
}

/* f16 has 5 exponent bits with bias 15, f32 has 8 with bias 127. Subnormals (m * 2^-24) come from 2^-14 (1 + m / 1024)
 * - 2^-14, which is exact and needs no subnormal f32, so the processor's flush-to-zero mode does not matter. */
static inline float vp_f16_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, bits;
    int32_t magnitude = (h & 0x7fff) << 13; /* signed: every vector unit compares those */
    float small = vp_float_from_bits((uint32_t)magnitude + (113u << 23)) - vp_float_from_bits(113u << 23);
    memcpy(&bits, &small, sizeof bits);
    uint32_t subnormal = -(uint32_t)(magnitude < (1 << 23)), special = -(uint32_t)(magnitude >= (31 << 23));
    bits = (bits & subnormal) | (((uint32_t)magnitude + (112u << 23)) & ~subnormal);
    bits = (bits & ~special) | (((uint32_t)magnitude | 0x7f800000u) & special); /* infinity, not a number */
    return vp_float_from_bits(bits | sign);
}

static inline uint32_t vp_float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Of a finite number; one beyond the largest becomes infinity. */
static inline uint16_t vp_float_bf16(float x) {
    uint32_t bits = vp_float_bits(x);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* The same. Below 2^-14 the spacing is 2^-24, that of f32 numbers from 0.5 to 1: adding 0.5 rounds there. */
static inline uint16_t vp_float_f16(float x) {
    uint32_t bits = vp_float_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude < 113u << 23) {
        float shifted = vp_float_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (vp_float_bits(shifted) - vp_float_bits(0.5f)));
    }
    uint32_t rounded = (magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13;
    rounded -= 112u << 10;
    return (uint16_t)(sign | (rounded < 0x7c00 ? rounded : 0x7c00));
}

#endif
