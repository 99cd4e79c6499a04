/* Norms, forward, and the part of their backward that works row by row; norm_bwd.cu has the gradients of weights. */
#include "kernels/cuda/f8.h"
#include "kernels/cuda/norm.h"
#include <type_traits>

/* ---- forward: x += d when d.p; out = (x - mean) rstd weight (+ bias), of type O, which may be vp_f8 ---- */
template <class X, class D, class O, bool WIDE> struct norm_rows {
    static constexpr bool F8 = std::is_same_v<O, vp_f8>;
    vp_norm_args a;
    vp_cells d;
    std::conditional_t<F8, vp_f8_rows, vp_cells> out;
    float *rstd;

    /* v = x += d */
    template <int LANES, int SLOTS>
    VP_INLINE void add_d(const vp_row<LANES, SLOTS> &r, const vp_norm_place &at, float (*v)[VP_CELLS]) const {
        float add[vp_row<LANES, SLOTS>::HELD][VP_CELLS];
        r.each([&](int s, int c, int n) {
            if (SLOTS) vp_row_load<D, WIDE>(d, at.t, at.col + c, n, add[s]);
        });
        r.each([&](int s, int c, int n) {
            vp_norm_held<X, WIDE>(a, at, r, v, s, c, n);
            if (!SLOTS) vp_row_load<D, WIDE>(d, at.t, at.col + c, n, add[s]);
            for (int k = 0; k < VP_CELLS; k++) v[s][k] += add[s][k];
            vp_row_store<X, WIDE>(a.x, at.t, at.col + c, n, v[s]);
            if constexpr (sizeof(X) != sizeof(float)) /* the sum as it is stored */
                vp_row_load<X, WIDE>(a.x, at.t, at.col + c, n, v[s]);
        });
    }

    template <int LANES, int SLOTS> VP_INLINE void run(const vp_row<LANES, SLOTS> &r) const {
        const vp_norm_place at(a, r);
        float v[vp_row<LANES, SLOTS>::HELD][VP_CELLS], mean, rs;
        r.each([&](int s, int c, int n) { /* all loads before the first store */
                                          if (SLOTS) vp_row_load<X, WIDE>(a.x, at.t, at.col + c, n, v[s]);
        });
        if (d.p) add_d(r, at, v);
        vp_norm_stats<X, WIDE>(a, at, r, v, &mean, &rs);
        if (rstd && r.live && r.lane == 0) rstd[r.row] = rs;
        if constexpr (F8) {
            quantise(r, at, v, mean, rs);
        } else {
            r.each([&](int s, int c, int n) {
                float y[VP_CELLS];
                vp_norm_held<X, WIDE>(a, at, r, v, s, c, n);
                result(v[s], c, n, mean, rs, y);
                vp_row_store<O, WIDE>(out, at.t, at.col + c, n, y);
            });
        }
    }

    /* y = the norm of v, 8 neighbours; may be v */
    VP_INLINE void result(const float *v, int c, int n, float mean, float rs, float *y) const {
        float w[VP_CELLS];
        vp_row_load<float, WIDE>(a.weight, 0, c, n, w);
        for (int k = 0; k < VP_CELLS; k++) {
            y[k] = (v[k] - mean) * rs;
            w[k] += a.one;
        }
        if (a.bias.p) {
            float b[VP_CELLS];
            vp_row_load<float, WIDE>(a.bias, 0, c, n, b);
            for (int k = 0; k < VP_CELLS; k++) y[k] = fmaf(y[k], w[k], b[k]);
        } else {
            for (int k = 0; k < VP_CELLS; k++) y[k] *= w[k];
        }
    }

    /* The results take v's place; what is not held is computed twice. */
    template <int LANES, int SLOTS>
    VP_INLINE void quantise(const vp_row<LANES, SLOTS> &r, const vp_norm_place &at, float (*v)[VP_CELLS], float mean,
                            float rs) const {
        float most = 0.0f;
        r.each([&](int s, int c, int n) {
            vp_norm_held<X, WIDE>(a, at, r, v, s, c, n);
            result(v[s], c, n, mean, rs, v[s]);
            most = vp_f8_most(most, n, v[s]);
        });
        const float by = out.begin(r, most);
        r.each([&](int s, int c, int n) {
            if (!SLOTS) {
                vp_norm_held<X, WIDE>(a, at, r, v, s, c, n);
                result(v[s], c, n, mean, rs, v[s]);
            }
            out.store(r, c, n, v[s], by);
        });
    }
};

template <class X, class D, class O, bool WIDE> static int run_norm(vp_queue *q, const vp_norm_op *op) {
    const vp_norm_args a(op);
    const norm_rows<X, D, O, WIDE> f = {a, op->d, op->out, op->rstd};
    return vp_row_map(q, "norm", f, op->x.rows * a.heads, a.n);
}

int vp_cuda_norm(vp_queue *q, const vp_norm_op *op) {
    const int64_t T = op->x.rows, C = op->x.cols;
    VP_TRY(vp_check_mat(q, "norm.x", &op->x, true, T, C));
    const bool f8 = op->out.dtype == VP_F8;
    VP_TRY(f8 ? vp_check_f8(q, "norm.out", &op->out, T, C) : vp_check_mat(q, "norm.out", &op->out, true, T, C));
    if (op->d.ptr) VP_TRY(vp_check_mat(q, "norm.d", &op->d, true, T, C));
    if (!op->weight) return vp_queue_fail(q, VP_BUG, "norm: no weight");
    if (op->heads < 0 || C < 1 || (op->heads > 0 && C % op->heads != 0))
        return vp_queue_fail(q, VP_BUG, "norm: %lld columns in %d heads", (long long)C, (int)op->heads);
    if (f8 && op->heads) return vp_queue_fail(q, VP_BUG, "norm: heads have no FP8");
    const bool x = op->x.dtype == VP_BF16, out = op->out.dtype == VP_BF16;
    const bool d = op->d.ptr ? op->d.dtype == VP_BF16 : f8 || out; /* the type of what is not there does not matter */
    const bool wide = vp_norm_wide(op) && vp_wide(op->d, op->out);
    if (f8 && wide && !x && d) return run_norm<float, vp_bf16, vp_f8, true>(q, op);
    if (f8) return run_norm<vp_either, vp_either, vp_f8, false>(q, op);
    if (!wide) return run_norm<vp_either, vp_either, vp_either, false>(q, op);
    if (!x && !d && !out) return run_norm<float, float, float, true>(q, op);
    if (!x && d && out) return run_norm<float, vp_bf16, vp_bf16, true>(q, op);
    if (!x && d && !out) return run_norm<float, vp_bf16, float, true>(q, op);
    if (x && d && out) return run_norm<vp_bf16, vp_bf16, vp_bf16, true>(q, op);
    return run_norm<vp_either, vp_either, vp_either, true>(q, op);
}
