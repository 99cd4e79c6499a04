/* Dropout: keep bits of runs of counters (kernels/dropout.h), several counters at once, and what they do to a row.
 * A vector holds one word of a counter in the low half of each 64-bit lane, where the widening product wants it; what
 * stands in the high halves is never looked at. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_tables.h"
#include "kernels/dropout.h"
#include "lib/base/philox.h"

#if defined(VP_ISA_avx512)
enum { COUNTERS = 8 };
typedef __m512i words;
static inline words w_set1(uint64_t a) {
    return _mm512_set1_epi64((int64_t)a);
}
static inline words w_order(void) { /* so that w_bits finds the counters in their order */
    return _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
}
static inline words w_add(words a, words b) {
    return _mm512_add_epi32(a, b);
}
static inline words w_xor(words a, words b, words c) {
    return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}
static inline words w_mul(words a, words b) {
    return _mm512_mul_epu32(a, b);
}
static inline words w_high(words a) {
    return _mm512_srli_epi64(a, 32);
}
static inline words w_join(words low, words high) {
    return _mm512_mask_mov_epi32(low, 0xAAAA, _mm512_slli_epi64(high, 32));
}
static inline uint64_t w_bits(words first, words second, uint32_t threshold) {
    __m512i t = _mm512_set1_epi16((int16_t)threshold);
    uint64_t low = _mm512_cmpge_epu16_mask(_mm512_unpacklo_epi64(first, second), t);
    uint64_t high = _mm512_cmpge_epu16_mask(_mm512_unpackhi_epi64(first, second), t);
    return low | high << 32;
}
#elif defined(VP_ISA_avx2)
enum { COUNTERS = 4 };
typedef __m256i words;
static inline words w_set1(uint64_t a) {
    return _mm256_set1_epi64x((int64_t)a);
}
static inline words w_order(void) {
    return _mm256_setr_epi64x(0, 1, 2, 3);
}
static inline words w_add(words a, words b) {
    return _mm256_add_epi32(a, b);
}
static inline words w_xor(words a, words b, words c) {
    return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
}
static inline words w_mul(words a, words b) {
    return _mm256_mul_epu32(a, b);
}
static inline words w_high(words a) {
    return _mm256_srli_epi64(a, 32);
}
static inline words w_join(words low, words high) {
    return _mm256_blend_epi32(low, _mm256_slli_epi64(high, 32), 0xAA);
}
static inline uint64_t w_bits(words first, words second, uint32_t threshold) {
    __m256i t = _mm256_set1_epi16((int16_t)threshold);
    __m256i low = _mm256_unpacklo_epi64(first, second), high = _mm256_unpackhi_epi64(first, second);
    low = _mm256_cmpeq_epi16(_mm256_max_epu16(low, t), low); /* low >= t */
    high = _mm256_cmpeq_epi16(_mm256_max_epu16(high, t), high);
    return (uint32_t)_mm256_movemask_epi8(_mm256_packs_epi16(low, high));
}
#else
enum { COUNTERS = 1 };
#endif

enum { ROUNDS = 10 };
static void begin(vp_drop_key *k, uint64_t key) {
    k->key = key;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        k->low[i] = (uint32_t)key + i * 0x9E3779B9u;
        k->high[i] = (uint32_t)(key >> 32) + i * 0xBB67AE85u;
    }
}

#if defined(VP_ISA_avx512) || defined(VP_ISA_avx2)
/* vp_philox of the counters counter[0] + [0, COUNTERS): a byte each. */
static inline uint64_t keep_some(const uint32_t counter[4], const vp_drop_key *k, uint32_t threshold) {
    const words m0 = w_set1(0xD2511F53u), m1 = w_set1(0xCD9E8D57u);
    words c0 = w_add(w_set1(counter[0]), w_order()), c1 = w_set1(counter[1]), c2 = w_set1(counter[2]);
    words c3 = w_set1(counter[3]);
#pragma GCC unroll 10
    for (int i = 0; i < ROUNDS; i++) {
        words a = w_mul(m0, c0), b = w_mul(m1, c2);
        c0 = w_xor(w_high(b), c1, w_set1(k->low[i]));
        c2 = w_xor(w_high(a), c3, w_set1(k->high[i]));
        c1 = b;
        c3 = a;
    }
    return w_bits(w_join(c0, c1), w_join(c2, c3), threshold);
}
#else
static inline uint64_t keep_some(const uint32_t counter[4], const vp_drop_key *k, uint32_t threshold) {
    uint32_t word[4];
    vp_philox(word, counter, k->key);
    return vp_drop_keep(word, threshold);
}
#endif

static void keep(uint8_t *bits, int64_t n, const uint32_t counter[4], const vp_drop_key *key, uint32_t threshold) {
    uint32_t at[4] = {counter[0], counter[1], counter[2], counter[3]};
    int64_t i = 0;
    for (; i + COUNTERS <= n; i += COUNTERS, at[0] += COUNTERS) {
        uint64_t some = keep_some(at, key, threshold);
#pragma GCC unroll 8
        for (int j = 0; j < COUNTERS; j++) bits[i + j] = (uint8_t)(some >> 8 * j); /* one store */
    }
    if (i == n) return;
    for (uint64_t some = keep_some(at, key, threshold); i < n; some >>= 8) bits[i++] = (uint8_t)some;
}

static void apply(const float *x, float *out, int64_t n, const uint8_t *bits, int64_t skip, float scale) {
    vec by = v_set1(scale);
    for (int64_t i = 0; i < n; i += VW) {
        const uint8_t *b = bits + (skip + i) / 8;
        uint32_t mask = ((uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16) >> (skip + i) % 8;
        v_store_upto(out + i, v_keep_bits(v_mul(v_load_upto(x + i, n - i), by), mask), n - i);
    }
}

const vp_simd_drop VP_ISA_NAME(vp_simd_drop) = {.begin = begin, .keep = keep, .apply = apply};
