/* attn, attn_bwd: checks, the job that kernels get, what the backward saves of every query; the rest by compute type.
 */
#include "kernels/cuda/attn.h"

enum { WIDEST = 256, DELTA_ROWS = 64, DELTA_THREADS = 128, MOST_TOKENS = 1 << 30, MOST_HEADS = 65535 };

static int check_like(vp_queue *q, const char *what, const vp_mat *m, const vp_mat *like, int64_t cols) {
    VP_TRY(vp_check_mat(q, what, m, true, like->rows, cols));
    if (m->dtype == like->dtype) return VP_OK;
    return vp_queue_fail(q, VP_BUG, "%s: is %s, must be %s as q is", what, vp_dtype_name(m->dtype),
                         vp_dtype_name(like->dtype));
}

/* Offsets and tiles are the device's: what they hold is not looked at. */
static int check_attn(vp_queue *q, const vp_attn_op *op) {
    const vp_batch *b = op->batch;
    if (!b || op->heads < 1 || op->groups < 1 || op->heads % op->groups != 0 || op->d < 1 || op->window < 0)
        return vp_queue_fail(q, VP_BUG, "attn: %d heads in %d groups of width %d", (int)op->heads, (int)op->groups,
                             (int)op->d);
    if (op->d > WIDEST || op->heads > MOST_HEADS)
        return vp_queue_fail(q, VP_BUG, "attn: %d heads of width %d, at most %d of %d can be", (int)op->heads,
                             (int)op->d, (int)MOST_HEADS, (int)WIDEST);
    if (b->T < 0 || b->B < 0 || b->T > MOST_TOKENS || b->B > MOST_TOKENS)
        return vp_queue_fail(q, VP_BUG, "attn: %lld tokens of %lld sequences", (long long)b->T, (long long)b->B);
    const int64_t queries = (int64_t)op->heads * op->d, keys = (int64_t)op->groups * op->d;
    VP_TRY(vp_check_mat(q, "attn.q", &op->q, true, b->T, queries));
    VP_TRY(check_like(q, "attn.k", &op->k, &op->q, keys));
    VP_TRY(check_like(q, "attn.v", &op->v, &op->q, keys));
    VP_TRY(check_like(q, "attn.out", &op->out, &op->q, queries));
    if (op->heads >> 14 > 0 && op->drop.p != 0.0f)
        return vp_queue_fail(q, VP_BUG, "attn: dropout of %d heads", (int)op->heads);
    if (!b->cu_q || !b->cu_k) return vp_queue_fail(q, VP_BUG, "attn: no offsets");
    if (b->cu_q != b->cu_k || op->spans)
        return vp_queue_fail(q, VP_BUG, "attn: cached keys %s spans", op->spans ? "in" : "without");
    return VP_OK;
}

static int make_job(vp_queue *q, const char *name, const vp_attn_op *op, vp_attn_job *job) {
    const vp_batch *b = op->batch;
    *job = vp_attn_job{};
    job->cu = b->cu_q;
    job->prefix = b->prefix;
    job->seg = b->seg;
    job->B = (int)b->B;
    job->heads = op->heads;
    job->share = op->heads / op->groups;
    job->d = op->d;
    job->window = op->window < b->T ? op->window : 0; /* a wider one hides nothing */
    job->causal = op->mode == VP_ATTN_CAUSAL;
    job->scale = op->scale;
    job->softcap = op->softcap > 0.0f ? op->softcap : 0.0f;
    job->lse = op->lse;
    return vp_dropper_make(q, name, &op->drop, b, b->T, &job->drop);
}

int vp_cuda_attn(vp_queue *q, const vp_attn_op *op) {
    vp_attn_job job;
    VP_TRY(check_attn(q, op));
    if (op->batch->T == 0) return VP_OK;
    VP_TRY(make_job(q, "attn", op, &job));
    return op->q.dtype == VP_BF16 ? vp_attn_bf16(q, &job, op) : vp_attn_f32(q, &job, op);
}
