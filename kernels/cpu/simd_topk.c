/* Inner products of queries with index rows. A pair is one chain of vector multiply-adds along D and one fixed tree
 * over its lanes: a score has the same bytes with one query or many, wherever the row lies. */
#include "kernels/cpu/simd_tables.h"
#include "kernels/cpu/simd_typed.h"

/* Register tiles, queries x rows: of many queries, of some, of one. */
#if defined(VP_ISA_avx512)
enum { MANY_Q = 8, MANY_R = 3, SOME_Q = 4, SOME_R = 4 };
#else
enum { MANY_Q = 4, MANY_R = 2, SOME_Q = 2, SOME_R = 4 };
#endif
enum { ONE_R = 8, QT = MANY_Q, RT = ONE_R };

/* nq queries x up to rt rows (constants); rows past nr read the last one again and are not written. The rows behind
 * them are asked for meanwhile: their streams are too short for the machine to foresee. */
static inline __attribute__((always_inline)) void tile(const float *q, int64_t ldq, int nq, const uint8_t *rows,
                                                       int64_t stride, int rt, int64_t nr, vp_dtype dtype, int64_t dim,
                                                       float *out, int64_t ldo) {
    const int64_t size = dtype == VP_F32 ? 4 : dtype == VP_BF16 ? 2 : 1, ahead = rt * stride;
    const uint8_t *row[RT];
    vec acc[QT][RT];
#pragma GCC unroll 8
    for (int r = 0; r < rt; r++) {
        row[r] = rows + (r < nr ? r : nr - 1) * stride;
#pragma GCC unroll 8
        for (int i = 0; i < nq; i++) acc[i][r] = v_zero();
    }
    int64_t d = 0;
    for (; d + VW <= dim; d += VW) {
        vec b[RT];
#pragma GCC unroll 8
        for (int r = 0; r < rt; r++) {
            __builtin_prefetch(row[r] + ahead + d * size);
            b[r] = v_load_typed(row[r], d, VW, dtype);
        }
#pragma GCC unroll 8
        for (int i = 0; i < nq; i++) {
            vec a = v_load(q + i * ldq + d);
#pragma GCC unroll 8
            for (int r = 0; r < rt; r++) acc[i][r] = v_fma(a, b[r], acc[i][r]);
        }
    }
    if (d < dim)
#pragma GCC unroll 8
        for (int r = 0; r < rt; r++) {
            vec b = v_load_typed(row[r], d, dim - d, dtype);
#pragma GCC unroll 8
            for (int i = 0; i < nq; i++) acc[i][r] = v_fma(v_load_upto(q + i * ldq + d, dim - d), b, acc[i][r]);
        }
#pragma GCC unroll 8
    for (int r = 0; r < rt; r++)
        if (r < nr)
#pragma GCC unroll 8
            for (int i = 0; i < nq; i++) out[i * ldo + r] = v_sum(acc[i][r]);
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
