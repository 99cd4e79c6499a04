/* The backward of norms. Gradients of weights are one sum a gradient unit, added in the units' order; a unit's sum is
 * that of its sequences, a sequence's that of runs of tokens counted from its start. So it depends on the unit alone,
 * and nothing here on what only the device knows. */
#include "kernels/cuda/norm.h"

/* ---- dx = rstd (g - mean g - y mean(g y)), g = dout weight, y = (x - mean) rstd; mean g: layer norm only ---- */
template <class X, class G, bool WIDE> struct norm_bwd_rows {
    vp_norm_args a;
    vp_cells dout, dx; /* dx.p NULL: only the statistics */
    float *stats;      /* [rows, 2]: mean, rstd; or NULL */

    VP_INLINE void grad(const vp_norm_place &at, int c, int n, float g[VP_CELLS]) const {
        float w[VP_CELLS];
        vp_row_load<G, WIDE>(dout, at.t, at.col + c, n, g);
        vp_row_load<float, WIDE>(a.weight, 0, c, n, w);
        for (int k = 0; k < VP_CELLS; k++) g[k] *= w[k] + a.one;
    }

    template <int LANES, int SLOTS> VP_INLINE void run(const vp_row<LANES, SLOTS> &r) const {
        const vp_norm_place at(a, r);
        constexpr int HELD = vp_row<LANES, SLOTS>::HELD;
        float v[HELD][VP_CELLS], g[HELD][VP_CELLS], mean, rs, sum = 0.0f, along = 0.0f;
        r.each([&](int s, int c, int n) {
            if (SLOTS) vp_row_load<X, WIDE>(a.x, at.t, at.col + c, n, v[s]);
        });
        if (SLOTS && dx.p) r.each([&](int s, int c, int n) { grad(at, c, n, g[s]); });
        vp_norm_stats<X, WIDE>(a, at, r, v, &mean, &rs);
        if (stats && r.live && r.lane == 0) {
            stats[2 * r.row] = mean;
            stats[2 * r.row + 1] = rs;
        }
        if (!dx.p) return;
        r.each([&](int s, int c, int n) {
            vp_norm_held<X, WIDE>(a, at, r, v, s, c, n);
            if (!SLOTS) grad(at, c, n, g[s]);
            for (int k = 0; k < VP_CELLS; k++) { /* g is 0 past the end */
                sum += g[s][k];
                along = fmaf(g[s][k], (v[s][k] - mean) * rs, along);
            }
        });
        along = r.sum(along) / (float)a.n;
        sum = a.kind == VP_NORM_LAYER ? r.sum(sum) / (float)a.n : 0.0f;
        r.each([&](int s, int c, int n) {
            vp_norm_held<X, WIDE>(a, at, r, v, s, c, n);
            if (!SLOTS) grad(at, c, n, g[s]);
            float y[VP_CELLS];
            for (int k = 0; k < VP_CELLS; k++) y[k] = rs * (g[s][k] - sum - (v[s][k] - mean) * rs * along);
            vp_row_store<X, WIDE>(dx, at.t, at.col + c, n, y);
        });
    }
};

/* ---- dweight = sum of dout y, dbias = sum of dout ----
 * Tokens come in runs of RUN of one sequence. Run k of sequence b has the slot cu[b] / RUN + b + k, which no other has;
 * there are at most T / RUN + B. */
static constexpr int RUN = 128, TILE = 256, WARPS = 8;
struct norm_runs {
    const int32_t *cu, *unit; /* cu NULL: one sequence of T tokens */
    int64_t T, B;
    VP_INLINE int64_t begin(int64_t b) const { return cu ? cu[b] : b * T; }
    VP_INLINE int64_t slot(int64_t b) const { return begin(b) / RUN + b; }
};

/* One run's sums over TILE columns: a warp has every eighth row, a lane 8 columns; then the warps' in their order. */
template <bool WIDE>
VP_KERNEL(WARPS * 32)
norm_run_sums(vp_norm_args a, vp_cells dout, const float *stats, norm_runs runs, float *dw, float *db) {
    vp_cutter cut;
    vp_shared<float> sum = cut.take<float>(WARPS * TILE);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    int64_t b = 0, past = runs.B;
    while (past - b > 1) { /* the last sequence whose first slot is not behind this one */
        const int64_t middle = (b + past) / 2;
        if (runs.slot(middle) <= blockIdx.x)
            b = middle;
        else
            past = middle;
    }
    const int64_t first = runs.begin(b) + (blockIdx.x - runs.slot(b)) * RUN, end = runs.begin(b + 1);
    if (first >= end) return;
    const int c = (int)blockIdx.y * TILE + lane * VP_CELLS, n = a.n - c < VP_CELLS ? a.n - c : VP_CELLS;
    float w[VP_CELLS] = {}, bias[VP_CELLS] = {};
    const int64_t rows = (end - first < RUN ? end - first : RUN) * a.heads;
    for (int64_t i = warp; i < rows; i += WARPS) {
        const int64_t row = first * a.heads + i, t = row / a.heads;
        const int col = (int)(row % a.heads) * a.n + c;
        float x[VP_CELLS], g[VP_CELLS];
        vp_row_load<vp_either, WIDE>(a.x, t, col, n, x);
        vp_row_load<vp_either, WIDE>(dout, t, col, n, g);
        const float mean = stats[2 * row], rstd = stats[2 * row + 1];
        for (int k = 0; k < VP_CELLS; k++) {
            w[k] = fmaf(g[k], (x[k] - mean) * rstd, w[k]);
            bias[k] += g[k];
        }
    }
    for (int which = 0; which < 2; which++) {
        float *to = which ? db : dw;
        if (!to) continue;
        for (int k = 0; k < VP_CELLS; k++) sum[warp * TILE + lane * VP_CELLS + k] = which ? bias[k] : w[k];
        vp_barrier();
        const int mine = (int)blockIdx.y * TILE + (int)threadIdx.x;
        float total = sum[threadIdx.x];
        for (int i = 1; i < WARPS; i++) total += sum[i * TILE + threadIdx.x];
        if (mine < a.n) to[(int64_t)blockIdx.x * a.n + mine] = total;
        vp_barrier();
    }
}

/* to[c] += the units' sums of a column, one after another */
VP_KERNEL(TILE) norm_unit_sums(norm_runs runs, const float *part, int n, float *to) {
    const int c = (int)(blockIdx.x * TILE + threadIdx.x);
    if (c >= n) return;
    float total = to[c], sum = 0.0f;
    for (int64_t b = 0; b < runs.B; b++) {
        if (b > 0 && runs.unit[b] != runs.unit[b - 1]) {
            total += sum;
            sum = 0.0f;
        }
        int64_t slot = runs.slot(b);
        for (int64_t at = runs.begin(b); at < runs.begin(b + 1); at += RUN, slot++) sum += part[slot * n + c];
    }
    to[c] = total + sum;
}

/* ---- the operation ---- */
template <class X, class G, bool WIDE>
static int run_rows(vp_queue *q, const vp_norm_op *op, const vp_mat *dx, float *stats) {
    const vp_norm_args a(op);
    const vp_cells none((const float *)nullptr);
    const norm_bwd_rows<X, G, WIDE> f = {a, *op->dout, dx ? vp_cells(*dx) : none, stats};
    return vp_row_map(q, "norm_bwd", f, op->x.rows * a.heads, a.n);
}

static int rows_bwd(vp_queue *q, const vp_norm_op *op, const vp_mat *dx, float *stats) {
    const bool x = op->x.dtype == VP_BF16, g = op->dout->dtype == VP_BF16;
    if (!(vp_norm_wide(op) && vp_wide(*op->dout) && (!dx || vp_wide(*dx))))
        return run_rows<vp_either, vp_either, false>(q, op, dx, stats);
    if (!x)
        return g ? run_rows<float, vp_bf16, true>(q, op, dx, stats) : run_rows<float, float, true>(q, op, dx, stats);
    return g ? run_rows<vp_bf16, vp_bf16, true>(q, op, dx, stats) : run_rows<vp_bf16, float, true>(q, op, dx, stats);
}

static int weights_bwd(vp_queue *q, const vp_norm_op *op) {
    const vp_norm_args a(op);
    const int64_t T = op->x.rows;
    norm_runs runs = {NULL, NULL, T, 1};
    if (op->batch && op->batch->unit) runs = {op->batch->cu_q, op->batch->unit, T, op->batch->B};
    const int64_t slots = runs.B ? T / RUN + runs.B : 0, each = slots * a.n;
    const unsigned tiles = vp_blocks(a.n, TILE);
    float *stats = (float *)vp_queue_take(q, "norm_bwd", (size_t)(2 * T * a.heads) * sizeof(float));
    float *part = stats ? (float *)vp_queue_take(q, "norm_bwd", (size_t)(2 * each) * sizeof(float)) : NULL;
    if (!part) return VP_MEMORY;
    float *dw = op->dweight ? part : NULL, *db = op->dbias ? part + each : NULL;
    VP_TRY(rows_bwd(q, op, NULL, stats));
    const dim3 grid((unsigned)slots, tiles);
    const size_t shared = WARPS * TILE * sizeof(float);
    const vp_cells dout(*op->dout);
    VP_TRY(vp_norm_wide(op) && vp_wide(*op->dout) ? vp_launch(q, "norm_bwd runs", norm_run_sums<true>, grid, WARPS * 32,
                                                              shared, a, dout, stats, runs, dw, db)
                                                  : vp_launch(q, "norm_bwd runs", norm_run_sums<false>, grid,
                                                              WARPS * 32, shared, a, dout, stats, runs, dw, db));
    if (dw) VP_TRY(vp_launch(q, "norm_bwd units", norm_unit_sums, tiles, TILE, 0, runs, dw, a.n, op->dweight));
    if (db) VP_TRY(vp_launch(q, "norm_bwd units", norm_unit_sums, tiles, TILE, 0, runs, db, a.n, op->dbias));
    return VP_OK;
}

int vp_cuda_norm_bwd(vp_queue *q, const vp_norm_op *op) {
    const int64_t T = op->x.rows, C = op->x.cols;
    VP_TRY(vp_check_mat(q, "norm_bwd.x", &op->x, true, T, C));
    if (!op->dout) return vp_queue_fail(q, VP_BUG, "norm_bwd.dout: is missing");
    VP_TRY(vp_check_mat(q, "norm_bwd.dout", op->dout, true, T, C));
    if (op->dx) VP_TRY(vp_check_grad(q, "norm_bwd.dx", op->dx, op->x.dtype, T, C));
    if (!op->weight) return vp_queue_fail(q, VP_BUG, "norm_bwd: no weight");
    if (op->heads < 0 || C < 1 || (op->heads > 0 && C % op->heads != 0))
        return vp_queue_fail(q, VP_BUG, "norm_bwd: %lld columns in %d heads", (long long)C, (int)op->heads);
    if (op->batch && op->batch->unit && (!op->batch->cu_q || op->batch->T != T))
        return vp_queue_fail(q, VP_BUG, "norm_bwd: the batch's sequences do not span %lld rows", (long long)T);
    if (op->dweight || op->dbias) { /* before dx, which may be dout's own memory */
        const size_t mark = vp_arena_top(&q->arena);
        const int status = weights_bwd(q, op);
        vp_arena_back(&q->arena, mark);
        if (status) return status;
    }
    return op->dx ? rows_bwd(q, op, op->dx, NULL) : VP_OK;
}
