/* Agreement of two labellings: predictions with labels, clusters with labels. */
#include "lib/score/measure.h"
#include <math.h>

enum { RIGHT, PREDICTED, GIVEN, KINDS };

void vp_confusion_add(vp_confusion *c, int32_t given, int32_t predicted) {
    c->count[given * KINDS + GIVEN]++;
    c->count[predicted * KINDS + PREDICTED]++;
    c->count[given * KINDS + RIGHT] += given == predicted;
}

double vp_confusion_accuracy(const vp_confusion *c) {
    int64_t right = 0, all = 0;
    for (int64_t i = 0; i < c->n; i++) {
        right += c->count[i * KINDS + RIGHT];
        all += c->count[i * KINDS + GIVEN];
    }
    return (double)right / (double)all;
}

double vp_confusion_macro_f1(const vp_confusion *c) {
    double sum = 0;
    int64_t labels = 0;
    for (int64_t i = 0; i < c->n; i++) {
        const int64_t *x = c->count + i * KINDS, both = x[PREDICTED] + x[GIVEN];
        if (!both) continue;
        sum += 2 * (double)x[RIGHT] / (double)both;
        labels++;
    }
    return sum / (double)labels;
}

/* Entropy of counts[n], of which there are `all`. */
static double entropy(const int64_t *count, int64_t n, int64_t all) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (count[i]) sum -= (double)count[i] / (double)all * log((double)count[i] / (double)all);
    return sum;
}

vp_agreement vp_v_measure(const int64_t *table, int64_t labels, int64_t clusters, int64_t *by_label,
                          int64_t *by_cluster) {
    int64_t all = 0;
    for (int64_t k = 0; k < clusters; k++) by_cluster[k] = 0;
    for (int64_t c = 0; c < labels; c++) {
        by_label[c] = 0;
        for (int64_t k = 0; k < clusters; k++) {
            by_label[c] += table[c * clusters + k];
            by_cluster[k] += table[c * clusters + k];
        }
        all += by_label[c];
    }
    const double label = entropy(by_label, labels, all), cluster = entropy(by_cluster, clusters, all);
    /* H(label, cluster) = H(cluster) + H(label | cluster); what rounding takes below 0 is 0 */
    const double shared = fmax(label + cluster - entropy(table, labels * clusters, all), 0);
    vp_agreement a = {label > 0 ? shared / label : 1, cluster > 0 ? shared / cluster : 1, 0};
    const double both = a.homogeneity + a.completeness;
    if (both > 0) a.v_measure = 2 * a.homogeneity * a.completeness / both;
    return a;
}
