/* Tokenizers from GGUF metadata: byte-level BPE ("gpt2", its pattern by name), WordPiece ("bert", words marked by a
 * phantom space instead of ##), SentencePiece's BPE ("llama", merges by score). */
#include "lib/file/source.h"
#include "lib/text/load.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MARK "\xe2\x96\x81" /* U+2581, SentencePiece's visible space */
enum { MARK_BYTES = 3, LONGEST_PIECE = 1024 };

#define LLAMA3_REGEX(numbers)                                                                                          \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers                                              \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* By tokenizer.ggml.pre. */
static const vp_gguf_cuts cuttings[] = {
    {"gpt-2", {vp_gpt2_regex}, false, false},
    {"phi-2", {vp_gpt2_regex}, false, false},
    {"olmo", {vp_gpt2_regex}, false, false},
    {"mpt", {vp_gpt2_regex}, false, false},
    {"jais", {vp_gpt2_regex}, false, false},
    {"smollm", {"\\p{N}", vp_gpt2_regex}, false, false},
    {"starcoder", {"\\p{N}", vp_gpt2_regex}, false, false},
    {"refact", {"\\p{N}", vp_gpt2_regex}, false, false},
    {"command-r", {"\\p{N}", vp_gpt2_regex}, false, false},
    {"codeshell", {"\\p{N}", vp_gpt2_regex}, false, false},
    {"llama3", {LLAMA3_REGEX("\\p{N}{1,3}")}, true, true},
    {"llama-v3", {LLAMA3_REGEX("\\p{N}{1,3}")}, true, true},
    {"llama-bpe", {LLAMA3_REGEX("\\p{N}{1,3}")}, true, true},
    {"qwen2", {LLAMA3_REGEX("\\p{N}")}, false, false},
    {"default", {"[\\p{P}\\$\\+<=>\\^~\\|]+", vp_gpt2_regex, "\\p{N}+", "[0-9][0-9][0-9]"}, false, false},
};

int vp_gguf_cuts_find(const vp_gguf *g, const vp_gguf_cuts **out, vp_error *err) {
    const char *pre = "gpt-2";
    size_t n = strlen(pre);
    vp_gguf_str(g, "tokenizer.ggml.pre", &pre, &n);
    for (size_t i = 0; i < sizeof cuttings / sizeof *cuttings; i++) {
        *out = &cuttings[i];
        if (strlen(cuttings[i].name) == n && memcmp(cuttings[i].name, pre, n) == 0) return VP_OK;
    }
    return vp_fail(err, VP_DATA, "%s: tokenizer.ggml.pre is not supported: %.*s", vp_gguf_path(g),
                   (int)(n < 80 ? n : 80), pre);
}

typedef struct loader {
    vp_tokenizer *t;
    vp_gguf *file;
    const char **text; /* n of them, of len bytes */
    size_t *len;
    int64_t *type; /* n, or NULL: all normal */
    int64_t n;
} loader;

static int data(const loader *l, vp_error *err, const char *what, const char *which, size_t n) {
    return vp_fail(err, VP_DATA, "%s: %s%.*s", vp_gguf_path(l->file), what, (int)(n < 80 ? n : 80), which);
}

static int64_t type_of(const loader *l, int64_t id) {
    return l->type ? l->type[id] : VP_TOKEN_NORMAL;
}

static int load_tokens(loader *l, vp_error *err) {
    int64_t ntypes;
    VP_TRY(vp_gguf_strings(l->file, "tokenizer.ggml.tokens", &l->text, &l->len, &l->n, err));
    if (!l->text) return data(l, err, "no tokenizer.ggml.tokens", "", 0);
    VP_TRY(vp_gguf_ints(l->file, "tokenizer.ggml.token_type", &l->type, &ntypes, err));
    if (l->type && ntypes != l->n)
        return data(l, err, "tokenizer.ggml.token_type of another length than tokens", "", 0);
    for (int64_t i = 0; i < l->n; i++)
        if (vp_utf8_valid(l->text[i], l->len[i]) != l->len[i]) return data(l, err, "a token that is not UTF-8", "", 0);
    return vp_vocab_begin(&l->t->vocab, l->n, err);
}

/* An id under a key; *id stays when the key is absent. */
static int take_id(const loader *l, const char *key, int32_t *id, vp_error *err) {
    int64_t value = vp_gguf_int(l->file, key, -1);
    if (value < 0) return VP_OK;
    if (value >= l->n) return data(l, err, "an id outside the vocabulary: ", key, strlen(key));
    *id = (int32_t)value;
    return VP_OK;
}

/* Control, user-defined and unknown tokens are recognised in the text. */
static int load_added(const loader *l, vp_error *err) {
    size_t count = 0;
    for (int64_t i = 0; i < l->n; i++)
        count += type_of(l, i) >= VP_TOKEN_UNKNOWN && type_of(l, i) <= VP_TOKEN_USER_DEFINED;
    VP_TRY(vp_added_begin(&l->t->raw, count, err));
    for (int64_t i = 0; i < l->n; i++) {
        if (type_of(l, i) < VP_TOKEN_UNKNOWN || type_of(l, i) > VP_TOKEN_USER_DEFINED || l->len[i] == 0) continue;
        vp_added_token token = {.id = (int32_t)i, .special = type_of(l, i) != VP_TOKEN_USER_DEFINED};
        VP_TRY(vp_added_add(&l->t->raw, &token, l->text[i], l->len[i], err));
    }
    return vp_added_finish(&l->t->raw, err);
}

/* BOS and EOS around the text, as the file says, or else as its kind of tokenizer does. */
static int load_template(const loader *l, bool add_bos, bool add_eos, vp_error *err) {
    vp_tokenizer *t = l->t;
    VP_TRY(take_id(l, "tokenizer.ggml.bos_token_id", &t->bos, err));
    VP_TRY(take_id(l, "tokenizer.ggml.eos_token_id", &t->eos, err));
    add_bos = vp_gguf_int(l->file, "tokenizer.ggml.add_bos_token", add_bos) != 0;
    add_eos = vp_gguf_int(l->file, "tokenizer.ggml.add_eos_token", add_eos) != 0;
    if (add_bos && t->bos >= 0) VP_TRY(vp_template_put(&t->around, true, t->bos, err));
    return add_eos && t->eos >= 0 ? vp_template_put(&t->around, false, t->eos, err) : VP_OK;
}

/* ---- gpt2 ---- */
static int load_cuts(const loader *l, bool *add_bos, vp_error *err) {
    const vp_gguf_cuts *cuts;
    VP_TRY(vp_gguf_cuts_find(l->file, &cuts, err));
    *add_bos = cuts->add_bos;
    l->t->ignore_merges = cuts->ignore_merges;
    for (int i = 0; i < VP_GGUF_CUTS && cuts->regex[i]; i++)
        VP_TRY(vp_cuts_push_regex(&l->t->cuts, cuts->regex[i], VP_SPLIT_ISOLATED, err));
    return VP_OK;
}

static int load_merges(const loader *l, vp_error *err) {
    const char **merge;
    size_t *len;
    int64_t n;
    VP_TRY(vp_gguf_strings(l->file, "tokenizer.ggml.merges", &merge, &len, &n, err));
    int status =
        merge ? vp_merges_begin(&l->t->merges, (size_t)n, err) : data(l, err, "no tokenizer.ggml.merges", "", 0);
    for (int64_t i = 0; !status && i < n; i++) {
        const char *s = merge[i], *space = len[i] > 1 ? memchr(s + 1, ' ', len[i] - 1) : NULL;
        if (!space)
            status = data(l, err, "a merge that is not two tokens: ", s, len[i]);
        else
            status = vp_tokenizer_add_merge(l->t, (uint32_t)i, s, (size_t)(space - s), space + 1,
                                            len[i] - (size_t)(space - s) - 1, err);
    }
    free(merge);
    free(len);
    return status;
}

static int load_gpt2(const loader *l, vp_error *err) {
    vp_tokenizer *t = l->t;
    bool add_bos = false;
    t->byte_level = true;
    VP_TRY(load_cuts(l, &add_bos, err));
    if (vp_gguf_int(l->file, "tokenizer.ggml.add_space_prefix", 0))
        return data(l, err, "not supported with gpt2: tokenizer.ggml.add_space_prefix", "", 0);
    for (int64_t i = 0; i < l->n; i++) VP_TRY(vp_tokenizer_set_token(t, i, l->text[i], l->len[i], err));
    VP_TRY(vp_tokenizer_index_bpe(t, err));
    VP_TRY(load_merges(l, err));
    return load_template(l, add_bos, false, err);
}

/* ---- bert ---- */
static bool marked(const loader *l, int64_t id) {
    return l->len[id] > MARK_BYTES && memcmp(l->text[id], MARK, MARK_BYTES) == 0;
}

/* The vocabulary keeps the usual spelling: words as they are, the others with ##. */
static int set_piece(const loader *l, int64_t id, vp_buf *scratch, vp_error *err) {
    vp_tokenizer *t = l->t;
    scratch->len = 0;
    bool starts = marked(l, id), whole = type_of(l, id) != VP_TOKEN_NORMAL;
    if (!starts && !whole) VP_TRY(vp_buf_add(scratch, "##", 2, err));
    size_t skip = starts ? MARK_BYTES : 0;
    VP_TRY(vp_buf_add(scratch, l->text[id] + skip, l->len[id] - skip, err));
    VP_TRY(vp_vocab_set(&t->vocab, id, scratch->data, scratch->len, err));
    if (scratch->len == 0) return VP_OK;
    if (starts || whole) return vp_words_add(&t->words, (int32_t)id, err);
    return scratch->len > 2 ? vp_words_add(&t->continuing, (int32_t)id, err) : VP_OK;
}

static int load_bert(const loader *l, vp_error *err) {
    vp_tokenizer *t = l->t;
    t->model = VP_TOKENS_WORDPIECE;
    t->max_word = 100;
    VP_TRY(vp_norms_push_bert(&t->norms, true, true, true, true, err));
    VP_TRY(vp_cuts_push_bert(&t->cuts, err));
    VP_TRY(vp_words_begin(&t->words, &t->vocab, (size_t)l->n, 0, err));
    VP_TRY(vp_words_begin(&t->continuing, &t->vocab, (size_t)l->n, 2, err));
    vp_buf scratch = {0};
    int status = VP_OK;
    for (int64_t i = 0; !status && i < l->n; i++) status = set_piece(l, i, &scratch, err);
    vp_buf_free(&scratch);
    VP_TRY(status);
    VP_TRY(take_id(l, "tokenizer.ggml.unknown_token_id", &t->unk, err));
    if (t->unk < 0) return data(l, err, "no tokenizer.ggml.unknown_token_id", "", 0);
    VP_TRY(take_id(l, "tokenizer.ggml.bos_token_id", &t->bos, err));
    VP_TRY(take_id(l, "tokenizer.ggml.cls_token_id", &t->bos, err));
    VP_TRY(take_id(l, "tokenizer.ggml.eos_token_id", &t->eos, err));
    VP_TRY(take_id(l, "tokenizer.ggml.seperator_token_id", &t->eos, err)); /* spelled so in the format */
    if (t->bos >= 0) VP_TRY(vp_template_put(&t->around, true, t->bos, err));
    return t->eos >= 0 ? vp_template_put(&t->around, false, t->eos, err) : VP_OK;
}

/* ---- llama ---- */
typedef struct scored {
    float score;
    int32_t id;
} scored;

static int by_score(const void *a, const void *b) {
    const scored *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Every way to make token `id` of two tokens; counts them, and adds them when `rank` is not NULL. */
static size_t splits(vp_tokenizer *t, int32_t id, const uint32_t *rank) {
    size_t n, count = 0;
    const char *s = vp_vocab_text(&t->vocab, id, &n);
    for (size_t at = 1; at < n; at++) {
        if (((unsigned char)s[at] & 0xC0) == 0x80) continue;
        int32_t left = vp_words_find(&t->words, s, at);
        int32_t right = left < 0 ? -1 : vp_words_find(&t->words, s + at, n - at);
        if (right < 0) continue;
        count++;
        if (rank) vp_merges_add(&t->merges, left, right, *rank, id);
    }
    return count;
}

/* SentencePiece merges the pair whose joint token has the highest score, the leftmost of equals: a rank by score. */
static int merges_by_score(const loader *l, const float *score, vp_error *err) {
    scored *order = calloc((size_t)l->n + 1, sizeof *order);
    if (!order) return vp_fail_memory(err, "scores", (size_t)l->n * sizeof *order);
    size_t n = 0, total = 0;
    for (int64_t i = 0; i < l->n; i++) {
        if (type_of(l, i) != VP_TOKEN_NORMAL && type_of(l, i) != VP_TOKEN_USER_DEFINED) continue;
        order[n++] = (scored){score[i], (int32_t)i};
        total += splits(l->t, (int32_t)i, NULL);
    }
    qsort(order, n, sizeof *order, by_score);
    int status = vp_merges_begin(&l->t->merges, total, err);
    uint32_t rank = 0;
    for (size_t i = 0; !status && i < n; i++) {
        if (i && order[i].score < order[i - 1].score) rank++;
        splits(l->t, order[i].id, &rank);
    }
    free(order);
    return status;
}

static int load_llama(const loader *l, vp_error *err) {
    vp_tokenizer *t = l->t;
    for (int64_t i = 0; i < l->n; i++) /* the search for merges takes the square of a token's length */
        if (l->len[i] > LONGEST_PIECE) return data(l, err, "a token of more than 1024 bytes: ", l->text[i], l->len[i]);
    t->byte_fallback = t->fuse_unk = true;
    if (vp_gguf_int(l->file, "tokenizer.ggml.add_space_prefix", 1))
        VP_TRY(vp_norms_push_text(&t->norms, VP_NORM_PREPEND, MARK, err));
    VP_TRY(vp_norms_push_text(&t->norms, VP_NORM_REPLACE, MARK, err));
    VP_TRY(vp_pattern_literal(&t->norms.step[t->norms.n - 1].pattern, " ", 1, err));
    for (int64_t i = 0; i < l->n; i++) VP_TRY(vp_tokenizer_set_token(t, i, l->text[i], l->len[i], err));
    VP_TRY(vp_tokenizer_index_bpe(t, err));
    VP_TRY(take_id(l, "tokenizer.ggml.unknown_token_id", &t->unk, err));
    float *score;
    int64_t n;
    VP_TRY(vp_gguf_reals(l->file, "tokenizer.ggml.scores", &score, &n, err));
    bool fits = score && n == l->n;
    for (int64_t i = 0; fits && i < n; i++) fits = isfinite(score[i]);
    int status = fits ? merges_by_score(l, score, err)
                      : data(l, err, "tokenizer.ggml.scores does not fit the tokens, or is not finite", "", 0);
    free(score);
    VP_TRY(status);
    return load_template(l, true, false, err);
}

/* ---- the whole ---- */
static int load_all(loader *l, vp_error *err) {
    const char *model, *pre = "";
    size_t n, npre = 0;
    if (!vp_gguf_str(l->file, "tokenizer.ggml.model", &model, &n))
        return data(l, err, "no tokenizer.ggml.model", "", 0);
    VP_TRY(load_tokens(l, err));
    if (n == 4 && memcmp(model, "gpt2", n) == 0)
        VP_TRY(load_gpt2(l, err));
    else if (n == 4 && memcmp(model, "bert", n) == 0)
        VP_TRY(load_bert(l, err));
    else if (n == 5 && memcmp(model, "llama", n) == 0)
        VP_TRY(load_llama(l, err));
    else
        return data(l, err, "tokenizer.ggml.model is not supported: ", model, n);
    VP_TRY(take_id(l, "tokenizer.ggml.mask_token_id", &l->t->mask, err));
    VP_TRY(load_added(l, err));
    vp_gguf_str(l->file, "tokenizer.ggml.pre", &pre, &npre);
    vp_buf settings = {0};
    int status = vp_buf_printf(&settings, err, "gguf %.*s %.*s", (int)n, model, (int)npre, pre);
    if (!status && l->type) status = vp_buf_add(&settings, l->type, (size_t)l->n * sizeof *l->type, err);
    if (!status) status = vp_tokenizer_seal(l->t, settings.data, settings.len, err);
    vp_buf_free(&settings);
    return status;
}

int vp_tokenizer_load_gguf(vp_tokenizer *t, const char *path, vp_error *err) {
    loader l = {.t = t};
    VP_TRY(vp_gguf_open(&l.file, path, err));
    int status = load_all(&l, err);
    free(l.text);
    free(l.len);
    free(l.type);
    vp_gguf_close(l.file);
    return status;
}
