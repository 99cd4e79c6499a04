/* The golden models with FP8 products: near what PyTorch computes in f32, to the byte alone and in any batch, and by
 * name refused where it cannot be. On a device without FP8, that this is what it says. */
#include "lib/model/training.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rounding to 3 bits after the leading one changes a number by up to 2^-4 of it, 0.036 in the root mean square where it
 * is evenly distributed; a product of two such operands gets noise of 0.036 sqrt(2) of its size, 0.0026 of its power.
 * The MLP chains two products, 0.0052, and attention's output is one behind those in bf16, 0.0026: 0.0039 of what the
 * two add to the stream in equal parts. 1 - cosine is half of the noise's power: 0.002 a layer, 0.0039 with two. Twice
 * that is allowed for the mean over tokens, as the halves are not exact, and eight times for one token. */
static const double MEAN = 0.0078, MOST = 0.0312;

static const vp_encode_options FP8 = {.threads = 1, .attention = "bi", .compute = "fp8"};

static double cosine(const float *a, const float *b, int64_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

static void check_near(const char *name, const float *got, const tensor *want) {
    const int64_t rows = want->n / want->cols;
    double sum = 0, most = 0;
    for (int64_t i = 0; i < rows; i++) {
        const double off = 1 - cosine(got + i * want->cols, want->f + i * want->cols, want->cols);
        sum += off;
        if (!(off <= most)) most = off;
    }
    OK(sum / (double)rows <= MEAN && most <= MOST && most > 1e-5, "%s: 1 - cosine %.5f, at most %.5f", name,
       sum / (double)rows, most);
}

/* Each text alone, and all of them in micro-batches of a text. */
static void check_batches(const char *name, vp_model *m, const tensor *ids, const tensor *cu, const packed *all,
                          const float *want, int64_t width) {
    vp_error err = {0};
    vp_encode_options o = FP8;
    bool same = true;
    for (int64_t b = 0; b + 1 < cu->n; b++) {
        packed one = pack_rows(ids->i, cu->i, cu->n - 1, &b, 1);
        float *got = encode_with(m, one.frame, &o, &err);
        const size_t bytes = (size_t)((cu->i[b + 1] - cu->i[b]) * width) * sizeof *got;
        same = same && got && memcmp(got, want + cu->i[b] * width, bytes) == 0;
        free(got);
        packed_free(&one);
    }
    OK(same, "%s: a text alone has the bytes that it has in a batch", name);
    o.batch_tokens = 1;
    float *got = encode_with(m, all->frame, &o, &err);
    OK(got && memcmp(got, want, (size_t)(ids->n * width) * sizeof *got) == 0, "%s: in any batch", name);
    free(got);
}

static void refused(const char *name, vp_model *m, const vp_encode_options *o, const char *why) {
    vp_encoder *e = NULL;
    vp_error err = {0};
    OK(vp_encoder_open(&e, m, o, NULL, &err) == VP_USAGE && strstr(err.text, why), "%s: %s", name, err.text);
    vp_encoder_close(e);
}

static void check_refusals(const char *name, vp_model *m) {
    vp_encode_options o = FP8;
    vp_error err = {0};
    o.generate = true;
    refused(name, m, &o, "fp8 is for embedding");
    const vp_train_options train = {.rank = 2, .alpha = 4};
    o = FP8;
    o.train = &train;
    refused(name, m, &o, "fp8 is for embedding");
    OK(!vp_model_add_adapter(m, golden_path("%s/adapter", name), &err), "%s: adapter %s", name, err.text);
    refused(name, m, &FP8, "fp8 takes no adapters: merge them");
}

static void check_model(const char *name, bool refusals) {
    vp_error err = {0};
    vp_model *m = NULL;
    vp_source *g = NULL;
    if (!OK(!vp_model_open(&m, golden_path("%s", name), &err) &&
                !vp_source_open(&g, golden_path("%s/golden.safetensors", name), &err),
            "%s opens %s", name, err.text)) {
        vp_model_close(m);
        return;
    }
    tensor ids = tensor_read(g, "ids"), cu = tensor_read(g, "cu"), want = tensor_read(g, "bidir.hidden");
    packed p = pack_rows(ids.i, cu.i, cu.n - 1, NULL, 0);
    float *got = encode_with(m, p.frame, &FP8, &err);
    if (!got) {
        OK(strstr(err.text, "compute type fp8: the device (cpu ") && strstr(err.text, "GPUs of sm_90 have"),
           "%s: refused: %s", name, err.text);
    } else {
        check_near(name, got, &want);
        check_batches(name, m, &ids, &cu, &p, got, want.cols);
        if (refusals) check_refusals(name, m);
    }
    free(got);
    packed_free(&p);
    tensor_free(&ids);
    tensor_free(&cu);
    tensor_free(&want);
    vp_source_close(g);
    vp_model_close(m);
}

int main(void) {
    static const char *const models[] = {"llama",          "llama-gqa-tied", "llama3-rope", "mistral", "bert",
                                         "mistral-window", "qwen2",          "qwen3",       "gemma",   "gptj"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) check_model(models[i], i == 0);
    return done();
}
