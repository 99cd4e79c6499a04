/* The table of operations: what a backend does for the model, and nothing else.
 *
 * Legend: T tokens of a micro-batch, B sequences, C model width, F feed-forward width, H query heads, G key/value
 * heads, d head width, V vocabulary, R LoRA rank, M marked rows, D embedding width, Q queries, N index rows.
 * Descriptors are plain structs; matrices are row-major. Every call enqueues on a queue and returns a status (VP_OK,
 * VP_MEMORY, VP_BUG); `why` tells the reason. No call allocates device memory but open, arena and weight_prepare;
 * scratch comes from the queue's arena. A NULL slot: this backend does not have it, whoever calls it looks first. The
 * forward and its backward stand side by side; finite-difference tests pair them from this table. lib/base stands under
 * this header; nothing else of lib does. */
#ifndef VP_KERNELS_OPS_H
#define VP_KERNELS_OPS_H
#include "lib/base/dtype.h"
#include "lib/base/base.h"
#include "kernels/repeat.h"

typedef struct vp_device vp_device; /* opaque: threads, caches, packed-weight memory */
typedef struct vp_queue
    vp_queue; /* opaque: a stream of work and its arena; on the CPU calls complete before returning */
typedef struct vp_weight vp_weight; /* opaque: packed for this backend */

typedef struct vp_mat {
    void *ptr;
    vp_dtype dtype;
    int64_t rows, cols, ld; /* ld: elements from one row to the next, >= cols */
    float *scale;           /* one a row for quantised activations, else NULL */
} vp_mat;
/* FP8 (VP_F8, caps.fp8): a row's numbers are its scale times E4M3 codes, the scale its largest magnitude / 448. Rows
 * lie at multiples of 16 bytes and so does `scale`; between cols and the next such multiple they hold zeros. */

typedef struct vp_tile {
    int32_t sequence, first, count; /* query rows [first, first + count) of a sequence */
} vp_tile;

/* A micro-batch, built once and used by every operation of a pass. Host memory on the CPU, device memory elsewhere. */
typedef struct vp_batch {
    int64_t T, B;
    const int32_t *cu_q, *cu_k; /* [B+1] offsets of queries and of keys; equal without a cache */
    const int32_t *q_off;       /* [B] position of a sequence's first query among its keys; NULL: 0 */
    const int32_t *pos;         /* [T] positions for RoPE and position tables */
    const uint8_t *seg;         /* [T] segments; NULL: all 0 */
    const int32_t *prefix;      /* [B] length of the part that attends the other way; NULL: 0 */
    bool causal;                /* attention is, whatever the model's other micro-batches have */
    const int64_t *row;         /* [B] ordinals, for dropout; NULL when none */
    const int32_t *unit;        /* [B] gradient units; NULL when none */
    const int32_t *adapter_row; /* [T] adapter of a row; NULL: all adapters on all rows */
    int32_t longest;            /* no sequence has more tokens */
    const vp_tile *tiles;       /* attention work, longest sequences first; some may have no rows */
    int64_t ntiles;
} vp_batch;

/* Who draws a random number: part of the counter. LoRA inputs are dropped once an input, not once a target. */
typedef enum vp_site {
    VP_SITE_ATTENTION, /* attention probabilities */
    VP_SITE_HIDDEN,
    VP_SITE_LORA_QKV,  /* inputs of adapters: of q k v, */
    VP_SITE_LORA_OUT,  /* of the attention's output, */
    VP_SITE_LORA_UP,   /* of gate and up, */
    VP_SITE_LORA_DOWN, /* of down */
    VP_SITE_MASKING,
    VP_SITE_SAMPLING,
    VP_SITE_START /* where an adapter begins */
} vp_site;
typedef struct vp_drop { /* p = 0: none. Philox4x32-10, counter (place, row, step, layer << 20 | site << 14 | head) */
    float p;
    uint64_t seed;
    uint32_t step, layer, site;
} vp_drop;
typedef enum vp_save { VP_SAVE_NONE, VP_SAVE_BLOCK, VP_SAVE_ALL } vp_save;

/* ---- weights ---- */
/* One part of a weight matrix [rows, cols]: rows are read one at a time as f32, wherever and however they are stored.
 */
typedef struct vp_weight_part {
    int64_t rows;
    int (*read_row)(const void *ctx, int64_t row, float *out, vp_error *err);
    const void *ctx;
} vp_weight_part;
typedef struct vp_weight_desc {
    const vp_weight_part *part; /* stacked along the outputs: q, k, v of one input are one product */
    int nparts;
    int64_t in, out; /* K and N = sum of the parts' rows; of one expert */
    int32_t experts; /* as many matrices [N, K] without bias, their parts one after the other, nparts / experts each; 0:
                        it is one */
    const float *bias; /* [N] or NULL; copied */
    /* VP_F32, VP_BF16 (inputs and weights of a product, forward and dX, are rounded to it, sums are f32), VP_I8; VP_F8:
     * a scale an output, linear takes FP8 inputs alone, forward only */
    vp_dtype compute;
    bool backward; /* also pack for dX */
    /* One copy, for generation: a product of few rows runs at the speed of memory, and a row of it does not see the
     * others. The weights are of the type `compute`, here VP_I8 as well (a scale an output: its row's largest magnitude
     * / 127). Beside BF16 and I8 inputs are rounded to bf16 where caps.bf16, else they stay f32, as sums do. Forward
     * only. */
    bool rows;
    const char *name; /* for messages and the certification cache */
} vp_weight_desc;

/* ---- descriptors, one an operation; a `_bwd` uses the same struct with the gradient fields filled ----
 * A backward overwrites gradients of activations (dx, dq, dgate, ...) but lora_bwd without a `linear`, which adds to
 * dx, and adds to gradients of weights (dw, dweight, da, dtable, ...): one sum a unit, in unit order. Forward's
 * operands it reads are the ones that its formula names: norm's x (after += d), softmax's out, attention's q, k, v, out
 * and lse, linear's x; what a fused epilogue did (activation, residual) is the caller's to undo. */
typedef struct vp_embed_op { /* out[t,:] = scale * table[ids[t],:] (+ positions[pos[t],:]) (+ types[0,:]) */
    const vp_batch *batch;
    const int32_t *ids;          /* [T], every id < rows */
    vp_weight_part table, extra; /* extra.rows > 0: appended vocabulary rows */
    const vp_weight *resident;   /* caps.separate: a weight of table's and extra's rows; else NULL */
    int64_t C;
    float scale;
    const float *positions; /* [max, C] or NULL */
    const float *types;     /* [C] or NULL */
    vp_mat out;             /* [T, C] f32 */
    const vp_mat *dout;
    float *dtable;  /* [rows - dfirst, C]: of the ids from dfirst on, all in one table */
    int64_t dfirst; /* smaller ids have no gradient */
} vp_embed_op;

typedef enum vp_norm_kind { VP_NORM_RMS, VP_NORM_RMS_PLUS1, VP_NORM_LAYER } vp_norm_kind;
typedef struct vp_norm_op { /* x += d when d.ptr; out = norm(x) * weight (+ bias); heads > 0: each row as heads of
                               cols/heads */
    vp_norm_kind kind;
    vp_mat x;   /* [T, C] f32, updated in place when d is given */
    vp_mat d;   /* [T, C] or ptr NULL */
    vp_mat out; /* [T, C]; may be x itself (post-norm), or FP8 (no heads then) */
    const float *weight, *bias;
    float eps;
    int32_t heads;
    float *rstd; /* [T] saved for backward, or NULL */
    const vp_mat *dout, *dx;
    float *dweight, *dbias; /* [C], or [C / heads]; NULL: not wanted, as dx */
    const vp_batch *batch;  /* units of dweight and dbias; NULL: one */
} vp_norm_op;

/* A mixture of E experts, of which a token passes top_k: R = T top_k rows, ascending by token within an expert; those
 * of expert e begin at offset[e]. Where they end is known on the device alone: the host counts with R. */
enum { VP_MOST_EXPERTS = 256, VP_MOST_TOP_K = 8 };
typedef struct vp_routing {
    int32_t experts, top_k;
    int32_t *offset; /* [E + 1] */
    int32_t *token;  /* [R] whose row it is */
    int32_t *row;    /* [T, top_k] a token's rows, ascending: in expert order */
    float *gate;     /* [R] */
} vp_routing;

typedef enum vp_act { VP_ACT_NONE, VP_ACT_SILU, VP_ACT_GELU, VP_ACT_GELU_TANH, VP_ACT_RELU, VP_ACT_TANH } vp_act;
typedef struct vp_linear_op { /* out = act(x W^T + bias) (+ residual) ; dx = dout W ; dw += dout^T x, dbias += the sum
                                 of dout's rows, per unit */
    const vp_weight *weight;
    vp_mat x;        /* [T, K] */
    vp_mat out;      /* [T, N] */
    vp_mat residual; /* [T, N] or ptr NULL */
    vp_act act;
    const vp_routing *group; /* rows of x and out are its R, and those of an expert use its matrix of the weight:
                                without act, residual and adapters. NULL: all use the one matrix */
    const vp_mat *dout, *dx;
    float *dw;    /* [N, K]; experts: [E, N, K], per unit of the batch's tokens */
    float *dbias; /* [N], linear_bwd_w's too; NULL: not wanted */
    const vp_batch *batch;
} vp_linear_op;

typedef struct vp_lora_part { /* one adapter on one target: out[:, first .. first+n) += scale * (drop(x) A^T) B^T */
    const float *a;           /* [R, K] */
    const float *b;           /* [n, R] */
    int32_t rank;
    float scale;
    int64_t first, n; /* columns of `out` that this target owns */
    int32_t adapter;  /* matched with batch.adapter_row */
    float *da, *db;
} vp_lora_part;
typedef struct vp_lora_op { /* several targets of one input, adapters in list order; t = x A^T stays f32 */
    vp_mat x, out;
    const vp_linear_op
        *linear; /* of the same x and out (dout, dx): done first, while its sums are at hand; NULL: none */
    const vp_lora_part *part;
    int32_t nparts;
    vp_drop drop;
    const vp_batch *batch;
    const vp_mat *dout, *dx;
} vp_lora_op;

typedef struct vp_bmm_op { /* out[i] = alpha * a[i] (b[i] or b[i]^T) ; strides in elements between matrices */
    vp_mat a, b, out;
    int64_t count, stride_a, stride_b, stride_out;
    bool transpose_b;
    float alpha;
    const vp_mat *dout, *da, *db;
} vp_bmm_op;
typedef struct vp_softmax_op {
    vp_mat x, out;
    const vp_mat *dout, *dx;
} vp_softmax_op;

typedef struct vp_rope_op { /* in place on heads of width d; rotates the first `rotary` of each head; sign -1: backward
                             */
    const vp_batch *batch;
    vp_mat x; /* [T, heads * d] */
    int32_t heads, d, rotary;
    bool interleaved; /* pairs (2i, 2i+1); else halves (i, i + rotary/2) */
    int sign;
    const float *cos, *sin; /* [positions, rotary/2], LLaMA 3 scaling already in it */
} vp_rope_op;
typedef struct vp_rope_shift_op { /* in place on keys that rope has turned already: those of position p become those of
                                     position p + s, whose angle is the one that cos and sin are of */
    vp_mat k;                     /* [n, heads * d] F32 or BF16, which is rounded again */
    int32_t heads, d, rotary;
    bool interleaved;
    const float *cos, *sin; /* [rotary/2]: row s of rope's tables */
} vp_rope_shift_op;

typedef enum vp_attention { VP_ATTN_CAUSAL, VP_ATTN_BI } vp_attention; /* segments: batch.seg; prefix: batch.prefix */
typedef struct vp_span { /* a piece of a key/value cache: [length, G*d], keys after RoPE */
    const void *k, *v;
    vp_dtype dtype; /* VP_F32 or VP_BF16 */
    int64_t ld;
    int32_t length;
} vp_span;
/* Query i of a sequence sees key j when j <= i or (causal and j < prefix) or (bi and i >= prefix), and (seg_j = 0 or
 * seg_j = seg_i), and (no window or |i - j| < window): the first prefix tokens attend the other way than the rest.
 * Scores are scale q.k, soft-capped; softmax and sums in f32.
 * With spans a sequence's keys are those of its spans, in order, and then cu_k's of k and v (none, when they have been
 * appended to the cache already); its query i stands at q_off + i among them. A query's result depends on the keys
 * alone: not on how they are cut into spans, nor on the queries beside it. No segments, dropout or lse then. spans,
 * nspans and the lists lie where the batch's arrays do; no sequence has more than most_keys keys, fresh ones included.
 */
typedef struct vp_attn_op {
    const vp_batch *batch;
    vp_attention mode;
    int32_t window; /* 0: none; |i - j| < window */
    int32_t heads, groups, d;
    float scale, softcap;
    vp_mat q, k, v;              /* [T, H*d], [Tk, G*d], [Tk, G*d]; may be columns of one matrix */
    vp_mat out;                  /* [T, H*d] */
    const vp_span *const *spans; /* [B] lists before the fresh keys, or NULL */
    const int32_t *nspans;
    int32_t most_keys; /* with spans; it sizes scratch memory on a device */
    float *lse;        /* [T, H] log of a query's sum of exp(score): saved if not NULL, needed by backward */
    vp_drop drop;
    const vp_mat *dout, *dq, *dk, *dv;
} vp_attn_op;
typedef struct vp_kv_op { /* the rows of k and v that are a sequence's, rounded to `dtype`: to the end of its cache
                             (kv_append), or into host memory that the device reaches (kv_export: host_alloc's);
                             k_to and v_to lie where the batch's arrays do */
    const vp_batch *batch;
    vp_mat k, v;                     /* [T, G*d] */
    void *const *k_to, *const *v_to; /* [B] where a sequence's first row goes; rows are `ld` elements apart */
    vp_dtype dtype;                  /* VP_F32 or VP_BF16 */
    int64_t ld;
} vp_kv_op;

typedef struct vp_glu_op { /* out = act(gate) * up; gate and up may be columns of one matrix; out may be FP8 */
    vp_act act;
    vp_mat gate, up, out; /* [T, F] */
    const vp_mat *dout, *dgate, *dup;
} vp_glu_op;
typedef struct vp_act_op {
    vp_act act;
    vp_mat x, out;
    const vp_mat *dout, *dx;
} vp_act_op;

typedef struct vp_elem_op {
    vp_mat x, y, out;
    float a, b;
    vp_drop drop;
    const vp_batch *batch;
} vp_elem_op;                /* a x + b y */
typedef struct vp_quant_op { /* out = x in FP8 */
    vp_mat x, out;
} vp_quant_op;

/* Experts.
 *     route: a token's top_k largest logits (of equal ones the lower experts); gate = softmax over those, which is a
 *         softmax over all, divided by its sum over them
 *     permute: out[r, :] = (gate[r]) x[token[r], :]
 *     combine: out[t, :] = sum over its rows r, ascending, of (gate[r]) x[r, :]
 *     route_bwd: dlogits, given x and dout [R, n], of whose rows the inner products are gate times its gradient: the
 *         rows that were combined and their gradient, or what a linear without bias made them of, and that one's
 * With regard to x, permute and combine are each other's backward. */
typedef struct vp_moe_op {
    const vp_routing *to;
    vp_mat logits;         /* [T, E] F32 */
    vp_mat x, out;         /* [T, C] and [R, C] */
    bool gated;            /* with gate in permute and combine */
    const vp_mat *dout;    /* [R, n] */
    const vp_mat *dlogits; /* [T, E] F32, overwritten */
} vp_moe_op;

typedef enum vp_pool_kind {
    VP_POOL_MEAN,
    VP_POOL_WEIGHTED_MEAN,
    VP_POOL_LAST,
    VP_POOL_EOS,
    VP_POOL_FIRST
} vp_pool_kind;
typedef struct vp_pool_op { /* over kept tokens; a row with none gets zeros and is counted in *empty, which lies where
                               the device reaches it */
    vp_pool_kind kind;
    int64_t B;
    const int32_t *cu;   /* [B+1] */
    const uint8_t *keep; /* [T] or NULL: all */
    vp_mat x;            /* [T, C] f32 or bf16 */
    vp_mat out;          /* [B, C] f32 */
    int64_t *empty;
    const vp_mat *dout, *dx;
} vp_pool_op;
typedef struct vp_pick_op {
    vp_mat x, out;
    const int32_t *index;
    int64_t M;
    const vp_mat *dout, *dx;
} vp_pick_op;
typedef struct vp_l2norm_op {
    vp_mat x, out;
    float *norm;
    const vp_mat *dout, *dx;
} vp_l2norm_op; /* norm clamped at 1e-12 */

/* Cross-entropy of a linear head: logits z = x W^T + bias, a chunk of rows at a time, so that they stay under 64 MiB.
 * A row's results depend on nothing but the row.
 *     loss = weight (log sum exp z - z_target) / denominator,  dx = (softmax z - onehot) weight / denominator  W */
typedef struct vp_xent_op {
    vp_mat x;              /* [M, C] */
    const vp_weight *head; /* [V, C]; packed for backward too where dx is wanted */
    const int32_t *target; /* [M], < V; negative: none, whose results are 0 */
    const float *weight;   /* [M], or NULL: 1 */
    double denominator;
    float *loss;      /* [M] */
    float *logprob;   /* [M] log softmax(z)_target, or NULL */
    uint8_t *right;   /* [M] 1 where no logit is above the target's, or NULL */
    const vp_mat *dx; /* [M, C], or NULL */
    float *dw;        /* [V - dw_first, C], added to: one sum a chunk, chunks in order; or NULL */
    int64_t dw_first; /* the head's rows before it have no gradient */
} vp_xent_op;
/* Bag of tokens (LLaRA): z is the maximum over the rows of a bag, a vocabulary entry at a time; the gradient of the
 * maximum goes to the first row that has it. Targets count once each:
 *     loss = weight mean over its targets of (log sum exp z - z_target) / denominator */
typedef struct vp_bag_op {
    vp_mat x; /* [M, C]: rows [cu[i], cu[i + 1]) are bag i */
    const vp_weight *head;
    int64_t bags;
    const int32_t *cu;        /* [bags + 1], in the host's memory; no bag with targets is without rows */
    const int32_t *target;    /* of bag i, distinct: [target_cu[i], target_cu[i + 1]); none: its results are 0 */
    const int32_t *target_cu; /* [bags + 1], in the host's memory */
    const float *weight;      /* [bags], or NULL: 1 */
    double denominator;
    float *loss;      /* [bags] */
    const vp_mat *dx; /* [M, C], or NULL */
    float *dw;        /* as vp_xent_op's */
    int64_t dw_first;
} vp_bag_op;
/* Softmax over candidates, from their scores (InfoNCE; a row of s is a query). Against the positive or, where there are
 * teachers, against their distribution t (Kullback-Leibler):
 *     loss_i = (log sum exp s_i - s_i,positive) / denominator,  ds = (softmax s - onehot) / denominator
 *     loss_i = sum_j t_ij (log t_ij - log softmax(s_i)_j) / denominator,  ds = (softmax s - t) / denominator */
typedef struct vp_nce_op {
    vp_mat s;                /* [Q, N] */
    const int32_t *positive; /* [Q] column of the positive; NULL where there are teachers */
    const float *teacher;    /* [Q, N], rows sum to 1 and are 0 where excluded; or NULL */
    const uint8_t *exclude;  /* [Q, N], 1: no candidate of this query; or NULL */
    double denominator;
    float *loss;      /* [Q] */
    const vp_mat *ds; /* [Q, N], may be s itself; or NULL */
} vp_nce_op;

/* A slice of one flat parameter space, p = master[n] with its gradient g = grad[n] and moments m, v [n], zero at first.
 * sumsq    *sum = the sum of g^2 in f64, in an order that n alone decides; *finite = every g is (either may be NULL;
 *          they lie where the device reaches them)
 * clip     g *= clip
 * adamw    p *= 1 - lr decay; m += (1 - beta1)(g - m); v = beta2 v + (1 - beta2) g^2;
 *          p -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps), t = 1, 2, ... counts the updates
 * sgd      g' = g + decay p; m = beta1 m + g'; p -= lr m; beta1 = 0 needs no m
 * rmsprop  g' = g + decay p; v = beta2 v + (1 - beta2) g'^2; p -= lr g' / (sqrt(v) + eps) */
typedef struct vp_optim_op {
    float *master, *m, *v;
    float *grad; /* written by clip alone */
    int64_t n;
    double lr, beta1, beta2, eps, decay, clip;
    int64_t t;
    double *sum;
    int *finite;
} vp_optim_op;

/* Exact search over one block: for every query, merge the best of rows [0, N) into its running list. Scores are inner
 * products accumulated in f32 in an order that depends on D alone: a (query, row) pair scores the same in every call.
 */
typedef struct vp_hit {
    float score;
    int64_t row; /* base + index in the block */
} vp_hit;
typedef struct vp_topk_op {
    vp_mat queries;      /* [Q, D] f32 */
    vp_mat rows;         /* [N, D] f32, bf16 or i8 (scale one a row, or NULL: 1) ; unaligned allowed */
    const uint8_t *live; /* bitmap, bit i & 7 of byte i >> 3; NULL: all live */
    int64_t base;
    int32_t k;
    vp_hit *best;   /* [Q, k]: best first; higher score first, then lower row */
    int32_t *found; /* [Q] filled entries of best; 0 to start */
} vp_topk_op;
/* One token a row. A token that was seen has its logit divided by `penalty` when positive, else multiplied. Then the
 * largest, or, with a temperature, a draw from softmax(logits / temperature) over its top_k largest probabilities, of
 * those the fewest largest whose sum reaches top_p. Ties: the lower id first. The random number's counter is (0, row,
 * step, VP_SITE_SAMPLING << 14): it does not depend on the rows beside. Of logits that are not finite: token -1. */
typedef struct vp_sample_op {
    vp_mat logits;          /* [B, V], overwritten */
    const int32_t *seen;    /* distinct ids below V; row b's are [seen_cu[b], seen_cu[b + 1]); NULL: no penalty */
    const int64_t *seen_cu; /* [B + 1] */
    float penalty;          /* > 0 */
    float temperature;      /* 0: the largest logit */
    float top_p;            /* in (0, 1]; 1: all */
    int32_t top_k;          /* 0: all */
    uint64_t seed;
    const int64_t *row, *step; /* [B], below 2^32 */
    int32_t *out;              /* [B] */
    float *logprob;            /* [B] log softmax of the logits as they were given, at `out` >= 0; or NULL */
} vp_sample_op;

typedef struct vp_device_options {
    int threads;     /* 0: all that the process may use */
    int index;       /* device number */
    const char *isa; /* CPU: "auto", "avx512", "avx2", "scalar" */
    bool tf32; /* where caps.tf32: linear and linear_bwd_x of VP_F32 weights may round inputs and weights to TF32 */
} vp_device_options;
typedef struct vp_caps {
    const char *isa; /* "avx512", "sm_90" */
    int threads;
    bool bf16, i8, fp8, tf32;
    bool bf16_states; /* activations may be BF16 where compute is: the caller chooses each one's type by it */
    bool separate;    /* its memory is not the host's */
    size_t memory;
} vp_caps;

/* Every operation and the type of its descriptor: X(name, type). */
/* clang-format off */
#define VP_OPERATIONS(X) \
    X(embed, vp_embed_op) X(embed_bwd, vp_embed_op) \
    X(norm, vp_norm_op) X(norm_bwd, vp_norm_op) \
    X(linear, vp_linear_op) X(linear_bwd_x, vp_linear_op) X(linear_bwd_w, vp_linear_op) \
    X(lora, vp_lora_op) X(lora_bwd, vp_lora_op) \
    X(bmm, vp_bmm_op) X(bmm_bwd, vp_bmm_op) \
    X(softmax_rows, vp_softmax_op) X(softmax_rows_bwd, vp_softmax_op) \
    X(rope, vp_rope_op) X(rope_shift, vp_rope_shift_op) \
    X(attn, vp_attn_op) X(attn_bwd, vp_attn_op) \
    X(kv_append, vp_kv_op) X(kv_export, vp_kv_op) \
    X(glu, vp_glu_op) X(glu_bwd, vp_glu_op) \
    X(act, vp_act_op) X(act_bwd, vp_act_op) \
    X(add, vp_elem_op) X(dropout, vp_elem_op) X(cast, vp_elem_op) X(fill, vp_elem_op) \
    X(quant_rows, vp_quant_op) \
    X(route, vp_moe_op) X(route_bwd, vp_moe_op) X(permute, vp_moe_op) X(combine, vp_moe_op) \
    X(pool, vp_pool_op) X(pool_bwd, vp_pool_op) \
    X(pick, vp_pick_op) X(pick_bwd, vp_pick_op) \
    X(l2norm, vp_l2norm_op) X(l2norm_bwd, vp_l2norm_op) \
    X(xent, vp_xent_op) X(bag, vp_bag_op) X(nce, vp_nce_op) \
    X(sumsq, vp_optim_op) X(clip, vp_optim_op) X(adamw, vp_optim_op) X(sgd, vp_optim_op) \
    X(rmsprop, vp_optim_op) \
    X(topk, vp_topk_op) X(sample, vp_sample_op)
/* clang-format on */

typedef struct vp_backend {
    const char *name;
    /* device */
    int (*open)(vp_device **d, const vp_device_options *options, vp_error *err);
    void (*close)(vp_device *d);
    void (*caps)(const vp_device *d, vp_caps *caps);
    /* What there is to know of how it has computed so far, a line each, i = 0, 1, ...; NULL: no more. The device's
     * until the next call. */
    const char *(*note)(vp_device *d, int i);
    int (*queue_open)(vp_queue **q, vp_device *d, vp_error *err);
    void (*queue_close)(vp_queue *q);
    /* One that plans: what runs on it takes of its arena what it would take, computes nothing and copies nothing. Its
     * memory has addresses only, so there is as much of it as is asked for; on the CPU it reads as zeros where kernels
     * would have written. For kernels/plan.h. */
    int (*queue_plan)(vp_queue **q, vp_device *d, vp_error *err);
    int (*queue_wait)(vp_queue *q, vp_error *err);   /* everything enqueued is done; reports the first failure */
    const char *(*why)(const vp_queue *q);           /* reason of the last non-zero status */
    void *(*arena_alloc)(vp_queue *q, size_t bytes); /* 256-byte aligned; NULL: out of memory; grows by chunks */
    size_t (*arena_mark)(const vp_queue *q);
    void (*arena_release)(vp_queue *q, size_t mark);
    size_t (*arena_most)(const vp_queue *q);         /* the largest that the mark has been */
    int (*arena_reserve)(vp_queue *q, size_t bytes); /* so that as many are taken without growth; else VP_MEMORY */
    size_t (*memory_free)(const vp_device *d);       /* bytes that it could still take; 0: not known */
    /* Memory of the host that copies run beside: pinned where that exists. Not cleared; pinned memory that was freed is
     * kept for the next who needs as much. Any thread; NULL: there is no more. */
    void *(*host_alloc)(vp_device *d, size_t bytes);
    void (*host_free)(vp_device *d, void *p);                           /* NULL is fine */
    int (*copy)(vp_queue *q, void *to, const void *from, size_t bytes); /* async, any direction */
    int (*repeat)(vp_queue *q, const vp_repeat_op *op);                 /* kernels/repeat.h */
    /* weights */
    int (*weight_prepare)(vp_device *d, const vp_weight_desc *desc, vp_weight **w, vp_error *err);
    int (*weight_update)(vp_queue *q, vp_weight *w, const vp_weight_desc *desc);
    void (*weight_free)(vp_device *d, vp_weight *w);
    /* forward and backward */
#define VP_OP(name, type) int (*name)(vp_queue * q, const type *op);
    VP_OPERATIONS(VP_OP)
#undef VP_OP
} vp_backend;

/* The CPU backend, always present. */
const vp_backend *vp_backend_cpu(void);

#endif
