/* Attention of fresh tokens over a cache of keys and values, and appending to one. A sequence's keys, those of its
 * spans and then the fresh ones, are one row of numbers 0, 1, 2, ..., cut at multiples of BLOCK. A block gives a
 * query's maximum, sum and weighted values; blocks are merged in ascending order. So a query's bytes depend on its keys
 * alone: not on the spans, on how the tokens before came into the cache, on other queries or on threads. Legend:
 * q [T, H d], a span [n, G d], out [T, H d]. */
#include "kernels/cpu/attn.h"
#include <math.h>
#include <string.h>

enum { BLOCK = 256, QUERIES = 16, LANES = 16 };

typedef struct part { /* of `rows` queries x heads of one group, over some keys */
    float *out;       /* [rows, d] */
    float *lanes;     /* [rows, LANES] */
    float *top;       /* [rows] */
} part;

typedef struct cached_job {
    const vp_attn_op *op;
    const vp_batch *batch;
    const vp_simd *simd;
    int64_t share; /* query heads of a group */
    int64_t part_each, scratch_each;
    float *scratch; /* [threads]: queries, scores, two parts */
    int64_t pieces; /* blocks of the longest sequence where they are items of their own, else 0 */
    float *parts;   /* [tiles, G, pieces] */
} cached_job;

typedef struct query_tile {
    int64_t sequence, first, count, group, rows; /* rows = count * share */
    int64_t at;                                  /* of query `first` among the keys */
    float *queries, *scores;                     /* [rows, d], [rows, BLOCK] */
} query_tile;

static part part_at(const cached_job *j, float *memory, int64_t rows) {
    float *lanes = memory + rows * j->op->d;
    return (part){.out = memory, .lanes = lanes, .top = lanes + rows * LANES};
}

static int64_t cached_keys(const vp_attn_op *op, int64_t sequence) {
    int64_t n = 0;
    for (int32_t i = 0; i < op->nspans[sequence]; i++) n += op->spans[sequence][i].length;
    return n;
}

static vp_span fresh_keys(const vp_attn_op *op, int64_t sequence) {
    const int64_t from = op->batch->cu_k[sequence], n = op->batch->cu_k[sequence + 1] - from;
    if (n == 0) return (vp_span){0};
    return (vp_span){
        .k = vp_row(&op->k, from), .v = vp_row(&op->v, from), .dtype = VP_F32, .ld = op->k.ld, .length = (int32_t)n};
}

/* ---- one block ---- */
/* Calls for the parts of keys [key0, key0 + n) that lie in one span each. */
typedef void span_fn(const cached_job *j, const query_tile *t, const vp_span *s, int64_t from, int64_t n, int64_t at,
                     const part *to);
static void over_spans(const cached_job *j, const query_tile *t, int64_t key0, int64_t n, const part *to, span_fn *fn) {
    const int32_t spans = j->op->nspans[t->sequence];
    const vp_span fresh = fresh_keys(j->op, t->sequence);
    int64_t start = 0; /* of the span */
    for (int32_t i = 0; i <= spans; i++) {
        const vp_span *s = i < spans ? &j->op->spans[t->sequence][i] : &fresh;
        const int64_t low = vp_larger(key0, start), high = vp_smaller(key0 + n, start + s->length);
        if (low < high) fn(j, t, s, low - start, high - low, low - key0, to);
        start += s->length;
    }
}

static const uint8_t *row_of(const cached_job *j, const query_tile *t, const vp_span *s, const void *base,
                             int64_t row) {
    return (const uint8_t *)base + (row * s->ld + t->group * j->op->d) * (int64_t)vp_dtype_size(s->dtype);
}

static void score_span(const cached_job *j, const query_tile *t, const vp_span *s, int64_t from, int64_t n, int64_t at,
                       const part *to) {
    (void)to;
    j->simd->topk->scores(t->queries, j->op->d, t->rows, row_of(j, t, s, s->k, from),
                          s->ld * (int64_t)vp_dtype_size(s->dtype), n, s->dtype, j->op->d, t->scores + at, BLOCK);
}

static void mix_span(const cached_job *j, const query_tile *t, const vp_span *s, int64_t from, int64_t n, int64_t at,
                     const part *to) {
    j->simd->mix->mix(t->scores + at, BLOCK, t->rows, row_of(j, t, s, s->v, from),
                      s->ld * (int64_t)vp_dtype_size(s->dtype), n, s->dtype, j->op->d, to->out, j->op->d);
}

/* Keys that the tile's queries see: of query `row`, or of all. */
static vp_attn_visible tile_sees(const cached_job *j, const query_tile *t) {
    const int64_t keys = cached_keys(j->op, t->sequence) + fresh_keys(j->op, t->sequence).length;
    vp_attn_visible all = vp_attn_sees(j->op, t->sequence, t->at, keys);
    all.hi = vp_attn_sees(j->op, t->sequence, t->at + t->count - 1, keys).hi;
    return all;
}

static void attend_block(const cached_job *j, const query_tile *t, int64_t block, const part *to) {
    const vp_attn_op *op = j->op;
    const int64_t key0 = block * BLOCK, keys = tile_sees(j, t).hi, n = vp_smaller(keys - key0, BLOCK);
    over_spans(j, t, key0, n, NULL, score_span);
    memset(to->out, 0, (size_t)(t->rows * op->d) * sizeof *to->out);
    memset(to->lanes, 0, (size_t)(t->rows * LANES) * sizeof *to->lanes);
    for (int64_t r = 0; r < t->rows; r++) {
        const vp_attn_visible v = vp_attn_sees(op, t->sequence, t->at + r / j->share, keys);
        to->top[r] = -INFINITY;
        j->simd->attn->softmax_block(t->scores + r * BLOCK, n, v.lo - key0, v.hi - key0, NULL, op->scale, op->softcap,
                                     &to->top[r], to->lanes + r * LANES);
    }
    over_spans(j, t, key0, n, to, mix_span);
}

/* a <- a and b, whose keys come after a's */
static void merge(const cached_job *j, int64_t rows, const part *a, const part *b) {
    const int64_t d = j->op->d;
    for (int64_t r = 0; r < rows; r++) {
        if (b->top[r] == -INFINITY) continue;
        const float top = a->top[r] > b->top[r] ? a->top[r] : b->top[r];
        float factor[2] = {a->top[r] - top, b->top[r] - top};
        j->simd->acts->exp(factor, factor, 2);
        j->simd->rows->axpby(factor[0], a->out + r * d, factor[1], b->out + r * d, a->out + r * d, d);
        j->simd->rows->axpby(factor[0], a->lanes + r * LANES, factor[1], b->lanes + r * LANES, a->lanes + r * LANES,
                             LANES);
        a->top[r] = top;
    }
}

static void clear(const cached_job *j, int64_t rows, const part *p) {
    memset(p->out, 0, (size_t)(rows * j->op->d) * sizeof *p->out);
    memset(p->lanes, 0, (size_t)(rows * LANES) * sizeof *p->lanes);
    for (int64_t r = 0; r < rows; r++) p->top[r] = -INFINITY;
}

static void write_out(const cached_job *j, const query_tile *t, const part *p) {
    const int64_t d = j->op->d;
    for (int64_t r = 0; r < t->rows; r++) {
        const int64_t row = j->batch->cu_q[t->sequence] + t->first + r / j->share;
        const int64_t head = t->group * j->share + r % j->share;
        j->simd->attn->finish(p->out + r * d, p->lanes + r * LANES, vp_row(&j->op->out, row) + head * d, d);
    }
}

/* ---- items ---- */
static query_tile tile_make(const cached_job *j, int64_t tile, int64_t group, int64_t from, int thread) {
    const vp_tile *of = &j->batch->tiles[tile];
    query_tile t = {.sequence = of->sequence, .first = of->first + from, .group = group};
    t.count = vp_smaller(of->count - from, QUERIES);
    t.rows = t.count * j->share;
    t.at = (j->batch->q_off ? j->batch->q_off[t.sequence] : 0) + t.first;
    t.queries = j->scratch + thread * j->scratch_each;
    t.scores = t.queries + QUERIES * j->share * j->op->d;
    const size_t width = (size_t)(j->share * j->op->d);
    for (int64_t i = 0; i < t.count; i++)
        memcpy(t.queries + i * (int64_t)width,
               vp_row(&j->op->q, j->batch->cu_q[t.sequence] + t.first + i) + group * (int64_t)width,
               width * sizeof(float));
    return t;
}

static void attend_tile(void *ctx, int64_t item, int thread) {
    const cached_job *j = ctx;
    const int64_t tile = item / j->op->groups;
    for (int64_t from = 0; from < j->batch->tiles[tile].count; from += QUERIES) {
        const query_tile t = tile_make(j, tile, item % j->op->groups, from, thread);
        float *memory = t.scores + QUERIES * j->share * BLOCK;
        const part all = part_at(j, memory, t.rows), one = part_at(j, memory + j->part_each, t.rows);
        const vp_attn_visible v = tile_sees(j, &t);
        clear(j, t.rows, &all);
        for (int64_t block = v.lo / BLOCK; block * BLOCK < v.hi; block++) {
            attend_block(j, &t, block, &one);
            merge(j, t.rows, &all, &one);
        }
        write_out(j, &t, &all);
    }
}

/* The same with every block an item: for single queries over many keys. */
static void attend_piece(void *ctx, int64_t item, int thread) {
    const cached_job *j = ctx;
    const int64_t place = item / j->pieces, block = item % j->pieces;
    const query_tile t = tile_make(j, place / j->op->groups, place % j->op->groups, 0, thread);
    const part to = part_at(j, j->parts + item * j->part_each, t.rows);
    const vp_attn_visible v = tile_sees(j, &t);
    if (block * BLOCK < v.hi && (block + 1) * BLOCK > v.lo)
        attend_block(j, &t, block, &to);
    else
        clear(j, t.rows, &to);
}

static void merge_pieces(void *ctx, int64_t place, int thread) {
    const cached_job *j = ctx;
    const query_tile t = tile_make(j, place / j->op->groups, place % j->op->groups, 0, thread);
    const part all = part_at(j, t.scores + QUERIES * j->share * BLOCK, t.rows);
    clear(j, t.rows, &all);
    for (int64_t block = 0; block < j->pieces; block++) {
        const part one = part_at(j, j->parts + (place * j->pieces + block) * j->part_each, t.rows);
        merge(j, t.rows, &all, &one);
    }
    write_out(j, &t, &all);
}

/* ---- checks and set-up ---- */
static int check_sequence(vp_queue *q, const vp_attn_op *op, int64_t s) {
    const vp_batch *b = op->batch;
    const int64_t queries = (int64_t)b->cu_q[s + 1] - b->cu_q[s], fresh = (int64_t)b->cu_k[s + 1] - b->cu_k[s];
    const int64_t at = b->q_off ? b->q_off[s] : 0;
    bool good = queries >= 0 && fresh >= 0 && at >= 0 && op->nspans[s] >= 0 && (op->spans[s] || !op->nspans[s]);
    for (int32_t i = 0; good && i < op->nspans[s]; i++) {
        const vp_span *p = &op->spans[s][i];
        good = p->length >= 0 && (!p->length || (p->k && p->v)) && p->ld >= (int64_t)op->groups * op->d &&
               (p->dtype == VP_F32 || p->dtype == VP_BF16);
    }
    if (good && at + queries <= cached_keys(op, s) + fresh) return VP_OK;
    return vp_queue_fail(q, VP_BUG, "attn: the spans of sequence %lld do not fit its queries", (long long)s);
}

static int check_cached(vp_queue *q, const vp_attn_op *op) {
    const vp_batch *b = op->batch;
    if (!b || !b->cu_q || !b->cu_k || !op->nspans || (b->ntiles > 0 && !b->tiles))
        return vp_queue_fail(q, VP_BUG, "attn: no offsets, spans or tiles");
    if (b->seg || op->drop.p != 0.0f || op->lse)
        return vp_queue_fail(q, VP_BUG, "attn: segments, dropout or lse over cached keys");
    if (op->heads < 1 || op->groups < 1 || op->heads % op->groups != 0 || op->d < 1 || op->window < 0)
        return vp_queue_fail(q, VP_BUG, "attn: %d heads in %d groups of width %d", (int)op->heads, (int)op->groups,
                             (int)op->d);
    const int64_t queries = (int64_t)op->heads * op->d, keys = (int64_t)op->groups * op->d, Tk = b->cu_k[b->B];
    VP_TRY(vp_check_mat(q, "attn.q", &op->q, VP_F32, b->T, queries));
    VP_TRY(vp_check_mat(q, "attn.out", &op->out, VP_F32, b->T, queries));
    if (Tk) VP_TRY(vp_check_mat(q, "attn.k", &op->k, VP_F32, Tk, keys));
    if (Tk) VP_TRY(vp_check_mat(q, "attn.v", &op->v, VP_F32, Tk, keys));
    if (Tk && op->k.ld != op->v.ld) return vp_queue_fail(q, VP_BUG, "attn: k and v with unlike strides");
    for (int64_t s = 0; s < b->B; s++) VP_TRY(check_sequence(q, op, s));
    int64_t covered = 0;
    for (int64_t i = 0; i < b->ntiles; i++) {
        const vp_tile *t = &b->tiles[i];
        if (t->sequence < 0 || t->sequence >= b->B || t->first < 0 || t->count < 1 ||
            t->first > b->cu_q[t->sequence + 1] - b->cu_q[t->sequence] - t->count)
            return vp_queue_fail(q, VP_BUG, "attn: tile %lld is not within its sequence", (long long)i);
        covered += t->count;
    }
    return covered == b->T ? VP_OK : vp_queue_fail(q, VP_BUG, "attn: the tiles do not cover the queries");
}

/* Blocks are items when every sequence has one query, and without that threads would have nothing to do. */
static int64_t count_pieces(const cached_job *j, int threads) {
    const vp_batch *b = j->batch;
    int64_t most = 0;
    if (threads == 1 || b->T != b->ntiles || b->ntiles * j->op->groups >= 4 * threads) return 0;
    for (int64_t s = 0; s < b->B; s++) most = vp_larger(most, cached_keys(j->op, s) + fresh_keys(j->op, s).length);
    return most > BLOCK ? (most + BLOCK - 1) / BLOCK : 0;
}

static int run(vp_queue *q, cached_job *j) {
    const int threads = vp_threads_count(q->device->threads);
    const int64_t rows = QUERIES * j->share, places = j->batch->ntiles * j->op->groups;
    j->part_each = rows * (j->op->d + LANES + 1);
    j->scratch_each = rows * (j->op->d + BLOCK) + 2 * j->part_each;
    j->pieces = count_pieces(j, threads);
    if (!(j->scratch = vp_queue_floats(q, "attn", j->scratch_each * threads))) return VP_MEMORY;
    if (!j->pieces) {
        vp_threads_run(q->device->threads, places, attend_tile, j);
        return VP_OK;
    }
    j->part_each = j->share * (j->op->d + LANES + 1); /* of one query */
    if (!(j->parts = vp_queue_floats(q, "attn", places * j->pieces * j->part_each))) return VP_MEMORY;
    vp_threads_run(q->device->threads, places * j->pieces, attend_piece, j);
    vp_threads_run(q->device->threads, places, merge_pieces, j);
    return VP_OK;
}

int vp_attn_cached(vp_queue *q, const vp_attn_op *op) {
    VP_TRY(check_cached(q, op));
    if (op->batch->T == 0) return VP_OK;
    cached_job j = {.op = op, .batch = op->batch, .simd = q->device->simd, .share = op->heads / op->groups};
    const size_t mark = vp_arena_mark(q);
    const int status = run(q, &j);
    vp_arena_release(q, mark);
    return status;
}

/* ---- appending ---- */
typedef struct append_job {
    const vp_kv_op *op;
    const vp_simd *simd;
} append_job;

static void append_row(const append_job *j, const vp_mat *m, int64_t t, void *to, int64_t at) {
    const float *from = vp_row(m, t);
    if (j->op->dtype == VP_BF16)
        j->simd->rows->to_bf16(from, (uint16_t *)to + at * j->op->ld, m->cols);
    else
        memcpy((float *)to + at * j->op->ld, from, (size_t)m->cols * sizeof *from);
}

static void append_sequence(void *ctx, int64_t s, int thread) {
    (void)thread;
    const append_job *j = ctx;
    const int32_t *cu = j->op->batch->cu_q;
    for (int64_t t = cu[s]; t < cu[s + 1]; t++) {
        append_row(j, &j->op->k, t, j->op->k_to[s], t - cu[s]);
        append_row(j, &j->op->v, t, j->op->v_to[s], t - cu[s]);
    }
}

int vp_cpu_kv_append(vp_queue *q, const vp_kv_op *op) {
    if (!op->batch || (op->dtype != VP_F32 && op->dtype != VP_BF16) || op->ld < op->k.cols)
        return vp_queue_fail(q, VP_BUG, "kv_append: no batch, or a cache of another type or width");
    VP_TRY(vp_check_mat(q, "kv_append.k", &op->k, VP_F32, op->batch->T, op->k.cols));
    VP_TRY(vp_check_mat(q, "kv_append.v", &op->v, VP_F32, op->batch->T, op->k.cols));
    append_job j = {op, q->device->simd};
    vp_threads_run(q->device->threads, op->batch->B, append_sequence, &j);
    return VP_OK;
}
