/* tok: text lines or JSONL to token ids, in frames of a bounded number of tokens. */
#include "lib/vecpipe.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STALL_MS = 200 }; /* what is held back is written when the input pauses for so long */

typedef struct options {
    const char *model, *instruction, *layout, *id_from;
    int64_t max_len, chunk, overlap, batch_tokens, window;
    int specials, truncation;
    bool lines, words, query, text, no_meta, skip_bad;
} options;
static options opt = {.id_from = "auto", .batch_tokens = 8192, .window = 1024};

static const vp_option table[] = {
    {.kind = VP_OPT_GROUP, .help = "Input"},
    {.name = "lines", .kind = VP_OPT_FLAG, .target = &opt.lines, .help = "every line is a text; not JSONL"},
    {.name = "words",
     .kind = VP_OPT_FLAG,
     .target = &opt.words,
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
    {.name = "model",
     .letter = 'm',
     .kind = VP_OPT_STRING,
     .target = &opt.model,
     .value = "PATH",
     .help = "folder, .gguf file or index; else $VP_MODEL, else what `knn missing` names"},
    {.name = "query",
     .kind = VP_OPT_FLAG,
     .target = &opt.query,
     .help = "the texts are queries: the model's query prompt"},
    {.name = "instruction",
     .kind = VP_OPT_STRING,
     .target = &opt.instruction,
     .value = "TEXT",
     .help = "put before every text, as it is, instead of the model's prompt"},
    {.name = "template",
     .kind = VP_OPT_STRING,
     .target = &opt.layout,
     .value = "TEXT",
     .help = "what is tokenised, with {text} and {instruction} in it"},
    {.name = "specials",
     .kind = VP_OPT_CHOICE,
     .target = &opt.specials,
     .choices = "auto|none",
     .help = "BOS, EOS, [CLS], [SEP] around the text; auto: as the tokenizer does"},
    {.kind = VP_OPT_GROUP, .help = "Length"},
    {.name = "max-len",
     .kind = VP_OPT_INT,
     .target = &opt.max_len,
     .value = "N",
     .min = 0,
     .max = 1 << 24,
     .help = "tokens of a text at most, specials included; 0: the model's"},
    {.name = "truncate",
     .kind = VP_OPT_CHOICE,
     .target = &opt.truncation,
     .choices = "auto|" VP_TRUNCATIONS,
     .help = "which end of a longer text is cut, or that it is an error; auto: right"},
    {.name = "chunk",
     .kind = VP_OPT_INT,
     .target = &opt.chunk,
     .value = "N",
     .max = 1 << 24,
     .help = "cut texts into rows `id#k` of N tokens instead of truncating; 0: no"},
    {.name = "overlap",
     .kind = VP_OPT_INT,
     .target = &opt.overlap,
     .value = "N",
     .max = 1 << 24,
     .help = "tokens that a chunk shares with the one before"},
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
        "JSONL records have `text`, and may have `title`, `id` and other fields. Without FILE, or with -, standard\n"
        "input is read; zstd is recognised.\n",
};

typedef struct state {
    int fd;
    vp_records *records;
    vp_model *model;
    vp_tokenizer *tokenizer;
    vp_prompt *prompt;
    vp_writer *writer;
    vp_packer *packer;
    vp_map *header;
    vp_progress *progress;
    vp_buf text, id, word;
    vp_record record; /* read ahead where the input names the model */
    bool got, chunks;
    int64_t max_len, number, rows, tokens, truncated, empty, with_id, without_id;
} state;

/* ---- the header, from options, the head of the input, and the model ---- */
static const char *const truncations[] = {"right", "left", "error"};

static int find_truncation(const char *name) {
    for (int i = 0; i < 3; i++)
        if (name && strcmp(name, truncations[i]) == 0) return i;
    return 0;
}

/* encoder.input: how texts are prepared; what the head of the input says stands where no option does. */
static int describe_input(state *s, const vp_map *head, vp_prompt_options *o, vp_map *input, vp_error *err) {
    const vp_settings *settings = vp_model_settings(s->model);
    const char *instruction = opt.query ? settings->query_prefix : settings->document_prefix;
    const char *layout = "", *side = "document", *specials = "auto", *cut = NULL;
    int64_t max_len = settings->max_len, chunk = 0, overlap = 0;
    if (head && !opt.query) {
        if (vp_map_str(head, "instruction")) instruction = vp_map_str(head, "instruction");
        if (vp_map_str(head, "template")) layout = vp_map_str(head, "template");
        if (vp_map_str(head, "specials")) specials = vp_map_str(head, "specials");
        if (vp_map_str(head, "side")) side = vp_map_str(head, "side");
        cut = vp_map_str(head, "truncation");
        max_len = vp_map_int(head, "max_len", max_len);
        chunk = vp_map_int(head, "chunk", 0);
        overlap = vp_map_int(head, "overlap", 0);
    }
    if (opt.query) side = "query";
    if (opt.specials) specials = "none";
    *o = (vp_prompt_options){
        .instruction = opt.instruction ? opt.instruction
                       : instruction   ? instruction
                                       : "",
        .layout = opt.layout ? opt.layout : layout,
        .specials = strcmp(specials, "none") != 0,
        .pool_prompt = settings->prompt_pooled,
        .max_len = opt.max_len ? opt.max_len : max_len,
        .truncation = (vp_truncation)(opt.truncation ? opt.truncation - 1 : find_truncation(cut)),
        .chunk = opt.chunk ? opt.chunk : chunk,
        .overlap = opt.overlap ? opt.overlap : overlap,
    };
    VP_TRY(vp_map_set_str(input, "side", side, err));
    VP_TRY(vp_map_set_str(input, "instruction", o->instruction, err));
    VP_TRY(vp_map_set_str(input, "template", o->layout, err));
    VP_TRY(vp_map_set_str(input, "specials", specials, err));
    VP_TRY(vp_map_set_int(input, "max_len", o->max_len, err));
    VP_TRY(vp_map_set_str(input, "truncation", truncations[o->truncation], err));
    if (!o->chunk) return VP_OK;
    VP_TRY(vp_map_set_int(input, "chunk", o->chunk, err));
    return vp_map_set_int(input, "overlap", o->overlap, err);
}

/* The prompt is opened here, for its options point into the maps. */
static int prepare_input(state *s, vp_map *encoder, vp_pack_options *pack, vp_error *err) {
    vp_map *head = vp_map_sub(encoder, "input"), *input = vp_map_new();
    vp_prompt_options o;
    int status = input ? describe_input(s, head, &o, input, err) : vp_fail_memory(err, "a map", 1);
    if (!status) status = vp_map_set_map(encoder, "input", input, err);
    if (!status) status = vp_map_set_map(s->header, "encoder", encoder, err);
    if (!status) status = vp_prompt_open(&s->prompt, s->tokenizer, &o, err);
    if (!status) {
        s->max_len = o.max_len;
        s->chunks = o.chunk > 0;
        *pack = (vp_pack_options){.batch_tokens = opt.batch_tokens,
                                  .window = opt.window,
                                  .keep = vp_prompt_masks(s->prompt),
                                  .text = opt.text,
                                  .meta = !opt.no_meta && !opt.lines,
                                  .parent = o.chunk > 0,
                                  .word = opt.words};
    }
    vp_map_free(head);
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
    vp_pack_options pack;
    VP_TRY(open_tokenizer(s, err));
    vp_map *encoder = vp_map_sub(s->header, "encoder");
    int status = encoder ? prepare_input(s, encoder, &pack, err) : vp_fail(err, VP_BUG, "a header without encoder");
    vp_map_free(encoder);
    VP_TRY(status);
    VP_TRY(vp_packer_declare(&pack, s->header, err));
    VP_TRY(vp_writer_open(&s->writer, STDOUT_FILENO, "standard output", err));
    VP_TRY(vp_writer_header(s->writer, s->header, command, err));
    return vp_packer_open(&s->packer, s->writer, &pack, err);
}

static int adopt(state *s, const char *key, vp_error *err) {
    vp_map *m = vp_map_sub(vp_records_head(s->records), key);
    int status = m ? vp_map_set_map(s->header, key, m, err) : VP_OK;
    vp_map_free(m);
    return status;
}

/* The first record, and with it what the head of the input says. */
static int open_by_head(state *s, const char *command, vp_error *err) {
    VP_TRY(vp_records_next(s->records, &s->record, &s->got, err));
    if (vp_records_head(s->records)) {
        VP_TRY(adopt(s, "model", err));
        VP_TRY(adopt(s, "encoder", err));
    }
    VP_TRY(vp_model_resolve(&s->model, NULL, s->header, err));
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
static int set_id(state *s, const char *id, size_t n, vp_error *err) {
    s->id.len = 0;
    return vp_buf_add(&s->id, id, n, err);
}

static int set_number(state *s, vp_error *err) {
    s->id.len = 0;
    return vp_buf_printf(&s->id, err, "%lld", (long long)(s->number + vp_records_skipped(s->records)));
}

static int name_record(state *s, const vp_record *r, const uint8_t hash[16], vp_error *err) {
    const char *field;
    size_t n;
    char hex[33];
    if (strcmp(opt.id_from, "line") == 0) return set_number(s, err);
    if (strcmp(opt.id_from, "hash") == 0) {
        vp_hex(hex, hash, 16);
        return set_id(s, hex, 32, err);
    }
    if (strcmp(opt.id_from, "auto") != 0) {
        VP_TRY(vp_records_field(s->records, opt.id_from, &field, &n, err));
        return set_id(s, field, n, err);
    }
    int64_t *kind = r->id ? &s->with_id : &s->without_id;
    if (!*kind) *kind = r->number;
    if (s->with_id && s->without_id)
        return vp_fail(err, VP_DATA, "%s:%lld: %s identifier, unlike line %lld", vp_records_name(s->records),
                       (long long)r->number, r->id ? "an" : "no", (long long)(r->id ? s->without_id : s->with_id));
    return r->id ? set_id(s, r->id, r->id_len, err) : set_number(s, err);
}

/* Row k of the record's `rows`; parent_len bytes of s->id are the record's identifier. */
static int add_row(state *s, const vp_record *r, const uint8_t hash[16], size_t k, size_t rows, size_t parent_len,
                   vp_error *err) {
    vp_prompt_row tokens;
    VP_TRY(vp_prompt_row_at(s->prompt, k, &tokens, err));
    s->id.len = parent_len;
    if (s->chunks) VP_TRY(vp_buf_printf(&s->id, err, "#%zu", k));
    if (opt.words) {
        VP_TRY(vp_buf_reserve(&s->word, tokens.n * sizeof(int32_t), err));
        vp_words_of_tokens(tokens.begin, tokens.n, r->word_end, r->words, (int32_t *)(void *)s->word.data);
    }
    const size_t from = s->chunks ? tokens.from : 0, to = s->chunks ? tokens.to : s->text.len;
    vp_pack_row row = {.id = s->id.data,
                       .id_len = s->id.len,
                       .text = s->text.data + from,
                       .text_len = to - from,
                       .meta = r->meta,
                       .meta_len = r->meta_len,
                       .parent = s->id.data,
                       .parent_len = parent_len,
                       .chunks = s->chunks ? (int32_t)rows : 0,
                       .row = s->rows++,
                       .ids = tokens.ids,
                       .keep = tokens.keep,
                       .word = (const int32_t *)(const void *)s->word.data,
                       .n = tokens.n};
    memcpy(row.hash, hash, sizeof row.hash);
    s->tokens += (int64_t)tokens.n;
    s->truncated += tokens.truncated;
    s->empty += tokens.n == 0;
    vp_progress_add(s->progress, 1, (int64_t)tokens.n);
    return vp_packer_add(s->packer, &row, err);
}

static int take_record(state *s, const vp_record *r, vp_error *err) {
    uint8_t hash[16];
    size_t rows;
    VP_TRY(vp_record_hash(r, hash, err));
    VP_TRY(name_record(s, r, hash, err));
    s->text.len = 0;
    VP_TRY(vp_buf_reserve(&s->text, 1, err)); /* an empty text has an address, too */
    VP_TRY(vp_record_text(r, &s->text, err));
    vp_error why = {0};
    int status = vp_prompt_encode(s->prompt, s->text.data, s->text.len, &rows, &why);
    if (status) return vp_fail(err, status, "%s:%lld: %s", vp_records_name(s->records), (long long)r->number, why.text);
    const size_t parent_len = s->id.len;
    for (size_t k = 0; k < rows; k++) VP_TRY(add_row(s, r, hash, k, rows, parent_len, err));
    s->number++;
    return VP_OK;
}

static int take_records(state *s, vp_error *err) {
    bool ahead = s->got, first = true;
    for (;;) {
        if (!ahead) {
            if (vp_packer_holds(s->packer) && !vp_records_ready(s->records, STALL_MS))
                VP_TRY(vp_packer_flush(s->packer, err));
            VP_TRY(vp_records_next(s->records, &s->record, &s->got, err));
        }
        ahead = false;
        if (first) VP_TRY(take_source(s, err));
        first = false;
        if (!s->got) break;
        VP_TRY(take_record(s, &s->record, err));
    }
    return vp_packer_flush(s->packer, err);
}

/* ---- the whole ---- */
static void note_losses(const state *s, int64_t skipped) {
    if (s->truncated && skipped)
        vp_cli_note("%lld of %lld texts were cut to %lld tokens, %lld bad records skipped", (long long)s->truncated,
                    (long long)s->rows, (long long)s->max_len, (long long)skipped);
    else if (s->truncated)
        vp_cli_note("%lld of %lld texts were cut to %lld tokens", (long long)s->truncated, (long long)s->rows,
                    (long long)s->max_len);
    else if (skipped)
        vp_cli_note("%lld bad records were skipped", (long long)skipped);
}

static int finish(state *s, vp_error *err) {
    const int64_t skipped = vp_records_skipped(s->records);
    vp_map *end = vp_map_new();
    vp_buf event = {0};
    int status = end ? vp_map_set_int(end, "rows", s->rows, err) : vp_fail_memory(err, "a map", 1);
    if (!status) status = vp_map_set_int(end, "tokens", s->tokens, err);
    if (!status) status = vp_map_set_int(end, "truncated", s->truncated, err);
    if (!status) status = vp_map_set_int(end, "skipped", skipped, err);
    if (!status) status = vp_map_set_int(end, "empty", s->empty, err);
    if (!status) status = vp_writer_end(s->writer, end, err);
    if (!status)
        status = vp_buf_printf(
            &event, err, "\"rows\":%lld,\"tokens\":%lld,\"truncated\":%lld,\"skipped\":%lld,\"empty\":%lld",
            (long long)s->rows, (long long)s->tokens, (long long)s->truncated, (long long)skipped, (long long)s->empty);
    if (!status) vp_cli_log("texts", event.data);
    if (!status) note_losses(s, skipped);
    vp_buf_free(&event);
    vp_map_free(end);
    return status;
}

static int open_input(state *s, const char *file, vp_error *err) {
    const bool standard = !file || strcmp(file, "-") == 0;
    s->fd = standard ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0) return vp_fail_errno(err, "cannot open '%s'", file);
    return vp_records_open(&s->records, s->fd, standard ? "standard input" : file,
                           opt.lines   ? VP_RECORDS_LINES
                           : opt.words ? VP_RECORDS_WORDS
                                       : VP_RECORDS_JSONL,
                           opt.skip_bad, err);
}

static int check_options(vp_error *err) {
    if (opt.lines && opt.words) return vp_fail(err, VP_USAGE, "--lines and --words exclude each other");
    if (opt.lines && strcmp(opt.id_from, "auto") != 0 && strcmp(opt.id_from, "line") != 0 &&
        strcmp(opt.id_from, "hash") != 0)
        return vp_fail(err, VP_USAGE, "--id-from %s: lines have no fields", opt.id_from);
    return vp_cli_refuse_terminal(STDOUT_FILENO, err);
}

static int run(state *s, const char *file, const char *command, vp_error *err) {
    const char *named = opt.model ? opt.model : getenv("VP_MODEL");
    VP_TRY(check_options(err));
    VP_TRY(open_input(s, file, err));
    s->header = vp_map_new();
    if (!s->header) return vp_fail_memory(err, "the header", 1);
    if (named && *named) {
        VP_TRY(vp_model_resolve(&s->model, named, NULL, err));
        VP_TRY(write_header(s, command, err));
    } else {
        VP_TRY(open_by_head(s, command, err));
    }
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
    vp_packer_close(s.packer);
    vp_prompt_close(s.prompt);
    vp_tokenizer_close(s.tokenizer);
    vp_model_close(s.model);
    vp_writer_close(s.writer);
    vp_records_close(s.records);
    vp_map_free(s.header);
    vp_buf_free(&s.text);
    vp_buf_free(&s.id);
    vp_buf_free(&s.word);
    vp_buf_free(&command);
    if (s.fd > STDIN_FILENO) close(s.fd);
    return vp_cli_finish(status, &err);
}
