/* knn: an index of vectors on disk. Each subcommand is an option table and a few calls of lib/index. */
#include "lib/vecpipe.h"
#include "tools/common_options.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { DEFAULT_COLUMNS = 80 };

/* A parsed command line: INDEX and what follows it. */
typedef struct command_line {
    int argc;
    char **argv;
    const char *index;
    char **operand; /* [operands] after INDEX, then NULL */
    int operands;
    bool done; /* --help or --version was answered */
} command_line;

static int parse(command_line *c, const vp_program *p, int least, int most, vp_error *err) {
    int first;
    vp_cli_action action;
    VP_TRY(vp_cli_parse(p, c->argc, c->argv, &first, &action, err));
    c->done = action == VP_CLI_EXIT;
    if (c->done) return VP_OK;
    if (first == c->argc) return vp_fail(err, VP_USAGE, "no INDEX given; see %s --help", p->name);
    c->index = c->argv[first];
    c->operand = c->argv + first + 1;
    c->operands = c->argc - first - 1;
    if (c->operands < least) return vp_fail(err, VP_USAGE, "too few arguments; see %s --help", p->name);
    if (c->operands > most)
        return vp_fail(err, VP_USAGE, "%.200s: one argument too many; see %s --help", c->operand[most], p->name);
    return VP_OK;
}

/* ---- add ---- */

static bool is_readable(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

typedef struct add_options {
    bool bm25, kv_zstd;
    int kv;
} add_options;

/* Before keys and values are stored for the first time: how much room they will take. */
static int say_size(vp_index_adder *a, const vp_frame *f, int64_t rows, vp_error *err) {
    vp_kv_forecast c;
    VP_TRY(vp_index_add_forecast(a, f, &c, err));
    if (!c.fresh || !c.token_bytes) return VP_OK;
    const double row = (double)(c.token_bytes * c.tokens / c.rows) / 1024;
    char all[64] = "";
    if (rows > 0) snprintf(all, sizeof all, ", %.1f MiB in all", row * (double)rows / 1024);
    vp_cli_note("keys and values: %lld bytes a token, about %.1f KiB a row (of %lld tokens, as in the first frame)%s",
                (long long)c.token_bytes, row, (long long)(c.tokens / c.rows), all);
    return VP_OK;
}

/* Batches until the end; what came is committed also when the stream breaks off. */
static int add_batches(vp_index_adder *a, vp_reader *r, int fd, bool bm25, vp_progress *progress, vp_error *err) {
    int status = VP_OK;
    while (!status) {
        vp_frame *f;
        if (!is_readable(fd)) VP_TRY(vp_index_add_commit(a, err));
        status = vp_reader_next(r, &f, err);
        if (status || !f) break;
        if (f->kind != VP_FRAME_BATCH) continue;
        status = say_size(a, f, vp_progress_total(progress), err);
        if (!status) status = bm25 ? vp_index_add_texts(a, f, err) : vp_index_add_frame(a, f, err);
        vp_progress_add(progress, f->B, f->T);
    }
    vp_error commit = {0};
    int committed = vp_index_add_commit(a, &commit);
    return status ? status : committed ? vp_fail(err, committed, "%s", commit.text) : VP_OK;
}

static int add_stream(const char *path, vp_reader *r, int fd, const add_options *o, vp_error *err) {
    vp_index *x = NULL;
    vp_index_adder *a = NULL;
    vp_frame *header;
    VP_TRY(vp_reader_next(r, &header, err));
    int status = vp_index_open(&x, path, VP_INDEX_CREATE, err);
    if (!status) status = vp_index_add_open(&a, x, vp_reader_header(r), err);
    if (!status) {
        vp_progress *progress = vp_progress_start("rows", -1);
        vp_index_add_kv(a, &(vp_kv_options){.coding = (vp_kv_coding)o->kv, .zstd = o->kv_zstd});
        status = add_batches(a, r, fd, o->bm25, progress, err);
        vp_progress_finish(progress);
        const vp_index_counts *n = vp_index_add_counts(a);
        if (vp_cli_verbose())
            vp_cli_note(
                "%lld rows added, %lld replaced, %lld dropped for newer ones, %lld without a token, %lld commits",
                (long long)n->added, (long long)n->replaced, (long long)n->dropped, (long long)n->zero,
                (long long)n->commits);
    }
    vp_index_add_close(a);
    vp_index_close(x);
    return status;
}

static int add(command_line *c, vp_error *err) {
    add_options o = {0};
    const vp_option options[] = {
        {.name = "bm25", .kind = VP_OPT_FLAG, .target = &o.bm25, .help = "texts alone, without vectors"},
        {.name = "kv",
         .kind = VP_OPT_CHOICE,
         .target = &o.kv,
         .choices = "auto|bf16|i8",
         .help = "how a new index stores keys and values (fwd --emit emb,kv); auto: bf16"},
        {.name = "kv-zstd", .kind = VP_OPT_FLAG, .target = &o.kv_zstd, .help = "and compress them, record by record"},
        {0}};
    const vp_program program = {
        .name = "knn add",
        .summary = "put the vectors of a stream into an index",
        .usage = "knn add [OPTION]... INDEX [STREAM]",
        .options = options,
        .notes = "INDEX is made when it does not exist. A row replaces the one of the same id. What was "
                 "committed stays,\nwhatever happens: run the same pipeline again to finish."};
    VP_TRY(parse(c, &program, 0, 1, err));
    if (c->done) return VP_OK;
    int fd;
    const char *name;
    vp_reader *r;
    VP_TRY(vp_open_input(c->operand[0], &fd, &name, err));
    VP_TRY(vp_reader_open(&r, fd, name, err));
    int status = add_stream(c->index, r, fd, &o, err);
    vp_reader_close(r);
    return status;
}

/* ---- missing ---- */

static int missing(command_line *c, vp_error *err) {
    vp_missing_options o = {.prune_max = 10};
    const vp_option options[] = {
        {.name = "id-from",
         .kind = VP_OPT_STRING,
         .target = &o.id_from,
         .value = "hash|FIELD",
         .help = "where a record has no id, take its hash or that field"},
        {.name = "prune",
         .kind = VP_OPT_FLAG,
         .target = &o.prune,
         .help = "delete the records that the input does not have"},
        {.name = "prune-max",
         .kind = VP_OPT_REAL,
         .target = &o.prune_max,
         .value = "PERCENT",
         .max = 100,
         .help = "refuse to delete more than this share of the records"},
        {.name = "skip-bad", .kind = VP_OPT_FLAG, .target = &o.skip_bad, .help = "count malformed lines and go on"},
        {.name = "wait",
         .kind = VP_OPT_FLAG,
         .target = &o.wait,
         .help = "wait for another `knn missing` on this index instead of exiting with 7"},
        {0}};
    const vp_program program = {.name = "knn missing",
                                .summary = "print the records that an index lacks or has changed",
                                .usage = "knn missing [OPTION]... INDEX [CORPUS.jsonl]",
                                .options = options,
                                .notes = "knn missing INDEX < corpus.jsonl | tok | fwd | pool | knn add INDEX"};
    VP_TRY(parse(c, &program, 0, 1, err));
    if (c->done) return VP_OK;
    int fd;
    const char *name;
    vp_index *x;
    vp_missing_counts n;
    VP_TRY(vp_open_input(c->operand[0], &fd, &name, err));
    VP_TRY(vp_index_open(&x, c->index, VP_INDEX_CREATE, err));
    int status = vp_index_missing(x, fd, name, STDOUT_FILENO, &o, &n, err);
    vp_index_close(x);
    if (!status && vp_cli_verbose())
        vp_cli_note(
            "%lld records: %lld new, %lld changed, %lld with other fields only, %lld deleted, %lld lines skipped",
            (long long)n.records, (long long)n.fresh, (long long)n.changed, (long long)n.meta, (long long)n.pruned,
            (long long)n.skipped);
    return status;
}

/* ---- delete ---- */

/* Ids, one a line, from standard input; `text` owns them. */
static int read_ids(vp_buf *text, vp_buf *lens, vp_error *err) {
    vp_records *r;
    vp_record line;
    bool got;
    VP_TRY(vp_records_open(&r, STDIN_FILENO, "standard input", VP_RECORDS_LINES, false, err));
    int status;
    while (!(status = vp_records_next(r, &line, &got, err)) && got && !status) {
        if (!line.line_len) continue;
        status = vp_buf_add(text, line.line, line.line_len, err);
        if (!status) status = vp_buf_add(lens, &line.line_len, sizeof line.line_len, err);
        if (status) break;
    }
    vp_records_close(r);
    return status;
}

static int delete_ids(const char *path, const char *const *id, const size_t *len, size_t n, vp_error *err) {
    vp_index *x;
    int64_t deleted = 0;
    VP_TRY(vp_index_open(&x, path, VP_INDEX_WRITE, err));
    int status = vp_index_delete(x, id, len, n, &deleted, err);
    vp_index_close(x);
    if (!status && vp_cli_verbose()) vp_cli_note("%lld of %zu records deleted", (long long)deleted, n);
    return status;
}

static int delete (command_line *c, vp_error *err) {
    const vp_program program = {
        .name = "knn delete",
        .summary = "delete records with all their chunks",
        .usage = "knn delete INDEX [ID]...",
        .notes = "Without ID, ids are read from standard input, one a line. Unknown ids are no error."};
    VP_TRY(parse(c, &program, 0, c->argc, err));
    if (c->done) return VP_OK;
    vp_buf text = {0}, lens = {0};
    for (int i = 0; i < c->operands; i++) {
        size_t n = strlen(c->operand[i]);
        VP_TRY(vp_buf_add(&text, c->operand[i], n, err));
        VP_TRY(vp_buf_add(&lens, &n, sizeof n, err));
    }
    int status = c->operands ? VP_OK : read_ids(&text, &lens, err);
    size_t n = lens.len / sizeof(size_t);
    const size_t *len = (const size_t *)(const void *)lens.data;
    const char **id = vp_calloc(n + 1, sizeof *id);
    if (!id && !status) status = vp_fail_memory(err, "ids", n * sizeof *id);
    for (size_t i = 0, at = 0; i < n && !status; at += len[i++]) id[i] = text.data + at;
    if (!status) status = delete_ids(c->index, id, len, n, err);
    free(id);
    vp_buf_free(&text);
    vp_buf_free(&lens);
    return status;
}

/* ---- search ---- */

typedef struct search_run {
    vp_search_options options;
    bool table, show_text, show_meta;
    int columns;
    vp_row_order order;
    vp_buf piece, out;
} search_run;

static int print_results(search_run *s, const vp_search_result *r, int64_t n, vp_error *err) {
    for (int64_t i = 0; i < n; i++) {
        vp_search_result shown = r[i];
        s->piece.len = 0;
        if (!s->table && !s->show_text) shown.text = NULL;
        for (int64_t j = 0; j < r[i].n && !s->table; j++) {
            if (!s->show_text) r[i].hit[j].text = NULL;
            if (!s->show_meta) r[i].hit[j].meta = NULL;
        }
        VP_TRY(s->table ? vp_search_print_table(&shown, s->columns, &s->piece, err)
                        : vp_search_print_jsonl(&shown, &s->piece, err));
        VP_TRY(vp_row_order_put(&s->order, r[i].row, s->piece.data, s->piece.len, &s->out, err));
    }
    VP_TRY(vp_write_all(STDOUT_FILENO, s->out.data, s->out.len, "standard output", err));
    s->out.len = 0;
    return VP_OK;
}

static int search_batches(search_run *s, vp_index *x, vp_reader *r, vp_error *err) {
    vp_searcher *searcher;
    vp_frame *f;
    VP_TRY(vp_reader_next(r, &f, err));
    VP_TRY(vp_search_open(&searcher, x, vp_reader_header(r), &s->options, err));
    int status;
    while (!(status = vp_reader_next(r, &f, err)) && f) {
        const vp_search_result *results;
        int64_t n;
        if (f->kind != VP_FRAME_BATCH) continue;
        status = vp_search_frame(searcher, f, &results, &n, err);
        if (!status) status = print_results(s, results, n, err);
        if (status) break;
    }
    char device[40];
    vp_search_device(searcher, device);
    if (!status && *device && vp_cli_verbose()) vp_cli_note("searched on %s", device);
    vp_search_close(searcher);
    /* answers that wait for their turn are answers, also when the upstream died */
    vp_error late = {0};
    int finished = vp_row_order_finish(&s->order, &s->out, &late);
    if (!finished) finished = vp_write_all(STDOUT_FILENO, s->out.data, s->out.len, "standard output", &late);
    if (!status && finished) *err = late;
    return status ? status : finished;
}

static int terminal_columns(void) {
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40) return size.ws_col;
    return DEFAULT_COLUMNS;
}

static int search_options(command_line *c, search_run *s, vp_error *err) {
    bool hybrid = false, bm25 = false;
    int by = 0;
    int64_t threads = 0;
    const vp_option options[] = {
        {.name = "hits",
         .letter = 'k',
         .kind = VP_OPT_INT,
         .target = &s->options.k,
         .value = "N",
         .min = 1,
         .max = 1e6,
         .help = "hits a query"},
        {.name = "hybrid",
         .kind = VP_OPT_FLAG,
         .target = &hybrid,
         .help = "merge vectors and BM25 by reciprocal rank (needs texts: tok --text)"},
        {.name = "bm25", .kind = VP_OPT_FLAG, .target = &bm25, .help = "BM25 alone"},
        {.name = "by",
         .kind = VP_OPT_CHOICE,
         .target = &by,
         .choices = "row|parent",
         .help = "parent: only the best chunk of each record"},
        {.name = "table",
         .kind = VP_OPT_FLAG,
         .target = &s->table,
         .help = "a table for reading instead of JSON lines"},
        {.name = "text",
         .kind = VP_OPT_FLAG,
         .target = &s->show_text,
         .help = "print the texts of hits, and of queries that the stream has"},
        {.name = "meta", .kind = VP_OPT_FLAG, .target = &s->show_meta, .help = "print the hits' other fields"},
        OPTION_DEVICE_AS(&s->options.device, "where to compare; else $VP_DEVICE, else auto: the CPU"),
        OPTION_THREADS(&threads, "threads; 0: all that the process may use"),
        {0}};
    const vp_program program = {.name = "knn search",
                                .summary = "the rows nearest to each query of a stream",
                                .usage = "knn search [OPTION]... INDEX [STREAM]",
                                .options = options,
                                .notes =
                                    "echo 'a question' | tok --lines --query | fwd | pool | knn search INDEX --table"};
    VP_TRY(parse(c, &program, 0, 1, err));
    if (hybrid && bm25) return vp_fail(err, VP_USAGE, "--hybrid and --bm25: one of them");
    s->options.mode = hybrid ? VP_SEARCH_HYBRID : bm25 ? VP_SEARCH_BM25 : VP_SEARCH_DENSE;
    s->options.by_parent = by == 1;
    s->options.threads = (int)threads;
    s->options.content = s->table || s->show_text || s->show_meta;
    s->columns = terminal_columns();
    return VP_OK;
}

static int search(command_line *c, vp_error *err) {
    search_run s = {.options.k = 10};
    VP_TRY(search_options(c, &s, err));
    if (c->done) return VP_OK;
    int fd;
    const char *name;
    vp_index *x;
    vp_reader *r = NULL;
    VP_TRY(vp_open_input(c->operand[0], &fd, &name, err));
    VP_TRY(vp_index_open(&x, c->index, VP_INDEX_READ, err));
    int status = vp_reader_open(&r, fd, name, err);
    if (!status) {
        vp_reader_watch(r, STDOUT_FILENO);
        status = search_batches(&s, x, r, err);
    }
    vp_reader_close(r);
    vp_index_close(x);
    vp_buf_free(&s.piece);
    vp_buf_free(&s.out);
    return status;
}

/* ---- stats, verify, export, swap ---- */

static int stats(command_line *c, vp_error *err) {
    bool json = false;
    const vp_option options[] = {{.name = "json", .kind = VP_OPT_FLAG, .target = &json, .help = "one JSON object"},
                                 {0}};
    const vp_program program = {.name = "knn stats",
                                .summary = "figures of an index",
                                .options = options,
                                .usage = "knn stats [OPTION]... INDEX"};
    VP_TRY(parse(c, &program, 0, 0, err));
    if (c->done) return VP_OK;
    vp_index *x;
    vp_index_stats s;
    VP_TRY(vp_index_open(&x, c->index, VP_INDEX_READ, err));
    int status = vp_index_stats_read(x, &s, err);
    vp_index_close(x);
    VP_TRY(status);
    vp_buf out = {0};
    status = vp_index_stats_print(&s, json, &out, err);
    if (!status) status = vp_write_all(STDOUT_FILENO, out.data, out.len, "standard output", err);
    vp_buf_free(&out);
    vp_index_stats_free(&s);
    return status;
}

static int verify(command_line *c, vp_error *err) {
    const vp_program program = {.name = "knn verify",
                                .summary = "check everything that must hold of an index",
                                .usage = "knn verify INDEX",
                                .notes = "Silent when all is well; else exit status 3."};
    VP_TRY(parse(c, &program, 0, 0, err));
    if (c->done) return VP_OK;
    vp_index *x;
    VP_TRY(vp_index_open(&x, c->index, VP_INDEX_READ, err));
    int status = vp_index_verify(x, err);
    vp_index_close(x);
    return status;
}

static int export_to(vp_index *x, bool npy, int fd, const char *name, vp_error *err) {
    if (!npy) return vp_index_export_jsonl(x, fd, name, err);
    VP_TRY(vp_cli_refuse_terminal(fd, err));
    return vp_index_export_npy(x, fd, name, err);
}

static int export(command_line *c, vp_error *err) {
    bool jsonl = false, npy = false;
    const char *out = NULL;
    const vp_option options[] = {
        {.name = "jsonl",
         .kind = VP_OPT_FLAG,
         .target = &jsonl,
         .help = "JSON lines: id, hash, text, meta, emb (the default)"},
        {.name = "npy", .kind = VP_OPT_FLAG, .target = &npy, .help = "the vectors alone, NumPy's [rows, dims] f32"},
        {.name = "out",
         .letter = 'o',
         .kind = VP_OPT_STRING,
         .target = &out,
         .value = "FILE",
         .help = "a file that appears whole or not at all, instead of standard output"},
        {0}};
    const vp_program program = {.name = "knn export",
                                .summary = "the rows of an index, in the order in which they came",
                                .usage = "knn export [OPTION]... INDEX",
                                .options = options};
    VP_TRY(parse(c, &program, 0, 0, err));
    if (c->done) return VP_OK;
    if (jsonl && npy) return vp_fail(err, VP_USAGE, "--jsonl and --npy: one of them");
    vp_index *x;
    vp_publish file;
    VP_TRY(vp_index_open(&x, c->index, VP_INDEX_READ, err));
    int status = out ? vp_publish_open(&file, out, err) : VP_OK;
    if (!status && !out) status = export_to(x, npy, STDOUT_FILENO, "standard output", err);
    if (!status && out) status = vp_publish_end(&file, export_to(x, npy, file.fd, out, err), err);
    vp_index_close(x);
    return status;
}

static int swap(command_line *c, vp_error *err) {
    const vp_program program = {.name = "knn swap",
                                .summary = "exchange two indexes in one step",
                                .usage = "knn swap INDEX OTHER",
                                .notes =
                                    "For a new model: build a second index, then swap. Who has one open keeps it."};
    VP_TRY(parse(c, &program, 1, 1, err));
    return c->done ? VP_OK : vp_index_swap(c->index, c->operand[0], err);
}

static const struct {
    const char *name;
    int (*run)(command_line *c, vp_error *err);
} commands[] = {{"add", add},     {"search", search}, {"missing", missing}, {"delete", delete},
                {"stats", stats}, {"verify", verify}, {"export", export},   {"swap", swap}};

static int run(int argc, char **argv, vp_error *err) {
    static const vp_program program = {.name = "knn",
                                       .summary = "an index of vectors on disk: exact, incremental, crash-safe",
                                       .usage = "knn COMMAND [OPTION]... INDEX [ARGUMENT]...",
                                       .notes = "knn add INDEX       put the vectors of a stream into it\n"
                                                "knn search INDEX    the rows nearest to each query of a stream\n"
                                                "knn missing INDEX   print the records of a corpus that it lacks\n"
                                                "knn delete INDEX    delete records\n"
                                                "knn stats INDEX     figures\n"
                                                "knn verify INDEX    check it\n"
                                                "knn export INDEX    its rows as JSON lines or a NumPy matrix\n"
                                                "knn swap INDEX B    exchange two indexes in one step\n"
                                                "knn COMMAND --help tells the options."};
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(&(command_line){.argc = argc - 1, .argv = argv + 1}, err);
    int first;
    vp_cli_action action;
    VP_TRY(vp_cli_parse(&program, argc, argv, &first, &action, err));
    if (action == VP_CLI_EXIT) return VP_OK;
    if (first < argc) return vp_fail(err, VP_USAGE, "%.100s: no such command; see knn --help", argv[first]);
    return vp_fail(err, VP_USAGE, "no command given; see knn --help");
}

int main(int argc, char **argv) {
    vp_error err = {0};
    vp_cli_start("knn");
    return vp_cli_finish(run(argc, argv, &err), &err);
}
