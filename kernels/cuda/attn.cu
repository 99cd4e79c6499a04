/* attn, attn_bwd: checks, the job that kernels get, what the backward saves of every query; the rest by compute type.
 */
#include "kernels/cuda/attn.h"
#include "kernels/cuda/attn_cached.h"

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
    if (b->T < 0 || b->B < (b->T > 0) || b->T > MOST_TOKENS || b->B > MOST_TOKENS)
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
    job->most = MOST_TOKENS;
    job->window = op->window < b->T ? op->window : 0; /* a wider one hides nothing */
    job->causal = op->mode == VP_ATTN_CAUSAL;
    job->scale = op->scale;
    job->softcap = op->softcap > 0.0f ? op->softcap : 0.0f;
    job->uncap = job->softcap > 0.0f ? 1.0f / job->softcap : 0.0f;
    job->lse = op->lse;
    return vp_dropper_make(q, name, &op->drop, b, b->T, &job->drop);
}

/* ---- in bf16: of matrices that its kernels take. Which of two kernels attends to a sequence depends on its own length
 * alone ---- */
typedef int launcher(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op);
static int run_by_length(vp_queue *q, vp_attn_job job, const vp_attn_op *op, launcher *warps, launcher *groups) {
    const int from = q->device->groups_from;
    if (from == 0 || job.d > 128 || op->batch->T < from) return warps(q, &job, op);
    if (op->batch->B > 1) {
        job.most = from - 1;
        VP_TRY(warps(q, &job, op));
    }
    job.least = from;
    job.most = MOST_TOKENS;
    return groups(q, &job, op);
}

static int run_bf16(vp_queue *q, vp_attn_job *job, const vp_attn_op *op) {
    vp_attn_op packed = *op;
    VP_TRY(vp_attn_pack(q, &op->q, op->d, true, &packed.q));
    VP_TRY(vp_attn_pack(q, &op->k, op->d, true, &packed.k));
    VP_TRY(vp_attn_pack(q, &op->v, op->d, true, &packed.v));
    VP_TRY(vp_attn_pack(q, &op->out, op->d, false, &packed.out));
    job->d = (int)(packed.q.cols / op->heads);
    VP_TRY(run_by_length(q, *job, &packed, vp_attn_bf16, vp_attn_group));
    return vp_attn_unpack(q, &packed.out, op->d, &op->out);
}

static int run_bf16_bwd(vp_queue *q, vp_attn_job *job, const vp_attn_op *op) {
    vp_attn_op packed = *op;
    vp_mat dout, dq, dk, dv;
    packed.dout = &dout;
    packed.dq = &dq;
    packed.dk = &dk;
    packed.dv = &dv;
    VP_TRY(vp_attn_pack(q, &op->q, op->d, true, &packed.q));
    VP_TRY(vp_attn_pack(q, &op->k, op->d, true, &packed.k));
    VP_TRY(vp_attn_pack(q, &op->v, op->d, true, &packed.v));
    VP_TRY(vp_attn_pack(q, op->dout, op->d, true, &dout));
    VP_TRY(vp_attn_pack(q, op->dq, op->d, false, &dq));
    VP_TRY(vp_attn_pack(q, op->dk, op->d, false, &dk));
    VP_TRY(vp_attn_pack(q, op->dv, op->d, false, &dv));
    job->d = (int)(packed.q.cols / op->heads);
    VP_TRY(run_by_length(q, *job, &packed, vp_attn_bf16_bwd, vp_attn_group_bwd));
    VP_TRY(vp_attn_unpack(q, &dq, op->d, op->dq));
    VP_TRY(vp_attn_unpack(q, &dk, op->d, op->dk));
    return vp_attn_unpack(q, &dv, op->d, op->dv);
}

int vp_cuda_attn(vp_queue *q, const vp_attn_op *op) {
    vp_attn_job job;
    if (op->spans) return vp_attn_cached(q, op);
    VP_TRY(check_attn(q, op));
    if (op->batch->T == 0) return VP_OK;
    VP_TRY(make_job(q, "attn", op, &job));
    if (op->q.dtype != VP_BF16) return vp_attn_f32(q, &job, op);
    const size_t mark = vp_arena_top(&q->arena);
    const int status = run_bf16(q, &job, op);
    vp_arena_back(&q->arena, mark);
    return status;
}

/* ---- backward ---- */
/* A warp takes every fourth row of a block and sums over the head: lanes in order of columns, then across lanes. */
template <class T>
VP_KERNEL(DELTA_THREADS)
delta_kernel(vp_attn_job job, vp_rows_of<const T> out, vp_rows_of<const T> dout, float by) {
    vp_attn_place at;
    if (!vp_attn_find(job, DELTA_ROWS, (int)blockIdx.x, &at)) return;
    const int head = (int)blockIdx.y, lane = (int)(threadIdx.x % 32);
    const int past = vp_smaller(at.first + DELTA_ROWS, (at.n + 1) / 2 * 2);
    for (int i = at.first + (int)(threadIdx.x / 32); i < past; i += DELTA_THREADS / 32) {
        const int64_t t = at.base + i;
        float sum = 0.0f;
        for (int c = lane; c < job.d && i < at.n; c += 32)
            sum = fmaf(vp_float(dout.p[t * dout.ld + head * job.d + c]), vp_float(out.p[t * out.ld + head * job.d + c]),
                       sum);
        sum = vp_warp_sum(sum);
        vp_attn_saved s = {i < at.n ? job.lse[t * job.heads + head] * by : 0.0f, sum};
        if (lane == 0) job.saved[vp_attn_saved_at(job, at, head) + i] = s;
    }
}

static int bwd_run(vp_queue *q, vp_attn_job *job, const vp_attn_op *op) {
    const vp_batch *b = op->batch;
    job->saved_each = (b->T + b->B + 2) / 2 * 2;
    job->saved =
        (vp_attn_saved *)vp_queue_take(q, "attn_bwd", (size_t)(job->heads * job->saved_each) * sizeof *job->saved);
    if (!job->saved) return VP_MEMORY;
    const dim3 grid(vp_attn_blocks(b->T, b->B, DELTA_ROWS), (unsigned)op->heads);
    const float by = op->q.dtype == VP_BF16 ? 1.44269504f : 1.0f;
    VP_TRY(vp_typed(op->q, [&](auto type) {
        using T = decltype(type);
        return vp_launch(q, "attn_bwd", delta_kernel<T>, grid, DELTA_THREADS, 0, *job, vp_rows_of<const T>(op->out),
                         vp_rows_of<const T>(*op->dout), by);
    }));
    return op->q.dtype == VP_BF16 ? run_bf16_bwd(q, job, op) : vp_attn_f32_bwd(q, job, op);
}

int vp_cuda_attn_bwd(vp_queue *q, const vp_attn_op *op) {
    vp_attn_job job;
    VP_TRY(check_attn(q, op));
    if (!op->dout || !op->dq || !op->dk || !op->dv) return vp_queue_fail(q, VP_BUG, "attn_bwd: a gradient is missing");
    VP_TRY(check_like(q, "attn_bwd.dout", op->dout, &op->q, op->q.cols));
    VP_TRY(check_like(q, "attn_bwd.dq", op->dq, &op->q, op->q.cols));
    VP_TRY(check_like(q, "attn_bwd.dk", op->dk, &op->q, op->k.cols));
    VP_TRY(check_like(q, "attn_bwd.dv", op->dv, &op->q, op->v.cols));
    if (op->batch->T == 0) return VP_OK;
    if (!op->lse) return vp_queue_fail(q, VP_BUG, "attn_bwd: the forward saved no lse");
    VP_TRY(make_job(q, "attn_bwd", op, &job));
    const size_t mark = vp_arena_top(&q->arena);
    const int status = bwd_run(q, &job, op);
    vp_arena_back(&q->arena, mark);
    return status;
}
