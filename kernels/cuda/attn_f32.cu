/* attn in f32. A warp owns 8 queries of a head; a lane owns one key of a block of 32 for scores, and every 32nd column
 * of the output. Blocks of keys come in ascending order with an online softmax; sums are chains of fused products in
 * order of columns, keys and lanes. Which blocks are skipped leaves no trace. */
#include "kernels/cuda/attn.h"
#include "kernels/cuda/attn_f32.h"

constexpr int ROWS = 8, QUERIES = ROWS * VP_F32_WARPS;

struct plain_args {
    vp_attn_job job;
    vp_rows_of<const float> q, k, v;
    vp_rows_of<float> out;
};

/* A warp's queries; WIDE: columns of a lane. */
template <int WIDE> struct plain_rows {
    float o[ROWS][WIDE], top[ROWS], sum[ROWS]; /* sum: of this lane's keys */
    int first;

    VP_INLINE void clear() {
        VP_UNROLL
        for (int r = 0; r < ROWS; r++) {
            top[r] = -INFINITY;
            sum[r] = 0.0f;
            VP_UNROLL
            for (int c = 0; c < WIDE; c++) o[r][c] = 0.0f;
        }
    }

    /* s becomes P */
    VP_INLINE void softmax(const plain_args &a, const vp_attn_place &at, int head, int key0, float s[ROWS]) {
        const int key = key0 + (int)(threadIdx.x % 32);
        uint32_t keep = ~0u;
        if (a.job.drop.on) keep = vp_f32_keep<ROWS>(a.job, at, head, first, key0);
        VP_UNROLL
        for (int r = 0; r < ROWS; r++) {
            float x = vp_f32_score(a.job, s[r]).score;
            if (!vp_attn_sees(a.job, at, first + r, key)) x = -INFINITY;
            const float now = vp_max(top[r], vp_warp_max(x)), shift = now == -INFINITY ? 0.0f : now;
            const float factor = v_exp(top[r] - shift), p = v_exp(x - shift);
            top[r] = now;
            sum[r] = fmaf(sum[r], factor, p);
            s[r] = keep >> r & 1u ? p : 0.0f;
            VP_UNROLL
            for (int c = 0; c < WIDE; c++) o[r][c] *= factor;
        }
    }

    VP_INLINE void finish(const plain_args &a, const vp_attn_place &at, int head) const {
        const int lane = (int)(threadIdx.x % 32), d = a.job.d;
        const float kept = a.job.drop.on ? a.job.drop.scale : 1.0f;
        VP_UNROLL
        for (int r = 0; r < ROWS; r++) {
            const float all = vp_warp_sum(sum[r]), by = all == 0.0f ? 0.0f : kept / all;
            const int64_t t = at.base + first + r;
            if (first + r >= at.n) continue; /* the whole warp */
            if (a.job.lse && lane == 0) a.job.lse[t * a.job.heads + head] = vp_lse(top[r], (double)all);
            VP_UNROLL
            for (int c = 0; c < WIDE; c++) /* + 0 turns -0, which a skipped block would not have left, into 0 */
                if (lane + 32 * c < d) a.out.p[t * a.out.ld + head * d + lane + 32 * c] = o[r][c] * by + 0.0f;
        }
    }
};

template <int WIDE> VP_KERNEL(VP_F32_THREADS, 2) plain_kernel(plain_args a) {
    vp_attn_place at; /* the longest rows of a causal head first */
    if (!vp_attn_find(a.job, QUERIES, (int)(gridDim.x - 1 - blockIdx.x), &at)) return;
    const int head = (int)blockIdx.y, group = head / a.job.share, d = a.job.d, warp = (int)(threadIdx.x / 32);
    vp_cutter cut;
    const vp_shared<float> q = cut.take<float>((unsigned)(QUERIES * vp_f32_apart(d)));
    const vp_shared<float> kv = cut.take<float>((unsigned)(VP_F32_KEYS * (d + 1)));
    const vp_shared<float> mine = cut.take<float>(QUERIES * VP_F32_KEYS) + warp * ROWS * VP_F32_KEYS;
    vp_f32_fill(q, vp_f32_apart(d), QUERIES, a.q.p + (at.base + at.first) * a.q.ld + head * d, a.q.ld, at.n - at.first,
                d);
    const vp_attn_range blocks = vp_attn_key_blocks(a.job, at, at.first, at.first + QUERIES, VP_F32_KEYS);
    plain_rows<WIDE> rows;
    rows.first = at.first + ROWS * warp;
    rows.clear();
    for (int block = blocks.from; block < blocks.past; block++) {
        const int key0 = block * VP_F32_KEYS;
        const int64_t from = at.base + key0;
        float s[ROWS] = {};
        vp_barrier();
        vp_f32_fill(kv, d + 1, VP_F32_KEYS, a.k.p + from * a.k.ld + group * d, a.k.ld, at.n - key0, d);
        vp_barrier();
        vp_f32_product<ROWS>(s, q + ROWS * warp * vp_f32_apart(d), kv, d);
        rows.softmax(a, at, head, key0, s);
        vp_f32_share<ROWS>(mine, s);
        vp_barrier();
        vp_f32_fill(kv, d + 1, VP_F32_KEYS, a.v.p + from * a.v.ld + group * d, a.v.ld, at.n - key0, d);
        vp_barrier();
        vp_f32_mix<ROWS, WIDE>(rows.o, mine, kv, d);
    }
    rows.finish(a, at, head);
}

int vp_attn_f32(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op) {
    const plain_args a = {*job, op->q, op->k, op->v, op->out};
    const dim3 grid(vp_attn_blocks(op->batch->T, op->batch->B, QUERIES), (unsigned)op->heads);
    const size_t floats = QUERIES * (size_t)(vp_f32_apart(op->d) + VP_F32_KEYS) + VP_F32_KEYS * (size_t)(op->d + 1);
    return vp_f32_width(op->d, [&](auto wide) {
        return vp_launch(q, "attn", plain_kernel<wide.value>, grid, VP_F32_THREADS, (floats + 12) * sizeof(float), a);
    });
}
