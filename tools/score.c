/* score: figures from vectors or hits and judgments or labels. Each task is a few options and one call of lib/score. */
#include "lib/vecpipe.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static const char *const list_choices = "none|queries|candidates";
enum { LIST_NONE, LIST_QUERIES, LIST_CANDIDATES, MAX_FILES = 3 }; /* --against is the third of retrieval's */
enum { SAMPLES = 16, EXPERIMENTS = 10, STEPS = 4000 };

typedef struct options {
    bool json;
    vp_score_options score;
    int64_t seed;
    const char *run, *against;
    int list;
    const char *label;
    int64_t samples, experiments, steps, rows;
} options;
static options opt = {.samples = SAMPLES, .experiments = EXPERIMENTS, .steps = STEPS};

static const vp_option table[] = {
    {.name = "json", .kind = VP_OPT_FLAG, .target = &opt.json, .help = "one JSON object, measures from 0 to 1"},
    {.name = "bootstrap",
     .kind = VP_OPT_INT,
     .target = &opt.score.bootstrap,
     .value = "N",
     .max = 1e6,
     .help = "95 % intervals from N resamples; 0: none"},
    {.name = "seed",
     .kind = VP_OPT_INT,
     .target = &opt.seed,
     .value = "N",
     .max = 9007199254740991.0,
     .help = "of the resamples"},
    {.name = "run",
     .kind = VP_OPT_STRING,
     .target = &opt.run,
     .value = "FILE",
     .help = "retrieval: write the judged queries' hits as a TREC run"},
    {.name = "against",
     .kind = VP_OPT_STRING,
     .target = &opt.against,
     .value = "HITS",
     .help = "retrieval: also print the difference to the hits of another system"},
    {.name = "list",
     .kind = VP_OPT_CHOICE,
     .target = &opt.list,
     .choices = list_choices,
     .help = "rerank: print the texts to embed, JSON lines, in the order in which they are scored"},
    {.name = "label",
     .kind = VP_OPT_STRING,
     .target = &opt.label,
     .value = "FIELD",
     .help = "classify, cluster, words: the record's field that is its label, else `label`"},
    {.name = "samples-per-label",
     .kind = VP_OPT_INT,
     .target = &opt.samples,
     .value = "N",
     .max = 1e9,
     .help = "classify: training rows of a label, drawn anew for each experiment; 0: all rows, once"},
    {.name = "experiments",
     .kind = VP_OPT_INT,
     .target = &opt.experiments,
     .value = "N",
     .min = 1,
     .max = 1000,
     .help = "classify: how many"},
    {.name = "steps",
     .kind = VP_OPT_INT,
     .target = &opt.steps,
     .value = "N",
     .min = 1,
     .max = 1e6,
     .help = "words: steps of 8 sentences that the probe is trained"},
    {.name = "rows",
     .kind = VP_OPT_INT,
     .target = &opt.rows,
     .value = "N",
     .max = 1e9,
     .help = "words: the first N sentences of either stream; 0: all"},
    {0}};
static const vp_program program = {
    .name = "score",
    .summary = "figures from vectors or hits and judgments",
    .usage = "score sts|pairs [OPTION]... GOLD.tsv FIRST SECOND\n"
             "score retrieval [OPTION]... QRELS [HITS.jsonl]\n"
             "score rerank [OPTION]... GOLD.jsonl QUERIES CANDIDATES\n"
             "score rerank --list queries|candidates GOLD.jsonl\n"
             "score perplexity [OPTION]... [LOSSES]\n"
             "score match [OPTION]... [ANSWERS.jsonl]\n"
             "score classify|words [OPTION]... TRAIN TEST\n"
             "score cluster [OPTION]... [VECTORS]",
    .options = table,
    .notes = "FIRST, SECOND, QUERIES, CANDIDATES, TRAIN, TEST and VECTORS are streams with emb; LOSSES is one of\n"
             "tok --batch N | mask generate | fwd --attention causal | pool pick | loss ntp.\n"
             "ANSWERS.jsonl has `text`, and `answer` or `answers`.\n"
             "One file may be -, standard input.\n"
             "knn search corpus.idx -k 100 queries.vp | score retrieval qrels.tsv"};

typedef struct files {
    vp_score_file f[MAX_FILES];
    int n;
} files;

enum task { STS, PAIRS, RETRIEVAL, RERANK, MATCH, PERPLEXITY, CLASSIFY, CLUSTER, WORDS, TASKS };
static const struct {
    const char *name;
    int least, most; /* files; a missing last one is standard input */
} tasks[TASKS] = {{"sts", 3, 3},        {"pairs", 3, 3},    {"retrieval", 1, 2}, {"rerank", 3, 3}, {"match", 0, 1},
                  {"perplexity", 0, 1}, {"classify", 2, 2}, {"cluster", 0, 1},   {"words", 2, 2}};

static void close_files(files *x) {
    for (int i = 0; i < x->n; i++)
        if (x->f[i].fd > STDIN_FILENO) close(x->f[i].fd);
}

static int open_files(files *x, const char *const *path, int n, vp_error *err) {
    bool standard = false;
    for (int i = 0; i < n; i++) {
        if (strcmp(path[i], "-") == 0) {
            if (standard) return vp_fail(err, VP_USAGE, "standard input can be one of the files only");
            standard = true;
            x->f[x->n++] = (vp_score_file){STDIN_FILENO, "standard input"};
            continue;
        }
        const int fd = open(path[i], O_RDONLY | O_CLOEXEC);
        if (fd < 0) return vp_fail_errno(err, "cannot open '%s'", path[i]);
        x->f[x->n++] = (vp_score_file){fd, path[i]};
    }
    return VP_OK;
}

static int publish(const char *path, const vp_buf *text, vp_error *err) {
    vp_publish file;
    VP_TRY(vp_publish_open(&file, path, err));
    return vp_publish_end(&file, vp_write_all(file.fd, text->data, text->len, path, err), err);
}

static int print(const vp_score *s, bool json, vp_buf *out, vp_error *err) {
    return json ? vp_score_print_json(s, out, err) : vp_score_print_table(s, out, err);
}

static int search(const options *o, const vp_score_file f[MAX_FILES], vp_buf *out, vp_error *err) {
    vp_score s, difference;
    vp_buf run = {0};
    const vp_search_files x = {.qrels = f[0],
                               .hits = f[1],
                               .run = o->run ? &run : NULL,
                               .difference = o->against ? &difference : NULL,
                               .against = f[2]};
    int status = vp_score_retrieval(&s, &x, &o->score, err);
    if (!status && o->run) status = publish(o->run, &run, err);
    if (!status) status = print(&s, o->json, out, err);
    if (!status && o->against) status = print(&difference, o->json, out, err);
    vp_buf_free(&run);
    return status;
}

static int learn(enum task task, const options *o, const vp_score_file f[MAX_FILES], vp_score *s, vp_error *err) {
    const char *label = o->label ? o->label : "label";
    const vp_classify_options classifier = {
        .label = label, .samples_per_label = o->samples, .experiments = o->experiments};
    const vp_words_options words = {.label = label, .steps = o->steps, .rows = o->rows};
    if (task == CLASSIFY) return vp_score_classify(s, f[0], f[1], &classifier, &o->score, err);
    if (task == CLUSTER) return vp_score_cluster(s, f[0], label, &o->score, err);
    return vp_score_words(s, f[0], f[1], &words, &o->score, err);
}

static int score_files(enum task task, const options *o, const vp_score_file f[MAX_FILES], vp_buf *out, vp_error *err) {
    vp_score s;
    if (task == RETRIEVAL) return search(o, f, out, err);
    if (task == RERANK && o->list) return vp_score_rerank_texts(f[0], o->list == LIST_CANDIDATES, out, err);
    if (task == STS) VP_TRY(vp_score_sts(&s, f[0], f[1], f[2], &o->score, err));
    if (task == PAIRS) VP_TRY(vp_score_pairs(&s, f[0], f[1], f[2], &o->score, err));
    if (task == RERANK) VP_TRY(vp_score_rerank(&s, f[0], f[1], f[2], &o->score, err));
    if (task == PERPLEXITY) VP_TRY(vp_score_perplexity(&s, f[0], &o->score, err));
    if (task == MATCH) VP_TRY(vp_score_match(&s, f[0], &o->score, err));
    if (task >= CLASSIFY) VP_TRY(learn(task, o, f, &s, err));
    return print(&s, o->json, out, err);
}

/* An option that another task has is an error. */
static int check_options(enum task task, const options *o, vp_error *err) {
    const struct {
        const char *option, *tasks;
        bool wrong;
    } only[] = {
        {"run", "retrieval", o->run && task != RETRIEVAL},
        {"against", "retrieval", o->against && task != RETRIEVAL},
        {"list", "rerank", o->list && task != RERANK},
        {"label", "classify, cluster and words", o->label && task < CLASSIFY},
        {"samples-per-label", "classify", o->samples != SAMPLES && task != CLASSIFY},
        {"experiments", "classify", o->experiments != EXPERIMENTS && task != CLASSIFY},
        {"steps", "words", o->steps != STEPS && task != WORDS},
        {"rows", "words", o->rows && task != WORDS},
    };
    for (size_t i = 0; i < sizeof only / sizeof *only; i++)
        if (only[i].wrong) return vp_fail(err, VP_USAGE, "--%s: only for %s", only[i].option, only[i].tasks);
    return VP_OK;
}

static int score(enum task task, const options *o, char **path, int n, vp_error *err) {
    const char *paths[MAX_FILES] = {0};
    files x = {0};
    vp_buf out = {0};
    const bool lists = task == RERANK && o->list;
    const int least = lists ? 1 : tasks[task].least, most = lists ? 1 : tasks[task].most;
    if (n < least) return vp_fail(err, VP_USAGE, "%s: too few files; see score --help", tasks[task].name);
    if (n > most) return vp_fail(err, VP_USAGE, "%.200s: one file too many; see score --help", path[most]);
    VP_TRY(check_options(task, o, err));
    for (int i = 0; i < most; i++) paths[i] = i < n ? path[i] : "-";
    if (o->against) paths[most] = o->against;
    int status = open_files(&x, paths, most + (o->against != NULL), err);
    if (!status) status = score_files(task, o, x.f, &out, err);
    if (!status) status = vp_write_all(STDOUT_FILENO, out.data, out.len, "standard output", err);
    close_files(&x);
    vp_buf_free(&out);
    return status;
}

static int run(int argc, char **argv, vp_error *err) {
    int first;
    vp_cli_action action;
    VP_TRY(vp_cli_parse(&program, argc, argv, &first, &action, err));
    if (action == VP_CLI_EXIT) return VP_OK;
    opt.score.seed = (uint64_t)opt.seed;
    if (first == argc) return vp_fail(err, VP_USAGE, "no task given; see score --help");
    for (int task = 0; task < TASKS; task++)
        if (strcmp(argv[first], tasks[task].name) == 0)
            return score((enum task)task, &opt, argv + first + 1, argc - first - 1, err);
    return vp_fail(err, VP_USAGE, "%.100s: no such task; see score --help", argv[first]);
}

int main(int argc, char **argv) {
    vp_error err = {0};
    vp_cli_start("score");
    return vp_cli_finish(run(argc, argv, &err), &err);
}
