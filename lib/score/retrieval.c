/* Retrieval: the hits of each judged query against its judgments, as trec_eval scores them. */
#include "lib/score/judgments.h"
#include "lib/score/measure.h"
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    double (*measure)(const vp_ranking *r, int64_t k);
    int64_t k;
} measures[] = {
    {"ndcg_at_10", vp_ndcg, 10},
    {"ndcg_at_100", vp_ndcg, 100},
    {"map_at_10", vp_average_precision, 10},
    {"map_at_100", vp_average_precision, 100},
    {"map", vp_average_precision, INT64_MAX},
    {"mrr_at_10", vp_reciprocal_rank, 10},
    {"recall_at_10", vp_recall, 10},
    {"recall_at_100", vp_recall, 100},
    {"precision_at_10", vp_precision, 10},
};
enum { MEASURES = sizeof measures / sizeof *measures };

typedef struct retrieval {
    vp_judgments qrels, hits;
    double *value;         /* [queries, MEASURES] */
    int32_t *gain, *ideal; /* [the most hits or judgments of all] */
    vp_buf *run;
    int64_t queries, without_hits, unjudged;
} retrieval;

/* trec_eval's order: descending score, then descending id. */
static int by_score(const void *a, const void *b) {
    const vp_judgment *x = a, *y = b;
    const int order = (x->score < y->score) - (x->score > y->score);
    return order ? order : vp_name_compare(y->document, x->document);
}

static int descending(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x < y) - (x > y);
}

static bool has_blank(vp_name x) {
    for (size_t i = 0; i < x.n; i++)
        if ((unsigned char)x.s[i] <= ' ') return true;
    return false;
}

static int put_run(vp_buf *run, const vp_judgment *hit, size_t n, vp_error *err) {
    for (size_t i = 0; i < n; i++) {
        const vp_name q = hit[i].query, d = hit[i].document;
        if (has_blank(q) || has_blank(d))
            return vp_fail(err, VP_DATA, "identifier '%.*s' has a blank: a TREC run cannot hold it",
                           (int)((has_blank(q) ? q : d).n < 80 ? (has_blank(q) ? q : d).n : 80),
                           (has_blank(q) ? q : d).s);
        VP_TRY(vp_buf_add(run, q.s, q.n, err));
        VP_TRY(vp_buf_add(run, " Q0 ", 4, err));
        VP_TRY(vp_buf_add(run, d.s, d.n, err));
        VP_TRY(vp_buf_printf(run, err, " %zu %.9g vecpipe\n", i + 1, hit[i].score));
    }
    return VP_OK;
}

/* One query: judgments judged[n], ascending by document, and hits hit[hits], likewise, which are put in order here. */
static int score_query(retrieval *r, const vp_judgment *judged, size_t n, vp_judgment *hit, size_t hits,
                       vp_error *err) {
    vp_ranking x = {.gain = r->gain, .ideal = r->ideal, .n = (int64_t)hits};
    for (size_t i = 0; i < n; i++)
        if (judged[i].relevance > 0) r->ideal[x.relevant++] = judged[i].relevance;
    qsort(r->ideal, (size_t)x.relevant, sizeof *r->ideal, descending);
    for (size_t i = 0, j = 0; i < hits; i++) {
        while (j < n && vp_name_compare(judged[j].document, hit[i].document) < 0) j++;
        const bool same = j < n && vp_name_compare(judged[j].document, hit[i].document) == 0;
        hit[i].relevance = same && judged[j].relevance > 0 ? judged[j].relevance : 0;
    }
    if (hits) qsort(hit, hits, sizeof *hit, by_score);
    for (size_t i = 0; i < hits; i++) r->gain[i] = hit[i].relevance;
    for (int m = 0; m < MEASURES; m++) r->value[r->queries * MEASURES + m] = measures[m].measure(&x, measures[m].k);
    r->queries++;
    r->without_hits += hits == 0;
    return r->run ? put_run(r->run, hit, hits, err) : VP_OK;
}

/* Both tables are in query order: walk them together. */
static int score_queries(retrieval *r, vp_error *err) {
    size_t q = 0, h = 0;
    while (q < r->qrels.n || h < r->hits.n) {
        const size_t q_end = vp_judgments_query_end(&r->qrels, q), h_end = vp_judgments_query_end(&r->hits, h);
        const int order = q == r->qrels.n  ? 1
                          : h == r->hits.n ? -1
                                           : vp_name_compare(r->qrels.item[q].query, r->hits.item[h].query);
        if (order <= 0) {
            VP_TRY(score_query(r, r->qrels.item + q, q_end - q, r->hits.item + h, order ? 0 : h_end - h, err));
            q = q_end;
        } else
            r->unjudged++;
        if (order >= 0) h = h_end;
    }
    return VP_OK;
}

/* Read one system's hits and fill r->value. */
static int score_hits(retrieval *r, vp_score_file hits, vp_error *err) {
    VP_TRY(vp_judgments_read_hits(&r->hits, hits, err));
    const size_t most = r->qrels.n > r->hits.n ? r->qrels.n : r->hits.n;
    r->value = vp_calloc(r->qrels.n, sizeof *r->value * MEASURES);
    r->gain = vp_calloc(most, sizeof *r->gain);
    r->ideal = vp_calloc(most, sizeof *r->ideal);
    if (!r->value || !r->gain || !r->ideal) return vp_fail_memory(err, "queries", r->qrels.n * sizeof *r->value);
    return score_queries(r, err);
}

/* All but the judgments, which two systems share. */
static void close_hits(retrieval *r) {
    vp_judgments_free(&r->hits);
    free(r->value);
    free(r->gain);
    free(r->ideal);
}

static void begin(vp_score *s, const char *task) {
    *s = (vp_score){.task = task, .unit = "queries"};
    for (int m = 0; m < MEASURES; m++) vp_score_name(s, measures[m].name);
}

static int finish(vp_score *s, const retrieval *r, const vp_score_options *o, vp_error *err) {
    s->units = r->queries;
    vp_score_count(s, "queries_without_hits", r->without_hits);
    vp_score_count(s, "queries_unjudged", r->unjudged);
    return vp_score_take_means(s, r->value, o, err);
}

/* Query by query r - other: a resample takes the same queries of both. */
static int compare(const vp_search_files *f, const retrieval *r, const vp_score_options *o, vp_error *err) {
    retrieval other = {.qrels = r->qrels};
    int status = score_hits(&other, f->against, err);
    for (int64_t i = 0; i < r->queries * MEASURES && !status; i++) other.value[i] = r->value[i] - other.value[i];
    begin(f->difference, "difference");
    if (!status) status = finish(f->difference, &other, o, err);
    close_hits(&other);
    return status;
}

int vp_score_retrieval(vp_score *s, const vp_search_files *f, const vp_score_options *o, vp_error *err) {
    retrieval r = {.run = f->run};
    begin(s, "retrieval");
    int status = vp_judgments_read_qrels(&r.qrels, f->qrels, err);
    if (!status) status = score_hits(&r, f->hits, err);
    if (!status) status = finish(s, &r, o, err);
    if (!status && f->difference) status = compare(f, &r, o, err);
    vp_judgments_free(&r.qrels);
    close_hits(&r);
    return status;
}
