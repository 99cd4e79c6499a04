/* attn_bwd in bf16, without atomics. One kernel does both passes: a block owns rows of a sequence, 16 a warp, and walks
 * over blocks of other rows, the next of which is being copied while one is worked on. P and dS are recomputed where
 * they are needed, in f32, and rounded to bf16 before their products.
 *     dQ pass      own: q and dout of a query head; others: k and v of its group, ascending
 *     dK, dV pass  own: k and v of a key head; others: q and dout of the group's heads in order, ascending
 * With P = exp(score - lse) and D = drop(P): dV = D^T dO, dP = drop(dO V^T), dS = P (dP - delta) slope scale; the
 * scale, and dropout's in dV, come last. */
#include "kernels/cuda/attn_flash_bwd.h"

/* D: columns, with zeros past the head's width; KEYS: the dK, dV pass; C: columns of the gradients that a block makes;
 * BLOCKS: of a multiprocessor, which bounds registers. */
template <int D, bool KEYS> struct flash_bwd_shape {
    static constexpr int WARPS = D <= 128 ? 4 : 2, THREADS = 32 * WARPS, OWN = 16 * WARPS;
    static constexpr int OTHER = D <= 64 && !KEYS ? 64 : 32, C = D > 128 && KEYS ? 128 : D;
    static constexpr int BLOCKS = !KEYS && (D == 64 || D == 128) ? 3 : 2;
    static constexpr unsigned SHARED = (2 * OWN + 4 * OTHER) * D * sizeof(vp_bf16) + 2 * OTHER * sizeof(vp_attn_saved);
};

template <int D, bool KEYS> struct flash_bwd {
    using shape = flash_bwd_shape<D, KEYS>;
    static constexpr int OWN = shape::OWN, OTHER = shape::OTHER, THREADS = shape::THREADS, C = shape::C;

    float dx[1][C / 8][4], dv[1][KEYS ? C / 8 : 1][4]; /* of own q, or k; of own v */
    vp_shared<vp_bf16> x, y;                           /* the warp's own rows: q, dout or k, v */
    vp_shared<vp_bf16> others;                         /* [2][2][OTHER, D] */
    vp_shared<vp_attn_saved> saved;                    /* KEYS: [2][OTHER] */
    vp_attn_saved mine[2];                             /* else: of rows g, g + 8 */
    vp_attn_place at;
    int first; /* of the warp's rows */

    /* x, y: the block's own rows of both matrices */
    VP_INLINE void begin(const vp_flash_bwd_args &a, vp_rows_of<const vp_bf16> of_x, vp_rows_of<const vp_bf16> of_y,
                         int column) {
        vp_cutter cut;
        const vp_shared<vp_bf16> own = cut.take<vp_bf16>(2 * OWN * D);
        const int rows = at.n - at.first, warp = (int)(threadIdx.x / 32);
        const int64_t row = at.base + at.first;
        others = cut.take<vp_bf16>(4 * OTHER * D);
        saved = cut.take<vp_attn_saved>(2 * OTHER);
        vp_tile_fill<D, OWN, THREADS>(own, {of_x.p + row * of_x.ld + column, of_x.ld, rows, a.job.d});
        vp_tile_fill<D, OWN, THREADS>(own + OWN * D, {of_y.p + row * of_y.ld + column, of_y.ld, rows, a.job.d});
        x = own + 16 * warp * D;
        y = x + OWN * D;
        first = at.first + 16 * warp;
        vp_tile_zero<1, C>(dx);
        vp_tile_zero<1, KEYS ? C : 8>(dv);
    }

    /* Begin to copy rows from other0 on. */
    VP_INLINE void fetch(const vp_flash_bwd_args &a, vp_rows_of<const vp_bf16> of_x, vp_rows_of<const vp_bf16> of_y,
                         int column, int head, int other0, int half) {
        const int rows = at.n - other0;
        const int64_t row = at.base + other0;
        const vp_shared<vp_bf16> to = others + half * (2 * OTHER * D);
        vp_tile_fill<D, OTHER, THREADS>(to, {of_x.p + row * of_x.ld + column, of_x.ld, rows, a.job.d});
        vp_tile_fill<D, OTHER, THREADS>(to + OTHER * D, {of_y.p + row * of_y.ld + column, of_y.ld, rows, a.job.d});
        const int two = 2 * (int)threadIdx.x; /* two a copy; both are there, see attn.cu */
        const vp_attn_saved *from = a.job.saved + vp_attn_saved_at(a.job, at, head) + other0 + two;
        if (KEYS && two < OTHER) vp_copy16(saved + half * OTHER + two, from, two < rows);
    }

    /* One block of other rows; columns [column, column + C) of the gradients. */
    VP_INLINE void visit(const vp_attn_job &job, int head, int other0, int half, int column) {
        const int past = vp_smaller(first + 16, at.n);
        if (first >= at.n) return;
        const vp_attn_class sort = KEYS ? vp_attn_sort(job, at, other0, other0 + OTHER, first, past)
                                        : vp_attn_sort(job, at, first, past, other0, other0 + OTHER);
        if (sort == VP_ATTN_NONE) return;
        const int query = KEYS ? other0 : first, key = KEYS ? first : other0;
        const uint32_t seen = sort == VP_ATTN_ALL ? ~0u : vp_tile_seen<KEYS>(job, at, query, key, OTHER);
        const uint32_t kept = job.drop.on ? vp_tile_kept<KEYS>(job, at.row, head, query, key, OTHER) : ~0u;
        const vp_shared<vp_bf16> other_x = others + half * (2 * OTHER * D), other_y = other_x + OTHER * D;
        float s[1][OTHER / 8][4], dp[1][OTHER / 8][4];
        vp_tile_zero<1, OTHER>(s);
        vp_tile_zero<1, OTHER>(dp);
        vp_tile_product<D, 1, OTHER>(s, x, other_x);
        vp_tile_product<D, 1, OTHER>(dp, y, other_y);
        vp_flash_derive<KEYS, OTHER>(job, s[0], dp[0], seen, kept, saved + half * OTHER, mine);
        vp_tile_mix<D, C, 1, OTHER>(dx, dp, other_x + column);
        if constexpr (KEYS) vp_tile_mix<D, C, 1, OTHER>(dv, s, other_y + column);
    }

    /* Rows of a gradient from column `column` on; the warp's own rows are of no use any more. */
    VP_INLINE void store(vp_rows_of<vp_bf16> to, int column, int cols, const float (*d)[4], float by) const {
        const float both[2] = {by, by};
        if (first >= at.n) return;
        to.p += (at.base + first) * to.ld + column;
        vp_tile_store<C>(x, d, both, to, at.n - first, cols);
    }
};

template <int D>
VP_KERNEL(flash_bwd_shape<D, false>::THREADS, flash_bwd_shape<D, false>::BLOCKS)
flash_dq_kernel(vp_flash_bwd_args a) {
    flash_bwd<D, false> own;
    if (!vp_attn_find(a.job, own.OWN, (int)(gridDim.x - 1 - blockIdx.x), &own.at)) return;
    const int head = (int)blockIdx.y, column = head * a.job.d, group = head / a.job.share * a.job.d;
    const vp_attn_range blocks = vp_attn_key_blocks(a.job, own.at, own.at.first, own.at.first + own.OWN, own.OTHER);
    own.begin(a, a.q, a.dout, column);
    own.fetch(a, a.k, a.v, group, head, blocks.from * own.OTHER, blocks.from % 2);
    vp_copy_commit();
    vp_flash_mine(own.mine, a.job, own.at, head, own.first);
    for (int block = blocks.from; block < blocks.past; block++) {
        vp_copy_wait<0>();
        vp_barrier();
        if (block + 1 < blocks.past) own.fetch(a, a.k, a.v, group, head, (block + 1) * own.OTHER, (block + 1) % 2);
        vp_copy_commit();
        own.visit(a.job, head, block * own.OTHER, block % 2, 0);
    }
    vp_copy_wait<0>();
    own.store(a.dq, column, a.job.d, own.dx[0], a.job.scale);
}

template <int D>
VP_KERNEL(flash_bwd_shape<D, true>::THREADS, flash_bwd_shape<D, true>::BLOCKS)
flash_dkv_kernel(vp_flash_bwd_args a) {
    flash_bwd<D, true> own;
    if (!vp_attn_find(a.job, own.OWN, (int)blockIdx.x, &own.at)) return;
    const int group = (int)blockIdx.y, d = a.job.d, column = group * d, part = (int)blockIdx.z * own.C;
    const vp_attn_range blocks = vp_attn_query_blocks(a.job, own.at, own.at.first, own.at.first + own.OWN, own.OTHER);
    int head = group * a.job.share, block = blocks.from;
    own.begin(a, a.k, a.v, column);
    own.fetch(a, a.q, a.dout, head * d, head, block * own.OTHER, 0);
    vp_copy_commit();
    for (int half = 0; head < (group + 1) * a.job.share; half = 1 - half) {
        const int next = block + 1 < blocks.past ? block + 1 : blocks.from, then = head + (next <= block);
        vp_copy_wait<0>();
        vp_barrier();
        if (then < (group + 1) * a.job.share) own.fetch(a, a.q, a.dout, then * d, then, next * own.OTHER, 1 - half);
        vp_copy_commit();
        own.visit(a.job, head, block * own.OTHER, half, part);
        head = then;
        block = next;
    }
    vp_copy_wait<0>();
    const float kept = a.job.drop.on ? a.job.drop.scale : 1.0f;
    own.store(a.dk, column + part, d - part, own.dx[0], a.job.scale);
    own.store(a.dv, column + part, d - part, own.dv[0], kept);
}

template <int D> static int launch(vp_queue *q, const vp_flash_bwd_args &a, const vp_attn_op *op) {
    using queries = flash_bwd_shape<D, false>;
    using keys = flash_bwd_shape<D, true>;
    const int64_t T = op->batch->T, B = op->batch->B;
    VP_TRY(vp_launch(q, "attn_bwd", flash_dq_kernel<D>, dim3(vp_attn_blocks(T, B, queries::OWN), (unsigned)op->heads),
                     queries::THREADS, queries::SHARED, a));
    return vp_launch(q, "attn_bwd", flash_dkv_kernel<D>,
                     dim3(vp_attn_blocks(T, B, keys::OWN), (unsigned)op->groups, D / keys::C), keys::THREADS,
                     keys::SHARED, a);
}

int vp_attn_bf16_bwd(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op) {
    const vp_flash_bwd_args a = {*job, op->q, op->k, op->v, *op->dout, *op->dq, *op->dk, *op->dv};
    return vp_tile_width(job->d, [&](auto width) { return launch<width.value>(q, a, op); });
}
