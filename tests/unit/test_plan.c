/* Plans (kernels/plan.h): what a pass is planned to take of the arena is what it takes, for every model, size of
 * micro-batch, and way of training; planning leaves no trace; too little memory is told in numbers. */
#include "lib/model/ahead.h"
#include "lib/model/head.h"
#include "lib/model/room.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>

enum { ROWS = 40, LONGEST = 90 };

typedef struct texts {
    int32_t ids[ROWS * LONGEST], cu[ROWS + 1], unit[ROWS];
    int64_t row[ROWS];
} texts;

/* Rows of 0 to 89 tokens. */
static void make_texts(texts *t) {
    uint32_t state = 4321;
    t->cu[0] = 0;
    for (int b = 0; b < ROWS; b++) {
        state = state * 1664525 + 1013904223;
        t->cu[b + 1] = t->cu[b] + (int32_t)(state >> 16) % LONGEST;
        t->unit[b] = b / 3;
        t->row[b] = b;
        for (int32_t i = t->cu[b]; i < t->cu[b + 1]; i++) {
            state = state * 1664525 + 1013904223;
            t->ids[i] = 3 + (int32_t)(state >> 16) % 300;
        }
    }
}

/* The host's GPU, whose memory is counted by the byte and has the size of $VP_SHIM_MEMORY. */
static bool on_shim(const vp_encoder *e) {
    vp_caps caps = {0};
    if (e) e->on.ops->caps(e->on.device, &caps);
    return caps.isa && !strcmp(caps.isa, "shim");
}

static size_t top(const vp_encoder *e) {
    return e->on.ops->arena_mark(e->on.queue);
}

/* The most that lay above `mark`, against the plan: not a byte more, and not much less. */
static void compare(const vp_encoder *e, size_t mark, const char *name, const char *what, const vp_error *err) {
    const size_t most = e->on.ops->arena_most(e->on.queue), real = most > mark ? most - mark : 0;
    const size_t planned = vp_encoder_work(e).bytes;
    OK(!err->code && real && real <= planned && planned <= real + real / 10 + 4096 && vp_encoder_work(e).flops > 0,
       "%s, %s: %zu bytes planned, %zu taken %s", name, what, planned, real, err->text);
}

/* ---- forward ---- */

static void check_forward(const char *name, const char *compute, int64_t batch_tokens, bool kv, const packed *p) {
    const vp_encode_options o = {.compute = compute, .threads = 2, .batch_tokens = batch_tokens};
    vp_error err = {0};
    vp_model *m = NULL;
    vp_encoder *e = NULL;
    const float *hidden;
    const uint16_t *keys;
    char what[80];
    int status = vp_model_open(&m, golden_path("%s", name), &err);
    if (!status) status = vp_encoder_open(&e, m, &o, NULL, &err);
    if (!status) status = vp_encoder_prepare(e, &err);
    if (!status) status = vp_encoder_rope(e, LONGEST, &err);
    const size_t mark = status ? 0 : top(e);
    if (!status && kv) status = vp_encoder_run_kv(e, p->frame, &hidden, &keys, &err);
    if (!status && !kv) status = vp_encoder_run(e, p->frame, &hidden, &err);
    snprintf(what, sizeof what, "%s%lld tokens at a time", kv ? "keys and values, " : "", (long long)batch_tokens);
    if (!status) compare(e, mark, name, what, &err);
    OK(!status && top(e) == mark, "%s, %s: nothing stays %s", name, what, err.text);
    vp_encoder_close(e);
    vp_model_close(m);
}

/* ---- training ---- */

static int there_and_back(vp_encoder *e, const packed *p, vp_error *err) {
    vp_tape *tape = NULL;
    const size_t n = (size_t)(p->frame->T * vp_encoder_width(e));
    float *hidden = vp_calloc(n, sizeof *hidden), *dhidden = vp_calloc(n, sizeof *dhidden);
    int status = vp_encoder_forward(e, p->frame, hidden, &tape, err);
    if (!status) status = vp_encoder_backward(e, tape, dhidden, err);
    vp_tape_free(tape);
    free(hidden);
    free(dhidden);
    return status;
}

static void check_training(const char *name, const char *compute, const vp_train_options *train, const packed *p) {
    static const char *const recomputes[] = {"none", "mlp", "layer"};
    const vp_encode_options o = {.compute = compute, .threads = 2, .train = train};
    vp_error err = {0};
    vp_model *m = NULL;
    vp_encoder *e = NULL;
    char what[80];
    snprintf(what, sizeof what, "%s, recompute %s", train->full ? "full" : "LoRA", recomputes[train->recompute]);
    int status = vp_model_open(&m, golden_path("%s", name), &err);
    if (!status) status = vp_encoder_open(&e, m, &o, NULL, &err);
    if (!status) status = vp_encoder_warm(e, &err);
    const size_t mark = status ? 0 : top(e);
    if (!status) status = there_and_back(e, p, &err);
    OK(!status, "%s, %s: trains %s", name, what, err.text);
    if (!status) compare(e, mark, name, what, &err);
    vp_encoder_close(e);
    vp_model_close(m);
}

/* ---- choosing ---- */

/* 0 tokens: as many as the CPU has by default, or fit on a device. */
static void check_choice(const packed *p) {
    vp_error err = {0};
    vp_model *m = NULL;
    vp_encoder *e = NULL;
    const float *hidden;
    int status = vp_model_open(&m, golden_path("llama"), &err);
    if (!status) status = vp_encoder_open(&e, m, &(vp_encode_options){.threads = 1}, NULL, &err);
    OK(!status && vp_encoder_work(e).batch_tokens == 0, "nothing is chosen before the first batch");
    if (!status) status = vp_encoder_run(e, p->frame, &hidden, &err);
    const int64_t chosen = status ? 0 : vp_encoder_work(e).batch_tokens;
    OK(chosen == (e && e->on.separate ? VP_DEVICE_TOKENS : VP_BATCH_TOKENS), "%lld tokens at a time are chosen %s",
       (long long)chosen, err.text);
    vp_encoder_close(e);
    vp_model_close(m);
}

/* ---- two at a time ---- */

static int note_encoder(void *ctx, int place, vp_encoder *e, vp_error *err) {
    vp_encoder **used = ctx;
    used[place] = e;
    return place ? vp_fail(err, VP_DATA, "place %d", place) : VP_OK;
}

/* Frames are taken in the order in which they were given, each with its own status and its own queue. */
static void check_order(vp_ahead *a, vp_encoder *const *used) {
    vp_error err = {0};
    int status = VP_OK;
    bool good = vp_ahead_idle(a) && vp_ahead_place(a) == 0;
    vp_ahead_give(a);
    good = good && vp_ahead_place(a) == 1 && !vp_ahead_idle(a);
    vp_ahead_give(a);
    OK(good && vp_ahead_place(a) == -1, "two places");
    OK(vp_ahead_take(a, true, &status, &err) == 0 && !status && !err.code, "the first one comes first");
    OK(vp_ahead_place(a) == 0 && !vp_ahead_idle(a), "its place is free");
    OK(vp_ahead_take(a, true, &status, &err) == 1 && status == VP_DATA && !strcmp(err.text, "place 1"),
       "then the second, with its failure");
    OK(vp_ahead_take(a, true, &status, &err) == -1 && vp_ahead_idle(a), "and no more");
    OK(used[0] && used[1] && used[0]->on.queue != used[1]->on.queue && used[0]->layer == used[1]->layer,
       "one set of weights, two queues");
}

static void check_ahead(const char *memory) {
    vp_error err = {0};
    vp_model *m = NULL;
    vp_encoder *e = NULL, *used[2] = {0};
    vp_ahead *a = NULL;
    if (memory) setenv("VP_SHIM_MEMORY", memory, 1);
    int status = vp_model_open(&m, golden_path("llama"), &err);
    if (!status) status = vp_encoder_open(&e, m, &(vp_encode_options){.batch_tokens = 16384}, NULL, &err);
    if (!status) status = vp_ahead_open(&a, e, note_encoder, used, &err);
    const bool two = !status && e->on.separate && !(memory && on_shim(e));
    OK(!status && (a != NULL) == two, "frames ahead %s",
       a ? "on a device" : "not on the CPU, nor without memory for two");
    if (a) check_order(a, used);
    vp_ahead_close(a);
    vp_encoder_close(e);
    vp_model_close(m);
    unsetenv("VP_SHIM_MEMORY");
}

/* ---- weights ---- */

/* A tied head takes no memory of a device, on which the table is. */
static void check_tied(const char *name, const char *compute, bool shared) {
    const vp_encode_options o = {.compute = compute, .threads = 1, .generate = !strcmp(compute, "i8")};
    vp_error err = {0};
    vp_model *m = NULL;
    vp_encoder *e = NULL;
    vp_head *h = NULL;
    int status = vp_model_open(&m, golden_path("%s", name), &err);
    if (!status) status = vp_encoder_open(&e, m, &o, NULL, &err);
    if (!status) status = vp_encoder_prepare(e, &err);
    const size_t before = status ? 0 : e->on.ops->memory_free(e->on.device);
    if (!status) status = vp_head_open_on(&h, m, e, &err);
    const size_t after = status ? 0 : e->on.ops->memory_free(e->on.device);
    OK(!status && (before == after || !on_shim(e)) == (shared || !on_shim(e)), "%s in %s: the head takes %zu bytes %s",
       name, compute, before - after, err.text);
    vp_head_close(h);
    vp_encoder_close(e);
    vp_model_close(m);
}

int main(void) {
    static texts t;
    static const char *const models[] = {"llama", "llama-gqa-tied", "mistral-window", "qwen3", "gptj", "mixtral",
                                         "bert"};
    make_texts(&t);
    vp_error err = {0};
    const char *name = getenv("VP_DEVICE");
    const bool device = name && !strcmp(name, "cuda"); /* perhaps on the host: fewer rows, and the other type */
    packed p = pack_rows(t.ids, t.cu, device ? 5 : ROWS, NULL, 0);
    vp_frame_put(p.frame, "unit", VP_I32, 1, &p.frame->B, t.unit, &err);
    vp_frame_put(p.frame, "row", VP_I64, 1, &p.frame->B, t.row, &err);
    vp_map_set_int(p.frame->keys, "step", 0, &err);
    for (size_t i = 0; i < sizeof models / sizeof *models; i += device ? 3 : 1)
        for (int64_t tokens = 64; tokens <= 4096; tokens *= 8)
            check_forward(models[i], device ? "bf16" : NULL, tokens, tokens == 512 && i != 5, &p);
    check_forward("llama", "f32", 2048, false, &p);
    for (int i = 0; i < 2 * 5 * 3; i++) { /* bert has no backward */
        const vp_train_options train = {.full = i & 1,
                                        .rank = 4,
                                        .alpha = 8,
                                        .lora_dropout = i & 1 ? 0 : 0.1,
                                        .hidden_dropout = i % 3 ? 0.1 : 0,
                                        .attention_dropout = 0.1,
                                        .backward = true,
                                        .recompute = (vp_recompute)(i / 2 % 3)};
        if (!device || i / 6 == 3) check_training(models[i / 6], device ? "bf16" : NULL, &train, &p);
    }
    check_choice(&p);
    if (device) {
        check_tied("llama-gqa-tied", "f32", true);
        check_tied("llama-gqa-tied", "bf16", true);
        check_tied("llama-gqa-tied", "i8", false);
        check_tied("llama", "f32", false);
    }
    check_ahead(NULL);
    check_ahead("30000000");
    packed_free(&p);
    return done();
}
