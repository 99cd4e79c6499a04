/* Judgments line by line, and vectors in row order. */
#include "lib/score/private.h"
#include "lib/stream/order.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

int vp_score_lines(vp_score_file f, vp_score_line take, void *self, vp_error *err) {
    vp_records *r;
    vp_record line;
    bool got;
    VP_TRY(vp_records_open(&r, f.fd, f.name, VP_RECORDS_LINES, false, err));
    int status;
    while (!(status = vp_records_next(r, &line, &got, err)) && got && !status) {
        status = take(self, f.name, &line, err);
        if (status) break;
    }
    vp_records_close(r);
    return status;
}

int vp_score_bad(const char *file, const vp_record *line, vp_error *err, const char *format, ...) {
    vp_error why = {0};
    va_list args;
    va_start(args, format);
    vsnprintf(why.text, sizeof why.text, format, args);
    va_end(args);
    return vp_fail(err, VP_DATA, "%s:%lld: %s", file, (long long)line->number, why.text);
}

bool vp_score_number(const char *s, size_t n, double *value) {
    char text[64], *end;
    if (!n || n >= sizeof text) return false;
    memcpy(text, s, n);
    text[n] = '\0';
    if (strspn(text, "0123456789.eE+-") != n) return false;
    *value = strtod(text, &end);
    return *end == '\0' && isfinite(*value);
}

int vp_score_object(json_t **o, const char *file, const vp_record *line, vp_error *err) {
    json_error_t why;
    *o = json_loadb(line->line, line->line_len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (!*o) return vp_score_bad(file, line, err, "not JSON: %s", why.text);
    if (json_is_object(*o)) return VP_OK;
    json_decref(*o);
    *o = NULL;
    return vp_score_bad(file, line, err, "not a JSON object");
}

/* x[dims] to length 1; zeros stay zeros. */
static void scale_to_one(float *x, int64_t dims) {
    double sum = 0;
    for (int64_t i = 0; i < dims; i++) sum += (double)x[i] * x[i];
    const double scale = sum > 0 ? 1 / sqrt(sum) : 0;
    for (int64_t i = 0; i < dims; i++) x[i] = (float)(x[i] * scale);
}

int vp_vectors_batch(vp_vectors *v, const vp_frame *f, float **x, vp_error *err) {
    const vp_column *emb = vp_frame_find(f, "emb");
    if (!emb || emb->is_values || emb->ndim != 2 || emb->shape[1] < 1)
        return vp_frame_fail(f, VP_DATA, err, "no column emb [B, D]: pool makes it");
    if (v->dims && v->dims != emb->shape[1])
        return vp_frame_fail(f, VP_DATA, err, "emb has %lld dimensions, before %lld", (long long)emb->shape[1],
                             (long long)v->dims);
    v->dims = emb->shape[1];
    v->n += f->B;
    return vp_frame_floats(f, "emb", x, NULL, err);
}

static int take_space(vp_vectors *v, const vp_frame *header, vp_error *err) {
    vp_map *encoder = vp_map_sub(header->keys, "encoder");
    const char *space = encoder ? vp_map_str(encoder, "space") : NULL;
    if (space) v->space = vp_strndup(space, strlen(space));
    const bool failed = space && !v->space;
    vp_map_free(encoder);
    return failed ? vp_fail_memory(err, "encoder.space", 1) : VP_OK;
}

static int read_frames(vp_vectors *v, vp_reader *r, vp_score_batch take, void *self, vp_error *err) {
    vp_frame *f;
    VP_TRY(vp_reader_next(r, &f, err));
    VP_TRY(take_space(v, f, err));
    for (;;) {
        VP_TRY(vp_reader_next(r, &f, err));
        if (!f) return VP_OK;
        if (f->kind == VP_FRAME_BATCH) VP_TRY(take(self, f, err));
    }
}

int vp_vectors_stream(vp_vectors *v, vp_score_file f, vp_score_batch take, void *self, vp_error *err) {
    vp_reader *r;
    VP_TRY(vp_reader_open(&r, f.fd, f.name, err));
    const int status = read_frames(v, r, take, self, err);
    vp_reader_close(r);
    return status;
}

typedef struct reading {
    vp_vectors *v;
    vp_row_order order;
} reading;

static int take_batch(void *self, const vp_frame *f, vp_error *err) {
    reading *r = self;
    float *x;
    int64_t first;
    VP_TRY(vp_vectors_batch(r->v, f, &x, err));
    const int64_t dims = r->v->dims;
    int status = vp_row_order_frame(&r->order, f, &first, &r->v->data, err);
    for (int64_t b = 0; b < f->B && !status; b++) {
        scale_to_one(x + b * dims, dims);
        status = vp_row_order_put(&r->order, vp_row_ordinal(f, b, first), (const char *)(x + b * dims),
                                  (size_t)dims * sizeof *x, &r->v->data, err);
    }
    free(x);
    return status;
}

int vp_vectors_read(vp_vectors *v, vp_score_file f, int64_t rows, const char *what, vp_error *err) {
    *v = (vp_vectors){.name = f.name};
    reading r = {.v = v};
    int status = vp_vectors_stream(v, f, take_batch, &r, err);
    vp_error late = {0};
    const int finished = vp_row_order_finish(&r.order, &v->data, &late);
    if (status) return status;
    if (finished) return vp_fail(err, finished, "%s", late.text);
    if (v->n == rows) return VP_OK;
    return vp_fail(err, VP_DATA, "%s: %lld vectors for %lld %s", f.name, (long long)v->n, (long long)rows, what);
}

int vp_vectors_match(const vp_vectors *a, const vp_vectors *b, vp_error *err) {
    if (a->dims != b->dims)
        return vp_fail(err, VP_DATA, "%s has %lld dimensions, %s %lld: they cannot be compared", a->name,
                       (long long)a->dims, b->name, (long long)b->dims);
    if (a->space && b->space && strcmp(a->space, b->space) != 0)
        return vp_fail(err, VP_DATA, "%s and %s are of different encoders: they cannot be compared", a->name, b->name);
    return VP_OK;
}

double vp_vectors_cosine(const vp_vectors *a, int64_t i, const vp_vectors *b, int64_t j) {
    const float *x = (const float *)(const void *)a->data.data + i * a->dims;
    const float *y = (const float *)(const void *)b->data.data + j * b->dims;
    double sum = 0;
    for (int64_t k = 0; k < a->dims; k++) sum += (double)x[k] * y[k];
    return sum;
}

void vp_vectors_free(vp_vectors *v) {
    vp_buf_free(&v->data);
    free(v->space);
    *v = (vp_vectors){0};
}
