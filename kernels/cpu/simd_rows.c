/* Row-wise arithmetic: norms, softmax, rotary embedding, sums, conversions. Activations are in simd_acts.c. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_tables.h"

static void add_into(float *x, const float *d, int64_t n) {
    for (int64_t i = 0; i < n; i += VW)
        v_store_upto(x + i, v_add(v_load_upto(x + i, n - i), v_load_upto(d + i, n - i)), n - i);
}

/* sum of (x - mean)^2: four chains, so that it is not bound by the latency of one */
static float sum_squares(const float *x, float mean, int64_t n) {
    vec m = v_set1(mean), s[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW)
        for (int j = 0; j < 4; j++) {
            vec a = v_sub(v_load(x + i + j * VW), m);
            s[j] = v_fma(a, a, s[j]);
        }
    for (; i < n; i += VW) {
        vec a = v_sub(v_load_upto(x + i, n - i), m);
        if (n - i < VW) a = v_keep_n(a, n - i, v_zero());
        s[0] = v_fma(a, a, s[0]);
    }
    return v_sum(v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
}

static float sum_row(const float *x, int64_t n) {
    vec s[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW)
        for (int j = 0; j < 4; j++) s[j] = v_add(s[j], v_load(x + i + j * VW));
    for (; i < n; i += VW) s[0] = v_add(s[0], v_load_upto(x + i, n - i));
    return v_sum(v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
}

static void norm_stats(vp_norm_kind kind, const float *x, float eps, int64_t n, float *mean, float *rstd) {
    *mean = kind == VP_NORM_LAYER ? sum_row(x, n) / (float)n : 0.0f;
    *rstd = 1.0f / sqrtf(sum_squares(x, *mean, n) / (float)n + eps);
}

static float norm_row(vp_norm_kind kind, float *x, const float *d, float *out, const float *weight, const float *bias,
                      float eps, int64_t n) {
    if (d) add_into(x, d, n);
    float mean, rstd;
    norm_stats(kind, x, eps, n, &mean, &rstd);
    vec m = v_set1(mean), r = v_set1(rstd), one = v_set1(kind == VP_NORM_RMS_PLUS1 ? 1.0f : 0.0f);
    for (int64_t i = 0; i < n; i += VW) {
        vec y = v_mul(v_sub(v_load_upto(x + i, n - i), m), r);
        vec w = v_add(v_load_upto(weight + i, n - i), one);
        y = bias ? v_fma(y, w, v_load_upto(bias + i, n - i)) : v_mul(y, w);
        v_store_upto(out + i, y, n - i);
    }
    return rstd;
}

static void softmax_row(const float *x, float *out, int64_t n) {
    vec lowest = v_set1(-INFINITY), m = lowest, sum = v_zero();
    for (int64_t i = 0; i < n; i += VW)
        m = v_max(m, v_keep_n(v_load_upto(x + i, n - i), n - i < VW ? n - i : VW, lowest));
    vec top = v_set1(v_max_all(m));
    for (int64_t i = 0; i < n; i += VW) {
        vec e = v_exp(v_sub(v_load_upto(x + i, n - i), top));
        if (n - i < VW) e = v_keep_n(e, n - i, v_zero());
        sum = v_add(sum, e);
        v_store_upto(out + i, e, n - i);
    }
    vec inverse = v_set1(1.0f / v_sum(sum));
    for (int64_t i = 0; i < n; i += VW) v_store_upto(out + i, v_mul(v_load_upto(out + i, n - i), inverse), n - i);
}

/* (a, b) -> (a c - b s, b c + a s) */
static void rotate_halves(float *x, int32_t half, const float *c, const float *s, float sign) {
    vec g = v_set1(sign);
    for (int32_t i = 0; i < half; i += VW) {
        int64_t left = half - i;
        vec a = v_load_upto(x + i, left), b = v_load_upto(x + half + i, left);
        vec cv = v_load_upto(c + i, left), sv = v_mul(g, v_load_upto(s + i, left));
        v_store_upto(x + i, v_sub(v_mul(a, cv), v_mul(b, sv)), left);
        v_store_upto(x + half + i, v_fma(b, cv, v_mul(a, sv)), left);
    }
}

static void rotate_pairs(float *x, int32_t half, const float *c, const float *s, float sign) {
    for (int32_t i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1], t = sign * s[i];
        x[2 * i] = a * c[i] - b * t;
        x[2 * i + 1] = b * c[i] + a * t;
    }
}

static void rope_row(float *x, int32_t heads, int32_t d, int32_t rotary, bool interleaved, const float *c,
                     const float *s, float sign) {
    for (int32_t h = 0; h < heads; h++, x += d) {
        if (interleaved)
            rotate_pairs(x, rotary / 2, c, s, sign);
        else
            rotate_halves(x, rotary / 2, c, s, sign);
    }
}

static void axpby_row(float a, const float *x, float b, const float *y, float *out, int64_t n) {
    vec av = v_set1(a), bv = v_set1(b);
    for (int64_t i = 0; i < n; i += VW) {
        vec r = v_mul(av, v_load_upto(x + i, n - i));
        if (y) r = v_fma(bv, v_load_upto(y + i, n - i), r);
        v_store_upto(out + i, r, n - i);
    }
}

static float l2norm_row(const float *x, float *out, int64_t n) {
    float norm = sqrtf(sum_squares(x, 0.0f, n));
    norm = norm < 1e-12f ? 1e-12f : norm;
    vec nv = v_set1(norm);
    for (int64_t i = 0; i < n; i += VW) v_store_upto(out + i, v_div(v_load_upto(x + i, n - i), nv), n - i);
    return norm;
}

static void to_bf16_row(const float *x, uint16_t *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        uint32_t rounded = bits + 0x7fffU + (bits >> 16 & 1U);
        bool nan = (bits & 0x7fffffffU) > 0x7f800000U;
        out[i] = (uint16_t)((nan ? bits | 0x400000U : rounded) >> 16);
    }
}

static void from_bf16_row(const uint16_t *x, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

const vp_simd_rows VP_ISA_NAME(vp_simd_rows) = {
    .norm = norm_row,
    .norm_stats = norm_stats,
    .softmax = softmax_row,
    .rope = rope_row,
    .axpby = axpby_row,
    .l2norm = l2norm_row,
    .to_bf16 = to_bf16_row,
    .from_bf16 = from_bf16_row,
};
