/* sample: a token from each row of logits, a block a row. Which tokens may be drawn is found without sorting: weights
 * of the likeliest are added up digit by digit of their probability's bits. All sums are in double, in an order that V
 * alone decides. Legend: B rows, V vocabulary. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/vec.h"
#include "kernels/log.h"
#include "lib/base/philox.h"
#include <float.h>

static constexpr int THREADS = 512, WARPS = THREADS / 32, DIGIT = 3, BINS = 1 << DIGIT;

namespace {
struct sample_args {
    float *logits; /* [B, ld] */
    int64_t ld;
    int V;
    const int32_t *seen;
    const int64_t *seen_cu;
    float penalty, temperature, by; /* by: 1 / temperature, 0: the largest logit */
    double top_p;
    int top_k;
    uint64_t seed;
    const int64_t *row, *step;
    int32_t *out;
    float *logprob;
    float *copy; /* [B, V] the logits as they were given, for logprob */
};
struct room {                  /* shared memory */
    vp_shared<double> partial; /* [BINS, THREADS] */
    vp_shared<double> total;   /* [BINS] */
    vp_shared<float> most;     /* [WARPS] */
    vp_shared<int> id;         /* [WARPS] */
    vp_shared<int> drawn;      /* [1] */
    VP_INLINE room() {
        vp_cutter cut;
        partial = cut.take<double>(BINS * THREADS);
        total = cut.take<double>(BINS);
        most = cut.take<float>(WARPS);
        id = cut.take<int>(WARPS);
        drawn = cut.take<int>(1);
    }
    static constexpr size_t bytes = (BINS * THREADS + BINS) * sizeof(double) + 2 * WARPS * sizeof(float) + 16;
};
/* Tokens at or before (bits, id) in the order of probability, then lower id. */
struct cutoff {
    uint32_t bits;
    int id;
};
} // namespace

VP_DEVICE double warp_add(double x) {
    for (int lanes = 16; lanes; lanes /= 2) x += vp_shuffle_xor(x, lanes);
    return x;
}

/* x[i] <- the sum over the block of all x[i]; everyone gets them. */
template <int N> VP_DEVICE void block_add(const room &m, double x[N]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < N; i++) m.partial[i * THREADS + threadIdx.x] = x[i];
    vp_barrier();
    if (warp < N) {
        double sum = 0.0;
        for (int i = lane; i < THREADS; i += 32) sum += m.partial[warp * THREADS + i];
        sum = warp_add(sum);
        if (lane == 0) m.total[warp] = sum;
    }
    vp_barrier();
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = m.total[i];
}

/* f(id, x) for this thread's elements of the row, several under way. */
template <class F> VP_DEVICE void each(const float *z, int V, F f) {
    constexpr int AHEAD = 8;
    for (int first = threadIdx.x; first < V; first += AHEAD * THREADS) {
        float x[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) x[i] = first + i * THREADS < V ? z[first + i * THREADS] : 0.0f;
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (first + i * THREADS < V) f(first + i * THREADS, x[i]);
    }
}

/* The largest, of equals the first, and where it is. */
VP_DEVICE float largest(const room &m, const float *z, int V, int *id) {
    float most = -INFINITY;
    int at = V;
    const auto take = [&](int i, float x) {
        if (x > most || (x == most && i < at)) {
            most = x;
            at = i;
        }
    };
    each(z, V, take);
    for (int lanes = 16; lanes; lanes /= 2) {
        const float x = vp_shuffle_xor(most, lanes);
        take(vp_shuffle_xor(at, lanes), x);
    }
    if (threadIdx.x % 32 == 0) {
        m.most[threadIdx.x / 32] = most;
        m.id[threadIdx.x / 32] = at;
    }
    vp_barrier();
    for (int w = 0; w < WARPS; w++) take(m.id[w], m.most[w]);
    vp_barrier();
    *id = at;
    return most;
}

/* Of the elements that f(id, x, key, weight) takes, the largest key whose weight, added to that of all larger keys,
 * reaches the target; *have: the weight of those larger. Keys have so many bits. Where all together do not reach the
 * target: the smallest key. */
template <class F>
VP_DEVICE uint32_t descend(const room &m, const float *z, int V, int bits, double target, double *have, F f) {
    uint32_t prefix = 0;
    *have = 0.0;
    for (int shift = (bits - 1) / DIGIT * DIGIT; shift >= 0; shift -= DIGIT) {
        double bin[BINS] = {};
        each(z, V, [&](int i, float x) {
            uint32_t key;
            double weight;
            if (!f(i, x, key, weight) || (uint64_t)key >> (shift + DIGIT) != prefix) return;
            const int digit = key >> shift & (BINS - 1);
#pragma unroll
            for (int b = 0; b < BINS; b++) bin[b] += b == digit ? weight : 0.0;
        });
        block_add<BINS>(m, bin);
        int last = 0;
        double before = *have, sum = *have;
        bool reached = false;
#pragma unroll
        for (int b = BINS - 1; b >= 0; b--) {
            if (reached || bin[b] == 0.0) continue;
            last = b;
            before = sum;
            sum += bin[b];
            reached = sum >= target;
        }
        *have = before;
        prefix = prefix << DIGIT | (uint32_t)last;
    }
    return prefix;
}

VP_DEVICE bool within(const cutoff &c, int id, float p) {
    const uint32_t bits = vp_bits_of(p);
    return bits > c.bits || (bits == c.bits && id <= c.id);
}

/* The fewest first of those within c whose weights, p or 1 each, reach the target; all, where they do not. */
VP_DEVICE cutoff take_first(const room &m, const float *z, int V, const cutoff &c, bool by_p, double target) {
    double have, before;
    const uint32_t bits = descend(m, z, V, 30, target, &have, [&](int i, float p, uint32_t &key, double &weight) {
        key = vp_bits_of(p); /* p in [0, 1] */
        weight = by_p ? (double)p : 1.0;
        return within(c, i, p);
    });
    const float p = vp_float_of(bits);
    double equal[1] = {};
    each(z, V, [&](int i, float x) { equal[0] += vp_bits_of(x) == bits && within(c, i, x) ? 1.0 : 0.0; });
    block_add<1>(m, equal);
    double wanted = by_p ? (p > 0.0f ? (target - have) / (double)p : equal[0]) : target - have;
    wanted = wanted > 1.0 ? ceil(wanted) : 1.0;
    if (!(wanted < equal[0])) return {bits, V};
    const uint32_t key = descend(m, z, V, 31, wanted, &before, [&](int i, float x, uint32_t &k, double &weight) {
        k = 0x7fffffffu - (uint32_t)i;
        weight = 1.0;
        return vp_bits_of(x) == bits && within(c, i, x);
    });
    return {bits, (int)(0x7fffffffu - key)};
}

/* ---- the draw: those within c, in the order of their ids, in proportion to p. Warps have neighbouring ids ---- */
VP_DEVICE double uniform(const sample_args &a, int64_t b) {
    const uint32_t counter[4] = {0, (uint32_t)a.row[b], (uint32_t)a.step[b], (uint32_t)VP_SITE_SAMPLING << 14};
    uint32_t word[4];
    vp_philox(word, counter, a.seed);
    return ((double)(word[0] >> 5) * 67108864.0 + (double)(word[1] >> 6)) / 9007199254740992.0; /* 53 bits */
}

/* This warp's: the first whose cumulative weight, with `at` before them, is above the target. */
VP_DEVICE int draw_within(const float *z, int first, int past, const cutoff &c, double at, double target) {
    const int lane = threadIdx.x % 32;
    int last = first; /* one that can be drawn, where rounding leaves none */
    for (int i = first; i < past; i += 32) {
        const float p = i + lane < past ? z[i + lane] : 0.0f;
        const double x = p > 0.0f && within(c, i + lane, p) ? (double)p : 0.0;
        double sum = x;
        for (int by = 1; by < 32; by *= 2) {
            const double before = vp_shuffle(sum, (lane - by) & 31);
            if (lane >= by) sum += before;
        }
        const uint32_t some = vp_ballot(x > 0.0), above = vp_ballot(x > 0.0 && at + sum > target);
        if (above) return i + vp_lowest(above);
        if (some) last = i + vp_highest_bit(some);
        at += vp_shuffle(sum, 31);
    }
    return last;
}

VP_DEVICE int draw(const room &m, const float *z, int V, const cutoff &c, double u) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, share = (V + THREADS - 1) / THREADS * 32;
    const int first = warp * share < V ? warp * share : V, past = first + share < V ? first + share : V;
    double sum = 0.0, all = 0.0, at = 0.0;
    for (int i = first + lane; i < past; i += 32) sum += within(c, i, z[i]) ? (double)z[i] : 0.0;
    sum = warp_add(sum);
    if (lane == 0) m.partial[warp] = sum;
    vp_barrier();
    for (int w = 0; w < WARPS; w++) all += m.partial[w];
    int chosen = 0;
    double before = 0.0;
    bool found = false;
    for (int w = 0; w < WARPS; w++) {
        const double its = m.partial[w];
        if (!found && its > 0.0) {
            chosen = w;
            before = at;
            found = at + its > u * all;
        }
        at += its;
    }
    if (warp == chosen) {
        const int id = draw_within(z, first, past, c, before, u * all);
        if (lane == 0) m.drawn[0] = id;
    }
    vp_barrier();
    return m.drawn[0];
}

/* ---- a row ---- */
VP_DEVICE void punish(const sample_args &a, int64_t b, float *z) {
    for (int64_t i = a.seen_cu[b] + threadIdx.x; i < a.seen_cu[b + 1]; i += THREADS) {
        const int id = a.seen[i];
        if (id < 0 || id >= a.V) continue;
        const float x = z[id], less = x / a.penalty;
        z[id] = x > 0.0f ? (less < FLT_MAX ? less : FLT_MAX) : x * a.penalty;
    }
    vp_barrier();
}

/* z becomes e^((z - maximum) / temperature); a token of the distribution that the options leave. */
VP_DEVICE int sample_row(const sample_args &a, const room &m, int64_t b, float *z, float most) {
    cutoff c = {0, a.V};
    each(z, a.V, [&](int i, float x) { z[i] = v_exp((x - most) * a.by); });
    vp_barrier();
    if (a.top_k > 0 && a.top_k < a.V) c = take_first(m, z, a.V, c, false, a.top_k);
    if (a.top_p < 1.0) {
        double all[1] = {};
        each(z, a.V, [&](int i, float p) { all[0] += within(c, i, p) ? (double)p : 0.0; });
        block_add<1>(m, all);
        c = take_first(m, z, a.V, c, true, a.top_p * all[0]);
    }
    return draw(m, z, a.V, c, uniform(a, b));
}

VP_KERNEL(THREADS, 1) sample_kernel(sample_args a) {
    const room m;
    const int64_t b = blockIdx.x;
    float *z = a.logits + b * a.ld, *copy = a.copy ? a.copy + b * a.V : nullptr;
    double bad[1] = {}, sum[1] = {}, logsum = 0.0;
    int id;
    each(z, a.V, [&](int i, float x) {
        bad[0] += x - x == 0.0f ? 0.0 : 1.0;
        if (copy) copy[i] = x;
    });
    block_add<1>(m, bad);
    if (bad[0] > 0.0) {
        if (threadIdx.x == 0) a.out[b] = -1;
        return;
    }
    if (copy) {
        const float most = largest(m, z, a.V, &id);
        each(z, a.V, [&](int, float x) { sum[0] += (double)v_exp(x - most); });
        block_add<1>(m, sum);
        logsum = (double)most + vp_log(sum[0]);
    }
    if (a.seen && a.penalty != 1.0f) punish(a, b, z);
    const float most = largest(m, z, a.V, &id);
    if (a.temperature > 0.0f) id = sample_row(a, m, b, z, most);
    if (threadIdx.x != 0) return;
    a.out[b] = id;
    if (copy) a.logprob[b] = (float)((double)copy[id] - logsum);
}

/* ---- host ---- */
int vp_cuda_sample(vp_queue *q, const vp_sample_op *op) {
    VP_TRY(vp_check_mat(q, "sample.logits", &op->logits, false, op->logits.rows, op->logits.cols));
    if (op->logits.cols < 1 || op->logits.cols > INT32_MAX || !op->row || !op->step || !op->out)
        return vp_queue_fail(q, VP_BUG, "sample: no rows, steps or vocabulary");
    if (!(op->temperature >= 0.0f) || !(op->top_p > 0.0f && op->top_p <= 1.0f) || op->top_k < 0 ||
        (op->seen && !(op->penalty > 0.0f)))
        return vp_queue_fail(q, VP_BUG, "sample: temperature, top_k, top_p or penalty out of range");
    const int64_t B = op->logits.rows, V = op->logits.cols;
    const float by = op->temperature > 0.0f ? 1.0f / op->temperature : 0.0f;
    sample_args a = {(float *)op->logits.ptr,
                     op->logits.ld,
                     (int)V,
                     op->seen,
                     op->seen_cu,
                     op->penalty,
                     op->temperature,
                     by < FLT_MAX ? by : FLT_MAX,
                     (double)op->top_p,
                     op->top_k,
                     op->seed,
                     op->row,
                     op->step,
                     op->out,
                     op->logprob,
                     nullptr};
    const size_t mark = vp_arena_top(&q->arena);
    if (op->logprob && !(a.copy = (float *)vp_queue_take(q, "sample", (size_t)(B * V) * sizeof *a.copy)))
        return VP_MEMORY;
    const int status = vp_launch(q, "sample", sample_kernel, dim3((unsigned)B), THREADS, room::bytes, a);
    vp_arena_back(&q->arena, mark);
    return status;
}
