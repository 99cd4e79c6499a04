/* What a forward pass leaves for its backward: which matrices, how much memory, and the pass that fills them. */
#include "lib/model/pass.h"
#include "lib/model/room.h"
#include <stdlib.h>

typedef struct tape_sizes {         /* columns of every matrix that a layer keeps; 0: none */
    int64_t x, lse, middle, logits; /* f32 */
    int64_t raw, qkv, mixed, up;    /* of the state type */
} tape_sizes;

static tape_sizes sizes_of(const vp_encoder *e) {
    const vp_config *c = &e->model->config;
    const vp_recompute r = e->training->options.recompute;
    tape_sizes s = {.x = c->width, .logits = c->experts};
    if (r == VP_RECOMPUTE_LAYER) return s;
    s.raw = c->arch->qk_norm ? (c->heads + c->groups) * c->head_dim : 0;
    s.qkv = (c->heads + 2 * c->groups) * c->head_dim;
    s.mixed = c->heads * c->head_dim;
    s.lse = c->heads;
    s.middle = c->arch->parallel ? 0 : c->width;
    if (r == VP_RECOMPUTE_NONE) s.up = c->arch->gated ? 2 * c->ffn : c->ffn;
    return s;
}

size_t vp_tape_bytes(const vp_encoder *e, int64_t tokens) {
    const tape_sizes s = sizes_of(e);
    const size_t f32 = sizeof(float), state = vp_dtype_size(e->on.state);
    const vp_config *c = &e->model->config;
    const int64_t up = s.up * (c->experts ? c->top_k : 1);
    const size_t layer =
        f32 * (size_t)(s.x + s.lse + s.middle + s.logits) + state * (size_t)(s.raw + s.qkv + s.mixed + up);
    return (size_t)tokens * (layer * (size_t)c->layers + f32 * (size_t)c->width);
}

static int allocate_layer(vp_pass *p, const tape_sizes *n, vp_saved *s, vp_error *err) {
    const struct {
        vp_mat *m;
        int64_t cols;
    } f32[] = {{&s->x, n->x}, {&s->lse, n->lse}, {&s->middle, n->middle}, {&s->logits, n->logits}},
      states[] = {{&s->raw, n->raw}, {&s->qkv, n->qkv}, {&s->mixed, n->mixed}};
    for (size_t i = 0; i < sizeof f32 / sizeof *f32; i++)
        if (f32[i].cols) VP_TRY(vp_pass_allocate_f32(p, f32[i].m, f32[i].cols, err));
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        if (states[i].cols) VP_TRY(vp_pass_allocate(p, states[i].m, states[i].cols, err));
    return n->up ? vp_pass_allocate_mlp(p, &s->up, n->up, err) : VP_OK;
}

static int allocate_tape(vp_encoder *e, vp_tape *t, vp_error *err) {
    const vp_config *c = &e->model->config;
    const tape_sizes n = sizes_of(e);
    vp_pass p = {.e = e, .c = c, .batch = &t->batch};
    t->layer = vp_calloc((size_t)c->layers, sizeof *t->layer);
    if (!t->layer) return vp_fail_memory(err, "a tape", (size_t)c->layers * sizeof *t->layer);
    for (int64_t i = 0; i < c->layers; i++) VP_TRY(allocate_layer(&p, &n, &t->layer[i], err));
    return vp_pass_allocate_f32(&p, &t->x, c->width, err);
}

void vp_tape_free(vp_tape *t) {
    if (!t) return;
    free(t->layer);
    free(t);
}

static int run(vp_encoder *e, const vp_sequences *s, float *hidden, vp_tape **tape, vp_error *err) {
    vp_tape *t = vp_calloc(1, sizeof *t);
    if (!t) return vp_fail_memory(err, "a tape", sizeof *t);
    size_t mark = e->on.ops->arena_mark(e->on.queue);
    t->step = s->step;
    int status = vp_batch_build(e, s, 0, s->B, 0, &t->batch, &t->ids, err);
    if (!status && tape) status = allocate_tape(e, t, err);
    const vp_pass_options o = {.step = t->step, .tape = tape ? t : NULL, .hidden = hidden};
    if (!status) status = vp_forward(e, &t->batch, t->ids, &o, err);
    if (tape && !status) {
        *tape = t;
        return VP_OK;
    }
    vp_tape_free(t);
    e->on.ops->arena_release(e->on.queue, mark);
    return status;
}

typedef struct both {  /* ways that are planned */
    bool keep;         /* there is a tape, and a way back */
    const vp_frame *f; /* NULL: made up */
} both;

/* The tape lies below what the loss and the backward take. */
static int run_planned(vp_encoder *e, const vp_planned_pass *pass, vp_error *err) {
    const both *of = pass->what;
    const vp_between between = e->training ? e->training->between : (vp_between){0};
    vp_tape *tape = NULL;
    int status = run(e, pass->s, NULL, of->keep ? &tape : NULL, err);
    if (!status && between.run) status = between.run(between.ctx, &e->on, of->f, pass->s->T, err);
    if (!status && of->keep) status = vp_encoder_backward(e, tape, NULL, err);
    vp_tape_free(tape);
    return status;
}

static int make_room(vp_encoder *e, const vp_frame *f, const vp_sequences *s, bool keep, vp_error *err) {
    const both of = {keep, f};
    const vp_planned_pass pass = {.run = run_planned, .s = s, .b1 = s->B, .what = &of};
    vp_need need;
    VP_TRY(vp_room_plan(e, &pass, &need, err));
    e->work.flops += need.flops;
    return vp_room_make(e, &pass, need.bytes, err);
}

void vp_encoder_between(vp_encoder *e, const vp_between *between) {
    if (e->training) e->training->between = *between;
}

int vp_encoder_fit(vp_encoder *e, int64_t tokens, int64_t kept, int64_t *out, vp_error *err) {
    const both of = {.keep = true};
    VP_TRY(vp_encoder_warm(e, err));
    const vp_room_limits l = {{.run = run_planned, .what = &of}, .more = (size_t)kept, .at_once = 1};
    *out = tokens;
    VP_TRY(vp_room_tokens(e, &l, out, err));
    e->work.batch_tokens = *out;
    return VP_OK;
}

int vp_encoder_forward(vp_encoder *e, const vp_frame *f, float *hidden, vp_tape **tape, vp_error *err) {
    vp_sequences s;
    if (tape) *tape = NULL;
    if (!e->prepared || (tape && !(e->training && e->training->options.backward)))
        return vp_fail(err, VP_BUG, "forward: the encoder is not ready for training");
    int status = vp_sequences_read(&s, e, f, err);
    if (!status) status = make_room(e, f, &s, tape != NULL, err);
    if (!status) status = run(e, &s, hidden, tape, err);
    if (!status) status = vp_hidden_check(e, f, &s, hidden, err);
    vp_sequences_free(&s);
    return status;
}

int vp_encoder_warm(vp_encoder *e, vp_error *err) {
    VP_TRY(vp_encoder_prepare(e, err));
    return vp_encoder_rope(e, (int32_t)(e->model->config.positions - 1), err);
}

size_t vp_encoder_mark(const vp_encoder *e) {
    return e->on.ops->arena_mark(e->on.queue);
}

void vp_encoder_release_to(vp_encoder *e, size_t mark) {
    e->on.ops->arena_release(e->on.queue, mark);
}

vp_compute vp_encoder_compute(const vp_encoder *e) {
    return e->on;
}

int64_t vp_encoder_width(const vp_encoder *e) {
    return e->model->config.width;
}
