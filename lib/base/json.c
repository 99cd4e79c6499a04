/* Bounded reading of JSON files and strict access to their members. */
#include "lib/base/json.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LIMIT = 64 << 20 }; /* a large vocabulary's tokenizer.json has 35 MiB */

int vp_path_join(char **out, const char *folder, const char *name, vp_error *err) {
    size_t n = strlen(folder) + strlen(name) + 2;
    *out = malloc(n);
    if (!*out) return vp_fail_memory(err, "a path", n);
    snprintf(*out, n, *name ? "%s/%s" : "%s%s", folder, name);
    return VP_OK;
}

bool vp_path_exists(const char *folder, const char *name) {
    vp_error err = {0};
    char *path = NULL;
    bool found = !vp_path_join(&path, folder, name, &err) && access(path, F_OK) == 0;
    free(path);
    return found;
}

/* Integers are read as reals: tokenizers write lengths like 1e30 in full, which Jansson's integers cannot hold. */
static int parse(vp_json *j, const vp_buf *text, json_type type, vp_error *err) {
    json_error_t why;
    j->root = json_loadb(text->data, text->len, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &why);
    if (!j->root) return vp_fail(err, VP_DATA, "%s:%d: %s", j->path, why.line, why.text);
    if (json_typeof(j->root) == type) return VP_OK;
    return vp_fail(err, VP_DATA, "%s: not a JSON %s", j->path, type == JSON_ARRAY ? "array" : "object");
}

int vp_json_open(vp_json *j, const char *folder, const char *name, json_type root, vp_error *err) {
    *j = (vp_json){0};
    VP_TRY(vp_path_join(&j->path, folder, name, err));
    vp_buf text = {0};
    int status = vp_read_file(j->path, LIMIT, &text, err);
    if (!status) status = parse(j, &text, root, err);
    vp_buf_free(&text);
    if (status) vp_json_close(j);
    return status;
}

int vp_json_open_optional(vp_json *j, const char *folder, const char *name, json_type root, vp_error *err) {
    *j = (vp_json){0};
    return vp_path_exists(folder, name) ? vp_json_open(j, folder, name, root, err) : VP_OK;
}

void vp_json_close(vp_json *j) {
    json_decref(j->root);
    free(j->path);
    *j = (vp_json){0};
}

int vp_json_publish(const char *folder, const char *name, const json_t *root, vp_error *err) {
    vp_buf text = {0};
    char *dump = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) : NULL;
    if (!dump) return vp_fail(err, VP_MEMORY, "out of memory for %s, or a text that is no UTF-8", name);
    int status = vp_buf_printf(&text, err, "%s\n", dump);
    if (!status) status = vp_publish_file(folder, name, text.data, text.len, err);
    vp_buf_free(&text);
    free(dump);
    return status;
}

static int wrong(const vp_json *j, const char *key, const char *want, vp_error *err) {
    return vp_fail(err, VP_DATA, "%s: \"%s\" is not %s", j->path, key, want);
}

static const json_t *member(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

int vp_json_int(const vp_json *j, const json_t *o, const char *key, int64_t *value, vp_error *err) {
    const json_t *v = member(o, key);
    if (!v) return VP_OK;
    const double x = json_is_number(v) ? json_number_value(v) : 0.5;
    if (!(x >= -0x1p53 && x <= 0x1p53) || x != (double)(int64_t)x) return wrong(j, key, "an integer", err);
    *value = (int64_t)x;
    return VP_OK;
}

int vp_json_real(const vp_json *j, const json_t *o, const char *key, double *value, vp_error *err) {
    const json_t *v = member(o, key);
    if (!v) return VP_OK;
    if (!json_is_number(v)) return wrong(j, key, "a number", err);
    *value = json_number_value(v);
    return VP_OK;
}

int vp_json_bool(const vp_json *j, const json_t *o, const char *key, bool *value, vp_error *err) {
    const json_t *v = member(o, key);
    if (!v) return VP_OK;
    if (!json_is_boolean(v)) return wrong(j, key, "true or false", err);
    *value = json_boolean_value(v);
    return VP_OK;
}

int vp_json_str(const vp_json *j, const json_t *o, const char *key, const char **value, vp_error *err) {
    const json_t *v = member(o, key);
    if (!v) return VP_OK;
    if (!json_is_string(v)) return wrong(j, key, "a string", err);
    *value = json_string_value(v);
    return VP_OK;
}

bool vp_json_says(const json_t *o, const char *key) {
    const json_t *v = member(o, key);
    if (!v || json_is_false(v)) return false;
    if (json_is_string(v)) return json_string_length(v) > 0;
    if (json_is_array(v)) return json_array_size(v) > 0;
    return !json_is_object(v) || json_object_size(v) > 0;
}

int vp_json_load(json_t **root, const char *folder, const char *name, vp_error *err) {
    char *path;
    vp_buf text = {0};
    json_error_t why = {0};
    *root = NULL;
    VP_TRY(vp_path_join(&path, folder, name, err));
    int status = vp_read_file(path, 64 << 20, &text, err);
    if (!status) *root = json_loadb(text.data, text.len, JSON_REJECT_DUPLICATES, &why);
    if (!status && !json_is_object(*root))
        status = vp_fail(err, VP_DATA, "%s:%d: %s", path, *root ? 1 : why.line, *root ? "no object" : why.text);
    if (status) {
        json_decref(*root);
        *root = NULL;
    }
    vp_buf_free(&text);
    free(path);
    return status;
}
