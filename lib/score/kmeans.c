/* k-means: seeding by k-means++, Lloyd's iterations, the best of several starts. Distances come from f32 products,
 * centres are means in double. */
#include "lib/base/philox.h"
#include "lib/score/probe.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    STARTS = 10,
    ITERATIONS = 100,
    CANDIDATES = 16,
    BLOCK = 1024 /* rows whose products are held at a time */
};

typedef struct kmeans {
    vp_products *products;
    const float *x;
    int64_t n, D, K;
    uint64_t seed;
    double *length;   /* [n]: |x|^2 */
    double *nearest;  /* [n]: squared distance to the nearest centre */
    int32_t *label;   /* [n] */
    float *centre;    /* [K, D] */
    float *candidate; /* [CANDIDATES, D] */
    double *length_c; /* [K or CANDIDATES] */
    double *sum;      /* [K, D] */
    int64_t *count;   /* [K] */
    float *product;   /* [BLOCK, K or CANDIDATES] */
} kmeans;

static double squared_length(const float *x, int64_t D) {
    double sum = 0;
    for (int64_t i = 0; i < D; i++) sum += (double)x[i] * x[i];
    return sum;
}

/* Uniform in [0, 1). */
static double draw(const kmeans *o, int64_t start, int64_t i) {
    const uint32_t counter[4] = {(uint32_t)i, (uint32_t)start, 1, 0};
    uint32_t word[4];
    vp_philox(word, counter, o->seed);
    return ((double)(word[0] >> 5) * 67108864.0 + (double)(word[1] >> 6)) / 9007199254740992.0;
}

/* Squared distances of rows [at, at + rows) to c [k, D], into o->product [rows, k]. */
static int measure_block(kmeans *o, int64_t at, int64_t rows, const float *c, int64_t k, vp_error *err) {
    VP_TRY(vp_products_rows(o->products, o->x + at * o->D, rows, c, k, o->D, o->product, err));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < k; j++) {
            float *d = &o->product[i * k + j];
            *d = (float)fmax(o->length[at + i] - 2.0 * *d + o->length_c[j], 0);
        }
    return VP_OK;
}

static void measure_centres(kmeans *o, const float *c, int64_t k) {
    for (int64_t i = 0; i < k; i++) o->length_c[i] = squared_length(c + i * o->D, o->D);
}

/* Take centres [first, first + k) into account; fresh: no others count. *changed: a label is another. */
static int approach(kmeans *o, int64_t first, int64_t k, bool fresh, bool *changed, vp_error *err) {
    const float *c = o->centre + first * o->D;
    *changed = false;
    measure_centres(o, c, k);
    for (int64_t at = 0; at < o->n; at += BLOCK) {
        const int64_t rows = o->n - at < BLOCK ? o->n - at : BLOCK;
        VP_TRY(measure_block(o, at, rows, c, k, err));
        for (int64_t i = at; i < at + rows; i++) {
            const int32_t before = o->label[i];
            if (fresh) o->nearest[i] = INFINITY;
            for (int64_t j = 0; j < k; j++) {
                const double d = o->product[(i - at) * k + j];
                if (d >= o->nearest[i]) continue;
                o->nearest[i] = d;
                o->label[i] = (int32_t)(first + j);
            }
            *changed |= o->label[i] != before;
        }
    }
    return VP_OK;
}

/* Which of k candidates would leave the least sum of squared distances. */
static int best_candidate(kmeans *o, int64_t k, int64_t *best, vp_error *err) {
    double sum[CANDIDATES] = {0};
    measure_centres(o, o->candidate, k);
    for (int64_t at = 0; at < o->n; at += BLOCK) {
        const int64_t rows = o->n - at < BLOCK ? o->n - at : BLOCK;
        VP_TRY(measure_block(o, at, rows, o->candidate, k, err));
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < k; j++) sum[j] += fmin(o->nearest[at + i], o->product[i * k + j]);
    }
    *best = 0;
    for (int64_t j = 1; j < k; j++)
        if (sum[j] < sum[*best]) *best = j;
    return VP_OK;
}

/* A row with the chance that its squared distance gives it; where all are 0, any. */
static int64_t choose(const kmeans *o, double u, bool any) {
    double total = 0, at = 0;
    for (int64_t i = 0; i < o->n; i++) total += any ? 1 : o->nearest[i];
    if (!(total > 0)) return choose(o, u, true);
    for (int64_t i = 0; i < o->n; i++) {
        at += any ? 1 : o->nearest[i];
        if (at > u * total) return i;
    }
    return o->n - 1;
}

/* Greedy k-means++: of 2 + log K rows the one that helps most becomes the next centre. */
static int seed_centres(kmeans *o, int64_t start, vp_error *err) {
    const size_t width = (size_t)o->D * sizeof *o->centre;
    const int64_t most = 2 + (int64_t)log((double)o->K), candidates = most < CANDIDATES ? most : CANDIDATES;
    bool changed;
    for (int64_t k = 0; k < o->K; k++) {
        int64_t best = 0;
        for (int64_t j = 0; j < (k ? candidates : 1); j++) {
            const int64_t i = choose(o, draw(o, start, k * CANDIDATES + j), k == 0);
            memcpy(o->candidate + j * o->D, o->x + i * o->D, width);
        }
        if (k) VP_TRY(best_candidate(o, candidates, &best, err));
        memcpy(o->centre + k * o->D, o->candidate + best * o->D, width);
        VP_TRY(approach(o, k, 1, k == 0, &changed, err));
    }
    return VP_OK;
}

/* Centres to the means of what is theirs; one that has nothing stays. */
static void move_centres(kmeans *o) {
    memset(o->sum, 0, (size_t)(o->K * o->D) * sizeof *o->sum);
    memset(o->count, 0, (size_t)o->K * sizeof *o->count);
    for (int64_t i = 0; i < o->n; i++) {
        double *sum = o->sum + o->label[i] * o->D;
        o->count[o->label[i]]++;
        for (int64_t d = 0; d < o->D; d++) sum[d] += o->x[i * o->D + d];
    }
    for (int64_t k = 0; k < o->K; k++)
        for (int64_t d = 0; o->count[k] && d < o->D; d++)
            o->centre[k * o->D + d] = (float)(o->sum[k * o->D + d] / (double)o->count[k]);
}

static int start_once(kmeans *o, int64_t start, double *inertia, vp_error *err) {
    bool changed = true;
    VP_TRY(seed_centres(o, start, err));
    for (int i = 0; i < ITERATIONS && changed; i++) {
        move_centres(o);
        VP_TRY(approach(o, 0, o->K, true, &changed, err));
    }
    *inertia = 0;
    for (int64_t i = 0; i < o->n; i++) *inertia += o->nearest[i];
    return isfinite(*inertia) ? VP_OK : vp_fail(err, VP_DATA, "the vectors are too long for distances in f32");
}

static int run(kmeans *o, int32_t *best, vp_error *err) {
    double least = INFINITY;
    for (int64_t i = 0; i < o->n; i++) o->length[i] = squared_length(o->x + i * o->D, o->D);
    for (int64_t start = 0; start < STARTS; start++) {
        double inertia;
        VP_TRY(start_once(o, start, &inertia, err));
        if (start && !(inertia < least)) continue;
        least = inertia;
        memcpy(best, o->label, (size_t)o->n * sizeof *best);
    }
    return VP_OK;
}

int vp_kmeans(const float *x, int64_t n, int64_t D, int64_t K, uint64_t seed, int32_t *label, vp_error *err) {
    const size_t N = (size_t)n, k = (size_t)K, d = (size_t)D, wide = k > CANDIDATES ? k : CANDIDATES;
    kmeans o = {.x = x, .n = n, .D = D, .K = K, .seed = seed};
    int status = vp_products_open(&o.products, err);
    o.length = vp_calloc(N, sizeof *o.length);
    o.nearest = vp_calloc(N, sizeof *o.nearest);
    o.label = vp_calloc(N, sizeof *o.label);
    o.centre = vp_calloc(k, d * sizeof *o.centre);
    o.candidate = vp_calloc(CANDIDATES, d * sizeof *o.candidate);
    o.length_c = vp_calloc(wide, sizeof *o.length_c);
    o.sum = vp_calloc(k, d * sizeof *o.sum);
    o.count = vp_calloc(k, sizeof *o.count);
    o.product = vp_calloc(wide, BLOCK * sizeof *o.product);
    void *const all[] = {o.length, o.nearest, o.label, o.centre, o.candidate, o.length_c, o.sum, o.count, o.product};
    for (size_t i = 0; i < sizeof all / sizeof *all && !status; i++)
        if (!all[i]) status = vp_fail_memory(err, "clusters", k * d * sizeof *o.sum);
    if (!status) status = run(&o, label, err);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    vp_products_close(o.products);
    return status;
}
