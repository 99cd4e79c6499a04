/* sample: a token from each row of logits. What a draw may give is found by selection, without sorting: expected time
 * is a few passes over the row. Legend: B rows, V vocabulary. */
#include "kernels/cpu/cpu.h"
#include "lib/base/philox.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct candidate {
    float p; /* e^(logit - maximum) */
    int32_t id;
} candidate;

typedef struct sample_job {
    const vp_sample_op *op;
    const vp_simd *simd;
    candidate *scratch; /* [threads, V] */
    float *copy;        /* [threads, V], for logprob */
} sample_job;

/* The order of candidates: total, the likeliest first. */
static bool before(const candidate *a, const candidate *b) {
    return a->p > b->p || (a->p == b->p && a->id < b->id);
}

static void swap(candidate *a, candidate *b) {
    const candidate c = *a;
    *a = *b;
    *b = c;
}

/* The middle one of three, so that sorted rows are no bad case. */
static const candidate *pivot_of(const candidate *c, int64_t n) {
    const candidate *x = &c[0], *y = &c[n / 2], *z = &c[n - 1];
    if (before(y, x)) {
        const candidate *w = x;
        x = y;
        y = w;
    }
    if (!before(z, y)) return y;
    return before(z, x) ? x : z;
}

/* c[0..n) is reordered so that its first candidates are the fewest in order whose sum of weights, p or 1 each, reaches
 * `target`; how many they are is returned (n: all together do not). */
static int64_t take_first(candidate *c, int64_t n, bool by_p, double target) {
    int64_t from = 0;
    double have = 0;
    while (n > from) {
        const candidate pivot = *pivot_of(c + from, n - from);
        int64_t ahead = from;
        double sum = 0;
        for (int64_t i = from; i < n; i++) {
            if (before(&pivot, &c[i])) continue; /* behind */
            sum += by_p ? (double)c[i].p : 1.0;
            swap(&c[i], &c[ahead++]);
        }
        /* [from, ahead): the pivot and what comes before it */
        if (ahead == from + 1) { /* the pivot is the first */
            have += sum;
            from = ahead;
            if (have >= target) return from;
        } else if (have + sum >= target) {
            n = ahead;
            int64_t last = ahead - 1; /* the pivot goes last: without it there are fewer */
            for (int64_t i = from; i < ahead; i++)
                if (c[i].id == pivot.id) swap(&c[i], &c[last]);
            if (have + sum - (by_p ? (double)pivot.p : 1.0) < target) return ahead;
            n = last;
        } else {
            have += sum;
            from = ahead;
        }
    }
    return n;
}

static double uniform(const vp_sample_op *op, int64_t b) {
    const uint32_t counter[4] = {0, (uint32_t)op->row[b], (uint32_t)op->step[b], (uint32_t)VP_SITE_SAMPLING << 14};
    uint32_t word[4];
    vp_philox(word, counter, op->seed);
    return ((double)(word[0] >> 5) * 67108864.0 + (double)(word[1] >> 6)) / 9007199254740992.0; /* 53 bits */
}

/* A draw from c[0..n), in proportion to p. They are taken in the order of their ids. */
static int by_id(const void *a, const void *b) {
    const int32_t x = ((const candidate *)a)->id, y = ((const candidate *)b)->id;
    return x < y ? -1 : x > y;
}

static int32_t draw(const vp_sample_op *op, int64_t b, candidate *c, int64_t n, bool reordered) {
    double sum = 0, at = 0;
    if (reordered) qsort(c, (size_t)n, sizeof *c, by_id);
    for (int64_t i = 0; i < n; i++) sum += (double)c[i].p;
    const double target = uniform(op, b) * sum;
    int64_t last = 0; /* one that can be drawn, where rounding leaves none */
    for (int64_t i = 0; i < n; i++) {
        if (c[i].p > 0.0f) last = i;
        at += (double)c[i].p;
        if (at > target) return c[i].id;
    }
    return c[last].id;
}

/* z <- (z - max) / temperature: the likeliest is 0 and none is above it, so that nothing overflows upwards. */
static void divide(const vp_sample_op *op, const vp_simd *simd, float *z) {
    const int64_t n = op->logits.cols;
    float most = z[0];
    for (int64_t i = 1; i < n; i++) most = z[i] > most ? z[i] : most;
    for (int64_t i = 0; i < n; i++) z[i] -= most;
    simd->attn->scale(z, fminf(1.0f / op->temperature, FLT_MAX), n);
}

static int32_t sample_row(const vp_sample_op *op, const vp_simd *simd, int64_t b, float *z, candidate *c) {
    int64_t n = op->logits.cols;
    float sum;
    divide(op, simd, z);
    simd->loss->exponents(z, false, n, &sum);
    for (int64_t i = 0; i < n; i++) c[i] = (candidate){z[i], (int32_t)i};
    const bool few = op->top_k > 0 && op->top_k < n, nucleus = op->top_p < 1.0f;
    if (few) n = take_first(c, n, false, (double)op->top_k);
    if (nucleus) {
        double all = 0;
        if (few) qsort(c, (size_t)n, sizeof *c, by_id); /* so that the sum has one order */
        for (int64_t i = 0; i < n; i++) all += (double)c[i].p;
        n = take_first(c, n, true, (double)op->top_p * all);
    }
    return draw(op, b, c, n, few || nucleus);
}

static void punish(const vp_sample_op *op, int64_t b, float *z) {
    if (!op->seen || op->penalty == 1.0f) return;
    for (int64_t i = op->seen_cu[b]; i < op->seen_cu[b + 1]; i++) {
        float *x = &z[op->seen[i]];
        *x = *x > 0.0f ? fminf(*x / op->penalty, FLT_MAX) : *x * op->penalty;
    }
}

static void sample_item(void *ctx, int64_t b, int thread) {
    sample_job *j = ctx;
    const vp_sample_op *op = j->op;
    const int64_t V = op->logits.cols;
    float *z = vp_row(&op->logits, b), total = 0;
    double logsum = 0;
    bool finite = true;
    for (int64_t i = 0; i < V; i++) finite &= isfinite(z[i]) != 0;
    op->out[b] = -1;
    if (!finite) return;
    float *copy = j->copy ? j->copy + thread * V : NULL;
    if (copy) {
        memcpy(copy, z, (size_t)V * sizeof *z);
        const double most = (double)j->simd->loss->exponents(copy, true, V, &total);
        logsum = most + log((double)total);
    }
    punish(op, b, z);
    if (op->temperature > 0.0f) {
        op->out[b] = sample_row(op, j->simd, b, z, j->scratch + thread * V);
    } else {
        int64_t best = 0;
        for (int64_t i = 1; i < V; i++)
            if (z[i] > z[best]) best = i;
        op->out[b] = (int32_t)best;
    }
    if (copy) op->logprob[b] = (float)((double)copy[op->out[b]] - logsum);
}

static int check_sample(vp_queue *q, const vp_sample_op *op) {
    VP_TRY(vp_check_mat(q, "sample.logits", &op->logits, VP_F32, op->logits.rows, op->logits.cols));
    if (op->logits.cols < 1 || op->logits.cols > INT32_MAX || !op->row || !op->step || !op->out)
        return vp_queue_fail(q, VP_BUG, "sample: no rows, steps or vocabulary");
    if (!(op->temperature >= 0.0f) || !(op->top_p > 0.0f && op->top_p <= 1.0f) || op->top_k < 0 ||
        (op->seen && !(op->penalty > 0.0f)))
        return vp_queue_fail(q, VP_BUG, "sample: temperature, top_k, top_p or penalty out of range");
    for (int64_t i = 0; op->seen && i < op->seen_cu[op->logits.rows]; i++)
        if (op->seen[i] < 0 || op->seen[i] >= op->logits.cols)
            return vp_queue_fail(q, VP_BUG, "sample: token %d is outside the vocabulary", op->seen[i]);
    return VP_OK;
}

int vp_cpu_sample(vp_queue *q, const vp_sample_op *op) {
    VP_TRY(check_sample(q, op));
    sample_job j = {.op = op, .simd = q->device->simd};
    const size_t mark = vp_arena_mark(q), rows = (size_t)vp_threads_count(q->device->threads);
    const size_t V = (size_t)op->logits.cols;
    bool room = true;
    if (op->temperature > 0.0f) room = (j.scratch = vp_arena_alloc(q, rows * V * sizeof *j.scratch)) != NULL;
    if (room && op->logprob) room = (j.copy = vp_arena_alloc(q, rows * V * sizeof *j.copy)) != NULL;
    if (!room) {
        vp_arena_release(q, mark);
        return vp_queue_fail(q, VP_MEMORY, "out of memory: sample needs %zu bytes", rows * V * sizeof *j.scratch);
    }
    vp_threads_run(q->device->threads, op->logits.rows, sample_item, &j);
    vp_arena_release(q, mark);
    return VP_OK;
}
