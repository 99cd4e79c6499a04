/* The loop of generation: prompts that run have a slot each; a step appends to every cache what is new, takes the
 * logits of the last tokens, and draws. Legend: B prompts of a step, C width, V vocabulary. */
#include "lib/gen/private.h"
#include "kernels/ops.h"
#include "lib/model/head.h"
#include "lib/model/training.h"
#include <stdlib.h>
#include <string.h>

enum { LOGITS_BYTES = 64 << 20, WAITING = 8 }; /* of a product; answers that may wait, times the batch */

typedef struct slot {
    vp_cache *cache; /* NULL: free */
    vp_answer *answer;
    vp_detokenizer text;
    int32_t *fresh; /* [nfresh] the prompt at first, then the last token */
    int32_t nfresh;
    int64_t most; /* tokens that the answer can have */
    vp_finish at_most;
    uint8_t *seen; /* [V] whether among the distinct ones, with a penalty */
    int32_t *distinct;
    size_t ndistinct, distinct_cap;
} slot;

struct vp_gen {
    vp_gen_options o;
    vp_stops stops;
    const vp_tokenizer *tokenizer;
    vp_encoder *encoder;
    vp_head *head;
    int32_t ends[VP_MAX_ENDS + 1];
    size_t nends;
    int64_t positions, width, vocab;
    slot *slot; /* [batch] */
    int64_t running, added, dropped, tokens;
    vp_answer **answer; /* a ring: number i at i % capacity */
    int64_t capacity;
    /* of a step */
    slot **live;       /* [batch] */
    vp_cache **cache;  /* [batch] */
    int32_t *cu, *out; /* [batch + 1], [batch] */
    int64_t *row, *step, *seen_cu;
    float *last, *logprob; /* [batch, C], [batch] */
    vp_buf ids, seen;
};

/* ---- opening ---- */
static int find_ends(vp_gen *g, const vp_model *m, vp_error *err) {
    VP_TRY(vp_tokenizer_ends(g->tokenizer, vp_model_transformer(m), g->ends, &g->nends, err));
    if (!g->o.end) return VP_OK;
    const int32_t id = vp_tokenizer_find(g->tokenizer, g->o.end, strlen(g->o.end));
    if (id >= 0) g->ends[g->nends++] = id;
    return VP_OK;
}

static int allocate(vp_gen *g, vp_error *err) {
    const size_t n = (size_t)g->o.batch;
    g->capacity = g->o.batch * WAITING;
    g->slot = vp_calloc(n, sizeof *g->slot);
    g->answer = vp_calloc((size_t)g->capacity, sizeof *g->answer);
    g->live = vp_calloc(n, sizeof *g->live);
    g->cache = vp_calloc(n, sizeof *g->cache);
    g->cu = vp_calloc(n + 1, sizeof *g->cu);
    g->out = vp_calloc(n, sizeof *g->out);
    g->row = vp_calloc(n, sizeof *g->row);
    g->step = vp_calloc(n, sizeof *g->step);
    g->seen_cu = vp_calloc(n + 1, sizeof *g->seen_cu);
    g->last = vp_calloc(n * (size_t)g->width, sizeof *g->last);
    g->logprob = vp_calloc(n, sizeof *g->logprob);
    const bool good = g->slot && g->answer && g->live && g->cache && g->cu && g->out && g->row && g->step &&
                      g->seen_cu && g->last && g->logprob;
    return good ? VP_OK : vp_fail_memory(err, "prompts that run together", n * (size_t)g->width * sizeof(float));
}

static int open_gen(vp_gen *g, const vp_model *m, vp_error *err) {
    const vp_compute on = vp_encoder_compute(g->encoder);
    vp_buf nothing = {0};
    vp_detokenizer d = {.tokenizer = g->tokenizer};
    for (size_t i = 0; i < g->o.nstops; i++) {
        const size_t n = strlen(g->o.stop[i]);
        if (!n) return vp_fail(err, VP_USAGE, "a stop text is empty");
        if (vp_utf8_valid(g->o.stop[i], n) != n) /* it could cut a character in two */
            return vp_fail(err, VP_USAGE, "stop text %zu is not UTF-8", i + 1);
        if (n > g->stops.longest) g->stops.longest = n;
    }
    if (!on.ops->sample || !on.ops->kv_append)
        return vp_fail(err, VP_MEMORY, "the %s backend does not generate", on.ops->name);
    VP_TRY(vp_head_open_on(&g->head, m, g->encoder, err));
    g->width = vp_head_width(g->head);
    g->vocab = vp_head_vocab(g->head);
    const int status = vp_detokenize(&d, 0, &nothing, err);
    vp_buf_free(&nothing);
    if (status) return status;
    VP_TRY(find_ends(g, m, err));
    return allocate(g, err);
}

int vp_gen_open(vp_gen **out, const vp_model *m, vp_encoder *e, const vp_tokenizer *t, const vp_gen_options *o,
                vp_error *err) {
    vp_gen *g = *out = vp_calloc(1, sizeof *g);
    if (!g) return vp_fail_memory(err, "a generator", sizeof *g);
    g->o = *o;
    g->stops = (vp_stops){.text = o->stop, .n = o->nstops};
    g->tokenizer = t;
    g->encoder = e;
    g->positions = vp_model_positions(m);
    const int status = open_gen(g, m, err);
    if (!status) return VP_OK;
    vp_gen_close(g);
    *out = NULL;
    return status;
}

static void slot_free(slot *s) {
    vp_cache_close(s->cache);
    free(s->fresh);
    free(s->seen);
    free(s->distinct);
    *s = (slot){0};
}

void vp_gen_close(vp_gen *g) {
    if (!g) return;
    for (int64_t i = 0; g->slot && i < g->o.batch; i++) slot_free(&g->slot[i]);
    for (int64_t i = 0; g->answer && i < g->capacity; i++) {
        if (g->answer[i]) vp_answer_free(g->answer[i]);
        free(g->answer[i]);
    }
    vp_head_close(g->head);
    free(g->slot), free(g->answer), free(g->live), free(g->cache), free(g->cu), free(g->out), free(g->row);
    free(g->step), free(g->seen_cu), free(g->last), free(g->logprob);
    vp_buf_free(&g->ids);
    vp_buf_free(&g->seen);
    free(g);
}

/* ---- prompts ---- */
bool vp_gen_full(const vp_gen *g) {
    return g->running == g->o.batch || g->added - g->dropped == g->capacity;
}
int64_t vp_gen_waiting(const vp_gen *g) {
    return g->capacity;
}
bool vp_gen_idle(const vp_gen *g) {
    return g->running == 0;
}
int64_t vp_gen_tokens(const vp_gen *g) {
    return g->tokens;
}

/* Tokens that a prompt of n and its answer keep keys and values of: the last one drawn is not read again. */
static int64_t room_of(const vp_gen *g, size_t n, int64_t before) {
    const int64_t all = (int64_t)n + g->o.max_tokens - 1, positions = g->positions - before;
    return all < positions ? all : positions;
}

static int see(vp_gen *g, slot *s, const int32_t *ids, size_t n, vp_error *err) {
    for (size_t i = 0; s->seen && i < n; i++) {
        if (ids[i] < 0 || ids[i] >= g->vocab || s->seen[ids[i]]) continue;
        VP_TRY(vp_grow(&s->distinct, &s->distinct_cap, s->ndistinct, sizeof *s->distinct, "tokens seen", err));
        s->seen[ids[i]] = 1;
        s->distinct[s->ndistinct++] = ids[i];
    }
    return VP_OK;
}

static int make_answer(vp_gen *g, int64_t row, int64_t most, vp_answer **out, vp_error *err) {
    vp_answer *a = *out = vp_calloc(1, sizeof *a);
    if (!a) return vp_fail_memory(err, "an answer", sizeof *a);
    g->answer[g->added % g->capacity] = a; /* the generator's from now on */
    a->row = row;
    a->number = g->added++;
    a->id = vp_calloc((size_t)most, sizeof *a->id);
    if (g->o.logprobs) a->logprob = vp_calloc((size_t)most, sizeof *a->logprob);
    if (a->id && (a->logprob || !g->o.logprobs)) return VP_OK;
    return vp_fail_memory(err, "an answer", (size_t)most * 8);
}

/* What begins: n tokens behind texts that have `before`. */
typedef struct opening {
    const vp_behind *behind;
    int64_t before;
    const int32_t *ids;
    size_t n;
    int64_t row;
} opening;

static int open_cache(vp_gen *g, slot *s, const opening *p, vp_error *err) {
    int64_t at = 0;
    VP_TRY(vp_cache_open(&s->cache, g->encoder, room_of(g, p->n, p->before), err));
    for (size_t i = 0; i < p->behind->n; at += p->behind->kv[i++].tokens)
        VP_TRY(vp_cache_prepend(s->cache, g->encoder, &p->behind->kv[i], g->o.rope_shift ? at : 0, err));
    return VP_OK;
}

static int fill_slot(vp_gen *g, slot *s, const opening *p, vp_error *err) {
    const int64_t left = g->positions - p->before - (int64_t)p->n + 1; /* the last token drawn needs no position */
    s->most = left < g->o.max_tokens ? left : g->o.max_tokens;
    s->at_most = left < g->o.max_tokens ? VP_FINISH_CONTEXT : VP_FINISH_LENGTH;
    s->text = (vp_detokenizer){.tokenizer = g->tokenizer};
    s->nfresh = (int32_t)p->n;
    s->fresh = vp_calloc(p->n, sizeof *s->fresh);
    if (!s->fresh) return vp_fail_memory(err, "a prompt", p->n * sizeof *s->fresh);
    memcpy(s->fresh, p->ids, p->n * sizeof *p->ids);
    if (g->o.penalty != 1 && !(s->seen = vp_calloc((size_t)g->vocab, 1)))
        return vp_fail_memory(err, "tokens seen", (size_t)g->vocab);
    VP_TRY(see(g, s, p->ids, p->n, err));
    VP_TRY(open_cache(g, s, p, err));
    return make_answer(g, p->row, s->most, &s->answer, err);
}

int vp_gen_add(vp_gen *g, const int32_t *ids, size_t n, int64_t row, vp_error *err) {
    return vp_gen_add_behind(g, &(vp_behind){0}, ids, n, row, err);
}

static int check_room(const vp_gen *g, opening *p, vp_error *err) {
    const vp_behind *b = p->behind;
    for (size_t i = 0; i < b->n && p->before <= g->positions; i++) p->before += b->kv[i].tokens;
    if (p->n <= (size_t)g->positions && p->before <= g->positions - (int64_t)p->n) return VP_OK;
    if (!b->n)
        return vp_fail(err, VP_DATA, "the prompt has %zu tokens, the model has %lld positions", p->n,
                       (long long)g->positions);
    return vp_fail(err, VP_DATA,
                   "the prompt has %zu tokens, behind at least %lld cached ones; the model has %lld positions", p->n,
                   (long long)p->before, (long long)g->positions);
}

int vp_gen_add_behind(vp_gen *g, const vp_behind *behind, const int32_t *ids, size_t n, int64_t row, vp_error *err) {
    opening p = {.behind = behind, .ids = ids, .n = n, .row = row};
    slot *s = g->slot;
    if (vp_gen_full(g)) return vp_fail(err, VP_BUG, "no room for another prompt");
    if (n == 0) return vp_fail(err, VP_DATA, "the prompt has no tokens, and the tokenizer begins a text with none");
    VP_TRY(check_room(g, &p, err));
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= g->vocab)
            return vp_fail(err, VP_DATA, "the tokenizer gives token %d, the model has tokens below %lld", (int)ids[i],
                           (long long)g->vocab);
    while (s->cache) s++;
    const int status = fill_slot(g, s, &p, err);
    if (status)
        slot_free(s);
    else
        g->running++;
    return status;
}

const vp_answer *vp_gen_first(const vp_gen *g) {
    return g->dropped < g->added ? g->answer[g->dropped % g->capacity] : NULL;
}

void vp_gen_drop(vp_gen *g) {
    vp_answer **a = &g->answer[g->dropped++ % g->capacity];
    vp_answer_free(*a);
    free(*a);
    *a = NULL;
}

/* ---- a step ---- */
/* The slots in use, with what is new to their caches. */
static int gather(vp_gen *g, int64_t *B, vp_error *err) {
    *B = 0;
    g->ids.len = g->seen.len = 0;
    for (int64_t i = 0; i < g->o.batch; i++) {
        slot *s = &g->slot[i];
        if (!s->cache) continue;
        VP_TRY(vp_buf_add(&g->ids, s->fresh, (size_t)s->nfresh * sizeof *s->fresh, err));
        VP_TRY(vp_buf_add(&g->seen, s->distinct, s->ndistinct * sizeof *s->distinct, err));
        g->live[*B] = s;
        g->cache[*B] = s->cache;
        g->row[*B] = s->answer->row;
        g->step[*B] = s->answer->tokens;
        g->cu[++*B] = (int32_t)(g->ids.len / sizeof *s->fresh);
        g->seen_cu[*B] = (int64_t)(g->seen.len / sizeof *s->distinct);
    }
    return VP_OK;
}

/* Tokens of rows [first, first + n) of the step, from logits [n, V] on the device. */
static int sample_rows(vp_gen *g, const vp_compute *on, int64_t first, int64_t n, const vp_mat *logits, vp_error *err) {
    const vp_mat last = {
        .ptr = g->last + first * g->width, .dtype = VP_F32, .rows = n, .cols = g->width, .ld = g->width};
    float *const logprob = g->o.logprobs ? g->logprob + first : NULL;
    vp_transfer t = vp_transfer_begin(on, "sampling", err);
    const vp_mat x = vp_transfer_put_mat(&t, &last);
    vp_sample_op op = {.logits = *logits,
                       .penalty = (float)g->o.penalty,
                       .temperature = (float)g->o.temperature,
                       .top_p = (float)g->o.top_p,
                       .top_k = (int32_t)g->o.top_k,
                       .seed = g->o.seed,
                       .row = vp_transfer_put(&t, g->row + first, n, sizeof *g->row),
                       .step = vp_transfer_put(&t, g->step + first, n, sizeof *g->step),
                       .out = vp_transfer_room(&t, g->out + first, n, sizeof *g->out),
                       .logprob = vp_transfer_room(&t, logprob, n, sizeof *logprob)};
    if (g->o.penalty != 1) {
        op.seen = vp_transfer_put(&t, g->seen.data, (int64_t)g->seen.len, 1);
        op.seen_cu = vp_transfer_put(&t, g->seen_cu + first, n + 1, sizeof *g->seen_cu);
    }
    if (!t.status) t.status = vp_head_logits(g->head, &x, logits, err);
    if (!t.status) vp_transfer_done(&t, on->ops->sample(on->queue, &op));
    vp_transfer_get(&t, g->out + first, op.out, n, sizeof *g->out);
    vp_transfer_get(&t, logprob, op.logprob, n, sizeof *logprob);
    return vp_transfer_end(&t);
}

static int sample(vp_gen *g, int64_t B, vp_error *err) {
    const vp_compute on = vp_encoder_compute(g->encoder);
    const int64_t most = LOGITS_BYTES / (int64_t)sizeof(float) / g->vocab, each = most < 1 ? 1 : most < B ? most : B;
    const size_t mark = on.ops->arena_mark(on.queue), bytes = (size_t)(each * g->vocab) * sizeof(float);
    vp_mat logits = {.dtype = VP_F32, .cols = g->vocab, .ld = g->vocab};
    int status = VP_OK;
    if (!(logits.ptr = on.ops->arena_alloc(on.queue, bytes))) status = vp_fail_memory(err, "logits", bytes);
    for (int64_t first = 0; !status && first < B; first += each) {
        logits.rows = B - first < each ? B - first : each;
        status = sample_rows(g, &on, first, logits.rows, &logits, err);
    }
    on.ops->arena_release(on.queue, mark);
    return status;
}

static bool ends(const vp_gen *g, int32_t id) {
    for (size_t i = 0; i < g->nends; i++)
        if (g->ends[i] == id) return true;
    return false;
}

static int take_token(vp_gen *g, slot *s, int32_t id, float logprob, vp_error *err) {
    vp_answer *a = s->answer;
    if (id < 0) {
        a->finish = VP_FINISH_FAILED;
    } else {
        if (a->logprob) a->logprob[a->tokens] = logprob;
        VP_TRY(vp_answer_take(a, &s->text, &g->stops, id, ends(g, id), s->most, s->at_most, err));
        VP_TRY(see(g, s, &id, 1, err));
        g->tokens++;
        s->fresh[0] = id;
        s->nfresh = 1;
    }
    if (!a->finish) return VP_OK;
    slot_free(s);
    g->running--;
    return VP_OK;
}

int vp_gen_step(vp_gen *g, vp_error *err) {
    int64_t B;
    VP_TRY(gather(g, &B, err));
    if (!B) return VP_OK;
    VP_TRY(vp_encoder_append(g->encoder, g->cache, B, (const int32_t *)(const void *)g->ids.data, g->cu, g->last, err));
    VP_TRY(sample(g, B, err));
    for (int64_t b = 0; b < B; b++) VP_TRY(take_token(g, g->live[b], g->out[b], g->logprob[b], err));
    return VP_OK;
}
