/* What a model's own files decide for the pipe: sentence-transformers, LLM2Vec, GGUF, and a stream's header. */
#include "lib/model/settings.h"
#include "lib/model/config.h"
#include "lib/model/projection.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int vp_settings_set(char **field, const char *value, vp_error *err) {
    char *copy = vp_strndup(value, strlen(value));
    if (!copy) return vp_fail_memory(err, "a setting", strlen(value));
    free(*field);
    *field = copy;
    return VP_OK;
}

int vp_settings_default(vp_settings *s, const vp_config *c, vp_error *err) {
    /* decoders see the instruction and do not pool it, encoders' prefixes are pooled with the text */
    *s = (vp_settings){.normalize = 1, .prompt_pooled = !c->causal, .max_len = c->positions < 512 ? c->positions : 512};
    VP_TRY(vp_settings_set(&s->attention, c->causal ? "causal" : "bi", err));
    VP_TRY(vp_settings_set(&s->pooling, c->causal ? "weighted_mean" : "mean", err));
    VP_TRY(vp_settings_set(&s->query_prefix, "", err));
    return vp_settings_set(&s->document_prefix, "", err);
}

void vp_settings_free(vp_settings *s) {
    free(s->attention);
    free(s->pooling);
    free(s->query_prefix);
    free(s->document_prefix);
    free(s->chat);
    for (int i = 0; i < 2; i++) free(s->base_name[i]);
    *s = (vp_settings){0};
}

/* ---- sentence-transformers ---- */

typedef enum module_kind { MODULE_TRANSFORMER, MODULE_POOLING, MODULE_NORMALIZE, MODULE_DENSE } module_kind;

static int module_of(const vp_json *j, size_t i, module_kind *kind, const char **path, vp_error *err) {
    static const char *const kinds[] = {"Transformer", "Pooling", "Normalize", "Dense"};
    const json_t *module = json_array_get(j->root, i);
    if (!json_is_object(module)) return vp_fail(err, VP_DATA, "%s: element %zu is not an object", j->path, i);
    const char *type = "";
    *path = "";
    VP_TRY(vp_json_str(j, module, "type", &type, err));
    VP_TRY(vp_json_str(j, module, "path", path, err));
    const char *dot = strrchr(type, '.');
    for (int k = 0; k < 4; k++) {
        if (strcmp(dot ? dot + 1 : type, kinds[k])) continue;
        *kind = (module_kind)k;
        if (strchr(*path, '/') || !strcmp(*path, "..")) break; /* names lie inside the folder */
        if (k == MODULE_DENSE && (i != 2 || strcmp(*path, VP_PROJECTION_FOLDER))) break; /* behind the pooling alone */
        return VP_OK;
    }
    return vp_fail(err, VP_DATA, "%s: module \"%s\" (%s) is not supported", j->path, type, *path);
}

int vp_settings_transformer(const char *folder, char **out, vp_error *err) {
    vp_json j;
    VP_TRY(vp_json_open_optional(&j, folder, "modules.json", JSON_ARRAY, err));
    module_kind kind = MODULE_TRANSFORMER;
    const char *path = "";
    int status = VP_OK;
    if (j.root) status = module_of(&j, 0, &kind, &path, err);
    if (!status && kind != MODULE_TRANSFORMER)
        status = vp_fail(err, VP_DATA, "%s: the first module is not a Transformer", j.path);
    if (!status) status = vp_path_join(out, folder, path, err);
    vp_json_close(&j);
    return status;
}

static int pooling_mode(const vp_json *j, const char **mode, vp_error *err) {
    static const char *const old[][2] = {
        {"pooling_mode_cls_token", "cls"},
        {"pooling_mode_max_tokens", "max"},
        {"pooling_mode_mean_tokens", "mean"},
        {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"},
        {"pooling_mode_weightedmean_tokens", "weightedmean"},
        {"pooling_mode_lasttoken", "lasttoken"},
    };
    *mode = NULL;
    const json_t *value = json_object_get(j->root, "pooling_mode");
    if (json_is_array(value) && json_array_size(value) == 1) value = json_array_get(value, 0);
    if (value && !json_is_string(value)) return vp_fail(err, VP_DATA, "%s: more than one pooling_mode", j->path);
    if (value) *mode = json_string_value(value);
    for (size_t i = 0; !value && i < sizeof old / sizeof *old; i++) {
        if (!vp_json_says(j->root, old[i][0])) continue;
        if (*mode) return vp_fail(err, VP_DATA, "%s: %s and %s together are not supported", j->path, *mode, old[i][1]);
        *mode = old[i][1];
    }
    if (!*mode) *mode = "mean";
    return VP_OK;
}

static int read_pooling(vp_settings *s, const char *folder, const char *path, vp_error *err) {
    static const char *const names[][2] = {
        {"cls", "cls"}, {"mean", "mean"}, {"weightedmean", "weighted_mean"}, {"lasttoken", "last"}};
    char *at;
    VP_TRY(vp_path_join(&at, folder, path, err));
    vp_json j;
    int status = vp_json_open(&j, at, "config.json", JSON_OBJECT, err);
    free(at);
    if (status) return status;
    const char *mode = NULL, *ours = NULL;
    bool prompt = true;
    status = pooling_mode(&j, &mode, err);
    if (!status) status = vp_json_bool(&j, j.root, "include_prompt", &prompt, err);
    for (size_t i = 0; !status && i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i][0], mode)) ours = names[i][1];
    if (!status && !ours) status = vp_fail(err, VP_DATA, "%s: pooling mode \"%s\" is not supported", j.path, mode);
    if (!status) status = vp_settings_set(&s->pooling, ours, err);
    s->prompt_pooled = prompt;
    vp_json_close(&j);
    return status;
}

/* sentence_bert_config.json's length, else the tokenizer's, both beside the transformer's config. */
static int read_length(vp_settings *s, const vp_json *bert, const vp_json *tokenizer, const vp_config *c,
                       vp_error *err) {
    bool lower = false, lowers = false;
    double length = (double)s->max_len, tokens = 0;
    if (tokenizer->root) {
        VP_TRY(vp_json_real(tokenizer, tokenizer->root, "model_max_length", &tokens, err));
        VP_TRY(vp_json_bool(tokenizer, tokenizer->root, "do_lower_case", &lowers, err));
        if (tokens > 0) length = tokens;
    }
    if (bert->root) {
        VP_TRY(vp_json_real(bert, bert->root, "max_seq_length", &length, err));
        VP_TRY(vp_json_bool(bert, bert->root, "do_lower_case", &lower, err));
    }
    if (lower && !lowers)
        return vp_fail(err, VP_DATA, "%s: do_lower_case, which the tokenizer does not do, is not supported",
                       bert->path);
    if (!(length >= 1)) return vp_fail(err, VP_DATA, "%s: a maximum length of %g", bert->path, length);
    s->max_len = length < (double)c->positions ? (int64_t)length : c->positions;
    return VP_OK;
}

static int read_lengths(vp_settings *s, const char *transformer, const vp_config *c, vp_error *err) {
    vp_json bert, tokenizer = {0};
    VP_TRY(vp_json_open_optional(&bert, transformer, "sentence_bert_config.json", JSON_OBJECT, err));
    int status = vp_json_open_optional(&tokenizer, transformer, "tokenizer_config.json", JSON_OBJECT, err);
    if (!status) status = read_length(s, &bert, &tokenizer, c, err);
    vp_json_close(&tokenizer);
    vp_json_close(&bert);
    return status;
}

/* The first of the named prompts that exists, else the default one. */
static int read_prompt(char **field, const vp_json *j, const char *const *names, vp_error *err) {
    const char *fallback = NULL, *text = NULL;
    const json_t *prompts = json_object_get(j->root, "prompts");
    if (!vp_json_says(j->root, "prompts")) return VP_OK;
    if (!json_is_object(prompts)) return vp_fail(err, VP_DATA, "%s: \"prompts\" is not an object", j->path);
    VP_TRY(vp_json_str(j, j->root, "default_prompt_name", &fallback, err));
    for (; *names && !text; names++) VP_TRY(vp_json_str(j, prompts, *names, &text, err));
    if (!text && fallback) VP_TRY(vp_json_str(j, prompts, fallback, &text, err));
    return vp_settings_set(field, text ? text : "", err);
}

static int read_prompts(vp_settings *s, const char *folder, vp_error *err) {
    static const char *const query[] = {"query", NULL}, *const document[] = {"document", "passage", "corpus", NULL};
    vp_json j;
    VP_TRY(vp_json_open_optional(&j, folder, "config_sentence_transformers.json", JSON_OBJECT, err));
    if (!j.root) return VP_OK;
    int status = read_prompt(&s->query_prefix, &j, query, err);
    if (!status) status = read_prompt(&s->document_prefix, &j, document, err);
    vp_json_close(&j);
    return status;
}

static int read_dense(vp_settings *s, const char *folder, const vp_config *c, vp_error *err) {
    vp_projection_file f;
    if (!vp_projection_exists(folder))
        return vp_fail(err, VP_DATA, "%s/" VP_PROJECTION_FOLDER ": no model.safetensors", folder);
    const int status = vp_projection_open(&f, folder, c->width, err);
    s->projection = f.dims;
    vp_projection_close(&f);
    return status;
}

static int read_modules(vp_settings *s, const char *folder, const vp_config *c, const vp_json *j, vp_error *err) {
    s->normalize = 0; /* unless a module does it */
    VP_TRY(vp_settings_set(&s->pooling, "mean", err));
    for (size_t i = 0; i < json_array_size(j->root); i++) {
        module_kind kind;
        const char *path;
        VP_TRY(module_of(j, i, &kind, &path, err));
        if (kind == MODULE_POOLING) VP_TRY(read_pooling(s, folder, path, err));
        if (kind == MODULE_NORMALIZE) s->normalize = 1;
        if (kind == MODULE_DENSE) VP_TRY(read_dense(s, folder, c, err));
    }
    char *transformer;
    VP_TRY(vp_settings_transformer(folder, &transformer, err));
    int status = read_lengths(s, transformer, c, err);
    free(transformer);
    return status ? status : read_prompts(s, folder, err);
}

/* What folder/file calls the base model, if it does. */
static int read_base(char **field, const char *folder, const char *file, const char *key, vp_error *err) {
    vp_json j;
    VP_TRY(vp_json_open_optional(&j, folder, file, JSON_OBJECT, err));
    const char *name = NULL;
    int status = j.root ? vp_json_str(&j, j.root, key, &name, err) : VP_OK;
    if (!status && name) status = vp_settings_set(field, name, err);
    vp_json_close(&j);
    return status;
}

int vp_settings_read(vp_settings *s, const char *folder, const vp_config *c, vp_error *err) {
    vp_json j;
    char *transformer;
    VP_TRY(vp_json_open_optional(&j, folder, "modules.json", JSON_ARRAY, err));
    int status = j.root ? read_modules(s, folder, c, &j, err) : VP_OK;
    vp_json_close(&j);
    if (status) return status;
    VP_TRY(vp_settings_transformer(folder, &transformer, err));
    status = read_base(&s->base_name[0], transformer, "config.json", "_name_or_path", err);
    free(transformer);
    return status ? status : vp_settings_beside(s, folder, c, err);
}

/* ---- LLM2Vec, GGUF, headers ---- */

static int read_llm2vec(vp_settings *s, const vp_json *j, const vp_config *c, vp_error *err) {
    static const char *const names[][2] = {{"mean", "mean"},
                                           {"weighted_mean", "weighted_mean"},
                                           {"eos_token", "eos"},
                                           {"last_token", "last"},
                                           {"bos_token", "bos"}};
    const char *mode = "mean", *ours = NULL;
    int64_t length = s->max_len;
    bool skip = true;
    s->doc_max_len = VP_DOC_MAX_LEN;
    VP_TRY(vp_json_str(j, j->root, "pooling_mode", &mode, err));
    VP_TRY(vp_json_int(j, j->root, "max_length", &length, err));
    VP_TRY(vp_json_int(j, j->root, "doc_max_length", &s->doc_max_len, err));
    VP_TRY(vp_json_bool(j, j->root, "skip_instruction", &skip, err));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i][0], mode)) ours = names[i][1];
    if (!ours) return vp_fail(err, VP_DATA, "%s: pooling_mode \"%s\" is not supported", j->path, mode);
    if (length < 1 || s->doc_max_len < 1)
        return vp_fail(err, VP_DATA, "%s: a maximum length of %lld", j->path,
                       (long long)(length < 1 ? length : s->doc_max_len));
    VP_TRY(vp_settings_set(&s->pooling, ours, err));
    s->max_len = length < c->positions ? length : c->positions;
    s->prompt_pooled = !skip;
    s->normalize = s->llm2vec = 1;
    s->nv_embed = 0;
    return vp_settings_set(&s->attention, "bi", err);
}

int vp_settings_llm2vec(vp_settings *s, const char *folder, const vp_config *c, vp_error *err) {
    vp_json j;
    VP_TRY(vp_json_open_optional(&j, folder, "llm2vec_config.json", JSON_OBJECT, err));
    if (!j.root) return VP_OK;
    int status = read_llm2vec(s, &j, c, err);
    vp_json_close(&j);
    if (status) return status;
    return read_base(&s->base_name[1], folder, "adapter_config.json", "base_model_name_or_path", err);
}

int vp_settings_beside(vp_settings *s, const char *folder, const vp_config *c, vp_error *err) {
    VP_TRY(vp_settings_llm2vec(s, folder, c, err));
    VP_TRY(vp_settings_nv_embed(s, folder, c, err));
    return vp_settings_own(s, folder, c, err);
}

int vp_settings_gguf(vp_settings *s, const vp_gguf *g, const vp_config *c, vp_error *err) {
    static const char *const kinds[] = {NULL, "mean", "cls", "last"};
    char key[64];
    snprintf(key, sizeof key, "%s.pooling_type", c->arch->gguf);
    int64_t type = vp_gguf_int(g, key, 0);
    if (type < 0 || type > 3)
        return vp_fail(err, VP_DATA, "%s: %s %lld is not supported", vp_gguf_path(g), key, (long long)type);
    return kinds[type] ? vp_settings_set(&s->pooling, kinds[type], err) : VP_OK;
}

bool vp_settings_is_one_of(const char *value, const char *known) {
    size_t n = strlen(value);
    for (const char *at = known; n && (at = strstr(at, value)); at += n)
        if ((at == known || at[-1] == '|') && (at[n] == '|' || !at[n])) return true;
    return false;
}

static int set_known(char **field, const char *what, const char *value, const char *known, vp_error *err) {
    if (!value) return VP_OK;
    if (vp_settings_is_one_of(value, known)) return vp_settings_set(field, value, err);
    return vp_fail(err, VP_DATA, "the header's %s is \"%s\", not one of %s", what, value, known);
}

int vp_settings_from_maps(vp_settings *s, const vp_map *model, const vp_map *encoder, vp_error *err) {
    const vp_map *const maps[] = {model, encoder};
    for (int i = 0; i < 2; i++) {
        const vp_map *m = maps[i];
        if (!m) continue;
        VP_TRY(set_known(&s->attention, "attention", vp_map_str(m, "attention"), "causal|bi|segments", err));
        VP_TRY(set_known(&s->pooling, "pooling", vp_map_str(m, "pooling"), VP_POOLINGS, err));
        s->normalize = vp_map_bool(m, "normalize", s->normalize != 0);
        int64_t dims = vp_map_int(m, "dims", s->dims), length = vp_map_int(m, "max_len", s->max_len);
        int64_t text = vp_map_int(m, "doc_max_len", s->doc_max_len);
        if (dims < 0 || length < 1 || text < 0)
            return vp_fail(err, VP_DATA, "the header's dims, max_len or doc_max_len is out of range");
        s->dims = dims;
        s->max_len = length;
        s->doc_max_len = text;
    }
    return VP_OK;
}
