/* Matrices whose heads tiles cannot be copied from 16 bytes at a time, by way of scratch memory where they can: widths
 * that are no multiple of 8, odd addresses. Columns added are zeros, which no sum sees. */
#include "kernels/cuda/attn.h"

constexpr int THREADS = 256;

/* to[i, h * to_width + c] = from[i, h * from_width + c], 0 where c is past from_width */
VP_KERNEL(THREADS)
repack_kernel(vp_rows_of<const vp_bf16> from, int from_width, vp_rows_of<vp_bf16> to, int to_width, int64_t cols,
              int64_t all) {
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, i = at / cols;
    const int j = (int)(at % cols), h = j / to_width, c = j % to_width;
    if (at >= all) return;
    to.p[i * to.ld + j] = c < from_width ? from.p[i * from.ld + h * from_width + c] : vp_bf16{0};
}

static int repack(vp_queue *q, const vp_mat *from, int from_width, const vp_mat *to, int to_width) {
    const int64_t all = to->rows * to->cols;
    return vp_launch(q, "attn", repack_kernel, vp_blocks(all, THREADS), THREADS, 0, vp_rows_of<const vp_bf16>(*from),
                     from_width, vp_rows_of<vp_bf16>(*to), to_width, to->cols, all);
}

static int wide(int d) {
    return (d + 7) / 8 * 8;
}

int vp_attn_pack(vp_queue *q, const vp_mat *m, int d, bool filled, vp_mat *to) {
    *to = *m;
    if ((uintptr_t)m->ptr % 16 == 0 && m->ld % 8 == 0 && d % 8 == 0) return VP_OK;
    to->cols = to->ld = m->cols / d * wide(d);
    to->ptr = vp_queue_take(q, "attn", (size_t)(to->rows * to->cols) * sizeof(vp_bf16));
    if (!to->ptr) return VP_MEMORY;
    return filled ? repack(q, m, d, to, wide(d)) : VP_OK;
}

int vp_attn_unpack(vp_queue *q, const vp_mat *from, int d, const vp_mat *m) {
    return from->ptr == m->ptr ? VP_OK : repack(q, from, wide(d), m, d);
}
