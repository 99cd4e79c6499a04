/* The transformer, written once over kernels/ops.h; what differs between models is in the architecture's row.
 *
 * Legend: T tokens, C width, H query heads, G key/value heads, d head width, F feed-forward width. x [T, C] is the
 * residual stream, f32; h [T, C] its norm; y [T, C] what a block adds to x. Adding is left to the next norm, which
 * reads x anyway. Pre-norm:  h = norm(x); y = attention(h); h = norm(x += y); y = mlp(h); ... hidden = norm(x += y).
 * Post-norm (BERT):  y = attention(x); x = norm(x + y); y = mlp(x); x = norm(x + y); hidden = x. */
#include "lib/model/encoder.h"
#include <math.h>

typedef struct pass {
    vp_encoder *e;
    const vp_config *c;
    const vp_batch *batch;
    vp_mat x, h, y;
    vp_mat qkv;   /* [T, (H + 2 G) d] */
    vp_mat mixed; /* [T, H d] attention's output */
    vp_mat up;    /* [T, 2 F] or [T, F] */
    vp_mat mid;   /* [T, F] */
} pass;

static vp_mat columns(const vp_mat *m, int64_t first, int64_t n) {
    return (vp_mat){.ptr = (float *)m->ptr + first, .dtype = m->dtype, .rows = m->rows, .cols = n, .ld = m->ld};
}

static int allocate(pass *p, vp_mat *m, int64_t cols, vp_error *err) {
    size_t bytes = (size_t)p->batch->T * (size_t)cols * sizeof(float);
    *m = (vp_mat){.dtype = VP_F32, .rows = p->batch->T, .cols = cols, .ld = cols};
    m->ptr = p->e->ops->arena_alloc(p->e->queue, bytes);
    return m->ptr ? VP_OK : vp_fail_memory(err, "a micro-batch (lower --batch-tokens)", bytes);
}

static int allocate_all(pass *p, vp_error *err) {
    const vp_config *c = p->c;
    VP_TRY(allocate(p, &p->x, c->width, err));
    VP_TRY(allocate(p, &p->y, c->width, err));
    if (c->arch->post_norm)
        p->h = p->x;
    else
        VP_TRY(allocate(p, &p->h, c->width, err));
    VP_TRY(allocate(p, &p->qkv, (c->heads + 2 * c->groups) * c->head_dim, err));
    VP_TRY(allocate(p, &p->mixed, c->heads * c->head_dim, err));
    VP_TRY(allocate(p, &p->mid, c->ffn, err));
    if (c->arch->gated) return allocate(p, &p->up, 2 * c->ffn, err);
    p->up = p->mid;
    return VP_OK;
}

/* x += y (unless y is NULL); out = norm(x). */
static int norm(pass *p, const vp_norm_weight *w, const vp_mat *y, const vp_mat *out, vp_error *err) {
    vp_norm_op op = {.kind = p->c->arch->norm,
                     .x = p->x,
                     .out = *out,
                     .weight = w->weight,
                     .bias = w->bias,
                     .eps = (float)p->c->eps};
    if (y) op.d = *y;
    return vp_encoder_check(p->e, p->e->ops->norm(p->e->queue, &op), err);
}

/* out = x W^T + bias + adapters (+ residual) */
static int linear(pass *p, const vp_linear *w, const vp_mat *x, const vp_mat *out, const vp_mat *residual,
                  vp_error *err) {
    vp_linear_op op = {.weight = w->weight, .x = *x, .out = *out, .batch = p->batch};
    if (residual) op.residual = *residual;
    VP_TRY(vp_encoder_check(p->e, p->e->ops->linear(p->e->queue, &op), err));
    if (!w->nlora) return VP_OK;
    vp_lora_op lora = {.x = *x, .out = *out, .part = w->lora, .nparts = w->nlora, .batch = p->batch};
    return vp_encoder_check(p->e, p->e->ops->lora(p->e->queue, &lora), err);
}

/* Queries or keys in place: their own norm by head if the model has one, then RoPE. */
static int position_heads(pass *p, const vp_mat *x, int64_t heads, const vp_norm_weight *w, vp_error *err) {
    const vp_config *c = p->c;
    vp_encoder *e = p->e;
    if (w->weight) {
        vp_norm_op op = {.kind = c->arch->norm,
                         .x = *x,
                         .out = *x,
                         .weight = w->weight,
                         .eps = (float)c->eps,
                         .heads = (int32_t)heads};
        VP_TRY(vp_encoder_check(e, e->ops->norm(e->queue, &op), err));
    }
    if (!c->rotary) return VP_OK;
    vp_rope_op op = {.batch = p->batch,
                     .x = *x,
                     .heads = (int32_t)heads,
                     .d = (int32_t)c->head_dim,
                     .rotary = (int32_t)c->rotary,
                     .interleaved = c->arch->rope == VP_ROPE_INTERLEAVED,
                     .sign = 1,
                     .cos = e->cosines,
                     .sin = e->sines};
    return vp_encoder_check(e, e->ops->rope(e->queue, &op), err);
}

/* y = out(attention(q, k, v of h)) */
static int attention(pass *p, const vp_layer *l, int64_t layer, vp_error *err) {
    const vp_config *c = p->c;
    int64_t d = c->head_dim, hd = c->heads * d, gd = c->groups * d;
    vp_mat q = columns(&p->qkv, 0, hd), k = columns(&p->qkv, hd, gd), v = columns(&p->qkv, hd + gd, gd);
    VP_TRY(linear(p, &l->qkv, &p->h, &p->qkv, NULL, err));
    VP_TRY(position_heads(p, &q, c->heads, &l->q_norm, err));
    VP_TRY(position_heads(p, &k, c->groups, &l->k_norm, err));
    vp_attn_op op = {.batch = p->batch,
                     .mode = p->e->mode,
                     .window = c->windowed[layer] ? c->window : 0,
                     .heads = (int32_t)c->heads,
                     .groups = (int32_t)c->groups,
                     .d = (int32_t)d,
                     .scale = (float)(1 / sqrt((double)d)),
                     .q = q,
                     .k = k,
                     .v = v,
                     .out = p->mixed};
    VP_TRY(vp_encoder_check(p->e, p->e->ops->attn(p->e->queue, &op), err));
    return linear(p, &l->out, &p->mixed, &p->y, NULL, err);
}

/* y = down(act(gate h) * up h), or down(act(up h)); added to what y holds when attention ran in parallel. */
static int mlp(pass *p, const vp_layer *l, vp_error *err) {
    const vp_config *c = p->c;
    vp_encoder *e = p->e;
    VP_TRY(linear(p, &l->up, &p->h, &p->up, NULL, err));
    if (c->arch->gated) {
        vp_glu_op op = {
            .act = c->act, .gate = columns(&p->up, 0, c->ffn), .up = columns(&p->up, c->ffn, c->ffn), .out = p->mid};
        VP_TRY(vp_encoder_check(e, e->ops->glu(e->queue, &op), err));
    } else {
        vp_act_op op = {.act = c->act, .x = p->up, .out = p->mid};
        VP_TRY(vp_encoder_check(e, e->ops->act(e->queue, &op), err));
    }
    return linear(p, &l->down, &p->mid, &p->y, c->arch->parallel ? &p->y : NULL, err);
}

static int embed(pass *p, const int32_t *ids, vp_error *err) {
    vp_encoder *e = p->e;
    const vp_weight_entry *table = vp_weights_find(&e->model->weights, VP_W_EMBED, -1);
    vp_embed_op op = {.batch = p->batch,
                      .ids = ids,
                      .C = p->c->width,
                      .positions = e->positions,
                      .types = e->types,
                      .out = p->x,
                      .table = {.rows = table->rows, .read_row = vp_weight_read_row, .ctx = table},
                      .scale = p->c->arch->scale_embedding ? (float)sqrt((double)p->c->width) : 1};
    VP_TRY(vp_encoder_check(e, e->ops->embed(e->queue, &op), err));
    return e->embed_norm.weight ? norm(p, &e->embed_norm, NULL, &p->x, err) : VP_OK;
}

static int run_layers(pass *p, vp_error *err) {
    const vp_arch *a = p->c->arch;
    const vp_mat *pending = NULL; /* what the last block wants added to x */
    for (int64_t i = 0; i < p->c->layers; i++) {
        const vp_layer *l = &p->e->layer[i];
        if (!a->post_norm) VP_TRY(norm(p, &l->attn_norm, pending, &p->h, err));
        VP_TRY(attention(p, l, i, err));
        if (!a->parallel) VP_TRY(norm(p, a->post_norm ? &l->attn_norm : &l->mlp_norm, &p->y, &p->h, err));
        VP_TRY(mlp(p, l, err));
        if (a->post_norm) VP_TRY(norm(p, &l->mlp_norm, &p->y, &p->h, err));
        pending = &p->y;
    }
    return a->post_norm ? VP_OK : norm(p, &p->e->final_norm, pending, &p->h, err);
}

int vp_forward(vp_encoder *e, const vp_batch *batch, const int32_t *ids, float *hidden, vp_error *err) {
    pass p = {.e = e, .c = &e->model->config, .batch = batch};
    VP_TRY(allocate_all(&p, err));
    VP_TRY(embed(&p, ids, err));
    VP_TRY(run_layers(&p, err));
    size_t bytes = (size_t)batch->T * (size_t)p.c->width * sizeof *hidden;
    VP_TRY(vp_encoder_check(e, e->ops->copy(e->queue, hidden, p.h.ptr, bytes), err));
    return e->ops->queue_wait(e->queue, err);
}
