/* Appending tokens to caches: greedy continuations of every tiny decoder against transformers' (golden/generate.json),
 * and to the byte however the tokens are divided over calls and whatever sequences stand beside. */
#include "lib/base/json.h"
#include "lib/model/cache.h"
#include "lib/model/head.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include "lib/model/training.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 3, MOST = 64 };

typedef struct setup {
    vp_model *model;
    vp_encoder *encoder;
    vp_head *head;
    int64_t width, vocab;
} setup;

static int open_setup(setup *s, const char *path, const char *compute, int threads, vp_error *err) {
    *s = (setup){0};
    const vp_encode_options o = {.threads = threads, .compute = compute, .attention = "causal", .generate = true};
    VP_TRY(vp_model_open(&s->model, path, err));
    VP_TRY(vp_encoder_open(&s->encoder, s->model, &o, NULL, err));
    VP_TRY(vp_head_open_on(&s->head, s->model, s->encoder, err));
    s->width = vp_head_width(s->head);
    s->vocab = vp_head_vocab(s->head);
    return VP_OK;
}

static void close_setup(setup *s) {
    vp_head_close(s->head);
    vp_encoder_close(s->encoder);
    vp_model_close(s->model);
}

typedef struct sequence {
    int32_t ids[MOST + 32], n; /* prompt, then what it is continued with */
    double logprob[MOST];
} sequence;

/* Logits of the last token of every sequence, after ids [from[b], n) were appended; NULL: err. Free. */
static float *append(setup *s, vp_cache *const *cache, int B, const sequence *q, const int32_t *from, vp_error *err) {
    int32_t ids[ROWS * (MOST + 32)], cu[ROWS + 1] = {0};
    for (int b = 0; b < B; b++) {
        memcpy(ids + cu[b], q[b].ids + from[b], (size_t)(q[b].n - from[b]) * sizeof *ids);
        cu[b + 1] = cu[b] + q[b].n - from[b];
    }
    float *last = vp_calloc((size_t)B * (size_t)s->width, 4), *z = vp_calloc((size_t)B * (size_t)s->vocab, 4);
    const vp_mat x = {.ptr = last, .dtype = VP_F32, .rows = B, .cols = s->width, .ld = s->width};
    const vp_mat logits = {.ptr = z, .dtype = VP_F32, .rows = B, .cols = s->vocab, .ld = s->vocab};
    const vp_compute on = vp_encoder_compute(s->encoder);
    bool good = !vp_encoder_append(s->encoder, cache, B, ids, cu, last, err);
    vp_transfer t = vp_transfer_begin(&on, "logits", err);
    const vp_mat in = vp_transfer_put_mat(&t, &x), out = vp_transfer_room_mat(&t, &logits);
    if (good && !t.status) t.status = vp_head_logits(s->head, &in, &out, err);
    vp_transfer_get_mat(&t, &logits, &out);
    good = !vp_transfer_end(&t) && good;
    free(last);
    if (good) return z;
    free(z);
    return NULL;
}

static void take_best(const float *z, int64_t vocab, sequence *q, int32_t at) {
    int64_t best = 0;
    double sum = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (z[i] > z[best]) best = i;
    for (int64_t i = 0; i < vocab; i++) sum += exp((double)z[i] - (double)z[best]);
    q->logprob[at] = -log(sum);
    q->ids[q->n++] = (int32_t)best;
}

/* tokens more for each of B sequences, all in one batch */
static bool continue_all(setup *s, sequence *q, int B, int tokens, vp_error *err) {
    vp_cache *cache[ROWS] = {0};
    int32_t from[ROWS] = {0};
    bool good = true;
    for (int b = 0; b < B; b++) good = good && !vp_cache_open(&cache[b], s->encoder, MOST + 32, err);
    for (int i = 0; good && i < tokens; i++) {
        float *z = append(s, cache, B, q, from, err);
        good = z != NULL;
        for (int b = 0; good && b < B; b++) {
            from[b] = q[b].n;
            take_best(z + b * s->vocab, s->vocab, &q[b], i);
        }
        free(z);
    }
    for (int b = 0; b < B; b++) vp_cache_close(cache[b]);
    return good;
}

static int32_t read_ids(const json_t *list, int32_t *ids) {
    for (size_t i = 0; i < json_array_size(list); i++) ids[i] = (int32_t)json_number_value(json_array_get(list, i));
    return (int32_t)json_array_size(list);
}

static void check_row(const char *name, const json_t *row, const sequence *got) {
    int32_t want[MOST];
    const json_t *logprob = json_object_get(row, "logprob");
    const int32_t n = read_ids(json_object_get(row, "ids"), want);
    const int32_t prompt = got->n - n;
    double worst = 0;
    for (int32_t i = 0; i < n; i++) {
        const double e = fabs(got->logprob[i] - json_number_value(json_array_get(logprob, (size_t)i)));
        if (!(e <= worst)) worst = e;
    }
    OK(n == 24 && !memcmp(want, got->ids + prompt, (size_t)n * sizeof *want), "%s: a prompt of %d: same tokens", name,
       prompt);
    OK(worst <= 1e-4, "%s: log-probabilities within %.1e", name, worst);
}

static void check_model(const char *name, const json_t *rows) {
    vp_error err = {0};
    setup s;
    sequence q[ROWS] = {{.n = 0}};
    bool good = !open_setup(&s, golden_path("%s", name), "f32", 2, &err) && json_array_size(rows) == ROWS;
    for (size_t b = 0; good && b < ROWS; b++)
        q[b].n = read_ids(json_object_get(json_array_get(rows, b), "prompt"), q[b].ids);
    good = good && continue_all(&s, q, ROWS, 24, &err);
    if (OK(good, "%s generates %s", name, err.text))
        for (size_t b = 0; b < ROWS; b++) check_row(name, json_array_get(rows, b), &q[b]);
    close_setup(&s);
}

/* The same logits whether a text of n tokens comes at once, in two parts, or token by token, alone or beside others. */
static void check_parts(const char *name, const char *compute) {
    vp_error err = {0};
    setup s;
    if (!OK(!open_setup(&s, golden_path("%s", name), compute, 2, &err), "%s %s opens %s", name, compute, err.text)) {
        close_setup(&s);
        return;
    }
    sequence whole = {.n = 40}, part = {.n = 0}, two[2];
    for (int i = 0; i < 40; i++) whole.ids[i] = 3 + (i * 37 + 11) % 300;
    vp_cache *at_once = NULL, *parts = NULL, *pair[2] = {0};
    int32_t from[2] = {0};
    vp_cache_open(&at_once, s.encoder, 40, &err);
    vp_cache_open(&parts, s.encoder, 40, &err);
    vp_cache_open(&pair[0], s.encoder, 41, &err);
    vp_cache_open(&pair[1], s.encoder, 90, &err);
    const size_t bytes = (size_t)s.vocab * sizeof(float);
    float *z = append(&s, &at_once, 1, &whole, from, &err), *last = NULL, *beside;
    part = whole;
    for (part.n = 17; part.n <= 40; part.n++) {
        free(last);
        last = append(&s, &parts, 1, &part, from, &err);
        from[0] = part.n;
    }
    OK(z && last && !memcmp(z, last, bytes), "%s %s: in parts: the same bytes %s", name, compute, err.text);
    two[1] = two[0] = whole;
    memcpy(two[1].ids + 20, whole.ids, 40 * sizeof *whole.ids);
    two[1].n = 60;
    from[0] = 0;
    beside = append(&s, pair, 2, two, from, &err);
    OK(z && beside && !memcmp(z, beside, bytes), "%s %s: beside another: the same bytes %s", name, compute, err.text);
    int32_t full[] = {40};
    part.n = 41;
    OK(!append(&s, &at_once, 1, &part, full, &err) && err.code == VP_DATA && vp_cache_length(at_once) == 40,
       "%s %s: a cache that is full: %s", name, compute, err.text);
    free(z), free(last), free(beside);
    vp_cache_close(at_once), vp_cache_close(parts), vp_cache_close(pair[0]), vp_cache_close(pair[1]);
    close_setup(&s);
}

int main(void) {
    vp_error err = {0};
    vp_json golden;
    const char *name;
    json_t *rows;
    if (OK(!vp_json_open(&golden, golden_path("generate.json"), "", JSON_OBJECT, &err), "golden values %s", err.text))
        json_object_foreach(golden.root, name, rows) check_model(name, rows);
    vp_json_close(&golden);
    static const char *const types[] = {"f32", "bf16", "i8"};
    for (int i = 0; i < 3; i++) {
        check_parts("mistral-window", types[i]);
        check_parts("llama-gqa-tied", types[i]);
        check_parts("mixtral", types[i]);
    }
    setup s;
    err = (vp_error){0};
    OK(open_setup(&s, golden_path("bert"), "f32", 1, &err) == VP_DATA && strstr(err.text, "no output head"),
       "bert has no head: %s", err.text);
    close_setup(&s);
    return done();
}
