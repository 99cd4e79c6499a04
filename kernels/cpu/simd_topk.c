/* Inner products of queries with index rows. A pair is one chain of vector multiply-adds along D and one fixed tree
 * over its lanes: a score has the same bytes with one query or many, wherever the row lies. */
#include "kernels/cpu/simd_tables.h"
#include "kernels/cpu/simd_typed.h"

#if defined(VP_ISA_avx512)
enum { QT = 4, RT = 4 }; /* queries and rows of a register tile */
#else
enum { QT = 2, RT = 4 };
#endif

/* nq queries (a constant) x up to RT rows; rows past nr read the last one again and are not written */
static inline __attribute__((always_inline)) void tile(const float *q, int64_t ldq, int nq, const uint8_t *rows,
                                                       int64_t stride, int64_t nr, vp_dtype dtype, int64_t dim,
                                                       float *out, int64_t ldo) {
    const uint8_t *row[RT];
    vec acc[QT][RT];
#pragma GCC unroll 4
    for (int r = 0; r < RT; r++) {
        row[r] = rows + (r < nr ? r : nr - 1) * stride;
#pragma GCC unroll 4
        for (int i = 0; i < nq; i++) acc[i][r] = v_zero();
    }
    int64_t d = 0;
    for (; d + VW <= dim; d += VW) {
        vec b[RT];
#pragma GCC unroll 4
        for (int r = 0; r < RT; r++) b[r] = v_load_typed(row[r], d, VW, dtype);
#pragma GCC unroll 4
        for (int i = 0; i < nq; i++) {
            vec a = v_load(q + i * ldq + d);
#pragma GCC unroll 4
            for (int r = 0; r < RT; r++) acc[i][r] = v_fma(a, b[r], acc[i][r]);
        }
    }
    if (d < dim)
#pragma GCC unroll 4
        for (int r = 0; r < RT; r++) {
            vec b = v_load_typed(row[r], d, dim - d, dtype);
#pragma GCC unroll 4
            for (int i = 0; i < nq; i++) acc[i][r] = v_fma(v_load_upto(q + i * ldq + d, dim - d), b, acc[i][r]);
        }
#pragma GCC unroll 4
    for (int r = 0; r < RT; r++)
        if (r < nr)
#pragma GCC unroll 4
            for (int i = 0; i < nq; i++) out[i * ldo + r] = v_sum(acc[i][r]);
}

#define SCORES(name, dtype)                                                                                            \
    static void name(const float *queries, int64_t ldq, int64_t nq, const uint8_t *rows, int64_t stride, int64_t nr,   \
                     int64_t dim, float *out, int64_t ldo) {                                                           \
        int64_t i = 0;                                                                                                 \
        for (; i + QT <= nq; i += QT)                                                                                  \
            for (int64_t r = 0; r < nr; r += RT)                                                                       \
                tile(queries + i * ldq, ldq, QT, rows + r * stride, stride, nr - r, dtype, dim, out + i * ldo + r,     \
                     ldo);                                                                                             \
        for (; i < nq; i++)                                                                                            \
            for (int64_t r = 0; r < nr; r += RT)                                                                       \
                tile(queries + i * ldq, ldq, 1, rows + r * stride, stride, nr - r, dtype, dim, out + i * ldo + r,      \
                     ldo);                                                                                             \
    }
SCORES(scores_f32, VP_F32)
SCORES(scores_bf16, VP_BF16)
SCORES(scores_i8, VP_I8)

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
