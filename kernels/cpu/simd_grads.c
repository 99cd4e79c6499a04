/* Derivatives of what works row by row: norms, softmax, l2norm, and one block of attention. Those of activations are in
 * simd_acts.c, beside the functions. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_tables.h"

static float dot(const float *a, const float *b, int64_t n) {
    vec s = v_zero();
    for (int64_t i = 0; i < n; i += VW) s = v_fma(v_load_upto(a + i, n - i), v_load_upto(b + i, n - i), s);
    return v_sum(s);
}

static void norm_dx(vp_norm_kind kind, const float *x, const float *dout, const float *weight, float mean, float rstd,
                    float *dx, int64_t n) {
    vec m = v_set1(mean), r = v_set1(rstd), one = v_set1(kind == VP_NORM_RMS_PLUS1 ? 1.0f : 0.0f);
    vec sum_g = v_zero(), sum_gy = v_zero();
    for (int64_t i = 0; i < n; i += VW) {
        vec y = v_mul(v_sub(v_load_upto(x + i, n - i), m), r);
        vec g = v_mul(v_load_upto(dout + i, n - i), v_add(v_load_upto(weight + i, n - i), one));
        sum_g = v_add(sum_g, g); /* past the end dout, and so g, is 0 */
        sum_gy = v_fma(g, y, sum_gy);
    }
    vec along = v_set1(v_sum(sum_gy) / (float)n);
    vec middle = v_set1(kind == VP_NORM_LAYER ? v_sum(sum_g) / (float)n : 0.0f);
    for (int64_t i = 0; i < n; i += VW) {
        vec y = v_mul(v_sub(v_load_upto(x + i, n - i), m), r);
        vec g = v_mul(v_load_upto(dout + i, n - i), v_add(v_load_upto(weight + i, n - i), one));
        vec d = v_sub(v_sub(g, middle), v_mul(y, along));
        v_store_upto(dx + i, v_mul(r, d), n - i);
    }
}

static void norm_dw(const float *x, const float *dout, float mean, float rstd, float *dw, float *db, int64_t n) {
    vec m = v_set1(mean), r = v_set1(rstd);
    for (int64_t i = 0; i < n; i += VW) {
        vec g = v_load_upto(dout + i, n - i), y = v_mul(v_sub(v_load_upto(x + i, n - i), m), r);
        if (dw) v_store_upto(dw + i, v_fma(g, y, v_load_upto(dw + i, n - i)), n - i);
        if (db) v_store_upto(db + i, v_add(g, v_load_upto(db + i, n - i)), n - i);
    }
}

static void softmax_dx(const float *p, const float *dout, float *dx, int64_t n) {
    vec inner = v_set1(dot(p, dout, n));
    for (int64_t i = 0; i < n; i += VW)
        v_store_upto(dx + i, v_mul(v_load_upto(p + i, n - i), v_sub(v_load_upto(dout + i, n - i), inner)), n - i);
}

static void l2norm_dx(const float *x, const float *dout, float *dx, int64_t n) {
    float norm = sqrtf(dot(x, x, n));
    bool clamped = norm < 1e-12f;
    float inverse = 1.0f / (clamped ? 1e-12f : norm);
    vec by = v_set1(inverse), along = v_set1(clamped ? 0.0f : dot(x, dout, n) * inverse);
    for (int64_t i = 0; i < n; i += VW) {
        vec y = v_mul(v_load_upto(x + i, n - i), by);
        v_store_upto(dx + i, v_mul(by, v_sub(v_load_upto(dout + i, n - i), v_mul(y, along))), n - i);
    }
}

static inline vec within(vec a, int64_t j, int64_t lo, int64_t hi) { /* 0 where not in [lo, hi) */
    if (hi - j < VW) a = v_keep_n(a, hi - j, v_zero());
    return lo > j ? v_keep_n(v_zero(), lo - j, a) : a;
}

static void attn_block(float *s, float *dp, int64_t n, int64_t lo, int64_t hi, const float *hide, float scale,
                       float softcap, float lse, float delta) {
    lo = lo < 0 ? 0 : lo;
    hi = hi > n ? n : hi;
    int64_t first = lo < hi ? lo - lo % VW : n, j = first;
    memset(s, 0, (size_t)first * sizeof *s);
    memset(dp, 0, (size_t)first * sizeof *dp);
    vec by = v_set1(scale), shift = v_set1(lse), d = v_set1(delta), one = v_set1(1.0f), cap = v_set1(softcap);
    for (; j < hi; j += VW) {
        vec a = v_mul(v_load_upto(s + j, n - j), by), slope = by;
        if (softcap > 0.0f) {
            vec t = v_tanh(v_div(a, cap));
            a = v_mul(cap, t);
            slope = v_mul(by, v_sub(one, v_mul(t, t)));
        }
        if (hide) a = v_add(a, v_load_upto(hide + j, n - j));
        vec p = within(v_exp(v_sub(a, shift)), j, lo, hi);
        vec ds = v_mul(v_mul(p, v_sub(v_load_upto(dp + j, n - j), d)), slope);
        v_store_upto(s + j, p, n - j);
        v_store_upto(dp + j, ds, n - j);
    }
    if (j < n) {
        memset(s + j, 0, (size_t)(n - j) * sizeof *s);
        memset(dp + j, 0, (size_t)(n - j) * sizeof *dp);
    }
}

const vp_simd_grads VP_ISA_NAME(vp_simd_grads) = {
    .dot = dot,
    .norm_dx = norm_dx,
    .norm_dw = norm_dw,
    .softmax_dx = softmax_dx,
    .l2norm_dx = l2norm_dx,
    .attn_block = attn_block,
};
