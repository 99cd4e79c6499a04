/* Records of keys and values as they are stored: BF16 as it comes, I8 with scales, compressed. */
#include "lib/index/kv_store.h"
#include "lib/base/half.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum { ZSTD_LEVEL = 1 }; /* higher ones are slower and gain nothing on such numbers */

int64_t vp_kv_plain_bytes(const vp_kv_format *f) {
    return 2 * f->layers * f->groups * f->head_dim * (int64_t)sizeof(uint16_t);
}

int64_t vp_kv_token_bytes(const vp_kv_format *f) {
    if (!f->i8) return vp_kv_plain_bytes(f);
    return 2 * f->layers * f->groups * (f->head_dim + (int64_t)sizeof(float));
}

bool vp_kv_format_good(const vp_kv_format *f) {
    const int64_t most = 1 << 16;
    return f->layers >= 1 && f->groups >= 1 && f->head_dim >= 1 && f->layers <= most && f->groups <= most &&
           f->head_dim <= most && vp_kv_plain_bytes(f) < (int64_t)VP_MAX_PAYLOAD;
}

bool vp_kv_format_equal(const vp_kv_format *a, const vp_kv_format *b) {
    return a->layers == b->layers && a->groups == b->groups && a->head_dim == b->head_dim && a->i8 == b->i8 &&
           a->zstd == b->zstd;
}

const char *vp_kv_format_name(const vp_kv_format *f) {
    if (!f->layers) return "none";
    return f->i8 ? f->zstd ? "i8 zstd" : "i8" : f->zstd ? "bf16 zstd" : "bf16";
}

/* n more bytes at the end of b, in *at. */
static int extend(vp_buf *b, size_t n, uint8_t **at, vp_error *err) {
    VP_TRY(vp_buf_reserve(b, b->len + n + 1, err));
    *at = (uint8_t *)b->data + b->len;
    b->len += n;
    return VP_OK;
}

/* ---- encoding ---- */
/* [L, T, G d] to [L, n, G d] */
static void take_plain(const vp_kv_format *f, const vp_kv_rows *r, const uint8_t *from, uint8_t *to) {
    const size_t token = (size_t)(f->groups * f->head_dim) * sizeof(uint16_t), bytes = (size_t)r->n * token;
    for (int64_t l = 0; l < f->layers && bytes; l++)
        memcpy(to + (size_t)l * bytes, from + (size_t)(l * r->T + r->first) * token, bytes);
}

/* x [d] = q scale; unaligned BF16 in, an F32 scale out */
static void quantize_head(const uint8_t *x, int64_t d, int8_t *q, uint8_t *scale_to) {
    uint16_t bits;
    float most = 0;
    for (int64_t i = 0; i < d; i++) {
        memcpy(&bits, x + 2 * i, sizeof bits);
        most = fmaxf(most, fabsf(vp_bf16_float(bits)));
    }
    const float scale = most / 127;
    for (int64_t i = 0; i < d; i++) {
        memcpy(&bits, x + 2 * i, sizeof bits);
        q[i] = (int8_t)(scale > 0 ? fminf(fmaxf(rintf(vp_bf16_float(bits) / scale), -127), 127) : 0);
    }
    memcpy(scale_to, &scale, sizeof scale);
}

/* [L, T, G, d] BF16 to q [L, n, G, d] and scale [L, n, G] */
static void take_i8(const vp_kv_format *f, const vp_kv_rows *r, const uint8_t *from, uint8_t *q, uint8_t *scale) {
    const int64_t d = f->head_dim, heads = r->n * f->groups;
    for (int64_t l = 0; l < f->layers; l++)
        for (int64_t h = 0; h < heads; h++) {
            const int64_t to = l * heads + h, at = (l * r->T + r->first) * f->groups + h;
            quantize_head(from + 2 * at * d, d, (int8_t *)q + to * d, scale + to * (int64_t)sizeof(float));
        }
}

static void take(const vp_kv_format *f, const vp_kv_rows *r, uint8_t *to) {
    const int64_t heads = f->layers * r->n * f->groups, half = heads * f->head_dim;
    if (!f->i8) {
        take_plain(f, r, r->k, to);
        take_plain(f, r, r->v, to + 2 * half);
        return;
    }
    uint8_t *scale = to + 2 * half;
    take_i8(f, r, r->k, to, scale);
    take_i8(f, r, r->v, to + half, scale + heads * (int64_t)sizeof(float));
}

/* BF16's low bytes, then its high ones, which repeat: they compress better apart. */
static void split(const uint8_t *from, size_t n, uint8_t *to) {
    for (size_t i = 0; i < n; i++) {
        to[i] = from[2 * i];
        to[n + i] = from[2 * i + 1];
    }
}

static void join(const uint8_t *from, size_t n, uint8_t *to) {
    for (size_t i = 0; i < n; i++) {
        to[2 * i] = from[i];
        to[2 * i + 1] = from[n + i];
    }
}

int vp_kv_encode(const vp_kv_format *f, const vp_kv_rows *rows, vp_buf *scratch, vp_buf *out, vp_error *err) {
    const size_t bytes = (size_t)(rows->n * vp_kv_token_bytes(f));
    uint8_t *to, *whole, *parts;
    if (!f->zstd) {
        VP_TRY(extend(out, bytes, &to, err));
        take(f, rows, to);
        return VP_OK;
    }
    if (!bytes) return VP_OK;
    scratch->len = 0;
    VP_TRY(extend(scratch, 2 * bytes, &whole, err));
    parts = whole + bytes;
    take(f, rows, whole);
    if (!f->i8) split(whole, bytes / 2, parts);
    const size_t start = out->len, bound = ZSTD_compressBound(bytes);
    VP_TRY(extend(out, bound, &to, err));
    const size_t n = ZSTD_compress(to, bound, f->i8 ? whole : parts, bytes, ZSTD_LEVEL);
    if (ZSTD_isError(n)) return vp_fail(err, VP_MEMORY, "cannot compress: %s", ZSTD_getErrorName(n));
    out->len = start + n;
    return VP_OK;
}

/* ---- decoding ---- */
/* q [heads, d], scale [heads] to BF16; false: a scale that is none */
static bool dequantize(const int8_t *q, const uint8_t *scale, int64_t heads, int64_t d, uint16_t *to) {
    for (int64_t h = 0; h < heads; h++) {
        float s;
        memcpy(&s, scale + h * (int64_t)sizeof s, sizeof s);
        if (!isfinite(127 * s)) return false;
        for (int64_t i = 0; i < d; i++) to[h * d + i] = vp_float_bf16(s * (float)q[h * d + i]);
    }
    return true;
}

/* As stored, of `bytes` bytes that fit; false: damaged */
static bool expand(const vp_kv_format *f, const uint8_t *data, size_t bytes, int64_t n, uint16_t *to) {
    const int64_t heads = f->layers * n * f->groups, half = heads * f->head_dim;
    if (!f->i8) {
        join(data, bytes / 2, (uint8_t *)to);
        return true;
    }
    /* k and v alike: heads after heads, scales after scales */
    return dequantize((const int8_t *)data, data + 2 * half, 2 * heads, f->head_dim, to);
}

uint16_t *vp_kv_decode(const vp_kv_format *f, const uint8_t *data, size_t bytes, int64_t n, vp_error *err) {
    const size_t plain = (size_t)(n * vp_kv_plain_bytes(f)), whole = (size_t)(n * vp_kv_token_bytes(f));
    uint16_t *to = malloc(plain + 1);
    uint8_t *unpacked = f->zstd ? malloc(whole + 1) : NULL;
    bool good = to && (unpacked || !f->zstd);
    if (!good) vp_fail_memory(err, "keys and values", plain + whole);
    if (good && f->zstd && bytes) {
        good = ZSTD_decompress(unpacked, whole, data, bytes) == whole;
        data = unpacked;
        bytes = whole;
    }
    good = good && bytes == whole && expand(f, data, bytes, n, to);
    free(unpacked);
    if (good) return to;
    free(to);
    return NULL;
}
