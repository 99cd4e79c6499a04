/* Correlations, binary decisions by a threshold, and ranked lists. */
#include "lib/score/measure.h"
#include <math.h>
#include <stdlib.h>

double vp_pearson(const double *x, const double *y, int64_t n) {
    double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
    for (int64_t i = 0; i < n; i++) mx += x[i], my += y[i];
    mx /= (double)n, my /= (double)n;
    bool x_varies = false, y_varies = false; /* the mean's rounding must not make a constant vary */
    for (int64_t i = 0; i < n; i++) {
        const double dx = x[i] - mx, dy = y[i] - my;
        xx += dx * dx, yy += dy * dy, xy += dx * dy;
        x_varies |= x[i] != x[0], y_varies |= y[i] != y[0];
    }
    return x_varies && y_varies ? fmax(-1, fmin(1, xy / (sqrt(xx) * sqrt(yy)))) : NAN;
}

static int by_value(const void *a, const void *b) {
    const double x = ((const vp_ranked *)a)->value, y = ((const vp_ranked *)b)->value;
    return (x > y) - (x < y);
}

void vp_ranks(const double *x, int64_t n, double *rank, vp_ranked *scratch) {
    for (int64_t i = 0; i < n; i++) scratch[i] = (vp_ranked){x[i], i};
    qsort(scratch, (size_t)n, sizeof *scratch, by_value);
    for (int64_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && scratch[end].value == scratch[i].value;) end++;
        /* places i+1 .. end */
        for (int64_t j = i; j < end; j++) rank[scratch[j].at] = (double)(i + 1 + end) / 2;
    }
}

static int by_score_descending(const void *a, const void *b) {
    const double x = ((const vp_judged *)a)->score, y = ((const vp_judged *)b)->score;
    return (x < y) - (x > y);
}

void vp_binary_measures(vp_judged *item, int64_t n, vp_binary *out) {
    int64_t positives = 0, hits = 0;
    for (int64_t i = 0; i < n; i++) positives += item[i].positive;
    qsort(item, (size_t)n, sizeof *item, by_score_descending);
    *out = (vp_binary){.accuracy = n ? (double)(n - positives) / (double)n : 0};
    for (int64_t i = 0, end; i < n; i = end) {
        int64_t gained = 0;
        for (end = i; end < n && item[end].score == item[i].score; end++) gained += item[end].positive;
        const int64_t misses_above = i - hits;
        hits += gained;
        /* the negatives of the same score stand before it */
        if (gained && !out->first_rank) out->first_rank = misses_above + (end - i - gained) + 1;
        if (gained) out->ap += (double)gained / (double)positives * ((double)hits / (double)end);
        /* a threshold here: `end` called positive, of which `hits` are */
        const int64_t right = hits + (n - positives) - (end - hits);
        out->accuracy = fmax(out->accuracy, (double)right / (double)n);
        out->f1 = fmax(out->f1, 2 * (double)hits / (double)(end + positives));
    }
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Sum over the first k of gain / log2(rank + 1). */
static double discounted(const int32_t *gain, int64_t k) {
    double sum = 0;
    for (int64_t i = 0; i < k; i++) sum += gain[i] / log2((double)i + 2);
    return sum;
}

double vp_ndcg(const vp_ranking *r, int64_t k) {
    if (!r->relevant) return 0;
    return discounted(r->gain, least(k, r->n)) / discounted(r->ideal, least(k, r->relevant));
}

double vp_average_precision(const vp_ranking *r, int64_t k) {
    double sum = 0;
    int64_t found = 0;
    for (int64_t i = 0; i < least(k, r->n); i++)
        if (r->gain[i]) sum += (double)++found / (double)(i + 1);
    return r->relevant ? sum / (double)r->relevant : 0;
}

double vp_reciprocal_rank(const vp_ranking *r, int64_t k) {
    for (int64_t i = 0; i < least(k, r->n); i++)
        if (r->gain[i]) return 1 / (double)(i + 1);
    return 0;
}

static int64_t found_within(const vp_ranking *r, int64_t k) {
    int64_t found = 0;
    for (int64_t i = 0; i < least(k, r->n); i++) found += r->gain[i] != 0;
    return found;
}

double vp_recall(const vp_ranking *r, int64_t k) {
    return r->relevant ? (double)found_within(r, k) / (double)r->relevant : 0;
}

double vp_precision(const vp_ranking *r, int64_t k) {
    return (double)found_within(r, k) / (double)k;
}
