/* The measures on plain arrays: no files, no vectors. Finite input is the caller's duty. */
#ifndef VP_SCORE_MEASURE_H
#define VP_SCORE_MEASURE_H
#include <stdbool.h>
#include <stdint.h>

/* Pearson's correlation of x[n] and y[n]; NaN where one of them is constant. */
double vp_pearson(const double *x, const double *y, int64_t n);

typedef struct vp_ranked {
    double value;
    int64_t at;
} vp_ranked;
/* rank[i]: the place of x[i] in ascending order from 1, equal values their mean place. scratch: [n]. */
void vp_ranks(const double *x, int64_t n, double *rank, vp_ranked *scratch);

typedef struct vp_judged {
    double score;
    bool positive;
} vp_judged;
typedef struct vp_binary {
    double ap;           /* sum over distinct scores of (recall gained) * precision; 0 without a positive */
    double accuracy, f1; /* the best over all thresholds, all and none included */
    int64_t first_rank;  /* of the best positive, ties counted against it; 0 without a positive */
} vp_binary;
/* Sorts item[n]. */
void vp_binary_measures(vp_judged *item, int64_t n, vp_binary *out);

/* gain[n]: relevance of a query's hits, best first, 0: none; ideal[relevant]: all positive relevances, descending. */
typedef struct vp_ranking {
    const int32_t *gain, *ideal;
    int64_t n, relevant;
} vp_ranking;
/* Each over the first k hits; 0 where nothing is relevant. nDCG: linear gains over log2(rank + 1). Average precision is
 * divided by the number of the relevant. */
double vp_ndcg(const vp_ranking *r, int64_t k);
double vp_average_precision(const vp_ranking *r, int64_t k);
double vp_reciprocal_rank(const vp_ranking *r, int64_t k);
double vp_recall(const vp_ranking *r, int64_t k);
double vp_precision(const vp_ranking *r, int64_t k);

/* Predictions of n labels: for each how often it was right, predicted, given. */
typedef struct vp_confusion {
    int64_t n, *count; /* [n, 3] */
} vp_confusion;
void vp_confusion_add(vp_confusion *c, int32_t given, int32_t predicted);
double vp_confusion_accuracy(const vp_confusion *c);
double vp_confusion_macro_f1(const vp_confusion *c); /* mean over the labels that were given or predicted */

typedef struct vp_agreement {
    double homogeneity, completeness, v_measure;
} vp_agreement;
/* table [labels, clusters] counts. Homogeneity: 1 - H(label | cluster) / H(label), 1 where there is one label only;
 * completeness the other way round; V: their harmonic mean (Rosenberg and Hirschberg, 2007). Scratch: by_label
 * [labels], by_cluster [clusters]. */
vp_agreement vp_v_measure(const int64_t *table, int64_t labels, int64_t clusters, int64_t *by_label,
                          int64_t *by_cluster);

#endif
