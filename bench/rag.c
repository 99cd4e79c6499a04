/* Latency of RAG with and without cached keys and values: the protocol of GRIT (arXiv 2402.09906, section 4.1). A query
 * or a document of many repeated tokens, the other of one; a question is embedded, searched for in an index of one
 * document, and answered in 16 tokens; what the index holds is computed before. Prints mean and standard deviation of
 * every row. Usage: rag MODEL [REPETITIONS [TOKENS[,TOKENS]... [TYPE [THREADS]]]]   (5, 250,500,1000,2000,4000, f32, 1)
 * TYPE: of the weights that answer. With one thread times are of the processor, so that other work on the machine
 * disturbs less; with more they are the clock's. */
#include "bench/bench.h"
#include "lib/vecpipe.h"
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWER = 16, MOST = 16384 };
#define AFTER_QUERY  "Optionally using the prior context answer the query prior to it\n<|assistant|>\nThe answer is"
#define AFTER_DOC    "Answer the prior query while optionally using the context prior to it\n<|assistant|>\nThe answer is"
#define EMBED        "<|embed|>\n"
#define DOC_TEXT     EMBED "D"
#define BEHIND_QUERY "\n" EMBED "D"

/* Q and D stand for the query's and the document's tokens. The cached texts are in the order of `cached`. */
static const struct row {
    const char *name, *cached, *prompt;
    const char *uncached; /* the row that it is compared with */
} rows[] = {
    {"no retrieval", "", "<|user|>\nQ\n<|assistant|>\nThe answer is", NULL},
    {"RAG, query first", "", "<|user|>\nQ\n\nD\n\n" AFTER_QUERY, NULL},
    {"query", "Q", "\n<|user|>\nD\n\n" AFTER_QUERY, "RAG, query first"},
    {"query-doc", "QD", "\n<|user|>\n" AFTER_QUERY, "RAG, query first"},
    {"RAG, doc first", "", "<|user|>\nD\n\nQ\n\n" AFTER_DOC, NULL},
    {"doc", "D", "\n<|user|>\nQ\n\n" AFTER_DOC, "RAG, doc first"},
    {"doc-query", "DQ", "\n<|user|>\n" AFTER_DOC, "RAG, doc first"},
};
enum { ROWS = sizeof rows / sizeof *rows };

typedef struct ids {
    int32_t id[MOST];
    int32_t n;
} ids;

typedef struct bench {
    vp_model *model;
    vp_tokenizer *tokenizer;
    vp_encoder *embed, *answer;
    vp_gen *gen;
    vp_pooler *pooler;
    vp_frame *header;
    vp_index *index[2]; /* of a document with a beginning of its own, and behind a query */
    int32_t token;
    int threads;
    double answered; /* seconds that the prompt and its answer took last */
} bench;

/* ---- texts ---- */
static void put_tokens(const bench *b, const char *text, size_t n, bool begins, ids *out) {
    vp_error err = {0};
    vp_tokens t = {0};
    size_t before, after;
    char from[256] = "";
    if (begins) vp_tokenizer_begin(b->tokenizer, from);
    strncat(from, text, n);
    vp_tokenizer_specials(b->tokenizer, &before, &after);
    check(vp_tokenizer_encode(b->tokenizer, from, strlen(from), begins, &t, &err), &err);
    if (begins) t.n -= after;
    if ((size_t)out->n + t.n > MOST) check(vp_fail(&err, VP_USAGE, "too many tokens"), &err);
    for (size_t i = 0; i < t.n; i++) out->id[out->n++] = t.id[i];
    vp_tokens_free(&t);
}

/* A form with q and d tokens for Q and D, behind BOS where the model has one and the text does not go on. */
static void fill(const bench *b, const char *form, bool begins, int64_t q, int64_t d, ids *out) {
    out->n = 0;
    for (const char *s = form; *s;) {
        const size_t n = strcspn(s, "QD");
        if (n || begins) put_tokens(b, s, n, begins, out);
        begins = false;
        if (s[n])
            for (int64_t i = s[n] == 'Q' ? q : d; i > 0 && out->n < MOST; i--) out->id[out->n++] = b->token;
        s += n + (s[n] != '\0');
    }
}

/* ---- embedding and searching ---- */
typedef struct passage {
    vp_frame *frame;
    int32_t cu[2];
    ids text;
    const float *hidden; /* the encoder's until it embeds the next */
    const uint16_t *kv;
} passage;

static void passage_free(passage *p) {
    vp_frame_free(p->frame);
    free(p);
}

/* One text as a frame with emb and, if wanted, k and v. */
static passage *embed(bench *b, const char *form, bool begins, int64_t q, int64_t d, bool keep) {
    vp_error err = {0};
    passage *p = vp_calloc(1, sizeof *p);
    const char *const id = "text";
    const size_t len = 4;
    int64_t two = 2, empty;
    if (!p || !(p->frame = vp_frame_new(VP_FRAME_BATCH, &err))) exit(VP_MEMORY);
    fill(b, form, begins, q, d, &p->text);
    const int64_t T = p->text.n;
    p->cu[1] = p->text.n;
    check(vp_frame_put(p->frame, "cu", VP_I32, 1, &two, p->cu, &err), &err);
    check(vp_frame_put(p->frame, "ids", VP_I32, 1, &T, p->text.id, &err), &err);
    check(vp_frame_put_strs(p->frame, "id", 1, &id, &len, &err), &err);
    if (!keep) {
        check(vp_encoder_run(b->embed, p->frame, &p->hidden, &err), &err);
    } else {
        const vp_kv_shape m = vp_model_kv_shape(b->model);
        const int64_t shape[] = {m.layers, T, m.groups, m.head_dim};
        check(vp_encoder_run_kv(b->embed, p->frame, &p->hidden, &p->kv, &err), &err);
        check(vp_frame_put(p->frame, "k", VP_BF16, 4, shape, p->kv, &err), &err);
        check(vp_frame_put(p->frame, "v", VP_BF16, 4, shape, p->kv + m.layers * T * m.groups * m.head_dim, &err), &err);
    }
    check(vp_pooler_run(b->pooler, p->frame, p->hidden, vp_model_width(b->model), &empty, &err), &err);
    return p;
}

/* An index of one document, in `folder`. */
static vp_index *make_index(bench *b, const char *folder, const char *form, bool begins, int64_t d) {
    vp_error err = {0};
    vp_index *x = NULL;
    vp_index_adder *a = NULL;
    passage *p = embed(b, form, begins, 0, d, true);
    check(vp_index_open(&x, folder, VP_INDEX_CREATE, &err), &err);
    check(vp_index_add_open(&a, x, b->header, &err), &err);
    check(vp_index_add_frame(a, p->frame, &err), &err);
    check(vp_index_add_commit(a, &err), &err);
    vp_index_add_close(a);
    passage_free(p);
    return x;
}

static void search(const bench *b, vp_index *x, const passage *query) {
    vp_error err = {0};
    vp_searcher *s = NULL;
    const vp_search_result *found;
    const vp_search_options o = {.k = 1, .threads = b->threads};
    int64_t n;
    check(vp_search_open(&s, x, b->header, &o, &err), &err);
    check(vp_search_frame(s, query->frame, &found, &n, &err), &err);
    if (n != 1 || found->n != 1) check(vp_fail(&err, VP_BUG, "the document was not found"), &err);
    vp_search_close(s);
}

/* ---- one question ---- */
static vp_kv query_kv(const bench *b, const passage *query) {
    const vp_kv_shape m = vp_model_kv_shape(b->model);
    vp_kv kv = {.k = query->kv, .dtype = VP_BF16, .layers = m.layers, .tokens = query->text.n};
    kv.width = m.groups * m.head_dim;
    kv.v = query->kv + kv.layers * kv.tokens * kv.width;
    return kv;
}

static void generate(bench *b, const struct row *r, const vp_behind *behind, int64_t q, int64_t d) {
    static ids prompt;
    vp_error err = {0};
    fill(b, r->prompt, !behind->n, q, d, &prompt);
    check(vp_gen_add_behind(b->gen, behind, prompt.id, (size_t)prompt.n, 0, &err), &err);
    while (!vp_gen_idle(b->gen)) check(vp_gen_step(b->gen, &err), &err);
    if (vp_gen_first(b->gen)->tokens != ANSWER)
        check(vp_fail(&err, VP_DATA, "%s: the answer ended after %lld tokens", r->name,
                      (long long)vp_gen_first(b->gen)->tokens),
              &err);
    vp_gen_drop(b->gen);
}

/* Seconds from the question to the answer. */
static double ask(bench *b, const struct row *r, int64_t q, int64_t d) {
    vp_error err = {0};
    vp_kv kv[2] = {{0}};
    const vp_behind behind = {.kv = kv, .n = strlen(r->cached)};
    passage *query = NULL;
    vp_index *index = b->index[r->cached[0] == 'Q'];
    bool found = true;
    const double start = now(b->threads);
    if (strchr(r->prompt, 'D') || r->cached[0]) {
        query = embed(b, EMBED "Q", true, q, 0, strchr(r->cached, 'Q') != NULL);
        search(b, index, query);
    }
    const double found_at = now(b->threads);
    for (size_t i = 0; i < behind.n; i++) {
        if (r->cached[i] == 'Q')
            kv[i] = query_kv(b, query);
        else
            check(vp_index_kv(index, "text", 4, &kv[i], &found, &err), &err);
    }
    generate(b, r, &behind, q, d);
    const double end = now(b->threads);
    b->answered = end - found_at;
    for (size_t i = 0; i < behind.n; i++)
        if (r->cached[i] == 'D') vp_kv_free(&kv[i]);
    if (query) passage_free(query);
    return end - start;
}

/* ---- figures ---- */
typedef struct figure {
    double mean, deviation, answered;
} figure;

static figure measure(bench *b, const struct row *r, int64_t q, int64_t d, int repetitions) {
    double sum = 0, squares = 0, answered = 0;
    for (int i = 0; i < repetitions; i++) {
        const double took = ask(b, r, q, d);
        sum += took;
        squares += took * took;
        answered += b->answered;
    }
    const double mean = sum / repetitions, n = repetitions > 1 ? repetitions - 1 : 1;
    return (figure){mean, sqrt(fmax(0, (squares - sum * mean) / n)), answered / repetitions};
}

/* One question's worth of rows; `what` names its lengths. */
static void print_rows(bench *b, const char *what, int64_t q, int64_t d, int repetitions) {
    figure f[ROWS];
    for (int i = 0; i < ROWS; i++) {
        f[i] = measure(b, &rows[i], q, d, repetitions);
        printf("%-8s %6lld  %-17s %8.2f +- %-6.2f %8.2f", what, (long long)(q > d ? q : d), rows[i].name, f[i].mean,
               f[i].deviation, f[i].answered);
        for (int k = 0; k < i && rows[i].uncached; k++)
            if (strcmp(rows[k].name, rows[i].uncached) == 0)
                printf(" %7.1f %% %7.1f %%", 100 * (1 - f[i].mean / f[k].mean),
                       100 * (1 - f[i].answered / f[k].answered));
        printf("\n");
        fflush(stdout);
    }
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static void measure_length(bench *b, int64_t tokens, int repetitions) {
    static const char *const forms[] = {DOC_TEXT, BEHIND_QUERY};
    vp_error err = {0};
    for (int long_query = 0; long_query < 2; long_query++) {
        const int64_t q = long_query ? tokens : 1, d = long_query ? 1 : tokens;
        char folder[] = "/tmp/vecpipe-rag-XXXXXX", path[64];
        vp_index_stats s;
        if (!mkdtemp(folder)) check(vp_fail_errno(&err, "cannot make a folder in /tmp"), &err);
        for (int i = 0; i < 2; i++) {
            snprintf(path, sizeof path, "%s/%d", folder, i);
            b->index[i] = make_index(b, path, forms[i], i == 0, d);
        }
        print_rows(b, long_query ? "B, query" : "A, doc", q, d, repetitions);
        check(vp_index_stats_read(b->index[0], &s, &err), &err);
        printf("%-8s %6lld  a document takes %.2f MB of keys and values, %.1f KB of vectors\n", "", (long long)tokens,
               (double)s.kv_bytes / 1e6, (double)s.vector_bytes / 1e3);
        vp_index_stats_free(&s);
        for (int i = 0; i < 2; i++) vp_index_close(b->index[i]);
        if (nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS))
            check(vp_fail_errno(&err, "cannot remove '%s'", folder), &err);
    }
}

static void open_bench(bench *b, const char *path, const char *type) {
    vp_error err = {0};
    const vp_encode_options reads = {.threads = b->threads, .attention = "bi"};
    const vp_encode_options writes = {.threads = b->threads, .compute = type, .attention = "causal", .generate = true};
    /* drawn among all tokens alike, so that none ends an answer early */
    const vp_gen_options o = {.max_tokens = ANSWER, .top_p = 1, .penalty = 1, .batch = 1, .temperature = 100};
    vp_pool_options pool;
    check(vp_model_open(&b->model, path, &err), &err);
    check(vp_tokenizer_open(&b->tokenizer, vp_model_transformer(b->model), &err), &err);
    check(vp_encoder_open(&b->embed, b->model, &reads, NULL, &err), &err);
    check(vp_encoder_open(&b->answer, b->model, &writes, NULL, &err), &err);
    check(vp_gen_open(&b->gen, b->model, b->answer, b->tokenizer, &o, &err), &err);
    if (!(b->header = vp_frame_new(VP_FRAME_HEADER, &err))) exit(VP_MEMORY);
    check(vp_model_describe(b->model, b->header->keys, &err), &err);
    check(vp_encoder_describe(b->embed, b->header->keys, &err), &err);
    check(vp_pool_options_set(&pool, "mean", true, false, 0, &err), &err);
    check(vp_pooler_open(&b->pooler, &pool, b->header->keys, &err), &err);
    check(vp_pooler_describe(b->pooler, b->header->keys, vp_model_width(b->model), &err), &err);
    b->token = vp_tokenizer_find(b->tokenizer, "<s>", 3);
    if (b->token < 0) b->token = vp_tokenizer_find(b->tokenizer, "a", 1);
    ask(b, &rows[0], 1, 1); /* packs the weights that answer */
}

static void close_bench(bench *b) {
    vp_pooler_close(b->pooler);
    vp_frame_free(b->header);
    vp_gen_close(b->gen);
    vp_encoder_close(b->answer);
    vp_encoder_close(b->embed);
    vp_tokenizer_close(b->tokenizer);
    vp_model_close(b->model);
}

int main(int argc, char **argv) {
    static bench b;
    double repetitions = 5, threads = 1;
    const char *lengths = argc > 3 ? argv[3] : "250,500,1000,2000,4000", *type = argc > 4 ? argv[4] : "f32";
    if (argc < 2 || (argc > 2 && !vp_cli_real(argv[2], &repetitions)) || !(repetitions >= 1 && repetitions <= 1000) ||
        (argc > 5 && !vp_cli_real(argv[5], &threads)) || !(threads >= 1 && threads <= 1024)) {
        fprintf(stderr, "usage: rag MODEL [REPETITIONS [TOKENS[,TOKENS]... [TYPE [THREADS]]]]\n");
        return VP_USAGE;
    }
    b.threads = (int)threads;
    open_bench(&b, argv[1], type);
    printf("%d repetitions, %d threads, weights in %s; seconds, of them those of the prompt and its %d tokens, and "
           "what is\n"
           "saved of both against the uncached row\n",
           (int)repetitions, b.threads, type, ANSWER);
    for (const char *s = lengths; *s; s += strcspn(s, ",")) {
        s += *s == ',';
        const long tokens = strtol(s, NULL, 10);
        if (tokens < 1 || tokens > MOST / 2) {
            fprintf(stderr, "rag: '%s': numbers of tokens from 1 to %d\n", s, MOST / 2);
            return VP_USAGE;
        }
        measure_length(&b, tokens, (int)repetitions);
    }
    close_bench(&b);
    return 0;
}
