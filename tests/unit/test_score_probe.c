/* Learners and labels: logistic regression against scikit-learn's, the minimiser on a known minimum, gradients against
 * differences, k-means on blobs, V-measure by hand, and the tasks classify, cluster and words on small streams. */
#include "lib/score/measure.h"
#include "lib/score/probe.h"
#include "lib/score/score.h"
#include "tests/unit/stream_support.h"
#include "tests/unit/tap.h"
#include <math.h>

static bool near(double a, double b, double bound) {
    return fabs(a - b) <= bound;
}

/* ---- measures ---- */

static void test_v_measure(void) {
    int64_t by_label[3], by_cluster[3];
    const int64_t split[] = {2, 0, 0, 0, 1, 1}; /* H(label) = I = ln 2, H(cluster) = 3/2 ln 2 */
    vp_agreement a = vp_v_measure(split, 2, 3, by_label, by_cluster);
    OK(near(a.homogeneity, 1, 1e-12) && near(a.completeness, 2.0 / 3, 1e-12) && near(a.v_measure, 0.8, 1e-12),
       "a label in two clusters: %.17g", a.v_measure);
    const int64_t even[] = {1, 1, 1, 1}, one[] = {3, 0, 2, 0};
    a = vp_v_measure(even, 2, 2, by_label, by_cluster);
    OK(near(a.v_measure, 0, 1e-12), "independent: %.17g", a.v_measure);
    a = vp_v_measure(one, 2, 2, by_label, by_cluster);
    OK(near(a.homogeneity, 0, 1e-12) && a.completeness == 1 && near(a.v_measure, 0, 1e-12), "all in one cluster");
    const int64_t mixed[] = {2, 1, 0, 0, 1, 2, 1, 0, 1};
    a = vp_v_measure(mixed, 3, 3, by_label, by_cluster);
    OK(near(a.v_measure, 0.3987478202411471, 1e-12), "as sklearn.metrics.v_measure_score: %.17g", a.v_measure);
}

static void test_confusion(void) {
    const int32_t given[] = {0, 0, 1, 1, 2, 2, 3}, predicted[] = {0, 1, 1, 1, 2, 0, 2};
    int64_t count[5 * 3] = {0};
    vp_confusion c = {.n = 5, .count = count};
    for (int i = 0; i < 7; i++) vp_confusion_add(&c, given[i], predicted[i]);
    OK(near(vp_confusion_accuracy(&c), 4.0 / 7, 1e-12) && near(vp_confusion_macro_f1(&c), 0.45, 1e-12),
       "accuracy and macro F1 as sklearn, a label that nobody has is left out: %.17g", vp_confusion_macro_f1(&c));
}

/* ---- learners ---- */

/* sum i (x_i - i)^2 / 2 */
static int parabola(void *data, const double *x, double *f, double *g, vp_error *err) {
    const int *n = data;
    (void)err;
    *f = 0;
    for (int i = 0; i < *n; i++) {
        g[i] = (i + 1) * (x[i] - i);
        *f += g[i] * (x[i] - i) / 2;
    }
    return VP_OK;
}

static void test_lbfgs(void) {
    int n = 30;
    double x[30] = {0}, most = 0;
    vp_error err = {0};
    OK(!vp_lbfgs(x, n, parabola, &n, 1e-9, 200, &err), "L-BFGS: %s", err.text);
    for (int i = 0; i < n; i++) most = fmax(most, fabs(x[i] - i));
    OK(most <= 1e-8, "finds the minimum: off by %.3g", most);
}

enum { ROWS = 10, D = 2, K = 3 };
static const float points[ROWS * D] = {1,    0,    2, 1, 1.5f, -0.5f, -1,    0,    -2,    1,
                                       0.5f, 0.5f, 0, 2, 0.5f, 3,     -0.5f, 2.5f, 0.25f, 0.75f};
static const int32_t labels[ROWS] = {0, 0, 0, 1, 1, 1, 2, 2, 2, 2};

static void test_gradient(vp_softmax *s) {
    double p[K * (D + 1)], g[K * (D + 1)], scratch[K * (D + 1)], high, low, worst = 0;
    vp_error err = {0};
    for (int i = 0; i < K * (D + 1); i++) p[i] = 0.3 * i - 1;
    int status = vp_softmax_loss(s, points, labels, ROWS, p, &low, g, &err);
    for (int i = 0; i < K * (D + 1) && !status; i++) {
        const double at = p[i];
        p[i] = at + 1e-2;
        status = vp_softmax_loss(s, points, labels, ROWS, p, &high, scratch, &err);
        p[i] = at - 1e-2;
        if (!status) status = vp_softmax_loss(s, points, labels, ROWS, p, &low, scratch, &err);
        p[i] = at;
        worst = fmax(worst, fabs((high - low) / 2e-2 - g[i]));
    }
    OK(!status && worst <= 1e-4, "the gradient is that of differences: off by %.3g %s", worst, err.text);
}

static void test_softmax(void) {
    /* LogisticRegression(tol=1e-12, max_iter=100000): coef_, intercept_ */
    static const double want[] = {0.98204693, -0.48435719, -0.84895172, -0.44286832, -0.1330952,
                                  0.92722551, -0.14648405, 0.65924693,  -0.51276288};
    static const int32_t predicted[] = {0, 0, 0, 1, 1, 0, 2, 2, 2, 2};
    vp_softmax *s;
    vp_error err = {0};
    double p[K * (D + 1)] = {0}, g[K * (D + 1)], loss, off = 0;
    int32_t got[ROWS];
    OK(!vp_softmax_open(&s, D, K, &err) && vp_softmax_size(s) == K * (D + 1), "softmax: %s", err.text);
    test_gradient(s);
    OK(!vp_softmax_fit(s, points, labels, ROWS, 1, p, &err), "fit: %s", err.text);
    for (int i = 0; i < K * (D + 1); i++) off = fmax(off, fabs(p[i] - want[i]));
    OK(off <= 2e-3, "the weights of scikit-learn: off by %.3g", off);
    const int status = vp_softmax_loss(s, points, labels, ROWS, p, &loss, g, &err);
    OK(!status && near(loss, 0.3969482555059953, 1e-4), "its loss: %.9g", loss);
    OK(!vp_softmax_predict(s, points, ROWS, p, got, &err) && memcmp(got, predicted, sizeof got) == 0,
       "its predictions %s", err.text);
    vp_softmax_close(s);
}

static void test_kmeans(void) {
    enum { N = 90, BLOBS = 3 };
    float x[N * D];
    int32_t got[N];
    vp_error err = {0};
    for (int i = 0; i < N; i++) {
        x[i * D] = (float)(i % BLOBS) * 10 + (float)(i % 7) * 0.1f;
        x[i * D + 1] = (float)(i % BLOBS == 1) * 10 + (float)(i % 5) * 0.1f;
    }
    OK(!vp_kmeans(x, N, D, BLOBS, 3, got, &err), "k-means: %s", err.text);
    bool right = got[0] != got[1] && got[1] != got[2] && got[0] != got[2];
    for (int i = 0; i < N; i++) right = right && got[i] == got[i % BLOBS];
    OK(right, "finds the blobs");
    for (int i = 0; i < N * D; i++) x[i] = 1;
    OK(!vp_kmeans(x, N, D, BLOBS, 3, got, &err), "rows that are all alike: %s", err.text);
}

/* ---- tasks ---- */

/* A stream of rows "row label x y", one a line. */
static vp_score_file stream_of(const char *rows, const char *name) {
    vp_buf b = {0}, row = {0}, emb = {0}, meta = {0}, batch = {0};
    vp_error err = {0};
    int n = 0, used = 0, status = 0;
    int64_t ordinal;
    float v[D];
    char label[16], hex[2 * sizeof v + 1];
    for (const char *s = rows; sscanf(s, "%ld %15s %f %f%n", &ordinal, label, &v[0], &v[1], &used) == 4; s += used) {
        vp_hex(hex, (const uint8_t *)v, sizeof v);
        status |= vp_buf_add(&emb, hex, sizeof hex - 1, &err);
        vp_hex(hex, (const uint8_t *)&ordinal, sizeof ordinal);
        status |= vp_buf_add(&row, hex, 2 * sizeof ordinal, &err);
        status |= vp_buf_printf(&meta, &err, "%s\"{\\\"label\\\":%s}\"", n++ ? "," : "", label);
    }
    status |= vp_buf_printf(&batch, &err,
                            "{\"kind\":\"batch\",\"seq\":0,\"columns\":{"
                            "\"row\":{\"dtype\":\"I64\",\"shape\":[%d],\"data\":\"hex:%.*s\"},\"meta\":[%.*s],"
                            "\"emb\":{\"dtype\":\"F32\",\"shape\":[%d,2],\"data\":\"hex:%.*s\"}}}",
                            n, (int)row.len, row.data, (int)meta.len, meta.data, n, (int)emb.len, emb.data);
    if (status) abort();
    add_json(&b, HEADER);
    add_json(&b, batch.data);
    add_json(&b, "{\"kind\":\"end\",\"batches\":1,\"rows\":0,\"tokens\":0,\"truncated\":0,\"skipped\":0,\"empty\":0}");
    const vp_score_file f = {fd_of(b.data, b.len), name};
    vp_buf *const all[] = {&b, &row, &emb, &meta, &batch};
    for (int i = 0; i < 5; i++) vp_buf_free(all[i]);
    return f;
}

#define A     "\\\"a\\\""
#define B     "\\\"b\\\""
#define TRAIN "0 " A " 1 0\n1 " B " -1 0\n2 " A " 2 1\n3 " B " -2 1\n4 " A " 1 1\n5 " B " -1 1\n"

static const vp_score_options plain = {0}, intervals = {.bootstrap = 200, .seed = 1};

static void test_classify(void) {
    const vp_classify_options two = {.label = "label", .samples_per_label = 2, .experiments = 3},
                              all = {.label = "label", .experiments = 3}, other = {.label = "topic", .experiments = 1};
    vp_score_file f[6];
    for (int i = 0; i < 3; i++) {
        f[i] = stream_of(TRAIN, "train");
        f[3 + i] = stream_of("1 " B " -3 0\n0 " A " 3 0\n2 " A " 2 2\n3 7 9 9\n", "test");
    }
    vp_score s;
    vp_error err = {0};
    OK(!vp_score_classify(&s, f[0], f[3], &two, &intervals, &err), "classify: %s", err.text);
    OK(s.units == 4 && s.measure[0].value == 0.75 && s.count[1].n == 3 && s.count[2].n == 1,
       "a label that was never learnt is wrong, and counted: %.9g", s.measure[0].value);
    OK(near(s.measure[1].value, (0.8 + 1 + 0) / 3, 1e-12), "macro F1 over three labels: %.9g", s.measure[1].value);
    OK(s.measure[0].low <= 0.75 && s.measure[0].high >= 0.75, "intervals");
    OK(!vp_score_classify(&s, f[1], f[4], &all, &plain, &err) && s.count[1].n == 1, "all rows are one experiment");
    OK(vp_score_classify(&s, f[2], f[5], &other, &plain, &err) == VP_DATA && strstr(err.text, "no label 'topic'"),
       "a label is needed: %s", err.text);
    for (int i = 0; i < 6; i++) close(f[i].fd);
}

static void test_cluster(void) {
    const vp_score_file f[] = {stream_of(TRAIN, "vectors"), stream_of("0 1 1 0\n1 1 0 1\n", "vectors")};
    vp_score s;
    vp_error err = {0};
    OK(!vp_score_cluster(&s, f[0], "label", &intervals, &err), "cluster: %s", err.text);
    OK(near(s.measure[0].value, 1, 1e-12), "labels apart are found: %.9g", s.measure[0].value);
    OK(vp_score_cluster(&s, f[1], "label", &plain, &err) == VP_DATA && strstr(err.text, "same label"),
       "one label only: %s", err.text);
    close(f[0].fd), close(f[1].fd);
}

/* Rows are words, of sentences with one row each. */
static void test_words(void) {
    static const char train[] = "0 1 1 0\n0 2 -1 0\n1 1 2 0\n2 2 -2 1\n2 1 1 1\n2 2 -1 1\n",
                      test[] = "1 2 -1 1\n0 1 3 0\n0 2 -3 0\n2 2 5 0\n";
    const vp_words_options o = {.label = "label", .steps = 300}, one = {.label = "label", .steps = 300, .rows = 1};
    const vp_score_file f[] = {stream_of(train, "train"), stream_of(test, "test"), stream_of(train, "train"),
                               stream_of(test, "test"),   stream_of(train, "a"),   stream_of(test, "b")};
    vp_score s, again;
    vp_error err = {0};
    OK(!vp_score_words(&s, f[0], f[1], &o, &intervals, &err), "words: %s", err.text);
    OK(s.units == 3 && s.count[0].n == 4 && s.measure[0].value == 0.75, "three of four words right: %.9g",
       s.measure[0].value);
    OK(s.measure[0].low == 0 && s.measure[0].high == 1, "sentences are resampled: %g, %g", s.measure[0].low,
       s.measure[0].high);
    OK(!vp_score_words(&again, f[2], f[3], &o, &intervals, &err) && again.measure[0].low == s.measure[0].low,
       "the same again %s", err.text);
    OK(!vp_score_words(&s, f[4], f[5], &one, &plain, &err) && s.units == 1 && s.count[0].n == 2 &&
           s.measure[0].value == 1,
       "the first sentence of each: %lld words %s", (long long)s.count[0].n, err.text);
    for (int i = 0; i < 6; i++) close(f[i].fd);
}

int main(void) {
    test_v_measure();
    test_confusion();
    test_lbfgs();
    test_softmax();
    test_kmeans();
    test_classify();
    test_cluster();
    test_words();
    return done();
}
