/* Parameter spaces to and from safetensors files (tensors.h). */
#include "lib/train/tensors.h"
#include "lib/file/export.h"
#include "lib/file/source.h"
#include <stdio.h>
#include <string.h>

enum { NAME_MAX_BYTES = 300 };

static int full_name(char out[NAME_MAX_BYTES], const vp_param *p, const char *suffix, vp_error *err) {
    const int n = snprintf(out, NAME_MAX_BYTES, "%s%s", p->name, suffix);
    return n > 0 && n < NAME_MAX_BYTES ? VP_OK : vp_fail(err, VP_BUG, "parameter '%.100s': its name", p->name);
}

static int declare(vp_export *e, const vp_params *params, const vp_numbers *kind, vp_error *err) {
    char name[NAME_MAX_BYTES];
    for (size_t i = 0; i < params->n; i++) {
        const vp_param *p = &params->param[i];
        VP_TRY(full_name(name, p, kind->suffix, err));
        VP_TRY(vp_export_declare(e, name, kind->dtype, 2, (const int64_t[]){p->rows, p->cols}, err));
    }
    return VP_OK;
}

static int put(vp_export *e, const vp_params *params, const vp_numbers *kind, vp_error *err) {
    for (size_t i = 0; i < params->n; i++) {
        const vp_param *p = &params->param[i];
        VP_TRY(vp_export_values(e, kind->value + p->first, (size_t)(p->rows * p->cols), err));
    }
    return VP_OK;
}

int vp_tensors_write(int fd, const char *path, const vp_params *params, const vp_numbers *kind, size_t kinds,
                     vp_error *err) {
    vp_export *e;
    VP_TRY(vp_export_open_fd(&e, fd, path, err));
    int status = VP_OK;
    for (size_t k = 0; !status && k < kinds; k++)
        if (kind[k].value) status = declare(e, params, &kind[k], err);
    for (size_t k = 0; !status && k < kinds; k++)
        if (kind[k].value) status = put(e, params, &kind[k], err);
    if (!status) status = vp_export_finish(e, err);
    vp_export_close(e);
    return status;
}

static int take(const vp_source *s, const char *path, const vp_params *params, const vp_numbers *kind, vp_error *err) {
    char name[NAME_MAX_BYTES];
    for (size_t i = 0; i < params->n; i++) {
        const vp_param *p = &params->param[i];
        VP_TRY(full_name(name, p, kind->suffix, err));
        const vp_tensor_info *t = vp_source_find(s, name);
        if (!t) return vp_fail(err, VP_DATA, "'%s': tensor '%s' is missing", path, name);
        if (t->storage != VP_STORE_PLAIN || t->dtype != VP_F32 || t->ndim != 2 || t->shape[0] != p->rows ||
            t->shape[1] != p->cols)
            return vp_fail(err, VP_DATA, "'%s': tensor '%s' is not F32 [%lld, %lld]", path, name, (long long)p->rows,
                           (long long)p->cols);
        memcpy(kind->value + p->first, t->data, t->bytes);
    }
    return VP_OK;
}

int vp_tensors_read(const char *path, const vp_params *params, const vp_numbers *kind, size_t kinds, vp_error *err) {
    vp_source *s;
    VP_TRY(vp_source_open(&s, path, err));
    int status = VP_OK;
    size_t expected = 0;
    for (size_t k = 0; !status && k < kinds; k++) {
        if (!kind[k].value) continue;
        expected += params->n;
        status = take(s, path, params, &kind[k], err);
    }
    if (!status && vp_source_count(s) != expected)
        status = vp_fail(err, VP_DATA, "'%s': %zu tensors, not %zu", path, vp_source_count(s), expected);
    vp_source_close(s);
    return status;
}
