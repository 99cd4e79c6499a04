/* A mixture of experts: which of them a token passes, its rows there and back. Counts stay on the device: kernels of
 * products find an expert's rows by vp_routing.offset. Legend: T tokens, E experts, k of a token, R = T k rows. */
#include "kernels/cuda/map.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/vec.h"

enum { THREADS = 256 };

static int check_routing(vp_queue *q, const char *what, const vp_routing *to) {
    if (!to || to->experts < 1 || to->experts > VP_MOST_EXPERTS || to->top_k < 1 || to->top_k > VP_MOST_TOP_K ||
        to->top_k > to->experts)
        return vp_queue_fail(q, VP_BUG, "%s: %d of %d experts", what, to ? (int)to->top_k : 0,
                             to ? (int)to->experts : 0);
    return VP_OK;
}

/* ---- route ---- */
/* What is not a number is chosen before all others, and shows in the gates. */
VP_DEVICE float rank_of(float logit) {
    return logit != logit ? INFINITY : logit;
}

/* The k largest of a token, of equal ones the first: expert [T, k] ascending, gate [T, k] softmax over their logits. */
VP_KERNEL(THREADS)
choose_kernel(vp_rows_of<const float> logits, int64_t T, int E, int k, int32_t *expert, float *gate) {
    const int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (t >= T) return;
    const float *logit = logits.p + t * logits.ld;
    int chosen[VP_MOST_TOP_K];
    float power[VP_MOST_TOP_K], sum = 0.0f;
    VP_UNROLL for (int i = 0; i < VP_MOST_TOP_K; i++) {
        const float before = i ? rank_of(logit[chosen[i ? i - 1 : 0]]) : INFINITY;
        int best = -1;
        for (int e = 0; e < E && i < k; e++) { /* the next in the order of logits, then of experts */
            const float rank = rank_of(logit[e]);
            const bool left = i == 0 || rank < before || (rank == before && e > chosen[i ? i - 1 : 0]);
            if (left && (best < 0 || rank > rank_of(logit[best]))) best = e;
        }
        chosen[i] = i < k ? best : chosen[0];
    }
    VP_UNROLL for (int i = 0; i < VP_MOST_TOP_K; i++) {
        power[i] = v_exp(logit[chosen[i]] - logit[chosen[0]]);
        if (i < k) sum += power[i];
    }
    VP_UNROLL for (int i = 0; i < VP_MOST_TOP_K; i++) {
        int at = 0;
        VP_UNROLL for (int j = 0; j < VP_MOST_TOP_K; j++) at += j < k && chosen[j] < chosen[i];
        if (i < k) {
            expert[t * k + at] = chosen[i];
            gate[t * k + at] = power[i] / sum;
        }
    }
}

/* How many of the block's part of n go to expert blockIdx.x before this thread's, which begin at `first`; sums
 * [THREADS] are everybody's. */
VP_DEVICE int count_part(const int32_t *expert, int64_t first, int64_t past, vp_shared<int32_t> sums) {
    int mine = 0, before = 0;
    for (int64_t i = first; i < past; i++) mine += expert[i] == (int)blockIdx.x;
    sums[threadIdx.x] = mine;
    vp_barrier();
    for (int i = 0; i < (int)threadIdx.x; i++) before += sums[i];
    return before;
}

VP_KERNEL(THREADS) count_kernel(const int32_t *expert, int64_t n, int32_t *count) {
    vp_cutter cut;
    const vp_shared<int32_t> sums = cut.take<int32_t>(THREADS);
    const int64_t each = (n + THREADS - 1) / THREADS, first = each * threadIdx.x,
                  past = first + each < n ? first + each : n;
    const int before = count_part(expert, first, past, sums);
    if (threadIdx.x == THREADS - 1) count[blockIdx.x] = before + sums[THREADS - 1];
}

/* Rows of expert blockIdx.x, ascending by token. */
VP_KERNEL(THREADS)
place_kernel(const int32_t *expert, const float *gate, int64_t n, const int32_t *count, vp_routing to) {
    vp_cutter cut;
    const vp_shared<int32_t> sums = cut.take<int32_t>(THREADS);
    const int64_t each = (n + THREADS - 1) / THREADS, first = each * threadIdx.x,
                  past = first + each < n ? first + each : n;
    const int e = (int)blockIdx.x;
    int start = 0;
    for (int i = 0; i < e; i++) start += count[i];
    if (threadIdx.x == 0) to.offset[e] = start;
    if (threadIdx.x == 0 && e == to.experts - 1) to.offset[e + 1] = start + count[e];
    int row = start + count_part(expert, first, past, sums);
    for (int64_t i = first; i < past; i++) {
        if (expert[i] != e) continue;
        to.row[i] = row;
        to.token[row] = (int32_t)(i / to.top_k);
        to.gate[row] = gate[i];
        row++;
    }
}

static int route(vp_queue *q, const vp_moe_op *op) {
    const vp_routing *to = op->to;
    const int64_t T = op->logits.rows, R = T * to->top_k;
    const unsigned experts = (unsigned)to->experts;
    int32_t *expert = (int32_t *)vp_queue_take(q, "route", (size_t)R * sizeof *expert);
    float *gate = (float *)vp_queue_take(q, "route", (size_t)R * sizeof *gate);
    int32_t *count = (int32_t *)vp_queue_take(q, "route", experts * sizeof *count);
    if (!expert || !gate || !count) return VP_MEMORY;
    VP_TRY(vp_launch(q, "route", choose_kernel, vp_blocks(T, THREADS), THREADS, 0, vp_rows_of<const float>(op->logits),
                     T, to->experts, to->top_k, expert, gate));
    const size_t shared = THREADS * sizeof(int32_t);
    VP_TRY(vp_launch(q, "route", count_kernel, experts, THREADS, shared, expert, R, count));
    return vp_launch(q, "route", place_kernel, experts, THREADS, shared, expert, gate, R, count, *to);
}

int vp_cuda_route(vp_queue *q, const vp_moe_op *op) {
    VP_TRY(check_routing(q, "route", op->to));
    VP_TRY(vp_check_mat(q, "route.logits", &op->logits, false, op->logits.rows, op->to->experts));
    const size_t mark = vp_arena_top(&q->arena);
    const int status = route(q, op);
    vp_arena_back(&q->arena, mark);
    return status;
}

/* ---- route_bwd: s_r = x_r . dout_r;  dlogits[t, e of r] = s_r - gate_r sum of the token's s ---- */
template <bool WIDE> struct inner_rows {
    vp_cells x, dout;
    float *out;
    template <int LANES, int SLOTS> VP_INLINE void run(const vp_row<LANES, SLOTS> &r) const {
        float inner = 0.0f;
        r.each([&](int, int c, int n) {
            float v[VP_CELLS], g[VP_CELLS];
            vp_row_load<vp_either, WIDE>(x, r.row, c, n, v);
            vp_row_load<vp_either, WIDE>(dout, r.row, c, n, g);
            for (int k = 0; k < VP_CELLS; k++) inner = fmaf(v[k], g[k], inner);
        });
        inner = r.sum(inner);
        if (r.live && r.lane == 0) out[r.row] = inner;
    }
};

VP_KERNEL(THREADS) route_bwd_kernel(vp_routing to, const float *inner, vp_rows_of<float> dlogits, int64_t T) {
    const int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (t >= T) return;
    const int32_t *row = to.row + t * to.top_k;
    float sum = 0.0f;
    int i = 0;
    for (int k = 0; k < to.top_k; k++) sum += inner[row[k]];
    for (int e = 0; e < to.experts; e++) {
        const bool mine = i < to.top_k && row[i] < to.offset[e + 1]; /* rows are ascending, as experts are */
        dlogits.p[t * dlogits.ld + e] = mine ? inner[row[i]] - to.gate[row[i]] * sum : 0.0f;
        i += mine;
    }
}

static int route_bwd(vp_queue *q, const vp_moe_op *op, int64_t R) {
    const int64_t T = op->dlogits->rows, n = op->x.cols;
    float *inner = (float *)vp_queue_take(q, "route_bwd", (size_t)R * sizeof *inner);
    if (!inner) return VP_MEMORY;
    VP_TRY(vp_wide(op->x, *op->dout) ? vp_row_map(q, "route_bwd", inner_rows<true>{op->x, *op->dout, inner}, R, n)
                                     : vp_row_map(q, "route_bwd", inner_rows<false>{op->x, *op->dout, inner}, R, n));
    return vp_launch(q, "route_bwd", route_bwd_kernel, vp_blocks(T, THREADS), THREADS, 0, *op->to, inner,
                     vp_rows_of<float>(*op->dlogits), T);
}

int vp_cuda_route_bwd(vp_queue *q, const vp_moe_op *op) {
    VP_TRY(check_routing(q, "route_bwd", op->to));
    if (!op->dlogits || !op->dout) return vp_queue_fail(q, VP_BUG, "route_bwd: no gradient");
    const int64_t R = op->dlogits->rows * op->to->top_k;
    VP_TRY(vp_check_grad(q, "route_bwd.dlogits", op->dlogits, VP_F32, op->dlogits->rows, op->to->experts));
    VP_TRY(vp_check_mat(q, "route_bwd.x", &op->x, true, R, op->x.cols));
    VP_TRY(vp_check_mat(q, "route_bwd.dout", op->dout, true, R, op->x.cols));
    const size_t mark = vp_arena_top(&q->arena);
    const int status = route_bwd(q, op, R);
    vp_arena_back(&q->arena, mark);
    return status;
}

/* ---- permute, combine ---- */
struct permute_map {
    vp_cells x, out;
    vp_routing to;
    bool gated;
    template <bool WIDE> VP_INLINE void run(int64_t r, int j, int n) const {
        float v[VP_CELLS];
        vp_load8<vp_either, WIDE>(x, to.token[r], j, n, v);
        if (gated)
            for (int k = 0; k < VP_CELLS; k++) v[k] *= to.gate[r];
        vp_store8<vp_either, WIDE>(out, r, j, n, v);
    }
};

int vp_cuda_permute(vp_queue *q, const vp_moe_op *op) {
    const int64_t T = op->x.rows, C = op->x.cols;
    VP_TRY(check_routing(q, "permute", op->to));
    VP_TRY(vp_check_mat(q, "permute.x", &op->x, true, T, C));
    VP_TRY(vp_check_mat(q, "permute.out", &op->out, true, T * op->to->top_k, C));
    return vp_map(q, "permute", vp_wide(op->x, op->out), permute_map{op->x, op->out, *op->to, op->gated}, op->out.rows,
                  C);
}

struct combine_map {
    vp_cells x, out;
    vp_routing to;
    bool gated;
    template <bool WIDE> VP_INLINE void run(int64_t t, int j, int n) const {
        float sum[VP_CELLS] = {};
        for (int i = 0; i < to.top_k; i++) {
            const int32_t r = to.row[t * to.top_k + i];
            const float gate = gated ? to.gate[r] : 1.0f;
            float v[VP_CELLS];
            vp_load8<vp_either, WIDE>(x, r, j, n, v);
            for (int k = 0; k < VP_CELLS; k++) sum[k] = fmaf(gate, v[k], sum[k]);
        }
        vp_store8<vp_either, WIDE>(out, t, j, n, sum);
    }
};

int vp_cuda_combine(vp_queue *q, const vp_moe_op *op) {
    const int64_t T = op->out.rows, C = op->out.cols;
    VP_TRY(check_routing(q, "combine", op->to));
    VP_TRY(vp_check_mat(q, "combine.out", &op->out, true, T, C));
    VP_TRY(vp_check_mat(q, "combine.x", &op->x, true, T * op->to->top_k, C));
    return vp_map(q, "combine", vp_wide(op->x, op->out), combine_map{op->x, op->out, *op->to, op->gated}, T, C);
}
