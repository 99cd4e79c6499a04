/* A folder as NV-Embed is published, and results of ours: settings, hidden states, vectors and gradients against
 * PyTorch's (tests/golden/make_nv_embed.py), what damaged folders say, and where training begins. */
#include "lib/model/private.h"
#include "lib/model/settings_write.h"
#include "lib/model/training.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void must(int status, const vp_error *err) {
    if (!status) return;
    printf("Bail out! %s\n", err->text);
    exit(1);
}

typedef struct reference {
    vp_source *source;
    tensor ids, cu, keep, hidden, emb, demb, dhidden;
    uint8_t *mask; /* keep as bytes */
    packed rows;
} reference;

static reference open_reference(void) {
    vp_error err = {0};
    reference r = {0};
    must(vp_source_open(&r.source, golden_path("nv-embed/golden.safetensors"), &err), &err);
    r.ids = tensor_read(r.source, "ids");
    r.cu = tensor_read(r.source, "cu");
    r.keep = tensor_read(r.source, "keep");
    r.hidden = tensor_read(r.source, "hidden");
    r.emb = tensor_read(r.source, "emb");
    r.demb = tensor_read(r.source, "demb");
    r.dhidden = tensor_read(r.source, "dhidden");
    r.rows = pack_rows(r.ids.i, r.cu.i, r.cu.n - 1, NULL, 0);
    r.mask = vp_calloc((size_t)r.keep.n, 1);
    for (int64_t i = 0; i < r.keep.n; i++) r.mask[i] = (uint8_t)r.keep.i[i];
    must(vp_frame_put(r.rows.frame, "keep", VP_U8, 1, &r.keep.n, r.mask, &err), &err);
    return r;
}

static void close_reference(reference *r) {
    tensor *const all[] = {&r->ids, &r->cu, &r->keep, &r->hidden, &r->emb, &r->demb, &r->dhidden};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tensor_free(all[i]);
    packed_free(&r->rows);
    free(r->mask);
    vp_source_close(r->source);
}

static vp_model *open_model(const char *path) {
    vp_error err = {0};
    vp_model *m;
    must(vp_model_open(&m, path, &err), &err);
    return m;
}

/* The pooler that the model's own header makes. */
static vp_pooler *open_pooler(const vp_model *m, bool trained, vp_error *err) {
    vp_pooler *p = NULL;
    vp_map *header = vp_map_new();
    const vp_pool_options o = {.kind = "latent", .normalize = -1, .trained = trained};
    if (!header || vp_model_describe(m, header, err) || vp_pooler_open(&p, &o, header, err)) p = NULL;
    vp_map_free(header);
    return p;
}

/* The vectors of a frame with these states; the keep column is the frame's. */
static void pool_states(vp_pooler *p, vp_frame *f, const float *hidden, int64_t width, float *out, int64_t n) {
    vp_error err = {0};
    float *emb = NULL;
    int64_t empty = 0, got = 0;
    must(vp_pooler_run(p, f, hidden, width, &empty, &err), &err);
    must(vp_frame_floats(f, "emb", &emb, &got, &err), &err);
    for (int64_t i = 0; i < n; i++) out[i] = got == n ? emb[i] : NAN;
    vp_frame_drop(f, "emb");
    free(emb);
}

static void test_folder(const reference *r) {
    vp_error err = {0};
    vp_model *m = open_model(golden_path("nv-embed"));
    const vp_settings *s = vp_model_settings(m);
    OK(!strcmp(s->attention, "bi") && !strcmp(s->pooling, "latent") && s->normalize && s->nv_embed && !s->llm2vec &&
           !s->prompt_pooled,
       "its config decides: %s, %s", s->attention, s->pooling);
    float *hidden = encode(m, r->rows.frame, NULL, 1, 0, &err);
    const double off = hidden ? relative_error(hidden, r->hidden.f, r->hidden.n) : NAN;
    OK(off <= 1e-5, "hidden states, off by %.2g %s", off, err.text);
    vp_pooler *p = open_pooler(m, false, &err);
    float *emb = vp_calloc((size_t)r->emb.n, sizeof *emb);
    if (!p || !emb) must(VP_BUG, &err);
    pool_states(p, r->rows.frame, r->hidden.f, r->hidden.cols, emb, r->emb.n);
    const double vectors = relative_error(emb, r->emb.f, r->emb.n);
    OK(vectors <= 1e-5, "vectors, folded, off by %.2g", vectors);
    free(emb);
    free(hidden);
    vp_pooler_close(p);
    vp_model_close(m);
}

/* Without the decoder, the order of a text's tokens does not matter. */
static void test_order(const reference *r) {
    const int64_t C = r->hidden.cols, n = r->emb.n;
    vp_error err = {0};
    vp_model *m = open_model(golden_path("nv-embed"));
    vp_pooler *p = open_pooler(m, false, &err);
    float *turned = vp_calloc((size_t)r->hidden.n, sizeof *turned), *emb = vp_calloc((size_t)n, sizeof *emb);
    uint8_t *mask = vp_calloc((size_t)r->keep.n, 1), *was = vp_calloc((size_t)r->keep.n, 1);
    if (!p || !turned || !emb || !mask || !was) must(VP_BUG, &err);
    for (int64_t b = 0; b + 1 < r->cu.n; b++)
        for (int64_t t = r->cu.i[b], last = r->cu.i[b + 1] - 1; t < r->cu.i[b + 1]; t++) {
            const int64_t from = last - (t - r->cu.i[b]);
            memcpy(turned + t * C, r->hidden.f + from * C, (size_t)C * sizeof *turned);
            mask[t] = r->mask[from];
        }
    memcpy(was, r->mask, (size_t)r->keep.n);
    memcpy(r->mask, mask, (size_t)r->keep.n);
    pool_states(p, r->rows.frame, turned, C, emb, n);
    memcpy(r->mask, was, (size_t)r->keep.n);
    const double off = relative_error(emb, r->emb.f, n);
    OK(off <= 1e-5, "texts backwards give the same vectors, off by %.2g", off);
    free(turned);
    free(emb);
    free(mask);
    free(was);
    vp_pooler_close(p);
    vp_model_close(m);
}

/* Training goes on with the folder's layer; the gradient of demb is PyTorch's. */
static void test_gradient(const reference *r) {
    vp_error err = {0};
    vp_model *m = open_model(golden_path("nv-embed"));
    vp_encoder *e = NULL;
    vp_latent_sizes sizes = {0};
    const vp_train_options train = {.rank = 2, .alpha = 4, .backward = true, .latent = &sizes};
    const vp_encode_options o = {.threads = 1, .train = &train};
    must(vp_encoder_open(&e, m, &o, NULL, &err), &err);
    must(vp_encoder_warm(e, &err), &err);
    vp_pooler *p = open_pooler(m, true, &err);
    float *dhidden = vp_calloc((size_t)r->hidden.n, sizeof *dhidden);
    if (!p || !dhidden) must(VP_BUG, &err);
    vp_pooler_use(p, e);
    must(vp_pooler_backward(p, r->rows.frame, r->hidden.f, r->hidden.cols, r->demb.f, r->emb.rows, dhidden, &err),
         &err);
    must(vp_pooler_finish(p, &err), &err);
    must(vp_encoder_gradient_fetch(e, &err), &err);
    const double off = relative_error(dhidden, r->dhidden.f, r->dhidden.n);
    OK(off <= 1e-5, "gradient of hidden states, off by %.2g", off);
    const vp_train_options *took = vp_encoder_training(e);
    vp_latent_tensor t;
    char name[120];
    for (size_t i = 0; vp_latent_tensor_at(took->latent, r->hidden.cols, i, &t); i++) {
        snprintf(name, sizeof name, "grad.%s", t.name);
        tensor want = tensor_read(r->source, name);
        const double d = relative_error(vp_encoder_gradient(e) + vp_encoder_latent(e) + t.first, want.f, want.n);
        OK(d <= 2e-5, "%s, off by %.2g", name, d);
        tensor_free(&want);
    }
    free(dhidden);
    vp_pooler_close(p);
    vp_encoder_close(e);
    vp_model_close(m);
}

/* ---- results of ours ---- */

/* An adapter's folder with a latent layer beside it. */
static const char *make_result(const vp_latent_sizes *asked) {
    const char *folder = linked_folder(golden_path("mistral/adapter"));
    vp_error err = {0};
    vp_latent_sizes s = *asked;
    must(vp_latent_complete(&s, 64, &err), &err);
    float *value = vp_calloc((size_t)vp_latent_layout_of(&s, 64).count, sizeof *value);
    vp_settings settings = {.attention = "bi", .pooling = "latent", .normalize = 1, .max_len = 77, .nv_embed = 1};
    vp_latent_start(&s, 64, 9, value);
    must(vp_latent_file_write(folder, &s, 64, value, VP_F32, &err), &err);
    must(vp_settings_write_nv_embed(&settings, &s, 64, folder, &err), &err);
    free(value);
    return folder;
}

static void test_result(void) {
    static const vp_latent_sizes forms[] = {{.latents = 6, .heads = 2, .head_width = 5, .inner = 7},
                                            {.latents = 6, .plain = true}};
    for (int i = 0; i < 2; i++) {
        vp_error err = {0};
        const char *folder = make_result(&forms[i]);
        vp_model *m = open_model(golden_path("mistral"));
        must(vp_model_add_adapter(m, folder, &err), &err);
        const vp_settings *s = vp_model_settings(m);
        OK(!strcmp(s->attention, "bi") && !strcmp(s->pooling, "latent") && s->max_len == 77 && s->nv_embed,
           "an adapter's folder brings its settings: %s %s", s->attention, s->pooling);
        vp_latent_sizes asked = {.latents = i ? 7 : 0};
        const vp_train_options train = {.rank = 2, .alpha = 4, .latent = &asked};
        const vp_encode_options o = {.device = "cpu", .threads = 1, .train = &train};
        vp_encoder *e = NULL;
        const int status = vp_encoder_open(&e, m, &o, NULL, &err);
        if (i)
            OK(status == VP_USAGE, "another size than that which is there: %s", err.text);
        else
            OK(!status && vp_encoder_training(e)->latent->head_width == 5, "training goes on with its layer %s",
               err.text);
        vp_encoder_close(e);
        vp_model_close(m);
    }
}

/* Texts have one form, that of the folder which was read last. */
static void test_forms(void) {
    static const vp_latent_sizes sizes = {.latents = 6, .plain = true};
    vp_error err = {0};
    const char *prompted = linked_folder(golden_path("mistral/adapter")), *latent = make_result(&sizes);
    const vp_settings own = {
        .chat = "llara", .attention = "causal", .pooling = "last", .normalize = 1, .max_len = 33, .dims = 8};
    must(vp_settings_write_own(&own, prompted, &err), &err);
    vp_model *m = open_model(golden_path("mistral"));
    const vp_settings *s = vp_model_settings(m);
    must(vp_model_add_adapter(m, latent, &err), &err);
    must(vp_model_add_adapter(m, prompted, &err), &err);
    OK(s->chat && !strcmp(s->chat, "llara") && !s->nv_embed && !strcmp(s->attention, "causal") &&
           !strcmp(s->pooling, "last") && s->max_len == 33 && s->dims == 8,
       "a prompt with slots after NV-Embed's form: %s %s", s->attention, s->pooling);
    must(vp_model_add_adapter(m, latent, &err), &err);
    OK(!s->chat && s->nv_embed && !strcmp(s->attention, "bi") && !strcmp(s->pooling, "latent") && s->max_len == 77,
       "and the other way round");
    vp_model_close(m);
}

/* What is wrong with a layer's folder is said by name. */
static void test_damage(void) {
    static const struct {
        const char *find, *with, *says;
    } cases[] = {
        {"\"num_latents_value\": 6", "\"num_latents_value\": 5", "latents has shape [6, 64], not [5, 64]"},
        {"\"num_cross_heads\": 2", "\"num_cross_heads\": 0", "to_q.weight has shape"},
        {"\"num_cross_heads\": 2", "\"num_cross_heads\": -2", "cannot be"},
        {"\"cross_dim_head\": 5", "\"cross_dim_head\": 9007199254740991", "cannot be"},
        {"\"inner_dim\": 7", "\"inner_dim\": 1000", "net.0.weight has shape"},
        {"\"form\": \"gated\"", "\"form\": \"plain\"", "plain form's are 64 together"},
        {"\"form\": \"gated\"", "\"form\": \"new\"", "form \"new\" is not supported"},
        {"\"hidden_dim\": 64", "\"hidden_dim\": 65", "width 65 for a model of width 64"},
        {"\"pooling\": \"latent\"", "\"pooling\": \"lat\"", "pooling \"lat\" is none of"},
        {"\"attention\": \"bi\"", "\"attention\": \"b\"", "attention \"b\" is none of"},
        {"\"max_length\": 77", "\"max_length\": 0", "max_length or dims is out of range"},
    };
    const vp_latent_sizes sizes = {.latents = 6, .heads = 2, .head_width = 5, .inner = 7};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vp_error err = {0};
        const char *folder = make_result(&sizes);
        vp_model *m = open_model(golden_path("mistral"));
        replace_text(folder, VP_LATENT_CONFIG, cases[i].find, cases[i].with);
        const int status = vp_model_add_adapter(m, folder, &err);
        OK(status == VP_DATA && strstr(err.text, cases[i].says), "%s: %s", cases[i].with, err.text);
        vp_model_close(m);
    }
    vp_error err = {0};
    vp_model *m = open_model(golden_path("mistral"));
    vp_pooler *p = open_pooler(m, false, &err);
    OK(!p && err.code == VP_USAGE, "a model without a layer: %s", err.text);
    vp_pooler_close(p);
    vp_model_close(m);
}

int main(void) {
    reference r = open_reference();
    test_folder(&r);
    test_order(&r);
    test_gradient(&r);
    close_reference(&r);
    test_result();
    test_forms();
    test_damage();
    return done();
}
