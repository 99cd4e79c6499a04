/* A mixture of experts (golden/mixtral): the balancing loss of its routers against transformers', its gradient by
 * differences and however a step is cut; the same model from GGUF files, new and old, and merged; what is refused. */
#include "lib/model/training.h"
#include "tests/modelfile.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>

enum { ROWS = 9, UNITS = 6, C = 64, F = 112, HEADS = 4, GROUPS = 2, D = 16, EXPERTS = 4, LAYERS = 2 };

/* ---- the balancing loss ---- */

/* load_balancing_loss_func of transformers, of the router's logits of the golden rows, by unit and of all */
static const int32_t units[ROWS] = {0, 0, 0, 1, 2, 3, 4, 4, 5};
static const double wanted[UNITS] = {2.316218852996826,  2.0055909156799316, 2.1292190551757812,
                                     2.4280550479888916, 2.0245890617370605, 2.033120632171631},
                    wanted_all = 2.0636730194091797;

typedef struct setup {
    vp_model *model;
    vp_encoder *encoder;
    packed rows;
    int32_t unit[ROWS];
    double share[ROWS];
} setup;

static bool open_setup(setup *s, bool one_unit, vp_recompute recompute) {
    vp_error err = {0};
    const vp_train_options train = {.full = true, .backward = true, .recompute = recompute};
    const vp_encode_options o = {.attention = "causal", .threads = 2, .compute = "f32", .train = &train};
    vp_source *g = NULL;
    *s = (setup){0};
    bool good = !vp_source_open(&g, golden_path("mixtral/golden.safetensors"), &err) &&
                !vp_model_open(&s->model, golden_path("mixtral"), &err) &&
                !vp_encoder_open(&s->encoder, s->model, &o, NULL, &err) && !vp_encoder_warm(s->encoder, &err);
    if (g) {
        tensor ids = tensor_read(g, "ids"), cu = tensor_read(g, "cu");
        s->rows = pack_rows(ids.i, cu.i, ROWS, NULL, 0);
        tensor_free(&ids);
        tensor_free(&cu);
    }
    for (int b = 0; b < ROWS; b++) {
        s->unit[b] = one_unit ? 0 : units[b];
        s->share[b] = 0.125 * (b + 1);
    }
    if (good) good = !vp_frame_put(s->rows.frame, "unit", VP_I32, 1, &s->rows.frame->B, s->unit, &err);
    vp_source_close(g);
    return OK(good, "golden rows and encoder %s", err.text);
}

static void close_setup(setup *s) {
    vp_encoder_close(s->encoder);
    vp_model_close(s->model);
    packed_free(&s->rows);
}

/* Rows [b0, b1): their losses, and unless dhidden is false the gradient of them is added to. */
static bool balance(const setup *s, int64_t b0, int64_t b1, float *loss, bool back, vp_error *err) {
    vp_frame *f = NULL;
    vp_tape *tape = NULL;
    int32_t cu[ROWS + 1];
    if (vp_frame_slice(s->rows.frame, b0, b1, &f, err)) return false;
    for (int64_t b = b0; b <= b1; b++) cu[b - b0] = s->rows.cu[b] - s->rows.cu[b0];
    const vp_balance of = {.B = b1 - b0, .cu = cu, .unit = s->unit + b0, .share = s->share + b0, .loss = loss + b0};
    float *hidden = vp_calloc((size_t)(f->T * C), sizeof *hidden), *none = vp_calloc((size_t)(f->T * C), sizeof *none);
    const size_t mark = vp_encoder_mark(s->encoder);
    int status = vp_encoder_forward(s->encoder, f, hidden, &tape, err);
    if (!status) status = vp_tape_balance(s->encoder, tape, &of, err);
    if (!status && back) status = vp_encoder_backward(s->encoder, tape, none, err);
    vp_tape_free(tape);
    vp_encoder_release_to(s->encoder, mark);
    vp_frame_free(f);
    free(hidden);
    free(none);
    return !status;
}

/* The gradient of a step in two parts, [count]; free. */
static float *gradient(const setup *s, int64_t cut, float *loss, vp_error *err) {
    const size_t bytes = (size_t)vp_encoder_params(s->encoder)->count * sizeof(float);
    float *copy = vp_calloc(1, bytes);
    memset(loss, 0, ROWS * sizeof *loss);
    bool good = !vp_encoder_gradient_clear(s->encoder, err);
    if (good && cut) good = balance(s, 0, cut, loss, true, err);
    if (good) good = balance(s, cut, ROWS, loss, true, err) && !vp_encoder_gradient_fetch(s->encoder, err);
    if (good) memcpy(copy, vp_encoder_gradient(s->encoder), bytes);
    return copy;
}

static void test_values(void) {
    vp_error err = {0};
    setup s;
    float loss[ROWS] = {0};
    double worst = 0, share = 0;
    if (open_setup(&s, false, VP_RECOMPUTE_NONE) && OK(balance(&s, 0, ROWS, loss, false, &err), "runs %s", err.text)) {
        for (int b = 0; b < ROWS; b++) {
            const bool first = b == 0 || units[b] != units[b - 1];
            share = first ? 0 : share;
            for (int i = b; first && i < ROWS && units[i] == units[b]; i++) share += s.share[i];
            worst = fmax(worst, fabs((double)loss[b] - (first ? share * wanted[units[b]] : 0)));
        }
        OK(worst <= 1e-5, "the loss of every unit is transformers', within %.1e", worst);
        OK(fabs(vp_encoder_balance(s.encoder) - 0.001) < 1e-12, "its weight is the configuration's");
    }
    close_setup(&s);
    memset(loss, 0, sizeof loss);
    if (open_setup(&s, true, VP_RECOMPUTE_NONE) && balance(&s, 0, ROWS, loss, false, &err))
        OK(fabs((double)loss[0] - 0.125 * 45 * wanted_all) <= 1e-4, "and that of all rows, %.6f", (double)loss[0]);
    close_setup(&s);
}

static double loss_at(const setup *s, vp_error *err) {
    float loss[ROWS] = {0};
    double sum = 0;
    if (vp_encoder_changed(s->encoder, err) || !balance(s, 0, ROWS, loss, false, err)) return NAN;
    for (int b = 0; b < ROWS; b++) sum += (double)loss[b];
    return sum;
}

/* Along a tensor's gradient; a smaller step where one makes a token choose other experts. */
static double difference(const setup *s, float *x, const float *g, int64_t n, double norm, vp_error *err) {
    double best = 1;
    float *saved = vp_calloc((size_t)n, sizeof *saved);
    memcpy(saved, x, (size_t)n * sizeof *x);
    for (double h = 0.1; h > 2e-4 && !(best <= 2e-3); h /= 2.5) {
        double side[2];
        for (int k = 0; k < 2; k++) {
            for (int64_t i = 0; i < n; i++) x[i] = (float)((double)saved[i] + (k ? -h : h) * (double)g[i] / norm);
            side[k] = loss_at(s, err);
        }
        best = fmin(best, fabs((side[0] - side[1]) / (2 * h) - norm) / norm);
    }
    memcpy(x, saved, (size_t)n * sizeof *x);
    free(saved);
    return best;
}

static void test_gradient(void) {
    vp_error err = {0};
    setup s;
    float loss[ROWS];
    if (open_setup(&s, false, VP_RECOMPUTE_NONE)) {
        const vp_params *p = vp_encoder_params(s.encoder);
        float *g = gradient(&s, 0, loss, &err);
        double worst = 0;
        int reached = 0;
        for (size_t i = 0; i < p->n; i++) {
            const int64_t n = p->param[i].rows * p->param[i].cols, at = p->param[i].first;
            double norm = 0;
            for (int64_t k = 0; k < n; k++) norm += (double)g[at + k] * (double)g[at + k];
            norm = sqrt(norm);
            if (!(norm > 0)) continue;
            reached++;
            const double e = difference(&s, p->value + at, g + at, n, norm, &err);
            if (!(e <= worst)) worst = e;
        }
        /* all but the last layer's experts and the final norm: nothing routes behind them */
        OK(reached == (int)p->n - 3 * EXPERTS - 1 && worst <= 2e-3, "%d tensors by differences, worst %.1e %s", reached,
           worst, err.text);
        free(g);
    }
    close_setup(&s);
}

static void test_cuts(void) {
    static const struct {
        int64_t cut;
        vp_recompute recompute;
    } ways[] = {{3, VP_RECOMPUTE_NONE}, {5, VP_RECOMPUTE_MLP}, {8, VP_RECOMPUTE_LAYER}};
    vp_error err = {0};
    setup s;
    float loss[ROWS], other[ROWS];
    open_setup(&s, false, VP_RECOMPUTE_NONE);
    const size_t bytes = (size_t)vp_encoder_params(s.encoder)->count * sizeof(float);
    float *whole = gradient(&s, 0, loss, &err);
    close_setup(&s);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (!open_setup(&s, false, ways[i].recompute)) continue;
        float *parts = gradient(&s, ways[i].cut, other, &err);
        OK(!memcmp(whole, parts, bytes) && !memcmp(loss, other, sizeof loss), "cut before row %d: the same bytes %s",
           (int)ways[i].cut, err.text);
        free(parts);
        close_setup(&s);
    }
    free(whole);
}

/* ---- GGUF ---- */

typedef struct writer {
    vp_buf table, data;
    const vp_source *source;
    uint64_t tensors;
} writer;

static void begin(writer *w, const char *name, int ndim, uint64_t cols, uint64_t rows, uint64_t experts) {
    const uint64_t dims[] = {cols, rows, experts};
    put_pad(&w->data, 32);
    gguf_tensor(&w->table, name, (uint32_t)ndim, dims, 0, w->data.len);
    w->tensors++;
}

/* Row (head, half, i) of a folder's q or k becomes row (head, i, half). */
static void add_rows(writer *w, const char *hf, bool heads) {
    tensor t = tensor_read(w->source, hf);
    for (int64_t r = 0; r < t.rows; r++) {
        const int64_t head = r / D, within = r % D, from = heads ? head * D + within % 2 * (D / 2) + within / 2 : r;
        put(&w->data, t.f + from * t.cols, (size_t)t.cols * sizeof *t.f);
    }
    tensor_free(&t);
}

static void add(writer *w, const char *name, const char *hf, int64_t rows, int64_t cols, bool heads) {
    begin(w, name, rows == 1 ? 1 : 2, (uint64_t)cols, (uint64_t)rows, 0);
    add_rows(w, hf, heads);
}

static void add_experts(writer *w, int layer, const char *gguf, const char *hf, int64_t rows, int64_t cols, bool old,
                        int experts) {
    char name[80];
    snprintf(name, sizeof name, "blk.%d.ffn_%s_exps.weight", layer, gguf);
    if (!old) begin(w, name, 3, (uint64_t)cols, (uint64_t)rows, (uint64_t)experts);
    for (int e = 0; e < experts; e++) {
        snprintf(name, sizeof name, "blk.%d.ffn_%s.%d.weight", layer, gguf, e);
        if (old) begin(w, name, 2, (uint64_t)cols, (uint64_t)rows, 0);
        snprintf(name, sizeof name, "model.layers.%d.block_sparse_moe.experts.%d.%s.weight", layer, e, hf);
        add_rows(w, name, false);
    }
}

static void add_layer(writer *w, int layer, bool old, int experts) {
    static const struct {
        const char *gguf, *hf;
        int64_t rows, cols;
        bool heads;
    } plain[] = {{"attn_norm", "input_layernorm", 1, C, false},
                 {"attn_q", "self_attn.q_proj", HEADS * D, C, true},
                 {"attn_k", "self_attn.k_proj", GROUPS * D, C, true},
                 {"attn_v", "self_attn.v_proj", GROUPS * D, C, false},
                 {"attn_output", "self_attn.o_proj", C, HEADS * D, false},
                 {"ffn_norm", "post_attention_layernorm", 1, C, false},
                 {"ffn_gate_inp", "block_sparse_moe.gate", EXPERTS, C, false}};
    char gguf[80], hf[80];
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        snprintf(gguf, sizeof gguf, "blk.%d.%s.weight", layer, plain[i].gguf);
        snprintf(hf, sizeof hf, "model.layers.%d.%s.weight", layer, plain[i].hf);
        add(w, gguf, hf, plain[i].rows, plain[i].cols, plain[i].heads);
    }
    add_experts(w, layer, "gate", "w1", F, C, old, experts);
    add_experts(w, layer, "up", "w3", F, C, old, experts);
    add_experts(w, layer, "down", "w2", C, F, old, experts);
}

static void put_keys(vp_buf *b) {
    static const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {{"llama.block_count", LAYERS},         {"llama.context_length", 256},
                   {"llama.embedding_length", C},         {"llama.feed_forward_length", F},
                   {"llama.attention.head_count", HEADS}, {"llama.attention.head_count_kv", GROUPS},
                   {"llama.expert_count", EXPERTS},       {"llama.expert_used_count", 2}};
    gguf_key(b, "general.architecture", VP_GGUF_STRING);
    gguf_string(b, "llama");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        gguf_key(b, numbers[i].key, VP_GGUF_U32);
        put_u32(b, numbers[i].value);
    }
    gguf_key(b, "llama.attention.layer_norm_rms_epsilon", VP_GGUF_F32);
    put_f32(b, 1e-5f);
    gguf_key(b, "llama.rope.freq_base", VP_GGUF_F32);
    put_f32(b, 1e6f);
}
enum { KEYS = 1 + 8 + 2 };

/* The golden model as a GGUF file of its own, with so many experts' matrices in every tensor of them. */
static const char *make_gguf(bool old, int experts) {
    static char path[300];
    vp_error err = {0};
    vp_source *source;
    if (vp_source_open(&source, golden_path("mixtral"), &err)) abort();
    writer w = {.source = source};
    add(&w, "token_embd.weight", "model.embed_tokens.weight", 320, C, false);
    add(&w, "output_norm.weight", "model.norm.weight", 1, C, false);
    add(&w, "output.weight", "lm_head.weight", 320, C, false);
    for (int layer = 0; layer < LAYERS; layer++) add_layer(&w, layer, old, experts);
    vp_buf file = {0};
    gguf_header(&file, 3, w.tensors, KEYS);
    put_keys(&file);
    put(&file, w.table.data, w.table.len);
    put_pad(&file, 32);
    put(&file, w.data.data, w.data.len);
    const char *folder = linked_folder(golden_path("llama/adapter"));
    write_bytes(folder, "model.gguf", file.data, file.len);
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    vp_buf_free(&file);
    vp_buf_free(&w.table);
    vp_buf_free(&w.data);
    vp_source_close(source);
    return path;
}

static float *run(const char *path, vp_error *err) {
    static const int32_t ids[] = {5, 9, 300, 17, 4, 4, 80, 31, 7, 12}, cu[] = {0, 3, 10};
    vp_model *m;
    if (vp_model_open(&m, path, err)) return NULL;
    packed p = pack_rows(ids, cu, 2, NULL, 0);
    float *hidden = encode(m, p.frame, NULL, 1, 0, err);
    packed_free(&p);
    vp_model_close(m);
    return hidden;
}

static void same(const char *what, const char *path) {
    vp_error err = {0};
    float *got = run(path, &err), *want = run(golden_path("mixtral"), &err);
    OK(got && want && !memcmp(got, want, 10 * C * sizeof *got), "%s: the folder's bytes %s", what, err.text);
    free(got);
    free(want);
}

static void test_files(void) {
    for (int old = 0; old < 2; old++) {
        vp_error err = {0};
        vp_merged what = {0};
        vp_model *m = NULL;
        const char *gguf = make_gguf(old, EXPERTS), *folder = linked_folder(NULL);
        same(old ? "GGUF with a tensor an expert" : "GGUF", gguf);
        const bool merged = !vp_model_open(&m, gguf, &err) && !strcmp(vp_model_arch(m), "mixtral") &&
                            !vp_model_merge(m, folder, VP_F32, 1 << 30, &what, &err);
        OK(merged && what.tensors == 3 + LAYERS * (7 + 3 * EXPERTS), "it is merged to a folder: %d tensors %s",
           (int)what.tensors, err.text);
        if (merged) same("which", folder);
        vp_model_close(m);
    }
}

/* ---- what is refused ---- */

static void refuse(const char *path, const char *says) {
    vp_error err = {0};
    vp_model *m = NULL;
    OK(vp_model_open(&m, path, &err) == VP_DATA && strstr(err.text, says), "refused: %s", err.text);
    vp_model_close(m);
}

static void refuse_config(const char *find, const char *with, const char *says) {
    const char *folder = linked_folder(golden_path("mixtral"));
    replace_text(folder, "config.json", find, with);
    refuse(folder, says);
}

static void refuse_training(const char *folder, const vp_train_options *train, int status, const char *says) {
    vp_error err = {0};
    vp_model *m = NULL;
    vp_encoder *e = NULL;
    const vp_encode_options o = {.compute = "f32", .train = train};
    int got = vp_model_open(&m, folder, &err);
    if (!got) got = vp_encoder_open(&e, m, &o, NULL, &err);
    OK(got == status && strstr(err.text, says), "refused: %s", err.text);
    vp_encoder_close(e);
    vp_model_close(m);
}

static void test_refusals(void) {
    refuse_config("\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 5", "cannot pass 5 of 4 experts");
    refuse_config("\"num_local_experts\": 4", "\"num_local_experts\": 300", "num_local_experts is 300");
    refuse_config("\"num_local_experts\": 4", "\"num_local_experts\": 3", "has shape [4, 64], not [3, 64]");
    refuse(make_gguf(false, EXPERTS - 1), "does not hold the matrices of 4 experts");
    refuse(make_gguf(true, EXPERTS - 1), "blk.0.ffn_gate.3.weight is missing");
    vp_train_options lora = {.rank = 2, .alpha = 4, .targets = "q_proj,w1"};
    refuse_training(golden_path("mixtral"), &lora, VP_USAGE, "target 'w1': experts and their router carry no adapters");
    lora.targets = "gate";
    refuse_training(golden_path("mixtral"), &lora, VP_USAGE, "target 'gate': experts");
    lora.targets = NULL;
    const char *noisy = linked_folder(golden_path("mixtral"));
    replace_text(noisy, "config.json", "\"router_jitter_noise\": 0.0", "\"router_jitter_noise\": 0.1");
    refuse_training(noisy, &lora, VP_DATA, "router_jitter_noise 0.1");
    same("noise on routers is training's", noisy);
}

int main(void) {
    test_values();
    test_gradient();
    test_cuts();
    test_files();
    test_refusals();
    return done();
}
