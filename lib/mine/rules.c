/* Which of a query's candidates are kept by their scores, and which of those are picked. NV-Retriever, arXiv
 * 2407.15831: section 3 has the rules, 4.3 the sampling. Nothing here knows where candidates come from. */
#include "lib/mine/mine.h"
#include "lib/base/philox.h"
#include "lib/mine/private.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A share of a score means nothing where that is 0 or less: then this margin below it. */
static const float fallback_margin = 0.05f;

static const struct {
    const char *name;
    float best;
} kinds[VP_MINE_KINDS] = {
#define X(e, name, best) {name, (float)best},
    VP_MINE_RULES(X)
#undef X
};

int vp_mine_rule_parse(const char *s, vp_mine_kind *kind, float *limit, vp_error *err) {
    const size_t n = strcspn(s, "=");
    int k = 0;
    while (k < VP_MINE_KINDS && (strlen(kinds[k].name) != n || memcmp(kinds[k].name, s, n) != 0)) k++;
    if (k == VP_MINE_KINDS) return vp_fail(err, VP_USAGE, "--rule: '%.100s' is not naive, abs, margin or percent", s);
    *kind = (vp_mine_kind)k;
    *limit = kinds[k].best;
    if (!s[n]) return VP_OK;
    char *end;
    const double value = strtod(s + n + 1, &end);
    if (k == VP_MINE_NAIVE || !strchr("0123456789.-", s[n + 1]) || end == s + n + 1 || *end || !(fabs(value) <= 1e6))
        return vp_fail(err, VP_USAGE, "--rule: '%.100s' has no limit that it could have", s);
    *limit = (float)value;
    if (k == VP_MINE_PERCENT && !(*limit > 0 && *limit <= 1))
        return vp_fail(err, VP_USAGE,
                       "--rule: '%.100s': a share of the positive's score, above 0 and at most 1, as 0.95", s);
    if (k == VP_MINE_MARGIN && !(*limit >= 0))
        return vp_fail(err, VP_USAGE, "--rule: '%.100s': so far below the positive's score: 0 or more", s);
    return VP_OK;
}

static bool keeps(vp_mine_kind kind, float limit, float positive, float score) {
    switch (kind) {
    case VP_MINE_ABS:
        return score < limit;
    case VP_MINE_MARGIN:
        return score < positive - limit;
    case VP_MINE_PERCENT:
        return score < limit * positive;
    default:
        return true;
    }
}

static size_t keep(const vp_mine_rule *r, float positive, vp_candidate *c, size_t n, vp_mine_counts *counts) {
    vp_mine_kind kind = r->kind;
    float limit = r->limit;
    if (kind == VP_MINE_PERCENT && !(positive > 0)) {
        kind = VP_MINE_MARGIN;
        limit = fallback_margin;
        counts->margin++;
    }
    const size_t first = (size_t)r->shift < n ? (size_t)r->shift : n;
    size_t kept = 0;
    for (size_t i = first; i < n; i++)
        if (keeps(kind, limit, positive, c[i].score)) c[kept++] = c[i];
    counts->rank += (int64_t)first;
    counts->score += (int64_t)(n - first - kept);
    return kept;
}

float vp_mine_of_positives(vp_mine_positive which, const float *score, size_t n) {
    float best = n ? score[0] : 0;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (which == VP_POSITIVE_MIN ? score[i] < best : score[i] > best) best = score[i];
        sum += (double)score[i];
    }
    return which == VP_POSITIVE_MEAN && n ? (float)(sum / (double)n) : best;
}

double vp_mine_draw(uint64_t seed, uint64_t query, uint64_t candidate) {
    const uint32_t counter[4] = {(uint32_t)query, (uint32_t)(query >> 32), (uint32_t)candidate,
                                 (uint32_t)(candidate >> 32)};
    uint32_t word[4];
    vp_philox(word, counter, seed);
    return ((double)word[0] + 0.5) * 0x1p-32;
}

/* The larger, the earlier a sequence of draws without replacement would take it: log of the weight plus a Gumbel
 * variable (Kool, van Hoof and Welling, ICML 2019). */
static double priority(const vp_mine_rule *r, uint64_t query, const vp_candidate *c) {
    const double weight = r->pick == VP_PICK_UNIFORM ? 0 : (double)c->score;
    return weight - log(-log(vp_mine_draw(r->seed, query, c->key)));
}

static int by_place(const void *a, const void *b) {
    const vp_candidate *x = a, *y = b;
    return (x->place > y->place) - (x->place < y->place);
}

static int by_priority(const void *a, const void *b) {
    const vp_candidate *x = a, *y = b;
    if (x->priority != y->priority) return x->priority > y->priority ? -1 : 1;
    return by_place(a, b);
}

/* The wanted of c[0..n) with the highest priorities come to the front, in the order that they had. */
static void sample(const vp_mine_rule *r, uint64_t query, vp_candidate *c, size_t n, size_t wanted) {
    for (size_t i = 0; i < n; i++) {
        c[i].place = (int32_t)i;
        c[i].priority = priority(r, query, &c[i]);
    }
    qsort(c, n, sizeof *c, by_priority);
    qsort(c, wanted, sizeof *c, by_place);
}

size_t vp_mine_choose(const vp_mine_rule *r, uint64_t query, float positive, vp_candidate *c, size_t n,
                      vp_mine_counts *counts) {
    n = keep(r, positive, c, n, counts);
    if (r->from && n > (size_t)r->from) n = (size_t)r->from;
    const size_t wanted = (size_t)r->n;
    if (n <= wanted) return n;
    const size_t fixed = r->pick == VP_PICK_FIRST ? wanted : r->pick == VP_PICK_TOP1_SAMPLE ? 1 : 0;
    sample(r, query, c + fixed, n - fixed, wanted - fixed);
    return wanted;
}
