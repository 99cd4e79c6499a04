/* pool: hidden states to one vector a row or a word, or to the marked rows. */
#include "lib/vecpipe.h"
#include "tools/common_options.h"
#include <string.h>
#include <unistd.h>

typedef struct options {
    const char *follow, *device;
    int64_t dims, project;
    bool normalize, raw, shift;
} options;
static options opt;

static const vp_option table[] = {
    {.name = "normalize", .kind = VP_OPT_FLAG, .target = &opt.normalize, .help = "scale vectors to length 1"},
    {.name = "no-normalize", .kind = VP_OPT_FLAG, .target = &opt.raw, .help = "leave their length as it is"},
    {.name = "dims",
     .kind = VP_OPT_INT,
     .target = &opt.dims,
     .value = "N",
     .max = 1 << 24,
     .help = "keep the first N dimensions, before normalising; 0: the model's, else all"},
    {.name = "shift",
     .kind = VP_OPT_FLAG,
     .target = &opt.shift,
     .help = "words: by the states of the positions before, which predict them after `mask mntp`"},
    {.name = "follow",
     .kind = VP_OPT_STRING,
     .target = &opt.follow,
     .value = "DIR",
     .help = "with the latent layer, or the projection, that `step` trains in DIR, as it is at each step"},
    {.name = "project",
     .kind = VP_OPT_INT,
     .target = &opt.project,
     .value = "N",
     .max = VP_PROJECTION_MOST,
     .help = "with --follow: the run trains a projection to N dimensions"},
    OPTION_DEVICE(&opt.device),
    {0},
};
static const vp_program program = {
    .name = "pool",
    .summary = "hidden states to one vector a text",
    .usage = "pool [KIND] [OPTION]... <HIDDEN >EMB",
    .options = table,
    .notes =
        "KIND is one of " VP_POOLINGS ", words (one row a word, the mean of its tokens), or pick\n"
        "(the rows of hidden with target >= 0, or keep = 1 where there is no target); without it, and without the "
        "options, the model decides, as the stream's header says.\n"
        "Only tokens with keep = 1 count. eos and last are the last of them, bos and cls the first; weighted_mean\n"
        "weighs them 1, 2, 3, ...; latent is the mean of what the model's latent-attention layer makes of them. A row "
        "with nothing to pool becomes zeros, and the end record counts it.\n",
};

typedef struct state {
    vp_reader *reader;
    vp_writer *writer;
    vp_pooler *pooler;
    vp_pooling_following *following; /* opened when the first batch is there */
    vp_map *header;
    vp_progress *progress;
    int64_t width, rows, empty;
} state;

static int write_header(state *s, const char *command, vp_error *err) {
    VP_TRY(vp_pooler_describe(s->pooler, s->header, s->width, err));
    return vp_writer_header(s->writer, s->header, command, err);
}

static int begin(state *s, const char *kind, const char *command, vp_error *err) {
    vp_frame *f;
    vp_pool_options o;
    VP_TRY(vp_pool_options_set(&o, kind, opt.normalize, opt.raw, opt.dims, err));
    o.shift = opt.shift;
    o.device = opt.device ? opt.device : "";
    o.trained = opt.follow != NULL;
    o.project = opt.project;
    if (opt.project && !opt.follow) return vp_fail(err, VP_USAGE, "--project: only with --follow");
    VP_TRY(vp_cli_refuse_terminal(STDOUT_FILENO, err));
    VP_TRY(vp_reader_open(&s->reader, STDIN_FILENO, "standard input", err));
    vp_reader_watch(s->reader, STDOUT_FILENO);
    VP_TRY(vp_reader_next(s->reader, &f, err));
    s->header = vp_map_copy(f->keys);
    if (!s->header) return vp_fail_memory(err, "the header", 1);
    VP_TRY(vp_pooler_open(&s->pooler, &o, s->header, err));
    tell_compute(vp_pooler_place(s->pooler));
    if (opt.follow && !opt.project && strcmp(vp_pooler_kind(s->pooler), "latent") != 0)
        return vp_fail(err, VP_USAGE, "--follow: only latent attention, or with --project a projection, is trained");
    VP_TRY(vp_header_width(s->header, &s->width, err));
    VP_TRY(vp_writer_open(&s->writer, STDOUT_FILENO, "standard output", err));
    return s->width ? write_header(s, command, err) : VP_OK;
}

/* A stream that does not declare its columns tells the width by its first batch; the header waits for it. */
static int learn_width(state *s, const vp_frame *f, const char *command, vp_error *err) {
    const vp_column *hidden = vp_frame_find(f, "hidden");
    if (s->width) return VP_OK;
    if (f->kind == VP_FRAME_BATCH) {
        if (!hidden || hidden->ndim != 2 || hidden->shape[1] < 1)
            return vp_frame_fail(f, VP_DATA, err, "no column hidden [T, C]: fwd makes it");
        s->width = hidden->shape[1];
    }
    return write_header(s, command, err);
}

static int follow(state *s, const vp_frame *f, vp_error *err) {
    if (!opt.follow) return VP_OK;
    if (!s->following)
        VP_TRY(vp_pooling_following_open(&s->following, opt.follow, opt.project, s->header, STDOUT_FILENO, err));
    return vp_pooling_following_give(s->following, f, s->pooler, err);
}

static int pool(state *s, vp_frame *f, vp_error *err) {
    VP_TRY(follow(s, f, err));
    VP_TRY(vp_pooler_run(s->pooler, f, NULL, s->width, &s->empty, err));
    VP_TRY(vp_writer_batch(s->writer, f, err));
    s->rows += f->B;
    vp_progress_add(s->progress, f->B, f->T);
    return VP_OK;
}

static int end(state *s, vp_frame *f, vp_error *err) {
    VP_TRY(vp_map_set_int(f->keys, "rows", s->rows, err));
    VP_TRY(vp_map_set_int(f->keys, "empty", s->empty, err));
    return vp_writer_end(s->writer, f->keys, err);
}

static int run(state *s, const char *kind, const char *command, vp_error *err) {
    VP_TRY(begin(s, kind, command, err));
    s->progress = vp_progress_start("rows", -1);
    vp_frame *f = NULL;
    do {
        VP_TRY(vp_reader_next(s->reader, &f, err));
        if (!f) break;
        VP_TRY(learn_width(s, f, command, err));
        VP_TRY(f->kind == VP_FRAME_BATCH ? pool(s, f, err) : end(s, f, err));
    } while (f);
    return VP_OK;
}

int main(int argc, char **argv) {
    vp_error err = {0};
    vp_cli_action action = VP_CLI_RUN;
    vp_buf command = {0};
    state s = {0};
    int first = argc;
    vp_cli_start(program.name);
    int status = vp_cli_command(&command, program.name, argc, argv, &err);
    if (!status) status = vp_cli_parse(&program, argc, argv, &first, &action, &err);
    if (!status && action == VP_CLI_RUN && argc - first > 1)
        status =
            vp_fail(&err, VP_USAGE, "'%s': one KIND only; the stream is read from standard input", argv[first + 1]);
    if (!status && action == VP_CLI_RUN) status = run(&s, first < argc ? argv[first] : NULL, command.data, &err);
    vp_progress_finish(s.progress);
    vp_pooler_close(s.pooler);
    vp_pooling_following_close(s.following);
    vp_writer_close(s.writer);
    vp_reader_close(s.reader);
    vp_map_free(s.header);
    vp_buf_free(&command);
    return vp_cli_finish(status, &err);
}
