/* attn in bf16: flash attention (Dao, arXiv 2307.08691) over variable lengths. A block owns 64 M queries of a head, a
 * warp 16 M of them; blocks of keys come in ascending order, the next one being copied while this one is worked on.
 * Scores, softmax and sums are f32; P is rounded to bf16 before P V. Which blocks are skipped leaves no trace: a hidden
 * key adds 0, and a block of them multiplies by 1. */
#include "kernels/cuda/attn_tile.h"

enum { WARPS = 4, THREADS = 32 * WARPS };

struct flash_args {
    vp_attn_job job;
    vp_rows_of<const vp_bf16> q, k, v;
    vp_rows_of<vp_bf16> out;
};

template <int D> struct flash_shape { /* D: columns, with zeros past the head's width */
    static constexpr int M = D == 64 || D == 128 ? 2 : 1, ROWS = 16 * M * WARPS, KEYS = D < 128 ? 64 : 32;
    static constexpr int BLOCKS = D < 64 ? 4 : 2; /* of a multiprocessor, for registers */
    static constexpr unsigned SHARED = (ROWS + 4 * KEYS) * D * sizeof(vp_bf16);
};

/* A warp's queries. */
template <int D> struct flash_rows {
    static constexpr int M = flash_shape<D>::M, N = flash_shape<D>::KEYS;
    float o[M][D / 8][4], top[M][2], sum[M][2]; /* top: of scores times log2 e; sum: of this lane's keys */
    int first;                                  /* query */

    VP_INLINE void clear() {
        vp_tile_zero<M, D>(o);
        VP_UNROLL
        for (int m = 0; m < M; m++) {
            top[m][0] = top[m][1] = -INFINITY;
            sum[m][0] = sum[m][1] = 0.0f;
        }
    }

    /* Scores in units of log2 e, where a factor alone does not do. */
    VP_INLINE void scale(const vp_attn_job &job, float s[M][N / 8][4]) const {
        VP_UNROLL
        for (int i = 0; i < M * N / 2; i++) {
            float &x = s[i / (N / 2)][i / 4 % (N / 8)][i % 4];
            x *= job.scale;
            if (job.softcap > 0.0f) x = job.softcap * vp_tile_tanh(x * job.uncap);
            x *= 1.44269504f;
        }
    }

    /* Brings `top` near the largest of a row's scores, and what is summed already to it: only where it grows by more
     * than 2^8, so that few blocks of keys multiply the output. `by`: of the scores in s. */
    VP_INLINE void raise(const float s[M][N / 8][4], float by) {
        float factor[M][2];
        bool any = false;
        VP_UNROLL
        for (int r = 0; r < 2 * M; r++) {
            const int m = r / 2, h = r % 2;
            float most = -INFINITY;
            VP_UNROLL
            for (int j = 0; j < N / 8; j++) most = vp_max(most, vp_max(s[m][j][2 * h], s[m][j][2 * h + 1]));
            most = vp_max(most, vp_shuffle_xor(most, 1));
            most = vp_max(most, vp_shuffle_xor(most, 2)) * by;
            const bool grows = most > top[m][h] + 8.0f;
            factor[m][h] = grows ? vp_exp2(top[m][h] - most) : 1.0f;
            if (grows) top[m][h] = most;
            any |= grows;
        }
        if (vp_ballot(any) == 0) return;
        VP_UNROLL
        for (int r = 0; r < 2 * M; r++) {
            const int m = r / 2, h = r % 2;
            sum[m][h] *= factor[m][h];
            VP_UNROLL
            for (int i = 0; i < D / 4; i++) o[m][i / 2][2 * h + i % 2] *= factor[m][h];
        }
    }

    /* s becomes P, in units of 2^top */
    VP_INLINE void softmax(float s[M][N / 8][4], float by) {
        raise(s, by);
        VP_UNROLL
        for (int r = 0; r < 2 * M; r++) {
            const int m = r / 2, h = r % 2;
            const float shift = top[m][h] == -INFINITY ? 0.0f : top[m][h];
            VP_UNROLL
            for (int i = 0; i < N / 4; i++) {
                float &x = s[m][i / 2][2 * h + i % 2];
                x = vp_exp2(fmaf(x, by, -shift));
                sum[m][h] += x;
            }
        }
    }

    VP_INLINE void visit(const vp_attn_job &job, const vp_attn_place &at, int head, int key0, vp_shared<vp_bf16> q,
                         vp_shared<vp_bf16> k, vp_shared<vp_bf16> v) {
        if (first >= at.n) return;
        const vp_attn_class sort = vp_attn_sort(job, at, first, vp_smaller(first + 16 * M, at.n), key0, key0 + N);
        if (sort == VP_ATTN_NONE) return;
        const bool plain = job.softcap == 0.0f && job.scale > 0.0f;
        uint32_t seen[M], kept[M];
        float s[M][N / 8][4];
        VP_UNROLL
        for (int m = 0; m < M; m++) {
            const int query = first + 16 * m;
            seen[m] = sort == VP_ATTN_ALL ? ~0u : vp_tile_seen<false>(job, at, query, key0, N);
            kept[m] = job.drop.on ? vp_tile_kept<false>(job, at.row, head, query, key0, N) : ~0u;
        }
        vp_tile_zero<M, N>(s);
        vp_tile_product<D, M, N>(s, q, k);
        if (!plain) scale(job, s);
        VP_UNROLL
        for (int m = 0; m < M && sort == VP_ATTN_SOME; m++) vp_tile_pick<N>(s[m], seen[m], -INFINITY);
        softmax(s, plain ? job.scale * 1.44269504f : 1.0f);
        VP_UNROLL
        for (int m = 0; m < M && job.drop.on; m++) vp_tile_pick<N>(s[m], kept[m], 0.0f);
        vp_tile_mix<D, D, M, N>(o, s, v);
    }

    /* `tile`: the warp's queries, of no use any more. */
    VP_INLINE void finish(const flash_args &a, const vp_attn_place &at, int head, vp_shared<vp_bf16> tile) {
        const int lane = (int)(threadIdx.x % 32);
        const float kept = a.job.drop.on ? a.job.drop.scale : 1.0f;
        VP_UNROLL
        for (int m = 0; m < M; m++) {
            float by[2];
            VP_UNROLL
            for (int h = 0; h < 2; h++) {
                float all = sum[m][h];
                all += vp_shuffle_xor(all, 1);
                all += vp_shuffle_xor(all, 2);
                by[h] = all == 0.0f ? 0.0f : kept / all;
                const int i = first + 16 * m + lane / 4 + 8 * h;
                if (a.job.lse && lane % 4 == 0 && i < at.n)
                    a.job.lse[(int64_t)(at.base + i) * a.job.heads + head] =
                        vp_lse(top[m][h] * 0.693147181f, (double)all);
            }
            vp_rows_of<vp_bf16> to = a.out;
            to.p += (at.base + first + 16 * m) * to.ld + head * a.job.d;
            vp_tile_store<D>(tile + 16 * m * D, o[m], by, to, at.n - first - 16 * m, a.job.d);
        }
    }
};

template <int D> VP_KERNEL(THREADS, flash_shape<D>::BLOCKS) flash_kernel(flash_args a) {
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
    flash_rows<D> rows;
    rows.first = at.first + 16 * shape::M * warp;
    rows.clear();
    for (int block = blocks.from; block < blocks.past; block++) {
        vp_shared<vp_bf16> k = kv + block % 2 * (2 * KEYS * D);
        vp_copy_wait<0>();
        vp_barrier(); /* this block's keys have come, and nobody reads those of the one before */
        if (block + 1 < blocks.past) fetch(block + 1);
        vp_copy_commit();
        rows.visit(a.job, at, head, block * KEYS, q + 16 * shape::M * D * warp, k, k + KEYS * D);
    }
    vp_copy_wait<0>();
    if (rows.first < at.n) rows.finish(a, at, head, q + 16 * shape::M * D * warp);
}

template <int D> static int launch(vp_queue *q, const flash_args &a, const vp_batch *batch) {
    using shape = flash_shape<D>;
    const dim3 grid(vp_attn_blocks(batch->T, batch->B, shape::ROWS), (unsigned)a.job.heads);
    return vp_launch(q, "attn", flash_kernel<D>, grid, THREADS, shape::SHARED, a);
}

int vp_attn_bf16(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op) {
    const flash_args a = {*job, op->q, op->k, op->v, op->out};
    return vp_tile_width(job->d, [&](auto width) { return launch<width.value>(q, a, op->batch); });
}
