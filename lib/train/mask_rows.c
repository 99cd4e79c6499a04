/* Kinds that choose rows: all, every row twice (SimCSE's two views), and of an example its query, one positive and some
 * negatives. */
#include "lib/stream/private.h"
#include "lib/train/mask_kinds.h"
#include <stdlib.h>
#include <string.h>

#define COUNTER_MAX 4294967295

static const vp_column *column(const vp_step *step, vp_frame_row at, const char *name, vp_dtype dtype, vp_error *err) {
    const vp_frame *f = step->frame[at.frame];
    const vp_column *c = NULL;
    return vp_frame_need(f, name, dtype, 1, (const int64_t[]){f->B}, &c, err) ? NULL : c;
}

int vp_mask_rows_all(vp_mask *m, const vp_step *step, vp_error *err) {
    for (size_t i = 0; i < step->frames; i++) {
        const vp_column *row = step->frame[i]->B ? column(step, (vp_frame_row){i, 0}, "row", VP_I64, err) : NULL;
        if (step->frame[i]->B && !row) return err->code;
        for (int64_t b = 0; b < step->frame[i]->B; b++)
            VP_TRY(vp_mask_take(m, (vp_frame_row){i, b}, vp_column_i64(row, b), err));
    }
    return VP_OK;
}

/* ---- simcse ---- */
int vp_mask_rows_twice(vp_mask *m, const vp_step *step, vp_error *err) {
    VP_TRY(vp_mask_rows_all(m, step, err));
    const size_t n = m->rows;
    for (size_t i = 0; i < n; i++) {
        if (m->number[i] > INT32_MAX)
            return vp_frame_fail(step->frame[m->row[i].frame], VP_DATA, err, "'row' %lld is above %d: no room for two",
                                 (long long)m->number[i], INT32_MAX);
        VP_TRY(vp_mask_take(m, m->row[i], 0, err));
    }
    for (size_t i = n; i-- > 0;) { /* from the end, so that nothing is overwritten before it was read */
        const vp_frame_row at = m->row[i];
        const int64_t number = m->number[i];
        for (size_t view = 0; view < 2; view++) {
            m->row[2 * i + view] = at;
            m->number[2 * i + view] = 2 * number + (int64_t)view;
        }
    }
    return VP_OK;
}

int vp_mask_columns_views(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err) {
    int32_t *group = vp_mask_put(f, "group", VP_I32, f->B, err);
    uint8_t *view = vp_mask_put(f, "view", VP_U8, f->B, err);
    (void)step;
    if (!group || !view) return err->code;
    for (size_t i = 0; i < m->rows; i++) {
        group[i] = (int32_t)(m->number[i] / 2);
        view[i] = (uint8_t)(m->number[i] % 2);
    }
    return VP_OK;
}

/* ---- pairs ---- */
static int by_group(const void *a, const void *b) {
    const vp_mask_candidate *x = a, *y = b;
    if (x->group != y->group) return x->group < y->group ? -1 : 1;
    if (x->role != y->role) return x->role < y->role ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}
static int by_place(const void *a, const void *b) {
    const vp_mask_candidate *x = a, *y = b;
    return (x->place > y->place) - (x->place < y->place);
}
static int by_row(const void *a, const void *b) {
    const vp_mask_candidate *x = a, *y = b;
    return (x->row > y->row) - (x->row < y->row);
}

int vp_mask_candidates(const vp_step *step, vp_mask_candidate *c, size_t *n, vp_error *err) {
    *n = (size_t)(step->B - step->generative);
    for (size_t i = 0; i < *n; i++) {
        const vp_step_row *r = &step->order[i];
        const vp_column *group = column(step, r->at, "group", VP_I32, err);
        const vp_column *role = group ? column(step, r->at, "role", VP_U8, err) : NULL;
        if (!role) return err->code;
        int64_t place = r->at.b;
        for (size_t k = 0; k < r->at.frame; k++) place += step->frame[k]->B;
        c[i] = (vp_mask_candidate){.group = vp_column_i32(group, r->at.b),
                                   .role = role->data[r->at.b],
                                   .row = r->row,
                                   .at = r->at,
                                   .place = place};
    }
    if (*n) qsort(c, *n, sizeof *c, by_group);
    return VP_OK;
}

/* Below n, from word 0 of counter (c0, group). */
static size_t draw(const vp_mask *m, int64_t step, uint32_t c0, int32_t group, size_t n) {
    uint32_t word[4];
    vp_mask_draw(m, step, c0, (uint32_t)group, word);
    return (size_t)((uint64_t)word[0] * n >> 32);
}

/* `count` of the n candidates without replacement, from the whole list again when it is used up: a shuffle a round. */
static int choose_negatives(const vp_mask *m, int64_t step, vp_mask_candidate *c, size_t n, vp_error *err) {
    size_t *order = vp_calloc(n + 1, sizeof *order);
    if (!order) return vp_fail_memory(err, "negatives", n * sizeof *order);
    for (int64_t k = 0; k < m->o.negatives; k++) {
        const size_t i = (size_t)k % n;
        if (i == 0)
            for (size_t j = 0; j < n; j++) order[j] = j;
        const size_t other = i + draw(m, step, (uint32_t)k + 1, c->group, n - i), chosen = order[other];
        order[other] = order[i];
        order[i] = chosen;
        c[chosen].times++;
    }
    free(order);
    return VP_OK;
}

/* One example: candidates [0, n) of one group, ordered by role and row. */
static int choose_example(const vp_mask *m, const vp_step *step, vp_mask_candidate *c, size_t n, vp_error *err) {
    size_t of[4] = {0};
    const vp_frame *f = step->frame[c->at.frame];
    for (size_t i = 0; i < n; i++) {
        if (c[i].role > VP_ROLE_NEGATIVE)
            return vp_frame_fail(f, VP_DATA, err, "example %d has a row of role %u", c->group, c[i].role);
        of[c[i].role]++;
    }
    if (of[VP_ROLE_QUERY] != 1 || !of[VP_ROLE_POSITIVE])
        return vp_frame_fail(f, VP_DATA, err, "example %d has %zu queries and %zu positives", c->group,
                             of[VP_ROLE_QUERY], of[VP_ROLE_POSITIVE]);
    c[0].times = 1;
    c[1 + draw(m, step->step, 0, c->group, of[VP_ROLE_POSITIVE])].times = 1;
    if (!m->o.negatives) return VP_OK;
    if (!of[VP_ROLE_NEGATIVE])
        return vp_frame_fail(f, VP_DATA, err,
                             "example %d has no negative: mine-negs finds some, --negatives 0 takes none", c->group);
    return choose_negatives(m, step->step, c + 1 + of[VP_ROLE_POSITIVE], of[VP_ROLE_NEGATIVE], err);
}

static int choose_all(const vp_mask *m, const vp_step *step, vp_mask_candidate *c, size_t n, vp_error *err) {
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && c[end].group == c[i].group;) end++;
        VP_TRY(choose_example(m, step, c + i, end - i, err));
    }
    return VP_OK;
}

/* Number what was chosen in the old order of rows, then list it in the order of the stream. */
static int take_chosen(vp_mask *m, vp_mask_candidate *c, size_t n, vp_error *err) {
    int64_t next = 0;
    qsort(c, n, sizeof *c, by_row);
    for (size_t i = 0; i < n; i++) {
        c[i].row = next;
        next += c[i].times;
    }
    if (next > COUNTER_MAX) return vp_fail(err, VP_DATA, "%lld rows in one step", (long long)next);
    qsort(c, n, sizeof *c, by_place);
    for (size_t i = 0; i < n; i++)
        for (int64_t k = 0; k < c[i].times; k++) VP_TRY(vp_mask_take(m, c[i].at, c[i].row + k, err));
    return VP_OK;
}

/* The number of rows that were chosen, in *chosen. */
static int choose_pairs(vp_mask *m, const vp_step *step, int64_t *chosen, vp_error *err) {
    const size_t before = m->rows;
    size_t n;
    vp_mask_candidate *c = vp_calloc((size_t)step->B + 1, sizeof *c);
    if (!c) return vp_fail_memory(err, "a step's rows", (size_t)step->B * sizeof *c);
    int status = vp_mask_candidates(step, c, &n, err);
    if (!status) status = choose_all(m, step, c, n, err);
    if (!status) status = take_chosen(m, c, n, err);
    free(c);
    *chosen = (int64_t)(m->rows - before);
    return status;
}

int vp_mask_rows_pairs(vp_mask *m, const vp_step *step, vp_error *err) {
    int64_t chosen;
    if (step->generative)
        return vp_frame_fail(step->frame[0], VP_DATA, err,
                             "rows of role 3, to be generated: mask grit takes them, too");
    return choose_pairs(m, step, &chosen, err);
}

/* ---- grit ---- */
/* Generative rows stand first in the stream; their numbers follow the others'. */
int vp_mask_rows_grit(vp_mask *m, const vp_step *step, vp_error *err) {
    const int64_t others = step->B - step->generative;
    int64_t chosen;
    for (int64_t i = others; i < step->B; i++) VP_TRY(vp_mask_take(m, step->order[i].at, i, err));
    VP_TRY(choose_pairs(m, step, &chosen, err));
    for (int64_t i = 0; i < step->generative; i++) m->number[i] = chosen + i;
    return VP_OK;
}
