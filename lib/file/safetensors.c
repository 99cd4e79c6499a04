/* The header of a safetensors file: u64 length, JSON {name: {dtype, shape, data_offsets}}, then the data, which must be
 * covered without gaps or overlaps, as the reference (github.com/huggingface/safetensors) demands. */
#include "lib/file/source_table.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Longest header that is parsed: 250,000 tensors' worth. A JSON tree takes some twenty times its text. */
enum { HEADER_MAX = 32 << 20 };

typedef struct entry {
    const char *name; /* the JSON's */
    vp_tensor_info info;
    uint64_t begin, end;
} entry;

static int bad_tensor(const char *path, const char *name, vp_error *err, const char *why) {
    return vp_fail(err, VP_DATA, "'%s': tensor '%.100s': %s", path, name, why);
}

/* Types of the format that vecpipe has no element type for: listed, never read. */
static const struct {
    const char *name;
    uint8_t size;
} others[] = {{"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"C64", 8}};

/* Sets type, storage, dtype; returns bytes an element, 0 for an unknown type. */
static size_t find_type(vp_tensor_info *info, const char *name) {
    info->dtype = vp_dtype_find(name, strlen(name));
    if (info->dtype != VP_NDTYPES) {
        info->type = vp_dtype_name(info->dtype);
        return vp_dtype_size(info->dtype);
    }
    info->storage = VP_STORE_OTHER;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(name, others[i].name) == 0) {
            info->type = others[i].name;
            return others[i].size;
        }
    return 0;
}

static int read_entry(entry *e, json_t *value, const char *path, vp_error *err) {
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    json_t *shape = json_object_get(value, "shape"), *offsets = json_object_get(value, "data_offsets");
    if (!dtype || !json_is_array(shape) || !json_is_array(offsets))
        return bad_tensor(path, e->name, err, "no dtype, shape and data_offsets");
    size_t size = find_type(&e->info, dtype);
    if (!size) return vp_fail(err, VP_DATA, "'%s': tensor '%.100s': unknown dtype '%.32s'", path, e->name, dtype);
    if (json_array_size(shape) > 4) return bad_tensor(path, e->name, err, "more than 4 dimensions");
    e->info.ndim = (int)json_array_size(shape);
    for (int i = 0; i < e->info.ndim; i++) {
        json_t *dim = json_array_get(shape, (size_t)i);
        if (!json_is_integer(dim)) return bad_tensor(path, e->name, err, "a dimension is no integer");
        e->info.shape[i] = json_integer_value(dim); /* negative: refused with the product */
    }
    json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return bad_tensor(path, e->name, err, "data_offsets are no [begin, end]");
    e->begin = (uint64_t)json_integer_value(begin);
    e->end = (uint64_t)json_integer_value(end);
    int64_t elements;
    uint64_t bytes;
    if (!vp_shape_elements(e->info.ndim, e->info.shape, &elements) ||
        __builtin_mul_overflow((uint64_t)elements, size, &bytes) || bytes != e->end - e->begin)
        return bad_tensor(path, e->name, err, "data_offsets do not fit its shape and dtype");
    e->info.bytes = (size_t)bytes;
    return VP_OK;
}

static int check_metadata(json_t *metadata, const char *path, vp_error *err) {
    const char *key;
    json_t *value;
    if (!json_is_object(metadata)) return vp_fail(err, VP_DATA, "'%s': __metadata__ is no object", path);
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return vp_fail(err, VP_DATA, "'%s': __metadata__ '%.100s': not a string", path, key);
    }
    return VP_OK;
}

static int compare_offsets(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Entries sorted by offset become rows of the table; data[0..size) is all that follows the header. */
static int place_entries(vp_table *t, entry *e, size_t n, const uint8_t *data, uint64_t size, const char *path,
                         vp_error *err) {
    uint64_t end = 0;
    for (size_t i = 0; i < n; i++) {
        if (e[i].begin != end)
            return bad_tensor(path, e[i].name, err,
                              e[i].begin < end ? "overlaps the tensor before it" : "a gap lies before its data");
        if (e[i].end > size) return bad_tensor(path, e[i].name, err, "goes past the end of the file");
        end = e[i].end;
        e[i].info.file = path;
        e[i].info.data = data + e[i].begin;
        VP_TRY(vp_table_add(t, &e[i].info, e[i].name, strlen(e[i].name), err));
    }
    if (end != size)
        return vp_fail(err, VP_DATA, "'%s': %llu bytes after the last tensor", path, (unsigned long long)(size - end));
    return VP_OK;
}

static int read_entries(vp_table *t, json_t *header, const uint8_t *data, uint64_t size, const char *path,
                        vp_error *err) {
    const char *name;
    json_t *value;
    entry *e = vp_calloc(json_object_size(header), sizeof *e);
    if (!e) return vp_fail_memory(err, "a tensor table", json_object_size(header) * sizeof *e);
    size_t n = 0;
    int status = VP_OK;
    json_object_foreach(header, name, value) {
        if (strcmp(name, "__metadata__") == 0)
            status = check_metadata(value, path, err);
        else {
            e[n].name = name;
            status = read_entry(&e[n++], value, path, err);
        }
        if (status) break;
    }
    if (n) qsort(e, n, sizeof *e, compare_offsets);
    if (!status) status = place_entries(t, e, n, data, size, path, err);
    free(e);
    return status;
}

int vp_safetensors_read(vp_table *t, const vp_map_file *m, const char *path, vp_error *err) {
    uint64_t length = 0;
    if (m->size < sizeof length) return vp_fail(err, VP_DATA, "'%s': too short for a safetensors file", path);
    memcpy(&length, m->data, sizeof length);
    if (length > m->size - sizeof length)
        return vp_fail(err, VP_DATA, "'%s': not a safetensors file, or cut short: the header goes past its end", path);
    if (length > HEADER_MAX) return vp_fail(err, VP_DATA, "'%s': header of more than %d bytes", path, HEADER_MAX);
    const char *text = (const char *)m->data + sizeof length;
    json_error_t why;
    json_t *header = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &why);
    if (!header) return vp_fail(err, VP_DATA, "'%s': header: byte %d: %s", path, why.position, why.text);
    int status;
    if (json_is_object(header))
        status = read_entries(t, header, m->data + sizeof length + length, m->size - sizeof length - length, path, err);
    else
        status = vp_fail(err, VP_DATA, "'%s': header: not a JSON object", path);
    json_decref(header);
    return status;
}
