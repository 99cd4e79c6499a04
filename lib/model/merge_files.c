/* What stands beside the weights of a merged model: config.json, written anew, and the base's own small files. */
#include "lib/model/private.h"
#include "lib/model/projection.h"
#include "lib/model/settings.h"
#include "lib/model/settings_write.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- config.json ---- */

static const char *dtype_name(vp_dtype dtype) {
    return dtype == VP_F32 ? "float32" : dtype == VP_BF16 ? "bfloat16" : "float16";
}

static int config_of_gguf(const vp_model *m, json_t **root, vp_error *err) {
    static const char *const ids[][2] = {{"bos_token_id", "tokenizer.ggml.bos_token_id"},
                                         {"eos_token_id", "tokenizer.ggml.eos_token_id"}};
    VP_TRY(vp_config_to_json(&m->config, root, err));
    for (size_t i = 0; i < 2; i++) {
        int64_t id = vp_gguf_int(vp_source_gguf(m->source), ids[i][1], -1);
        if (id >= 0 && id < m->config.vocab && json_object_set_new(*root, ids[i][0], json_integer(id)))
            return vp_fail_memory(err, "config.json", 0);
    }
    return VP_OK;
}

/* What was written must mean what the GGUF file means. Its reals are f32: 1e-5 is spelled 9.99999975e-06 there. */
static int check_config(const vp_model *m, int64_t vocab, const char *folder, vp_error *err) {
    vp_json j;
    vp_config *back = vp_calloc(1, sizeof *back), *said = vp_calloc(1, sizeof *said);
    vp_buf want = {0}, got = {0};
    int status = back && said ? vp_json_open(&j, folder, "config.json", JSON_OBJECT, err)
                              : vp_fail_memory(err, "a config", sizeof *back);
    if (!status) {
        *said = m->config;
        said->vocab = vocab;
        status = vp_config_from_json(back, &j, err);
        vp_json_close(&j);
    }
    if (!status && (float)back->eps == (float)said->eps) said->eps = back->eps;
    if (!status && (float)back->theta == (float)said->theta) said->theta = back->theta;
    if (!status && (float)back->factor == (float)said->factor) said->factor = back->factor;
    if (!status) status = vp_config_text(said, &want, err);
    if (!status) status = vp_config_text(back, &got, err);
    if (!status && (want.len != got.len || memcmp(want.data, got.data, want.len) != 0))
        status = vp_fail(err, VP_DATA, "%s: its settings have no form in config.json", m->path);
    vp_buf_free(&want);
    vp_buf_free(&got);
    free(back);
    free(said);
    return status;
}

/* transformers from 5.2 on lets a decoder attend to both sides that says so. */
static int set_attention(const vp_model *m, const vp_settings *s, json_t *root, vp_error *err) {
    if (strcmp(s->attention, "bi") != 0)
        json_object_del(root, "is_causal");
    else if (m->config.causal && json_object_set_new(root, "is_causal", json_false()))
        return vp_fail_memory(err, "config.json", 0);
    return VP_OK;
}

int vp_merge_config(const vp_model *m, const vp_merge_options *o, const char *folder, vp_error *err) {
    json_t *root = NULL;
    int status =
        m->transformer ? vp_json_load(&root, m->transformer, "config.json", err) : config_of_gguf(m, &root, err);
    const char *key = json_object_get(root, "dtype") ? "dtype" : "torch_dtype"; /* the older name is still read */
    if (!status && json_object_set_new(root, key, json_string(dtype_name(o->dtype))))
        status = vp_fail_memory(err, "config.json", 0);
    if (!status) status = set_attention(m, o->settings, root, err);
    const int64_t vocab = vp_grown_vocab(m, &o->growth);
    if (!status && o->growth.extra && json_object_set_new(root, "vocab_size", json_integer((json_int_t)vocab)))
        status = vp_fail_memory(err, "config.json", 0);
    if (!status) status = vp_json_publish(folder, "config.json", root, err);
    json_decref(root);
    return status || m->transformer ? status : check_config(m, vocab, folder, err);
}

/* ---- the base's small files ---- */

static const char llm2vec[] = "llm2vec_config.json";

/* Tokenizers, prompts, generation and pooling settings; no weights, however they are called. */
static bool wanted(const char *name, bool transformer) {
    static const char *const ends[] = {".json", ".txt", ".model", ".jinja"};
    static const char *const not [] = {"adapter_config.json", llm2vec, VP_LATENT_CONFIG, VP_OWN_CONFIG};
    size_t n = strlen(name), index = strlen(".index.json");
    if (name[0] == '.' || (transformer && !strcmp(name, "config.json"))) return false;
    if (n >= index && !strcmp(name + n - index, ".index.json")) return false;
    for (size_t i = 0; i < sizeof not / sizeof *not ; i++)
        if (!strcmp(name, not [i])) return false;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t k = strlen(ends[i]);
        if (n > k && !strcmp(name + n - k, ends[i])) return true;
    }
    return false;
}

static int copy_file(const char *from, const char *to, const char *name, vp_error *err) {
    char *path;
    vp_map_file map;
    VP_TRY(vp_path_join(&path, from, name, err));
    int status = vp_map_open(&map, path, err);
    if (!status) {
        status = vp_write_file(to, name, map.data, map.size, err);
        vp_map_close(&map);
    }
    free(path);
    return status;
}

static int copy_files(const char *from, const char *to, bool transformer, vp_error *err) {
    DIR *d = opendir(from);
    if (!d) return vp_fail_errno(err, "cannot open '%s'", from);
    int status = VP_OK;
    for (struct dirent *e; !status && (e = readdir(d));) {
        struct stat st;
        if (wanted(e->d_name, transformer) && fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
            status = copy_file(from, to, e->d_name, err);
    }
    closedir(d);
    return status;
}

/* The folder of one module of a sentence-transformers model. */
static int copy_module(const vp_model *m, const char *folder, const char *name, bool transformer, vp_error *err) {
    char *from = NULL, *to = NULL;
    int status = vp_path_join(&from, m->path, name, err);
    if (!status) status = vp_path_join(&to, folder, name, err);
    if (!status && mkdir(to, 0777) && errno != EEXIST) status = vp_fail_errno(err, "cannot create '%s'", to);
    struct stat st;
    if (!status && stat(from, &st) == 0) status = copy_files(from, to, transformer, err); /* Normalize has no folder */
    free(from);
    free(to);
    return status;
}

static int copy_modules(const vp_model *m, const char *folder, const char *sub, vp_error *err) {
    vp_json j;
    VP_TRY(vp_json_open_optional(&j, m->path, "modules.json", JSON_ARRAY, err));
    int status = VP_OK;
    for (size_t i = 0; j.root && !status && i < json_array_size(j.root); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(j.root, i), "path"));
        if (name && !strcmp(name, VP_PROJECTION_FOLDER)) continue;    /* with its weights: copy_projection */
        if (name && *name && strcmp(name, ".") && !strchr(name, '/')) /* "..": the model did not open */
            status = copy_module(m, folder, name, !strcmp(name, sub), err);
    }
    vp_json_close(&j);
    return status;
}

/* The last adapter's LLM2Vec settings count, else the base's. */
static int copy_llm2vec(const vp_model *m, const char *folder, vp_error *err) {
    const char *from = m->path;
    for (size_t k = 0; k < m->nadapters; k++)
        if (vp_path_exists(m->adapter[k]->path, llm2vec)) from = m->adapter[k]->path;
    return vp_path_exists(from, llm2vec) ? copy_file(from, folder, llm2vec, err) : VP_OK;
}

/* NV-Embed's settings, with the latent layer; one among the base's tensors is where it was. */
static int write_nv_embed(const vp_model *m, const vp_settings *s, const char *folder, vp_error *err) {
    const bool beside = m->latent && vp_path_exists(m->latent, VP_LATENT_WEIGHTS);
    vp_latent_file file = {0};
    if (!beside && (m->latent || !s->nv_embed)) return VP_OK;
    int status = beside ? vp_latent_file_open(&file, m->latent, m->config.width, err) : VP_OK;
    if (!status && beside) status = copy_file(m->latent, folder, VP_LATENT_WEIGHTS, err);
    if (!status) status = vp_settings_write_nv_embed(s, beside ? &file.sizes : NULL, m->config.width, folder, err);
    vp_latent_file_close(&file);
    return status;
}

static int copy_projection(const vp_model *m, const char *folder, vp_error *err) {
    char *from = NULL, *to = NULL;
    int status = vp_path_join(&from, m->projection, VP_PROJECTION_FOLDER, err);
    if (!status) status = vp_path_join(&to, folder, VP_PROJECTION_FOLDER, err);
    if (!status && mkdir(to, 0777) && errno != EEXIST) status = vp_fail_errno(err, "cannot create '%s'", to);
    if (!status) status = copy_file(from, to, "config.json", err);
    if (!status) status = copy_file(from, to, "model.safetensors", err);
    free(from);
    free(to);
    return status;
}

/* Whether they are what the base's own files say. */
static int same_settings(const vp_model *m, const vp_settings *s, bool *same, vp_error *err) {
    vp_settings own = {0};
    int status = vp_settings_default(&own, &m->config, err);
    if (!status && m->transformer) status = vp_settings_read(&own, m->path, &m->config, err);
    *same = !status && !strcmp(own.attention, s->attention) && !strcmp(own.pooling, s->pooling) &&
            own.normalize == s->normalize && own.projection == s->projection && own.prompt_pooled == s->prompt_pooled &&
            own.max_len == s->max_len;
    vp_settings_free(&own);
    return status;
}

/* sentence-transformers cannot make such prompts: without its files it does not pretend to. */
static int write_prompted(const vp_settings *s, const char *folder, bool modules, vp_error *err) {
    char *path = NULL;
    VP_TRY(vp_path_join(&path, folder, "modules.json", err));
    const int status = modules && unlink(path) ? vp_fail_errno(err, "cannot remove '%s'", path) : VP_OK;
    free(path);
    return status ? status : vp_settings_write_own(s, folder, err);
}

int vp_merge_files(const vp_model *m, const vp_settings *s, const char *folder, const char *sub, vp_error *err) {
    const vp_settings_place place = {.folder = folder, .transformer = sub, .width = m->config.width};
    bool same = false;
    VP_TRY(same_settings(m, s, &same, err));
    if (m->transformer) VP_TRY(copy_files(m->path, folder, !*sub, err));
    if (m->transformer) VP_TRY(copy_modules(m, folder, sub, err));
    if (s == &m->settings) VP_TRY(write_nv_embed(m, s, folder, err));
    if (m->projection) VP_TRY(copy_projection(m, folder, err));
    const bool latent = !strcmp(s->pooling, "latent");
    if (s == &m->settings && !latent) VP_TRY(copy_llm2vec(m, folder, err));
    const bool modules = vp_path_exists(folder, "modules.json"), llm2vec_there = vp_path_exists(folder, llm2vec);
    if (s->chat) return write_prompted(s, folder, modules && !*sub, err);
    if (latent) return VP_OK; /* nobody else has it */
    if (!modules || !same) VP_TRY(vp_settings_write(s, &place, err));
    if (m->config.causal && !strcmp(s->attention, "bi") && !llm2vec_there)
        return vp_settings_write_llm2vec(s, folder, err);
    return VP_OK;
}
