/* The online softmax of attention: one query, one block of keys. A hidden key and a block without visible keys leave no
 * trace in the result, so that it does not matter which blocks a caller skips. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_tables.h"

/* visible scores, scaled and capped; the others -inf */
static inline vec visible(const float *s, int64_t j, int64_t lo, int64_t hi, const float *hide, vec scale,
                          float softcap) {
    vec a = v_mul(v_load_upto(s + j, hi - j), scale);
    if (softcap > 0.0f) a = v_mul(v_set1(softcap), v_tanh(v_div(a, v_set1(softcap))));
    if (hide) a = v_add(a, v_load_upto(hide + j, hi - j));
    if (hi - j < VW) a = v_keep_n(a, hi - j, v_set1(-INFINITY));
    if (lo > j) a = v_keep_n(v_set1(-INFINITY), lo - j, a);
    return a;
}

static inline int64_t whole(int64_t j) {
    return j - j % VW;
}

static float softmax_block(float *s, int64_t n, int64_t lo, int64_t hi, const float *hide, float scale, float softcap,
                           float *m, float *sum) {
    lo = lo < 0 ? 0 : lo;
    hi = hi > n ? n : hi;
    if (lo >= hi) {
        memset(s, 0, (size_t)n * sizeof *s);
        return 1.0f;
    }
    int64_t first = whole(lo);
    vec top = v_set1(-INFINITY), by = v_set1(scale);
    for (int64_t j = first; j < hi; j += VW) {
        vec a = visible(s, j, lo, hi, hide, by, softcap);
        v_store_upto(s + j, a, n - j);
        top = v_max(top, a);
    }
    float old = *m, now = v_max_all(top);
    now = now > old ? now : old;
    memset(s, 0, (size_t)first * sizeof *s);
    float factor[VW];
    v_store(factor, v_set1(1.0f));
    vec lanes = v_load(sum);
    vec shift = v_set1(now > -INFINITY ? now : 0.0f);
    if (now > old) {
        v_store(factor, v_exp(v_sub(v_set1(old), shift)));
        lanes = v_mul(lanes, v_set1(factor[0]));
    }
    for (int64_t j = first; j < hi; j += VW) {
        vec p = v_exp(v_sub(v_load_upto(s + j, n - j), shift));
        if (n - j < VW) p = v_keep_n(p, n - j, v_zero());
        lanes = v_add(lanes, p);
        v_store_upto(s + j, p, n - j);
    }
    int64_t done = whole(hi - 1) + VW;
    if (done < n) memset(s + done, 0, (size_t)(n - done) * sizeof *s);
    v_store(sum, lanes);
    *m = now;
    return factor[0];
}

static void scale_row(float *x, float a, int64_t n) {
    vec by = v_set1(a);
    for (int64_t i = 0; i < n; i += VW) v_store_upto(x + i, v_mul(v_load_upto(x + i, n - i), by), n - i);
}

static void finish(const float *x, const float *lanes, float *out, int64_t n) {
    float sum = v_sum(v_load(lanes));
    vec by = v_set1(sum > 0.0f ? 1.0f / sum : 0.0f);
    /* + 0 turns -0, which a skipped block would not have left, into 0 */
    for (int64_t i = 0; i < n; i += VW)
        v_store_upto(out + i, v_add(v_mul(v_load_upto(x + i, n - i), by), v_zero()), n - i);
}

const vp_simd_attn VP_ISA_NAME(vp_simd_attn) = {.softmax_block = softmax_block, .scale = scale_row, .finish = finish};
