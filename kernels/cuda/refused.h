/* Shapes of weights' products that the library does not compute: for whoever asks why they are slow. refused.cu */
#ifndef VP_CUDA_REFUSED_H
#define VP_CUDA_REFUSED_H
#include "kernels/cuda/product.h"

typedef enum vp_refusal { VP_REFUSED_ALIGNMENT, VP_REFUSED_ALGORITHMS, VP_REFUSED_MEMORY } vp_refusal;
void vp_refused_open(vp_device *d);
void vp_refused_close(vp_device *d);
/* vp_product_learn's; a shape may be told again. Threads share them, as all of these. */
void vp_refused_add(vp_device *d, vp_product_kind kind, int64_t N, int64_t K, vp_dtype type, vp_refusal why);
/* That product runs by our own kernels now: where its shape was refused, it is worth a line. */
void vp_refused_ran(vp_device *d, const vp_product_op *op);

#endif
