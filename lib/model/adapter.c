/* LoRA adapters in PEFT's layout: adapter_config.json and adapter_model.safetensors, keys with or without the inner
 * model's prefix. Everything that would change the result and is not applied is refused by name. */
#include "lib/model/token_rows.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct lora_config {
    const vp_json *json;
    int64_t rank;
    double alpha;
    bool rslora;
} lora_config;

static int refuse_unsupported(const vp_json *j, vp_error *err) {
    static const char *const off[] = {
        "use_dora",    "lora_bias",         "modules_to_save",         "fan_in_fan_out",  "use_qalora",
        "use_bdlora",  "layer_replication", "alora_invocation_tokens", "arrow_config",    "target_parameters",
        "kasa_config", "velora_config",     "monteclora_config",       "megatron_config",
    };
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        if (vp_json_says(j->root, off[i])) return vp_fail(err, VP_DATA, "%s: %s is not supported", j->path, off[i]);
    const char *type = "LORA", *bias = "none";
    VP_TRY(vp_json_str(j, j->root, "peft_type", &type, err));
    VP_TRY(vp_json_str(j, j->root, "bias", &bias, err));
    if (strcmp(type, "LORA")) return vp_fail(err, VP_DATA, "%s: peft_type \"%s\" is not supported", j->path, type);
    if (strcmp(bias, "none")) return vp_fail(err, VP_DATA, "%s: bias \"%s\" is not supported", j->path, bias);
    /* These initialisations only choose the start; the others (PiSSA, OLoRA, ...) also change the base weights. */
    const json_t *init = json_object_get(j->root, "init_lora_weights");
    const char *how = json_string_value(init);
    if (how && strcmp(how, "gaussian") && strcmp(how, "eva") && strcmp(how, "orthogonal"))
        return vp_fail(err, VP_DATA, "%s: init_lora_weights \"%s\" is not supported", j->path, how);
    return VP_OK;
}

/* Whether PEFT's pattern, a regular expression for the end of a module's path, means `module`. */
static int pattern_matches(const char *pattern, const char *module, const char *path, bool *yes, vp_error *err) {
    char full[600];
    int length = snprintf(full, sizeof full, "^(?:.*\\.)?(?:%s)$", pattern), error = 0;
    PCRE2_SIZE at = 0;
    if (length < 0 || (size_t)length >= sizeof full) return vp_fail(err, VP_DATA, "%s: a pattern is too long", path);
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)full, PCRE2_ZERO_TERMINATED, PCRE2_NEVER_BACKSLASH_C, &error, &at, NULL);
    if (!code) return vp_fail(err, VP_DATA, "%s: \"%s\" is not a regular expression", path, pattern);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    int found = PCRE2_ERROR_NOMEMORY;
    if (match && limits) {
        pcre2_set_match_limit(limits, 100000);
        pcre2_set_depth_limit(limits, 1000);
        found = pcre2_match(code, (PCRE2_SPTR)module, strlen(module), 0, 0, match, limits);
    }
    pcre2_match_context_free(limits);
    pcre2_match_data_free(match);
    pcre2_code_free(code);
    *yes = found >= 0;
    if (found >= 0 || found == PCRE2_ERROR_NOMATCH) return VP_OK;
    return vp_fail(err, VP_DATA, "%s: pattern \"%s\" cannot be matched", path, pattern);
}

/* The first pattern of rank_pattern / alpha_pattern that means the module replaces *value. */
static int apply_pattern(const vp_json *j, const char *key, const char *module, double *value, vp_error *err) {
    const json_t *patterns = json_object_get(j->root, key), *number;
    if (!vp_json_says(j->root, key)) return VP_OK;
    if (!json_is_object(patterns)) return vp_fail(err, VP_DATA, "%s: \"%s\" is not an object", j->path, key);
    const char *pattern;
    json_object_foreach((json_t *)patterns, pattern, number) {
        bool yes = false;
        VP_TRY(pattern_matches(pattern, module, j->path, &yes, err));
        if (yes) return vp_json_real(j, patterns, pattern, value, err);
    }
    return VP_OK;
}

/* scale = alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA. */
static int set_scale(vp_adapter_target *t, const lora_config *c, const char *module, vp_error *err) {
    double rank = (double)c->rank, alpha = c->alpha;
    VP_TRY(apply_pattern(c->json, "rank_pattern", module, &rank, err));
    VP_TRY(apply_pattern(c->json, "alpha_pattern", module, &alpha, err));
    if (rank != (double)t->rank)
        return vp_fail(err, VP_DATA, "%s: rank %g for %s, but its tensors have rank %d", c->json->path, rank, module,
                       (int)t->rank);
    t->scale = (float)(c->rslora ? alpha / sqrt(rank) : alpha / rank);
    return VP_OK;
}

/* base_model.model.[PREFIX.]MODULE.lora_A.weight: the module's path, without what does not belong to it. */
static bool module_of(const char *key, char *out, size_t cap, bool *is_b) {
    static const char start[] = "base_model.model.", *const end[2] = {".lora_A.weight", ".lora_B.weight"};
    size_t n = strlen(key), skip = sizeof start - 1, tail = strlen(end[0]);
    if (n <= skip + tail || strncmp(key, start, skip)) return false;
    *is_b = !strcmp(key + n - tail, end[1]);
    if (!*is_b && strcmp(key + n - tail, end[0])) return false;
    int length = snprintf(out, cap, "%.*s", (int)(n - skip - tail), key + skip);
    return length > 0 && (size_t)length < cap;
}

static const vp_weight_entry *weight_of(const vp_model *m, const char *module) {
    size_t prefix = strlen(m->config.arch->prefix);
    const vp_weight_entry *e = vp_weights_module(&m->weights, module, strlen(module));
    if (!e && !strncmp(module, m->config.arch->prefix, prefix))
        e = vp_weights_module(&m->weights, module + prefix, strlen(module + prefix));
    return e;
}

/* One lora_A key becomes a target with its lora_B. */
static int add_target(vp_adapter *a, const vp_model *m, const lora_config *c, const vp_tensor_info *info,
                      vp_error *err) {
    char module[160], other[220];
    bool is_b = false;
    const vp_weight_entry *weight = NULL;
    if (module_of(info->name, module, sizeof module, &is_b)) weight = weight_of(m, module);
    if (weight && !weight->lora && m->config.experts)
        return vp_fail(err, VP_DATA, "%s: key %s: only attention takes adapters in a %s model", info->file, info->name,
                       m->config.arch->name);
    if (!weight || !weight->lora)
        return vp_fail(err, VP_DATA, "%s: key %s matches no weight of the %s model", info->file, info->name,
                       m->config.arch->name);
    snprintf(other, sizeof other, "base_model.model.%s.lora_%c.weight", module, is_b ? 'A' : 'B');
    const vp_tensor_info *pair = vp_source_find(a->source, other);
    if (!pair) return vp_fail(err, VP_DATA, "%s: tensor %s is missing", info->file, other);
    if (is_b) return VP_OK;
    if (info->ndim != 2 || info->shape[0] < 1 || info->shape[0] > 65536)
        return vp_fail(err, VP_DATA, "%s: tensor %s has no usable rank", info->file, info->name);
    vp_adapter_target *t = &a->target[a->n++];
    *t = (vp_adapter_target){.weight = weight, .a = info, .b = pair, .rank = (int32_t)info->shape[0]};
    VP_TRY(vp_tensor_check(t->a, t->rank, weight->cols, err));
    VP_TRY(vp_tensor_check(t->b, weight->rows, t->rank, err));
    return set_scale(t, c, module, err);
}

static int fingerprint(vp_adapter *a, vp_error *err) {
    vp_buf text = {0};
    uint8_t digest[16] = {0};
    int status = VP_OK;
    for (size_t i = 0; !status && i < a->n; i++)
        status = vp_buf_printf(&text, err, "%s %d %.9g\n", a->target[i].weight->module, (int)a->target[i].rank,
                               (double)a->target[i].scale);
    if (!status && a->tokens) status = vp_buf_printf(&text, err, "tokens %lld\n", (long long)a->first_token);
    if (!status) status = vp_source_fingerprint(a->source, text.data, text.len, digest, err);
    vp_hex(a->fingerprint, digest, sizeof digest);
    vp_buf_free(&text);
    return status;
}

static int read_targets(vp_adapter *a, const vp_model *m, const vp_json *j, vp_error *err) {
    lora_config c = {.json = j, .rank = 8, .alpha = 8};
    VP_TRY(refuse_unsupported(j, err));
    VP_TRY(vp_json_int(j, j->root, "r", &c.rank, err));
    VP_TRY(vp_json_real(j, j->root, "lora_alpha", &c.alpha, err));
    VP_TRY(vp_json_bool(j, j->root, "use_rslora", &c.rslora, err));
    size_t n = vp_source_count(a->source);
    a->target = vp_calloc(n, sizeof *a->target);
    if (!a->target) return vp_fail_memory(err, "an adapter", n * sizeof *a->target);
    for (size_t i = 0; i < n; i++) {
        const vp_tensor_info *info = vp_source_at(a->source, i);
        VP_TRY(vp_adapter_has_tokens(info->name) ? vp_adapter_take_tokens(a, m, j, info, err)
                                                 : add_target(a, m, &c, info, err));
    }
    if (vp_json_says(j->root, "trainable_token_indices") && !a->tokens)
        return vp_fail(err, VP_DATA, "%s: the rows of trainable_token_indices are missing", a->path);
    if (!a->n) return vp_fail(err, VP_DATA, "%s: the adapter has no tensors", a->path);
    return fingerprint(a, err);
}

static int open_files(vp_adapter *a, const vp_model *m, const char *folder, vp_error *err) {
    VP_TRY(vp_path_absolute(folder, &a->path, err));
    vp_json j;
    VP_TRY(vp_json_open(&j, a->path, "adapter_config.json", JSON_OBJECT, err));
    vp_buf file = {0};
    int status = vp_buf_printf(&file, err, "%s/adapter_model.safetensors", a->path);
    if (!status) status = vp_source_open(&a->source, file.data, err);
    if (!status) status = read_targets(a, m, &j, err);
    vp_buf_free(&file);
    vp_json_close(&j);
    return status;
}

int vp_adapter_open(vp_adapter **out, const vp_model *m, const char *folder, vp_error *err) {
    vp_adapter *a = vp_calloc(1, sizeof *a);
    if (!a) return vp_fail_memory(err, "an adapter", sizeof *a);
    int status = open_files(a, m, folder, err);
    if (status) {
        vp_adapter_close(a);
        a = NULL;
    }
    *out = a;
    return status;
}

void vp_adapter_close(vp_adapter *a) {
    if (!a) return;
    vp_source_close(a->source);
    free(a->target);
    free(a->path);
    free(a);
}

const vp_adapter_target *vp_adapter_find(const vp_adapter *a, const vp_weight_entry *w) {
    for (size_t i = 0; i < a->n; i++)
        if (a->target[i].weight == w) return &a->target[i];
    return NULL;
}
