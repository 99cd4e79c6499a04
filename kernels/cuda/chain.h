/* Which rows add to the same place: positions of equal keys, in their order. For sums whose order is fixed though where
 * the rows go is known on the device alone. */
#ifndef VP_CUDA_CHAIN_H
#define VP_CUDA_CHAIN_H
#include "kernels/cuda/cuda.h"

struct vp_chain {
    int32_t *next;  /* [n] the next position with this one's key; -1: none */
    uint8_t *first; /* [n] 1: no position before has its key */
};
/* The chains of n keys, in the queue's arena; `what` is for messages. */
int vp_chain_make(vp_queue *q, const char *what, const int32_t *key, int64_t n, vp_chain *chain);

#endif
