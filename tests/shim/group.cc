/* The check's part of warp groups: kernels at fault, and their products against plain loops. */
#include "kernels/cuda/attn_group.h"
#include "tests/shim/check.h"
#include <vector>

/* ---- kernels at fault: a group, 64 rows of 64 columns ---- */
enum { NO_FENCE = 1, NO_PUBLISH = 2, NO_WAIT = 4, CHANGED = 8, OVERWRITTEN = 16 };
static volatile float sink;

static void product_with(int faults) {
    vp_cutter cut;
    const vp_shared<vp_bf16> x = cut.take<vp_bf16>(64 * 64);
    uint32_t a[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};
    float d[8][4] = {};
    for (int i = (int)threadIdx.x; i < 64 * 64; i += 128) x[i] = vp_bf16{0x3f80};
    if (!(faults & NO_PUBLISH)) vp_group_publish();
    vp_barrier();
    if (!(faults & NO_FENCE)) vp_group_begin();
    vp_group_mma<64, false>(d, a, vp_group_matrix(x, 0), true);
    vp_group_commit();
    if (faults & CHANGED) a[2] = 0;
    if (faults & OVERWRITTEN) {
        vp_barrier();
        if (threadIdx.x == 5) x[3] = vp_bf16{0};
        vp_barrier();
    }
    if (!(faults & NO_WAIT)) vp_group_wait<0>();
    sink = d[0][0];
}
const fault group_faults[] = {{"group", [] { product_with(0); }},
                              {"unfenced", [] { product_with(NO_FENCE); }},
                              {"unpublished", [] { product_with(NO_PUBLISH); }},
                              {"unwaited", [] { product_with(NO_WAIT); }},
                              {"changed", [] { product_with(CHANGED); }},
                              {"overwritten", [] { product_with(OVERWRITTEN); }},
                              {}};

/* ---- arithmetic ---- */
/* Every chunk of a tile has a place of its own; 8 rows of a chunk are served at once; 8 rows further it lies 1024 bytes
 * further, as names of matrices say. */
template <int ROWS> static bool slabs_of(unsigned chunks) {
    std::vector<int> taken(ROWS * chunks);
    bool ok = true;
    for (unsigned row = 0; row < ROWS; row++)
        for (unsigned c = 0; c < chunks; c++) {
            const unsigned at = vp_slab_at<ROWS>(row, c);
            ok = ok && at % 8 == 0 && at / 8 < taken.size() && taken[at / 8]++ == 0;
            ok = ok && (row + 8 >= ROWS || vp_slab_at<ROWS>(row + 8, c) == at + 512);
            ok = ok && (c + 8 >= chunks || vp_slab_at<ROWS>(row, c + 8) == at + ROWS * 64);
        }
    return ok && rows_lie_apart(ROWS, chunks, vp_slab_at<ROWS>);
}
bool slabs_work() {
    return slabs_of<64>(8) && slabs_of<64>(16) && slabs_of<128>(8) && slabs_of<128>(16);
}

/* x [128, D] y [N, D]^T, rows 64 on of x, then times y: small whole numbers, so that sums are exact. */
static int entry(int i, int j) {
    return (i * 7 + j * 3) % 11 - 5;
}
static vp_bf16 number(int n) {
    return {(uint16_t)vp_bf16_bits((float)n)};
}
template <int D, int N> struct product_results { float s[64][N], o[64][D]; };
template <int D, int N> static product_results<D, N> results;
template <int D, int N> static void product_kernel() {
    vp_cutter cut;
    const vp_shared<vp_bf16> x = cut.take<vp_bf16>(128 * D), y = cut.take<vp_bf16>(N * D);
    const int lane = (int)threadIdx.x % 32, g = (int)threadIdx.x / 32 * 16 + lane / 4, t = lane % 4;
    float s[N / 8][4], o[D / 8][4] = {};
    uint32_t p[N / 16][4];
    for (int i = (int)threadIdx.x; i < 128 * D; i += 128)
        x[vp_slab_at<128>((unsigned)(i / D), (unsigned)(i % D / 8)) + i % 8] = number(entry(i / D, i % D));
    for (int i = (int)threadIdx.x; i < N * D; i += 128)
        y[vp_slab_at<N>((unsigned)(i / D), (unsigned)(i % D / 8)) + i % 8] = number(entry(i % D, 2 * (i / D)));
    vp_group_publish();
    vp_barrier();
    vp_group_begin();
    vp_group_product<D, 128, N>(s, x + 64 * 64, y);
    vp_group_commit();
    vp_group_wait<0>();
    for (int i = 0; i < N / 2; i++) results<D, N>.s[g + i / 2 % 2 * 8][i / 4 * 8 + 2 * t + i % 2] = s[i / 4][i % 4];
    for (int i = 0; i < N / 2; i++) s[i / 4][i % 4] = (float)entry(g + i / 2 % 2 * 8, i / 4 * 8 + 2 * t + i % 2);
    vp_group_round<N>(p, s);
    vp_group_begin();
    vp_group_mix<D, N>(o, p, y);
    vp_group_commit();
    vp_group_wait<0>();
    for (int i = 0; i < D / 2; i++) results<D, N>.o[g + i / 2 % 2 * 8][i / 4 * 8 + 2 * t + i % 2] = o[i / 4][i % 4];
}
template <int D, int N> static bool product_works() {
    bool ok = true;
    vp_shim_launch("product", dim3(1), 128, (128 + N) * D * sizeof(vp_bf16), product_kernel<D, N>);
    for (int i = 0; i < 64; i++) {
        for (int j = 0; j < N; j++) {
            int sum = 0;
            for (int c = 0; c < D; c++) sum += entry(i + 64, c) * entry(c, 2 * j);
            ok = ok && results<D, N>.s[i][j] == (float)sum;
        }
        for (int c = 0; c < D; c++) {
            int sum = 0;
            for (int j = 0; j < N; j++) sum += entry(i, j) * entry(c, 2 * j);
            ok = ok && results<D, N>.o[i][c] == (float)sum;
        }
    }
    return ok;
}
bool group_products_work() {
    return product_works<64, 64>() && product_works<64, 128>() && product_works<128, 64>() && product_works<128, 128>();
}
