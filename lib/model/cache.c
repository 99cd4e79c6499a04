/* Caches of keys and values, and the pass that appends tokens to several sequences at once. */
#include "lib/model/cached.h"
#include <stdlib.h>
#include <string.h>

struct vp_cache {
    int64_t layers, capacity, length, width; /* width: G d */
    float *k, *v;                            /* [L, capacity, G d] */
};

static size_t half_bytes(const vp_encoder *e, int64_t capacity) {
    const vp_config *c = &e->model->config;
    return (size_t)c->layers * (size_t)capacity * (size_t)(c->groups * c->head_dim) * sizeof(float);
}

int vp_cache_open(vp_cache **out, const vp_encoder *e, int64_t capacity, vp_error *err) {
    const vp_config *m = &e->model->config;
    *out = NULL;
    if (capacity < 1 || capacity > m->positions)
        return vp_fail(err, VP_DATA, "a cache of %lld tokens: the model has %lld positions", (long long)capacity,
                       (long long)m->positions);
    vp_cache *c = vp_calloc(1, sizeof *c);
    if (!c) return vp_fail_memory(err, "a cache", sizeof *c);
    *c = (vp_cache){.layers = m->layers, .capacity = capacity, .width = m->groups * m->head_dim};
    /* not vp_calloc, which would touch it all */
    c->k = malloc(half_bytes(e, capacity));
    c->v = malloc(half_bytes(e, capacity));
    if (!c->k || !c->v) {
        vp_cache_close(c);
        return vp_fail_memory(err, "keys and values", 2 * half_bytes(e, capacity));
    }
    *out = c;
    return VP_OK;
}

void vp_cache_close(vp_cache *c) {
    if (!c) return;
    free(c->k);
    free(c->v);
    free(c);
}

int64_t vp_cache_length(const vp_cache *c) {
    return c->length;
}

void vp_cache_cut(vp_cache *c, int64_t length) {
    if (length < c->length) c->length = length;
}

/* ---- a pass ---- */
int vp_cached_attend(vp_pass *p, const vp_attn_op *op, int64_t layer, vp_error *err) {
    const vp_cached *cached = p->cached;
    vp_encoder *e = p->e;
    const int32_t *cu = p->batch->cu_q;
    for (int64_t b = 0; b < p->batch->B; b++) {
        const vp_cache *c = cached->cache[b];
        float *k = c->k + layer * c->capacity * c->width, *v = c->v + layer * c->capacity * c->width;
        cached->span[b] = (vp_span){.k = k, .v = v, .dtype = VP_F32, .ld = c->width};
        cached->span[b].length = (int32_t)c->length + cu[b + 1] - cu[b];
        cached->spans[b] = &cached->span[b];
        cached->k_to[b] = k + c->length * c->width;
        cached->v_to[b] = v + c->length * c->width;
    }
    const vp_kv_op append = {.batch = p->batch,
                             .k = op->k,
                             .v = op->v,
                             .k_to = cached->k_to,
                             .v_to = cached->v_to,
                             .dtype = VP_F32,
                             .ld = op->k.cols};
    VP_TRY(vp_encoder_check(e, e->ops->kv_append(e->queue, &append), err));
    vp_attn_op attend = *op;
    attend.spans = cached->spans;
    attend.nspans = cached->nspans;
    return vp_encoder_check(e, e->ops->attn(e->queue, &attend), err);
}

typedef struct piece { /* tokens [from, from + n) of ids go to sequence b */
    int64_t b;
    int32_t from, n;
} piece;

/* What a pass needs, with room for B pieces. */
typedef struct append_work {
    vp_cached cached;
    vp_cache **cache;
    piece *piece;
    int64_t pieces;
    int32_t *cu, *pos, *offsets, *zeros, *ones;
    float *hidden;
} append_work;

static void work_free(append_work *w) {
    free(w->cached.span);
    free(w->cached.spans);
    free(w->cached.k_to);
    free(w->cached.v_to);
    free(w->cache);
    free(w->piece);
    free(w->cu);
    free(w->pos);
    free(w->offsets);
    free(w->zeros);
    free(w->ones);
    free(w->hidden);
}

static int work_make(append_work *w, int64_t B, int64_t width, vp_error *err) {
    const size_t n = (size_t)B + 1;
    w->cached.span = vp_calloc(n, sizeof *w->cached.span);
    w->cached.spans = vp_calloc(n, sizeof *w->cached.spans);
    w->cached.k_to = vp_calloc(n, sizeof *w->cached.k_to);
    w->cached.v_to = vp_calloc(n, sizeof *w->cached.v_to);
    w->cache = vp_calloc(n, sizeof *w->cache);
    w->piece = vp_calloc(n, sizeof *w->piece);
    w->cu = vp_calloc(n, sizeof *w->cu);
    w->offsets = vp_calloc(n, sizeof *w->offsets);
    w->zeros = vp_calloc(n, sizeof *w->zeros);
    w->ones = vp_calloc(n, sizeof *w->ones);
    w->pos = vp_calloc(VP_APPEND_TOKENS, sizeof *w->pos);
    w->hidden = vp_calloc(VP_APPEND_TOKENS * (size_t)width, sizeof *w->hidden);
    const bool good = w->cached.span && w->cached.spans && w->cached.k_to && w->cached.v_to && w->cache && w->piece &&
                      w->cu && w->offsets && w->zeros && w->ones && w->pos && w->hidden;
    if (!good) return vp_fail_memory(err, "a pass", VP_APPEND_TOKENS * (size_t)width * sizeof(float));
    for (int64_t b = 0; b < B; b++) w->ones[b] = 1;
    w->cached.nspans = w->ones;
    w->cached.cache = w->cache;
    return VP_OK;
}

/* The next VP_APPEND_TOKENS tokens from `at` on, of however many sequences. */
static void take_pieces(append_work *w, const int32_t *cu, int64_t B, int32_t at) {
    const int32_t end = cu[B] - at < VP_APPEND_TOKENS ? cu[B] : at + VP_APPEND_TOKENS;
    w->pieces = 0;
    for (int64_t b = 0; b < B; b++) {
        const int32_t from = cu[b] > at ? cu[b] : at, to = cu[b + 1] < end ? cu[b + 1] : end;
        if (from < to) w->piece[w->pieces++] = (piece){b, from, to - from};
    }
}

static int run_pass(vp_encoder *e, append_work *w, const int32_t *ids, vp_error *err) {
    vp_sequences s = {.B = w->pieces, .cu = w->cu, .pos = w->pos};
    for (int64_t i = 0; i < w->pieces; i++) {
        const piece *p = &w->piece[i];
        for (int32_t k = 0; k < p->n; k++) w->pos[s.T + k] = w->offsets[i] + k;
        s.T += p->n;
        w->cu[i + 1] = (int32_t)s.T;
    }
    s.ids = (int32_t *)(uintptr_t)(ids + w->piece[0].from); /* read only */
    vp_batch batch;
    const int32_t *on_device;
    const void *zeros, *offsets;
    VP_TRY(vp_batch_build(e, &s, 0, s.B, &batch, &on_device, err));
    VP_TRY(vp_encoder_upload(e, w->zeros, ((size_t)s.B + 1) * sizeof *w->zeros, &zeros, err));
    VP_TRY(vp_encoder_upload(e, w->offsets, (size_t)s.B * sizeof *w->offsets, &offsets, err));
    batch.cu_k = zeros; /* keys come from the caches alone */
    batch.q_off = offsets;
    return vp_forward_cached(e, &batch, on_device, &w->cached, w->hidden, err);
}

static int append_pieces(vp_encoder *e, append_work *w, vp_cache *const *cache, const int32_t *ids, const int32_t *cu,
                         float *last, vp_error *err) {
    const size_t width = (size_t)e->model->config.width;
    for (int64_t i = 0; i < w->pieces; i++) {
        w->cache[i] = cache[w->piece[i].b];
        w->offsets[i] = (int32_t)w->cache[i]->length;
    }
    const size_t mark = e->ops->arena_mark(e->queue);
    const int status = run_pass(e, w, ids, err);
    e->ops->arena_release(e->queue, mark);
    if (status) return status;
    for (int64_t i = 0; i < w->pieces; i++) {
        const piece *p = &w->piece[i];
        w->cache[i]->length += p->n;
        if (p->from + p->n == cu[p->b + 1])
            memcpy(last + (size_t)p->b * width, w->hidden + (size_t)(w->cu[i + 1] - 1) * width, width * sizeof *last);
    }
    return VP_OK;
}

static int check_append(const vp_encoder *e, vp_cache *const *cache, int64_t B, const int32_t *ids, const int32_t *cu,
                        int32_t *top, vp_error *err) {
    if (!e->rows || e->mode != VP_ATTN_CAUSAL || e->segments)
        return vp_fail(err, VP_BUG, "the encoder is not open for generation");
    for (int64_t b = 0; b < B; b++) {
        const int64_t n = (int64_t)cu[b + 1] - cu[b], end = cache[b]->length + n;
        if (n < 1) return vp_fail(err, VP_BUG, "no tokens to append");
        if (end > cache[b]->capacity)
            return vp_fail(err, VP_DATA, "%lld tokens do not fit a cache of %lld", (long long)end,
                           (long long)cache[b]->capacity);
        if (end - 1 > *top) *top = (int32_t)(end - 1);
    }
    for (int32_t i = cu[0]; i < cu[B]; i++)
        if (ids[i] < 0 || ids[i] >= e->model->config.vocab)
            return vp_fail(err, VP_DATA, "token %d, the model has tokens below %lld", (int)ids[i],
                           (long long)e->model->config.vocab);
    return VP_OK;
}

int vp_encoder_append(vp_encoder *e, vp_cache *const *cache, int64_t B, const int32_t *ids, const int32_t *cu,
                      float *last, vp_error *err) {
    append_work w = {0};
    int32_t top = 0;
    VP_TRY(check_append(e, cache, B, ids, cu, &top, err));
    int status = vp_encoder_prepare(e, err);
    if (!status) status = vp_encoder_rope(e, top, err);
    if (!status) status = work_make(&w, B, e->model->config.width, err);
    for (int32_t at = cu[0]; !status && at < cu[B]; at += VP_APPEND_TOKENS) {
        take_pieces(&w, cu, B, at);
        status = append_pieces(e, &w, cache, ids, cu, last, err);
    }
    work_free(&w);
    return status;
}
