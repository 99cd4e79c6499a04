/* What the files simd_*.c export: one table of functions each, once an instruction set. A row's result depends on
 * nothing but the row: not on its address, its neighbours, or how many there are. Arrays need no alignment. */
#ifndef VP_CPU_SIMD_TABLES_H
#define VP_CPU_SIMD_TABLES_H
#include "kernels/ops.h"

/* ---- simd_rows.c, simd_acts.c: one row of n floats. `out` may be an input itself. ---- */
typedef struct vp_simd_rows {
    /* x += d (unless NULL); out = norm(x) * weight (+ bias); returns 1 / deviation */
    float (*norm)(vp_norm_kind kind, float *x, const float *d, float *out, const float *weight, const float *bias,
                  float eps, int64_t n);
    /* mean (0 but for layer norms) and 1 / deviation, the numbers that `norm` uses */
    void (*norm_stats)(vp_norm_kind kind, const float *x, float eps, int64_t n, float *mean, float *rstd);
    void (*softmax)(const float *x, float *out, int64_t n);
    /* the first `rotary` of each of `heads` heads of width d; c, s [rotary/2]; sign +1 or -1 */
    void (*rope)(float *x, int32_t heads, int32_t d, int32_t rotary, bool interleaved, const float *c, const float *s,
                 float sign);
    void (*axpby)(float a, const float *x, float b, const float *y, float *out, int64_t n); /* y NULL: a x */
    float (*l2norm)(const float *x, float *out, int64_t n);    /* returns max(norm, 1e-12) */
    void (*to_bf16)(const float *x, uint16_t *out, int64_t n); /* nearest, ties to even */
    void (*from_bf16)(const uint16_t *x, float *out, int64_t n);
} vp_simd_rows;

typedef struct vp_simd_acts {
    void (*act)(vp_act act, const float *x, float *out, int64_t n);
    void (*glu)(vp_act act, const float *gate, const float *up, float *out, int64_t n); /* act(gate) * up */
    /* out = act(x + bias) + residual; bias and residual may be NULL */
    void (*epilogue)(vp_act act, const float *x, const float *bias, const float *residual, float *out, int64_t n);
    void (*act_bwd)(vp_act act, const float *x, const float *dout, float *dx, int64_t n); /* dout act'(x) */
    /* dgate = dout up act'(gate), dup = dout act(gate); either may be dout's own memory */
    void (*glu_bwd)(vp_act act, const float *gate, const float *up, const float *dout, float *dgate, float *dup,
                    int64_t n);
    /* the functions themselves, for the tests of their bounds */
    void (*exp)(const float *x, float *out, int64_t n);
    void (*tanh)(const float *x, float *out, int64_t n);
    void (*erf)(const float *x, float *out, int64_t n);
} vp_simd_acts;

/* ---- simd_gemm.c: our own products. Every element is one chain of multiply-adds over k in ascending order, so that a
 * row's bytes do not depend on M, its position, or where N is cut. ---- */
typedef struct vp_simd_gemm {
    int nr; /* columns of a packed panel */
    /* b [K, N] (row stride ldb), or its transpose [N, K], into panels of nr columns, the last one padded with zeros:
     * element (k, j nr + c) at packed[(j K + k) nr + c]; ceil(N / nr) nr K floats in all */
    void (*pack)(const float *b, int64_t ldb, bool transposed, int64_t k, int64_t n, float *packed);
    /* out [M, N] = (add ? out : 0) + x [M, K] b. Of each packed panel the first k rows are used; kp is its height */
    void (*product)(const float *x, int64_t ldx, const float *packed, int64_t kp, float *out, int64_t ldo, int64_t m,
                    int64_t k, int64_t n, bool add);
    /* the same with x^T: x [K, M], ldx from one k to the next */
    void (*product_turned)(const float *x, int64_t ldx, const float *packed, int64_t kp, float *out, int64_t ldo,
                           int64_t m, int64_t k, int64_t n, bool add);
} vp_simd_gemm;

/* ---- simd_attn.c: the online softmax of one block of scores ---- */
typedef struct vp_simd_attn {
    /* scores s [n] of one query, visible where j in [lo, hi) and, unless hide is NULL, hide[j] = 0 (hidden: -inf).
     * s <- exp(cap(scale s) - m), hidden ones 0. m: running maximum, sum: running lane sums [16]; they start as -inf
     * and zeros. Returns exp(m_old - m_new), the factor that what was accumulated before must take. */
    float (*softmax_block)(float *s, int64_t n, int64_t lo, int64_t hi, const float *hide, float scale, float softcap,
                           float *m, float *sum);
    void (*scale)(float *x, float a, int64_t n);
    /* out = x / sum of the lanes, or 0 if that is 0. x [n] */
    void (*finish)(const float *x, const float *lanes, float *out, int64_t n);
} vp_simd_attn;

/* ---- simd_grads.c: derivatives of one row. The gradient of a row may be written over `dout`. ---- */
typedef struct vp_simd_grads {
    float (*dot)(const float *a, const float *b, int64_t n);
    /* y = (x - mean) rstd, g = dout weight (or 1 + weight): dx = rstd (g - [layer: mean of g] - y mean of g y) */
    void (*norm_dx)(vp_norm_kind kind, const float *x, const float *dout, const float *weight, float mean, float rstd,
                    float *dx, int64_t n);
    /* dw += dout y, db += dout; either may be NULL */
    void (*norm_dw)(const float *x, const float *dout, float mean, float rstd, float *dw, float *db, int64_t n);
    void (*softmax_dx)(const float *p, const float *dout, float *dx, int64_t n); /* p (dout - p . dout) */
    /* y = x / norm: (dout - y (y . dout)) / norm, or dout / norm where the norm was clamped */
    void (*l2norm_dx)(const float *x, const float *dout, float *dx, int64_t n);
    /* One query's block of n keys, visible as in softmax_block. s: scores before scaling -> P = exp(cap(scale s) -
     * lse); dp: dO . v -> dS = P (dp - delta) scale cap'(scale s). Hidden keys: 0 in both. */
    void (*attn_block)(float *s, float *dp, int64_t n, int64_t lo, int64_t hi, const float *hide, float scale,
                       float softcap, float lse, float delta);
} vp_simd_grads;

/* ---- simd_drop.c: kernels/dropout.h, for runs of entries ---- */
typedef struct vp_drop_key { /* of Philox, and what it becomes in each round */
    uint64_t key, low[10], high[10];
} vp_drop_key;
typedef struct vp_simd_drop {
    void (*begin)(vp_drop_key *k, uint64_t key);
    /* bits[i]: keep bits of the counter (counter[0] + i, counter[1..3]), i < n */
    void (*keep)(uint8_t *bits, int64_t n, const uint32_t counter[4], const vp_drop_key *key, uint32_t threshold);
    /* out[i] = bit (skip + i) set ? scale x[i] : 0, i < n; skip < 8; 2 bytes past the last bit are read as well */
    void (*apply)(const float *x, float *out, int64_t n, const uint8_t *bits, int64_t skip, float scale);
} vp_simd_drop;

/* ---- simd_loss.c: softmax of one row of logits, where the row is long and only some of it is wanted ---- */
typedef struct vp_simd_loss {
    /* x [n] <- e^(x - m) unless `keep`, m its maximum; *sum: of those. n >= 1; x is finite. Returns m. */
    float (*exponents)(float *x, bool keep, int64_t n, float *sum);
    void (*max)(const float *x, float *m, int64_t n); /* m <- max(m, x) */
} vp_simd_loss;

/* ---- simd_topk.c: inner products accumulated in an order that depends on D alone ---- */
typedef struct vp_simd_topk {
    /* out[q * ldo + r] = <queries[q], rows[r]>, rows of dtype F32, BF16 or I8, stride in bytes, unaligned */
    void (*scores)(const float *queries, int64_t ldq, int64_t nq, const uint8_t *rows, int64_t stride, int64_t nr,
                   vp_dtype dtype, int64_t dim, float *out, int64_t ldo);
} vp_simd_topk;

/* ---- simd_mix.c: sums of rows, an order that nothing but their number decides ---- */
typedef struct vp_simd_mix {
    /* out[q, :] += sum over j of p[q, j] rows[j, :], j ascending, one chain an element; rows [nr, dim] of dtype F32 or
     * BF16, stride in bytes, unaligned */
    void (*mix)(const float *p, int64_t ldp, int64_t nq, const uint8_t *rows, int64_t stride, int64_t nr,
                vp_dtype dtype, int64_t dim, float *out, int64_t ldo);
} vp_simd_mix;

/* ---- simd_optim.c: n numbers p of a parameter space, their gradients g and moments m, v ---- */
typedef struct vp_simd_update { /* a step's numbers, made in double and rounded once */
    float keep;                 /* p *= keep before anything else: 1 - lr decay */
    float decay;                /* g += decay p */
    float beta1, more1;         /* of m; more1 = 1 - beta1 */
    float beta2, more2;         /* of v */
    float rate, root, eps;      /* p -= rate m / (sqrt(v) / root + eps) */
} vp_simd_update;
typedef struct vp_simd_optim {
    double (*sumsq)(const float *g, int64_t n); /* in 16 lanes; not finite where a number is not */
    void (*adamw)(const vp_simd_update *u, float *p, const float *g, float *m, float *v, int64_t n);
    void (*sgd)(const vp_simd_update *u, float *p, const float *g, float *m, int64_t n); /* m NULL: no momentum */
    void (*rmsprop)(const vp_simd_update *u, float *p, const float *g, float *v, int64_t n);
} vp_simd_optim;

typedef struct vp_simd { /* everything of one instruction set */
    const char *name;
    const vp_simd_rows *rows;
    const vp_simd_acts *acts;
    const vp_simd_gemm *gemm;
    const vp_simd_attn *attn;
    const vp_simd_grads *grads;
    const vp_simd_drop *drop;
    const vp_simd_loss *loss;
    const vp_simd_topk *topk;
    const vp_simd_mix *mix;
    const vp_simd_optim *optim;
} vp_simd;

#define VP_ISAS(X) X(avx512) X(avx2) X(scalar)
#define X(isa)                                                                                                         \
    extern const vp_simd_rows vp_simd_rows_##isa;                                                                      \
    extern const vp_simd_acts vp_simd_acts_##isa;                                                                      \
    extern const vp_simd_gemm vp_simd_gemm_##isa;                                                                      \
    extern const vp_simd_attn vp_simd_attn_##isa;                                                                      \
    extern const vp_simd_grads vp_simd_grads_##isa;                                                                    \
    extern const vp_simd_drop vp_simd_drop_##isa;                                                                      \
    extern const vp_simd_loss vp_simd_loss_##isa;                                                                      \
    extern const vp_simd_mix vp_simd_mix_##isa;                                                                        \
    extern const vp_simd_topk vp_simd_topk_##isa;                                                                      \
    extern const vp_simd_optim vp_simd_optim_##isa;
VP_ISAS(X)
#undef X

/* The variant called `name` ("auto": the best that this machine has); VP_USAGE if the machine has not, or no such name.
 */
int vp_simd_choose(const char *name, const vp_simd **simd, vp_error *err);

#endif
