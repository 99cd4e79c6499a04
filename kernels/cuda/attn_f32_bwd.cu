/* attn_bwd in f32, without atomics. One kernel does both passes: a block owns rows of a sequence and walks over blocks
 * of 32 other rows, whose products with its own a lane has. dQ pass      own: q and dout of a query head; others: k and
 * v of its group, ascending dK, dV pass  own: k and v of a key head; others: q and dout of the group's heads in order,
 * ascending With P = exp(score - lse) and D = drop(P): dV = D^T dO, dP = drop(dO V^T), dS = P (dP - delta) slope scale.
 */
#include "kernels/cuda/attn_f32.h"

struct plain_bwd_args {
    vp_attn_job job;
    vp_rows_of<const float> q, k, v, dout;
    vp_rows_of<float> dq, dk, dv;
};

/* ROWS: of a warp; WIDE: columns of a lane. */
template <bool KEYS, int ROWS, int WIDE> struct plain_bwd {
    static constexpr int OWN = ROWS * VP_F32_WARPS, OTHER = VP_F32_KEYS;
    float dx[ROWS][WIDE], dv[ROWS][WIDE]; /* of own q, or k; of own v */
    vp_shared<float> own_x, own_y;        /* [OWN, vp_f32_apart]: q, dout or k, v */
    vp_shared<float> other, p, ds;        /* [OTHER, d + 1], [OTHER, ROWS] of the warp */
    vp_attn_place at;
    int first; /* of the warp's rows */

    VP_INLINE void cut(int d) {
        vp_cutter cut;
        const int warp = (int)(threadIdx.x / 32);
        own_x = cut.take<float>((unsigned)(OWN * vp_f32_apart(d)));
        own_y = cut.take<float>((unsigned)(OWN * vp_f32_apart(d)));
        other = cut.take<float>((unsigned)(OTHER * (d + 1)));
        p = cut.take<float>(OTHER * OWN) + warp * OTHER * ROWS;
        ds = cut.take<float>(OTHER * OWN) + warp * OTHER * ROWS;
        first = at.first + ROWS * warp;
        VP_UNROLL
        for (int i = 0; i < ROWS * WIDE; i++) dx[i / WIDE][i % WIDE] = dv[i / WIDE][i % WIDE] = 0.0f;
    }

    /* s, dp: q . k and dout . v of own row first + r and other row other0 + lane; they become drop(P) and dS. */
    VP_INLINE void derive(const vp_attn_job &job, int head, int other0, float s[ROWS], float dp[ROWS]) const {
        const int lane = (int)(threadIdx.x % 32);
        const vp_attn_saved *saved = job.saved + vp_attn_saved_at(job, at, head);
        uint32_t keep = ~0u;
        if (job.drop.on && !KEYS) keep = vp_f32_keep<ROWS>(job, at, head, first, other0);
        if (job.drop.on && KEYS)
            keep =
                vp_drop_keys(job.drop, at.row, (uint32_t)head, (uint32_t)(other0 + lane), (uint32_t)(first / 8 * 8)) >>
                first % 8;
        VP_UNROLL
        for (int r = 0; r < ROWS; r++) {
            const int query = KEYS ? other0 + lane : first + r, key = KEYS ? first + r : other0 + lane;
            const vp_f32_scored scored = vp_f32_score(job, s[r]);
            const bool seen = vp_attn_sees(job, at, query, key), kept = keep >> r & 1u;
            const vp_attn_saved of = seen ? saved[query] : vp_attn_saved{0.0f, 0.0f};
            const float by = !job.drop.on ? 1.0f : kept ? job.drop.scale : 0.0f;
            const float prob = seen ? v_exp(scored.score - of.lse) : 0.0f;
            s[r] = prob * by;
            dp[r] = prob * (dp[r] * by - of.delta) * (scored.slope * job.scale);
        }
    }

    /* One block of other rows; x, y: q and dout, or k and v, at its first row. */
    VP_INLINE void visit(const plain_bwd_args &a, int head, int other0, const float *x, int64_t ldx, const float *y,
                         int64_t ldy) {
        const int d = a.job.d, rows = at.n - other0, warp = (int)(threadIdx.x / 32);
        float s[ROWS] = {}, dp[ROWS] = {};
        vp_barrier();
        vp_f32_fill(other, d + 1, OTHER, y, ldy, rows, d);
        vp_barrier();
        vp_f32_product<ROWS>(dp, own_y + ROWS * warp * vp_f32_apart(d), other, d);
        vp_barrier();
        vp_f32_fill(other, d + 1, OTHER, x, ldx, rows, d);
        vp_barrier();
        vp_f32_product<ROWS>(s, own_x + ROWS * warp * vp_f32_apart(d), other, d);
        derive(a.job, head, other0, s, dp);
        vp_f32_share<ROWS>(ds, dp);
        vp_f32_mix<ROWS, WIDE>(dx, ds, other, d);
        if (!KEYS) return;
        vp_f32_share<ROWS>(p, s);
        vp_barrier();
        vp_f32_fill(other, d + 1, OTHER, y, ldy, rows, d);
        vp_barrier();
        vp_f32_mix<ROWS, WIDE>(dv, p, other, d);
    }

    VP_INLINE void store(const float from[ROWS][WIDE], vp_rows_of<float> to, int column, int d) const {
        const int lane = (int)(threadIdx.x % 32);
        VP_UNROLL
        for (int i = 0; i < ROWS * WIDE; i++) {
            const int r = i / WIDE, c = i % WIDE;
            if (first + r < at.n && lane + 32 * c < d)
                to.p[(at.base + first + r) * to.ld + column + lane + 32 * c] = from[r][c] + 0.0f;
        }
    }
};

template <int ROWS, int WIDE> VP_KERNEL(VP_F32_THREADS, 4) plain_dq_kernel(plain_bwd_args a) {
    plain_bwd<false, ROWS, WIDE> own;
    if (!vp_attn_find(a.job, own.OWN, (int)(gridDim.x - 1 - blockIdx.x), &own.at)) return;
    const int head = (int)blockIdx.y, d = a.job.d, column = head * d, group = head / a.job.share * d;
    const int64_t base = own.at.base, row = base + own.at.first;
    own.cut(d);
    vp_f32_fill(own.own_x, vp_f32_apart(d), own.OWN, a.q.p + row * a.q.ld + column, a.q.ld, own.at.n - own.at.first, d);
    vp_f32_fill(own.own_y, vp_f32_apart(d), own.OWN, a.dout.p + row * a.dout.ld + column, a.dout.ld,
                own.at.n - own.at.first, d);
    const vp_attn_range blocks = vp_attn_key_blocks(a.job, own.at, own.at.first, own.at.first + own.OWN, own.OTHER);
    for (int block = blocks.from; block < blocks.past; block++) {
        const int64_t from = base + block * own.OTHER;
        own.visit(a, head, block * own.OTHER, a.k.p + from * a.k.ld + group, a.k.ld, a.v.p + from * a.v.ld + group,
                  a.v.ld);
    }
    own.store(own.dx, a.dq, column, d);
}

template <int ROWS, int WIDE> VP_KERNEL(VP_F32_THREADS, 4) plain_dkv_kernel(plain_bwd_args a) {
    plain_bwd<true, ROWS, WIDE> own;
    if (!vp_attn_find(a.job, own.OWN, (int)blockIdx.x, &own.at)) return;
    const int group = (int)blockIdx.y, d = a.job.d, column = group * d;
    const int64_t base = own.at.base, row = base + own.at.first;
    own.cut(d);
    vp_f32_fill(own.own_x, vp_f32_apart(d), own.OWN, a.k.p + row * a.k.ld + column, a.k.ld, own.at.n - own.at.first, d);
    vp_f32_fill(own.own_y, vp_f32_apart(d), own.OWN, a.v.p + row * a.v.ld + column, a.v.ld, own.at.n - own.at.first, d);
    const vp_attn_range blocks = vp_attn_query_blocks(a.job, own.at, own.at.first, own.at.first + own.OWN, own.OTHER);
    for (int head = group * a.job.share; head < (group + 1) * a.job.share; head++)
        for (int block = blocks.from; block < blocks.past; block++) {
            const int64_t from = base + block * own.OTHER;
            own.visit(a, head, block * own.OTHER, a.q.p + from * a.q.ld + head * d, a.q.ld,
                      a.dout.p + from * a.dout.ld + head * d, a.dout.ld);
        }
    own.store(own.dx, a.dk, column, d);
    own.store(own.dv, a.dv, column, d);
}

int vp_attn_f32_bwd(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op) {
    const plain_bwd_args a = {*job, op->q, op->k, op->v, *op->dout, *op->dq, *op->dk, *op->dv};
    return vp_f32_width(op->d, [&](auto wide) {
        constexpr int WIDE = wide.value, ROWS = WIDE > 4 ? 2 : 4;
        const int own = ROWS * VP_F32_WARPS;
        const size_t shared = sizeof(float) * (2 * own * (size_t)vp_f32_apart(op->d) +
                                               VP_F32_KEYS * (size_t)(op->d + 1) + 2 * VP_F32_KEYS * (size_t)own + 16);
        const unsigned blocks = vp_attn_blocks(op->batch->T, op->batch->B, own);
        VP_TRY(vp_launch(q, "attn_bwd", plain_dq_kernel<ROWS, WIDE>, dim3(blocks, (unsigned)op->heads), VP_F32_THREADS,
                         shared, a));
        return vp_launch(q, "attn_bwd", plain_dkv_kernel<ROWS, WIDE>, dim3(blocks, (unsigned)op->groups),
                         VP_F32_THREADS, shared, a);
    });
}
