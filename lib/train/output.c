/* The files of a trained adapter (output.h). */
#include "lib/train/output.h"
#include "lib/base/json.h"
#include "lib/train/tensors.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the adapter ---- */

/* "q_proj" of base_model.model.layers.0.self_attn.q_proj.lora_A.weight, borrowed from the name. */
static bool module_of(const char *name, const char **module, size_t *n, bool *is_a) {
    static const char start[] = "base_model.model.", *const end[2] = {".lora_B.weight", ".lora_A.weight"};
    const size_t length = strlen(name), tail = strlen(end[0]);
    if (strncmp(name, start, sizeof start - 1) != 0 || length <= sizeof start - 1 + tail) return false;
    *is_a = strcmp(name + length - tail, end[1]) == 0;
    if (!*is_a && strcmp(name + length - tail, end[0]) != 0) return false;
    size_t from = length - tail;
    while (name[from - 1] != '.') from--; /* `start` ends with one */
    *module = name + from;
    *n = length - tail - from;
    return *n > 0;
}

static bool holds(const json_t *names, const char *name, size_t n) {
    for (size_t i = 0; i < json_array_size(names); i++) {
        const json_t *have = json_array_get(names, i);
        if (json_string_length(have) == n && memcmp(json_string_value(have), name, n) == 0) return true;
    }
    return false;
}

static int read_names(const vp_param *param, size_t n_params, json_t *modules, int64_t *rank, vp_error *err) {
    for (size_t i = 0; i < n_params; i++) {
        const vp_param *p = &param[i];
        const char *module;
        size_t n;
        bool is_a;
        if (!module_of(p->name, &module, &n, &is_a))
            return vp_fail(err, VP_BUG, "adapter: '%.100s' is no name of PEFT's", p->name);
        const int64_t its = is_a ? p->rows : p->cols;
        if (!*rank) *rank = its;
        if (its != *rank)
            return vp_fail(err, VP_BUG, "adapter: '%.100s' has rank %lld, not %lld", p->name, (long long)its,
                           (long long)*rank);
        if (!holds(modules, module, n) && json_array_append_new(modules, json_stringn(module, n)))
            return vp_fail_memory(err, "target modules", n);
    }
    return VP_OK;
}

/* 32, not 32.0, as PEFT has it. */
static json_t *shortest(double x) {
    const bool whole = x >= -0x1p53 && x <= 0x1p53 && x == (double)(int64_t)x;
    return whole ? json_integer((int64_t)x) : json_real(x);
}

/* {"embed_tokens": [first, first + 1, ...]} of base_model.model.embed_tokens.token_adapter.trainable_tokens_delta. */
static int describe_tokens(const vp_lora_output *lora, const vp_param *p, json_t *root, vp_error *err) {
    const char *end = strstr(p->name, ".token_adapter."), *from = end;
    while (from && from > p->name && from[-1] != '.') from--;
    if (!end || p->rows != lora->tokens) return vp_fail(err, VP_BUG, "adapter: '%.100s' are no tokens", p->name);
    json_t *list = json_array(), *by_module = json_object();
    bool ok = list && by_module;
    for (int64_t i = 0; ok && i < lora->tokens; i++)
        ok = !json_array_append_new(list, json_integer((json_int_t)(lora->first_token + i)));
    ok = ok && !json_object_setn(by_module, from, (size_t)(end - from), list) &&
         !json_object_set(root, "trainable_token_indices", by_module);
    json_decref(list);
    json_decref(by_module);
    return ok ? VP_OK : vp_fail_memory(err, "tokens", (size_t)lora->tokens);
}

static int describe(const vp_lora_output *lora, json_t **root, vp_error *err) {
    json_t *modules = json_array();
    int64_t rank = 0;
    if (!modules) return vp_fail_memory(err, "target modules", 1);
    const size_t pairs = lora->params->n - (lora->tokens > 0);
    int status = read_names(lora->params->param, pairs, modules, &rank, err);
    if (!status)
        *root = json_pack("{s:s, s:n, s:s, s:I, s:o, s:f, s:s, s:b, s:b, s:b, s:b, s:O}", "peft_type", "LORA",
                          "task_type", "base_model_name_or_path", lora->base, "r", (json_int_t)rank, "lora_alpha",
                          shortest(lora->alpha), "lora_dropout", lora->dropout, "bias", "none", "inference_mode", 1,
                          "fan_in_fan_out", 0, "use_rslora", 0, "init_lora_weights", 1, "target_modules", modules);
    json_decref(modules);
    return !status && lora->tokens ? describe_tokens(lora, &lora->params->param[pairs], *root, err) : status;
}

static int write_weights(const char *folder, const vp_params *params, vp_dtype dtype, vp_error *err) {
    const vp_numbers weights = {.suffix = "", .value = params->value, .dtype = dtype};
    char *path;
    vp_publish p;
    VP_TRY(vp_path_join(&path, folder, "adapter_model.safetensors", err));
    int status = vp_publish_open(&p, path, err);
    if (!status) status = vp_publish_end(&p, vp_tensors_write(p.fd, path, params, &weights, 1, err), err);
    free(path);
    return status;
}

int vp_run_write_adapter(const char *folder, const vp_lora_output *lora, vp_error *err) {
    json_t *config = NULL;
    VP_TRY(describe(lora, &config, err)); /* nothing is replaced by what cannot be read */
    int status = write_weights(folder, lora->params, lora->dtype, err);
    if (!status) status = vp_json_publish(folder, "adapter_config.json", config, err);
    json_decref(config);
    return status;
}

/* ---- the tokenizer ---- */

static int copy_file(const char *folder, const char *base, const char *name, vp_error *err) {
    char *path;
    vp_map_file map;
    VP_TRY(vp_path_join(&path, base, name, err));
    int status = vp_map_open(&map, path, err);
    if (!status) {
        status = vp_publish_file(folder, name, map.data, map.size, err);
        vp_map_close(&map);
    }
    free(path);
    return status;
}

int vp_run_write_tokenizer(const char *folder, const char *base, vp_error *err) {
    static const char *const names[] = {"tokenizer.json",     "tokenizer_config.json",
                                        "tokenizer.model",    "special_tokens_map.json",
                                        "added_tokens.json",  "vocab.json",
                                        "merges.txt",         "vocab.txt",
                                        "chat_template.jinja"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (vp_path_exists(base, names[i])) VP_TRY(copy_file(folder, base, names[i], err));
    return VP_OK;
}
