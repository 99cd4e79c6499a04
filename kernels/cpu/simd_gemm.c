/* Our own product: x [M, K] times packed panels of b [K, NR]. Used for adapters, attention, small batched products, and
 * for weights of shapes that the library's kernels do not treat alike at every row. Each output element is one chain of
 * multiply-adds over k, ascending: the block of rows that it was computed in cannot be seen in it. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_tables.h"

#if defined(VP_ISA_avx512)
enum { MR = 12, NV = 2 }; /* 24 accumulators of 32 registers */
#elif defined(VP_ISA_avx2)
enum { MR = 6, NV = 2 }; /* 12 of 16 */
#else
enum { MR = 3, NV = 4 };
#endif
enum { NR = NV * VW };

/* p[i NR + c] = b[c ldb + i] for the panel's first `width` columns: 4 x 4 at a time, then what is left. */
static void pack_turned(const float *b, int64_t ldb, int64_t k, int64_t width, float *p) {
    int64_t i = 0;
#if !defined(VP_ISA_scalar)
    for (; i + 4 <= k; i += 4) {
        int64_t c = 0;
        for (; c + 4 <= width; c += 4) {
            const float *from = b + c * ldb + i;
            __m128 w = _mm_loadu_ps(from), x = _mm_loadu_ps(from + ldb), y = _mm_loadu_ps(from + 2 * ldb);
            __m128 z = _mm_loadu_ps(from + 3 * ldb);
            _MM_TRANSPOSE4_PS(w, x, y, z);
            _mm_storeu_ps(p + i * NR + c, w);
            _mm_storeu_ps(p + (i + 1) * NR + c, x);
            _mm_storeu_ps(p + (i + 2) * NR + c, y);
            _mm_storeu_ps(p + (i + 3) * NR + c, z);
        }
        for (; c < width; c++)
            for (int64_t j = i; j < i + 4; j++) p[j * NR + c] = b[c * ldb + j];
    }
#endif
    for (; i < k; i++)
        for (int64_t c = 0; c < width; c++) p[i * NR + c] = b[c * ldb + i];
}

static void pack(const float *b, int64_t ldb, bool transposed, int64_t k, int64_t n, float *packed) {
    for (int64_t j = 0; j < n; j += NR) {
        int64_t width = n - j < NR ? n - j : NR;
        float *p = packed + j * k; /* (j / NR) * K * NR */
        if (width < NR) memset(p, 0, (size_t)(k * NR) * sizeof *p);
        if (transposed)
            pack_turned(b + j * ldb, ldb, k, width, p);
        else
            for (int64_t i = 0; i < k; i++) memcpy(p + i * NR, b + i * ldb + j, (size_t)width * sizeof *p);
    }
}

/* mr rows x nv vectors of columns, both constants where this is called, as is 1 for one of the strides of x: floats
 * from one row to the next (`across`) and from one k to the next (`along`). Rows past m read row m - 1 again and are
 * not written. */
static inline __attribute__((always_inline)) void block(int mr, int nv, const float *x, int64_t across, int64_t along,
                                                        const float *p, float *out, int64_t ldo, int64_t m, int64_t k,
                                                        int64_t width, bool add) {
    const float *row[MR];
    vec acc[MR][NV];
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++) {
        int64_t at = r < m ? r : m - 1;
        row[r] = x + at * across;
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) acc[r][v] = add ? v_load_upto(out + at * ldo + v * VW, width - v * VW) : v_zero();
    }
    for (int64_t i = 0; i < k; i++, p += NR) {
        vec b[NV];
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) b[v] = v_load(p + v * VW);
#pragma GCC unroll 12
        for (int r = 0; r < mr; r++) {
            vec a = v_set1(row[r][i * along]);
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++) acc[r][v] = v_fma(a, b[v], acc[r][v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++)
        if (r < m)
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++) v_store_upto(out + r * ldo + v * VW, acc[r][v], width - v * VW);
}

/* Up to MR rows of one panel: the last rows of a product take the smallest block that holds them. */
typedef void panel_fn(const float *x, int64_t ldx, const float *p, float *out, int64_t ldo, int64_t m, int64_t k,
                      int64_t width, bool add);
#define PANEL(name, nv, across, along)                                                                                 \
    static void name(const float *x, int64_t ldx, const float *p, float *out, int64_t ldo, int64_t m, int64_t k,       \
                     int64_t width, bool add) {                                                                        \
        if (m > 2 * MR / 3)                                                                                            \
            block(MR, nv, x, across, along, p, out, ldo, m, k, width, add);                                            \
        else if (m > MR / 3)                                                                                           \
            block(2 * MR / 3, nv, x, across, along, p, out, ldo, m, k, width, add);                                    \
        else                                                                                                           \
            block(MR / 3, nv, x, across, along, p, out, ldo, m, k, width, add);                                        \
    }
PANEL(wide, NV, ldx, 1)
PANEL(narrow, 1, ldx, 1)
PANEL(wide_turned, NV, 1, ldx)
PANEL(narrow_turned, 1, 1, ldx)
#undef PANEL

static void product(const float *x, int64_t ldx, const float *packed, int64_t kp, float *out, int64_t ldo, int64_t m,
                    int64_t k, int64_t n, bool add) {
    for (int64_t j = 0; j < n; j += NR) {
        panel_fn *panel = n - j > VW ? wide : narrow;
        for (int64_t i = 0; i < m; i += MR)
            panel(x + i * ldx, ldx, packed + j * kp, out + i * ldo + j, ldo, m - i, k, n - j, add);
    }
}

static void product_turned(const float *x, int64_t ldx, const float *packed, int64_t kp, float *out, int64_t ldo,
                           int64_t m, int64_t k, int64_t n, bool add) {
    for (int64_t j = 0; j < n; j += NR) {
        panel_fn *panel = n - j > VW ? wide_turned : narrow_turned;
        for (int64_t i = 0; i < m; i += MR)
            panel(x + i, ldx, packed + j * kp, out + i * ldo + j, ldo, m - i, k, n - j, add);
    }
}

const vp_simd_gemm VP_ISA_NAME(vp_simd_gemm) = {
    .nr = NR, .pack = pack, .product = product, .product_turned = product_turned};
