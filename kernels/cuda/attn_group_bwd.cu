/* attn_bwd in bf16 on sm_90, for sequences that are long: the two passes of attn_bf16_bwd.cu by products of warp
 * groups. A block owns 128 rows, a group 64 of them; the 64 other rows that come next are being copied while these are
 * worked on. */
#include "kernels/cuda/attn_flash_bwd.h"
#include "kernels/cuda/attn_group.h"

enum { GROUPS = 2, GROUP_THREADS = 128 * GROUPS, OWN = 64 * GROUPS, OTHER = 64 };

template <int D> constexpr unsigned group_bwd_shared() {
    return (2 * OWN + 4 * OTHER) * D * sizeof(vp_bf16) + 2 * OTHER * sizeof(vp_attn_saved);
}

/* Rows of a matrix that a block reads, from a column on. */
struct group_bwd_rows {
    vp_rows_of<const vp_bf16> m;
    int column;
};

template <int D, bool KEYS> struct group_bwd {
    float dx[1][D / 8][4], dv[1][KEYS ? D / 8 : 1][4]; /* of own q, or k; of own v */
    vp_shared<vp_bf16> tile, x, y;                     /* own rows of both matrices; this group's */
    vp_shared<vp_bf16> others;                         /* [2][2][OTHER, D] */
    vp_shared<vp_attn_saved> saved;                    /* KEYS: [2][OTHER] */
    vp_attn_saved mine[2];                             /* else: of rows g, g + 8 */
    vp_attn_place at;
    int first; /* of the warp's rows */

    template <int ROWS> VP_INLINE void fill(vp_shared<vp_bf16> to, const group_bwd_rows &from, int row0, int d) const {
        const vp_bf16 *p = from.m.p + (at.base + row0) * from.m.ld + from.column;
        vp_slab_fill<D, ROWS, GROUP_THREADS>(to, {p, from.m.ld, at.n - row0, d});
    }

    VP_INLINE void begin(const vp_attn_job &job, const group_bwd_rows &of_x, const group_bwd_rows &of_y) {
        vp_cutter cut;
        const int warp = (int)(threadIdx.x / 32);
        tile = cut.take<vp_bf16>(2 * OWN * D);
        others = cut.take<vp_bf16>(4 * OTHER * D);
        saved = cut.take<vp_attn_saved>(2 * OTHER);
        fill<OWN>(tile, of_x, at.first, job.d);
        fill<OWN>(tile + OWN * D, of_y, at.first, job.d);
        x = tile + warp / 4 * (64 * 64);
        y = x + OWN * D;
        first = at.first + 16 * warp;
        vp_tile_zero<1, D>(dx);
        vp_tile_zero<1, KEYS ? D : 8>(dv);
    }

    /* Begin to copy rows from other0 on, which are a group of copies. */
    VP_INLINE void fetch(const vp_attn_job &job, const group_bwd_rows &of_x, const group_bwd_rows &of_y, int head,
                         int other0, int half) const {
        const vp_shared<vp_bf16> to = others + half * (2 * OTHER * D);
        fill<OTHER>(to, of_x, other0, job.d);
        fill<OTHER>(to + OTHER * D, of_y, other0, job.d);
        const int two = 2 * (int)threadIdx.x; /* two a copy; both are there, see attn.cu */
        const vp_attn_saved *from = job.saved + vp_attn_saved_at(job, at, head) + other0 + two;
        if (KEYS && two < OTHER) vp_copy16(saved + half * OTHER + two, from, two < at.n - other0);
    }

    /* What was copied is there for everybody's products, and nobody reads what the next copies replace. */
    VP_INLINE void meet() const {
        vp_copy_wait<0>();
        vp_group_publish();
        vp_barrier();
    }

    /* Which pairs of the warp's rows and others see each other. */
    VP_INLINE uint32_t see(const vp_attn_job &job, int query, int key) const {
        const int past = vp_smaller(first + 16, at.n);
        if (first >= at.n) return 0;
        const vp_attn_class sort = KEYS ? vp_attn_sort(job, at, query, query + OTHER, first, past)
                                        : vp_attn_sort(job, at, first, past, key, key + OTHER);
        if (sort == VP_ATTN_SOME) return vp_tile_seen<KEYS>(job, at, query, key, OTHER);
        return sort == VP_ATTN_ALL ? ~0u : 0u;
    }

    /* One block of other rows. The groups' warps stay together: rows past the end see nothing. */
    VP_INLINE void visit(const vp_attn_job &job, int head, int other0, int half) {
        const vp_shared<vp_bf16> other_x = others + half * (2 * OTHER * D), other_y = other_x + OTHER * D;
        const int query = KEYS ? other0 : first, key = KEYS ? first : other0;
        float s[1][OTHER / 8][4], dp[1][OTHER / 8][4];
        uint32_t p[OTHER / 16][4], ds[OTHER / 16][4];
        vp_group_begin();
        vp_group_product<D, OWN, OTHER>(s[0], x, other_x);
        vp_group_product<D, OWN, OTHER>(dp[0], y, other_y);
        vp_group_commit();
        const uint32_t seen = see(job, query, key);
        const uint32_t kept = job.drop.on ? vp_tile_kept<KEYS>(job, at.row, head, query, key, OTHER) : ~0u;
        vp_group_wait<0>();
        vp_group_hold<OTHER>(s[0]);
        vp_group_hold<OTHER>(dp[0]);
        vp_flash_derive<KEYS, OTHER>(job, s[0], dp[0], seen, kept, saved + half * OTHER, mine);
        vp_group_round<OTHER>(p, s[0]);
        vp_group_round<OTHER>(ds, dp[0]);
        vp_group_hold<D>(dx[0]);
        vp_group_hold<KEYS ? D : 8>(dv[0]);
        vp_group_begin();
        if constexpr (KEYS) vp_group_mix<D, OTHER>(dv[0], p, other_y);
        vp_group_mix<D, OTHER>(dx[0], ds, other_x);
        vp_group_commit();
        vp_group_wait<0>();
        vp_group_hold<D>(dx[0]);
        vp_group_hold<KEYS ? D : 8>(dv[0]);
    }

    /* A gradient from column `column` on; nobody reads own rows any more. */
    VP_INLINE void store(vp_rows_of<vp_bf16> to, int column, int cols, const float (*d)[4], float by) const {
        const float both[2] = {by, by};
        if (first >= at.n) return;
        to.p += (at.base + first) * to.ld + column;
        vp_tile_store<D>(tile + (int)(threadIdx.x / 32) * (16 * D), d, both, to, at.n - first, cols);
    }
};

template <int D> VP_KERNEL(GROUP_THREADS, 1) group_dq_kernel(vp_flash_bwd_args a) {
    group_bwd<D, false> own;
    if (!vp_attn_find(a.job, OWN, (int)(gridDim.x - 1 - blockIdx.x), &own.at)) return;
    const int head = (int)blockIdx.y, column = head * a.job.d, group = head / a.job.share * a.job.d;
    const group_bwd_rows keys = {a.k, group}, values = {a.v, group};
    const vp_attn_range blocks = vp_attn_key_blocks(a.job, own.at, own.at.first, own.at.first + OWN, OTHER);
    own.begin(a.job, {a.q, column}, {a.dout, column});
    own.fetch(a.job, keys, values, head, blocks.from * OTHER, blocks.from % 2);
    vp_copy_commit();
    vp_flash_mine(own.mine, a.job, own.at, head, own.first);
    for (int block = blocks.from; block < blocks.past; block++) {
        own.meet();
        if (block + 1 < blocks.past) own.fetch(a.job, keys, values, head, (block + 1) * OTHER, (block + 1) % 2);
        vp_copy_commit();
        own.visit(a.job, head, block * OTHER, block % 2);
    }
    vp_copy_wait<0>();
    vp_barrier();
    own.store(a.dq, column, a.job.d, own.dx[0], a.job.scale);
}

template <int D> VP_KERNEL(GROUP_THREADS, 1) group_dkv_kernel(vp_flash_bwd_args a) {
    group_bwd<D, true> own;
    if (!vp_attn_find(a.job, OWN, (int)blockIdx.x, &own.at)) return;
    const int group = (int)blockIdx.y, d = a.job.d, column = group * d, heads = (group + 1) * a.job.share;
    const vp_attn_range blocks = vp_attn_query_blocks(a.job, own.at, own.at.first, own.at.first + OWN, OTHER);
    int head = group * a.job.share, block = blocks.from;
    own.begin(a.job, {a.k, column}, {a.v, column});
    own.fetch(a.job, {a.q, head * d}, {a.dout, head * d}, head, block * OTHER, 0);
    vp_copy_commit();
    for (int half = 0; head < heads; half = 1 - half) {
        const int next = block + 1 < blocks.past ? block + 1 : blocks.from, then = head + (next <= block);
        own.meet();
        if (then < heads) own.fetch(a.job, {a.q, then * d}, {a.dout, then * d}, then, next * OTHER, 1 - half);
        vp_copy_commit();
        own.visit(a.job, head, block * OTHER, half);
        head = then;
        block = next;
    }
    vp_copy_wait<0>();
    vp_barrier();
    own.store(a.dk, column, d, own.dx[0], a.job.scale);
    own.store(a.dv, column, d, own.dv[0], a.job.drop.on ? a.job.drop.scale : 1.0f);
}

template <int D> static int launch(vp_queue *q, const vp_flash_bwd_args &a, const vp_attn_op *op) {
    const unsigned blocks = vp_attn_blocks(op->batch->T, op->batch->B, OWN), shared = group_bwd_shared<D>();
    VP_TRY(vp_launch(q, "attn_bwd", group_dq_kernel<D>, dim3(blocks, (unsigned)op->heads), GROUP_THREADS, shared, a));
    return vp_launch(q, "attn_bwd", group_dkv_kernel<D>, dim3(blocks, (unsigned)op->groups), GROUP_THREADS, shared, a);
}

int vp_attn_group_bwd(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op) {
    const vp_flash_bwd_args a = {*job, op->q, op->k, op->v, *op->dout, *op->dq, *op->dk, *op->dv};
    return job->d <= 64 ? launch<64>(q, a, op) : launch<128>(q, a, op);
}
