/* What a norm and its backward share: the row, where it lies, its mean and deviation. */
#ifndef VP_CUDA_NORM_H
#define VP_CUDA_NORM_H
#include "kernels/cuda/rows.h"

struct vp_norm_args {
    vp_cells x, weight, bias;
    vp_norm_kind kind;
    float eps, one; /* one: what the kind adds to weights */
    int heads, n;   /* a row of x is `heads` rows of n */
    vp_norm_args(const vp_norm_op *op) : x(op->x), weight(op->weight), bias(op->bias), kind(op->kind), eps(op->eps) {
        one = kind == VP_NORM_RMS_PLUS1 ? 1.0f : 0.0f;
        heads = op->heads > 0 ? op->heads : 1;
        n = (int)(op->x.cols / heads);
    }
};
static inline bool vp_norm_wide(const vp_norm_op *op) {
    const int64_t heads = op->heads > 0 ? op->heads : 1;
    return op->x.cols / heads % VP_CELLS == 0 && vp_wide(op->x) && vp_wide(op->weight) && vp_wide(op->bias);
}

/* Where the row that these threads work on begins. */
struct vp_norm_place {
    int64_t t;
    int col;
    template <class R> VP_INLINE vp_norm_place(const vp_norm_args &a, const R &r) {
        t = r.row / a.heads;
        col = (int)(r.row % a.heads) * a.n;
    }
};

/* What is not held in registers is read again. */
template <class X, bool WIDE, int LANES, int SLOTS>
VP_DEVICE void vp_norm_held(const vp_norm_args &a, const vp_norm_place &at, const vp_row<LANES, SLOTS> &,
                            float (*v)[VP_CELLS], int s, int c, int n) {
    if (!SLOTS) vp_row_load<X, WIDE>(a.x, at.t, at.col + c, n, v[s]);
}

/* mean (0 but of a layer norm) and 1 / sqrt(mean of (x - mean)^2 + eps) */
template <class X, bool WIDE, int LANES, int SLOTS>
VP_DEVICE void vp_norm_stats(const vp_norm_args &a, const vp_norm_place &at, const vp_row<LANES, SLOTS> &r,
                             float (*v)[VP_CELLS], float *mean, float *rstd) {
    float m = 0.0f, sum = 0.0f, square = 0.0f;
    if (a.kind == VP_NORM_LAYER) {
        r.each([&](int s, int c, int n) {
            vp_norm_held<X, WIDE>(a, at, r, v, s, c, n);
            for (int k = 0; k < VP_CELLS; k++) sum += v[s][k]; /* 0 past the end */
        });
        m = r.sum(sum) / (float)a.n;
    }
    r.each([&](int s, int c, int n) {
        vp_norm_held<X, WIDE>(a, at, r, v, s, c, n);
        for (int k = 0; k < VP_CELLS; k++) {
            const float from = v[s][k] - m;
            square = k < n ? fmaf(from, from, square) : square;
        }
    });
    *mean = m;
    *rstd = 1.0f / sqrtf(r.sum(square) / (float)a.n + a.eps);
}

#endif
