/* loss: embeddings or marked hidden states to each row's share of a loss, and its gradient. */
#include "lib/vecpipe.h"
#include "tools/common_options.h"
#include "tools/objective_options.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    const char *model, *follow;
    int64_t threads;
} opt;

static const vp_option table[] = {
    OBJECTIVE_OPTIONS,
    {.kind = VP_OPT_GROUP, .help = "Model (mntp, ntp and llara: its output head)"},
    OPTION_MODEL(&opt.model, "folder or .gguf file; else the stream's model, else $VP_MODEL"),
    {.name = "follow",
     .kind = VP_OPT_STRING,
     .target = &opt.follow,
     .value = "DIR",
     .help = "the head that the run of `step` in DIR trains, as each step wants it"},
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
    vp_model *model; /* of objectives of tokens */
    vp_head *head;
    vp_head_following *following; /* which the head belongs to, or NULL */
    vp_steps *steps;              /* of objectives of rows */
    /* the step that is being read, of tokens */
    int64_t step;
    row_loss *rows;
    size_t nrows, cap;
    int64_t targets, right;
} state;

/* ---- the header ---- */

static int declare(state *s, const char *input, int64_t width, vp_error *err) {
    char name[16], shape[32];
    snprintf(name, sizeof name, "grad.%s", input);
    snprintf(shape, sizeof shape, "%c %lld", s->model ? 'M' : 'B', (long long)width);
    VP_TRY(vp_header_undeclare(s->header, input, err));
    if (width) VP_TRY(vp_header_declare(s->header, name, "F32", shape, err));
    VP_TRY(vp_header_declare(s->header, "loss", "F32", "B", err));
    if (opt.follow) VP_TRY(vp_map_set_bool(s->header, "head_follow", true, err));
    return vp_map_set_str(s->header, "objective", s->name, err);
}

static int begin(state *s, const char *command, vp_error *err) {
    vp_frame *f;
    int64_t width;
    const vp_objective_options options = objective_options(s->name);
    VP_TRY(vp_objective_open(&s->objective, &options, err));
    const bool tokens = vp_objective_is_tokens(s->name);
    if (opt.follow && !tokens) return vp_fail(err, VP_USAGE, "--follow: %s has no output head", s->name);
    VP_TRY(vp_cli_refuse_terminal(STDOUT_FILENO, err));
    VP_TRY(vp_reader_open(&s->reader, STDIN_FILENO, "standard input", err));
    vp_reader_watch(s->reader, STDOUT_FILENO);
    VP_TRY(vp_reader_next(s->reader, &f, err));
    if (!(s->header = vp_map_copy(f->keys))) return vp_fail_memory(err, "the header", 1);
    if (tokens) VP_TRY(vp_model_resolve(&s->model, opt.model, s->header, err));
    const char *input = tokens ? "picked" : "emb";
    VP_TRY(vp_header_width_of(s->header, input, &width, err));
    VP_TRY(declare(s, input, tokens ? vp_model_width(s->model) : width, err));
    VP_TRY(vp_writer_open(&s->writer, STDOUT_FILENO, "standard output", err));
    return vp_writer_header(s->writer, s->header, command, err);
}

/* ---- what a step was ---- */

static void tell(const state *s, int64_t step, double loss, int64_t rows, int64_t targets) {
    char members[200], accuracy[80] = "";
    if (targets)
        snprintf(accuracy, sizeof accuracy, ",\"targets\":%lld,\"accuracy\":%.6f", (long long)targets,
                 (double)s->right / (double)targets);
    snprintf(members, sizeof members, "\"step\":%lld,\"loss\":%.9g,\"rows\":%lld%s", (long long)step, loss,
             (long long)rows, accuracy);
    vp_cli_log("step", members);
    vp_progress_note(s->progress, "step %lld, loss %.4f", (long long)step, loss);
}

static int check_finite(const vp_frame *f, const float *loss, const float *grad, int64_t n, vp_error *err) {
    bool finite = true;
    for (int64_t b = 0; b < f->B; b++) finite &= isfinite(loss[b]) != 0;
    for (int64_t i = 0; i < n; i++) finite &= isfinite(grad[i]) != 0;
    return finite ? VP_OK
                  : vp_frame_fail(f, VP_DATA, err, "step %lld: the loss or its gradient is not finite",
                                  (long long)vp_map_int(f->keys, "step", -1));
}

/* The frame with loss [B] and the gradient, first dimension n, in the place of its input. */
static int send(state *s, vp_frame *f, const char *input, int64_t n, int64_t width, const float *loss,
                const float *grad, vp_error *err) {
    char name[16];
    const int64_t shape[] = {n, width};
    snprintf(name, sizeof name, "grad.%s", input);
    VP_TRY(check_finite(f, loss, grad, n * width, err));
    VP_TRY(vp_frame_put(f, "loss", VP_F32, 1, &f->B, loss, err));
    VP_TRY(vp_frame_put(f, name, VP_F32, 2, shape, grad, err));
    vp_frame_drop(f, input);
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
    tell(s, s->step, sum, (int64_t)s->nrows, s->targets);
    s->nrows = 0;
    s->targets = s->right = 0;
}

static int note_rows(state *s, const vp_frame *f, const float *loss, vp_error *err) {
    const vp_column *row = NULL;
    if (f->B) VP_TRY(vp_frame_need(f, "row", VP_I64, 1, &f->B, &row, err));
    for (int64_t b = 0; b < f->B; b++) {
        VP_TRY(vp_grow(&s->rows, &s->cap, s->nrows, sizeof *s->rows, "a step's rows", err));
        s->rows[s->nrows].loss = loss[b];
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

typedef struct work { /* on one frame */
    vp_targets targets;
    float *picked, *share, *grad, *loss;
    uint8_t *right;
} work;

static int prepare(work *w, const state *s, const vp_frame *f, vp_error *err) {
    const int64_t C = vp_head_width(s->head);
    int64_t n = 0;
    VP_TRY(vp_targets_read(&w->targets, f, err));
    const int64_t M = w->targets.M;
    VP_TRY(vp_frame_floats(f, "picked", &w->picked, &n, err));
    if (!w->picked || n != M * C)
        return vp_frame_fail(f, VP_DATA, err, "no column 'picked' [%lld, %lld], one row a target: pool pick makes it",
                             (long long)M, (long long)C);
    w->share = vp_calloc((size_t)M + 1, sizeof *w->share);
    w->grad = vp_calloc((size_t)(M * C) + 1, sizeof *w->grad);
    w->loss = vp_calloc((size_t)f->B + 1, sizeof *w->loss);
    w->right = vp_calloc((size_t)M + 1, 1);
    return w->share && w->grad && w->loss && w->right
               ? VP_OK
               : vp_fail_memory(err, "a gradient", (size_t)(M * C) * sizeof(float));
}

static int run_tokens(state *s, work *w, vp_frame *f, vp_error *err) {
    VP_TRY(check_step(s, f, err));
    VP_TRY(prepare(w, s, f, err));
    vp_marked marked = vp_targets_marked(&w->targets);
    marked.picked = w->picked;
    vp_error why = {0};
    if (vp_objective_tokens(s->objective, s->head, &marked, w->share, w->grad, w->right, &why))
        return vp_frame_fail(f, why.code, err, "%s", why.text);
    vp_targets_rows(&w->targets, w->share, f->B, w->loss);
    s->targets += w->targets.tokens;
    for (int64_t i = 0; i < marked.M; i++) s->right += w->right[i];
    VP_TRY(note_rows(s, f, w->loss, err));
    if (vp_map_bool(f->keys, "last", false)) end_step(s);
    return send(s, f, "picked", marked.M, vp_head_width(s->head), w->loss, w->grad, err);
}

/* With products of the type that the hidden states were made with, as `step` does it. */
static int open_head(state *s, vp_error *err) {
    vp_map *encoder = vp_map_sub(s->header, "encoder");
    const vp_encode_options o = {.threads = (int)opt.threads,
                                 .compute = encoder ? vp_map_str(encoder, "compute") : NULL};
    const int status = opt.follow ? vp_head_following_open(&s->following, s->model, opt.follow, &o, STDOUT_FILENO, err)
                                  : vp_head_open(&s->head, s->model, &o, err);
    vp_map_free(encoder);
    return status;
}

static int each_frame(state *s, vp_error *err) {
    vp_frame *f;
    VP_TRY(open_head(s, err));
    for (;;) {
        VP_TRY(vp_reader_next(s->reader, &f, err));
        if (!f) return VP_OK;
        if (f->kind == VP_FRAME_END) {
            VP_TRY(vp_writer_end(s->writer, f->keys, err));
            continue;
        }
        work w = {0};
        if (s->following) VP_TRY(vp_head_following_head(s->following, f, &s->head, err));
        const int status = run_tokens(s, &w, f, err);
        vp_targets_free(&w.targets);
        free(w.picked);
        free(w.share);
        free(w.grad);
        free(w.loss);
        free(w.right);
        if (status) return status;
    }
}

/* ---- rows: step by step ---- */

typedef struct arrays { /* in `row` order, and a frame's parts */
    vp_rows rows;
    float *loss, *grad;
    float **frame_loss, **frame_grad;
} arrays;

static int allocate(arrays *a, const vp_step *step, vp_error *err) {
    const size_t B = (size_t)step->B, D = (size_t)a->rows.D;
    a->loss = vp_calloc(B + 1, sizeof *a->loss);
    a->grad = vp_calloc(B * D + 1, sizeof *a->grad);
    a->frame_loss = vp_calloc(step->frames, sizeof *a->frame_loss);
    a->frame_grad = vp_calloc(step->frames, sizeof *a->frame_grad);
    bool ok = a->loss && a->grad && a->frame_loss && a->frame_grad;
    for (size_t i = 0; ok && i < step->frames; i++) {
        a->frame_loss[i] = vp_calloc((size_t)step->frame[i]->B + 1, sizeof **a->frame_loss);
        a->frame_grad[i] = vp_calloc((size_t)step->frame[i]->B * D + 1, sizeof **a->frame_grad);
        ok = a->frame_loss[i] && a->frame_grad[i];
    }
    return ok ? VP_OK : vp_fail_memory(err, "a step's gradient", B * D * sizeof(float));
}

static void release(arrays *a, const vp_step *step) {
    for (size_t i = 0; a->frame_grad && i < step->frames; i++) {
        free(a->frame_loss[i]);
        free(a->frame_grad[i]);
    }
    free(a->frame_loss);
    free(a->frame_grad);
    free(a->loss);
    free(a->grad);
    vp_rows_free(&a->rows);
}

static int run_rows(state *s, arrays *a, vp_step *step, vp_error *err) {
    vp_error why = {0};
    VP_TRY(vp_rows_gather(&a->rows, step, NULL, 0, err));
    VP_TRY(allocate(a, step, err));
    if (vp_objective_rows(s->objective, &a->rows, a->loss, a->grad, &why))
        return vp_fail(err, why.code, "standard input: step %lld: %s", (long long)step->step, why.text);
    vp_rows_scatter(step, 1, a->loss, a->frame_loss);
    vp_rows_scatter(step, a->rows.D, a->grad, a->frame_grad);
    double sum = 0;
    for (int64_t b = 0; b < a->rows.B; b++) sum += (double)a->loss[b];
    tell(s, step->step, sum, a->rows.B, 0);
    for (size_t i = 0; i < step->frames; i++) {
        vp_frame *f = step->frame[i];
        VP_TRY(send(s, f, "emb", f->B, a->rows.D, a->frame_loss[i], a->frame_grad[i], err));
    }
    return VP_OK;
}

static int each_step(state *s, vp_error *err) {
    vp_step *step;
    VP_TRY(vp_steps_open(&s->steps, s->reader, err));
    for (;;) {
        VP_TRY(vp_steps_next(s->steps, &step, err));
        if (!step) return vp_writer_end(s->writer, vp_steps_end(s->steps)->keys, err);
        arrays a = {0};
        const int status = run_rows(s, &a, step, err);
        release(&a, step);
        if (status) return status;
    }
}

static int run(state *s, const char *command, vp_error *err) {
    VP_TRY(begin(s, command, err));
    s->progress = vp_progress_start("rows", -1);
    return s->model ? each_frame(s, err) : each_step(s, err);
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
