/* Gradient units: runs of whole sequences whose weight gradients are summed by themselves, and then added in order. */
#ifndef VP_CPU_UNITS_H
#define VP_CPU_UNITS_H
#include "kernels/cpu/drop.h"

typedef struct vp_units {
    int64_t *first; /* [count + 1] first row of a unit */
    int64_t count;
} vp_units;

/* The units of `rows` rows, from batch->unit of their sequences; one unit when there is no batch or it tells none. In
 * the queue's arena. */
int vp_units_make(vp_queue *q, const char *what, const vp_batch *batch, int64_t rows, vp_units *units);
/* dw [N, K] += left_u^T drop(right_u) for every unit u in order; left [T, N], right [T, K]. Each product is summed by
 * itself over the unit's rows, ascending, so dw's bytes do not depend on which units share a call. */
typedef struct vp_units_op {
    const vp_units *units;
    const vp_mat *left, *right;
    const vp_dropper *drop; /* of right; NULL: none */
    float *const *dw;       /* [N] rows of K; NULL: not wanted */
} vp_units_op;
int vp_units_product(vp_queue *q, const char *what, const vp_units_op *op);
/* The rows of a matrix without gaps, or of none, for vp_units_op; in the queue's arena. NULL: out of memory. */
float **vp_units_rows(vp_queue *q, const char *what, float *dw, int64_t rows, int64_t cols);

#endif
