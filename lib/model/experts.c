/* The MLP as a mixture of experts (Mixtral): a router's logits choose top_k of E experts for every token, whose outputs
 * are added with a softmax over the chosen ones' logits as weights. The experts' matrices have R = T top_k rows in the
 * order of the experts; which row is whose is known to the device alone. */
#include "lib/model/pass.h"

static int take(vp_pass *p, int32_t **out, int64_t n, vp_error *err) {
    *out = vp_compute_take(&p->e->on, "a micro-batch (lower --batch-tokens)", (size_t)n * sizeof **out, err);
    return *out ? VP_OK : VP_MEMORY;
}

int vp_experts_open(vp_pass *p, vp_error *err) {
    const vp_config *c = p->c;
    const int64_t R = p->batch->T * c->top_k;
    int32_t *gate = NULL;
    p->routing = (vp_routing){.experts = (int32_t)c->experts, .top_k = (int32_t)c->top_k};
    VP_TRY(take(p, &p->routing.offset, c->experts + 1, err));
    VP_TRY(take(p, &p->routing.token, R, err));
    VP_TRY(take(p, &p->routing.row, R, err));
    VP_TRY(take(p, &gate, R, err));
    p->routing.gate = (float *)(void *)gate;
    return vp_pass_allocate_mlp(p, &p->rows, c->width, err);
}

int vp_experts_permute(vp_pass *p, const vp_mat *from, const vp_mat *to, bool gated, vp_error *err) {
    const vp_moe_op op = {.to = &p->routing, .x = *from, .out = *to, .gated = gated};
    return vp_pass_check(p, p->e->on.ops->permute(p->e->on.queue, &op), err);
}

int vp_experts_combine(vp_pass *p, const vp_mat *from, const vp_mat *to, bool gated, vp_error *err) {
    const vp_moe_op op = {.to = &p->routing, .x = *from, .out = *to, .gated = gated};
    return vp_pass_check(p, p->e->on.ops->combine(p->e->on.queue, &op), err);
}

int vp_experts_spread(vp_pass *p, vp_error *err) {
    const vp_moe_op op = {.to = &p->routing, .logits = p->logits};
    VP_TRY(vp_pass_check(p, p->e->on.ops->route(p->e->on.queue, &op), err));
    return vp_experts_permute(p, &p->h, &p->rows, false, err);
}

int vp_experts_forward(vp_pass *p, const vp_layer *l, vp_error *err) {
    VP_TRY(vp_pass_linear(p, &l->router, &p->h, &p->logits, NULL, err));
    VP_TRY(vp_experts_spread(p, err));
    VP_TRY(vp_pass_up(p, l, err));
    VP_TRY(vp_pass_gate(p, err));
    VP_TRY(vp_pass_linear(p, &l->down, &p->mid, &p->rows, NULL, err));
    return vp_experts_combine(p, &p->rows, &p->y, true, err);
}
