/* The gradient of a step, micro-batch by micro-batch: from what came with the stream, or from the loss of its tokens,
 * of its rows, or of both, which add up. */
#include "lib/train/trainer_private.h"
#include <stdlib.h>
#include <string.h>

/* ---- one micro-batch ---- */

static int forward(vp_trainer *t, vp_micro *m, bool keep, vp_error *err) {
    const vp_compute on = vp_encoder_compute(t->p.encoder);
    const size_t bytes = (size_t)(m->f->T * t->width) * sizeof *m->hidden;
    if (!m->hidden && !(m->hidden = vp_compute_host(&on, "hidden states", bytes, err))) return VP_MEMORY;
    return vp_encoder_forward(t->p.encoder, m->f, m->hidden, keep ? &m->tape : NULL, err);
}

static void forget_hidden(const vp_trainer *t, vp_micro *m) {
    const vp_compute on = vp_encoder_compute(t->p.encoder);
    vp_compute_host_free(&on, m->hidden);
    m->hidden = NULL;
}

static vp_objective_form form_of(const vp_trainer *t) {
    return t->p.objective ? vp_objective_form_in(t->p.objective) : VP_FORM_ROWS;
}

/* From the gradient of its vectors into that of the weights; the micro-batch is done then. */
static int backward(vp_trainer *t, vp_micro *m, const float *gradient, vp_error *err) {
    const vp_compute on = vp_encoder_compute(t->p.encoder);
    float *dhidden = vp_compute_host(&on, "gradients", (size_t)(m->f->T * t->width) * sizeof *dhidden, err);
    int status = dhidden ? VP_OK : VP_MEMORY;
    if (!status)
        status = vp_pooler_backward(t->p.pooler, m->f, m->hidden, t->width, gradient, m->vectors, dhidden, err);
    if (!status) status = vp_encoder_backward(t->p.encoder, m->tape, dhidden, err);
    vp_compute_host_free(&on, dhidden);
    forget_hidden(t, m);
    return status;
}

/* Its vectors, [vectors, D]: what `pool` would send. Caller frees. */
static int pool(vp_trainer *t, vp_micro *m, float **vectors, vp_error *err) {
    int64_t empty = 0, n = 0;
    bool picks;
    VP_TRY(vp_pooler_picks_of(t->p.pooler, m->f, &picks, err));
    const char *name = picks ? "picked" : "emb";
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

/* The balancing loss of experts' routers, of generative micro-batches: by gradient unit, each with its targets' share
 * of the step's weights; added to the losses of rows and, by the tape, to the gradient. */
static int balance(vp_trainer *t, vp_micro *m, const vp_targets *targets, float *loss, vp_error *err) {
    const double factor = t->p.balance * vp_encoder_balance(t->p.encoder);
    if (!(factor > 0)) return VP_OK;
    double *share = vp_calloc((size_t)m->f->B, sizeof *share);
    int32_t *cu = NULL, *unit = NULL;
    int status = share ? VP_OK : vp_fail_memory(err, "shares", (size_t)m->f->B * sizeof *share);
    for (int64_t i = 0; !status && i < targets->M; i++)
        share[targets->row[i]] += factor * (double)targets->weight[i] / targets->denominator;
    if (!status) status = vp_frame_ints(m->f, "cu", &cu, NULL, err);
    if (!status) status = vp_frame_ints(m->f, "unit", &unit, NULL, err);
    const vp_balance b = {.B = m->f->B, .cu = cu, .unit = unit, .share = share, .loss = loss};
    if (!status) status = vp_tape_balance(t->p.encoder, m->tape, &b, err);
    free(share);
    free(cu);
    free(unit);
    return status;
}

/* ---- gradients that came: forward again, then back; the head's own gradient is made here ---- */

/* Answers' comes by what each row's log-probability is to do. */
static int weigh_answers(const vp_trainer *t, const vp_micro *m, vp_targets *targets, vp_error *err) {
    float *gradient = NULL;
    int64_t n = 0;
    if (form_of(t) != VP_FORM_ANSWERS) return VP_OK;
    VP_TRY(vp_frame_floats(m->f, "grad.logprob", &gradient, &n, err));
    const bool fits = gradient && n == m->f->B;
    if (fits) vp_targets_weigh(targets, gradient);
    free(gradient);
    return fits ? VP_OK : vp_frame_fail(m->f, VP_DATA, err, "no column grad.logprob [B]: `loss kto` makes it");
}

static int head_gradient(vp_trainer *t, vp_micro *m, vp_targets *targets, vp_error *err) {
    float *share = vp_calloc((size_t)targets->M + 1, sizeof *share);
    int status =
        share ? weigh_answers(t, m, targets, err) : vp_fail_memory(err, "losses", (size_t)targets->M * sizeof *share);
    if (!status) status = predict(t, m, targets, share, NULL, err);
    free(share);
    return status;
}

/* What the targets of a micro-batch are for here, beside the gradient that came. */
static int use_targets(vp_trainer *t, vp_micro *m, float *loss, vp_error *err) {
    vp_targets targets;
    bool picks;
    VP_TRY(vp_pooler_picks_of(t->p.pooler, m->f, &picks, err));
    if (!picks || (!t->dhead && !(t->p.balance > 0))) return VP_OK;
    VP_TRY(vp_targets_read(&targets, m->f, err));
    int status = balance(t, m, &targets, loss, err); /* before answers' weights */
    if (!status && t->dhead) status = head_gradient(t, m, &targets, err);
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
        if (!status) status = use_targets(t, m, all->loss[m->frame] + m->b0, err);
        if (!status) status = backward(t, m, m->given, err);
        vp_encoder_release_to(t->p.encoder, mark);
    }
    return status;
}

/* ---- losses of tokens: the step's denominator is known, so each micro-batch is done at once ---- */

static int tokens_gradient(vp_trainer *t, vp_micro *m, const vp_targets *targets, float *loss, vp_error *err) {
    const size_t n = (size_t)(targets->M * t->width);
    float *share = vp_calloc((size_t)targets->M, sizeof *share), *grad = vp_calloc(n, sizeof *grad);
    int status =
        share && grad ? predict(t, m, targets, share, grad, err) : vp_fail_memory(err, "gradients", n * sizeof *grad);
    if (!status) vp_targets_rows(targets, share, m->f->B, loss);
    if (!status && form_of(t) != VP_FORM_ANSWERS) status = balance(t, m, targets, loss, err);
    if (!status) status = backward(t, m, grad, err);
    free(share);
    free(grad);
    return status;
}

/* Of items [0, n). */
static int step_tokens(vp_trainer *t, vp_micros *all, size_t n, vp_error *err) {
    int status = VP_OK;
    for (size_t i = 0; i < n && !status; i++) {
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

/* ---- losses of rows: all vectors first, then the loss, then back through what was kept or is computed again. The
 * vector of an answer (VP_FORM_ANSWERS) is its log-probability ---- */

typedef struct whole { /* of a step, by frame */
    const vp_step *s;
    vp_micro *item; /* [n] */
    size_t n;
    bool answers;
    int64_t D;
    float **emb, **grad;
    float *loss, *gradient; /* in `row` order */
} whole;

/* vectors [B, D] of a micro-batch. */
static int embed(vp_trainer *t, vp_micro *m, float *vectors, vp_error *err) {
    float *made = NULL;
    VP_TRY(pool(t, m, &made, err));
    memcpy(vectors, made, (size_t)(m->vectors * vp_pooler_dims(t->p.pooler, t->width)) * sizeof *made);
    free(made);
    return VP_OK;
}

static int answer(vp_trainer *t, vp_micro *m, float *logprob, vp_error *err) {
    vp_targets targets;
    float *picked = NULL;
    VP_TRY(vp_targets_read(&targets, m->f, err));
    m->vectors = targets.M;
    int status = pool(t, m, &picked, err);
    if (!status) status = vp_targets_logprob(&targets, t->p.objective, t->p.head, picked, m->f->B, logprob, err);
    free(picked);
    vp_targets_free(&targets);
    return status;
}

static int allocate(whole *w, vp_error *err) {
    for (size_t i = w->s->generative_frames; i < w->s->frames; i++) {
        const size_t n = (size_t)(w->s->frame[i]->B * w->D);
        w->emb[i] = vp_calloc(n, sizeof(float));
        w->grad[i] = vp_calloc(n, sizeof(float));
        if (!w->emb[i] || !w->grad[i]) return vp_fail_memory(err, "embeddings", 2 * n * sizeof(float));
    }
    return VP_OK;
}

static int embed_all(vp_trainer *t, whole *w, vp_error *err) {
    int64_t left = t->o.activations;
    for (size_t i = 0; i < w->n; i++) {
        vp_micro *m = &w->item[i];
        float *vectors = w->emb[m->frame] + m->b0 * w->D;
        const size_t bytes = vp_tape_bytes(t->p.encoder, m->f->T);
        const bool keep = m->f->T && left >= 0 && (size_t)left >= bytes;
        left = keep ? left - (int64_t)bytes : -1; /* kept tapes lie below all others */
        m->vectors = m->f->B;
        if (!m->f->T) continue; /* nothing to pool: zeros */
        VP_TRY(forward(t, m, keep, err));
        VP_TRY(w->answers ? answer(t, m, vectors, err) : embed(t, m, vectors, err));
        if (!keep) forget_hidden(t, m);
    }
    return VP_OK;
}

static int score_all(vp_trainer *t, vp_micros *all, whole *w, vp_error *err) {
    const vp_step *s = w->s;
    vp_rows rows = {0};
    vp_error why = {0};
    w->loss = vp_calloc((size_t)s->B, sizeof *w->loss);
    w->gradient = vp_calloc((size_t)(s->B * w->D), sizeof *w->gradient);
    if (!w->loss || !w->gradient) return vp_fail_memory(err, "gradients", (size_t)(s->B * w->D) * sizeof *w->gradient);
    int status = vp_rows_gather(&rows, s, (const float *const *)w->emb, w->D, err);
    if (!status && vp_objective_rows(t->p.objective, &rows, w->loss, w->gradient, &why))
        status = vp_fail(err, why.code, "step %lld: %s", (long long)s->step, why.text);
    if (!status) vp_rows_scatter(s, 1, w->loss, all->loss);
    if (!status) vp_rows_scatter(s, w->D, w->gradient, w->grad);
    vp_rows_free(&rows);
    return status;
}

/* From the gradients of its rows' log-probabilities. */
static int backward_answers(vp_trainer *t, vp_micro *m, const float *gradient, vp_error *err) {
    vp_targets targets;
    float *unused = vp_calloc((size_t)m->f->B, sizeof *unused); /* losses are what the objective of rows says */
    if (!unused) return vp_fail_memory(err, "losses", (size_t)m->f->B * sizeof *unused);
    int status = vp_targets_read(&targets, m->f, err);
    if (!status) vp_targets_weigh(&targets, gradient);
    if (!status && targets.M) status = tokens_gradient(t, m, &targets, unused, err);
    vp_targets_free(&targets);
    free(unused);
    return status;
}

static bool is_zero(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (x[i] < 0 || x[i] > 0) return false;
    return true;
}

static int back_all(vp_trainer *t, const whole *w, vp_error *err) {
    int status = VP_OK;
    for (size_t i = 0; i < w->n && !status; i++) {
        vp_micro *m = &w->item[i];
        const float *gradient = w->grad[m->frame] + m->b0 * w->D;
        if (!m->f->T || (w->answers && is_zero(gradient, m->f->B))) continue;
        size_t mark = vp_encoder_mark(t->p.encoder);
        if (!m->tape) status = forward(t, m, true, err);
        if (!status) status = w->answers ? backward_answers(t, m, gradient, err) : backward(t, m, gradient, err);
        vp_encoder_release_to(t->p.encoder, mark);
    }
    return status;
}

/* Of the rows behind the generative ones; answers are all rows. */
static int step_rows(vp_trainer *t, const vp_step *step, vp_micros *all, vp_error *err) {
    vp_step s = *step;
    const bool answers = form_of(t) == VP_FORM_ANSWERS;
    if (answers) s.generative = 0, s.generative_frames = 0;
    const size_t first = form_of(t) == VP_FORM_JOINT ? all->generative : 0;
    whole w = {.s = &s,
               .item = all->item + first,
               .n = all->n - first,
               .answers = answers,
               .D = answers ? 1 : vp_pooler_dims(t->p.pooler, t->width),
               .emb = vp_calloc(s.frames, sizeof *w.emb),
               .grad = vp_calloc(s.frames, sizeof *w.grad)};
    int status = w.emb && w.grad ? allocate(&w, err) : vp_fail_memory(err, "embeddings", s.frames * sizeof *w.emb);
    size_t mark = vp_encoder_mark(t->p.encoder);
    if (!status) status = embed_all(t, &w, err);
    if (!status) status = score_all(t, all, &w, err);
    if (!status) status = back_all(t, &w, err);
    vp_encoder_release_to(t->p.encoder, mark);
    for (size_t i = 0; i < s.frames; i++) {
        if (w.emb) free(w.emb[i]);
        if (w.grad) free(w.grad[i]);
    }
    free(w.emb);
    free(w.grad);
    free(w.loss);
    free(w.gradient);
    return status;
}

int vp_trainer_gradient(vp_trainer *t, const vp_step *s, vp_micros *all, vp_error *err) {
    const vp_objective *o = t->p.objective;
    if (all->gradients) return step_given(t, all, err);
    if (!o)
        return vp_frame_fail(s->frame[0], VP_DATA, err,
                             "no gradients in the stream: `loss` makes them, or --objective");
    VP_TRY(vp_objective_check_step(o, s, err));
    if (vp_objective_wants_tokens(o))
        VP_TRY(step_tokens(t, all, form_of(t) == VP_FORM_JOINT ? all->generative : all->n, err));
    return vp_objective_wants_rows(o) ? step_rows(t, s, all, err) : VP_OK;
}
