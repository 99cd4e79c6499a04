/* loss: embeddings or marked hidden states to each row's share of a loss, and its gradient. */
#include "lib/vecpipe.h"
#include "tools/common_options.h"
#include "tools/objective_options.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    const char *model, *follow;
    const char *device;
    int64_t threads;
    bool reference;
} opt;

static const vp_option table[] = {
    OBJECTIVE_OPTIONS,
    {.name = "reference",
     .kind = VP_OPT_FLAG,
     .target = &opt.reference,
     .help = "ntp: no loss, but column `reference`, what kto compares with: how likely each row's targets are"},
    {.kind = VP_OPT_GROUP, .help = "Model (of losses of tokens: its output head)"},
    OPTION_MODEL(&opt.model, "folder or .gguf file; else the stream's model, else $VP_MODEL"),
    {.name = "follow",
     .kind = VP_OPT_STRING,
     .target = &opt.follow,
     .value = "DIR",
     .help = "the head that the run of `step` in DIR trains, as each step wants it"},
    OPTION_DEVICE(&opt.device),
    OPTION_THREADS(&opt.threads, "threads to use for it; 0: all"),
    {0},
};
static const vp_program program = {
    .name = "loss",
    .summary = "embeddings or marked states to a loss and its gradient",
    .usage = "loss OBJECTIVE [OPTION]... <EMB >GRADIENTS",
    .options = table,
    .notes = "OBJECTIVE is one of\n"
             "  mntp, ntp  cross-entropy of the masked or next tokens: picked -> grad.picked\n"
             "  llara      of the next tokens, and of bags of tokens that slots predict\n"
             "  infonce    a query's positive among other passages:    emb -> grad.emb\n"
             "  cosent     the order of pairs by their score\n"
             "  mse        the cosine of pairs against their score\n"
             "  distill    a teacher's scores of a query's passages\n"
             "  grit       ntp of rows to be generated, infonce of the others\n"
             "  kto        answers wanted or not, against a reference: picked -> grad.picked\n"
             "The column loss [B] is each row's share: a step's loss is their sum.\n",
};

typedef struct row_loss {
    int64_t row;
    float loss;
} row_loss;

typedef struct state {
    const char *name;
    vp_reader *reader;
    vp_writer *writer;
    vp_map *header;
    vp_objective *objective;
    vp_progress *progress;
    vp_objective_form form;
    vp_model *model; /* of objectives with an output head */
    vp_head *head;
    vp_head_following *following; /* which the head belongs to, or NULL */
    vp_steps *steps;              /* of objectives that need a step as a whole */
    /* the step that is being read, of tokens */
    int64_t step;
    row_loss *rows;
    size_t nrows, cap;
    vp_loss_counts counts;
} state;

/* ---- the header ---- */

/* A gradient in the place of its input, whose width is not known where it is 0. */
static int declare(state *s, const char *input, char first, int64_t width, vp_error *err) {
    char name[16], shape[32];
    snprintf(name, sizeof name, "grad.%s", input);
    snprintf(shape, sizeof shape, "%c %lld", first, (long long)width);
    VP_TRY(vp_header_undeclare(s->header, input, err));
    return width && !opt.reference ? vp_header_declare(s->header, name, "F32", shape, err) : VP_OK;
}

static int declare_all(state *s, vp_error *err) {
    int64_t width;
    if (s->form != VP_FORM_ROWS) VP_TRY(declare(s, "picked", 'M', vp_model_width(s->model), err));
    if (s->form == VP_FORM_ROWS || s->form == VP_FORM_JOINT) {
        VP_TRY(vp_header_width_of(s->header, "emb", &width, err));
        VP_TRY(declare(s, "emb", 'B', width, err));
    }
    if (opt.reference) return vp_header_declare(s->header, "reference", "F32", "B", err);
    if (s->form == VP_FORM_ANSWERS) VP_TRY(vp_header_declare(s->header, "grad.logprob", "F32", "B", err));
    VP_TRY(vp_header_declare(s->header, "loss", "F32", "B", err));
    if (opt.follow) VP_TRY(vp_map_set_bool(s->header, "head_follow", true, err));
    const double balance = vp_objective_balance(s->objective);
    if (s->model && vp_model_has_experts(s->model) && balance > 0)
        VP_TRY(vp_map_set_real(s->header, "balance", balance, err));
    return vp_map_set_str(s->header, "objective", s->name, err);
}

static int begin(state *s, const char *command, vp_error *err) {
    vp_frame *f;
    const vp_objective_options options = objective_options(s->name);
    VP_TRY(vp_objective_open(&s->objective, &options, err));
    s->form = vp_objective_form_in(s->objective);
    if (opt.follow && s->form == VP_FORM_ROWS)
        return vp_fail(err, VP_USAGE, "--follow: %s has no output head", s->name);
    if (opt.reference && s->form != VP_FORM_TOKENS)
        return vp_fail(err, VP_USAGE, "--reference: %s is no loss of tokens", s->name);
    VP_TRY(vp_cli_refuse_terminal(STDOUT_FILENO, err));
    VP_TRY(vp_reader_open(&s->reader, STDIN_FILENO, "standard input", err));
    vp_reader_watch(s->reader, STDOUT_FILENO);
    VP_TRY(vp_reader_next(s->reader, &f, err));
    if (!(s->header = vp_map_copy(f->keys))) return vp_fail_memory(err, "the header", 1);
    if (s->form != VP_FORM_ROWS)
        VP_TRY(opt.follow ? vp_model_resolve_base(&s->model, opt.model, s->header, err)
                          : vp_model_resolve(&s->model, opt.model, s->header, NULL, 0, err));
    VP_TRY(declare_all(s, err));
    VP_TRY(vp_writer_open(&s->writer, STDOUT_FILENO, "standard output", err));
    return vp_writer_header(s->writer, s->header, command, err);
}

/* ---- what a step was ---- */

static void tell(const state *s, int64_t step, double loss, int64_t rows) {
    char members[200], accuracy[80] = "";
    const vp_loss_counts *n = &s->counts;
    if (n->targets)
        snprintf(accuracy, sizeof accuracy, ",\"targets\":%lld,\"accuracy\":%.6f", (long long)n->targets,
                 (double)n->right / (double)n->targets);
    snprintf(members, sizeof members, "\"step\":%lld,\"loss\":%.9g,\"rows\":%lld%s", (long long)step, loss,
             (long long)rows, accuracy);
    vp_cli_log("step", members);
    vp_progress_note(s->progress, "step %lld, loss %.4f", (long long)step, loss);
}

static int send(state *s, vp_frame *f, vp_error *err) {
    VP_TRY(vp_writer_batch(s->writer, f, err));
    vp_progress_add(s->progress, f->B, f->T);
    return VP_OK;
}

/* ---- tokens: frame by frame ---- */

static int by_row(const void *a, const void *b) {
    const row_loss *x = a, *y = b;
    return (x->row > y->row) - (x->row < y->row);
}

static void end_step(state *s) {
    double sum = 0;
    if (s->nrows) qsort(s->rows, s->nrows, sizeof *s->rows, by_row);
    for (size_t i = 0; i < s->nrows; i++) sum += (double)s->rows[i].loss;
    tell(s, s->step, sum, (int64_t)s->nrows);
    s->nrows = 0;
    s->counts = (vp_loss_counts){0};
}

static int note_rows(state *s, const vp_frame *f, vp_error *err) {
    const vp_column *row = NULL, *loss = NULL;
    if (f->B) VP_TRY(vp_frame_need(f, "row", VP_I64, 1, &f->B, &row, err));
    if (f->B) VP_TRY(vp_frame_need(f, "loss", VP_F32, 1, &f->B, &loss, err));
    for (int64_t b = 0; b < f->B; b++) {
        VP_TRY(vp_grow(&s->rows, &s->cap, s->nrows, sizeof *s->rows, "a step's rows", err));
        memcpy(&s->rows[s->nrows].loss, loss->data + (size_t)b * sizeof(float), sizeof(float));
        memcpy(&s->rows[s->nrows++].row, row->data + (size_t)b * sizeof(int64_t), sizeof(int64_t));
    }
    return VP_OK;
}

static int check_step(state *s, const vp_frame *f, vp_error *err) {
    const int64_t step = vp_map_int(f->keys, "step", -1);
    if (step < 0)
        return vp_frame_fail(f, VP_DATA, err, "no key 'step': losses are of steps, as tok --batch makes them");
    if (step < s->step)
        return vp_frame_fail(f, VP_DATA, err, "step %lld after step %lld: steps must ascend", (long long)step,
                             (long long)s->step);
    s->step = step;
    return VP_OK;
}

static int run_tokens(state *s, vp_frame *f, vp_error *err) {
    VP_TRY(check_step(s, f, err));
    if (opt.reference) {
        VP_TRY(vp_reference_frame(s->objective, s->head, f, err));
    } else {
        VP_TRY(vp_loss_frame(s->objective, s->head, f, &s->counts, err));
        VP_TRY(note_rows(s, f, err));
        if (vp_map_bool(f->keys, "last", false)) end_step(s);
    }
    return send(s, f, err);
}

/* With products of the type that the hidden states were made with, as `step` does it. */
static int open_head(state *s, vp_error *err) {
    vp_map *encoder = vp_map_sub(s->header, "encoder");
    const vp_encode_options o = {
        .device = opt.device, .threads = (int)opt.threads, .compute = encoder ? vp_map_str(encoder, "compute") : NULL};
    const int status = opt.follow ? vp_head_following_open(&s->following, s->model, opt.follow, &o, STDOUT_FILENO, err)
                                  : vp_head_open(&s->head, s->model, &o, err);
    vp_map_free(encoder);
    if (s->head) tell_compute(vp_head_compute(s->head));
    return status;
}

static int each_frame(state *s, vp_error *err) {
    vp_frame *f;
    for (;;) {
        VP_TRY(vp_reader_next(s->reader, &f, err));
        if (!f) return VP_OK;
        if (f->kind == VP_FRAME_END) {
            VP_TRY(vp_writer_end(s->writer, f->keys, err));
            continue;
        }
        if (s->following) VP_TRY(vp_head_following_head(s->following, f, &s->head, err));
        VP_TRY(run_tokens(s, f, err));
    }
}

/* ---- rows: step by step ---- */

static int run_step(state *s, vp_step *step, vp_error *err) {
    double sum;
    if (s->following) VP_TRY(vp_head_following_head(s->following, step->frame[0], &s->head, err));
    s->counts = (vp_loss_counts){0};
    VP_TRY(vp_loss_step(s->objective, s->head, step, &s->counts, &sum, err));
    tell(s, step->step, sum, step->B);
    for (size_t i = 0; i < step->frames; i++) VP_TRY(send(s, step->frame[i], err));
    return VP_OK;
}

static int each_step(state *s, vp_error *err) {
    vp_step *step;
    VP_TRY(vp_steps_open(&s->steps, s->reader, err));
    for (;;) {
        VP_TRY(vp_steps_next(s->steps, &step, err));
        if (!step) return vp_writer_end(s->writer, vp_steps_end(s->steps)->keys, err);
        VP_TRY(run_step(s, step, err));
    }
}

static int run(state *s, const char *command, vp_error *err) {
    VP_TRY(begin(s, command, err));
    s->progress = vp_progress_start("rows", -1);
    if (s->model) VP_TRY(open_head(s, err));
    return s->form == VP_FORM_TOKENS ? each_frame(s, err) : each_step(s, err);
}

static void close_all(state *s) {
    vp_progress_finish(s->progress);
    vp_steps_close(s->steps);
    if (!s->following) vp_head_close(s->head);
    vp_head_following_close(s->following);
    vp_model_close(s->model);
    vp_objective_close(s->objective);
    vp_writer_close(s->writer);
    vp_reader_close(s->reader);
    vp_map_free(s->header);
    free(s->rows);
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
        status = vp_fail(&err, VP_USAGE, "one OBJECTIVE, not %d; the stream is read from standard input", argc - first);
    if (!status && action == VP_CLI_RUN) {
        s.name = argv[first];
        status = run(&s, command.data, &err);
    }
    close_all(&s);
    vp_buf_free(&command);
    return vp_cli_finish(status, &err);
}
