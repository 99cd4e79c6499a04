/* Opening a source of tensors: which files make it up (one file, or the shards that an index names), and the table of
 * all their tensors. The formats are read in safetensors.c and gguf.c, values in quant.c. */
#include "lib/base/json.h"
#include "lib/file/source_table.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct source_file {
    char *path;
    vp_map_file map;
} source_file;

struct vp_source {
    source_file *file; /* safetensors files; the paths are what their tensors' `file` points to */
    size_t nfiles;
    vp_table own; /* their tensors */
    vp_gguf *gguf;
};

/* ---- the table ---- */

int vp_table_add(vp_table *t, const vp_tensor_info *info, const char *name, size_t name_len, vp_error *err) {
    VP_TRY(vp_grow(&t->tensor, &t->cap, t->n, sizeof *t->tensor, "a tensor table", err));
    vp_tensor_info *added = &t->tensor[t->n];
    *added = *info;
    added->name = vp_strndup(name, name_len);
    if (!added->name) return vp_fail_memory(err, "a tensor's name", name_len);
    t->n++;
    return VP_OK;
}

static int compare_names(const void *a, const void *b, void *tensors) {
    const vp_tensor_info *t = tensors;
    return strcmp(t[*(const size_t *)a].name, t[*(const size_t *)b].name);
}

int vp_table_seal(vp_table *t, vp_error *err) {
    t->by_name = vp_calloc(t->n, sizeof *t->by_name);
    if (!t->by_name) return vp_fail_memory(err, "a tensor table", t->n * sizeof *t->by_name);
    for (size_t i = 0; i < t->n; i++) t->by_name[i] = i;
    if (t->n) qsort_r(t->by_name, t->n, sizeof *t->by_name, compare_names, t->tensor);
    for (size_t i = 1; i < t->n; i++) {
        const vp_tensor_info *a = &t->tensor[t->by_name[i - 1]], *b = &t->tensor[t->by_name[i]];
        if (strcmp(a->name, b->name) == 0)
            return vp_fail(err, VP_DATA, "'%s': tensor '%.100s': also in '%s'", a->file, a->name, b->file);
    }
    return VP_OK;
}

static const vp_tensor_info *find(const vp_table *t, const char *name) {
    size_t low = 0, high = t->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const vp_tensor_info *info = &t->tensor[t->by_name[middle]];
        int order = strcmp(name, info->name);
        if (order == 0) return info;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

void vp_table_free(vp_table *t) {
    for (size_t i = 0; i < t->n; i++) free(t->tensor[i].name);
    free(t->tensor);
    free(t->by_name);
    *t = (vp_table){0};
}

bool vp_shape_elements(int ndim, const int64_t *shape, int64_t *elements) {
    int64_t product = 1;
    bool empty = false;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] == 0)
            empty = true;
        else if (shape[i] < 0 || __builtin_mul_overflow(product, shape[i], &product))
            return false;
    }
    *elements = empty ? 0 : product;
    return true;
}

int64_t vp_tensor_rows(const vp_tensor_info *t) {
    return t->ndim >= 2 ? t->shape[0] : 1;
}

int64_t vp_tensor_cols(const vp_tensor_info *t) {
    int64_t cols = 1;
    for (int i = t->ndim >= 2; i < t->ndim; i++) cols *= t->shape[i];
    return cols;
}

/* ---- files of a source ---- */

/* Map one safetensors file, path = folder/name or name, and append its tensors. */
static int add_file(vp_source *s, const char *folder, const char *name, vp_error *err) {
    source_file *f = &s->file[s->nfiles];
    vp_buf path = {0};
    VP_TRY(folder ? vp_buf_printf(&path, err, "%s/%s", folder, name) : vp_buf_printf(&path, err, "%s", name));
    f->path = path.data;
    int status = vp_map_open(&f->map, f->path, err);
    if (status) {
        vp_buf_free(&path);
        return status;
    }
    s->nfiles++;
    return vp_safetensors_read(&s->own, &f->map, f->path, err);
}

static int compare_strings(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct values of weight_map, sorted; they belong to the JSON. A name must stay inside the folder. */
static int shard_names(json_t *weights, const char *path, const char **shard, size_t *n, vp_error *err) {
    const char *tensor;
    json_t *value;
    size_t count = 0;
    json_object_foreach(weights, tensor, value) {
        const char *name = json_string_value(value);
        if (!name || !*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            return vp_fail(err, VP_DATA, "'%s': tensor '%.100s': its shard is no plain file name", path, tensor);
        shard[count++] = name;
    }
    qsort(shard, count, sizeof *shard, compare_strings);
    *n = 0;
    for (size_t i = 0; i < count; i++)
        if (*n == 0 || strcmp(shard[*n - 1], shard[i]) != 0) shard[(*n)++] = shard[i];
    return VP_OK;
}

/* Every tensor must be where the index says. */
static int check_index(const vp_source *s, json_t *weights, const char *path, vp_error *err) {
    const char *tensor;
    json_t *value;
    json_object_foreach(weights, tensor, value) {
        const vp_tensor_info *t = find(&s->own, tensor);
        const char *shard = json_string_value(value);
        if (!t || strcmp(strrchr(t->file, '/') + 1, shard) != 0)
            return vp_fail(err, VP_DATA, "'%s': tensor '%.100s': not in its shard '%.100s'", path, tensor, shard);
    }
    return VP_OK;
}

static int add_shards(vp_source *s, const char *folder, json_t *weights, const char *path, vp_error *err) {
    size_t tensors = json_object_size(weights), n = 0;
    if (!tensors) return vp_fail(err, VP_DATA, "'%s': no weight_map that names tensors", path);
    const char **shard = vp_calloc(tensors, sizeof *shard);
    if (!shard) return vp_fail_memory(err, "a list of shards", tensors * sizeof *shard);
    int status = shard_names(weights, path, shard, &n, err);
    if (!status && !(s->file = vp_calloc(n, sizeof *s->file)))
        status = vp_fail_memory(err, "a list of shards", n * sizeof *s->file);
    for (size_t i = 0; i < n && !status; i++) status = add_file(s, folder, shard[i], err);
    free((void *)shard);
    if (!status) status = vp_table_seal(&s->own, err);
    return status ? status : check_index(s, weights, path, err);
}

static int open_single(vp_source *s, const char *folder, const char *name, vp_error *err) {
    s->file = vp_calloc(1, sizeof *s->file);
    if (!s->file) return vp_fail_memory(err, "a source", sizeof *s->file);
    VP_TRY(add_file(s, folder, name, err));
    return vp_table_seal(&s->own, err);
}

static int open_folder(vp_source *s, const char *folder, vp_error *err) {
    static const char single[] = "model.safetensors", sharded[] = "model.safetensors.index.json";
    vp_buf path = {0};
    struct stat st;
    VP_TRY(vp_buf_printf(&path, err, "%s/%s", folder, single));
    bool whole = stat(path.data, &st) == 0;
    vp_buf_free(&path);
    if (whole) return open_single(s, folder, single, err);
    vp_json index;
    VP_TRY(vp_json_open_optional(&index, folder, sharded, JSON_OBJECT, err));
    if (!index.root) return vp_fail(err, VP_DATA, "'%s': no %s and no %s", folder, single, sharded);
    /* {"weight_map": {tensor: file}} */
    int status = add_shards(s, folder, json_object_get(index.root, "weight_map"), index.path, err);
    vp_json_close(&index);
    return status;
}

/* A GGUF file by its name or its first bytes. */
static int looks_like_gguf(const char *path, bool *gguf, vp_error *err) {
    size_t n = strlen(path);
    *gguf = n > 5 && strcmp(path + n - 5, ".gguf") == 0;
    if (*gguf) return VP_OK;
    vp_map_file map;
    VP_TRY(vp_map_open(&map, path, err));
    *gguf = map.size >= 4 && memcmp(map.data, "GGUF", 4) == 0;
    vp_map_close(&map);
    return VP_OK;
}

static int open_any(vp_source *s, const char *path, vp_error *err) {
    struct stat st;
    bool gguf;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return open_folder(s, path, err);
    VP_TRY(looks_like_gguf(path, &gguf, err));
    return gguf ? vp_gguf_open(&s->gguf, path, err) : open_single(s, NULL, path, err);
}

int vp_source_open(vp_source **out, const char *path, vp_error *err) {
    *out = NULL;
    vp_source *s = calloc(1, sizeof *s);
    if (!s) return vp_fail_memory(err, "a source", sizeof *s);
    int status = open_any(s, path, err);
    if (status) {
        vp_source_close(s);
        return status;
    }
    *out = s;
    return VP_OK;
}

void vp_source_forget(const vp_source *s) {
    for (size_t i = 0; i < s->nfiles; i++) vp_map_forget(&s->file[i].map);
    if (s->gguf) vp_gguf_forget(s->gguf);
}

void vp_source_close(vp_source *s) {
    if (!s) return;
    vp_table_free(&s->own);
    for (size_t i = 0; i < s->nfiles; i++) {
        vp_map_close(&s->file[i].map);
        free(s->file[i].path);
    }
    free(s->file);
    vp_gguf_close(s->gguf);
    free(s);
}

const vp_gguf *vp_source_gguf(const vp_source *s) {
    return s->gguf;
}
const vp_table *vp_source_table(const vp_source *s) {
    return s->gguf ? vp_gguf_table(s->gguf) : &s->own;
}
size_t vp_source_count(const vp_source *s) {
    return vp_source_table(s)->n;
}

const vp_tensor_info *vp_source_at(const vp_source *s, size_t i) {
    const vp_table *t = vp_source_table(s);
    return i < t->n ? &t->tensor[i] : NULL;
}

const vp_tensor_info *vp_source_find(const vp_source *s, const char *name) {
    return find(vp_source_table(s), name);
}
