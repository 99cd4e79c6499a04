/* The latent-attention layer: the worked example of NV-Embed, a double-precision reference of both forms, gradients by
 * finite differences on odd shapes, the folded form, sums that do not depend on how a step is cut, and PyTorch's values
 * (tests/golden/make_latent.py). */
#include "lib/model/latent_layer.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- a layer with its numbers ---- */

typedef struct fixture {
    vp_latent_sizes s;
    vp_latent_layout at;
    int64_t C, n;
    vp_compute on;
    float *value, *grad, *h, *y, *dy, *dh;
    vp_latent_layer *layer;
} fixture;

static float *floats(int64_t n) {
    float *p = vp_calloc((size_t)n, sizeof *p);
    if (!p) abort();
    return p;
}

/* In -1 .. 1, the same in every run. */
static float number(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)((double)(*state >> 8) / 8388608.0 - 1);
}

static void must(int status, const vp_error *err) {
    if (!status) return;
    printf("Bail out! %s\n", err->text);
    exit(1);
}

static void open_layer(fixture *f, bool train, bool fold) {
    vp_error err = {0};
    vp_latent_layer_options o = {.sizes = f->s, .width = f->C, .on = f->on, .value = f->value, .fold = fold};
    if (train) o.grad = f->grad;
    must(vp_latent_layer_open(&f->layer, &o, &err), &err);
}

static fixture open_fixture(const vp_latent_sizes *s, int64_t C, int64_t n, int threads) {
    vp_error err = {0};
    fixture f = {.s = *s, .C = C, .n = n, .on = {.ops = vp_backend_cpu(), .type = VP_F32}};
    must(vp_latent_complete(&f.s, C, &err), &err);
    f.at = vp_latent_layout_of(&f.s, C);
    must(f.on.ops->open(&f.on.device, &(vp_device_options){.threads = threads}, &err), &err);
    must(f.on.ops->queue_open(&f.on.queue, f.on.device, &err), &err);
    f.value = floats(f.at.count);
    f.grad = floats(f.at.count);
    f.h = floats(n * C);
    f.y = floats(n * C);
    f.dy = floats(n * C);
    f.dh = floats(n * C);
    uint32_t state = 7;
    vp_latent_start(&f.s, C, 3, f.value);
    for (int64_t i = 0; i < f.at.count; i++)
        f.value[i] += 0.2f * number(&state); /* norms that are no identities, too */
    for (int64_t i = 0; i < n * C; i++) f.h[i] = 2 * number(&state);
    for (int64_t i = 0; i < n * C; i++) f.dy[i] = number(&state);
    return f;
}

static void close_fixture(fixture *f) {
    vp_latent_layer_close(f->layer);
    f->on.ops->queue_close(f->on.queue);
    f->on.ops->close(f->on.device);
    float *const all[] = {f->value, f->grad, f->h, f->y, f->dy, f->dh};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* Forward and backward of the rows in units of these lengths (0: the end). */
static void train(fixture *f, const int64_t *units) {
    vp_error err = {0};
    int64_t t = 0;
    memset(f->grad, 0, (size_t)f->at.count * sizeof *f->grad);
    for (; *units && t < f->n; t += *units++) {
        const size_t mark = f->on.ops->arena_mark(f->on.queue);
        vp_latent_saved saved;
        must(vp_latent_layer_forward(f->layer, f->h + t * f->C, *units, &saved, &err), &err);
        memcpy(f->y + t * f->C, saved.y.ptr, (size_t)(*units * f->C) * sizeof *f->y);
        must(vp_latent_layer_backward(f->layer, &saved, f->dy + t * f->C, f->dh + t * f->C, &err), &err);
        f->on.ops->arena_release(f->on.queue, mark);
    }
    must(vp_latent_layer_finish(f->layer, &err), &err);
}

/* ---- the reference, in double ---- */

static void ref_norm(const double *x, const double *w, const double *b, int64_t C, double *out) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < C; i++) mean += x[i] / (double)C;
    for (int64_t i = 0; i < C; i++) square += (x[i] - mean) * (x[i] - mean) / (double)C;
    for (int64_t i = 0; i < C; i++) out[i] = (x[i] - mean) / sqrt(square + 1e-5) * w[i] + b[i];
}

static void ref_linear(const double *x, const double *w, const double *b, int64_t in, int64_t out, double *y) {
    for (int64_t o = 0; o < out; o++) {
        y[o] = b ? b[o] : 0;
        for (int64_t i = 0; i < in; i++) y[o] += w[o * in + i] * x[i];
    }
}

static double gelu(double x) {
    return x * 0.5 * (1 + erf(x / sqrt(2)));
}

/* One head: out = softmax(alpha q K^T) V, key j at keys + j ld. */
static void ref_head(const vp_latent_sizes *s, const double *q, const double *keys, const double *values, int64_t ld,
                     double alpha, double *out) {
    double p[64], sum = 0;
    for (int64_t j = 0; j < s->latents; j++) {
        double dot = 0;
        for (int64_t i = 0; i < s->head_width; i++) dot += q[i] * keys[j * ld + i];
        sum += p[j] = exp(alpha * dot);
    }
    for (int64_t i = 0; i < s->head_width; i++) {
        out[i] = 0;
        for (int64_t j = 0; j < s->latents; j++) out[i] += p[j] / sum * values[j * ld + i];
    }
}

/* y [C] of h [C] with the numbers v. */
static void ref_row(const fixture *f, const double *v, const double *h, double *y) {
    const vp_latent_sizes *s = &f->s;
    const int64_t C = f->C, I = s->heads * s->head_width, F = s->inner;
    const int64_t *w = f->at.weight, *b = f->at.bias;
    double keys[64 * 64], context[64], u[64], q[64], o[64], x[64], up[256], out[64];
    const double *k = v + w[VP_LATENTS], *from = h;
    for (int64_t j = 0; !s->plain && j < s->latents; j++) {
        ref_norm(k + j * C, v + w[VP_LATENT_CONTEXT], v + b[VP_LATENT_CONTEXT], C, context);
        ref_linear(context, v + w[VP_LATENT_KV], NULL, C, 2 * I, keys + j * 2 * I);
    }
    memcpy(q, h, (size_t)C * sizeof *q);
    if (!s->plain) {
        ref_norm(h, v + w[VP_LATENT_NORM], v + b[VP_LATENT_NORM], C, u);
        ref_linear(u, v + w[VP_LATENT_Q], NULL, C, I, q);
        k = keys;
    }
    const double *values = s->plain ? k : k + I, alpha = s->plain ? 1 : 1 / sqrt((double)s->head_width);
    for (int64_t a = 0; a < I; a += s->head_width)
        ref_head(s, q + a, k + a, values + a, s->plain ? C : 2 * I, alpha, o + a);
    from = o;
    if (!s->plain) {
        ref_linear(o, v + w[VP_LATENT_OUT], NULL, I, C, x);
        for (int64_t i = 0; i < C; i++) x[i] += h[i];
        ref_norm(x, v + w[VP_LATENT_NORM_2], v + b[VP_LATENT_NORM_2], C, u);
        from = u;
    }
    ref_linear(from, v + w[VP_LATENT_UP], v + b[VP_LATENT_UP], C, s->plain ? F : 2 * F, up);
    for (int64_t i = 0; i < F; i++) up[i] = s->plain ? gelu(up[i]) : up[i] * gelu(up[F + i]);
    ref_linear(up, v + w[VP_LATENT_DOWN], v + b[VP_LATENT_DOWN], F, C, out);
    for (int64_t i = 0; i < C; i++) y[i] = out[i] + (s->plain ? 0 : x[i]);
}

/* The sum of dy * y over all rows. */
static double ref_loss(const fixture *f, const double *v, const double *h) {
    double sum = 0, y[64];
    for (int64_t t = 0; t < f->n; t++) {
        ref_row(f, v, h + t * f->C, y);
        for (int64_t i = 0; i < f->C; i++) sum += (double)f->dy[t * f->C + i] * y[i];
    }
    return sum;
}

static double *doubles(const float *x, int64_t n) {
    double *p = vp_calloc((size_t)n, sizeof *p);
    if (!p) abort();
    for (int64_t i = 0; i < n; i++) p[i] = (double)x[i];
    return p;
}

/* The largest difference of `grad` from central differences along `x`, one of v and h; relative to the largest one. */
static double worst_difference(const fixture *f, double *v, double *h, double *x, const float *grad, int64_t n) {
    double worst = 0, largest = 1e-3;
    for (int64_t i = 0; i < n; i++) {
        const double was = x[i], step = 1e-5;
        x[i] = was + step;
        const double above = ref_loss(f, v, h);
        x[i] = was - step;
        const double slope = (above - ref_loss(f, v, h)) / (2 * step);
        x[i] = was;
        if (!(fabs(slope - (double)grad[i]) <= 1e9)) return NAN;
        worst = fmax(worst, fabs(slope - (double)grad[i]));
        largest = fmax(largest, fabs(slope));
    }
    return worst / largest;
}

static const struct {
    const char *name;
    vp_latent_sizes s;
    int64_t C, n;
} cases[] = {
    {"gated", {.latents = 5, .heads = 3, .head_width = 4, .inner = 7}, 6, 11},
    {"gated, one latent, one head", {.latents = 1, .heads = 1, .head_width = 3, .inner = 1}, 5, 3},
    {"gated, as the width has it", {.latents = 9}, 3, 4},
    {"plain", {.latents = 7, .heads = 2, .inner = 5, .plain = true}, 6, 10},
    {"plain, heads that divide", {.latents = 3, .plain = true}, 9, 5},
};

static void test_against_reference(void) {
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        fixture f = open_fixture(&cases[c].s, cases[c].C, cases[c].n, 1);
        open_layer(&f, true, false);
        train(&f, (const int64_t[]){f.n, 0});
        double *v = doubles(f.value, f.at.count), *h = doubles(f.h, f.n * f.C), want[64], off = 0;
        for (int64_t t = 0; t < f.n; t++) {
            ref_row(&f, v, h + t * f.C, want);
            for (int64_t i = 0; i < f.C; i++) off = fmax(off, fabs(want[i] - (double)f.y[t * f.C + i]));
            if (!isfinite(f.y[t * f.C])) off = NAN;
        }
        OK(off <= 2e-5, "%s: forward, off by %.2g", cases[c].name, off);
        vp_latent_tensor t;
        for (size_t i = 0; vp_latent_tensor_at(&f.s, f.C, i, &t); i++) {
            const double d = worst_difference(&f, v, h, v + t.first, f.grad + t.first, t.rows * t.cols);
            OK(d <= 2e-5, "%s: gradient of %s, off by %.2g", cases[c].name, t.name, d);
        }
        const double d = worst_difference(&f, v, h, h, f.dh, f.n * f.C);
        OK(d <= 2e-5, "%s: gradient of h, off by %.2g", cases[c].name, d);
        free(v);
        free(h);
        close_fixture(&f);
    }
}

/* The vector of the worked example, whose first token is not kept, by a pooler that is given the numbers. */
static void test_worked_vector(const fixture *f, const float *h) {
    static const int32_t cu[] = {0, 3};
    static const uint8_t keep[] = {0, 1, 1};
    static const double e[] = {0.832048, 0.554703};
    const int64_t offsets = 2, tokens = 3;
    vp_error err = {0};
    vp_pooler *p;
    vp_frame *frame = vp_frame_new(VP_FRAME_BATCH, &err);
    const vp_pool_options o = {.kind = "latent", .normalize = 1, .trained = true};
    float *emb = NULL;
    int64_t n = 0, empty = 0;
    must(vp_pooler_open(&p, &o, NULL, &err), &err);
    must(vp_frame_put(frame, "cu", VP_I32, 1, &offsets, cu, &err), &err);
    must(vp_frame_put(frame, "keep", VP_U8, 1, &tokens, keep, &err), &err);
    vp_error none = {0};
    OK(vp_pooler_run(p, frame, h, 2, &empty, &none) == VP_USAGE, "before the numbers come: %s", none.text);
    vp_pooler_give(p, &f->s, 2, f->value);
    must(vp_pooler_run(p, frame, h, 2, &empty, &err), &err);
    must(vp_frame_floats(frame, "emb", &emb, &n, &err), &err);
    OK(n == 2 && fabs((double)emb[0] - e[0]) <= 1e-6 && fabs((double)emb[1] - e[1]) <= 1e-6, "its vector: %.6f %.6f",
       (double)emb[0], (double)emb[1]);
    free(emb);
    vp_frame_free(frame);
    vp_pooler_close(p);
}

/* The toy layer: y = x + LN(x) * gelu(LN(x)), all projections the identity. */
static void test_worked_example(void) {
    static const float one[] = {1, 0, 0, 1}, twice[] = {1, 0, 0, 1, 1, 0, 0, 1}, latents[] = {1, 0, 0, 2};
    static const float h[] = {1, 3, 2, 0, 0, 1};
    static const double y[] = {0.270278, 4.729719, 3.729704, -0.729707, -0.729717, 2.729712};
    const vp_latent_sizes s = {.latents = 2, .heads = 1, .head_width = 2, .inner = 2};
    for (int fold = 0; fold < 2; fold++) {
        fixture f = open_fixture(&s, 2, 3, 1);
        vp_error err = {0};
        const int64_t *w = f.at.weight;
        memset(f.value, 0, (size_t)f.at.count * sizeof *f.value);
        memcpy(f.value + w[VP_LATENTS], latents, sizeof latents);
        const vp_latent_role norms[] = {VP_LATENT_NORM, VP_LATENT_CONTEXT, VP_LATENT_NORM_2};
        for (int i = 0; i < 3; i++) f.value[w[norms[i]]] = f.value[w[norms[i]] + 1] = 1;
        memcpy(f.value + w[VP_LATENT_Q], one, sizeof one);
        memcpy(f.value + w[VP_LATENT_KV], twice, sizeof twice);
        memcpy(f.value + w[VP_LATENT_OUT], one, sizeof one);
        memcpy(f.value + w[VP_LATENT_UP], twice, sizeof twice);
        memcpy(f.value + w[VP_LATENT_DOWN], one, sizeof one);
        open_layer(&f, false, fold);
        must(vp_latent_layer_run(f.layer, h, 3, f.y, &err), &err);
        double off = 0;
        for (int i = 0; i < 6; i++) off = fmax(off, fabs((double)f.y[i] - y[i]));
        OK(off <= 1.5e-6 && isfinite(f.y[0]), "the worked example%s, off by %.2g", fold ? ", folded" : "", off);
        if (!fold) test_worked_vector(&f, h);
        close_fixture(&f);
    }
}

/* However a step is cut into calls, its units' sums are the same bytes, with 1 and with 2 threads. */
static void test_same_bytes(void) {
    const vp_latent_sizes s = {.latents = 17, .heads = 3, .head_width = 20, .inner = 33};
    fixture a = open_fixture(&s, 36, 300, 1), b = open_fixture(&s, 36, 300, 2);
    float *rows = floats(300 * 36);
    vp_error err = {0};
    open_layer(&a, true, false);
    open_layer(&b, true, false);
    const int64_t units[] = {7, 1, 150, 142, 0};
    train(&a, units);
    train(&b, units);
    const size_t n = (size_t)a.at.count * sizeof(float), bytes = 300 * 36 * sizeof(float);
    OK(!memcmp(a.grad, b.grad, n) && !memcmp(a.dh, b.dh, bytes) && !memcmp(a.y, b.y, bytes), "1 and 2 threads");
    must(vp_latent_layer_run(b.layer, b.h, 300, rows, &err), &err);
    OK(!memcmp(a.y, rows, bytes), "rows of a unit and rows of a block are the same bytes");
    for (int64_t t = 0; t < 300; t += 37)
        must(vp_latent_layer_run(b.layer, b.h + t * 36, 1, rows + t * 36, &err), &err);
    OK(!memcmp(a.y, rows, bytes), "a row alone is the same bytes");
    close_fixture(&a);
    close_fixture(&b);
    free(rows);
}

/* Folding changes nothing but rounding, and a row still does not see its neighbours; nor does the latents' order
 * matter.
 */
static void test_folded(void) {
    const vp_latent_sizes s = {.latents = 24, .heads = 4, .head_width = 32, .inner = 64};
    fixture f = open_fixture(&s, 32, 70, 1);
    float *folded = floats(70 * 32), *alone = floats(32), *turned = floats(70 * 32);
    vp_error err = {0};
    open_layer(&f, false, false);
    must(vp_latent_layer_run(f.layer, f.h, 70, f.y, &err), &err);
    vp_latent_layer_close(f.layer);
    open_layer(&f, false, true);
    must(vp_latent_layer_run(f.layer, f.h, 70, folded, &err), &err);
    must(vp_latent_layer_run(f.layer, f.h + 69 * 32, 1, alone, &err), &err);
    const double off = relative_error(folded, f.y, 70 * 32);
    OK(off <= 1e-6 && off > 0, "folded, off by %.2g", off);
    OK(!memcmp(alone, folded + 69 * 32, 32 * sizeof(float)), "folded: a row alone is the same bytes");
    vp_latent_layer_close(f.layer);
    float *latents = f.value + f.at.weight[VP_LATENTS], swap[32];
    for (int64_t j = 0; j < 12; j++) {
        memcpy(swap, latents + j * 32, sizeof swap);
        memcpy(latents + j * 32, latents + (23 - j) * 32, sizeof swap);
        memcpy(latents + (23 - j) * 32, swap, sizeof swap);
    }
    open_layer(&f, false, true);
    must(vp_latent_layer_run(f.layer, f.h, 70, turned, &err), &err);
    const double moved = relative_error(turned, folded, 70 * 32);
    OK(moved <= 1e-6, "latents in another order, off by %.2g", moved);
    close_fixture(&f);
    free(folded);
    free(alone);
    free(turned);
}

/* ---- sizes and starts ---- */

static void test_sizes(void) {
    vp_error err = {0};
    vp_latent_sizes s;
    OK(!vp_latent_parse("latents=7,heads=2,width=3,inner=5,form=plain", &s, &err) && s.latents == 7 && s.heads == 2 &&
           s.head_width == 3 && s.inner == 5 && s.plain,
       "a specification %s", err.text);
    OK(!vp_latent_parse("", &s, &err) && !vp_latent_complete(&s, 576, &err) && s.latents == 512 && s.heads == 8 &&
           s.head_width == 576 && s.inner == 2304 && !s.plain,
       "what is left open fits the width %s", err.text);
    static const char *const bad[] = {"latents",  "latents=0", "latents=-1", "latents=3,latents=3",
                                      "heads=1x", "form=",     "form=big",   "latents=99999999999999999999",
                                      "x=1",      "latents= 3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (vp_error){0};
        OK(vp_latent_parse(bad[i], &s, &err) == VP_USAGE, "'%s': %s", bad[i], err.text);
    }
    s = (vp_latent_sizes){.plain = true, .heads = 3, .head_width = 5};
    err = (vp_error){0};
    OK(vp_latent_complete(&s, 16, &err) == VP_USAGE, "heads that do not make the width: %s", err.text);
    s = (vp_latent_sizes){.latents = 512, .heads = 8, .head_width = 4096, .inner = 16384};
    OK(vp_latent_layout_of(&s, 4096).count == 740356096, "the published layer has 740,356,096 numbers");
}

static void test_start(void) {
    vp_error err = {0};
    vp_latent_sizes s = {.latents = 400};
    must(vp_latent_complete(&s, 30, &err), &err);
    const vp_latent_layout at = vp_latent_layout_of(&s, 30);
    float *a = floats(at.count), *b = floats(at.count), *c = floats(at.count);
    vp_latent_start(&s, 30, 5, a);
    vp_latent_start(&s, 30, 5, b);
    vp_latent_start(&s, 30, 6, c);
    const size_t bytes = (size_t)at.count * sizeof *a;
    OK(!memcmp(a, b, bytes) && memcmp(a, c, bytes), "a seed has one start");
    double sum = 0, squares = 0, widest = 0, bound = 1 / sqrt(30.0);
    for (int64_t i = 0; i < 12000; i++) {
        sum += (double)a[i];
        squares += (double)a[i] * (double)a[i];
    }
    OK(fabs(sum / 12000) < 0.03 && fabs(squares / 12000 - 1) < 0.05, "latents: mean %.3f, variance %.3f", sum / 12000,
       squares / 12000);
    for (int64_t i = at.weight[VP_LATENT_Q]; i < at.weight[VP_LATENT_KV]; i++)
        widest = fmax(widest, fabs((double)a[i]));
    OK(widest <= bound && widest > 0.99 * bound, "a linear: within %.4f of %.4f", widest, bound);
    OK(a[at.weight[VP_LATENT_NORM]] == 1 && a[at.bias[VP_LATENT_NORM]] == 0 && a[at.bias[VP_LATENT_DOWN]] != 0,
       "norms are the identity, linears' biases are not 0");
    free(a);
    free(b);
    free(c);
}

int main(void) {
    test_worked_example();
    test_against_reference();
    test_same_bytes();
    test_folded();
    test_sizes();
    test_start();
    return done();
}
