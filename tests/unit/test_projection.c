/* The projection behind pooling: gradients against differences, of its own numbers and of hidden states, and that they
 * do not see how units are spread over batches; rows with nothing to pool. */
#include "lib/model/projection.h"
#include "lib/model/training.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { C = 5, D = 3, T = 9, B = 4, N = D * C + D }; /* width, dimensions, tokens, rows, numbers of the projection */

static const int32_t cu[] = {0, 3, 4, 7, T}, units[] = {0, 0, 1, 2};
static const uint8_t keep[] = {0, 1, 1, 1, 1, 0, 1, 0, 0}; /* of the last row nothing */

static void must(int status, const vp_error *err) {
    if (!status) return;
    printf("Bail out! %s\n", err->text);
    exit(1);
}

static float wave(int64_t i) {
    return (float)sin(1.7 * (double)i + 0.3 * (double)(i % 7));
}

typedef struct part { /* rows [b0, b1) */
    vp_frame *f;
    int32_t cu[B + 1];
    int64_t b0, rows, tokens;
} part;

static part part_of(int64_t b0, int64_t b1) {
    vp_error err = {0};
    part p = {.f = vp_frame_new(VP_FRAME_BATCH, &err), .b0 = b0, .rows = b1 - b0, .tokens = cu[b1] - cu[b0]};
    if (!p.f) must(err.code, &err);
    for (int64_t b = 0; b <= p.rows; b++) p.cu[b] = cu[b0 + b] - cu[b0];
    return p;
}

/* The columns lie in the part, which must not move. */
static void put_columns(part *p) {
    vp_error err = {0};
    const int64_t offsets = p->rows + 1;
    p->f->B = p->rows;
    p->f->T = p->tokens;
    must(vp_frame_put(p->f, "cu", VP_I32, 1, &offsets, p->cu, &err), &err);
    must(vp_frame_put(p->f, "keep", VP_U8, 1, &p->tokens, keep + cu[p->b0], &err), &err);
    must(vp_frame_put(p->f, "unit", VP_I32, 1, &p->rows, units + p->b0, &err), &err);
}

typedef struct state {
    float value[N], hidden[T * C], grad[N], dhidden[T * C];
    int64_t dims; /* of the vectors, at most D */
} state;

/* vectors [B, dims] of all rows */
static void pool_all(vp_pooler *p, const state *s, float *emb, int64_t *empty) {
    vp_error err = {0};
    float *got = NULL;
    int64_t n = 0;
    part all = part_of(0, B);
    put_columns(&all);
    vp_pooler_give_projection(p, D, C, s->value, NULL);
    must(vp_pooler_run(p, all.f, s->hidden, C, empty, &err), &err);
    must(vp_frame_floats(all.f, "emb", &got, &n, &err), &err);
    for (int64_t i = 0; i < B * s->dims; i++) emb[i] = n == B * s->dims ? got[i] : NAN;
    free(got);
    vp_frame_free(all.f);
}

/* A loss whose gradient is the wave. */
static double loss_of(vp_pooler *p, const state *s) {
    float emb[B * D];
    int64_t empty = 0;
    double sum = 0;
    pool_all(p, s, emb, &empty);
    for (int64_t i = 0; i < B * s->dims; i++) sum += (double)wave(i + 50) * (double)emb[i];
    return sum;
}

static void backward(vp_pooler *p, state *s, int64_t b0, int64_t b1) {
    vp_error err = {0};
    float demb[B * D];
    part some = part_of(b0, b1);
    put_columns(&some);
    for (int64_t i = 0; i < some.rows * s->dims; i++) demb[i] = wave(b0 * s->dims + i + 50);
    vp_pooler_give_projection(p, D, C, s->value, s->grad);
    must(vp_pooler_backward(p, some.f, s->hidden + (int64_t)cu[b0] * C, C, demb, some.rows,
                            s->dhidden + (int64_t)cu[b0] * C, &err),
         &err);
    vp_frame_free(some.f);
}

/* The largest difference to central differences over n numbers, relative to the largest gradient. */
static double off_by(vp_pooler *p, state *s, float *x, const float *grad, int64_t n) {
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        const float was = x[i], h = 1e-2f;
        x[i] = was + h;
        const double up = loss_of(p, s);
        x[i] = was - h;
        const double slope = (up - loss_of(p, s)) / (2 * (double)h), d = fabs(slope - (double)grad[i]);
        x[i] = was;
        if (!(d <= worst)) worst = d;
        if (fabs((double)grad[i]) > largest) largest = fabs((double)grad[i]);
    }
    return worst / largest;
}

static void check(const char *kind, bool normalize, int64_t dims) {
    vp_error err = {0};
    vp_pooler *p;
    const vp_pool_options o = {.kind = kind, .normalize = normalize, .dims = dims, .project = D};
    must(vp_pooler_open(&p, &o, NULL, &err), &err);
    state whole = {.dims = dims ? dims : D};
    for (int64_t i = 0; i < N; i++) whole.value[i] = wave(i);
    for (int64_t i = 0; i < T * C; i++) whole.hidden[i] = wave(i + 100);
    state parts = whole;
    OK(vp_pooler_dims(p, C) == whole.dims, "%s: %lld dimensions", kind, (long long)whole.dims);
    backward(p, &whole, 0, B);
    backward(p, &parts, 0, 2);
    backward(p, &parts, 2, B);
    OK(memcmp(whole.grad, parts.grad, sizeof whole.grad) == 0 &&
           memcmp(whole.dhidden, parts.dhidden, sizeof whole.dhidden) == 0,
       "%s: units in one batch and in two give the same bytes", kind);
    const float grad[2] = {whole.grad[0], whole.grad[N - D]};
    OK(fabsf(grad[0]) > 0 && fabsf(grad[1]) > 0, "%s: there are gradients", kind);
    const double own = off_by(p, &whole, whole.value, whole.grad, N);
    OK(own <= 2e-3, "%s: gradient of the projection, off by %.2g", kind, own);
    const double states = off_by(p, &whole, whole.hidden, whole.dhidden, T * C);
    OK(states <= 2e-3, "%s: gradient of hidden states, off by %.2g", kind, states);
    float emb[B * D];
    int64_t empty = 0;
    pool_all(p, &whole, emb, &empty);
    double sum = 0;
    for (int64_t i = (B - 1) * whole.dims; i < B * whole.dims; i++) sum += fabs((double)emb[i]);
    OK(empty == 1 && !(sum > 0), "%s: a row with nothing to pool stays zeros", kind);
    vp_pooler_close(p);
}

int main(void) {
    check("mean", true, 0);
    check("mean", false, 0);
    check("weighted_mean", true, 2);
    check("last", true, 0);
    return done();
}
