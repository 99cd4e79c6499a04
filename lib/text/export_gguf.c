/* GGUF's byte-level BPE tokenizers as tokenizer.json: vocabulary and merges as they are spelled, cuts by name, special
 * tokens by type. SentencePiece and WordPiece vocabularies lose their own rules in GGUF and are not written. */
#include "lib/text/load.h"
#include "lib/text/text.h"
#include <stdlib.h>
#include <string.h>

typedef struct exporter {
    vp_gguf *file;
    const vp_gguf_cuts *cuts;
    const char **text, **merge;
    size_t *len, *merge_len;
    int64_t *type; /* NULL: all normal */
    int64_t n, merges, types;
} exporter;

static json_t *token(const exporter *x, int64_t id) {
    return json_stringn(x->text[id], x->len[id]);
}

/* The id under a key, or -1. */
static int64_t id_of(const exporter *x, const char *key) {
    int64_t id = vp_gguf_int(x->file, key, -1);
    return id < x->n ? id : -1;
}

static int read_tables(exporter *x, vp_error *err) {
    const char *path = vp_gguf_path(x->file);
    VP_TRY(vp_gguf_cuts_find(x->file, &x->cuts, err));
    VP_TRY(vp_gguf_strings(x->file, "tokenizer.ggml.tokens", &x->text, &x->len, &x->n, err));
    VP_TRY(vp_gguf_strings(x->file, "tokenizer.ggml.merges", &x->merge, &x->merge_len, &x->merges, err));
    VP_TRY(vp_gguf_ints(x->file, "tokenizer.ggml.token_type", &x->type, &x->types, err));
    if (!x->text || !x->merge) return vp_fail(err, VP_DATA, "%s: no tokenizer.ggml.tokens or merges", path);
    if (x->type && x->types != x->n)
        return vp_fail(err, VP_DATA, "%s: tokenizer.ggml.token_type of another length than tokens", path);
    return VP_OK;
}

/* ---- sections; NULL: out of memory, or text that is not UTF-8 ---- */

static json_t *vocabulary(const exporter *x) {
    json_t *o = json_object();
    bool ok = o != NULL;
    for (int64_t i = 0; ok && i < x->n; i++) ok = !json_object_setn_new(o, x->text[i], x->len[i], json_integer(i));
    if (ok && json_object_size(o) == (size_t)x->n) return o;
    json_decref(o);
    return NULL;
}

static json_t *merges(const exporter *x) {
    json_t *a = json_array();
    bool ok = a != NULL;
    for (int64_t i = 0; ok && i < x->merges; i++)
        ok = !json_array_append_new(a, json_stringn(x->merge[i], x->merge_len[i]));
    if (ok) return a;
    json_decref(a);
    return NULL;
}

static json_t *model(const exporter *x) {
    json_t *vocab = vocabulary(x), *list = vocab ? merges(x) : NULL;
    if (!list) {
        json_decref(vocab);
        return NULL;
    }
    return json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                     "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                     "ignore_merges", (int)x->cuts->ignore_merges, "vocab", vocab, "merges", list);
}

static json_t *added_tokens(const exporter *x) {
    json_t *a = json_array();
    bool ok = a != NULL;
    for (int64_t i = 0; ok && x->type && i < x->n; i++) {
        if (x->type[i] < VP_TOKEN_UNKNOWN || x->type[i] > VP_TOKEN_USER_DEFINED || x->len[i] == 0) continue;
        ok = !json_array_append_new(a, json_pack("{s:I, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i, "content",
                                                 token(x, i), "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized",
                                                 0, "special", x->type[i] != VP_TOKEN_USER_DEFINED));
    }
    if (ok) return a;
    json_decref(a);
    return NULL;
}

static json_t *byte_level(void) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex",
                     0);
}

static json_t *pre_tokenizer(const exporter *x) {
    json_t *steps = json_array();
    bool ok = steps != NULL;
    for (int i = 0; ok && i < VP_GGUF_CUTS && x->cuts->regex[i]; i++)
        ok = !json_array_append_new(steps, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
                                                     x->cuts->regex[i], "behavior", "Isolated", "invert", 0));
    ok = ok && !json_array_append_new(steps, byte_level());
    if (ok) return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps);
    json_decref(steps);
    return NULL;
}

/* BOS and EOS around the text, where the file (or the kind of tokenizer) wants them; else null. */
static json_t *post_processor(const exporter *x) {
    static const char *const key[2][2] = {{"tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id"},
                                          {"tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id"}};
    json_t *single = json_array(), *special = json_object(), *text = NULL;
    bool ok = single && special;
    for (int i = 0; ok && i < 2; i++) {
        int64_t id = id_of(x, key[i][1]);
        if (i == 1)
            ok = !json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
        if (!ok || id < 0 || !vp_gguf_int(x->file, key[i][0], i == 0 && x->cuts->add_bos)) continue;
        text = token(x, id);
        ok = text &&
             !json_array_append_new(single, json_pack("{s:{s:O, s:i}}", "SpecialToken", "id", text, "type_id", 0)) &&
             !json_object_setn_new(special, x->text[id], x->len[id],
                                   json_pack("{s:O, s:[I], s:[O]}", "id", text, "ids", (json_int_t)id, "tokens", text));
        json_decref(text);
    }
    json_t *out = !ok ? NULL
                  : json_object_size(special) == 0
                      ? json_null()
                      : json_pack("{s:s, s:O, s:O, s:O}", "type", "TemplateProcessing", "single", single, "pair",
                                  single, "special_tokens", special);
    json_decref(single);
    json_decref(special);
    return out;
}

/* ---- files ---- */

static int write_json(const exporter *x, const char *folder, const char *name, json_t *root, vp_error *err) {
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (!text)
        return vp_fail(err, VP_DATA, "%s: its tokenizer cannot be written: a token twice, or not UTF-8",
                       vp_gguf_path(x->file));
    int status = vp_write_file(folder, name, text, strlen(text), err);
    free(text);
    return status;
}

static json_t *tokenizer(const exporter *x) {
    json_t *root = json_pack("{s:s, s:n, s:n}", "version", "1.0", "truncation", "padding");
    bool ok = root && !json_object_set_new(root, "added_tokens", added_tokens(x)) &&
              !json_object_set_new(root, "normalizer", json_null()) &&
              !json_object_set_new(root, "pre_tokenizer", pre_tokenizer(x)) &&
              !json_object_set_new(root, "post_processor", post_processor(x)) &&
              !json_object_set_new(root, "decoder", byte_level()) && !json_object_set_new(root, "model", model(x));
    if (ok) return root;
    json_decref(root);
    return NULL;
}

static json_t *settings(const exporter *x) {
    static const char *const ids[][2] = {{"bos_token", "tokenizer.ggml.bos_token_id"},
                                         {"eos_token", "tokenizer.ggml.eos_token_id"},
                                         {"unk_token", "tokenizer.ggml.unknown_token_id"},
                                         {"pad_token", "tokenizer.ggml.padding_token_id"}};
    /* the class would add token_type_ids, which decoders refuse */
    json_t *root = json_pack("{s:s, s:b, s:[s,s]}", "tokenizer_class", "PreTrainedTokenizerFast",
                             "clean_up_tokenization_spaces", 0, "model_input_names", "input_ids", "attention_mask");
    bool ok = root != NULL;
    for (size_t i = 0; ok && i < sizeof ids / sizeof *ids; i++) {
        int64_t id = id_of(x, ids[i][1]);
        if (id >= 0) ok = !json_object_set_new(root, ids[i][0], token(x, id));
    }
    const char *chat;
    size_t n;
    if (ok && vp_gguf_str(x->file, "tokenizer.chat_template", &chat, &n))
        ok = !json_object_set_new(root, "chat_template", json_stringn(chat, n));
    if (ok) return root;
    json_decref(root);
    return NULL;
}

static int export_all(exporter *x, const char *folder, bool *written, vp_error *err) {
    const char *kind;
    size_t n;
    if (!vp_gguf_str(x->file, "tokenizer.ggml.model", &kind, &n) || n != 4 || memcmp(kind, "gpt2", n) != 0)
        return VP_OK;
    VP_TRY(read_tables(x, err));
    VP_TRY(write_json(x, folder, "tokenizer.json", tokenizer(x), err));
    VP_TRY(write_json(x, folder, "tokenizer_config.json", settings(x), err));
    *written = true;
    return VP_OK;
}

int vp_tokenizer_export(const char *gguf, const char *folder, bool *written, vp_error *err) {
    exporter x = {0};
    *written = false;
    VP_TRY(vp_gguf_open(&x.file, gguf, err));
    int status = export_all(&x, folder, written, err);
    free(x.text);
    free(x.len);
    free(x.merge);
    free(x.merge_len);
    free(x.type);
    vp_gguf_close(x.file);
    return status;
}
