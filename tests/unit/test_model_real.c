/* The two models of the demo against PyTorch, when they have been fetched: vectors of real sentences, in f32 and in
 * bf16. */
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static double smallest_cosine(const float *a, const tensor *b) {
    double least = 1;
    for (int64_t r = 0; r < b->rows; r++) {
        double ab = 0, aa = 0, bb = 0;
        for (int64_t i = r * b->cols; i < (r + 1) * b->cols; i++) {
            ab += (double)a[i] * (double)b->f[i];
            aa += (double)a[i] * (double)a[i];
            bb += (double)b->f[i] * (double)b->f[i];
        }
        double cosine = ab / sqrt(aa * bb);
        if (!(cosine >= least)) least = cosine;
    }
    return least;
}

typedef struct expectation {
    const char *golden, *key, *attention, *compute;
    int normalize;
    double cosine; /* the smallest of a row */
    double error;  /* of the largest value */
} expectation;

static void check(const char *path, const expectation *x) {
    const char *key = x->key;
    vp_error err = {0};
    vp_model *m = NULL;
    vp_source *g = NULL;
    vp_pooler *p = NULL;
    float *hidden = NULL, *emb = NULL;
    int64_t n = 0, empty = 0;
    if (access(path, R_OK)) {
        OK(true, "%s # SKIP no model at %s: make models", key, path);
        return;
    }
    if (vp_source_open(&g, golden_path("%s", x->golden), &err) || vp_model_open(&m, path, &err)) {
        OK(false, "%s opens: %s", path, err.text);
        return;
    }
    tensor ids = tensor_read(g, "ids"), cu = tensor_read(g, "cu"), want = tensor_read(g, key);
    packed batch = pack_rows(ids.i, cu.i, cu.n - 1, NULL, 0);
    vp_pool_options o = {.kind = "mean", .normalize = x->normalize};
    vp_encode_options e = {.attention = x->attention, .compute = x->compute};
    hidden = encode_with(m, batch.frame, &e, &err);
    if (hidden && !vp_pooler_open(&p, &o, NULL, &err) &&
        !vp_pooler_run(p, batch.frame, hidden, want.cols, &empty, &err))
        vp_frame_floats(batch.frame, "emb", &emb, &n, &err);
    double cosine = emb && n == want.n ? smallest_cosine(emb, &want) : 0;
    double error = emb && n == want.n ? relative_error(emb, want.f, n) : 1;
    const bool lacking = strstr(err.text, "AVX512-BF16") != NULL;
    OK(lacking || (cosine >= x->cosine && error <= x->error),
       "%s %s in %s: smallest cosine %.7f, within %.1e of the largest value%s%s", x->golden, key, x->compute, cosine,
       error, lacking ? " # SKIP " : " ", err.text);
    free(hidden);
    free(emb);
    vp_pooler_close(p);
    packed_free(&batch);
    tensor_free(&ids);
    tensor_free(&cu);
    tensor_free(&want);
    vp_model_close(m);
    vp_source_close(g);
}

int main(void) {
    const char *smollm2 = golden_path("../../models/SmolLM2-135M-Instruct.gguf");
    const char *minilm = golden_path("../../models/all-MiniLM-L6-v2");
    static const expectation of_smollm2[] = {
        {"smollm2.safetensors", "causal.mean", "causal", "f32", 0, 0.99999, 1e-4},
        {"smollm2.safetensors", "bidir.mean", "bi", "f32", 0, 0.99999, 1e-4},
        {"smollm2.safetensors", "causal.mean", "causal", "bf16", 0, 0.9999, 0.02},
        {"smollm2.safetensors", "bidir.mean", "bi", "bf16", 0, 0.997, 0.1},
    };
    static const expectation of_minilm[] = {
        {"minilm.safetensors", "emb", NULL, "f32", 1, 0.99999, 1e-4},
        {"minilm.safetensors", "emb", NULL, "bf16", 1, 0.9999, 0.02},
    };
    for (size_t i = 0; i < sizeof of_smollm2 / sizeof *of_smollm2; i++) check(smollm2, &of_smollm2[i]);
    for (size_t i = 0; i < sizeof of_minilm / sizeof *of_minilm; i++) check(minilm, &of_minilm[i]);
    return done();
}
