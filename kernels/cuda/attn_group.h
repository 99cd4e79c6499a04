/* Tiles and products of warp groups, for attn_group*.cu: what attn_tile.h is to warps. A tile of ROWS rows and D
 * columns is D / 64 slabs of 64 columns, laid out as group.h says. */
#ifndef VP_CUDA_ATTN_GROUP_H
#define VP_CUDA_ATTN_GROUP_H
#include "kernels/cuda/attn_tile.h"
#include "kernels/cuda/group.h"

/* Where a chunk of a row is, in elements. */
template <int ROWS> VP_DEVICE constexpr unsigned vp_slab_at(unsigned row, unsigned chunk) {
    static_assert(ROWS % 8 == 0, "slabs begin at multiples of 1024 bytes");
    return chunk / 8 * (ROWS * 64) + row * 64 + (chunk % 8 ^ row % 8) * 8;
}

/* vp_tile_fill, for such a tile. */
template <int D, int ROWS, int THREADS> VP_DEVICE void vp_slab_fill(vp_shared<vp_bf16> tile, const vp_tile_rows &m) {
    vp_tile_copy<D, ROWS, THREADS>(tile, m, vp_slab_at<ROWS>);
}

/* s [64, N] = x y^T, begun: x 64 rows from a multiple of 8 on of a tile of ROWS, y a tile of N rows; D columns each. */
template <int D, int ROWS, int N>
VP_DEVICE void vp_group_product(float (*s)[4], vp_shared<vp_bf16> x, vp_shared<vp_bf16> y) {
    const uint64_t a = vp_group_matrix(x, ROWS * 64), b = vp_group_matrix(y, N * 64);
    VP_UNROLL
    for (unsigned k = 0; k < D / 16; k++) { /* 16 columns are 32 bytes; names count in 16 */
        const unsigned within = k % 4 * 2;
        vp_group_mma<N, false>(s, a + k / 4 * (ROWS * 8) + within, b + k / 4 * (N * 8) + within, k > 0);
    }
}

/* o [64, D] += p y, begun: p [64, N] in registers, y a tile of N rows and D columns. */
template <int D, int N> VP_DEVICE void vp_group_mix(float (*o)[4], const uint32_t (*p)[4], vp_shared<vp_bf16> y) {
    const uint64_t b = vp_group_matrix(y, N * 64);
    VP_UNROLL
    for (unsigned k = 0; k < N / 16; k++) vp_group_mma<D, true>(o, p[k], b + k * (16 * 8), true);
}

/* p = s rounded, as a of products. */
template <int N> VP_DEVICE void vp_group_round(uint32_t (*p)[4], const float (*s)[4]) {
    VP_UNROLL
    for (int k = 0; k < N / 16; k++) vp_tile_round(p[k], s, k);
}

#endif
