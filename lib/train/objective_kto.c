/* KTO (Ethayarajh et al., arXiv 2402.01306): answers that people want or do not want, against a reference model. */
#include "lib/train/objective_private.h"
#include <math.h>

enum { MATCHED, MISMATCHED }; /* column `view` */

static int check_rows(const vp_rows *r, vp_error *err) {
    if (r->D != 1) return vp_fail(err, VP_BUG, "kto takes one number a row, not %lld", (long long)r->D);
    if (!r->reference)
        return vp_fail(err, VP_DATA,
                       "no column 'reference', what the model to start with makes of the answers: fwd | pool pick | "
                       "loss ntp --reference");
    if (!r->view) return vp_fail(err, VP_DATA, "no column 'view': mask kto makes it");
    if (r->score) return VP_OK;
    return vp_fail(err, VP_DATA,
                   "no column 'score', whether an answer is wanted: tok makes it of records with `label`");
}

/* r(x, y) of row b: its log-probability against that of the reference. */
static double ratio(const vp_rows *r, int64_t b) {
    return (double)r->emb[b] - (double)r->reference[b];
}

/* z: the mean ratio of the mismatched rows, at least 0. *matched: how many rows are none. */
static double zero_point(const vp_rows *r, int64_t *matched) {
    double sum = 0;
    *matched = 0;
    for (int64_t b = 0; b < r->B; b++)
        if (r->view[b] == MATCHED)
            ++*matched;
        else
            sum += ratio(r, b);
    return *matched < r->B ? fmax(0, sum / (double)(r->B - *matched)) : 0;
}

/* mean over the matched rows of w (1 - s), s = sigmoid(beta (r - z)) where the answer is wanted, of beta (z - r) where
 * it is not; z is a constant, so d/dr = -+ w beta s (1 - s) / n. emb [B, 1]: log-probabilities. */
int vp_objective_kto(const vp_objective *o, const vp_rows *r, float *loss, float *grad, vp_error *err) {
    VP_TRY(check_rows(r, err));
    int64_t matched;
    const double z = zero_point(r, &matched), beta = o->options.beta;
    for (int64_t b = 0; b < r->B; b++) {
        grad[b] = 0;
        if (r->view[b] != MATCHED) continue;
        const double sign = r->score[b] > 0.5f ? 1 : -1;
        const double w = (sign > 0 ? o->options.desirable : o->options.undesirable) / (double)matched;
        const double s = 1 / (1 + exp(-sign * beta * (ratio(r, b) - z)));
        loss[b] = (float)(w * (1 - s));
        grad[b] = (float)(-sign * w * beta * s * (1 - s));
    }
    return VP_OK;
}
