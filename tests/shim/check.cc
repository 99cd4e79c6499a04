/* What the GPU on the host must notice, and arithmetic of kernels that can be tried out in full:
 *     check NAME     runs the kernel NAME, which is at fault; the shim must stop it
 *     check          tests of tiles, masks and powers of two; prints TAP
 * Faulty kernels differ from right ones by one line, marked by what it leaves out. */
#include "tests/shim/check.h"
#include "kernels/cuda/attn_tile.h"
#include <cstdio>
#include <vector>

/* ---- kernels at fault: 64 threads, two warps ---- */
constexpr int THREADS = 64;
static float seen; /* so that nothing is left out */

/* right: what one thread writes others read after a barrier */
static void write_and_read(bool barrier, bool all) {
    vp_cutter cut;
    const vp_shared<float> x = cut.take<float>(THREADS);
    const int self = (int)threadIdx.x;
    if (all || self != 3) x[self] = (float)self;
    if (barrier) vp_barrier();
    seen = x[(self + 40) % THREADS];
}
static void right_kernel() {
    write_and_read(true, true);
}
static void race_kernel() { /* no barrier between the write and the read */
    write_and_read(false, true);
}
static void poison_kernel() { /* thread 3 writes nothing */
    write_and_read(true, false);
}
static void overwrite_kernel() { /* no barrier between the read and the next write */
    vp_cutter cut;
    const vp_shared<float> x = cut.take<float>(THREADS);
    const int self = (int)threadIdx.x;
    x[self] = 1.0f;
    vp_barrier();
    seen = x[(self + 40) % THREADS];
    x[self] = 2.0f;
}
static void lanes_kernel() { /* no barrier of the warp: lanes are no clock */
    vp_cutter cut;
    const vp_shared<float> x = cut.take<float>(THREADS);
    const int self = (int)threadIdx.x;
    x[self] = 1.0f;
    seen = x[self ^ 1];
}
static void warp_kernel() { /* a warp's barrier does not order another warp's writes */
    vp_cutter cut;
    const vp_shared<float> x = cut.take<float>(THREADS);
    x[(int)threadIdx.x] = 1.0f;
    vp_warp_barrier();
    seen = x[((int)threadIdx.x + 32) % THREADS];
}
static void readers_kernel() { /* several lanes of another warp read, then it is written */
    vp_cutter cut;
    const vp_shared<float> x = cut.take<float>(THREADS);
    x[(int)threadIdx.x] = 1.0f;
    vp_barrier();
    if (threadIdx.x >= 32) seen = x[0];
    vp_warp_barrier();
    if (threadIdx.x < 32) x[(int)threadIdx.x] = 2.0f;
    vp_warp_barrier();
    if (threadIdx.x >= 32) seen = x[0];
}
static void bounds_kernel() { /* one element past the end */
    vp_cutter cut;
    const vp_shared<float> x = cut.take<float>(8 * THREADS);
    x[(int)threadIdx.x + 7 * THREADS + 1] = 1.0f;
}
static void skipped_kernel() { /* the second warp does not come to the barrier */
    if (threadIdx.x < 32) vp_barrier();
}
static void diverged_kernel() { /* half of a warp does not come to the exchange */
    if (threadIdx.x % 32 < 16) seen = vp_shuffle_xor(1.0f, 1);
}
static void mixed_kernel() { /* lanes meet in different exchanges */
    if (threadIdx.x % 2)
        seen = vp_shuffle_xor(1.0f, 1);
    else
        seen = (float)vp_ballot(true);
}
static const vp_bf16 source[8 * THREADS] = {};
static void copy_kernel() { /* the copy is not waited for before the barrier */
    vp_cutter cut;
    const vp_shared<vp_bf16> x = cut.take<vp_bf16>(8 * THREADS);
    vp_copy16(x + 8 * (int)threadIdx.x, source + 8 * threadIdx.x, true);
    vp_copy_commit();
    vp_barrier();
    seen = vp_float((vp_bf16)x[(int)threadIdx.x]);
    vp_copy_wait<0>();
}
static void left_kernel() { /* returns while a copy is under way */
    vp_cutter cut;
    const vp_shared<vp_bf16> x = cut.take<vp_bf16>(8 * THREADS);
    vp_copy16(x + 8 * (int)threadIdx.x, source + 8 * threadIdx.x, true);
    vp_copy_commit();
}
static void align_kernel() { /* a row of a matrix at no multiple of 16 bytes */
    vp_cutter cut;
    const vp_shared<vp_bf16> x = cut.take<vp_bf16>(16 * THREADS);
    uint32_t r[4];
    vp_load_matrix4(r, x + 8 * (int)(threadIdx.x % 32) + 4);
}

static const fault faults[] = {{"right", right_kernel},         {"race", race_kernel},     {"poison", poison_kernel},
                               {"overwrite", overwrite_kernel}, {"lanes", lanes_kernel},   {"warp", warp_kernel},
                               {"readers", readers_kernel},     {"bounds", bounds_kernel}, {"skipped", skipped_kernel},
                               {"diverged", diverged_kernel},   {"mixed", mixed_kernel},   {"copy", copy_kernel},
                               {"left", left_kernel},           {"align", align_kernel}};

/* ---- device memory ---- */
static void touch_from_host() {
    float *p = (float *)vp_shim_malloc(64);
    *(volatile float *)p = 1.0f;
}

/* ---- arithmetic ---- */
static int tests;
static void check(bool ok, const char *what) {
    printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, what);
}

/* Every chunk of a tile has a place of its own, 8 rows of a chunk are served at once, and the short way to a place is
 * the same. */
template <int D> static bool tile_works() {
    constexpr unsigned ROWS = 64, CHUNKS = D / 8;
    std::vector<int> taken(ROWS * CHUNKS);
    bool ok = true;
    for (unsigned row = 0; row < ROWS; row++)
        for (unsigned c = 0; c < CHUNKS; c++) {
            const unsigned at = vp_tile_at<D>(row, c);
            ok = ok && at % 8 == 0 && at / 8 < taken.size() && taken[at / 8]++ == 0 && at / D == row;
            ok = ok && at == vp_tile_beside<D>(vp_tile_at<D>(row, c % 2), c - c % 2);
            ok = ok && vp_tile_at<D>(row + 8, c) == at + 8 * D;
        }
    return ok && rows_lie_apart(ROWS, CHUNKS, vp_tile_at<D>);
}

/* Classes and ranges of blocks against vp_attn_sees, pair by pair. */
static bool masks_work(const vp_attn_job &job, const vp_attn_place &at, int height) {
    bool ok = true;
    for (int i0 = 0; i0 < at.n; i0 += height) {
        const int i1 = i0 + height;
        const vp_attn_range keys = vp_attn_key_blocks(job, at, i0, i1, height);
        const vp_attn_range queries = vp_attn_query_blocks(job, at, i0, i1, height); /* of keys from i0 on */
        for (int j0 = 0; j0 < at.n; j0 += height) {
            int pairs = 0, turned = 0;
            for (int i = i0; i < i1; i++)
                for (int j = j0; j < j0 + height; j++) {
                    pairs += vp_attn_sees(job, at, i, j);
                    turned += vp_attn_sees(job, at, j, i);
                }
            const vp_attn_class sort = vp_attn_sort(job, at, i0, i1, j0, j0 + height);
            const int block = j0 / height;
            ok = ok && (sort == VP_ATTN_NONE ? pairs == 0 : (sort == VP_ATTN_ALL) == (pairs == height * height));
            ok = ok && (pairs == 0 || (block >= keys.from && block < keys.past));
            ok = ok && (turned == 0 || (block >= queries.from && block < queries.past));
        }
    }
    return ok;
}

static bool all_masks_work() {
    bool ok = true;
    for (int n = 1; n <= 40; n += 3)
        for (int prefix = 0; prefix <= 20; prefix += 5)
            for (int window = 0; window <= 12; window += 3)
                for (int causal = 0; causal < 2; causal++) {
                    vp_attn_job job = {};
                    vp_attn_place at = {};
                    job.window = window < n ? window : 0;
                    job.causal = causal;
                    at.n = n;
                    at.prefix = prefix;
                    ok = ok && masks_work(job, at, 4) && masks_work(job, at, 16);
                }
    return ok;
}

/* All blocks of all sequences are found once, by a warp. */
static const int32_t offsets[] = {0, 0, 5, 5, 21, 22, 22, 22, 100, 101, 164, 164};
constexpr int SEQUENCES = sizeof offsets / sizeof *offsets - 1;
static std::vector<int> owners;
static void find_kernel(int height) {
    vp_attn_job job = {};
    vp_attn_place at;
    job.cu = offsets;
    job.B = SEQUENCES;
    job.most = 1000;
    const bool found = vp_attn_find(job, height, (int)blockIdx.x, &at);
    for (int i = at.first; found && threadIdx.x == 0 && i < at.first + height && i < at.n; i++) owners[at.base + i]++;
}
static bool blocks_are_found(int height) {
    const int T = offsets[SEQUENCES];
    owners.assign((size_t)T, 0);
    vp_shim_launch("find", dim3(vp_attn_blocks(T, SEQUENCES, height)), 32, 0, [=] { find_kernel(height); });
    for (int n : owners)
        if (n != 1) return false;
    return true;
}

static bool powers_are_near() {
    double worst = 0.0;
    for (int i = 0; i <= 1 << 22; i++) {
        const float x = (float)i * (-126.0f / (float)(1 << 22));
        worst = fmax(worst, fabs((double)vp_exp2(x) / exp2((double)x) - 1.0));
    }
    return worst < 3.2e-6 && vp_exp2(0.0f) == 1.0f && vp_exp2(-127.0f) == 0.0f && vp_exp2(-INFINITY) == 0.0f &&
           std::isnan(vp_exp2(NAN));
}

static bool tanh_is_near() {
    double worst = 0.0;
    for (int i = -(1 << 20); i <= 1 << 20; i++) {
        const float x = (float)i * (20.0f / (float)(1 << 20));
        worst = fmax(worst, fabs((double)vp_tile_tanh(x) - tanh((double)x)));
    }
    return worst < 2e-6 && vp_tile_tanh(INFINITY) == 1.0f && std::isnan(vp_tile_tanh(NAN));
}

/* ---- E4M3, against a search among all its numbers ---- */
static double numbers[127]; /* of the codes 0 .. 0x7e, ascending */
static uint32_t nearest(float x) {
    const double size = fabs((double)x);
    const uint32_t sign = std::signbit(x) ? 0x80 : 0;
    uint32_t high = 0;
    if (std::isnan(x)) return 0x7f;
    while (high < 0x7e && numbers[high] < size) high++;
    if (high == 0 || numbers[high] <= size) return sign | high;
    const double up = numbers[high] - size, down = size - numbers[high - 1];
    return sign | (up < down || (up == down && high % 2 == 0) ? high : high - 1);
}
static bool f8_is_right(float x) {
    const float four[] = {1.0f, x, -x, x};
    const uint32_t want = nearest(x), other = nearest(-x);
    return vp_f8_bits(x) == want && vp_f8_bits(-x) == other &&
           vp_f8_pack(four) == (0x38u | want << 8 | other << 16 | want << 24);
}
static bool f8_is_nearest() {
    bool good = std::isnan(vp_f8_float(0x7f)) && std::isnan(vp_f8_float(0xff)) && std::signbit(vp_f8_float(0x80));
    for (uint32_t code = 0; code < 0x7f; code++) {
        const int exponent = (int)code >> 3, of = (int)code & 7;
        numbers[code] = exponent ? (1.0 + of / 8.0) * exp2(exponent - 7) : of / 8.0 * exp2(-6);
        good = good && (double)vp_f8_float(code) == numbers[code] && (double)vp_f8_float(code | 0x80) == -numbers[code];
        good = good && (code == 0 || numbers[code] > numbers[code - 1]);
    }
    for (uint32_t code = 0; code < 0x7f; code++) { /* the code's own number, and around the middle of it and the next */
        const float own = (float)numbers[code], next = code < 0x7e ? (float)numbers[code + 1] : 480.0f;
        const float middle = (own + next) / 2.0f;
        good = good && f8_is_right(own) && f8_is_right(middle) && f8_is_right(nextafterf(middle, 0.0f)) &&
               f8_is_right(nextafterf(middle, 1e9f)) && (vp_f8_bits(own) == code);
    }
    for (uint32_t bits = 0; bits < 0x7f800000u - 4099u; bits += 4099u) good = good && f8_is_right(vp_float_of(bits));
    return good && f8_is_right(INFINITY) && f8_is_right(3e38f) && f8_is_right(NAN) && vp_f8_bits(1e9f) == 0x7e;
}

/* ---- the product of FP8 fragments, by the layout that gpu.h gives ---- */
static float mma_a[16][32], mma_b[32][8], mma_d[16][8];
static void mma_kernel() {
    const int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    uint32_t a[4], b[2];
    float d[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    for (int i = 0; i < 4; i++) a[i] = vp_f8_pack(&mma_a[g + i % 2 * 8][4 * t + i / 2 * 16]);
    for (int i = 0; i < 2; i++) {
        float column[4];
        for (int k = 0; k < 4; k++) column[k] = mma_b[4 * t + i * 16 + k][g];
        b[i] = vp_f8_pack(column);
    }
    vp_mma_f8(d, a, b);
    for (int i = 0; i < 4; i++) mma_d[g + i / 2 * 8][2 * t + i % 2] = d[i] - (float)(i + 1);
}
static bool f8_fragments_multiply() {
    bool good = true;
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 32; k++) mma_a[i][k] = (float)((i * 7 + k * 3) % 15 - 7);
    for (int k = 0; k < 32; k++)
        for (int j = 0; j < 8; j++) mma_b[k][j] = (float)((k * 5 + j * 11) % 13 - 6) / 4.0f;
    vp_shim_launch("mma", dim3(1), 32, 0, mma_kernel);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float sum = 0.0f;
            for (int k = 0; k < 32; k++) sum += mma_a[i][k] * mma_b[k][j];
            good = good && sum == mma_d[i][j];
        }
    return good;
}

int main(int argc, char **argv) {
    if (argc == 2) {
        if (strcmp(argv[1], "host") == 0) touch_from_host();
        for (const fault &f : faults)
            if (strcmp(argv[1], f.name) == 0)
                vp_shim_launch(f.name, dim3(2), THREADS, THREADS * sizeof(float) * 8, f.kernel);
        for (const fault *f = group_faults; f->name; f++)
            if (strcmp(argv[1], f->name) == 0) vp_shim_launch(f->name, dim3(2), 128, GROUP_SHARED, f->kernel);
        return 0;
    }
    check(tile_works<32>() && tile_works<64>() && tile_works<96>() && tile_works<128>() && tile_works<256>(),
          "chunks of tiles");
    check(slabs_work(), "slabs of warp groups' tiles");
    check(group_products_work(), "products of warp groups");
    check(all_masks_work(), "classes and ranges of blocks");
    check(blocks_are_found(1) && blocks_are_found(16) && blocks_are_found(64), "blocks of sequences");
    check(powers_are_near(), "powers of two");
    check(tanh_is_near(), "tanh");
    check(f8_is_nearest(), "E4M3");
    check(f8_fragments_multiply(), "products of E4M3");
    printf("1..%d\n", tests);
    return 0;
}
