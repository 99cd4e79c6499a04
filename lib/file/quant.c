/* Rows of stored tensors as f32: widening of f16 and bf16, and GGUF's block formats (ggml, ggml-quants.c,
 * dequantize_row_*). No state: any number of threads may read. The loops have fixed trip counts so that compilers
 * vectorise them. */
#include "lib/file/source.h"
#include "lib/base/half.h"
#include <string.h>

static inline uint16_t load16(const uint8_t *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static void row_f32(const uint8_t *restrict p, float *restrict out, int64_t n) {
    memcpy(out, p, (size_t)n * sizeof *out);
}

enum { GROUP = 32 }; /* elements at a time: copied to an aligned array first, else compilers do not vectorise */

static void row_f16(const uint8_t *restrict p, float *restrict out, int64_t n) {
    uint16_t h[GROUP];
    for (; n >= GROUP; n -= GROUP, p += sizeof h, out += GROUP) {
        memcpy(h, p, sizeof h);
        for (int i = 0; i < GROUP; i++) out[i] = vp_f16_float(h[i]);
    }
    memcpy(h, p, (size_t)n * sizeof *h);
    for (int64_t i = 0; i < n; i++) out[i] = vp_f16_float(h[i]);
}

static void row_bf16(const uint8_t *restrict p, float *restrict out, int64_t n) {
    uint16_t h[GROUP];
    for (; n >= GROUP; n -= GROUP, p += sizeof h, out += GROUP) {
        memcpy(h, p, sizeof h);
        for (int i = 0; i < GROUP; i++) out[i] = vp_bf16_float(h[i]);
    }
    memcpy(h, p, (size_t)n * sizeof *h);
    for (int64_t i = 0; i < n; i++) out[i] = vp_bf16_float(h[i]);
}

static void row_q8_0(const uint8_t *restrict p, float *restrict out, int64_t n) {
    int8_t q[32];
    for (; n > 0; n -= 32, p += 34, out += 32) {
        float d = vp_f16_float(load16(p));
        memcpy(q, p + 2, sizeof q);
        for (int i = 0; i < 32; i++) out[i] = d * (float)q[i];
    }
}

static void row_q4_0(const uint8_t *restrict p, float *restrict out, int64_t n) {
    for (; n > 0; n -= 32, p += 18, out += 32) {
        float d = vp_f16_float(load16(p));
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)((p[2 + i] & 15) - 8);
            out[16 + i] = d * (float)((p[2 + i] >> 4) - 8);
        }
    }
}

/* d q is exact in f32 (11 + 4 bits): one rounding, with or without a fused multiply-add. */
static void row_q4_1(const uint8_t *restrict p, float *restrict out, int64_t n) {
    for (; n > 0; n -= 32, p += 20, out += 32) {
        float d = vp_f16_float(load16(p)), m = vp_f16_float(load16(p + 2));
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)(p[4 + i] & 15) + m;
            out[16 + i] = d * (float)(p[4 + i] >> 4) + m;
        }
    }
}

typedef void row_reader(const uint8_t *restrict p, float *restrict out, int64_t n);

static row_reader *find_reader(const vp_tensor_info *t) {
    switch (t->storage) {
    case VP_STORE_PLAIN:
        return t->dtype == VP_F32 ? row_f32 : t->dtype == VP_F16 ? row_f16 : t->dtype == VP_BF16 ? row_bf16 : NULL;
    case VP_STORE_Q8_0:
        return row_q8_0;
    case VP_STORE_Q4_0:
        return row_q4_0;
    case VP_STORE_Q4_1:
        return row_q4_1;
    case VP_STORE_OTHER:
        break;
    }
    return NULL;
}

int vp_tensor_row(const vp_tensor_info *t, int64_t r, float *out, vp_error *err) {
    int64_t rows = vp_tensor_rows(t);
    row_reader *read = find_reader(t);
    if (!read)
        return vp_fail(err, VP_DATA, "'%s': tensor '%.100s': type %s; F32, F16, BF16, Q8_0, Q4_0, Q4_1 can be read",
                       t->file, t->name, t->type);
    if (r < 0 || r >= rows)
        return vp_fail(err, VP_BUG, "tensor '%.100s': row %lld of %lld", t->name, (long long)r, (long long)rows);
    read(t->data + t->bytes / (size_t)rows * (size_t)r, out, vp_tensor_cols(t));
    return VP_OK;
}
