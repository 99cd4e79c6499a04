/* The optimisers over slices of the parameter space, 4 numbers a thread: ops.h has the formulas, PyTorch the order of
 * the roundings. */
#include "kernels/cuda/cells.h"
#include <math.h>

static constexpr int THREADS = 256, EACH = 4, WARPS = THREADS / 32;
static constexpr int64_t CHUNK = 16384; /* numbers; decides the bytes of a sum of squares */

/* ---- p, m and v from g ---- */
struct rates {
    float keep, decay, beta1, more1, beta2, more2, rate, root, eps; /* more: 1 - beta; root: sqrt(1 - beta2^t) */
};

struct adamw_step {
    rates u;
    VP_INLINE void one(float &p, float g, float &m, float &v) const {
        m = fmaf(u.more1, g - m, m);
        v = fmaf(u.more2 * g, g, u.beta2 * v);
        p = p * u.keep - u.rate * (m / (sqrtf(v) / u.root + u.eps));
    }
};
struct sgd_step { /* without m: beta1 is 0 */
    rates u;
    VP_INLINE void one(float &p, float g, float &m, float &) const {
        m = fmaf(u.beta1, m, fmaf(u.decay, p, g));
        p -= u.rate * m;
    }
};
struct rmsprop_step {
    rates u;
    VP_INLINE void one(float &p, float g, float &, float &v) const {
        const float all = fmaf(u.decay, p, g);
        v = fmaf(u.more2 * all, all, u.beta2 * v);
        p -= u.rate * (all / (sqrtf(v) + u.eps));
    }
};
struct clip_step { /* p is the gradient */
    rates u;
    VP_INLINE void one(float &p, float, float &, float &) const { p *= u.rate; }
};

/* Numbers [i, i + 4) of an array that may be missing, of n. */
VP_DEVICE void load4(const float *from, int64_t i, int64_t n, bool wide, float v[EACH]) {
    for (int k = 0; k < EACH; k++) v[k] = 0.0f;
    if (!from) return;
    if (wide) {
        const vp_words a = *(const vp_words *)(from + i);
        for (int k = 0; k < EACH; k++) v[k] = vp_float_of(a.w[k]);
    } else {
        for (int k = 0; k < EACH; k++)
            if (i + k < n) v[k] = from[i + k];
    }
}
VP_DEVICE void store4(float *to, int64_t i, int64_t n, bool wide, const float v[EACH]) {
    if (!to) return;
    if (wide) {
        vp_words a;
        for (int k = 0; k < EACH; k++) a.w[k] = vp_bits_of(v[k]);
        *(vp_words *)(to + i) = a;
    } else {
        for (int k = 0; k < EACH; k++)
            if (i + k < n) to[i + k] = v[k];
    }
}

template <class S>
VP_KERNEL(THREADS)
step_kernel(S s, float *p, const float *g, float *m, float *v, int64_t n, bool aligned) {
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * EACH;
    if (i >= n) return;
    const bool wide = aligned && i + EACH <= n;
    float p4[EACH], g4[EACH], m4[EACH], v4[EACH];
    load4(p, i, n, wide, p4);
    load4(g, i, n, wide, g4);
    load4(m, i, n, wide, m4);
    load4(v, i, n, wide, v4);
    for (int k = 0; k < EACH; k++) s.one(p4[k], g4[k], m4[k], v4[k]);
    store4(p, i, n, wide, p4);
    store4(m, i, n, wide, m4);
    store4(v, i, n, wide, v4);
}

/* VP_BUG unless the arrays that `name` needs are there. */
static int check(vp_queue *q, const char *name, const vp_optim_op *op, bool p, bool m, bool v) {
    if (op->n < 0) return vp_queue_fail(q, VP_BUG, "%s: %lld numbers", name, (long long)op->n);
    if (op->n && (!op->grad || (p && !op->master) || (m && !op->m) || (v && !op->v)))
        return vp_queue_fail(q, VP_BUG, "%s: an array is missing", name);
    return VP_OK;
}

/* The rates of all but AdamW, which has corrections. */
static rates plain_rates(const vp_optim_op *op) {
    return {1.0f,
            (float)op->decay,
            (float)op->beta1,
            (float)(1.0 - op->beta1),
            (float)op->beta2,
            (float)(1.0 - op->beta2),
            (float)op->lr,
            1.0f,
            (float)op->eps};
}

template <class S>
static int run(vp_queue *q, const char *name, S s, float *p, const float *g, float *m, float *v, int64_t n) {
    const bool aligned = (((uintptr_t)p | (uintptr_t)g | (uintptr_t)m | (uintptr_t)v) & 15) == 0;
    return vp_launch(q, name, step_kernel<S>, vp_blocks(n, THREADS * EACH), THREADS, 0, s, p, g, m, v, n, aligned);
}

int vp_cuda_clip(vp_queue *q, const vp_optim_op *op) {
    VP_TRY(check(q, "clip", op, false, false, false));
    rates u = {};
    u.rate = (float)op->clip;
    return run(q, "clip", clip_step{u}, op->grad, NULL, NULL, NULL, op->n);
}

int vp_cuda_adamw(vp_queue *q, const vp_optim_op *op) {
    VP_TRY(check(q, "adamw", op, true, true, true));
    if (op->t < 1) return vp_queue_fail(q, VP_BUG, "adamw: update %lld, counted from 1", (long long)op->t);
    const double bias1 = 1.0 - pow(op->beta1, (double)op->t), bias2 = 1.0 - pow(op->beta2, (double)op->t);
    rates u = plain_rates(op);
    u.keep = (float)(1.0 - op->lr * op->decay);
    u.rate = (float)(op->lr / bias1);
    u.root = (float)sqrt(bias2);
    return run(q, "adamw", adamw_step{u}, op->master, op->grad, op->m, op->v, op->n);
}

int vp_cuda_sgd(vp_queue *q, const vp_optim_op *op) {
    VP_TRY(check(q, "sgd", op, true, op->beta1 > 0.0, false));
    return run(q, "sgd", sgd_step{plain_rates(op)}, op->master, op->grad, op->beta1 > 0.0 ? op->m : NULL, NULL, op->n);
}

int vp_cuda_rmsprop(vp_queue *q, const vp_optim_op *op) {
    VP_TRY(check(q, "rmsprop", op, true, false, true));
    return run(q, "rmsprop", rmsprop_step{plain_rates(op)}, op->master, op->grad, NULL, op->v, op->n);
}

/* ---- sums of squares: one of every chunk, then of those; squares of f32 are exact in f64 and cannot overflow, so the
 * sum is finite where every number is ---- */
VP_DEVICE double block_sum(double x) {
    vp_cutter cut;
    vp_shared<double> sums = cut.take<double>(WARPS);
    for (int lanes = 16; lanes; lanes /= 2) x += vp_shuffle_xor(x, lanes);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    vp_barrier();
    x = sums[0];
    for (int i = 1; i < WARPS; i++) x += sums[i];
    return x;
}

VP_KERNEL(THREADS) chunk_squares(const float *g, int64_t n, bool aligned, double *part) {
    const int64_t first = (int64_t)blockIdx.x * CHUNK;
    double sum = 0.0;
    for (int64_t i = first + threadIdx.x * EACH; i < first + CHUNK && i < n; i += THREADS * EACH) {
        float v[EACH];
        load4(g, i, n, aligned && i + EACH <= n, v);
        for (int k = 0; k < EACH; k++) sum += (double)v[k] * (double)v[k];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

VP_KERNEL(THREADS) sum_chunks(const double *part, int64_t chunks, double *total, int *finite) {
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < chunks; i += THREADS) sum += part[i];
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    if (total) *total = sum;
    if (finite) *finite = sum - sum == 0.0;
}

int vp_cuda_sumsq(vp_queue *q, const vp_optim_op *op) {
    VP_TRY(check(q, "sumsq", op, false, false, false));
    const int64_t chunks = (op->n + CHUNK - 1) / CHUNK;
    const size_t mark = vp_arena_top(&q->arena), shared = WARPS * sizeof(double);
    double *part = (double *)vp_queue_take(q, "sumsq", (size_t)chunks * sizeof *part);
    if (!part) return VP_MEMORY;
    const bool aligned = (uintptr_t)op->grad % 16 == 0;
    int status =
        vp_launch(q, "sumsq", chunk_squares, (unsigned)chunks, THREADS, shared, op->grad, op->n, aligned, part);
    if (!status)
        status = vp_launch(q, "sumsq total", sum_chunks, 1, THREADS, shared, part, chunks, op->sum, op->finite);
    vp_arena_back(&q->arena, mark);
    return status;
}
