/* Kernels in which a row is worked on by a few threads that hold it in registers, and its checks. 8 threads share a row
 * of up to 128 elements, a warp one of up to 1,024, a block one of up to 8,192; a longer one is read again for every
 * pass. Which thread has which element, and so the order of sums, follows from the row's length alone. */
#ifndef VP_CUDA_ROWS_H
#define VP_CUDA_ROWS_H
#include "kernels/cuda/cells.h"

/* VP_BUG unless m is a matrix of this type and shape. */
int vp_check_typed(vp_queue *q, const char *what, const vp_mat *m, vp_dtype type, int64_t rows, int64_t cols);
/* The same of a gradient that must be there. */
int vp_check_grad(vp_queue *q, const char *what, const vp_mat *m, vp_dtype type, int64_t rows, int64_t cols);

static constexpr int VP_ROW_THREADS = 256;
/* The threads of a row [n]: a thread has 8 neighbours at (lane + slot LANES) 8, slots ascending. SLOTS 0: as many as it
 * takes, none is held. */
template <int LANES, int SLOTS> struct vp_row {
    static constexpr int HELD = SLOTS ? SLOTS : 1;
    int64_t row;
    bool live; /* false: beyond the last row; takes part in exchanges only */
    int n, lane, slots;
    vp_shared<float> sums; /* [8], where a block shares the row */

    VP_INLINE vp_row(int64_t rows, int length) {
        vp_cutter cut;
        row = (int64_t)blockIdx.x * (VP_ROW_THREADS / LANES) + threadIdx.x / LANES;
        live = row < rows;
        n = length;
        lane = (int)threadIdx.x % LANES;
        slots = SLOTS ? SLOTS : (length + LANES * VP_CELLS - 1) / (LANES * VP_CELLS);
        sums = cut.take<float>(VP_ROW_THREADS / 32);
    }
    /* f(held, column, elements): this thread's parts of the row; held: its place among those in registers */
    template <class F> VP_INLINE void each(F f) const {
        VP_UNROLL for (int s = 0; s < (SLOTS ? SLOTS : slots); s++) {
            const int col = (lane + s * LANES) * VP_CELLS, left = live ? n - col : 0;
            f(SLOTS ? s : 0, col, left < 0 ? 0 : left < VP_CELLS ? left : VP_CELLS);
        }
    }
    /* f over all threads of the row, in a fixed order */
    template <class F> VP_INLINE float reduce(float x, F f) const {
        VP_UNROLL for (int lanes = (LANES < 32 ? LANES : 32) / 2; lanes; lanes /= 2) x = f(x, vp_shuffle_xor(x, lanes));
        if constexpr (LANES > 32) {
            vp_barrier(); /* the sums of before have been read */
            if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
            vp_barrier();
            x = sums[0];
            for (int i = 1; i < LANES / 32; i++) x = f(x, (float)sums[i]);
        }
        return x;
    }
    VP_INLINE float sum(float x) const {
        return reduce(x, [](float a, float b) { return a + b; });
    }
    VP_INLINE float max(float x) const {
        return reduce(x, [](float a, float b) { return a > b ? a : b; });
    }
};

/* v = 8 neighbours of a row as vp_load8 gives them; none when n is 0 */
template <class T, bool WIDE>
VP_DEVICE void vp_row_load(const vp_cells &m, int64_t row, int col, int n, float v[VP_CELLS]) {
    if (n > 0)
        vp_load8<T, WIDE>(m, row, col, n, v);
    else
        for (int i = 0; i < VP_CELLS; i++) v[i] = 0.0f;
}
template <class T, bool WIDE>
VP_DEVICE void vp_row_store(const vp_cells &m, int64_t row, int col, int n, const float v[VP_CELLS]) {
    if (n > 0) vp_store8<T, WIDE>(m, row, col, n, v);
}

/* F: a struct with  template <int LANES, int SLOTS> VP_INLINE void run(const vp_row<LANES, SLOTS> &r) const; and BLOCKS
 * of them a multiprocessor, where its registers would spill for more. */
template <class F> constexpr int vp_row_blocks() {
    if constexpr (requires { F::BLOCKS; })
        return F::BLOCKS;
    else
        return 1;
}
template <int LANES, int SLOTS, class F>
VP_KERNEL(VP_ROW_THREADS, vp_row_blocks<F>())
vp_row_kernel(F f, int64_t rows, int n) {
    f.run(vp_row<LANES, SLOTS>(rows, n));
}
/* Enqueue f over rows of n elements; one with LONG holds up to 16,384 of them. Few registers a thread: more rows under
 * way while others wait for memory. */
template <class F> int vp_row_map(vp_queue *q, const char *name, F f, int64_t rows, int64_t n) {
#define ROWS(lanes, slots)                                                                                             \
    if (slots == 0 || n <= (int64_t)lanes * slots * VP_CELLS)                                                          \
        return vp_launch(q, name, vp_row_kernel<lanes, slots, F>, vp_blocks(rows, VP_ROW_THREADS / lanes),             \
                         VP_ROW_THREADS, VP_ROW_THREADS / 32 * sizeof(float), f, rows, n);
    ROWS(8, 2)              /* up to 128, */
    ROWS(32, 2)             /* 512, */
    ROWS(32, 4)             /* 1,024, */
    ROWS(VP_ROW_THREADS, 1) /* 2,048, */
    ROWS(VP_ROW_THREADS, 2)
    ROWS(VP_ROW_THREADS, 4) /* 8,192; */
    if constexpr (requires { F::LONG; }) ROWS(VP_ROW_THREADS, 8)
    ROWS(VP_ROW_THREADS, 0)
#undef ROWS
}

#endif
