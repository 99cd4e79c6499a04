/* gen: prompts to texts; gen rerank: hits in another order. */
#include "lib/vecpipe.h"
#include "tools/common_options.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FORMAT_AUTO, FORMAT_TEXT, FORMAT_JSONL };

typedef struct options {
    const char *model, *device, *chat, *documents, *queries;
    vp_list adapters, stop;
    double temperature, top_p, penalty;
    int64_t max_tokens, top_k, seed, batch, threads;
    int compute, format;
    bool greedy, logprobs, lines, skip_bad, rope_shift, bos;
} options;
static options opt = {.chat = "none", .temperature = 0.7, .top_p = 0.95, .penalty = 1, .max_tokens = 256, .batch = 1};

static const vp_option table[] = {
    {.kind = VP_OPT_GROUP, .help = "Model"},
    OPTION_MODEL(&opt.model, "folder or .gguf file; else $VP_MODEL"),
    OPTION_ADAPTER(&opt.adapters, "LoRA adapter (PEFT's layout), applied on the fly; may be repeated"),
    OPTION_COMPUTE_OF("auto|f32|bf16|i8", &opt.compute,
                      "type that weights are kept in; sums are f32. i8: a scale an output. auto: f32"),
    OPTION_DEVICE(&opt.device),
    OPTION_THREADS(&opt.threads, "threads to use; 0: all"),
    {.kind = VP_OPT_GROUP, .help = "Prompts"},
    {.name = "lines", .kind = VP_OPT_FLAG, .target = &opt.lines, .help = "every line is a prompt; else JSONL"},
    {.name = "chat",
     .kind = VP_OPT_STRING,
     .target = &opt.chat,
     .value = "FORMAT",
     .help = "auto (what the model was trained with), none (the prompt is continued), or " VP_DIALOGS},
    {.name = "bos",
     .kind = VP_OPT_FLAG,
     .target = &opt.bos,
     .help = "prompts begin with BOS also where the tokenizer puts none"},
    {.name = "batch",
     .kind = VP_OPT_INT,
     .target = &opt.batch,
     .value = "N",
     .min = 1,
     .max = 1024,
     .help = "prompts that run together"},
    {.name = "skip-bad", .kind = VP_OPT_FLAG, .target = &opt.skip_bad, .help = "count bad records, and go on"},
    {.kind = VP_OPT_GROUP, .help = "Cached texts"},
    {.name = "doc-cache",
     .kind = VP_OPT_STRING,
     .target = &opt.documents,
     .value = "INDEX",
     .help = "where the keys and values are of {\"doc\": ID} in a prompt's `cache`"},
    {.name = "query-cache",
     .kind = VP_OPT_STRING,
     .target = &opt.queries,
     .value = "FILE",
     .help = "the same of {\"query\": ID}: a stream of fwd --emit emb,kv"},
    {.name = "rope-shift",
     .kind = VP_OPT_FLAG,
     .target = &opt.rope_shift,
     .help = "a text's keys follow the last one's"},
    {.kind = VP_OPT_GROUP, .help = "Answers"},
    {.name = "max-tokens",
     .kind = VP_OPT_INT,
     .target = &opt.max_tokens,
     .value = "N",
     .min = 1,
     .max = 1 << 24,
     .help = "of an answer, at most"},
    {.name = "stop",
     .kind = VP_OPT_LIST,
     .target = &opt.stop,
     .value = "TEXT",
     .help = "end an answer before this text; may be repeated"},
    {.name = "greedy", .kind = VP_OPT_FLAG, .target = &opt.greedy, .help = "always the likeliest token"},
    {.name = "temperature",
     .kind = VP_OPT_REAL,
     .target = &opt.temperature,
     .value = "X",
     .max = 100,
     .help = "divides the logits; 0: as --greedy"},
    {.name = "top-k",
     .kind = VP_OPT_INT,
     .target = &opt.top_k,
     .value = "N",
     .max = 1 << 24,
     .help = "draw from the N likeliest tokens; 0: all"},
    {.name = "top-p",
     .kind = VP_OPT_REAL,
     .target = &opt.top_p,
     .value = "P",
     .min = 1e-6,
     .max = 1,
     .help = "draw from the likeliest tokens that have P of the probability together"},
    {.name = "repetition-penalty",
     .kind = VP_OPT_REAL,
     .target = &opt.penalty,
     .value = "X",
     .min = 0.01,
     .max = 100,
     .help = "divides the logits of tokens that were there; 1: none"},
    {.name = "seed",
     .kind = VP_OPT_INT,
     .target = &opt.seed,
     .value = "N",
     .max = 9223372036854775807.0,
     .help = "another number, another draw"},
    {.kind = VP_OPT_GROUP, .help = "Output"},
    {.name = "format",
     .kind = VP_OPT_CHOICE,
     .target = &opt.format,
     .choices = "auto|text|jsonl",
     .help = "auto: text, as it grows, on a terminal; else JSONL"},
    {.name = "logprobs", .kind = VP_OPT_FLAG, .target = &opt.logprobs, .help = "JSONL: each token's log-probability"},
    {0},
};
static const vp_program program = {
    .name = "gen",
    .summary = "prompts to texts: completion and chat",
    .usage = "gen [FILE] [OPTION]... <PROMPTS >ANSWERS",
    .options = table,
    .notes =
        "gen rerank puts the hits of queries in another order: gen rerank --help.\n"
        "JSONL has `prompt`, a text or a list of a user's and the assistant's turns, or `messages`.\n"
        "`cache`, a list of {\"doc\": ID} and {\"query\": ID}, names texts before it that are not computed again.\n"
        "The same prompt at the same place of the input gives the same answer, whatever the batch.\n",
};

typedef struct line { /* what an answer is written with */
    int64_t number;   /* of the input */
    char *id, *meta, *prompt;
    vp_behind behind;
    vp_gen_line view;
} line;

typedef struct state {
    int fd;
    vp_records *records;
    vp_model *model;
    vp_tokenizer *tokenizer;
    vp_dialog *dialog;
    vp_encoder *encoder;
    vp_gen *gen;
    vp_caches *caches;
    vp_tokens ids;
    char begin[VP_EOS_BYTES]; /* of prompts that have no cached text before them */
    line *lines;              /* a ring of prompts whose answers are not written: number i at i % capacity */
    int64_t capacity, rows, bad, written, counted, failures;
    vp_error failed; /* of the first answer or hit that has failed */
    size_t printed;  /* bytes of the first answer */
    bool text, more;
    vp_buf out;
    vp_progress *progress;
} state;

/* ---- opening ---- */
static int open_model(state *s, vp_error *err) {
    static const char *const types[] = {"auto", "f32", "bf16", "i8"};
    VP_TRY(vp_model_resolve(&s->model, opt.model, NULL, opt.adapters.item, opt.adapters.n, err));
    VP_TRY(vp_tokenizer_open(&s->tokenizer, vp_model_transformer(s->model), err));
    VP_TRY(vp_caches_open(&s->caches, opt.documents, opt.queries, s->model, s->tokenizer, err));
    const vp_encode_options encode = {.device = opt.device,
                                      .threads = (int)opt.threads,
                                      .compute = types[opt.compute],
                                      .attention = "causal",
                                      .generate = true};
    VP_TRY(vp_encoder_open(&s->encoder, s->model, &encode, NULL, err));
    tell_device(s->encoder);
    return VP_OK;
}

static int open_gen(state *s, vp_error *err) {
    const char *files = vp_model_transformer(s->model), *trained = vp_model_settings(s->model)->chat;
    const char *chat = strcmp(opt.chat, "auto") == 0 && vp_dialog_known(trained) ? trained : opt.chat;
    if (strcmp(chat, "none") != 0) VP_TRY(vp_dialog_open(&s->dialog, files, chat, err));
    if (s->dialog) VP_TRY(vp_dialog_spell(s->dialog, s->tokenizer, err));
    if (opt.bos) vp_tokenizer_begin(s->tokenizer, s->begin);
    const vp_gen_options o = {.max_tokens = opt.max_tokens,
                              .temperature = opt.greedy ? 0 : opt.temperature,
                              .top_k = opt.top_k,
                              .top_p = opt.top_p,
                              .penalty = opt.penalty,
                              .seed = (uint64_t)opt.seed,
                              .stop = opt.stop.item,
                              .nstops = opt.stop.n,
                              .end = s->dialog ? vp_dialog_end(s->dialog) : NULL,
                              .batch = opt.batch,
                              .logprobs = opt.logprobs,
                              .rope_shift = opt.rope_shift};
    return vp_gen_open(&s->gen, s->model, s->encoder, s->tokenizer, &o, err);
}

static int open_records(vp_records **r, int *fd, const char *file, vp_record_format format, vp_error *err) {
    const char *name;
    VP_TRY(vp_open_input(file, fd, &name, err));
    VP_TRY(vp_records_open(r, *fd, name, format, opt.skip_bad, err));
    vp_records_watch(*r, STDOUT_FILENO);
    return VP_OK;
}

static int parse(const vp_program *p, int argc, char **argv, int *first, vp_cli_action *action, vp_error *err) {
    VP_TRY(vp_cli_parse(p, argc, argv, first, action, err));
    if (*action != VP_CLI_RUN || argc - *first <= 1) return VP_OK;
    return vp_fail(err, VP_USAGE, "'%s': one file at most", argv[*first + 1]);
}

/* ---- prompts ---- */
static int copy(const char *s, size_t n, char **out, vp_error *err) {
    *out = s ? vp_strndup(s, n) : NULL;
    return s && !*out ? vp_fail_memory(err, "a prompt", n) : VP_OK;
}

static void free_line(line *l) {
    free(l->id);
    free(l->meta);
    free(l->prompt);
    vp_behind_free(&l->behind);
    *l = (line){0};
}

static int keep_line(line *l, const vp_record *r, vp_error *err) {
    const char *prompt = opt.lines ? r->text : NULL; /* in JSONL it is among the members */
    VP_TRY(copy(r->id, r->id_len, &l->id, err));
    VP_TRY(copy(r->meta, r->meta_len, &l->meta, err));
    VP_TRY(copy(prompt, r->text_len, &l->prompt, err));
    l->number = r->number;
    l->view = (vp_gen_line){.id = l->id,
                            .meta = l->meta,
                            .prompt = l->prompt,
                            .id_len = r->id_len,
                            .meta_len = r->meta_len,
                            .prompt_len = r->text_len};
    return VP_OK;
}

/* The prompt's ids behind its cached texts, which have a beginning of their own. */
static int add_prompt(state *s, const vp_record *r, vp_behind *behind, vp_error *err) {
    size_t before, after;
    s->ids.n = 0;
    vp_tokenizer_specials(s->tokenizer, &before, &after);
    if (!opt.lines) VP_TRY(vp_caches_find(s->caches, r, behind, err));
    VP_TRY(vp_gen_prompt(s->tokenizer, s->dialog, behind->n ? "" : s->begin, r, &s->ids, err));
    if (!behind->n) before = 0;
    return vp_gen_add_behind(s->gen, behind, s->ids.id + before, s->ids.n - before, s->rows, err);
}

static int add_record(state *s, const vp_record *r, vp_error *err) {
    vp_error why = {0};
    line *l = &s->lines[s->rows % s->capacity];
    const int status = add_prompt(s, r, &l->behind, &why);
    if (!status) {
        s->rows++;
        return keep_line(l, r, err);
    }
    free_line(l);
    s->bad += status == VP_DATA;
    if (status == VP_DATA && opt.skip_bad) return VP_OK;
    return vp_records_fail(s->records, r->number, r->id, r->id_len, status, why.text, err);
}

/* Prompts as there is room for them: while others run, only those whose lines are there already. */
static int add_prompts(state *s, vp_error *err) {
    vp_record r;
    bool got = true;
    while (s->more && got && !vp_gen_full(s->gen)) {
        if (vp_gen_idle(s->gen)) {
            VP_TRY(vp_records_next(s->records, &r, &got, err));
            s->more = got;
        } else {
            VP_TRY(vp_records_next_here(s->records, &r, &got, &s->more, err));
        }
        if (got) VP_TRY(add_record(s, &r, err));
    }
    return VP_OK;
}

/* ---- answers ---- */
static int put_text(state *s, const char *text, size_t n, vp_error *err) {
    const bool terminal = isatty(STDOUT_FILENO) == 1;
    return terminal ? vp_gen_printable(text, n, &s->out, err) : vp_buf_add(&s->out, text, n, err);
}

/* The line of an answer, which is not written, or of a hit, which stays without a score; that of the first one is named
 * by the error that the program ends with. */
static void note_failed(state *s, int64_t number, const char *id, size_t n) {
    vp_error e = {0}, *to = s->failures ? &e : &s->failed;
    (void)vp_records_fail(s->records, number, id, n, VP_DATA, "the model's logits are not finite", to);
    if (s->failures++) vp_cli_note("%s", e.text);
}

/* What the program ends with; where that is another error, the first line that failed is told before it. */
static int settle(const state *s, int status, vp_error *err) {
    if (status && s->failed.code) vp_cli_note("%s", s->failed.text);
    if (status) return status;
    *err = s->failed;
    return s->failed.code;
}

static int put_answer(state *s, const vp_answer *a, vp_error *err) {
    const line *l = &s->lines[a->number % s->capacity];
    if (a->finish == VP_FINISH_FAILED) note_failed(s, l->number, l->id, l->view.id_len);
    if (!s->text) {
        const bool whole = a->finish && a->finish != VP_FINISH_FAILED;
        return whole ? vp_gen_write(a, &l->view, &s->out, err) : VP_OK;
    }
    if (a->certain > s->printed) VP_TRY(put_text(s, a->text.data + s->printed, a->certain - s->printed, err));
    s->printed = a->certain;
    return a->finish ? vp_buf_add(&s->out, "\n", 1, err) : VP_OK;
}

static int write_answers(state *s, vp_error *err) {
    const vp_answer *a;
    while ((a = vp_gen_first(s->gen))) {
        const bool finished = a->finish != VP_FINISH_NONE;
        VP_TRY(put_answer(s, a, err));
        if (!finished) break;
        free_line(&s->lines[a->number % s->capacity]);
        vp_gen_drop(s->gen);
        s->printed = 0;
        s->written++;
        vp_progress_add(s->progress, 1, 0);
    }
    const int status = vp_write_all(STDOUT_FILENO, s->out.data, s->out.len, "standard output", err);
    s->out.len = 0;
    vp_progress_add(s->progress, 0, vp_gen_tokens(s->gen) - s->counted);
    s->counted = vp_gen_tokens(s->gen);
    return status;
}

/* An error of the input ends the program when the prompts before it are answered. */
static int answer_all(state *s, vp_error *err) {
    vp_error input = {0};
    int status = VP_OK;
    for (s->more = true;;) {
        if (!status) status = add_prompts(s, &input);
        if (vp_gen_idle(s->gen) || input.broken_pipe) break;
        VP_TRY(vp_gen_step(s->gen, err));
        VP_TRY(write_answers(s, err));
    }
    if (status) *err = input;
    return status;
}

static int run(state *s, const char *file, vp_error *err) {
    s->text = opt.format == FORMAT_TEXT || (opt.format == FORMAT_AUTO && isatty(STDOUT_FILENO) == 1);
    if (s->text && opt.logprobs) return vp_fail(err, VP_USAGE, "--logprobs needs --format jsonl");
    if (opt.lines && (opt.documents || opt.queries))
        return vp_fail(err, VP_USAGE, "--%s: lines name no cached texts", opt.documents ? "doc-cache" : "query-cache");
    VP_TRY(open_records(&s->records, &s->fd, file, opt.lines ? VP_RECORDS_LINES : VP_RECORDS_PROMPTS, err));
    VP_TRY(open_model(s, err));
    VP_TRY(open_gen(s, err));
    s->capacity = vp_gen_waiting(s->gen);
    if (!(s->lines = vp_calloc((size_t)s->capacity, sizeof *s->lines)))
        return vp_fail_memory(err, "prompts", (size_t)s->capacity * sizeof *s->lines);
    s->progress = vp_progress_start("prompts", -1);
    if (isatty(STDOUT_FILENO) == 1) vp_progress_hide(s->progress); /* its line would erase what is answered */
    const int status = answer_all(s, err);
    s->bad += vp_records_skipped(s->records);
    if (s->bad && !status) vp_cli_note("%lld bad records were skipped", (long long)s->bad);
    tell_repeated(s->encoder);
    return settle(s, status, err);
}

static void close_all(state *s) {
    vp_progress_finish(s->progress);
    vp_gen_close(s->gen);
    vp_encoder_close(s->encoder);
    vp_dialog_close(s->dialog);
    vp_tokenizer_close(s->tokenizer);
    vp_model_close(s->model);
    vp_records_close(s->records);
    vp_tokens_free(&s->ids);
    for (int64_t i = 0; s->lines && i < s->capacity; i++) free_line(&s->lines[i]);
    vp_caches_close(s->caches);
    free(s->lines);
    vp_buf_free(&s->out);
    if (s->fd > STDIN_FILENO) close(s->fd);
}

/* ---- rerank ---- */
typedef struct reranking {
    state s; /* of what generation has as well */
    int queries_fd;
    vp_records *queries;
    vp_reranker *reranker;
    vp_rerank_lines *lines;
} reranking;
static struct {
    const char *queries, *prompt, *yes;
    int64_t hits, chars;
} rerank = {.prompt = VP_RERANK_PROMPT, .yes = " yes", .hits = 1000, .chars = 600};

static const vp_option rerank_table[] = {
    {.kind = VP_OPT_GROUP, .help = "Model"},
    OPTION_MODEL(&opt.model, "folder or .gguf file; else $VP_MODEL"),
    OPTION_ADAPTER(&opt.adapters, "LoRA adapter (PEFT's layout), applied on the fly; may be repeated"),
    OPTION_COMPUTE_OF("auto|f32|bf16|i8", &opt.compute,
                      "type that weights are kept in; sums are f32. i8: a scale an output. auto: f32"),
    OPTION_DEVICE(&opt.device),
    OPTION_THREADS(&opt.threads, "threads to use; 0: all"),
    {.kind = VP_OPT_GROUP, .help = "Hits"},
    {.name = "hits",
     .letter = 'k',
     .kind = VP_OPT_INT,
     .target = &rerank.hits,
     .value = "N",
     .min = 1,
     .max = 1 << 24,
     .help = "the first N of each query, the others are left out"},
    {.name = "queries",
     .kind = VP_OPT_STRING,
     .target = &rerank.queries,
     .value = "FILE",
     .help = "JSONL with id and text, for hits without query_text"},
    {.kind = VP_OPT_GROUP, .help = "Prompt"},
    {.name = "prompt",
     .kind = VP_OPT_STRING,
     .target = &rerank.prompt,
     .value = "TEXT",
     .help = "with {query}, {title}, {text}; default: GritLM's"},
    {.name = "max-chars",
     .kind = VP_OPT_INT,
     .target = &rerank.chars,
     .value = "N",
     .min = 1,
     .max = 1 << 24,
     .help = "of a query, a title and a text, at most"},
    {.name = "yes",
     .kind = VP_OPT_STRING,
     .target = &rerank.yes,
     .value = "TEXT",
     .help = "goes on after the prompt with the token whose logit is the score"},
    {0},
};
static const vp_program rerank_program = {
    .name = "gen rerank",
    .summary = "the hits of each query in the order of a decoder's judgment",
    .usage = "gen rerank [FILE] [OPTION]... <HITS >HITS",
    .options = rerank_table,
    .notes = "knn search --text prints the hits.\n",
};

static int rerank_all(reranking *r, vp_error *err) {
    int64_t n;
    do {
        VP_TRY(vp_rerank_lines_next(r->lines, &r->s.out, &n, err));
        for (int64_t i = 0, at; (at = vp_rerank_lines_failed(r->lines, i)); i++) note_failed(&r->s, at, NULL, 0);
        VP_TRY(vp_write_all(STDOUT_FILENO, r->s.out.data, r->s.out.len, "standard output", err));
        r->s.out.len = 0;
        vp_progress_add(r->s.progress, n, 0);
    } while (n);
    return VP_OK;
}

static int run_rerank(reranking *r, const char *file, vp_error *err) {
    const vp_rerank_options o = {.prompt = rerank.prompt, .yes = rerank.yes, .chars = rerank.chars};
    VP_TRY(open_records(&r->s.records, &r->s.fd, file, VP_RECORDS_OBJECTS, err));
    if (rerank.queries) VP_TRY(open_records(&r->queries, &r->queries_fd, rerank.queries, VP_RECORDS_JSONL, err));
    VP_TRY(open_model(&r->s, err));
    VP_TRY(vp_rerank_open(&r->reranker, r->s.model, r->s.encoder, r->s.tokenizer, &o, err));
    VP_TRY(vp_rerank_lines_open(&r->lines, r->reranker, rerank.hits, r->s.records, r->queries, err));
    r->s.progress = vp_progress_start("hits", -1);
    return settle(&r->s, rerank_all(r, err), err);
}

static int rerank_main(int argc, char **argv, vp_error *err) {
    vp_cli_action action = VP_CLI_RUN;
    reranking r = {.s = {.fd = -1}, .queries_fd = -1};
    int first = argc;
    int status = parse(&rerank_program, argc, argv, &first, &action, err);
    if (!status && action == VP_CLI_RUN) status = run_rerank(&r, first < argc ? argv[first] : NULL, err);
    vp_rerank_lines_close(r.lines);
    vp_rerank_close(r.reranker);
    vp_records_close(r.queries);
    if (r.queries_fd > STDIN_FILENO) close(r.queries_fd);
    close_all(&r.s);
    return status;
}

static int gen_main(int argc, char **argv, vp_error *err) {
    vp_cli_action action = VP_CLI_RUN;
    state s = {.fd = -1};
    int first = argc;
    int status = parse(&program, argc, argv, &first, &action, err);
    if (!status && action == VP_CLI_RUN) status = run(&s, first < argc ? argv[first] : NULL, err);
    close_all(&s);
    return status;
}

int main(int argc, char **argv) {
    vp_error err = {0};
    vp_cli_start(program.name);
    const bool reranks = argc > 1 && strcmp(argv[1], "rerank") == 0;
    const int status = reranks ? rerank_main(argc - 1, argv + 1, &err) : gen_main(argc, argv, &err);
    free(opt.adapters.item);
    free(opt.stop.item);
    return vp_cli_finish(status, &err);
}
