/* Stored JSON objects (`meta`): checked on the way in, printed on one line on the way out. */
#include "lib/index/store.h"
#include "lib/stream/json.h"
#include <jansson.h>

bool vp_json_is_object(const char *s, size_t n) {
    json_error_t ignored;
    json_t *j = json_loadb(s, n, JSON_ALLOW_NUL, &ignored);
    bool is = json_is_object(j);
    json_decref(j);
    return is;
}

int vp_json_object(vp_buf *out, const char *s, size_t n, vp_error *err) {
    if (!vp_json_is_object(s, n)) return vp_json_quote(out, s, n, err);
    size_t start = out->len;
    VP_TRY(vp_buf_add(out, s, n, err));
    /* in valid JSON a newline can only be white space between tokens */
    for (size_t i = start; i < out->len; i++)
        if (out->data[i] == '\n' || out->data[i] == '\r') out->data[i] = ' ';
    return VP_OK;
}
