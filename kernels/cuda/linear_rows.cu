/* linear for weights that are read row by row, [N, K] in F32, BF16 or I8 with a scale a row: for the few rows of a step
 * of generation at the speed of memory. A block has 16 outputs; its warps take 32 columns of K in turn, straight from
 * memory, and their sums are added in order. A sum's order depends on K alone: a row of x does not see the others, and
 * prompts of many rows get the same bytes. Legend: x [T, K], out [T, N]. */
#include "kernels/cuda/act.h"
#include "kernels/cuda/parts.h"
#include "kernels/cuda/weight.h"

static constexpr int WARPS = 8, THREADS = 32 * WARPS, OUTPUTS = 16, COLUMNS = 8; /* COLUMNS: rows of x of an mma */

namespace {
/* A matrix read or written a number at a time. */
struct numbers {
    void *p;
    int64_t ld;
    bool bf16;
    numbers(const vp_mat &m) : p(m.ptr), ld(m.ld), bf16(m.dtype == VP_BF16) {}
    VP_INLINE float get(int64_t i, int64_t j) const {
        return bf16 ? vp_float(((const vp_bf16 *)p)[i * ld + j]) : ((const float *)p)[i * ld + j];
    }
    VP_INLINE void set(int64_t i, int64_t j, float x) const {
        if (bf16)
            ((vp_bf16 *)p)[i * ld + j] = vp_round<vp_bf16>(x);
        else
            ((float *)p)[i * ld + j] = x;
    }
};

struct rows_args {
    const char *weights, *x;         /* [N, K], [T, K] */
    int64_t weight_stride, x_stride; /* bytes from row to row */
    int64_t K, N, T;
    const float *scale, *bias;
    numbers out, residual; /* residual.p NULL: none */
    vp_act act;
    const int32_t *offset; /* of experts: where the rows of each begin, else NULL */
    int32_t experts;
};

} // namespace

VP_DEVICE int64_t last_at_most(int64_t i, int64_t n) {
    return i < n ? i : n - 1;
}

/* The block's first row of x: the grid's second dimension counts tiles of `tile` rows. Those of experts follow one
 * another, with weights of their own, and T becomes the end of the expert's; without rows it returns T. */
VP_DEVICE int64_t first_row(rows_args &a, int tile) {
    int index = (int)blockIdx.y;
    if (!a.offset) return (int64_t)index * tile;
    for (int e = 0; e < a.experts; e++) {
        const int first = a.offset[e], past = a.offset[e + 1], tiles = (past - first + tile - 1) / tile;
        if (index < tiles) {
            a.weights += e * a.N * a.weight_stride;
            if (a.scale) a.scale += e * a.N;
            a.T = past;
            return first + (int64_t)index * tile;
        }
        index -= tiles;
    }
    return a.T;
}

/* This warp's part of the sums of 16 outputs and 8 NT rows of x. Outputs and rows past the end are the last one's. */
template <class W, class X, int NT, bool WIDE>
VP_DEVICE void warp_sums(const rows_args &a, int64_t row0, float d[NT][4]) {
    const int lane = threadIdx.x % 32, group = lane / 4, at = lane % 4 * VP_OCTET;
    const int64_t output = (int64_t)blockIdx.x * OUTPUTS + group, row = row0 + group;
    const char *low = a.weights + last_at_most(output, a.N) * a.weight_stride;
    const char *high = a.weights + last_at_most(output + 8, a.N) * a.weight_stride;
    const int K = (int)a.K;
    vp_raw<W> next[2];
    int k = (int)threadIdx.x / 32 * VP_OCTET_STEP + at;
    vp_fetch<WIDE>(next[0], low + k * sizeof(W), K - k);
    vp_fetch<WIDE>(next[1], high + k * sizeof(W), K - k);
    for (; k - at < K; k += WARPS * VP_OCTET_STEP) {
        vp_octet<vp_parts<W>> w[2];
        vp_expand(w[0], next[0]);
        vp_expand(w[1], next[1]);
        const int then = k + WARPS * VP_OCTET_STEP;
        vp_fetch<WIDE>(next[0], low + then * sizeof(W), K - then);
        vp_fetch<WIDE>(next[1], high + then * sizeof(W), K - then);
#pragma unroll
        for (int i = 0; i < NT; i++) {
            vp_raw<X> raw;
            vp_octet<vp_parts<X>> x;
            vp_fetch<WIDE>(raw, a.x + last_at_most(row + COLUMNS * i, a.T) * a.x_stride + k * sizeof(X), K - k);
            vp_expand(x, raw);
            vp_octet_mma(d[i], w[0], w[1], x);
        }
    }
}

template <class W, class X, int NT, bool WIDE> VP_KERNEL(THREADS) rows_kernel(rows_args a) {
    constexpr int EACH = OUTPUTS * COLUMNS * NT;
    vp_cutter cut;
    vp_shared<float> sums = cut.take<float>(WARPS * EACH);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float d[NT][4] = {};
    const int64_t row0 = first_row(a, COLUMNS * NT);
    if (row0 >= a.T) return;
    warp_sums<W, X, NT, WIDE>(a, row0, d);
#pragma unroll
    for (int i = 0; i < NT; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) sums[warp * EACH + (i * 4 + k) * 32 + lane] = d[i][k];
    vp_barrier();
    for (int at = threadIdx.x; at < EACH; at += THREADS) {
        const int of = at % 32, k = at / 32 % 4, i = at / 128;
        const int64_t n = (int64_t)blockIdx.x * OUTPUTS + of / 4 + k / 2 * 8;
        const int64_t t = row0 + i * COLUMNS + of % 4 * 2 + k % 2;
        float sum[1] = {0.0f};
        for (int w = 0; w < WARPS; w++) sum[0] += sums[w * EACH + at];
        if (n >= a.N || t >= a.T) continue;
        if (a.scale) sum[0] *= a.scale[n];
        if (a.bias) sum[0] += a.bias[n];
        vp_act_apply(a.act, sum);
        if (a.residual.p) sum[0] += a.residual.get(t, n);
        a.out.set(t, n, sum[0]);
    }
}

template <class W, class X, int NT, bool WIDE> static int launch(vp_queue *q, const rows_args &a) {
    const dim3 grid(vp_blocks(a.N, OUTPUTS), vp_blocks(a.T, COLUMNS * NT) + (unsigned)a.experts);
    return vp_launch(q, "linear_rows", rows_kernel<W, X, NT, WIDE>, grid, THREADS,
                     WARPS * OUTPUTS * COLUMNS * NT * sizeof(float), a);
}

static bool aligned(const void *p, int64_t stride) {
    return (uintptr_t)p % 16 == 0 && stride % 16 == 0;
}

template <class W, class X> static int run(vp_queue *q, const rows_args &a) {
    const bool wide = aligned(a.weights, a.weight_stride) && aligned(a.x, a.x_stride) && a.K % VP_OCTET == 0;
    if (!wide) return launch<W, X, 2, false>(q, a);
    if (a.T <= COLUMNS) return launch<W, X, 1, true>(q, a);
    if (a.T <= 2 * COLUMNS) return launch<W, X, 2, true>(q, a);
    return launch < W, X, vp_parts<W> == 1 ? 8 : 4, true > (q, a); /* as many as registers hold */
}

int vp_linear_rows(vp_queue *q, const vp_linear_op *op) {
    const vp_weight *w = op->weight;
    const int32_t experts = op->group ? op->group->experts : 0;
    const int64_t most = (int64_t)(65535 - experts) * 2 * COLUMNS; /* rows of a launch: the grid's second dimension */
    rows_args a = {(const char *)w->row,
                   NULL,
                   w->in * (int64_t)vp_dtype_size(w->row_type),
                   op->x.ld * (int64_t)vp_dtype_size(op->x.dtype),
                   w->in,
                   w->out,
                   0,
                   w->row_scale,
                   w->bias,
                   op->out,
                   op->residual,
                   op->act,
                   op->group ? op->group->offset : NULL,
                   experts};
    if (experts && op->x.rows > most)
        return vp_queue_fail(q, VP_BUG, "linear: %lld rows of experts at once", (long long)op->x.rows);
    for (int64_t first = 0; first < op->x.rows; first += most) {
        const auto rows_from = [first](const vp_mat &m) {
            return m.ptr ? (char *)m.ptr + first * m.ld * (int64_t)vp_dtype_size(m.dtype) : NULL;
        };
        a.T = op->x.rows - first < most ? op->x.rows - first : most;
        a.x = rows_from(op->x);
        a.out.p = rows_from(op->out);
        a.residual.p = rows_from(op->residual);
        VP_TRY(vp_typed(op->x, [&](auto x) {
            using X = decltype(x);
            if (w->row_type == VP_I8) return run<int8_t, X>(q, a);
            if (w->row_type == VP_BF16) return run<vp_bf16, X>(q, a);
            return run<float, X>(q, a);
        }));
    }
    return VP_OK;
}
