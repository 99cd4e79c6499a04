/* Element-wise kernels over the rows of matrices: one kernel, given what to do with a run of neighbours in a row. */
#ifndef VP_CUDA_MAP_H
#define VP_CUDA_MAP_H
#include "kernels/cuda/cuda.h"

enum { VP_MAP_THREADS = 256 };
/* F: a struct of what the kernel needs, with  __device__ void operator()(int64_t row, int64_t col) const */
template <class F> VP_KERNEL(VP_MAP_THREADS) vp_map_kernel(F f, int64_t rows, int64_t cols) {
    const int64_t i = (int64_t)blockIdx.x * VP_MAP_THREADS + threadIdx.x;
    if (i < rows * cols) f(i / cols, i % cols);
}
/* Enqueue f(row, col) for all of [rows, cols). */
template <class F> int vp_map(vp_queue *q, const char *name, F f, int64_t rows, int64_t cols) {
    return vp_launch(q, name, vp_map_kernel<F>, vp_blocks(rows * cols, VP_MAP_THREADS), VP_MAP_THREADS, 0, f, rows,
                     cols);
}

#endif
