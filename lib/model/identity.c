/* What a stream's header says about its model and encoder, and the identity of the space that vectors live in. */
#include "lib/model/private.h"
#include <stdio.h>
#include <string.h>

static int put_adapters(const vp_model *m, vp_map *model, vp_error *err) {
    const char *path[VP_MAX_ADAPTERS], *print[VP_MAX_ADAPTERS];
    for (size_t i = 0; i < m->nadapters; i++) {
        path[i] = m->adapter[i]->path;
        print[i] = m->adapter[i]->fingerprint;
    }
    VP_TRY(vp_map_set_strs(model, "adapters", path, m->nadapters, err));
    return vp_map_set_strs(model, "adapter_fingerprints", print, m->nadapters, err);
}

static int describe(const vp_model *m, vp_map *model, vp_error *err) {
    const vp_settings *s = &m->settings;
    if (!vp_model_has_weights(m)) return VP_OK; /* says nothing about the model that these tokens are for */
    VP_TRY(vp_map_set_str(model, "path", m->path, err));
    VP_TRY(vp_map_set_str(model, "fingerprint", m->fingerprint, err));
    VP_TRY(vp_map_set_str(model, "arch", m->config.arch->name, err));
    VP_TRY(vp_map_set_int(model, "width", m->config.width, err));
    VP_TRY(put_adapters(m, model, err));
    if (m->latent) VP_TRY(vp_map_set_str(model, "latent", m->latent, err));
    if (m->latent) VP_TRY(vp_map_set_str(model, "latent_fingerprint", m->latent_fingerprint, err));
    if (m->projection) VP_TRY(vp_map_set_str(model, "projection", m->projection, err));
    if (m->projection) VP_TRY(vp_map_set_str(model, "projection_fingerprint", m->projection_fingerprint, err));
    VP_TRY(vp_map_set_str(model, "attention", s->attention, err));
    VP_TRY(vp_map_set_str(model, "pooling", s->pooling, err));
    VP_TRY(vp_map_set_bool(model, "normalize", s->normalize, err));
    VP_TRY(vp_map_set_int(model, "dims", s->dims, err));
    VP_TRY(vp_map_set_int(model, "max_len", s->max_len, err));
    return s->doc_max_len ? vp_map_set_int(model, "doc_max_len", s->doc_max_len, err) : VP_OK;
}

int vp_model_describe(const vp_model *m, vp_map *header, vp_error *err) {
    vp_map *model = vp_map_sub(header, "model");
    if (!model) model = vp_map_new();
    if (!model) return vp_fail_memory(err, "a map", 1);
    int status = describe(m, model, err);
    if (!status) status = vp_map_set_map(header, "model", model, err);
    vp_map_free(model);
    return status ? status : vp_encoder_space(header, err);
}

typedef struct member {
    const char *name;
    enum { TEXT, TEXTS, NUMBER } kind;
} member;

/* Every member by name and value, length-prefixed, whatever way the map spells it in msgpack: absent is empty. */
static void hash_member(vp_hasher *h, const vp_map *m, const member *what) {
    char number[32] = "";
    vp_hasher_str(h, what->name);
    if (!m || !vp_map_has(m, what->name)) {
        vp_hasher_str(h, "");
    } else if (what->kind == TEXT) {
        vp_hasher_str(h, vp_map_str(m, what->name));
    } else if (what->kind == TEXTS) {
        const char *text;
        for (size_t i = 0; (text = vp_map_str_at(m, what->name, i)); i++) vp_hasher_str(h, text);
    } else {
        int64_t value = vp_map_int(m, what->name, vp_map_bool(m, what->name, false));
        snprintf(number, sizeof number, "%lld", (long long)value);
        vp_hasher_str(h, number);
    }
}

int vp_encoder_space(vp_map *header, vp_error *err) {
    static const member of_model[] = {{"fingerprint", TEXT}, {"adapter_fingerprints", TEXTS}, {"tokenizer", TEXT}};
    static const member of_encoder[] = {{"attention", TEXT},  {"layer", TEXT},       {"pooling", TEXT},
                                        {"projection", TEXT}, {"normalize", NUMBER}, {"dims", NUMBER}};
    vp_map *model = vp_map_sub(header, "model"), *encoder = vp_map_sub(header, "encoder");
    if (!encoder) encoder = vp_map_new();
    vp_hasher h;
    int status = encoder ? vp_hasher_begin(&h, err) : vp_fail_memory(err, "a map", 1);
    if (!status) {
        for (size_t i = 0; i < sizeof of_model / sizeof *of_model; i++) hash_member(&h, model, &of_model[i]);
        for (size_t i = 0; i < sizeof of_encoder / sizeof *of_encoder; i++) hash_member(&h, encoder, &of_encoder[i]);
        uint8_t digest[16];
        char space[33];
        vp_hasher_finish(&h, digest);
        vp_hex(space, digest, sizeof digest);
        status = vp_map_set_str(encoder, "space", space, err);
    }
    if (!status) status = vp_map_set_map(header, "encoder", encoder, err);
    vp_map_free(model);
    vp_map_free(encoder);
    return status;
}
