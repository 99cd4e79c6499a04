/* What a kernel may use of sm_90a beyond gpu.h: products of a warp group, four warps that begin at a multiple of four.
 * They run while the group goes on: what they read and write is theirs from where they are begun until they are waited
 * for. On the host they have twins, too (shim/group.h).
 *
 * D [64, N] += A [64, 16] B [16, N], A and B bf16, D f32. Warp w of the group has rows [16 w, 16 w + 16) of D and A,
 * as vp_mma's fragments: d[j] are columns [8 j, 8 j + 8). B, and A where it is not in registers, are named by where
 * their tiles in shared memory are. A tile is slabs of 64 columns, in which a row is 128 bytes and row r has chunk c of
 * 16 bytes at c ^ r % 8; slabs begin at multiples of 1024 bytes (PTX ISA, "128-byte swizzle"). */
#ifndef VP_CUDA_GROUP_H
#define VP_CUDA_GROUP_H
#include "kernels/cuda/gpu.h"
#ifdef VP_SHIM
#include "kernels/cuda/shim/group.h"
#else

/* This thread's writes to shared memory are seen by products that are begun after the next barrier. */
VP_DEVICE void vp_group_publish() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/* Before products, and before one that reads registers written since. */
VP_DEVICE void vp_group_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/* What was begun becomes one group of products; at vp_group_wait<n> at most n of them are still under way. */
VP_DEVICE void vp_group_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int n> VP_DEVICE void vp_group_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}
/* Keeps the compiler from moving what uses a result across: after the wait for it, and before it is added to. */
template <int N> VP_DEVICE void vp_group_hold(float (*d)[4]) {
    VP_UNROLL
    for (int j = 0; j < N / 8; j++)
        asm volatile("" : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])::"memory");
}

/* The name of a matrix: columns of a tile from `at` on; `slab`: elements of a slab. */
VP_DEVICE uint64_t vp_group_matrix(vp_shared<vp_bf16> at, unsigned slab) {
    const uint64_t start = (uint32_t)__cvta_generic_to_shared(at) >> 4, lead = slab * 2 >> 4, stride = 1024 >> 4;
    return start | lead << 16 | stride << 32 | (uint64_t)1 << 62;
}

/* clang-format off */
#define VP_D4(j)  "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define VP_D32(j) VP_D4(j), VP_D4(j + 1), VP_D4(j + 2), VP_D4(j + 3), VP_D4(j + 4), VP_D4(j + 5), VP_D4(j + 6), VP_D4(j + 7)
#define VP_N32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define VP_N64 VP_N32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
/* A in shared memory, or in registers; `add`: 0 or 1. */
#define VP_WGMMA_SHARED(n, names, a, b, add, turned) \
    "{.reg .pred p; setp.ne.b32 p," add ",0; wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" names "}," a "," b ",p,1,1,0," turned ";}"
#define VP_WGMMA_REGISTERS(n, names, a, b, add, turned) \
    "{.reg .pred p; setp.ne.b32 p," add ",0; wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" names "},{" a "}," b ",p,1,1," turned ";}"
/* clang-format on */

/* D (+)= A B. TURNED: rows of b's tile are rows of B, 16 of them, else columns of B, and 16 columns are its rows. */
template <int N, bool TURNED> VP_DEVICE void vp_group_mma(float (*d)[4], uint64_t a, uint64_t b, bool add) {
    static_assert(N == 64 || N == 128, "has no such instruction here");
    if constexpr (N == 64)
        asm volatile(VP_WGMMA_SHARED("64", VP_N32, "%32", "%33", "%34", "%35")
                     : VP_D32(0)
                     : "l"(a), "l"(b), "r"((int)add), "n"((int)TURNED));
    else
        asm volatile(VP_WGMMA_SHARED("128", VP_N64, "%64", "%65", "%66", "%67")
                     : VP_D32(0), VP_D32(8)
                     : "l"(a), "l"(b), "r"((int)add), "n"((int)TURNED));
}
template <int N, bool TURNED> VP_DEVICE void vp_group_mma(float (*d)[4], const uint32_t a[4], uint64_t b, bool add) {
    static_assert(N == 64 || N == 128, "has no such instruction here");
    if constexpr (N == 64)
        asm volatile(VP_WGMMA_REGISTERS("64", VP_N32, "%32,%33,%34,%35", "%36", "%37", "%38")
                     : VP_D32(0)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"((int)TURNED));
    else
        asm volatile(VP_WGMMA_REGISTERS("128", VP_N64, "%64,%65,%66,%67", "%68", "%69", "%70")
                     : VP_D32(0), VP_D32(8)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"((int)TURNED));
}

#endif
#endif
