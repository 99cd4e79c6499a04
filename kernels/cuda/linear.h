/* What joins the sums of a product before they are rounded: adapters, and the epilogue. linear.cu, join.cu. */
#ifndef VP_CUDA_LINEAR_H
#define VP_CUDA_LINEAR_H
#include "kernels/cuda/drop.h"
#include "kernels/cuda/weight.h"

/* Low-rank sums: column j of row i gets the sum over the parts that have the column, and over r < rank, of
 *     left[i, at + r] * factor[(j - first) * by_column + r * by_rank]
 * through the mask of `drop` where that is on. */
enum { VP_RANK_PARTS = 48 };
typedef struct vp_rank_part {
    const float *factor;
    int64_t first, n, by_column, by_rank;
    int32_t rank, at;
} vp_rank_part;
typedef struct vp_rank_sum {
    const float *left; /* [rows, ld], dense */
    int64_t ld;
    int32_t nparts;
    vp_rank_part part[VP_RANK_PARTS];
    vp_dropper drop; /* of elements of rows that are out's columns wide */
} vp_rank_sum;

/* out = act(sums + the low-rank sums + bias) + residual, rounded once; rows of sums and out are `first` and on of
 * everything that is indexed by rows. Each matrix F32 or BF16; out may be sums or residual. */
typedef struct vp_join_op {
    vp_mat sums, out;
    const vp_rank_sum *rank; /* NULL: none */
    const float *bias;       /* NULL: none */
    vp_act act;
    vp_mat residual; /* ptr NULL: none */
    int64_t first;
} vp_join_op;
int vp_join(vp_queue *q, const char *what, const vp_join_op *op);

/* vp_cuda_linear and vp_cuda_linear_bwd_x with low-rank sums (NULL: none, as for weights with `rows`). */
int vp_linear_run(vp_queue *q, const vp_linear_op *op, const vp_rank_sum *rank);
int vp_linear_bwd_x_run(vp_queue *q, const vp_linear_op *op, const vp_rank_sum *rank);

#endif
