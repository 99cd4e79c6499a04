/* What attention and its backward pass share (attn.h): checks, blocks of keys, masks, the saved logarithm. */
#include "kernels/cpu/attn.h"
#include "kernels/log.h"

/* ---- checks ---- */
static int check_batch(vp_queue *q, const vp_batch *b) {
    if (!b->cu_q || !b->cu_k || (b->ntiles > 0 && !b->tiles))
        return vp_queue_fail(q, VP_BUG, "attn: no offsets or tiles");
    if (b->cu_q[0] != 0 || b->cu_q[b->B] != b->T)
        return vp_queue_fail(q, VP_BUG, "attn: offsets do not span the tokens");
    for (int64_t s = 0; s < b->B; s++) {
        if (b->cu_q[s + 1] < b->cu_q[s])
            return vp_queue_fail(q, VP_BUG, "attn: sequence %lld has a negative length", (long long)s);
        if (b->cu_k[s] != b->cu_q[s] || b->cu_k[s + 1] != b->cu_q[s + 1] || (b->q_off && b->q_off[s] != 0))
            return vp_queue_fail(q, VP_BUG, "attn: cached keys without spans (sequence %lld)", (long long)s);
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

int vp_attn_check(vp_queue *q, const vp_attn_op *op) {
    if (!op->batch || op->heads < 1 || op->groups < 1 || op->heads % op->groups != 0 || op->d < 1 || op->window < 0)
        return vp_queue_fail(q, VP_BUG, "attn: %d heads in %d groups of width %d", (int)op->heads, (int)op->groups,
                             (int)op->d);
    int64_t T = op->batch->T, queries = (int64_t)op->heads * op->d, keys = (int64_t)op->groups * op->d;
    VP_TRY(vp_check_mat(q, "attn.q", &op->q, VP_F32, T, queries));
    VP_TRY(vp_check_mat(q, "attn.k", &op->k, VP_F32, T, keys));
    VP_TRY(vp_check_mat(q, "attn.v", &op->v, VP_F32, T, keys));
    VP_TRY(vp_check_mat(q, "attn.out", &op->out, VP_F32, T, queries));
    if (op->heads >> 14 > 0 && op->drop.p != 0.0f)
        return vp_queue_fail(q, VP_BUG, "attn: dropout of %d heads", (int)op->heads);
    return check_batch(q, op->batch);
}

/* ---- blocks of keys ---- */
int vp_attn_layout_make(vp_queue *q, const vp_attn_op *op, vp_attn_layout *layout) {
    const vp_batch *b = op->batch;
    *layout = (vp_attn_layout){.batch = b, .height = 1};
    size_t bytes = (size_t)(b->B + 1) * sizeof *layout->block_at;
    if (!(layout->block_at = vp_arena_alloc(q, bytes)))
        return vp_queue_fail(q, VP_MEMORY, "out of memory: attn needs %zu bytes", bytes);
    for (int64_t s = 0; s < b->B; s++) {
        int64_t n = b->cu_k[s + 1] - b->cu_k[s];
        layout->block_at[s] = layout->blocks;
        layout->blocks += (n + VP_ATTN_BLOCK - 1) / VP_ATTN_BLOCK;
        layout->height = vp_larger(layout->height, vp_smaller(n, VP_ATTN_BLOCK));
    }
    layout->block_at[b->B] = layout->blocks;
    return VP_OK;
}

vp_attn_place vp_attn_find(const vp_attn_layout *j, int64_t block) {
    int64_t low = 0, high = j->batch->B; /* the last sequence with block_at <= block */
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (j->block_at[middle] <= block)
            low = middle;
        else
            high = middle;
    }
    int64_t from = j->batch->cu_k[low], n = j->batch->cu_k[low + 1] - from,
            at = (block - j->block_at[low]) * VP_ATTN_BLOCK;
    return (vp_attn_place){.sequence = low, .first = from + at, .count = vp_smaller(n - at, VP_ATTN_BLOCK)};
}

/* ---- masks ---- */
vp_attn_visible vp_attn_sees(const vp_attn_op *op, int64_t sequence, int64_t i, int64_t n) {
    int64_t prefix = op->batch->prefix ? op->batch->prefix[sequence] : 0;
    vp_attn_visible v = {0, vp_smaller(vp_larger(i + 1, prefix), n)};
    if (op->mode == VP_ATTN_BI) v.hi = i < prefix ? i + 1 : n;
    if (op->window > 0) {
        v.lo = vp_larger(0, i - op->window + 1);
        v.hi = vp_smaller(v.hi, i + op->window);
    }
    return v;
}

void vp_attn_hide(const uint8_t *seg, uint8_t own, int64_t n, float *hide) {
    for (int64_t c = 0; c < n; c++) hide[c] = seg[c] == 0 || seg[c] == own ? 0.0f : -INFINITY;
}

/* ---- the saved logarithm ---- */
float vp_attn_lse(float top, const float *lanes, int n) {
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += (double)lanes[i];
    return vp_lse(top, sum);
}
