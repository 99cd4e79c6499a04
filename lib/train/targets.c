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
    return t->position && t->target && t->row && t->unit && t->weight
               ? VP_OK
               : vp_fail_memory(err, "targets", (size_t)M * 5 * sizeof *t->target);
}

typedef struct columns {
    int32_t *cu, *target, *unit; /* unit NULL: all 0 */
    float *weight;               /* NULL: all 1 */
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
    if (!vp_map_has(f->keys, "weight_sum"))
        return vp_frame_fail(f, VP_DATA, err, "no key 'weight_sum', what the loss is divided by: mask makes it");
    return VP_OK;
}

static int fill(vp_targets *t, const columns *c, const vp_frame *f, vp_error *err) {
    for (int64_t b = 0; b < f->B; b++)
        for (int32_t i = c->cu[b]; i < c->cu[b + 1]; i++) {
            const float weight = c->weight ? c->weight[i] : 1.0f;
            if (c->target[i] < 0) continue;
            if (!(weight >= 0)) return vp_frame_fail(f, VP_DATA, err, "token %d: weight %g", i, (double)weight);
            t->position[t->M] = i;
            t->target[t->M] = c->target[i];
            t->weight[t->M] = weight;
            t->unit[t->M] = c->unit ? c->unit[b] : 0;
            t->row[t->M++] = (int32_t)b;
        }
    t->denominator = vp_map_real(f->keys, "weight_sum", 0);
    if (t->M && !(t->denominator > 0)) return vp_frame_fail(f, VP_DATA, err, "'weight_sum' is not above 0");
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
    if (status) vp_targets_free(t);
    return status;
}

void vp_targets_free(vp_targets *t) {
    free(t->position);
    free(t->target);
    free(t->row);
    free(t->unit);
    free(t->weight);
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
