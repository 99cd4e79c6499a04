/* Two streams compared row by row, however they are cut into frames. Bounded memory: one frame of each is held. */
#include "lib/stream/look.h"
#include "lib/stream/private.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_COMPARED = 2 * VP_MAX_COLUMNS };

typedef struct compared {
    char name[64];
    char types[32];   /* "F32", or both when they differ */
    int64_t elements; /* numbers or values compared */
    double largest;   /* |a - b| of numbers */
    char worst[80];   /* where the largest is, and the two numbers */
    char first[112];  /* the first place beyond the tolerance; empty: none */
} compared;

typedef struct side {
    vp_reader *reader;
    const vp_frame *f; /* current batch; NULL: the stream is over */
    int64_t done;      /* rows of it */
} side;

typedef struct diff {
    side a, b;
    const char *columns;
    double tolerance;
    int64_t row; /* rows of both streams before the current ones */
    compared column[MAX_COMPARED];
    int ncolumns;
    char *first; /* the first difference of all, VP_DIFF_TEXT bytes */
} diff;

/* A range of elements of one column on both sides: a row's, or a whole frame's. */
typedef struct range {
    const vp_column *a, *b;
    int64_t at_a, at_b, n;
} range;

static compared *find(diff *d, const char *name) {
    char key[sizeof d->column[0].name];
    vp_escape(key, sizeof key, name, strlen(name));
    for (int i = 0; i < d->ncolumns; i++)
        if (strcmp(d->column[i].name, key) == 0) return &d->column[i];
    if (d->ncolumns == MAX_COMPARED) return NULL;
    compared *c = &d->column[d->ncolumns++];
    memcpy(c->name, key, sizeof key);
    return c;
}

static void __attribute__((format(printf, 3, 4))) differs(diff *d, compared *c, const char *format, ...) {
    va_list args;
    if (c->first[0]) return;
    va_start(args, format);
    vsnprintf(c->first, sizeof c->first, format, args);
    va_end(args);
    if (!d->first[0]) snprintf(d->first, VP_DIFF_TEXT, "column '%.40s' %s", c->name, c->first);
}

static const char *type_name(const vp_column *c) {
    return c->is_values ? "VALUES" : vp_dtype_name(c->dtype);
}

static int compare_values(diff *d, compared *c, const range *r, vp_error *err) {
    const uint32_t *x = r->a->at + r->at_a, *y = r->b->at + r->at_b;
    c->elements++;
    if (x[1] - x[0] == y[1] - y[0] && memcmp(r->a->data + x[0], r->b->data + y[0], x[1] - x[0]) == 0) return VP_OK;
    vp_buf text = {0};
    int status = vp_look_value(r->a, r->at_a, &text, err);
    if (!status) status = vp_buf_add(&text, " against ", 9, err);
    if (!status) status = vp_look_value(r->b, r->at_b, &text, err);
    if (!status) {
        const size_t shown = vp_utf8_valid(text.data, text.len < 60 ? text.len : 60);
        differs(d, c, "row %lld: %.*s", (long long)d->row, (int)shown, text.data);
    }
    vp_buf_free(&text);
    return status;
}

static bool equal_integers(const range *r, int64_t i) {
    if (r->a->dtype == VP_U64 || r->b->dtype == VP_U64 || r->a->dtype == VP_I64 || r->b->dtype == VP_I64)
        return r->a->dtype == r->b->dtype &&
               memcmp(r->a->data + 8 * (r->at_a + i), r->b->data + 8 * (r->at_b + i), 8) == 0;
    return vp_column_real(r->a, r->at_a + i) == vp_column_real(r->b, r->at_b + i);
}

static void compare_numbers(diff *d, compared *c, const range *r) {
    const bool floats = vp_dtype_is_float(r->a->dtype);
    if (floats != vp_dtype_is_float(r->b->dtype)) {
        differs(d, c, "row %lld: %s against %s", (long long)d->row, type_name(r->a), type_name(r->b));
        return;
    }
    c->elements += r->n;
    for (int64_t i = 0; i < r->n; i++) {
        const double x = vp_column_real(r->a, r->at_a + i), y = vp_column_real(r->b, r->at_b + i), gap = fabs(x - y);
        const bool same = floats ? gap <= d->tolerance : equal_integers(r, i);
        if (same && gap <= c->largest) continue;
        char place[80];
        snprintf(place, sizeof place, "row %lld, element %lld: %.9g against %.9g", (long long)d->row, (long long)i, x,
                 y);
        if (!same) differs(d, c, "%s", place);
        if (gap > c->largest) {
            c->largest = gap;
            memcpy(c->worst, place, sizeof place);
        }
    }
}

static int64_t inner(const vp_column *c) {
    int64_t n = 1;
    for (int i = 1; i < c->ndim; i++) n *= c->shape[i];
    return n;
}

/* Elements of a column that belong to the current row; a column without rows counts whole, at its frame's first row. */
static void place(const side *s, const vp_column *c, int64_t *at, int64_t *n, bool *whole) {
    const vp_symbol symbol = vp_column_symbol(s->f, c);
    const vp_column *cu = vp_frame_find(s->f, "cu");
    const int64_t width = c->is_values ? 1 : inner(c);
    *whole = false;
    if (symbol == VP_SYMBOL_B) {
        *at = s->done * width;
        *n = width;
    } else if (symbol == VP_SYMBOL_T && cu) {
        *at = vp_column_i32(cu, s->done) * width;
        *n = (vp_column_i32(cu, s->done + 1) - vp_column_i32(cu, s->done)) * width;
    } else {
        *whole = true;
        *at = 0;
        *n = s->done ? 0 : c->shape[0] * width;
    }
}

/* Offsets depend on how the frames are cut; the length of a row does not. */
static void compare_lengths(diff *d, compared *c, const vp_column *a, const vp_column *b) {
    const int32_t n = vp_column_i32(a, d->a.done + 1) - vp_column_i32(a, d->a.done);
    const int32_t m = vp_column_i32(b, d->b.done + 1) - vp_column_i32(b, d->b.done);
    c->elements++;
    if (n == m) return;
    c->largest = fmax(c->largest, fabs((double)n - (double)m));
    differs(d, c, "row %lld: %d tokens against %d", (long long)d->row, n, m);
}

static int compare_column(diff *d, const vp_column *a, vp_error *err) {
    compared *c = find(d, a->name);
    const vp_column *b = vp_frame_find(d->b.f, a->name);
    if (!c) return VP_OK;
    if (!b || a->is_values != b->is_values) {
        differs(d, c, "row %lld: %s", (long long)d->row, b ? "values against a tensor" : "not in the second stream");
        return VP_OK;
    }
    if (!c->types[0])
        snprintf(c->types, sizeof c->types, a->dtype == b->dtype ? "%s" : "%s/%s", type_name(a), type_name(b));
    if (strcmp(a->name, "cu") == 0) {
        compare_lengths(d, c, a, b);
        return VP_OK;
    }
    range r = {.a = a, .b = b};
    int64_t n_b;
    bool whole, whole_b;
    place(&d->a, a, &r.at_a, &r.n, &whole);
    place(&d->b, b, &r.at_b, &n_b, &whole_b);
    if (whole != whole_b || (whole && (d->a.f->B != d->b.f->B || d->a.done != d->b.done)))
        differs(d, c, "row %lld: cannot be compared, the frames are cut differently", (long long)d->row);
    else if (r.n != n_b || inner(a) != inner(b))
        differs(d, c, "row %lld: %lld numbers against %lld", (long long)d->row, (long long)r.n, (long long)n_b);
    else if (a->is_values)
        return compare_values(d, c, &r, err);
    else
        compare_numbers(d, c, &r);
    return VP_OK;
}

static int compare_row(diff *d, vp_error *err) {
    for (int i = 0; i < d->a.f->ncolumns; i++)
        if (vp_look_selected(d->columns, d->a.f->column[i].name)) VP_TRY(compare_column(d, &d->a.f->column[i], err));
    for (int i = 0; i < d->b.f->ncolumns; i++) {
        const char *name = d->b.f->column[i].name;
        compared *c = NULL;
        if (vp_look_selected(d->columns, name) && !vp_frame_find(d->a.f, name)) c = find(d, name);
        if (c) differs(d, c, "row %lld: not in the first stream", (long long)d->row);
    }
    return VP_OK;
}

/* Make sure that a row is at hand, or f = NULL at the end. */
static int advance(const diff *d, side *s, vp_error *err) {
    while (s->f && (s->f->kind != VP_FRAME_BATCH || s->done == s->f->B)) {
        vp_frame *next;
        VP_TRY(vp_reader_next(s->reader, &next, err));
        s->f = next;
        s->done = 0;
        if (next && next->kind == VP_FRAME_BATCH) VP_TRY(vp_look_check(next, d->columns, err));
    }
    return VP_OK;
}

static int open_side(side *s, vp_reader *reader, vp_error *err) {
    vp_frame *header;
    s->reader = reader;
    VP_TRY(vp_reader_next(reader, &header, err));
    s->f = header;
    return VP_OK;
}

static int compare_all(diff *d, vp_error *err) {
    int64_t rest[2] = {0, 0};
    for (;;) {
        VP_TRY(advance(d, &d->a, err));
        VP_TRY(advance(d, &d->b, err));
        if (!d->a.f && !d->b.f) break;
        if (d->a.f && d->b.f) {
            VP_TRY(compare_row(d, err));
            d->row++;
        }
        rest[0] += d->a.f && !d->b.f;
        rest[1] += d->b.f && !d->a.f;
        if (d->a.f) d->a.done++;
        if (d->b.f) d->b.done++;
    }
    if ((rest[0] || rest[1]) && !d->first[0])
        snprintf(d->first, VP_DIFF_TEXT, "%lld rows against %lld", (long long)(d->row + rest[0]),
                 (long long)(d->row + rest[1]));
    return VP_OK;
}

static int report(const diff *d, vp_buf *out, vp_error *err) {
    VP_TRY(vp_buf_printf(out, err, "%lld rows compared\n", (long long)d->row));
    for (int i = 0; i < d->ncolumns; i++) {
        const compared *c = &d->column[i];
        VP_TRY(vp_buf_printf(out, err, "  %-10s %-9s %10lld compared, largest difference %.6g%s%s%s\n", c->name,
                             c->types, (long long)c->elements, c->largest, c->worst[0] ? " (" : "", c->worst,
                             c->worst[0] ? ")" : ""));
        if (c->first[0]) VP_TRY(vp_buf_printf(out, err, "  %-10s differs first at %s\n", "", c->first));
    }
    return VP_OK;
}

int vp_look_diff(vp_reader *a, vp_reader *b, const char *columns, double tolerance, vp_buf *out,
                 char first[VP_DIFF_TEXT], vp_error *err) {
    diff *d = calloc(1, sizeof *d);
    if (!d) return vp_fail_memory(err, "a comparison", sizeof *d);
    d->columns = columns;
    d->tolerance = tolerance;
    d->first = first;
    first[0] = '\0';
    int status = open_side(&d->a, a, err);
    if (!status) status = open_side(&d->b, b, err);
    if (!status) status = compare_all(d, err);
    if (!status) status = report(d, out, err);
    free(d);
    return status;
}
