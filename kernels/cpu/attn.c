/* attn: variable-length attention without padding. Keys and values are packed once a call, by (sequence, key head,
 * block of BLOCK keys from the sequence's start); then an owner of (tile of queries, head) walks the blocks in
 * ascending order with an online softmax. Legend: q [T, H d], k and v [T, G d], out [T, H d]. A query's result is a
 * function of its sequence alone: scores and sums are chains in a fixed order, a hidden key and a skipped block leave
 * no trace. */
#include "kernels/cpu/attn.h"
#include "kernels/cpu/drop.h"
#include <math.h>
#include <string.h>

enum { BLOCK = VP_ATTN_BLOCK, QUERIES = 24, LANES = 16 };

typedef struct attn_job {
    const vp_attn_op *op;
    const vp_batch *batch;
    const vp_simd *simd;
    vp_dropper drop;
    vp_attn_layout layout;
    float *keys, *values; /* [blocks, G, each] */
    int64_t keys_each, values_each;
    float *scratch; /* per thread: scores, output, lane sums, hidden keys */
    int64_t scratch_each;
    int64_t heads_each, ranges; /* heads of an item; items of a tile */
} attn_job;

/* ---- packing: K^T [d, BLOCK] for the scores, V [BLOCK, d] for the output ---- */
static void pack_block(void *ctx, int64_t block, int thread) {
    (void)thread;
    const attn_job *j = ctx;
    const vp_attn_op *op = j->op;
    vp_attn_place p = vp_attn_find(&j->layout, block);
    for (int64_t g = 0; g < op->groups; g++) {
        int64_t at = block * op->groups + g;
        j->simd->gemm->pack(vp_row(&op->k, p.first) + g * op->d, op->k.ld, true, op->d, p.count,
                            j->keys + at * j->keys_each);
        j->simd->gemm->pack(vp_row(&op->v, p.first) + g * op->d, op->v.ld, false, p.count, op->d,
                            j->values + at * j->values_each);
    }
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

/* After the softmax: the sums of its denominator have seen all keys. Past `n` nothing is visible. */
static void drop_keys(const attn_job *j, const query_block *qb, int64_t r, int64_t key0, int64_t n) {
    vp_drop_bits bits = {{0}};
    vp_drop_keys(&j->drop, qb->sequence, qb->head, qb->first + r, key0, n, &bits);
    vp_drop_apply(&j->drop, &bits, qb->scores + r * BLOCK, n);
}

static void attend_block(const attn_job *j, query_block *qb, int64_t block, int64_t end) {
    const vp_attn_op *op = j->op;
    int64_t key0 = block * BLOCK, n = vp_smaller(end - key0, BLOCK), height = vp_smaller(qb->n - key0, BLOCK);
    int64_t at = (j->layout.block_at[qb->sequence] + block) * op->groups + qb->head / (op->heads / op->groups);
    int64_t base = j->batch->cu_q[qb->sequence];
    const uint8_t *seg = j->batch->seg ? j->batch->seg + base : NULL;
    j->simd->gemm->product(vp_row(&op->q, base + qb->first) + qb->head * op->d, op->q.ld, j->keys + at * j->keys_each,
                           op->d, qb->scores, BLOCK, qb->count, op->d, n, false);
    for (int64_t r = 0; r < qb->count; r++) {
        int64_t i = qb->first + r;
        vp_attn_visible v = vp_attn_sees(j->op, qb->sequence, i, qb->n);
        if (seg && (r == 0 || seg[i] != seg[i - 1])) vp_attn_hide(seg + key0, seg[i], n, qb->hide);
        float factor =
            j->simd->attn->softmax_block(qb->scores + r * BLOCK, n, v.lo - key0, v.hi - key0, seg ? qb->hide : NULL,
                                         op->scale, op->softcap, &qb->top[r], qb->lanes + r * LANES);
        if (factor != 1.0f) j->simd->attn->scale(qb->out + r * op->d, factor, op->d);
        if (j->drop.on) drop_keys(j, qb, r, key0, vp_smaller(v.hi - key0, n));
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
        if (op->lse) op->lse[t * op->heads + qb->head] = vp_attn_lse(qb->top[r], qb->lanes + r * LANES, LANES);
    }
}

static void attend(const attn_job *j, query_block *qb) {
    int64_t begin = qb->n, end = 0;
    for (int64_t r = 0; r < qb->count; r++) {
        vp_attn_visible v = vp_attn_sees(j->op, qb->sequence, qb->first + r, qb->n);
        begin = vp_smaller(begin, v.lo);
        end = vp_larger(end, v.hi);
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
    int64_t past = vp_smaller(head + j->heads_each, j->op->heads);
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
            qb.count = vp_smaller(tile->count - i, QUERIES);
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
    int64_t each = 2 * j->op->d * pairs / vp_larger(j->batch->ntiles, 1);
    return vp_smaller(vp_larger(worth / vp_larger(each, 1), 1), j->op->heads);
}

/* ---- set-up ---- */
static int attn_run(vp_queue *q, attn_job *j) {
    const vp_attn_op *op = j->op;
    const vp_batch *b = j->batch;
    VP_TRY(vp_attn_layout_make(q, op, &j->layout));
    int64_t blocks = j->layout.blocks, height = j->layout.height;
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
    if (op->spans) return vp_attn_cached(q, op);
    VP_TRY(vp_attn_check(q, op));
    if (op->batch->T == 0) return VP_OK;
    attn_job j = {.op = op, .batch = op->batch, .simd = q->device->simd};
    VP_TRY(vp_dropper_make(q, "attn", &op->drop, op->batch, op->batch->T, &j.drop));
    size_t mark = vp_arena_mark(q);
    int status = attn_run(q, &j);
    vp_arena_release(q, mark);
    return status;
}
