/* Every architecture of the table against what PyTorch computes: hidden states, poolings, adapters, segments. */
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>

static const double BOUND = 1e-4; /* of the largest value */

static void compare(const char *model, const char *what, const float *got, const tensor *want, const vp_error *err) {
    double e = got ? relative_error(got, want->f, want->n) : 1;
    OK(got && e <= BOUND, "%s %s: %.1e %s", model, what, e, err->text);
}

static void check_hidden(const char *name, vp_model *m, const vp_source *g, const vp_frame *f, const char *attention,
                         const char *key) {
    if (!vp_source_find(g, key)) return; /* an encoder has no causal values */
    vp_error err = {0};
    tensor want = tensor_read(g, key);
    float *got = encode(m, f, attention, 1, 0, &err);
    compare(name, key, got, &want, &err);
    free(got);
    tensor_free(&want);
}

static void check_pooling(const char *name, vp_model *m, const vp_source *g, vp_frame *f, const char *kind) {
    vp_error err = {0};
    char key[40];
    snprintf(key, sizeof key, "bidir.%s", kind);
    tensor want = tensor_read(g, key);
    float *hidden = encode(m, f, "bi", 1, 0, &err);
    vp_pooler *p = NULL;
    vp_pool_options o = {.kind = kind, .normalize = 0};
    int64_t empty = 0, n = 0;
    float *emb = NULL;
    if (hidden && !vp_pooler_open(&p, &o, NULL, &err) && !vp_pooler_run(p, f, hidden, want.cols, &empty, &err))
        vp_frame_floats(f, "emb", &emb, &n, &err);
    compare(name, key, n == want.n ? emb : NULL, &want, &err);
    OK(empty == 0, "%s %s: no row is empty", name, key);
    vp_frame_drop(f, "emb");
    vp_pooler_close(p);
    free(emb);
    free(hidden);
    tensor_free(&want);
}

/* A prefix and two branches that share positions and do not see each other. */
static void check_segments(const char *name, vp_model *m, const vp_source *g) {
    vp_error err = {0};
    tensor ids = tensor_read(g, "llara.ids"), pos = tensor_read(g, "llara.pos"), want = tensor_read(g, "llara.hidden");
    const int32_t cu[] = {0, (int32_t)ids.n};
    packed p = pack_rows(ids.i, cu, 1, NULL, 0);
    const vp_tensor_info *seg = vp_source_find(g, "llara.seg");
    if (seg && !vp_frame_put(p.frame, "pos", VP_I32, 1, &ids.n, pos.i, &err) &&
        !vp_frame_put(p.frame, "seg", VP_U8, 1, &ids.n, seg->data, &err)) {
        float *got = encode(m, p.frame, "segments", 1, 0, &err);
        compare(name, "llara.hidden", got, &want, &err);
        free(got);
    }
    packed_free(&p);
    tensor_free(&ids);
    tensor_free(&pos);
    tensor_free(&want);
}

static void check_model(const char *name) {
    vp_error err = {0};
    vp_model *m = NULL;
    vp_source *g = NULL;
    if (!OK(!vp_model_open(&m, golden_path("%s", name), &err) &&
                !vp_source_open(&g, golden_path("%s/golden.safetensors", name), &err),
            "%s opens %s", name, err.text)) {
        vp_model_close(m);
        return;
    }
    tensor ids = tensor_read(g, "ids"), cu = tensor_read(g, "cu");
    packed p = pack_rows(ids.i, cu.i, cu.n - 1, NULL, 0);
    check_hidden(name, m, g, p.frame, "causal", "causal.hidden");
    check_hidden(name, m, g, p.frame, "bi", "bidir.hidden");
    static const char *const kinds[] = {"mean", "weighted_mean", "last"};
    for (int i = 0; i < 3; i++) check_pooling(name, m, g, p.frame, kinds[i]);
    if (vp_source_find(g, "llara.ids")) check_segments(name, m, g);
    if (vp_source_find(g, "lora.bidir.hidden") &&
        OK(!vp_model_add_adapter(m, golden_path("%s/adapter", name), &err), "%s adapter opens %s", name, err.text))
        check_hidden(name, m, g, p.frame, "bi", "lora.bidir.hidden");
    packed_free(&p);
    tensor_free(&ids);
    tensor_free(&cu);
    vp_source_close(g);
    vp_model_close(m);
}

int main(void) {
    static const char *const models[] = {"llama", "llama-gqa-tied", "llama3-rope", "mistral",
                                         "bert",  "mistral-window", "qwen2",       "qwen3",
                                         "gemma", "gptj",           "mixtral"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) check_model(models[i]);
    return done();
}
