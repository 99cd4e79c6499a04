/* attn in bf16, by warps: a block owns 64 M queries of a head, a warp 16 M of them; blocks of keys come in ascending
 * order, the next one being copied while this one is worked on. */
#include "kernels/cuda/attn_flash.h"

enum { WARPS = 4, THREADS = 32 * WARPS };

template <int D> struct flash_shape { /* D: columns, with zeros past the head's width */
    static constexpr int M = D == 64 || D == 128 ? 2 : 1, ROWS = 16 * M * WARPS, KEYS = D < 128 ? 64 : 32;
    static constexpr int BLOCKS = D < 64 ? 4 : 2; /* of a multiprocessor, for registers */
    static constexpr unsigned SHARED = (ROWS + 4 * KEYS) * D * sizeof(vp_bf16);
};

/* A warp's queries and one block of keys. */
template <int D, int M, int N>
VP_DEVICE void visit(vp_flash_rows<D, M, N> &rows, const vp_attn_job &job, const vp_attn_place &at, int head, int key0,
                     vp_shared<vp_bf16> q, vp_shared<vp_bf16> k, vp_shared<vp_bf16> v) {
    if (rows.first >= at.n) return;
    const int past = vp_smaller(rows.first + 16 * M, at.n);
    const vp_attn_class sort = vp_attn_sort(job, at, rows.first, past, key0, key0 + N);
    if (sort == VP_ATTN_NONE) return;
    typename vp_flash_rows<D, M, N>::pairs bits;
    float s[M][N / 8][4], factor[M][2];
    rows.ask(job, at, head, key0, sort == VP_ATTN_SOME, &bits);
    vp_tile_zero<M, N>(s);
    vp_tile_product<D, M, N>(s, q, k);
    if (rows.weigh(job, bits, s, factor)) rows.grow(factor);
    vp_tile_mix<D, D, M, N>(rows.o, s, v);
}

template <int D> VP_KERNEL(THREADS, flash_shape<D>::BLOCKS) flash_kernel(vp_flash_args a) {
    using shape = flash_shape<D>;
    constexpr int KEYS = shape::KEYS;
    vp_attn_place at; /* the longest rows of a causal head first */
    if (!vp_attn_find(a.job, shape::ROWS, (int)(gridDim.x - 1 - blockIdx.x), &at)) return;
    const int head = (int)blockIdx.y, group = head / a.job.share, d = a.job.d;
    vp_cutter cut;
    vp_shared<vp_bf16> q = cut.take<vp_bf16>(shape::ROWS * D), kv = cut.take<vp_bf16>(4 * KEYS * D);
    const vp_bf16 *keys = a.k.p + at.base * a.k.ld + group * d, *values = a.v.p + at.base * a.v.ld + group * d;
    auto fetch = [&](int block) {
        const int key0 = block * KEYS, rows = at.n - key0;
        vp_shared<vp_bf16> to = kv + block % 2 * (2 * KEYS * D);
        vp_tile_fill<D, KEYS, THREADS>(to, {keys + key0 * a.k.ld, a.k.ld, rows, d});
        vp_tile_fill<D, KEYS, THREADS>(to + KEYS * D, {values + key0 * a.v.ld, a.v.ld, rows, d});
    };
    const vp_attn_range blocks = vp_attn_key_blocks(a.job, at, at.first, at.first + shape::ROWS, KEYS);
    const vp_bf16 *queries = a.q.p + (at.base + at.first) * a.q.ld + head * d;
    vp_tile_fill<D, shape::ROWS, THREADS>(q, {queries, a.q.ld, at.n - at.first, d});
    fetch(blocks.from);
    vp_copy_commit();
    const int warp = (int)(threadIdx.x / 32);
    vp_flash_rows<D, shape::M, KEYS> rows;
    rows.first = at.first + 16 * shape::M * warp;
    rows.clear();
    for (int block = blocks.from; block < blocks.past; block++) {
        vp_shared<vp_bf16> k = kv + block % 2 * (2 * KEYS * D);
        vp_copy_wait<0>();
        vp_barrier(); /* this block's keys have come, and nobody reads those of the one before */
        if (block + 1 < blocks.past) fetch(block + 1);
        vp_copy_commit();
        visit(rows, a.job, at, head, block * KEYS, q + 16 * shape::M * D * warp, k, k + KEYS * D);
    }
    vp_copy_wait<0>();
    if (rows.first < at.n) rows.finish(a, at, head, q + 16 * shape::M * D * warp);
}

template <int D> static int launch(vp_queue *q, const vp_flash_args &a, const vp_batch *batch) {
    using shape = flash_shape<D>;
    const dim3 grid(vp_attn_blocks(batch->T, batch->B, shape::ROWS), (unsigned)a.job.heads);
    return vp_launch(q, "attn", flash_kernel<D>, grid, THREADS, shape::SHARED, a);
}

int vp_attn_bf16(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op) {
    const vp_flash_args a = {*job, op->q, op->k, op->v, op->out};
    return vp_tile_width(job->d, [&](auto width) { return launch<width.value>(q, a, op->batch); });
}
