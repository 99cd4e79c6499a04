/* A step's rows as examples: which row is whose query, positive or negative. */
#include "lib/train/objective_private.h"
#include <stdlib.h>
#include <string.h>

typedef struct member {
    int32_t group, b;
} member;

static int by_group(const void *a, const void *b) {
    const member *x = a, *y = b;
    if (x->group != y->group) return x->group < y->group ? -1 : 1;
    return (x->b > y->b) - (x->b < y->b);
}

static bool uses_views(const vp_rows *r) {
    bool any = false;
    for (int64_t b = 0; r->view && b < r->B; b++) any |= r->view[b] != 0;
    return r->view && (any || !r->role);
}

static vp_part part_of(const vp_rows *r, bool views, int64_t b) {
    if (views) return r->view[b] > 1 ? VP_PART_NONE : (vp_part)r->view[b];
    return r->role[b] > VP_PART_NEGATIVE ? VP_PART_NONE : (vp_part)r->role[b];
}

static int check_columns(const vp_rows *r, vp_error *err) {
    if (!r->group)
        return vp_fail(err, VP_DATA,
                       "no column 'group', which says what belongs together: tok makes it of records "
                       "with query and positive, and mask simcse");
    if (!r->role && !r->view)
        return vp_fail(err, VP_DATA,
                       "neither column 'role' nor 'view', which tell queries from passages: tok and mask "
                       "simcse make them");
    return VP_OK;
}

static int allocate(vp_examples *e, const vp_objective *o, int64_t B, vp_error *err) {
    *e = (vp_examples){.query = vp_objective_alloc(o, B, sizeof *e->query, err),
                       .positive = vp_objective_alloc(o, B, sizeof *e->positive, err),
                       .candidate = vp_objective_alloc(o, B, sizeof *e->candidate, err),
                       .part = vp_objective_alloc(o, B, sizeof *e->part, err)};
    return err->code;
}

/* Numbers queries and passages in `row` order: place[b] is b's number among its kind. */
static void number(vp_examples *e, const vp_rows *r, bool views, int32_t *place) {
    for (int64_t b = 0; b < r->B; b++) {
        const vp_part part = part_of(r, views, b);
        if (part == VP_PART_QUERY) {
            place[b] = (int32_t)e->Q;
            e->positive[e->Q] = -1;
            e->query[e->Q++] = (int32_t)b;
        } else if (part != VP_PART_NONE) {
            place[b] = (int32_t)e->N;
            e->part[e->N] = (uint8_t)part;
            e->candidate[e->N++] = (int32_t)b;
        }
    }
}

/* The members of one group, in `row` order. */
static int match(vp_examples *e, const vp_rows *r, bool views, const member *m, int64_t n, const int32_t *place,
                 vp_error *err) {
    int32_t query = -1, positive = -1;
    for (int64_t i = 0; i < n; i++) {
        const vp_part part = part_of(r, views, m[i].b);
        if (part == VP_PART_QUERY && query >= 0)
            return vp_fail(err, VP_DATA, "group %d has two queries, rows %lld and %lld", m->group,
                           (long long)r->row[query], (long long)r->row[m[i].b]);
        if (part == VP_PART_QUERY) query = m[i].b;
        if (part == VP_PART_POSITIVE && positive < 0) positive = m[i].b;
    }
    if (query >= 0 && positive >= 0) e->positive[place[query]] = place[positive];
    return VP_OK;
}

int vp_examples_make(vp_examples *e, const vp_objective *o, const vp_rows *r, bool needed, vp_error *err) {
    VP_TRY(check_columns(r, err));
    VP_TRY(allocate(e, o, r->B, err));
    const bool views = uses_views(r);
    int32_t *place = vp_objective_alloc(o, r->B, sizeof *place, err);
    member *m = vp_objective_alloc(o, r->B, sizeof *m, err);
    if (!place || !m) return VP_MEMORY;
    number(e, r, views, place);
    for (int64_t b = 0; b < r->B; b++) m[b] = (member){r->group[b], (int32_t)b};
    qsort(m, (size_t)r->B, sizeof *m, by_group);
    for (int64_t i = 0, end; i < r->B; i = end) {
        for (end = i + 1; end < r->B && m[end].group == m[i].group;) end++;
        VP_TRY(match(e, r, views, m + i, end - i, place, err));
    }
    if (!e->Q) return vp_fail(err, VP_DATA, "no row is a query (role 0, or view 0)");
    for (int64_t i = 0; needed && i < e->Q; i++)
        if (e->positive[i] < 0)
            return vp_fail(err, VP_DATA, "group %d has a query, row %lld, but no positive (role 1, or view 1)",
                           r->group[e->query[i]], (long long)r->row[e->query[i]]);
    return VP_OK;
}
