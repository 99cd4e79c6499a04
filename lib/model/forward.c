/* The transformer, written once over kernels/ops.h; what differs between models is in the architecture's row.
 *
 * Legend: T tokens, C width, H query heads, G key/value heads, d head width, F feed-forward width. x [T, C] is the
 * residual stream, f32; h [T, C] its norm; y [T, C] what a block adds to x. Adding is left to the next norm, which
 * reads x anyway. Pre-norm:  h = norm(x); y = attention(h); h = norm(x += y); y = mlp(h); ... hidden = norm(x += y).
 * Post-norm (BERT):  y = attention(x); x = norm(x + y); y = mlp(x); x = norm(x + y); hidden = x. */
#include "lib/model/pass.h"
#include "lib/model/cached.h"
#include "lib/model/token_rows.h"
#include <math.h>

vp_mat vp_columns(const vp_mat *m, int64_t first, int64_t n) {
    char *ptr = (char *)m->ptr + (size_t)first * vp_dtype_size(m->dtype);
    return (vp_mat){.ptr = ptr, .dtype = m->dtype, .rows = m->rows, .cols = n, .ld = m->ld};
}

int vp_pass_check(const vp_pass *p, int status, vp_error *err) {
    return vp_encoder_check(p->e, status, err);
}

static const char WHAT[] = "a micro-batch (lower --batch-tokens)";

static int allocate(vp_pass *p, vp_mat *m, int64_t rows, int64_t cols, vp_dtype type, vp_error *err) {
    *m = (vp_mat){.dtype = type, .rows = rows, .cols = cols, .ld = cols};
    if (type == VP_F8) {
        m->ld = (cols + 15) / 16 * 16;
        m->scale = vp_compute_take(&p->e->on, WHAT, (size_t)m->rows * sizeof *m->scale, err);
        if (!m->scale) return VP_MEMORY;
    }
    const size_t bytes = (size_t)m->rows * (size_t)m->ld * vp_dtype_size(type);
    m->ptr = vp_compute_take(&p->e->on, WHAT, bytes, err);
    return m->ptr ? VP_OK : VP_MEMORY;
}

int vp_pass_allocate(vp_pass *p, vp_mat *m, int64_t cols, vp_error *err) {
    return allocate(p, m, p->batch->T, cols, p->e->on.state, err);
}

int vp_pass_allocate_mlp(vp_pass *p, vp_mat *m, int64_t cols, vp_error *err) {
    const int64_t each = p->c->experts ? p->c->top_k : 1;
    return allocate(p, m, p->batch->T * each, cols, p->e->on.state, err);
}

int vp_pass_allocate_f32(vp_pass *p, vp_mat *m, int64_t cols, vp_error *err) {
    return allocate(p, m, p->batch->T, cols, VP_F32, err);
}

int vp_pass_open(vp_pass *p, vp_encoder *e, const vp_batch *batch, uint32_t step, vp_error *err) {
    const vp_config *c = &e->model->config;
    *p = (vp_pass){.e = e, .c = c, .batch = batch, .step = step};
    VP_TRY(vp_pass_allocate_f32(p, &p->x, c->width, err));
    VP_TRY(vp_pass_allocate(p, &p->y, c->width, err));
    if (c->arch->post_norm)
        p->h = p->x;
    else
        VP_TRY(vp_pass_allocate(p, &p->h, c->width, err));
    p->in = p->h;
    if (c->experts) {
        VP_TRY(vp_experts_open(p, err));
        return vp_pass_allocate_mlp(p, &p->mid, c->ffn, err);
    }
    const bool f8 = e->on.type == VP_F8;
    if (f8 && !c->arch->post_norm && !c->arch->parallel) VP_TRY(allocate(p, &p->in, batch->T, c->width, VP_F8, err));
    return allocate(p, &p->mid, batch->T, c->ffn, f8 && c->arch->gated ? VP_F8 : e->on.state, err);
}

int vp_pass_scratch(vp_pass *p, vp_error *err) {
    const vp_config *c = p->c;
    VP_TRY(vp_pass_allocate(p, &p->qkv, (c->heads + 2 * c->groups) * c->head_dim, err));
    VP_TRY(vp_pass_allocate(p, &p->mixed, c->heads * c->head_dim, err));
    if (c->experts) VP_TRY(vp_pass_allocate_f32(p, &p->logits, c->experts, err));
    if (c->arch->gated) return vp_pass_allocate_mlp(p, &p->up, 2 * c->ffn, err);
    p->up = p->mid;
    return VP_OK;
}

vp_pass vp_pass_of_layer(const vp_pass *p, vp_saved *keep) {
    vp_pass of = *p;
    of.keep = keep;
    if (keep && keep->raw.ptr) of.raw = keep->raw;
    if (keep && keep->qkv.ptr) of.qkv = keep->qkv;
    if (keep && keep->mixed.ptr) of.mixed = keep->mixed;
    if (keep && keep->lse.ptr) of.lse = keep->lse;
    if (keep && keep->logits.ptr) of.logits = keep->logits;
    if (keep && keep->up.ptr) of.up = keep->up;
    return of;
}

int vp_pass_copy(const vp_pass *p, const vp_mat *to, const vp_mat *from, vp_error *err) {
    size_t bytes = (size_t)from->rows * (size_t)from->cols * vp_dtype_size(from->dtype);
    return vp_pass_check(p, p->e->on.ops->copy(p->e->on.queue, to->ptr, from->ptr, bytes), err);
}

int vp_pass_cast(const vp_pass *p, const vp_mat *from, const vp_mat *to, vp_error *err) {
    const vp_elem_op op = {.x = *from, .out = *to};
    if (from->dtype == to->dtype) return vp_pass_copy(p, to, from, err);
    return vp_pass_check(p, p->e->on.ops->cast(p->e->on.queue, &op), err);
}

vp_drop vp_pass_drop(const vp_pass *p, double rate, int64_t layer, vp_site site) {
    const uint64_t seed = p->e->training ? p->e->training->options.seed : 0;
    return (vp_drop){.p = (float)rate, .seed = seed, .step = p->step, .layer = (uint32_t)layer, .site = (uint32_t)site};
}

int vp_pass_norm(vp_pass *p, const vp_norm_weight *w, const vp_mat *y, const vp_mat *out, vp_error *err) {
    vp_norm_op op = {.kind = p->c->arch->norm,
                     .x = p->x,
                     .out = *out,
                     .weight = w->weight,
                     .bias = w->bias,
                     .eps = (float)p->c->eps};
    if (y) op.d = *y;
    return vp_pass_check(p, p->e->on.ops->norm(p->e->on.queue, &op), err);
}

/* The first adapters take the product with them. */
static int multiply(vp_pass *p, const vp_linear *w, const vp_mat *x, const vp_mat *out, const vp_mat *residual,
                    vp_error *err) {
    vp_encoder *e = p->e;
    vp_linear_op op = {.weight = w->weight, .x = *x, .out = *out, .batch = p->batch};
    if (w->experts) op.group = &p->routing;
    if (residual) op.residual = *residual;
    vp_lora_op lora = {.x = *x, .out = *out, .part = w->lora, .nparts = w->nlora, .batch = p->batch, .linear = &op};
    if (w->nlora) {
        VP_TRY(vp_pass_check(p, e->on.ops->lora(e->on.queue, &lora), err));
        lora.linear = NULL;
    }
    if (!w->ntrained) return lora.linear ? vp_pass_check(p, e->on.ops->linear(e->on.queue, &op), err) : VP_OK;
    lora.part = w->trained;
    lora.nparts = w->ntrained;
    lora.drop = vp_pass_drop(p, e->training->options.lora_dropout, w->layer, w->site);
    return vp_pass_check(p, e->on.ops->lora(e->on.queue, &lora), err);
}

/* FP8 products take x in FP8, whatever it is. */
int vp_pass_linear(vp_pass *p, const vp_linear *w, const vp_mat *x, const vp_mat *out, const vp_mat *residual,
                   vp_error *err) {
    const vp_compute *on = &p->e->on;
    if (w->type != VP_F8 || x->dtype == VP_F8) return multiply(p, w, x, out, residual, err);
    vp_quant_op op = {.x = *x};
    const size_t mark = on->ops->arena_mark(on->queue);
    int status = allocate(p, &op.out, x->rows, x->cols, VP_F8, err);
    if (!status) status = vp_pass_check(p, on->ops->quant_rows(on->queue, &op), err);
    if (!status) status = multiply(p, w, &op.out, out, residual, err);
    on->ops->arena_release(on->queue, mark);
    return status;
}

int vp_pass_dropout(vp_pass *p, const vp_mat *from, const vp_mat *to, int64_t layer, vp_after after, vp_error *err) {
    vp_elem_op op = {.x = *from, .out = *to, .a = 1, .batch = p->batch};
    op.drop = vp_pass_drop(p, p->e->training->options.hidden_dropout, 2 * layer + (int64_t)after, VP_SITE_HIDDEN);
    return vp_pass_check(p, p->e->on.ops->dropout(p->e->on.queue, &op), err);
}

static bool drops_hidden(const vp_pass *p) {
    return p->e->training && p->e->training->options.hidden_dropout > 0;
}

int vp_pass_rope(vp_pass *p, const vp_mat *x, int64_t heads, int sign, vp_error *err) {
    const vp_config *c = p->c;
    if (!c->rotary) return VP_OK;
    vp_rope_op op = {.batch = p->batch,
                     .x = *x,
                     .heads = (int32_t)heads,
                     .d = (int32_t)c->head_dim,
                     .rotary = (int32_t)c->rotary,
                     .interleaved = c->arch->rope == VP_ROPE_INTERLEAVED,
                     .sign = sign,
                     .cos = p->e->cosines,
                     .sin = p->e->sines};
    return vp_pass_check(p, p->e->on.ops->rope(p->e->on.queue, &op), err);
}

/* Queries or keys in place: their own norm by head if the model has one, then RoPE. */
static int position_heads(vp_pass *p, const vp_mat *x, int64_t heads, const vp_norm_weight *w, vp_error *err) {
    const vp_config *c = p->c;
    if (w->weight) {
        vp_norm_op op = {.kind = c->arch->norm,
                         .x = *x,
                         .out = *x,
                         .weight = w->weight,
                         .eps = (float)c->eps,
                         .heads = (int32_t)heads};
        VP_TRY(vp_pass_check(p, p->e->on.ops->norm(p->e->on.queue, &op), err));
    }
    return vp_pass_rope(p, x, heads, 1, err);
}

vp_attn_op vp_pass_attn_op(const vp_pass *p, int64_t layer) {
    const vp_config *c = p->c;
    const int64_t d = c->head_dim, hd = c->heads * d, gd = c->groups * d;
    const double rate = p->e->training ? p->e->training->options.attention_dropout : 0;
    return (vp_attn_op){.batch = p->batch,
                        .mode = p->batch->causal ? VP_ATTN_CAUSAL : p->e->mode,
                        .window = c->windowed[layer] ? c->window : 0,
                        .heads = (int32_t)c->heads,
                        .groups = (int32_t)c->groups,
                        .d = (int32_t)d,
                        .scale = (float)(1 / sqrt((double)d)),
                        .q = vp_columns(&p->qkv, 0, hd),
                        .k = vp_columns(&p->qkv, hd, gd),
                        .v = vp_columns(&p->qkv, hd + gd, gd),
                        .out = p->mixed,
                        .lse = p->lse.ptr,
                        .drop = vp_pass_drop(p, rate, layer, VP_SITE_ATTENTION)};
}

/* raw [T, (H + G) d] = the first columns of qkv */
static int keep_raw(vp_pass *p, vp_error *err) {
    vp_elem_op op = {.x = vp_columns(&p->qkv, 0, p->raw.cols), .out = p->raw, .a = 1};
    return vp_pass_check(p, p->e->on.ops->add(p->e->on.queue, &op), err);
}

/* m [T, G d] by way of a copy without gaps to host memory, where a micro-batch's tokens lie together. */
static int export_copy(vp_pass *p, const vp_mat *m, uint16_t *to, vp_error *err) {
    const vp_compute *on = &p->e->on;
    const size_t bytes = (size_t)(m->rows * m->cols) * sizeof *to, mark = on->ops->arena_mark(on->queue);
    vp_elem_op op = {.x = *m, .out = {.dtype = VP_BF16, .rows = m->rows, .cols = m->cols, .ld = m->cols}};
    if (!(op.out.ptr = vp_compute_take(on, "keys and values", bytes, err))) return VP_MEMORY;
    int status = vp_compute_check(on, on->ops->cast(on->queue, &op), err);
    if (!status) status = vp_compute_move(on, to, op.out.ptr, bytes, err);
    on->ops->arena_release(on->queue, mark);
    return status;
}

/* k and v [T, G d] of a layer, to the host. */
static int export(vp_pass *p, const vp_attn_op *attn, int64_t layer, vp_error *err) {
    const vp_exported *to = p->exported;
    if (p->e->on.separate) {
        const int64_t at = (layer * to->T + to->cu[0]) * attn->k.cols;
        VP_TRY(export_copy(p, &attn->k, to->k + at, err));
        return export_copy(p, &attn->v, to->v + at, err);
    }
    for (int64_t b = 0; b < p->batch->B; b++) {
        const int64_t at = (layer * to->T + to->cu[b]) * attn->k.cols;
        to->k_to[b] = to->k + at;
        to->v_to[b] = to->v + at;
    }
    const vp_kv_op op = {.batch = p->batch,
                         .k = attn->k,
                         .v = attn->v,
                         .k_to = to->k_to,
                         .v_to = to->v_to,
                         .dtype = VP_BF16,
                         .ld = attn->k.cols};
    return vp_pass_check(p, p->e->on.ops->kv_export(p->e->on.queue, &op), err);
}

int vp_pass_attention(vp_pass *p, const vp_layer *l, int64_t layer, vp_error *err) {
    VP_TRY(vp_pass_linear(p, &l->qkv, &p->h, &p->qkv, NULL, err));
    if (p->raw.ptr) VP_TRY(keep_raw(p, err));
    const vp_attn_op op = vp_pass_attn_op(p, layer);
    VP_TRY(position_heads(p, &op.q, p->c->heads, &l->q_norm, err));
    VP_TRY(position_heads(p, &op.k, p->c->groups, &l->k_norm, err));
    if (p->exported) VP_TRY(export(p, &op, layer, err));
    if (p->cached) return vp_cached_attend(p, &op, layer, err);
    return vp_pass_check(p, p->e->on.ops->attn(p->e->on.queue, &op), err);
}

int vp_pass_out(vp_pass *p, const vp_layer *l, int64_t layer, vp_error *err) {
    VP_TRY(vp_pass_linear(p, &l->out, &p->mixed, &p->y, NULL, err));
    if (!drops_hidden(p) || p->c->arch->parallel) return VP_OK;
    return vp_pass_dropout(p, &p->y, &p->y, layer, VP_AFTER_ATTENTION, err);
}

int vp_pass_up(vp_pass *p, const vp_layer *l, vp_error *err) {
    return vp_pass_linear(p, &l->up, l->up.experts ? &p->rows : &p->in, &p->up, NULL, err);
}

int vp_pass_gate(vp_pass *p, vp_error *err) {
    const vp_config *c = p->c;
    if (!c->arch->gated) {
        vp_act_op op = {.act = c->act, .x = p->up, .out = p->mid};
        return vp_pass_check(p, p->e->on.ops->act(p->e->on.queue, &op), err);
    }
    vp_glu_op op = {
        .act = c->act, .gate = vp_columns(&p->up, 0, c->ffn), .up = vp_columns(&p->up, c->ffn, c->ffn), .out = p->mid};
    return vp_pass_check(p, p->e->on.ops->glu(p->e->on.queue, &op), err);
}

/* y = down(act(gate h) * up h), or down(act(up h)); added to what y holds when attention ran in parallel. */
static int mlp(vp_pass *p, const vp_layer *l, int64_t layer, vp_error *err) {
    if (p->c->experts) {
        VP_TRY(vp_experts_forward(p, l, err));
    } else {
        VP_TRY(vp_pass_up(p, l, err));
        VP_TRY(vp_pass_gate(p, err));
        VP_TRY(vp_pass_linear(p, &l->down, &p->mid, &p->y, p->c->arch->parallel ? &p->y : NULL, err));
    }
    return drops_hidden(p) ? vp_pass_dropout(p, &p->y, &p->y, layer, VP_AFTER_MLP, err) : VP_OK;
}

vp_embed_op vp_pass_embed_op(const vp_pass *p, const int32_t *ids) {
    const vp_encoder *e = p->e;
    return (vp_embed_op){.batch = p->batch,
                         .ids = ids,
                         .C = p->c->width,
                         .positions = e->positions,
                         .types = e->types,
                         .out = p->x,
                         .table = vp_token_rows_part(e->table),
                         .resident = e->resident,
                         .scale = p->c->arch->scale_embedding ? (float)sqrt((double)p->c->width) : 1};
}

static int embed(vp_pass *p, const int32_t *ids, vp_error *err) {
    const vp_embed_op op = vp_pass_embed_op(p, ids);
    VP_TRY(vp_pass_check(p, p->e->on.ops->embed(p->e->on.queue, &op), err));
    return p->e->embed_norm.weight ? vp_pass_norm(p, &p->e->embed_norm, NULL, &p->x, err) : VP_OK;
}

/* `pending`: what the block before wants added to x, or NULL. */
static int run_layer(vp_pass *p, int64_t i, const vp_mat *pending, vp_error *err) {
    const vp_arch *a = p->c->arch;
    const vp_layer *l = &p->e->layer[i];
    if (!a->post_norm) VP_TRY(vp_pass_norm(p, &l->attn_norm, pending, &p->h, err));
    if (p->keep) VP_TRY(vp_pass_copy(p, &p->keep->x, &p->x, err));
    VP_TRY(vp_pass_attention(p, l, i, err));
    VP_TRY(vp_pass_out(p, l, i, err));
    if (!a->parallel) VP_TRY(vp_pass_norm(p, a->post_norm ? &l->attn_norm : &l->mlp_norm, &p->y, &p->in, err));
    if (p->keep && p->keep->middle.ptr) VP_TRY(vp_pass_copy(p, &p->keep->middle, &p->x, err));
    VP_TRY(mlp(p, l, i, err));
    return a->post_norm ? vp_pass_norm(p, &l->mlp_norm, &p->y, &p->h, err) : VP_OK;
}

static int run_layers(vp_pass *p, vp_tape *tape, vp_error *err) {
    for (int64_t i = 0; i < p->c->layers; i++) {
        vp_pass of = vp_pass_of_layer(p, tape ? &tape->layer[i] : NULL);
        VP_TRY(run_layer(&of, i, i ? &p->y : NULL, err));
    }
    if (!p->c->arch->post_norm) VP_TRY(vp_pass_norm(p, &p->e->final_norm, &p->y, &p->h, err));
    return tape ? vp_pass_copy(p, &tape->x, &p->x, err) : VP_OK;
}

/* ---- a pass, or one that came before ---- */

typedef struct pass_work {
    vp_pass *p;
    const int32_t *ids;
    vp_tape *tape;
    vp_error *err;
    int status;
} pass_work;

/* From ids to h. */
static int do_work(void *ctx) {
    pass_work *w = ctx;
    *w->err = (vp_error){0}; /* of a call that is done anew */
    w->status = embed(w->p, w->ids, w->err);
    if (!w->status) w->status = run_layers(w->p, w->tape, w->err);
    return w->status;
}

/* Of an encoder that trains nothing all that a pass enqueues follows from its batch and what its caches need, from
 * where that and the pass lie, and from tables that grow: the key. Its weights stay where they are as long as its
 * layers. */
static int repeat_work(pass_work *w) {
    static const vp_cached none;
    vp_pass *p = w->p;
    vp_encoder *e = p->e;
    const vp_batch *b = p->batch;
    const vp_cached *c = p->cached ? p->cached : &none;
    const void *const at[] = {e->layer, e->cosines, e->sines,       w->ids,    p->x.ptr, b->cu_q,  b->cu_k,
                              b->q_off, b->pos,     b->seg,         b->prefix, b->tiles, c->spans, c->nspans,
                              c->k_to,  c->v_to,    b->adapter_row, b->row,    b->unit};
    const int64_t number[] = {b->T, b->B, b->longest, b->ntiles, b->causal, c->most_keys};
    enum { ADDRESSES = sizeof at / sizeof *at, NUMBERS = sizeof number / sizeof *number };
    uint64_t key[ADDRESSES + NUMBERS];
    for (int i = 0; i < ADDRESSES; i++) key[i] = (uintptr_t)at[i];
    for (int i = 0; i < NUMBERS; i++) key[ADDRESSES + i] = (uint64_t)number[i];
    vp_repeated how = VP_REPEAT_PLAIN;
    const vp_repeat_op op = {.key = key, .keys = ADDRESSES + NUMBERS, .work = do_work, .ctx = w, .how = &how};
    const int status = e->on.ops->repeat(e->on.queue, &op);
    e->work.repeated += how == VP_REPEAT_AGAIN;
    e->work.refused += how == VP_REPEAT_REFUSED;
    return w->status ? w->status : vp_pass_check(p, status, w->err);
}

/* The first rows of h to where they are wanted: as f32 on the host, by way of x, which is free now. */
static int leave(vp_pass *p, const vp_pass_options *o, vp_error *err) {
    vp_mat from = p->h, f32 = p->x;
    if (o->rows) from.rows = f32.rows = o->rows;
    if (o->states) VP_TRY(vp_pass_copy(p, o->states, &from, err));
    if (!o->hidden) return VP_OK;
    if (from.dtype != VP_F32) {
        VP_TRY(vp_pass_cast(p, &from, &f32, err));
        from = f32;
    }
    return vp_compute_move(&p->e->on, o->hidden, from.ptr, (size_t)(from.rows * from.cols) * sizeof(float), err);
}

int vp_forward(vp_encoder *e, const vp_batch *batch, const int32_t *ids, const vp_pass_options *o, vp_error *err) {
    vp_pass p;
    size_t mark = e->on.ops->arena_mark(e->on.queue);
    int status = vp_pass_open(&p, e, batch, o->step, err);
    pass_work work = {.p = &p, .ids = ids, .tape = o->tape, .err = err};
    p.cached = o->cached;
    p.exported = o->exported;
    if (!status) status = vp_pass_scratch(&p, err);
    if (!status) status = o->repeats ? repeat_work(&work) : do_work(&work);
    if (!status) status = leave(&p, o, err);
    e->work.passes += !status;
    e->on.ops->arena_release(e->on.queue, mark);
    return status;
}
