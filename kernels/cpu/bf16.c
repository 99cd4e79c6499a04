/* Products of bf16 numbers by vdpbf16ps, which adds the two products of a pair to each of 16 f32 sums (bf16.h).
 * Compiled for AVX512-BF16 function by function: who calls has asked vp_bf16_supported. */
#include "kernels/cpu/bf16.h"
#include <immintrin.h>
#include <string.h>

#define BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
enum { MR = 8, NV = 2, VW = 16, NR = NV * VW }; /* 16 sums: more than an addition's latency needs */

bool vp_bf16_supported(const vp_simd *simd) {
    return strcmp(simd->name, "avx512") == 0 && simd->gemm->nr == NR && __builtin_cpu_supports("avx512bf16");
}

static uint32_t first(int64_t n) { /* bits */
    return n >= VW ? 0xffffU : (1U << (n < 0 ? 0 : n)) - 1U;
}

BF16 void vp_bf16_round(const float *x, uint16_t *out, int64_t n) {
    for (int64_t i = 0; i < n; i += VW) {
        __m256bh h = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps((__mmask16)first(n - i), x + i));
        _mm256_mask_storeu_epi16(out + i, (__mmask16)first((n - i + 1) / 2 * 2), (__m256i)h);
    }
}

BF16 static inline __m512i pair(const uint16_t *x) {
    int32_t word;
    memcpy(&word, x, sizeof word);
    return _mm512_set1_epi32(word);
}

/* mr rows, a constant where this is called, x one panel. Rows past m read row m - 1 again and are not written. */
BF16 static inline __attribute__((always_inline)) void block(int mr, const uint16_t *x, const uint16_t *p, float *out,
                                                             int64_t ldo, int64_t m, int64_t pairs, int64_t width) {
    const uint16_t *row[MR];
    __m512 acc[MR][NV];
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) {
        row[r] = x + (r < m ? r : m - 1) * 2 * pairs;
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) acc[r][v] = _mm512_setzero_ps();
    }
    for (int64_t i = 0; i < pairs; i++, p += 2 * NR) {
        __m512i b[NV];
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) b[v] = _mm512_loadu_si512(p + 2 * v * VW);
#pragma GCC unroll 8
        for (int r = 0; r < mr; r++) {
            __m512i a = pair(row[r] + 2 * i);
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], (__m512bh)a, (__m512bh)b[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
        if (r < m)
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++)
                _mm512_mask_storeu_ps(out + r * ldo + v * VW, (__mmask16)first(width - v * VW), acc[r][v]);
}

BF16 void vp_bf16_product(const uint16_t *x, const void *panels, float *out, int64_t ldo, int64_t m, int64_t pairs,
                          int64_t n) {
    for (int64_t j = 0; j < n; j += NR) {
        const uint16_t *p = (const uint16_t *)panels + j * 2 * pairs;
        for (int64_t i = 0; i < m; i += MR) {
            const uint16_t *rows = x + i * 2 * pairs;
            if (m - i > MR / 2)
                block(MR, rows, p, out + i * ldo + j, ldo, m - i, pairs, n - j);
            else
                block(MR / 2, rows, p, out + i * ldo + j, ldo, m - i, pairs, n - j);
        }
    }
}
