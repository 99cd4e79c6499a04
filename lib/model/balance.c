/* The balancing loss of a mixture of experts' routers, made on the host of the logits that a forward pass left: a
 * number an expert, token and layer. */
#include "lib/model/pass.h"
#include <math.h>
#include <stdlib.h>

double vp_encoder_balance(const vp_encoder *e) {
    return e->model->config.experts ? e->model->config.balance : 0;
}

typedef struct balance {
    int64_t T, experts, top_k, layers;
    float *logits; /* [L, T, E]; becomes the gradient */
} balance;

static float *row_of(const balance *b, int64_t layer, int64_t t) {
    return b->logits + (layer * b->T + t) * b->experts;
}

/* Whether a token passes expert e, as `route` chooses. */
static bool passes(const balance *b, const float *logit, int64_t e) {
    int64_t better = 0;
    for (int64_t i = 0; i < b->experts; i++) better += logit[i] > logit[e] || (logit[i] == logit[e] && i < e);
    return better < b->top_k;
}

/* p [E] = softmax of a row */
static void softmax(const balance *b, const float *logit, double *p) {
    double top = (double)logit[0], sum = 0;
    for (int64_t e = 1; e < b->experts; e++) top = fmax(top, (double)logit[e]);
    for (int64_t e = 0; e < b->experts; e++) sum += p[e] = exp((double)logit[e] - top);
    for (int64_t e = 0; e < b->experts; e++) p[e] /= sum;
}

/* f, P [E] of tokens [first, past) in all layers; the loss E sum f P. */
static double measure(const balance *b, int64_t first, int64_t past, double *f, double *P) {
    const double n = (double)((past - first) * b->layers);
    double p[VP_MOST_EXPERTS], loss = 0;
    for (int64_t e = 0; e < b->experts; e++) f[e] = P[e] = 0;
    for (int64_t l = 0; l < b->layers; l++)
        for (int64_t t = first; t < past; t++) {
            const float *logit = row_of(b, l, t);
            softmax(b, logit, p);
            for (int64_t e = 0; e < b->experts; e++) {
                f[e] += passes(b, logit, e);
                P[e] += p[e];
            }
        }
    for (int64_t e = 0; e < b->experts; e++) {
        f[e] /= n;
        loss += f[e] * (P[e] / n);
    }
    return (double)b->experts * loss;
}

/* share times the gradient of the unit's loss, in place of its logits: E / n p_e (f_e - sum_i f_i p_i) */
static void differentiate(balance *b, int64_t first, int64_t past, const double *f, double share) {
    const double scale = share * (double)b->experts / (double)((past - first) * b->layers);
    double p[VP_MOST_EXPERTS];
    for (int64_t l = 0; l < b->layers; l++)
        for (int64_t t = first; t < past; t++) {
            float *logit = row_of(b, l, t);
            double mean = 0;
            softmax(b, logit, p);
            for (int64_t e = 0; e < b->experts; e++) mean += f[e] * p[e];
            for (int64_t e = 0; e < b->experts; e++) logit[e] = (float)(scale * p[e] * (f[e] - mean));
        }
}

static void all_units(balance *b, const vp_balance *of) {
    double f[VP_MOST_EXPERTS], P[VP_MOST_EXPERTS];
    for (int64_t row = 0, end; row < of->B; row = end) {
        double share = 0;
        for (end = row; end < of->B && of->unit[end] == of->unit[row]; end++) share += of->share[end];
        const int64_t first = of->cu[row], past = of->cu[end];
        if (past == first) continue;
        of->loss[row] += (float)(share * measure(b, first, past, f, P));
        differentiate(b, first, past, f, share);
    }
}

/* The logits there, or the gradient back. */
static int move(vp_encoder *e, vp_tape *t, balance *b, bool back, vp_error *err) {
    const size_t bytes = (size_t)(b->T * b->experts) * sizeof *b->logits;
    for (int64_t l = 0; l < b->layers; l++) {
        vp_saved *s = &t->layer[l];
        float *host = row_of(b, l, 0);
        if (!back) {
            VP_TRY(vp_compute_fetch(&e->on, host, s->logits.ptr, bytes, err));
            continue;
        }
        const void *device;
        VP_TRY(vp_encoder_upload(e, host, bytes, &device, err));
        s->pull = s->logits;
        s->pull.ptr = (void *)(uintptr_t)device;
    }
    return VP_OK;
}

int vp_tape_balance(vp_encoder *e, vp_tape *t, const vp_balance *of, vp_error *err) {
    const vp_config *c = &e->model->config;
    balance b = {.T = t->batch.T, .experts = c->experts, .top_k = c->top_k, .layers = c->layers};
    if (!c->experts || of->B != t->batch.B) return vp_fail(err, VP_BUG, "balance: not the tape's rows of experts");
    const size_t n = (size_t)(b.layers * b.T * b.experts);
    if (!(b.logits = vp_calloc(n, sizeof *b.logits))) return vp_fail_memory(err, "routers", n * sizeof *b.logits);
    int status = move(e, t, &b, false, err);
    if (!status) {
        all_units(&b, of);
        status = move(e, t, &b, true, err);
    }
    free(b.logits);
    return status;
}
