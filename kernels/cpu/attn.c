/* attn: variable-length attention without padding. Keys and values are packed once a call, by (sequence, key head,
 * block of BLOCK keys from the sequence's start); then an owner of (tile of queries, head) walks the blocks in
 * ascending order with an online softmax. Legend: q [T, H d], k and v [T, G d], out [T, H d]. A query's result is a
 * function of its sequence alone: scores and sums are chains in a fixed order, a hidden key and a skipped block leave
 * no trace. */
#include "kernels/cpu/cpu.h"
#include <math.h>
#include <string.h>

enum { BLOCK = 128, QUERIES = 24, LANES = 16 };

typedef struct attn_job {
    const vp_attn_op *op;
    const vp_batch *batch;
    const vp_simd *simd;
    int64_t *block_at;    /* [B + 1] first block of a sequence */
    float *keys, *values; /* [blocks, G, each] */
    int64_t keys_each, values_each;
    float *scratch; /* per thread: scores, output, lane sums, hidden keys */
    int64_t scratch_each;
    int64_t heads_each, ranges; /* heads of an item; items of a tile */
} attn_job;

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* ---- packing: K^T [d, BLOCK] for the scores, V [BLOCK, d] for the output ---- */
typedef struct block_place {
    int64_t sequence, first, count; /* keys */
} block_place;

static block_place place_of(const attn_job *j, int64_t block) {
    int64_t low = 0, high = j->batch->B; /* the last sequence with block_at <= block */
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (j->block_at[middle] <= block)
            low = middle;
        else
            high = middle;
    }
    int64_t from = j->batch->cu_k[low], n = j->batch->cu_k[low + 1] - from, at = (block - j->block_at[low]) * BLOCK;
    return (block_place){.sequence = low, .first = from + at, .count = smaller(n - at, BLOCK)};
}

static void pack_block(void *ctx, int64_t block, int thread) {
    (void)thread;
    const attn_job *j = ctx;
    const vp_attn_op *op = j->op;
    block_place p = place_of(j, block);
    for (int64_t g = 0; g < op->groups; g++) {
        int64_t at = block * op->groups + g;
        j->simd->gemm->pack(vp_row(&op->k, p.first) + g * op->d, op->k.ld, true, op->d, p.count,
                            j->keys + at * j->keys_each);
        j->simd->gemm->pack(vp_row(&op->v, p.first) + g * op->d, op->v.ld, false, p.count, op->d,
                            j->values + at * j->values_each);
    }
}

/* ---- who sees whom: query i sees keys [lo, hi), less those of other segments ---- */
typedef struct visible {
    int64_t lo, hi;
} visible;

static visible sees(const attn_job *j, int64_t sequence, int64_t i, int64_t n) {
    const vp_attn_op *op = j->op;
    int64_t prefix = j->batch->prefix ? j->batch->prefix[sequence] : 0;
    visible v = {0, op->mode == VP_ATTN_BI ? n : smaller(larger(i + 1, prefix), n)};
    if (op->window > 0) {
        v.lo = larger(0, i - op->window + 1);
        v.hi = smaller(v.hi, i + op->window);
    }
    return v;
}

/* hide[c] = 0 where segment 0 or `own`, else -inf */
static void hide_segments(const uint8_t *seg, uint8_t own, int64_t n, float *hide) {
    for (int64_t c = 0; c < n; c++) hide[c] = seg[c] == 0 || seg[c] == own ? 0.0f : -INFINITY;
}

/* ---- one head of up to QUERIES queries ---- */
typedef struct query_block {
    int64_t sequence, first, count, n; /* within the sequence of n tokens */
    int64_t head;
    float *scores; /* [QUERIES, BLOCK] */
    float *out;    /* [QUERIES, d] */
    float *lanes;  /* [QUERIES, LANES] */
    float *hide;   /* [BLOCK] */
    float top[QUERIES];
} query_block;

static void attend_block(const attn_job *j, query_block *qb, int64_t block, int64_t end) {
    const vp_attn_op *op = j->op;
    int64_t key0 = block * BLOCK, n = smaller(end - key0, BLOCK), height = smaller(qb->n - key0, BLOCK);
    int64_t at = (j->block_at[qb->sequence] + block) * op->groups + qb->head / (op->heads / op->groups);
    int64_t base = j->batch->cu_q[qb->sequence];
    const uint8_t *seg = j->batch->seg ? j->batch->seg + base : NULL;
    j->simd->gemm->product(vp_row(&op->q, base + qb->first) + qb->head * op->d, op->q.ld, j->keys + at * j->keys_each,
                           op->d, qb->scores, BLOCK, qb->count, op->d, n, false);
    for (int64_t r = 0; r < qb->count; r++) {
        int64_t i = qb->first + r;
        visible v = sees(j, qb->sequence, i, qb->n);
        if (seg && (r == 0 || seg[i] != seg[i - 1])) hide_segments(seg + key0, seg[i], n, qb->hide);
        float factor =
            j->simd->attn->softmax_block(qb->scores + r * BLOCK, n, v.lo - key0, v.hi - key0, seg ? qb->hide : NULL,
                                         op->scale, op->softcap, &qb->top[r], qb->lanes + r * LANES);
        if (factor != 1.0f) j->simd->attn->scale(qb->out + r * op->d, factor, op->d);
    }
    j->simd->gemm->product(qb->scores, BLOCK, j->values + at * j->values_each, height, qb->out, op->d, qb->count, n,
                           op->d, true);
}

static void write_out(const attn_job *j, const query_block *qb) {
    const vp_attn_op *op = j->op;
    for (int64_t r = 0; r < qb->count; r++) {
        int64_t t = j->batch->cu_q[qb->sequence] + qb->first + r;
        j->simd->attn->finish(qb->out + r * op->d, qb->lanes + r * LANES, vp_row(&op->out, t) + qb->head * op->d,
                              op->d);
    }
}

static void attend(const attn_job *j, query_block *qb) {
    int64_t begin = qb->n, end = 0;
    for (int64_t r = 0; r < qb->count; r++) {
        visible v = sees(j, qb->sequence, qb->first + r, qb->n);
        begin = smaller(begin, v.lo);
        end = larger(end, v.hi);
        qb->top[r] = -INFINITY;
    }
    memset(qb->out, 0, (size_t)(qb->count * j->op->d) * sizeof *qb->out);
    memset(qb->lanes, 0, (size_t)(qb->count * LANES) * sizeof *qb->lanes);
    for (int64_t block = begin / BLOCK; block * BLOCK < end; block++) attend_block(j, qb, block, end);
    write_out(j, qb);
}

static void attend_item(void *ctx, int64_t item, int thread) {
    const attn_job *j = ctx;
    const vp_tile *tile = &j->batch->tiles[item / j->ranges];
    int64_t from = j->batch->cu_q[tile->sequence], head = item % j->ranges * j->heads_each;
    int64_t past = smaller(head + j->heads_each, j->op->heads);
    float *scratch = j->scratch + thread * j->scratch_each;
    query_block qb = {.sequence = tile->sequence,
                      .n = j->batch->cu_q[tile->sequence + 1] - from,
                      .scores = scratch,
                      .lanes = scratch + QUERIES * BLOCK,
                      .hide = scratch + QUERIES * (BLOCK + LANES),
                      .out = scratch + QUERIES * (BLOCK + LANES) + BLOCK};
    for (qb.head = head; qb.head < past; qb.head++)
        for (int64_t i = 0; i < tile->count; i += QUERIES) {
            qb.first = tile->first + i;
            qb.count = smaller(tile->count - i, QUERIES);
            attend(j, &qb);
        }
}

/* Heads of an item, so that an item of short sequences is still worth handing out. */
static int64_t heads_of_item(const attn_job *j) {
    const int64_t worth = 1 << 20; /* multiply-adds */
    int64_t pairs = 1;
    for (int64_t i = 0; i < j->batch->ntiles; i++) {
        const vp_tile *t = &j->batch->tiles[i];
        pairs += (int64_t)t->count * (j->batch->cu_q[t->sequence + 1] - j->batch->cu_q[t->sequence]);
    }
    int64_t each = 2 * j->op->d * pairs / larger(j->batch->ntiles, 1);
    return smaller(larger(worth / larger(each, 1), 1), j->op->heads);
}

/* ---- checks and set-up ---- */
static int check_batch(vp_queue *q, const vp_batch *b) {
    if (!b->cu_q || !b->cu_k || (b->ntiles > 0 && !b->tiles))
        return vp_queue_fail(q, VP_BUG, "attn: no offsets or tiles");
    if (b->cu_q[0] != 0 || b->cu_q[b->B] != b->T)
        return vp_queue_fail(q, VP_BUG, "attn: offsets do not span the tokens");
    for (int64_t s = 0; s < b->B; s++) {
        if (b->cu_q[s + 1] < b->cu_q[s])
            return vp_queue_fail(q, VP_BUG, "attn: sequence %lld has a negative length", (long long)s);
        if (b->cu_k[s] != b->cu_q[s] || b->cu_k[s + 1] != b->cu_q[s + 1] || (b->q_off && b->q_off[s] != 0))
            return vp_queue_fail(q, VP_BUG, "attn: the CPU has no cached keys (sequence %lld)", (long long)s);
    }
    int64_t covered = 0;
    for (int64_t i = 0; i < b->ntiles; i++) {
        const vp_tile *t = &b->tiles[i];
        if (t->sequence < 0 || t->sequence >= b->B || t->first < 0 || t->count < 0 ||
            t->first > b->cu_q[t->sequence + 1] - b->cu_q[t->sequence] - t->count)
            return vp_queue_fail(q, VP_BUG, "attn: tile %lld is not within its sequence", (long long)i);
        covered += t->count;
    }
    if (covered != b->T)
        return vp_queue_fail(q, VP_BUG, "attn: the tiles cover %lld of %lld queries", (long long)covered,
                             (long long)b->T);
    return VP_OK;
}

static int check_attn(vp_queue *q, const vp_attn_op *op) {
    if (!op->batch || op->heads < 1 || op->groups < 1 || op->heads % op->groups != 0 || op->d < 1 || op->window < 0)
        return vp_queue_fail(q, VP_BUG, "attn: %d heads in %d groups of width %d", (int)op->heads, (int)op->groups,
                             (int)op->d);
    int64_t T = op->batch->T, queries = (int64_t)op->heads * op->d, keys = (int64_t)op->groups * op->d;
    VP_TRY(vp_check_mat(q, "attn.q", &op->q, VP_F32, T, queries));
    VP_TRY(vp_check_mat(q, "attn.k", &op->k, VP_F32, T, keys));
    VP_TRY(vp_check_mat(q, "attn.v", &op->v, VP_F32, T, keys));
    VP_TRY(vp_check_mat(q, "attn.out", &op->out, VP_F32, T, queries));
    if (op->spans) return vp_queue_fail(q, VP_BUG, "attn: the CPU has no cached keys");
    if (op->drop.p > 0.0f || op->lse)
        return vp_queue_fail(q, VP_BUG, "attn: the CPU has no dropout and saves nothing for a backward pass");
    return check_batch(q, op->batch);
}

static int attn_run(vp_queue *q, attn_job *j) {
    const vp_attn_op *op = j->op;
    const vp_batch *b = j->batch;
    size_t bytes = (size_t)(b->B + 1) * sizeof *j->block_at;
    if (!(j->block_at = vp_arena_alloc(q, bytes)))
        return vp_queue_fail(q, VP_MEMORY, "out of memory: attn needs %zu bytes", bytes);
    int64_t blocks = 0;
    for (int64_t s = 0; s < b->B; s++) {
        j->block_at[s] = blocks;
        blocks += (b->cu_k[s + 1] - b->cu_k[s] + BLOCK - 1) / BLOCK;
    }
    j->block_at[b->B] = blocks;
    int64_t longest = 1;
    for (int64_t s = 0; s < b->B; s++) longest = larger(longest, b->cu_k[s + 1] - b->cu_k[s]);
    int64_t height = smaller(longest, BLOCK);
    j->keys_each = vp_packed_floats(j->simd, op->d, height);
    j->values_each = vp_packed_floats(j->simd, height, op->d);
    j->scratch_each = QUERIES * (BLOCK + LANES + (int64_t)op->d) + BLOCK + 64;
    j->keys = vp_queue_floats(q, "attn", blocks * op->groups * j->keys_each);
    j->values = vp_queue_floats(q, "attn", blocks * op->groups * j->values_each);
    j->scratch = vp_queue_floats(q, "attn", j->scratch_each * vp_threads_count(q->device->threads));
    if (!j->keys || !j->values || !j->scratch) return VP_MEMORY;
    vp_threads_run(q->device->threads, blocks, pack_block, j);
    j->heads_each = heads_of_item(j);
    j->ranges = (op->heads + j->heads_each - 1) / j->heads_each;
    vp_threads_run(q->device->threads, b->ntiles * j->ranges, attend_item, j);
    return VP_OK;
}

int vp_cpu_attn(vp_queue *q, const vp_attn_op *op) {
    VP_TRY(check_attn(q, op));
    if (op->batch->T == 0) return VP_OK;
    attn_job j = {.op = op, .batch = op->batch, .simd = q->device->simd};
    size_t mark = vp_arena_mark(q);
    int status = attn_run(q, &j);
    vp_arena_release(q, mark);
    return status;
}
