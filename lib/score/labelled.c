/* Vectors with labels, in row order, and labels as numbers. */
#include "lib/score/labelled.h"
#include "lib/stream/order.h"
#include <stdlib.h>
#include <string.h>

/* A row waits for its turn as this and, after it, its vector. */
typedef struct piece {
    int64_t row;
    size_t at, n; /* of the label in reading.names */
} piece;

typedef struct reading {
    vp_vectors *v;
    const char *field;
    vp_buf names, pieces, one;
    vp_row_order order;
} reading;

static int add_label(reading *r, const vp_frame *f, const vp_column *meta, int64_t b, piece *p, vp_error *err) {
    const char *s = NULL;
    size_t n = 0;
    char scratch[32];
    if (meta) VP_TRY(vp_column_str(f, meta, b, &s, &n, scratch, err));
    json_t *o = s ? json_loadb(s, n, JSON_ALLOW_NUL, NULL) : NULL;
    const json_t *label = json_object_get(o, r->field);
    int status;
    p->at = r->names.len;
    if (json_is_string(label))
        status = vp_buf_add(&r->names, json_string_value(label), json_string_length(label), err);
    else if (json_is_integer(label))
        status = vp_buf_printf(&r->names, err, "%lld", (long long)json_integer_value(label));
    else
        status = vp_frame_fail(f, VP_DATA, err, "row %lld: no label '%s' in its meta, a string or an integer",
                               (long long)b, r->field);
    p->n = r->names.len - p->at;
    json_decref(o);
    return status;
}

/* Rows of the same ordinal, the words of a sentence, take their turn together. */
static int add_row(reading *r, const vp_frame *f, const vp_column *meta, int64_t b, int64_t first, const float *x,
                   vp_error *err) {
    piece p = {.row = vp_row_ordinal(f, b, first)};
    VP_TRY(add_label(r, f, meta, b, &p, err));
    VP_TRY(vp_buf_add(&r->one, &p, sizeof p, err));
    VP_TRY(vp_buf_add(&r->one, x, (size_t)r->v->dims * sizeof *x, err));
    if (b + 1 < f->B && vp_row_ordinal(f, b + 1, first) == p.row) return VP_OK;
    const int status = vp_row_order_put(&r->order, p.row, r->one.data, r->one.len, &r->pieces, err);
    r->one.len = 0;
    return status;
}

static int take_batch(void *self, const vp_frame *f, vp_error *err) {
    reading *r = self;
    const vp_column *meta = vp_frame_find(f, "meta");
    float *x;
    int64_t first;
    VP_TRY(vp_vectors_batch(r->v, f, &x, err));
    int status = vp_row_order_frame(&r->order, f, &first, &r->pieces, err);
    for (int64_t b = 0; b < f->B && !status; b++)
        status = add_row(r, f, meta && meta->is_values ? meta : NULL, b, first, x + b * r->v->dims, err);
    free(x);
    return status;
}

/* From pieces to arrays. */
static int unpack(vp_labelled *x, const reading *r, vp_error *err) {
    const size_t width = (size_t)x->v.dims * sizeof(float), each = sizeof(piece) + width, n = (size_t)x->v.n;
    x->label = vp_calloc(n + 1, sizeof *x->label);
    x->row = vp_calloc(n + 1, sizeof *x->row);
    x->name = vp_calloc(n + 1, sizeof *x->name);
    if (!x->label || !x->row || !x->name) return vp_fail_memory(err, "labels", n * sizeof *x->row);
    VP_TRY(vp_buf_reserve(&x->v.data, n * width, err));
    for (size_t i = 0; i < n; i++) {
        piece p;
        memcpy(&p, r->pieces.data + i * each, sizeof p);
        x->row[i] = p.row;
        VP_TRY(vp_buf_add(&x->v.data, r->pieces.data + i * each + sizeof p, width, err));
        VP_TRY(vp_buf_add(&x->names, r->names.data + p.at, p.n, err));
        x->name[i + 1] = x->names.len;
    }
    return VP_OK;
}

int vp_labelled_read(vp_labelled *x, vp_score_file f, const char *field, vp_error *err) {
    *x = (vp_labelled){.v.name = f.name};
    reading r = {.v = &x->v, .field = field};
    int status = vp_buf_reserve(&r.names, 1, err); /* empty labels have an address, too */
    if (!status) status = vp_buf_reserve(&x->names, 1, err);
    if (!status) status = vp_vectors_stream(&x->v, f, take_batch, &r, err);
    vp_error late = {0};
    const int finished = vp_row_order_finish(&r.order, &r.pieces, &late);
    if (!status && finished) status = vp_fail(err, finished, "%s", late.text);
    if (!status) status = unpack(x, &r, err);
    if (!status && !x->v.n) status = vp_fail(err, VP_DATA, "%s: no vectors", f.name);
    vp_buf_free(&r.names);
    vp_buf_free(&r.pieces);
    vp_buf_free(&r.one);
    return status;
}

void vp_labelled_free(vp_labelled *x) {
    vp_vectors_free(&x->v);
    vp_buf_free(&x->names);
    free(x->label);
    free(x->row);
    free(x->name);
    *x = (vp_labelled){0};
}

/* ---- numbers ---- */

typedef struct named {
    const char *s;
    size_t n;
    int32_t *label;
    bool train;
} named;

static int compare(const named *a, const named *b) {
    const int order = memcmp(a->s, b->s, a->n < b->n ? a->n : b->n);
    return order ? order : (a->n > b->n) - (a->n < b->n);
}

static int by_name(const void *a, const void *b) {
    return compare(a, b);
}

static size_t list(named *out, vp_labelled *x, bool train) {
    for (int64_t i = 0; i < x->v.n; i++)
        out[i] = (named){x->names.data + x->name[i], x->name[i + 1] - x->name[i], &x->label[i], train};
    return (size_t)x->v.n;
}

/* Numbers the groups of equal names that are, or are not, of the training set. */
static void number(named *all, size_t n, bool train, int32_t *next) {
    for (size_t i = 0, end; i < n; i = end) {
        bool known = false;
        for (end = i; end < n && compare(&all[i], &all[end]) == 0; end++) known |= all[end].train;
        for (size_t j = i; known == train && j < end; j++) *all[j].label = *next;
        *next += known == train;
    }
}

int vp_labelled_number(vp_labelled *train, vp_labelled *test, vp_label_counts *counts, vp_error *err) {
    const size_t n = (size_t)train->v.n + (test ? (size_t)test->v.n : 0);
    named *all = vp_calloc(n + 1, sizeof *all);
    int32_t next = 0;
    if (!all) return vp_fail_memory(err, "labels", n * sizeof *all);
    const size_t own = list(all, train, true);
    if (test) list(all + own, test, false);
    qsort(all, n, sizeof *all, by_name);
    number(all, n, true, &next);
    counts->classes = next;
    number(all, n, false, &next);
    counts->unknown = next - counts->classes;
    free(all);
    if (counts->classes > 1) return VP_OK;
    return vp_fail(err, VP_DATA, "%s: all rows have the same label", train->v.name);
}
