/* The files of a trained adapter (output.h). */
#include "lib/train/output.h"
#include "lib/train/tensors.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* FOLDER/NAME with these bytes and these, through a temporary name. */
static int publish(const char *folder, const char *name, const void *data, size_t n, const char *end, vp_error *err) {
    char *path;
    vp_publish p;
    VP_TRY(vp_path_join(&path, folder, name, err));
    int status = vp_publish_open(&p, path, err);
    if (!status) {
        status = vp_write_all(p.fd, data, n, path, err);
        if (!status) status = vp_write_all(p.fd, end, strlen(end), path, err);
        if (!status)
            status = vp_publish_commit(&p, err);
        else
            vp_publish_abort(&p);
    }
    free(path);
    return status;
}

int vp_run_write_json(const char *folder, const char *name, const json_t *root, vp_error *err) {
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) : NULL;
    if (!text) return vp_fail(err, VP_MEMORY, "out of memory for %s, or a text that is no UTF-8", name);
    int status = publish(folder, name, text, strlen(text), "\n", err);
    free(text);
    return status;
}

/* The same, and the JSON, made for it alone, is freed. */
static int write_new(const char *folder, const char *name, json_t *root, vp_error *err) {
    int status = vp_run_write_json(folder, name, root, err);
    json_decref(root);
    return status;
}

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

static int read_names(const vp_params *params, json_t *modules, int64_t *rank, vp_error *err) {
    for (size_t i = 0; i < params->n; i++) {
        const vp_param *p = &params->param[i];
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

static int describe(const vp_lora_output *lora, json_t **root, vp_error *err) {
    json_t *modules = json_array();
    int64_t rank = 0;
    if (!modules) return vp_fail_memory(err, "target modules", 1);
    int status = read_names(lora->params, modules, &rank, err);
    if (!status)
        *root = json_pack("{s:s, s:n, s:s, s:I, s:o, s:f, s:s, s:b, s:b, s:b, s:b, s:O}", "peft_type", "LORA",
                          "task_type", "base_model_name_or_path", lora->base, "r", (json_int_t)rank, "lora_alpha",
                          shortest(lora->alpha), "lora_dropout", lora->dropout, "bias", "none", "inference_mode", 1,
                          "fan_in_fan_out", 0, "use_rslora", 0, "init_lora_weights", 1, "target_modules", modules);
    json_decref(modules);
    return status;
}

static int write_weights(const char *folder, const vp_params *params, vp_error *err) {
    const vp_numbers weights = {"", params->value};
    char *path;
    vp_publish p;
    VP_TRY(vp_path_join(&path, folder, "adapter_model.safetensors", err));
    int status = vp_publish_open(&p, path, err);
    if (!status) {
        status = vp_tensors_write(p.fd, path, params, &weights, 1, err);
        if (!status)
            status = vp_publish_commit(&p, err);
        else
            vp_publish_abort(&p);
    }
    free(path);
    return status;
}

int vp_run_write_adapter(const char *folder, const vp_lora_output *lora, vp_error *err) {
    json_t *config = NULL;
    VP_TRY(describe(lora, &config, err)); /* nothing is replaced by what cannot be read */
    int status = write_weights(folder, lora->params, err);
    if (!status) status = vp_run_write_json(folder, "adapter_config.json", config, err);
    json_decref(config);
    return status;
}

/* ---- what it is for ---- */

typedef struct pooling_names {
    const char *ours, *llm2vec, *sentence_transformers;
} pooling_names;

/* eos and last are the same token, as bos and cls are: the tokenizer decides which it is. */
static const pooling_names poolings[] = {
    {"mean", "mean", "mean"},
    {"weighted_mean", "weighted_mean", "weightedmean"},
    {"last", "last_token", "lasttoken"},
    {"eos", "eos_token", "lasttoken"},
    {"bos", "bos_token", "cls"},
    {"cls", "bos_token", "cls"},
};

static const pooling_names *find_pooling(const char *ours) {
    for (size_t i = 0; i < sizeof poolings / sizeof *poolings; i++)
        if (strcmp(poolings[i].ours, ours) == 0) return &poolings[i];
    return NULL;
}

static json_t *module(int at, const char *path, const char *type) {
    char index[16];
    snprintf(index, sizeof index, "%d", at);
    return json_pack("{s:i, s:s, s:s, s:s}", "idx", at, "name", index, "path", path, "type", type);
}

#define ST_MODULE(name) "sentence_transformers.models." name

/* Attention to both sides is no setting of sentence-transformers: the base's config decides, and an adapter has none.
 * Whoever does not trust the code gets an error, never the vectors of a causal model. */
static const char both_sides[] =
    "\"\"\"Attention to both sides in every layer, as this adapter was trained.\"\"\"\n"
    "import transformers\n"
    "from sentence_transformers.models import Transformer\n\n\n"
    "class BidirectionalTransformer(Transformer):\n"
    "    def __init__(self, *args, **kwargs):\n"
    "        super().__init__(*args, **kwargs)\n"
    "        if tuple(int(n) for n in transformers.__version__.split(\".\")[:2]) < (5, 2):\n"
    "            raise ImportError(\"is_causal = False needs transformers 5.2 or later\")\n"
    "        self.auto_model.config.is_causal = False\n";

static int write_sentence_transformers(const char *folder, const vp_settings *s, const char *pooling, int64_t width,
                                       vp_error *err) {
    char *path;
    const bool both = strcmp(s->attention, "bi") == 0;
    json_t *modules =
        json_pack("[o, o]", module(0, "", both ? "bidirectional.BidirectionalTransformer" : ST_MODULE("Transformer")),
                  module(1, "1_Pooling", ST_MODULE("Pooling")));
    if (modules && s->normalize && json_array_append_new(modules, module(2, "2_Normalize", ST_MODULE("Normalize")))) {
        json_decref(modules);
        modules = NULL;
    }
    if (both) VP_TRY(publish(folder, "bidirectional.py", both_sides, strlen(both_sides), "", err));
    VP_TRY(write_new(folder, "modules.json", modules, err));
    json_t *length = json_pack("{s:I, s:b}", "max_seq_length", (json_int_t)s->max_len, "do_lower_case", 0);
    VP_TRY(write_new(folder, "sentence_bert_config.json", length, err));
    json_t *prompts = json_pack("{s:{s:s, s:s}, s:n, s:s}", "prompts", "query", s->query_prefix, "document",
                                s->document_prefix, "default_prompt_name", "similarity_fn_name", "cosine");
    VP_TRY(write_new(folder, "config_sentence_transformers.json", prompts, err));
    VP_TRY(vp_path_join(&path, folder, "1_Pooling", err));
    int status = mkdir(path, 0777) && errno != EEXIST ? vp_fail_errno(err, "cannot create '%s'", path) : VP_OK;
    if (!status)
        status = write_new(path, "config.json",
                           json_pack("{s:I, s:s, s:b}", "embedding_dimension", (json_int_t)width, "pooling_mode",
                                     pooling, "include_prompt", s->prompt_pooled != 0),
                           err);
    free(path);
    return status;
}

int vp_run_write_settings(const char *folder, const vp_settings *s, int64_t width, int64_t doc_max_len, vp_error *err) {
    const pooling_names *pooling = find_pooling(s->pooling);
    if (!pooling) return vp_fail(err, VP_BUG, "pooling '%s' has no name in a result's files", s->pooling);
    if (strcmp(s->attention, "bi") == 0)
        VP_TRY(write_new(folder, "llm2vec_config.json",
                         json_pack("{s:s, s:I, s:I, s:b}", "pooling_mode", pooling->llm2vec, "max_length",
                                   (json_int_t)s->max_len, "doc_max_length", (json_int_t)doc_max_len,
                                   "skip_instruction", !s->prompt_pooled),
                         err));
    return write_sentence_transformers(folder, s, pooling->sentence_transformers, width, err);
}

static int copy_file(const char *folder, const char *base, const char *name, vp_error *err) {
    char *path;
    vp_map_file map;
    VP_TRY(vp_path_join(&path, base, name, err));
    int status = vp_map_open(&map, path, err);
    if (!status) {
        status = publish(folder, name, map.data, map.size, "", err);
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
