/* Passes that come again, one launch each: graph.cu. */
#ifndef VP_CUDA_GRAPH_H
#define VP_CUDA_GRAPH_H
#include "kernels/cuda/cuda.h"

int vp_cuda_repeat(vp_queue *q, const vp_repeat_op *op);
/* Forget what the queue has recorded: before memory is given back that it may point to, and with the queue. */
void vp_graphs_drop(vp_queue *q);

#endif
