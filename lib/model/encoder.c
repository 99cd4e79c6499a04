/* The public side of encoding: options, the device, the header's `encoder` map, and a frame as a run of micro-batches.
 */
#include "lib/model/pass.h"
#include "lib/model/pooler.h"
#include "lib/model/room.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int vp_encoder_check(const vp_encoder *e, int status, vp_error *err) {
    return vp_compute_check(&e->on, status, err);
}

int vp_encoder_upload(vp_encoder *e, const void *host, size_t bytes, const void **out, vp_error *err) {
    void *device = vp_compute_take(&e->on, "the device's arena", bytes, err);
    *out = device;
    return device ? vp_compute_move(&e->on, device, host, bytes, err) : VP_MEMORY; /* the host's copy may go */
}

static int set_attention(vp_encoder *e, const char *attention, vp_error *err) {
    static const char *const known[] = {"causal", "bi", "segments"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(known[i], attention)) continue;
        snprintf(e->attention, sizeof e->attention, "%s", attention);
        e->mode = i == 1 ? VP_ATTN_BI : VP_ATTN_CAUSAL;
        e->segments = i == 2;
        return VP_OK;
    }
    return vp_fail(err, VP_USAGE, "attention \"%s\" is not one of " VP_ATTENTIONS, attention);
}

/* What this model's pass calls must be there: a backend may lack operations. */
static int check_operations(const vp_encoder *e, const vp_encode_options *o, vp_error *err) {
    const vp_backend *b = e->on.ops;
    const vp_config *c = &e->model->config;
    const bool adapts = e->model->nadapters || o->train, back = o->train && o->train->backward;
    const struct {
        const char *name;
        bool there, needed;
    } all[] = {{"weight_prepare", b->weight_prepare, true},
               {"embed", b->embed, true},
               {"norm", b->norm, true},
               {"linear", b->linear, true},
               {"attention", b->attn, true},
               {"lora", b->lora, adapts},
               {"rope", b->rope, c->rotary > 0},
               {"glu", b->glu, c->arch->gated},
               {"act", b->act, !c->arch->gated},
               {"route", b->route && b->permute && b->combine, c->experts > 0},
               {"route_bwd", b->route_bwd, c->experts && back},
               {"quant_rows", b->quant_rows, e->on.type == VP_F8},
               {"linear_bwd", b->linear_bwd_x && b->linear_bwd_w, back},
               {"lora_bwd", b->lora_bwd, back},
               {"norm_bwd", b->norm_bwd, back},
               {"attention_bwd", b->attn_bwd, back}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].needed && !all[i].there)
            return vp_fail(err, VP_MEMORY, "the %s backend does not have the operation %s", b->name, all[i].name);
    return VP_OK;
}

static int choose_attention(vp_encoder *e, const char *option, const vp_map *header, vp_error *err) {
    vp_map *stream = header ? vp_map_sub(header, "encoder") : NULL;
    const char *attention = option;
    if (!attention && stream) attention = vp_map_str(stream, "attention");
    int status = set_attention(e, attention ? attention : e->model->settings.attention, err);
    vp_map_free(stream);
    return status;
}

static int open_encoder(vp_encoder *e, const vp_encode_options *o, const vp_map *header, vp_error *err) {
    e->batch_tokens = o->batch_tokens;
    e->on.rows = o->generate;
    e->on.embeds = !o->generate && !o->train;
    VP_TRY(choose_attention(e, o->attention, header, err));
    VP_TRY(vp_compute_open(&e->on, o->device, o->threads, o->compute, err));
    VP_TRY(check_operations(e, o, err));
    if (e->on.type == VP_F8 && e->model->nadapters)
        return vp_fail(err, VP_USAGE, "compute type fp8 takes no adapters: merge them into the model first (vp merge)");
    if (e->on.type == VP_F8 && e->model->config.experts)
        return vp_fail(err, VP_USAGE, "compute type fp8 is not for the products of experts: take bf16");
    if (e->model->config.arch->post_norm) e->on.state = VP_F32; /* its norms are the residual stream */
    return o->train ? vp_training_open(e, o->train, err) : VP_OK;
}

int vp_encoder_open(vp_encoder **out, vp_model *m, const vp_encode_options *o, const vp_map *header, vp_error *err) {
    *out = NULL;
    if (!vp_model_has_weights(m)) return vp_fail(err, VP_DATA, "%s: a vocabulary without weights", vp_model_path(m));
    vp_encoder *e = vp_calloc(1, sizeof *e);
    if (!e) return vp_fail_memory(err, "an encoder", sizeof *e);
    e->model = m;
    int status = open_encoder(e, o, header, err);
    if (status) {
        vp_encoder_close(e);
        e = NULL;
    }
    *out = e;
    return status;
}

static void forget_results(vp_encoder *e) {
    vp_compute_host_free(&e->on, e->hidden);
    vp_compute_host_free(&e->on, e->kv);
    e->hidden = NULL;
    e->kv = NULL;
}

int vp_encoder_twin(const vp_encoder *e, vp_encoder **out, vp_error *err) {
    vp_encoder *t = vp_calloc(1, sizeof *t);
    if (!t) return vp_fail_memory(err, "an encoder", sizeof *t);
    *t = *e;
    t->work = (vp_work){0};
    t->hidden = NULL;
    t->kv = NULL;
    t->cosines = t->sines = NULL; /* as they lie on the queue's arena, and grow */
    t->rope_positions = 0;
    const int status = e->on.ops->queue_open(&t->on.queue, e->on.device, err);
    if (status) {
        free(t);
        return status;
    }
    *out = t;
    return VP_OK;
}

void vp_encoder_twin_close(vp_encoder *t, vp_encoder *e) {
    if (!t) return;
    if (t->work.batch_tokens) e->work.batch_tokens = t->work.batch_tokens;
    e->work.flops += t->work.flops;
    e->work.passes += t->work.passes;
    e->work.repeated += t->work.repeated;
    e->work.refused += t->work.refused;
    if (t->work.bytes > e->work.bytes) e->work.bytes = t->work.bytes;
    forget_results(t);
    t->on.ops->queue_close(t->on.queue);
    free(t);
}

void vp_encoder_close(vp_encoder *e) {
    if (!e) return;
    if (e->on.device) vp_encoder_release(e);
    vp_training_close(e);
    forget_results(e);
    vp_compute_close(&e->on);
    free(e);
}

int vp_encoder_describe(const vp_encoder *e, vp_map *header, vp_error *err) {
    vp_map *encoder = vp_map_sub(header, "encoder");
    if (!encoder) encoder = vp_map_new();
    if (!encoder) return vp_fail_memory(err, "a map", 1);
    int status = vp_map_set_str(encoder, "attention", e->attention, err);
    if (!status) status = vp_map_set_str(encoder, "layer", "last", err);
    if (!status) status = vp_map_set_str(encoder, "compute", vp_compute_name(&e->on), err);
    if (!status) status = vp_map_set_map(header, "encoder", encoder, err);
    vp_map_free(encoder);
    return status ? status : vp_encoder_space(header, err);
}

const char *vp_encoder_attention(const vp_encoder *e) {
    return e->attention;
}

vp_work vp_encoder_work(const vp_encoder *e) {
    return e->work;
}

const char *vp_encoder_compute_type(const vp_encoder *e) {
    return vp_compute_name(&e->on);
}

typedef struct target {   /* what of a frame's states is wanted, and where; NULL: not */
    uint16_t *kv;         /* [2, L, T, G, d] on the host */
    float *hidden;        /* [T, C] on the host */
    const vp_mat *states; /* [T, C] on the device */
} target;

static int run_exported(vp_encoder *e, const vp_batch *batch, const int32_t *ids, const vp_sequences *s, int64_t b0,
                        uint16_t *kv, vp_pass_options *o, vp_error *err) {
    const vp_config *c = &e->model->config;
    const size_t n = (size_t)batch->B;
    vp_exported to = {.k = kv, .T = s->T, .cu = s->cu + b0};
    to.v = kv + c->layers * s->T * c->groups * c->head_dim;
    to.k_to = vp_calloc(n, sizeof *to.k_to);
    to.v_to = vp_calloc(n, sizeof *to.v_to);
    o->exported = &to;
    const int status =
        to.k_to && to.v_to ? vp_forward(e, batch, ids, o, err) : vp_fail_memory(err, "rows", 2 * n * sizeof *to.k_to);
    free(to.k_to);
    free(to.v_to);
    return status;
}

static int run_micro_batch(vp_encoder *e, const vp_sequences *s, int64_t b0, int64_t b1, const target *to,
                           vp_error *err) {
    vp_batch batch;
    const int32_t *ids;
    const int64_t first = s->cu[b0], width = e->model->config.width;
    const int64_t T = s->cu[b1] - first;
    vp_mat states;
    if (T == 0) return VP_OK;
    vp_pass_options o = {.step = s->step, .hidden = to->hidden ? to->hidden + first * width : NULL, .rows = T};
    o.repeats = vp_batch_small(e, T) && !to->kv;
    if (to->states) {
        states = *to->states;
        states.ptr = (char *)states.ptr + (size_t)(first * width) * vp_dtype_size(states.dtype);
        states.rows = T;
        o.states = &states;
    }
    size_t mark = e->on.ops->arena_mark(e->on.queue);
    int status = vp_batch_build(e, s, b0, b1, o.repeats ? vp_batch_rows(e, T) : 0, &batch, &ids, err);
    if (!status)
        status = to->kv ? run_exported(e, &batch, ids, s, b0, to->kv, &o, err) : vp_forward(e, &batch, ids, &o, err);
    e->on.ops->arena_release(e->on.queue, mark);
    return status;
}

static int not_finite(const vp_frame *f, int64_t b, vp_error *err) {
    static const char what[] = "the model gives values that are not finite";
    const long long row = vp_frame_ordinal(f, b), step = vp_map_int(f->keys, "step", -1);
    if (step < 0) return vp_frame_fail(f, VP_DATA, err, "row %lld: %s", row, what);
    return vp_frame_fail(f, VP_DATA, err, "step %lld, row %lld: %s", step, row, what);
}

int vp_hidden_check(const vp_encoder *e, const vp_frame *f, const vp_sequences *s, const float *hidden, vp_error *err) {
    const int64_t width = e->model->config.width;
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t i = s->cu[b] * width; i < s->cu[b + 1] * width; i++)
            if (!isfinite(hidden[i])) return not_finite(f, b, err);
    return VP_OK;
}

static int planned_micro_batch(vp_encoder *e, const vp_planned_pass *pass, vp_error *err) {
    return run_micro_batch(e, pass->s, pass->b0, pass->b1, pass->what, err);
}

/* What stays, at the arena's bottom; and above it memory for the largest micro-batch, and `more`. */
static int make_ready(vp_encoder *e, const vp_sequences *s, const target *to, size_t more, vp_error *err) {
    vp_planned_pass pass = {.run = planned_micro_batch, .s = s, .what = to};
    VP_TRY(vp_encoder_prepare(e, err));
    VP_TRY(vp_encoder_rope(e, s->top, err));
    VP_TRY(vp_room_tokens(e, &(vp_room_limits){pass, more, .at_once = 1}, &e->batch_tokens, err));
    e->work.batch_tokens = e->batch_tokens;
    vp_planned_pass largest = pass;
    size_t most = 0;
    for (; pass.b0 < s->B; pass.b0 = pass.b1) {
        vp_need need;
        pass.b1 = vp_sequences_cut(s, pass.b0, e->batch_tokens);
        VP_TRY(vp_room_plan(e, &pass, &need, err));
        e->work.flops += need.flops;
        if (need.bytes < most) continue;
        most = need.bytes;
        largest = pass;
    }
    return vp_room_make(e, &largest, most + more, err);
}

int vp_encoder_fits_twice(vp_encoder *e, bool *fits, vp_error *err) {
    const target none = {0};
    const vp_room_limits twice = {{.run = planned_micro_batch, .what = &none}, .at_once = 2};
    *fits = false;
    if (!e->on.separate || e->training) return VP_OK;
    VP_TRY(vp_encoder_prepare(e, err));
    VP_TRY(vp_room_tokens(e, &twice, &e->batch_tokens, err));
    return vp_room_fits(e, e->batch_tokens < VP_DEVICE_TOKENS ? e->batch_tokens : VP_DEVICE_TOKENS, &twice, fits, err);
}

static int run_all(vp_encoder *e, const vp_sequences *s, const target *to, vp_error *err) {
    for (int64_t b = 0, end; b < s->B; b = end) {
        end = vp_sequences_cut(s, b, e->batch_tokens);
        VP_TRY(run_micro_batch(e, s, b, end, to, err));
    }
    return VP_OK;
}

/* Memory for what a pass of T tokens leaves, in the place of the last one's. */
static int take_results(vp_encoder *e, int64_t T, bool kv, vp_error *err) {
    const vp_config *c = &e->model->config;
    const int64_t cached = 2 * c->layers * c->groups * c->head_dim;
    forget_results(e);
    e->hidden = vp_compute_host(&e->on, "hidden states", (size_t)(T * c->width) * sizeof *e->hidden, err);
    if (!e->hidden || !kv) return e->hidden ? VP_OK : VP_MEMORY;
    e->kv = vp_compute_host(&e->on, "keys and values", (size_t)(T * cached) * sizeof *e->kv, err);
    return e->kv ? VP_OK : VP_MEMORY;
}

static int run(vp_encoder *e, const vp_frame *f, bool kv, vp_error *err) {
    vp_sequences s;
    int status = vp_sequences_read(&s, e, f, err);
    if (!status) status = take_results(e, s.T, kv, err);
    const target to = {.kv = e->kv, .hidden = e->hidden};
    if (!status && s.T) status = make_ready(e, &s, &to, 0, err);
    if (!status && s.T) status = run_all(e, &s, &to, err);
    if (!status) status = vp_hidden_check(e, f, &s, e->hidden, err);
    vp_sequences_free(&s);
    if (status) forget_results(e);
    return status;
}

int vp_encoder_run(vp_encoder *e, const vp_frame *f, const float **hidden, vp_error *err) {
    const int status = run(e, f, false, err);
    *hidden = e->hidden;
    return status;
}

int vp_encoder_run_kv(vp_encoder *e, const vp_frame *f, const float **hidden, const uint16_t **kv, vp_error *err) {
    *hidden = NULL;
    *kv = NULL;
    if (!e->on.separate && !e->on.ops->kv_export)
        return vp_fail(err, VP_MEMORY, "the %s backend does not have the operation kv_export", e->on.ops->name);
    const int status = run(e, f, true, err);
    *hidden = e->hidden;
    *kv = e->kv;
    return status;
}

/* ---- with pooling ---- */

static int pool_on_host(vp_encoder *e, vp_pooler *p, vp_frame *f, int64_t *empty, vp_error *err) {
    const float *hidden;
    VP_TRY(vp_encoder_run(e, f, &hidden, err));
    return vp_pooler_run(p, f, hidden, e->model->config.width, empty, err);
}

static int check_vectors(const vp_frame *f, vp_error *err) {
    const vp_column *emb;
    VP_TRY(vp_frame_need(f, "emb", VP_F32, 2, NULL, &emb, err));
    const float *x = (const float *)(const void *)emb->data; /* the pooler's own memory */
    for (int64_t b = 0; b < emb->shape[0]; b++)
        for (int64_t i = b * emb->shape[1]; i < (b + 1) * emb->shape[1]; i++)
            if (!isfinite(x[i])) return not_finite(f, b, err);
    return VP_OK;
}

static int pool_on_device(vp_encoder *e, vp_pooler *p, vp_frame *f, const vp_sequences *s, int64_t *empty,
                          vp_error *err) {
    const int64_t width = e->model->config.width;
    vp_mat states = {.dtype = e->on.state, .rows = s->T, .cols = width, .ld = width};
    /* of as few sizes as small passes, whose place on the arena is above */
    const size_t bytes = (size_t)(vp_batch_rows(e, s->T) * width) * vp_dtype_size(states.dtype);
    VP_TRY(make_ready(e, s, &(target){0}, bytes, err));
    if (!(states.ptr = vp_compute_take(&e->on, "hidden states", bytes, err))) return VP_MEMORY;
    VP_TRY(run_all(e, s, &(target){.states = &states}, err));
    VP_TRY(vp_pooler_run_on(p, &e->on, f, &states, empty, err));
    return check_vectors(f, err);
}

int vp_encoder_pool(vp_encoder *e, vp_pooler *p, vp_frame *f, int64_t *empty, vp_error *err) {
    vp_sequences s;
    bool picks;
    VP_TRY(vp_pooler_picks_of(p, f, &picks, err));
    if (!e->on.separate || e->training || picks || p->kind->makes != VP_MAKES_ROWS)
        return pool_on_host(e, p, f, empty, err);
    int status = vp_sequences_read(&s, e, f, err);
    if (!status) status = vp_encoder_prepare(e, err); /* what stays lies below the mark */
    if (!status) status = vp_encoder_rope(e, s.top, err);
    const size_t mark = e->on.ops->arena_mark(e->on.queue);
    if (!status) status = pool_on_device(e, p, f, &s, empty, err);
    e->on.ops->arena_release(e->on.queue, mark);
    vp_sequences_free(&s);
    return status;
}

vp_kv_shape vp_model_kv_shape(const vp_model *m) {
    return (vp_kv_shape){m->config.layers, m->config.groups, m->config.head_dim};
}
