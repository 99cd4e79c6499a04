/* The latent-attention layer backwards: one gradient unit at a time, so that its sums are those of any micro-batches.
 * Keys and values depend on the latents alone: their gradient is gathered over a step, and goes on when it is done. */
#include "lib/model/latent_layer.h"

static float *gradient(const vp_latent_layer *l, int64_t at) {
    return l->o.grad + at;
}

/* dx = dout W (NULL: not wanted), dW and dbias added to */
static int linear_bwd(vp_latent_layer *l, const vp_weight *w, vp_latent_role role, const vp_mat *x, const vp_mat *dout,
                      const vp_mat *dx, vp_error *err) {
    const int64_t bias = l->at.bias[role];
    const vp_linear_op op = {.weight = w,
                             .x = *x,
                             .out = *dout,
                             .dout = dout,
                             .dx = dx,
                             .dw = gradient(l, l->at.weight[role]),
                             .dbias = bias < 0 ? NULL : gradient(l, bias)};
    const vp_compute *on = &l->o.on;
    if (dx) VP_TRY(vp_latent_check(l, on->ops->linear_bwd_x(on->queue, &op), err));
    return vp_latent_check(l, on->ops->linear_bwd_w(on->queue, &op), err);
}

/* to = a + b; `to` may be either */
static int add(vp_latent_layer *l, const vp_mat *a, const vp_mat *b, const vp_mat *to, vp_error *err) {
    const vp_elem_op op = {.x = *a, .y = *b, .out = *to, .a = 1, .b = 1};
    return vp_latent_check(l, l->o.on.ops->add(l->o.on.queue, &op), err);
}

/* dx, written over, from the gradient of LN(x) */
static int norm_bwd(vp_latent_layer *l, vp_latent_role role, const vp_mat *x, const vp_mat *dout, const vp_mat *dx,
                    vp_error *err) {
    vp_norm_op op = vp_latent_norm_op(l, role, x, dout);
    op.dout = dout;
    op.dx = dx;
    op.dweight = gradient(l, l->at.weight[role]);
    op.dbias = gradient(l, l->at.bias[role]);
    return vp_latent_check(l, l->o.on.ops->norm_bwd(l->o.on.queue, &op), err);
}

/* dv, the gradient of the feed-forward's input after its norm */
static int feed_forward_bwd(vp_latent_layer *l, const vp_latent_saved *s, const vp_mat *dy, const vp_mat *dv,
                            vp_error *err) {
    const vp_backend *ops = l->o.on.ops;
    const int64_t F = l->o.sizes.inner;
    vp_mat dmid, dup;
    VP_TRY(vp_latent_scratch(l, dy->rows, F, &dmid, err));
    VP_TRY(vp_latent_scratch(l, dy->rows, s->up.cols, &dup, err));
    VP_TRY(linear_bwd(l, l->down, VP_LATENT_DOWN, &s->mid, dy, &dmid, err));
    if (l->o.sizes.plain) {
        const vp_act_op act = {.act = VP_ACT_GELU, .x = s->up, .out = s->mid, .dout = &dmid, .dx = &dup};
        VP_TRY(vp_latent_check(l, ops->act_bwd(l->o.on.queue, &act), err));
    } else {
        vp_mat gate = s->up, up = s->up, dgate = dup, dvalue = dup;
        gate.cols = up.cols = dgate.cols = dvalue.cols = F;
        gate.ptr = (float *)s->up.ptr + F;
        dgate.ptr = (float *)dup.ptr + F;
        const vp_glu_op glu = {
            .act = VP_ACT_GELU, .gate = gate, .up = up, .out = s->mid, .dout = &dmid, .dgate = &dgate, .dup = &dvalue};
        VP_TRY(vp_latent_check(l, ops->glu_bwd(l->o.on.queue, &glu), err));
    }
    return linear_bwd(l, l->up, VP_LATENT_UP, &s->v, &dup, dv, err);
}

/* Adds what bmm_bwd leaves of a unit's keys or values to the step's. */
static int add_shared(vp_latent_layer *l, vp_bmm_op *op, const vp_mat *dout, const vp_mat *da, float *sum,
                      vp_error *err) {
    const vp_compute *on = &l->o.on;
    vp_mat all, step = vp_latent_matrix(sum, l->o.sizes.latents, l->inputs);
    VP_TRY(vp_latent_scratch(l, step.rows, step.cols, &all, err));
    vp_mat db = all;
    db.cols = l->o.sizes.head_width;
    op->dout = dout;
    op->da = da;
    op->db = &db;
    VP_TRY(vp_latent_check(l, on->ops->bmm_bwd(on->queue, op), err));
    return add(l, &step, &all, &step, err);
}

/* dq from the gradient of o = softmax(alpha q K^T) V; that of K and V is added to the step's */
static int attend_bwd(vp_latent_layer *l, const vp_latent_saved *s, const vp_mat *d_o, const vp_mat *dq,
                      vp_error *err) {
    const vp_latent_sizes *z = &l->o.sizes;
    vp_mat dp, head_o = *d_o, head_p, head_q = *dq;
    VP_TRY(vp_latent_scratch(l, d_o->rows, z->heads * z->latents, &dp, err));
    head_p = dp;
    head_p.cols = z->latents;
    head_o.cols = head_q.cols = z->head_width;
    vp_bmm_op mix = vp_latent_mix_op(l, &s->p, &s->o);
    VP_TRY(add_shared(l, &mix, &head_o, &head_p, l->dvalues, err));
    const vp_mat by_head = vp_latent_by_head(l, &s->p), d_by_head = vp_latent_by_head(l, &dp);
    const vp_softmax_op softmax = {.x = by_head, .out = by_head, .dout = &d_by_head, .dx = &d_by_head};
    VP_TRY(vp_latent_check(l, l->o.on.ops->softmax_rows_bwd(l->o.on.queue, &softmax), err));
    vp_bmm_op scores = vp_latent_scores_op(l, &s->q, &s->p);
    return add_shared(l, &scores, &head_p, &head_q, l->dkeys, err);
}

static int backward(vp_latent_layer *l, const vp_latent_saved *s, const vp_mat *dy, const vp_mat *dh, vp_error *err) {
    const int64_t n = dy->rows;
    vp_mat dv, dx, d_o, dq, du;
    VP_TRY(vp_latent_scratch(l, n, l->o.width, &dv, err));
    VP_TRY(feed_forward_bwd(l, s, dy, &dv, err));
    if (l->o.sizes.plain) return attend_bwd(l, s, &dv, dh, err);
    VP_TRY(vp_latent_scratch(l, n, l->o.width, &dx, err));
    VP_TRY(vp_latent_scratch(l, n, l->o.width, &du, err));
    VP_TRY(vp_latent_scratch(l, n, l->inputs, &d_o, err));
    VP_TRY(vp_latent_scratch(l, n, l->inputs, &dq, err));
    VP_TRY(norm_bwd(l, VP_LATENT_NORM_2, &s->x, &dv, &dx, err));
    VP_TRY(add(l, &dx, dy, &dx, err));
    VP_TRY(linear_bwd(l, l->out, VP_LATENT_OUT, &s->o, &dx, &d_o, err));
    VP_TRY(attend_bwd(l, s, &d_o, &dq, err));
    VP_TRY(linear_bwd(l, l->q, VP_LATENT_Q, &s->u, &dq, &du, err));
    VP_TRY(norm_bwd(l, VP_LATENT_NORM, &s->h, &du, dh, err));
    return add(l, dh, &dx, dh, err);
}

int vp_latent_layer_backward(vp_latent_layer *l, const vp_latent_saved *s, const float *dy, float *dh, vp_error *err) {
    const vp_mat from = vp_latent_matrix(dy, s->h.rows, l->o.width), to = vp_latent_matrix(dh, s->h.rows, l->o.width);
    if (!l->o.grad || l->o.fold) return vp_fail(err, VP_BUG, "a latent layer for inference is not trained");
    return backward(l, s, &from, &to, err);
}

/* ---- the latents ---- */

/* m to where rows are `ld` apart */
static int copy(vp_latent_layer *l, const vp_mat *m, float *to, int64_t ld, vp_error *err) {
    vp_elem_op op = {.x = *m, .out = *m, .a = 1};
    op.out.ptr = to;
    op.out.ld = ld;
    return vp_latent_check(l, l->o.on.ops->add(l->o.on.queue, &op), err);
}

int vp_latent_clear(vp_latent_layer *l, vp_error *err) {
    float *const sums[] = {l->dkeys, l->dvalues};
    for (int i = 0; i < 2; i++) {
        const vp_elem_op zero = {.out = vp_latent_matrix(sums[i], l->o.sizes.latents, l->inputs)};
        VP_TRY(vp_latent_check(l, l->o.on.ops->fill(l->o.on.queue, &zero), err));
    }
    return VP_OK;
}

static int finish(vp_latent_layer *l, vp_error *err) {
    const vp_latent_sizes *z = &l->o.sizes;
    const int64_t r = z->latents, I = l->inputs;
    const vp_mat latents = vp_latent_matrix(l->value + l->at.weight[VP_LATENTS], r, l->o.width);
    const vp_mat total = vp_latent_matrix(gradient(l, l->at.weight[VP_LATENTS]), r, l->o.width);
    const vp_mat dkeys = vp_latent_matrix(l->dkeys, r, I), dvalues = vp_latent_matrix(l->dvalues, r, I);
    if (z->plain) {
        VP_TRY(add(l, &total, &dkeys, &total, err));
        return add(l, &total, &dvalues, &total, err);
    }
    vp_mat both, dcontext, dlatents;
    const vp_mat context = vp_latent_matrix(l->context, r, l->o.width);
    VP_TRY(vp_latent_scratch(l, r, 2 * I, &both, err));
    VP_TRY(vp_latent_scratch(l, r, l->o.width, &dcontext, err));
    VP_TRY(vp_latent_scratch(l, r, l->o.width, &dlatents, err));
    VP_TRY(copy(l, &dkeys, (float *)both.ptr, 2 * I, err));
    VP_TRY(copy(l, &dvalues, (float *)both.ptr + I, 2 * I, err));
    VP_TRY(linear_bwd(l, l->kv, VP_LATENT_KV, &context, &both, &dcontext, err));
    VP_TRY(norm_bwd(l, VP_LATENT_CONTEXT, &latents, &dcontext, &dlatents, err));
    return add(l, &total, &dlatents, &total, err);
}

int vp_latent_layer_finish(vp_latent_layer *l, vp_error *err) {
    const vp_compute *on = &l->o.on;
    const size_t mark = on->ops->arena_mark(on->queue);
    int status = finish(l, err);
    on->ops->arena_release(on->queue, mark);
    return status ? status : vp_latent_clear(l, err);
}
