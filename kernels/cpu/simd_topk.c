/* Inner products of queries with index rows. A pair is one chain of vector multiply-adds along D and one fixed tree
 * over its lanes: a score has the same bytes with one query or many, wherever the row lies. */
#include "kernels/cpu/simd_tables.h"
#include "kernels/cpu/simd_typed.h"

/* Register tiles, queries x rows: of many queries, of some, of one. */
#if defined(VP_ISA_avx512)
enum { MANY_Q = 8, MANY_R = 3, SOME_Q = 4, SOME_R = 4 };
#elif defined(VP_ISA_avx2)
enum { MANY_Q = 4, MANY_R = 3, SOME_Q = 2, SOME_R = 4 };
#else
enum { MANY_Q = 4, MANY_R = 2, SOME_Q = 2, SOME_R = 4 };
#endif
enum { ONE_R = 8, QT = MANY_Q, RT = ONE_R };

/* out[i * ldo] = v_sum(acc[i]) for n of them (a constant). Eight at a time share their shuffles; each is still added up
 * as v_sum does it: halves, quarters, pairs. */
static inline __attribute__((always_inline)) void store_sums(const vec *acc, int n, float *out, int64_t ldo) {
    int i = 0;
#if defined(VP_ISA_avx512)
    for (; i + 8 <= n; i += 8) {
        vec half[4], quarter[2];
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            const vec a = acc[i + 2 * k], b = acc[i + 2 * k + 1];
            half[k] = v_add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
        }
#pragma GCC unroll 2
        for (int k = 0; k < 2; k++) {
            const vec a = half[2 * k], b = half[2 * k + 1];
            quarter[k] = v_add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
        }
        vec pair =
            v_add(_mm512_shuffle_ps(quarter[0], quarter[1], 0x44), _mm512_shuffle_ps(quarter[0], quarter[1], 0xEE));
        float sum[16]; /* of acc[i + k] at 4 k, of acc[i + k + 4] at 4 k + 2 */
        v_store(sum, v_add(pair, _mm512_movehdup_ps(pair)));
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) out[(i + k) * ldo] = sum[4 * (k % 4) + k / 4 * 2];
    }
#endif
#pragma GCC unroll 8
    for (; i < n; i++) out[i * ldo] = v_sum(acc[i]);
}

/* nq queries x up to rt rows (constants); rows past nr read the last one again and are not written. The rows of
 * the tile after the next are asked for meanwhile, into the second-level cache: their streams are too short for the
 * machine to foresee. */
static inline __attribute__((always_inline)) void tile(const float *q, int64_t ldq, int nq, const uint8_t *rows,
                                                       int64_t stride, int rt, int64_t nr, vp_dtype dtype, int64_t dim,
                                                       float *out, int64_t ldo) {
    const int64_t size = dtype == VP_F32 ? 4 : dtype == VP_BF16 ? 2 : 1, ahead = 2 * rt * stride;
    const uint8_t *row[RT];
    vec acc[RT][QT];
#pragma GCC unroll 8
    for (int r = 0; r < rt; r++) {
        row[r] = rows + (r < nr ? r : nr - 1) * stride;
#pragma GCC unroll 8
        for (int i = 0; i < nq; i++) acc[r][i] = v_zero();
    }
    int64_t d = 0;
    for (; d + VW <= dim; d += VW) {
        vec b[RT];
#pragma GCC unroll 8
        for (int r = 0; r < rt; r++) {
            __builtin_prefetch(row[r] + ahead + d * size, 0, 2);
            b[r] = v_load_typed(row[r], d, VW, dtype);
        }
#pragma GCC unroll 8
        for (int i = 0; i < nq; i++) {
            const vec a = v_held(v_load(q + i * ldq + d));
#pragma GCC unroll 8
            for (int r = 0; r < rt; r++) acc[r][i] = v_fma(a, b[r], acc[r][i]);
        }
    }
    if (d < dim)
#pragma GCC unroll 8
        for (int r = 0; r < rt; r++) {
            vec b = v_load_typed(row[r], d, dim - d, dtype);
#pragma GCC unroll 8
            for (int i = 0; i < nq; i++) acc[r][i] = v_fma(v_load_upto(q + i * ldq + d, dim - d), b, acc[r][i]);
        }
#pragma GCC unroll 8
    for (int r = 0; r < rt; r++)
        if (r < nr) store_sums(acc[r], nq, out + r, ldo);
}

#define TILES(nq_, rt_, dtype)                                                                                         \
    for (; i + (nq_) <= nq; i += (nq_))                                                                                \
        for (int64_t r = 0; r < nr; r += (rt_))                                                                        \
            tile(queries + i * ldq, ldq, nq_, rows + r * stride, stride, rt_, nr - r, dtype, dim, out + i * ldo + r,   \
                 ldo);
#define SCORES(name, dtype)                                                                                            \
    static void name(const float *queries, int64_t ldq, int64_t nq, const uint8_t *rows, int64_t stride, int64_t nr,   \
                     int64_t dim, float *out, int64_t ldo) {                                                           \
        int64_t i = 0;                                                                                                 \
        TILES(MANY_Q, MANY_R, dtype)                                                                                   \
        TILES(SOME_Q, SOME_R, dtype)                                                                                   \
        TILES(1, ONE_R, dtype)                                                                                         \
    }
SCORES(scores_f32, VP_F32)
SCORES(scores_bf16, VP_BF16)
SCORES(scores_i8, VP_I8)
#undef SCORES
#undef TILES

static void scores(const float *queries, int64_t ldq, int64_t nq, const uint8_t *rows, int64_t stride, int64_t nr,
                   vp_dtype dtype, int64_t dim, float *out, int64_t ldo) {
    if (dtype == VP_F32)
        scores_f32(queries, ldq, nq, rows, stride, nr, dim, out, ldo);
    else if (dtype == VP_BF16)
        scores_bf16(queries, ldq, nq, rows, stride, nr, dim, out, ldo);
    else
        scores_i8(queries, ldq, nq, rows, stride, nr, dim, out, ldo);
}

const vp_simd_topk VP_ISA_NAME(vp_simd_topk) = {.scores = scores};
