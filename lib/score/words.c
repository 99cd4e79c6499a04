/* Word tasks: a linear probe on frozen vectors of words, trained as LLM2Vec trains it, and the share of words right. */
#include "lib/base/philox.h"
#include "lib/score/labelled.h"
#include "lib/score/probe.h"
#include "lib/train/permute.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 8, ORDER = 0x5C1, DROPOUT = 0x5C2 }; /* sentences of a step; streams of random numbers */
#define RATE    5e-4                                /* falls to 0 in a line */
#define DROP    6554                                /* 0.1, of 65536 */
#define KEPT    (65536.0f / (65536 - DROP))
#define LONGEST 1.0 /* of the gradient */
#define BETA1   0.9
#define BETA2   0.999
#define EPSILON 1e-8

/* Words and the runs of them that are sentences. */
typedef struct sentences {
    vp_labelled x;
    int64_t *at; /* [n + 1]: the first word of each */
    int64_t n, longest;
} sentences;

typedef struct probe {
    sentences train, test;
    vp_label_counts counts;
    vp_softmax *softmax;
    float *x; /* words of a step, after the dropout */
    int32_t *label;
    double *parameter, *gradient, *mean, *square; /* Adam's moments */
    int32_t *predicted;                           /* [test words] */
} probe;

static int split(sentences *s, int64_t limit, vp_error *err) {
    const int64_t words = s->x.v.n;
    s->at = vp_calloc((size_t)words + 1, sizeof *s->at);
    if (!s->at) return vp_fail_memory(err, "sentences", (size_t)words * sizeof *s->at);
    for (int64_t i = 0; i < words; i++) {
        if (i && s->x.row[i] == s->x.row[i - 1]) continue;
        if (limit && s->n == limit) {
            s->x.v.n = i;
            break;
        }
        s->at[s->n++] = i;
    }
    s->at[s->n] = s->x.v.n;
    for (int64_t i = 0; i < s->n; i++)
        if (s->at[i + 1] - s->at[i] > s->longest) s->longest = s->at[i + 1] - s->at[i];
    return VP_OK;
}

static int read_sentences(sentences *s, vp_score_file f, const vp_words_options *o, vp_error *err) {
    VP_TRY(vp_labelled_read(&s->x, f, o->label, err));
    return split(s, o->rows, err);
}

/* x [D] of word `at` in the data, parts of it set to 0. */
static void drop_parts(float *out, const float *x, int64_t D, int64_t at, int64_t step, uint64_t seed) {
    uint32_t word[4];
    for (int64_t i = 0; i < D; i++) {
        const uint32_t counter[4] = {(uint32_t)(i / 8), (uint32_t)at, (uint32_t)step, DROPOUT};
        if (i % 8 == 0) vp_philox(word, counter, seed);
        const uint32_t lane = word[i % 8 / 2] >> 16 * (i % 2) & 0xFFFF;
        out[i] = lane < DROP ? 0 : x[i] * KEPT;
    }
}

/* The words of a step's sentences, which are those of an epoch's shuffle in turn. */
static int64_t gather(probe *p, int64_t step, uint64_t seed) {
    const sentences *s = &p->train;
    const int64_t D = s->x.v.dims;
    const float *x = (const float *)(const void *)s->x.v.data.data;
    int64_t words = 0;
    for (int64_t j = step * BATCH; j < (step + 1) * BATCH; j++) {
        const vp_permutation order = {.seed = seed, .pass = (uint64_t)(j / s->n), .stream = ORDER};
        const uint64_t sentence = vp_permute(&order, (uint64_t)(j % s->n), (uint64_t)s->n);
        for (int64_t at = s->at[sentence]; at < s->at[sentence + 1]; at++, words++) {
            drop_parts(p->x + words * D, x + at * D, D, at, step, seed);
            p->label[words] = s->x.label[at];
        }
    }
    return words;
}

/* AdamW without decay; `step` counts from 0. */
static void update(probe *p, int64_t step, int64_t steps) {
    const int64_t n = vp_softmax_size(p->softmax);
    const double rate = RATE * (1 - (double)step / (double)steps), t = (double)step + 1;
    const double correct1 = 1 - pow(BETA1, t), correct2 = 1 - pow(BETA2, t);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += p->gradient[i] * p->gradient[i];
    const double scale = sqrt(sum) > LONGEST ? LONGEST / sqrt(sum) : 1;
    for (int64_t i = 0; i < n; i++) {
        const double g = scale * p->gradient[i];
        p->mean[i] = BETA1 * p->mean[i] + (1 - BETA1) * g;
        p->square[i] = BETA2 * p->square[i] + (1 - BETA2) * g * g;
        p->parameter[i] -= rate * (p->mean[i] / correct1) / (sqrt(p->square[i] / correct2) + EPSILON);
    }
}

static int train(probe *p, int64_t steps, uint64_t seed, vp_error *err) {
    double loss;
    for (int64_t step = 0; step < steps; step++) {
        const int64_t words = gather(p, step, seed);
        VP_TRY(vp_softmax_loss(p->softmax, p->x, p->label, words, p->parameter, &loss, p->gradient, err));
        update(p, step, steps);
    }
    return VP_OK;
}

static void measure(void *data, const int64_t *pick, int64_t n, double *out) {
    const probe *p = data;
    int64_t right = 0, words = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t at = p->test.at[pick[i]]; at < p->test.at[pick[i] + 1]; at++, words++)
            right += p->predicted[at] == p->test.x.label[at];
    out[0] = (double)right / (double)words;
}

static int prepare(probe *p, vp_error *err) {
    vp_labelled *train = &p->train.x, *test = &p->test.x;
    VP_TRY(vp_vectors_match(&train->v, &test->v, err));
    VP_TRY(vp_labelled_number(train, test, &p->counts, err));
    VP_TRY(vp_softmax_open(&p->softmax, train->v.dims, p->counts.classes, err));
    const size_t size = (size_t)vp_softmax_size(p->softmax), most = (size_t)p->train.longest * BATCH;
    p->x = vp_calloc(most, (size_t)train->v.dims * sizeof *p->x);
    p->label = vp_calloc(most, sizeof *p->label);
    p->parameter = vp_calloc(size, sizeof *p->parameter);
    p->gradient = vp_calloc(size, sizeof *p->gradient);
    p->mean = vp_calloc(size, sizeof *p->mean);
    p->square = vp_calloc(size, sizeof *p->square);
    p->predicted = vp_calloc((size_t)test->v.n, sizeof *p->predicted);
    if (p->x && p->label && p->parameter && p->gradient && p->mean && p->square && p->predicted) return VP_OK;
    return vp_fail_memory(err, "a probe", most * (size_t)train->v.dims * sizeof *p->x);
}

static int run(vp_score *s, probe *p, const vp_words_options *words, const vp_score_options *o, vp_error *err) {
    const vp_vectors *test = &p->test.x.v;
    VP_TRY(prepare(p, err));
    VP_TRY(train(p, words->steps, o->seed, err));
    VP_TRY(vp_softmax_predict(p->softmax, (const float *)(const void *)test->data.data, test->n, p->parameter,
                              p->predicted, err));
    s->units = p->test.n;
    vp_score_count(s, "words", test->n);
    vp_score_count(s, "labels", p->counts.classes);
    vp_score_count(s, "labels_only_in_test", p->counts.unknown);
    return vp_score_take(s, measure, p, o, err);
}

int vp_score_words(vp_score *s, vp_score_file train_file, vp_score_file test_file, const vp_words_options *words,
                   const vp_score_options *o, vp_error *err) {
    probe p = {0};
    *s = (vp_score){.task = "words", .unit = "sentences"};
    vp_score_name(s, "accuracy");
    int status = read_sentences(&p.train, train_file, words, err);
    if (!status) status = read_sentences(&p.test, test_file, words, err);
    if (!status) status = run(s, &p, words, o, err);
    vp_softmax_close(p.softmax);
    vp_labelled_free(&p.train.x);
    vp_labelled_free(&p.test.x);
    void *const all[] = {p.train.at, p.test.at, p.x, p.label, p.parameter, p.gradient, p.mean, p.square, p.predicted};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return status;
}
