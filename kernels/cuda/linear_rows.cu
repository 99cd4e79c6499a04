/* linear of few rows with a weight that is kept row by row: a warp owns an output. */
#include "kernels/cuda/linear.h"

enum { THREADS = 128 };
template <class W> struct rows_args {
    const W *w;
    const float *scale;
    vp_mat x, out;
};

VP_DEVICE float widened(vp_bf16 x) {
    return vp_float(x);
}
VP_DEVICE float widened(float x) {
    return x;
}
VP_DEVICE float widened(int8_t x) {
    return (float)x;
}

/* out[t, n] = scale[n] sum x[t, k] w[n, k]: lanes take every 32nd k, then meet. F32. */
template <class W> VP_KERNEL(THREADS) rows_kernel(rows_args<W> p) {
    const int lane = (int)threadIdx.x & 31;
    const int64_t n = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32, t = blockIdx.y, K = p.x.cols;
    if (n >= p.out.cols) return;
    float sum = 0.0f;
    for (int64_t k = lane; k < K; k += 32) {
        const int64_t at = t * p.x.ld + k;
        const float x = p.x.dtype == VP_BF16 ? vp_float(((const vp_bf16 *)p.x.ptr)[at]) : ((const float *)p.x.ptr)[at];
        sum = fmaf(x, widened(p.w[n * K + k]), sum);
    }
    sum = vp_warp_sum(sum);
    if (lane == 0) ((float *)p.out.ptr)[t * p.out.ld + n] = p.scale ? p.scale[n] * sum : sum;
}

template <class W> static int multiply(vp_queue *q, const vp_weight *w, const vp_mat *x, const vp_mat *sums) {
    const dim3 grid(vp_blocks(w->out, THREADS / 32), (unsigned)x->rows);
    const rows_args<W> p = {(const W *)w->row, w->row_scale, *x, *sums};
    return vp_launch(q, "linear", rows_kernel<W>, grid, THREADS, 0, p);
}

static int run_rows(vp_queue *q, const vp_linear_op *op, int64_t first, int64_t rows, vp_mat sums) {
    const vp_weight *w = op->weight;
    vp_mat x = op->x;
    vp_join_op join = {};
    x.ptr = (char *)x.ptr + (size_t)(first * x.ld) * vp_dtype_size(x.dtype);
    sums.rows = x.rows = rows;
    if (w->row_type == VP_I8) VP_TRY(multiply<int8_t>(q, w, &x, &sums));
    if (w->row_type == VP_BF16) VP_TRY(multiply<vp_bf16>(q, w, &x, &sums));
    if (w->row_type == VP_F32) VP_TRY(multiply<float>(q, w, &x, &sums));
    join.sums = sums;
    join.out = op->out;
    join.out.ptr = (char *)op->out.ptr + (size_t)(first * op->out.ld) * vp_dtype_size(op->out.dtype);
    join.out.rows = rows;
    join.bias = w->bias;
    join.act = op->act;
    join.residual = op->residual;
    join.first = first;
    return vp_join(q, "linear", &join);
}

int vp_linear_rows(vp_queue *q, const vp_linear_op *op) {
    const size_t mark = vp_arena_top(&q->arena);
    const int64_t most = 128, N = op->weight->out;
    vp_mat sums = {vp_queue_take(q, "linear", (size_t)(most * N) * sizeof(float)), VP_F32, most, N, N, NULL};
    int status = sums.ptr ? VP_OK : VP_MEMORY;
    for (int64_t first = 0; !status && first < op->x.rows; first += most)
        status = run_rows(q, op, first, op->x.rows - first < most ? op->x.rows - first : most, sums);
    vp_arena_back(&q->arena, mark);
    return status;
}
