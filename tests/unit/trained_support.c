/* Central differences of a step's loss (trained_support.h). */
#include "tests/unit/trained_support.h"
#include "tests/unit/model_support.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct setup {
    vp_model *model;
    vp_encoder *encoder;
    vp_pooler *pooler;
    vp_objective *objective;
    vp_head *head;
    vp_trainer *trainer;
} setup;

static int open_setup(setup *s, const trained_case *c, int64_t activations, vp_error *err) {
    const vp_encode_options o = {.attention = c->attention, .threads = 2, .train = c->train};
    const vp_pool_options pool = {.kind = c->pool, .normalize = -1};
    const vp_trainer_options trainer = {
        .optimizer = VP_SGD, .accumulate = 1, .batch_tokens = 64, .activations = activations};
    vp_schedule still;
    VP_TRY(vp_model_open(&s->model, golden_path("%s", c->model), err));
    VP_TRY(vp_encoder_open(&s->encoder, s->model, &o, NULL, err));
    VP_TRY(vp_encoder_warm(s->encoder, err));
    VP_TRY(vp_pooler_open(&s->pooler, &pool, NULL, err));
    VP_TRY(vp_objective_open(&s->objective, &c->objective, err));
    VP_TRY(vp_head_open_on(&s->head, s->model, s->encoder, err));
    const vp_trainer_parts parts = {s->encoder, s->pooler, s->objective, s->head, vp_objective_balance(s->objective)};
    VP_TRY(vp_trainer_open(&s->trainer, &trainer, &parts, err));
    VP_TRY(vp_schedule_set(&still, "constant", 0, 0, 0, err));
    vp_trainer_plan(s->trainer, &still);
    const vp_params *p = vp_encoder_params(s->encoder);
    for (int64_t i = 0; !c->train->full && i < p->count; i++) /* B is zero at first */
        p->value[i] += 0.02f * (float)((i * 7919) % 13 - 6) / 6;
    return VP_OK;
}

static void close_setup(setup *s) {
    vp_trainer_close(s->trainer);
    vp_head_close(s->head);
    vp_objective_close(s->objective);
    vp_pooler_close(s->pooler);
    vp_encoder_close(s->encoder);
    vp_model_close(s->model);
}

/* The loss with the numbers as they are now; the gradient stays in the encoder's. */
static double loss_at(setup *s, const vp_step *step) {
    vp_error err = {0};
    vp_trained done = {.loss = NAN};
    if (!vp_trainer_resume(s->trainer, 0, &err)) vp_trainer_step(s->trainer, step, &done, &err);
    if (err.code) printf("# %s\n", err.text);
    return err.code ? NAN : done.loss;
}

/* Along a tensor's own gradient the loss must change as its length says. Wide steps cross kinks of the maxima, narrow
 * ones drown in rounding: the best of three counts. */
static double off(setup *s, const vp_step *step, const vp_param *p, const float *gradient) {
    static const double width[] = {0.005, 0.002, 0.0008};
    float *x = vp_encoder_params(s->encoder)->value + p->first;
    const int64_t n = p->rows * p->cols;
    float *saved = vp_calloc((size_t)n, sizeof *saved);
    double norm = 0, side[2], best = INFINITY;
    memcpy(saved, x, (size_t)n * sizeof *x);
    for (int64_t k = 0; k < n; k++) norm += (double)gradient[k] * (double)gradient[k];
    norm = sqrt(norm);
    for (int i = 0; i < 3; i++) {
        const double h = width[i] / fmax(1, norm / 20);
        for (int k = 0; k < 2; k++) {
            for (int64_t j = 0; j < n; j++)
                x[j] = (float)((double)saved[j] + (k ? -h : h) * (double)gradient[j] / norm);
            side[k] = loss_at(s, step);
        }
        const double e = fabs((side[0] - side[1]) / (2 * h) - norm) / norm;
        if (!(e >= best)) best = e;
    }
    memcpy(x, saved, (size_t)n * sizeof *x);
    free(saved);
    return best;
}

typedef struct worst {
    double error;
    char where[100];
} worst;

static worst worst_of(setup *s, const trained_case *c, const float *gradient) {
    const vp_params *p = vp_encoder_params(s->encoder);
    worst w = {0};
    for (size_t i = 0; i < p->n; i++) {
        const double e = off(s, c->step, &p->param[i], gradient + p->param[i].first);
        if (e <= w.error) continue;
        w.error = e;
        snprintf(w.where, sizeof w.where, "%s", p->param[i].name);
    }
    return w;
}

bool check_trained(const trained_case *c, char text[TRAINED_TEXT]) {
    vp_error err = {0};
    setup kept = {0}, again = {0};
    bool good = false;
    if (open_setup(&again, c, 0, &err) || open_setup(&kept, c, INT64_MAX / 4, &err)) {
        snprintf(text, TRAINED_TEXT, "%s %s: %.200s", c->model, c->what, err.text);
    } else {
        const size_t bytes = (size_t)vp_encoder_params(again.encoder)->count * sizeof(float);
        float *gradient = vp_calloc(1, bytes);
        const double loss = loss_at(&again, c->step);
        memcpy(gradient, vp_encoder_gradient(again.encoder), bytes);
        const worst w = worst_of(&again, c, gradient);
        const bool same =
            !(fabs(loss_at(&kept, c->step) - loss) > 0) && !memcmp(vp_encoder_gradient(kept.encoder), gradient, bytes);
        good = isfinite(loss) && loss > 0 && w.error <= c->tolerance && same;
        snprintf(text, TRAINED_TEXT, "%s %s: loss %.4f, worst tensor by differences %.1e %s, %s bytes when kept",
                 c->model, c->what, loss, w.error, w.where, same ? "the same" : "other");
        free(gradient);
    }
    close_setup(&again);
    close_setup(&kept);
    return good;
}
