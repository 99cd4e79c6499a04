/* Softmax and l2norm of rows, and backward. */
#include "kernels/cuda/rows.h"
#include "kernels/cuda/vec.h"

/* What is not held in registers is read again. */
template <bool WIDE, int LANES, int SLOTS>
VP_DEVICE void held(const vp_cells &m, const vp_row<LANES, SLOTS> &r, int c, int n, float v[VP_CELLS]) {
    if (!SLOTS) vp_row_load<vp_either, WIDE>(m, r.row, c, n, v);
}

/* ---- out = e^(x - max) / sum ---- */
template <bool WIDE> struct softmax_rows {
    vp_cells x, out;
    template <int LANES, int SLOTS> VP_INLINE void run(const vp_row<LANES, SLOTS> &r) const {
        float v[vp_row<LANES, SLOTS>::HELD][VP_CELLS], top = -INFINITY, sum = 0.0f;
        r.each([&](int s, int c, int n) {
            vp_row_load<vp_either, WIDE>(x, r.row, c, n, v[s]);
            for (int k = 0; k < VP_CELLS; k++) top = k < n ? v_max(v[s][k], top) : top;
        });
        top = r.max(top);
        r.each([&](int s, int c, int n) {
            held<WIDE>(x, r, c, n, v[s]);
            for (int k = 0; k < VP_CELLS; k++) {
                v[s][k] = v_exp(v[s][k] - top);
                sum += k < n ? v[s][k] : 0.0f;
            }
        });
        const float inverse = 1.0f / r.sum(sum);
        r.each([&](int s, int c, int n) {
            held<WIDE>(x, r, c, n, v[s]);
            for (int k = 0; k < VP_CELLS; k++) v[s][k] = (SLOTS ? v[s][k] : v_exp(v[s][k] - top)) * inverse;
            vp_row_store<vp_either, WIDE>(out, r.row, c, n, v[s]);
        });
    }
};

int vp_cuda_softmax_rows(vp_queue *q, const vp_softmax_op *op) {
    const int64_t rows = op->x.rows, n = op->x.cols;
    VP_TRY(vp_check_mat(q, "softmax.x", &op->x, true, rows, n));
    VP_TRY(vp_check_mat(q, "softmax.out", &op->out, true, rows, n));
    return vp_wide(op->x, op->out) ? vp_row_map(q, "softmax", softmax_rows<true>{op->x, op->out}, rows, n)
                                   : vp_row_map(q, "softmax", softmax_rows<false>{op->x, op->out}, rows, n);
}

/* ---- dx = p (dout - p . dout) ---- */
template <bool WIDE> struct softmax_bwd_rows {
    vp_cells p, dout, dx;
    template <int LANES, int SLOTS> VP_INLINE void run(const vp_row<LANES, SLOTS> &r) const {
        constexpr int HELD = vp_row<LANES, SLOTS>::HELD;
        float v[HELD][VP_CELLS], g[HELD][VP_CELLS], inner = 0.0f;
        r.each([&](int s, int c, int n) {
            vp_row_load<vp_either, WIDE>(p, r.row, c, n, v[s]);
            vp_row_load<vp_either, WIDE>(dout, r.row, c, n, g[s]);
            for (int k = 0; k < VP_CELLS; k++) inner = fmaf(v[s][k], g[s][k], inner);
        });
        inner = r.sum(inner);
        r.each([&](int s, int c, int n) {
            held<WIDE>(p, r, c, n, v[s]);
            held<WIDE>(dout, r, c, n, g[s]);
            for (int k = 0; k < VP_CELLS; k++) v[s][k] *= g[s][k] - inner;
            vp_row_store<vp_either, WIDE>(dx, r.row, c, n, v[s]);
        });
    }
};

int vp_cuda_softmax_rows_bwd(vp_queue *q, const vp_softmax_op *op) {
    const int64_t rows = op->out.rows, n = op->out.cols;
    VP_TRY(vp_check_mat(q, "softmax_bwd.out", &op->out, true, rows, n));
    VP_TRY(vp_check_grad(q, "softmax_bwd.dout", op->dout, op->out.dtype, rows, n));
    VP_TRY(vp_check_grad(q, "softmax_bwd.dx", op->dx, op->out.dtype, rows, n));
    return vp_wide(op->out, *op->dout, *op->dx)
               ? vp_row_map(q, "softmax_bwd", softmax_bwd_rows<true>{op->out, *op->dout, *op->dx}, rows, n)
               : vp_row_map(q, "softmax_bwd", softmax_bwd_rows<false>{op->out, *op->dout, *op->dx}, rows, n);
}

/* ---- l2norm: out = x / |x|, |x| at least 1e-12 ---- */
VP_DEVICE float clamped(float norm) {
    return norm < 1e-12f ? 1e-12f : norm;
}

template <bool WIDE> struct l2norm_rows {
    vp_cells x, out;
    float *norms;
    template <int LANES, int SLOTS> VP_INLINE void run(const vp_row<LANES, SLOTS> &r) const {
        float v[vp_row<LANES, SLOTS>::HELD][VP_CELLS], square = 0.0f;
        r.each([&](int s, int c, int n) {
            vp_row_load<vp_either, WIDE>(x, r.row, c, n, v[s]);
            for (int k = 0; k < VP_CELLS; k++) square = fmaf(v[s][k], v[s][k], square);
        });
        const float norm = clamped(sqrtf(r.sum(square)));
        if (norms && r.live && r.lane == 0) norms[r.row] = norm;
        r.each([&](int s, int c, int n) {
            held<WIDE>(x, r, c, n, v[s]);
            for (int k = 0; k < VP_CELLS; k++) v[s][k] /= norm;
            vp_row_store<vp_either, WIDE>(out, r.row, c, n, v[s]);
        });
    }
};

int vp_cuda_l2norm(vp_queue *q, const vp_l2norm_op *op) {
    const int64_t rows = op->x.rows, n = op->x.cols;
    VP_TRY(vp_check_mat(q, "l2norm.x", &op->x, true, rows, n));
    VP_TRY(vp_check_mat(q, "l2norm.out", &op->out, true, rows, n));
    return vp_wide(op->x, op->out) ? vp_row_map(q, "l2norm", l2norm_rows<true>{op->x, op->out, op->norm}, rows, n)
                                   : vp_row_map(q, "l2norm", l2norm_rows<false>{op->x, op->out, op->norm}, rows, n);
}

/* ---- dx = (dout - y (y . dout)) / |x|, y = x / |x|; dout / 1e-12 where the norm was clamped ---- */
template <bool WIDE> struct l2norm_bwd_rows {
    vp_cells x, dout, dx;
    template <int LANES, int SLOTS> VP_INLINE void run(const vp_row<LANES, SLOTS> &r) const {
        constexpr int HELD = vp_row<LANES, SLOTS>::HELD;
        float v[HELD][VP_CELLS], g[HELD][VP_CELLS], square = 0.0f, inner = 0.0f;
        r.each([&](int s, int c, int n) {
            vp_row_load<vp_either, WIDE>(x, r.row, c, n, v[s]);
            vp_row_load<vp_either, WIDE>(dout, r.row, c, n, g[s]);
            for (int k = 0; k < VP_CELLS; k++) {
                square = fmaf(v[s][k], v[s][k], square);
                inner = fmaf(v[s][k], g[s][k], inner);
            }
        });
        const float norm = sqrtf(r.sum(square)), inverse = 1.0f / clamped(norm), sum = r.sum(inner);
        const float along = norm < 1e-12f ? 0.0f : sum * inverse;
        r.each([&](int s, int c, int n) {
            held<WIDE>(x, r, c, n, v[s]);
            held<WIDE>(dout, r, c, n, g[s]);
            for (int k = 0; k < VP_CELLS; k++) v[s][k] = inverse * (g[s][k] - v[s][k] * inverse * along);
            vp_row_store<vp_either, WIDE>(dx, r.row, c, n, v[s]);
        });
    }
};

int vp_cuda_l2norm_bwd(vp_queue *q, const vp_l2norm_op *op) {
    const int64_t rows = op->x.rows, n = op->x.cols;
    VP_TRY(vp_check_mat(q, "l2norm_bwd.x", &op->x, true, rows, n));
    VP_TRY(vp_check_grad(q, "l2norm_bwd.dout", op->dout, op->x.dtype, rows, n));
    VP_TRY(vp_check_grad(q, "l2norm_bwd.dx", op->dx, op->x.dtype, rows, n));
    return vp_wide(op->x, *op->dout, *op->dx)
               ? vp_row_map(q, "l2norm_bwd", l2norm_bwd_rows<true>{op->x, *op->dout, *op->dx}, rows, n)
               : vp_row_map(q, "l2norm_bwd", l2norm_bwd_rows<false>{op->x, *op->dout, *op->dx}, rows, n);
}
