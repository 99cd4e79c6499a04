/* A step: the gradient by micro-batches, then clipping and the optimiser. */
#include "lib/train/trainer.h"
#include "lib/train/micro.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct vp_trainer {
    vp_trainer_options o;
    vp_trainer_parts p;
    vp_schedule schedule;
    const vp_params *params;
    float *grad, *m, *v;
    int64_t head;                  /* offset of the head's rows that are trained here; -1: none */
    int64_t head_first, head_rows; /* which these are */
    float *dhead;                  /* their gradient; of a tied head, which is the embedding, that of the step alone */
    bool tied;
    int64_t width, updates, waiting; /* waiting: steps whose gradient no update has used */
};

/* ---- one micro-batch ---- */

static int forward(vp_trainer *t, vp_micro *m, bool keep, vp_error *err) {
    if (!m->hidden) m->hidden = vp_calloc((size_t)(m->f->T * t->width), sizeof *m->hidden);
    if (!m->hidden) return vp_fail_memory(err, "hidden states", (size_t)(m->f->T * t->width) * sizeof *m->hidden);
    return vp_encoder_forward(t->p.encoder, m->f, m->hidden, keep ? &m->tape : NULL, err);
}

/* From the gradient of its vectors into that of the weights; the micro-batch is done then. */
static int backward(vp_trainer *t, vp_micro *m, const float *gradient, vp_error *err) {
    const size_t n = (size_t)(m->f->T * t->width);
    float *dhidden = vp_calloc(n, sizeof *dhidden);
    int status = dhidden ? VP_OK : vp_fail_memory(err, "gradients", n * sizeof *dhidden);
    if (!status)
        status = vp_pooler_backward(t->p.pooler, m->f, m->hidden, t->width, gradient, m->vectors, dhidden, err);
    if (!status) status = vp_encoder_backward(t->p.encoder, m->tape, dhidden, err);
    free(dhidden);
    free(m->hidden);
    m->hidden = NULL;
    return status;
}

/* Its vectors, [vectors, D]: what `pool` would send. Caller frees. */
static int pool(vp_trainer *t, vp_micro *m, float **vectors, vp_error *err) {
    const char *name = vp_pooler_picks(t->p.pooler) ? "picked" : "emb";
    int64_t empty = 0, n = 0;
    VP_TRY(vp_pooler_run(t->p.pooler, m->f, m->hidden, t->width, &empty, err));
    VP_TRY(vp_frame_floats(m->f, name, vectors, &n, err));
    vp_frame_drop(m->f, name);
    return VP_OK;
}

/* What the marked tokens of a micro-batch must predict, [M]: their shares of the loss; grad [M, C], or NULL. */
static int predict(vp_trainer *t, vp_micro *m, const vp_targets *targets, float *share, float *grad, vp_error *err) {
    float *picked = NULL;
    int status = pool(t, m, &picked, err);
    vp_marked in = vp_targets_marked(targets);
    in.picked = picked;
    in.dhead = t->dhead;
    in.dhead_first = t->head_first;
    if (!status) status = vp_objective_tokens(t->p.objective, t->p.head, &in, share, grad, NULL, err);
    free(picked);
    return status;
}

/* ---- gradients that came: forward again, then back; the head's own gradient is made here ---- */

static int head_gradient(vp_trainer *t, vp_micro *m, vp_error *err) {
    vp_targets targets;
    VP_TRY(vp_targets_read(&targets, m->f, err));
    float *share = vp_calloc((size_t)targets.M + 1, sizeof *share);
    int status = share ? predict(t, m, &targets, share, NULL, err)
                       : vp_fail_memory(err, "losses", (size_t)targets.M * sizeof *share);
    free(share);
    vp_targets_free(&targets);
    return status;
}

static int step_given(vp_trainer *t, vp_micros *all, vp_error *err) {
    int status = VP_OK;
    for (size_t i = 0; i < all->n && !status; i++) {
        vp_micro *m = &all->item[i];
        if (!m->f->T || !m->vectors) continue;
        size_t mark = vp_encoder_mark(t->p.encoder);
        status = forward(t, m, true, err);
        if (!status && t->dhead) status = head_gradient(t, m, err);
        if (!status) status = backward(t, m, m->given, err);
        vp_encoder_release_to(t->p.encoder, mark);
    }
    return status;
}

/* ---- objectives of tokens: the step's denominator is known, so each micro-batch is done at once ---- */

static int tokens_gradient(vp_trainer *t, vp_micro *m, const vp_targets *targets, float *loss, vp_error *err) {
    const size_t n = (size_t)(targets->M * t->width);
    float *share = vp_calloc((size_t)targets->M, sizeof *share), *grad = vp_calloc(n, sizeof *grad);
    int status =
        share && grad ? predict(t, m, targets, share, grad, err) : vp_fail_memory(err, "gradients", n * sizeof *grad);
    if (!status) vp_targets_rows(targets, share, m->f->B, loss);
    if (!status) status = backward(t, m, grad, err);
    free(share);
    free(grad);
    return status;
}

static int step_tokens(vp_trainer *t, vp_micros *all, vp_error *err) {
    int status = VP_OK;
    for (size_t i = 0; i < all->n && !status; i++) {
        vp_micro *m = &all->item[i];
        vp_targets targets;
        VP_TRY(vp_targets_read(&targets, m->f, err));
        m->vectors = targets.M;
        size_t mark = vp_encoder_mark(t->p.encoder);
        if (targets.M) {
            status = forward(t, m, true, err);
            if (!status) status = tokens_gradient(t, m, &targets, all->loss[m->frame] + m->b0, err);
        }
        vp_encoder_release_to(t->p.encoder, mark);
        vp_targets_free(&targets);
    }
    return status;
}

/* ---- objectives of rows: all vectors first, then the loss, then back through what was kept or is computed again ----
 */

typedef struct whole { /* of a step, by frame */
    float **emb, **grad;
    float *loss, *gradient; /* in `row` order */
} whole;

static int embed_all(vp_trainer *t, const vp_step *s, vp_micros *all, whole *w, int64_t D, vp_error *err) {
    int64_t left = t->o.activations;
    for (size_t i = 0; i < s->frames; i++) {
        const size_t n = (size_t)(s->frame[i]->B * D);
        w->emb[i] = vp_calloc(n, sizeof(float));
        w->grad[i] = vp_calloc(n, sizeof(float));
        if (!w->emb[i] || !w->grad[i]) return vp_fail_memory(err, "embeddings", 2 * n * sizeof(float));
    }
    for (size_t i = 0; i < all->n; i++) {
        vp_micro *m = &all->item[i];
        const size_t bytes = vp_tape_bytes(t->p.encoder, m->f->T);
        const bool keep = m->f->T && left >= 0 && (size_t)left >= bytes;
        left = keep ? left - (int64_t)bytes : -1; /* kept tapes lie below all others */
        float *emb = NULL;
        m->vectors = m->f->B;
        if (m->f->T) VP_TRY(forward(t, m, keep, err));
        if (!m->f->T) continue; /* nothing to pool: zeros */
        VP_TRY(pool(t, m, &emb, err));
        memcpy(w->emb[m->frame] + m->b0 * D, emb, (size_t)(m->f->B * D) * sizeof *emb);
        free(emb);
        if (keep) continue;
        free(m->hidden);
        m->hidden = NULL;
    }
    return VP_OK;
}

static int score_all(vp_trainer *t, const vp_step *s, vp_micros *all, whole *w, int64_t D, vp_error *err) {
    vp_rows rows = {0};
    vp_error why = {0};
    w->loss = vp_calloc((size_t)s->B, sizeof *w->loss);
    w->gradient = vp_calloc((size_t)(s->B * D), sizeof *w->gradient);
    if (!w->loss || !w->gradient) return vp_fail_memory(err, "gradients", (size_t)(s->B * D) * sizeof *w->gradient);
    int status = vp_rows_gather(&rows, s, (const float *const *)w->emb, D, err);
    if (!status && vp_objective_rows(t->p.objective, &rows, w->loss, w->gradient, &why))
        status = vp_fail(err, why.code, "step %lld: %s", (long long)s->step, why.text);
    if (!status) vp_rows_scatter(s, 1, w->loss, all->loss);
    if (!status) vp_rows_scatter(s, D, w->gradient, w->grad);
    vp_rows_free(&rows);
    return status;
}

static int back_all(vp_trainer *t, vp_micros *all, const whole *w, int64_t D, vp_error *err) {
    int status = VP_OK;
    for (size_t i = 0; i < all->n && !status; i++) {
        vp_micro *m = &all->item[i];
        if (!m->f->T) continue;
        size_t mark = vp_encoder_mark(t->p.encoder);
        if (!m->tape) status = forward(t, m, true, err);
        if (!status) status = backward(t, m, w->grad[m->frame] + m->b0 * D, err);
        vp_encoder_release_to(t->p.encoder, mark);
    }
    return status;
}

static int step_rows(vp_trainer *t, const vp_step *s, vp_micros *all, vp_error *err) {
    const int64_t D = vp_pooler_dims(t->p.pooler, t->width);
    whole w = {.emb = vp_calloc(s->frames, sizeof *w.emb), .grad = vp_calloc(s->frames, sizeof *w.grad)};
    int status = w.emb && w.grad ? VP_OK : vp_fail_memory(err, "embeddings", s->frames * sizeof *w.emb);
    size_t mark = vp_encoder_mark(t->p.encoder);
    if (!status) status = embed_all(t, s, all, &w, D, err);
    if (!status) status = score_all(t, s, all, &w, D, err);
    if (!status) status = back_all(t, all, &w, D, err);
    vp_encoder_release_to(t->p.encoder, mark);
    for (size_t i = 0; i < s->frames; i++) {
        if (w.emb) free(w.emb[i]);
        if (w.grad) free(w.grad[i]);
    }
    free(w.emb);
    free(w.grad);
    free(w.loss);
    free(w.gradient);
    return status;
}

/* ---- the update ---- */

static int add_losses(const vp_step *s, const vp_micros *all, double *loss, vp_error *err) {
    *loss = 0;
    for (int64_t i = 0; i < s->B; i++) {
        const vp_step_row *r = &s->order[i];
        const float share = all->loss[r->at.frame][r->at.b];
        if (!isfinite(share))
            return vp_fail(err, VP_DATA, "step %lld: the loss of row %lld is not finite", (long long)s->step,
                           (long long)r->row);
        *loss += (double)share;
    }
    return VP_OK;
}

static int check(const vp_trainer *t, int status, vp_error *err) {
    const vp_compute c = vp_encoder_compute(t->p.encoder);
    return status ? vp_fail(err, status, "%s", c.ops->why(c.queue)) : VP_OK;
}

/* Scales the gradient so that its length is at most `clip`, as PyTorch's clip_grad_norm_. */
static int clip(vp_trainer *t, vp_optim_op *op, int64_t step, double *norm, vp_error *err) {
    const vp_compute c = vp_encoder_compute(t->p.encoder);
    double sum = 0, factor = 1 / (double)t->waiting;
    int finite = 1;
    op->sum = &sum;
    op->finite = &finite;
    VP_TRY(check(t, c.ops->sumsq(c.queue, op), err));
    *norm = sqrt(sum) * factor;
    if (!finite || !isfinite(sum))
        return vp_fail(err, VP_DATA, "step %lld: the gradient is not finite", (long long)step);
    if (t->o.clip > 0 && *norm > t->o.clip) factor *= t->o.clip / (*norm + 1e-6);
    op->clip = factor;
    if (!(factor < 1)) return VP_OK;
    return check(t, c.ops->clip(c.queue, op), err);
}

/* What is packed follows the numbers. */
static int changed(vp_trainer *t, vp_error *err) {
    VP_TRY(vp_encoder_changed(t->p.encoder, err));
    if (!t->dhead) return VP_OK;
    const float *rows = t->params->value + t->head;
    return t->head_first ? vp_head_set_tokens(t->p.head, rows, t->head_rows, err) : vp_head_set(t->p.head, rows, err);
}

static int update(vp_trainer *t, int64_t step, vp_trained *done, vp_error *err) {
    const vp_compute c = vp_encoder_compute(t->p.encoder);
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
    VP_TRY(clip(t, &op, step, &done->norm, err));
    int (*const run[])(vp_queue *, const vp_optim_op *) = {c.ops->adamw, c.ops->sgd, c.ops->rmsprop};
    VP_TRY(check(t, run[t->o.optimizer](c.queue, &op), err));
    t->updates++;
    t->waiting = 0;
    done->updated = true;
    return changed(t, err);
}

static size_t head_numbers(const vp_trainer *t) {
    return (size_t)(t->head_rows * vp_head_width(t->p.head));
}

/* A tied head's gradient joins that of the embedding when the step is done: so its sums, too, do not depend on how the
 * step was cut. */
static int join_tied(vp_trainer *t, vp_error *err) {
    const vp_compute c = vp_encoder_compute(t->p.encoder);
    const int64_t C = vp_head_width(t->p.head);
    const vp_mat head = {.ptr = t->dhead, .dtype = VP_F32, .rows = t->head_rows, .cols = C, .ld = C};
    vp_elem_op op = {.x = head, .y = head, .out = head, .a = 1, .b = 1};
    op.y.ptr = op.out.ptr = t->grad + t->head;
    return check(t, c.ops->add(c.queue, &op), err);
}

static int gradient(vp_trainer *t, const vp_step *s, vp_micros *all, vp_error *err) {
    if (all->gradients) return step_given(t, all, err);
    if (!t->p.objective)
        return vp_frame_fail(s->frame[0], VP_DATA, err,
                             "no gradients in the stream: `loss` makes them, or --objective");
    return t->p.head ? step_tokens(t, all, err) : step_rows(t, s, all, err);
}

/* Tokens of a micro-batch, whose tape must fit where it is longer than a unit. */
static int64_t micro_tokens(const vp_trainer *t) {
    const int64_t fit = t->o.activations / (int64_t)vp_tape_bytes(t->p.encoder, 1);
    return fit < t->o.batch_tokens ? fit : t->o.batch_tokens;
}

int vp_trainer_step(vp_trainer *t, const vp_step *s, vp_trained *done, vp_error *err) {
    vp_micros all;
    *done = (vp_trained){.rows = s->B, .tokens = s->T, .lr = vp_schedule_lr(&t->schedule, s->step)};
    if (!t->waiting) memset(t->grad, 0, (size_t)t->params->count * sizeof *t->grad);
    if (t->tied) memset(t->dhead, 0, head_numbers(t) * sizeof *t->dhead);
    int status = vp_micros_open(&all, s, t->p.pooler, t->width, micro_tokens(t), err);
    if (!status) status = gradient(t, s, &all, err);
    if (!status) status = vp_pooler_finish(t->p.pooler, err);
    if (!status && t->tied) status = join_tied(t, err);
    if (!status) status = add_losses(s, &all, &done->loss, err);
    vp_micros_close(&all);
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
    t->dhead = tied ? vp_calloc(head_numbers(t), sizeof *t->dhead) : t->grad + t->head;
    return t->dhead ? VP_OK : vp_fail_memory(err, "the head's gradient", head_numbers(t) * sizeof *t->dhead);
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
    int status = t->params && t->grad ? VP_OK : vp_fail(err, VP_BUG, "the encoder was not opened for training");
    if (!status) status = open_head(t, err);
    if (!status && m) status = allocate(&t->m, t->params->count, err);
    if (!status && v) status = allocate(&t->v, t->params->count, err);
    if (status) {
        vp_trainer_close(t);
        return status;
    }
    *out = t;
    return VP_OK;
}

void vp_trainer_close(vp_trainer *t) {
    if (!t) return;
    free(t->m);
    free(t->v);
    if (t->tied) free(t->dhead);
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
