/* Activations, alone and gated. */
#include "kernels/cuda/act.h"
#include "kernels/cuda/map.h"

template <class T> struct glu_map {
    vp_rows_of<const T> gate, up;
    vp_rows_of<T> out;
    vp_act act;
    VP_INLINE void operator()(int64_t i, int64_t j) const {
        float g = vp_float(gate.p[i * gate.ld + j]), u = vp_float(up.p[i * up.ld + j]);
        out.p[i * out.ld + j] = vp_round<T>(vp_act_apply(act, g) * u);
    }
};

int vp_cuda_glu(vp_queue *q, const vp_glu_op *op) {
    const int64_t rows = op->out.rows, cols = op->out.cols;
    VP_TRY(vp_check_mat(q, "glu.out", &op->out, true, rows, cols));
    VP_TRY(vp_check_mat(q, "glu.gate", &op->gate, true, rows, cols));
    VP_TRY(vp_check_mat(q, "glu.up", &op->up, true, rows, cols));
    return vp_typed(op->out, [&](auto type) {
        using T = decltype(type);
        return vp_map(q, "glu", glu_map<T>{op->gate, op->up, op->out, op->act}, rows, cols);
    });
}

template <class T> struct act_map {
    vp_rows_of<const T> x;
    vp_rows_of<T> out;
    vp_act act;
    VP_INLINE void operator()(int64_t i, int64_t j) const {
        out.p[i * out.ld + j] = vp_round<T>(vp_act_apply(act, vp_float(x.p[i * x.ld + j])));
    }
};

int vp_cuda_act(vp_queue *q, const vp_act_op *op) {
    const int64_t rows = op->out.rows, cols = op->out.cols;
    VP_TRY(vp_check_mat(q, "act.out", &op->out, true, rows, cols));
    VP_TRY(vp_check_mat(q, "act.x", &op->x, true, rows, cols));
    return vp_typed(op->out, [&](auto type) {
        using T = decltype(type);
        return vp_map(q, "act", act_map<T>{op->x, op->out, op->act}, rows, cols);
    });
}
