/* Products of bf16 numbers with f32 sums, on processors with AVX512-BF16 and VBMI. Two neighbours along k are a pair,
 * one 32-bit word: rows end with a whole pair, its second number 0 where K is odd, and the panels of simd_gemm.c, made
 * of pairs instead of floats, are what a weight is packed into. */
#ifndef VP_CPU_BF16_H
#define VP_CPU_BF16_H
#include "kernels/cpu/simd_tables.h"

/* Whether this processor has such products, and may use them beside this variant of everything else. */
bool vp_bf16_supported(const vp_simd *simd);
static inline int64_t vp_bf16_pairs(int64_t k) {
    return (k + 1) / 2;
}
/* x [n] to the nearest bf16, ties to even, f32 subnormals to 0; out holds whole pairs */
void vp_bf16_round(const float *x, uint16_t *out, int64_t n);
/* out [M, N] = x [M, 2 pairs], without gaps, times panels: an element is one chain of additions over the pairs in
 * ascending order, whatever M and the row's place are. */
void vp_bf16_product(const uint16_t *x, const void *panels, float *out, int64_t ldo, int64_t m, int64_t pairs,
                     int64_t n);
/* The same of weights in I8, each of which is a number that bf16 has: a row of a panel is 64 bytes, two lots of 16
 * columns' pairs in the order in which they come out. */
size_t vp_bf16_i8_bytes(int64_t pairs, int64_t n);
/* rows [N, 2 pairs], the second number of the last pair 0 where K is odd */
void vp_bf16_i8_pack(const int8_t *rows, int64_t pairs, int64_t n, void *panels);
void vp_bf16_i8_product(const uint16_t *x, const void *panels, float *out, int64_t ldo, int64_t m, int64_t pairs,
                        int64_t n);

#endif
