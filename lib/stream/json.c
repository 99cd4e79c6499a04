/* Between msgpack and JSON: values as compact text with sorted keys, and JSON text as a map (Jansson parses). */
#include "lib/stream/private.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int vp_json_real_text(char out[32], double x) {
    int n = 0;
    for (int digits = 15; digits <= 17; digits++) {
        n = snprintf(out, 32, "%.*g", digits, x);
        if (strtod(out, NULL) == x) break;
    }
    if (!out[strspn(out, "-0123456789")]) n += snprintf(out + n, 32 - (size_t)n, ".0");
    return n;
}

int vp_json_float_text(char out[32], float x) {
    int n = 0;
    for (int digits = 6; digits <= 9; digits++) {
        n = snprintf(out, 32, "%.*g", digits, (double)x);
        if (strtof(out, NULL) == x) break;
    }
    return n;
}

/* U+0080 to U+009F are control characters too: escaped for the sake of terminals. */
int vp_json_quote(vp_buf *out, const char *s, size_t n, vp_error *err) {
    VP_TRY(vp_buf_add(out, "\"", 1, err));
    size_t plain = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned char b = (unsigned char)s[i];
        const bool c1 = b == 0xc2 && i + 1 < n && (unsigned char)s[i + 1] < 0xa0;
        if (b >= 0x20 && b != '"' && b != '\\' && b != 0x7f && !c1) continue;
        VP_TRY(vp_buf_add(out, s + plain, i - plain, err));
        const char *letter = strchr("\"\"\\\\\bb\ff\nn\rr\tt", b);
        if (b && letter)
            VP_TRY(vp_buf_printf(out, err, "\\%c", letter[1]));
        else
            VP_TRY(vp_buf_printf(out, err, "\\u%04x", c1 ? (unsigned char)s[i + 1] : b));
        i += c1;
        plain = i + 1;
    }
    VP_TRY(vp_buf_add(out, s + plain, n - plain, err));
    return vp_buf_add(out, "\"", 1, err);
}

static int hex_object(const vp_token *t, vp_buf *out, vp_error *err) {
    VP_TRY(vp_buf_add(out, "{\"bin\":\"", 8, err));
    VP_TRY(vp_buf_reserve(out, out->len + 2 * t->n + 1, err));
    vp_hex(out->data + out->len, t->data, t->n);
    out->len += 2 * t->n;
    return vp_buf_add(out, "\"}", 2, err);
}

static int scalar(const vp_token *t, vp_buf *out, vp_error *err) {
    char text[32];
    switch (t->kind) {
    case VP_KIND_NIL:
        return vp_buf_add(out, "null", 4, err);
    case VP_KIND_BOOL:
        return vp_buf_printf(out, err, "%s", t->u ? "true" : "false");
    case VP_KIND_INT:
        return t->negative ? vp_buf_printf(out, err, "%lld", (long long)t->u)
                           : vp_buf_printf(out, err, "%llu", (unsigned long long)t->u);
    case VP_KIND_REAL:
        return vp_buf_add(out, text, (size_t)vp_json_real_text(text, t->real), err);
    case VP_KIND_STR:
        return vp_json_quote(out, (const char *)t->data, t->n, err);
    default:
        return hex_object(t, out, err);
    }
}

typedef struct member {
    size_t key, end; /* the key's JSON text in a buffer of keys */
    const char *text;
    const uint8_t *value;
} member;

static int compare_members(const void *a, const void *b) {
    const member *x = a, *y = b;
    const size_t n = x->end - x->key, m = y->end - y->key;
    const int order = memcmp(x->text + x->key, y->text + y->key, n < m ? n : m);
    return order ? order : (n > m) - (n < m);
}

/* JSON's keys are strings: a number or another scalar becomes its text in quotes. */
static int key_text(const vp_token *key, vp_buf *keys, vp_error *err) {
    if (key->kind == VP_KIND_STR) return scalar(key, keys, err);
    vp_buf text = {0};
    int status = scalar(key, &text, err);
    if (!status) status = vp_json_quote(keys, text.data, text.len, err);
    vp_buf_free(&text);
    return status;
}

static int read_members(vp_cursor *c, member *m, size_t n, vp_buf *keys, vp_error *err) {
    for (size_t i = 0; i < n; i++) {
        vp_token key;
        vp_cursor_token(c, &key);
        m[i].key = keys->len;
        VP_TRY(key_text(&key, keys, err));
        m[i].end = keys->len;
        m[i].value = c->p;
        vp_cursor_skip(c);
    }
    for (size_t i = 0; i < n; i++) m[i].text = keys->data;
    qsort(m, n, sizeof *m, compare_members);
    return VP_OK;
}

static int object(vp_cursor *c, size_t n, vp_buf *out, vp_error *err) {
    vp_buf keys = {0};
    member *m = malloc((n ? n : 1) * sizeof *m);
    int status = m ? read_members(c, m, n, &keys, err) : vp_fail_memory(err, "a map", n * sizeof *m);
    if (!status) status = vp_buf_add(out, "{", 1, err);
    for (size_t i = 0; i < n && !status; i++) {
        if (i) status = vp_buf_add(out, ",", 1, err);
        if (!status) status = vp_buf_add(out, keys.data + m[i].key, m[i].end - m[i].key, err);
        if (!status) status = vp_buf_add(out, ":", 1, err);
        if (!status) status = vp_msgpack_json(&(vp_cursor){m[i].value, c->end}, out, err);
    }
    if (!status) status = vp_buf_add(out, "}", 1, err);
    vp_buf_free(&keys);
    free(m);
    return status;
}

int vp_msgpack_json(vp_cursor *c, vp_buf *out, vp_error *err) {
    vp_token t;
    if (!vp_cursor_token(c, &t)) return vp_fail(err, VP_BUG, "not msgpack");
    if (t.kind == VP_KIND_MAP) return object(c, t.n, out, err);
    if (t.kind != VP_KIND_ARRAY) return scalar(&t, out, err);
    VP_TRY(vp_buf_add(out, "[", 1, err));
    for (size_t i = 0; i < t.n; i++) {
        if (i) VP_TRY(vp_buf_add(out, ",", 1, err));
        VP_TRY(vp_msgpack_json(c, out, err));
    }
    return vp_buf_add(out, "]", 1, err);
}

int vp_map_json(const vp_map *m, vp_buf *out, vp_error *err) {
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, err);
    vp_map_pack(m, &p);
    int status = err->code;
    if (!status) status = vp_msgpack_json(&(vp_cursor){(uint8_t *)b.data, (uint8_t *)b.data + b.len}, out, err);
    vp_buf_free(&b);
    return status;
}

static void pack_json(const json_t *v, vp_msgpack *p) {
    switch (json_typeof(v)) {
    case JSON_NULL:
        msgpack_pack_nil(&p->pk);
        break;
    case JSON_TRUE:
        msgpack_pack_true(&p->pk);
        break;
    case JSON_FALSE:
        msgpack_pack_false(&p->pk);
        break;
    case JSON_INTEGER:
        msgpack_pack_int64(&p->pk, json_integer_value(v));
        break;
    case JSON_REAL:
        msgpack_pack_double(&p->pk, json_real_value(v));
        break;
    case JSON_STRING:
        vp_msgpack_strn(p, json_string_value(v), json_string_length(v));
        break;
    case JSON_ARRAY:
        msgpack_pack_array(&p->pk, json_array_size(v));
        for (size_t i = 0; i < json_array_size(v); i++) pack_json(json_array_get(v, i), p);
        break;
    case JSON_OBJECT: {
        const char *key;
        const json_t *value;
        msgpack_pack_map(&p->pk, json_object_size(v));
        json_object_foreach((json_t *)(uintptr_t)v, key, value) {
            vp_msgpack_str(p, key);
            pack_json(value, p);
        }
    }
    }
}

int vp_map_from_json(vp_map **m, const char *json, size_t n, const char *what, vp_error *err) {
    json_error_t bad;
    json_t *root = json_loadb(json, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &bad);
    if (!root) return vp_fail(err, VP_DATA, "%s: %s (line %d)", what, bad.text, bad.line);
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, err);
    pack_json(root, &p);
    json_decref(root);
    int status = err->code;
    vp_cursor c = {(const uint8_t *)b.data, (const uint8_t *)b.data + b.len};
    const char *why = status ? NULL : vp_cursor_check(&c); /* depth and keys: within what a record may hold */
    *m = status || why ? NULL : vp_map_parse((const uint8_t *)b.data, b.len);
    if (!status && !*m) status = vp_fail(err, VP_DATA, "%s: %s", what, why ? why : "not a JSON object");
    vp_buf_free(&b);
    return status;
}
