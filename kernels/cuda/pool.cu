/* Pooling of token rows into one row a sequence, and picking of marked rows; and backward. */
#include "kernels/cuda/chain.h"
#include "kernels/cuda/map.h"
#include "kernels/cuda/rows.h"

/* ---- weights of tokens: which are pooled, and with what ---- */
struct pool_args {
    const int32_t *cu; /* [B + 1] */
    const uint8_t *keep;
    int64_t B, rows;
    vp_pool_kind kind;
    float *weight; /* [rows]; 0: not pooled */
    double *total; /* [B] sum of a sequence's weights; 0: it has none */
    /* A sequence's tokens, within the matrix. */
    VP_INLINE int64_t first(int64_t b) const { return cu[b] > 0 ? cu[b] : 0; }
    VP_INLINE int64_t last(int64_t b) const { return cu[b + 1] < rows ? cu[b + 1] : rows; }
};

/* A warp a sequence: the i-th kept token (from 1) weighs 1, or i, or 1 where it is the first or the last kept one. */
VP_KERNEL(32) pool_weights(pool_args a) {
    const int64_t b = blockIdx.x, first = a.first(b), last = a.last(b);
    const int lane = (int)threadIdx.x;
    const uint32_t upto = 0xffffffffu >> (31 - lane);
    int64_t kept = 0, end = -1; /* end: the last kept token */
    for (int64_t t = first; t < last; t += 32) {
        const uint32_t bits = vp_ballot(t + lane < last && (!a.keep || a.keep[t + lane]));
        const bool mine = bits >> lane & 1u;
        const int64_t place = kept + vp_count_bits(bits & upto);
        kept += vp_count_bits(bits);
        end = bits ? t + vp_highest_bit(bits) : end;
        if (t + lane >= last) continue;
        const float weight = a.kind == VP_POOL_WEIGHTED_MEAN ? (float)place
                             : a.kind == VP_POOL_MEAN        ? 1.0f
                             : a.kind == VP_POOL_FIRST       ? (float)(place == 1)
                                                             : 0.0f;
        a.weight[t + lane] = mine ? weight : 0.0f;
    }
    const bool mean = a.kind == VP_POOL_MEAN, weighted = a.kind == VP_POOL_WEIGHTED_MEAN;
    vp_warp_barrier(); /* the last token's weight is another lane's */
    if (lane != 0) return;
    if (!mean && !weighted && a.kind != VP_POOL_FIRST && end >= 0) a.weight[end] = 1.0f;
    const double n = (double)kept;
    a.total[b] = mean ? n : weighted ? n * (n + 1.0) / 2.0 : kept > 0 ? 1.0 : 0.0;
}

VP_KERNEL(32) count_empty(const double *total, int64_t B, int64_t *empty) {
    int64_t n = 0;
    for (int64_t b = threadIdx.x; b < B; b += 32) n += total[b] == 0.0;
    for (int lanes = 16; lanes; lanes /= 2) n += vp_shuffle_xor(n, lanes);
    if (threadIdx.x == 0) *empty += n;
}

/* ---- a block a sequence and TILE columns: a warp has every eighth token, a lane 8 columns ---- */
static constexpr int TILE = 256, WARPS = 8;

template <class T, bool WIDE> VP_KERNEL(WARPS * 32) pool_tokens(pool_args a, vp_cells x, vp_cells out, int cols) {
    vp_cutter cut;
    vp_shared<float> sum = cut.take<float>(WARPS * TILE);
    const int64_t b = blockIdx.x, first = a.first(b), last = a.last(b);
    const int warp = (int)threadIdx.x / 32, at = (int)threadIdx.x % 32 * VP_CELLS, c = (int)blockIdx.y * TILE + at;
    const int n = cols - c < VP_CELLS ? cols - c : VP_CELLS;
    float mine[VP_CELLS] = {}, v[VP_CELLS];
    for (int64_t t = first + warp; t < last; t += WARPS) {
        const float w = a.weight[t];
        if (w == 0.0f) continue;
        vp_row_load<T, WIDE>(x, t, c, n, v);
        for (int k = 0; k < VP_CELLS; k++) mine[k] += w * v[k];
    }
    for (int k = 0; k < VP_CELLS; k++) sum[warp * TILE + at + k] = mine[k];
    vp_barrier();
    float all = sum[threadIdx.x];
    for (int i = 1; i < WARPS; i++) all += sum[i * TILE + threadIdx.x];
    const int column = (int)(blockIdx.y * TILE + threadIdx.x);
    const float by = a.total[b] > 0.0 ? (float)(1.0 / a.total[b]) : 0.0f;
    if (column < cols) ((float *)out.p)[b * out.ld + column] = all * by;
}

/* dx[t] = weight / total dout[b], 0 where out[b] did not use row t */
template <bool WIDE> VP_KERNEL(WARPS * 32) pool_gradients(pool_args a, vp_cells dout, vp_cells dx, int cols) {
    const int64_t b = blockIdx.x, first = a.first(b), last = a.last(b);
    const int warp = (int)threadIdx.x / 32, c = (int)(blockIdx.y * TILE + threadIdx.x % 32 * VP_CELLS);
    const int n = cols - c < VP_CELLS ? cols - c : VP_CELLS;
    float g[VP_CELLS], v[VP_CELLS];
    vp_row_load<vp_either, WIDE>(dout, b, c, n, g);
    for (int64_t t = first + warp; t < last; t += WARPS) {
        const float w = a.weight[t], by = w == 0.0f ? 0.0f : (float)((double)w / a.total[b]);
        for (int k = 0; k < VP_CELLS; k++) v[k] = w == 0.0f ? 0.0f : g[k] * by;
        vp_row_store<vp_either, WIDE>(dx, t, c, n, v);
    }
}

/* ---- the operations ---- */
static int pool_check(vp_queue *q, const vp_pool_op *op) {
    if (op->x.dtype != VP_F32 && op->x.dtype != VP_BF16)
        return vp_queue_fail(q, VP_BUG, "pool.x: is %s", vp_dtype_name(op->x.dtype));
    VP_TRY(vp_check_mat(q, "pool.x", &op->x, true, op->x.rows, op->out.cols));
    VP_TRY(vp_check_mat(q, "pool.out", &op->out, false, op->B, op->x.cols));
    if (op->kind < VP_POOL_MEAN || op->kind > VP_POOL_FIRST)
        return vp_queue_fail(q, VP_BUG, "pool: no kind %d", (int)op->kind);
    if (op->B > 0 && !op->cu) return vp_queue_fail(q, VP_BUG, "pool: no offsets");
    return VP_OK;
}

/* The weights, in the queue's arena. */
static int make_weights(vp_queue *q, const vp_pool_op *op, pool_args *a) {
    *a = {op->cu, op->keep, op->B, op->x.rows, op->kind, NULL, NULL};
    a->weight = (float *)vp_queue_take(q, "pool", (size_t)a->rows * sizeof *a->weight);
    a->total = a->weight ? (double *)vp_queue_take(q, "pool", (size_t)a->B * sizeof *a->total) : NULL;
    return a->total ? vp_launch(q, "pool weights", pool_weights, (unsigned)op->B, 32, 0, *a) : VP_MEMORY;
}

static int run_pool(vp_queue *q, const vp_pool_op *op) {
    pool_args a;
    VP_TRY(make_weights(q, op, &a));
    const dim3 grid((unsigned)op->B, vp_blocks(op->x.cols, TILE));
    const size_t shared = WARPS * TILE * sizeof(float);
    const vp_cells x(op->x), out(op->out);
    VP_TRY(vp_typed(op->x, [&](auto type) {
        using T = decltype(type);
        return vp_wide(op->x)
                   ? vp_launch(q, "pool", pool_tokens<T, true>, grid, WARPS * 32, shared, a, x, out, op->x.cols)
                   : vp_launch(q, "pool", pool_tokens<T, false>, grid, WARPS * 32, shared, a, x, out, op->x.cols);
    }));
    return op->empty ? vp_launch(q, "pool empty", count_empty, 1, 32, 0, a.total, a.B, op->empty) : VP_OK;
}

int vp_cuda_pool(vp_queue *q, const vp_pool_op *op) {
    VP_TRY(pool_check(q, op));
    const size_t mark = vp_arena_top(&q->arena);
    const int status = run_pool(q, op);
    vp_arena_back(&q->arena, mark);
    return status;
}

static int run_pool_bwd(vp_queue *q, const vp_pool_op *op) {
    pool_args a;
    VP_TRY(make_weights(q, op, &a));
    const dim3 grid((unsigned)op->B, vp_blocks(op->x.cols, TILE));
    const vp_cells dout(*op->dout), dx(*op->dx);
    return vp_wide(*op->dout, *op->dx)
               ? vp_launch(q, "pool_bwd", pool_gradients<true>, grid, WARPS * 32, 0, a, dout, dx, op->x.cols)
               : vp_launch(q, "pool_bwd", pool_gradients<false>, grid, WARPS * 32, 0, a, dout, dx, op->x.cols);
}

int vp_cuda_pool_bwd(vp_queue *q, const vp_pool_op *op) {
    VP_TRY(pool_check(q, op));
    VP_TRY(vp_check_grad(q, "pool_bwd.dout", op->dout, VP_F32, op->B, op->x.cols));
    VP_TRY(vp_check_grad(q, "pool_bwd.dx", op->dx, op->x.dtype, op->x.rows, op->x.cols));
    const size_t mark = vp_arena_top(&q->arena);
    const int status = run_pool_bwd(q, op);
    vp_arena_back(&q->arena, mark);
    return status;
}

/* ---- pick: out[m] = x[index[m]]; a row that x does not have is NaN ---- */
struct pick_map {
    vp_cells x, out;
    const int32_t *index;
    int64_t rows;
    template <bool WIDE> VP_INLINE void run(int64_t m, int j, int n) const {
        float v[VP_CELLS];
        const int32_t i = index[m];
        for (int k = 0; k < VP_CELLS; k++) v[k] = NAN;
        if (i >= 0 && i < rows) vp_load8<vp_either, WIDE>(x, i, j, n, v);
        vp_store8<vp_either, WIDE>(out, m, j, n, v);
    }
};

static int pick_check(vp_queue *q, const vp_pick_op *op) {
    VP_TRY(vp_check_mat(q, "pick.x", &op->x, true, op->x.rows, op->out.cols));
    VP_TRY(vp_check_mat(q, "pick.out", &op->out, true, op->M, op->x.cols));
    return op->M > 0 && !op->index ? vp_queue_fail(q, VP_BUG, "pick: no index") : VP_OK;
}

int vp_cuda_pick(vp_queue *q, const vp_pick_op *op) {
    VP_TRY(pick_check(q, op));
    return vp_map(q, "pick", vp_wide(op->x, op->out), pick_map{op->x, op->out, op->index, op->x.rows}, op->M,
                  op->x.cols);
}

/* dx = 0; dx[index[m]] += dout[m] in the order of m, in f32 */
struct zero_map {
    vp_cells out;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        const float v[VP_CELLS] = {};
        vp_store8<vp_either, WIDE>(out, i, j, n, v);
    }
};
struct pick_bwd_map {
    vp_cells dout, dx;
    const int32_t *index;
    vp_chain chain;
    int64_t rows;
    template <bool WIDE> VP_INLINE void run(int64_t m, int j, int n) const {
        const int32_t row = index[m];
        if (!chain.first[m] || row < 0 || row >= rows) return;
        float sum[VP_CELLS] = {}, v[VP_CELLS];
        for (int32_t i = (int32_t)m; i >= 0; i = chain.next[i]) {
            vp_load8<vp_either, WIDE>(dout, i, j, n, v);
            for (int k = 0; k < VP_CELLS; k++) sum[k] += v[k];
        }
        vp_store8<vp_either, WIDE>(dx, row, j, n, sum);
    }
};

static int run_pick_bwd(vp_queue *q, const vp_pick_op *op) {
    pick_bwd_map f = {*op->dout, *op->dx, op->index, {}, op->x.rows};
    const bool wide = vp_wide(*op->dout, *op->dx);
    VP_TRY(vp_chain_make(q, "pick_bwd", op->index, op->M, &f.chain));
    VP_TRY(vp_map(q, "pick_bwd", wide, zero_map{*op->dx}, op->x.rows, op->x.cols));
    return vp_map(q, "pick_bwd", wide, f, op->M, op->x.cols);
}

int vp_cuda_pick_bwd(vp_queue *q, const vp_pick_op *op) {
    VP_TRY(pick_check(q, op));
    if (!op->dout) return vp_queue_fail(q, VP_BUG, "pick_bwd.dout: is missing");
    VP_TRY(vp_check_mat(q, "pick_bwd.dout", op->dout, true, op->M, op->x.cols));
    VP_TRY(vp_check_grad(q, "pick_bwd.dx", op->dx, op->x.dtype, op->x.rows, op->x.cols));
    const size_t mark = vp_arena_top(&q->arena);
    const int status = run_pick_bwd(q, op);
    vp_arena_back(&q->arena, mark);
    return status;
}
