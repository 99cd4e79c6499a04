/* Objectives of pairs and their annotated similarity: CoSENT, which wants their order, and the mean squared error. */
#include "lib/train/objective_private.h"
#include <math.h>

typedef struct pairs {
    vp_examples e;
    float *u, *du;   /* [B, D] */
    double *cosine;  /* [Q] of query and positive */
    double *score;   /* [Q] */
    double *dcosine; /* [Q] */
} pairs;

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

static int64_t other_row(const pairs *p, int64_t i) {
    return p->e.candidate[p->e.positive[i]];
}

static int make_pairs(pairs *p, const vp_objective *o, const vp_rows *r, vp_error *err) {
    if (!r->score)
        return vp_fail(err, VP_DATA,
                       "no column 'score', the similarity of each pair: tok makes it of records with one");
    VP_TRY(vp_examples_make(&p->e, o, r, true, err));
    VP_TRY(vp_objective_normalise(o, r, &p->u, err));
    const int64_t Q = p->e.Q;
    p->du = vp_objective_alloc(o, r->B * r->D, sizeof *p->du, err);
    p->cosine = vp_objective_alloc(o, Q, sizeof *p->cosine, err);
    p->score = vp_objective_alloc(o, Q, sizeof *p->score, err);
    p->dcosine = vp_objective_alloc(o, Q, sizeof *p->dcosine, err);
    if (err->code) return err->code;
    for (int64_t i = 0; i < Q; i++) {
        p->cosine[i] = dot(p->u + p->e.query[i] * r->D, p->u + other_row(p, i) * r->D, r->D);
        p->score[i] = (double)r->score[other_row(p, i)];
    }
    return VP_OK;
}

static int finish_pairs(pairs *p, const vp_objective *o, const vp_rows *r, float *grad, vp_error *err) {
    for (int64_t i = 0; i < p->e.Q; i++) {
        const int64_t q = p->e.query[i] * r->D, other = other_row(p, i) * r->D;
        const float g = (float)p->dcosine[i];
        for (int64_t d = 0; d < r->D; d++) {
            p->du[q + d] += g * p->u[other + d];
            p->du[other + d] += g * p->u[q + d];
        }
    }
    return vp_objective_backward(o, r, p->du, grad, err);
}

int vp_objective_mse(const vp_objective *o, const vp_rows *r, float *loss, float *grad, vp_error *err) {
    pairs p;
    VP_TRY(make_pairs(&p, o, r, err));
    const double n = (double)p.e.Q;
    for (int64_t i = 0; i < p.e.Q; i++) {
        const double off = p.cosine[i] - p.score[i];
        loss[p.e.query[i]] = (float)(off * off / n);
        p.dcosine[i] = 2 * off / n;
    }
    return finish_pairs(&p, o, r, grad, err);
}

/* Exponents are taken from the largest, or 0, so that none overflows. A pair's share of the loss is its part of the
 * sum as the one with the higher score. */
int vp_objective_cosent(const vp_objective *o, const vp_rows *r, float *loss, float *grad, vp_error *err) {
    pairs p;
    VP_TRY(make_pairs(&p, o, r, err));
    const int64_t Q = p.e.Q;
    const double scale = o->options.scale;
    double most = 0, sum = 0;
    double *part = vp_objective_alloc(o, Q, sizeof *part, err);
    if (!part) return VP_MEMORY;
    for (int64_t i = 0; i < Q; i++)
        for (int64_t j = 0; j < Q; j++)
            if (p.score[i] > p.score[j]) most = fmax(most, scale * (p.cosine[j] - p.cosine[i]));
    for (int64_t i = 0; i < Q; i++)
        for (int64_t j = 0; j < Q; j++) {
            if (!(p.score[i] > p.score[j])) continue;
            const double a = exp(scale * (p.cosine[j] - p.cosine[i]) - most);
            part[i] += a;
            sum += a;
            p.dcosine[i] -= a;
            p.dcosine[j] += a;
        }
    const double all = sum + exp(-most), value = most + log(all);
    for (int64_t i = 0; i < Q; i++) {
        loss[p.e.query[i]] = sum > 0 ? (float)(value * part[i] / sum) : 0.0f;
        p.dcosine[i] *= scale / all;
    }
    return finish_pairs(&p, o, r, grad, err);
}
