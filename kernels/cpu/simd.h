/* One small vector type for the files simd_*.c, which are compiled once an instruction set: VW floats with explicit
 * fused multiply-add, masked ends that run the body's instructions, sums in a fixed order, and our own exp, tanh and
 * erf. Nothing here depends on where a row lies or how many rows there are. Included by simd_*.c only. */
#ifndef VP_CPU_SIMD_H
#define VP_CPU_SIMD_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(VP_ISA_avx512) || defined(VP_ISA_avx2)
#include <immintrin.h>
#endif

#define VP_PASTE_(a, b)   a##_##b
#define VP_PASTE(a, b)    VP_PASTE_(a, b)
#define VP_ISA_NAME(name) VP_PASTE(name, VP_ISA) /* vp_simd_rows -> vp_simd_rows_avx512 */

#if defined(VP_ISA_avx512)
enum { VW = 16 };
typedef __m512 vec;
static inline vec v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vec a) {
    _mm512_storeu_ps(p, a);
}
static inline vec v_set1(float a) {
    return _mm512_set1_ps(a);
}
static inline vec v_add(vec a, vec b) {
    return _mm512_add_ps(a, b);
}
static inline vec v_sub(vec a, vec b) {
    return _mm512_sub_ps(a, b);
}
static inline vec v_mul(vec a, vec b) {
    return _mm512_mul_ps(a, b);
}
static inline vec v_div(vec a, vec b) {
    return _mm512_div_ps(a, b);
}
static inline vec v_sqrt(vec a) {
    return _mm512_sqrt_ps(a);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline vec v_max(vec a, vec b) {
    return _mm512_max_ps(a, b);
}
static inline vec v_min(vec a, vec b) {
    return _mm512_min_ps(a, b);
}
static inline __mmask16 v_first(int64_t n) {
    return (__mmask16)((1U << n) - 1U);
}
static inline vec v_load_n(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps(v_first(n), p);
}
static inline void v_store_n(float *p, vec a, int64_t n) {
    _mm512_mask_storeu_ps(p, v_first(n), a);
}
static inline vec v_keep_n(vec a, int64_t n, vec otherwise) {
    return _mm512_mask_mov_ps(otherwise, v_first(n), a);
}
static inline vec v_keep_bits(vec a, uint32_t bits) { /* 0 where bit i is not set */
    return _mm512_maskz_mov_ps((__mmask16)bits, a);
}
static inline vec v_select_lt(vec a, vec b, vec yes, vec no) {
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), yes);
}
static inline vec v_abs(vec a) {
    return _mm512_abs_ps(a);
}
static inline vec v_with_sign(vec magnitude, vec sign) {
    __m512i mask = _mm512_set1_epi32((int)0x80000000U);
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(mask, _mm512_castps_si512(sign),
                                                         _mm512_castps_si512(magnitude), 0xCA)); /* mask ? b : c */
}
static inline vec v_round(vec a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vec v_scale2(vec a, vec n) /* a * 2^n, n a whole number in [-126, 127] */
{
    __m512i e = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    return _mm512_mul_ps(a, _mm512_castsi512_ps(e));
}
static inline vec v_load_bf16(const uint8_t *p) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)), 16));
}
static inline vec v_load_i8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
static inline float v_sum256(__m256 h) {
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
static inline __m256 v_halves(vec a) {
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}
static inline float v_sum(vec a) {
    return v_sum256(v_halves(a));
}
static inline float v_max_all(vec a) {
    return _mm512_reduce_max_ps(a);
}
#elif defined(VP_ISA_avx2)
enum { VW = 8 };
typedef __m256 vec;
static inline vec v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, vec a) {
    _mm256_storeu_ps(p, a);
}
static inline vec v_set1(float a) {
    return _mm256_set1_ps(a);
}
static inline vec v_add(vec a, vec b) {
    return _mm256_add_ps(a, b);
}
static inline vec v_sub(vec a, vec b) {
    return _mm256_sub_ps(a, b);
}
static inline vec v_mul(vec a, vec b) {
    return _mm256_mul_ps(a, b);
}
static inline vec v_div(vec a, vec b) {
    return _mm256_div_ps(a, b);
}
static inline vec v_sqrt(vec a) {
    return _mm256_sqrt_ps(a);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}
static inline vec v_max(vec a, vec b) {
    return _mm256_max_ps(a, b);
}
static inline vec v_min(vec a, vec b) {
    return _mm256_min_ps(a, b);
}
static inline __m256i v_first(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vec v_load_n(const float *p, int64_t n) {
    return _mm256_maskload_ps(p, v_first(n));
}
static inline void v_store_n(float *p, vec a, int64_t n) {
    _mm256_maskstore_ps(p, v_first(n), a);
}
static inline vec v_keep_n(vec a, int64_t n, vec otherwise) {
    return _mm256_blendv_ps(otherwise, a, _mm256_castsi256_ps(v_first(n)));
}
static inline vec v_keep_bits(vec a, uint32_t bits) {
    __m256i one = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), one), one);
    return _mm256_and_ps(a, _mm256_castsi256_ps(set));
}
static inline vec v_select_lt(vec a, vec b, vec yes, vec no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
static inline vec v_sign_bits(void) {
    return _mm256_castsi256_ps(_mm256_set1_epi32((int)0x80000000U));
}
static inline vec v_abs(vec a) {
    return _mm256_andnot_ps(v_sign_bits(), a);
}
static inline vec v_with_sign(vec magnitude, vec sign) {
    return _mm256_or_ps(_mm256_andnot_ps(v_sign_bits(), magnitude), _mm256_and_ps(v_sign_bits(), sign));
}
static inline vec v_round(vec a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vec v_scale2(vec a, vec n) {
    __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(e));
}
static inline vec v_load_bf16(const uint8_t *p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16));
}
static inline vec v_load_i8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline float v_sum(vec a) {
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
static inline float v_max_all(vec a) {
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}
#else
/* Plain C, one float at a time: the variant for machines without the others. A product and a sum round separately. */
enum { VW = 1 };
typedef float vec;
static inline vec v_load(const float *p) /* p may be unaligned */
{
    vec a;
    memcpy(&a, p, sizeof a);
    return a;
}
static inline void v_store(float *p, vec a) {
    *p = a;
}
static inline vec v_set1(float a) {
    return a;
}
static inline vec v_add(vec a, vec b) {
    return a + b;
}
static inline vec v_sub(vec a, vec b) {
    return a - b;
}
static inline vec v_mul(vec a, vec b) {
    return a * b;
}
static inline vec v_div(vec a, vec b) {
    return a / b;
}
static inline vec v_sqrt(vec a) {
    return sqrtf(a);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return a * b + c;
}
static inline vec v_max(vec a, vec b) {
    return a > b ? a : b;
} /* b when either is NaN, as the machine does */
static inline vec v_min(vec a, vec b) {
    return a < b ? a : b;
}
static inline vec v_load_n(const float *p, int64_t n) {
    return n > 0 ? v_load(p) : 0.0f;
}
static inline void v_store_n(float *p, vec a, int64_t n) {
    if (n > 0) *p = a;
}
static inline vec v_keep_n(vec a, int64_t n, vec otherwise) {
    return n > 0 ? a : otherwise;
}
static inline vec v_keep_bits(vec a, uint32_t bits) {
    return bits & 1 ? a : 0.0f;
}
static inline vec v_select_lt(vec a, vec b, vec yes, vec no) {
    return a < b ? yes : no;
}
static inline vec v_abs(vec a) {
    return fabsf(a);
}
static inline vec v_with_sign(vec magnitude, vec sign) {
    return copysignf(magnitude, sign);
}
static inline vec v_round(vec a) /* |a| < 2^22 */
{
    float magic = 12582912.0f;
    return (a + magic) - magic;
}
static inline vec v_scale2(vec a, vec n) {
    uint32_t bits = (uint32_t)((n == n ? (int)n : 0) + 127) << 23; /* NaN: a is NaN too */
    float two;
    memcpy(&two, &bits, sizeof two);
    return a * two;
}
static inline vec v_load_bf16(const uint8_t *p) {
    uint32_t bits = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 24;
    float a;
    memcpy(&a, &bits, sizeof a);
    return a;
}
static inline vec v_load_i8(const uint8_t *p) {
    return (float)(int8_t)*p;
}
static inline float v_sum(vec a) {
    return a;
}
static inline float v_max_all(vec a) {
    return a;
}
#endif

static inline vec v_zero(void) {
    return v_set1(0.0f);
}
/* a in a register. A compiler may make a load part of each multiply-add that uses it: a tile's products are then bound
 * by its loads. */
static inline vec v_held(vec a) {
#if defined(VP_ISA_avx512)
    __asm__("" : "+v"(a));
#elif defined(VP_ISA_avx2)
    __asm__("" : "+x"(a));
#endif
    return a;
}
/* The first n of VW floats (n >= VW: all, n <= 0: none); the rest reads as 0 and is not written. */
static inline vec v_load_upto(const float *p, int64_t n) {
    return n >= VW ? v_load(p) : v_load_n(p, n > 0 ? n : 0);
}
static inline void v_store_upto(float *p, vec a, int64_t n) {
    if (n >= VW)
        v_store(p, a);
    else
        v_store_n(p, a, n > 0 ? n : 0);
}

#define VP_FN    static inline
#define VP_TABLE static const float
#include "kernels/math.h"

#endif
