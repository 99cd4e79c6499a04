/* peek: shows streams as a table, as JSON lines or as NumPy files, and compares two. */
#include "lib/vecpipe.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct options {
    bool jsonl, diff;
    const char *npy, *column, *columns;
    double tolerance;
    int64_t head;
} options;

static const vp_option table[] = {
    {.name = "jsonl", .kind = VP_OPT_FLAG, .target = &options.jsonl, .help = "one JSON object a row, in `row` order"},
    {.name = "columns",
     .kind = VP_OPT_STRING,
     .target = &options.columns,
     .value = "A,B",
     .help = "only these columns"},
    {.name = "npy",
     .kind = VP_OPT_STRING,
     .target = &options.npy,
     .value = "FILE",
     .help = "write --column as a NumPy file (-: standard output)"},
    {.name = "column",
     .kind = VP_OPT_STRING,
     .target = &options.column,
     .value = "NAME",
     .help = "the column for --npy"},
    {.name = "diff",
     .kind = VP_OPT_FLAG,
     .target = &options.diff,
     .help = "compare two streams by rows; exit status 3 if they differ"},
    {.name = "tol",
     .kind = VP_OPT_REAL,
     .target = &options.tolerance,
     .value = "X",
     .help = "largest difference of floats that --diff accepts",
     .max = 1e300},
    {.name = "head",
     .kind = VP_OPT_INT,
     .target = &options.head,
     .value = "N",
     .help = "only the first N rows, in a table the batches that hold them; 0: all",
     .max = 9e15},
    {0}};

static const vp_program program = {
    .name = "peek",
    .summary = "show, convert and compare streams",
    .usage =
        "peek [--jsonl] [OPTION]... [FILE]...\npeek --npy FILE --column NAME [STREAM]...\npeek --diff A B [--tol X]",
    .options = table,
    .notes = "Reads standard input without a FILE, or for -. Streams compressed with zstd are read as they are.\n",
};

/* What becomes of the batches of one or more streams. */
typedef struct sink {
    vp_buf text;
    vp_npy *npy;
    vp_row_order order; /* of JSON lines */
    int64_t rows;       /* of the batches shown */
} sink;

static bool is_full(const sink *s) {
    if (s->npy) return vp_npy_full(s->npy);
    return options.jsonl ? vp_row_order_full(&s->order) : options.head && s->rows >= options.head;
}

static int open_stream(const char *path, int *fd, vp_reader **r, vp_error *err) {
    const bool standard = strcmp(path, "-") == 0;
    *fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) return vp_fail_errno(err, "cannot open '%s'", path);
    VP_TRY(vp_reader_open(r, *fd, standard ? "standard input" : path, err));
    vp_reader_watch(*r, STDOUT_FILENO);
    return VP_OK;
}

static void close_stream(int fd, vp_reader *r) {
    vp_reader_close(r);
    if (fd > STDIN_FILENO) close(fd);
}

static int flush_text(vp_buf *text, vp_error *err) {
    const int status = vp_write_all(STDOUT_FILENO, text->data, text->len, "standard output", err);
    text->len = 0;
    return status;
}

static int show_frame(sink *s, const vp_frame *f, vp_error *err) {
    const bool batch = f->kind == VP_FRAME_BATCH;
    if (s->npy) {
        if (batch) VP_TRY(vp_npy_add(s->npy, f, err));
    } else if (options.jsonl) {
        if (batch) VP_TRY(vp_look_rows(f, options.columns, &s->order, &s->text, err));
    } else {
        VP_TRY(vp_look_frame(f, options.columns, &s->text, err));
    }
    if (batch) s->rows += f->B;
    return flush_text(&s->text, err);
}

static int show_stream(sink *s, const char *path, bool last, vp_error *err) {
    int fd = -1;
    vp_reader *r = NULL;
    vp_frame *f;
    int status = open_stream(path, &fd, &r, err);
    while (!status && !is_full(s) && !(status = vp_reader_next(r, &f, err)) && f) status = show_frame(s, f, err);
    if (!status && s->npy && last) status = vp_npy_finish(s->npy, vp_reader_header(r), err);
    close_stream(fd, r);
    return status;
}

static int show_all(sink *s, int n, char **paths, vp_error *err) {
    static char *standard_input[] = {"-"};
    if (!n) {
        n = 1;
        paths = standard_input;
    }
    int status = VP_OK;
    for (int i = 0; i < n && !status; i++) {
        if (n > 1 && !s->npy && !options.jsonl) status = vp_buf_printf(&s->text, err, "%s:\n", paths[i]);
        if (!status) status = show_stream(s, paths[i], i == n - 1, err);
    }
    return status;
}

static int show(int n, char **paths, vp_error *err) {
    sink s = {.order.limit = options.head};
    vp_error late = {0};
    int status = show_all(&s, n, paths, err);
    /* lines that wait for their turn are lines, also when the upstream died */
    int finished = vp_row_order_finish(&s.order, &s.text, &late);
    if (!finished) finished = flush_text(&s.text, &late);
    if (!status && finished) *err = late;
    vp_buf_free(&s.text);
    return status ? status : finished;
}

static int convert_into(int fd, int n, char **paths, vp_error *err) {
    sink s = {0};
    int status = vp_npy_open(&s.npy, fd, options.column, options.head, err);
    if (!status) status = show_all(&s, n, paths, err);
    vp_npy_close(s.npy);
    return status;
}

/* The length in a NumPy file's head is known at the end: on its way to standard output it is a temporary file first. */
static int convert_to_output(int n, char **paths, vp_error *err) {
    char block[1 << 16];
    VP_TRY(vp_cli_refuse_terminal(STDOUT_FILENO, err));
    FILE *file = tmpfile();
    if (!file) return vp_fail_errno(err, "cannot create a temporary file");
    const int fd = fileno(file);
    int status = convert_into(fd, n, paths, err);
    off_t at = 0;
    for (ssize_t got; !status && (got = pread(fd, block, sizeof block, at)) != 0; at += got)
        status = got < 0 ? vp_fail_errno(err, "cannot read a temporary file")
                         : vp_write_all(STDOUT_FILENO, block, (size_t)got, "standard output", err);
    fclose(file);
    return status;
}

static int convert(int n, char **paths, vp_error *err) {
    if (!options.column) return vp_fail(err, VP_USAGE, "--npy: needs --column NAME");
    if (strcmp(options.npy, "-") == 0) return convert_to_output(n, paths, err);
    vp_publish file;
    VP_TRY(vp_publish_open(&file, options.npy, err));
    return vp_publish_end(&file, convert_into(file.fd, n, paths, err), err);
}

static int compare(int n, char **paths, vp_error *err) {
    if (n != 2) return vp_fail(err, VP_USAGE, "--diff: needs two streams, not %d", n);
    int fd_a = -1, fd_b = -1;
    vp_reader *a = NULL, *b = NULL;
    vp_buf text = {0};
    char first[VP_DIFF_TEXT];
    int status = open_stream(paths[0], &fd_a, &a, err);
    if (!status) status = open_stream(paths[1], &fd_b, &b, err);
    if (!status) status = vp_look_diff(a, b, options.columns, options.tolerance, &text, first, err);
    if (!status) status = flush_text(&text, err);
    if (!status && first[0])
        status = vp_fail(err, VP_DATA, "'%.100s' and '%.100s' differ: %s", paths[0], paths[1], first);
    close_stream(fd_a, a);
    close_stream(fd_b, b);
    vp_buf_free(&text);
    return status;
}

static int run(int argc, char **argv, vp_error *err) {
    int first;
    vp_cli_action action;
    VP_TRY(vp_cli_parse(&program, argc, argv, &first, &action, err));
    if (action == VP_CLI_EXIT) return VP_OK;
    if (options.jsonl + options.diff + (options.npy != NULL) > 1)
        return vp_fail(err, VP_USAGE, "--jsonl, --npy and --diff exclude each other");
    if (options.diff) return compare(argc - first, argv + first, err);
    if (options.npy) return convert(argc - first, argv + first, err);
    return show(argc - first, argv + first, err);
}

int main(int argc, char **argv) {
    vp_error err = {0};
    vp_cli_start("peek");
    return vp_cli_finish(run(argc, argv, &err), &err);
}
