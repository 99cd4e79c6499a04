/* What comes after the sums of a product, in one pass: adapters, bias, activation, residual, and the one rounding. A
 * thread owns a column of a tile; the adapters' left factors stand in shared memory, its own right ones in registers.
 */
#include "kernels/cuda/act.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/map.h"

constexpr int ROWS = 32, COLUMNS = 128, RANKS = 8;

struct join_args {
    vp_mat sums, out, residual;
    const float *bias;
    vp_act act;
    int64_t first;
    unsigned across; /* tiles along the columns */
    vp_rank_sum rank;
};

VP_DEVICE float read(const vp_mat &m, int64_t i, int64_t j) {
    const int64_t at = i * m.ld + j;
    return m.dtype == VP_BF16 ? vp_float(((const vp_bf16 *)m.ptr)[at]) : ((const float *)m.ptr)[at];
}

VP_DEVICE void write(const vp_mat &m, int64_t i, int64_t j, float x) {
    const int64_t at = i * m.ld + j;
    if (m.dtype == VP_BF16)
        ((vp_bf16 *)m.ptr)[at] = vp_round<vp_bf16>(x);
    else
        ((float *)m.ptr)[at] = x;
}

/* ---- without adapters ---- */
struct join_map {
    vp_cells sums, out, residual, bias;
    vp_act act;
    int64_t first;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float v[VP_CELLS], more[VP_CELLS];
        vp_load8<vp_either, WIDE>(sums, i, j, n, v);
        if (bias.p) {
            vp_load8<float, WIDE>(bias, 0, j, n, more);
            for (int k = 0; k < VP_CELLS; k++) v[k] += more[k];
        }
        vp_act_apply(act, v);
        if (residual.p) {
            vp_load8<vp_either, WIDE>(residual, first + i, j, n, more);
            for (int k = 0; k < VP_CELLS; k++) v[k] += more[k];
        }
        vp_store8<vp_either, WIDE>(out, i, j, n, v);
    }
};

/* ---- with adapters ---- */
/* sum[r] of the tile's rows from row0 on, in column j: the parts in their order, ranks ascending. */
VP_DEVICE void add_parts(const join_args &p, vp_shared<float> left, int64_t row0, int64_t j, float sum[ROWS]) {
    const int64_t j0 = j - (int)threadIdx.x;
    for (int i = 0; i < p.rank.nparts; i++) {
        const vp_rank_part &part = p.rank.part[i];
        if (part.first >= j0 + COLUMNS || part.first + part.n <= j0) continue;
        const bool mine = j >= part.first && j < part.first + part.n;
        for (int r0 = 0; r0 < part.rank; r0 += RANKS) {
            vp_barrier();
            for (int e = (int)threadIdx.x; e < ROWS * RANKS; e += COLUMNS) {
                const int64_t row = row0 + e / RANKS;
                const int r = r0 + e % RANKS;
                const bool in = row < p.out.rows && r < part.rank;
                left[e] = in ? p.rank.left[(p.first + row) * p.rank.ld + part.at + r] : 0.0f;
            }
            vp_barrier();
            float f[RANKS];
            VP_UNROLL for (int r = 0; r < RANKS; r++) {
                const bool in = mine && r0 + r < part.rank;
                f[r] = in ? part.factor[(j - part.first) * part.by_column + (r0 + r) * part.by_rank] : 0.0f;
            }
            VP_UNROLL for (int i = 0; i < ROWS; i++) {
                VP_UNROLL for (int r = 0; r < RANKS; r++) sum[i] = fmaf(left[i * RANKS + r], f[r], sum[i]);
            }
        }
    }
}

VP_DEVICE float dropped(const vp_dropper &drop, int64_t token, int64_t width, int64_t j, float x) {
    const vp_drop_token t = vp_drop_find(drop, token);
    return vp_drop_columns(drop, t, width, j) & 1u ? drop.scale * x : 0.0f;
}

VP_KERNEL(COLUMNS) join_kernel(join_args p) {
    const int64_t row0 = (int64_t)(blockIdx.x / p.across) * ROWS;
    const int64_t j = (int64_t)(blockIdx.x % p.across) * COLUMNS + threadIdx.x, cols = p.out.cols;
    float sum[ROWS] = {};
    vp_cutter cut;
    add_parts(p, cut.take<float>(ROWS * RANKS), row0, j, sum);
    if (j >= cols) return;
    const float bias = p.bias ? p.bias[j] : 0.0f;
    VP_UNROLL for (int i = 0; i < ROWS; i++) {
        const int64_t row = row0 + i;
        if (row >= p.out.rows) return;
        const float more = p.rank.drop.on ? dropped(p.rank.drop, p.first + row, cols, j, sum[i]) : sum[i];
        float x[1] = {read(p.sums, row, j) + more + bias};
        vp_act_apply(p.act, x);
        write(p.out, row, j, p.residual.ptr ? x[0] + read(p.residual, p.first + row, j) : x[0]);
    }
}

int vp_join(vp_queue *q, const char *what, const vp_join_op *op) {
    if (!op->rank) {
        const join_map map = {op->sums, op->out, op->residual, op->bias, op->act, op->first};
        const bool wide = vp_wide(op->sums, op->out, op->residual, op->bias);
        return vp_map(q, what, wide, map, op->out.rows, op->out.cols);
    }
    join_args p = {};
    p.sums = op->sums;
    p.out = op->out;
    p.residual = op->residual;
    p.bias = op->bias;
    p.act = op->act;
    p.first = op->first;
    p.across = vp_blocks(op->out.cols, COLUMNS);
    p.rank = *op->rank;
    const unsigned blocks = vp_blocks(op->out.rows, ROWS) * p.across;
    return vp_launch(q, what, join_kernel, blocks, COLUMNS, ROWS * RANKS * sizeof(float), p);
}
