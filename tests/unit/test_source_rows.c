/* vp_tensor_row: every storage type against values worked out by hand, unaligned, and at its exact length. */
#include "tests/modelfile.h"
#include "tests/unit/tap.h"
#include <math.h>

/* Read row r of a tensor [rows, cols] whose bytes lie at an odd address at the very end of an allocation. */
static const float *read_row(vp_storage storage, vp_dtype dtype, int64_t rows, int64_t cols, const void *bytes,
                             size_t size, int64_t r) {
    static float out[256];
    vp_error err = {0};
    uint8_t *copy = malloc(size + 1);
    if (!copy) abort();
    memcpy(copy + 1, bytes, size);
    vp_tensor_info t = {.name = (char[]){"t"},
                        .file = "f",
                        .type = "?",
                        .storage = storage,
                        .dtype = dtype,
                        .ndim = 2,
                        .shape = {rows, cols},
                        .data = copy + 1,
                        .bytes = size};
    memset(out, 0xff, sizeof out);
    if (vp_tensor_row(&t, r, out, &err)) printf("# %s\n", err.text);
    free(copy);
    return out;
}

static float half(uint16_t bits) {
    return *read_row(VP_STORE_PLAIN, VP_F16, 1, 1, &bits, 2, 0);
}

static void test_half(void) {
    OK(half(0x3c00) == 1 && half(0xc000) == -2 && half(0x3555) == 0.333251953125f, "normal numbers");
    OK(half(0x7bff) == 65504 && half(0x0400) == 0x1p-14f, "the largest and the smallest normal");
    OK(half(0x0001) == 0x1p-24f && half(0x83ff) == -0x3ffp-24f && half(0x0200) == 0x1p-15f, "subnormals");
    OK(half(0x0000) == 0 && !signbit(half(0x0000)) && half(0x8000) == 0 && signbit(half(0x8000)), "zeros");
    OK(half(0x7c00) > 3e38f && half(0xfc00) < -3e38f && isinf(half(0x7c00)), "infinities");
    OK(isnan(half(0x7c01)) && isnan(half(0xfe00)), "not a number");
    bool all = true;
    for (uint32_t bits = 0; bits < 0x7c00; bits++) {
        uint32_t e = bits >> 10, m = bits & 1023;
        float want = e ? ldexpf((float)(1024 + m), (int)e - 25) : ldexpf((float)m, -24);
        all = all && half((uint16_t)bits) == want && half((uint16_t)(bits | 0x8000)) == -want;
    }
    OK(all, "every finite f16");
}

static void test_plain(void) {
    const float values[] = {1.5f, -0.0f, 3e38f, 1e-40f};
    const float *row = read_row(VP_STORE_PLAIN, VP_F32, 2, 2, values, 16, 1);
    OK(row[0] == 3e38f && row[1] == 1e-40f, "f32 as it is");
    const uint16_t brains[] = {0x3f80, 0xc049, 0x0001, 0x7f80};
    row = read_row(VP_STORE_PLAIN, VP_BF16, 1, 4, brains, 8, 0);
    OK(row[0] == 1 && row[1] == -3.140625f && row[2] == 0x1p-133f && isinf(row[3]), "bf16");
}

static void test_q8_0(void) {
    uint8_t block[2][34] = {{0}, {0x00, 0x38}}; /* d = 0.5 */
    for (int i = 0; i < 32; i++) block[1][2 + i] = (uint8_t)(i * 8 - 128);
    const float *row = read_row(VP_STORE_Q8_0, VP_NDTYPES, 2, 32, block, sizeof block, 1);
    bool all = true;
    for (int i = 0; i < 32; i++) all = all && row[i] == 0.5f * (float)(i * 8 - 128);
    OK(all && row[0] == -64 && row[31] == 60, "Q8_0: d q");
}

static void test_q4_0(void) {
    uint8_t block[2][18] = {{0x00, 0xb4}, {0x00, 0x3c}}; /* d = -0.25, 1 */
    for (int i = 0; i < 16; i++) block[0][2 + i] = (uint8_t)(i | (15 - i) << 4);
    const float *row = read_row(VP_STORE_Q4_0, VP_NDTYPES, 1, 64, block, sizeof block, 0);
    bool all = true;
    for (int i = 0; i < 16; i++)
        all = all && row[i] == -0.25f * (float)(i - 8) && row[16 + i] == -0.25f * (float)(7 - i);
    OK(all && row[0] == 2 && row[16] == -1.75f, "Q4_0: d (q - 8), low nibbles first");
    OK(row[32] == -8 && row[63] == -8, "its second block");
}

static void test_q4_1(void) {
    uint8_t block[20] = {0x00, 0x30, 0x00, 0xc2}; /* d = 0.125, m = -3 */
    for (int i = 0; i < 16; i++) block[4 + i] = (uint8_t)(i | (15 - i) << 4);
    const float *row = read_row(VP_STORE_Q4_1, VP_NDTYPES, 1, 32, block, sizeof block, 0);
    bool all = true;
    for (int i = 0; i < 16; i++)
        all = all && row[i] == 0.125f * (float)i - 3 && row[16 + i] == 0.125f * (float)(15 - i) - 3;
    OK(all && row[15] == -1.125f && row[31] == -3, "Q4_1: d q + m");
    OK(isnan(row[32]), "nothing is written after the row");
    /* one rounding of d q + m in f32: d = 1 + 2^-10, q = 15, m = 2^-20 */
    const uint8_t fine[20] = {0x01, 0x3c, 0x10, 0x00, 15};
    row = read_row(VP_STORE_Q4_1, VP_NDTYPES, 1, 32, fine, sizeof fine, 0);
    OK(row[0] == (float)(15 * (1 + 0x1p-10) + 0x1p-20) && row[1] == 0x1p-20f, "rounded once");
}

int main(void) {
    test_half();
    test_plain();
    test_q8_0();
    test_q4_0();
    test_q4_1();
    return done();
}
