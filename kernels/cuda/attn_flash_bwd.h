/* What both backward kernels of attention in bf16 share: attn_bf16_bwd.cu and attn_group_bwd.cu. */
#ifndef VP_CUDA_ATTN_FLASH_BWD_H
#define VP_CUDA_ATTN_FLASH_BWD_H
#include "kernels/cuda/attn_tile.h"

struct vp_flash_bwd_args {
    vp_attn_job job;
    vp_rows_of<const vp_bf16> q, k, v, dout;
    vp_rows_of<vp_bf16> dq, dk, dv;
};

/* What the backward saved of rows g and g + 8 of 16 queries from `first` on. */
VP_DEVICE void vp_flash_mine(vp_attn_saved mine[2], const vp_attn_job &job, const vp_attn_place &at, int head,
                             int first) {
    const vp_attn_saved *saved = job.saved + vp_attn_saved_at(job, at, head);
    VP_UNROLL
    for (int h = 0; h < 2; h++) {
        const int i = first + (int)(threadIdx.x % 32) / 4 + 8 * h;
        mine[h] = i < at.n ? saved[i] : vp_attn_saved{0.0f, 0.0f};
    }
}

/* s: scores [16, OTHER] of a warp become P, dp: dO V^T becomes dS but for the scale. KEYS: rows are keys, columns
 * queries with what was `saved` of them; else rows are queries g and g + 8, with `mine`. PLAIN: all pairs are seen and
 * kept, and scores have no cap. */
template <bool KEYS, int OTHER, bool PLAIN>
VP_DEVICE void vp_flash_slopes(const vp_attn_job &job, float (*s)[4], float (*dp)[4], uint32_t seen, uint32_t kept,
                               vp_shared<vp_attn_saved> saved, const vp_attn_saved mine[2]) {
    const int t = (int)(threadIdx.x % 4);
    const bool capped = !PLAIN && job.softcap > 0.0f;
    const float by = capped ? 1.44269504f : job.scale * 1.44269504f, dropped = job.drop.on ? job.drop.scale : 1.0f;
    VP_UNROLL
    for (int i = 0; i < OTHER / 2; i++) {
        const vp_attn_saved of = KEYS ? (vp_attn_saved)saved[i / 4 * 8 + 2 * t + i % 2] : mine[i / 2 % 2];
        float &z = s[i / 4][i % 4], &d = dp[i / 4][i % 4], slope = 1.0f;
        if (capped) {
            const float tanh = vp_tile_tanh(z * job.scale * job.uncap);
            z = job.softcap * tanh;
            slope = 1.0f - tanh * tanh;
        }
        const float p = PLAIN || seen >> i & 1u ? vp_exp2(fmaf(z, by, -of.lse)) : 0.0f;
        const bool keep = PLAIN || kept >> i & 1u;
        z = keep ? p : 0.0f;
        d = p * (PLAIN ? d - of.delta : fmaf(d, keep ? dropped : 0.0f, -of.delta) * slope);
    }
}
template <bool KEYS, int OTHER>
VP_DEVICE void vp_flash_derive(const vp_attn_job &job, float (*s)[4], float (*dp)[4], uint32_t seen, uint32_t kept,
                               vp_shared<vp_attn_saved> saved, const vp_attn_saved mine[2]) {
    const bool asked = ((seen & kept) << (32 - OTHER / 2)) != ~0u << (32 - OTHER / 2);
    if (vp_ballot(asked) == 0 && !job.drop.on && job.softcap == 0.0f)
        vp_flash_slopes<KEYS, OTHER, true>(job, s, dp, seen, kept, saved, mine);
    else
        vp_flash_slopes<KEYS, OTHER, false>(job, s, dp, seen, kept, saved, mine);
}

#endif
