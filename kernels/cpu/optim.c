/* The optimiser's operations over slices of the parameter space, cut into chunks of a fixed size that threads share.
 * The arithmetic is in simd_optim.c. */
#include "kernels/cpu/cpu.h"
#include <math.h>

enum { CHUNK = 16384 }; /* numbers; decides the bytes of a sum of squares */

typedef struct optim_job {
    const vp_optim_op *op;
    const vp_simd *simd;
    vp_simd_update update;
    double *partial; /* sumsq: one a chunk */
} optim_job;

/* VP_BUG unless the arrays that `name` needs are there. */
static int check(vp_queue *q, const char *name, const vp_optim_op *op, bool p, bool m, bool v) {
    if (op->n < 0) return vp_queue_fail(q, VP_BUG, "%s: %lld numbers", name, (long long)op->n);
    if (op->n && (!op->grad || (p && !op->master) || (m && !op->m) || (v && !op->v)))
        return vp_queue_fail(q, VP_BUG, "%s: an array is missing", name);
    return VP_OK;
}

/* The rates of all but AdamW, which has corrections. */
static int run(vp_queue *q, const vp_optim_op *op, vp_rows_fn *fn) {
    optim_job j = {.op = op,
                   .simd = q->device->simd,
                   .update = {.keep = 1.0f,
                              .decay = (float)op->decay,
                              .beta1 = (float)op->beta1,
                              .more1 = (float)(1.0 - op->beta1),
                              .beta2 = (float)op->beta2,
                              .more2 = (float)(1.0 - op->beta2),
                              .rate = (float)op->lr,
                              .root = 1.0f,
                              .eps = (float)op->eps}};
    vp_rows(q, op->n, CHUNK, fn, &j);
    return VP_OK;
}

static void sumsq_chunk(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const optim_job *j = ctx;
    j->partial[first / CHUNK] = j->simd->optim->sumsq(j->op->grad + first, last - first);
}

int vp_cpu_sumsq(vp_queue *q, const vp_optim_op *op) {
    VP_TRY(check(q, "sumsq", op, false, false, false));
    const int64_t chunks = (op->n + CHUNK - 1) / CHUNK;
    const size_t mark = vp_arena_mark(q), bytes = (size_t)chunks * sizeof(double);
    optim_job j = {.op = op, .simd = q->device->simd, .partial = vp_arena_alloc(q, bytes)};
    if (!j.partial) return vp_queue_fail(q, VP_MEMORY, "out of memory: sumsq needs %zu bytes", bytes);
    vp_rows(q, op->n, CHUNK, sumsq_chunk, &j);
    double sum = 0.0;
    for (int64_t i = 0; i < chunks; i++) sum += j.partial[i];
    vp_arena_release(q, mark);
    if (op->sum) *op->sum = sum;
    if (op->finite) *op->finite = isfinite(sum);
    return VP_OK;
}

static void clip_chunk(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const optim_job *j = ctx;
    float *g = j->op->grad + first;
    j->simd->rows->axpby((float)j->op->clip, g, 0.0f, NULL, g, last - first);
}

int vp_cpu_clip(vp_queue *q, const vp_optim_op *op) {
    VP_TRY(check(q, "clip", op, false, false, false));
    return run(q, op, clip_chunk);
}

static void adamw_chunk(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const optim_job *j = ctx;
    const vp_optim_op *op = j->op;
    vp_simd_update u = j->update;
    const double bias1 = 1.0 - pow(op->beta1, (double)op->t), bias2 = 1.0 - pow(op->beta2, (double)op->t);
    u.keep = (float)(1.0 - op->lr * op->decay);
    u.rate = (float)(op->lr / bias1);
    u.root = (float)sqrt(bias2);
    j->simd->optim->adamw(&u, op->master + first, op->grad + first, op->m + first, op->v + first, last - first);
}

int vp_cpu_adamw(vp_queue *q, const vp_optim_op *op) {
    VP_TRY(check(q, "adamw", op, true, true, true));
    if (op->t < 1) return vp_queue_fail(q, VP_BUG, "adamw: update %lld, counted from 1", (long long)op->t);
    return run(q, op, adamw_chunk);
}

static void sgd_chunk(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const optim_job *j = ctx;
    float *m = j->op->beta1 > 0.0 ? j->op->m + first : NULL;
    j->simd->optim->sgd(&j->update, j->op->master + first, j->op->grad + first, m, last - first);
}

int vp_cpu_sgd(vp_queue *q, const vp_optim_op *op) {
    VP_TRY(check(q, "sgd", op, true, op->beta1 > 0.0, false));
    return run(q, op, sgd_chunk);
}

static void rmsprop_chunk(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const optim_job *j = ctx;
    const vp_optim_op *op = j->op;
    j->simd->optim->rmsprop(&j->update, op->master + first, op->grad + first, op->v + first, last - first);
}

int vp_cpu_rmsprop(vp_queue *q, const vp_optim_op *op) {
    VP_TRY(check(q, "rmsprop", op, true, false, true));
    return run(q, op, rmsprop_chunk);
}
