/* Memory of the loss of a micro-batch's tokens, on a queue that plans: gradient.c's `predict` without its numbers. What
 * the head takes depends on how many rows it gets at a time, and of bags on where they end. */
#include "lib/train/objective_private.h"
#include "lib/train/trainer_private.h"
#include <stdlib.h>

enum { SLOTS = 8 }; /* of a made-up bag */

typedef struct work { /* of a micro-batch */
    int64_t rows;     /* that the head gets at a time, without slots */
    int64_t bags;
    int32_t *cu, *target_cu; /* [bags + 1] slots and tokens of bags; NULL: there are none */
    float *zeros;            /* [the larger of rows and slots, C] */
} work;

static int allocate(work *w, int64_t bags, vp_error *err) {
    w->cu = vp_calloc((size_t)bags + 1, sizeof *w->cu);
    w->target_cu = vp_calloc((size_t)bags + 1, sizeof *w->target_cu);
    return w->cu && w->target_cu ? VP_OK : vp_fail_memory(err, "a plan", 2 * (size_t)bags * sizeof *w->cu);
}

/* All of T tokens have a target and, with bags, are slots as well. */
static int make_up(work *w, int64_t T, bool bags, vp_error *err) {
    w->rows = T;
    if (!bags) return VP_OK;
    VP_TRY(allocate(w, (T + SLOTS - 1) / SLOTS, err));
    for (int64_t left = T; left > 0; left -= SLOTS) {
        w->cu[w->bags + 1] = w->cu[w->bags] + (int32_t)(left < SLOTS ? left : SLOTS);
        w->target_cu[w->bags + 1] = w->target_cu[w->bags] + SLOTS;
        w->bags++;
    }
    return VP_OK;
}

/* The head gets a gradient unit at a time where it is trained. Bags are counted as if it got all of them at once. */
static int count(work *w, const vp_targets *t, bool units, bool bags, vp_error *err) {
    int64_t rows = 0;
    bags = bags && t->bag;
    if (bags) VP_TRY(allocate(w, t->M, err));
    for (int64_t i = 0; i < t->M; i++) {
        const int32_t bag = bags ? t->bag[i] : -1;
        if (units && i && t->unit[i] != t->unit[i - 1]) rows = 0;
        rows += bag < 0;
        if (rows > w->rows) w->rows = rows;
        if (bag < 0) continue;
        if (!i || t->bag[i - 1] != bag) {
            w->cu[w->bags + 1] = w->cu[w->bags];
            w->target_cu[w->bags + 1] = w->target_cu[w->bags] + t->bag_cu[bag + 1] - t->bag_cu[bag];
            w->bags++;
        }
        w->cu[w->bags]++;
    }
    return VP_OK;
}

static int plan_rows(const vp_trainer *t, const work *w, const vp_compute *on, int32_t *targets, vp_error *err) {
    const vp_mat x = vp_objective_mat(w->zeros, w->rows, t->width);
    const vp_xent_op op = {.x = x,
                           .target = targets,
                           .weight = w->zeros,
                           .denominator = 1,
                           .loss = w->zeros,
                           .right = w->cu ? (uint8_t *)w->zeros : NULL, /* llara's asks for it */
                           .dx = t->p.objective ? &x : NULL,
                           .dw = t->dhead,
                           .dw_first = t->head_first};
    return w->rows ? vp_head_xent_on(t->p.head, on, &op, err) : VP_OK;
}

static int plan_bags(const vp_trainer *t, const work *w, const vp_compute *on, int32_t *targets, vp_error *err) {
    const vp_mat x = vp_objective_mat(w->zeros, w->bags ? w->cu[w->bags] : 0, t->width);
    const vp_bag_op op = {.x = x,
                          .bags = w->bags,
                          .cu = w->cu,
                          .target = targets,
                          .target_cu = w->target_cu,
                          .weight = w->zeros,
                          .denominator = 1,
                          .loss = w->zeros,
                          .dx = &x,
                          .dw = t->dhead,
                          .dw_first = t->head_first};
    return w->bags ? vp_head_bag_on(t->p.head, on, &op, err) : VP_OK;
}

/* Pages of zeros that nobody reads take no memory. */
static int plan(const vp_trainer *t, work *w, const vp_compute *on, vp_error *err) {
    const int64_t slots = w->bags ? w->cu[w->bags] : 0, rows = w->rows > slots ? w->rows : slots;
    const int64_t most = w->bags && w->target_cu[w->bags] > rows ? w->target_cu[w->bags] : rows;
    const size_t n = (size_t)(rows * t->width);
    int32_t *targets = vp_calloc((size_t)most + 1, sizeof *targets);
    w->zeros = vp_calloc(n + 1, sizeof *w->zeros);
    int status = targets && w->zeros ? VP_OK : vp_fail_memory(err, "a plan", n * sizeof *w->zeros);
    if (!status) status = plan_rows(t, w, on, targets, err);
    if (!status) status = plan_bags(t, w, on, targets, err);
    free(targets);
    return status;
}

static int count_frame(const vp_trainer *t, work *w, const vp_frame *f, bool bags, vp_error *err) {
    vp_targets targets;
    bool picks;
    VP_TRY(vp_pooler_picks_of(t->p.pooler, f, &picks, err));
    if (!picks) return VP_OK;
    VP_TRY(vp_targets_read(&targets, f, err));
    const int status = count(w, &targets, t->dhead != NULL, bags, err);
    vp_targets_free(&targets);
    return status;
}

int vp_trainer_between(const void *ctx, const vp_compute *on, const vp_frame *f, int64_t tokens, vp_error *err) {
    const vp_trainer *t = ctx;
    const vp_objective *o = t->p.objective;
    const bool bags = o && o->kind->bags;
    work w = {0};
    if (o && o->kind->form == VP_FORM_JOINT && !vp_objective_wants_tokens(o)) return VP_OK;
    int status = f ? count_frame(t, &w, f, bags, err) : make_up(&w, tokens, bags, err);
    if (!status) status = plan(t, &w, on, err);
    free(w.cu);
    free(w.target_cu);
    free(w.zeros);
    return status;
}
