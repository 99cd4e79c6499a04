/* Private to lib/model: what forward.c and backward.c share, one micro-batch's matrices.
 *
 * Legend: T tokens, C width, H query heads, G key/value heads, d head width, F feed-forward width, R = T top_k rows of
 * a mixture of experts. Matrices and their gradients are of the encoder's state type (vp_compute.state), but for the
 * residual stream, which is f32. */
#ifndef VP_MODEL_PASS_H
#define VP_MODEL_PASS_H
#include "lib/model/encoder.h"

/* What a layer leaves for its backward; ptr NULL: it is computed again. */
typedef struct vp_saved {
    vp_mat x;      /* [T, C] residual stream before the layer */
    vp_mat raw;    /* [T, (H + G) d] queries and keys before their own norm, in models that have one */
    vp_mat qkv;    /* [T, (H + 2 G) d] after RoPE */
    vp_mat mixed;  /* [T, H d] */
    vp_mat lse;    /* [T, H] */
    vp_mat middle; /* [T, C] residual stream between attention and MLP */
    vp_mat logits; /* [T, E] f32 of the router, in a mixture of experts: always */
    vp_mat pull;   /* [T, E] f32 the balancing loss's gradient of them; ptr NULL: none */
    vp_mat up;     /* [T, 2 F] or [T, F]; of experts [R, 2 F] */
} vp_saved;

/* Where the keys (after RoPE) and values of a micro-batch go, in bf16: [L, T, G d] each, T the frame's tokens. */
typedef struct vp_exported {
    uint16_t *k, *v;
    int64_t T;
    const int32_t *cu;   /* [B] where its sequences begin in the frame */
    void **k_to, **v_to; /* [B] set anew for every layer */
} vp_exported;

struct vp_tape {
    vp_batch batch;
    const int32_t *ids;
    uint32_t step;
    vp_saved *layer; /* [layers] */
    vp_mat x;        /* [T, C] before the final norm */
};

typedef struct vp_pass {
    vp_encoder *e;
    const vp_config *c;
    const vp_batch *batch;
    uint32_t step;                  /* of dropout */
    vp_saved *keep;                 /* the layer's, or NULL */
    const struct vp_cached *cached; /* NULL: the sequences are whole */
    const vp_exported *exported;    /* NULL: keys and values are not wanted */
    vp_mat x, h, y; /* [T, C]: residual stream, its norm (x itself in post-norm models), what a block adds to it */
    vp_mat in;      /* [T, C]: the MLP's norm: h itself, or FP8 where its products are and the norm is its own */
    vp_mat raw, qkv, mixed, lse, up;
    vp_mat mid; /* [T, F]; of experts [R, F]; FP8 where products are and a gate leaves it */
    /* a mixture of experts: the router's logits, where its rows go, and [R, C] what experts take and give */
    vp_mat logits, rows;
    vp_routing routing;
} vp_pass;

vp_mat vp_columns(const vp_mat *m, int64_t first, int64_t n);
/* [T, cols] of the arena: of the state type, or f32. */
int vp_pass_allocate(vp_pass *p, vp_mat *m, int64_t cols, vp_error *err);
int vp_pass_allocate_f32(vp_pass *p, vp_mat *m, int64_t cols, vp_error *err);
/* The same for the MLP's inner matrices, which have a row for every expert of a token. */
int vp_pass_allocate_mlp(vp_pass *p, vp_mat *m, int64_t cols, vp_error *err);
/* to = from, in to's type */
int vp_pass_cast(const vp_pass *p, const vp_mat *from, const vp_mat *to, vp_error *err);
int vp_pass_open(vp_pass *p, vp_encoder *e, const vp_batch *batch, uint32_t step, vp_error *err);
/* Matrices that a layer would keep, for those that `keep` lacks. */
int vp_pass_scratch(vp_pass *p, vp_error *err);
/* From now on the layer's own matrices stand where it keeps them, the pass's elsewhere. */
vp_pass vp_pass_of_layer(const vp_pass *p, vp_saved *keep);
int vp_pass_check(const vp_pass *p, int status, vp_error *err);
int vp_pass_copy(const vp_pass *p, const vp_mat *to, const vp_mat *from, vp_error *err);
/* x += y (unless y is NULL); out = norm(x). */
int vp_pass_norm(vp_pass *p, const vp_norm_weight *w, const vp_mat *y, const vp_mat *out, vp_error *err);
/* From h: qkv (and raw), mixed (and lse). */
int vp_pass_attention(vp_pass *p, const vp_layer *l, int64_t layer, vp_error *err);
/* out = x W^T + adapters + bias (+ residual) */
int vp_pass_linear(vp_pass *p, const vp_linear *w, const vp_mat *x, const vp_mat *out, const vp_mat *residual,
                   vp_error *err);
/* up from h, or of experts from rows; mid = act(gate) * up, or act(up). */
int vp_pass_up(vp_pass *p, const vp_layer *l, vp_error *err);
int vp_pass_gate(vp_pass *p, vp_error *err);
/* y = the attention's output from mixed; with the attention's hidden dropout unless the MLP adds to it. */
int vp_pass_out(vp_pass *p, const vp_layer *l, int64_t layer, vp_error *err);
/* m = drop(m), for both directions. `after`: which block added it. */
typedef enum vp_after { VP_AFTER_ATTENTION, VP_AFTER_MLP } vp_after;
int vp_pass_dropout(vp_pass *p, const vp_mat *from, const vp_mat *to, int64_t layer, vp_after after, vp_error *err);
vp_drop vp_pass_drop(const vp_pass *p, double rate, int64_t layer, vp_site site);
/* The op of one layer's attention, forward or backward. */
vp_attn_op vp_pass_attn_op(const vp_pass *p, int64_t layer);
/* RoPE on `heads` heads in place; sign -1: backward. */
int vp_pass_rope(vp_pass *p, const vp_mat *x, int64_t heads, int sign, vp_error *err);
vp_embed_op vp_pass_embed_op(const vp_pass *p, const int32_t *ids);

/* ---- experts.c: the MLP as a mixture of experts ---- */
/* Memory of the routing and of rows; of logits, for those that `keep` lacks. */
int vp_experts_open(vp_pass *p, vp_error *err);
/* y from h. */
int vp_experts_forward(vp_pass *p, const vp_layer *l, vp_error *err);
/* The routing from the logits, and rows = h's. */
int vp_experts_spread(vp_pass *p, vp_error *err);
/* to [R, C] = every row's token of from [T, C]; to [T, C] = the sum of every token's rows; times their gates if
 * `gated`. */
int vp_experts_permute(vp_pass *p, const vp_mat *from, const vp_mat *to, bool gated, vp_error *err);
int vp_experts_combine(vp_pass *p, const vp_mat *from, const vp_mat *to, bool gated, vp_error *err);

#endif
