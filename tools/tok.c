/* tok: text lines or JSONL to token ids, in frames of a bounded number of tokens, or in training steps. */
#include "lib/vecpipe.h"
#include "tools/common_options.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STALL_MS = 200 };     /* what is held back is written when the input pauses for so long */
#define MAX_STEPS 4294967295 /* a step is a word of the random numbers' counter */

typedef struct options {
    const char *model, *id_from, *resume;
    vp_input_options input;
    vp_list adapters;
    int64_t batch_tokens, window, batch, steps, start;
    int specials;
    bool lines, text, no_meta, skip_bad;
} options;
static options opt = {
    .id_from = "auto", .input = {.chat = "auto", .doc_max_len = -1}, .batch_tokens = 8192, .window = 1024};

static const vp_option table[] = {
    {.kind = VP_OPT_GROUP, .help = "Input"},
    {.name = "lines", .kind = VP_OPT_FLAG, .target = &opt.lines, .help = "every line is a text; not JSONL"},
    {.name = "words",
     .kind = VP_OPT_FLAG,
     .target = &opt.input.words,
     .help = "texts are `words` [], perhaps with `labels` []; column `word` tells whose each token is"},
    {.name = "id-from",
     .kind = VP_OPT_STRING,
     .target = &opt.id_from,
     .value = "auto|hash|line|FIELD",
     .help = "identifiers; auto: `id` or `_id`, else the number of the record from 0"},
    {.name = "skip-bad",
     .kind = VP_OPT_FLAG,
     .target = &opt.skip_bad,
     .help = "count malformed records and go on, instead of an error"},
    {.kind = VP_OPT_GROUP, .help = "Model and prompt"},
    OPTION_MODEL(&opt.model, "folder, .gguf file or index; else $VP_MODEL, else what `knn missing` names"),
    OPTION_ADAPTER(&opt.adapters,
                   "adapter whose settings count, and which `fwd` without one of its own applies; may be repeated"),
    {.name = "query", .kind = VP_OPT_FLAG, .target = &opt.input.query, .help = "texts are queries, with their prompt"},
    {.name = "instruction",
     .kind = VP_OPT_STRING,
     .target = &opt.input.instruction,
     .value = "TEXT",
     .help = "put before every text, as it is, instead of the model's prompt"},
    {.name = "template",
     .kind = VP_OPT_STRING,
     .target = &opt.input.layout,
     .value = "TEXT",
     .help = "what is tokenised, with {text} and {instruction} in it"},
    {.name = "query-template",
     .kind = VP_OPT_STRING,
     .target = &opt.input.query_layout,
     .value = "TEXT",
     .help = "the same for the queries of training examples"},
    {.name = "chat",
     .kind = VP_OPT_STRING,
     .target = &opt.input.chat,
     .value = "auto|none|MODEL",
     .help =
         "what stands around texts: for a chat model of this name, or NV-Embed, llara, grit, zephyr; auto: as trained"},
    {.name = "prefix", .kind = VP_OPT_FLAG, .target = &opt.input.prefix, .help = "grit: column prefix, before a text"},
    {.name = "specials",
     .kind = VP_OPT_CHOICE,
     .target = &opt.specials,
     .choices = "auto|none",
     .help = "BOS, EOS, [CLS], [SEP] around the text; auto: as the tokenizer does"},
    {.kind = VP_OPT_GROUP, .help = "Length"},
    {.name = "max-len",
     .kind = VP_OPT_INT,
     .target = &opt.input.max_len,
     .value = "N",
     .max = 1 << 24,
     .help = "tokens of a text at most, specials included; 0: the model's"},
    {.name = "doc-max-len",
     .kind = VP_OPT_INT,
     .target = &opt.input.doc_max_len,
     .value = "N",
     .min = -1,
     .max = 1 << 24,
     .help = "tokens of the text alone, cut at words, before that; 0: any number; -1: the model's"},
    {.name = "query-max-len",
     .kind = VP_OPT_INT,
     .target = &opt.input.query_max_len,
     .value = "N",
     .max = 1 << 24,
     .help = "the same for the queries of training examples; 0: as --max-len"},
    {.name = "gen-max-len",
     .kind = VP_OPT_INT,
     .target = &opt.input.gen_max_len,
     .value = "N",
     .max = 1 << 24,
     .help = "the same for conversations and texts to be generated; 0: as --max-len"},
    {.name = "truncate",
     .kind = VP_OPT_CHOICE,
     .target = &opt.input.truncation,
     .choices = "auto|" VP_TRUNCATIONS,
     .help = "which end of a longer text is cut, or that it is an error; auto: right"},
    {.name = "chunk",
     .kind = VP_OPT_INT,
     .target = &opt.input.chunk,
     .value = "N",
     .max = 1 << 24,
     .help = "cut texts into rows `id#k` of N tokens instead of truncating; 0: no"},
    {.name = "overlap",
     .kind = VP_OPT_INT,
     .target = &opt.input.overlap,
     .value = "N",
     .max = 1 << 24,
     .help = "tokens that a chunk shares with the one before"},
    {.kind = VP_OPT_GROUP, .help = "Training steps"},
    {.name = "batch",
     .kind = VP_OPT_INT,
     .target = &opt.batch,
     .value = "N",
     .max = 1 << 24,
     .help = "records, with --pack blocks, of a step; 0: as mix says, without it no steps"},
    {.name = "steps",
     .kind = VP_OPT_INT,
     .target = &opt.steps,
     .value = "S",
     .max = MAX_STEPS,
     .help = "with --batch: end after S steps in all; 0: when the input ends"},
    {.name = "start-step",
     .kind = VP_OPT_INT,
     .target = &opt.start,
     .value = "K",
     .max = MAX_STEPS,
     .help = "with --batch: number of the first step; with --pack, pass over K steps"},
    {.name = "resume",
     .kind = VP_OPT_STRING,
     .target = &opt.resume,
     .value = "DIR",
     .help = "with --batch: begin where the checkpoint in DIR goes on"},
    {.name = "pack",
     .kind = VP_OPT_INT,
     .target = &opt.input.block,
     .value = "N",
     .max = 1 << 24,
     .help = "rows are blocks of N tokens of all texts end to end; 0: every text is a row"},
    {.kind = VP_OPT_GROUP, .help = "Output"},
    {.name = "batch-tokens",
     .kind = VP_OPT_INT,
     .target = &opt.batch_tokens,
     .value = "N",
     .min = 1,
     .max = 1 << 24,
     .help = "tokens of a frame"},
    {.name = "window",
     .kind = VP_OPT_INT,
     .target = &opt.window,
     .value = "N",
     .min = 1,
     .max = 1 << 20,
     .help = "rows among which those of like length are packed together"},
    {.name = "text", .kind = VP_OPT_FLAG, .target = &opt.text, .help = "carry the texts in column `text`"},
    {.name = "no-meta", .kind = VP_OPT_FLAG, .target = &opt.no_meta, .help = "drop the other fields of the records"},
    {0},
};
static const vp_program program = {
    .name = "tok",
    .summary = "text lines or JSONL to token ids",
    .usage = "tok [OPTION]... [FILE] >IDS",
    .options = table,
    .notes =
        "JSONL records have `text`, and may have `title`, `id` and other fields. In training steps they may have\n"
        "`query`, `positive` and `negative`, or `sentence1`, `sentence2` and `score` instead, or be conversations\n"
        "to be generated: `messages`, `text` as a list, `prompt` with `completion` and perhaps `label`. Without\n"
        "FILE, or with -, standard input is read; zstd is recognised.\n",
};

typedef struct state {
    int fd;
    vp_records *records;
    vp_model *model;
    vp_tokenizer *tokenizer;
    vp_prompt *prompt;
    vp_dialog *dialog; /* of conversations; NULL: the model has none */
    vp_writer *writer;
    vp_packer *packer;
    vp_feed *feed;
    vp_map *header, *head; /* head: encoder.input of the input's own head, which `input` points into */
    vp_input input;
    vp_progress *progress;
    vp_record record; /* read ahead where the input names the model */
    bool got, counts_bad;
    int64_t batch, first, total; /* of the steps; batch 0: none */
    int64_t generative;          /* of a step's records, the last ones */
    vp_pack_options pack;
} state;

/* ---- the header, from options, the head of the input, and the model ---- */
/* What was asked for, what the head of the input says, and the model. */
static int choose_input(state *s, vp_error *err) {
    const vp_settings *m = vp_model_settings(s->model);
    char eos[VP_EOS_BYTES], bos_mark[VP_EOS_BYTES], eos_mark[VP_EOS_BYTES];
    vp_tokenizer_marks(s->tokenizer, bos_mark, eos_mark);
    const vp_input_model model = {.query_prefix = m->query_prefix,
                                  .document_prefix = m->document_prefix,
                                  .arch = vp_model_arch(s->model),
                                  .pooling = m->pooling,
                                  .chat = m->chat,
                                  .base_name = {m->base_name[0], m->base_name[1]},
                                  .max_len = m->max_len,
                                  .doc_max_len = m->doc_max_len,
                                  .prompt_pooled = m->prompt_pooled,
                                  .prefix = m->prefix,
                                  .eos = vp_tokenizer_eos(s->tokenizer, eos) ? eos : NULL,
                                  .mark = {bos_mark, eos_mark},
                                  .llm2vec = m->llm2vec,
                                  .nv_embed = m->nv_embed};
    opt.input.no_specials = opt.specials != 0;
    return vp_input_choose(&s->input, &opt.input, &model, s->head, vp_model_input(s->model), err);
}

/* The prompt of queries beside texts is opened by the first of them; what was asked for is looked at now. */
static int open_prompts(state *s, vp_error *err) {
    vp_prompt *p = NULL;
    VP_TRY(vp_prompt_open(&s->prompt, s->tokenizer, &s->input.texts, err));
    VP_TRY(vp_conversation_dialog(&s->dialog, vp_model_transformer(s->model), s->input.dialog, s->tokenizer, err));
    if (!opt.input.query_layout && !opt.input.query_max_len) return VP_OK;
    VP_TRY(vp_prompt_open(&p, s->tokenizer, &s->input.queries, err));
    vp_prompt_close(p);
    return VP_OK;
}

static int prepare_input(state *s, vp_map *encoder, vp_error *err) {
    vp_map *input = vp_map_new();
    s->head = vp_map_sub(encoder, "input");
    int status = input ? choose_input(s, err) : vp_fail_memory(err, "a map", 1);
    if (!status) status = vp_input_describe(&s->input, input, err);
    if (!status) status = vp_map_set_map(encoder, "input", input, err);
    if (!status) status = vp_map_set_map(s->header, "encoder", encoder, err);
    if (!status) status = open_prompts(s, err);
    if (!status)
        s->pack = (vp_pack_options){.batch_tokens = opt.batch_tokens,
                                    .window = opt.window,
                                    .keep = vp_prompt_masks(s->prompt),
                                    .text = opt.text,
                                    .meta = !opt.no_meta && !opt.lines,
                                    .parent = s->input.texts.chunk > 0,
                                    .word = opt.input.words,
                                    .prefix = s->input.prefix,
                                    .steps = s->batch > 0,
                                    .blocks = opt.input.block > 0};
    vp_map_free(input);
    return status;
}

static int open_tokenizer(state *s, vp_error *err) {
    VP_TRY(vp_tokenizer_open(&s->tokenizer, vp_model_transformer(s->model), err));
    if (vp_model_has_weights(s->model) && vp_tokenizer_vocab(s->tokenizer) > vp_model_vocab(s->model))
        return vp_fail(err, VP_DATA, "'%s': the tokenizer has %lld tokens, the model %lld", vp_model_path(s->model),
                       (long long)vp_tokenizer_vocab(s->tokenizer), (long long)vp_model_vocab(s->model));
    vp_map *model = vp_map_sub(s->header, "model");
    if (!model) model = vp_map_new();
    int status = model ? vp_map_set_str(model, "tokenizer", vp_tokenizer_fingerprint(s->tokenizer), err)
                       : vp_fail_memory(err, "a map", 1);
    if (!status) status = vp_map_set_map(s->header, "model", model, err);
    vp_map_free(model);
    return status ? status : vp_model_describe(s->model, s->header, err);
}

/* s->header: empty, or with the maps `model` and `encoder` of the input's head. */
static int write_header(state *s, const char *command, vp_error *err) {
    VP_TRY(open_tokenizer(s, err));
    vp_map *encoder = vp_map_sub(s->header, "encoder");
    int status = encoder ? prepare_input(s, encoder, err) : vp_fail(err, VP_BUG, "a header without encoder");
    vp_map_free(encoder);
    VP_TRY(status);
    VP_TRY(vp_packer_declare(&s->pack, s->header, err));
    VP_TRY(vp_writer_open(&s->writer, STDOUT_FILENO, "standard output", err));
    return vp_writer_header(s->writer, s->header, command, err);
}

static int adopt(state *s, const char *key, vp_error *err) {
    vp_map *m = vp_map_sub(vp_records_head(s->records), key);
    int status = m ? vp_map_set_map(s->header, key, m, err) : VP_OK;
    vp_map_free(m);
    return status;
}

/* mix says in the head of the input which rows are a step. */
static int take_steps(state *s, vp_error *err) {
    const vp_map *head = vp_records_head(s->records);
    if (s->batch || !head || !vp_map_has(head, "batch")) return VP_OK;
    s->batch = vp_map_int(head, "batch", 0);
    s->first = vp_map_int(head, "start", 0);
    s->total = vp_map_int(head, "steps", 0);
    s->generative = vp_map_int(head, "generative", 0);
    s->counts_bad = true;
    if (s->batch < 1 || s->first < 0 || s->first > MAX_STEPS || s->generative < 0 || s->generative > s->batch)
        return vp_fail(err, VP_DATA, "%s: steps of %lld rows from step %lld cannot be", vp_records_name(s->records),
                       (long long)s->batch, (long long)s->first);
    return VP_OK;
}

/* The first record, and with it what the head of the input says. */
static int read_first(state *s, vp_error *err) {
    VP_TRY(vp_records_next(s->records, &s->record, &s->got, err));
    return take_steps(s, err);
}

static int open_by_head(state *s, const char *command, vp_error *err) {
    VP_TRY(read_first(s, err));
    if (vp_records_head(s->records)) {
        VP_TRY(adopt(s, "model", err));
        VP_TRY(adopt(s, "encoder", err));
    }
    VP_TRY(vp_model_resolve(&s->model, NULL, s->header, opt.adapters.item, opt.adapters.n, err));
    return write_header(s, command, err);
}

/* knn add compares `source` with its index, to drop what changed while the vectors were made. */
static int take_source(state *s, vp_error *err) {
    const vp_map *head = vp_records_head(s->records);
    if (!head || !vp_map_str(head, "index") || !vp_map_has(head, "generation")) return VP_OK;
    vp_map *given = vp_map_sub(head, "model"), *source = vp_map_new();
    const char *theirs = given ? vp_map_str(given, "fingerprint") : NULL, *ours = vp_model_fingerprint(s->model);
    int status =
        source ? vp_map_set_str(source, "index", vp_map_str(head, "index"), err) : vp_fail_memory(err, "a map", 1);
    if (theirs && strcmp(theirs, ours) != 0)
        status =
            vp_fail(err, VP_DATA, "the input is for a model %s, and '%s' is %s", theirs, vp_model_path(s->model), ours);
    if (!status) status = vp_map_set_int(source, "generation", vp_map_int(head, "generation", 0), err);
    if (!status) status = vp_packer_source(s->packer, source, err);
    vp_map_free(given);
    vp_map_free(source);
    return status;
}

/* ---- records to rows ---- */
static int open_feed(state *s, vp_error *err) {
    const vp_settings *settings = vp_model_settings(s->model);
    const vp_feed_options o = {.records = s->records,
                               .packer = s->packer,
                               .tokenizer = s->tokenizer,
                               .prompt = s->prompt,
                               .instruction = opt.input.query ? s->input.texts.instruction : settings->document_prefix,
                               .query = s->input.queries,
                               .query_layout = (opt.input.query ? opt.input.layout : opt.input.query_layout) != NULL,
                               .id_from = opt.id_from,
                               .chunks = s->input.texts.chunk > 0,
                               .batch = s->batch,
                               .first = s->first,
                               .steps = opt.steps,
                               .block = opt.input.block,
                               .generative = s->generative,
                               .drop_full = s->input.spelled,
                               .conversation = vp_input_conversation(&s->input, s->tokenizer, s->dialog),
                               .count_bad = s->counts_bad};
    return vp_feed_open(&s->feed, &o, err);
}

static int begin_rows(state *s, vp_error *err) {
    s->pack.steps = s->batch > 0;
    s->pack.total = s->total;
    VP_TRY(vp_packer_open(&s->packer, s->writer, &s->pack, err));
    VP_TRY(take_source(s, err));
    return open_feed(s, err);
}

static int take_record(state *s, vp_error *err) {
    const vp_feed_counts before = *vp_feed_totals(s->feed), *now = vp_feed_totals(s->feed);
    VP_TRY(vp_feed_record(s->feed, &s->record, err));
    vp_progress_add(s->progress, now->rows - before.rows, now->tokens - before.tokens);
    return VP_OK;
}

static int take_records(state *s, vp_error *err) {
    while (s->got && !vp_feed_full(s->feed)) {
        VP_TRY(take_record(s, err));
        if (vp_feed_full(s->feed)) break;
        if (!s->batch && vp_packer_holds(s->packer) && !vp_records_ready(s->records, STALL_MS))
            VP_TRY(vp_packer_flush(s->packer, err));
        VP_TRY(vp_records_next(s->records, &s->record, &s->got, err));
    }
    return vp_feed_end(s->feed, err);
}

/* ---- the whole ---- */
static void note_losses(const vp_feed_counts *n, int64_t skipped, const vp_prompt_options *o) {
    char cut[120] = "", bad[140] = "";
    const bool words = o->doc_max_len && (!o->max_len || o->doc_max_len < o->max_len);
    if (n->truncated)
        snprintf(cut, sizeof cut, "%lld of %lld texts were cut to %lld tokens", (long long)n->truncated,
                 (long long)n->rows, (long long)(words ? o->doc_max_len : o->max_len));
    if (n->truncated && words && o->max_len)
        snprintf(cut + strlen(cut), sizeof cut - strlen(cut), ", or %lld with all around them", (long long)o->max_len);
    if (skipped) snprintf(bad, sizeof bad, "%lld bad records%s skipped", (long long)skipped, *cut ? "" : " were");
    if (n->left_out)
        snprintf(bad + strlen(bad), sizeof bad - strlen(bad), "%s%lld records without room for a text were left out",
                 skipped ? ", " : "", (long long)n->left_out);
    if (*cut || *bad) vp_cli_note("%s%s%s", cut, *cut && *bad ? ", " : "", bad);
}

static int finish(state *s, vp_error *err) {
    vp_map *end = vp_map_new();
    vp_buf event = {0};
    int status = end ? vp_feed_count(s->feed, end, err) : vp_fail_memory(err, "a map", 1);
    if (!status) status = vp_writer_end(s->writer, end, err);
    if (!status) status = vp_map_json(end, &event, err);
    if (!status) status = vp_buf_add(&event, "", 1, err);
    if (!status) {
        event.data[event.len - 2] = '\0'; /* members without the braces */
        vp_cli_log("texts", event.data + 1);
        note_losses(vp_feed_totals(s->feed), vp_records_skipped(s->records), &s->input.texts);
        const long long steps = vp_packer_unscored(s->packer);
        if (steps) vp_cli_note("steps whose scores were left out, as some of their rows have none: %lld", steps);
    }
    vp_buf_free(&event);
    vp_map_free(end);
    return status;
}

static int open_input(state *s, const char *file, vp_error *err) {
    const bool standard = !file || strcmp(file, "-") == 0;
    s->fd = standard ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0) return vp_fail_errno(err, "cannot open '%s'", file);
    const vp_record_format format = opt.lines         ? VP_RECORDS_LINES
                                    : opt.input.words ? VP_RECORDS_WORDS
                                    : opt.input.query ? VP_RECORDS_QUERIES
                                                      : VP_RECORDS_EXAMPLES;
    VP_TRY(vp_records_open(&s->records, s->fd, standard ? "standard input" : file, format, opt.skip_bad, err));
    vp_records_watch(s->records, STDOUT_FILENO);
    return VP_OK;
}

static int check_options(vp_error *err) {
    if (opt.lines && opt.input.words) return vp_fail(err, VP_USAGE, "--lines and --words exclude each other");
    if (opt.lines && strcmp(opt.id_from, "auto") != 0 && strcmp(opt.id_from, "line") != 0 &&
        strcmp(opt.id_from, "hash") != 0)
        return vp_fail(err, VP_USAGE, "--id-from %s: lines have no fields", opt.id_from);
    const char *alone = opt.input.block ? "--pack" : opt.steps ? "--steps" : opt.start ? "--start-step" : NULL;
    if (!opt.batch && alone) return vp_fail(err, VP_USAGE, "%s needs --batch", alone);
    if (opt.steps && opt.start > opt.steps)
        return vp_fail(err, VP_USAGE, "--start-step: '%lld' is above the %lld steps of --steps", (long long)opt.start,
                       (long long)opt.steps);
    VP_TRY(vp_input_check(&opt.input, err));
    return vp_cli_refuse_terminal(STDOUT_FILENO, err);
}

static int run(state *s, const char *file, const char *command, vp_error *err) {
    const char *named = opt.model ? opt.model : getenv("VP_MODEL");
    if (opt.resume && opt.start) return vp_fail(err, VP_USAGE, "--resume and --start-step exclude each other");
    if (opt.resume) VP_TRY(vp_run_next_step(opt.resume, &opt.start, err));
    VP_TRY(check_options(err));
    VP_TRY(open_input(s, file, err));
    s->batch = opt.batch;
    s->first = opt.start;
    s->total = opt.steps;
    s->header = vp_map_new();
    if (!s->header) return vp_fail_memory(err, "the header", 1);
    if (named && *named) {
        VP_TRY(vp_model_resolve(&s->model, named, NULL, opt.adapters.item, opt.adapters.n, err));
        VP_TRY(write_header(s, command, err));
        VP_TRY(read_first(s, err));
    } else {
        VP_TRY(open_by_head(s, command, err));
    }
    VP_TRY(begin_rows(s, err));
    s->progress = vp_progress_start("rows", -1);
    VP_TRY(take_records(s, err));
    return finish(s, err);
}

int main(int argc, char **argv) {
    vp_error err = {0};
    vp_cli_action action = VP_CLI_RUN;
    vp_buf command = {0};
    state s = {.fd = -1};
    int first = argc;
    vp_cli_start(program.name);
    int status = vp_cli_command(&command, program.name, argc, argv, &err);
    if (!status) status = vp_cli_parse(&program, argc, argv, &first, &action, &err);
    if (!status && action == VP_CLI_RUN && argc - first > 1)
        status = vp_fail(&err, VP_USAGE, "'%s': one file at most", argv[first + 1]);
    if (!status && action == VP_CLI_RUN) status = run(&s, first < argc ? argv[first] : NULL, command.data, &err);
    vp_progress_finish(s.progress);
    vp_feed_close(s.feed);
    vp_packer_close(s.packer);
    vp_prompt_close(s.prompt);
    vp_dialog_close(s.dialog);
    vp_tokenizer_close(s.tokenizer);
    vp_model_close(s.model);
    vp_writer_close(s.writer);
    vp_records_close(s.records);
    vp_map_free(s.header);
    vp_map_free(s.head);
    vp_input_free(&s.input);
    free(opt.adapters.item);
    vp_buf_free(&command);
    if (s.fd > STDIN_FILENO) close(s.fd);
    return vp_cli_finish(status, &err);
}
