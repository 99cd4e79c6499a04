/* Opening a model: which files PATH means, its configuration, weights and settings, and its fingerprint. */
#include "lib/index/index.h"
#include "lib/model/latent.h"
#include "lib/model/projection.h"
#include "lib/model/private.h"
#include "lib/model/settings.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int vp_path_absolute(const char *path, char **out, vp_error *err) {
    *out = realpath(path, NULL);
    return *out ? VP_OK : vp_fail_errno(err, "%s", path);
}

static int fingerprint(vp_model *m, vp_error *err) {
    vp_buf text = {0};
    uint8_t digest[16] = {0};
    int status = vp_config_text(&m->config, &text, err);
    if (!status) status = vp_source_fingerprint(m->source, text.data, text.len, digest, err);
    vp_hex(m->fingerprint, digest, sizeof digest);
    vp_buf_free(&text);
    return status;
}

/* A vocabulary alone: good for a tokenizer, with the settings of a plain model and no fingerprint. */
static int open_vocabulary(vp_model *m, vp_error *err) {
    m->config = (vp_config){.positions = 512};
    return vp_settings_default(&m->settings, &m->config, err);
}

static int open_gguf(vp_model *m, const char *path, vp_error *err) {
    VP_TRY(vp_source_open(&m->source, path, err));
    if (!vp_source_gguf(m->source)) return vp_fail(err, VP_DATA, "%s: neither a model folder nor a .gguf file", path);
    if (vp_source_count(m->source) == 0) return open_vocabulary(m, err);
    VP_TRY(vp_config_from_gguf(&m->config, m->source, err));
    VP_TRY(vp_weights_open(&m->weights, &m->config, m->source, path, err));
    VP_TRY(vp_settings_default(&m->settings, &m->config, err));
    return vp_settings_gguf(&m->settings, vp_source_gguf(m->source), &m->config, err);
}

static int open_transformer(vp_model *m, const char *folder, vp_error *err) {
    vp_json j;
    VP_TRY(vp_json_open(&j, folder, "config.json", JSON_OBJECT, err));
    int status = vp_config_from_json(&m->config, &j, err);
    vp_json_close(&j);
    if (!status) status = vp_source_open(&m->source, folder, err);
    return status ? status : vp_weights_open(&m->weights, &m->config, m->source, folder, err);
}

/* A tokenizer's folder: one without a configuration, or without weights, as tokenizers are often published. */
static bool only_vocabulary(const char *folder) {
    bool weights =
        vp_path_exists(folder, "model.safetensors") || vp_path_exists(folder, "model.safetensors.index.json");
    return vp_path_exists(folder, "tokenizer.json") && !(weights && vp_path_exists(folder, "config.json"));
}

/* A latent layer in the folder becomes the model's. */
static int take_latent(vp_model *m, const char *folder, vp_error *err) {
    vp_latent_file file;
    if (!vp_latent_file_exists(folder)) return VP_OK;
    VP_TRY(vp_settings_set(&m->latent, folder, err));
    const int status = vp_latent_file_open(&file, folder, m->config.width, err);
    memcpy(m->latent_fingerprint, file.fingerprint, sizeof m->latent_fingerprint);
    vp_latent_file_close(&file);
    return status;
}

/* So does a projection. */
static int take_projection(vp_model *m, const char *folder, vp_error *err) {
    vp_projection_file file;
    if (!vp_projection_exists(folder)) return VP_OK;
    VP_TRY(vp_settings_set(&m->projection, folder, err));
    const int status = vp_projection_open(&file, folder, m->config.width, err);
    m->settings.projection = file.dims;
    memcpy(m->projection_fingerprint, file.fingerprint, sizeof m->projection_fingerprint);
    vp_projection_close(&file);
    return status;
}

static int open_folder(vp_model *m, const char *folder, vp_error *err) {
    char *transformer;
    VP_TRY(vp_settings_transformer(folder, &transformer, err));
    m->transformer = transformer;
    if (only_vocabulary(transformer)) return open_vocabulary(m, err);
    VP_TRY(open_transformer(m, transformer, err));
    VP_TRY(vp_settings_default(&m->settings, &m->config, err));
    VP_TRY(vp_settings_read(&m->settings, folder, &m->config, err));
    VP_TRY(take_latent(m, folder, err));
    return take_projection(m, folder, err);
}

/* A folder or file with weights; not an index. */
static int open_weights(vp_model **out, const char *path, vp_error *err) {
    vp_model *m = vp_calloc(1, sizeof *m);
    *out = m;
    if (!m) return vp_fail_memory(err, "a model", sizeof *m);
    VP_TRY(vp_path_absolute(path, &m->path, err));
    struct stat st;
    if (stat(m->path, &st)) return vp_fail_errno(err, "%s", path);
    if (S_ISDIR(st.st_mode))
        VP_TRY(open_folder(m, m->path, err));
    else if (S_ISREG(st.st_mode))
        VP_TRY(open_gguf(m, m->path, err));
    else
        return vp_fail(err, VP_DATA, "%s: neither a folder nor a file", path);
    return vp_model_has_weights(m) ? fingerprint(m, err) : VP_OK;
}

/* The base of the model that the maps of a header, or of an index, name. */
static int open_base(vp_model **m, const vp_map *model, const char *where, vp_error *err) {
    const char *path = vp_map_str(model, "path"), *print = vp_map_str(model, "fingerprint");
    if (!path || path[0] != '/' || !print || !*print)
        return vp_fail(err, VP_DATA, "%s: no absolute model path with a fingerprint; give the model with -m", where);
    VP_TRY(open_weights(m, path, err));
    if (strcmp(print, (*m)->fingerprint))
        return vp_fail(err, VP_DATA, "%s: the model at %s has fingerprint %s, not %s: it was changed or replaced",
                       where, path, (*m)->fingerprint, print);
    return VP_OK;
}

/* What stands on the base: adapters, a latent layer, a projection. */
static int open_rest(vp_model **m, const vp_map *model, const char *where, vp_error *err) {
    const char *adapter, *path = (*m)->path;
    for (size_t i = 0; (adapter = vp_map_str_at(model, "adapters", i)); i++) {
        if (adapter[0] != '/')
            return vp_fail(err, VP_DATA, "%s: the adapter's path %s is not absolute", where, adapter);
        VP_TRY(vp_model_add_adapter(*m, adapter, err));
        const char *want = vp_map_str_at(model, "adapter_fingerprints", i);
        if (!want || strcmp(want, (*m)->adapter[i]->fingerprint))
            return vp_fail(err, VP_DATA, "%s: the adapter at %s was changed or replaced", where, adapter);
    }
    const char *latent = vp_map_str(model, "latent_fingerprint");
    if (latent && strcmp(latent, (*m)->latent_fingerprint))
        return vp_fail(err, VP_DATA, "%s: the latent layer of %s was changed or replaced", where, path);
    const char *projection = vp_map_str(model, "projection_fingerprint");
    if (projection && strcmp(projection, (*m)->projection_fingerprint))
        return vp_fail(err, VP_DATA, "%s: the projection of %s was changed or replaced", where, path);
    return VP_OK;
}

static int open_described(vp_model **m, const vp_map *model, const vp_map *encoder, bool adapted, const char *where,
                          vp_error *err) {
    VP_TRY(open_base(m, model, where, err));
    if (adapted) VP_TRY(open_rest(m, model, where, err));
    return vp_settings_from_maps(&(*m)->settings, model, encoder, err);
}

static int open_index(vp_model **m, const char *path, vp_error *err) {
    vp_map *model = NULL, *encoder = NULL;
    VP_TRY(vp_index_describe(path, &model, &encoder, err));
    int status = model ? open_described(m, model, encoder, true, path, err)
                       : vp_fail(err, VP_DATA, "%s: the index is empty and knows no model", path);
    if (!status && encoder) (*m)->input = vp_map_sub(encoder, "input");
    vp_map_free(model);
    vp_map_free(encoder);
    return status;
}

static int keep_or_close(vp_model **m, int status) {
    if (!status) return status;
    vp_model_close(*m);
    *m = NULL;
    return status;
}

int vp_model_open(vp_model **m, const char *path, vp_error *err) {
    *m = NULL;
    if (vp_path_exists(path, "index.db")) return keep_or_close(m, open_index(m, path, err));
    if (vp_adapter_only(path)) return keep_or_close(m, vp_model_open_adapted(m, path, err));
    return keep_or_close(m, open_weights(m, path, err));
}

static int from_maps(vp_model **m, const vp_map *header, bool adapted, vp_error *err) {
    vp_map *model = vp_map_sub(header, "model"), *encoder = vp_map_sub(header, "encoder");
    int status = model ? open_described(m, model, NULL, adapted, "the stream's header", err)
                       : vp_fail(err, VP_DATA, "the stream's header names no model");
    if (!status && encoder) (*m)->input = vp_map_sub(encoder, "input");
    vp_map_free(model);
    vp_map_free(encoder);
    return status;
}

int vp_model_from_header(vp_model **m, const vp_map *header, vp_error *err) {
    *m = NULL;
    return keep_or_close(m, from_maps(m, header, true, err));
}

static int resolve(vp_model **m, const char *option, const vp_map *header, const vp_map *named, bool adapted,
                   vp_error *err) {
    if (!option && named && vp_map_str(named, "path")) return keep_or_close(m, from_maps(m, header, adapted, err));
    const char *path = option ? option : getenv("VP_MODEL");
    if (!path || !*path) return vp_fail(err, VP_USAGE, "no model: give one with -m, or set VP_MODEL");
    VP_TRY(vp_model_open(m, path, err));
    const char *print = named ? vp_map_str(named, "fingerprint") : NULL;
    if (!print || !*print || !strcmp(print, (*m)->fingerprint)) return VP_OK;
    vp_fail(err, VP_DATA, "%s: fingerprint %s, but the stream was made for a model with %s", path, (*m)->fingerprint,
            print);
    return keep_or_close(m, VP_DATA);
}

static int resolve_named(vp_model **m, const char *option, const vp_map *header, bool adapted, vp_error *err) {
    *m = NULL;
    vp_map *named = header ? vp_map_sub(header, "model") : NULL;
    int status = resolve(m, option, header, named, adapted, err);
    vp_map_free(named);
    return status;
}

int vp_model_resolve_base(vp_model **m, const char *option, const vp_map *header, vp_error *err) {
    return resolve_named(m, option, header, false, err);
}

int vp_model_resolve(vp_model **m, const char *option, const vp_map *header, const char *const *adapters, size_t n,
                     vp_error *err) {
    VP_TRY(resolve_named(m, option, header, n == 0, err));
    for (size_t i = 0; i < n; i++) VP_TRY(vp_model_add_adapter(*m, adapters[i], err));
    return VP_OK;
}

int vp_model_add_adapter(vp_model *m, const char *folder, vp_error *err) {
    if (!vp_model_has_weights(m)) return vp_fail(err, VP_DATA, "%s: a vocabulary without weights", m->path);
    if (m->nadapters == VP_MAX_ADAPTERS) return vp_fail(err, VP_USAGE, "more than %d adapters", VP_MAX_ADAPTERS);
    vp_adapter *a;
    VP_TRY(vp_adapter_open(&a, m, folder, err));
    m->adapter[m->nadapters++] = a;
    VP_TRY(vp_settings_beside(&m->settings, folder, &m->config, err));
    VP_TRY(take_latent(m, a->path, err));
    return take_projection(m, a->path, err);
}

bool vp_model_has_tokens(const vp_model *m) {
    for (size_t i = 0; i < m->nadapters; i++)
        if (m->adapter[i]->tokens) return true;
    return false;
}

void vp_model_close(vp_model *m) {
    if (!m) return;
    for (size_t i = 0; i < m->nadapters; i++) vp_adapter_close(m->adapter[i]);
    vp_weights_close(&m->weights);
    vp_source_close(m->source);
    vp_settings_free(&m->settings);
    vp_map_free(m->input);
    free(m->path);
    free(m->latent);
    free(m->projection);
    free(m->transformer);
    free(m);
}

bool vp_model_has_weights(const vp_model *m) {
    return m->config.arch != NULL;
}
const vp_settings *vp_model_settings(const vp_model *m) {
    return &m->settings;
}
const char *vp_model_path(const vp_model *m) {
    return m->path;
}
const char *vp_model_transformer(const vp_model *m) {
    return m->transformer ? m->transformer : m->path;
}
bool vp_model_is_gguf(const vp_model *m) {
    return !m->transformer;
}
const char *vp_model_fingerprint(const vp_model *m) {
    return m->fingerprint;
}
const char *vp_model_arch(const vp_model *m) {
    return m->config.arch ? m->config.arch->name : NULL;
}
bool vp_model_has_experts(const vp_model *m) {
    return m->config.experts > 0;
}
const char *vp_model_latent(const vp_model *m) {
    return m->latent;
}
const vp_map *vp_model_input(const vp_model *m) {
    return m->input;
}
int64_t vp_model_width(const vp_model *m) {
    return m->config.width;
}
vp_dtype vp_model_dtype(const vp_model *m) {
    const vp_weight_entry *embed = vp_weights_find(&m->weights, VP_W_EMBED, -1);
    return embed && embed->tensor->storage == VP_STORE_PLAIN ? embed->tensor->dtype : VP_BF16;
}
int64_t vp_model_positions(const vp_model *m) {
    return m->config.positions;
}
int64_t vp_model_vocab(const vp_model *m) {
    return m->config.vocab;
}
