/* GRIT's joint step and KTO: the oracles of their losses, and the gradients of whole steps by central differences. */
#include "tests/unit/tap.h"
#include "tests/unit/trained_support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH = 9, GROUPS = 3, PARTS = 3, EXAMPLES = GROUPS * PARTS, ANSWERS = 4, MOST = 2 * ANSWERS + EXAMPLES };

typedef struct rows { /* frames of rows of LENGTH tokens */
    int32_t ids[MOST * LENGTH], target[MOST * LENGTH], cu[MOST + 1], unit[MOST], group[MOST], prefix[MOST];
    float weight[MOST * LENGTH], score[MOST], reference[MOST];
    uint8_t keep[MOST * LENGTH], role[MOST], view[MOST];
    int64_t row[MOST], n;
    vp_step_row order[MOST];
    vp_frame *frame[2];
    vp_step step;
} rows;

static void put(vp_frame *f, const char *name, vp_dtype type, int64_t n, const void *data) {
    vp_error err = {0};
    if (vp_frame_put(f, name, type, 1, &n, data, &err)) OK(false, "%s: %s", name, err.text);
}

/* Rows [first, first + n) of r, which are numbered from `number` on, as the next frame. */
static void add_frame(rows *r, int64_t first, int64_t n, int64_t number, bool generates) {
    vp_error err = {0};
    vp_step *s = &r->step;
    vp_frame *f = r->frame[s->frames] = vp_frame_new(VP_FRAME_BATCH, &err);
    const int64_t T = n * LENGTH, at = first * LENGTH;
    for (int64_t b = first; b < first + n; b++) {
        r->row[b] = number + b - first;
        r->unit[b] = (int32_t)(b / 2);
        r->order[r->row[b]] = (vp_step_row){r->row[b], {s->frames, b - first}};
        for (int64_t i = 0; i < LENGTH; i++) {
            const int64_t t = b * LENGTH + i;
            r->ids[t] = (int32_t)(3 + (b * 53 + i * 37) % 290);
            r->keep[t] = i > 2;
            r->target[t] = generates && i > 3 && i + 1 < LENGTH ? (int32_t)(3 + (b * 53 + (i + 1) * 37) % 290) : -1;
            r->weight[t] = 1 / (float)(1 + b % 3);
        }
    }
    put(f, "cu", VP_I32, n + 1, r->cu);
    put(f, "ids", VP_I32, T, r->ids + at);
    put(f, "target", VP_I32, T, r->target + at);
    put(f, "weight", VP_F32, T, r->weight + at);
    put(f, "keep", VP_U8, T, r->keep + at);
    put(f, "unit", VP_I32, n, r->unit + first);
    put(f, "group", VP_I32, n, r->group + first);
    put(f, "role", VP_U8, n, r->role + first);
    put(f, "row", VP_I64, n, r->row + first);
    vp_map_set_real(f->keys, "weight_sum", 3, &err);
    s->frames++;
    s->B += n;
    s->T += T;
    if (!generates) return;
    s->generative += n;
    s->generative_frames = s->frames;
}

static rows *new_rows(void) {
    rows *r = vp_calloc(1, sizeof *r);
    for (int b = 0; b <= MOST; b++) r->cu[b] = b * LENGTH;
    r->step = (vp_step){.frame = r->frame, .order = r->order};
    return r;
}

static void free_rows(rows *r) {
    for (size_t i = 0; i < r->step.frames; i++) vp_frame_free(r->frame[i]);
    free(r);
}

/* ANSWERS rows to be generated, then examples of a query, a positive and a negative. */
static rows *make_joint(void) {
    rows *r = new_rows();
    for (int b = 0; b < ANSWERS + EXAMPLES; b++) {
        r->role[b] = (uint8_t)(b < ANSWERS ? 3 : (b - ANSWERS) % PARTS);
        r->group[b] = b < ANSWERS ? GROUPS + b : (b - ANSWERS) / PARTS;
    }
    add_frame(r, 0, ANSWERS, EXAMPLES, true);
    add_frame(r, ANSWERS, EXAMPLES, 0, false);
    return r;
}

/* ANSWERS rows, and as many mismatched ones, far less likely than their reference says: the zero point stays 0, where
 * it has no gradient. */
static rows *make_answers(void) {
    rows *r = new_rows();
    for (int b = 0; b < 2 * ANSWERS; b++) {
        r->role[b] = 3;
        r->view[b] = b >= ANSWERS;
        r->score[b] = (float)(b % 2);
        r->reference[b] = b < ANSWERS ? -24 : 0;
    }
    add_frame(r, 0, 2 * ANSWERS, 0, true);
    put(r->frame[0], "view", VP_U8, 2 * ANSWERS, r->view);
    put(r->frame[0], "score", VP_F32, 2 * ANSWERS, r->score);
    put(r->frame[0], "reference", VP_F32, 2 * ANSWERS, r->reference);
    return r;
}

static void check(const char *model, const char *name, const vp_train_options *train, int32_t prefix) {
    const bool joint = !strcmp(name, "grit");
    rows *r = joint ? make_joint() : make_answers();
    for (int b = 0; b < ANSWERS; b++) r->prefix[b] = prefix;
    if (prefix) put(r->frame[0], "prefix", VP_I32, ANSWERS, r->prefix);
    char text[TRAINED_TEXT];
    trained_case c = {.model = model,
                      .what = name,
                      .attention = "bi",
                      .pool = joint ? "mean" : "pick",
                      .objective = VP_OBJECTIVE_DEFAULTS,
                      .train = train,
                      .step = &r->step,
                      .tolerance = 5e-3};
    c.objective.name = name;
    c.objective.lambda_rep = 0.5;
    c.objective.lambda_gen = 0.3;
    OK(check_trained(&c, text), "%s", text);
    free_rows(r);
}

/* KTO (arXiv 2402.01306): beta 0.1, z 0.5, a wanted answer with r = 2 and an unwanted one with r = -1: 0.462570 each.
 */
static void check_oracle(void) {
    static const float logprob[] = {2, -1, 0.25f, 0.75f}, reference[4] = {0}, score[] = {1, 0, 1, 0};
    static const uint8_t view[] = {0, 0, 1, 1};
    static const int64_t row[] = {0, 1, 2, 3};
    vp_objective_options o = VP_OBJECTIVE_DEFAULTS;
    vp_objective *objective = NULL;
    vp_error err = {0};
    float loss[4], grad[4];
    vp_rows r = {.B = 4, .D = 1, .emb = logprob, .score = score, .reference = reference, .view = view, .row = row};
    o.name = "kto";
    OK(!vp_objective_open(&objective, &o, &err) && !vp_objective_rows(objective, &r, loss, grad, &err), "kto %s",
       err.text);
    OK(fabs(2 * (double)loss[0] - 0.462570) < 5e-7 && fabs(2 * (double)loss[1] - 0.462570) < 5e-7, "%.6f %.6f",
       2 * (double)loss[0], 2 * (double)loss[1]);
    OK(loss[2] == 0 && grad[2] == 0 && grad[3] == 0 && grad[0] < 0 && grad[1] > 0, "mismatched rows count in z alone");
    r.reference = NULL;
    OK(vp_objective_rows(objective, &r, loss, grad, &err) == VP_DATA && strstr(err.text, "loss ntp --reference"), "%s",
       err.text);
    vp_objective_close(objective);
}

int main(void) {
    const vp_train_options adapter = {.rank = 2, .alpha = 4, .backward = true};
    const vp_train_options whole = {.full = true, .head = true, .backward = true};
    check_oracle();
    check("llama", "grit", &adapter, 0);
    check("llama-gqa-tied", "grit", &whole, 0);
    check("llama", "grit", &adapter, 4);
    check("llama", "kto", &adapter, 0);
    check("llama-gqa-tied", "kto", &whole, 0);
    return done();
}
