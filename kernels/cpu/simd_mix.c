/* Weighted sums of rows: attention's output from probabilities and values that lie row by row in a cache. An element is
 * one chain of multiply-adds over the rows, ascending: neither the queries beside it nor where the rows were cut into
 * two calls can be seen in it. */
#include "kernels/cpu/simd_tables.h"
#include "kernels/cpu/simd_typed.h"

#if defined(VP_ISA_avx512)
enum { QT = 4, DT = 4 }; /* queries and vectors of a register tile */
#else
enum { QT = 2, DT = 4 };
#endif

/* nq queries (a constant) x DT vectors of the rows' elements from d on; what lies past dim is not written */
static inline __attribute__((always_inline)) void tile(const float *p, int64_t ldp, int nq, const uint8_t *rows,
                                                       int64_t stride, int64_t nr, vp_dtype dtype, int64_t d,
                                                       int64_t dim, float *out, int64_t ldo) {
    vec acc[QT][DT];
#pragma GCC unroll 4
    for (int q = 0; q < nq; q++)
#pragma GCC unroll 4
        for (int v = 0; v < DT; v++) acc[q][v] = v_load_upto(out + q * ldo + d + v * VW, dim - d - v * VW);
    const bool whole = dim - d >= DT * VW;
    for (int64_t j = 0; j < nr; j++, rows += stride) {
        vec b[DT];
#pragma GCC unroll 4
        for (int v = 0; v < DT; v++) {
            const int64_t at = d + v * VW;
            b[v] = whole || at + VW <= dim ? v_held(v_load_typed(rows, at, VW, dtype))
                   : at < dim              ? v_load_typed(rows, at, dim - at, dtype)
                                           : v_zero();
        }
#pragma GCC unroll 4
        for (int q = 0; q < nq; q++) {
            vec a = v_set1(p[q * ldp + j]);
#pragma GCC unroll 4
            for (int v = 0; v < DT; v++) acc[q][v] = v_fma(a, b[v], acc[q][v]);
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < nq; q++)
#pragma GCC unroll 4
        for (int v = 0; v < DT; v++) v_store_upto(out + q * ldo + d + v * VW, acc[q][v], dim - d - v * VW);
}

#define MIX(name, dtype)                                                                                               \
    static void name(const float *p, int64_t ldp, int64_t nq, const uint8_t *rows, int64_t stride, int64_t nr,         \
                     int64_t dim, float *out, int64_t ldo) {                                                           \
        int64_t q = 0;                                                                                                 \
        for (; q + QT <= nq; q += QT)                                                                                  \
            for (int64_t d = 0; d < dim; d += DT * VW)                                                                 \
                tile(p + q * ldp, ldp, QT, rows, stride, nr, dtype, d, dim, out + q * ldo, ldo);                       \
        for (; q < nq; q++)                                                                                            \
            for (int64_t d = 0; d < dim; d += DT * VW)                                                                 \
                tile(p + q * ldp, ldp, 1, rows, stride, nr, dtype, d, dim, out + q * ldo, ldo);                        \
    }
MIX(mix_f32, VP_F32)
MIX(mix_bf16, VP_BF16)

static void mix(const float *p, int64_t ldp, int64_t nq, const uint8_t *rows, int64_t stride, int64_t nr,
                vp_dtype dtype, int64_t dim, float *out, int64_t ldo) {
    if (dtype == VP_F32)
        mix_f32(p, ldp, nq, rows, stride, nr, dim, out, ldo);
    else
        mix_bf16(p, ldp, nq, rows, stride, nr, dim, out, ldo);
}

const vp_simd_mix VP_ISA_NAME(vp_simd_mix) = {.mix = mix};
