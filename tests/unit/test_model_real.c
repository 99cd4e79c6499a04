/* The two models of the demo against PyTorch, when they have been fetched: vectors of real sentences. */
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static const double BOUND = 0.99999; /* the smallest cosine of a row */

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

static void check(const char *path, const char *golden, const char *key, const char *attention, int normalize) {
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
    if (vp_source_open(&g, golden_path("%s", golden), &err) || vp_model_open(&m, path, &err)) {
        OK(false, "%s opens: %s", path, err.text);
        return;
    }
    tensor ids = tensor_read(g, "ids"), cu = tensor_read(g, "cu"), want = tensor_read(g, key);
    packed batch = pack_rows(ids.i, cu.i, cu.n - 1, NULL, 0);
    vp_pool_options o = {.kind = "mean", .normalize = normalize};
    hidden = encode(m, batch.frame, attention, 0, 0, &err);
    if (hidden && !vp_pooler_open(&p, &o, NULL, &err) &&
        !vp_pooler_run(p, batch.frame, hidden, want.cols, &empty, &err))
        vp_frame_floats(batch.frame, "emb", &emb, &n, &err);
    double cosine = emb && n == want.n ? smallest_cosine(emb, &want) : 0;
    OK(cosine >= BOUND, "%s %s: smallest cosine %.7f %s", golden, key, cosine, err.text);
    double e = emb && n == want.n ? relative_error(emb, want.f, n) : 1;
    OK(e <= 1e-4, "%s %s: within %.1e of the largest value", golden, key, e);
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
    check(smollm2, "smollm2.safetensors", "causal.mean", "causal", 0);
    check(smollm2, "smollm2.safetensors", "bidir.mean", "bi", 0);
    check(minilm, "minilm.safetensors", "emb", NULL, 1);
    return done();
}
