/* LLaRA's objective through the trainer: central differences of bags, next tokens, an adapter, the embedding rows of
 * the slots, tied and untied output heads; and where those rows come from and go to. */
#include "tests/unit/tap.h"
#include "tests/unit/trained_support.h"
#include <stdlib.h>

enum { VOCAB = 320, SLOTS = 4, ROWS = 3, TEXT = 9, BRANCH = 6, ROW = TEXT + 2 * BRANCH, TOKENS = ROWS * ROW };

typedef struct rows { /* a step of rows: a text, then two branches that end in slots */
    int32_t ids[TOKENS], pos[TOKENS], target[TOKENS], cu[ROWS + 1], unit[ROWS];
    float weight[TOKENS];
    uint8_t seg[TOKENS];
    int64_t row[ROWS];
    vp_step_row order[ROWS];
    vp_frame *frame;
    vp_step step;
} rows;

static void fill_row(rows *r, int b) {
    for (int i = 0; i < ROW; i++) {
        const int t = b * ROW + i, branch = i < TEXT ? 0 : 1 + (i - TEXT) / BRANCH, at = (i - TEXT) % BRANCH;
        const bool slot = branch && at >= BRANCH - SLOTS && b + branch != 2; /* one bag is empty */
        r->ids[t] = 3 + (b * 53 + i * 37) % 290;
        if (branch && at >= BRANCH - SLOTS)
            r->ids[t] = VOCAB - 2 * SLOTS + (branch - 1) * SLOTS + at - (BRANCH - SLOTS);
        r->pos[t] = branch ? TEXT + at : i;
        r->seg[t] = (uint8_t)branch;
        r->target[t] = slot ? VP_TARGET_SLOT - (branch - 1) : -1;
        r->weight[t] = slot ? 0.7f + 0.1f * (float)b : 0;
        if (branch || i + 1 == TEXT) continue;
        r->target[t] = 3 + (b * 53 + (i + 1) * 37) % 290;
        r->weight[t] = 1;
    }
    r->cu[b + 1] = (b + 1) * ROW;
    r->unit[b] = b / 2;
    r->row[b] = b;
    r->order[b] = (vp_step_row){b, {0, b}};
}

static rows *make_rows(void) {
    static const int32_t bag_cu[] = {0, 3, 3, 5, 9, 10, 12}, bag[] = {5, 50, 319, 7, 9, 3, 100, 200, 300, 11, 12, 250};
    rows *r = vp_calloc(1, sizeof *r);
    vp_error err = {0};
    for (int b = 0; b < ROWS; b++) fill_row(r, b);
    vp_frame *f = r->frame = vp_frame_new(VP_FRAME_BATCH, &err);
    const int64_t T = TOKENS, B = ROWS, offsets = ROWS + 1;
    vp_frame_put(f, "cu", VP_I32, 1, &offsets, r->cu, &err);
    vp_frame_put(f, "ids", VP_I32, 1, &T, r->ids, &err);
    vp_frame_put(f, "pos", VP_I32, 1, &T, r->pos, &err);
    vp_frame_put(f, "seg", VP_U8, 1, &T, r->seg, &err);
    vp_frame_put(f, "target", VP_I32, 1, &T, r->target, &err);
    vp_frame_put(f, "weight", VP_F32, 1, &T, r->weight, &err);
    vp_frame_put(f, "unit", VP_I32, 1, &B, r->unit, &err);
    vp_frame_put(f, "row", VP_I64, 1, &B, r->row, &err);
    vp_frame_put_lists(f, "bag", B, VP_BAGS, bag_cu, bag, &err);
    vp_map_set_real(f->keys, "weight_sum", 10, &err);
    r->step = (vp_step){.B = B, .T = T, .frame = &r->frame, .frames = 1, .units = 2, .order = r->order};
    OK(!err.code, "rows %s", err.text);
    return r;
}

static void check(const char *name, const char *what, const vp_train_options *train) {
    rows *r = make_rows();
    char text[TRAINED_TEXT];
    trained_case c = {.model = name,
                      .what = what,
                      .attention = "segments",
                      .pool = "pick",
                      .objective = VP_OBJECTIVE_DEFAULTS,
                      .train = train,
                      .step = &r->step,
                      .tolerance = 5e-3};
    c.objective.name = "llara";
    c.objective.bag_weight = 1;
    OK(check_trained(&c, text), "%s", text);
    vp_frame_free(r->frame);
    free(r);
}

int main(void) {
    const vp_train_options adapter = {.rank = 2, .alpha = 4, .backward = true, .tokens = 2 * SLOTS};
    const vp_train_options whole = {.full = true, .head = true, .backward = true};
    check("llama-gqa-tied", "adapter and slots, whose rows the head shares", &adapter);
    check("llama", "adapter and slots", &adapter);
    check("llama-gqa-tied", "whole", &whole);
    check("llama", "whole with its head", &whole);
    return done();
}
