/* A projection of pooled vectors in folders, as sentence-transformers' Dense, and where its training begins. */
#include "lib/model/projection.h"
#include "lib/base/json.h"
#include "lib/base/philox.h"
#include "lib/file/export.h"
#include "lib/model/weights.h"
#include "kernels/ops.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char weights[] = VP_PROJECTION_FOLDER "/model.safetensors", config[] = VP_PROJECTION_FOLDER "/config.json";
static const char linear[] = "linear.weight", bias[] = "linear.bias";

bool vp_projection_exists(const char *folder) {
    return vp_path_exists(folder, weights);
}

static int read_config(vp_projection_file *f, const vp_json *j, int64_t width, vp_error *err) {
    int64_t in = 0;
    const char *activation = "Identity";
    VP_TRY(vp_json_int(j, j->root, "in_features", &in, err));
    VP_TRY(vp_json_int(j, j->root, "out_features", &f->dims, err));
    VP_TRY(vp_json_str(j, j->root, "activation_function", &activation, err));
    const char *dot = strrchr(activation, '.');
    if (strcmp(dot ? dot + 1 : activation, "Identity") != 0)
        return vp_fail(err, VP_DATA, "%s: activation_function \"%s\" is not supported", j->path, activation);
    if (in != width || f->dims < 1 || f->dims > VP_PROJECTION_MOST)
        return vp_fail(err, VP_DATA, "%s: a projection of %lld to %lld for a model of width %lld", j->path,
                       (long long)in, (long long)f->dims, (long long)width);
    return VP_OK;
}

static int check_tensors(const vp_projection_file *f, int64_t width, vp_error *err) {
    const vp_tensor_info *w = vp_source_find(f->source, linear), *b = vp_source_find(f->source, bias);
    if (!w) return vp_fail(err, VP_DATA, "%s: tensor %s is missing", vp_source_at(f->source, 0)->file, linear);
    VP_TRY(vp_tensor_check(w, f->dims, width, err));
    return b ? vp_tensor_check(b, 1, f->dims, err) : VP_OK;
}

static int open_source(vp_projection_file *f, const char *folder, int64_t width, vp_error *err) {
    static const char what[] = "projection\n";
    uint8_t digest[16] = {0};
    char *path;
    VP_TRY(vp_path_join(&path, folder, weights, err));
    int status = vp_source_open(&f->source, path, err);
    free(path);
    if (!status && !vp_source_count(f->source)) status = vp_fail(err, VP_DATA, "%s: no tensors", folder);
    if (!status) status = check_tensors(f, width, err);
    if (!status) status = vp_source_fingerprint(f->source, what, sizeof what - 1, digest, err);
    vp_hex(f->fingerprint, digest, sizeof digest);
    return status;
}

int vp_projection_open(vp_projection_file *f, const char *folder, int64_t width, vp_error *err) {
    vp_json j;
    *f = (vp_projection_file){0};
    VP_TRY(vp_json_open(&j, folder, config, JSON_OBJECT, err));
    int status = read_config(f, &j, width, err);
    vp_json_close(&j);
    return status ? status : open_source(f, folder, width, err);
}

int vp_projection_read(const vp_projection_file *f, int64_t width, float *value, vp_error *err) {
    const vp_tensor_info *w = vp_source_find(f->source, linear), *b = vp_source_find(f->source, bias);
    const int64_t n = f->dims * width;
    for (int64_t r = 0; r < f->dims; r++) VP_TRY(vp_tensor_row(w, r, value + r * width, err));
    memset(value + n, 0, (size_t)f->dims * sizeof *value);
    if (b) VP_TRY(vp_tensor_row(b, 0, value + n, err));
    for (int64_t k = 0; k < n + f->dims; k++)
        if (!isfinite(value[k]))
            return vp_fail(err, VP_DATA, "%s: tensor %s is not finite", w->file, k < n ? linear : bias);
    return VP_OK;
}

void vp_projection_close(vp_projection_file *f) {
    vp_source_close(f->source);
    *f = (vp_projection_file){0};
}

static int write_tensors(int fd, const char *path, int64_t dims, int64_t width, const float *value, vp_dtype dtype,
                         vp_error *err) {
    vp_export *e;
    const int64_t shape[] = {dims, width};
    VP_TRY(vp_export_open_fd(&e, fd, path, err));
    int status = vp_export_declare(e, linear, dtype, 2, shape, err);
    if (!status) status = vp_export_declare(e, bias, dtype, 1, shape, err);
    if (!status) status = vp_export_values(e, value, (size_t)(dims * width), err);
    if (!status) status = vp_export_values(e, value + dims * width, (size_t)dims, err);
    if (!status) status = vp_export_finish(e, err);
    vp_export_close(e);
    return status;
}

static int write_config(const char *folder, int64_t dims, int64_t width, vp_error *err) {
    json_t *root = json_pack("{s:I, s:I, s:b, s:s}", "in_features", (json_int_t)width, "out_features", (json_int_t)dims,
                             "bias", 1, "activation_function", "torch.nn.modules.linear.Identity");
    const int status = root ? vp_json_publish(folder, config, root, err) : vp_fail_memory(err, "config.json", 1);
    json_decref(root);
    return status;
}

int vp_projection_write(const char *folder, int64_t dims, int64_t width, const float *value, vp_dtype dtype,
                        vp_error *err) {
    char *path;
    vp_publish p;
    VP_TRY(vp_path_join(&path, folder, VP_PROJECTION_FOLDER, err));
    int status = mkdir(path, 0777) && errno != EEXIST ? vp_fail_errno(err, "cannot create '%s'", path) : VP_OK;
    free(path);
    if (!status) status = write_config(folder, dims, width, err);
    if (status) return status;
    VP_TRY(vp_path_join(&path, folder, weights, err));
    status = vp_publish_open(&p, path, err);
    if (!status) status = vp_publish_end(&p, write_tensors(p.fd, path, dims, width, value, dtype, err), err);
    free(path);
    return status;
}

void vp_projection_start(int64_t dims, int64_t width, uint64_t seed, float *value) {
    const double bound = 1 / sqrt((double)width);
    uint32_t word[4] = {0};
    for (int64_t k = 0; k < vp_projection_count(dims, width); k++) {
        const uint32_t counter[4] = {(uint32_t)(k >> 2), 0, 2, VP_SITE_START << 14};
        if (!(k & 3)) vp_philox(word, counter, seed);
        value[k] = (float)((((double)word[k & 3] + 0.5) / 2147483648.0 - 1) * bound);
    }
}
