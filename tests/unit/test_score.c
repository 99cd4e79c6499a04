/* Scores: the generator's known answers, measures against values of scipy and scikit-learn (with ties), retrieval as
 * trec_eval orders it, vectors in row order, and what is refused. */
#include "lib/score/measure.h"
#include "lib/score/score.h"
#include "tests/unit/stream_support.h"
#include "tests/unit/tap.h"
#include <math.h>

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-12;
}

static void test_correlations(void) {
    const double x[] = {1, 2, 2, 3, 5, 5, 5, 0, 4, 4}, y[] = {.1, .3, .3, .2, .9, .7, .9, .05, .4, .45};
    double rx[10], ry[10];
    vp_ranked scratch[10];
    vp_ranks(x, 10, rx, scratch);
    vp_ranks(y, 10, ry, scratch);
    OK(rx[1] == 3.5 && rx[4] == 9 && rx[7] == 1, "equal values get the mean of their ranks");
    OK(near(vp_pearson(rx, ry, 10), 0.9503838910966829), "Spearman as scipy.stats.spearmanr");
    OK(near(vp_pearson(x, y, 10), 0.8987144393530132), "Pearson as scipy.stats.pearsonr");
    const double same[] = {.1, .1, .1};
    OK(isnan(vp_pearson(x, same, 3)), "undefined where one side is constant");
}

static void test_binary(void) {
    vp_judged item[] = {{.1, 0}, {.4, 1}, {.9, 0}, {.8, 1}, {.8, 0}, {.8, 1}, {.5, 1}, {.4, 0}};
    vp_binary b;
    vp_binary_measures(item, 8, &b);
    OK(near(b.ap, 0.5428571428571428), "average precision as sklearn.metrics, ties together: %.17g", b.ap);
    OK(near(b.f1, 8.0 / 11) && near(b.accuracy, 0.625), "best F1 and accuracy over all thresholds");
    OK(b.first_rank == 3, "a tie counts against the first positive: %lld", (long long)b.first_rank);
    vp_judged none[] = {{.1, 0}, {.2, 0}};
    vp_binary_measures(none, 2, &b);
    OK(b.ap == 0 && b.first_rank == 0 && b.accuracy == 1, "without a positive");
}

static void test_ranking(void) {
    const int32_t gain[] = {0, 3, 0, 1, 2, 0, 1}, ideal[] = {3, 2, 2, 1, 1};
    const vp_ranking r = {gain, ideal, 7, 5}, nothing = {gain, ideal, 7, 0};
    OK(near(vp_ndcg(&r, 5), 0.5094544037628329), "nDCG@5, linear gains");
    OK(near(vp_average_precision(&r, INT64_MAX), 0.43428571428571433), "average precision");
    OK(near(vp_average_precision(&r, 5), 0.32), "average precision at 5");
    OK(vp_reciprocal_rank(&r, 10) == 0.5 && vp_reciprocal_rank(&r, 1) == 0, "reciprocal rank");
    OK(near(vp_recall(&r, 4), 0.4) && near(vp_precision(&r, 10), 0.4), "recall and precision");
    OK(vp_ndcg(&nothing, 10) == 0 && vp_recall(&nothing, 10) == 0, "nothing relevant: zero");
}

static vp_score_file file_of(const char *text, const char *name) {
    return (vp_score_file){fd_of(text, strlen(text)), name};
}

static const vp_score_options plain = {0};

static void test_retrieval(void) {
    const vp_score_file qrels =
        file_of("query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t1\nq1\tz\t-1\nq2\tc\t1\n", "qrels");
    /* b and d tie: trec_eval puts d first; q2 has no hits, q9 no judgments */
    const vp_score_file hits = file_of("{\"query\":\"q1\",\"id\":\"b\",\"score\":0.5}\n"
                                       "{\"query\":\"q1\",\"id\":\"d\",\"score\":0.5}\n"
                                       "{\"query\":\"q9\",\"id\":\"a\",\"score\":1}\n"
                                       "{\"query\":\"q1\",\"id\":\"a\",\"score\":0.25}\n",
                                       "hits");
    vp_score s;
    vp_error err = {0};
    vp_buf run = {0};
    const vp_search_files f = {.qrels = qrels, .hits = hits, .run = &run};
    OK(!vp_score_retrieval(&s, &f, &plain, &err), "retrieval: %s", err.text);
    const double dcg = 1 / log2(3) + 2 / log2(4), ideal = 2 + 1 / log2(3);
    OK(near(s.measure[0].value, dcg / ideal / 2), "nDCG@10, a query without hits is zero: %.9g", s.measure[0].value);
    OK(s.units == 2 && s.count[0].n == 1 && s.count[1].n == 1, "what was missing is counted");
    const char *want = "q1 Q0 d 1 0.5 vecpipe\nq1 Q0 b 2 0.5 vecpipe\nq1 Q0 a 3 0.25 vecpipe\n";
    OK(run.len == strlen(want) && memcmp(run.data, want, run.len) == 0, "the TREC run");
    vp_buf_free(&run);
    close(qrels.fd);
    close(hits.fd);
}

static void refuse_retrieval(const char *qrels, const char *hits, const char *why) {
    const vp_score_file q = file_of(qrels, "qrels"), h = file_of(hits, "hits");
    vp_score s;
    vp_error err = {0};
    const int status = vp_score_retrieval(&s, &(vp_search_files){.qrels = q, .hits = h}, &plain, &err);
    OK(status == VP_DATA && strstr(err.text, why), "refused, '%s': %s", why, err.text);
    close(q.fd);
    close(h.fd);
}

#define HIT(id) "{\"query\":\"q\",\"id\":\"" id "\",\"score\":1}\n"

static void test_refused_retrieval(void) {
    refuse_retrieval("", HIT("a"), "qrels: no judgments");
    refuse_retrieval("q\ta\n", HIT("a"), "qrels:1: 2 columns");
    refuse_retrieval("q\ta\t1\nq\tb\tx\n", HIT("a"), "qrels:2: the relevance is not a number");
    refuse_retrieval("q\ta\t1.5\n", HIT("a"), "qrels:1: relevance 1.5");
    refuse_retrieval("q\ta\t1\nq\ta\t1\n", HIT("a"), "qrels:2: query 'q' has 'a' on line 1");
    refuse_retrieval("q\ta\t1\n", "", "hits: no hits");
    refuse_retrieval("q\ta\t1\n", HIT("a") "{", "hits:2: not JSON");
    refuse_retrieval("q\ta\t1\n", HIT("a") HIT("a"), "hits:2: query 'q' has 'a' on line 1");
    refuse_retrieval("q\ta\t1\n", "{\"query\":\"q\",\"id\":\"a\",\"score\":\"1\"}\n", "hits:1: no 'score'");
    refuse_retrieval("q\ta\t1\n", "{\"query\":\"q\",\"score\":1}\n", "hits:1: no 'id'");
}

/* Chunks count for their parent, by the best of them; TREC's four columns. */
static void test_parents(void) {
    const vp_score_file qrels = file_of("7 0 doc 1\n", "qrels");
    const vp_score_file hits = file_of("{\"query\":7,\"id\":\"doc#1\",\"parent\":\"doc\",\"score\":0.1}\n"
                                       "{\"query\":7,\"id\":\"other\",\"score\":0.5}\n"
                                       "{\"query\":7,\"id\":\"doc#2\",\"parent\":\"doc\",\"score\":0.9}\n",
                                       "hits");
    vp_score s;
    vp_error err = {0};
    const vp_search_files f = {.qrels = qrels, .hits = hits};
    OK(!vp_score_retrieval(&s, &f, &plain, &err) && s.measure[0].value == 1,
       "the best chunk stands for its document: %s", err.text);
    close(qrels.fd);
    close(hits.fd);
}

static void test_difference(void) {
    const vp_search_files f = {.qrels = file_of("q\ta\t1\nr\ta\t1\n", "qrels"),
                               .hits = file_of(HIT("a") HIT("b"), "hits"),
                               .against = file_of(HIT("a") "{\"query\":\"r\",\"id\":\"a\",\"score\":1}\n", "against"),
                               .difference = &(vp_score){0}};
    const vp_score_options intervals = {.bootstrap = 100};
    vp_score s;
    vp_error err = {0};
    OK(!vp_score_retrieval(&s, &f, &intervals, &err), "two systems: %s", err.text);
    /* reciprocal ranks: q 1/2 (b before a) and 1, r none and 1 */
    const vp_score_measure *mrr = &f.difference->measure[5];
    OK(strcmp(mrr->name, "mrr_at_10") == 0 && mrr->value == -0.75, "the difference: %g", mrr->value);
    OK(mrr->low == -1 && mrr->high == -0.5, "its interval: %g, %g", mrr->low, mrr->high);
    close(f.qrels.fd), close(f.hits.fd), close(f.against.fd);
}

#define E0 "0000803f00000000" /* (1, 0) */
#define E1 "000000000000803f" /* (0, 1) */
#define E2 "000040400000803f" /* (3, 1): neither is of length 1 */

static vp_score_file stream_of(const char *rows, const char *vectors, const char *name) {
    char batch[600];
    vp_buf b = {0};
    snprintf(batch, sizeof batch,
             "{\"kind\":\"batch\",\"seq\":0,\"columns\":{\"row\":{\"dtype\":\"I64\",\"shape\":[3],\"data\":\"hex:%s\"},"
             "\"emb\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data\":\"hex:%s\"}}}",
             rows, vectors);
    add_json(&b, HEADER);
    add_json(&b, batch);
    add_json(&b, "{\"kind\":\"end\",\"batches\":1,\"rows\":3,\"tokens\":0,\"truncated\":0,\"skipped\":0,\"empty\":0}");
    const vp_score_file f = {fd_of(b.data, b.len), name};
    vp_buf_free(&b);
    return f;
}

#define ROW(digit) "0" digit "00000000000000"

static void test_pairs(void) {
    vp_score s;
    vp_error err = {0};
    const char *gold[] = {"5\ta\tb\n1\tc\td\n3\te\tf\n", "1\ta\tb\n0\tc\td\n1\te\tf\n", "1\ta\tb\n0\tc\td\n",
                          "1\ta\tb\nx\tc\td\n"};
    vp_score_file a[4], b[4], g[4];
    for (int i = 0; i < 4; i++) {
        a[i] = stream_of(ROW("0") ROW("1") ROW("2"), E0 E0 E0, "a");
        b[i] = stream_of(ROW("2") ROW("0") ROW("1"), E2 E0 E1, "b"); /* cosines 1, 0, 0.95 in row order */
        g[i] = file_of(gold[i], "gold");
    }
    const vp_score_options intervals = {.bootstrap = 200, .seed = 7};
    OK(!vp_score_sts(&s, g[0], a[0], b[0], &intervals, &err), "sts: %s", err.text);
    OK(near(s.measure[0].value, 1), "vectors count in row order: Spearman %.9g", s.measure[0].value);
    OK(s.intervals && s.measure[1].low <= s.measure[1].value && s.measure[1].value <= s.measure[1].high,
       "the interval holds the value; resamples of one pair do not count");
    OK(!vp_score_pairs(&s, g[1], a[1], b[1], &plain, &err) && s.measure[0].value == 1 && s.measure[1].value == 1,
       "pairs: %s", err.text);
    OK(vp_score_sts(&s, g[2], a[2], b[2], &plain, &err) == VP_DATA && strstr(err.text, "3 vectors for 2 pairs"),
       "vectors and judgments must be as many: %s", err.text);
    err = (vp_error){0};
    OK(vp_score_sts(&s, g[3], a[3], b[3], &plain, &err) == VP_DATA && strstr(err.text, "gold:2: 'x' is not a number"),
       "a bad line is named: %s", err.text);
    for (int i = 0; i < 4; i++) close(a[i].fd), close(b[i].fd), close(g[i].fd);
}

static void test_rerank(void) {
    const char *gold = "{\"query\":\"q\",\"positive\":[\"p\"],\"negative\":[\"n\",\"m\"]}\n"
                       "{\"query\":\"r\",\"positive\":[],\"negative\":[]}\n"
                       "{\"query\":\"s\",\"positive\":null,\"negative\":[]}\n";
    const vp_score_file g = file_of(gold, "gold"), again = file_of(gold, "gold");
    const vp_score_file q = stream_of(ROW("0") ROW("1") ROW("2"), E0 E0 E0, "q");
    const vp_score_file c = stream_of(ROW("0") ROW("1") ROW("2"), E2 E0 E1, "c");
    vp_score s;
    vp_error err = {0};
    vp_buf out = {0};
    OK(!vp_score_rerank(&s, g, q, c, &plain, &err), "rerank: %s", err.text);
    OK(s.measure[0].value == 0.5 && s.measure[1].value == 0.5 && s.units == 1 && s.count[0].n == 2,
       "lines without both kinds are left out");
    OK(!vp_score_rerank_texts(again, true, &out, &err), "its texts: %s", err.text);
    const char *want =
        "{\"id\":\"1/1\",\"text\":\"p\"}\n{\"id\":\"1/2\",\"text\":\"n\"}\n{\"id\":\"1/3\",\"text\":\"m\"}\n";
    OK(out.len == strlen(want) && memcmp(out.data, want, out.len) == 0, "are records in the vectors' order");
    vp_buf_free(&out);
    close(g.fd), close(again.fd), close(q.fd), close(c.fd);
}

int main(void) {
    test_correlations();
    test_binary();
    test_ranking();
    test_retrieval();
    test_refused_retrieval();
    test_parents();
    test_difference();
    test_pairs();
    test_rerank();
    return done();
}
