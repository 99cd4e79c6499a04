/* Patterns of columns: which element types and shapes a name may have, from schemas/columns.def and from what a header
 * declares; and the declarations themselves. */
#include "lib/stream/private.h"
#include <stdlib.h>

static const char *const symbols[] = {
    [VP_SYMBOL_B] = "B", [VP_SYMBOL_B1] = "B+1", [VP_SYMBOL_T] = "T", [VP_SYMBOL_M] = "M", [VP_SYMBOL_L] = "L"};

vp_symbol vp_column_pattern_symbol(const vp_column_pattern *p) {
    if (p->values) return VP_SYMBOL_B;
    return p->ndim && p->dim[0] < VP_DIM_ANY ? (vp_symbol)(-1 - p->dim[0]) : VP_SYMBOL_NONE;
}

/* A symbol of n bytes as a negative dim; any other name may be any number. */
static int64_t symbol_dim(const char *s, size_t n) {
    for (int i = VP_SYMBOL_B; i <= VP_SYMBOL_L; i++)
        if (strlen(symbols[i]) == n && memcmp(symbols[i], s, n) == 0) return -1 - i;
    return VP_DIM_ANY;
}

/* "B 576": symbols, decimal numbers, anything else for any size. False: too many dims, or a number too large. */
static bool parse_shape(const char *shape, vp_column_pattern *p) {
    for (const char *s = shape; *s;) {
        const size_t n = strcspn(s, " ");
        if (n && p->ndim == VP_MAX_DIMS) return false;
        if (n && strspn(s, "0123456789") == n) {
            int64_t value = 0;
            for (size_t i = 0; i < n; i++)
                if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, s[i] - '0', &value))
                    return false;
            p->dim[p->ndim++] = value;
        } else if (n)
            p->dim[p->ndim++] = symbol_dim(s, n);
        s += n;
        s += *s == ' ';
    }
    return p->ndim > 0;
}

bool vp_column_pattern_schema(const char *name, vp_column_pattern *p) {
    const bool gradient = strncmp(name, "grad.", 5) == 0;
    const vp_schema *s = vp_schema_find(gradient ? name + 5 : name);
    if (!s) return false;
    *p = (vp_column_pattern){.values = strcmp(s->dtype, "VALUES") == 0};
    if (p->values && gradient) return false;
    const char *dtypes = p->values ? "" : gradient ? "F32|BF16" : s->dtype;
    while (*dtypes) {
        const size_t n = strcspn(dtypes, "|");
        p->dtypes |= 1u << vp_dtype_find(dtypes, n);
        dtypes += n + (dtypes[n] == '|');
    }
    return parse_shape(s->shape, p);
}

/* ["F32", ["B", 576]] at the cursor. */
static const char *parse_declaration(vp_cursor *c, vp_column_pattern *p) {
    vp_token t;
    *p = (vp_column_pattern){0};
    vp_cursor_token(c, &t);
    if (t.kind != VP_KIND_ARRAY || t.n != 2) return "not [dtype, [dims]]";
    vp_cursor_token(c, &t);
    if (t.kind != VP_KIND_STR) return "its dtype is not a string";
    p->values = vp_token_is(&t, "VALUES");
    const vp_dtype dtype = vp_dtype_find((const char *)t.data, t.n);
    if (!p->values && dtype == VP_NDTYPES) return "its dtype is unknown";
    p->dtypes = p->values ? 0 : 1u << dtype;
    vp_cursor_token(c, &t);
    if (t.kind != VP_KIND_ARRAY || t.n < 1 || t.n > VP_MAX_DIMS) return "it has not 1 to 4 dimensions";
    p->ndim = (int)t.n;
    for (int i = 0; i < p->ndim; i++) {
        vp_cursor_token(c, &t);
        if (t.kind == VP_KIND_STR)
            p->dim[i] = symbol_dim((const char *)t.data, t.n);
        else if (!vp_token_int(&t, &p->dim[i]) || p->dim[i] < 0)
            return "a dimension is neither a symbol nor a number";
    }
    return NULL;
}

int vp_declared_read(vp_declared *d, const vp_frame *header, vp_error *err) {
    *d = (vp_declared){.columns = vp_map_sub(header->keys, "columns")};
    if (!d->columns)
        return vp_map_has(header->keys, "columns")
                   ? vp_frame_fail(header, VP_DATA, err, "'columns' is not a map of names")
                   : VP_OK;
    const size_t n = vp_map_len(d->columns);
    d->item = vp_calloc(n, sizeof *d->item);
    if (!d->item) return vp_fail_memory(err, "declared columns", n * sizeof *d->item);
    for (; d->n < n; d->n++) {
        struct vp_declaration *item = &d->item[d->n];
        const uint8_t *raw;
        size_t bytes;
        item->name = vp_map_key(d->columns, d->n);
        vp_map_raw(d->columns, item->name, &raw, &bytes);
        const char *why = parse_declaration(&(vp_cursor){raw, raw + bytes}, &item->pattern);
        if (why) return vp_frame_fail(header, VP_DATA, err, "the declaration of column '%s': %s", item->name, why);
    }
    return VP_OK;
}

const vp_column_pattern *vp_declared_find(const vp_declared *d, const char *name) {
    for (size_t i = 0; i < d->n; i++)
        if (strcmp(d->item[i].name, name) == 0) return &d->item[i].pattern;
    return NULL;
}

void vp_declared_free(vp_declared *d) {
    vp_map_free(d->columns);
    free(d->item);
    *d = (vp_declared){0};
}

static int pack_dims(vp_msgpack *p, const char *dims) {
    vp_column_pattern pattern = {0};
    if (!parse_shape(dims, &pattern)) return vp_fail(p->err, VP_BUG, "'%s' is not a shape", dims);
    msgpack_pack_array(&p->pk, (size_t)pattern.ndim);
    const char *s = dims;
    for (int i = 0; i < pattern.ndim; i++) {
        s += strspn(s, " ");
        const size_t n = strcspn(s, " ");
        if (pattern.dim[i] >= 0)
            msgpack_pack_int64(&p->pk, pattern.dim[i]);
        else
            vp_msgpack_strn(p, s, n);
        s += n;
    }
    return p->err->code;
}

int vp_header_declare(vp_map *header, const char *name, const char *dtype, const char *dims, vp_error *err) {
    vp_map *columns = vp_map_has(header, "columns") ? vp_map_sub(header, "columns") : vp_map_new();
    if (!columns) return vp_fail_memory(err, "declared columns", 0);
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, err);
    msgpack_pack_array(&p.pk, 2);
    vp_msgpack_str(&p, dtype);
    int status = pack_dims(&p, dims);
    if (!status) status = vp_map_set_raw(columns, name, b.data, b.len, err);
    vp_buf_free(&b);
    if (!status) status = vp_map_set_map(header, "columns", columns, err);
    vp_map_free(columns);
    return status;
}

int vp_header_undeclare(vp_map *header, const char *name, vp_error *err) {
    vp_map *columns = vp_map_sub(header, "columns");
    if (!columns) return VP_OK;
    vp_map_remove(columns, name);
    const int status = vp_map_set_map(header, "columns", columns, err);
    vp_map_free(columns);
    return status;
}
