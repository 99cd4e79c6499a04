/* Softmax of long rows for the losses: a row of logits is read for its maximum, then turned into exponentials while it
 * is still in the cache. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_tables.h"

/* four chains, so that none is bound by the latency of one */
static float max_row(const float *x, int64_t n) {
    const vec lowest = v_set1(-INFINITY);
    vec m[4] = {lowest, lowest, lowest, lowest};
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW)
        for (int j = 0; j < 4; j++) m[j] = v_max(m[j], v_load(x + i + j * VW));
    for (; i < n; i += VW) {
        vec a = v_load_upto(x + i, n - i);
        m[0] = v_max(m[0], n - i < VW ? v_keep_n(a, n - i, lowest) : a);
    }
    return v_max_all(v_max(v_max(m[0], m[1]), v_max(m[2], m[3])));
}

static float exponents(float *x, bool keep, int64_t n, float *sum) {
    const float most = max_row(x, n);
    const vec top = v_set1(most);
    vec s[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW)
        for (int j = 0; j < 4; j++) {
            float *at = x + i + j * VW;
            vec e = v_exp(v_sub(v_load(at), top));
            s[j] = v_add(s[j], e);
            if (!keep) v_store(at, e);
        }
    for (; i < n; i += VW) {
        vec e = v_exp(v_sub(v_load_upto(x + i, n - i), top));
        s[0] = v_add(s[0], n - i < VW ? v_keep_n(e, n - i, v_zero()) : e);
        if (!keep) v_store_upto(x + i, e, n - i);
    }
    *sum = v_sum(v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
    return most;
}

static void max_into(const float *x, float *m, int64_t n) {
    for (int64_t i = 0; i < n; i += VW)
        v_store_upto(m + i, v_max(v_load_upto(m + i, n - i), v_load_upto(x + i, n - i)), n - i);
}

const vp_simd_loss VP_ISA_NAME(vp_simd_loss) = {.exponents = exponents, .max = max_into};
