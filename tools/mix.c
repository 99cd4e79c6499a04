/* mix: data sets to one stream of records, shuffled and weighted, that can begin at any step. */
#include "lib/vecpipe.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WRITE_AT = 1 << 16 };

typedef struct options {
    int64_t seed, batch, steps, start, generative_batch;
    vp_list generative;
    double epochs;
    const char *resume;
    int batches, lines;
    bool no_shuffle, check;
} options;
static options opt = {.batch = 1, .epochs = 1, .generative_batch = 1};

static const vp_option table[] = {
    {.name = "seed",
     .kind = VP_OPT_INT,
     .target = &opt.seed,
     .value = "N",
     .max = 9223372036854775807.0,
     .help = "another number, another order"},
    {.name = "batch",
     .kind = VP_OPT_INT,
     .target = &opt.batch,
     .value = "N",
     .min = 1,
     .max = 1 << 24,
     .help = "rows of a step; what fills none is left out of the epoch"},
    {.name = "batches",
     .kind = VP_OPT_CHOICE,
     .target = &opt.batches,
     .choices = VP_MIX_BATCHES_CHOICES,
     .help = "same: every batch from one file; pooled: and what is left of all files, blended"},
    {.name = "generative",
     .kind = VP_OPT_LIST,
     .target = &opt.generative,
     .value = "FILE[=WEIGHT]",
     .help = "rows of text to be generated, behind those of every step; may be repeated"},
    {.name = "generative-batch",
     .kind = VP_OPT_INT,
     .target = &opt.generative_batch,
     .value = "N",
     .min = 1,
     .max = 1 << 24,
     .help = "how many of them"},
    {.name = "epochs",
     .kind = VP_OPT_REAL,
     .target = &opt.epochs,
     .value = "X",
     .min = 1e-9,
     .max = 1e9,
     .help = "how often to go through the data"},
    {.name = "steps",
     .kind = VP_OPT_INT,
     .target = &opt.steps,
     .value = "N",
     .max = (double)VP_MIX_STEPS_MAX,
     .help = "batches in all; 0: as --epochs says"},
    {.name = "start-step",
     .kind = VP_OPT_INT,
     .target = &opt.start,
     .value = "K",
     .max = (double)VP_MIX_STEPS_MAX,
     .help = "begin at step K, counted from 0"},
    {.name = "resume",
     .kind = VP_OPT_STRING,
     .target = &opt.resume,
     .value = "DIR",
     .help = "begin where the checkpoint in DIR, where `step` trains, goes on; at 0 if there is none"},
    {.name = "no-shuffle", .kind = VP_OPT_FLAG, .target = &opt.no_shuffle, .help = "file by file, as they are"},
    {.name = "lines",
     .kind = VP_OPT_CHOICE,
     .target = &opt.lines,
     .choices = VP_MIX_LINES_CHOICES,
     .help = "every line is a text; auto: where it is no JSONL"},
    {.name = "check",
     .kind = VP_OPT_FLAG,
     .target = &opt.check,
     .help = "look at every record before the first is written"},
    {0},
};
static const vp_program program = {
    .name = "mix",
    .summary = "data sets to one shuffled stream of records",
    .usage = "mix [FILE[=WEIGHT]]... [OPTION]... >RECORDS",
    .options = table,
    .notes = "An epoch takes WEIGHT times the rows of every FILE (1 if not given), each time other ones. With\n"
             "--generative the files that have fewer batches than the others begin again until these are through.\n"
             "Without a FILE, or for -, standard input is read. What is written from step K on is\n"
             "the same whether it began there or at 0. A reader that has enough is no error.\n",
};

typedef struct state {
    vp_mix_set *set; /* [sets], then those of --generative; paths are in argv */
    size_t sets;
    vp_mix *mix;
    vp_progress *progress;
    vp_buf out;
    int64_t rows;
} state;

/* FILE or FILE=WEIGHT; a name with = in it that exists is a name. */
static int take_operand(char *word, vp_mix_set *set, vp_error *err) {
    char *equals = strrchr(word, '=');
    *set = (vp_mix_set){.path = word, .weight = 1};
    if (!equals || access(word, F_OK) == 0) return VP_OK;
    if (!vp_cli_real(equals + 1, &set->weight) || !(set->weight > 0 && set->weight <= VP_MIX_WEIGHT_MAX))
        return vp_fail(err, VP_USAGE, "'%s': the weight is no number above 0 and up to %g", word, VP_MIX_WEIGHT_MAX);
    *equals = '\0';
    return VP_OK;
}

static int take_operands(state *s, char **word, int words, vp_error *err) {
    static const vp_mix_set standard_input = {.path = "-", .weight = 1};
    const size_t beside = opt.generative.n;
    int inputs = !words;
    s->sets = words ? (size_t)words : 1;
    s->set = vp_calloc(s->sets + beside, sizeof *s->set);
    if (!s->set) return vp_fail_memory(err, "the data sets", (s->sets + beside) * sizeof *s->set);
    s->set[0] = standard_input;
    for (size_t i = 0; i < (size_t)words + beside; i++) {
        vp_mix_set *set = &s->set[i < (size_t)words ? i : s->sets + i - (size_t)words];
        char *text = i < (size_t)words ? word[i] : (char *)(uintptr_t)opt.generative.item[i - (size_t)words];
        VP_TRY(take_operand(text, set, err));
        inputs += strcmp(set->path, "-") == 0;
    }
    return inputs > 1 ? vp_fail(err, VP_USAGE, "-: standard input can be one data set only") : VP_OK;
}

static int open_mix(state *s, vp_error *err) {
    const vp_mix_options o = {.set = s->set,
                              .sets = s->sets,
                              .seed = (uint64_t)opt.seed,
                              .batch = opt.batch,
                              .steps = opt.steps,
                              .epochs = opt.epochs,
                              .batches = (vp_mix_batches)opt.batches,
                              .lines = (vp_mix_lines)opt.lines,
                              .in_order = opt.no_shuffle,
                              .beside = opt.generative.n ? s->set + s->sets : NULL,
                              .besides = opt.generative.n,
                              .beside_batch = opt.generative_batch};
    if (opt.resume && opt.start) return vp_fail(err, VP_USAGE, "--resume and --start-step exclude each other");
    if (opt.resume) VP_TRY(vp_run_next_step(opt.resume, &opt.start, err));
    VP_TRY(vp_mix_open(&s->mix, &o, err));
    const int64_t steps = vp_mix_steps(s->mix);
    if (opt.start > steps)
        return vp_fail(err, VP_USAGE, "--start-step: '%lld' is above the %lld steps that there are",
                       (long long)opt.start, (long long)steps);
    return opt.check ? vp_mix_check(s->mix, err) : VP_OK;
}

static int flush(state *s, vp_error *err) {
    int status = vp_write_all(STDOUT_FILENO, s->out.data, s->out.len, "standard output", err);
    s->out.len = 0;
    return status;
}

static int write_step(state *s, int64_t step, vp_error *err) {
    const int64_t batch = vp_mix_batch(s->mix);
    for (int64_t k = 0; k < batch; k++) {
        VP_TRY(vp_mix_row(s->mix, step, k, &s->out, err));
        s->rows++;
        if (s->out.len >= WRITE_AT) VP_TRY(flush(s, err));
    }
    vp_progress_add(s->progress, batch, 0);
    return VP_OK;
}

static int run(state *s, char **word, int words, vp_error *err) {
    VP_TRY(take_operands(s, word, words, err));
    VP_TRY(open_mix(s, err));
    const int64_t steps = vp_mix_steps(s->mix);
    s->progress = vp_progress_start("rows", (steps - opt.start) * vp_mix_batch(s->mix));
    VP_TRY(vp_mix_head(s->mix, opt.start, &s->out, err));
    VP_TRY(flush(s, err));
    for (int64_t step = opt.start; step < steps; step++) VP_TRY(write_step(s, step, err));
    VP_TRY(vp_buf_printf(&s->out, err, "{\"_vp\":{\"end\":true,\"rows\":%lld}}\n", (long long)s->rows));
    return flush(s, err);
}

int main(int argc, char **argv) {
    vp_error err = {0};
    vp_cli_action action = VP_CLI_RUN;
    state s = {0};
    int first = argc;
    vp_cli_start(program.name);
    int status = vp_cli_parse(&program, argc, argv, &first, &action, &err);
    if (!status && action == VP_CLI_RUN) status = run(&s, argv + first, argc - first, &err);
    /* whoever reads decides how much: a training run that has had its steps closes the pipe */
    if (err.broken_pipe) {
        err = (vp_error){0};
        status = VP_OK;
    }
    vp_progress_finish(s.progress);
    vp_mix_close(s.mix);
    vp_buf_free(&s.out);
    free(opt.generative.item);
    free(s.set);
    return vp_cli_finish(status, &err);
}
