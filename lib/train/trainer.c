/* A step: the gradient (gradient.c), then clipping and the optimiser. */
#include "lib/train/trainer_private.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the update ---- */

static int add_losses(const vp_step *s, const vp_micros *all, vp_trained *done, vp_error *err) {
    for (int64_t i = 0; i < s->B; i++) {
        const vp_step_row *r = &s->order[i];
        const float share = all->loss[r->at.frame][r->at.b];
        if (!isfinite(share))
            return vp_fail(err, VP_DATA, "step %lld: the loss of row %lld is not finite", (long long)s->step,
                           (long long)r->row);
        done->loss += (double)share;
        if (i >= s->B - s->generative) done->generative += (double)share;
    }
    return VP_OK;
}

/* Scales the gradient so that its length is at most `clip`, as PyTorch's clip_grad_norm_. */
static int clip(vp_trainer *t, vp_optim_op *op, int64_t step, double *norm, vp_error *err) {
    const vp_compute *c = &t->host;
    double sum = 0, factor = 1 / (double)t->waiting;
    int finite = 1;
    op->sum = &sum;
    op->finite = &finite;
    VP_TRY(vp_compute_check(c, c->ops->sumsq(c->queue, op), err));
    *norm = sqrt(sum) * factor;
    if (!finite || !isfinite(sum))
        return vp_fail(err, VP_DATA, "step %lld: the gradient is not finite", (long long)step);
    if (t->o.clip > 0 && *norm > t->o.clip) factor *= t->o.clip / (*norm + 1e-6);
    op->clip = factor;
    if (!(factor < 1)) return VP_OK;
    return vp_compute_check(c, c->ops->clip(c->queue, op), err);
}

/* What is packed follows the numbers. */
static int changed(vp_trainer *t, vp_error *err) {
    VP_TRY(vp_encoder_changed(t->p.encoder, err));
    if (!t->dhead) return VP_OK;
    const float *rows = t->params->value + t->head;
    return t->head_first ? vp_head_set_tokens(t->p.head, rows, t->head_rows, err) : vp_head_set(t->p.head, rows, err);
}

static int update(vp_trainer *t, int64_t step, vp_trained *done, vp_error *err) {
    const vp_compute *c = &t->host;
    vp_optim_op op = {.master = t->params->value,
                      .m = t->m,
                      .v = t->v,
                      .grad = t->grad,
                      .n = t->params->count,
                      .lr = done->lr,
                      .beta1 = t->o.beta1,
                      .beta2 = t->o.beta2,
                      .eps = t->o.eps,
                      .decay = t->o.decay,
                      .t = t->updates + 1};
    VP_TRY(vp_encoder_gradient_fetch(t->p.encoder, err));
    VP_TRY(clip(t, &op, step, &done->norm, err));
    int (*const run[])(vp_queue *, const vp_optim_op *) = {c->ops->adamw, c->ops->sgd, c->ops->rmsprop};
    VP_TRY(vp_compute_check(c, run[t->o.optimizer](c->queue, &op), err));
    t->updates++;
    t->waiting = 0;
    done->updated = true;
    return changed(t, err);
}

/* The gradient of the head's rows, at p on the encoder's device. */
static vp_mat head_matrix(const vp_trainer *t, float *p) {
    const int64_t C = vp_head_width(t->p.head);
    return (vp_mat){.ptr = p, .dtype = VP_F32, .rows = t->head_rows, .cols = C, .ld = C};
}

/* A tied head's gradient is a step's own, */
static int clear_tied(vp_trainer *t, vp_error *err) {
    const vp_compute c = vp_encoder_compute(t->p.encoder);
    const vp_elem_op zero = {.out = head_matrix(t, t->dhead)};
    return vp_compute_check(&c, c.ops->fill(c.queue, &zero), err);
}

/* and joins that of the embedding when the step is done: so its sums, too, do not depend on how the step was cut. */
static int join_tied(vp_trainer *t, vp_error *err) {
    const vp_compute c = vp_encoder_compute(t->p.encoder);
    const vp_mat all = head_matrix(t, vp_encoder_gradient_on(t->p.encoder) + t->head);
    const vp_elem_op op = {.x = head_matrix(t, t->dhead), .y = all, .out = all, .a = 1, .b = 1};
    return vp_compute_check(&c, c.ops->add(c.queue, &op), err);
}

/* Tokens of a micro-batch, whose tape must fit where it is longer than a unit; before the loss of rows is known tapes
 * are kept. */
static int micro_tokens(vp_trainer *t, int64_t *tokens, vp_error *err) {
    const int64_t fit = t->o.activations / (int64_t)vp_tape_bytes(t->p.encoder, 1);
    const int64_t kept = t->p.objective && vp_objective_wants_rows(t->p.objective) ? t->o.activations : 0;
    VP_TRY(vp_encoder_fit(t->p.encoder, t->o.batch_tokens, kept, &t->o.batch_tokens, err));
    *tokens = fit < t->o.batch_tokens ? fit : t->o.batch_tokens;
    return VP_OK;
}

int vp_trainer_step(vp_trainer *t, const vp_step *s, vp_trained *done, vp_error *err) {
    const vp_compute on = vp_encoder_compute(t->p.encoder);
    vp_micros all;
    int64_t tokens;
    *done = (vp_trained){.rows = s->B, .tokens = s->T, .lr = vp_schedule_lr(&t->schedule, s->step)};
    if (!t->waiting) VP_TRY(vp_encoder_gradient_clear(t->p.encoder, err));
    if (t->tied) VP_TRY(clear_tied(t, err));
    VP_TRY(micro_tokens(t, &tokens, err));
    int status = vp_micros_open(&all, s, t->p.pooler, t->width, tokens, err);
    if (!status) status = vp_trainer_gradient(t, s, &all, err);
    if (!status) status = vp_pooler_finish(t->p.pooler, err);
    if (!status && t->tied) status = join_tied(t, err);
    if (!status) status = add_losses(s, &all, done, err);
    vp_micros_close(&all, &on);
    if (status) return status;
    t->waiting++;
    return t->waiting == t->o.accumulate ? update(t, s->step, done, err) : VP_OK;
}

/* ---- opening ---- */

static int allocate(float **moment, int64_t n, vp_error *err) {
    *moment = vp_calloc((size_t)n, sizeof **moment);
    return *moment ? VP_OK : vp_fail_memory(err, "the optimiser's moments", (size_t)n * sizeof **moment);
}

static int open_head(vp_trainer *t, vp_error *err) {
    bool tied;
    t->head = vp_encoder_head(t->p.encoder, &tied);
    if (!t->p.head) return VP_OK;
    t->head_rows = vp_head_vocab(t->p.head);
    if (t->head < 0 && tied) t->head = vp_encoder_tokens(t->p.encoder);
    if (t->head >= 0 && t->head == vp_encoder_tokens(t->p.encoder)) { /* rows of single tokens are the head's, too */
        t->head_first = t->head_rows - vp_encoder_training(t->p.encoder)->tokens;
        t->head_rows -= t->head_first;
    }
    if (t->head < 0) return VP_OK;
    t->tied = tied;
    const vp_compute c = vp_encoder_compute(t->p.encoder);
    const size_t bytes = (size_t)(t->head_rows * vp_head_width(t->p.head)) * sizeof *t->dhead;
    t->dhead =
        tied ? vp_compute_take(&c, "the head's gradient", bytes, err) : vp_encoder_gradient_on(t->p.encoder) + t->head;
    return t->dhead ? VP_OK : VP_MEMORY;
}

static int open_host(vp_trainer *t, vp_error *err) {
    t->host = vp_encoder_compute(t->p.encoder);
    if (!t->host.separate) return VP_OK;
    t->host = (vp_compute){0};
    return vp_compute_open(&t->host, "cpu", 0, NULL, err);
}

int vp_trainer_open(vp_trainer **out, const vp_trainer_options *o, const vp_trainer_parts *parts, vp_error *err) {
    *out = NULL;
    vp_trainer *t = vp_calloc(1, sizeof *t);
    if (!t) return vp_fail_memory(err, "a trainer", sizeof *t);
    t->o = *o;
    t->p = *parts;
    t->params = vp_encoder_params(parts->encoder);
    t->grad = vp_encoder_gradient(parts->encoder);
    t->width = vp_encoder_width(parts->encoder);
    const bool m = o->optimizer == VP_ADAMW || (o->optimizer == VP_SGD && o->beta1 > 0), v = o->optimizer != VP_SGD;
    int status =
        t->params && t->grad ? open_host(t, err) : vp_fail(err, VP_BUG, "the encoder was not opened for training");
    if (!status) status = open_head(t, err);
    if (!status && m) status = allocate(&t->m, t->params->count, err);
    if (!status && v) status = allocate(&t->v, t->params->count, err);
    if (status) {
        vp_trainer_close(t);
        return status;
    }
    if (t->p.head) vp_encoder_between(t->p.encoder, &(vp_between){vp_trainer_between, t});
    *out = t;
    return VP_OK;
}

void vp_trainer_close(vp_trainer *t) {
    if (!t) return;
    const bool own = t->host.device && t->host.device != vp_encoder_compute(t->p.encoder).device;
    if (own) vp_compute_close(&t->host);
    vp_encoder_between(t->p.encoder, &(vp_between){0});
    free(t->m);
    free(t->v);
    free(t);
}

void vp_trainer_plan(vp_trainer *t, const vp_schedule *schedule) {
    t->schedule = *schedule;
}

vp_trainer_state vp_trainer_state_of(const vp_trainer *t) {
    return (vp_trainer_state){.m = t->m, .v = t->v, .updates = t->updates, .waiting = t->waiting};
}

int vp_trainer_resume(vp_trainer *t, int64_t updates, vp_error *err) {
    t->updates = updates;
    return changed(t, err);
}
