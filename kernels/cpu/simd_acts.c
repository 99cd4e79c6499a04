/* Activations, alone, gated, and as the epilogue of a product; and backward. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_tables.h"

/* For each activation f and its derivative: out = f(x + bias) + residual, out = f(x) * y, and their backward forms.
 * Instantiated from one table. */
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
VP_ACT_FUNCTIONS(X)
#undef X

static void epilogue(vp_act act, const float *x, const float *bias, const float *residual, float *out, int64_t n) {
    switch (act) {
#define X(name, f, slope)                                                                                              \
    case name:                                                                                                         \
        f##_epilogue(x, bias, residual, out, n);                                                                       \
        return;
        VP_ACT_FUNCTIONS(X)
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
        VP_ACT_FUNCTIONS(X)
#undef X
    }
}

static void act_bwd(vp_act act, const float *x, const float *dout, float *dx, int64_t n) {
    switch (act) {
#define X(name, f, slope)                                                                                              \
    case name:                                                                                                         \
        f##_bwd(x, dout, dx, n);                                                                                       \
        return;
        VP_ACT_FUNCTIONS(X)
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
        VP_ACT_FUNCTIONS(X)
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
