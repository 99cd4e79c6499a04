/* The transformer backwards, layer by layer from the tape. The gradient dx [T, C] of the residual stream is changed in
 * place: a block's gradient is added to it, the stream itself passes. Norms and gated products are computed again.
 * Pre-norm only: x2 = x + out(attention(norm(x))), x3 = x2 + down(act(gate h) * up h) with h = norm(x2); in parallel
 * models both blocks read norm(x). */
#include "lib/model/pass.h"
#include <stdlib.h>

typedef struct back {
    vp_pass p;
    /* [T, C]: of the stream; of a block's output, where it is not the stream's own; of its norm; of the norm's input */
    vp_mat dx, dy, dh, dsum;
    vp_mat dqkv, dmixed, dup, dmid;
    vp_mat dlogits, drows; /* of a mixture of experts: [T, E] f32, [R, C] */
    const vp_mat *pull;    /* what is added to dlogits; NULL: nothing */
} back;

static int check(const back *b, int status, vp_error *err) {
    return vp_pass_check(&b->p, status, err);
}

static int add(back *b, const vp_mat *to, const vp_mat *what, vp_error *err) {
    vp_elem_op op = {.x = *what, .y = *to, .out = *to, .a = 1, .b = 1};
    return check(b, b->p.e->on.ops->add(b->p.e->on.queue, &op), err);
}

/* dx = dout W + adapters' part (dx NULL: not wanted); gradients of what is trained are added to. */
static int linear_bwd(back *b, const vp_linear *w, const vp_mat *x, const vp_mat *dout, const vp_mat *dx,
                      vp_error *err) {
    vp_encoder *e = b->p.e;
    vp_linear_op op = {.weight = w->weight,
                       .x = *x,
                       .out = *dout,
                       .dout = dout,
                       .dx = dx,
                       .dw = w->dw,
                       .dbias = w->dbias,
                       .batch = b->p.batch};
    if (w->experts) op.group = &b->p.routing;
    if (w->dw) VP_TRY(check(b, e->on.ops->linear_bwd_w(e->on.queue, &op), err));
    vp_lora_op lora = {.x = *x, .out = *dout, .batch = b->p.batch, .dout = dout, .dx = dx, .linear = dx ? &op : NULL};
    if (w->nlora && dx) {
        lora.part = w->lora;
        lora.nparts = w->nlora;
        VP_TRY(check(b, e->on.ops->lora_bwd(e->on.queue, &lora), err));
        lora.linear = NULL;
    }
    if (!w->ntrained) return lora.linear ? check(b, e->on.ops->linear_bwd_x(e->on.queue, &op), err) : VP_OK;
    lora.part = w->trained;
    lora.nparts = w->ntrained;
    lora.drop = vp_pass_drop(&b->p, e->training->options.lora_dropout, w->layer, w->site);
    return check(b, e->on.ops->lora_bwd(e->on.queue, &lora), err);
}

/* dx += the gradient of x through out = norm(x), given that of out */
static int norm_bwd(back *b, const vp_norm_weight *w, const vp_mat *x, const vp_mat *dout, vp_error *err) {
    vp_norm_op op = {.kind = b->p.c->arch->norm,
                     .x = *x,
                     .out = *dout,
                     .weight = w->weight,
                     .bias = w->bias,
                     .eps = (float)b->p.c->eps,
                     .dout = dout,
                     .dx = &b->dsum,
                     .dweight = w->dweight,
                     .dbias = w->dbias,
                     .batch = b->p.batch};
    VP_TRY(check(b, b->p.e->on.ops->norm_bwd(b->p.e->on.queue, &op), err));
    return add(b, &b->dx, &b->dsum, err);
}

/* The gradient of what a block added: the stream's, through its dropout, in the type of what was added. */
static int block_gradient(back *b, int64_t layer, vp_after after, vp_mat *dy, vp_error *err) {
    *dy = b->dy.ptr ? b->dy : b->dx;
    if (b->p.e->training->options.hidden_dropout > 0) return vp_pass_dropout(&b->p, &b->dx, &b->dy, layer, after, err);
    return b->dy.ptr ? vp_pass_cast(&b->p, &b->dx, &b->dy, err) : VP_OK;
}

/* dup from dmid */
static int gate_bwd(back *b, vp_error *err) {
    vp_pass *p = &b->p;
    const vp_config *c = p->c;
    vp_mat dgate = vp_columns(&b->dup, 0, c->ffn), dup = c->arch->gated ? vp_columns(&b->dup, c->ffn, c->ffn) : b->dup;
    if (c->arch->gated) {
        vp_glu_op op = {.act = c->act,
                        .gate = vp_columns(&p->up, 0, c->ffn),
                        .up = vp_columns(&p->up, c->ffn, c->ffn),
                        .out = p->mid,
                        .dout = &b->dmid,
                        .dgate = &dgate,
                        .dup = &dup};
        return check(b, p->e->on.ops->glu_bwd(p->e->on.queue, &op), err);
    }
    vp_act_op op = {.act = c->act, .x = p->up, .out = p->mid, .dout = &b->dmid, .dx = &dup};
    return check(b, p->e->on.ops->act_bwd(p->e->on.queue, &op), err);
}

/* The same of a mixture: y = combine(down(mid), gates), so that of a row mid . dmid is its gate times the gate's
 * gradient; drows is that of the experts' outputs, then of their inputs. */
static int experts_bwd(back *b, const vp_layer *l, const vp_mat *dy, vp_error *err) {
    vp_pass *p = &b->p;
    const vp_compute *on = &p->e->on;
    VP_TRY(vp_experts_permute(p, dy, &b->drows, true, err));
    VP_TRY(linear_bwd(b, &l->down, &p->mid, &b->drows, &b->dmid, err));
    const vp_moe_op route = {.to = &p->routing, .x = p->mid, .dout = &b->dmid, .dlogits = &b->dlogits};
    VP_TRY(check(b, on->ops->route_bwd(on->queue, &route), err));
    if (b->pull) VP_TRY(add(b, &b->dlogits, b->pull, err));
    VP_TRY(gate_bwd(b, err));
    VP_TRY(linear_bwd(b, &l->up, &p->rows, &b->dup, &b->drows, err));
    VP_TRY(vp_experts_combine(p, &b->drows, &b->dh, false, err));
    VP_TRY(linear_bwd(b, &l->router, &p->h, &b->dlogits, &b->dsum, err));
    return add(b, &b->dh, &b->dsum, err);
}

/* dh from dy; p.h = norm of the MLP's input, p.up filled. */
static int mlp_bwd(back *b, const vp_layer *l, const vp_mat *dy, vp_error *err) {
    vp_pass *p = &b->p;
    VP_TRY(vp_pass_gate(p, err));
    if (p->c->experts) return experts_bwd(b, l, dy, err);
    VP_TRY(linear_bwd(b, &l->down, &p->mid, dy, &b->dmid, err));
    VP_TRY(gate_bwd(b, err));
    return linear_bwd(b, &l->up, &p->h, &b->dup, &b->dh, err);
}

/* Back through RoPE and the heads' own norm, in place. */
static int heads_bwd(back *b, const vp_mat *dx, const vp_mat *raw, int64_t heads, const vp_norm_weight *w,
                     vp_error *err) {
    VP_TRY(vp_pass_rope(&b->p, dx, heads, -1, err));
    if (!w->weight) return VP_OK;
    vp_norm_op op = {.kind = b->p.c->arch->norm,
                     .x = *raw,
                     .out = *dx,
                     .weight = w->weight,
                     .eps = (float)b->p.c->eps,
                     .heads = (int32_t)heads,
                     .dout = dx,
                     .dx = dx,
                     .dweight = w->dweight,
                     .batch = b->p.batch};
    return check(b, b->p.e->on.ops->norm_bwd(b->p.e->on.queue, &op), err);
}

/* dh from dy; p.h = norm of the layer's input. `first`: nothing below wants a gradient. */
static int attention_bwd(back *b, const vp_layer *l, int64_t layer, const vp_mat *dy, bool first, vp_error *err) {
    vp_pass *p = &b->p;
    const int64_t d = p->c->head_dim, hd = p->c->heads * d, gd = p->c->groups * d;
    VP_TRY(linear_bwd(b, &l->out, &p->mixed, dy, &b->dmixed, err));
    vp_attn_op op = vp_pass_attn_op(p, layer);
    vp_mat dq = vp_columns(&b->dqkv, 0, hd), dk = vp_columns(&b->dqkv, hd, gd), dv = vp_columns(&b->dqkv, hd + gd, gd);
    op.dout = &b->dmixed;
    op.dq = &dq;
    op.dk = &dk;
    op.dv = &dv;
    VP_TRY(check(b, p->e->on.ops->attn_bwd(p->e->on.queue, &op), err));
    vp_mat raw_q = {0}, raw_k = {0};
    if (p->raw.ptr) {
        raw_q = vp_columns(&p->raw, 0, hd);
        raw_k = vp_columns(&p->raw, hd, gd);
    }
    VP_TRY(heads_bwd(b, &dq, &raw_q, p->c->heads, &l->q_norm, err));
    VP_TRY(heads_bwd(b, &dk, &raw_k, p->c->groups, &l->k_norm, err));
    return linear_bwd(b, &l->qkv, &p->h, &b->dqkv, first ? NULL : &b->dh, err);
}

/* ---- what the tape lacks ---- */

/* p.h = norm(x) */
static int norm_again(back *b, const vp_norm_weight *w, const vp_mat *x, vp_error *err) {
    vp_pass of = b->p;
    of.x = *x;
    return vp_pass_norm(&of, w, NULL, &b->p.h, err);
}

/* The attention and the stream after it, from the layer's input. */
static int attend_again(back *b, const vp_layer *l, int64_t layer, vp_saved *s, vp_error *err) {
    vp_pass *p = &b->p;
    VP_TRY(norm_again(b, &l->attn_norm, &s->x, err));
    VP_TRY(vp_pass_attention(p, l, layer, err));
    if (p->c->arch->parallel) return VP_OK;
    VP_TRY(vp_pass_out(p, l, layer, err));
    vp_elem_op op = {.x = s->x, .y = p->y, .out = p->x, .a = 1, .b = 1};
    s->middle = p->x;
    return check(b, p->e->on.ops->add(p->e->on.queue, &op), err);
}

/* ---- a layer, all layers ---- */

static int layer_bwd(back *b, int64_t i, vp_saved *s, vp_error *err) {
    const vp_layer *l = &b->p.e->layer[i];
    const bool parallel = b->p.c->arch->parallel, first = i == 0 && !b->p.e->dtable;
    vp_mat dy;
    if (!s->qkv.ptr) VP_TRY(attend_again(b, l, i, s, err));
    VP_TRY(norm_again(b, parallel ? &l->attn_norm : &l->mlp_norm, parallel ? &s->x : &s->middle, err));
    b->pull = s->pull.ptr ? &s->pull : NULL;
    if (b->p.c->experts) VP_TRY(vp_experts_spread(&b->p, err));
    if (!s->up.ptr) VP_TRY(vp_pass_up(&b->p, l, err));
    VP_TRY(block_gradient(b, i, VP_AFTER_MLP, &dy, err));
    VP_TRY(mlp_bwd(b, l, &dy, err));
    if (parallel) { /* both blocks' gradients meet in the one norm */
        VP_TRY(vp_pass_cast(&b->p, &b->dh, &b->dsum, err));
        VP_TRY(attention_bwd(b, l, i, &dy, first, err));
        if (first) return VP_OK;
        VP_TRY(add(b, &b->dh, &b->dsum, err));
        return norm_bwd(b, &l->attn_norm, &s->x, &b->dh, err);
    }
    VP_TRY(norm_bwd(b, &l->mlp_norm, &s->middle, &b->dh, err));
    VP_TRY(norm_again(b, &l->attn_norm, &s->x, err));
    VP_TRY(block_gradient(b, i, VP_AFTER_ATTENTION, &dy, err));
    VP_TRY(attention_bwd(b, l, i, &dy, first, err));
    return first ? VP_OK : norm_bwd(b, &l->attn_norm, &s->x, &b->dh, err);
}

static int open_back(back *b, vp_encoder *e, const vp_tape *tape, vp_error *err) {
    const vp_config *c = &e->model->config;
    const int64_t qkv = (c->heads + 2 * c->groups) * c->head_dim;
    VP_TRY(vp_pass_open(&b->p, e, &tape->batch, tape->step, err));
    VP_TRY(vp_pass_allocate_f32(&b->p, &b->dx, c->width, err));
    VP_TRY(vp_pass_allocate(&b->p, &b->dh, c->width, err));
    VP_TRY(vp_pass_allocate_f32(&b->p, &b->dsum, c->width, err));
    if (e->training->options.hidden_dropout > 0 || e->on.state != VP_F32)
        VP_TRY(vp_pass_allocate(&b->p, &b->dy, c->width, err));
    VP_TRY(vp_pass_allocate(&b->p, &b->dqkv, qkv, err));
    VP_TRY(vp_pass_allocate(&b->p, &b->dmixed, c->heads * c->head_dim, err));
    VP_TRY(vp_pass_allocate_mlp(&b->p, &b->dmid, c->ffn, err));
    VP_TRY(vp_pass_allocate_mlp(&b->p, &b->dup, c->arch->gated ? 2 * c->ffn : c->ffn, err));
    if (c->experts) {
        VP_TRY(vp_pass_allocate_f32(&b->p, &b->dlogits, c->experts, err));
        VP_TRY(vp_pass_allocate_mlp(&b->p, &b->drows, c->width, err));
    }
    const vp_saved *s = tape->layer;
    if (!s->qkv.ptr) {
        VP_TRY(vp_pass_allocate(&b->p, &b->p.qkv, qkv, err));
        VP_TRY(vp_pass_allocate(&b->p, &b->p.mixed, c->heads * c->head_dim, err));
        VP_TRY(vp_pass_allocate_f32(&b->p, &b->p.lse, c->heads, err));
        if (c->arch->qk_norm) VP_TRY(vp_pass_allocate(&b->p, &b->p.raw, (c->heads + c->groups) * c->head_dim, err));
    }
    return s->up.ptr ? VP_OK : vp_pass_allocate_mlp(&b->p, &b->p.up, c->arch->gated ? 2 * c->ffn : c->ffn, err);
}

static int embed_bwd(back *b, const vp_tape *tape, vp_error *err) {
    vp_encoder *e = b->p.e;
    if (!e->dtable) return VP_OK;
    vp_embed_op op = vp_pass_embed_op(&b->p, tape->ids);
    op.dout = &b->dx;
    op.dtable = e->dtable;
    op.dfirst = e->dfirst;
    return check(b, e->on.ops->embed_bwd(e->on.queue, &op), err);
}

static int run(vp_encoder *e, vp_tape *tape, const float *dhidden, vp_error *err) {
    back b = {0};
    VP_TRY(open_back(&b, e, tape, err));
    size_t bytes = (size_t)tape->batch.T * (size_t)e->model->config.width * sizeof *dhidden;
    VP_TRY(vp_compute_move(&e->on, b.p.x.ptr, dhidden, bytes, err));
    vp_elem_op zero = {.out = b.dx};
    VP_TRY(check(&b, e->on.ops->fill(e->on.queue, &zero), err));
    VP_TRY(norm_bwd(&b, &e->final_norm, &tape->x, &b.p.x, err));
    const vp_pass whole = b.p;
    for (int64_t i = e->model->config.layers - 1; i >= 0; i--) {
        vp_saved saved = tape->layer[i];
        b.p = vp_pass_of_layer(&whole, &saved);
        VP_TRY(layer_bwd(&b, i, &saved, err));
    }
    b.p = whole;
    VP_TRY(embed_bwd(&b, tape, err));
    return e->on.ops->queue_wait(e->on.queue, err);
}

int vp_encoder_backward(vp_encoder *e, vp_tape *tape, const float *dhidden, vp_error *err) {
    if (!e->training || !e->training->options.backward)
        return vp_fail(err, VP_BUG, "backward: the encoder was opened for forward passes");
    size_t mark = e->on.ops->arena_mark(e->on.queue);
    int status = run(e, tape, dhidden, err);
    e->on.ops->arena_release(e->on.queue, mark);
    return status;
}
