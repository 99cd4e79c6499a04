/* A weight on the device, and how one comes there. weight.cu. */
#ifndef VP_CUDA_WEIGHT_H
#define VP_CUDA_WEIGHT_H
#include "kernels/cuda/cuda.h"

/* One layout for every weight: [out, ld], row by row, at a multiple of 256 bytes. A product reads it so forward
 * (x W^T) and backward (dout W), a lookup or a product of few rows reads single rows. All memory is the device's. */
struct vp_weight {
    int64_t in, out;   /* K, N */
    int32_t experts;   /* matrices, one after the other in row and row_scale; 0: it is one */
    int64_t ld;        /* numbers from row to row: in; of VP_F8 the next multiple of 16, zeros between */
    vp_dtype row_type; /* of row: VP_F32, VP_BF16, or VP_I8 or VP_F8 with a scale a row */
    void *row;         /* [N, K] */
    float *row_scale;  /* [N] of VP_I8 and VP_F8, else NULL */
    float *bias;       /* [N] or NULL */
    bool rows;         /* was prepared with `rows`: inputs are not rounded to row_type, sums are f32 */
    bool backward;     /* linear_bwd_x may take it */
};

int vp_cuda_weight_prepare(vp_device *d, const vp_weight_desc *desc, vp_weight **w, vp_error *err);
/* Waits until the queue is done with the old values. */
int vp_cuda_weight_update(vp_queue *q, vp_weight *w, const vp_weight_desc *desc);
void vp_cuda_weight_free(vp_device *d, vp_weight *w);

/* linear of a weight with `rows`, for any number of rows of x: linear_rows.cu. Its arguments have been checked.
 * out = act(x W^T scale + bias) + residual, x F32 or BF16, widened. */
int vp_linear_rows(vp_queue *q, const vp_linear_op *op);

/* Rows of all matrices. */
static inline int64_t vp_weight_all(const vp_weight *w) {
    return w->experts ? w->out * w->experts : w->out;
}

#endif
