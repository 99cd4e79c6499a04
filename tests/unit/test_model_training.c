/* The backward pass of whole models: gradients that PyTorch recorded, central differences for every decoder of the
 * table, and the same bytes however a step is cut, recomputed or threaded. */
#include "lib/model/training.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double BOUND = 1e-4; /* of the largest value */

typedef struct setup {
    vp_model *model;
    vp_encoder *encoder;
} setup;

static setup open_setup(const char *name, const vp_train_options *train, const char *attention, int threads,
                        const char *compute, vp_error *err) {
    setup s = {0};
    vp_encode_options o = {.attention = attention, .threads = threads, .compute = compute, .train = train};
    if (!vp_model_open(&s.model, golden_path("%s", name), err) && !vp_encoder_open(&s.encoder, s.model, &o, NULL, err))
        vp_encoder_warm(s.encoder, err);
    return s;
}

static void close_setup(setup *s) {
    vp_encoder_close(s->encoder);
    vp_model_close(s->model);
}

/* Units of whole rows that hold at most 40 tokens. */
static void put_units(packed *p, int32_t *unit, int64_t *row) {
    vp_error err = {0};
    int32_t at = 0, first = 0;
    for (int64_t b = 0; b < p->frame->B; b++) {
        if (b && p->cu[b + 1] - p->cu[first] > 40) {
            at++;
            first = (int32_t)b;
        }
        unit[b] = at;
        row[b] = b;
    }
    vp_frame_put(p->frame, "unit", VP_I32, 1, &p->frame->B, unit, &err);
    vp_frame_put(p->frame, "row", VP_I64, 1, &p->frame->B, row, &err);
    vp_map_set_int(p->frame->keys, "step", 3, &err);
}

/* Forward and backward of a frame in micro-batches that end where a unit ends; dhidden(b, t) by the caller. */
typedef void gradient_fn(const vp_frame *f, int64_t first_token, const float *hidden, float *dhidden, const void *ctx);

static int backpropagate(const setup *s, const packed *p, int64_t parts, gradient_fn *fn, const void *ctx,
                         vp_error *err) {
    const int64_t C = vp_model_width(s->model);
    int32_t *unit = NULL;
    int64_t n = 0;
    int status = vp_frame_ints(p->frame, "unit", &unit, &n, err);
    if (!status) status = vp_encoder_changed(s->encoder, err);
    for (int64_t b = 0, end; !status && b < p->frame->B; b = end) {
        end = b + (p->frame->B + parts - 1) / parts;
        while (end < p->frame->B && unit[end] == unit[end - 1]) end++;
        if (end > p->frame->B) end = p->frame->B;
        vp_frame *f = NULL;
        vp_tape *tape = NULL;
        status = vp_frame_slice(p->frame, b, end, &f, err);
        if (status) break;
        float *hidden = vp_calloc((size_t)(f->T * C), sizeof *hidden), *dh = vp_calloc((size_t)(f->T * C), sizeof *dh);
        size_t mark = vp_encoder_mark(s->encoder);
        status = vp_encoder_forward(s->encoder, f, hidden, &tape, err);
        if (!status) {
            fn(f, p->cu[b], hidden, dh, ctx);
            status = vp_encoder_backward(s->encoder, tape, dh, err);
        }
        vp_tape_free(tape);
        vp_encoder_release_to(s->encoder, mark);
        free(hidden);
        free(dh);
        vp_frame_free(f);
    }
    free(unit);
    return status ? status : vp_encoder_gradient_fetch(s->encoder, err);
}

/* ---- against PyTorch ---- */

typedef struct cross_entropy { /* of rows of hidden with target >= 0; mean over `count` */
    const int32_t *target;
    tensor head; /* [V, C] */
    double count, loss;
} cross_entropy;

static void xent_gradient(const vp_frame *f, int64_t first, const float *hidden, float *dhidden, const void *ctx) {
    cross_entropy *x = (cross_entropy *)ctx;
    const int64_t C = x->head.cols, V = x->head.rows;
    double *logit = vp_calloc((size_t)V, sizeof *logit);
    for (int64_t t = 0; t < f->T; t++) {
        const int32_t target = x->target[first + t];
        double top = -1e300, sum = 0;
        if (target < 0) continue;
        for (int64_t v = 0; v < V; v++) {
            logit[v] = 0;
            for (int64_t c = 0; c < C; c++) logit[v] += (double)hidden[t * C + c] * (double)x->head.f[v * C + c];
            top = fmax(top, logit[v]);
        }
        for (int64_t v = 0; v < V; v++) sum += exp(logit[v] - top);
        x->loss += (top + log(sum) - logit[target]) / x->count;
        for (int64_t v = 0; v < V; v++) {
            const double d = (exp(logit[v] - top) / sum - (v == target)) / x->count;
            for (int64_t c = 0; c < C; c++)
                dhidden[t * C + c] = (float)((double)dhidden[t * C + c] + d * (double)x->head.f[v * C + c]);
        }
    }
    free(logit);
}

static void mean_gradient(const vp_frame *f, int64_t first, const float *hidden, float *dhidden, const void *ctx) {
    (void)hidden;
    const tensor *demb = ctx;
    int32_t *cu = NULL;
    int64_t n = 0;
    vp_error err = {0};
    (void)first;
    const vp_column *rows = vp_frame_find(f, "row");
    vp_frame_ints(f, "cu", &cu, &n, &err);
    for (int64_t b = 0; cu && b < f->B; b++) {
        int64_t r;
        memcpy(&r, rows->data + b * 8, 8);
        for (int64_t t = cu[b]; t < cu[b + 1]; t++)
            for (int64_t c = 0; c < demb->cols; c++)
                dhidden[t * demb->cols + c] = demb->f[r * demb->cols + c] / (float)(cu[b + 1] - cu[b]);
    }
    free(cu);
}

static void compare_gradients(const char *name, const char *what, const setup *s, const vp_source *g) {
    const vp_params *p = vp_encoder_params(s->encoder);
    double worst = 0;
    for (size_t i = 0; i < p->n; i++) {
        char key[200]; /* PEFT on a model with a head names the inner model, too */
        snprintf(key, sizeof key, "%s.grad.base_model.model.model.%s", what,
                 p->param[i].name + strlen("base_model.model."));
        tensor want = tensor_read(g, key);
        double e = relative_error(vp_encoder_gradient(s->encoder) + p->param[i].first, want.f, want.n);
        if (!(e <= worst)) worst = e;
        tensor_free(&want);
    }
    OK(worst <= BOUND, "%s %s: %zu gradients, worst %.1e", name, what, p->n, worst);
}

static tensor read_head(const char *name) {
    vp_error err = {0};
    vp_source *s = NULL;
    vp_source_open(&s, golden_path("%s/model.safetensors", name), &err);
    tensor head = tensor_read(s, vp_source_find(s, "lm_head.weight") ? "lm_head.weight" : "model.embed_tokens.weight");
    vp_source_close(s);
    return head;
}

static void check_xent(const char *name, const vp_source *g, const char *what, const char *attention) {
    vp_error err = {0};
    char adapter[1000];
    const bool next = !strcmp(what, "ntp");
    snprintf(adapter, sizeof adapter, "%s", golden_path("%s/adapter", name));
    tensor ids = tensor_read(g, next ? "ids" : "mntp.ids"), cu = tensor_read(g, "cu");
    tensor target = tensor_read(g, next ? "ids" : "mntp.target");
    char key[40];
    snprintf(key, sizeof key, "%s.loss", what);
    tensor loss = tensor_read(g, key);
    cross_entropy x = {.target = target.i, .head = read_head(name)};
    for (int64_t b = 0; next && b + 1 < cu.n; b++)
        for (int64_t t = cu.i[b]; t < cu.i[b + 1]; t++) target.i[t] = t + 1 < cu.i[b + 1] ? ids.i[t + 1] : -1;
    for (int64_t t = 0; t < target.n; t++) x.count += target.i[t] >= 0;
    packed p = pack_rows(ids.i, cu.i, cu.n - 1, NULL, 0);
    int32_t unit[16];
    int64_t row[16];
    put_units(&p, unit, row);
    vp_train_options train = {.start = adapter, .backward = true};
    setup s = open_setup(name, &train, attention, 2, "f32", &err);
    if (OK(!err.code && !backpropagate(&s, &p, 3, xent_gradient, &x, &err), "%s %s runs %s", name, what, err.text)) {
        OK(fabs(x.loss - (double)loss.f[0]) <= BOUND * x.loss, "%s %s loss %.6f, PyTorch %.6f", name, what, x.loss,
           (double)loss.f[0]);
        compare_gradients(name, what, &s, g);
    }
    close_setup(&s);
    packed_free(&p);
    tensor_free(&x.head);
    tensor_free(&ids);
    tensor_free(&cu);
    tensor_free(&target);
    tensor_free(&loss);
}

static void check_nce(const char *name, const vp_source *g) {
    vp_error err = {0};
    char adapter[1000];
    snprintf(adapter, sizeof adapter, "%s", golden_path("%s/adapter", name));
    tensor ids = tensor_read(g, "ids"), cu = tensor_read(g, "cu"), demb = tensor_read(g, "nce.demb");
    packed p = pack_rows(ids.i, cu.i, cu.n - 1, NULL, 0);
    int32_t unit[16];
    int64_t row[16];
    put_units(&p, unit, row);
    vp_train_options train = {.start = adapter, .backward = true};
    setup s = open_setup(name, &train, "bi", 1, "f32", &err);
    if (OK(!err.code && !backpropagate(&s, &p, 2, mean_gradient, &demb, &err), "%s nce runs %s", name, err.text))
        compare_gradients(name, "nce", &s, g);
    close_setup(&s);
    packed_free(&p);
    tensor_free(&ids);
    tensor_free(&cu);
    tensor_free(&demb);
}

/* ---- any model: a fixed random gradient, its loss sum(dhidden * hidden) ---- */

static float noise(uint32_t i) {
    i = (i ^ 61) ^ (i >> 16);
    i *= 9;
    i ^= i >> 4;
    i *= 0x27d4eb2d;
    i ^= i >> 15;
    return (float)(i & 0xffff) / 32768.0f - 1;
}

typedef struct weighted {
    int64_t C;
    double loss;
} weighted;

static void random_gradient(const vp_frame *f, int64_t first, const float *hidden, float *dhidden, const void *ctx) {
    weighted *w = (weighted *)ctx;
    for (int64_t i = 0; i < f->T * w->C; i++) {
        dhidden[i] = noise((uint32_t)(first * w->C + i));
        w->loss += (double)dhidden[i] * (double)hidden[i];
    }
}

static double loss_at(const setup *s, const packed *p, vp_error *err) {
    weighted w = {.C = vp_model_width(s->model)};
    float *hidden = vp_calloc((size_t)(p->frame->T * w.C), sizeof *hidden),
          *ignored = vp_calloc((size_t)(p->frame->T * w.C), sizeof *ignored);
    if (!vp_encoder_changed(s->encoder, err) && !vp_encoder_forward(s->encoder, p->frame, hidden, NULL, err))
        random_gradient(p->frame, 0, hidden, ignored, &w);
    free(hidden);
    free(ignored);
    return w.loss;
}

/* By how much the loss changes along the gradient g [n] of a tensor x, against what its length `norm` says; the loss
 * moves by about 2 h. */
static double difference(const setup *s, const packed *p, float *x, const float *g, int64_t n, double norm, double h,
                         vp_error *err) {
    float *saved = vp_calloc((size_t)n, sizeof *saved);
    memcpy(saved, x, (size_t)n * sizeof *x);
    double side[2];
    h = h / norm < 0.04 * h ? h / norm : 0.04 * h;
    for (int k = 0; k < 2; k++) {
        for (int64_t j = 0; j < n; j++) x[j] = (float)((double)saved[j] + (k ? -h : h) * (double)g[j] / norm);
        side[k] = loss_at(s, p, err);
    }
    memcpy(x, saved, (size_t)n * sizeof *x);
    free(saved);
    return fabs((side[0] - side[1]) / (2 * h) - norm) / norm;
}

/* The loss along the gradient of one tensor must change as the gradient's length says. Where a step makes a token
 * choose other experts the loss jumps: such models may take a smaller one. */
static void check_differences(const char *name, const char *how, const setup *s, const packed *p) {
    vp_error err = {0};
    weighted w = {.C = vp_model_width(s->model)};
    const vp_params *params = vp_encoder_params(s->encoder);
    float *grad = vp_encoder_gradient(s->encoder);
    const bool jumps = !strcmp(vp_model_arch(s->model), "mixtral");
    double worst = 0;
    const char *where = "";
    if (backpropagate(s, p, 1, random_gradient, &w, &err)) {
        OK(false, "%s %s: %s", name, how, err.text);
        return;
    }
    for (size_t i = 0; i < params->n; i++) {
        float *x = params->value + params->param[i].first, *g = grad + params->param[i].first;
        int64_t n = params->param[i].rows * params->param[i].cols;
        double norm = 0;
        for (int64_t k = 0; k < n; k++) norm += (double)g[k] * (double)g[k];
        norm = sqrt(norm);
        if (!(norm > 0)) {
            worst = NAN;
            where = params->param[i].name;
            continue;
        }
        double e = difference(s, p, x, g, n, norm, 0.5, &err);
        for (double h = 0.1; jumps && !(e <= 1e-3) && h > 0.01; h /= 2) e = difference(s, p, x, g, n, norm, h, &err);
        if (!(e <= worst)) {
            worst = e;
            where = params->param[i].name;
        }
    }
    loss_at(s, p, &err);
    OK(!err.code && worst <= 1e-3, "%s %s: %zu tensors by differences, worst %.1e %s %s", name, how, params->n, worst,
       where, err.text);
}

static packed some_rows(int32_t *unit, int64_t *row) {
    int32_t ids[60], cu[] = {0, 7, 8, 29, 41, 60};
    for (int i = 0; i < 60; i++) ids[i] = 3 + (i * 37) % 300;
    packed p = pack_rows(ids, cu, 5, NULL, 0);
    put_units(&p, unit, row);
    return p;
}

static void shake(const setup *s) { /* B is zero at the start: nothing would reach A */
    const vp_params *p = vp_encoder_params(s->encoder);
    for (int64_t i = 0; i < p->count; i++) p->value[i] += 0.05f * noise((uint32_t)i + 77);
}

static void check_model(const char *name, const char *attention, const vp_train_options *train, const char *how) {
    vp_error err = {0};
    int32_t unit[8];
    int64_t row[8];
    packed p = some_rows(unit, row);
    setup s = open_setup(name, train, attention, 2, "f32", &err);
    if (OK(!err.code, "%s %s opens %s", name, how, err.text)) {
        if (!train->full) shake(&s);
        check_differences(name, how, &s, &p);
    }
    close_setup(&s);
    packed_free(&p);
}

/* ---- the same bytes, and in bf16 the same direction ---- */

typedef struct way {
    int threads, parts;
    vp_recompute recompute;
} way;

static float *gradient_of(const char *name, vp_train_options train, const char *compute, way how, int64_t *n) {
    vp_error err = {0};
    int32_t unit[8];
    int64_t row[8];
    packed p = some_rows(unit, row);
    train.recompute = how.recompute;
    setup s = open_setup(name, &train, "bi", how.threads, compute, &err);
    weighted w = {.C = s.model ? vp_model_width(s.model) : 0};
    float *copy = NULL;
    if (!err.code && !train.full) shake(&s);
    if (!err.code && !backpropagate(&s, &p, how.parts, random_gradient, &w, &err)) {
        *n = vp_encoder_params(s.encoder)->count;
        copy = vp_calloc((size_t)*n, sizeof *copy);
        memcpy(copy, vp_encoder_gradient(s.encoder), (size_t)*n * sizeof *copy);
    }
    if (err.code) printf("# %s\n", err.text);
    close_setup(&s);
    packed_free(&p);
    return copy;
}

static const way ALONE = {1, 1, VP_RECOMPUTE_NONE};

static void check_bytes(const char *name, vp_train_options train, const char *compute) {
    int64_t n = 0, m = 0;
    float *want = gradient_of(name, train, compute, ALONE, &n);
    static const way ways[] = {{2, 1, 0}, {1, 3, 0}, {3, 5, 0}, {1, 1, VP_RECOMPUTE_MLP}, {2, 2, VP_RECOMPUTE_LAYER}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        float *got = gradient_of(name, train, compute, ways[i], &m);
        OK(want && got && n == m && !memcmp(want, got, (size_t)n * sizeof *got),
           "%s %s: %d threads, %d parts, recompute %d give the same gradient", name, compute, ways[i].threads,
           ways[i].parts, (int)ways[i].recompute);
        free(got);
    }
    free(want);
}

static void check_direction(const char *name, vp_train_options train) {
    int64_t n = 0, m = 0;
    float *a = gradient_of(name, train, "f32", ALONE, &n), *b = gradient_of(name, train, "bf16", ALONE, &m);
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; a && b && n == m && i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    const double cosine = ab / sqrt(aa * bb), length = sqrt(bb / aa);
    OK(cosine >= 0.999 && cosine < 1 - 1e-9 && fabs(length - 1) <= 0.01,
       "%s %s: bf16's gradient against f32's: cosine %.6f, length %.4f", name, train.full ? "whole" : "adapter", cosine,
       length);
    free(a);
    free(b);
}

static bool has_bf16(void) {
    vp_error err = {0};
    setup s = open_setup("llama", NULL, "bi", 1, "bf16", &err);
    close_setup(&s);
    return !strstr(err.text, "AVX512-BF16");
}

int main(void) {
    static const char *const recorded[] = {"llama", "llama-gqa-tied", "mistral", "qwen2"};
    for (size_t i = 0; i < sizeof recorded / sizeof *recorded; i++) {
        vp_error err = {0};
        vp_source *g = NULL;
        if (!OK(!vp_source_open(&g, golden_path("%s/golden.safetensors", recorded[i]), &err), "%s", err.text)) continue;
        check_xent(recorded[i], g, "mntp", "bi");
        check_xent(recorded[i], g, "ntp", "causal");
        check_nce(recorded[i], g);
        vp_source_close(g);
    }
    static const char *const decoders[] = {"llama", "llama3-rope", "mistral-window", "qwen2",
                                           "qwen3", "gemma",       "gptj",           "mixtral"};
    vp_train_options lora = {.rank = 3, .alpha = 6, .backward = true}, full = {.full = true, .backward = true};
    for (size_t i = 0; i < sizeof decoders / sizeof *decoders; i++) {
        check_model(decoders[i], i % 2 ? "causal" : "bi", &lora, "adapter");
        check_model(decoders[i], i % 2 ? "bi" : "causal", &full, "whole");
    }
    vp_train_options tokens = lora;
    tokens.tokens = 120; /* of 320: some of the rows' tokens */
    check_model("llama-gqa-tied", "causal", &tokens, "adapter and rows of tokens");
    check_model("gemma", "bi", &tokens, "adapter and rows of tokens");
    check_bytes("llama-gqa-tied", tokens, "f32");
    vp_train_options noisy = lora;
    noisy.lora_dropout = 0.1;
    noisy.attention_dropout = 0.2;
    noisy.hidden_dropout = 0.1;
    noisy.seed = 7;
    static const char *const noisy_ones[] = {"mistral", "qwen3", "gptj", "mixtral"};
    for (size_t i = 0; i < sizeof noisy_ones / sizeof *noisy_ones; i++)
        check_model(noisy_ones[i], "bi", &noisy, "with dropout");
    check_bytes("llama-gqa-tied", noisy, "f32");
    static const char *const bytes[] = {"llama-gqa-tied", "qwen3", "gptj", "mixtral"};
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) check_bytes(bytes[i], lora, "f32");
    if (!has_bf16()) {
        OK(true, "bf16 # SKIP this processor has no instructions for it");
        return done();
    }
    check_bytes("llama-gqa-tied", noisy, "bf16");
    for (size_t i = 0; i < sizeof decoders / sizeof *decoders; i++) check_direction(decoders[i], i % 2 ? full : lora);
    return done();
}
