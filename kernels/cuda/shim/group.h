/* Twins of group.h's products. They are computed where they are begun and again where they are waited for, and what
 * they write is no number in between: it stops the program if what they read changed meanwhile, if it was written and
 * not published, and where a wait or a fence is missing. */
#ifndef VP_CUDA_SHIM_GROUP_H
#define VP_CUDA_SHIM_GROUP_H
#include "kernels/cuda/gpu.h"

void vp_group_publish();
void vp_group_begin();
void vp_group_commit();
void vp_shim_group_wait(size_t groups);
template <int n> void vp_group_wait() {
    vp_shim_group_wait(n);
}
template <int N> void vp_group_hold(float (*)[4]) {}

inline uint64_t vp_group_matrix(vp_shared<vp_bf16> at, unsigned slab) {
    const uint64_t start = at.at >> 4, lead = slab * 2 >> 4, stride = 1024 >> 4;
    return start | lead << 16 | stride << 32 | (uint64_t)1 << 62;
}

/* a: four registers, or NULL: the matrix `from`. */
void vp_shim_group_mma(float *d, int n, const uint32_t *a, uint64_t from, uint64_t b, bool turned, bool add);
template <int N, bool TURNED> void vp_group_mma(float (*d)[4], uint64_t a, uint64_t b, bool add) {
    vp_shim_group_mma(d[0], N, nullptr, a, b, TURNED, add);
}
template <int N, bool TURNED> void vp_group_mma(float (*d)[4], const uint32_t a[4], uint64_t b, bool add) {
    vp_shim_group_mma(d[0], N, a, 0, b, TURNED, add);
}

#endif
