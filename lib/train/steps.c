/* Steps out of a stream: a step's frames are copied until the last one is there, then checked as a whole. That frames
 * of a step follow each other up to `last` is the reader's check. */
#include "lib/train/steps.h"
#include <stdlib.h>
#include <string.h>

enum { UNITS_UNKNOWN = -1 };
#define COUNTER_MAX 4294967295 /* `row` and `step` are words of the random numbers' counter */

struct vp_steps {
    vp_reader *reader;
    vp_step step;
    size_t cap; /* of step.frame */
    bool any;   /* a step was handed out */
    vp_frame *end;
};

int vp_steps_open(vp_steps **out, vp_reader *r, vp_error *err) {
    vp_steps *s = vp_calloc(1, sizeof *s);
    if (!s) return vp_fail_memory(err, "steps", sizeof *s);
    s->reader = r;
    *out = s;
    return VP_OK;
}

static void forget(vp_step *step) {
    for (size_t i = 0; i < step->frames; i++) vp_frame_free(step->frame[i]);
    free(step->order);
    step->order = NULL;
    step->frames = 0;
}

void vp_steps_close(vp_steps *s) {
    if (!s) return;
    forget(&s->step);
    free(s->step.frame);
    free(s);
}

vp_frame *vp_steps_end(const vp_steps *s) {
    return s->end;
}

/* What the first frame says of the whole step. */
static int begin_step(vp_steps *s, const vp_frame *f, vp_error *err) {
    vp_step *step = &s->step;
    const int64_t number = vp_map_int(f->keys, "step", -1);
    if (number < 0)
        return vp_frame_fail(f, VP_DATA, err, "no 'step': whole training steps are needed, as tok --batch makes them");
    if (number > COUNTER_MAX)
        return vp_frame_fail(f, VP_DATA, err, "step %lld is above %lld", (long long)number, (long long)COUNTER_MAX);
    if (s->any && number <= step->step)
        return vp_frame_fail(f, VP_DATA, err, "step %lld after step %lld: steps must ascend", (long long)number,
                             (long long)step->step);
    step->step = number;
    step->B = step->T = step->generative = 0;
    step->generative_frames = 0;
    step->units = UNITS_UNKNOWN;
    step->total = vp_map_int(f->keys, "steps", 0);
    step->weighted = vp_map_has(f->keys, "weight_sum");
    step->weight_sum = vp_map_real(f->keys, "weight_sum", step->weighted ? -1 : 0);
    if (!(step->weight_sum >= 0)) return vp_frame_fail(f, VP_DATA, err, "'weight_sum' is not a number from 0");
    s->any = true;
    return VP_OK;
}

static int check_units(vp_step *step, const vp_frame *f, vp_error *err) {
    const vp_column *unit = vp_frame_find(f, "unit");
    if (step->units != UNITS_UNKNOWN && (unit != NULL) != (step->units > 0))
        return vp_frame_fail(f, VP_DATA, err, "column 'unit' is in some frames of step %lld only",
                             (long long)step->step);
    if (!unit && f->B) step->units = 0;
    if (!unit || !f->B) return VP_OK;
    VP_TRY(vp_frame_need(f, "unit", VP_I32, 1, (const int64_t[]){f->B}, &unit, err));
    int32_t next = step->units == UNITS_UNKNOWN ? 0 : step->units; /* the first unit of the frame */
    for (int64_t b = 0; b < f->B; b++) {
        int32_t u;
        memcpy(&u, unit->data + (size_t)b * sizeof u, sizeof u);
        if (u != next && !(b && u == next - 1))
            return vp_frame_fail(f, VP_DATA, err, "row %lld: unit %d, where %d begins: a frame holds whole units",
                                 (long long)b, u, next);
        next = u + 1;
    }
    step->units = next;
    return VP_OK;
}

static int take_frame(vp_steps *s, const vp_frame *f, vp_error *err) {
    vp_step *step = &s->step;
    bool generates;
    if (vp_map_has(f->keys, "weight_sum") != step->weighted ||
        vp_map_real(f->keys, "weight_sum", 0) != step->weight_sum)
        return vp_frame_fail(f, VP_DATA, err, "'weight_sum' is not the same in every frame of step %lld",
                             (long long)step->step);
    VP_TRY(check_units(step, f, err));
    VP_TRY(vp_frame_generates(f, &generates, err));
    if (generates && step->B > step->generative)
        return vp_frame_fail(f, VP_DATA, err, "step %lld: rows of role 3 after others: they come first",
                             (long long)step->step);
    VP_TRY(vp_grow(&step->frame, &s->cap, step->frames, sizeof *step->frame, "a step", err));
    VP_TRY(vp_frame_slice(f, 0, f->B, &step->frame[step->frames], err));
    step->frames++;
    step->B += f->B;
    if (generates) {
        step->generative += f->B;
        step->generative_frames = step->frames;
    }
    step->T += f->T;
    return VP_OK;
}

static int by_row(const void *a, const void *b) {
    const vp_step_row *x = a, *y = b;
    return (x->row > y->row) - (x->row < y->row);
}

static int list_rows(vp_step *step, size_t frame, vp_step_row *out, vp_error *err) {
    const vp_frame *f = step->frame[frame];
    const vp_column *row;
    if (!f->B) return VP_OK;
    VP_TRY(vp_frame_need(f, "row", VP_I64, 1, (const int64_t[]){f->B}, &row, err));
    for (int64_t b = 0; b < f->B; b++) {
        out[b] = (vp_step_row){.at = {frame, b}};
        memcpy(&out[b].row, row->data + (size_t)b * sizeof out[b].row, sizeof out[b].row);
        if (out[b].row < 0 || out[b].row > COUNTER_MAX)
            return vp_frame_fail(f, VP_DATA, err, "'row' %lld is not from 0 to %lld", (long long)out[b].row,
                                 (long long)COUNTER_MAX);
    }
    return VP_OK;
}

/* Rows of text to be generated, which are those of the step's first frames, behind the others. */
static int generative_last(vp_step *step, vp_error *err) {
    vp_step_row *order = vp_calloc((size_t)step->B + 1, sizeof *order);
    if (!order) return vp_fail_memory(err, "a step's rows", (size_t)step->B * sizeof *order);
    int64_t others = 0, generative = step->B - step->generative;
    for (int64_t i = 0; i < step->B; i++)
        order[step->order[i].at.frame < step->generative_frames ? generative++ : others++] = step->order[i];
    free(step->order);
    step->order = order;
    return VP_OK;
}

/* The rows of the whole step: their number is what the frames say, and each has a number of its own. */
static int order_rows(vp_step *step, vp_error *err) {
    for (size_t i = 0; i < step->frames; i++) {
        const vp_frame *f = step->frame[i];
        if (vp_map_int(f->keys, "rows", -1) != step->B)
            return vp_frame_fail(f, VP_DATA, err, "'rows' is not %lld, which came in step %lld", (long long)step->B,
                                 (long long)step->step);
    }
    step->order = vp_calloc((size_t)step->B + 1, sizeof *step->order);
    if (!step->order) return vp_fail_memory(err, "a step's rows", (size_t)step->B * sizeof *step->order);
    size_t n = 0;
    for (size_t i = 0; i < step->frames; i++) {
        VP_TRY(list_rows(step, i, step->order + n, err));
        n += (size_t)step->frame[i]->B;
    }
    qsort(step->order, n, sizeof *step->order, by_row);
    for (size_t i = 1; i < n; i++)
        if (step->order[i].row == step->order[i - 1].row)
            return vp_frame_fail(step->frame[step->order[i].at.frame], VP_DATA, err, "'row' %lld twice in step %lld",
                                 (long long)step->order[i].row, (long long)step->step);
    return step->generative ? generative_last(step, err) : VP_OK;
}

int vp_steps_next(vp_steps *s, vp_step **out, vp_error *err) {
    vp_frame *f;
    *out = NULL;
    forget(&s->step);
    if (s->end) return VP_OK;
    do {
        VP_TRY(vp_reader_next(s->reader, &f, err));
        if (!f) return vp_fail(err, VP_BUG, "a stream without an end record");
        if (f->kind == VP_FRAME_END) {
            s->end = f;
            return VP_OK;
        }
        if (!s->step.frames) VP_TRY(begin_step(s, f, err));
        VP_TRY(take_frame(s, f, err));
    } while (!vp_map_bool(f->keys, "last", false));
    if (s->step.units == UNITS_UNKNOWN) s->step.units = 0;
    VP_TRY(order_rows(&s->step, err));
    *out = &s->step;
    return VP_OK;
}
