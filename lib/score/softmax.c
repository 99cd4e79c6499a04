/* Softmax regression: loss, gradient, prediction, fit. Products are f32, blocks of rows are added in double. */
#include "lib/score/probe.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1024 }; /* rows whose logits are held at a time */
/* As scikit-learn has it, of the mean loss; its lbfgs also stops after 100 iterations, converged or not. */
#define TOLERANCE 1e-4
enum { ITERATIONS = 1000 };

struct vp_softmax {
    vp_products *products;
    int64_t D, K;
    float *w;      /* [K, D] of the parameters */
    float *logits; /* [BLOCK, K] */
    float *dw;     /* [K, D] of a block */
};

int vp_softmax_open(vp_softmax **out, int64_t D, int64_t K, vp_error *err) {
    vp_softmax *s = vp_calloc(1, sizeof *s);
    *out = NULL;
    if (!s) return vp_fail_memory(err, "a classifier", sizeof *s);
    s->D = D;
    s->K = K;
    int status = vp_products_open(&s->products, err);
    s->w = vp_calloc((size_t)K, (size_t)D * sizeof *s->w);
    s->dw = vp_calloc((size_t)K, (size_t)D * sizeof *s->dw);
    s->logits = vp_calloc((size_t)K, BLOCK * sizeof *s->logits);
    if (!status && (!s->w || !s->dw || !s->logits))
        status = vp_fail_memory(err, "a classifier", (size_t)K * (size_t)D * sizeof *s->w);
    if (status)
        vp_softmax_close(s);
    else
        *out = s;
    return status;
}

void vp_softmax_close(vp_softmax *s) {
    if (!s) return;
    vp_products_close(s->products);
    free(s->w);
    free(s->dw);
    free(s->logits);
    free(s);
}

int64_t vp_softmax_size(const vp_softmax *s) {
    return s->K * (s->D + 1);
}

static int take_logits(vp_softmax *s, const float *x, int64_t n, const double *parameter, vp_error *err) {
    const double *b = parameter + s->K * s->D;
    VP_TRY(vp_products_rows(s->products, x, n, s->w, s->K, s->D, s->logits, err));
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < s->K; k++) s->logits[i * s->K + k] += (float)b[k];
    return VP_OK;
}

static void set_parameter(vp_softmax *s, const double *parameter) {
    for (int64_t i = 0; i < s->K * s->D; i++) s->w[i] = (float)parameter[i];
}

/* logits [K] to what the loss / n changes with them, (softmax - onehot) / n; returns the loss. */
static double turn_row(float *logits, int64_t K, int32_t label, int64_t n) {
    double sum = 0;
    float most = logits[0];
    for (int64_t k = 1; k < K; k++)
        if (logits[k] > most) most = logits[k];
    for (int64_t k = 0; k < K; k++) sum += exp((double)logits[k] - most);
    const double log_sum = log(sum) + most, loss = log_sum - logits[label];
    for (int64_t k = 0; k < K; k++) logits[k] = (float)((exp((double)logits[k] - log_sum) - (k == label)) / (double)n);
    return loss;
}

int vp_softmax_loss(vp_softmax *s, const float *x, const int32_t *label, int64_t n, const double *parameter,
                    double *loss, double *gradient, vp_error *err) {
    const int64_t K = s->K, D = s->D;
    double *db = gradient + K * D;
    set_parameter(s, parameter);
    memset(gradient, 0, (size_t)vp_softmax_size(s) * sizeof *gradient);
    *loss = 0;
    for (int64_t first = 0; first < n; first += BLOCK) {
        const int64_t rows = n - first < BLOCK ? n - first : BLOCK;
        VP_TRY(take_logits(s, x + first * D, rows, parameter, err));
        for (int64_t i = 0; i < rows; i++) {
            float *row = s->logits + i * K;
            *loss += turn_row(row, K, label[first + i], n) / (double)n;
            for (int64_t k = 0; k < K; k++) db[k] += row[k];
        }
        VP_TRY(vp_products_columns(s->products, s->logits, x + first * D, rows, K, D, s->dw, err));
        for (int64_t i = 0; i < K * D; i++) gradient[i] += s->dw[i];
    }
    return isfinite(*loss) ? VP_OK : vp_fail(err, VP_DATA, "the vectors are too long for a classifier in f32");
}

int vp_softmax_predict(vp_softmax *s, const float *x, int64_t n, const double *parameter, int32_t *label,
                       vp_error *err) {
    set_parameter(s, parameter);
    for (int64_t first = 0; first < n; first += BLOCK) {
        const int64_t rows = n - first < BLOCK ? n - first : BLOCK;
        VP_TRY(take_logits(s, x + first * s->D, rows, parameter, err));
        for (int64_t i = 0; i < rows; i++) {
            const float *row = s->logits + i * s->K;
            int32_t best = 0;
            for (int32_t k = 1; k < s->K; k++)
                if (row[k] > row[best]) best = k;
            label[first + i] = best;
        }
    }
    return VP_OK;
}

typedef struct fit {
    vp_softmax *s;
    const float *x;
    const int32_t *label;
    int64_t n;
    double decay; /* of the mean loss: 1 / (C n) */
} fit;

static int regularised(void *data, const double *parameter, double *f, double *g, vp_error *err) {
    const fit *x = data;
    VP_TRY(vp_softmax_loss(x->s, x->x, x->label, x->n, parameter, f, g, err));
    for (int64_t i = 0; i < x->s->K * x->s->D; i++) {
        *f += x->decay * parameter[i] * parameter[i] / 2;
        g[i] += x->decay * parameter[i];
    }
    return VP_OK;
}

int vp_softmax_fit(vp_softmax *s, const float *x, const int32_t *label, int64_t n, double C, double *parameter,
                   vp_error *err) {
    fit f = {s, x, label, n, 1 / (C * (double)n)};
    return vp_lbfgs(parameter, vp_softmax_size(s), regularised, &f, TOLERANCE, ITERATIONS, err);
}
