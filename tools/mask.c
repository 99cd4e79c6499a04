/* mask: whole training steps of ids to what an objective needs: hidden tokens and targets, two views, chosen pairs. */
#include "lib/vecpipe.h"
#include "tools/common_options.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct options {
    const char *model, *token, *reduce, *prompt;
    double rate;
    int64_t seed, negatives, batch_tokens, max_len;
    int fill;
    bool no_next, no_next_text, prefix;
} options;
static options opt = {
    .token = "auto", .reduce = "sample", .prompt = "llara", .rate = 0.2, .negatives = 1, .batch_tokens = 8192};

static const vp_option table[] = {
    {.name = "seed",
     .kind = VP_OPT_INT,
     .target = &opt.seed,
     .value = "N",
     .max = 9223372036854775807.0,
     .help = "mntp, pairs, grit: another number, another choice"},
    {.name = "batch-tokens",
     .kind = VP_OPT_INT,
     .target = &opt.batch_tokens,
     .value = "N",
     .min = 1,
     .max = 1 << 24,
     .help = "tokens of a frame"},
    OPTION_MODEL(&opt.model, "mntp, llara: whose tokenizer it is; else the stream's, else $VP_MODEL"),
    {.kind = VP_OPT_GROUP, .help = "mntp"},
    {.name = "rate",
     .kind = VP_OPT_REAL,
     .target = &opt.rate,
     .value = "P",
     .max = 1,
     .help = "every token is chosen with this probability"},
    {.name = "kind",
     .kind = VP_OPT_CHOICE,
     .target = &opt.fill,
     .choices = VP_MASK_FILLS,
     .help = "of the chosen, hide 80 %, swap 10 % for a random token, leave 10 %; or hide all"},
    {.name = "mask-token",
     .kind = VP_OPT_STRING,
     .target = &opt.token,
     .value = "auto|TEXT|ID",
     .help = "what stands for a hidden token; auto: the tokenizer's mask token, else _"},
    {.kind = VP_OPT_GROUP, .help = "pairs, grit"},
    {.name = "negatives",
     .kind = VP_OPT_INT,
     .target = &opt.negatives,
     .value = "N",
     .max = 65536,
     .help = "negatives of every example"},
    {.kind = VP_OPT_GROUP, .help = "generate, grit"},
    {.name = "reduce",
     .kind = VP_OPT_STRING,
     .target = &opt.reduce,
     .value = "token|sample|mixed=N",
     .help = "the loss: token sum a row, mean of rows' means, mean of N parts' token means"},
    {.name = "prefix-lm",
     .kind = VP_OPT_FLAG,
     .target = &opt.prefix,
     .help = "the last answer alone, to which all before it is open: attention by prefix"},
    {.kind = VP_OPT_GROUP, .help = "llara"},
    {.name = "prompt",
     .kind = VP_OPT_STRING,
     .target = &opt.prompt,
     .value = "NAME",
     .help = "llara: 8 + 8 slots, as its code has it; llara-paper: one each"},
    {.name = "max-len",
     .kind = VP_OPT_INT,
     .target = &opt.max_len,
     .value = "N",
     .max = 1 << 24,
     .help = "llara, kto: tokens of a row, the prompt counted: the text is cut; 0: any"},
    {.name = "no-next-tokens",
     .kind = VP_OPT_FLAG,
     .target = &opt.no_next,
     .help = "the text's own tokens predict nothing, as in the paper"},
    {.name = "no-next-text",
     .kind = VP_OPT_FLAG,
     .target = &opt.no_next_text,
     .help = "the slots rebuild the text, and foretell no next one"},
    {0},
};
static const vp_program program = {
    .name = "mask",
    .summary = "what a training objective hides, predicts and compares",
    .usage = "mask " VP_MASK_KINDS " [OPTION]... <IDS >MASKED",
    .options = table,
    .notes = "mntp hides tokens, each predicted from the position before it. simcse takes every row twice, pairs of\n"
             "every example the query, a positive and negatives; generate predicts every next token with keep = 1.\n"
             "grit does both, with conversations beside examples. kto adds prompts with answers to other ones.\n"
             "llara puts a text between the pieces of a prompt whose slots predict its tokens and the next text's.\n"
             "The stream must have steps, as tok --batch makes them.\n",
};

typedef struct state {
    vp_reader *reader;
    vp_writer *writer;
    vp_model *model;
    vp_tokenizer *tokenizer;
    vp_mask *mask;
    vp_steps *steps;
    vp_map *header;
    vp_progress *progress;
} state;

static int set_reduce(vp_mask_options *o, vp_error *err) {
    static const char mixed[] = "mixed=";
    double n = 0;
    if (strcmp(opt.reduce, "token") == 0) {
        o->reduce = VP_REDUCE_TOKEN;
    } else if (strcmp(opt.reduce, "sample") == 0) {
        o->reduce = VP_REDUCE_SAMPLE;
    } else if (strncmp(opt.reduce, mixed, sizeof mixed - 1) == 0 && vp_cli_real(opt.reduce + sizeof mixed - 1, &n) &&
               n >= 1 && n <= 1 << 24 && n == (double)(int64_t)n) {
        o->reduce = VP_REDUCE_MIXED;
        o->groups = (int64_t)n;
    } else {
        return vp_fail(err, VP_USAGE, "--reduce: '%s' is not token, sample or mixed=N", opt.reduce);
    }
    return VP_OK;
}

static int open_tokenizer(state *s, vp_error *err) {
    VP_TRY(vp_model_resolve(&s->model, opt.model, s->header, NULL, 0, err));
    VP_TRY(vp_tokenizer_open(&s->tokenizer, vp_model_transformer(s->model), err));
    vp_map *model = vp_map_sub(s->header, "model");
    const char *theirs = model ? vp_map_str(model, "tokenizer") : NULL;
    int status = VP_OK;
    if (theirs && strcmp(theirs, vp_tokenizer_fingerprint(s->tokenizer)) != 0)
        status = vp_fail(err, VP_DATA, "'%s': not the tokenizer that made the ids", vp_model_path(s->model));
    vp_map_free(model);
    return status;
}

static int begin(state *s, const char *kind, const char *command, vp_error *err) {
    vp_frame *f;
    vp_mask_options o = {.kind = kind,
                         .seed = (uint64_t)opt.seed,
                         .batch_tokens = opt.batch_tokens,
                         .rate = opt.rate,
                         .fill = (vp_mask_fill)opt.fill,
                         .mask_token = opt.token,
                         .negatives = opt.negatives,
                         .prompt = opt.prompt,
                         .max_len = opt.max_len,
                         .no_next = opt.no_next,
                         .no_next_text = opt.no_next_text,
                         .prefix = opt.prefix};
    VP_TRY(set_reduce(&o, err));
    if (o.prefix && strcmp(kind, "generate") != 0 && strcmp(kind, "grit") != 0)
        return vp_fail(err, VP_USAGE, "--prefix-lm: for generate and grit");
    VP_TRY(vp_cli_refuse_terminal(STDOUT_FILENO, err));
    VP_TRY(vp_reader_open(&s->reader, STDIN_FILENO, "standard input", err));
    vp_reader_watch(s->reader, STDOUT_FILENO);
    VP_TRY(vp_reader_next(s->reader, &f, err));
    s->header = vp_map_copy(f->keys);
    if (!s->header) return vp_fail_memory(err, "the header", 1);
    if (vp_mask_needs_tokenizer(kind)) VP_TRY(open_tokenizer(s, err));
    VP_TRY(vp_mask_open(&s->mask, &o, s->tokenizer, err));
    VP_TRY(vp_mask_describe(s->mask, s->header, err));
    VP_TRY(vp_steps_open(&s->steps, s->reader, err));
    VP_TRY(vp_writer_open(&s->writer, STDOUT_FILENO, "standard output", err));
    return vp_writer_header(s->writer, s->header, command, err);
}

static int run(state *s, const char *kind, const char *command, vp_error *err) {
    vp_step *step;
    VP_TRY(begin(s, kind, command, err));
    s->progress = vp_progress_start("rows", -1);
    for (;;) {
        VP_TRY(vp_steps_next(s->steps, &step, err));
        if (!step) break;
        VP_TRY(vp_mask_step(s->mask, step, s->writer, err));
        vp_progress_add(s->progress, step->B, step->T);
    }
    vp_frame *end = vp_steps_end(s->steps);
    VP_TRY(vp_mask_end(s->mask, end->keys, err));
    VP_TRY(vp_writer_end(s->writer, end->keys, err));
    const int64_t alone = vp_mask_alone(s->mask);
    if (alone)
        vp_cli_note(
            "%lld of %lld texts have no next one, which their slots should foretell: make them with `rows passages`",
            (long long)alone, (long long)vp_map_int(end->keys, "rows", 0));
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
    if (!status && action == VP_CLI_RUN && argc - first != 1)
        status = vp_fail(&err, VP_USAGE, "one of " VP_MASK_KINDS " is needed");
    if (!status && action == VP_CLI_RUN) status = run(&s, argv[first], command.data, &err);
    vp_progress_finish(s.progress);
    vp_steps_close(s.steps);
    vp_mask_close(s.mask);
    vp_tokenizer_close(s.tokenizer);
    vp_model_close(s.model);
    vp_writer_close(s.writer);
    vp_reader_close(s.reader);
    vp_map_free(s.header);
    vp_buf_free(&command);
    return vp_cli_finish(status, &err);
}
