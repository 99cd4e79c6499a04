/* Classification: logistic regressions on a few rows a label, as MTEB draws them, and how often they are right. */
#include "lib/score/labelled.h"
#include "lib/score/measure.h"
#include "lib/score/probe.h"
#include "lib/train/permute.h"
#include <stdlib.h>
#include <string.h>

enum { DRAWS = 0x5C0 }; /* the stream of permutations that are drawn from */

typedef struct classify {
    vp_labelled train, test;
    vp_label_counts counts;
    vp_softmax *softmax;
    int64_t experiments;
    float *x;           /* rows of one experiment */
    int32_t *label;     /* theirs */
    int64_t *taken;     /* [classes]: of which so many */
    double *parameter;  /* of the classifier */
    int32_t *predicted; /* [experiments, test rows] */
    int64_t *confusion; /* [labels, 3]: right, predicted, given */
} classify;

/* The rows of an experiment: the training rows in a random order, as long as their label wants some. */
static int64_t sample(classify *c, int64_t experiment, int64_t samples, uint64_t seed) {
    const int64_t n = c->train.v.n, D = c->train.v.dims;
    const vp_permutation order = {.seed = seed, .pass = (uint64_t)experiment, .stream = DRAWS};
    const float *x = (const float *)(const void *)c->train.v.data.data;
    int64_t rows = 0;
    memset(c->taken, 0, (size_t)c->counts.classes * sizeof *c->taken);
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = samples ? (int64_t)vp_permute(&order, (uint64_t)i, (uint64_t)n) : i;
        const int32_t label = c->train.label[at];
        if (samples && c->taken[label] == samples) continue;
        c->taken[label]++;
        memcpy(c->x + rows * D, x + at * D, (size_t)D * sizeof *x);
        c->label[rows++] = label;
    }
    return rows;
}

static int experiment(classify *c, int64_t i, const vp_classify_options *o, uint64_t seed, vp_error *err) {
    const int64_t rows = sample(c, i, o->samples_per_label, seed), n = c->test.v.n;
    memset(c->parameter, 0, (size_t)vp_softmax_size(c->softmax) * sizeof *c->parameter);
    VP_TRY(vp_softmax_fit(c->softmax, c->x, c->label, rows, 1, c->parameter, err));
    return vp_softmax_predict(c->softmax, (const float *)(const void *)c->test.v.data.data, n, c->parameter,
                              c->predicted + i * n, err);
}

/* Means over the experiments. */
static void measure(void *data, const int64_t *pick, int64_t n, double *out) {
    classify *c = data;
    const int64_t labels = c->counts.classes + c->counts.unknown;
    out[0] = out[1] = 0;
    for (int64_t e = 0; e < c->experiments; e++) {
        const int32_t *predicted = c->predicted + e * c->test.v.n;
        vp_confusion sum = {.n = labels, .count = c->confusion};
        memset(c->confusion, 0, (size_t)labels * 3 * sizeof *c->confusion);
        for (int64_t i = 0; i < n; i++) vp_confusion_add(&sum, c->test.label[pick[i]], predicted[pick[i]]);
        out[0] += vp_confusion_accuracy(&sum) / (double)c->experiments;
        out[1] += vp_confusion_macro_f1(&sum) / (double)c->experiments;
    }
}

static int prepare(classify *c, const vp_classify_options *o, vp_error *err) {
    VP_TRY(vp_vectors_match(&c->train.v, &c->test.v, err));
    VP_TRY(vp_labelled_number(&c->train, &c->test, &c->counts, err));
    VP_TRY(vp_softmax_open(&c->softmax, c->train.v.dims, c->counts.classes, err));
    const size_t n = (size_t)c->train.v.n, labels = (size_t)(c->counts.classes + c->counts.unknown);
    c->experiments = o->samples_per_label ? o->experiments : 1;
    c->x = vp_calloc(n, (size_t)c->train.v.dims * sizeof *c->x);
    c->label = vp_calloc(n, sizeof *c->label);
    c->taken = vp_calloc(labels, sizeof *c->taken);
    c->parameter = vp_calloc((size_t)vp_softmax_size(c->softmax), sizeof *c->parameter);
    c->predicted = vp_calloc((size_t)c->test.v.n, (size_t)c->experiments * sizeof *c->predicted);
    c->confusion = vp_calloc(labels, 3 * sizeof *c->confusion);
    if (c->x && c->label && c->taken && c->parameter && c->predicted && c->confusion) return VP_OK;
    return vp_fail_memory(err, "experiments", n * (size_t)c->train.v.dims * sizeof *c->x);
}

static int run(vp_score *s, classify *c, const vp_classify_options *classifier, const vp_score_options *o,
               vp_error *err) {
    VP_TRY(prepare(c, classifier, err));
    for (int64_t i = 0; i < c->experiments; i++) VP_TRY(experiment(c, i, classifier, o->seed, err));
    s->units = c->test.v.n;
    vp_score_count(s, "labels", c->counts.classes);
    vp_score_count(s, "experiments", c->experiments);
    vp_score_count(s, "labels_only_in_test", c->counts.unknown);
    return vp_score_take(s, measure, c, o, err);
}

int vp_score_classify(vp_score *s, vp_score_file train, vp_score_file test, const vp_classify_options *classifier,
                      const vp_score_options *o, vp_error *err) {
    classify c = {0};
    *s = (vp_score){.task = "classify", .unit = "texts"};
    vp_score_name(s, "accuracy");
    vp_score_name(s, "f1");
    int status = vp_labelled_read(&c.train, train, classifier->label, err);
    if (!status) status = vp_labelled_read(&c.test, test, classifier->label, err);
    if (!status) status = run(s, &c, classifier, o, err);
    vp_softmax_close(c.softmax);
    vp_labelled_free(&c.train);
    vp_labelled_free(&c.test);
    void *const all[] = {c.x, c.label, c.taken, c.parameter, c.predicted, c.confusion};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return status;
}
