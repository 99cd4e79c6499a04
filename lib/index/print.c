/* Search results for programs (JSON lines) and for people (a table), in the order of the queries. */
#include "lib/index/store.h"
#include "lib/stream/json.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { MAX_ID_WIDTH = 32, MIN_TEXT_WIDTH = 16, PREFIX_WIDTH = 14 };

int vp_search_print_jsonl(const vp_search_result *r, vp_buf *out, vp_error *err) {
    for (int64_t i = 0; i < r->n; i++) {
        const vp_search_hit *h = &r->hit[i];
        VP_TRY(vp_buf_printf(out, err, "{\"query\":"));
        VP_TRY(vp_json_quote(out, r->query, r->query_len, err));
        VP_TRY(vp_buf_printf(out, err, ",\"rank\":%lld,\"id\":", (long long)i + 1));
        VP_TRY(vp_json_quote(out, h->id, h->id_len, err));
        if (h->parent) {
            VP_TRY(vp_buf_printf(out, err, ",\"parent\":"));
            VP_TRY(vp_json_quote(out, h->parent, h->parent_len, err));
        }
        VP_TRY(vp_buf_printf(out, err, ",\"score\":%.9g", h->score));
        if (h->text) {
            VP_TRY(vp_buf_printf(out, err, ",\"text\":"));
            VP_TRY(vp_json_quote(out, h->text, h->text_len, err));
        }
        if (h->meta) {
            VP_TRY(vp_buf_printf(out, err, ",\"meta\":"));
            VP_TRY(vp_json_object(out, h->meta, h->meta_len, err));
        }
        if (r->text) {
            VP_TRY(vp_buf_printf(out, err, ",\"query_text\":"));
            VP_TRY(vp_json_quote(out, r->text, r->text_len, err));
        }
        VP_TRY(vp_buf_add(out, "}\n", 2, err));
    }
    return VP_OK;
}

/* Append s, white space and controls as single blanks, cut to `width` columns of a terminal; *used columns. */
static int put_cut(vp_buf *out, const char *s, size_t n, int width, int *used, vp_error *err) {
    size_t at = 0;
    bool blank = false;
    *used = 0;
    while (at < n) {
        utf8proc_int32_t code;
        utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)s + at, (utf8proc_ssize_t)(n - at), &code);
        if (len <= 0) len = 1, code = ' ';
        utf8proc_category_t kind = utf8proc_category(code);
        bool is_blank = code == ' ' || kind == UTF8PROC_CATEGORY_CC || kind == UTF8PROC_CATEGORY_ZS;
        int columns = is_blank ? (*used > 0 && !blank) : utf8proc_charwidth(code);
        if (*used + columns > width) break;
        if (is_blank && columns)
            VP_TRY(vp_buf_add(out, " ", 1, err));
        else if (!is_blank && kind != UTF8PROC_CATEGORY_CF) /* no bidirectional overrides */
            VP_TRY(vp_buf_add(out, s + at, (size_t)len, err));
        blank = is_blank;
        *used += columns;
        at += (size_t)len;
    }
    return VP_OK;
}

static int put_padded(vp_buf *out, const char *s, size_t n, int width, vp_error *err) {
    int used;
    VP_TRY(put_cut(out, s, n, width, &used, err));
    return vp_buf_printf(out, err, "%*s", width - used, "");
}

static int put_what(const vp_search_hit *h, int width, vp_buf *out, vp_error *err) {
    json_error_t why;
    json_t *meta = h->meta ? json_loadb(h->meta, h->meta_len, JSON_ALLOW_NUL, &why) : NULL;
    const json_t *title = json_object_get(meta, "title");
    int used, status = VP_OK;
    if (json_is_string(title))
        status = put_cut(out, json_string_value(title), json_string_length(title), width, &used, err);
    else if (h->text)
        status = put_cut(out, h->text, h->text_len, width, &used, err);
    json_decref(meta);
    return status ? status : vp_buf_add(out, "\n", 1, err);
}

int vp_search_print_table(const vp_search_result *r, int width, vp_buf *out, vp_error *err) {
    int ids = 2, used;
    VP_TRY(put_cut(out, r->text ? r->text : r->query, r->text ? r->text_len : r->query_len, width, &used, err));
    VP_TRY(vp_buf_add(out, "\n", 1, err));
    for (int64_t i = 0; i < r->n; i++) {
        vp_buf ignored = {0};
        int status = put_cut(&ignored, r->hit[i].id, r->hit[i].id_len, MAX_ID_WIDTH, &used, err);
        vp_buf_free(&ignored);
        VP_TRY(status);
        if (used > ids) ids = used;
    }
    int rest = width - PREFIX_WIDTH - ids - 2;
    if (rest < MIN_TEXT_WIDTH) rest = MIN_TEXT_WIDTH;
    for (int64_t i = 0; i < r->n; i++) {
        const vp_search_hit *h = &r->hit[i];
        VP_TRY(vp_buf_printf(out, err, "%4lld  %6.4f  ", (long long)i + 1, h->score));
        VP_TRY(put_padded(out, h->id, h->id_len, ids, err));
        VP_TRY(vp_buf_add(out, "  ", 2, err));
        VP_TRY(put_what(h, rest, out, err));
    }
    if (!r->n) VP_TRY(vp_buf_printf(out, err, "      nothing found\n"));
    return VP_OK;
}
