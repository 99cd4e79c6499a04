/* Lines as JSON, strictly; and walks over the source text of JSON that Jansson has accepted, so the grammar is known to
 * hold and the depth to be bounded; every step still stops at the end of the text. */
#include "lib/text/json_text.h"
#include <stdlib.h>
#include <string.h>

int vp_line_parse(const char *s, size_t n, json_t **object, const char *name, int64_t number, vp_error *err) {
    json_error_t why;
    const size_t valid = vp_utf8_valid(s, n);
    if (valid < n)
        return vp_fail(err, VP_DATA, "%s:%lld: not UTF-8 at byte %zu of the line", name, (long long)number, valid);
    if (!object) return VP_OK;
    *object = json_loadb(s, n, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &why);
    if (!*object)
        return vp_fail(err, VP_DATA, "%s:%lld: not JSON: %s (byte %d)", name, (long long)number, why.text,
                       why.position);
    if (json_is_object(*object)) return VP_OK;
    json_decref(*object);
    *object = NULL;
    return vp_fail(err, VP_DATA, "%s:%lld: not a JSON object", name, (long long)number);
}

typedef struct cursor {
    const char *at, *end;
} cursor;

typedef struct member {
    vp_json_text key, value; /* the key with its quotes */
} member;

static void skip_space(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\r' || *c->at == '\n')) c->at++;
}

static void skip_string(cursor *c) {
    for (c->at++; c->at < c->end && *c->at != '"'; c->at++)
        if (*c->at == '\\' && c->at + 1 < c->end) c->at++;
    if (c->at < c->end) c->at++;
}

static vp_json_text take_value(cursor *c) {
    skip_space(c);
    const char *start = c->at;
    size_t depth = 0;
    while (c->at < c->end) {
        char b = *c->at;
        if (b == '"') {
            skip_string(c);
        } else if (b == '{' || b == '[') {
            depth++;
            c->at++;
        } else if (b == '}' || b == ']') {
            if (depth == 0) break;
            depth--;
            c->at++;
        } else if (depth == 0 && (b == ',' || b == ' ' || b == '\t' || b == '\r' || b == '\n')) {
            break;
        } else {
            c->at++;
            continue;
        }
        if (depth == 0) break;
    }
    return (vp_json_text){start, (size_t)(c->at - start)};
}

/* The next element of an array or member of an object; *c stands after the opening bracket or the last element. */
static bool take_member(cursor *c, bool object, member *m) {
    skip_space(c);
    if (c->at < c->end && *c->at == ',') {
        c->at++;
        skip_space(c);
    }
    if (c->at >= c->end || *c->at == '}' || *c->at == ']') return false;
    *m = (member){0};
    if (object) {
        m->key.s = c->at;
        skip_string(c);
        m->key.n = (size_t)(c->at - m->key.s);
        skip_space(c);
        if (c->at < c->end) c->at++; /* the colon */
    }
    m->value = take_value(c);
    return m->value.n > 0;
}

static cursor inside(vp_json_text text) {
    cursor c = {text.s, text.s + text.n};
    skip_space(&c);
    if (c.at < c.end) c.at++;
    return c;
}

static bool key_is(const member *m, const char *key) {
    return m->key.n == strlen(key) + 2 && memcmp(m->key.s + 1, key, m->key.n - 2) == 0;
}

bool vp_json_text_member(vp_json_text text, const char *key, vp_json_text *value) {
    cursor c = inside(text);
    member m;
    while (take_member(&c, true, &m)) {
        if (!key_is(&m, key)) continue;
        *value = m.value;
        return true;
    }
    return false;
}

static int by_key(const void *a, const void *b) {
    const vp_json_text x = ((const member *)a)->key, y = ((const member *)b)->key;
    int order = memcmp(x.s, y.s, x.n < y.n ? x.n : y.n);
    return order ? order : (x.n > y.n) - (x.n < y.n);
}

static bool named(const member *m, const char *const *names) {
    for (; names && *names; names++)
        if (key_is(m, *names)) return true;
    return false;
}

static int append_value(vp_json_text v, vp_buf *out, vp_error *err);

static int append_members(const member *m, size_t n, vp_buf *out, vp_error *err) {
    VP_TRY(vp_buf_add(out, "{", 1, err));
    for (size_t i = 0; i < n; i++) {
        if (i) VP_TRY(vp_buf_add(out, ",", 1, err));
        VP_TRY(vp_buf_add(out, m[i].key.s, m[i].key.n, err));
        VP_TRY(vp_buf_add(out, ":", 1, err));
        VP_TRY(append_value(m[i].value, out, err));
    }
    return vp_buf_add(out, "}", 1, err);
}

static int append_object(vp_json_text v, const char *const *without, bool even_empty, vp_buf *out, vp_error *err) {
    vp_buf list = {0};
    cursor c = inside(v);
    member m;
    int status = VP_OK;
    while (!status && take_member(&c, true, &m))
        if (!named(&m, without)) status = vp_buf_add(&list, &m, sizeof m, err);
    size_t n = list.len / sizeof m;
    if (n > 1) qsort(list.data, n, sizeof m, by_key);
    if (!status && (n || even_empty)) status = append_members((const member *)(void *)list.data, n, out, err);
    vp_buf_free(&list);
    return status;
}

static int append_value(vp_json_text v, vp_buf *out, vp_error *err) {
    if (v.s[0] == '{') return append_object(v, NULL, true, out, err);
    if (v.s[0] != '[') return vp_buf_add(out, v.s, v.n, err);
    cursor c = inside(v);
    member m;
    VP_TRY(vp_buf_add(out, "[", 1, err));
    for (bool first = true; take_member(&c, false, &m); first = false) {
        if (!first) VP_TRY(vp_buf_add(out, ",", 1, err));
        VP_TRY(append_value(m.value, out, err));
    }
    return vp_buf_add(out, "]", 1, err);
}

int vp_json_text_compact(vp_json_text object, const char *const *without, vp_buf *out, vp_error *err) {
    return append_object(object, without, false, out, err);
}
