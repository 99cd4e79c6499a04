/* GGUF files, versions 2 and 3, little-endian: metadata and tensor table, read through a bounded cursor over the
 * mapping. Format: github.com/ggml-org/ggml, docs/gguf.md. Everything is checked once, at open; the getters only look
 * up. */
#include "lib/file/source_table.h"
#include <stdlib.h>
#include <string.h>

typedef struct gguf_value {
    const char *key; /* in the mapping, not terminated */
    size_t key_len;
    uint32_t type, element; /* vp_gguf_type; element: of an array */
    uint64_t n;             /* elements of an array, bytes of a string, else 1 */
    const uint8_t *data;    /* first element, or the string's bytes */
} gguf_value;

struct vp_gguf {
    char *path;
    vp_map_file map;
    gguf_value *value; /* sorted by key once read */
    size_t n, cap;
    vp_table tensors;
};

typedef struct cursor {
    const uint8_t *at;
    size_t left;
} cursor;

static bool take(cursor *c, void *out, size_t n) {
    if (c->left < n) return false;
    memcpy(out, c->at, n);
    c->at += n;
    c->left -= n;
    return true;
}

static bool skip(cursor *c, uint64_t n) {
    if (c->left < n) return false;
    c->at += n;
    c->left -= (size_t)n;
    return true;
}

static bool take_string(cursor *c, const char **s, size_t *n) {
    uint64_t length;
    if (!take(c, &length, sizeof length)) return false;
    *s = (const char *)c->at;
    *n = (size_t)length;
    return skip(c, length);
}

/* Bytes of one scalar, 0 for strings, arrays and unknown types. */
static size_t scalar_size(uint32_t type) {
    static const uint8_t size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof size ? size[type] : 0;
}

/* What a message shows of a name: enough to find it, and no more. */
static int shown(size_t n) {
    return n < 100 ? (int)n : 100;
}

/* ---- reading the metadata ---- */

static int cut_short(const vp_gguf *g, vp_error *err, const char *where) {
    return vp_fail(err, VP_DATA, "'%s': cut short within %s", g->path, where);
}

static int bad_key(const vp_gguf *g, vp_error *err, const gguf_value *v, const char *why) {
    return vp_fail(err, VP_DATA, "'%s': key '%.*s': %s", g->path, shown(v->key_len), v->key, why);
}

static int read_array(const vp_gguf *g, cursor *c, gguf_value *v, vp_error *err) {
    if (!take(c, &v->element, sizeof v->element) || !take(c, &v->n, sizeof v->n))
        return bad_key(g, err, v, "cut short by the end of the file");
    v->data = c->at;
    if (v->element == VP_GGUF_STRING) {
        if (v->n > c->left / 8) return bad_key(g, err, v, "more strings than the file has bytes for");
        for (uint64_t i = 0; i < v->n; i++) {
            const char *s;
            size_t n;
            if (!take_string(c, &s, &n)) return bad_key(g, err, v, "a string goes past the end of the file");
        }
        return VP_OK;
    }
    size_t size = scalar_size(v->element);
    if (!size) return bad_key(g, err, v, v->element == VP_GGUF_ARRAY ? "an array of arrays" : "unknown element type");
    if (v->n > c->left / size) return bad_key(g, err, v, "more elements than the file has bytes for");
    skip(c, v->n * size);
    return VP_OK;
}

static int read_value(vp_gguf *g, cursor *c, vp_error *err) {
    gguf_value v = {.n = 1};
    if (!take_string(c, &v.key, &v.key_len) || !take(c, &v.type, sizeof v.type))
        return cut_short(g, err, "the metadata keys");
    if (v.type == VP_GGUF_ARRAY) {
        VP_TRY(read_array(g, c, &v, err));
    } else if (v.type == VP_GGUF_STRING) {
        const char *s;
        size_t n;
        if (!take_string(c, &s, &n)) return bad_key(g, err, &v, "a string goes past the end of the file");
        v.data = (const uint8_t *)s;
        v.n = n;
    } else {
        size_t size = scalar_size(v.type);
        if (!size) return bad_key(g, err, &v, "unknown value type");
        v.data = c->at;
        if (!skip(c, size)) return bad_key(g, err, &v, "cut short by the end of the file");
    }
    VP_TRY(vp_grow(&g->value, &g->cap, g->n, sizeof *g->value, "GGUF metadata", err));
    g->value[g->n++] = v;
    return VP_OK;
}

static int compare_keys(const void *a, const void *b) {
    const gguf_value *x = a, *y = b;
    int order = memcmp(x->key, y->key, x->key_len < y->key_len ? x->key_len : y->key_len);
    return order ? order : (x->key_len > y->key_len) - (x->key_len < y->key_len);
}

static int read_metadata(vp_gguf *g, cursor *c, uint64_t count, vp_error *err) {
    for (uint64_t i = 0; i < count; i++) VP_TRY(read_value(g, c, err));
    if (g->n) qsort(g->value, g->n, sizeof *g->value, compare_keys);
    for (size_t i = 1; i < g->n; i++)
        if (compare_keys(&g->value[i - 1], &g->value[i]) == 0) return bad_key(g, err, &g->value[i], "given twice");
    return VP_OK;
}

/* ---- reading the tensor table ---- */

/* Storage types by their number in the file: name, elements a block, bytes a block. Types that are only listed are here
 * for their sizes: the tensor after one must begin where it ends. */
typedef struct gguf_storage {
    const char *name;
    uint16_t block, bytes;
    vp_storage storage;
    vp_dtype dtype;
} gguf_storage;
#define PLAIN(t, size)                                                                                                 \
    { #t, 1, size, VP_STORE_PLAIN, VP_##t }
#define BLOCKS(t, block, size)                                                                                         \
    { #t, block, size, VP_STORE_##t, VP_NDTYPES }
#define OTHER(t, block, size)                                                                                          \
    { #t, block, size, VP_STORE_OTHER, VP_NDTYPES }
static const gguf_storage storages[] = {
    [0] = PLAIN(F32, 4),
    [1] = PLAIN(F16, 2),
    [2] = BLOCKS(Q4_0, 32, 18),
    [3] = BLOCKS(Q4_1, 32, 20),
    [6] = OTHER(Q5_0, 32, 22),
    [7] = OTHER(Q5_1, 32, 24),
    [8] = BLOCKS(Q8_0, 32, 34),
    [9] = OTHER(Q8_1, 32, 36),
    [10] = OTHER(Q2_K, 256, 84),
    [11] = OTHER(Q3_K, 256, 110),
    [12] = OTHER(Q4_K, 256, 144),
    [13] = OTHER(Q5_K, 256, 176),
    [14] = OTHER(Q6_K, 256, 210),
    [15] = OTHER(Q8_K, 256, 292),
    [16] = OTHER(IQ2_XXS, 256, 66),
    [17] = OTHER(IQ2_XS, 256, 74),
    [18] = OTHER(IQ3_XXS, 256, 98),
    [19] = OTHER(IQ1_S, 256, 50),
    [20] = OTHER(IQ4_NL, 32, 18),
    [21] = OTHER(IQ3_S, 256, 110),
    [22] = OTHER(IQ2_S, 256, 82),
    [23] = OTHER(IQ4_XS, 256, 136),
    [24] = PLAIN(I8, 1),
    [25] = PLAIN(I16, 2),
    [26] = PLAIN(I32, 4),
    [27] = PLAIN(I64, 8),
    [28] = PLAIN(F64, 8),
    [29] = OTHER(IQ1_M, 256, 56),
    [30] = PLAIN(BF16, 2),
    [34] = OTHER(TQ1_0, 256, 54),
    [35] = OTHER(TQ2_0, 256, 66),
    [39] = OTHER(MXFP4, 32, 17),
};
#undef PLAIN
#undef BLOCKS
#undef OTHER

typedef struct gguf_tensor { /* as the file has it */
    const char *name;
    size_t name_len;
    uint32_t ndim, type;
    uint64_t dims[4], offset; /* innermost dim first; offset from the start of the data */
} gguf_tensor;

static int bad_tensor(const vp_gguf *g, vp_error *err, const gguf_tensor *t, const char *why) {
    return vp_fail(err, VP_DATA, "'%s': tensor '%.*s': %s", g->path, shown(t->name_len), t->name, why);
}

static int take_tensor(const vp_gguf *g, cursor *c, gguf_tensor *t, vp_error *err) {
    if (!take_string(c, &t->name, &t->name_len) || !take(c, &t->ndim, sizeof t->ndim))
        return cut_short(g, err, "the tensor table");
    if (memchr(t->name, '\0', t->name_len)) return bad_tensor(g, err, t, "its name holds a NUL byte");
    if (t->ndim > 4) return bad_tensor(g, err, t, "more than 4 dimensions");
    if (!take(c, t->dims, t->ndim * sizeof t->dims[0]) || !take(c, &t->type, sizeof t->type) ||
        !take(c, &t->offset, sizeof t->offset))
        return bad_tensor(g, err, t, "cut short by the end of the file");
    return VP_OK;
}

/* One row of the table. *end: where the data of the tensors before it end, from the start of the data. */
static int read_tensor(vp_gguf *g, cursor *c, uint64_t alignment, uint64_t *end, vp_error *err) {
    gguf_tensor t;
    VP_TRY(take_tensor(g, c, &t, err));
    if (t.type >= sizeof storages / sizeof *storages || !storages[t.type].name)
        return vp_fail(err, VP_DATA, "'%s': tensor '%.*s': unknown storage type %u", g->path, shown(t.name_len), t.name,
                       t.type);
    const gguf_storage *s = &storages[t.type];
    vp_tensor_info info = {
        .file = g->path, .type = s->name, .storage = s->storage, .dtype = s->dtype, .ndim = (int)t.ndim};
    for (uint32_t i = 0; i < t.ndim; i++) {
        if (t.dims[i] > INT64_MAX) return bad_tensor(g, err, &t, "a dimension is too large");
        info.shape[t.ndim - 1 - i] = (int64_t)t.dims[i];
    }
    int64_t elements;
    if (!vp_shape_elements(info.ndim, info.shape, &elements)) return bad_tensor(g, err, &t, "its shape is too large");
    uint64_t inner = t.ndim ? t.dims[0] : 1, bytes;
    if (inner % s->block) return bad_tensor(g, err, &t, "its rows are no whole number of blocks");
    if (__builtin_mul_overflow((uint64_t)elements / s->block, s->bytes, &bytes) || bytes > g->map.size)
        return bad_tensor(g, err, &t, "larger than the file");
    if (t.offset != *end) return bad_tensor(g, err, &t, "does not begin where the tensor before it ends");
    info.bytes = (size_t)bytes;
    /* both terms are at most the file's size plus one alignment: no overflow */
    *end = (t.offset + bytes + alignment - 1) & ~(alignment - 1);
    return vp_table_add(&g->tensors, &info, t.name, t.name_len, err);
}

/* Only now is it known where the data begin: point the tensors at them. */
static int place_tensors(vp_gguf *g, size_t table_end, uint64_t alignment, vp_error *err) {
    uint64_t start = (table_end + alignment - 1) & ~(alignment - 1), offset = 0;
    for (size_t i = 0; i < g->tensors.n; i++) {
        vp_tensor_info *t = &g->tensors.tensor[i];
        if (start > g->map.size || offset > g->map.size - start || t->bytes > g->map.size - start - offset)
            return vp_fail(err, VP_DATA, "'%s': tensor '%.100s': goes past the end of the file", g->path, t->name);
        t->data = g->map.data + start + offset;
        offset = (offset + t->bytes + alignment - 1) & ~(alignment - 1);
    }
    return vp_table_seal(&g->tensors, err);
}

static const gguf_value *find(const vp_gguf *g, const char *key) {
    gguf_value wanted = {.key = key, .key_len = strlen(key)};
    return g->n ? bsearch(&wanted, g->value, g->n, sizeof wanted, compare_keys) : NULL;
}

static int read_file(vp_gguf *g, vp_error *err) {
    cursor c = {g->map.data, g->map.size};
    uint8_t magic[4];
    uint32_t version;
    uint64_t tensors, values;
    if (!take(&c, magic, sizeof magic) || memcmp(magic, "GGUF", 4) != 0)
        return vp_fail(err, VP_DATA, "'%s': not a GGUF file", g->path);
    if (!take(&c, &version, sizeof version)) return cut_short(g, err, "the header");
    if (version != 2 && version != 3)
        return vp_fail(err, VP_DATA, "'%s': GGUF version %u; 2 and 3 (little-endian) can be read", g->path, version);
    if (!take(&c, &tensors, sizeof tensors) || !take(&c, &values, sizeof values))
        return cut_short(g, err, "the header");
    VP_TRY(read_metadata(g, &c, values, err));
    int64_t alignment = 32;
    const gguf_value *v = find(g, "general.alignment");
    if (v) {
        alignment = vp_gguf_int(g, "general.alignment", 0);
        if (alignment < 1 || alignment > 1 << 20 || (alignment & (alignment - 1)))
            return bad_key(g, err, v, "not a power of two up to 1048576");
    }
    uint64_t end = 0;
    for (uint64_t i = 0; i < tensors; i++) VP_TRY(read_tensor(g, &c, (uint64_t)alignment, &end, err));
    return place_tensors(g, g->map.size - c.left, (uint64_t)alignment, err);
}

int vp_gguf_open(vp_gguf **out, const char *path, vp_error *err) {
    *out = NULL;
    vp_gguf *g = calloc(1, sizeof *g);
    if (!g || !(g->path = strdup(path))) {
        free(g);
        return vp_fail_memory(err, "a GGUF reader", sizeof *g);
    }
    int status = vp_map_open(&g->map, path, err);
    if (!status) status = read_file(g, err);
    if (status) {
        vp_gguf_close(g);
        return status;
    }
    *out = g;
    return VP_OK;
}

void vp_gguf_forget(const vp_gguf *g) {
    vp_map_forget(&g->map);
}

void vp_gguf_close(vp_gguf *g) {
    if (!g) return;
    vp_table_free(&g->tensors);
    vp_map_close(&g->map);
    free(g->value);
    free(g->path);
    free(g);
}

const char *vp_gguf_path(const vp_gguf *g) {
    return g->path;
}
const vp_table *vp_gguf_table(const vp_gguf *g) {
    return &g->tensors;
}

/* ---- getters ---- */

/* One number at p as an integer; false: not an integer type, or beyond int64. */
static bool integer_at(uint32_t type, const uint8_t *p, int64_t *out) {
#define CASE(t, ctype)                                                                                                 \
    case t: {                                                                                                          \
        ctype x;                                                                                                       \
        memcpy(&x, p, sizeof x);                                                                                       \
        *out = (int64_t)x;                                                                                             \
        return true;                                                                                                   \
    }
    switch (type) {
        CASE(VP_GGUF_U8, uint8_t)
        CASE(VP_GGUF_I8, int8_t)
        CASE(VP_GGUF_U16, uint16_t)
        CASE(VP_GGUF_I16, int16_t)
        CASE(VP_GGUF_U32, uint32_t)
        CASE(VP_GGUF_I32, int32_t)
        CASE(VP_GGUF_I64, int64_t)
    case VP_GGUF_U64: {
        uint64_t x;
        memcpy(&x, p, sizeof x);
        *out = (int64_t)x;
        return x <= INT64_MAX;
    }
    case VP_GGUF_BOOL:
        *out = *p != 0;
        return true;
    default:
        return false;
    }
#undef CASE
}

static bool real_at(uint32_t type, const uint8_t *p, double *out) {
    int64_t integer;
    if (type == VP_GGUF_F32) {
        float x;
        memcpy(&x, p, sizeof x);
        *out = (double)x;
    } else if (type == VP_GGUF_F64)
        memcpy(out, p, sizeof *out);
    else if (integer_at(type, p, &integer))
        *out = (double)integer;
    else
        return false;
    return true;
}

bool vp_gguf_str(const vp_gguf *g, const char *key, const char **s, size_t *n) {
    const gguf_value *v = find(g, key);
    if (!v || v->type != VP_GGUF_STRING) return false;
    *s = (const char *)v->data;
    *n = (size_t)v->n;
    return true;
}

int64_t vp_gguf_int(const vp_gguf *g, const char *key, int64_t otherwise) {
    const gguf_value *v = find(g, key);
    int64_t x;
    return v && integer_at(v->type, v->data, &x) ? x : otherwise;
}

double vp_gguf_real(const vp_gguf *g, const char *key, double otherwise) {
    const gguf_value *v = find(g, key);
    double x;
    return v && real_at(v->type, v->data, &x) ? x : otherwise;
}

int vp_gguf_strings(const vp_gguf *g, const char *key, const char ***s, size_t **len, int64_t *n, vp_error *err) {
    *s = NULL;
    *len = NULL;
    *n = 0;
    const gguf_value *v = find(g, key);
    if (!v) return VP_OK;
    if (v->type != VP_GGUF_ARRAY || v->element != VP_GGUF_STRING) return bad_key(g, err, v, "not an array of strings");
    *s = vp_calloc((size_t)v->n, sizeof **s);
    *len = vp_calloc((size_t)v->n, sizeof **len);
    if (!*s || !*len) {
        free((void *)*s);
        free(*len);
        *s = NULL;
        *len = NULL;
        return vp_fail_memory(err, key, (size_t)v->n * 16);
    }
    cursor c = {v->data, g->map.size - (size_t)(v->data - g->map.data)};
    for (uint64_t i = 0; i < v->n; i++) take_string(&c, &(*s)[i], &(*len)[i]); /* fits: checked at open */
    *n = (int64_t)v->n;
    return VP_OK;
}

/* The array behind a key, its buffer for n converted elements in *out (NULL when the key is absent). */
static int begin_array(const vp_gguf *g, const char *key, size_t size, const gguf_value **v, void **out, int64_t *n,
                       vp_error *err) {
    *out = NULL;
    *n = 0;
    *v = find(g, key);
    if (!*v) return VP_OK;
    if ((*v)->type != VP_GGUF_ARRAY) return bad_key(g, err, *v, "not an array");
    *out = vp_calloc((size_t)(*v)->n, size);
    if (!*out) return vp_fail_memory(err, key, (size_t)(*v)->n * size);
    *n = (int64_t)(*v)->n;
    return VP_OK;
}

int vp_gguf_ints(const vp_gguf *g, const char *key, int64_t **out, int64_t *n, vp_error *err) {
    const gguf_value *v;
    void *data;
    *out = NULL;
    VP_TRY(begin_array(g, key, sizeof **out, &v, &data, n, err));
    *out = data;
    for (int64_t i = 0; i < *n; i++) {
        if (integer_at(v->element, v->data + (size_t)i * scalar_size(v->element), &(*out)[i])) continue;
        free(data);
        *out = NULL;
        *n = 0;
        return bad_key(g, err, v, "not an array of integers");
    }
    return VP_OK;
}

int vp_gguf_reals(const vp_gguf *g, const char *key, float **out, int64_t *n, vp_error *err) {
    const gguf_value *v;
    void *data;
    *out = NULL;
    VP_TRY(begin_array(g, key, sizeof **out, &v, &data, n, err));
    *out = data;
    for (int64_t i = 0; i < *n; i++) {
        double x;
        if (real_at(v->element, v->data + (size_t)i * scalar_size(v->element), &x)) {
            (*out)[i] = (float)x; /* beyond f32: infinite, as IEEE 754 rounds */
            continue;
        }
        free(data);
        *out = NULL;
        *n = 0;
        return bad_key(g, err, v, "not an array of numbers");
    }
    return VP_OK;
}
