/* Tiles of f32 rows in shared memory and products of them, for attn_f32*.cu. A warp owns ROWS rows, lane l the l-th of
 * 32 other rows, or columns l, l + 32, ... of what is summed. */
#ifndef VP_CUDA_ATTN_F32_H
#define VP_CUDA_ATTN_F32_H
#include "kernels/cuda/attn.h"
#include "kernels/cuda/vec.h"
#include <type_traits>

constexpr int VP_F32_WARPS = 4, VP_F32_THREADS = 32 * VP_F32_WARPS, VP_F32_KEYS = 32;

/* Call f with the columns that a lane has of heads of width d. */
template <class F> int vp_f32_width(int d, F f) {
    if (d <= 64) return f(std::integral_constant<int, 2>());
    if (d <= 128) return f(std::integral_constant<int, 4>());
    return f(std::integral_constant<int, 8>());
}

/* Rows of a matrix into a tile, whose rows are `ld` apart; zeros past the end. */
VP_DEVICE void vp_f32_fill(vp_shared<float> tile, int ld, int height, const float *p, int64_t from_ld, int rows,
                           int d) {
    for (int row = (int)(threadIdx.x / 32); row < height; row += VP_F32_WARPS)
        for (int c = (int)(threadIdx.x % 32); c < d; c += 32)
            tile[row * ld + c] = row < rows ? p[row * from_ld + c] : 0.0f;
}

/* Own rows are a multiple of 4 apart, so that 4 columns are read at once. */
struct alignas(16) vp_floats4 {
    float of[4];
};
VP_ANYWHERE int vp_f32_apart(int d) {
    return (d + 3) / 4 * 4;
}

/* s[r] += x_r . y_lane; x [ROWS, d] is the warp's own, y [32, d] has rows d + 1 apart. */
template <int ROWS> VP_DEVICE void vp_f32_product(float s[ROWS], vp_shared<float> x, vp_shared<float> y, int d) {
    const int apart = vp_f32_apart(d);
    const vp_shared<float> other = y + (int)(threadIdx.x % 32) * (d + 1);
    int c = 0;
    for (; c + 4 <= d; c += 4) {
        float b[4];
        VP_UNROLL
        for (int i = 0; i < 4; i++) b[i] = other[c + i];
        VP_UNROLL
        for (int r = 0; r < ROWS; r++) {
            const vp_floats4 a = vp_shared_as<vp_floats4>(x + r * apart + c)[0];
            VP_UNROLL
            for (int i = 0; i < 4; i++) s[r] = fmaf(a.of[i], b[i], s[r]);
        }
    }
    for (; c < d; c++) {
        const float b = other[c];
        VP_UNROLL
        for (int r = 0; r < ROWS; r++) s[r] = fmaf(x[r * apart + c], b, s[r]);
    }
}

/* to[lane][r] = s[r]: [32, ROWS] of the warp alone, then seen by all its lanes. */
template <int ROWS> VP_DEVICE void vp_f32_share(vp_shared<float> to, const float s[ROWS]) {
    const int lane = (int)(threadIdx.x % 32);
    vp_warp_barrier();
    VP_UNROLL
    for (int r = 0; r < ROWS; r++) to[lane * ROWS + r] = s[r];
    vp_warp_barrier();
}

/* o[r][c] += sum over j of p[j][r] y[j][lane + 32 c]; p: vp_f32_share's, y [32, d] has rows d + 1 apart. */
template <int ROWS, int WIDE>
VP_DEVICE void vp_f32_mix(float o[ROWS][WIDE], vp_shared<float> p, vp_shared<float> y, int d) {
    const int lane = (int)(threadIdx.x % 32);
    for (int j = 0; j < VP_F32_KEYS; j++) {
        float part[ROWS];
        VP_UNROLL
        for (int r = 0; r < ROWS; r++) part[r] = p[j * ROWS + r];
        VP_UNROLL
        for (int c = 0; c < WIDE; c++) {
            if (lane + 32 * c >= d) continue;
            const float b = y[j * (d + 1) + lane + 32 * c];
            VP_UNROLL
            for (int r = 0; r < ROWS; r++) o[r][c] = fmaf(part[r], b, o[r][c]);
        }
    }
}

/* A score from q . k, scaled and capped, and what its derivative has beyond the scale. */
struct vp_f32_scored {
    float score, slope;
};
VP_DEVICE vp_f32_scored vp_f32_score(const vp_attn_job &job, float dot) {
    const float a = dot * job.scale;
    if (job.softcap == 0.0f) return {a, 1.0f};
    const float t = v_tanh(a / job.softcap);
    return {job.softcap * t, 1.0f - t * t};
}

/* Bit r: dropout keeps key key0 + lane of query first + r, r < ROWS. */
template <int ROWS>
VP_DEVICE uint32_t vp_f32_keep(const vp_attn_job &job, const vp_attn_place &at, int head, int first, int key0) {
    const int lane = (int)(threadIdx.x % 32);
    const uint32_t mine =
        vp_drop_keys(job.drop, at.row, (uint32_t)head, (uint32_t)(first + lane / 4), (uint32_t)(key0 + lane % 4 * 8));
    uint32_t keep = 0;
    for (int r = 0; r < ROWS; r++) keep |= (vp_shuffle(mine, 4 * r + lane / 8) >> lane % 8 & 1u) << r;
    return keep;
}

#endif
