/* The rules of mining on candidates alone: the published worked example, ties with the limit, draws. */
#include "lib/base/philox.h"
#include "lib/vecpipe.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <string.h>

static vp_error err;

enum { N = 7, MANY = 64 };
static const float example[N] = {0.85f, 0.79f, 0.765f, 0.76f, 0.755f, 0.70f, 0.50f};

static size_t list(vp_candidate *c, const float *score, size_t n) {
    for (size_t i = 0; i < n; i++) c[i] = (vp_candidate){.score = score[i], .row = (int32_t)i, .key = 1000 + i};
    return n;
}

static bool rows_are(const vp_candidate *c, size_t n, const char *want) {
    char got[256] = "";
    size_t len = 0;
    for (size_t i = 0; i < n && len < sizeof got; i++)
        len += (size_t)snprintf(got + len, sizeof got - len, i ? " %d" : "%d", c[i].row);
    if (strcmp(got, want) != 0) printf("# %s, not %s\n", got, want);
    return strcmp(got, want) == 0;
}

/* NV-Retriever (arXiv 2407.15831): score+ 0.8; 95 % is a limit of 0.76, margin 0.05 one of 0.75, both strict. */
static void test_published(void) {
    static const struct {
        const char *rule, *kept;
        int64_t shift;
        float positive;
        vp_mine_counts counts;
    } cases[] = {
        {"percent", "4 5 6", 0, 0.8f, {.score = 4}},
        {"percent=0.95", "4 5 6", 0, 0.8f, {.score = 4}},
        {"margin", "5 6", 0, 0.8f, {.score = 5}},
        {"margin=0.05", "5 6", 0, 0.8f, {.score = 5}},
        {"abs", "6", 0, 0.8f, {.score = 6}},
        {"abs=0.76", "4 5 6", 0, 0.8f, {.score = 4}},
        {"naive", "0 1 2 3 4 5 6", 0, 0.8f, {.score = 0}},
        {"naive", "2 3 4 5 6", 2, 0.8f, {.rank = 2}},
        {"naive", "", 10, 0.8f, {.rank = 7}},
        {"percent", "5 6", 5, 0.8f, {.rank = 5}},
        {"percent", "", 0, 0.0f, {.score = 7, .margin = 1}},
        {"percent", "", 0, -0.2f, {.score = 7, .margin = 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vp_candidate c[N];
        vp_mine_counts counts = {0};
        vp_mine_rule rule = {.n = N, .shift = cases[i].shift};
        bool good = vp_mine_rule_parse(cases[i].rule, &rule.kind, &rule.limit, &err) == VP_OK;
        size_t n = vp_mine_choose(&rule, 1, cases[i].positive, c, list(c, example, N), &counts);
        good = good && rows_are(c, n, cases[i].kept) && memcmp(&counts, &cases[i].counts, sizeof counts) == 0;
        OK(good, "%s, the %lld best passed over, positive %g: keeps '%s'", cases[i].rule, (long long)cases[i].shift,
           (double)cases[i].positive, cases[i].kept);
    }
    vp_candidate c[2];
    const float low[2] = {-0.1f, -0.3f};
    vp_mine_counts counts = {0};
    const vp_mine_rule rule = {.kind = VP_MINE_PERCENT, .limit = 0.95f, .n = 2};
    OK(rows_are(c, vp_mine_choose(&rule, 1, -0.2f, c, list(c, low, 2), &counts), "1") && counts.margin == 1,
       "below 0 a share would keep what is above the positive: the margin does not");
}

static void test_spelling(void) {
    static const char *const bad[] = {"",
                                      "percent=",
                                      "percent=x",
                                      "percent=1x",
                                      "naive=1",
                                      "best",
                                      "abs=nan",
                                      "abs=inf",
                                      "margin= 1",
                                      "percentage",
                                      "abs=1e9",
                                      "percent=95",
                                      "percent=1.01",
                                      "percent=0",
                                      "percent=-0.5",
                                      "margin=-0.05"};
    static const char *const good[] = {"percent=1", "percent=0.001", "margin=0", "margin=20", "abs=-0.2", "abs=20"};
    vp_mine_kind kind;
    float limit;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        vp_error why = {0};
        OK(vp_mine_rule_parse(bad[i], &kind, &limit, &why) == VP_USAGE, "--rule '%s' is refused", bad[i]);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        OK(vp_mine_rule_parse(good[i], &kind, &limit, &err) == VP_OK, "--rule '%s' is taken", good[i]);
}

static void test_first(void) {
    vp_candidate c[N];
    vp_mine_counts counts = {0};
    vp_mine_rule rule = {.n = 3};
    OK(rows_are(c, vp_mine_choose(&rule, 1, 1, c, list(c, example, N), &counts), "0 1 2"), "the first three");
    rule.from = 2;
    OK(rows_are(c, vp_mine_choose(&rule, 1, 1, c, list(c, example, N), &counts), "0 1"), "from the first two");
}

/* How often each of three is drawn alone; softmax of 1, 0, -1 is 0.6652 0.2447 0.0900. */
static void test_odds(void) {
    static const float score[3] = {1, 0, -1};
    static const double want[2][3] = {{0.66524, 0.24473, 0.09003}, {1 / 3.0, 1 / 3.0, 1 / 3.0}};
    enum { DRAWS = 40000 };
    for (int even = 0; even < 2; even++) {
        const vp_mine_rule rule = {.n = 1, .pick = even ? VP_PICK_UNIFORM : VP_PICK_SAMPLE, .seed = 3};
        int64_t times[3] = {0};
        for (uint64_t query = 0; query < DRAWS; query++) {
            vp_candidate c[3];
            vp_mine_counts counts = {0};
            if (vp_mine_choose(&rule, query, 1, c, list(c, score, 3), &counts) == 1) times[c[0].row]++;
        }
        for (int i = 0; i < 3; i++) {
            const double p = want[even][i], got = (double)times[i] / DRAWS, bound = 5 * sqrt(p * (1 - p) / DRAWS);
            OK(fabs(got - p) <= bound, "%s: score %g is drawn with odds %.4f (%.4f)",
               even ? "even odds" : "softmax of the scores", (double)score[i], p, got);
        }
    }
}

static void test_draws(void) {
    float score[MANY];
    vp_candidate c[MANY], other[MANY];
    vp_mine_counts counts = {0};
    for (int i = 0; i < MANY; i++) score[i] = 1 - (float)i / MANY;
    vp_mine_rule rule = {.n = 5, .pick = VP_PICK_SAMPLE, .seed = 7};
    size_t n = vp_mine_choose(&rule, 42, 1, c, list(c, score, MANY), &counts);
    bool ascending = n == 5;
    for (size_t i = 1; i < n; i++) ascending = ascending && c[i - 1].row < c[i].row;
    OK(ascending, "what is drawn keeps its order");
    vp_mine_choose(&rule, 43, 1, other, list(other, score, MANY), &counts);
    OK(memcmp(c, other, 5 * sizeof *c) != 0, "another query, other draws");
    rule.seed = 8;
    vp_mine_choose(&rule, 42, 1, other, list(other, score, MANY), &counts);
    OK(memcmp(c, other, 5 * sizeof *c) != 0, "another seed, other draws");
    rule.seed = 7;
    /* a draw belongs to its text: candidates that were not drawn may go */
    size_t left = list(other, score, MANY), kept = 0;
    for (size_t i = 0, next = 0; i < left; i++) {
        const bool drawn = next < n && c[next].row == other[i].row;
        next += drawn;
        if (drawn || i % 2) other[kept++] = other[i];
    }
    bool same = vp_mine_choose(&rule, 42, 1, other, kept, &counts) == n;
    for (size_t i = 0; i < n; i++) same = same && other[i].row == c[i].row;
    OK(same, "candidates that go leave the other draws as they were");
    rule.pick = VP_PICK_TOP1_SAMPLE;
    for (uint64_t query = 0; query < 20; query++) {
        vp_mine_choose(&rule, query, 1, other, list(other, score, MANY), &counts);
        same = same && other[0].row == 0 && other[4].row > 0;
    }
    OK(same, "top1+sample keeps the best");
}

/* FlagEmbedding's range: from 0 to the whole corpus, as many wanted as there are: all of them, in the order of the
 * scores. */
static void test_range(void) {
    vp_candidate c[N];
    vp_mine_counts counts = {0};
    const vp_mine_rule rule = {.n = 15, .pick = VP_PICK_UNIFORM};
    OK(rows_are(c, vp_mine_choose(&rule, 1, 0.8f, c, list(c, example, N), &counts), "0 1 2 3 4 5 6"),
       "fewer than are wanted: all, in order");
}

static void test_normal(void) {
    static const struct {
        const char *a, *b;
        bool same;
    } cases[] = {{"A  b\t", "a b", true},      {" x", "x ", true},        {"caf\u00e9", "CAFE\u0301", true},
                 {"\uff21\uff22", "ab", true}, {"a\u00a0b", "a b", true}, {"stra\u00dfe", "STRASSE", true},
                 {"what?", "what", false},     {"ab", "a b", false},      {"", " \t", true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vp_buf scratch = {0};
        uint64_t a = 0, b = 0;
        bool good = !vp_mine_key(cases[i].a, strlen(cases[i].a), &scratch, &a, &err) &&
                    !vp_mine_key(cases[i].b, strlen(cases[i].b), &scratch, &b, &err);
        OK(good && (a == b) == cases[i].same, "'%s' and '%s' are %s", cases[i].a, cases[i].b,
           cases[i].same ? "the same text" : "two texts");
        vp_buf_free(&scratch);
    }
    vp_buf scratch = {0};
    vp_error why = {0};
    uint64_t key;
    OK(vp_mine_key("a\xff", 2, &scratch, &key, &why) == VP_DATA, "bytes that are not UTF-8 are refused");
    vp_buf_free(&scratch);
}

int main(void) {
    test_published();
    test_spelling();
    test_first();
    test_odds();
    test_draws();
    test_range();
    test_normal();
    return done();
}
