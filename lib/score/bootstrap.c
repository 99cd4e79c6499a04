/* Measures over all units and percentile intervals over resamples of them. */
#include "lib/base/philox.h"
#include "lib/score/private.h"
#include <math.h>
#include <stdlib.h>

void vp_score_name(vp_score *s, const char *measure) {
    s->measure[s->n++] = (vp_score_measure){.name = measure};
}

void vp_score_count(vp_score *s, const char *name, int64_t n) {
    s->count[s->ncounts].name = name;
    s->count[s->ncounts++].n = n;
}

static void draw(int64_t *pick, int64_t n, int64_t resample, uint64_t seed) {
    uint32_t word[4];
    for (int64_t j = 0; j < n; j++) {
        const uint32_t counter[4] = {(uint32_t)(j / 4), (uint32_t)resample, 0, 0};
        if (j % 4 == 0) vp_philox(word, counter, seed);
        pick[j] = (int64_t)(((uint64_t)word[j % 4] * (uint64_t)n) >> 32);
    }
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The quantile q of x[n], ascending, with linear interpolation as NumPy's percentile. */
static double quantile(const double *x, int64_t n, double q) {
    const double at = q * (double)(n - 1);
    const int64_t i = (int64_t)at;
    return i + 1 < n ? x[i] + (at - (double)i) * (x[i + 1] - x[i]) : x[i];
}

/* Of x[n], ascending; on average the resamples lie around the value where the measure asks for it. */
static void set_interval(vp_score_measure *m, const double *x, int64_t n, bool centred) {
    double off = 0;
    for (int64_t i = 0; i < n && centred; i++) off += (x[i] - m->value) / (double)n;
    m->low = quantile(x, n, 0.025) - off;
    m->high = quantile(x, n, 0.975) - off;
}

/* drawn: [s->n, resamples], sorted here. Resamples without a value (all alike) do not count. */
static void set_intervals(vp_score *s, double *drawn, int64_t resamples) {
    for (int m = 0; m < s->n; m++) {
        double *x = drawn + m * resamples;
        int64_t n = 0;
        for (int64_t i = 0; i < resamples; i++)
            if (!isnan(x[i])) x[n++] = x[i];
        qsort(x, (size_t)n, sizeof *x, ascending);
        s->measure[m].low = s->measure[m].high = s->measure[m].value;
        if (n) set_interval(&s->measure[m], x, n, s->centred);
    }
    s->intervals = true;
}

int vp_score_take(vp_score *s, vp_measurer measure, void *data, const vp_score_options *o, vp_error *err) {
    double out[VP_SCORE_MEASURES];
    if (s->units < 1) return vp_fail(err, VP_DATA, "%s: no %s to score", s->task, s->unit);
    if (s->units > UINT32_MAX) return vp_fail(err, VP_DATA, "%s: more than 2^32 %s", s->task, s->unit);
    const size_t drawn_size = (size_t)s->n * (size_t)o->bootstrap;
    int64_t *pick = vp_calloc((size_t)s->units, sizeof *pick);
    double *drawn = vp_calloc(drawn_size + 1, sizeof *drawn);
    int status = pick && drawn ? VP_OK : vp_fail_memory(err, "resamples", drawn_size * sizeof *drawn);
    if (!status) {
        for (int64_t i = 0; i < s->units; i++) pick[i] = i;
        measure(data, pick, s->units, out);
        for (int m = 0; m < s->n; m++) s->measure[m].value = out[m];
        for (int64_t i = 0; i < o->bootstrap; i++) {
            draw(pick, s->units, i, o->seed);
            measure(data, pick, s->units, out);
            for (int m = 0; m < s->n; m++) drawn[m * o->bootstrap + i] = out[m];
        }
        if (o->bootstrap) set_intervals(s, drawn, o->bootstrap);
    }
    free(pick);
    free(drawn);
    return status;
}

typedef struct means {
    const double *value; /* [units, measures] */
    int measures;
} means;

static void take_means(void *data, const int64_t *pick, int64_t n, double *out) {
    const means *x = data;
    for (int m = 0; m < x->measures; m++) {
        out[m] = 0;
        for (int64_t i = 0; i < n; i++) out[m] += x->value[pick[i] * x->measures + m];
        out[m] /= (double)n;
    }
}

int vp_score_take_means(vp_score *s, const double *value, const vp_score_options *o, vp_error *err) {
    means x = {value, s->n};
    return vp_score_take(s, take_means, &x, o, err);
}
