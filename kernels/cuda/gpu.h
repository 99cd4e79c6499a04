/* What a kernel may use beyond C++: vectors, barriers, exchanges within a warp, tensor-core products, asynchronous
 * copies. Under nvcc they are the machine's; with VP_SHIM they are twins on the host, which check what the machine does
 * not (shim/shim.h). All PTX of the backend is here, so that everything else is one source for both. */
#ifndef VP_CUDA_GPU_H
#define VP_CUDA_GPU_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef VP_SHIM
#include "kernels/cuda/shim/shim.h"
#else
#include <cuda_runtime.h>

#define VP_DEVICE      static __device__ __forceinline__
#define VP_INLINE      __device__ __forceinline__ /* of members */
#define VP_BOTH        static __host__ __device__ __forceinline__
#define VP_KERNEL(...) static __global__ void __launch_bounds__(__VA_ARGS__)
#define VP_UNROLL      _Pragma("unroll") /* before a loop whose index names registers */

/* ---- shared memory: one buffer a block, of the size that the launch names, cut into typed arrays ---- */
extern __shared__ __align__(1024) unsigned char vp_shared_bytes[];
template <class T> using vp_shared = T *;
struct vp_cutter {
    unsigned used = 0;
    /* n elements at a multiple of 16 bytes */
    template <class T> VP_INLINE vp_shared<T> take(unsigned n) {
        T *p = reinterpret_cast<T *>(vp_shared_bytes + used);
        used += (n * (unsigned)sizeof(T) + 15) / 16 * 16;
        return p;
    }
};

template <class To, class T> VP_DEVICE vp_shared<To> vp_shared_as(vp_shared<T> p) { /* the same bytes */
    return reinterpret_cast<To *>(p);
}

/* ---- barriers and exchanges. Every lane of the warp must take part ---- */
VP_DEVICE void vp_barrier() { /* all threads of the block; orders memory */
    __syncthreads();
}
VP_DEVICE void vp_warp_barrier() { /* all lanes of the warp; orders memory */
    __syncwarp();
}
template <class T> VP_DEVICE T vp_shuffle_xor(T x, int lanes) { /* T of 4 or 8 bytes */
    return __shfl_xor_sync(0xffffffffu, x, lanes);
}
template <class T> VP_DEVICE T vp_shuffle(T x, int lane) {
    return __shfl_sync(0xffffffffu, x, lane);
}
VP_DEVICE uint32_t vp_ballot(bool yes) {
    return __ballot_sync(0xffffffffu, yes);
}

VP_DEVICE int vp_lowest(uint32_t bits) { /* number of the lowest bit that is set; some are */
    return __ffs((int)bits) - 1;
}

/* ---- tensor cores: D [16, 8] += A [16, 16] B [16, 8], A and B bf16, D f32; one product a warp. Lane l, g = l / 4,
 * t = l % 4 holds (two bf16 a register, the lower column or row in the low half)
 *   a[0]: A[g][2t, 2t+1]    a[1]: A[g+8][2t, 2t+1]    a[2]: A[g][2t+8, 2t+9]    a[3]: A[g+8][2t+8, 2t+9]
 *   b[0]: B[2t, 2t+1][g]    b[1]: B[2t+8, 2t+9][g]
 *   d[0], d[1]: D[g][2t], D[g][2t+1]    d[2], d[3]: D[g+8][2t], D[g+8][2t+1] ---- */
VP_DEVICE void vp_mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* The same of E4M3, D [16, 8] += A [16, 32] B [32, 8]: four numbers a register where bf16 has two. sm_89 and later; for
 * others it compiles, and may not run. */
VP_DEVICE void vp_mma_f8(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#if __CUDA_ARCH__ >= 890
    asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    (void)d, (void)a, (void)b;
    asm("trap;");
#endif
}
/* Four (two) 8 x 8 matrices of 2-byte elements: lanes 8i..8i+7 name the rows of matrix i, 16 bytes each at a multiple
 * of 16; lane l gets elements [l/4][2(l%4), 2(l%4)+1] of matrix i in r[i]; transposed: [2(l%4), 2(l%4)+1][l/4]. */
template <class T> VP_DEVICE void vp_load_matrix4(uint32_t r[4], vp_shared<T> row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)));
}
template <class T> VP_DEVICE void vp_load_matrix4_t(uint32_t r[4], vp_shared<T> row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)));
}

/* ---- asynchronous copies of 16 bytes (both sides at a multiple of 16) into shared memory; !yes writes zeros. What was
 * begun becomes one group at vp_copy_commit; vp_copy_wait<n> waits until at most n of this thread's groups are under
 * way; other threads see the bytes after the next barrier ---- */
template <class T> VP_DEVICE void vp_copy16(vp_shared<T> to, const T *from, bool yes) {
    asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from),
                 "r"(yes ? 16 : 0)
                 : "memory");
}
VP_DEVICE void vp_copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int n> VP_DEVICE void vp_copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

VP_DEVICE float vp_max(float a, float b) { /* NaN where either is */
    float r;
    asm("max.NaN.f32 %0,%1,%2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
}

#endif

/* ---- bits ---- */
VP_DEVICE int vp_count_bits(uint32_t bits) {
#ifdef VP_SHIM
    return __builtin_popcount(bits);
#else
    return __popc(bits);
#endif
}
VP_DEVICE int vp_highest_bit(uint32_t bits) { /* its number; -1: none is set */
#ifdef VP_SHIM
    return bits ? 31 - __builtin_clz(bits) : -1;
#else
    return 31 - __clz((int)bits);
#endif
}

/* ---- bf16: 16 bits of storage; arithmetic is f32 ---- */
struct vp_bf16 {
    uint16_t bits;
};
VP_DEVICE float vp_float_of(uint32_t bits) {
#ifdef VP_SHIM
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
#else
    return __uint_as_float(bits);
#endif
}
VP_DEVICE uint32_t vp_bits_of(float x) {
#ifdef VP_SHIM
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
#else
    return __float_as_uint(x);
#endif
}
VP_DEVICE float vp_float(float x) {
    return x;
}
VP_DEVICE float vp_float(vp_bf16 x) {
    return vp_float_of((uint32_t)x.bits << 16);
}
/* To nearest, ties to even; NaN stays NaN. */
VP_DEVICE uint32_t vp_bf16_bits(float x) {
    uint32_t bits = vp_bits_of(x);
    if (x != x) return bits >> 16 | 0x40u;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}
template <class T> VP_DEVICE T vp_round(float x) {
    if constexpr (sizeof(T) == 2)
        return T{(uint16_t)vp_bf16_bits(x)};
    else
        return x;
}
/* Two bf16 in a register, `low` in the low half. */
VP_DEVICE uint32_t vp_pack(float low, float high) {
#if !defined(VP_SHIM) && __CUDA_ARCH__ >= 800
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
#else
    return vp_bf16_bits(low) | vp_bf16_bits(high) << 16;
#endif
}

/* ---- FP8, E4M3: a sign, 4 bits of exponent with bias 7, 3 of the number; the largest is 448, below 2^-6 they are 2^-9
 * apart, there is no infinity. Rows of them have a scale each. For the host too, which packs weights ---- */
/* To nearest, ties to even; what is larger becomes 448, NaN stays NaN. */
VP_BOTH uint32_t vp_f8_bits(float x) {
    const float size = fabsf(x), shift = 16384.0f, moved = size + shift; /* numbers from 2^14 on are 2^-9 apart */
    uint32_t bits, low, base;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return 0x7f;
    memcpy(&low, &moved, sizeof low);
    memcpy(&base, &shift, sizeof base);
    const uint32_t normal = (((bits & 0x7fffffffu) + 0x7ffffu + (bits >> 20 & 1u)) >> 20) - (120u << 3);
    const uint32_t code = size < 0.015625f ? low - base : normal < 0x7eu ? normal : 0x7eu;
    return (bits >> 24 & 0x80u) | code;
}
/* Four in a register, the first in the lowest byte. */
VP_DEVICE uint32_t vp_f8_pack(const float v[4]) {
#if !defined(VP_SHIM) && __CUDA_ARCH__ >= 890
    uint16_t low, high;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(v[1]), "f"(v[0]));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(v[3]), "f"(v[2]));
    return low | (uint32_t)high << 16;
#else
    return vp_f8_bits(v[0]) | vp_f8_bits(v[1]) << 8 | vp_f8_bits(v[2]) << 16 | vp_f8_bits(v[3]) << 24;
#endif
}
/* The scale of a row whose largest magnitude is `most`, and what its numbers are multiplied by to become codes. Rows
 * below 2^-100 are rows of zeros; one that is not finite has a scale that is not. */
struct vp_f8_scale {
    float scale, by;
};
VP_BOTH vp_f8_scale vp_f8_scale_of(float most) {
    if (most < 7.888609052210118e-31f) return {0.0f, 0.0f};
    return {most / 448.0f, 448.0f / most};
}

/* ---- sums over a warp, in a fixed order; every lane gets the result ---- */
VP_DEVICE float vp_warp_sum(float x) {
    for (int lanes = 16; lanes; lanes /= 2) x += vp_shuffle_xor(x, lanes);
    return x;
}
VP_DEVICE float vp_warp_max(float x) {
    for (int lanes = 16; lanes; lanes /= 2) x = vp_max(x, vp_shuffle_xor(x, lanes));
    return x;
}

#endif
