/* Caches of keys and values, and the pass that appends tokens to several sequences at once. */
#include "lib/model/cached.h"
#include <stdlib.h>
#include <string.h>

typedef struct before { /* tokens of another pass */
    vp_kv kv;
    void *shifted; /* a copy of the keys, or NULL; on a device of separate memory kv is a copy itself */
} before;

struct vp_cache {
    const vp_backend *ops; /* memory: a queue whose arena holds all, where the device's memory is separate; else NULL */
    vp_queue *memory;
    int64_t layers, capacity, length, width; /* width: G d; length: of what was appended */
    float *k, *v;                            /* [L, capacity, G d] */
    before *before;
    size_t nbefore, before_cap;
    int64_t tokens_before;
};

static size_t half_bytes(const vp_encoder *e, int64_t capacity) {
    const vp_config *c = &e->model->config;
    return (size_t)c->layers * (size_t)capacity * (size_t)(c->groups * c->head_dim) * sizeof(float);
}

static int take_memory(vp_cache *c, const vp_encoder *e, size_t half, vp_error *err) {
    if (e->on.separate) {
        c->ops = e->on.ops;
        VP_TRY(c->ops->queue_open(&c->memory, e->on.device, err));
        c->k = c->ops->arena_alloc(c->memory, 2 * half);
        c->v = c->k ? c->k + half / sizeof *c->k : NULL;
    } else { /* not vp_calloc, which would touch it all */
        c->k = malloc(half);
        c->v = malloc(half);
    }
    return c->k && c->v ? VP_OK : vp_fail_memory(err, "keys and values", 2 * half);
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
    const int status = take_memory(c, e, half_bytes(e, capacity), err);
    if (status) {
        vp_cache_close(c);
        return status;
    }
    *out = c;
    return VP_OK;
}

void vp_cache_close(vp_cache *c) {
    if (!c) return;
    for (size_t i = 0; i < c->nbefore && !c->memory; i++) free(c->before[i].shifted);
    free(c->before);
    if (c->memory) {
        c->ops->queue_close(c->memory);
    } else {
        free(c->k);
        free(c->v);
    }
    free(c);
}

int64_t vp_cache_length(const vp_cache *c) {
    return c->tokens_before + c->length;
}

/* ---- tokens of another pass ---- */
static int check_before(const vp_cache *c, const vp_config *m, const vp_kv *kv, int64_t shift, vp_error *err) {
    if (c->length) return vp_fail(err, VP_BUG, "the cache holds tokens already");
    if ((kv->dtype != VP_F32 && kv->dtype != VP_BF16) || kv->tokens < 0 || shift < 0)
        return vp_fail(err, VP_BUG, "keys and values of another type, or of no tokens");
    if (kv->layers != c->layers || kv->width != c->width)
        return vp_fail(err, VP_DATA,
                       "keys and values of %lld layers of %lld numbers a token; the model has %lld of %lld",
                       (long long)kv->layers, (long long)kv->width, (long long)c->layers, (long long)c->width);
    if (kv->tokens > m->positions - c->capacity - c->tokens_before)
        return vp_fail(err, VP_DATA, "%lld cached tokens and up to %lld behind them: the model has %lld positions",
                       (long long)(c->tokens_before + kv->tokens), (long long)c->capacity, (long long)m->positions);
    if (shift && !m->rotary) return vp_fail(err, VP_DATA, "a model without RoPE: cached keys cannot be moved");
    return VP_OK;
}

/* Keys [L n, G d] turned on by `shift` positions, in place. */
static int shift_keys(vp_encoder *e, const vp_kv *kv, void *keys, int64_t shift, vp_error *err) {
    const vp_config *m = &e->model->config;
    vp_rope_shift_op op = {.heads = (int32_t)m->groups,
                           .d = (int32_t)m->head_dim,
                           .rotary = (int32_t)m->rotary,
                           .interleaved = m->arch->rope == VP_ROPE_INTERLEAVED,
                           .cos = e->cosines + shift * m->rotary / 2,
                           .sin = e->sines + shift * m->rotary / 2};
    op.k = (vp_mat){.ptr = keys, .dtype = kv->dtype, .cols = kv->width, .ld = kv->width};
    op.k.rows = kv->layers * kv->tokens;
    return vp_encoder_check(e, e->on.ops->rope_shift(e->on.queue, &op), err);
}

/* `bytes` of the host's, where passes and shifts reach them, until the cache is closed. */
static int copy_in(vp_cache *c, vp_encoder *e, const void *from, size_t bytes, void **out, vp_error *err) {
    *out = c->memory ? c->ops->arena_alloc(c->memory, bytes) : malloc(bytes);
    return *out ? vp_compute_move(&e->on, *out, from, bytes, err) : vp_fail_memory(err, "cached texts", bytes);
}

static int bring(vp_cache *c, vp_encoder *e, before *b, int64_t shift, vp_error *err) {
    const size_t bytes = (size_t)(b->kv.layers * b->kv.tokens * b->kv.width) * vp_dtype_size(b->kv.dtype);
    if (shift && !e->on.ops->rope_shift)
        return vp_fail(err, VP_MEMORY, "the %s backend does not have the operation rope_shift", e->on.ops->name);
    if (shift) VP_TRY(vp_encoder_prepare(e, err));
    if (shift) VP_TRY(vp_encoder_rope(e, (int32_t)shift, err));
    if (shift || c->memory) VP_TRY(copy_in(c, e, b->kv.k, bytes, &b->shifted, err));
    if (c->memory) {
        void *values;
        VP_TRY(copy_in(c, e, b->kv.v, bytes, &values, err));
        b->kv.v = values;
    }
    return shift ? shift_keys(e, &b->kv, b->shifted, shift, err) : VP_OK;
}

int vp_cache_prepend(vp_cache *c, vp_encoder *e, const vp_kv *kv, int64_t shift, vp_error *err) {
    VP_TRY(check_before(c, &e->model->config, kv, shift, err));
    VP_TRY(vp_grow(&c->before, &c->before_cap, c->nbefore, sizeof *c->before, "cached texts", err));
    before *b = &c->before[c->nbefore++];
    *b = (before){.kv = *kv};
    c->tokens_before += kv->tokens;
    return kv->tokens ? bring(c, e, b, shift, err) : VP_OK;
}

void vp_cache_cut(vp_cache *c, int64_t length) {
    const int64_t kept = length - c->tokens_before;
    if (kept < c->length) c->length = kept > 0 ? kept : 0;
}

/* ---- a pass ---- */
/* One layer's spans of a sequence with n tokens more, at `s`; the end. */
static vp_span *layer_spans(const vp_cache *c, int64_t layer, int32_t n, vp_span *s) {
    for (size_t i = 0; i < c->nbefore; i++) {
        const vp_kv *kv = &c->before[i].kv;
        const size_t at = (size_t)(layer * kv->tokens * kv->width) * vp_dtype_size(kv->dtype);
        const void *k = c->before[i].shifted ? c->before[i].shifted : kv->k;
        *s++ = (vp_span){.k = (const char *)k + at,
                         .v = (const char *)kv->v + at,
                         .dtype = kv->dtype,
                         .ld = kv->width,
                         .length = (int32_t)kv->tokens};
    }
    const int64_t at = layer * c->capacity * c->width;
    *s++ = (vp_span){.k = c->k + at, .v = c->v + at, .dtype = VP_F32, .ld = c->width, .length = (int32_t)c->length + n};
    return s;
}

int vp_cached_attend(vp_pass *p, const vp_attn_op *op, int64_t layer, vp_error *err) {
    const vp_cached *cached = p->cached;
    vp_encoder *e = p->e;
    const int64_t at = layer * p->batch->B;
    const vp_kv_op append = {.batch = p->batch,
                             .k = op->k,
                             .v = op->v,
                             .k_to = cached->k_to + at,
                             .v_to = cached->v_to + at,
                             .dtype = VP_F32,
                             .ld = op->k.cols};
    VP_TRY(vp_encoder_check(e, e->on.ops->kv_append(e->on.queue, &append), err));
    vp_attn_op attend = *op;
    attend.spans = cached->spans + at;
    attend.nspans = cached->nspans;
    attend.most_keys = cached->most_keys;
    return vp_encoder_check(e, e->on.ops->attn(e->on.queue, &attend), err);
}

typedef struct piece { /* tokens [from, from + n) of ids go to sequence b */
    int64_t b;
    int32_t from, n;
} piece;

/* What a pass needs, with room for B pieces. */
typedef struct append_work {
    vp_cache **cache;
    piece *piece;
    int64_t pieces;
    int32_t *cu, *pos, *offsets, *zeros;
    float *hidden;
    char *lists; /* of a vp_cached: its spans, lists of them, k_to, v_to, nspans */
    size_t list_bytes;
} append_work;

static void work_free(append_work *w) {
    free(w->lists);
    free(w->cache);
    free(w->piece);
    free(w->cu);
    free(w->pos);
    free(w->offsets);
    free(w->zeros);
    free(w->hidden);
}

static int work_make(append_work *w, vp_cache *const *cache, int64_t B, int64_t width, vp_error *err) {
    const size_t n = (size_t)B + 1;
    w->list_bytes = 0;
    for (int64_t b = 0; b < B; b++)
        w->list_bytes += (size_t)cache[b]->layers * ((cache[b]->nbefore + 1) * sizeof(vp_span) + 3 * sizeof(void *)) +
                         sizeof(int32_t);
    w->lists = vp_calloc(w->list_bytes, 1);
    w->cache = vp_calloc(n, sizeof *w->cache);
    w->piece = vp_calloc(n, sizeof *w->piece);
    w->cu = vp_calloc(n, sizeof *w->cu);
    w->offsets = vp_calloc(n, sizeof *w->offsets);
    w->zeros = vp_calloc(n, sizeof *w->zeros);
    w->pos = vp_calloc(VP_APPEND_TOKENS, sizeof *w->pos);
    w->hidden = vp_calloc(VP_APPEND_TOKENS * (size_t)width, sizeof *w->hidden);
    const bool good = w->lists && w->cache && w->piece && w->cu && w->offsets && w->zeros && w->pos && w->hidden;
    if (!good) return vp_fail_memory(err, "a pass", VP_APPEND_TOKENS * (size_t)width * sizeof(float));
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

/* Scratch memory of attention is for keys in steps of so many, as a device cuts them: a token more is the same pass. */
enum { KEYS_STEP = 256 };

/* The lists of all layers, made on the host and brought to the device: every pointer in them is the device's. */
static int make_lists(vp_encoder *e, append_work *w, vp_cached *out, vp_error *err) {
    const int64_t B = w->pieces, L = e->model->config.layers;
    int64_t each = 0;
    char *device = w->lists;
    *out = (vp_cached){0};
    for (int64_t b = 0; b < B; b++) each += (int64_t)w->cache[b]->nbefore + 1;
    if (e->on.separate && !(device = vp_compute_take(&e->on, "lists of keys", w->list_bytes, err))) return VP_MEMORY;
    vp_span *span = (vp_span *)(void *)w->lists, *end = span;
    const vp_span **spans = (const vp_span **)(void *)(span + L * each);
    void **k_to = (void **)(void *)(spans + L * B), **v_to = k_to + L * B;
    int32_t *nspans = (int32_t *)(void *)(v_to + L * B);
    for (int64_t i = 0; i < L * B; i++) {
        const int64_t layer = i / B, b = i % B;
        const vp_cache *c = w->cache[b];
        const int64_t at = (layer * c->capacity + c->length) * c->width;
        const int32_t n = w->cu[b + 1] - w->cu[b], keys = (int32_t)(c->tokens_before + c->length) + n;
        vp_span *const first = end;
        spans[i] = (const vp_span *)(void *)(device + ((char *)first - w->lists));
        end = layer_spans(c, layer, n, first);
        nspans[b] = (int32_t)(end - first);
        k_to[i] = c->k + at;
        v_to[i] = c->v + at;
        if (keys > out->most_keys) out->most_keys = keys;
    }
    out->most_keys = (out->most_keys + KEYS_STEP - 1) / KEYS_STEP * KEYS_STEP;
    const size_t used = (size_t)((char *)(nspans + B) - w->lists);
    out->spans = (const vp_span *const *)(void *)(device + ((char *)spans - w->lists));
    out->k_to = (void **)(void *)(device + ((char *)k_to - w->lists));
    out->v_to = out->k_to + L * B;
    out->nspans = (int32_t *)(void *)(device + ((char *)nspans - w->lists));
    return vp_compute_move(&e->on, device, w->lists, used, err);
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
    vp_cached cached;
    const int32_t *on_device;
    const void *zeros, *offsets;
    VP_TRY(vp_batch_build(e, &s, 0, s.B, 0, &batch, &on_device, err));
    VP_TRY(vp_encoder_upload(e, w->zeros, ((size_t)s.B + 1) * sizeof *w->zeros, &zeros, err));
    VP_TRY(vp_encoder_upload(e, w->offsets, (size_t)s.B * sizeof *w->offsets, &offsets, err));
    batch.cu_k = zeros; /* keys come from the caches alone */
    batch.q_off = offsets;
    VP_TRY(make_lists(e, w, &cached, err));
    const vp_pass_options o = {.cached = &cached, .hidden = w->hidden, .repeats = vp_batch_small(e, s.T)};
    return vp_forward(e, &batch, on_device, &o, err);
}

static int append_pieces(vp_encoder *e, append_work *w, vp_cache *const *cache, const int32_t *ids, const int32_t *cu,
                         float *last, vp_error *err) {
    const size_t width = (size_t)e->model->config.width;
    for (int64_t i = 0; i < w->pieces; i++) {
        w->cache[i] = cache[w->piece[i].b];
        w->offsets[i] = (int32_t)vp_cache_length(w->cache[i]);
    }
    const size_t mark = e->on.ops->arena_mark(e->on.queue);
    const int status = run_pass(e, w, ids, err);
    e->on.ops->arena_release(e->on.queue, mark);
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
    if (!e->on.rows || e->mode != VP_ATTN_CAUSAL || e->segments)
        return vp_fail(err, VP_BUG, "the encoder is not open for generation");
    for (int64_t b = 0; b < B; b++) {
        const int64_t n = (int64_t)cu[b + 1] - cu[b], end = cache[b]->length + n;
        if (n < 1) return vp_fail(err, VP_BUG, "no tokens to append");
        if (end > cache[b]->capacity)
            return vp_fail(err, VP_DATA, "%lld tokens do not fit a cache of %lld", (long long)end,
                           (long long)cache[b]->capacity);
        if (cache[b]->tokens_before + end - 1 > *top) *top = (int32_t)(cache[b]->tokens_before + end - 1);
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
    if (!status) status = work_make(&w, cache, B, e->model->config.width, err);
    for (int32_t at = cu[0]; !status && at < cu[B]; at += VP_APPEND_TOKENS) {
        take_pieces(&w, cu, B, at);
        status = append_pieces(e, &w, cache, ids, cu, last, err);
    }
    work_free(&w);
    return status;
}
