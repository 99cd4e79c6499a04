/* Frames as text for people, and rows as JSON. */
#include "lib/stream/look.h"
#include "lib/stream/private.h"
#include <stdio.h>

enum { SHOWN_NUMBERS = 6, SHOWN_VALUES = 3, SHOWN_BYTES = 48 };

bool vp_look_selected(const char *columns, const char *name) {
    const size_t n = strlen(name);
    for (const char *s = columns; s && *s;) {
        const size_t length = strcspn(s, ",");
        if (length == n && memcmp(s, name, n) == 0) return true;
        s += length + (s[length] == ',');
    }
    return !columns;
}

int vp_look_check(const vp_frame *f, const char *columns, vp_error *err) {
    char name[64];
    for (const char *s = columns; s && *s;) {
        const size_t length = strcspn(s, ",");
        snprintf(name, sizeof name, "%.*s", (int)length, s);
        if (!vp_frame_find(f, name)) return vp_frame_fail(f, VP_DATA, err, "no column '%s'", name);
        s += length + (s[length] == ',');
    }
    return VP_OK;
}

/* ---- elements ---- */

static int look_element(const vp_column *c, int64_t i, vp_buf *out, vp_error *err) {
    char text[32];
    const double x = vp_column_real(c, i);
    switch (c->dtype) {
    case VP_F64:
        return vp_buf_add(out, text, (size_t)vp_json_real_text(text, x), err);
    case VP_F32:
    case VP_F16:
    case VP_BF16:
        return vp_buf_add(out, text, (size_t)vp_json_float_text(text, (float)x), err);
    case VP_BOOL:
        return vp_buf_printf(out, err, "%s", x != 0 ? "true" : "false");
    case VP_I64:
        return vp_buf_printf(out, err, "%lld", (long long)vp_column_i64(c, i));
    case VP_U64:
        return vp_buf_printf(out, err, "%llu", (unsigned long long)vp_column_u64(c, i));
    default:
        return vp_buf_printf(out, err, "%lld", (long long)x);
    }
}

int vp_look_value(const vp_column *c, int64_t i, vp_buf *out, vp_error *err) {
    return vp_msgpack_json(&(vp_cursor){c->data + c->at[i], c->data + c->at[i + 1]}, out, err);
}

/* Elements of dimensions [axis, ndim) from element *at on, as nested lists. */
static int nested(const vp_column *c, int axis, int64_t *at, vp_buf *out, vp_error *err) {
    if (axis == c->ndim) return look_element(c, (*at)++, out, err);
    VP_TRY(vp_buf_add(out, "[", 1, err));
    for (int64_t i = 0; i < c->shape[axis]; i++) {
        if (i) VP_TRY(vp_buf_add(out, ",", 1, err));
        VP_TRY(nested(c, axis + 1, at, out, err));
    }
    return vp_buf_add(out, "]", 1, err);
}

static int64_t inner_elements(const vp_column *c) {
    int64_t n = 1;
    for (int i = 1; i < c->ndim; i++) n *= c->shape[i];
    return n;
}

/* ---- rows as JSON ---- */

static int row_cell(const vp_frame *f, const vp_column *c, int64_t b, vp_buf *out, vp_error *err) {
    const int64_t inner = c->is_values ? 1 : inner_elements(c);
    if (c->is_values) return vp_look_value(c, b, out, err);
    int64_t at = b * inner;
    if (vp_column_symbol(f, c) == VP_SYMBOL_B) return nested(c, 1, &at, out, err);
    const vp_column *cu = vp_frame_find(f, "cu");
    const int64_t first = vp_column_i32(cu, b), end = vp_column_i32(cu, b + 1);
    at = first * inner;
    VP_TRY(vp_buf_add(out, "[", 1, err));
    for (int64_t t = first; t < end; t++) {
        if (t > first) VP_TRY(vp_buf_add(out, ",", 1, err));
        VP_TRY(nested(c, 1, &at, out, err));
    }
    return vp_buf_add(out, "]", 1, err);
}

static bool has_rows(const vp_frame *f, const vp_column *c) {
    const vp_symbol s = vp_column_symbol(f, c);
    return s == VP_SYMBOL_B || (s == VP_SYMBOL_T && vp_frame_find(f, "cu"));
}

static int row_line(const vp_frame *f, const char *columns, int64_t b, vp_buf *out, vp_error *err) {
    const char *separator = "{";
    for (int i = 0; i < f->ncolumns; i++) {
        const vp_column *c = &f->column[i];
        if (!vp_look_selected(columns, c->name) || !has_rows(f, c)) continue;
        VP_TRY(vp_buf_add(out, separator, 1, err));
        VP_TRY(vp_json_quote(out, c->name, strlen(c->name), err));
        VP_TRY(vp_buf_add(out, ":", 1, err));
        VP_TRY(row_cell(f, c, b, out, err));
        separator = ",";
    }
    return vp_buf_printf(out, err, "%s}\n", *separator == '{' ? "{" : "");
}

int vp_look_rows(const vp_frame *f, const char *columns, vp_row_order *order, vp_buf *out, vp_error *err) {
    if (f->B == 0) return VP_OK; /* it may lack columns that frames with rows have */
    VP_TRY(vp_look_check(f, columns, err));
    for (int i = 0; i < f->ncolumns && columns; i++)
        if (vp_look_selected(columns, f->column[i].name) && !has_rows(f, &f->column[i]))
            return vp_frame_fail(f, VP_DATA, err, "column '%s' has no rows of its own", f->column[i].name);
    int64_t first;
    VP_TRY(vp_row_order_frame(order, f, &first, out, err));
    vp_buf line = {0};
    int status = VP_OK;
    for (int64_t b = 0; b < f->B && !status && !vp_row_order_full(order); b++) {
        line.len = 0;
        status = row_line(f, columns, b, &line, err);
        if (!status) status = vp_row_order_put(order, vp_row_ordinal(f, b, first), line.data, line.len, out, err);
    }
    vp_buf_free(&line);
    return status;
}

/* ---- tables ---- */

/* Cut what was appended since `start` to a few bytes, between characters. */
static int shorten(vp_buf *out, size_t start, vp_error *err) {
    if (out->len - start <= SHOWN_BYTES) return VP_OK;
    out->len = start + vp_utf8_valid(out->data + start, SHOWN_BYTES);
    return vp_buf_add(out, "...", 3, err);
}

static int values_line(const vp_column *c, vp_buf *out, vp_error *err) {
    VP_TRY(vp_buf_printf(out, err, "%38s", ""));
    for (int64_t i = 0; i < c->shape[0] && i < SHOWN_VALUES; i++) {
        VP_TRY(vp_buf_printf(out, err, "  "));
        const size_t start = out->len;
        VP_TRY(vp_look_value(c, i, out, err));
        VP_TRY(shorten(out, start, err));
    }
    return VP_OK;
}

static int numbers_line(const vp_column *c, vp_buf *out, vp_error *err) {
    const int64_t n = (int64_t)(c->bytes / vp_dtype_size(c->dtype));
    if (!n) return VP_OK;
    double min = vp_column_real(c, 0), max = min, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double x = vp_column_real(c, i);
        min = x < min ? x : min;
        max = x > max ? x : max;
        sum += x;
    }
    const bool floats = vp_dtype_is_float(c->dtype);
    VP_TRY(vp_buf_printf(out, err, floats ? "  %11.6g %11.6g %11.6g " : "  %11.0f %11.0f %11.6g ", min, max,
                         sum / (double)n));
    for (int64_t i = 0; i < n && i < SHOWN_NUMBERS; i++) {
        VP_TRY(vp_buf_add(out, " ", 1, err));
        VP_TRY(floats ? vp_buf_printf(out, err, "%.6g", vp_column_real(c, i)) : look_element(c, i, out, err));
    }
    return vp_buf_printf(out, err, "%s", n > SHOWN_NUMBERS ? " ..." : "");
}

static int column_line(const vp_column *c, vp_buf *out, vp_error *err) {
    char name[64], shape[96];
    int n = 0;
    vp_escape(name, sizeof name, c->name, strlen(c->name));
    for (int i = 0; i < c->ndim; i++)
        n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%lld", i ? "x" : "", (long long)c->shape[i]);
    VP_TRY(
        vp_buf_printf(out, err, "  %-10s %-6s %-12s", name, c->is_values ? "VALUES" : vp_dtype_name(c->dtype), shape));
    VP_TRY(c->is_values ? values_line(c, out, err) : numbers_line(c, out, err));
    return vp_buf_add(out, "\n", 1, err);
}

static int raw_json(const vp_map *m, const char *key, vp_buf *out, vp_error *err) {
    const uint8_t *raw;
    size_t n;
    vp_map_raw(m, key, &raw, &n);
    return vp_msgpack_json(&(vp_cursor){raw, raw + n}, out, err);
}

/* A line a key; columns and history, which grow long, a line an entry. */
static int key_lines(const vp_map *m, const char *key, vp_buf *out, vp_error *err) {
    char name[64];
    vp_escape(name, sizeof name, key, strlen(key));
    vp_map *columns = strcmp(key, "columns") == 0 ? vp_map_sub(m, key) : NULL;
    int status = VP_OK;
    if (columns && vp_map_len(columns)) {
        for (size_t i = 0; i < vp_map_len(columns) && !status; i++) {
            status = vp_buf_printf(out, err, "  %-10s ", i ? "" : name);
            if (!status) status = vp_json_quote(out, vp_map_key(columns, i), strlen(vp_map_key(columns, i)), err);
            if (!status) status = vp_buf_add(out, " ", 1, err);
            if (!status) status = raw_json(columns, vp_map_key(columns, i), out, err);
            if (!status) status = vp_buf_add(out, "\n", 1, err);
        }
    } else if (vp_map_str_at(m, key, 0)) {
        const char *entry;
        for (size_t i = 0; !status && (entry = vp_map_str_at(m, key, i)); i++) {
            status = vp_buf_printf(out, err, "  %-10s ", i ? "" : name);
            if (!status) status = vp_json_quote(out, entry, strlen(entry), err);
            if (!status) status = vp_buf_add(out, "\n", 1, err);
        }
    } else {
        status = vp_buf_printf(out, err, "  %-10s ", name);
        if (!status) status = raw_json(m, key, out, err);
        if (!status) status = vp_buf_add(out, "\n", 1, err);
    }
    vp_map_free(columns);
    return status;
}

int vp_look_frame(const vp_frame *f, const char *columns, vp_buf *out, vp_error *err) {
    static const char *const names[] = {
        [VP_FRAME_HEADER] = "header", [VP_FRAME_BATCH] = "batch", [VP_FRAME_END] = "end"};
    VP_TRY(vp_buf_printf(out, err, "%s", names[f->kind]));
    if (f->kind == VP_FRAME_BATCH)
        VP_TRY(vp_buf_printf(out, err, " %lld: B %lld, T %lld", (long long)f->seq, (long long)f->B, (long long)f->T));
    VP_TRY(vp_buf_add(out, "\n", 1, err));
    for (size_t i = 0; i < vp_map_len(f->keys); i++) VP_TRY(key_lines(f->keys, vp_map_key(f->keys, i), out, err));
    if (f->kind != VP_FRAME_BATCH) return VP_OK;
    VP_TRY(vp_look_check(f, columns, err));
    VP_TRY(vp_buf_printf(out, err, "  %-10s %-6s %-12s  %11s %11s %11s  %s\n", "column", "dtype", "shape", "min", "max",
                         "mean", "first"));
    for (int i = 0; i < f->ncolumns; i++)
        if (vp_look_selected(columns, f->column[i].name)) VP_TRY(column_line(&f->column[i], out, err));
    return VP_OK;
}
