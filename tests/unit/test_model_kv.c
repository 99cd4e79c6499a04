/* Keys and values from an embedding pass: against transformers' cache (golden/kv.safetensors) to bf16's rounding, and
 * the same bytes whatever the micro-batches; hidden states do not notice. */
#include "lib/base/half.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 3 };

/* k and v [2, L, T, G, d]; *hidden too; both the caller's to free. NULL: err. */
static uint16_t *run_kv(vp_model *m, const vp_frame *f, const vp_encode_options *o, float **hidden, vp_error *err) {
    vp_encoder *e = NULL;
    const float *states;
    const uint16_t *kv;
    uint16_t *copy = NULL;
    const vp_kv_shape s = vp_model_kv_shape(m);
    if (!vp_encoder_open(&e, m, o, NULL, err) && !vp_encoder_run_kv(e, f, &states, &kv, err)) {
        *hidden = copy_of(states, (size_t)(f->T * vp_model_width(m)) * sizeof **hidden);
        copy = copy_of(kv, 2 * (size_t)(s.layers * f->T * s.groups * s.head_dim) * sizeof *copy);
    }
    vp_encoder_close(e);
    return copy;
}

/* Beyond half a step of bf16 (2^-8 of the value at most), and what sums in f32 differ by. */
static double worst_excess(const uint16_t *got, const float *want, int64_t n) {
    double worst = -1;
    for (int64_t i = 0; i < n; i++) {
        const double bound = fabs((double)want[i]) / 256 + 1e-5;
        const double over = fabs((double)vp_bf16_float(got[i]) - (double)want[i]) - bound;
        if (!(over <= worst)) worst = over;
    }
    return worst;
}

static void check_golden(const char *name, vp_model *m, const vp_source *g, const packed *p, bool bidir) {
    vp_error err = {0};
    char key[60];
    float *hidden = NULL;
    const vp_encode_options o = {.attention = bidir ? "bi" : "causal", .threads = 1};
    uint16_t *kv = run_kv(m, p->frame, &o, &hidden, &err);
    if (!OK(kv != NULL, "%s gives keys and values %s", name, err.text)) return;
    const vp_kv_shape s = vp_model_kv_shape(m);
    const int64_t half = s.layers * p->frame->T * s.groups * s.head_dim;
    for (int i = 0; i < 2; i++) {
        snprintf(key, sizeof key, "%s.%s.%c", name, bidir ? "bidir" : "causal", i ? 'v' : 'k');
        tensor want = tensor_read(g, key);
        const double over = want.n == half ? worst_excess(kv + i * half, want.f, half) : 1;
        OK(over <= 0, "%s is transformers' to bf16's rounding (%.1e)", key, over);
        tensor_free(&want);
    }
    float *plain = encode_with(m, p->frame, &o, &err);
    const size_t bytes = (size_t)(p->frame->T * vp_model_width(m)) * sizeof *plain;
    OK(plain && !memcmp(plain, hidden, bytes), "%s: the hidden states are the same bytes without them", name);
    free(plain);
    free(hidden);
    free(kv);
}

/* Micro-batches of one row and threads do not show. */
static void check_parts(const char *name, vp_model *m, const packed *p) {
    vp_error err = {0};
    float *hidden[2] = {0};
    const vp_encode_options whole = {.attention = "bi", .threads = 1};
    const vp_encode_options parts = {.attention = "bi", .threads = 3, .batch_tokens = 1};
    uint16_t *a = run_kv(m, p->frame, &whole, &hidden[0], &err), *b = run_kv(m, p->frame, &parts, &hidden[1], &err);
    const vp_kv_shape s = vp_model_kv_shape(m);
    const size_t bytes = 2 * sizeof *a * (size_t)(s.layers * p->frame->T * s.groups * s.head_dim);
    OK(a && b && !memcmp(a, b, bytes), "%s: the same bytes in micro-batches of a row %s", name, err.text);
    for (int i = 0; i < 2; i++) free(hidden[i]);
    free(a);
    free(b);
}

static void check_model(const char *name, const vp_source *kv) {
    vp_error err = {0};
    vp_model *m = NULL;
    vp_source *g = NULL;
    if (OK(!vp_model_open(&m, golden_path("%s", name), &err) &&
               !vp_source_open(&g, golden_path("%s/golden.safetensors", name), &err),
           "%s opens %s", name, err.text)) {
        tensor ids = tensor_read(g, "ids"), cu = tensor_read(g, "cu");
        packed p = pack_rows(ids.i, cu.i, ROWS, NULL, ROWS);
        check_golden(name, m, kv, &p, false);
        check_golden(name, m, kv, &p, true);
        check_parts(name, m, &p);
        packed_free(&p);
        tensor_free(&ids);
        tensor_free(&cu);
    }
    vp_source_close(g);
    vp_model_close(m);
}

int main(void) {
    static const char *const models[] = {"llama3-rope", "qwen3", "gptj"};
    vp_error err = {0};
    vp_source *kv;
    if (OK(!vp_source_open(&kv, golden_path("kv.safetensors"), &err), "reference values open %s", err.text)) {
        for (size_t i = 0; i < sizeof models / sizeof *models; i++) check_model(models[i], kv);
        vp_source_close(kv);
    }
    return done();
}
