/* Caches that begin with keys and values of another pass, on every tiny decoder: behind a causal pass they continue as
 * the uncached text does, behind a bidirectional one otherwise; however the text is cut into spans, and whatever stands
 * beside it, to the byte; moved keys are those of a pass at the moved positions. */
#include "lib/base/half.h"
#include "lib/model/cache.h"
#include "lib/model/pass.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>

enum { TEXT = 25, FRESH = 6, ALL = TEXT + FRESH, CUT = 10 };

typedef struct setup {
    const char *name;
    vp_model *model;
    vp_encoder *encoder; /* that generates */
    int64_t layers, width, hidden;
    int32_t ids[ALL];
} setup;

static bool open_setup(setup *s, const char *name, vp_error *err) {
    const vp_encode_options o = {
        .device = "cpu", .threads = 2, .compute = "f32", .attention = "causal", .generate = true};
    *s = (setup){.name = name};
    for (int32_t i = 0; i < ALL; i++) s->ids[i] = 3 + (i * 37 + 11) % 300;
    if (vp_model_open(&s->model, golden_path("%s", name), err)) return false;
    const vp_config *c = &s->model->config;
    s->layers = c->layers;
    s->width = c->groups * c->head_dim;
    s->hidden = c->width;
    return !vp_encoder_open(&s->encoder, s->model, &o, NULL, err);
}

static void close_setup(setup *s) {
    vp_encoder_close(s->encoder);
    vp_model_close(s->model);
}

/* ---- keys and values of a pass, in f32: its tape has them ---- */
static void take_layer(const setup *s, const vp_mat *qkv, int64_t layer, const vp_kv *kv) {
    const int64_t n = kv->tokens, heads = qkv->cols - 2 * s->width;
    for (int64_t t = 0; t < n; t++) {
        const float *row = (const float *)qkv->ptr + t * qkv->ld + heads;
        const size_t at = (size_t)((layer * n + t) * s->width), bytes = (size_t)s->width * sizeof *row;
        memcpy((float *)(uintptr_t)kv->k + at, row, bytes);
        memcpy((float *)(uintptr_t)kv->v + at, row + s->width, bytes);
    }
}

static vp_kv make_kv(const setup *s, vp_dtype dtype, int64_t tokens) {
    const size_t n = (size_t)(s->layers * tokens * s->width);
    vp_kv kv = {.dtype = dtype, .layers = s->layers, .tokens = tokens, .width = s->width};
    kv.k = vp_calloc(n, vp_dtype_size(dtype));
    kv.v = vp_calloc(n, vp_dtype_size(dtype));
    if (!kv.k || !kv.v) exit(1);
    return kv;
}

static void free_kv(vp_kv *kv) {
    free((void *)(uintptr_t)kv->k);
    free((void *)(uintptr_t)kv->v);
}

/* Of n tokens at positions `at`, at + 1, ... in a pass with this attention. */
static vp_kv keys_of(setup *s, const int32_t *ids, int32_t n, int32_t at, const char *attention, vp_error *err) {
    const vp_train_options train = {.rank = 1, .alpha = 1, .targets = "q_proj", .backward = true};
    const vp_encode_options o = {
        .device = "cpu", .threads = 1, .compute = "f32", .attention = attention, .train = &train};
    const int32_t cu[2] = {0, n};
    int32_t pos[ALL];
    const int64_t T = n;
    vp_kv kv = make_kv(s, VP_F32, n);
    packed p = pack_rows(ids, cu, 1, NULL, 0);
    vp_encoder *e = NULL;
    vp_tape *tape = NULL;
    float *hidden = vp_calloc((size_t)(n * s->hidden), sizeof *hidden);
    for (int32_t i = 0; i < n; i++) pos[i] = at + i;
    int status = vp_frame_put(p.frame, "pos", VP_I32, 1, &T, pos, err);
    if (!status) status = vp_encoder_open(&e, s->model, &o, NULL, err);
    if (!status) status = vp_encoder_warm(e, err);
    if (!status) status = vp_encoder_forward(e, p.frame, hidden, &tape, err);
    for (int64_t l = 0; !status && l < s->layers; l++) take_layer(s, &tape->layer[l].qkv, l, &kv);
    vp_tape_free(tape);
    vp_encoder_close(e);
    packed_free(&p);
    free(hidden);
    return kv;
}

/* Tokens [from, to) of kv, as this type. */
static vp_kv part_of(const setup *s, const vp_kv *kv, int64_t from, int64_t to, vp_dtype dtype) {
    vp_kv part = make_kv(s, dtype, to - from);
    for (int half = 0; half < 2; half++) {
        const float *in = half ? kv->v : kv->k;
        void *out = (void *)(uintptr_t)(half ? part.v : part.k);
        for (int64_t l = 0; l < s->layers; l++)
            for (int64_t i = 0; i < (to - from) * s->width; i++) {
                const float x = in[(l * kv->tokens + from) * s->width + i];
                const int64_t at = l * (to - from) * s->width + i;
                if (dtype == VP_BF16)
                    ((uint16_t *)out)[at] = vp_float_bf16(x);
                else
                    ((float *)out)[at] = x;
            }
    }
    return part;
}

/* ---- the last hidden state [C] of n fresh tokens behind m spans; NULL: err. Free. ---- */
typedef struct span_list {
    const vp_kv *kv[3];
    int64_t shift[3];
    int n;
} span_list;

static float *last_of(setup *s, const span_list *spans, const int32_t *ids, int32_t n, vp_error *err) {
    vp_cache *cache = NULL;
    const int32_t cu[2] = {0, n};
    float *last = vp_calloc((size_t)s->hidden, sizeof *last);
    int status = vp_cache_open(&cache, s->encoder, n, err);
    for (int i = 0; !status && i < spans->n; i++)
        status = vp_cache_prepend(cache, s->encoder, spans->kv[i], spans->shift[i], err);
    if (!status) status = vp_encoder_append(s->encoder, &cache, 1, ids, cu, last, err);
    vp_cache_close(cache);
    if (!status) return last;
    free(last);
    return NULL;
}

static double difference(const setup *s, const float *a, const float *b) {
    return a && b ? relative_error(a, b, s->hidden) : -1;
}

static void check_same(const setup *s, const float *a, const float *b, const char *what) {
    OK(a && b && !memcmp(a, b, (size_t)s->hidden * sizeof *a), "%s: %s: the same bytes", s->name, what);
}

/* A text, then fresh tokens, against both in one uncached pass. */
static void check_continuing(setup *s, const float *uncached, const char *attention) {
    vp_error err = {0};
    vp_kv text = keys_of(s, s->ids, TEXT, 0, attention, &err);
    vp_kv half = part_of(s, &text, 0, TEXT, VP_BF16), first = part_of(s, &text, 0, CUT, VP_BF16);
    vp_kv second = part_of(s, &text, CUT, TEXT, VP_BF16);
    const int32_t *fresh = s->ids + TEXT;
    float *f32 = last_of(s, &(span_list){.kv = {&text}, .n = 1}, fresh, FRESH, &err);
    float *bf16 = last_of(s, &(span_list){.kv = {&half}, .n = 1}, fresh, FRESH, &err);
    float *cut = last_of(s, &(span_list){.kv = {&first, &second}, .n = 2}, fresh, FRESH, &err);
    const double exact = difference(s, f32, uncached), rounded = difference(s, bf16, uncached);
    if (strcmp(attention, "causal") == 0) {
        OK(exact >= 0 && exact <= 2e-6, "%s: behind a causal pass in f32 within %.1e %s", s->name, exact, err.text);
        OK(rounded > 0 && rounded <= 5e-3, "%s: and in bf16 within %.1e", s->name, rounded);
    } else {
        OK(exact >= 3e-2, "%s: behind a bidirectional pass it differs, by %.1e %s", s->name, exact, err.text);
    }
    check_same(s, bf16, cut, "in two spans");
    free(f32), free(bf16), free(cut);
    free_kv(&text), free_kv(&half), free_kv(&first), free_kv(&second);
}

/* Two texts, each of its own pass, the second moved behind the first: as if its pass had been there. */
static void check_moving(setup *s) {
    vp_error err = {0};
    vp_kv a = keys_of(s, s->ids, CUT, 0, "bi", &err), b = keys_of(s, s->ids + CUT, TEXT - CUT, 0, "bi", &err);
    vp_kv there = keys_of(s, s->ids + CUT, TEXT - CUT, CUT, "bi", &err), copy = part_of(s, &b, 0, b.tokens, VP_F32);
    vp_kv a16 = part_of(s, &a, 0, CUT, VP_BF16), b16 = part_of(s, &b, 0, b.tokens, VP_BF16);
    const int32_t *fresh = s->ids + TEXT;
    float *want = last_of(s, &(span_list){.kv = {&a, &there}, .n = 2}, fresh, FRESH, &err);
    float *moved = last_of(s, &(span_list){.kv = {&a, &b}, .shift = {0, CUT}, .n = 2}, fresh, FRESH, &err);
    float *half = last_of(s, &(span_list){.kv = {&a16, &b16}, .shift = {0, CUT}, .n = 2}, fresh, FRESH, &err);
    float *left = last_of(s, &(span_list){.kv = {&a, &b}, .n = 2}, fresh, FRESH, &err);
    const double exact = difference(s, moved, want), rounded = difference(s, half, want);
    OK(exact >= 0 && exact <= 4e-6, "%s: a text moved behind another within %.1e %s", s->name, exact, err.text);
    OK(rounded > 0 && rounded <= 5e-3, "%s: and in bf16 within %.1e", s->name, rounded);
    OK(difference(s, left, want) >= 1e-3, "%s: at its own positions it is another", s->name);
    OK(!memcmp(b.k, copy.k, (size_t)(s->layers * b.tokens * s->width) * sizeof(float)),
       "%s: the keys that were lent are as they were", s->name);
    free(want), free(moved), free(half), free(left);
    free_kv(&a), free_kv(&b), free_kv(&there), free_kv(&copy), free_kv(&a16), free_kv(&b16);
}

/* Three sequences behind 0, 1 and 2 texts in one batch, token after token, as each alone. */
static void check_batch(setup *s) {
    vp_error err = {0};
    vp_kv a = keys_of(s, s->ids, CUT, 0, "bi", &err), b = keys_of(s, s->ids + CUT, TEXT - CUT, 0, "bi", &err);
    const span_list of[3] = {{.n = 0}, {.kv = {&b}, .n = 1}, {.kv = {&a, &b}, .n = 2}};
    const int32_t length[3] = {FRESH, 3, 5}, *fresh = s->ids + TEXT;
    vp_cache *cache[3] = {0};
    float *last = vp_calloc((size_t)(3 * s->hidden), sizeof *last), *alone[3];
    int status = 0;
    for (int i = 0; i < 3; i++) {
        alone[i] = last_of(s, &of[i], fresh, length[i], &err);
        if (!status) status = vp_cache_open(&cache[i], s->encoder, length[i], &err);
        for (int k = 0; !status && k < of[i].n; k++)
            status = vp_cache_prepend(cache[i], s->encoder, of[i].kv[k], 0, &err);
    }
    for (int32_t t = 0; !status && t < FRESH; t++) {
        int32_t ids[3], cu[4] = {0, 1, 2, 3};
        int64_t B = 0;
        vp_cache *live[3];
        float *to[3], hidden[3][512];
        for (int i = 0; i < 3; i++) {
            if (t >= length[i]) continue;
            ids[B] = fresh[t];
            to[B] = last + i * s->hidden;
            live[B++] = cache[i];
        }
        float *flat = &hidden[0][0];
        status = vp_encoder_append(s->encoder, live, B, ids, cu, flat, &err);
        for (int64_t i = 0; !status && i < B; i++)
            memcpy(to[i], flat + i * s->hidden, (size_t)s->hidden * sizeof *flat);
    }
    OK(!status && vp_cache_length(cache[2]) == TEXT + 5, "%s: three sequences %s", s->name, err.text);
    for (int i = 0; i < 3; i++) {
        check_same(s, last + i * s->hidden, alone[i], "alone and beside others");
        vp_cache_close(cache[i]);
        free(alone[i]);
    }
    free(last);
    free_kv(&a), free_kv(&b);
}

static void check_refusals(setup *s) {
    vp_error err = {0};
    vp_kv kv = make_kv(s, VP_BF16, 3), other = kv;
    vp_cache *c = NULL;
    const int32_t cu[2] = {0, 1};
    float *last = vp_calloc((size_t)s->hidden, sizeof *last);
    OK(!vp_cache_open(&c, s->encoder, 10, &err), "a cache %s", err.text);
    other.layers++;
    OK(vp_cache_prepend(c, s->encoder, &other, 0, &err) == VP_DATA && strstr(err.text, "layers of"), "%s", err.text);
    other = kv;
    err = (vp_error){0};
    other.width--;
    OK(vp_cache_prepend(c, s->encoder, &other, 0, &err) == VP_DATA && strstr(err.text, "layers of"), "%s", err.text);
    other = kv;
    err = (vp_error){0};
    other.tokens = s->model->config.positions - 9;
    OK(vp_cache_prepend(c, s->encoder, &other, 0, &err) == VP_DATA && strstr(err.text, "positions"), "%s", err.text);
    err = (vp_error){0};
    OK(vp_cache_length(c) == 0 && !vp_cache_prepend(c, s->encoder, &kv, 0, &err) && vp_cache_length(c) == 3,
       "what was refused is not there");
    OK(!vp_encoder_append(s->encoder, &c, 1, s->ids, cu, last, &err), "it goes on %s", err.text);
    OK(vp_cache_prepend(c, s->encoder, &kv, 0, &err) == VP_BUG, "%s", err.text);
    vp_cache_close(c);
    free(last);
    free_kv(&kv);
}

int main(void) {
    static const char *const decoders[] = {"llama", "llama-gqa-tied", "llama3-rope", "mistral", "mistral-window",
                                           "qwen2", "qwen3",          "gemma",       "gptj",    "mixtral"};
    for (size_t i = 0; i < sizeof decoders / sizeof *decoders; i++) {
        vp_error err = {0};
        setup s;
        float *uncached = NULL;
        if (open_setup(&s, decoders[i], &err)) uncached = last_of(&s, &(span_list){.n = 0}, s.ids, ALL, &err);
        if (OK(uncached != NULL, "%s opens %s", decoders[i], err.text)) {
            check_continuing(&s, uncached, "causal");
            check_continuing(&s, uncached, "bi");
            check_moving(&s);
            check_batch(&s);
            if (i == 0) check_refusals(&s);
        }
        free(uncached);
        close_setup(&s);
    }
    return done();
}
