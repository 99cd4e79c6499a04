/* The streaming safetensors writer. A file: u64 length of the header, JSON {name: {dtype, shape, data_offsets}} padded
 * with blanks to 8 bytes, then the tensors back to back in the order of declaration. */
#include "lib/file/export.h"
#include "lib/base/half.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUFFER = 1 << 20, NAME_BYTES = 64, MAX_DIMS = 4 };

typedef struct planned {
    char *name;
    vp_dtype dtype;
    int ndim;
    int64_t shape[MAX_DIMS], bytes;
    int64_t shard; /* from 0 */
} planned;

struct vp_export {
    char *folder; /* with `given`: its name */
    int64_t max_shard, in_shard, shards, total;
    planned *tensor;
    size_t n, cap;
    size_t at;     /* the tensor whose turn it is */
    int64_t left;  /* its bytes that are still to come */
    int fd, given; /* given: the caller's, the only one; else -1 */
    char *path;    /* of the open file */
    int64_t opened;
    vp_buf buffer;
    double largest, sum;
    int64_t values;
};

int vp_export_open(vp_export **out, const char *folder, int64_t max_shard, vp_error *err) {
    vp_export *e = vp_calloc(1, sizeof *e);
    *out = e;
    if (!e) return vp_fail_memory(err, "an export", sizeof *e);
    e->fd = e->given = -1;
    e->max_shard = max_shard;
    e->folder = vp_strndup(folder, strlen(folder));
    int status = e->folder ? vp_buf_reserve(&e->buffer, BUFFER, err) : vp_fail_memory(err, "a path", strlen(folder));
    if (status) {
        vp_export_close(e);
        *out = NULL;
    }
    return status;
}

int vp_export_open_fd(vp_export **out, int fd, const char *name, vp_error *err) {
    VP_TRY(vp_export_open(out, name, INT64_MAX, err));
    (*out)->given = fd;
    return VP_OK;
}

void vp_export_close(vp_export *e) {
    if (!e) return;
    if (e->fd >= 0 && e->fd != e->given) close(e->fd);
    for (size_t i = 0; i < e->n; i++) free(e->tensor[i].name);
    free(e->tensor);
    free(e->path);
    free(e->folder);
    vp_buf_free(&e->buffer);
    free(e);
}

int vp_export_declare(vp_export *e, const char *name, vp_dtype dtype, int ndim, const int64_t *shape, vp_error *err) {
    planned t = {.dtype = dtype, .ndim = ndim, .bytes = (int64_t)vp_dtype_size(dtype)};
    if (e->opened || ndim < 0 || ndim > MAX_DIMS) return vp_fail(err, VP_BUG, "tensor '%.100s' declared late", name);
    for (int i = 0; i < ndim; i++) {
        t.shape[i] = shape[i];
        if (shape[i] < 0 || __builtin_mul_overflow(t.bytes, shape[i], &t.bytes))
            return vp_fail(err, VP_DATA, "tensor '%.100s': its shape overflows", name);
    }
    int64_t with;
    if (__builtin_add_overflow(e->total, t.bytes, &e->total))
        return vp_fail(err, VP_DATA, "tensor '%.100s': the sizes overflow", name);
    with = e->in_shard + t.bytes;
    if (!e->shards || (e->in_shard && with > e->max_shard)) {
        e->shards++;
        with = t.bytes;
    }
    e->in_shard = with;
    t.shard = e->shards - 1;
    VP_TRY(vp_grow(&e->tensor, &e->cap, e->n, sizeof *e->tensor, "a list of tensors", err));
    t.name = vp_strndup(name, strlen(name));
    if (!t.name) return vp_fail_memory(err, "a tensor's name", strlen(name));
    e->tensor[e->n++] = t;
    return VP_OK;
}

static void shard_name(const vp_export *e, int64_t shard, char out[NAME_BYTES]) {
    if (e->shards <= 1)
        snprintf(out, NAME_BYTES, "model.safetensors");
    else
        snprintf(out, NAME_BYTES, "model-%05lld-of-%05lld.safetensors", (long long)shard + 1, (long long)e->shards);
}

/* {"dtype": "F32", "shape": [...], "data_offsets": [from, to]} */
static json_t *header_entry(const planned *t, int64_t from) {
    json_t *shape = json_array();
    bool ok = shape != NULL;
    for (int i = 0; ok && i < t->ndim; i++) ok = !json_array_append_new(shape, json_integer(t->shape[i]));
    if (!ok) {
        json_decref(shape);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", vp_dtype_name(t->dtype), "shape", shape, "data_offsets",
                     (json_int_t)from, (json_int_t)(from + t->bytes));
}

static json_t *shard_header(const vp_export *e, int64_t shard) {
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    bool ok = root != NULL;
    int64_t from = 0;
    for (size_t i = 0; ok && i < e->n; i++) {
        if (e->tensor[i].shard != shard) continue;
        ok = !json_object_set_new(root, e->tensor[i].name, header_entry(&e->tensor[i], from));
        from += e->tensor[i].bytes;
    }
    if (ok) return root;
    json_decref(root);
    return NULL;
}

static int flush(vp_export *e, vp_error *err) {
    VP_TRY(vp_write_all(e->fd, e->buffer.data, e->buffer.len, e->path, err));
    e->buffer.len = 0;
    return VP_OK;
}

static int close_shard(vp_export *e, vp_error *err) {
    if (e->fd < 0) return VP_OK;
    VP_TRY(flush(e, err));
    if (e->fd == e->given) return VP_OK;
    int status = fsync(e->fd) ? vp_fail_errno(err, "cannot sync '%s'", e->path) : VP_OK;
    if (close(e->fd) && !status) status = vp_fail_errno(err, "cannot write '%s'", e->path);
    e->fd = -1;
    return status;
}

static int put_header(vp_export *e, vp_error *err) {
    json_t *header = shard_header(e, e->opened - 1);
    char *text = header ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (!text) return vp_fail(err, VP_MEMORY, "out of memory for a safetensors header, or a name is not UTF-8");
    size_t n = strlen(text);
    uint64_t padded = (n + 7) / 8 * 8; /* little-endian, as this library's machines are */
    int status = vp_buf_add(&e->buffer, &padded, sizeof padded, err);
    if (!status) status = vp_buf_add(&e->buffer, text, n, err);
    if (!status) status = vp_buf_add(&e->buffer, "       ", padded - n, err);
    free(text);
    return status ? status : flush(e, err);
}

static int open_shard(vp_export *e, vp_error *err) {
    char name[NAME_BYTES];
    vp_buf path = {0};
    if (e->given >= 0) {
        e->opened++;
        e->fd = e->given;
        e->path = vp_strndup(e->folder, strlen(e->folder));
        return e->path ? put_header(e, err) : vp_fail_memory(err, "a path", strlen(e->folder));
    }
    shard_name(e, e->opened, name);
    VP_TRY(vp_buf_printf(&path, err, "%s/%s", e->folder, name));
    free(e->path);
    e->path = path.data;
    e->opened++;
    e->fd = open(e->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (e->fd < 0) return vp_fail_errno(err, "cannot create '%s'", e->path);
    return put_header(e, err);
}

/* Step over tensors that are complete (and empty ones), to the one whose bytes come next. */
static int begin_tensor(vp_export *e, vp_error *err) {
    while (e->at < e->n && e->left == 0) {
        if (e->tensor[e->at].shard >= e->opened) {
            VP_TRY(close_shard(e, err));
            VP_TRY(open_shard(e, err));
        }
        e->left = e->tensor[e->at].bytes;
        if (e->left == 0) e->at++;
    }
    return VP_OK;
}

int vp_export_bytes(vp_export *e, const void *data, size_t n, vp_error *err) {
    if (n == 0) return VP_OK;
    VP_TRY(begin_tensor(e, err));
    if (e->at >= e->n || n > (uint64_t)e->left) return vp_fail(err, VP_BUG, "more values than were declared");
    if (e->buffer.len + n > BUFFER) VP_TRY(flush(e, err));
    if (n > BUFFER)
        VP_TRY(vp_write_all(e->fd, data, n, e->path, err));
    else
        VP_TRY(vp_buf_add(&e->buffer, data, n, err));
    e->left -= (int64_t)n;
    if (e->left == 0) e->at++;
    return VP_OK;
}

static void count_rounding(vp_export *e, float value, float stored) {
    if (value == 0) return;
    double relative = fabs(((double)stored - (double)value) / (double)value);
    if (relative > e->largest) e->largest = relative;
    e->sum += relative;
    e->values++;
}

enum { GROUP = 1024 };

/* At most GROUP values, in `dtype` BF16 or F16. */
static int put_half(vp_export *e, const char *name, vp_dtype dtype, const float *x, size_t n, vp_error *err) {
    uint16_t h[GROUP];
    for (size_t i = 0; i < n; i++) {
        h[i] = dtype == VP_BF16 ? vp_float_bf16(x[i]) : vp_float_f16(x[i]);
        float stored = dtype == VP_BF16 ? vp_bf16_float(h[i]) : vp_f16_float(h[i]);
        if (!isfinite(stored))
            return vp_fail(err, VP_DATA, "tensor '%.100s': %g is too large for %s", name, x[i], vp_dtype_name(dtype));
        count_rounding(e, x[i], stored);
    }
    return vp_export_bytes(e, h, n * sizeof *h, err);
}

int vp_export_values(vp_export *e, const float *x, size_t n, vp_error *err) {
    if (n == 0) return VP_OK;
    VP_TRY(begin_tensor(e, err));
    if (e->at >= e->n) return vp_fail(err, VP_BUG, "more values than were declared");
    const char *name = e->tensor[e->at].name;
    vp_dtype dtype = e->tensor[e->at].dtype;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return vp_fail(err, VP_DATA, "tensor '%.100s': a value that is not finite", name);
    if (dtype == VP_F32) return vp_export_bytes(e, x, n * sizeof *x, err);
    if (dtype != VP_BF16 && dtype != VP_F16) return vp_fail(err, VP_BUG, "tensor '%.100s': values of this type", name);
    for (size_t i = 0; i < n; i += GROUP) VP_TRY(put_half(e, name, dtype, x + i, n - i < GROUP ? n - i : GROUP, err));
    return VP_OK;
}

/* {"metadata": {"total_size": N}, "weight_map": {tensor: file}} */
static int write_index(vp_export *e, vp_error *err) {
    json_t *map = json_object();
    bool ok = map != NULL;
    char name[NAME_BYTES];
    for (size_t i = 0; ok && i < e->n; i++) {
        shard_name(e, e->tensor[i].shard, name);
        ok = !json_object_set_new(map, e->tensor[i].name, json_string(name));
    }
    json_t *root =
        ok ? json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)e->total, "weight_map", map) : NULL;
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    int status = text ? vp_write_file(e->folder, "model.safetensors.index.json", text, strlen(text), err)
                      : vp_fail(err, VP_MEMORY, "out of memory for the index of shards");
    free(text);
    json_decref(root);
    json_decref(map);
    return status;
}

int vp_export_finish(vp_export *e, vp_error *err) {
    VP_TRY(begin_tensor(e, err));
    if (e->at < e->n) return vp_fail(err, VP_BUG, "tensor '%.100s': values are missing", e->tensor[e->at].name);
    VP_TRY(close_shard(e, err));
    return e->shards > 1 ? write_index(e, err) : VP_OK;
}

vp_rounding vp_export_rounding(const vp_export *e) {
    return (vp_rounding){e->largest, e->values ? e->sum / (double)e->values : 0, e->values};
}
int64_t vp_export_size(const vp_export *e) {
    return e->total;
}
int64_t vp_export_files(const vp_export *e) {
    return e->shards;
}
