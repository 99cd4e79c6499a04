/* Pairs of texts: judged similarity (sts) and same-or-not (pairs). */
#include "lib/score/measure.h"
#include "lib/score/private.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct pairs {
    bool labels; /* only 0 and 1 */
    double *gold;
    size_t n, cap;
    double *cosine;                  /* [n] */
    double *x, *y, *rank_x, *rank_y; /* [n] each, of the units picked */
    vp_ranked *ranked;               /* [n] */
    vp_judged *judged;               /* [n] */
} pairs;

static int take_line(void *self, const char *file, const vp_record *line, vp_error *err) {
    pairs *p = self;
    const char *tab = memchr(line->line, '\t', line->line_len);
    double value;
    if (!tab) return vp_score_bad(file, line, err, "no tab: a pair is NUMBER<tab>TEXT<tab>TEXT");
    const size_t len = (size_t)(tab - line->line);
    if (!vp_score_number(line->line, len, &value))
        return vp_score_bad(file, line, err, "'%.*s' is not a number", (int)(len < 40 ? len : 40), line->line);
    if (p->labels && value != 0 && value != 1)
        return vp_score_bad(file, line, err, "label %g is neither 0 nor 1", value);
    VP_TRY(vp_grow(&p->gold, &p->cap, p->n, sizeof *p->gold, "judgments", err));
    p->gold[p->n++] = value;
    return VP_OK;
}

static int take_cosines(pairs *p, vp_score_file first, vp_score_file second, vp_error *err) {
    vp_vectors a = {0}, b = {0};
    int status = vp_vectors_read(&a, first, (int64_t)p->n, "pairs", err);
    if (!status) status = vp_vectors_read(&b, second, (int64_t)p->n, "pairs", err);
    if (!status) status = vp_vectors_match(&a, &b, err);
    for (size_t i = 0; i < p->n && !status; i++) p->cosine[i] = vp_vectors_cosine(&a, (int64_t)i, &b, (int64_t)i);
    vp_vectors_free(&a);
    vp_vectors_free(&b);
    return status;
}

static int open_pairs(pairs *p, vp_score_file gold, vp_score_file first, vp_score_file second, vp_error *err) {
    VP_TRY(vp_score_lines(gold, take_line, p, err));
    double **array[] = {&p->cosine, &p->x, &p->y, &p->rank_x, &p->rank_y};
    bool ok = true;
    for (size_t i = 0; i < sizeof array / sizeof *array; i++)
        ok &= (*array[i] = vp_calloc(p->n + 1, sizeof(double))) != 0;
    p->ranked = vp_calloc(p->n + 1, sizeof *p->ranked);
    p->judged = vp_calloc(p->n + 1, sizeof *p->judged);
    if (!ok || !p->ranked || !p->judged) return vp_fail_memory(err, "pairs", p->n * sizeof(double));
    return take_cosines(p, first, second, err);
}

static void close_pairs(pairs *p) {
    free(p->gold);
    free(p->cosine);
    free(p->x);
    free(p->y);
    free(p->rank_x);
    free(p->rank_y);
    free(p->ranked);
    free(p->judged);
}

static void correlate(void *data, const int64_t *pick, int64_t n, double *out) {
    pairs *p = data;
    for (int64_t i = 0; i < n; i++) p->x[i] = p->gold[pick[i]], p->y[i] = p->cosine[pick[i]];
    vp_ranks(p->x, n, p->rank_x, p->ranked);
    vp_ranks(p->y, n, p->rank_y, p->ranked);
    out[0] = vp_pearson(p->rank_x, p->rank_y, n);
    out[1] = vp_pearson(p->x, p->y, n);
}

static void decide(void *data, const int64_t *pick, int64_t n, double *out) {
    pairs *p = data;
    vp_binary b;
    for (int64_t i = 0; i < n; i++) p->judged[i] = (vp_judged){p->cosine[pick[i]], p->gold[pick[i]] == 1};
    vp_binary_measures(p->judged, n, &b);
    out[0] = b.first_rank ? b.ap : NAN;
    out[1] = b.accuracy;
    out[2] = b.first_rank ? b.f1 : NAN;
}

static int score_pairs(vp_score *s, pairs *p, const vp_score_options *o, vp_error *err) {
    VP_TRY(vp_score_take(s, p->labels ? decide : correlate, p, o, err));
    for (int m = 0; m < s->n; m++)
        if (isnan(s->measure[m].value))
            return vp_fail(err, VP_DATA, "%s: %s is undefined: %s", s->task, s->measure[m].name,
                           p->labels ? "no pair has the label 1" : "all judgments or all cosines are equal");
    return VP_OK;
}

int vp_score_sts(vp_score *s, vp_score_file gold, vp_score_file first, vp_score_file second, const vp_score_options *o,
                 vp_error *err) {
    pairs p = {0};
    int status = open_pairs(&p, gold, first, second, err);
    *s = (vp_score){.task = "sts", .unit = "pairs", .units = (int64_t)p.n};
    vp_score_name(s, "cosine_spearman");
    vp_score_name(s, "cosine_pearson");
    if (!status) status = score_pairs(s, &p, o, err);
    close_pairs(&p);
    return status;
}

int vp_score_pairs(vp_score *s, vp_score_file gold, vp_score_file first, vp_score_file second,
                   const vp_score_options *o, vp_error *err) {
    pairs p = {.labels = true};
    int status = open_pairs(&p, gold, first, second, err);
    *s = (vp_score){.task = "pairs", .unit = "pairs", .units = (int64_t)p.n};
    vp_score_name(s, "cosine_ap");
    vp_score_name(s, "cosine_accuracy");
    vp_score_name(s, "cosine_f1");
    if (!status) status = score_pairs(s, &p, o, err);
    close_pairs(&p);
    return status;
}
