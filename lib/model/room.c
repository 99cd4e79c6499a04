/* Planning a pass, and memory for it: room.h. */
#include "lib/model/room.h"
#include "kernels/plan.h"
#include <stdio.h>
#include <stdlib.h>

int vp_room_plan(const vp_encoder *e, const vp_planned_pass *pass, vp_need *need, vp_error *err) {
    vp_encoder planned = *e; /* its weights are the encoder's own */
    vp_planner *p = NULL;
    vp_error why = {0};
    *need = (vp_need){0};
    int status = vp_planner_open(&p, e->on.ops, e->on.device, &why);
    if (!status) {
        planned.on.ops = vp_planner_table(p);
        planned.on.queue = vp_planner_queue(p);
        status = pass->run(&planned, pass, &why);
    }
    if (!status) *need = (vp_need){vp_planner_bytes(p), vp_planner_flops(p)};
    vp_planner_close(p);
    return status && status != VP_MEMORY ? vp_fail(err, status, "%s", why.text) : VP_OK;
}

/* ---- messages ---- */

typedef struct amount {
    char text[24];
} amount;

static amount say(size_t bytes) {
    static const char *const unit[] = {"kB", "MB", "GB", "TB"};
    double n = (double)bytes / 1e3;
    size_t i = 0;
    for (; n >= 999.5 && i < 3; i++) n /= 1e3;
    amount a;
    snprintf(a.text, sizeof a.text, n < 9.95 ? "%.1f %s" : "%.0f %s", n, unit[i]);
    return a;
}

static int too_little(const vp_encoder *e, const vp_planned_pass *pass, size_t bytes, vp_error *err) {
    const int64_t tokens = pass->s->cu[pass->b1] - pass->s->cu[pass->b0];
    const char *help = ": lower --batch-tokens";
    if (pass->b1 - pass->b0 == 1)
        help = ", which are one row: cut it, tok --max-len";
    else if (e->training && e->training->options.backward && e->training->options.recompute != VP_RECOMPUTE_LAYER)
        help = ": lower --batch-tokens, or --recompute layer";
    return vp_fail(err, VP_MEMORY, "out of memory: needs %s for %lld tokens at a time, %s free%s", say(bytes).text,
                   (long long)tokens, say(e->on.ops->memory_free(e->on.device)).text, help);
}

int vp_room_weights(const vp_encoder *e, vp_error *err) {
    const vp_config *c = &e->model->config;
    const size_t each = vp_dtype_size(e->on.type), free_bytes = e->on.ops->memory_free(e->on.device);
    size_t numbers = 0;
    for (size_t i = 0; i < e->model->weights.n; i++) {
        const vp_weight_entry *w = &e->model->weights.entry[i];
        if (w->layer >= 0) numbers += (size_t)w->rows * (size_t)w->cols;
    }
    const bool back = e->training && e->training->options.backward && !e->on.separate;
    size_t bytes = numbers * each * (back ? 2 : 1);
    if (e->on.separate) bytes += (size_t)(c->vocab * c->width) * each;
    *err = (vp_error){0};
    return vp_fail(err, VP_MEMORY, "out of memory: the weights need %s as %s, %s free%s", say(bytes).text,
                   vp_compute_name(&e->on), say(free_bytes).text,
                   e->on.type == VP_F32 ? ": --compute bf16 needs half" : "");
}

/* ---- room ---- */

/* What is planned and what is taken differ where a chunk of the arena ends. */
static size_t with_slack(size_t bytes) {
    return bytes + bytes / 64 + ((size_t)64 << 10);
}

int vp_room_make(vp_encoder *e, const vp_planned_pass *pass, size_t bytes, vp_error *err) {
    const size_t room = with_slack(bytes);
    if (bytes > e->work.bytes) e->work.bytes = bytes;
    return e->on.ops->arena_reserve(e->on.queue, room) ? too_little(e, pass, room, err) : VP_OK;
}

/* ---- as many tokens as fit ---- */

static int make_up(vp_sequences *s, const vp_encoder *e, int64_t tokens, vp_error *err) {
    const int64_t most = e->model->config.positions < VP_ROOM_ROW ? e->model->config.positions : VP_ROOM_ROW;
    const size_t T = (size_t)tokens, B = (size_t)((tokens + most - 1) / most);
    *s = (vp_sequences){.T = tokens, .B = (int64_t)B, .top = (int32_t)most - 1};
    s->ids = vp_calloc(T, sizeof *s->ids);
    s->pos = vp_calloc(T, sizeof *s->pos);
    s->cu = vp_calloc(B + 1, sizeof *s->cu);
    s->row = vp_calloc(B, sizeof *s->row);
    s->unit = vp_calloc(B, sizeof *s->unit);
    if (!s->ids || !s->pos || !s->cu || !s->row || !s->unit) return vp_fail_memory(err, "a plan", T * sizeof *s->ids);
    for (int64_t b = 0; b < s->B; b++) {
        s->row[b] = b;
        s->unit[b] = (int32_t)b;
        s->cu[b + 1] = (int32_t)(b + 1 == s->B ? tokens : (b + 1) * most);
    }
    for (int64_t t = 0; t < tokens; t++) s->pos[t] = (int32_t)(t % most);
    return VP_OK;
}

static int need_of(vp_encoder *e, int64_t tokens, vp_planned_pass pass, vp_need *need, vp_error *err) {
    vp_sequences s = {0};
    int status = make_up(&s, e, tokens, err);
    if (!status) status = vp_encoder_rope(e, s.top, err);
    pass.s = &s;
    pass.b0 = 0;
    pass.b1 = s.B;
    if (!status) status = vp_room_plan(e, &pass, need, err);
    vp_sequences_free(&s);
    return status;
}

int vp_room_fits(vp_encoder *e, int64_t tokens, const vp_room_limits *l, bool *fits, vp_error *err) {
    const size_t left = e->on.ops->memory_free(e->on.device), ours = e->on.separate ? left / 8 * 7 : left / 2;
    vp_need need;
    *fits = true;
    if (!left) return VP_OK; /* it is not known */
    VP_TRY(need_of(e, tokens, l->pass, &need, err));
    *fits = (with_slack(need.bytes) + l->more) * l->at_once <= ours;
    return VP_OK;
}

int vp_room_tokens(vp_encoder *e, const vp_room_limits *l, int64_t *tokens, vp_error *err) {
    int64_t n = e->on.separate ? VP_DEVICE_TOKENS : VP_BATCH_TOKENS;
    bool fits = *tokens > 0;
    if (fits) return VP_OK;
    for (;; n /= 2) {
        VP_TRY(vp_room_fits(e, n, l, &fits, err));
        if (fits || n <= VP_ROOM_ROW) break;
    }
    *tokens = n;
    return VP_OK;
}
