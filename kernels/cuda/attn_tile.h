/* Tiles of bf16 rows in shared memory, and fragments of products of them, for attn_bf16*.cu.
 *
 * A tile has D columns, a multiple of 32: D / 8 chunks of 16 bytes a row. A row's chunks are permuted so that the same
 * chunk of 8 consecutive rows lies in 8 different sixteenths of the 128 bytes that shared memory serves at a time. A
 * warp's product is [16, N] at a time; d[j][...] of it are columns [8 j, 8 j + 8) as vp_mma leaves them: with g = lane
 * / 4 and t = lane % 4, d[j][2 h + e] is row g + 8 h, column 8 j + 2 t + e. */
#ifndef VP_CUDA_ATTN_TILE_H
#define VP_CUDA_ATTN_TILE_H
#include "kernels/cuda/attn.h"
#include <type_traits>

/* Where a chunk of a row is, in elements. */
template <int D> VP_DEVICE constexpr unsigned vp_tile_at(unsigned row, unsigned chunk) {
    static_assert(D % 32 == 0, "chunks are permuted in groups of 4 or 8");
    return row * D + (chunk ^ (D % 64 == 0 ? row % 8 : row / 2 % 4)) * 8;
}
/* Where chunk c + odd of the row is, c even, from at = vp_tile_at(row, odd): few registers for many c. */
template <int D> VP_DEVICE constexpr unsigned vp_tile_beside(unsigned at, unsigned c) {
    constexpr unsigned group = D % 64 == 0 ? 8 : 4;
    return (at ^ c % group * 8) + c / group * group * 8;
}

/* 16 bytes of global memory. */
struct alignas(16) vp_bytes16 {
    uint32_t word[4];
};

/* Rows of a matrix in global memory: `rows` of them, d columns; rows begin at multiples of 16 bytes, d is one of 8. */
struct vp_tile_rows {
    const vp_bf16 *p;
    int64_t ld;
    int rows, d;
};

/* Call f with the columns of the tiles that heads of width d get, std::integral_constant<int, D>. */
template <class F> int vp_tile_width(int d, F f) {
    if (d <= 32) return f(std::integral_constant<int, 32>());
    if (d <= 64) return f(std::integral_constant<int, 64>());
    if (d <= 128) return f(std::integral_constant<int, 128>());
    return f(std::integral_constant<int, 256>());
}

/* Begin to copy rows into a tile of ROWS rows, chunk c of a row to place(row, c), all threads of the block taking part;
 * zeros past the end. They are there after the next vp_copy_wait and barrier. */
template <int D, int ROWS, int THREADS, class F>
VP_DEVICE void vp_tile_copy(vp_shared<vp_bf16> tile, const vp_tile_rows &m, F place) {
    constexpr int WIDTH = D / 8, STEP = THREADS / WIDTH; /* a thread keeps to its column */
    static_assert(THREADS % WIDTH == 0 && ROWS % STEP == 0, "every thread copies as many chunks");
    const int c = (int)threadIdx.x % WIDTH;
    int row = (int)threadIdx.x / WIDTH;
    const vp_bf16 *from = m.p + row * m.ld + c * 8;
    VP_UNROLL
    for (int n = 0; n < ROWS / STEP; n++, row += STEP, from += STEP * m.ld)
        vp_copy16(tile + place((unsigned)row, (unsigned)c), from, row < m.rows && c * 8 < m.d);
}
template <int D, int ROWS, int THREADS> VP_DEVICE void vp_tile_fill(vp_shared<vp_bf16> tile, const vp_tile_rows &m) {
    vp_tile_copy<D, ROWS, THREADS>(tile, m, vp_tile_at<D>);
}

/* ---- fragments; `tile` begins at a multiple of 8 rows ---- */
/* a of vp_mma: rows [0, 16), columns [16 k, 16 k + 16). */
template <int D> VP_DEVICE void vp_tile_a(uint32_t a[4], vp_shared<vp_bf16> tile, int k) {
    const unsigned lane = threadIdx.x % 32;
    vp_load_matrix4(a, tile + vp_tile_beside<D>(vp_tile_at<D>(lane % 16, lane / 16), 2 * (unsigned)k));
}
/* Two b of vp_mma: columns [16 k, 16 k + 16) of rows [16 n, 16 n + 16), which are the columns of the product. */
template <int D> VP_DEVICE void vp_tile_b(uint32_t b[4], vp_shared<vp_bf16> tile, int n, int k) {
    const unsigned lane = threadIdx.x % 32;
    vp_load_matrix4(b, tile + 16 * n * D +
                           vp_tile_beside<D>(vp_tile_at<D>(lane % 8 + lane / 16 * 8, lane / 8 % 2), 2 * (unsigned)k));
}
/* Two b of vp_mma: rows [16 k, 16 k + 16), columns [16 n, 16 n + 16), which are the columns of the product. */
template <int D> VP_DEVICE void vp_tile_b_turned(uint32_t b[4], vp_shared<vp_bf16> tile, int n, int k) {
    const unsigned lane = threadIdx.x % 32;
    vp_load_matrix4_t(b, tile + 16 * k * D + vp_tile_beside<D>(vp_tile_at<D>(lane % 16, lane / 16), 2 * (unsigned)n));
}
/* a of vp_mma from columns [16 k, 16 k + 16) of a product, rounded to bf16. */
VP_DEVICE void vp_tile_round(uint32_t a[4], const float (*d)[4], int k) {
    const float *low = d[2 * k], *high = d[2 * k + 1];
    a[0] = vp_pack(low[0], low[1]);
    a[1] = vp_pack(low[2], low[3]);
    a[2] = vp_pack(high[0], high[1]);
    a[3] = vp_pack(high[2], high[3]);
}

template <int M, int N> VP_DEVICE void vp_tile_zero(float (*s)[N / 8][4]) {
    VP_UNROLL
    for (int i = 0; i < M * N / 2; i++) s[i / (N / 2)][i / 4 % (N / 8)][i % 4] = 0.0f;
}

/* s [16 M, N] += x y^T: rows of x and of y, D columns each. */
template <int D, int M, int N>
VP_DEVICE void vp_tile_product(float (*s)[N / 8][4], vp_shared<vp_bf16> x, vp_shared<vp_bf16> y) {
    VP_UNROLL
    for (int k = 0; k < D / 16; k++) {
        uint32_t a[M][4];
        VP_UNROLL
        for (int m = 0; m < M; m++) vp_tile_a<D>(a[m], x + 16 * m * D, k);
        VP_UNROLL
        for (int n = 0; n < N / 16; n++) {
            uint32_t b[4];
            vp_tile_b<D>(b, y, n, k);
            VP_UNROLL
            for (int m = 0; m < M; m++) {
                vp_mma(s[m][2 * n], a[m], b);
                vp_mma(s[m][2 * n + 1], a[m], b + 2);
            }
        }
    }
}

/* o [16 M, C] += p y: p [16 M, N] rounded to bf16, y C columns of a tile of N rows, from a multiple of 64 on. */
template <int D, int C, int M, int N>
VP_DEVICE void vp_tile_mix(float (*o)[C / 8][4], const float (*p)[N / 8][4], vp_shared<vp_bf16> y) {
    VP_UNROLL
    for (int k = 0; k < N / 16; k++) {
        uint32_t a[M][4];
        VP_UNROLL
        for (int m = 0; m < M; m++) vp_tile_round(a[m], p[m], k);
        VP_UNROLL
        for (int n = 0; n < C / 16; n++) {
            uint32_t b[4];
            vp_tile_b_turned<D>(b, y, n, k);
            VP_UNROLL
            for (int m = 0; m < M; m++) {
                vp_mma(o[m][2 * n], a[m], b);
                vp_mma(o[m][2 * n + 1], a[m], b + 2);
            }
        }
    }
}

/* to [rows, cols] = o [16, C], cut there, rows g + 8 h times by[h], rounded. `tile` is 16 rows of C columns that no
 * other warp uses. */
template <int C>
VP_DEVICE void vp_tile_store(vp_shared<vp_bf16> tile, const float (*o)[4], const float by[2], vp_rows_of<vp_bf16> to,
                             int rows, int cols) {
    const int lane = (int)(threadIdx.x % 32), g = lane / 4, t = lane % 4;
    vp_warp_barrier();
    VP_UNROLL
    for (int i = 0; i < C / 4; i++) { /* + 0 turns -0, which a skipped block would not have left, into 0 */
        const int j = i / 2, h = i % 2;
        vp_shared_as<uint32_t>(tile + vp_tile_at<C>((unsigned)(g + 8 * h), (unsigned)j))[t] =
            vp_pack(o[j][2 * h] * by[h] + 0.0f, o[j][2 * h + 1] * by[h] + 0.0f);
    }
    vp_warp_barrier();
    VP_UNROLL
    for (int i = lane; i < 16 * (C / 8); i += 32) {
        const int row = i / (C / 8), c = i % (C / 8);
        if (row < rows && 8 * c < cols)
            *(vp_bytes16 *)(to.p + row * to.ld + 8 * c) =
                vp_shared_as<vp_bytes16>(tile + vp_tile_at<C>((unsigned)row, (unsigned)c))[0];
    }
}

/* ---- softmax ---- */
/* 2^x, x under 127: n = x rounded, r = x - n, 2^r as a minimax of degree 4 (relative error 2.8e-6, a thousandth
 * of what bf16 then rounds by). 2^0 is 1; 0 from -127 on; NaN stays. */
VP_DEVICE float vp_exp2(float x) {
    const float magic = 12582912.0f, y = vp_max(x, -127.0f), n = y + magic, r = y - (n - magic);
    float p = fmaf(fmaf(0.00958285294f, r, 0.0559064262f), r, 0.240240991f);
    p = fmaf(fmaf(p, r, 0.693124175f), r, 1.0f);
    return p * vp_float_of((vp_bits_of(n) << 23) + 0x3f800000u);
}

/* tanh x = (1 - e) / (1 + e), e = exp(-2 |x|), to 2e-6; the quotient by Newton's iteration from 1 / y = 1.457 - y / 2,
 * whose error on [1, 2] is 0.043 */
VP_DEVICE float vp_tile_tanh(float x) {
    const float e = vp_exp2(fabsf(x) * -2.88539008f), y = 1.0f + e;
    float r = fmaf(y, -0.5f, 1.45710678f);
    VP_UNROLL
    for (int i = 0; i < 3; i++) r = fmaf(fmaf(-y, r, 1.0f), r, r);
    return copysignf((1.0f - e) * r, x);
}

/* ---- bits of a fragment's entries: bit 4 j + 2 h + e is d[j][2 h + e]'s, j < 8. They are made before the product that
 * they are for, in loops that are not unrolled: its registers are still free then ---- */
/* Which pairs see each other. TURNED: rows are keys, columns queries, else rows are queries; both from there on. */
template <bool TURNED>
VP_DEVICE uint32_t vp_tile_seen(const vp_attn_job &job, const vp_attn_place &at, int query, int key, int columns) {
    const int lane = (int)(threadIdx.x % 32), g = lane / 4, t = lane % 4;
    uint32_t bits = 0;
    for (int b = 0; b < columns / 2; b++) {
        const int row = g + b / 2 % 2 * 8, col = b / 4 * 8 + 2 * t + b % 2;
        const bool yes = vp_attn_sees(job, at, query + (TURNED ? col : row), key + (TURNED ? row : col));
        bits |= (uint32_t)yes << b;
    }
    return bits;
}

/* Which ones dropout keeps. `row`: the sequence's ordinal. */
template <bool TURNED>
VP_DEVICE uint32_t vp_tile_kept(const vp_attn_job &job, uint32_t row, int head, int query, int key, int columns) {
    const int lane = (int)(threadIdx.x % 32), g = lane / 4, t = lane % 4;
    uint32_t bits = 0;
    for (int k = 0; k < columns / 16; k++) {
        const int query0 = query + (TURNED ? 16 * k : 0), key0 = key + (TURNED ? 0 : 16 * k);
        const uint32_t mine = vp_drop_keys(job.drop, row, (uint32_t)head, (uint32_t)(query0 + lane % 16),
                                           (uint32_t)(key0 + lane / 16 * 8));
        for (int i = 0; i < 8; i += TURNED ? 1 : 2) { /* i = 4 u + 2 h + e */
            const int u = i / 4, h = i / 2 % 2, e = i % 2;
            const uint32_t of = vp_shuffle(mine, TURNED ? 16 * h + 8 * u + 2 * t + e : 16 * u + 8 * h + g);
            bits |= (TURNED ? of >> g & 1u : of >> 2 * t & 3u) << (8 * k + i);
        }
    }
    return bits;
}

/* d = other where the bit is 0. */
template <int N> VP_DEVICE void vp_tile_pick(float (*d)[4], uint32_t bits, float other) {
    VP_UNROLL
    for (int i = 0; i < N / 2; i++)
        if (!(bits >> i & 1u)) d[i / 4][i % 4] = other;
}

#endif
