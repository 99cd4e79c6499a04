/* tokenizer.json of the tokenizers library, with the tokenizer_config.json beside it: model and added tokens. */
#include "lib/text/load.h"
#include <stdlib.h>
#include <string.h>

/* What the loader holds while it works. */
typedef struct loader {
    vp_tokenizer *t;
    vp_json file;
    const json_t *model, *vocab, *added; /* added may be NULL */
} loader;

static int data(const loader *l, vp_error *err, const char *what, const char *which) {
    return vp_fail(err, VP_DATA, "%s: %s%s", l->file.path, what, which);
}

/* The id of a token by its text in the file, -1: none. */
static int64_t id_of(const loader *l, const char *text) {
    int64_t id = vp_json_token_id(json_object_get(l->vocab, text));
    const json_t *item;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)l->added, i, item) {
        if (id >= 0) break;
        const char *content = json_string_value(json_object_get(item, "content"));
        if (content && strcmp(content, text) == 0) id = vp_json_token_id(json_object_get(item, "id"));
    }
    return id;
}

/* The largest id of all, which must all be ids. */
static int largest_id(const loader *l, int64_t *largest, vp_error *err) {
    const char *text;
    const json_t *value, *item;
    size_t i;
    *largest = -1;
    json_object_foreach((json_t *)(uintptr_t)l->vocab, text, value) {
        int64_t id = vp_json_token_id(value);
        if (id < 0) return data(l, err, "no id for token ", text);
        if (id > *largest) *largest = id;
    }
    json_array_foreach((json_t *)(uintptr_t)l->added, i, item) {
        int64_t id = vp_json_token_id(json_object_get(item, "id"));
        if (id < 0 || !json_is_string(json_object_get(item, "content")))
            return data(l, err, "an added token without id or content", "");
        if (id > *largest) *largest = id;
    }
    return VP_OK;
}

static int load_vocab(const loader *l, vp_error *err) {
    int64_t largest;
    const char *text;
    const json_t *id;
    VP_TRY(largest_id(l, &largest, err));
    VP_TRY(vp_vocab_begin(&l->t->vocab, largest + 1, err));
    json_object_foreach((json_t *)(uintptr_t)l->vocab, text, id)
        VP_TRY(vp_tokenizer_set_token(l->t, vp_json_token_id(id), text, strlen(text), err));
    return VP_OK;
}

/* ---- added tokens ---- */
/* The text of a token that is looked for in the normalised text, as the normaliser leaves it. */
static int normalized_content(const vp_tokenizer *t, const char *s, vp_buf *out, vp_error *err) {
    vp_workspace w = {0};
    vp_aligned_borrow(&w.text, s, strlen(s), 0);
    int status = vp_normalize(&t->norms, &w, err);
    out->len = 0;
    if (!status) status = vp_buf_add(out, w.text.s, w.text.n, err);
    vp_workspace_free(&w);
    return status;
}

static int load_added_token(const loader *l, const json_t *item, vp_buf *scratch, vp_error *err) {
    vp_tokenizer *t = l->t;
    const char *content = json_string_value(json_object_get(item, "content"));
    int64_t id = vp_json_token_id(json_object_get(item, "id"));
    const json_t *known = json_object_get(l->vocab, content);
    if (known && vp_json_token_id(known) != id)
        return vp_fail(err, VP_DATA, "%s: added token '%s' has id %lld, and %lld in the vocabulary", l->file.path,
                       content, (long long)id, (long long)vp_json_token_id(known));
    if (!known) VP_TRY(vp_vocab_set(&t->vocab, id, content, strlen(content), err));
    vp_added_token token = {.id = (int32_t)id};
    VP_TRY(vp_json_bool(&l->file, item, "special", &token.special, err));
    bool normalized = !token.special;
    VP_TRY(vp_json_bool(&l->file, item, "normalized", &normalized, err));
    VP_TRY(vp_json_bool(&l->file, item, "single_word", &token.single_word, err));
    VP_TRY(vp_json_bool(&l->file, item, "lstrip", &token.lstrip, err));
    VP_TRY(vp_json_bool(&l->file, item, "rstrip", &token.rstrip, err));
    if (!normalized) return vp_added_add(&t->raw, &token, content, strlen(content), err);
    VP_TRY(normalized_content(t, content, scratch, err));
    return vp_added_add(&t->normalized, &token, scratch->data, scratch->len, err);
}

static int load_added(const loader *l, vp_error *err) {
    size_t n = json_array_size(l->added), i;
    const json_t *item;
    vp_buf scratch = {0};
    VP_TRY(vp_added_begin(&l->t->raw, n, err));
    VP_TRY(vp_added_begin(&l->t->normalized, n, err));
    int status = VP_OK;
    json_array_foreach((json_t *)(uintptr_t)l->added, i, item) {
        status = load_added_token(l, item, &scratch, err);
        if (status) break;
    }
    vp_buf_free(&scratch);
    VP_TRY(status);
    VP_TRY(vp_added_finish(&l->t->raw, err));
    return vp_added_finish(&l->t->normalized, err);
}

/* ---- models ---- */
static int load_unknown(const loader *l, const char *fallback, vp_error *err) {
    const char *unk = fallback;
    VP_TRY(vp_json_str(&l->file, l->model, "unk_token", &unk, err));
    if (!unk) return VP_OK;
    int64_t id = id_of(l, unk);
    if (id < 0) return data(l, err, "the unknown token is not in the vocabulary: ", unk);
    l->t->unk = (int32_t)id;
    return VP_OK;
}

/* "a b" or ["a", "b"] */
static int load_merge(const loader *l, uint32_t rank, const json_t *merge, vp_error *err) {
    const char *left, *right;
    size_t nleft, nright;
    if (json_is_string(merge)) {
        left = json_string_value(merge);
        const char *space = strchr(left, ' ');
        if (!space || strchr(space + 1, ' ')) return data(l, err, "a merge that is not two tokens: ", left);
        nleft = (size_t)(space - left);
        right = space + 1;
        nright = strlen(right);
    } else {
        left = json_string_value(json_array_get(merge, 0));
        right = json_string_value(json_array_get(merge, 1));
        if (!left || !right || json_array_size(merge) != 2) return data(l, err, "a merge that is not two tokens", "");
        nleft = strlen(left);
        nright = strlen(right);
    }
    return vp_tokenizer_add_merge(l->t, rank, left, nleft, right, nright, err);
}

static int load_bpe(const loader *l, vp_error *err) {
    vp_tokenizer *t = l->t;
    static const char *const refused[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const json_t *v = json_object_get(l->model, refused[i]);
        bool zero = json_is_number(v) && !(json_number_value(v) > 0 || json_number_value(v) < 0);
        if (!zero && vp_json_says(l->model, refused[i]))
            return data(l, err, "not supported in a BPE model: ", refused[i]);
    }
    VP_TRY(vp_json_bool(&l->file, l->model, "byte_fallback", &t->byte_fallback, err));
    VP_TRY(vp_json_bool(&l->file, l->model, "fuse_unk", &t->fuse_unk, err));
    VP_TRY(vp_json_bool(&l->file, l->model, "ignore_merges", &t->ignore_merges, err));
    if (t->byte_fallback && t->byte_level) return data(l, err, "byte_fallback with a ByteLevel pre_tokenizer", "");
    VP_TRY(load_unknown(l, NULL, err));
    VP_TRY(load_vocab(l, err));
    VP_TRY(vp_tokenizer_index_bpe(t, err));
    const json_t *merges = json_object_get(l->model, "merges"), *merge;
    if (!json_is_array(merges)) return data(l, err, "a BPE model without merges", "");
    VP_TRY(vp_merges_begin(&t->merges, json_array_size(merges), err));
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)merges, i, merge) VP_TRY(load_merge(l, (uint32_t)i, merge, err));
    return VP_OK;
}

static int load_wordpiece(const loader *l, vp_error *err) {
    vp_tokenizer *t = l->t;
    const char *prefix = "##";
    int64_t max_word = 100;
    if (t->byte_level) return data(l, err, "a WordPiece model with a ByteLevel pre_tokenizer", "");
    t->model = VP_TOKENS_WORDPIECE;
    VP_TRY(vp_json_str(&l->file, l->model, "continuing_subword_prefix", &prefix, err));
    VP_TRY(vp_json_int(&l->file, l->model, "max_input_chars_per_word", &max_word, err));
    if (max_word < 1 || max_word > 1 << 20) return data(l, err, "max_input_chars_per_word out of range", "");
    t->max_word = (size_t)max_word;
    VP_TRY(load_unknown(l, "[UNK]", err));
    VP_TRY(load_vocab(l, err));
    size_t skip = strlen(prefix), count = (size_t)t->vocab.n;
    VP_TRY(vp_words_begin(&t->words, &t->vocab, count, 0, err));
    VP_TRY(vp_words_begin(&t->continuing, &t->vocab, count, skip, err));
    for (int32_t id = 0; id < t->vocab.n; id++) {
        size_t n;
        const char *s = vp_vocab_text(&t->vocab, id, &n);
        if (!s || n == 0) continue;
        VP_TRY(vp_words_add(&t->words, id, err));
        if (n > skip && memcmp(s, prefix, skip) == 0) VP_TRY(vp_words_add(&t->continuing, id, err));
    }
    return VP_OK;
}

static int load_model(const loader *l, vp_error *err) {
    const char *type = json_object_get(l->model, "merges") ? "BPE" : "WordPiece"; /* old files do not say */
    VP_TRY(vp_json_str(&l->file, l->model, "type", &type, err));
    if (!json_is_object(l->vocab)) return data(l, err, "no vocabulary in a model of type ", type);
    if (strcmp(type, "BPE") == 0) return load_bpe(l, err);
    if (strcmp(type, "WordPiece") == 0) return load_wordpiece(l, err);
    return data(l, err, "not supported: a model of type ", type);
}

/* ---- tokenizer_config.json ---- */
/* "x_token": a string, or an object with its content. *id stays when there is none. */
static void named_token(const loader *l, const json_t *config, const char *key, int32_t *id) {
    const json_t *v = json_object_get(config, key);
    const char *text = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
    int64_t found = text ? id_of(l, text) : -1;
    if (found >= 0 && found < l->t->vocab.n) *id = (int32_t)found;
}

/* LLaMA's tokenizer classes make the template anew from these two switches. */
static int switched_template(const loader *l, const vp_json *config, vp_error *err) {
    static const char *const classes[] = {"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer",
                                          "CodeLlamaTokenizerFast"};
    const char *name = "";
    VP_TRY(vp_json_str(config, config->root, "tokenizer_class", &name, err));
    bool ours = false, bos = true, eos = false;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) ours = ours || strcmp(name, classes[i]) == 0;
    if (!ours || !(json_object_get(config->root, "add_bos_token") || json_object_get(config->root, "add_eos_token")))
        return VP_OK;
    VP_TRY(vp_json_bool(config, config->root, "add_bos_token", &bos, err));
    VP_TRY(vp_json_bool(config, config->root, "add_eos_token", &eos, err));
    l->t->around = (vp_template){0};
    if (bos && l->t->bos >= 0) VP_TRY(vp_template_put(&l->t->around, true, l->t->bos, err));
    return eos && l->t->eos >= 0 ? vp_template_put(&l->t->around, false, l->t->eos, err) : VP_OK;
}

static int load_config(const loader *l, const char *folder, vp_error *err) {
    vp_json config;
    VP_TRY(vp_json_open_optional(&config, folder, "tokenizer_config.json", JSON_OBJECT, err));
    int status = VP_OK;
    if (config.root) {
        named_token(l, config.root, "cls_token", &l->t->bos);
        named_token(l, config.root, "sep_token", &l->t->eos);
        named_token(l, config.root, "bos_token", &l->t->bos);
        named_token(l, config.root, "eos_token", &l->t->eos);
        named_token(l, config.root, "mask_token", &l->t->mask);
        status = switched_template(l, &config, err);
    }
    vp_json_close(&config);
    return status;
}

/* ---- the whole ---- */
/* Everything that decides but the tables and the template, which are hashed as they are. */
static int seal(const loader *l, vp_error *err) {
    static const char *const sections[] = {"normalizer", "pre_tokenizer", "added_tokens"};
    json_t *model = json_copy((json_t *)(uintptr_t)l->model), *all = json_object();
    int failed = !model || !all;
    for (size_t i = 0; !failed && i < sizeof sections / sizeof *sections; i++)
        failed = json_object_set(all, sections[i], json_object_get(l->file.root, sections[i])) != 0 &&
                 json_object_get(l->file.root, sections[i]) != NULL;
    if (model) {
        json_object_del(model, "vocab");
        json_object_del(model, "merges");
    }
    if (!failed) failed = json_object_set(all, "model", model);
    char *text = failed ? NULL : json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS);
    int status = text ? vp_tokenizer_seal(l->t, text, strlen(text), err) : vp_fail_memory(err, "a tokenizer", 4096);
    free(text);
    json_decref(model);
    json_decref(all);
    return status;
}

static int load_sections(loader *l, const char *folder, vp_error *err) {
    vp_tokenizer *t = l->t;
    const json_t *root = l->file.root;
    l->model = json_object_get(root, "model");
    l->vocab = json_object_get(l->model, "vocab");
    l->added = json_object_get(root, "added_tokens");
    if (!json_is_object(l->model)) return data(l, err, "no model", "");
    VP_TRY(vp_load_normalizer(&l->file, json_object_get(root, "normalizer"), &t->norms, err));
    VP_TRY(vp_load_pre_tokenizer(&l->file, json_object_get(root, "pre_tokenizer"), &t->cuts, &t->byte_level, &t->norms,
                                 err));
    VP_TRY(load_model(l, err));
    VP_TRY(load_added(l, err));
    VP_TRY(vp_load_post_processor(&l->file, json_object_get(root, "post_processor"), &t->around, err));
    VP_TRY(load_config(l, folder, err));
    return seal(l, err);
}

int vp_tokenizer_load_json(vp_tokenizer *t, const char *folder, const char *name, vp_error *err) {
    loader l = {.t = t};
    VP_TRY(vp_json_open(&l.file, folder, name, JSON_OBJECT, err));
    int status = load_sections(&l, folder, err);
    vp_json_close(&l.file);
    return status;
}
