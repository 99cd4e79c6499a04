/* mine-negs: hard negatives for the queries of a stream, out of an index; or another rule on what was mined before. */
#include "lib/vecpipe.h"
#include "tools/common_options.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_TEACHERS = 16 };
#define MAX_SEED 9223372036854775807.0

typedef struct options {
    vp_mine_options mine;
    const char *candidates, *rule, *range;
    vp_mine_source source[MAX_TEACHERS];
    int sources;   /* 1: of all teachers */
    bool by_words; /* one of them is not of vectors alone */
    int positive, few, pick, duplicates;
    int64_t seed, threads;
    bool no_scores, reapply, texts;
} options;
static options opt = {.mine = {.rule = {.n = 4}}, .candidates = "dense", .rule = "percent"};

static const vp_option table[] = {
    {.kind = VP_OPT_GROUP, .help = "Candidates"},
    {.name = "candidates",
     .kind = VP_OPT_STRING,
     .target = &opt.candidates,
     .value = VP_MINE_SOURCES ",...",
     .help = "nearest vectors; BM25, which needs none; both, by rank; the row's own negatives; or one of each teacher"},
    {.name = "depth",
     .kind = VP_OPT_INT,
     .target = &opt.mine.depth,
     .value = "K",
     .max = 1e6,
     .help = "how many of each ranking; 0: 100"},
    {.name = "range",
     .kind = VP_OPT_STRING,
     .target = &opt.range,
     .value = "LO-HI",
     .help = "ranks LO to HI-1 of the ranking, from 0, whatever stands before, instead of --depth"},
    {.name = "words",
     .kind = VP_OPT_STRING,
     .target = &opt.mine.words,
     .value = "FIELD",
     .help = "BM25 looks for the words of this field of a row instead of its query's"},
    {.name = "class",
     .kind = VP_OPT_STRING,
     .target = &opt.mine.label,
     .value = "FIELD",
     .help = "a text that has a value of this field of the row, one or a list, is no negative"},
    {.name = "known",
     .kind = VP_OPT_STRING,
     .target = &opt.mine.known,
     .value = "FILE",
     .help = "rows whose positives are no negatives of an equal query"},
    {.name = "max-score",
     .kind = VP_OPT_REAL,
     .target = &opt.mine.most,
     .value = "S",
     .help = "of rows in it with a `score` only those above S"},
    {.kind = VP_OPT_GROUP, .help = "Which are kept"},
    {.name = "rule",
     .kind = VP_OPT_STRING,
     .target = &opt.rule,
     .value = "naive|abs=T|margin=M|percent=C",
     .help = "score below T (0.7), positive's - M (0.05), positive's x C, a share (0.95)"},
    {.name = "pos",
     .kind = VP_OPT_CHOICE,
     .target = &opt.positive,
     .choices = VP_MINE_POSITIVES,
     .help = "which score counts of several positives"},
    {.name = "shift",
     .kind = VP_OPT_INT,
     .target = &opt.mine.rule.shift,
     .value = "N",
     .max = 1e6,
     .help = "pass over the N best that could be negatives"},
    {.kind = VP_OPT_GROUP, .help = "Which are taken"},
    {.name = "negatives",
     .letter = 'n',
     .kind = VP_OPT_INT,
     .target = &opt.mine.rule.n,
     .value = "N",
     .min = 1,
     .max = 1e6,
     .help = "negatives of a row, of each teacher"},
    {.name = "pick",
     .kind = VP_OPT_CHOICE,
     .target = &opt.pick,
     .choices = VP_MINE_PICKS,
     .help = "the best; drawn by softmax of the scores, perhaps beside the best one; drawn with even odds"},
    {.name = "from",
     .kind = VP_OPT_INT,
     .target = &opt.mine.rule.from,
     .value = "K",
     .max = 1e6,
     .help = "draw from the first K that are kept; 0: from all"},
    {.name = "seed",
     .kind = VP_OPT_INT,
     .target = &opt.seed,
     .value = "N",
     .max = MAX_SEED,
     .help = "another number, other draws"},
    {.name = "short",
     .kind = VP_OPT_CHOICE,
     .target = &opt.few,
     .choices = VP_MINE_SHORTS,
     .help = "rows with too few: keep those that have any, drop them, fill up with random texts"},
    {.name = "duplicates",
     .kind = VP_OPT_CHOICE,
     .target = &opt.duplicates,
     .choices = "keep|drop",
     .help = "what a teacher before has taken already"},
    {.kind = VP_OPT_GROUP, .help = "Other"},
    {.name = "no-scores",
     .kind = VP_OPT_FLAG,
     .target = &opt.no_scores,
     .help = "print no scores; the index need not have the positives for naive and abs"},
    {.name = "skip-bad",
     .kind = VP_OPT_FLAG,
     .target = &opt.mine.skip_bad,
     .help = "count rows that are malformed or whose positive is missing, and go on"},
    OPTION_THREADS(&opt.threads, "threads; 0: all that the process may use"),
    {.name = "reapply",
     .kind = VP_OPT_FLAG,
     .target = &opt.reapply,
     .help = "the input is what was mined before: choose again by its scores"},
    {.name = "texts",
     .kind = VP_OPT_FLAG,
     .target = &opt.texts,
     .help = "print the distinct positives and negatives of rows, as a corpus to mine from"},
    {0},
};
static const vp_program program = {
    .name = "mine-negs",
    .summary = "hard negatives for queries: near in an index, and no answers",
    .usage = "mine-negs [OPTION]... INDEX [QUERIES] [INDEX QUERIES]... >TRIPLES.jsonl\n"
             "mine-negs --reapply [OPTION]... [TRIPLES.jsonl]\n"
             "mine-negs --texts [ROWS.jsonl]",
    .options = table,
    .notes =
        "tok --text corpus.jsonl | fwd | pool | knn add corpus.idx\n"
        "tok --query rows.jsonl | fwd | pool | mine-negs corpus.idx >triples.jsonl\n"
        "Rows have `query`, and `positive` or `pos_ids`. Several pairs of INDEX and QUERIES are several teachers.\n",
};

static int set_range(vp_error *err) {
    char *end = NULL;
    if (!opt.range) return VP_OK;
    const bool digits = strspn(opt.range, "0123456789-") == strlen(opt.range) && strlen(opt.range) < 18;
    const long long lo = digits ? strtoll(opt.range, &end, 10) : -1;
    const long long hi = end && *end == '-' ? strtoll(end + 1, &end, 10) : -1;
    if (!digits || lo < 0 || hi <= lo || hi > 1000000 || !end || *end)
        return vp_fail(err, VP_USAGE, "--range: '%.100s' is not LO-HI with LO < HI <= 1000000", opt.range);
    if (opt.mine.depth) return vp_fail(err, VP_USAGE, "--range and --depth exclude each other");
    opt.mine.first = lo;
    opt.mine.depth = hi;
    return VP_OK;
}

static int set_sources(vp_error *err) {
    const char *at = opt.candidates;
    for (opt.sources = 0;; at++) {
        const size_t n = strcspn(at, ",");
        const int source = vp_cli_choice(VP_MINE_SOURCES, at, n);
        if (source < 0)
            return vp_fail(err, VP_USAGE, "--candidates: '%.*s' is none of " VP_MINE_SOURCES, (int)(n < 100 ? n : 100),
                           at);
        if (opt.sources == MAX_TEACHERS) return vp_fail(err, VP_USAGE, "--candidates: more than %d", MAX_TEACHERS);
        opt.source[opt.sources++] = (vp_mine_source)source;
        opt.by_words |= source != VP_MINE_DENSE;
        if (!*(at += n)) return VP_OK;
    }
}

static int set_options(vp_error *err) {
    vp_mine_rule *rule = &opt.mine.rule;
    if (opt.reapply && opt.texts) return vp_fail(err, VP_USAGE, "--reapply and --texts exclude each other");
    const char *mining = opt.range                         ? "--range"
                         : opt.mine.depth                  ? "--depth"
                         : opt.duplicates                  ? "--duplicates"
                         : opt.mine.words                  ? "--words"
                         : opt.mine.label                  ? "--class"
                         : opt.mine.known                  ? "--known"
                         : strcmp(opt.candidates, "dense") ? "--candidates"
                         : opt.few == VP_SHORT_FILL        ? "--short fill"
                                                           : NULL;
    if ((opt.reapply || opt.texts) && mining)
        return vp_fail(err, VP_USAGE, "%s: not with %s", mining, opt.reapply ? "--reapply" : "--texts");
    VP_TRY(vp_mine_rule_parse(opt.rule, &rule->kind, &rule->limit, err));
    VP_TRY(set_range(err));
    if (!opt.mine.depth) opt.mine.depth = 100;
    if (opt.mine.most != 0 && !opt.mine.known) return vp_fail(err, VP_USAGE, "--max-score: only with --known");
    VP_TRY(set_sources(err));
    if (opt.mine.words && !opt.by_words)
        return vp_fail(err, VP_USAGE, "--words: only BM25 looks for words, with --candidates bm25, both or given");
    if (opt.texts && opt.mine.skip_bad) return vp_fail(err, VP_USAGE, "--skip-bad: not with --texts");
    rule->pick = (vp_mine_pick)opt.pick;
    rule->seed = (uint64_t)opt.seed;
    opt.mine.positive = (vp_mine_positive)opt.positive;
    opt.mine.few = (vp_mine_short)opt.few;
    opt.mine.unique = opt.duplicates == 1;
    opt.mine.scores = !opt.no_scores;
    opt.mine.threads = (int)opt.threads;
    return VP_OK;
}

/* ---- what became of the candidates ---- */
typedef struct figure {
    const char *key, *what;
    int64_t n;
} figure;

static int report(const vp_mine_counts *c, vp_error *err) {
    const figure figures[] = {
#define X(name, what) {#name, what, c->name},
        VP_MINE_COUNTS(X)
#undef X
    };
    vp_buf line = {0}, members = {0};
    int status = VP_OK;
    for (size_t i = 0; i < sizeof figures / sizeof *figures && !status; i++) {
        const figure *f = &figures[i];
        status = vp_buf_printf(&members, err, "%s\"%s\":%lld", i ? "," : "", f->key, (long long)f->n);
        if (!status && (f->n || i < 3))
            status = vp_buf_printf(&line, err, "%s%lld %s", i ? ", " : "", (long long)f->n, f->what);
    }
    if (!status) vp_cli_note("%s", line.data);
    if (!status) vp_cli_log("negatives", members.data);
    vp_buf_free(&line);
    vp_buf_free(&members);
    return status;
}

/* ---- the work ---- */

static int mine_rows(vp_mine *m, vp_error *err) {
    vp_progress *progress = vp_progress_start("rows", -1);
    vp_buf out = {0};
    int64_t rows = 1;
    int status = VP_OK;
    while (!status && rows) {
        status = vp_mine_next(m, &out, &rows, err);
        vp_error late = {0}; /* what was mined before a failure counts */
        const int written = vp_write_all(STDOUT_FILENO, out.data, out.len, "standard output", &late);
        out.len = 0;
        vp_progress_add(progress, rows, 0);
        if (!status && written) *err = late;
        if (!status) status = written;
    }
    vp_buf_free(&out);
    vp_progress_finish(progress);
    return status ? status : report(vp_mine_totals(m), err);
}

static int mine(char **operand, int n, vp_error *err) {
    vp_mine_teacher teacher[MAX_TEACHERS] = {0};
    const int teachers = (n + 1) / 2;
    vp_mine *m = NULL;
    int status = VP_OK, standard = 0;
    if (!n) return vp_fail(err, VP_USAGE, "no INDEX given; see mine-negs --help");
    if (teachers > MAX_TEACHERS) return vp_fail(err, VP_USAGE, "more than %d teachers", MAX_TEACHERS);
    if (opt.sources > 1 && opt.sources != teachers)
        return vp_fail(err, VP_USAGE, "--candidates: of %d teachers, there are %d", opt.sources, teachers);
    for (int i = 0; i < teachers && !status; i++) {
        teacher[i].source = opt.source[opt.sources > 1 ? i : 0];
        teacher[i].index = operand[2 * i];
        status = vp_open_input(2 * i + 1 < n ? operand[2 * i + 1] : NULL, &teacher[i].fd, &teacher[i].name, err);
        standard += !status && teacher[i].fd == STDIN_FILENO;
    }
    if (!status && standard > 1) status = vp_fail(err, VP_USAGE, "standard input can be the queries of one INDEX only");
    if (!status) status = vp_mine_open(&m, &opt.mine, teacher, (size_t)teachers, STDOUT_FILENO, err);
    if (!status) status = mine_rows(m, err);
    vp_mine_close(m);
    for (int i = 0; i < teachers; i++)
        if (teacher[i].fd > STDIN_FILENO) close(teacher[i].fd);
    return status;
}

static int read_lines(char **operand, int n, vp_error *err) {
    vp_mine_counts counts = {0};
    const char *name;
    int fd;
    if (n > 1) return vp_fail(err, VP_USAGE, "'%.200s': one file at most", operand[1]);
    VP_TRY(vp_open_input(n ? operand[0] : NULL, &fd, &name, err));
    int status = opt.texts ? vp_mine_texts(fd, name, STDOUT_FILENO, err)
                           : vp_mine_reapply(&opt.mine, fd, name, STDOUT_FILENO, &counts, err);
    if (fd > STDIN_FILENO) close(fd);
    return status || opt.texts ? status : report(&counts, err);
}

int main(int argc, char **argv) {
    vp_error err = {0};
    vp_cli_action action = VP_CLI_RUN;
    int first = argc;
    vp_cli_start(program.name);
    int status = vp_cli_parse(&program, argc, argv, &first, &action, &err);
    if (!status && action == VP_CLI_RUN) status = set_options(&err);
    if (!status && action == VP_CLI_RUN)
        status = opt.reapply || opt.texts ? read_lines(argv + first, argc - first, &err)
                                          : mine(argv + first, argc - first, &err);
    return vp_cli_finish(status, &err);
}
