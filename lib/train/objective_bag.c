/* LLaRA's objective (Li et al., Making Large Language Models a Better Foundation for Dense Retrieval, with the terms of
 * its code): next-token cross-entropy of the text, and for every bag of slots that of its tokens, from the maximum of
 * the slots' logits. Tokens and slots of a stretch of marked positions are brought apart, and their gradients together.
 */
#include "lib/model/head.h"
#include "lib/train/objective_private.h"
#include <stdlib.h>
#include <string.h>

typedef struct part { /* the tokens, or the slots, of a stretch */
    int64_t *at;      /* [n] marked positions */
    int64_t n, C;
    float *x, *grad; /* [n, C] */
    int32_t *target; /* [n]; of slots: cu of the bags, [bags + 1] */
    float *weight, *loss;
    uint8_t *right;
} part;

static void part_free(part *p) {
    free(p->at);
    free(p->x);
    free(p->grad);
    free(p->target);
    free(p->weight);
    free(p->loss);
    free(p->right);
}

static int gather(part *p, const vp_marked *t, int64_t first, int64_t last, bool slots, vp_error *err) {
    const size_t most = (size_t)(last - first), C = (size_t)p->C;
    p->at = vp_calloc(most + 1, sizeof *p->at);
    if (!p->at) return vp_fail_memory(err, "marked positions", most * sizeof *p->at);
    for (int64_t i = first; i < last; i++)
        if ((t->bag[i] >= 0) == slots) p->at[p->n++] = i;
    const size_t n = (size_t)p->n;
    p->x = vp_calloc(n * C + 1, sizeof *p->x);
    p->grad = vp_calloc(n * C + 1, sizeof *p->grad);
    p->target = vp_calloc(n + 1, sizeof *p->target);
    p->weight = vp_calloc(n + 1, sizeof *p->weight);
    p->loss = vp_calloc(n + 1, sizeof *p->loss);
    p->right = vp_calloc(n + 1, 1);
    if (!p->x || !p->grad || !p->target || !p->weight || !p->loss || !p->right)
        return vp_fail_memory(err, "marked positions", 2 * n * C * sizeof *p->x);
    for (size_t k = 0; k < n; k++) memcpy(p->x + k * C, t->picked + (size_t)p->at[k] * C, C * sizeof *p->x);
    return VP_OK;
}

static void scatter_gradient(const part *p, float *grad) {
    const size_t C = (size_t)p->C;
    for (int64_t k = 0; grad && k < p->n; k++)
        memcpy(grad + (size_t)p->at[k] * C, p->grad + (size_t)k * C, C * sizeof *grad);
}

/* ---- tokens ---- */

static int predict_tokens(part *p, vp_head *head, const vp_marked *t, float *loss, float *grad, uint8_t *right,
                          vp_error *err) {
    for (int64_t k = 0; k < p->n; k++) {
        p->target[k] = t->target[p->at[k]];
        p->weight[k] = t->weight ? t->weight[p->at[k]] : 1;
    }
    const vp_mat dx = vp_objective_mat(p->grad, p->n, p->C);
    vp_xent_op op = {.x = vp_objective_mat(p->x, p->n, p->C),
                     .target = p->target,
                     .weight = p->weight,
                     .denominator = t->denominator,
                     .loss = p->loss,
                     .right = p->right,
                     .dx = grad ? &dx : NULL,
                     .dw = t->dhead,
                     .dw_first = t->dhead_first};
    if (!p->n) return VP_OK;
    VP_TRY(vp_head_xent(head, &op, err));
    for (int64_t k = 0; k < p->n; k++) {
        loss[p->at[k]] = p->loss[k];
        if (right) right[p->at[k]] = p->right[k];
    }
    scatter_gradient(p, grad);
    return VP_OK;
}

/* ---- bags ---- */

typedef struct bags { /* of a stretch */
    int64_t n;
    int32_t *target, *target_cu; /* cu: part.target */
} bags;

/* The bags that the slots are of: where their slots and their tokens end, and what they weigh. */
static int list_bags(const vp_objective *o, part *p, const vp_marked *t, bags *b, vp_error *err) {
    size_t tokens = 0;
    b->target_cu = vp_calloc((size_t)p->n + 1, sizeof *b->target_cu);
    for (int64_t k = 0; k < p->n; k++)
        if (!k || t->bag[p->at[k]] != t->bag[p->at[k - 1]])
            tokens += (size_t)(t->bag_cu[t->bag[p->at[k]] + 1] - t->bag_cu[t->bag[p->at[k]]]);
    b->target = vp_calloc(tokens + 1, sizeof *b->target);
    if (!b->target || !b->target_cu) return vp_fail_memory(err, "bags", tokens * sizeof *b->target);
    for (int64_t k = 0; k < p->n; k++) {
        const int32_t bag = t->bag[p->at[k]];
        if (k + 1 < p->n && t->bag[p->at[k + 1]] == bag) continue;
        const int32_t from = t->bag_cu[bag], n = t->bag_cu[bag + 1] - from, at = b->target_cu[b->n];
        memcpy(b->target + at, t->bag_item + from, (size_t)n * sizeof *b->target);
        p->weight[b->n] = (float)(o->options.bag_weight * (o->options.bag_sum ? n : 1)) * t->weight[p->at[k]];
        b->target_cu[++b->n] = at + n;
        p->target[b->n] = (int32_t)k + 1;
    }
    return VP_OK;
}

static int predict_bags(const vp_objective *o, part *p, vp_head *head, const vp_marked *t, float *loss, float *grad,
                        vp_error *err) {
    bags b = {0};
    int status = list_bags(o, p, t, &b, err);
    const vp_mat dx = vp_objective_mat(p->grad, p->n, p->C);
    vp_bag_op op = {.x = vp_objective_mat(p->x, p->n, p->C),
                    .bags = b.n,
                    .cu = p->target,
                    .target = b.target,
                    .target_cu = b.target_cu,
                    .weight = p->weight,
                    .denominator = 1,
                    .loss = p->loss,
                    .dx = grad ? &dx : NULL,
                    .dw = t->dhead,
                    .dw_first = t->dhead_first};
    if (!status && b.n) status = vp_head_bag(head, &op, err);
    for (int64_t i = 0; !status && i < b.n; i++) loss[p->at[p->target[i]]] = p->loss[i]; /* with its first slot */
    if (!status) scatter_gradient(p, grad);
    free(b.target);
    free(b.target_cu);
    return status;
}

int vp_objective_llara(const vp_objective *o, vp_head *head, const vp_marked *t, int64_t first, int64_t last,
                       float *loss, float *grad, uint8_t *right, vp_error *err) {
    part tokens = {.C = vp_head_width(head)}, slots = tokens;
    int status = gather(&tokens, t, first, last, false, err);
    if (!status) status = gather(&slots, t, first, last, true, err);
    for (int64_t i = first; i < last; i++) loss[i] = 0;
    if (!status) status = predict_tokens(&tokens, head, t, loss, grad, right, err);
    if (!status) status = predict_bags(o, &slots, head, t, loss, grad, err);
    part_free(&tokens);
    part_free(&slots);
    return status;
}
