/* Element-wise kernels over the rows of matrices: one kernel, given what to do with 8 neighbours of a row. */
#ifndef VP_CUDA_MAP_H
#define VP_CUDA_MAP_H
#include "kernels/cuda/cells.h"

enum { VP_MAP_THREADS = 256 };
/* F: a struct of what the kernel needs, with
 *     template <bool WIDE> VP_INLINE void run(int64_t row, int col, int n) const
 * that does elements [col, col + n) of a row, n <= 8 (cells.h). */
template <bool WIDE, class F> VP_KERNEL(VP_MAP_THREADS) vp_map_kernel(F f, int64_t rows, int cols) {
    const int64_t i = (int64_t)blockIdx.x * VP_MAP_THREADS + threadIdx.x, across = (cols + VP_CELLS - 1) / VP_CELLS;
    const int64_t row = i / across;
    const int col = (int)(i % across) * VP_CELLS;
    if (row < rows) f.template run<WIDE>(row, col, cols - col < VP_CELLS ? cols - col : VP_CELLS);
}
/* Enqueue f over all of [rows, cols); wide: all its matrices are (vp_wide). */
template <class F> int vp_map(vp_queue *q, const char *name, bool wide, F f, int64_t rows, int64_t cols) {
    const unsigned blocks = vp_blocks(rows * ((cols + VP_CELLS - 1) / VP_CELLS), VP_MAP_THREADS);
    return wide ? vp_launch(q, name, vp_map_kernel<true, F>, blocks, VP_MAP_THREADS, 0, f, rows, cols)
                : vp_launch(q, name, vp_map_kernel<false, F>, blocks, VP_MAP_THREADS, 0, f, rows, cols);
}

#endif
