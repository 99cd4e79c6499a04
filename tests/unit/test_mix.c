/* mix: Philox against its published answers, the permutations' uniformity, and what an epoch takes of every set. */
#include "lib/base/philox.h"
#include "lib/train/permute.h"
#include "lib/train/train.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- random numbers ---- */
static void known_answers(void) {
    static const struct {
        uint32_t counter[4];
        uint64_t key;
        uint32_t want[4];
    } cases[] = {
        {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, ~(uint64_t)0, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         0x299f31d0a4093822,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t got[4];
        vp_philox(got, cases[i].counter, cases[i].key);
        OK(memcmp(got, cases[i].want, sizeof got) == 0, "Philox4x32-10, known answer %zu", i);
    }
}

/* ---- permutations ---- */
static bool is_permutation(const vp_permutation *p, uint64_t n) {
    bool *seen = calloc(n, sizeof *seen), all = seen != NULL;
    for (uint64_t i = 0; all && i < n; i++) {
        const uint64_t at = vp_permute(p, i, n);
        all = at < n && !seen[at];
        if (all) seen[at] = true;
    }
    free(seen);
    return all;
}

static void bijections(void) {
    static const uint64_t sizes[] = {1, 2, 3, 7, 63, 64, 65, 1000, 4096, 4097, 100003};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const vp_permutation p = {.seed = 7 + i, .pass = i, .stream = 3};
        OK(is_permutation(&p, sizes[i]), "every one of %llu numbers once", (unsigned long long)sizes[i]);
    }
    const vp_permutation p = {.seed = 1};
    const uint64_t huge = ((uint64_t)1 << 62) + 5;
    bool below = true;
    for (uint64_t i = 0; i < 100; i++) below = below && vp_permute(&p, huge - 1 - i, huge) < huge;
    OK(below, "a domain of 2^62 stays within it");
}

/* Pearson's statistic of counts that should all be `expected`. */
static double chi_square(const int *count, int n, double expected) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (count[i] - expected) * (count[i] - expected) / expected;
    return sum;
}

/* Bounds are the 0.9999 quantiles of chi-square; the seeds are fixed, so that they hold or do not. */
static void uniformity(void) {
    enum { SEEDS = 24000 };
    int order[256] = {0}, order_n = 0, place[10][10] = {0}, all[100], follows = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        const vp_permutation p = {.seed = seed};
        unsigned code = 0;
        for (uint64_t i = 0; i < 4; i++) code = code << 2 | (unsigned)vp_permute(&p, i, 4);
        order[code]++;
        for (uint64_t i = 0; i < 10; i++) place[i][vp_permute(&p, i, 10)]++;
    }
    int seen[24] = {0};
    for (int i = 0; i < 256; i++)
        if (order[i] && order_n < 24) seen[order_n++] = order[i];
    double x = chi_square(seen, 24, SEEDS / 24.0);
    OK(x <= 58.6, "all 24 orders of 4 are alike frequent: chi-square %.1f, 23 degrees of freedom", x);
    memcpy(all, place, sizeof all);
    x = chi_square(all, 100, SEEDS / 10.0);
    OK(x <= 138.0, "every element comes to every place of 10: chi-square %.1f, 81 degrees of freedom", x);
    const vp_permutation p = {.seed = 5};
    const uint64_t n = 100000;
    for (uint64_t i = 0; i + 1 < n; i++) follows += vp_permute(&p, i + 1, n) == vp_permute(&p, i, n) + 1;
    OK(follows <= 7, "neighbours are parted: %d of 100000 stayed, 1 expected", follows);
}

static int agreements(const vp_permutation *a, const vp_permutation *b) {
    int same = 0;
    for (uint64_t i = 0; i < 1000; i++) same += vp_permute(a, i, 1000) == vp_permute(b, i, 1000);
    return same;
}

static void independence(void) {
    const vp_permutation p = {.seed = 1, .pass = 1, .stream = 1};
    const vp_permutation other[] = {{.seed = 2, .pass = 1, .stream = 1},
                                    {.seed = 1 + ((uint64_t)1 << 40), .pass = 1, .stream = 1},
                                    {.seed = 1, .pass = 2, .stream = 1},
                                    {.seed = 1, .pass = 1 + ((uint64_t)1 << 40), .stream = 1},
                                    {.seed = 1, .pass = 1, .stream = 2}};
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        const int same = agreements(&p, &other[i]);
        OK(same <= 8, "another seed, pass or stream: another order (%d of 1000 agree)", same);
    }
}

/* ---- mixes ---- */
static char folder[] = "/tmp/vp-mix-XXXXXX";
static char path[2][64];

static void write_file(int i, const char *text, size_t n) {
    snprintf(path[i], sizeof path[i], "%s/%d.jsonl", folder, i);
    FILE *f = fopen(path[i], "w");
    if (!f || fwrite(text, 1, n, f) != n || fclose(f) != 0) abort();
}

/* Set i: n records {"n":0} .. */
static void write_set(int i, int n) {
    vp_buf text = {0};
    vp_error err = {0};
    for (int k = 0; k < n; k++)
        if (vp_buf_printf(&text, &err, "{\"set\":%d,\"n\":%d}\n", i, k)) abort();
    write_file(i, text.data, text.len);
    vp_buf_free(&text);
}

enum { MOST = 64 };
typedef struct taken {
    int count[2][MOST]; /* how often a record came */
    int mixed;          /* steps with records of both sets */
    int status;
} taken;

static taken take(vp_mix_options o, double w0, double w1, int64_t from, int64_t to) {
    const vp_mix_set set[2] = {{path[0], w0}, {path[1], w1}};
    vp_error err = {0};
    vp_buf line = {0};
    vp_mix *m;
    taken t = {0};
    o.set = set;
    o.sets = 2;
    t.status = vp_mix_open(&m, &o, &err);
    if (t.status) return t;
    for (int64_t step = from; step < to; step++) {
        bool came[2] = {false, false};
        for (int64_t k = 0; k < o.batch && !t.status; k++) {
            int s, n;
            line.len = 0;
            t.status = vp_mix_row(m, step, k, &line, &err);
            if (!t.status) t.status = vp_buf_add(&line, "", 1, &err);
            if (t.status || sscanf(line.data, "{\"set\":%d,\"n\":%d}", &s, &n) != 2) break;
            t.count[s][n]++;
            came[s] = true;
        }
        t.mixed += came[0] && came[1];
    }
    vp_buf_free(&line);
    vp_mix_close(m);
    return t;
}

/* Whether each of n records came `least` to `most` times, and all of them `total` times. */
static bool came(const int *count, int n, int least, int most, int total) {
    int sum = 0;
    bool within = true;
    for (int i = 0; i < n; i++) {
        within = within && count[i] >= least && count[i] <= most;
        sum += count[i];
    }
    return within && sum == total;
}

static void epochs(void) {
    const vp_mix_options o = {.seed = 3, .batch = 1, .steps = 1000};
    write_set(0, 40);
    write_set(1, 20);
    taken t = take(o, 1, 1, 60, 120);
    OK(!t.status && came(t.count[0], 40, 1, 1, 40) && came(t.count[1], 20, 1, 1, 20), "an epoch takes every row once");
    t = take(o, 0.25, 1, 0, 30);
    OK(came(t.count[0], 40, 0, 1, 10) && came(t.count[1], 20, 1, 1, 20),
       "weight 0.25: a quarter of the rows, no twice");
    t = take(o, 0.25, 1, 0, 120);
    OK(came(t.count[0], 40, 1, 1, 40) && came(t.count[1], 20, 4, 4, 80), "weight 0.25: four epochs have had all rows");
    t = take(o, 0.7, 1, 0, 48);
    OK(came(t.count[0], 40, 0, 1, 28), "weight 0.7: 28 different rows of 40");
    t = take(o, 2.5, 1, 0, 120);
    OK(came(t.count[0], 40, 2, 3, 100), "weight 2.5: every row two or three times");
    t = take(o, 0.001, 1, 0, 21);
    OK(came(t.count[0], 40, 0, 1, 1), "a weight that gives less than one row gives one");
}

static void batches(void) {
    vp_mix_options o = {.seed = 3, .batch = 6, .epochs = 1, .batches = VP_MIX_SAME};
    taken t = take(o, 1, 1, 0, 6 + 3);
    OK(!t.status && t.mixed == 0 && came(t.count[0], 40, 0, 1, 36) && came(t.count[1], 20, 0, 1, 18),
       "same: every batch of one set, the incomplete ones left out");
    o.batch = 21;
    OK(take(o, 1, 1, 0, 0).status == VP_DATA, "same: a set that fills no batch is refused");
    o.batches = VP_MIX_BLENDED;
    t = take(o, 1, 1, 0, 2);
    OK(t.mixed == 2, "blended: batches of both sets");
    OK(take(o, 1, 1, 2, 3).status == VP_BUG, "a step that does not exist");
    o.batch = 61;
    OK(take(o, 1, 1, 0, 0).status == VP_DATA, "fewer rows than one batch are refused");
    o.batch = 1;
    o.epochs = 1e9;
    OK(take(o, 1, 1, 0, 0).status == VP_USAGE, "more steps than a counter holds are refused");
}

/* The text of one file as one mix in order, or the message. */
static void one_file(const char *text, vp_mix_lines format, int status, const char *want) {
    write_file(0, text, strlen(text));
    const vp_mix_set set = {path[0], 1};
    const vp_mix_options o = {.set = &set, .sets = 1, .batch = 1, .epochs = 1, .lines = format, .in_order = true};
    vp_error err = {0};
    vp_buf out = {0};
    vp_mix *m = NULL;
    int got = vp_mix_open(&m, &o, &err);
    for (int64_t step = 0; !got && step < vp_mix_steps(m); step++) got = vp_mix_row(m, step, 0, &out, &err);
    vp_error ignored = {0};
    if (vp_buf_add(&out, "", 1, &ignored)) abort();
    const bool as_wanted = status ? strstr(err.text, want) != NULL : strcmp(out.data, want) == 0;
    OK(got == status && as_wanted, "a file that begins with %.*s: status %d %s", (int)strcspn(text, "\r\n"), text, got,
       err.text);
    vp_error checked = {0};
    if (m && status == VP_DATA) OK(vp_mix_check(m, &checked) == VP_DATA, "and the check finds it");
    vp_mix_close(m);
    vp_buf_free(&out);
}

static void records(void) {
    one_file("", VP_MIX_LINES_AUTO, VP_OK, "");
    one_file("\n\n", VP_MIX_LINES_YES, VP_OK, "");
    one_file("\xef\xbb\xbf{\"a\": 1 }\r\n\n {\"b\":2}", VP_MIX_LINES_AUTO, VP_OK, "{\"a\": 1 }\n {\"b\":2}\n");
    one_file(
        "\nx\r\n\n\ty\"\n\nz", VP_MIX_LINES_YES, VP_OK,
        "{\"id\":\"1:2\",\"text\":\"x\"}\n{\"id\":\"1:4\",\"text\":\"\\ty\\\"\"}\n{\"id\":\"1:6\",\"text\":\"z\"}\n");
    one_file("{\"_vp\":{\"jsonl\":1}}\n{\"a\":1}\n{\"_vp\":{\"end\":true,\"rows\":1}}\n", VP_MIX_LINES_NO, VP_OK,
             "{\"a\":1}\n");
    one_file("{\"_vp\":{\"jsonl\":1}}\n{\"a\":1}\n", VP_MIX_LINES_NO, VP_UPSTREAM, "died");
    one_file("{\"_vp\":{\"jsonl\":1}}\n", VP_MIX_LINES_NO, VP_UPSTREAM, "died");
    one_file("{\"_vp\":{\"jsonl\":1}}\n{\"a\":1}\n{\"_vp\":{\"end\":true,\"rows\":2}}\n", VP_MIX_LINES_NO, VP_UPSTREAM,
             "died");
    one_file("{\"a\":1}\n{\"_vp\":{}}\n", VP_MIX_LINES_NO, VP_DATA, "0.jsonl:2: a _vp line");
    one_file("{\"a\":1}\n\n{\"a\":\n", VP_MIX_LINES_NO, VP_DATA, "0.jsonl:3: not JSON");
    one_file("{\"_vp\":\n", VP_MIX_LINES_NO, VP_DATA, "0.jsonl:1: not JSON");
    one_file("[1]\n", VP_MIX_LINES_NO, VP_DATA, "0.jsonl:1: not a JSON object");
    one_file("{\"a\":1,\"a\":2}\n", VP_MIX_LINES_NO, VP_DATA, "duplicate");
    one_file("x\n\xff\n", VP_MIX_LINES_YES, VP_DATA, "0.jsonl:2: not UTF-8 at byte 0");
}

int main(void) {
    if (!mkdtemp(folder)) abort();
    known_answers();
    bijections();
    uniformity();
    independence();
    epochs();
    batches();
    records();
    for (int i = 0; i < 2; i++) unlink(path[i]);
    rmdir(folder);
    return done();
}
