/* Activations, alone and gated, and backward. The activations and gradients of one operation are all of one type. */
#include "kernels/cuda/act.h"
#include "kernels/cuda/f8.h"
#include "kernels/cuda/map.h"

VP_DEVICE void apply_slope(vp_act act, float v[VP_CELLS]) {
    switch (act) {
#define X(name, f, slope)                                                                                              \
    case name:                                                                                                         \
        for (int i = 0; i < VP_CELLS; i++) v[i] = slope(v[i]);                                                         \
        break;
        VP_ACT_FUNCTIONS(X)
#undef X
    }
}

static int check_act(vp_queue *q, const char *what, vp_act act) {
    return act >= VP_ACT_NONE && act <= VP_ACT_TANH ? VP_OK
                                                    : vp_queue_fail(q, VP_BUG, "%s: no activation %d", what, (int)act);
}

/* ---- glu: out = act(gate) up ---- */
template <class T> struct glu_rows {
    vp_cells gate, up;
    vp_act act;
    template <bool WIDE> VP_INLINE void get(int64_t i, int j, int n, float (&g)[VP_CELLS]) const {
        float u[VP_CELLS];
        vp_load8<T, WIDE>(gate, i, j, n, g);
        vp_load8<T, WIDE>(up, i, j, n, u);
        vp_act_apply(act, g);
        for (int k = 0; k < VP_CELLS; k++) g[k] *= u[k];
    }
};
template <class T> struct glu_map {
    glu_rows<T> of;
    vp_cells out;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float g[VP_CELLS];
        of.template get<WIDE>(i, j, n, g);
        vp_store8<T, WIDE>(out, i, j, n, g);
    }
};

int vp_cuda_glu(vp_queue *q, const vp_glu_op *op) {
    const int64_t rows = op->out.rows, cols = op->out.cols;
    const bool f8 = op->out.dtype == VP_F8, wide = vp_wide(op->gate, op->up, op->out);
    const vp_dtype type = f8 ? op->gate.dtype : op->out.dtype;
    VP_TRY(check_act(q, "glu", op->act));
    VP_TRY(f8 ? vp_check_f8(q, "glu.out", &op->out, rows, cols)
              : vp_check_mat(q, "glu.out", &op->out, true, rows, cols));
    VP_TRY(vp_check_typed(q, "glu.gate", &op->gate, type, rows, cols));
    VP_TRY(vp_check_typed(q, "glu.up", &op->up, type, rows, cols));
    return vp_typed(op->gate, [&](auto t) {
        using T = decltype(t);
        const glu_rows<T> f = {op->gate, op->up, op->act};
        return f8 ? vp_f8_run(q, "glu", wide, f, op->out) : vp_map(q, "glu", wide, glu_map<T>{f, op->out}, rows, cols);
    });
}

/* dgate = dout up act'(gate), dup = dout act(gate) */
template <class T> struct glu_bwd_map {
    vp_cells gate, up, dout, dgate, dup;
    vp_act act;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float g[VP_CELLS], s[VP_CELLS], u[VP_CELLS], d[VP_CELLS];
        vp_load8<T, WIDE>(gate, i, j, n, g);
        vp_load8<T, WIDE>(up, i, j, n, u);
        vp_load8<T, WIDE>(dout, i, j, n, d);
        for (int k = 0; k < VP_CELLS; k++) s[k] = g[k];
        apply_slope(act, s);
        for (int k = 0; k < VP_CELLS; k++) s[k] = d[k] * u[k] * s[k];
        vp_store8<T, WIDE>(dgate, i, j, n, s);
        vp_act_apply(act, g);
        for (int k = 0; k < VP_CELLS; k++) g[k] *= d[k];
        vp_store8<T, WIDE>(dup, i, j, n, g);
    }
};

int vp_cuda_glu_bwd(vp_queue *q, const vp_glu_op *op) {
    const int64_t rows = op->gate.rows, cols = op->gate.cols;
    const vp_dtype type = op->gate.dtype;
    VP_TRY(check_act(q, "glu_bwd", op->act));
    VP_TRY(vp_check_mat(q, "glu_bwd.gate", &op->gate, true, rows, cols));
    VP_TRY(vp_check_typed(q, "glu_bwd.up", &op->up, type, rows, cols));
    VP_TRY(vp_check_grad(q, "glu_bwd.dout", op->dout, type, rows, cols));
    VP_TRY(vp_check_grad(q, "glu_bwd.dgate", op->dgate, type, rows, cols));
    VP_TRY(vp_check_grad(q, "glu_bwd.dup", op->dup, type, rows, cols));
    return vp_typed(op->gate, [&](auto t) {
        using T = decltype(t);
        return vp_map(q, "glu_bwd", vp_wide(op->gate, op->up, *op->dout, *op->dgate, *op->dup),
                      glu_bwd_map<T>{op->gate, op->up, *op->dout, *op->dgate, *op->dup, op->act}, rows, cols);
    });
}

/* ---- act: out = act(x) ---- */
template <class T> struct act_map {
    vp_cells x, out;
    vp_act act;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float v[VP_CELLS];
        vp_load8<T, WIDE>(x, i, j, n, v);
        vp_act_apply(act, v);
        vp_store8<T, WIDE>(out, i, j, n, v);
    }
};

int vp_cuda_act(vp_queue *q, const vp_act_op *op) {
    const int64_t rows = op->x.rows, cols = op->x.cols;
    VP_TRY(check_act(q, "act", op->act));
    VP_TRY(vp_check_mat(q, "act.x", &op->x, true, rows, cols));
    VP_TRY(vp_check_typed(q, "act.out", &op->out, op->x.dtype, rows, cols));
    return vp_typed(op->x, [&](auto t) {
        using T = decltype(t);
        return vp_map(q, "act", vp_wide(op->x, op->out), act_map<T>{op->x, op->out, op->act}, rows, cols);
    });
}

/* dx = dout act'(x) */
template <class T> struct act_bwd_map {
    vp_cells x, dout, dx;
    vp_act act;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float v[VP_CELLS], d[VP_CELLS];
        vp_load8<T, WIDE>(x, i, j, n, v);
        vp_load8<T, WIDE>(dout, i, j, n, d);
        apply_slope(act, v);
        for (int k = 0; k < VP_CELLS; k++) v[k] *= d[k];
        vp_store8<T, WIDE>(dx, i, j, n, v);
    }
};

int vp_cuda_act_bwd(vp_queue *q, const vp_act_op *op) {
    const int64_t rows = op->x.rows, cols = op->x.cols;
    const vp_dtype type = op->x.dtype;
    VP_TRY(check_act(q, "act_bwd", op->act));
    VP_TRY(vp_check_mat(q, "act_bwd.x", &op->x, true, rows, cols));
    VP_TRY(vp_check_grad(q, "act_bwd.dout", op->dout, type, rows, cols));
    VP_TRY(vp_check_grad(q, "act_bwd.dx", op->dx, type, rows, cols));
    return vp_typed(op->x, [&](auto t) {
        using T = decltype(t);
        return vp_map(q, "act_bwd", vp_wide(op->x, *op->dout, *op->dx),
                      act_bwd_map<T>{op->x, *op->dout, *op->dx, op->act}, rows, cols);
    });
}
