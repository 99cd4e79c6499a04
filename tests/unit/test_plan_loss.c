/* Plans of training with losses of tokens: what a step is planned to take of the arena is what it takes, the output
 * head's logits included, and --batch-tokens auto counts them. The model's vocabulary is so large that they are most of
 * it. */
#include "lib/model/room.h"
#include "lib/train/trainer.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>

enum { ROWS = 6, LENGTH = 24, SLOTS = 8, TOKENS = ROWS * LENGTH, EXTRA = 4000, PAIRS = 4 };

typedef struct rows { /* of one or two frames */
    int32_t ids[TOKENS], target[TOKENS], cu[ROWS + 1], unit[ROWS], group[ROWS];
    float weight[TOKENS], score[ROWS], reference[ROWS];
    uint8_t role[ROWS], view[ROWS];
    int64_t row[ROWS];
    vp_step_row order[ROWS];
    vp_frame *frame[2];
    vp_step step;
} rows;

typedef struct loss {
    const char *name, *pool;
    bool slots, generates; /* bags; rows have role 3 */
    int examples;          /* rows at the end that are queries and positives */
} loss;
static const loss losses[] = {{.name = "ntp", .pool = "pick"},
                              {.name = "mntp", .pool = "pick"},
                              {.name = "llara", .pool = "pick", .slots = true},
                              {.name = "kto", .pool = "pick", .generates = true},
                              {.name = "grit", .pool = "mean", .generates = true, .examples = PAIRS}};

static void put(vp_frame *f, const char *name, vp_dtype type, int64_t n, const void *data) {
    vp_error err = {0};
    if (vp_frame_put(f, name, type, 1, &n, data, &err)) OK(false, "%s: %s", name, err.text);
}

/* Two bags of slots at the end of every row. */
static void put_bags(rows *r, vp_frame *f) {
    static int32_t cu[2 * ROWS + 1], item[2 * ROWS * 3];
    vp_error err = {0};
    for (int b = 0; b < 2 * ROWS; b++) {
        cu[b + 1] = 3 * (b + 1);
        for (int i = 0; i < 3; i++) item[3 * b + i] = 7 + 5 * b + i;
    }
    for (int b = 0; b < ROWS; b++)
        for (int i = 0; i < 2 * SLOTS; i++) r->target[(b + 1) * LENGTH - 1 - i] = VP_TARGET_SLOT - (i < SLOTS);
    if (vp_frame_put_lists(f, "bag", ROWS, VP_BAGS, cu, item, &err)) OK(false, "bags: %s", err.text);
}

/* Rows [first, first + n) as the next frame, whose tokens predict the next ones where it `generates`. */
static void add_frame(rows *r, int first, int n, bool generates, const loss *l) {
    vp_error err = {0};
    vp_step *s = &r->step;
    vp_frame *f = r->frame[s->frames] = vp_frame_new(VP_FRAME_BATCH, &err);
    const int64_t T = (int64_t)n * LENGTH, at = (int64_t)first * LENGTH;
    for (int64_t t = at; t < at + T; t++) {
        r->ids[t] = (int32_t)(3 + t * 37 % 290);
        r->target[t] =
            generates && t % LENGTH > 2 && (strcmp(l->name, "mntp") || t % 5 == 0) ? (int32_t)(t * 53 % EXTRA) : -1;
        r->weight[t] = 1;
    }
    if (l->slots) put_bags(r, f);
    put(f, "cu", VP_I32, n + 1, r->cu);
    put(f, "ids", VP_I32, T, r->ids + at);
    put(f, "target", VP_I32, T, r->target + at);
    put(f, "weight", VP_F32, T, r->weight + at);
    put(f, "unit", VP_I32, n, r->unit + first);
    put(f, "group", VP_I32, n, r->group + first);
    put(f, "row", VP_I64, n, r->row + first);
    if (l->generates) put(f, "role", VP_U8, n, r->role + first);
    if (!strcmp(l->name, "kto")) {
        put(f, "view", VP_U8, n, r->view);
        put(f, "score", VP_F32, n, r->score);
        put(f, "reference", VP_F32, n, r->reference);
    }
    vp_map_set_real(f->keys, "weight_sum", 100, &err);
    s->frames++;
    s->B += n;
    s->T += T;
    if (!generates || !l->generates) return;
    s->generative += n;
    s->generative_frames = s->frames;
}

static rows *make_rows(const loss *l) {
    rows *r = vp_calloc(1, sizeof *r);
    const int first = ROWS - l->examples;
    r->step = (vp_step){.frame = r->frame, .order = r->order};
    for (int b = 0; b < ROWS; b++) {
        const bool example = b >= first;
        r->cu[b + 1] = (b + 1) * LENGTH;
        r->unit[b] = b / 2;
        r->row[b] = example ? b - first : b + l->examples; /* the generative ones are the last */
        r->order[r->row[b]] = (vp_step_row){r->row[b], {example && first, example ? b - first : b}};
        r->role[b] = (uint8_t)(example ? (b - first) % 2 : 3);
        r->group[b] = example ? (b - first) / 2 : ROWS + b;
        r->view[b] = b >= ROWS / 2;
        r->score[b] = (float)(b % 2);
        r->reference[b] = -300;
    }
    add_frame(r, 0, first, true, l);
    if (l->examples) add_frame(r, first, l->examples, false, l);
    return r;
}

typedef struct setup {
    vp_model *model;
    vp_encoder *encoder;
    vp_pooler *pooler;
    vp_objective *objective;
    vp_head *head;
    vp_trainer *trainer;
} setup;

static int open_setup(setup *s, const char *folder, const loss *l, const vp_train_options *train, int64_t tokens,
                      vp_error *err) {
    const vp_encode_options o = {.threads = 2, .train = train};
    const vp_pool_options pool = {.kind = l->pool, .normalize = -1};
    const vp_trainer_options trainer = {.optimizer = VP_SGD, .accumulate = 1, .batch_tokens = tokens};
    vp_objective_options objective = VP_OBJECTIVE_DEFAULTS;
    vp_schedule still;
    objective.name = l->name;
    VP_TRY(vp_model_open(&s->model, folder, err));
    VP_TRY(vp_encoder_open(&s->encoder, s->model, &o, NULL, err));
    VP_TRY(vp_encoder_warm(s->encoder, err));
    VP_TRY(vp_pooler_open(&s->pooler, &pool, NULL, err));
    VP_TRY(vp_objective_open(&s->objective, &objective, err));
    VP_TRY(vp_head_open_on(&s->head, s->model, s->encoder, err));
    const vp_trainer_parts parts = {s->encoder, s->pooler, s->objective, s->head, 0};
    VP_TRY(vp_trainer_open(&s->trainer, &trainer, &parts, err));
    VP_TRY(vp_schedule_set(&still, "constant", 1e-3, 0, 0, err));
    vp_trainer_plan(s->trainer, &still);
    return VP_OK;
}

static void close_setup(setup *s) {
    vp_trainer_close(s->trainer);
    vp_head_close(s->head);
    vp_objective_close(s->objective);
    vp_pooler_close(s->pooler);
    vp_encoder_close(s->encoder);
    vp_model_close(s->model);
}

/* The most that lay above what stays is what was planned: not a byte more, and not much less. */
static void check_step(const char *folder, const loss *l, const vp_train_options *train) {
    vp_error err = {0};
    setup s = {0};
    vp_trained done = {0};
    rows *r = make_rows(l);
    int status = open_setup(&s, folder, l, train, 3 * LENGTH, &err);
    const vp_compute on = status ? (vp_compute){0} : vp_encoder_compute(s.encoder);
    const size_t mark = status ? 0 : on.ops->arena_mark(on.queue);
    if (!status) status = vp_trainer_step(s.trainer, &r->step, &done, &err);
    const size_t most = status ? 0 : on.ops->arena_most(on.queue),
                 planned = status ? 0 : vp_encoder_work(s.encoder).bytes;
    const size_t taken = most > mark ? most - mark : 0;
    OK(!status && done.loss > 0 && taken && taken <= planned && planned <= taken + taken / 10 + 4096,
       "%s, %s: loss %.3f, %zu bytes planned, %zu taken %s", l->name, train->full ? "full" : "LoRA", done.loss, planned,
       taken, err.text);
    close_setup(&s);
    for (size_t i = 0; i < r->step.frames; i++) vp_frame_free(r->frame[i]);
    free(r);
}

/* As many tokens as fit: fewer beside a loss of tokens than where there is none. The shim has so little memory. */
static void check_choice(const char *folder, const vp_train_options *train) {
    vp_error err = {0};
    int64_t with[sizeof losses / sizeof *losses] = {0}, without = 0;
    setenv("VP_SHIM_MEMORY", "90000000", 1);
    for (size_t i = 0; i < sizeof losses / sizeof *losses; i++) {
        setup s = {0};
        if (!open_setup(&s, folder, &losses[i], train, 0, &err)) vp_encoder_fit(s.encoder, 0, 0, &with[i], &err);
        if (!err.code) vp_encoder_between(s.encoder, &(vp_between){0});
        if (!err.code) vp_encoder_fit(s.encoder, 0, 0, &without, &err);
        vp_caps caps = {0};
        if (s.encoder) s.encoder->on.ops->caps(s.encoder->on.device, &caps);
        const bool shim = caps.isa && !strcmp(caps.isa, "shim");
        OK(!err.code && with[i] > 0 && (with[i] < without || !shim),
           "%s: %lld tokens at a time, %lld but for the loss %s", losses[i].name, (long long)with[i],
           (long long)without, err.text);
        close_setup(&s);
    }
    unsetenv("VP_SHIM_MEMORY");
}

int main(void) {
    const vp_train_options lora = {.rank = 2, .alpha = 4, .backward = true, .recompute = VP_RECOMPUTE_LAYER};
    const vp_train_options full = {.full = true, .head = true, .backward = true};
    const char *name = getenv("VP_TEST_DEVICE"), *folder = linked_folder(NULL), *tied = linked_folder(NULL);
    const vp_growth growth = {.keep = 320, .extra = EXTRA};
    vp_error err = {0};
    for (int i = 0; i < 2; i++) {
        vp_model *m = NULL;
        vp_merged merged;
        int status = vp_model_open(&m, golden_path(i ? "llama-gqa-tied" : "llama"), &err);
        if (!status) status = vp_model_grow(m, &growth, i ? tied : folder, VP_F32, (int64_t)1 << 30, &merged, &err);
        OK(!status, "a larger vocabulary %s", err.text);
        vp_model_close(m);
    }
    for (size_t i = 0; i < sizeof losses / sizeof *losses; i++) {
        check_step(folder, &losses[i], &lora);
        check_step(i % 2 ? tied : folder, &losses[i], &full);
    }
    if (name && !strcmp(name, "cuda")) check_choice(folder, &lora);
    return done();
}
