/* step: from gradients, or from token ids alone, to a trained adapter or model. */
#include "lib/vecpipe.h"
#include "tools/common_options.h"
#include "tools/objective_options.h"
#if __has_include(<malloc.h>)
#include <malloc.h>
#endif
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct options {
    const char *out, *resume, *model, *lora, *targets, *start, *objective, *pool, *latent, *device;
    vp_list adapters;
    int attention, optimizer, schedule, recompute, compute, train, dtype;
    int64_t threads, seed, decay_steps, checkpoint_every, dims, project, tokens;
    double lr, warmup, attention_dropout, hidden_dropout;
    bool normalize, raw, full;
    vp_trainer_options trainer;
} options;
static const char default_lora[] = "r=16,alpha=32";
static options opt = {.lora = default_lora,
                      .schedule = 1,
                      .lr = 5e-5,
                      .attention_dropout = -1,
                      .hidden_dropout = -1,
                      .checkpoint_every = 100,
                      .trainer = VP_TRAINER_DEFAULTS};

static const vp_option table[] = {
    {.kind = VP_OPT_GROUP, .help = "The run"},
    {.name = "out",
     .letter = 'o',
     .kind = VP_OPT_STRING,
     .target = &opt.out,
     .value = "DIR",
     .help = "where the adapter, checkpoints and `live` go; made if it is not there"},
    {.name = "resume",
     .kind = VP_OPT_STRING,
     .target = &opt.resume,
     .value = "DIR",
     .help = "the same, going on from the checkpoint in it, if there is one"},
    {.name = "checkpoint-every",
     .kind = VP_OPT_INT,
     .target = &opt.checkpoint_every,
     .value = "N",
     .max = (double)VP_MIX_STEPS_MAX,
     .help = "steps between checkpoints; 0: at the end only"},
    {.kind = VP_OPT_GROUP, .help = "Model"},
    OPTION_MODEL(&opt.model, "folder or .gguf file; else the stream's model, else $VP_MODEL"),
    OPTION_ADAPTER(&opt.adapters, "LoRA adapter that stays as it is under the one that is trained; may be repeated"),
    {.name = "attention",
     .kind = VP_OPT_CHOICE,
     .target = &opt.attention,
     .choices = "auto|" VP_ATTENTIONS,
     .help = "which tokens see which; auto: as the stream or the model says"},
    {.kind = VP_OPT_GROUP, .help = "What is trained"},
    {.name = "lora",
     .kind = VP_OPT_STRING,
     .target = &opt.lora,
     .value = "r=N,alpha=X,dropout=P",
     .help = "a new adapter: rank, alpha (its scale is alpha / r), dropout of its inputs"},
    {.name = "lora-targets",
     .kind = VP_OPT_STRING,
     .target = &opt.targets,
     .value = "NAME,...",
     .help = "linears that get it, as q_proj,v_proj; all of the layers if not given"},
    {.name = "continue",
     .kind = VP_OPT_STRING,
     .target = &opt.start,
     .value = "DIR",
     .help = "begin with this adapter's weights, rank, alpha and targets"},
    {.name = "latent",
     .kind = VP_OPT_STRING,
     .target = &opt.latent,
     .value = "SPEC",
     .help = "sizes of a new latent-attention layer, with pooling latent: " VP_LATENT_SPEC},
    {.name = "project",
     .kind = VP_OPT_INT,
     .target = &opt.project,
     .value = "N",
     .max = VP_PROJECTION_MOST,
     .help = "train a projection of the pooled vectors to N dimensions, whole, beside the rest; 0: none"},
    {.name = "full",
     .kind = VP_OPT_FLAG,
     .target = &opt.full,
     .help = "no adapter: all weights, but for an output head of their own; DIR becomes a model folder"},
    {.name = "train",
     .kind = VP_OPT_CHOICE,
     .target = &opt.train,
     .choices = "body|head",
     .help = "head: the output head of losses of tokens, too; thrown away at the end unless --full"},
    {.name = "train-tokens",
     .kind = VP_OPT_INT,
     .target = &opt.tokens,
     .value = "N",
     .max = 65536,
     .help = "with the adapter the embedding rows of the last N tokens, which a tied head shares"},
    {.name = "dtype",
     .kind = VP_OPT_CHOICE,
     .target = &opt.dtype,
     .choices = "auto|f32|bf16|f16",
     .help = "of the result in DIR; auto: an adapter f32, a whole model as the base, of a quantised one bf16"},
    {.name = "attention-dropout",
     .kind = VP_OPT_REAL,
     .target = &opt.attention_dropout,
     .value = "P",
     .min = -1,
     .max = 0.99,
     .help = "of attention probabilities; below 0: as the stream says, else none"},
    {.name = "hidden-dropout",
     .kind = VP_OPT_REAL,
     .target = &opt.hidden_dropout,
     .value = "P",
     .min = -1,
     .max = 0.99,
     .help = "of what attention and MLP add; below 0: as the stream says, else none"},
    {.name = "seed",
     .kind = VP_OPT_INT,
     .target = &opt.seed,
     .value = "N",
     .max = 0x1p53 - 1, /* what train.json holds exactly */
     .help = "of dropout and of a new adapter"},
    {.kind = VP_OPT_GROUP, .help = "Without `loss` before it (fused: the same bytes, faster)"},
    {.name = "objective", .kind = VP_OPT_STRING, .target = &opt.objective, .value = "NAME", .help = VP_OBJECTIVES},
    {.name = "pool",
     .kind = VP_OPT_STRING,
     .target = &opt.pool,
     .value = "KIND",
     .help = VP_POOLINGS "; else what model and objective have"},
    {.name = "normalize", .kind = VP_OPT_FLAG, .target = &opt.normalize, .help = "with --pool: to length 1"},
    {.name = "no-normalize", .kind = VP_OPT_FLAG, .target = &opt.raw, .help = "with --pool: leave the length"},
    {.name = "dims",
     .kind = VP_OPT_INT,
     .target = &opt.dims,
     .value = "N",
     .max = 1 << 24,
     .help = "with --pool: keep the first N dimensions; 0: all"},
    OBJECTIVE_OPTIONS,
    {.kind = VP_OPT_GROUP, .help = "Optimiser"},
    {.name = "lr", .kind = VP_OPT_REAL, .target = &opt.lr, .value = "X", .max = 1e3, .help = "highest learning rate"},
    {.name = "schedule",
     .kind = VP_OPT_CHOICE,
     .target = &opt.schedule,
     .choices = VP_SCHEDULES,
     .help = "of the learning rate, down to 0 at --decay-steps"},
    {.name = "warmup",
     .kind = VP_OPT_REAL,
     .target = &opt.warmup,
     .value = "X",
     .max = 1e9,
     .help = "steps until the highest rate; below 1: a share of --decay-steps"},
    {.name = "decay-steps",
     .kind = VP_OPT_INT,
     .target = &opt.decay_steps,
     .value = "N",
     .max = (double)VP_MIX_STEPS_MAX,
     .help = "planned steps, which may be more than are made; 0: as many as the stream says"},
    {.name = "optimizer",
     .kind = VP_OPT_CHOICE,
     .target = &opt.optimizer,
     .choices = VP_OPTIMIZERS,
     .help = "how the gradient changes the weights"},
    {.name = "beta1",
     .kind = VP_OPT_REAL,
     .target = &opt.trainer.beta1,
     .value = "X",
     .max = 0.999999,
     .help = "decay of the mean gradient; of sgd: momentum"},
    {.name = "beta2",
     .kind = VP_OPT_REAL,
     .target = &opt.trainer.beta2,
     .value = "X",
     .max = 0.999999999,
     .help = "decay of the mean square"},
    {.name = "eps",
     .kind = VP_OPT_REAL,
     .target = &opt.trainer.eps,
     .value = "X",
     .max = 1,
     .help = "added to its root"},
    {.name = "weight-decay",
     .kind = VP_OPT_REAL,
     .target = &opt.trainer.decay,
     .value = "X",
     .max = 1e3,
     .help = "share of the weights taken off, times the rate"},
    {.name = "clip",
     .kind = VP_OPT_REAL,
     .target = &opt.trainer.clip,
     .value = "X",
     .max = 1e9,
     .help = "longest gradient; 0: any"},
    {.name = "accumulate",
     .kind = VP_OPT_INT,
     .target = &opt.trainer.accumulate,
     .value = "N",
     .min = 1,
     .max = 1 << 20,
     .help = "steps whose mean gradient makes one update"},
    {.kind = VP_OPT_GROUP, .help = "Computing"},
    OPTION_BATCH_TOKENS(&opt.trainer.batch_tokens,
                        "tokens computed at a time, in whole gradient units; auto: 2048, on a GPU what fits"),
    {.name = "recompute",
     .kind = VP_OPT_CHOICE,
     .target = &opt.recompute,
     .choices = VP_RECOMPUTES,
     .help = "what the backward pass computes again instead of keeping it"},
    {.name = "activations",
     .kind = VP_OPT_INT,
     .target = &opt.trainer.activations,
     .value = "BYTES",
     .max = 9e15,
     .help = "kept at once, and until the loss of a step is known; what does not fit is computed twice"},
    OPTION_COMPUTE(&opt.compute, "arithmetic of the products"),
    OPTION_DEVICE(&opt.device),
    OPTION_THREADS(&opt.threads, "threads to use; 0: all"),
    {0},
};
static const vp_program program = {
    .name = "step",
    .summary = "gradients, or token ids alone, to a trained adapter or model",
    .usage = "step --out DIR [OPTION]... <GRADIENTS\nstep --out DIR --objective NAME [OPTION]... <IDS",
    .options = table,
    .notes =
        "Reads steps, as `tok --batch` and `mask` make them. The adapter comes to lie in DIR, as PEFT has it; a model\n"
        "that was trained whole as a Hugging Face folder.\n",
};

typedef struct state {
    vp_reader *reader;
    vp_map *header;
    vp_steps *steps;
    vp_run *run;
    vp_progress *progress;
    double started, last;
    int64_t tokens, done;
    double loss;
} state;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* "r=16,alpha=32,dropout=0.05": any of the three, each once. */
static int parse_lora(const char *text, vp_train_options *train, vp_error *err) {
    double rank = 16, alpha = -1, dropout = 0;
    struct {
        const char *name;
        double *value;
        bool seen;
    } known[] = {{"r=", &rank, false}, {"alpha=", &alpha, false}, {"dropout=", &dropout, false}};
    char word[64];
    for (const char *at = text; *at;) {
        const size_t n = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", (int)(n < sizeof word ? n : sizeof word - 1), at);
        size_t k = 0;
        while (k < 3 && strncmp(word, known[k].name, strlen(known[k].name)) != 0) k++;
        if (k == 3 || known[k].seen || !vp_cli_real(word + strlen(known[k].name), known[k].value))
            return vp_fail(err, VP_USAGE, "--lora: '%s' is none of r=N, alpha=X, dropout=P", word);
        known[k].seen = true;
        at += n + (at[n] == ',');
    }
    if (!(rank >= 1 && rank <= 1024) || rank > floor(rank))
        return vp_fail(err, VP_USAGE, "--lora: r=%g is not a whole number from 1 to 1024", rank);
    train->rank = (int64_t)rank;
    train->alpha = known[1].seen ? alpha : 2 * rank;
    train->lora_dropout = dropout;
    return VP_OK;
}

/* Options that mean nothing to a model that is trained whole, or only to it. */
static int check_full(vp_error *err) {
    const char *odd = opt.full && opt.lora != default_lora ? "--lora"
                      : opt.full && opt.targets            ? "--lora-targets"
                      : opt.full && opt.start              ? "--continue"
                      : opt.full && opt.tokens             ? "--train-tokens"
                                                           : NULL;
    if (odd) return vp_fail(err, VP_USAGE, "%s is of adapters, --full trains none", odd);
    return VP_OK;
}

static int set_options(vp_run_options *o, vp_error *err) {
    static const char *const attentions[] = {NULL, "causal", "bi", "segments"};
    static const char *const computes[] = {NULL, "f32", "tf32", "bf16", "i8", "fp8"};
    static const char *const schedules[] = {"constant", "linear", "cosine"};
    static const vp_dtype dtypes[] = {VP_NDTYPES, VP_F32, VP_BF16, VP_F16};
    if (!opt.out == !opt.resume) return vp_fail(err, VP_USAGE, "give --out DIR, or --resume DIR");
    *o = (vp_run_options){.folder = opt.resume ? opt.resume : opt.out,
                          .resume = opt.resume != NULL,
                          .model = opt.model,
                          .adapters = opt.adapters.item,
                          .nadapters = opt.adapters.n,
                          .objective = opt.objective,
                          .trainer = opt.trainer,
                          .dtype = dtypes[opt.dtype],
                          .schedule = schedules[opt.schedule],
                          .lr = opt.lr,
                          .warmup = opt.warmup,
                          .decay_steps = opt.decay_steps,
                          .checkpoint_every = opt.checkpoint_every};
    o->encode = (vp_encode_options){.device = opt.device,
                                    .threads = (int)opt.threads,
                                    .compute = computes[opt.compute],
                                    .attention = attentions[opt.attention]};
    o->train = (vp_train_options){.full = opt.full,
                                  .head = opt.train == 1,
                                  .targets = opt.targets,
                                  .tokens = opt.tokens,
                                  .start = opt.start,
                                  .projection = opt.project,
                                  .attention_dropout = opt.attention_dropout,
                                  .hidden_dropout = opt.hidden_dropout,
                                  .seed = (uint64_t)opt.seed,
                                  .recompute = (vp_recompute)opt.recompute};
    o->trainer.optimizer = (vp_optimizer)opt.optimizer;
    o->objective_options = objective_options(opt.objective);
    VP_TRY(check_full(err));
    VP_TRY(parse_lora(opt.lora, &o->train, err));
    if (opt.latent) VP_TRY(vp_latent_parse(opt.latent, &o->latent, err));
    return vp_pool_options_set(&o->pool, opt.pool, opt.normalize, opt.raw, opt.dims, err);
}

static int begin(state *s, vp_error *err) {
    vp_run_options o;
    vp_frame *f;
    VP_TRY(set_options(&o, err));
    VP_TRY(vp_reader_open(&s->reader, STDIN_FILENO, "standard input", err));
    VP_TRY(vp_reader_next(s->reader, &f, err));
    s->header = vp_map_copy(f->keys);
    if (!s->header) return vp_fail_memory(err, "the header", 1);
    VP_TRY(vp_run_open(&s->run, &o, s->header, err));
    tell_device(vp_run_encoder(s->run));
    vp_reader_set_vocab(s->reader, vp_run_vocab(s->run));
    return vp_steps_open(&s->steps, s->reader, err);
}

static int report(state *s, const vp_step *step, const vp_trained *t, vp_error *err) {
    vp_buf event = {0};
    const double at = now(), seconds = at - s->last;
    s->last = at;
    s->tokens += t->tokens;
    s->loss = t->loss;
    s->done++;
    vp_progress_note(s->progress, "loss %.4f  lr %.2e", t->loss, t->lr);
    vp_progress_add(s->progress, 1, t->tokens);
    char parts[40] = "";
    if (step->generative && step->generative < step->B)
        snprintf(parts, sizeof parts, "\"loss_gen\":%.9g,", t->generative);
    int status = vp_buf_printf(&event, err,
                               "\"step\":%lld,\"loss\":%.9g,%s\"lr\":%.9g,\"norm\":%.9g,\"rows\":%lld,\"tokens\":%lld,"
                               "\"seconds\":%.3f",
                               (long long)step->step, t->loss, parts, t->lr, t->norm, (long long)t->rows,
                               (long long)t->tokens, seconds);
    if (!status) vp_cli_log("step", event.data);
    vp_buf_free(&event);
    return status;
}

static int run(state *s, vp_error *err) {
    VP_TRY(begin(s, err));
    s->started = s->last = now();
    for (;;) {
        vp_step *step;
        vp_trained done;
        VP_TRY(vp_steps_next(s->steps, &step, err));
        if (!step) break;
        if (!s->progress) s->progress = vp_progress_start("steps", step->total ? step->total - step->step : -1);
        VP_TRY(vp_run_step(s->run, step, &done, err));
        VP_TRY(report(s, step, &done, err));
    }
    VP_TRY(vp_run_finish(s->run, err));
    tell_work(vp_run_encoder(s->run), s->tokens);
    if (s->done)
        vp_cli_note("%lld steps, loss %.4f, %.0f tokens/s: %s", (long long)s->done, s->loss,
                    (double)s->tokens / fmax(now() - s->started, 1e-6), opt.resume ? opt.resume : opt.out);
    else
        vp_cli_note("nothing was left to do: %s", opt.resume ? opt.resume : opt.out);
    return VP_OK;
}

int main(int argc, char **argv) {
    vp_error err = {0};
#ifdef M_MMAP_THRESHOLD
    mallopt(M_MMAP_THRESHOLD, 1 << 17); /* glibc would raise it, and keep 40 MB of what large buffers leave behind */
#endif
    vp_cli_action action = VP_CLI_RUN;
    state s = {0};
    int first = argc;
    vp_cli_start(program.name);
    int status = vp_cli_parse(&program, argc, argv, &first, &action, &err);
    if (!status && action == VP_CLI_RUN && first < argc)
        status = vp_fail(&err, VP_USAGE, "'%s': the stream is read from standard input", argv[first]);
    if (!status && action == VP_CLI_RUN) status = run(&s, &err);
    vp_progress_finish(s.progress);
    vp_run_close(s.run);
    vp_steps_close(s.steps);
    vp_reader_close(s.reader);
    vp_map_free(s.header);
    free(opt.adapters.item);
    return vp_cli_finish(status, &err);
}
