/* fwd: token ids to hidden states, to embeddings, to keys and values. */
#include "lib/vecpipe.h"
#include "tools/common_options.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EMITTED "hidden, emb, kv"
/* Frames with keys and values are cut into parts of whole rows of about this many bytes of them. */
#define PART_BYTES ((int64_t)128 << 20)

typedef struct options {
    const char *model, *device, *emit, *pool, *follow;
    vp_list adapters;
    int attention, compute;
    int64_t threads, batch_tokens, dims;
    double attention_dropout, hidden_dropout;
    bool normalize, raw;
} options;
static options opt;

static const vp_option table[] = {
    {.kind = VP_OPT_GROUP, .help = "Model"},
    OPTION_MODEL(&opt.model, "folder, .gguf file or index; else the stream's model, else $VP_MODEL"),
    OPTION_ADAPTER(&opt.adapters, "LoRA adapter (PEFT's layout), in the place of the stream's; may be repeated"),
    {.name = "attention",
     .kind = VP_OPT_CHOICE,
     .target = &opt.attention,
     .choices = "auto|" VP_ATTENTIONS,
     .help = "which tokens see which; auto: as the stream or the model says"},
    {.kind = VP_OPT_GROUP, .help = "Computing"},
    OPTION_COMPUTE(&opt.compute, "arithmetic of the products"),
    OPTION_DEVICE(&opt.device),
    OPTION_THREADS(&opt.threads, "threads to use; 0: all"),
    OPTION_BATCH_TOKENS(&opt.batch_tokens, "tokens computed at a time, in whole rows; auto: 2048, on a GPU what fits"),
    {.kind = VP_OPT_GROUP, .help = "Training"},
    {.name = "follow",
     .kind = VP_OPT_STRING,
     .target = &opt.follow,
     .value = "DIR",
     .help = "with the weights of the run in DIR, where `step` trains, as each step wants them"},
    {.name = "attention-dropout",
     .kind = VP_OPT_REAL,
     .target = &opt.attention_dropout,
     .value = "P",
     .max = 0.99,
     .help = "with --follow: of attention probabilities"},
    {.name = "hidden-dropout",
     .kind = VP_OPT_REAL,
     .target = &opt.hidden_dropout,
     .value = "P",
     .max = 0.99,
     .help = "with --follow: of what attention and MLP add"},
    {.kind = VP_OPT_GROUP, .help = "Output"},
    {.name = "emit",
     .kind = VP_OPT_STRING,
     .target = &opt.emit,
     .value = "LIST",
     .help = "what of " EMITTED ": hidden, or with --pool emb, if not given; kv: keys and values, BF16"},
    {.kind = VP_OPT_GROUP, .help = "Pooling in place (as `| pool` does)"},
    {.name = "pool",
     .kind = VP_OPT_STRING,
     .target = &opt.pool,
     .value = "KIND",
     .help = "auto (the model's), " VP_POOLINGS " or pick: write embeddings, not hidden states"},
    {.name = "normalize", .kind = VP_OPT_FLAG, .target = &opt.normalize, .help = "with --pool: to length 1"},
    {.name = "no-normalize", .kind = VP_OPT_FLAG, .target = &opt.raw, .help = "with --pool: leave the length"},
    {.name = "dims",
     .kind = VP_OPT_INT,
     .target = &opt.dims,
     .value = "N",
     .max = 1 << 24,
     .help = "with --pool: keep the first N dimensions; 0: the model's, else all"},
    {0},
};
static const vp_program program = {
    .name = "fwd",
    .summary = "token ids to hidden states: the transformer",
    .usage = "fwd [OPTION]... <IDS >HIDDEN",
    .options = table,
    .notes = "Reads a stream with the columns ids and cu (pos, seg, prefix if present) and adds hidden [T, C].\n"
             "--emit emb,kv adds instead emb [B, D] and k, v [L, T, G, d]: 2 * L * G * d * 2 bytes a token.\n",
};

typedef struct result { /* of a frame; what was computed is the encoder's and the pooler's until their next run */
    vp_frame *f;
    const float *hidden;
    const uint16_t *kv;
    int64_t empty;
    vp_pooler *pooler;
} result;

typedef struct state {
    bool hidden, emb, kv; /* emitted */
    vp_reader *reader;
    vp_writer *writer;
    vp_model *model;
    vp_encoder *encoder;
    vp_following *following; /* opened when the first batch is there: the header goes on before anything waits */
    vp_pooler *pooler;
    bool asked;      /* whether frames may be on their way ahead: then `ahead`, or NULL */
    vp_ahead *ahead; /* and their places */
    result place[VP_AHEAD];
    vp_map *header;
    vp_progress *progress;
    const vp_encoder *used; /* for the last batch */
    int64_t rows, tokens, empty;
} state;

/* The names of --emit, separated by commas. */
static int choose_output(state *s, vp_error *err) {
    const struct {
        const char *name;
        bool *wanted;
    } names[] = {{"hidden", &s->hidden}, {"emb", &s->emb}, {"kv", &s->kv}};
    for (const char *at = opt.emit ? opt.emit : opt.pool ? "emb" : "hidden"; at;) {
        const size_t n = strcspn(at, ",");
        size_t i = 0;
        while (i < 3 && (strlen(names[i].name) != n || memcmp(names[i].name, at, n) != 0)) i++;
        if (i == 3) return vp_fail(err, VP_USAGE, "--emit: '%.*s' is not one of " EMITTED, (int)n, at);
        *names[i].wanted = true;
        at = at[n] ? at + n + 1 : NULL;
    }
    if (s->hidden && s->emb) return vp_fail(err, VP_USAGE, "--emit: hidden and emb: one of them");
    if (opt.pool && !s->emb) return vp_fail(err, VP_USAGE, "--pool: --emit does not name emb");
    return VP_OK;
}

static int open_pooler(const state *s, vp_pooler **pooler, vp_error *err) {
    vp_pool_options o;
    VP_TRY(vp_pool_options_set(&o, opt.pool ? opt.pool : "auto", opt.normalize, opt.raw, opt.dims, err));
    o.trained = opt.follow != NULL;
    return vp_pooler_open(pooler, &o, s->header, err);
}

static int describe_pooling(state *s, vp_error *err) {
    if (!s->emb) {
        if (opt.normalize || opt.raw || opt.dims)
            return vp_fail(err, VP_USAGE, "--normalize, --no-normalize and --dims go with --pool");
        return VP_OK;
    }
    VP_TRY(open_pooler(s, &s->pooler, err));
    return vp_pooler_describe(s->pooler, s->header, vp_model_width(s->model), err);
}

static vp_encode_options encode_options(void) {
    static const char *const attentions[] = {NULL, "causal", "bi", "segments"};
    static const char *const computes[] = {"auto", "f32", "tf32", "bf16", "i8", "fp8"};
    return (vp_encode_options){.device = opt.device,
                               .threads = (int)opt.threads,
                               .compute = computes[opt.compute],
                               .attention = attentions[opt.attention],
                               .batch_tokens = opt.batch_tokens};
}

/* What `step` must know to do the same: it reads this before it makes the run that is followed. */
static int describe_following(state *s, vp_error *err) {
    vp_map *encoder = vp_map_sub(s->header, "encoder"), *dropout = vp_map_new();
    int status = encoder && dropout ? vp_map_set_bool(encoder, "follow", true, err) : vp_fail_memory(err, "a map", 1);
    if (!status) status = vp_map_set_real(dropout, "attention", opt.attention_dropout, err);
    if (!status) status = vp_map_set_real(dropout, "hidden", opt.hidden_dropout, err);
    if (!status) status = vp_map_set_map(encoder, "dropout", dropout, err);
    if (!status) status = vp_map_set_map(s->header, "encoder", encoder, err);
    vp_map_free(encoder);
    vp_map_free(dropout);
    return status;
}

static int check_options(vp_error *err) {
    if (!opt.follow && (opt.attention_dropout > 0 || opt.hidden_dropout > 0))
        return vp_fail(err, VP_USAGE, "dropout is for training: --follow DIR");
    if (opt.follow && opt.adapters.n)
        return vp_fail(err, VP_USAGE, "--adapter: with --follow the run says which: step --adapter");
    if (opt.follow && strcmp(encode_options().compute, "fp8") == 0)
        return vp_fail(err, VP_USAGE, "--follow: compute type fp8 is for embedding, not for training");
    return vp_cli_refuse_terminal(STDOUT_FILENO, err);
}

static int declare_output(state *s, vp_error *err) {
    const vp_kv_shape kv = vp_model_kv_shape(s->model);
    char shape[80];
    snprintf(shape, sizeof shape, "T %lld", (long long)vp_model_width(s->model));
    if (s->hidden) VP_TRY(vp_header_declare(s->header, "hidden", "F32", shape, err));
    if (!s->kv) return VP_OK;
    snprintf(shape, sizeof shape, "L T %lld %lld", (long long)kv.groups, (long long)kv.head_dim);
    VP_TRY(vp_header_declare(s->header, "k", "BF16", shape, err));
    return vp_header_declare(s->header, "v", "BF16", shape, err);
}

/* The model that the stream or the user names, and the header that says what will be computed with it. */
static int open_all(state *s, vp_error *err) {
    const vp_encode_options o = encode_options();
    VP_TRY(opt.follow ? vp_model_resolve_base(&s->model, opt.model, s->header, err)
                      : vp_model_resolve(&s->model, opt.model, s->header, opt.adapters.item, opt.adapters.n, err));
    VP_TRY(vp_encoder_open(&s->encoder, s->model, &o, s->header, err));
    tell_device(s->encoder);
    VP_TRY(vp_model_describe(s->model, s->header, err));
    VP_TRY(vp_encoder_describe(s->encoder, s->header, err));
    if (opt.follow) VP_TRY(describe_following(s, err));
    VP_TRY(declare_output(s, err));
    vp_reader_set_vocab(s->reader, vp_model_vocab(s->model));
    VP_TRY(describe_pooling(s, err));
    vp_map *columns = vp_map_sub(s->header, "columns");
    const bool lost = s->kv && !(columns && vp_map_has(columns, "k"));
    vp_map_free(columns);
    return lost ? vp_fail(err, VP_USAGE, "--emit: the rows of --pool %s have no keys and values", opt.pool) : VP_OK;
}

static int begin(state *s, const char *command, vp_error *err) {
    vp_frame *f;
    VP_TRY(check_options(err));
    VP_TRY(choose_output(s, err));
    VP_TRY(vp_reader_open(&s->reader, STDIN_FILENO, "standard input", err));
    vp_reader_watch(s->reader, STDOUT_FILENO);
    VP_TRY(vp_reader_next(s->reader, &f, err));
    s->header = vp_map_copy(f->keys);
    if (!s->header) return vp_fail_memory(err, "the header", 1);
    VP_TRY(open_all(s, err));
    VP_TRY(vp_writer_open(&s->writer, STDOUT_FILENO, "standard output", err));
    return vp_writer_header(s->writer, s->header, command, err);
}

/* The encoder for this batch: the run's, with its step's weights, or the one that there is. */
static int choose_encoder(state *s, const vp_frame *f, vp_encoder **encoder, vp_error *err) {
    *encoder = s->encoder;
    if (!opt.follow) return VP_OK;
    if (!s->following) {
        vp_follow_options o = {.folder = opt.follow,
                               .encode = encode_options(),
                               .attention_dropout = opt.attention_dropout,
                               .hidden_dropout = opt.hidden_dropout,
                               .output = STDOUT_FILENO};
        o.encode.attention = vp_encoder_attention(s->encoder);
        o.encode.compute = vp_encoder_compute_type(s->encoder);
        VP_TRY(vp_following_open(&s->following, s->model, &o, err));
    }
    return vp_following_encoder(s->following, f, encoder, err);
}

static int put_kv(const state *s, vp_frame *f, const uint16_t *kv, vp_error *err) {
    const vp_kv_shape m = vp_model_kv_shape(s->model);
    const int64_t shape[] = {m.layers, f->T, m.groups, m.head_dim};
    const uint16_t *v = kv + m.layers * f->T * m.groups * m.head_dim;
    VP_TRY(vp_frame_put(f, "k", VP_BF16, 4, shape, kv, err));
    return vp_frame_put(f, "v", VP_BF16, 4, shape, v, err);
}

static int compute(const state *s, vp_encoder *encoder, result *r, vp_error *err) {
    vp_frame *f = r->f;
    const int64_t width = vp_model_width(s->model), shape[] = {f->T, width};
    const bool pooled = s->emb && !s->kv;
    if (r->pooler) vp_pooler_use(r->pooler, encoder);
    VP_TRY(pooled  ? vp_encoder_pool(encoder, r->pooler, f, &r->empty, err)
           : s->kv ? vp_encoder_run_kv(encoder, f, &r->hidden, &r->kv, err)
                   : vp_encoder_run(encoder, f, &r->hidden, err));
    if (s->kv) VP_TRY(put_kv(s, f, r->kv, err));
    if (s->hidden) VP_TRY(vp_frame_put(f, "hidden", VP_F32, 2, shape, r->hidden, err));
    return s->emb && !pooled ? vp_pooler_run(r->pooler, f, r->hidden, width, &r->empty, err) : VP_OK;
}

/* Write what was computed, unless that failed. */
static int send(state *s, int status, result *r, vp_error *err) {
    if (!status) status = vp_writer_batch(s->writer, r->f, err);
    s->rows += r->f->B;
    s->tokens += r->f->T;
    s->empty += r->empty;
    vp_progress_add(s->progress, r->f->B, r->f->T);
    *r = (result){.pooler = r->pooler};
    return status;
}

static int encode(state *s, vp_encoder *encoder, vp_frame *f, vp_error *err) {
    result r = {.f = f, .pooler = s->pooler};
    const int status = compute(s, encoder, &r, err);
    return send(s, status, &r, err);
}

/* The end of the part that begins at row b: whole rows of together `most` tokens at most, but one at least. A row that
 * no frame can hold is refused before it is computed. */
static int cut_part(const vp_frame *f, const int32_t *cu, int64_t token_bytes, int64_t b, int64_t *end, vp_error *err) {
    const int64_t most = PART_BYTES / token_bytes, n = cu[b + 1] - cu[b];
    if (n * token_bytes >= (int64_t)VP_MAX_PAYLOAD)
        return vp_frame_fail(f, VP_DATA, err,
                             "row %lld: keys and values of %lld tokens are %lld MiB, a frame holds 256 MiB: cut the "
                             "text, tok --chunk or --max-len",
                             (long long)b, (long long)n, (long long)(n * token_bytes >> 20));
    for (*end = b + 1; *end < f->B && cu[*end + 1] - cu[b] <= most; ++*end) continue;
    return VP_OK;
}

/* Part by part: keys and values are far larger than the ids that they come from. */
static int encode_parts(state *s, vp_encoder *encoder, vp_frame *f, vp_error *err) {
    const vp_kv_shape m = vp_model_kv_shape(s->model);
    const int64_t token_bytes = 2 * m.layers * m.groups * m.head_dim * (int64_t)sizeof(uint16_t);
    int32_t *cu;
    VP_TRY(vp_frame_ints(f, "cu", &cu, NULL, err));
    int status = f->B && cu ? VP_OK : encode(s, encoder, f, err);
    for (int64_t b = 0, end = 0; cu && b < f->B && !status; b = end) {
        vp_frame *part = NULL;
        status = cut_part(f, cu, token_bytes, b, &end, err);
        if (!status) status = vp_frame_slice(f, b, end, &part, err);
        if (!status) status = encode(s, encoder, part, err);
        vp_frame_free(part);
    }
    free(cu);
    return status;
}

/* ---- frames on their way ahead of what is written ---- */

static int compute_place(void *ctx, int place, vp_encoder *e, vp_error *err) {
    state *s = ctx;
    return compute(s, e, &s->place[place], err);
}

/* Not where the weights change from step to step, nor where a frame is cut into parts. */
static int look_ahead(state *s, vp_error *err) {
    if (s->asked) return VP_OK;
    s->asked = true;
    if (opt.follow || s->kv || (s->pooler && !vp_pooler_alike(s->pooler))) return VP_OK;
    VP_TRY(vp_ahead_open(&s->ahead, s->encoder, compute_place, s, err));
    for (int i = 0; s->ahead && s->pooler && i < VP_AHEAD; i++) VP_TRY(open_pooler(s, &s->place[i].pooler, err));
    return VP_OK;
}

/* Write the oldest frame that is done; *more: there was one. */
static int write_done(state *s, bool wait, bool *more, vp_error *err) {
    int status = VP_OK;
    const int place = s->ahead ? vp_ahead_take(s->ahead, wait, &status, err) : -1;
    *more = place >= 0;
    if (!*more) return VP_OK;
    vp_frame *own = s->place[place].f;
    status = send(s, status, &s->place[place], err);
    vp_frame_free(own);
    return status;
}

static int write_all(state *s, vp_error *err) {
    for (bool more = true; more;) VP_TRY(write_done(s, true, &more, err));
    return VP_OK;
}

/* Until the next frame comes, what is done is written. */
static int write_meanwhile(state *s, vp_error *err) {
    enum { LOOK_MS = 2 };
    bool more;
    while (s->ahead && !vp_ahead_idle(s->ahead) && !vp_reader_ready(s->reader, LOOK_MS))
        VP_TRY(write_done(s, false, &more, err));
    return VP_OK;
}

static int give(state *s, vp_error *err) {
    bool more;
    int place;
    while ((place = vp_ahead_place(s->ahead)) < 0) VP_TRY(write_done(s, true, &more, err));
    VP_TRY(vp_reader_keep(s->reader, &s->place[place].f, err));
    vp_ahead_give(s->ahead);
    return VP_OK;
}

static int take_batch(state *s, vp_frame *f, vp_error *err) {
    vp_encoder *encoder;
    VP_TRY(look_ahead(s, err));
    if (s->ahead) return give(s, err);
    VP_TRY(choose_encoder(s, f, &encoder, err));
    s->used = encoder;
    return s->kv ? encode_parts(s, encoder, f, err) : encode(s, encoder, f, err);
}

static int end(state *s, vp_frame *f, vp_error *err) {
    if (!vp_map_has(f->keys, "rows")) VP_TRY(vp_map_set_int(f->keys, "rows", s->rows, err));
    if (!vp_map_has(f->keys, "tokens")) VP_TRY(vp_map_set_int(f->keys, "tokens", s->tokens, err));
    if (s->pooler) VP_TRY(vp_map_set_int(f->keys, "empty", s->empty, err));
    return vp_writer_end(s->writer, f->keys, err);
}

static int run(state *s, const char *command, vp_error *err) {
    VP_TRY(begin(s, command, err));
    s->progress = vp_progress_start("rows", -1);
    vp_frame *f = NULL;
    vp_error failed = {0};
    do {
        VP_TRY(write_meanwhile(s, err));
        const int status = vp_reader_next(s->reader, &f, &failed);
        if (status || !f || f->kind != VP_FRAME_BATCH) VP_TRY(write_all(s, err)); /* an earlier frame's failure first */
        if (status) *err = failed;
        VP_TRY(status);
        if (f) VP_TRY(f->kind == VP_FRAME_BATCH ? take_batch(s, f, err) : end(s, f, err));
    } while (f);
    return VP_OK;
}

static void close_place(result *r) {
    vp_frame_free(r->f);
    vp_pooler_close(r->pooler);
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
    if (!status && action == VP_CLI_RUN && first < argc)
        status = vp_fail(&err, VP_USAGE, "'%s': the stream is read from standard input", argv[first]);
    if (!status && action == VP_CLI_RUN) status = run(&s, command.data, &err);
    vp_progress_finish(s.progress);
    vp_ahead_close(s.ahead);
    if (!status) tell_work(s.used ? s.used : s.encoder, s.tokens);
    for (int i = 0; i < VP_AHEAD; i++) close_place(&s.place[i]);
    vp_pooler_close(s.pooler);
    vp_following_close(s.following);
    vp_encoder_close(s.encoder);
    vp_model_close(s.model);
    vp_writer_close(s.writer);
    vp_reader_close(s.reader);
    vp_map_free(s.header);
    vp_buf_free(&command);
    free(opt.adapters.item);
    return vp_cli_finish(status, &err);
}
