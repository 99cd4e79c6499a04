/* From a payload to a frame: checksum, the map, its control keys and its columns. What the columns hold is check.c's.
 */
#include "lib/stream/private.h"
#include <xxhash.h>

static int bad_column(const vp_frame *f, const vp_column *c, vp_error *err, const char *why) {
    return vp_frame_fail(f, VP_DATA, err, "column '%s': %s", c->name, why);
}

static int parse_shape(const vp_frame *f, vp_column *c, vp_cursor *at, const vp_token *shape, vp_error *err) {
    if (shape->kind != VP_KIND_ARRAY || shape->n < 1 || shape->n > VP_MAX_DIMS)
        return bad_column(f, c, err, "'shape' is not a list of 1 to 4 dimensions");
    c->ndim = (int)shape->n;
    for (int i = 0; i < c->ndim; i++) {
        vp_token dim;
        vp_cursor_token(at, &dim);
        if (!vp_token_int(&dim, &c->shape[i]) || c->shape[i] < 0)
            return bad_column(f, c, err, "a dimension is not a number from 0");
    }
    return VP_OK;
}

/* {"dtype", "shape", "data"} in any order; other keys are left to those who know them. */
static int parse_tensor(const vp_frame *f, vp_column *c, vp_cursor at, vp_error *err) {
    vp_token map, key, value;
    vp_cursor_token(&at, &map);
    c->dtype = VP_NDTYPES;
    for (size_t left = map.n; left; left--) {
        vp_cursor_token(&at, &key);
        vp_cursor inside = at;
        vp_cursor_token(&inside, &value);
        vp_cursor_skip(&at);
        if (vp_token_is(&key, "dtype")) {
            if (value.kind == VP_KIND_STR) c->dtype = vp_dtype_find((const char *)value.data, value.n);
            if (c->dtype == VP_NDTYPES) return bad_column(f, c, err, "unknown dtype");
        } else if (vp_token_is(&key, "shape")) {
            VP_TRY(parse_shape(f, c, &inside, &value, err));
        } else if (vp_token_is(&key, "data")) {
            if (value.kind != VP_KIND_BIN) return bad_column(f, c, err, "'data' is not binary");
            c->data = value.data;
            c->bytes = value.n;
        }
    }
    if (c->dtype == VP_NDTYPES || !c->ndim || !c->data) return bad_column(f, c, err, "needs dtype, shape and data");
    size_t bytes = vp_dtype_size(c->dtype);
    for (int i = 0; i < c->ndim; i++)
        if (__builtin_mul_overflow(bytes, (size_t)c->shape[i], &bytes))
            return bad_column(f, c, err, "its shape is too large");
    if (bytes != c->bytes)
        return vp_frame_fail(f, VP_DATA, err, "column '%s': its shape needs %zu bytes, not %zu", c->name, bytes,
                             c->bytes);
    return VP_OK;
}

static int parse_values(vp_frame *f, vp_column *c, vp_cursor at, vp_error *err) {
    vp_token array;
    vp_cursor_token(&at, &array);
    uint32_t *offset = vp_frame_alloc(f, (array.n + 1) * sizeof *offset, err);
    if (!offset) return err->code;
    c->is_values = true;
    c->ndim = 1;
    c->shape[0] = (int64_t)array.n;
    c->data = at.p;
    c->at = offset;
    for (size_t i = 0; i < array.n; i++) {
        offset[i] = (uint32_t)(at.p - c->data); /* a payload is below 4 GiB */
        vp_cursor_skip(&at);
    }
    c->bytes = (size_t)(at.p - c->data);
    offset[array.n] = (uint32_t)c->bytes;
    return VP_OK;
}

static int parse_columns(vp_frame *f, vp_cursor at, vp_error *err) {
    vp_token map, name, value;
    vp_cursor_token(&at, &map);
    if (map.kind != VP_KIND_MAP) return vp_frame_fail(f, VP_DATA, err, "'columns' is not a map");
    for (size_t left = map.n; left; left--) {
        vp_cursor_token(&at, &name);
        if (name.kind != VP_KIND_STR || memchr(name.data, 0, name.n))
            return vp_frame_fail(f, VP_DATA, err, "the name of a column is not a string");
        const vp_cursor here = at;
        vp_cursor inside = at;
        vp_cursor_token(&inside, &value);
        vp_cursor_skip(&at);
        vp_column *c = vp_frame_add(f, (const char *)name.data, name.n, err);
        if (!c) return err->code;
        c->raw = here.p;
        c->raw_bytes = (size_t)(at.p - here.p);
        if (value.kind == VP_KIND_MAP)
            VP_TRY(parse_tensor(f, c, here, err));
        else if (value.kind == VP_KIND_ARRAY)
            VP_TRY(parse_values(f, c, here, err));
        else
            return bad_column(f, c, err, "neither a tensor nor an array of values");
    }
    return VP_OK;
}

static int parse_kind(vp_frame *f, const vp_token *kind, vp_error *err) {
    static const char *const names[] = {
        [VP_FRAME_HEADER] = "header", [VP_FRAME_BATCH] = "batch", [VP_FRAME_END] = "end"};
    for (int k = VP_FRAME_HEADER; k <= VP_FRAME_END; k++)
        if (vp_token_is(kind, names[k])) {
            f->kind = (vp_frame_kind)k;
            return VP_OK;
        }
    return vp_frame_fail(f, VP_DATA, err, "its 'kind' is not header, batch or end");
}

/* The kind first, because it decides what the other keys are and may stand behind them. */
static int find_kind(vp_frame *f, vp_cursor at, size_t n, vp_error *err) {
    vp_token key, value = {.kind = VP_KIND_NIL};
    for (size_t left = n; left; left--) {
        vp_cursor_token(&at, &key);
        vp_cursor inside = at;
        if (vp_token_is(&key, "kind")) vp_cursor_token(&inside, &value);
        vp_cursor_skip(&at);
    }
    return parse_kind(f, &value, err);
}

static int parse_key(vp_frame *f, const vp_token *key, vp_cursor value, vp_error *err) {
    vp_cursor inside = value;
    vp_token t;
    vp_cursor_token(&inside, &t);
    if (vp_token_is(key, "kind")) return VP_OK;
    if (f->kind == VP_FRAME_BATCH && vp_token_is(key, "columns")) return parse_columns(f, value, err);
    if (f->kind == VP_FRAME_BATCH && vp_token_is(key, "seq"))
        return vp_token_int(&t, &f->seq) ? VP_OK : vp_frame_fail(f, VP_DATA, err, "'seq' is not a number");
    if (key->kind != VP_KIND_STR || memchr(key->data, 0, key->n))
        return vp_frame_fail(f, VP_DATA, err, "a key is not a string");
    return vp_map_add_raw(f->keys, key->data, key->n, value.p, (size_t)(value.end - value.p), err);
}

static int parse_record(vp_frame *f, vp_cursor at, vp_error *err) {
    bool columns = false;
    vp_token map, key;
    vp_cursor_token(&at, &map);
    if (map.kind != VP_KIND_MAP) return vp_frame_fail(f, VP_DATA, err, "holds no map");
    VP_TRY(find_kind(f, at, map.n, err));
    f->seq = -1;
    for (size_t left = map.n; left; left--) {
        vp_cursor_token(&at, &key);
        vp_cursor value = at;
        vp_cursor_skip(&at);
        value.end = at.p;
        columns |= vp_token_is(&key, "columns");
        VP_TRY(parse_key(f, &key, value, err));
    }
    if (f->kind == VP_FRAME_BATCH && !columns) return vp_frame_fail(f, VP_DATA, err, "a batch without 'columns'");
    return VP_OK;
}

int vp_frame_parse(vp_frame *f, vp_error *err) {
    const vp_buf *payload = &((const vp_frame_store *)f->owner)->payload;
    const uint8_t *data = (const uint8_t *)payload->data;
    uint64_t sum;
    if (payload->len < sizeof sum) return vp_frame_fail(f, VP_DATA, err, "too short for a checksum");
    memcpy(&sum, data, sizeof sum);
    data += sizeof sum;
    const size_t n = payload->len - sizeof sum;
    if (XXH3_64bits(data, n) != sum) return vp_frame_fail(f, VP_DATA, err, "wrong checksum: the data was damaged");
    vp_cursor c = {data, data + n};
    const char *why = vp_cursor_check(&c);
    if (why) return vp_frame_fail(f, VP_DATA, err, "%s", why);
    if (c.p != c.end) return vp_frame_fail(f, VP_DATA, err, "%zu bytes after the map", (size_t)(c.end - c.p));
    f->keys = vp_map_new();
    if (!f->keys) return vp_fail_memory(err, "a frame", n);
    return parse_record(f, (vp_cursor){data, data + n}, err);
}
