/* Flash attention (Dao, arXiv 2307.08691): what a warp knows of its queries between blocks of keys, for attn_bf16.cu
 * and attn_group.cu. Scores, softmax and sums are f32; P is rounded to bf16 before P V. Which blocks are skipped leaves
 * no trace: a hidden key adds 0, and a block of them multiplies by 1. */
#ifndef VP_CUDA_ATTN_FLASH_H
#define VP_CUDA_ATTN_FLASH_H
#include "kernels/cuda/attn_tile.h"

struct vp_flash_args {
    vp_attn_job job;
    vp_rows_of<const vp_bf16> q, k, v;
    vp_rows_of<vp_bf16> out;
};

/* A warp's queries: 16 M of them, D columns of a head, against N keys at a time. */
template <int D, int M, int N> struct vp_flash_rows {
    static constexpr int WORDS = (N + 63) / 64, C = N / WORDS; /* of bits, for C columns each */
    struct pairs {
        uint32_t seen[M][WORDS], kept[M][WORDS];
        bool some; /* are seen */
    };
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

    /* Brings `top` near the largest of a row's scores, and the sum to it: only where it grows by more than 2^8, so that
     * few blocks of keys multiply the output. `by`: of the scores in s. True: grow(factor) is to follow. */
    VP_INLINE bool raise(const float s[M][N / 8][4], float by, float factor[M][2]) {
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
            sum[m][h] *= factor[m][h];
            any |= grows;
        }
        return vp_ballot(any) != 0;
    }
    VP_INLINE void grow(const float factor[M][2]) {
        VP_UNROLL
        for (int r = 0; r < 2 * M; r++) {
            const int m = r / 2, h = r % 2;
            VP_UNROLL
            for (int i = 0; i < D / 4; i++) o[m][i / 2][2 * h + i % 2] *= factor[m][h];
        }
    }

    /* s becomes P, in units of 2^top */
    VP_INLINE bool softmax(float s[M][N / 8][4], float by, float factor[M][2]) {
        const bool grows = raise(s, by, factor);
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
        return grows;
    }

    /* Which keys from key0 on the queries see, and dropout keeps. */
    VP_INLINE void ask(const vp_attn_job &job, const vp_attn_place &at, int head, int key0, bool some,
                       pairs *bits) const {
        bits->some = some;
        VP_UNROLL
        for (int i = 0; i < M * WORDS; i++) {
            const int m = i / WORDS, w = i % WORDS, query = first + 16 * m, key = key0 + C * w;
            bits->seen[m][w] = some ? vp_tile_seen<false>(job, at, query, key, C) : ~0u;
            bits->kept[m][w] = job.drop.on ? vp_tile_kept<false>(job, at.row, head, query, key, C) : ~0u;
        }
    }

    /* s: products of queries and keys become P. True: grow(factor) is to follow. */
    VP_INLINE bool weigh(const vp_attn_job &job, const pairs &bits, float s[M][N / 8][4], float factor[M][2]) {
        const bool plain = job.softcap == 0.0f && job.scale > 0.0f;
        if (!plain) scale(job, s);
        VP_UNROLL
        for (int i = 0; i < M * WORDS && bits.some; i++)
            vp_tile_pick<C>(s[i / WORDS] + i % WORDS * (C / 8), bits.seen[i / WORDS][i % WORDS], -INFINITY);
        const bool grows = softmax(s, plain ? job.scale * 1.44269504f : 1.0f, factor);
        VP_UNROLL
        for (int i = 0; i < M * WORDS && job.drop.on; i++)
            vp_tile_pick<C>(s[i / WORDS] + i % WORDS * (C / 8), bits.kept[i / WORDS][i % WORDS], 0.0f);
        return grows;
    }

    /* `tile`: 16 M rows that nobody uses any more. */
    VP_INLINE void finish(const vp_flash_args &a, const vp_attn_place &at, int head, vp_shared<vp_bf16> tile) {
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

#endif
