/* Rows of queries with their positives: read from JSON, printed with what was mined. */
#include "lib/mine/private.h"
#include "lib/stream/json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What an earlier mining wrote, or what counts negatives that go; before that, the positives of a row that names them
 * by identifier only, all of which are empty. */
static const char *const replaced[] = {"positive", "pos",        "sentence2", "positive_passages", "negative", "neg",
                                       "neg_ids",  "neg_scores", "neg_bm25",  "pos_scores",        "pos_bm25", "scores",
                                       "score",    NULL};
enum { POSITIVES = 4 };

void vp_mine_row_free(vp_mine_row *r) {
    json_decref(r->object);
    vp_example_free(&r->example);
    vp_buf_free(&r->spelled);
    vp_buf_free(&r->scratch);
    free(r->pos_id);
    *r = (vp_mine_row){0};
}

const vp_example_text *vp_mine_row_positive(const vp_mine_row *r, size_t i) {
    return &r->example.example.text[1 + i];
}

vp_mine_name vp_mine_row_field(const vp_mine_row *r, const char *field) {
    const json_t *v = json_object_get(r->object, field);
    return (vp_mine_name){json_string_value(v), json_string_length(v)};
}

int vp_mine_label(const json_t *object, const char *field, size_t i, bool *more, vp_buf *out, vp_error *err) {
    const json_t *v = json_object_get(object, field);
    *more = i < (json_is_array(v) ? json_array_size(v) : 1);
    if (json_is_array(v)) v = json_array_get(v, i);
    out->len = 0;
    if (json_is_number(v)) return vp_buf_printf(out, err, "%.17g", json_number_value(v));
    if (!json_is_string(v)) return VP_OK;
    VP_TRY(vp_buf_add(out, "\"", 1, err)); /* no number looks like it */
    return vp_buf_add(out, json_string_value(v), json_string_length(v), err);
}

/* A string, or an integer, which becomes one; strings of `spelled` move while it grows, so their places are kept first.
 */
static int add_id(vp_mine_row *r, const json_t *v, vp_error *err) {
    VP_TRY(vp_grow(&r->pos_id, &r->cap, r->pos_ids, sizeof *r->pos_id, "pos_ids", err));
    vp_mine_name *id = &r->pos_id[r->pos_ids++];
    if (json_is_string(v)) {
        *id = (vp_mine_name){json_string_value(v), json_string_length(v)};
        return VP_OK;
    }
    const double x = json_is_number(v) ? json_number_value(v) : 0.5;
    if (!(fabs(x) <= 0x1p53) || x != floor(x))
        return vp_fail(err, VP_DATA, "'pos_ids' holds something other than identifiers");
    const size_t at = r->spelled.len;
    VP_TRY(vp_buf_printf(&r->spelled, err, "%.0f", x));
    *id = (vp_mine_name){NULL, r->spelled.len - at};
    return VP_OK;
}

static int read_ids(vp_mine_row *r, vp_error *err) {
    const json_t *v = json_object_get(r->object, "pos_ids");
    r->pos_ids = r->spelled.len = 0;
    if (!v || json_is_null(v)) return VP_OK;
    if (!json_is_array(v)) VP_TRY(add_id(r, v, err));
    for (size_t i = 0; i < json_array_size(v); i++) VP_TRY(add_id(r, json_array_get(v, i), err));
    const char *at = r->spelled.data;
    for (size_t i = 0; i < r->pos_ids; i++)
        if (!r->pos_id[i].s) {
            r->pos_id[i].s = at;
            at += r->pos_id[i].n;
        }
    return VP_OK;
}

/* The query of a row that has none: the text of the stream, or the line's own. */
static int set_query(json_t *object, vp_mine_name text, vp_error *err) {
    json_t *own = json_object_get(object, "text");
    json_t *query = text.s ? json_stringn(text.s, text.n)
                    : json_is_string(own)
                        ? json_pack("{s:O,s:O*}", "text", own, "title", json_object_get(object, "title"))
                        : NULL;
    if (!json_object_set_new(object, "query", query)) return VP_OK;
    return vp_fail(err, VP_DATA, "no 'query' and no 'text', which `tok --text` carries");
}

int vp_mine_row_read(vp_mine_row *r, vp_json_text line, vp_mine_name text, vp_mine_name id, vp_error *err) {
    json_error_t why;
    json_decref(r->object);
    r->object = json_loadb(line.s, line.n, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &why);
    if (!r->object) return vp_fail(err, VP_DATA, "not JSON: %s", why.text);
    if (!json_is_object(r->object)) return vp_fail(err, VP_DATA, "not a JSON object");
    r->id = (vp_mine_name){0};
    if (!vp_example_is(r->object)) {
        VP_TRY(set_query(r->object, text, err));
        r->id = id;
    }
    VP_TRY(vp_example_read_texts(&r->example, r->object, &r->positives, err));
    r->query = (vp_mine_name){r->example.example.text[0].text, r->example.example.text[0].text_len};
    VP_TRY(read_ids(r, err));
    return vp_mine_key(r->query.s, r->query.n, &r->scratch, &r->key, err);
}

/* ---- printing ---- */
static int print_string(const char *before, vp_mine_name s, vp_buf *out, vp_error *err) {
    VP_TRY(vp_buf_printf(out, err, "%s", before));
    return vp_json_quote(out, s.s, s.n, err);
}

static int print_float(const char *before, float x, vp_buf *out, vp_error *err) {
    char text[32];
    vp_json_float_text(text, x);
    return vp_buf_printf(out, err, "%s%s", before, text);
}

static int print_floats(const char *key, const float *x, size_t n, vp_buf *out, vp_error *err) {
    VP_TRY(vp_buf_printf(out, err, ",\"%s\":[", key));
    for (size_t i = 0; i < n; i++) VP_TRY(print_float(i ? "," : "", x[i], out, err));
    return vp_buf_add(out, "]", 1, err);
}

static int print_names(const char *key, const vp_mine_name *s, size_t stride, size_t n, vp_buf *out, vp_error *err) {
    VP_TRY(vp_buf_printf(out, err, ",\"%s\":[", key));
    for (size_t i = 0; i < n; i++)
        VP_TRY(
            print_string(i ? "," : "", *(const vp_mine_name *)(const void *)((const char *)s + i * stride), out, err));
    return vp_buf_add(out, "]", 1, err);
}

/* The row itself, with the positives that it has, its closing brace left out. */
static int print_row(const vp_mine_row *r, vp_json_text line, bool positives, vp_buf *out, vp_error *err) {
    vp_json_text own;
    VP_TRY(vp_buf_add(out, "{", 1, err));
    const bool has_query = vp_json_text_member(line, "query", &own) || vp_json_text_member(line, "sentence1", &own);
    if (!has_query && r->id.s) VP_TRY(print_string("\"id\":", r->id, out, err));
    if (!has_query) VP_TRY(print_string(r->id.s ? ",\"query\":" : "\"query\":", r->query, out, err));
    const size_t at = out->len;
    VP_TRY(vp_json_text_compact(line, replaced + (positives ? POSITIVES : 0), out, err));
    if (out->len == at) return VP_OK;
    out->len--; /* the closing brace; the opening one, after our own members, becomes a comma */
    if (has_query)
        memmove(out->data + at - 1, out->data + at, out->len-- - at);
    else
        out->data[at] = ',';
    return VP_OK;
}

int vp_mine_row_print(const vp_mine_row *r, vp_json_text line, const vp_triple *t, vp_buf *out, vp_error *err) {
    const char *key = !t->positive && json_object_get(r->object, "pos") ? "neg" : "negative";
    const size_t stride = sizeof *t->negative;
    VP_TRY(print_row(r, line, !t->positive, out, err));
    if (t->positive) VP_TRY(print_names("positive", t->positive, sizeof *t->positive, t->pos, out, err));
    VP_TRY(print_names(key, &t->negative->text, stride, t->n, out, err));
    if (t->n && t->negative[0].id.s) VP_TRY(print_names("neg_ids", &t->negative->id, stride, t->n, out, err));
    for (int bm25 = 0; bm25 < 2; bm25++) {
        if (!(bm25 ? t->bm25 : t->scores)) continue;
        VP_TRY(vp_buf_printf(out, err, ",\"%s\":[", bm25 ? "neg_bm25" : "neg_scores"));
        for (size_t i = 0; i < t->n; i++)
            VP_TRY(print_float(i ? "," : "", bm25 ? t->negative[i].bm25 : t->negative[i].score, out, err));
        VP_TRY(vp_buf_add(out, "]", 1, err));
    }
    if (t->pos_score) VP_TRY(print_floats("pos_scores", t->pos_score, t->pos, out, err));
    if (t->pos_bm25) VP_TRY(print_floats("pos_bm25", t->pos_bm25, t->pos, out, err));
    return vp_buf_add(out, "}\n", 2, err);
}
