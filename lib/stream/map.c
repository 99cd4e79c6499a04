/* The ordered map of control records: values stay raw msgpack, so that what a stranger's program put there passes
 * through unchanged. Getters first, then setters. JSON is in json.c. */
#include "lib/stream/private.h"
#include <stdlib.h>

typedef struct entry {
    char *key;
    uint8_t *raw; /* n bytes and a NUL, which ends the text of a string */
    size_t n;
    char **strs; /* of an array of nothing but strings: each a C string, NULL with a NUL inside; one allocation */
    size_t nstrs;
} entry;

struct vp_map {
    entry *at;
    size_t n, cap;
};

vp_map *vp_map_new(void) {
    return calloc(1, sizeof(vp_map));
}

static void entry_free(entry *e) {
    free(e->key);
    free(e->raw);
    free(e->strs);
}

void vp_map_free(vp_map *m) {
    if (!m) return;
    for (size_t i = 0; i < m->n; i++) entry_free(&m->at[i]);
    free(m->at);
    free(m);
}

vp_map *vp_map_copy(const vp_map *m) {
    vp_error err = {0};
    vp_map *copy = vp_map_new();
    for (size_t i = 0; copy && i < m->n; i++)
        if (vp_map_add_raw(copy, m->at[i].key, strlen(m->at[i].key), m->at[i].raw, m->at[i].n, &err)) {
            vp_map_free(copy);
            copy = NULL;
        }
    return copy;
}

size_t vp_map_len(const vp_map *m) {
    return m->n;
}
const char *vp_map_key(const vp_map *m, size_t i) {
    return i < m->n ? m->at[i].key : NULL;
}

static entry *find(const vp_map *m, const char *key) {
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->at[i].key, key) == 0) return &m->at[i];
    return NULL;
}

bool vp_map_has(const vp_map *m, const char *key) {
    return find(m, key) != NULL;
}

/* The value's first token, and the cursor behind it. */
static bool open_value(const entry *e, vp_cursor *c, vp_token *t) {
    if (!e) return false;
    *c = (vp_cursor){e->raw, e->raw + e->n};
    return vp_cursor_token(c, t);
}

static bool value_of(const vp_map *m, const char *key, vp_token *t) {
    vp_cursor c;
    return open_value(find(m, key), &c, t);
}

const char *vp_map_str(const vp_map *m, const char *key) {
    vp_token t;
    if (!value_of(m, key, &t) || t.kind != VP_KIND_STR || memchr(t.data, 0, t.n)) return NULL;
    return (const char *)t.data;
}

int64_t vp_map_int(const vp_map *m, const char *key, int64_t otherwise) {
    vp_token t;
    int64_t value;
    return value_of(m, key, &t) && vp_token_int(&t, &value) ? value : otherwise;
}

double vp_map_real(const vp_map *m, const char *key, double otherwise) {
    vp_token t;
    if (!value_of(m, key, &t)) return otherwise;
    if (t.kind == VP_KIND_REAL) return t.real;
    if (t.kind != VP_KIND_INT) return otherwise;
    return t.negative ? (double)(int64_t)t.u : (double)t.u;
}

bool vp_map_bool(const vp_map *m, const char *key, bool otherwise) {
    vp_token t;
    return value_of(m, key, &t) && t.kind == VP_KIND_BOOL ? t.u != 0 : otherwise;
}

vp_map *vp_map_sub(const vp_map *m, const char *key) {
    const entry *e = find(m, key);
    return e ? vp_map_parse(e->raw, e->n) : NULL;
}

const char *vp_map_str_at(const vp_map *m, const char *key, size_t i) {
    const entry *e = find(m, key);
    return e && i < e->nstrs ? e->strs[i] : NULL;
}

bool vp_map_raw(const vp_map *m, const char *key, const uint8_t **data, size_t *n) {
    const entry *e = find(m, key);
    if (!e) return false;
    *data = e->raw;
    *n = e->n;
    return true;
}

/* Fill e->strs if the value is an array of strings. */
static int index_strings(entry *e, vp_error *err) {
    vp_cursor c;
    vp_token t;
    if (!open_value(e, &c, &t) || t.kind != VP_KIND_ARRAY || !t.n) return VP_OK;
    const vp_cursor elements = c;
    const size_t n = t.n;
    size_t bytes = n * sizeof(char *);
    for (size_t i = 0; i < n; i++) {
        if (!vp_cursor_token(&c, &t) || t.kind != VP_KIND_STR) return VP_OK;
        bytes += t.n + 1;
    }
    e->strs = malloc(bytes);
    if (!e->strs) return vp_fail_memory(err, "a list of strings", bytes);
    e->nstrs = n;
    char *text = (char *)(e->strs + n);
    c = elements;
    for (size_t i = 0; i < n && vp_cursor_token(&c, &t); i++) {
        e->strs[i] = memchr(t.data, 0, t.n) ? NULL : text;
        memcpy(text, t.data, t.n);
        text[t.n] = '\0';
        text += t.n + 1;
    }
    return VP_OK;
}

static int entry_make(entry *e, const void *key, size_t length, const void *data, size_t n, vp_error *err) {
    *e = (entry){.key = vp_strndup(key, length), .raw = (uint8_t *)vp_strndup(data, n), .n = n};
    const int status = e->key && e->raw ? index_strings(e, err) : vp_fail_memory(err, "a map", n);
    if (status) entry_free(e);
    return status;
}

int vp_map_add_raw(vp_map *m, const void *key, size_t length, const void *data, size_t n, vp_error *err) {
    VP_TRY(vp_grow(&m->at, &m->cap, m->n, sizeof *m->at, "a map", err));
    VP_TRY(entry_make(&m->at[m->n], key, length, data, n, err));
    m->n++;
    return VP_OK;
}

int vp_map_set_raw(vp_map *m, const char *key, const void *data, size_t n, vp_error *err) {
    entry *e = find(m, key), fresh;
    if (!e) return vp_map_add_raw(m, key, strlen(key), data, n, err);
    VP_TRY(entry_make(&fresh, key, strlen(key), data, n, err));
    entry_free(e);
    *e = fresh;
    return VP_OK;
}

vp_map *vp_map_parse(const uint8_t *data, size_t n) {
    vp_cursor c = {data, data + n};
    vp_token t, key;
    vp_error err = {0};
    if (!vp_cursor_token(&c, &t) || t.kind != VP_KIND_MAP) return NULL;
    vp_map *m = vp_map_new();
    for (size_t left = t.n; m && left; left--) {
        bool ok = vp_cursor_token(&c, &key) && key.kind == VP_KIND_STR && !memchr(key.data, 0, key.n);
        const uint8_t *value = c.p;
        vp_cursor_skip(&c);
        if (ok) ok = !vp_map_add_raw(m, key.data, key.n, value, (size_t)(c.p - value), &err);
        if (ok) continue;
        vp_map_free(m);
        m = NULL;
    }
    return m;
}

void vp_map_pack(const vp_map *m, vp_msgpack *p) {
    msgpack_pack_map(&p->pk, m->n);
    for (size_t i = 0; i < m->n; i++) {
        vp_msgpack_str(p, m->at[i].key);
        vp_msgpack_raw(p, m->at[i].raw, m->at[i].n);
    }
}

/* Store what was packed into b under the key, and free b. */
static int set_packed(vp_map *m, const char *key, vp_buf *b, vp_error *err) {
    int status = err->code;
    if (!status) status = vp_map_set_raw(m, key, b->data, b->len, err);
    vp_buf_free(b);
    return status;
}

int vp_map_set_str(vp_map *m, const char *key, const char *value, vp_error *err) {
    if (!value) {
        vp_map_remove(m, key);
        return VP_OK;
    }
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, err);
    vp_msgpack_str(&p, value);
    return set_packed(m, key, &b, err);
}

int vp_map_set_int(vp_map *m, const char *key, int64_t value, vp_error *err) {
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, err);
    msgpack_pack_int64(&p.pk, value);
    return set_packed(m, key, &b, err);
}

int vp_map_set_real(vp_map *m, const char *key, double value, vp_error *err) {
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, err);
    msgpack_pack_double(&p.pk, value);
    return set_packed(m, key, &b, err);
}

int vp_map_set_bool(vp_map *m, const char *key, bool value, vp_error *err) {
    const uint8_t byte = value ? 0xc3 : 0xc2;
    return vp_map_set_raw(m, key, &byte, 1, err);
}

int vp_map_set_map(vp_map *m, const char *key, const vp_map *value, vp_error *err) {
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, err);
    vp_map_pack(value, &p);
    return set_packed(m, key, &b, err);
}

int vp_map_set_strs(vp_map *m, const char *key, const char *const *value, size_t n, vp_error *err) {
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, err);
    msgpack_pack_array(&p.pk, n);
    for (size_t i = 0; i < n; i++) vp_msgpack_str(&p, value[i]);
    return set_packed(m, key, &b, err);
}

int vp_map_append_str(vp_map *m, const char *key, const char *value, vp_error *err) {
    vp_cursor c;
    vp_token t;
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, err);
    const bool had = open_value(find(m, key), &c, &t) && t.kind == VP_KIND_ARRAY;
    msgpack_pack_array(&p.pk, had ? t.n + 1 : 1);
    if (had) vp_msgpack_raw(&p, c.p, (size_t)(c.end - c.p));
    vp_msgpack_str(&p, value);
    return set_packed(m, key, &b, err);
}

void vp_map_remove(vp_map *m, const char *key) {
    entry *e = find(m, key);
    if (!e) return;
    entry_free(e);
    const size_t i = (size_t)(e - m->at);
    memmove(e, e + 1, (m->n - i - 1) * sizeof *e);
    m->n--;
}
