/* The optimisers' arithmetic over a run of numbers: ops.h has the formulas, PyTorch the order of the roundings. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_tables.h"

/* Squares of f32 are exact in f64 and their sum cannot overflow: it is finite where every number is. */
static double sumsq(const float *g, int64_t n) {
    enum { LANES = 16 }; /* whatever the instruction set: the same bytes on all of them */
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) lane[k] += (double)g[i + k] * (double)g[i + k];
    for (int k = 0; i < n; i++, k++) lane[k] += (double)g[i] * (double)g[i];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++) lane[k] += lane[k + half];
    return lane[0];
}

static void adamw(const vp_simd_update *u, float *p, const float *g, float *m, float *v, int64_t n) {
    const vec keep = v_set1(u->keep), more1 = v_set1(u->more1), beta2 = v_set1(u->beta2), more2 = v_set1(u->more2);
    const vec root = v_set1(u->root), eps = v_set1(u->eps), rate = v_set1(u->rate);
    for (int64_t i = 0; i < n; i += VW) {
        const vec grad = v_load_upto(g + i, n - i), old = v_load_upto(m + i, n - i);
        const vec first = v_fma(more1, v_sub(grad, old), old);
        const vec second = v_fma(v_mul(more2, grad), grad, v_mul(beta2, v_load_upto(v + i, n - i)));
        const vec below = v_add(v_div(v_sqrt(second), root), eps);
        const vec from = v_mul(v_load_upto(p + i, n - i), keep);
        v_store_upto(m + i, first, n - i);
        v_store_upto(v + i, second, n - i);
        v_store_upto(p + i, v_sub(from, v_mul(rate, v_div(first, below))), n - i);
    }
}

static void sgd(const vp_simd_update *u, float *p, const float *g, float *m, int64_t n) {
    const vec decay = v_set1(u->decay), beta1 = v_set1(u->beta1), rate = v_set1(u->rate);
    for (int64_t i = 0; i < n; i += VW) {
        const vec from = v_load_upto(p + i, n - i);
        vec move = v_fma(decay, from, v_load_upto(g + i, n - i));
        if (m) {
            move = v_fma(beta1, v_load_upto(m + i, n - i), move);
            v_store_upto(m + i, move, n - i);
        }
        v_store_upto(p + i, v_sub(from, v_mul(rate, move)), n - i);
    }
}

static void rmsprop(const vp_simd_update *u, float *p, const float *g, float *v, int64_t n) {
    const vec decay = v_set1(u->decay), beta2 = v_set1(u->beta2), more2 = v_set1(u->more2);
    const vec eps = v_set1(u->eps), rate = v_set1(u->rate);
    for (int64_t i = 0; i < n; i += VW) {
        const vec from = v_load_upto(p + i, n - i), grad = v_fma(decay, from, v_load_upto(g + i, n - i));
        const vec second = v_fma(v_mul(more2, grad), grad, v_mul(beta2, v_load_upto(v + i, n - i)));
        v_store_upto(v + i, second, n - i);
        v_store_upto(p + i, v_sub(from, v_mul(rate, v_div(grad, v_add(v_sqrt(second), eps)))), n - i);
    }
}

const vp_simd_optim VP_ISA_NAME(vp_simd_optim) = {
    .sumsq = sumsq,
    .adamw = adamw,
    .sgd = sgd,
    .rmsprop = rmsprop,
};
