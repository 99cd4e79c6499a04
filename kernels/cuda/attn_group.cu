/* attn in bf16 on sm_90, for sequences that are long: attn_bf16.cu's sums by products of warp groups (group.h), which
 * run while the group weighs scores (Shah et al., FlashAttention-3, arXiv 2407.08608, section 3.2). A block owns 128
 * queries of a head, a group 64 of them; it begins the next scores and this P V together, weighs the scores as soon as
 * they are there, and waits for P V only then. Keys and values come by asynchronous copies, one block ahead. */
#include "kernels/cuda/attn_flash.h"
#include "kernels/cuda/attn_group.h"

enum { GROUPS = 2, GROUP_THREADS = 128 * GROUPS, ROWS = 64 * GROUPS, KEYS = 128 };

template <int D> constexpr unsigned flash_group_shared() {
    return (ROWS + 4 * KEYS) * D * sizeof(vp_bf16);
}

template <int D> struct flash_group {
    typedef vp_flash_rows<D, 1, KEYS> flash_rows;
    flash_rows rows;
    vp_shared<vp_bf16> q, k, v; /* the group's queries; [2][KEYS, D] */
    float s[1][KEYS / 8][4], factor[1][2];
    uint32_t p[KEYS / 16][4];

    /* Begin to copy a block of keys or values. */
    VP_INLINE void fetch(vp_shared<vp_bf16> to, const vp_bf16 *from, int64_t ld, int block, int n, int d) const {
        const int key0 = block * KEYS;
        vp_slab_fill<D, KEYS, GROUP_THREADS>(to + block % 2 * (KEYS * D), {from + key0 * ld, ld, n - key0, d});
    }

    /* What was copied is there for everybody's products, and nobody reads what the next copies replace. */
    VP_INLINE void meet() const {
        vp_group_publish();
        vp_barrier();
    }

    /* Begin the scores of a block. */
    VP_INLINE void score(int block) {
        vp_group_product<D, ROWS, KEYS>(s[0], q, k + block % 2 * (KEYS * D));
        vp_group_commit();
    }
    /* Begin P V of a block. */
    VP_INLINE void mix(int block) {
        vp_group_hold<D>(rows.o[0]);
        vp_group_begin();
        vp_group_mix<D, KEYS>(rows.o[0], p, v + block % 2 * (KEYS * D));
        vp_group_commit();
    }

    /* The scores of a block, which are there but for what PENDING groups compute, become P in s. */
    template <int PENDING> VP_INLINE bool weigh(const vp_attn_job &job, const vp_attn_place &at, int head, int block) {
        typename flash_rows::pairs bits;
        const int first = rows.first / 64 * 64, past = vp_smaller(first + 64, at.n), key0 = block * KEYS;
        const vp_attn_class sort = first < at.n ? vp_attn_sort(job, at, first, past, key0, key0 + KEYS) : VP_ATTN_SOME;
        rows.ask(job, at, head, key0, sort != VP_ATTN_ALL, &bits);
        vp_group_wait<PENDING>();
        vp_group_hold<KEYS>(s[0]);
        return rows.weigh(job, bits, s, factor);
    }
};

template <int D> VP_KERNEL(GROUP_THREADS, 1) flash_group_kernel(vp_flash_args a) {
    vp_attn_place at; /* the longest rows of a causal head first */
    if (!vp_attn_find(a.job, ROWS, (int)(gridDim.x - 1 - blockIdx.x), &at)) return;
    const int head = (int)blockIdx.y, group = head / a.job.share, d = a.job.d, warp = (int)(threadIdx.x / 32);
    const vp_bf16 *keys = a.k.p + at.base * a.k.ld + group * d, *values = a.v.p + at.base * a.v.ld + group * d;
    const vp_bf16 *queries = a.q.p + (at.base + at.first) * a.q.ld + head * d;
    const vp_attn_range blocks = vp_attn_key_blocks(a.job, at, at.first, at.first + ROWS, KEYS);
    flash_group<D> own;
    vp_cutter cut;
    const vp_shared<vp_bf16> tile = cut.take<vp_bf16>(ROWS * D);
    own.k = cut.take<vp_bf16>(2 * KEYS * D);
    own.v = cut.take<vp_bf16>(2 * KEYS * D);
    own.q = tile + warp / 4 * (64 * 64);
    own.rows.first = at.first + 16 * warp;
    own.rows.clear();
    vp_slab_fill<D, ROWS, GROUP_THREADS>(tile, {queries, a.q.ld, at.n - at.first, d});
    own.fetch(own.k, keys, a.k.ld, blocks.from, at.n, d);
    vp_copy_commit();
    own.fetch(own.v, values, a.v.ld, blocks.from, at.n, d);
    if (blocks.from + 1 < blocks.past) own.fetch(own.k, keys, a.k.ld, blocks.from + 1, at.n, d);
    vp_copy_commit();
    vp_copy_wait<1>();
    own.meet();
    vp_group_begin();
    own.score(blocks.from);
    own.template weigh<0>(a.job, at, head, blocks.from); /* o is 0: nothing grows */
    vp_group_round<KEYS>(own.p, own.s[0]);
    for (int block = blocks.from; block + 1 < blocks.past; block++) {
        vp_copy_wait<0>();
        own.meet();
        own.fetch(own.v, values, a.v.ld, block + 1, at.n, d);
        if (block + 2 < blocks.past) own.fetch(own.k, keys, a.k.ld, block + 2, at.n, d);
        vp_copy_commit();
        vp_group_begin();
        own.score(block + 1);
        own.mix(block);
        const bool grows = own.template weigh<1>(a.job, at, head, block + 1);
        vp_group_wait<0>();
        vp_group_hold<D>(own.rows.o[0]);
        if (grows) own.rows.grow(own.factor);
        vp_group_round<KEYS>(own.p, own.s[0]);
    }
    vp_copy_wait<0>();
    own.meet();
    own.mix(blocks.past - 1);
    vp_group_wait<0>();
    vp_group_hold<D>(own.rows.o[0]);
    vp_barrier(); /* nobody reads queries any more */
    if (own.rows.first < at.n) own.rows.finish(a, at, head, tile + 16 * D * warp);
}

template <int D> static int launch(vp_queue *q, const vp_flash_args &a, const vp_batch *batch) {
    const dim3 grid(vp_attn_blocks(batch->T, batch->B, ROWS), (unsigned)a.job.heads);
    return vp_launch(q, "attn", flash_group_kernel<D>, grid, GROUP_THREADS, flash_group_shared<D>(), a);
}

int vp_attn_group(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op) {
    const vp_flash_args a = {*job, op->q, op->k, op->v, op->out};
    return job->d <= 64 ? launch<64>(q, a, op->batch) : launch<128>(q, a, op->batch);
}
