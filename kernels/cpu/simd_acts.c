/* Activations, alone, gated, and as the epilogue of a product; and backward. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_tables.h"

/* x / (1 + e^-x) */
static inline vec silu(vec x) {
    return v_div(x, v_add(v_set1(1.0f), v_exp(v_sub(v_zero(), x))));
}
/* x (1 + erf(x / sqrt 2)) / 2 */
static inline vec gelu(vec x) {
    vec half = v_mul(x, v_set1(0.5f));
    return v_fma(half, v_erf(v_mul(x, v_set1(0.707106781f))), half);
}
/* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 */
static inline vec gelu_tanh(vec x) {
    vec half = v_mul(x, v_set1(0.5f)), z = v_mul(x, x);
    vec t = v_mul(x, v_fma(z, v_set1(0.0356774081f), v_set1(0.797884561f)));
    return v_fma(half, v_tanh(t), half);
}
static inline vec relu(vec x) {
    return v_max(v_zero(), x);
} /* NaN stays */
static inline vec same(vec x) {
    return x;
}

/* Their derivatives. */
static inline vec silu_slope(vec x) { /* s (1 + x (1 - s)), s = 1 / (1 + e^-x) */
    vec one = v_set1(1.0f), s = v_div(one, v_add(one, v_exp(v_sub(v_zero(), x))));
    return v_mul(s, v_fma(x, v_sub(one, s), one));
}
static inline vec gelu_slope(vec x) { /* (1 + erf(x / sqrt 2)) / 2 + x e^(-x^2 / 2) / sqrt(2 pi) */
    vec half = v_set1(0.5f), density = v_exp(v_mul(v_mul(x, x), v_set1(-0.5f)));
    vec below = v_fma(half, v_erf(v_mul(x, v_set1(0.707106781f))), half);
    return v_fma(v_mul(x, v_set1(0.398942280f)), density, below);
}
static inline vec gelu_tanh_slope(vec x) { /* (1 + t) / 2 + x (1 - t^2) z' / 2, t = tanh z */
    vec half = v_set1(0.5f), square = v_mul(x, x);
    vec t = v_tanh(v_mul(x, v_fma(square, v_set1(0.0356774081f), v_set1(0.797884561f))));
    vec inner = v_fma(square, v_set1(0.107032224f), v_set1(0.797884561f));
    vec steep = v_mul(v_mul(v_mul(half, x), inner), v_sub(v_set1(1.0f), v_mul(t, t)));
    return v_add(steep, v_fma(half, t, half));
}
static inline vec relu_slope(vec x) {
    return v_select_lt(v_zero(), x, v_set1(1.0f), v_zero());
}
static inline vec tanh_slope(vec x) {
    vec t = v_tanh(x);
    return v_sub(v_set1(1.0f), v_mul(t, t));
}
static inline vec same_slope(vec x) {
    (void)x;
    return v_set1(1.0f);
}

/* For each activation f and its derivative: out = f(x + bias) + residual, out = f(x) * y, and their backward forms.
 * Instantiated from one table. */
#define ACTS(X)                                                                                                        \
    X(VP_ACT_NONE, same, same_slope)                                                                                   \
    X(VP_ACT_SILU, silu, silu_slope)                                                                                   \
    X(VP_ACT_GELU, gelu, gelu_slope)                                                                                   \
    X(VP_ACT_GELU_TANH, gelu_tanh, gelu_tanh_slope)                                                                    \
    X(VP_ACT_RELU, relu, relu_slope)                                                                                   \
    X(VP_ACT_TANH, v_tanh, tanh_slope)

#define X(name, f, slope)                                                                                              \
    static void f##_epilogue(const float *x, const float *bias, const float *residual, float *out, int64_t n) {        \
        for (int64_t i = 0; i < n; i += VW) {                                                                          \
            vec a = v_load_upto(x + i, n - i);                                                                         \
            if (bias) a = v_add(a, v_load_upto(bias + i, n - i));                                                      \
            a = f(a);                                                                                                  \
            if (residual) a = v_add(a, v_load_upto(residual + i, n - i));                                              \
            v_store_upto(out + i, a, n - i);                                                                           \
        }                                                                                                              \
    }                                                                                                                  \
    static void f##_times(const float *x, const float *y, float *out, int64_t n) {                                     \
        for (int64_t i = 0; i < n; i += VW)                                                                            \
            v_store_upto(out + i, v_mul(f(v_load_upto(x + i, n - i)), v_load_upto(y + i, n - i)), n - i);              \
    }                                                                                                                  \
    static void f##_bwd(const float *x, const float *dout, float *dx, int64_t n) {                                     \
        for (int64_t i = 0; i < n; i += VW)                                                                            \
            v_store_upto(dx + i, v_mul(slope(v_load_upto(x + i, n - i)), v_load_upto(dout + i, n - i)), n - i);        \
    }                                                                                                                  \
    static void f##_times_bwd(const float *x, const float *y, const float *dout, float *dx, float *dy, int64_t n) {    \
        for (int64_t i = 0; i < n; i += VW) {                                                                          \
            vec a = v_load_upto(x + i, n - i), b = v_load_upto(y + i, n - i), g = v_load_upto(dout + i, n - i);        \
            v_store_upto(dx + i, v_mul(v_mul(g, b), slope(a)), n - i);                                                 \
            v_store_upto(dy + i, v_mul(g, f(a)), n - i);                                                               \
        }                                                                                                              \
    }
ACTS(X)
#undef X

static void epilogue(vp_act act, const float *x, const float *bias, const float *residual, float *out, int64_t n) {
    switch (act) {
#define X(name, f, slope)                                                                                              \
    case name:                                                                                                         \
        f##_epilogue(x, bias, residual, out, n);                                                                       \
        return;
        ACTS(X)
#undef X
    }
}

static void act_row(vp_act act, const float *x, float *out, int64_t n) {
    epilogue(act, x, NULL, NULL, out, n);
}

static void glu_row(vp_act act, const float *gate, const float *up, float *out, int64_t n) {
    switch (act) {
#define X(name, f, slope)                                                                                              \
    case name:                                                                                                         \
        f##_times(gate, up, out, n);                                                                                   \
        return;
        ACTS(X)
#undef X
    }
}

static void act_bwd(vp_act act, const float *x, const float *dout, float *dx, int64_t n) {
    switch (act) {
#define X(name, f, slope)                                                                                              \
    case name:                                                                                                         \
        f##_bwd(x, dout, dx, n);                                                                                       \
        return;
        ACTS(X)
#undef X
    }
}

static void glu_bwd(vp_act act, const float *gate, const float *up, const float *dout, float *dgate, float *dup,
                    int64_t n) {
    switch (act) {
#define X(name, f, slope)                                                                                              \
    case name:                                                                                                         \
        f##_times_bwd(gate, up, dout, dgate, dup, n);                                                                  \
        return;
        ACTS(X)
#undef X
    }
}

#define PLAIN(name, f)                                                                                                 \
    static void name(const float *x, float *out, int64_t n) {                                                          \
        for (int64_t i = 0; i < n; i += VW) v_store_upto(out + i, f(v_load_upto(x + i, n - i)), n - i);                \
    }
PLAIN(exp_row, v_exp)
PLAIN(tanh_row, v_tanh)
PLAIN(erf_row, v_erf)

const vp_simd_acts VP_ISA_NAME(vp_simd_acts) = {
    .act = act_row,
    .glu = glu_row,
    .epilogue = epilogue,
    .act_bwd = act_bwd,
    .glu_bwd = glu_bwd,
    .exp = exp_row,
    .tanh = tanh_row,
    .erf = erf_row,
};
