/* Small learners on plain arrays, to look at what vectors know: products, the softmax classifier, its minimiser,
 * k-means. n rows, D dimensions, K classes or centres. Finite input is the caller's duty; what overflows f32 is
 * VP_DATA. */
#ifndef VP_SCORE_PROBE_H
#define VP_SCORE_PROBE_H
#include "lib/base/base.h"

/* Products in f32, by the CPU's kernels on one thread. */
typedef struct vp_products vp_products;
int vp_products_open(vp_products **p, vp_error *err);
void vp_products_close(vp_products *p); /* NULL is fine */
/* out [n, K] = x [n, D] w [K, D]^T */
int vp_products_rows(vp_products *p, const float *x, int64_t n, const float *w, int64_t K, int64_t D, float *out,
                     vp_error *err);
/* out [K, D] = g [n, K]^T x [n, D] */
int vp_products_columns(vp_products *p, const float *g, const float *x, int64_t n, int64_t K, int64_t D, float *out,
                        vp_error *err);

/* Softmax regression: logits = x W^T + b. Its parameters are K D numbers W, then K numbers b. */
typedef struct vp_softmax vp_softmax;
int vp_softmax_open(vp_softmax **s, int64_t D, int64_t K, vp_error *err);
void vp_softmax_close(vp_softmax *s);
int64_t vp_softmax_size(const vp_softmax *s); /* K (D + 1) */
/* The mean of -log softmax(logits)[label] over n >= 1 rows, and its gradient by the parameters. */
int vp_softmax_loss(vp_softmax *s, const float *x, const int32_t *label, int64_t n, const double *parameter,
                    double *loss, double *gradient, vp_error *err);
/* The class of the largest logit, of equal ones the first. */
int vp_softmax_predict(vp_softmax *s, const float *x, int64_t n, const double *parameter, int32_t *label,
                       vp_error *err);
/* Logistic regression as scikit-learn defines it: the minimum of C times the sum of the losses + |W|^2 / 2. The start
 * is what parameter holds. */
int vp_softmax_fit(vp_softmax *s, const float *x, const int32_t *label, int64_t n, double C, double *parameter,
                   vp_error *err);

/* f and its gradient g at x. */
typedef int (*vp_objective)(void *data, const double *x, double *f, double *g, vp_error *err);
/* L-BFGS (Nocedal and Wright, algorithm 7.5) from x [n] until no part of the gradient exceeds `tolerance`, no step
 * lowers f any more, or so many iterations are done. */
int vp_lbfgs(double *x, int64_t n, vp_objective f, void *data, double tolerance, int iterations, vp_error *err);

/* Greedy k-means++ (Arthur and Vassilvitskii, 2007), as scikit-learn has it, and Lloyd's iterations, from ten starts;
 * label [n] is that of the least sum of squared distances. 1 <= K <= n. */
int vp_kmeans(const float *x, int64_t n, int64_t D, int64_t K, uint64_t seed, int32_t *label, vp_error *err);

#endif
