/* Attention over spans of cached keys: what vp_cuda_attn does when op->spans is given. attn_cached.cu. */
#ifndef VP_CUDA_ATTN_CACHED_H
#define VP_CUDA_ATTN_CACHED_H
#include "kernels/cuda/cuda.h"

/* Checks what the host can see: shapes and types. spans, nspans and the lists lie where the batch does. */
int vp_attn_cached(vp_queue *q, const vp_attn_op *op);

#endif
