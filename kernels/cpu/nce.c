/* Softmax over candidates against a positive or a teacher, from scores to loss and gradient. Legend: Q queries,
 * N candidates. */
#include "kernels/cpu/cpu.h"
#include <math.h>
#include <string.h>

typedef struct nce_job {
    const vp_nce_op *op;
    const vp_simd *simd;
    float *scratch; /* [threads, N] */
} nce_job;

/* e^(s - m) of the candidates, 0 for those that are excluded; returns m + log of their sum. */
static double exponents(const nce_job *j, int64_t i, float *p, float *sum) {
    const int64_t n = j->op->s.cols;
    const uint8_t *exclude = j->op->exclude ? j->op->exclude + i * n : NULL;
    memcpy(p, vp_row(&j->op->s, i), (size_t)n * sizeof *p);
    for (int64_t c = 0; exclude && c < n; c++)
        if (exclude[c]) p[c] = -INFINITY;
    const float most = j->simd->loss->exponents(p, false, n, sum);
    return (double)most + log((double)*sum);
}

static double divergence(const float *t, const float *s, double lse, int64_t n) {
    double kl = 0;
    for (int64_t c = 0; c < n; c++)
        if (t[c] > 0.0f) kl += (double)t[c] * (log((double)t[c]) - ((double)s[c] - lse));
    return kl;
}

static void nce_row(const nce_job *j, int64_t i, float *p) {
    const vp_nce_op *op = j->op;
    const int64_t n = op->s.cols;
    const float *s = vp_row(&op->s, i), *t = op->teacher ? op->teacher + i * n : NULL,
                by = (float)(1 / op->denominator);
    float sum;
    const double lse = exponents(j, i, p, &sum);
    const double loss = t ? divergence(t, s, lse, n) : lse - (double)s[op->positive[i]];
    op->loss[i] = (float)(loss / op->denominator);
    if (!op->ds) return;
    float *ds = vp_row(op->ds, i);
    j->simd->rows->axpby(by / sum, p, -by, t, ds, n);
    if (!t) ds[op->positive[i]] -= by;
}

static void nce_rows(void *ctx, int64_t first, int64_t last, int thread) {
    const nce_job *j = ctx;
    for (int64_t i = first; i < last; i++) nce_row(j, i, j->scratch + thread * j->op->s.cols);
}

/* A query whose candidates are all excluded has no softmax. */
static int check(vp_queue *q, const vp_nce_op *op) {
    const int64_t Q = op->s.rows, n = op->s.cols;
    VP_TRY(vp_check_mat(q, "nce.s", &op->s, VP_F32, Q, n));
    if (op->ds) VP_TRY(vp_check_mat(q, "nce.ds", op->ds, VP_F32, Q, n));
    if (!op->positive == !op->teacher) return vp_queue_fail(q, VP_BUG, "nce: either positives or teachers");
    if (Q && !(op->denominator > 0)) return vp_queue_fail(q, VP_BUG, "nce: the denominator is not positive");
    for (int64_t i = 0; i < Q; i++) {
        const uint8_t *exclude = op->exclude ? op->exclude + i * n : NULL;
        const int64_t at = op->positive ? op->positive[i] : -1;
        if (op->positive && (at < 0 || at >= n || (exclude && exclude[at])))
            return vp_queue_fail(q, VP_BUG, "nce: the positive of query %lld is no candidate", (long long)i);
        if (!op->positive && (!n || (exclude && !memchr(exclude, 0, (size_t)n))))
            return vp_queue_fail(q, VP_BUG, "nce: query %lld has no candidate", (long long)i);
    }
    return VP_OK;
}

int vp_cpu_nce(vp_queue *q, const vp_nce_op *op) {
    VP_TRY(check(q, op));
    const size_t mark = vp_arena_mark(q);
    nce_job j = {.op = op, .simd = q->device->simd};
    j.scratch = vp_queue_floats(q, "nce", op->s.cols * vp_threads_count(q->device->threads));
    if (j.scratch && op->s.rows) vp_rows(q, op->s.rows, vp_grain(op->s.cols), nce_rows, &j);
    vp_arena_release(q, mark);
    return j.scratch ? VP_OK : VP_MEMORY;
}
