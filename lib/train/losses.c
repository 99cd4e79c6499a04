/* Losses and gradients as columns of frames (losses.h). */
#include "lib/train/losses.h"
#include "lib/stream/private.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ONE = -1 }; /* as cols: the column has no second dimension */

/* A new column [rows, cols] of zeros, the frame's own; NULL: err says why. */
static float *put(vp_frame *f, const char *name, int64_t rows, int64_t cols, vp_error *err) {
    const int64_t shape[] = {rows, cols};
    const size_t n = (size_t)(cols == ONE ? rows : rows * cols);
    float *data = vp_frame_alloc(f, n * sizeof *data, err);
    if (!data || vp_frame_put(f, name, VP_F32, cols == ONE ? 1 : 2, shape, data, err)) return NULL;
    return n ? memset(data, 0, n * sizeof *data) : data;
}

static int check_finite(const vp_frame *f, const float *x, int64_t n, vp_error *err) {
    bool finite = true;
    for (int64_t i = 0; i < n; i++) finite &= isfinite(x[i]) != 0;
    if (finite) return VP_OK;
    return vp_frame_fail(f, VP_DATA, err, "step %lld: the loss or its gradient is not finite",
                         (long long)vp_map_int(f->keys, "step", -1));
}

/* ---- tokens of a frame ---- */

typedef struct work {
    vp_targets targets;
    float *picked, *share;
    uint8_t *right;
} work;

static void release(work *w) {
    vp_targets_free(&w->targets);
    free(w->picked);
    free(w->share);
    free(w->right);
}

static int prepare(work *w, vp_head *head, const vp_frame *f, vp_error *err) {
    const int64_t C = vp_head_width(head);
    int64_t n = 0;
    *w = (work){0};
    VP_TRY(vp_targets_read(&w->targets, f, err));
    const int64_t M = w->targets.M;
    VP_TRY(vp_frame_floats(f, "picked", &w->picked, &n, err));
    if (!w->picked || n != M * C)
        return vp_frame_fail(f, VP_DATA, err, "no column 'picked' [%lld, %lld], one row a target: pool pick makes it",
                             (long long)M, (long long)C);
    w->share = vp_calloc((size_t)M + 1, sizeof *w->share);
    w->right = vp_calloc((size_t)M + 1, 1);
    return w->share && w->right ? VP_OK : vp_fail_memory(err, "losses", (size_t)M * sizeof *w->share);
}

/* Column grad.picked in the place of picked; the targets' shares of the loss in w->share. */
static int predict(const vp_objective *o, vp_head *head, work *w, vp_frame *f, vp_loss_counts *counts, vp_error *err) {
    const int64_t M = w->targets.M, C = vp_head_width(head);
    vp_error why = {0};
    float *grad = put(f, "grad.picked", M, C, err);
    if (!grad) return err->code;
    vp_marked marked = vp_targets_marked(&w->targets);
    marked.picked = w->picked;
    if (vp_objective_tokens(o, head, &marked, w->share, grad, w->right, &why))
        return vp_frame_fail(f, why.code, err, "%s", why.text);
    counts->targets += w->targets.tokens;
    for (int64_t i = 0; i < M; i++) counts->right += w->right[i];
    vp_frame_drop(f, "picked");
    return check_finite(f, grad, M * C, err);
}

static int lose(const vp_objective *o, vp_head *head, work *w, vp_frame *f, vp_loss_counts *counts, vp_error *err) {
    VP_TRY(predict(o, head, w, f, counts, err));
    float *loss = put(f, "loss", f->B, ONE, err);
    if (!loss) return err->code;
    vp_targets_rows(&w->targets, w->share, f->B, loss);
    return check_finite(f, loss, f->B, err);
}

int vp_loss_frame(const vp_objective *o, vp_head *head, vp_frame *f, vp_loss_counts *counts, vp_error *err) {
    work w;
    int status = prepare(&w, head, f, err);
    if (!status) status = lose(o, head, &w, f, counts, err);
    release(&w);
    return status;
}

static int logprob(const vp_objective *o, vp_head *head, const vp_frame *f, float *out, vp_error *err) {
    work w;
    vp_error why = {0};
    int status = prepare(&w, head, f, err);
    if (!status && vp_targets_logprob(&w.targets, o, head, w.picked, f->B, out, &why))
        status = vp_frame_fail(f, why.code, err, "%s", why.text);
    release(&w);
    return status;
}

int vp_reference_frame(const vp_objective *o, vp_head *head, vp_frame *f, vp_error *err) {
    float *reference = put(f, "reference", f->B, ONE, err);
    if (!reference) return err->code;
    VP_TRY(logprob(o, head, f, reference, err));
    vp_frame_drop(f, "picked");
    return check_finite(f, reference, f->B, err);
}

/* ---- a step ---- */

typedef struct whole { /* by frame, owned by the frames; in `row` order, ours */
    vp_rows rows;
    float **vectors, **loss, **grad;
    float *all_loss, *all_grad;
} whole;

static int allocate(whole *w, const vp_step *s, bool answers, vp_error *err) {
    const size_t B = (size_t)w->rows.B, D = (size_t)w->rows.D;
    w->all_loss = vp_calloc(B + 1, sizeof *w->all_loss);
    w->all_grad = vp_calloc(B * D + 1, sizeof *w->all_grad);
    if (!w->all_loss || !w->all_grad) return vp_fail_memory(err, "a step's gradient", B * D * sizeof(float));
    for (size_t i = s->generative_frames; i < s->frames; i++) {
        vp_frame *f = s->frame[i];
        w->loss[i] = put(f, "loss", f->B, ONE, err);
        w->grad[i] = put(f, answers ? "grad.logprob" : "grad.emb", f->B, answers ? ONE : w->rows.D, err);
        if (!w->loss[i] || !w->grad[i]) return err->code;
    }
    return VP_OK;
}

/* What the rows' loss is of: `emb`, or log-probabilities. */
static int gather(whole *w, const vp_objective *o, vp_head *head, const vp_step *s, bool answers, vp_error *err) {
    for (size_t i = 0; answers && i < s->frames; i++) {
        w->vectors[i] = vp_calloc((size_t)s->frame[i]->B + 1, sizeof **w->vectors);
        if (!w->vectors[i]) return vp_fail_memory(err, "log-probabilities", (size_t)s->frame[i]->B * sizeof(float));
        VP_TRY(logprob(o, head, s->frame[i], w->vectors[i], err));
    }
    return vp_rows_gather(&w->rows, s, answers ? (const float *const *)w->vectors : NULL, 1, err);
}

static int finish_row_frame(const whole *w, vp_frame *f, size_t i, vp_error *err) {
    VP_TRY(check_finite(f, w->loss[i], f->B, err));
    vp_frame_drop(f, "emb");
    return check_finite(f, w->grad[i], f->B * w->rows.D, err);
}

/* What the gradient of its rows' log-probabilities makes of their tokens. */
static int finish_answers(const whole *w, const vp_objective *o, vp_head *head, vp_frame *f, size_t i,
                          vp_loss_counts *counts, vp_error *err) {
    work of;
    int status = prepare(&of, head, f, err);
    if (!status) vp_targets_weigh(&of.targets, w->grad[i]);
    if (!status) status = predict(o, head, &of, f, counts, err);
    release(&of);
    return status ? status : check_finite(f, w->loss[i], f->B, err);
}

static int run_rows(whole *w, const vp_objective *o, vp_head *head, const vp_step *s, vp_loss_counts *counts,
                    vp_error *err) {
    const bool answers = vp_objective_form_in(o) == VP_FORM_ANSWERS;
    vp_error why = {0};
    VP_TRY(gather(w, o, head, s, answers, err));
    VP_TRY(allocate(w, s, answers, err));
    if (vp_objective_rows(o, &w->rows, w->all_loss, w->all_grad, &why))
        return vp_fail(err, why.code, "standard input: step %lld: %s", (long long)s->step, why.text);
    vp_rows_scatter(s, 1, w->all_loss, w->loss);
    vp_rows_scatter(s, w->rows.D, w->all_grad, w->grad);
    for (size_t i = s->generative_frames; i < s->frames; i++)
        VP_TRY(answers ? finish_answers(w, o, head, s->frame[i], i, counts, err)
                       : finish_row_frame(w, s->frame[i], i, err));
    return VP_OK;
}

static int loss_of_rows(const vp_objective *o, vp_head *head, const vp_step *step, vp_loss_counts *counts,
                        vp_error *err) {
    vp_step s = *step;
    if (vp_objective_form_in(o) == VP_FORM_ANSWERS) s.generative = 0, s.generative_frames = 0;
    whole w = {.vectors = vp_calloc(s.frames, sizeof *w.vectors),
               .loss = vp_calloc(s.frames, sizeof *w.loss),
               .grad = vp_calloc(s.frames, sizeof *w.grad)};
    int status = w.vectors && w.loss && w.grad ? run_rows(&w, o, head, &s, counts, err)
                                               : vp_fail_memory(err, "a step", s.frames * sizeof *w.loss);
    for (size_t i = 0; w.vectors && i < s.frames; i++) free(w.vectors[i]);
    free(w.vectors);
    free(w.loss);
    free(w.grad);
    free(w.all_loss);
    free(w.all_grad);
    vp_rows_free(&w.rows);
    return status;
}

/* In the order of rows, as `step` adds them. */
static int add_losses(const vp_step *s, double *sum, vp_error *err) {
    *sum = 0;
    for (int64_t i = 0; i < s->B; i++) {
        const vp_frame_row at = s->order[i].at;
        const vp_column *loss;
        float share;
        VP_TRY(vp_frame_need(s->frame[at.frame], "loss", VP_F32, 1, NULL, &loss, err));
        memcpy(&share, loss->data + (size_t)at.b * sizeof share, sizeof share);
        *sum += (double)share;
    }
    return VP_OK;
}

int vp_loss_step(const vp_objective *o, vp_head *head, vp_step *s, vp_loss_counts *counts, double *sum, vp_error *err) {
    VP_TRY(vp_objective_check_step(o, s, err));
    for (size_t i = 0; vp_objective_form_in(o) == VP_FORM_JOINT && i < s->generative_frames; i++)
        VP_TRY(vp_loss_frame(o, head, s->frame[i], counts, err));
    VP_TRY(loss_of_rows(o, head, s, counts, err));
    return add_losses(s, sum, err);
}
