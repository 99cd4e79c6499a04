/* Element-wise operations: add (a x + b y), dropout, cast (x to out's type), fill (a). Any of their matrices may be F32
 * or BF16. */
#include "kernels/cuda/drop.h"
#include "kernels/cuda/map.h"

/* ---- out = a x (+ b y) ---- */
struct add_map {
    vp_cells x, y, out; /* y is x where there is none: all loads come first */
    float a, b;
    bool both;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float v[VP_CELLS], w[VP_CELLS];
        vp_load8<vp_either, WIDE>(x, i, j, n, v);
        vp_load8<vp_either, WIDE>(y, i, j, n, w);
        for (int k = 0; k < VP_CELLS; k++) {
            v[k] *= a;
            v[k] = both ? fmaf(b, w[k], v[k]) : v[k];
        }
        vp_store8<vp_either, WIDE>(out, i, j, n, v);
    }
};

int vp_cuda_add(vp_queue *q, const vp_elem_op *op) {
    const int64_t rows = op->out.rows, cols = op->out.cols;
    VP_TRY(vp_check_mat(q, "add.x", &op->x, true, rows, cols));
    if (op->y.ptr) VP_TRY(vp_check_mat(q, "add.y", &op->y, true, rows, cols));
    VP_TRY(vp_check_mat(q, "add.out", &op->out, true, rows, cols));
    const vp_mat &y = op->y.ptr ? op->y : op->x;
    const add_map f = {op->x, y, op->out, op->a, op->b, op->y.ptr != NULL};
    return vp_map(q, "add", vp_wide(op->x, y, op->out), f, rows, cols);
}

/* ---- dropout: out = drop(x); its backward is the same of the gradient ---- */
struct drop_map {
    vp_cells x, out;
    vp_dropper drop;
    int width;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float v[VP_CELLS];
        vp_load8<vp_either, WIDE>(x, i, j, n, v);
        if (drop.on) {
            const uint32_t keep = vp_drop_columns(drop, vp_drop_find(drop, i), width, j);
            for (int k = 0; k < VP_CELLS; k++) v[k] = keep >> k & 1u ? v[k] * drop.scale : 0.0f;
        }
        vp_store8<vp_either, WIDE>(out, i, j, n, v);
    }
};

int vp_cuda_dropout(vp_queue *q, const vp_elem_op *op) {
    const int64_t rows = op->out.rows, cols = op->out.cols;
    drop_map f = {op->x, op->out, {}, (int)cols};
    VP_TRY(vp_check_mat(q, "dropout.x", &op->x, true, rows, cols));
    VP_TRY(vp_check_mat(q, "dropout.out", &op->out, true, rows, cols));
    VP_TRY(vp_dropper_make(q, "dropout", &op->drop, op->batch, rows, &f.drop));
    return vp_map(q, "dropout", vp_wide(op->x, op->out), f, rows, cols);
}

/* ---- cast ---- */
struct cast_map {
    vp_cells x, out;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float v[VP_CELLS];
        vp_load8<vp_either, WIDE>(x, i, j, n, v);
        vp_store8<vp_either, WIDE>(out, i, j, n, v);
    }
};

int vp_cuda_cast(vp_queue *q, const vp_elem_op *op) {
    const int64_t rows = op->out.rows, cols = op->out.cols;
    VP_TRY(vp_check_mat(q, "cast.x", &op->x, true, rows, cols));
    VP_TRY(vp_check_mat(q, "cast.out", &op->out, true, rows, cols));
    return vp_map(q, "cast", vp_wide(op->x, op->out), cast_map{op->x, op->out}, rows, cols);
}

/* ---- fill ---- */
struct fill_map {
    vp_cells out;
    float a;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float v[VP_CELLS];
        for (int k = 0; k < VP_CELLS; k++) v[k] = a;
        vp_store8<vp_either, WIDE>(out, i, j, n, v);
    }
};

int vp_cuda_fill(vp_queue *q, const vp_elem_op *op) {
    const int64_t rows = op->out.rows, cols = op->out.cols;
    VP_TRY(vp_check_mat(q, "fill.out", &op->out, true, rows, cols));
    return vp_map(q, "fill", vp_wide(op->out), fill_map{op->out, op->a}, rows, cols);
}
