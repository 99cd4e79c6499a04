/* The latent-attention layer in folders, under the names of the published checkpoint. */
#include "lib/base/json.h"
#include "lib/file/export.h"
#include "lib/model/latent.h"
#include "lib/model/weights.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char section[] = "latent_attention_config";

/* The config that tells of a layer; root NULL: there is none. *own: of a result of ours, with its weights beside it. */
static int open_config(vp_json *j, const char *folder, bool *own, vp_error *err) {
    *own = vp_path_exists(folder, VP_LATENT_WEIGHTS);
    VP_TRY(vp_json_open_optional(j, folder, *own ? VP_LATENT_CONFIG : "config.json", JSON_OBJECT, err));
    if (!j->root || json_is_object(json_object_get(j->root, section))) return VP_OK;
    vp_json_close(j);
    *j = (vp_json){0};
    return VP_OK;
}

bool vp_latent_file_exists(const char *folder) {
    vp_error err = {0};
    vp_json j = {0};
    bool own;
    const bool there = !open_config(&j, folder, &own, &err) && j.root;
    vp_json_close(&j);
    return there;
}

/* What the config says, and what it leaves to the tensors. */
static int read_sizes(vp_latent_file *f, const vp_json *j, int64_t width, vp_error *err) {
    vp_latent_sizes *s = &f->sizes;
    const json_t *o = json_object_get(j->root, section);
    const char *form = "gated";
    int64_t latent_dim = width, hidden_dim = width;
    VP_TRY(vp_json_str(j, o, "form", &form, err));
    if (strcmp(form, "gated") && strcmp(form, "plain"))
        return vp_fail(err, VP_DATA, "%s: form \"%s\" is not supported", j->path, form);
    *s = (vp_latent_sizes){.heads = 8, .plain = !strcmp(form, "plain")};
    VP_TRY(vp_json_int(j, o, "num_latents_value", &s->latents, err));
    VP_TRY(vp_json_int(j, o, "num_cross_heads", &s->heads, err));
    VP_TRY(vp_json_int(j, o, "cross_dim_head", &s->head_width, err));
    VP_TRY(vp_json_int(j, o, "inner_dim", &s->inner, err));
    VP_TRY(vp_json_int(j, o, "latent_dim", &latent_dim, err));
    VP_TRY(vp_json_int(j, o, "hidden_dim", &hidden_dim, err));
    if (latent_dim != width || hidden_dim != width)
        return vp_fail(err, VP_DATA, "%s: a latent layer of width %lld for a model of width %lld", j->path,
                       (long long)(latent_dim != width ? latent_dim : hidden_dim), (long long)width);
    vp_error why = {0};
    return vp_latent_complete(s, width, &why) ? vp_fail(err, VP_DATA, "%s: %s", j->path, why.text) : VP_OK;
}

static int check_tensors(const vp_latent_file *f, int64_t width, vp_error *err) {
    vp_latent_tensor t;
    for (size_t i = 0; vp_latent_tensor_at(&f->sizes, width, i, &t); i++) {
        const vp_tensor_info *info = vp_source_find(f->source, t.name);
        if (!info) return vp_fail(err, VP_DATA, "%s: tensor %s is missing", vp_source_at(f->source, 0)->file, t.name);
        VP_TRY(vp_tensor_check(info, t.rows, t.cols, err));
    }
    return VP_OK;
}

static int fingerprint(vp_latent_file *f, vp_error *err) {
    const vp_latent_sizes *s = &f->sizes;
    vp_buf text = {0};
    uint8_t digest[16] = {0};
    int status = vp_buf_printf(&text, err, "latent %lld %lld %lld %lld %d\n", (long long)s->latents,
                               (long long)s->heads, (long long)s->head_width, (long long)s->inner, (int)s->plain);
    if (!status) status = vp_source_fingerprint(f->source, text.data, text.len, digest, err);
    vp_hex(f->fingerprint, digest, sizeof digest);
    vp_buf_free(&text);
    return status;
}

static int open_all(vp_latent_file *f, const vp_json *j, const char *folder, bool own, int64_t width, vp_error *err) {
    char *path;
    if (!j->root) return vp_fail(err, VP_DATA, "%s: no latent-attention layer is there", folder);
    VP_TRY(read_sizes(f, j, width, err));
    VP_TRY(vp_path_join(&path, folder, own ? VP_LATENT_WEIGHTS : "", err));
    int status = vp_source_open(&f->source, path, err);
    free(path);
    if (!status && !vp_source_count(f->source)) status = vp_fail(err, VP_DATA, "%s: no tensors", folder);
    if (!status) status = check_tensors(f, width, err);
    return status ? status : fingerprint(f, err);
}

int vp_latent_file_open(vp_latent_file *f, const char *folder, int64_t width, vp_error *err) {
    vp_json j = {0};
    bool own = false;
    *f = (vp_latent_file){0};
    int status = open_config(&j, folder, &own, err);
    if (!status) status = open_all(f, &j, folder, own, width, err);
    vp_json_close(&j);
    return status;
}

int vp_latent_file_read(const vp_latent_file *f, int64_t width, float *value, vp_error *err) {
    vp_latent_tensor t;
    for (size_t i = 0; vp_latent_tensor_at(&f->sizes, width, i, &t); i++) {
        const vp_tensor_info *info = vp_source_find(f->source, t.name);
        float *to = value + t.first;
        for (int64_t r = 0; r < t.rows; r++) VP_TRY(vp_tensor_row(info, r, to + r * t.cols, err));
        for (int64_t k = 0; k < t.rows * t.cols; k++)
            if (!isfinite(to[k])) return vp_fail(err, VP_DATA, "%s: tensor %s is not finite", info->file, t.name);
    }
    return VP_OK;
}

void vp_latent_file_close(vp_latent_file *f) {
    vp_source_close(f->source);
    *f = (vp_latent_file){0};
}

static int write_tensors(int fd, const char *path, const vp_latent_sizes *s, int64_t width, const float *value,
                         vp_dtype dtype, vp_error *err) {
    vp_export *e;
    vp_latent_tensor t;
    VP_TRY(vp_export_open_fd(&e, fd, path, err));
    int status = VP_OK;
    for (size_t i = 0; !status && vp_latent_tensor_at(s, width, i, &t); i++) {
        const int64_t shape[] = {t.rows, t.cols};
        status = vp_export_declare(e, t.name, dtype, t.vector ? 1 : 2, t.vector ? shape + 1 : shape, err);
    }
    for (size_t i = 0; !status && vp_latent_tensor_at(s, width, i, &t); i++)
        status = vp_export_values(e, value + t.first, (size_t)(t.rows * t.cols), err);
    if (!status) status = vp_export_finish(e, err);
    vp_export_close(e);
    return status;
}

int vp_latent_file_write(const char *folder, const vp_latent_sizes *s, int64_t width, const float *value,
                         vp_dtype dtype, vp_error *err) {
    char *path;
    vp_publish p;
    VP_TRY(vp_path_join(&path, folder, VP_LATENT_WEIGHTS, err));
    int status = vp_publish_open(&p, path, err);
    if (!status) status = vp_publish_end(&p, write_tensors(p.fd, path, s, width, value, dtype, err), err);
    free(path);
    return status;
}
