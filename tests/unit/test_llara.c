/* LLaRA's objective through the trainer: central differences of bags, next tokens, an adapter, the embedding rows of
 * the slots, tied and untied output heads; and where those rows come from and go to. */
#include "lib/model/training.h"
#include "lib/train/trainer.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 320, SLOTS = 4, ROWS = 3, TEXT = 9, BRANCH = 6, ROW = TEXT + 2 * BRANCH, TOKENS = ROWS * ROW };

typedef struct rows { /* a step of rows: a text, then two branches that end in slots */
    int32_t ids[TOKENS], pos[TOKENS], target[TOKENS], cu[ROWS + 1], unit[ROWS];
    float weight[TOKENS];
    uint8_t seg[TOKENS];
    int64_t row[ROWS];
    vp_step_row order[ROWS];
    vp_frame *frame;
    vp_step step;
} rows;

static void fill_row(rows *r, int b) {
    for (int i = 0; i < ROW; i++) {
        const int t = b * ROW + i, branch = i < TEXT ? 0 : 1 + (i - TEXT) / BRANCH, at = (i - TEXT) % BRANCH;
        const bool slot = branch && at >= BRANCH - SLOTS && b + branch != 2; /* one bag is empty */
        r->ids[t] = 3 + (b * 53 + i * 37) % 290;
        if (branch && at >= BRANCH - SLOTS)
            r->ids[t] = VOCAB - 2 * SLOTS + (branch - 1) * SLOTS + at - (BRANCH - SLOTS);
        r->pos[t] = branch ? TEXT + at : i;
        r->seg[t] = (uint8_t)branch;
        r->target[t] = slot ? VP_TARGET_SLOT - (branch - 1) : -1;
        r->weight[t] = slot ? 0.7f + 0.1f * (float)b : 0;
        if (branch || i + 1 == TEXT) continue;
        r->target[t] = 3 + (b * 53 + (i + 1) * 37) % 290;
        r->weight[t] = 1;
    }
    r->cu[b + 1] = (b + 1) * ROW;
    r->unit[b] = b / 2;
    r->row[b] = b;
    r->order[b] = (vp_step_row){b, {0, b}};
}

static rows *make_rows(void) {
    static const int32_t bag_cu[] = {0, 3, 3, 5, 9, 10, 12}, bag[] = {5, 50, 319, 7, 9, 3, 100, 200, 300, 11, 12, 250};
    rows *r = vp_calloc(1, sizeof *r);
    vp_error err = {0};
    for (int b = 0; b < ROWS; b++) fill_row(r, b);
    vp_frame *f = r->frame = vp_frame_new(VP_FRAME_BATCH, &err);
    const int64_t T = TOKENS, B = ROWS, offsets = ROWS + 1;
    vp_frame_put(f, "cu", VP_I32, 1, &offsets, r->cu, &err);
    vp_frame_put(f, "ids", VP_I32, 1, &T, r->ids, &err);
    vp_frame_put(f, "pos", VP_I32, 1, &T, r->pos, &err);
    vp_frame_put(f, "seg", VP_U8, 1, &T, r->seg, &err);
    vp_frame_put(f, "target", VP_I32, 1, &T, r->target, &err);
    vp_frame_put(f, "weight", VP_F32, 1, &T, r->weight, &err);
    vp_frame_put(f, "unit", VP_I32, 1, &B, r->unit, &err);
    vp_frame_put(f, "row", VP_I64, 1, &B, r->row, &err);
    vp_frame_put_lists(f, "bag", B, VP_BAGS, bag_cu, bag, &err);
    vp_map_set_real(f->keys, "weight_sum", 10, &err);
    r->step = (vp_step){.B = B, .T = T, .frame = &r->frame, .frames = 1, .units = 2, .order = r->order};
    OK(!err.code, "rows %s", err.text);
    return r;
}

typedef struct setup {
    vp_model *model;
    vp_encoder *encoder;
    vp_pooler *pooler;
    vp_objective *objective;
    vp_head *head;
    vp_trainer *trainer;
} setup;

static int open_setup(setup *s, const char *name, const vp_train_options *train, vp_error *err) {
    const vp_encode_options o = {.attention = "segments", .threads = 2, .train = train};
    vp_objective_options objective = VP_OBJECTIVE_DEFAULTS;
    objective.name = "llara";
    objective.bag_weight = 1;
    const vp_pool_options pick = {.kind = "pick", .normalize = -1};
    const vp_trainer_options trainer = {.optimizer = VP_SGD, .accumulate = 1, .batch_tokens = 64};
    vp_schedule still;
    VP_TRY(vp_model_open(&s->model, golden_path("%s", name), err));
    VP_TRY(vp_encoder_open(&s->encoder, s->model, &o, NULL, err));
    VP_TRY(vp_encoder_warm(s->encoder, err));
    VP_TRY(vp_pooler_open(&s->pooler, &pick, NULL, err));
    VP_TRY(vp_objective_open(&s->objective, &objective, err));
    const vp_compute on = vp_encoder_compute(s->encoder);
    VP_TRY(vp_head_open_on(&s->head, s->model, &on, err));
    const vp_trainer_parts parts = {s->encoder, s->pooler, s->objective, s->head};
    VP_TRY(vp_trainer_open(&s->trainer, &trainer, &parts, err));
    VP_TRY(vp_schedule_set(&still, "constant", 0, 0, 0, err));
    vp_trainer_plan(s->trainer, &still);
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
static double loss_at(setup *s, const rows *r) {
    vp_error err = {0};
    vp_trained done = {.loss = NAN};
    if (!vp_trainer_resume(s->trainer, 0, &err)) vp_trainer_step(s->trainer, &r->step, &done, &err);
    if (err.code) printf("# %s\n", err.text);
    return err.code ? NAN : done.loss;
}

/* Along a tensor's own gradient the loss must change as its length says. Wide steps cross kinks of the maxima, narrow
 * ones drown in rounding: the best of three counts. */
static double off(setup *s, const rows *r, const vp_param *p, const float *gradient) {
    static const double step[] = {0.005, 0.002, 0.0008};
    float *x = vp_encoder_params(s->encoder)->value + p->first;
    const int64_t n = p->rows * p->cols;
    float *saved = vp_calloc((size_t)n, sizeof *saved);
    double norm = 0, side[2], best = INFINITY;
    memcpy(saved, x, (size_t)n * sizeof *x);
    for (int64_t k = 0; k < n; k++) norm += (double)gradient[k] * (double)gradient[k];
    norm = sqrt(norm);
    for (int i = 0; i < 3; i++) {
        const double h = step[i] / fmax(1, norm / 20);
        for (int k = 0; k < 2; k++) {
            for (int64_t j = 0; j < n; j++)
                x[j] = (float)((double)saved[j] + (k ? -h : h) * (double)gradient[j] / norm);
            side[k] = loss_at(s, r);
        }
        const double e = fabs((side[0] - side[1]) / (2 * h) - norm) / norm;
        if (!(e >= best)) best = e;
    }
    memcpy(x, saved, (size_t)n * sizeof *x);
    free(saved);
    return best;
}

static void check(const char *name, const char *what, const vp_train_options *train) {
    vp_error err = {0};
    setup s = {0};
    rows *r = make_rows();
    if (OK(!open_setup(&s, name, train, &err), "%s %s opens %s", name, what, err.text)) {
        const vp_params *p = vp_encoder_params(s.encoder);
        for (int64_t i = 0; !train->full && i < p->count; i++) /* B is zero at first */
            p->value[i] += 0.02f * (float)((i * 7919) % 13 - 6) / 6;
        const double loss = loss_at(&s, r);
        float *gradient = vp_calloc((size_t)p->count, sizeof *gradient);
        memcpy(gradient, vp_encoder_gradient(s.encoder), (size_t)p->count * sizeof *gradient);
        double worst = 0;
        const char *where = "";
        for (size_t i = 0; i < p->n; i++) {
            const double e = off(&s, r, &p->param[i], gradient + p->param[i].first);
            if (e <= worst) continue;
            worst = e;
            where = p->param[i].name;
        }
        OK(isfinite(loss) && loss > 0 && worst <= 5e-3, "%s %s: loss %.4f, %zu tensors by differences, worst %.1e %s",
           name, what, loss, p->n, worst, where);
        free(gradient);
    }
    close_setup(&s);
    vp_frame_free(r->frame);
    free(r);
}

int main(void) {
    const vp_train_options adapter = {.rank = 2, .alpha = 4, .backward = true, .tokens = 2 * SLOTS};
    const vp_train_options whole = {.full = true, .head = true, .backward = true};
    check("llama-gqa-tied", "adapter and slots, whose rows the head shares", &adapter);
    check("llama", "adapter and slots", &adapter);
    check("llama-gqa-tied", "whole", &whole);
    check("llama", "whole with its head", &whole);
    return done();
}
