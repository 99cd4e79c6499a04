/* What the tokens of a frame must predict, and whose share of the loss that is. */
#include "lib/train/objective.h"
#include <stdlib.h>
#include <string.h>

static int allocate(vp_targets *t, int64_t M, vp_error *err) {
    t->position = vp_calloc((size_t)M + 1, sizeof *t->position);
    t->target = vp_calloc((size_t)M + 1, sizeof *t->target);
    t->row = vp_calloc((size_t)M + 1, sizeof *t->row);
    t->unit = vp_calloc((size_t)M + 1, sizeof *t->unit);
    t->weight = vp_calloc((size_t)M + 1, sizeof *t->weight);
    t->bag = vp_calloc((size_t)M + 1, sizeof *t->bag);
    return t->position && t->target && t->row && t->unit && t->weight && t->bag
               ? VP_OK
               : vp_fail_memory(err, "targets", (size_t)M * 6 * sizeof *t->target);
}

typedef struct columns {
    int32_t *cu, *target, *unit; /* unit NULL: all 0 */
    float *weight;               /* NULL: all 1 */
    int32_t *bag_cu, *bag_item;  /* NULL: no bags */
} columns;

static int read_columns(columns *c, const vp_frame *f, vp_error *err) {
    int64_t n = 0;
    if (!vp_frame_find(f, "cu")) return vp_frame_fail(f, VP_DATA, err, "no column 'cu'");
    VP_TRY(vp_frame_ints(f, "cu", &c->cu, NULL, err));
    VP_TRY(vp_frame_ints(f, "target", &c->target, &n, err));
    if (!c->target || n != f->T)
        return vp_frame_fail(f, VP_DATA, err, "no column 'target' [T], what tokens must predict: mask makes it");
    VP_TRY(vp_frame_floats(f, "weight", &c->weight, &n, err));
    if (c->weight && n != f->T) return vp_frame_fail(f, VP_DATA, err, "column 'weight' is not [T]");
    VP_TRY(vp_frame_ints(f, "unit", &c->unit, &n, err));
    if (c->unit && n != f->B) return vp_frame_fail(f, VP_DATA, err, "column 'unit' is not [B]");
    VP_TRY(vp_frame_lists(f, "bag", VP_BAGS, &c->bag_cu, &c->bag_item, err));
    if (!vp_map_has(f->keys, "weight_sum"))
        return vp_frame_fail(f, VP_DATA, err, "no key 'weight_sum', what the loss is divided by: mask makes it");
    return VP_OK;
}

/* Slots of a bag follow each other, and bags do. */
static int check_order(const vp_targets *t, const vp_frame *f, vp_error *err) {
    int32_t last = -1;
    bool other = false; /* a token since then */
    for (int64_t i = 0; i < t->M; i++) {
        other |= t->bag[i] < 0;
        if (t->bag[i] < 0) continue;
        if (t->bag[i] < last || (t->bag[i] == last && other))
            return vp_frame_fail(f, VP_DATA, err, "token %d is a slot apart from the others of its bag",
                                 t->position[i]);
        last = t->bag[i];
        other = false;
    }
    return VP_OK;
}

/* Bag of token i, which is a slot of row b. */
static int slot_of(const columns *c, const vp_frame *f, int64_t b, int32_t i, int32_t *bag, vp_error *err) {
    const int64_t k = VP_TARGET_SLOT - c->target[i];
    if (!c->bag_cu || !c->weight)
        return vp_frame_fail(f, VP_DATA, err, "token %d is a slot, but there is no column '%s'", i,
                             c->weight ? "bag" : "weight");
    *bag = (int32_t)(b * VP_BAGS + k);
    if (k < VP_BAGS && c->bag_cu[*bag] < c->bag_cu[*bag + 1]) return VP_OK;
    return vp_frame_fail(f, VP_DATA, err, "token %d is a slot of a bag without tokens", i);
}

static int mark(vp_targets *t, const columns *c, const vp_frame *f, int64_t b, int32_t i, vp_error *err) {
    const float weight = c->weight ? c->weight[i] : 1.0f;
    const bool slot = c->target[i] <= VP_TARGET_SLOT;
    if (c->target[i] < 0 && !slot) return VP_OK;
    if (!(weight >= 0)) return vp_frame_fail(f, VP_DATA, err, "token %d: weight %g", i, (double)weight);
    t->bag[t->M] = -1;
    if (slot) VP_TRY(slot_of(c, f, b, i, &t->bag[t->M], err));
    t->tokens += !slot;
    t->position[t->M] = i;
    t->target[t->M] = c->target[i];
    t->weight[t->M] = weight;
    t->unit[t->M] = c->unit ? c->unit[b] : 0;
    t->row[t->M++] = (int32_t)b;
    return VP_OK;
}

static int fill(vp_targets *t, columns *c, const vp_frame *f, vp_error *err) {
    for (int64_t b = 0; b < f->B; b++)
        for (int32_t i = c->cu[b]; i < c->cu[b + 1]; i++) VP_TRY(mark(t, c, f, b, i, err));
    t->denominator = vp_map_real(f->keys, "weight_sum", 0);
    if (t->tokens && !(t->denominator > 0)) return vp_frame_fail(f, VP_DATA, err, "'weight_sum' is not above 0");
    t->bag_cu = c->bag_cu;
    t->bag_item = c->bag_item;
    c->bag_cu = c->bag_item = NULL;
    if (t->tokens < t->M) return check_order(t, f, err);
    free(t->bag);
    t->bag = NULL;
    return VP_OK;
}

int vp_targets_read(vp_targets *t, const vp_frame *f, vp_error *err) {
    *t = (vp_targets){0};
    columns c = {0};
    int status = read_columns(&c, f, err);
    if (!status) status = allocate(t, f->T, err);
    if (!status) status = fill(t, &c, f, err);
    free(c.cu);
    free(c.target);
    free(c.unit);
    free(c.weight);
    free(c.bag_cu);
    free(c.bag_item);
    if (status) vp_targets_free(t);
    return status;
}

vp_marked vp_targets_marked(const vp_targets *t) {
    return (vp_marked){.M = t->M,
                       .target = t->target,
                       .weight = t->weight,
                       .denominator = t->denominator,
                       .unit = t->unit,
                       .bag = t->bag,
                       .bag_cu = t->bag_cu,
                       .bag_item = t->bag_item};
}

void vp_targets_free(vp_targets *t) {
    free(t->position);
    free(t->target);
    free(t->row);
    free(t->unit);
    free(t->weight);
    free(t->bag);
    free(t->bag_cu);
    free(t->bag_item);
    *t = (vp_targets){0};
}

void vp_targets_rows(const vp_targets *t, const float *share, int64_t B, float *loss) {
    int64_t i = 0;
    for (int64_t b = 0; b < B; b++) {
        double sum = 0;
        for (; i < t->M && t->row[i] == b; i++) sum += (double)share[i];
        loss[b] = (float)sum;
    }
}

int vp_targets_logprob(const vp_targets *t, const vp_objective *o, vp_head *head, const float *picked, int64_t B,
                       float *logprob, vp_error *err) {
    float *share = vp_calloc((size_t)t->M + 1, sizeof *share);
    if (!share) return vp_fail_memory(err, "log-probabilities", (size_t)t->M * sizeof *share);
    const vp_marked marked = {.M = t->M, .picked = picked, .target = t->target, .denominator = 1};
    const int status = vp_objective_tokens(o, head, &marked, share, NULL, NULL, err);
    for (int64_t i = 0; i < t->M; i++) share[i] = -share[i];
    if (!status) vp_targets_rows(t, share, B, logprob);
    free(share);
    return status;
}

void vp_targets_weigh(vp_targets *t, const float *gradient) {
    for (int64_t i = 0; i < t->M; i++) t->weight[i] = -gradient[t->row[i]];
    t->denominator = 1;
}
