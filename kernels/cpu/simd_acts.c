/* Activations, alone, gated, and as the epilogue of a product. */
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

/* For each activation f: out = f(x + bias) + residual, and out = f(x) * y. Instantiated from one table. */
#define ACTS(X)                                                                                                        \
    X(VP_ACT_NONE, same)                                                                                               \
    X(VP_ACT_SILU, silu)                                                                                               \
    X(VP_ACT_GELU, gelu)                                                                                               \
    X(VP_ACT_GELU_TANH, gelu_tanh)                                                                                     \
    X(VP_ACT_RELU, relu)                                                                                               \
    X(VP_ACT_TANH, v_tanh)

#define X(name, f)                                                                                                     \
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
    }
ACTS(X)
#undef X

static void epilogue(vp_act act, const float *x, const float *bias, const float *residual, float *out, int64_t n) {
    switch (act) {
#define X(name, f)                                                                                                     \
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
#define X(name, f)                                                                                                     \
    case name:                                                                                                         \
        f##_times(gate, up, out, n);                                                                                   \
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
    .exp = exp_row,
    .tanh = tanh_row,
    .erf = erf_row,
};
