/* attn_bwd: dQ, dK and dV from q, k, v, out, lse and dout, with P and dS recomputed block by block. Legend: q, out, dq
 * [T, H d]; k, v, dk, dv [T, G d]; lse [T, H]. No atomics: a sequence of up to ONE_OWNER tokens has one owner of dQ, dK
 * and dV per key head; a longer one has owners of dQ (query blocks) and, in a second pass, of dK and dV (key blocks).
 * Every element is summed in one order in either form: dQ over key blocks, dK and dV over the heads of the group and
 * then over query blocks, ascending. So a sequence's gradients do not see the batch, the threads or the form. With
 * dropout, O = D V where D = drop(P): dV = D^T dO, dP = drop(dO V^T), and dS = P (dP - delta) where delta, the sum of
 * P dP over the keys, is that of D (dO V^T), which is still dO . O. */
#include "kernels/cpu/attn.h"
#include "kernels/cpu/drop.h"
#include <string.h>

enum { BLOCK = VP_ATTN_BLOCK, QUERIES = 48, ONE_OWNER = 512 };

typedef struct packed_block { /* of one block of keys and one key head */
    float *k_t, *v_t, *k;     /* K^T and V^T [d, BLOCK], K [BLOCK, d] */
} packed_block;

typedef enum owned { OWN_ALL, OWN_DQ, OWN_DKV } owned;
typedef struct owner {
    owned what;
    int32_t sequence;
    int64_t first; /* OWN_DQ: query block; OWN_DKV: key block */
} owner;

typedef struct bwd_job {
    const vp_attn_op *op;
    const vp_simd *simd;
    vp_dropper drop;
    vp_attn_layout layout;
    packed_block *packed; /* [blocks, G] */
    owner *owners;
    int64_t nowners;
    float *scratch;
    int64_t scratch_each, queries_each; /* floats: of a thread; of a packed block of queries */
} bwd_job;

static void pack_block(void *ctx, int64_t item, int thread) {
    (void)thread;
    const bwd_job *j = ctx;
    const vp_attn_op *op = j->op;
    int64_t g = item % op->groups;
    vp_attn_place p = vp_attn_find(&j->layout, item / op->groups);
    const float *k = vp_row(&op->k, p.first) + g * op->d, *v = vp_row(&op->v, p.first) + g * op->d;
    j->simd->gemm->pack(k, op->k.ld, true, op->d, p.count, j->packed[item].k_t);
    j->simd->gemm->pack(v, op->v.ld, true, op->d, p.count, j->packed[item].v_t);
    j->simd->gemm->pack(k, op->k.ld, false, p.count, op->d, j->packed[item].k);
}

/* ---- one block of queries of one head ---- */
typedef struct query_block {
    owned what;
    int64_t sequence, base, n, group, head; /* of n tokens that start at row `base` */
    int64_t first, count;                   /* queries, within the sequence */
    float *p, *ds;                          /* [QUERIES, BLOCK] */
    float *hide;                            /* [BLOCK] */
    float *q, *dout;                        /* packed [count, d] */
    float delta[QUERIES];                   /* sum of dO O */
} query_block;

static const float *head_row(const vp_mat *m, const query_block *qb, int64_t i, int64_t head, int32_t d) {
    return vp_row(m, qb->base + i) + head * d;
}

static void begin_queries(const bwd_job *j, query_block *qb) {
    const vp_attn_op *op = j->op;
    for (int64_t r = 0; r < qb->count; r++)
        qb->delta[r] = j->simd->grads->dot(head_row(op->dout, qb, qb->first + r, qb->head, op->d),
                                           head_row(&op->out, qb, qb->first + r, qb->head, op->d), op->d);
    if (qb->what == OWN_DQ) return;
    j->simd->gemm->pack(head_row(&op->q, qb, qb->first, qb->head, op->d), op->q.ld, false, qb->count, op->d, qb->q);
    j->simd->gemm->pack(head_row(op->dout, qb, qb->first, qb->head, op->d), op->dout->ld, false, qb->count, op->d,
                        qb->dout);
}

/* out [n keys, d] += m [count, n]^T packed [count, d] */
static void add_keys(const bwd_job *j, const query_block *qb, const float *m, int64_t n, const float *packed,
                     float *out, int64_t ld) {
    j->simd->gemm->product_turned(m, BLOCK, packed, qb->count, out, ld, n, qb->count, j->op->d, true);
}

/* Row r of P and of dO V^T, which becomes dS, for the n visible keys of a block from key0 on; P is then dropped. */
static void derive_row(const bwd_job *j, const query_block *qb, int64_t r, int64_t key0, int64_t n) {
    const vp_attn_op *op = j->op;
    float *p = qb->p + r * BLOCK, *ds = qb->ds + r * BLOCK;
    int64_t i = qb->first + r;
    vp_attn_visible v = vp_attn_sees(op, qb->sequence, i, qb->n);
    vp_drop_bits bits = {{0}};
    int64_t dropped = j->drop.on ? vp_smaller(v.hi - key0, n) : 0;
    if (dropped > 0) {
        vp_drop_keys(&j->drop, qb->sequence, qb->head, i, key0, dropped, &bits);
        vp_drop_apply(&j->drop, &bits, ds, dropped);
    }
    j->simd->grads->attn_block(p, ds, n, v.lo - key0, v.hi - key0, op->batch->seg ? qb->hide : NULL, op->scale,
                               op->softcap, op->lse[(qb->base + i) * op->heads + qb->head], qb->delta[r]);
    if (dropped > 0) vp_drop_apply(&j->drop, &bits, p, dropped);
}

/* Keys [key0, min(end, key0 + BLOCK)) for this block of queries. */
static void visit_block(const bwd_job *j, query_block *qb, int64_t block, int64_t end) {
    const vp_attn_op *op = j->op;
    int64_t key0 = block * BLOCK, n = vp_smaller(end - key0, BLOCK), height = vp_smaller(qb->n - key0, BLOCK);
    const packed_block *b = &j->packed[(j->layout.block_at[qb->sequence] + block) * op->groups + qb->group];
    const uint8_t *seg = op->batch->seg ? op->batch->seg + qb->base : NULL;
    j->simd->gemm->product(head_row(&op->q, qb, qb->first, qb->head, op->d), op->q.ld, b->k_t, op->d, qb->p, BLOCK,
                           qb->count, op->d, n, false);
    j->simd->gemm->product(head_row(op->dout, qb, qb->first, qb->head, op->d), op->dout->ld, b->v_t, op->d, qb->ds,
                           BLOCK, qb->count, op->d, n, false);
    for (int64_t r = 0; r < qb->count; r++) {
        int64_t i = qb->first + r;
        if (seg && (r == 0 || seg[i] != seg[i - 1])) vp_attn_hide(seg + key0, seg[i], n, qb->hide);
        derive_row(j, qb, r, key0, n);
    }
    if (qb->what != OWN_DKV)
        j->simd->gemm->product(qb->ds, BLOCK, b->k, height, vp_row(op->dq, qb->base + qb->first) + qb->head * op->d,
                               op->dq->ld, qb->count, n, op->d, true);
    if (qb->what == OWN_DQ) return;
    int64_t row = qb->base + key0, at = qb->group * op->d;
    add_keys(j, qb, qb->p, n, qb->dout, vp_row(op->dv, row) + at, op->dv->ld);
    add_keys(j, qb, qb->ds, n, qb->q, vp_row(op->dk, row) + at, op->dk->ld);
}

/* Key blocks [low, high) of those that this block of queries sees. */
static void visit_queries(const bwd_job *j, query_block *qb, int64_t low, int64_t high) {
    int64_t begin = qb->n, end = 0;
    for (int64_t r = 0; r < qb->count; r++) {
        vp_attn_visible v = vp_attn_sees(j->op, qb->sequence, qb->first + r, qb->n);
        begin = vp_smaller(begin, v.lo);
        end = vp_larger(end, v.hi);
    }
    int64_t from = vp_larger(begin / BLOCK, low), past = vp_smaller((end + BLOCK - 1) / BLOCK, high);
    if (from >= past) return;
    begin_queries(j, qb);
    for (int64_t block = from; block < past; block++) visit_block(j, qb, block, end);
}

static void zero_rows(const vp_mat *m, int64_t first, int64_t rows, int64_t column, int64_t columns) {
    for (int64_t i = first; i < first + rows; i++) memset(vp_row(m, i) + column, 0, (size_t)columns * sizeof(float));
}

/* Items are (owner, key head). */
static void own_item(void *ctx, int64_t item, int thread) {
    const bwd_job *j = ctx;
    const vp_attn_op *op = j->op;
    const owner *o = &j->owners[item / op->groups];
    float *scratch = j->scratch + thread * j->scratch_each;
    int64_t base = op->batch->cu_q[o->sequence], n = op->batch->cu_q[o->sequence + 1] - base, each = QUERIES * BLOCK;
    int64_t share = op->heads / op->groups, group = item % op->groups, d = op->d;
    query_block qb = {.what = o->what, .sequence = o->sequence, .base = base, .n = n, .group = group, .p = scratch};
    qb.ds = qb.p + each;
    qb.hide = qb.ds + each;
    qb.q = qb.hide + BLOCK;
    qb.dout = qb.q + j->queries_each;
    int64_t low = 0, high = (n + BLOCK - 1) / BLOCK, query = 0, last = n;
    if (o->what == OWN_DQ) query = o->first * QUERIES, last = vp_smaller(n, query + QUERIES);
    if (o->what == OWN_DKV) low = o->first, high = low + 1;
    int64_t key = low * BLOCK, keys = vp_smaller(n, high * BLOCK) - key;
    if (o->what != OWN_DKV) zero_rows(op->dq, base + query, last - query, group * share * d, share * d);
    if (o->what != OWN_DQ) zero_rows(op->dk, base + key, keys, group * d, d);
    if (o->what != OWN_DQ) zero_rows(op->dv, base + key, keys, group * d, d);
    for (qb.head = group * share; qb.head < (group + 1) * share; qb.head++)
        for (qb.first = query; qb.first < last; qb.first += QUERIES) {
            qb.count = vp_smaller(last - qb.first, QUERIES);
            visit_queries(j, &qb, low, high);
        }
}

/* ---- set-up ---- */
static int check_bwd(vp_queue *q, const vp_attn_op *op) {
    VP_TRY(vp_attn_check(q, op));
    if (!op->dout || !op->dq || !op->dk || !op->dv) return vp_queue_fail(q, VP_BUG, "attn_bwd: a gradient is missing");
    VP_TRY(vp_check_mat(q, "attn_bwd.dout", op->dout, VP_F32, op->q.rows, op->q.cols));
    VP_TRY(vp_check_mat(q, "attn_bwd.dq", op->dq, VP_F32, op->q.rows, op->q.cols));
    VP_TRY(vp_check_mat(q, "attn_bwd.dk", op->dk, VP_F32, op->k.rows, op->k.cols));
    VP_TRY(vp_check_mat(q, "attn_bwd.dv", op->dv, VP_F32, op->v.rows, op->v.cols));
    return op->lse || op->batch->T == 0 ? VP_OK : vp_queue_fail(q, VP_BUG, "attn_bwd: the forward saved no lse");
}

static void add_owners(bwd_job *j, int32_t sequence, owned what, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        j->owners[j->nowners++] = (owner){.what = what, .sequence = sequence, .first = i};
}

static int list_owners(vp_queue *q, bwd_job *j) {
    const vp_batch *b = j->op->batch;
    size_t bytes = (size_t)(b->B + b->T / QUERIES + b->B + j->layout.blocks) * sizeof *j->owners;
    if (!(j->owners = vp_arena_alloc(q, bytes)))
        return vp_queue_fail(q, VP_MEMORY, "out of memory: attn_bwd needs %zu bytes", bytes);
    for (int32_t s = 0; s < b->B; s++) {
        int64_t n = b->cu_q[s + 1] - b->cu_q[s];
        add_owners(j, s, OWN_ALL, n > 0 && n <= ONE_OWNER);
        if (n <= ONE_OWNER) continue;
        add_owners(j, s, OWN_DQ, (n + QUERIES - 1) / QUERIES);
        add_owners(j, s, OWN_DKV, (n + BLOCK - 1) / BLOCK);
    }
    return VP_OK;
}

static int bwd_run(vp_queue *q, bwd_job *j) {
    const vp_attn_op *op = j->op;
    VP_TRY(vp_attn_layout_make(q, op, &j->layout));
    VP_TRY(list_owners(q, j));
    int64_t blocks = j->layout.blocks * op->groups, across = vp_packed_floats(j->simd, op->d, j->layout.height);
    int64_t along = vp_packed_floats(j->simd, j->layout.height, op->d), each = 2 * across + along;
    size_t bytes = (size_t)blocks * sizeof *j->packed;
    j->queries_each = vp_packed_floats(j->simd, QUERIES, op->d);
    j->scratch_each = 2 * QUERIES * BLOCK + BLOCK + 2 * j->queries_each;
    j->scratch = vp_queue_floats(q, "attn_bwd", j->scratch_each * vp_threads_count(q->device->threads));
    float *floats = vp_queue_floats(q, "attn_bwd", blocks * each);
    if (!j->scratch || !floats) return VP_MEMORY;
    if (!(j->packed = vp_arena_alloc(q, bytes)))
        return vp_queue_fail(q, VP_MEMORY, "out of memory: attn_bwd needs %zu bytes", bytes);
    for (int64_t i = 0; i < blocks; i++, floats += each)
        j->packed[i] = (packed_block){.k_t = floats, .v_t = floats + across, .k = floats + 2 * across};
    vp_threads_run(q->device->threads, blocks, pack_block, j);
    vp_threads_run(q->device->threads, j->nowners * op->groups, own_item, j);
    return VP_OK;
}

int vp_cpu_attn_bwd(vp_queue *q, const vp_attn_op *op) {
    VP_TRY(check_bwd(q, op));
    if (op->batch->T == 0) return VP_OK;
    bwd_job j = {.op = op, .simd = q->device->simd};
    VP_TRY(vp_dropper_make(q, "attn_bwd", &op->drop, op->batch, op->batch->T, &j.drop));
    size_t mark = vp_arena_mark(q);
    int status = bwd_run(q, &j);
    vp_arena_release(q, mark);
    return status;
}
