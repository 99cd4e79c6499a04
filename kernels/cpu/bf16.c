/* Products of bf16 numbers by vdpbf16ps, which adds the two products of a pair to each of 16 f32 sums (bf16.h).
 * Compiled for AVX512-BF16 function by function: who calls has asked vp_bf16_supported. */
#include "kernels/cpu/bf16.h"
#include <immintrin.h>
#include <string.h>

#define BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,avx512vbmi")))
enum { MR = 8, NV = 2, VW = 16, NR = NV * VW }; /* 16 sums: more than an addition's latency needs */

bool vp_bf16_supported(const vp_simd *simd) {
    return strcmp(simd->name, "avx512") == 0 && simd->gemm->nr == NR && __builtin_cpu_supports("avx512bf16") &&
           __builtin_cpu_supports("avx512vbmi");
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

/* ---- a row of a panel as bf16 ---- */
/* The bits of 0 to 127 as bf16, low bytes and high ones: the low 7 bits of an index choose from two registers. */
typedef struct table {
    __m512i low[2], high[2];
} table;
static struct { uint8_t low[128], high[128]; } digits;
__attribute__((constructor)) static void fill_digits(void) {
    for (int i = 0; i < 128; i++) {
        const float x = (float)i;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        digits.low[i] = (uint8_t)(bits >> 16);
        digits.high[i] = (uint8_t)(bits >> 24);
    }
}

BF16 static inline table load_table(void) {
    table t;
    for (int i = 0; i < 2; i++) {
        t.low[i] = _mm512_loadu_si512(digits.low + 64 * i);
        t.high[i] = _mm512_loadu_si512(digits.high + 64 * i);
    }
    return t;
}

BF16 static inline __attribute__((always_inline)) void load_row(bool i8, const void *from, const table *t,
                                                                __m512i b[NV]) {
    if (!i8) {
        for (int v = 0; v < NV; v++) b[v] = _mm512_loadu_si512((const uint16_t *)from + 2 * v * VW);
        return;
    }
    const __m512i x = _mm512_loadu_si512(from), size = _mm512_abs_epi8(x);
    const __m512i low = _mm512_permutex2var_epi8(t->low[0], size, t->low[1]);
    __m512i high = _mm512_permutex2var_epi8(t->high[0], size, t->high[1]);
    high = _mm512_ternarylogic_epi32(high, x, _mm512_set1_epi8(-128), 0xf8); /* with x's signs */
    b[0] = _mm512_unpacklo_epi8(low, high);
    b[1] = _mm512_unpackhi_epi8(low, high);
}

/* Where the pair of column c lies among a row's 32, so that unpacking gives it its place. */
static int i8_at(int c) {
    return c % VW / 4 * 8 + c / VW * 4 + c % 4;
}

size_t vp_bf16_i8_bytes(int64_t pairs, int64_t n) {
    return (size_t)((n + NR - 1) / NR * NR * 2 * pairs);
}

void vp_bf16_i8_pack(const int8_t *rows, int64_t pairs, int64_t n, void *panels) {
    for (int64_t j = 0; j < n; j += NR)
        for (int c = 0; c < NR; c++) {
            const int8_t *from = rows + (j + c) * 2 * pairs;
            char *to = (char *)panels + j * 2 * pairs + 2 * i8_at(c);
            for (int64_t i = 0; i < pairs; i++)
                if (j + c < n)
                    memcpy(to + 2 * NR * i, from + 2 * i, 2);
                else
                    memset(to + 2 * NR * i, 0, 2);
        }
}

/* ---- products ---- */
/* mr rows, a constant where this is called, x one panel. Rows past m read row m - 1 again and are not written. */
BF16 static inline __attribute__((always_inline)) void block(int mr, bool i8, const uint16_t *x, const char *p,
                                                             float *out, int64_t ldo, int64_t m, int64_t pairs,
                                                             int64_t width) {
    const uint16_t *row[MR];
    __m512 acc[MR][NV];
    const table t = load_table();
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) {
        row[r] = x + (r < m ? r : m - 1) * 2 * pairs;
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) acc[r][v] = _mm512_setzero_ps();
    }
    for (int64_t i = 0; i < pairs; i++, p += i8 ? 2 * NR : 4 * NR) {
        __m512i b[NV];
        load_row(i8, p, &t, b);
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

/* Few rows are computed as few: then weights come no slower than memory gives them. */
BF16 static inline __attribute__((always_inline)) void
product(bool i8, const uint16_t *x, const char *panels, float *out, int64_t ldo, int64_t m, int64_t pairs, int64_t n) {
    for (int64_t j = 0; j < n; j += NR) {
        const char *p = panels + j * (i8 ? 2 : 4) * pairs;
        for (int64_t i = 0; i < m; i += MR) {
            const uint16_t *rows = x + i * 2 * pairs;
            if (m - i > MR / 2)
                block(MR, i8, rows, p, out + i * ldo + j, ldo, m - i, pairs, n - j);
            else if (m - i > 1)
                block(MR / 2, i8, rows, p, out + i * ldo + j, ldo, m - i, pairs, n - j);
            else
                block(1, i8, rows, p, out + i * ldo + j, ldo, 1, pairs, n - j);
        }
    }
}

BF16 void vp_bf16_product(const uint16_t *x, const void *panels, float *out, int64_t ldo, int64_t m, int64_t pairs,
                          int64_t n) {
    product(false, x, panels, out, ldo, m, pairs, n);
}

BF16 void vp_bf16_i8_product(const uint16_t *x, const void *panels, float *out, int64_t ldo, int64_t m, int64_t pairs,
                             int64_t n) {
    product(true, x, panels, out, ldo, m, pairs, n);
}
