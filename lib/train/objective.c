/* The table of objectives, opening one, the objectives of tokens, and what those of rows share: normalisation and
 * memory. */
#include "lib/train/objective_private.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const vp_objective_kind kinds[] = {
    {"mntp", .form = VP_FORM_TOKENS},
    {"ntp", .form = VP_FORM_TOKENS, .balances = true},
    {"llara", .form = VP_FORM_TOKENS, .bags = true},
    {"infonce", .rows = vp_objective_infonce},
    {"cosent", .rows = vp_objective_cosent},
    {"mse", .rows = vp_objective_mse},
    {"distill", .rows = vp_objective_distill},
    {"grit", .form = VP_FORM_JOINT, .balances = true, .rows = vp_objective_infonce},
    {"kto", .form = VP_FORM_ANSWERS, .rows = vp_objective_kto},
};

static const vp_objective_kind *find(const char *name) {
    for (size_t i = 0; name && i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, name)) return &kinds[i];
    return NULL;
}

vp_objective_form vp_objective_form_of(const char *name) {
    const vp_objective_kind *kind = find(name);
    return kind ? kind->form : VP_FORM_ROWS;
}

vp_objective_form vp_objective_form_in(const vp_objective *o) {
    return o->kind->form;
}

bool vp_objective_is_tokens(const char *name) {
    const vp_objective_form form = vp_objective_form_of(name);
    return form == VP_FORM_TOKENS || form == VP_FORM_ANSWERS;
}

bool vp_objective_has_head(const char *name) {
    return vp_objective_form_of(name) != VP_FORM_ROWS;
}

bool vp_objective_wants_tokens(const vp_objective *o) {
    return o->kind->form == VP_FORM_TOKENS || (o->kind->form == VP_FORM_JOINT && o->options.lambda_gen > 0);
}

bool vp_objective_wants_rows(const vp_objective *o) {
    return o->kind->rows && !(o->kind->form == VP_FORM_JOINT && !(o->options.lambda_rep > 0));
}

double vp_objective_balance(const vp_objective *o) {
    if (!o->kind->balances) return 0;
    return o->kind->form == VP_FORM_JOINT ? o->options.lambda_gen : 1;
}

static int set_up(vp_objective *o, vp_error *err) {
    if (!(o->kind = find(o->options.name)))
        return vp_fail(err, VP_USAGE, "objective '%s' is none of " VP_OBJECTIVES,
                       o->options.name ? o->options.name : "");
    const vp_objective_options *a = &o->options;
    if (!(a->scale > 0) || !(a->teacher_temperature > 0) || !(a->beta > 0) ||
        !(fmin(fmin(a->teacher_weight, a->bag_weight), fmin(a->lambda_rep, a->lambda_gen)) >= 0) ||
        !(fmin(a->desirable, a->undesirable) >= 0))
        return vp_fail(err, VP_USAGE, "scale, temperature and beta must be above 0, and weights not below");
    if (!o->kind->rows) return VP_OK;
    o->ops = vp_backend_cpu();
    VP_TRY(o->ops->open(&o->device, &(vp_device_options){.threads = 1}, err));
    return o->ops->queue_open(&o->queue, o->device, err);
}

int vp_objective_open(vp_objective **out, const vp_objective_options *options, vp_error *err) {
    vp_objective *o = *out = vp_calloc(1, sizeof *o);
    if (!o) return vp_fail_memory(err, "an objective", sizeof *o);
    o->options = *options;
    const int status = set_up(o, err);
    if (status) {
        vp_objective_close(o);
        *out = NULL;
    }
    return status;
}

void vp_objective_close(vp_objective *o) {
    if (!o) return;
    if (o->queue) o->ops->queue_close(o->queue);
    if (o->device) o->ops->close(o->device);
    free(o);
}

/* ---- tokens ---- */

static int64_t unit_end(const vp_marked *t, int64_t first) {
    int64_t last = first + 1;
    while (last < t->M && (!t->unit || t->unit[last] == t->unit[first])) last++;
    return last;
}

static int check_marked(const vp_head *head, const vp_marked *t, vp_error *err) {
    const long long V = vp_head_vocab(head);
    bool any = false;
    for (int64_t i = 0; i < t->M; i++) {
        const int32_t *bag = t->bag && t->bag[i] >= 0 ? &t->bag[i] : NULL;
        if (t->target[i] >= V) return vp_fail(err, VP_DATA, "target %d: the model has %lld tokens", t->target[i], V);
        for (int32_t k = bag ? t->bag_cu[*bag] : 0; bag && k < t->bag_cu[*bag + 1]; k++)
            if (t->bag_item[k] >= V)
                return vp_fail(err, VP_DATA, "token %d of a bag: the model has %lld tokens", t->bag_item[k], V);
        any |= !bag;
    }
    if (any && !(t->denominator > 0)) return vp_fail(err, VP_DATA, "the step has targets, but no weight in all");
    return VP_OK;
}

static int predict(const vp_objective *o, vp_head *head, const vp_marked *t, int64_t first, int64_t last, float *loss,
                   float *grad, uint8_t *right, vp_error *err) {
    const int64_t C = vp_head_width(head);
    const vp_mat dx = vp_objective_mat(grad ? grad + first * C : NULL, last - first, C);
    const double share = o->kind->form == VP_FORM_JOINT ? o->options.lambda_gen : 1;
    vp_xent_op op = {.x = vp_objective_mat(t->picked + first * C, last - first, C),
                     .target = t->target + first,
                     .weight = t->weight ? t->weight + first : NULL,
                     .denominator = t->denominator / share,
                     .loss = loss + first,
                     .right = right ? right + first : NULL,
                     .dx = grad ? &dx : NULL,
                     .dw = t->dhead,
                     .dw_first = t->dhead_first};
    return vp_head_xent(head, &op, err);
}

int vp_objective_tokens(const vp_objective *o, vp_head *head, const vp_marked *t, float *loss, float *grad,
                        uint8_t *right, vp_error *err) {
    if (o->kind->form == VP_FORM_ROWS) return vp_fail(err, VP_BUG, "%s is no objective of tokens", o->kind->name);
    if (!t->M) return VP_OK;
    if (o->kind->form == VP_FORM_JOINT && !vp_objective_wants_tokens(o)) {
        memset(loss, 0, (size_t)t->M * sizeof *loss);
        if (grad) memset(grad, 0, (size_t)(t->M * vp_head_width(head)) * sizeof *grad);
        return VP_OK;
    }
    const bool bags = o->kind->bags && t->bag;
    VP_TRY(check_marked(head, t, err));
    for (int64_t first = 0, last; first < t->M; first = last) {
        last = t->dhead ? unit_end(t, first) : t->M;
        VP_TRY(bags ? vp_objective_llara(o, head, t, first, last, loss, grad, right, err)
                    : predict(o, head, t, first, last, loss, grad, right, err));
    }
    return VP_OK;
}

/* ---- rows ---- */

int vp_objective_check(const vp_objective *o, int status, vp_error *err) {
    return status ? vp_fail(err, status, "%s", o->ops->why(o->queue)) : VP_OK;
}

void *vp_objective_alloc(const vp_objective *o, int64_t n, size_t size, vp_error *err) {
    size_t bytes;
    if (__builtin_mul_overflow((size_t)n, size, &bytes)) bytes = SIZE_MAX - 1;
    void *p = o->ops->arena_alloc(o->queue, bytes + 1);
    if (p) return memset(p, 0, bytes);
    vp_fail_memory(err, "the objective", bytes);
    return NULL;
}

int vp_objective_normalise(const vp_objective *o, const vp_rows *r, float **u, vp_error *err) {
    if (!(*u = vp_objective_alloc(o, r->B * r->D, sizeof **u, err))) return VP_MEMORY;
    vp_l2norm_op op = {.x = vp_objective_mat(r->emb, r->B, r->D), .out = vp_objective_mat(*u, r->B, r->D)};
    return vp_objective_check(o, o->ops->l2norm(o->queue, &op), err);
}

int vp_objective_backward(const vp_objective *o, const vp_rows *r, float *du, float *grad, vp_error *err) {
    const vp_mat dout = vp_objective_mat(du, r->B, r->D), dx = vp_objective_mat(grad, r->B, r->D);
    vp_l2norm_op op = {.x = vp_objective_mat(r->emb, r->B, r->D), .out = dx, .dout = &dout, .dx = &dx};
    return vp_objective_check(o, o->ops->l2norm_bwd(o->queue, &op), err);
}

int vp_objective_check_step(const vp_objective *o, const vp_step *s, vp_error *err) {
    if (!s->generative || o->kind->form != VP_FORM_ROWS) return VP_OK;
    return vp_fail(err, VP_DATA, "step %lld: %lld rows of role 3, to be generated: %s has no loss for them, grit has",
                   (long long)s->step, (long long)s->generative, o->kind->name);
}

/* By lambda_rep, which is 1 where it does not say otherwise. */
static void scale_rows(const vp_objective *o, const vp_rows *r, float *loss, float *grad) {
    const float lambda = (float)o->options.lambda_rep;
    if (o->kind->form != VP_FORM_JOINT) return;
    for (int64_t b = 0; b < r->B; b++) loss[b] *= lambda;
    for (int64_t i = 0; i < r->B * r->D; i++) grad[i] *= lambda;
}

int vp_objective_rows(const vp_objective *o, const vp_rows *r, float *loss, float *grad, vp_error *err) {
    if (!o->kind->rows) return vp_fail(err, VP_BUG, "%s is no objective of rows", o->kind->name);
    if (!r->B) return VP_OK;
    memset(loss, 0, (size_t)r->B * sizeof *loss);
    if (!vp_objective_wants_rows(o)) {
        memset(grad, 0, (size_t)(r->B * r->D) * sizeof *grad);
        return VP_OK;
    }
    const size_t mark = o->ops->arena_mark(o->queue);
    const int status = o->kind->rows(o, r, loss, grad, err);
    o->ops->arena_release(o->queue, mark);
    if (!status) scale_rows(o, r, loss, grad);
    return status;
}
