/* Rows of a batch as a frame of their own: what the writer splits large frames with, and what `--head` and tests cut
 * with. */
#include "lib/stream/private.h"
#include <stdlib.h>

typedef struct cut {
    const vp_frame *from;
    vp_frame *to;
    int64_t b0, b1, t0, t1; /* rows and tokens */
} cut;

/* Elements [i0, i1) of dimension `axis` of a tensor. */
static int cut_tensor(const cut *k, const vp_column *c, vp_column *out, int axis, int64_t i0, int64_t i1,
                      vp_error *err) {
    size_t outer = 1, inner = vp_dtype_size(c->dtype);
    for (int i = 0; i < axis; i++) outer *= (size_t)c->shape[i];
    for (int i = axis + 1; i < c->ndim; i++) inner *= (size_t)c->shape[i];
    const size_t taken = (size_t)(i1 - i0) * inner, stride = (size_t)c->shape[axis] * inner;
    uint8_t *data = vp_frame_alloc(k->to, outer * taken, err);
    if (!data) return err->code;
    for (size_t o = 0; o < outer && taken; o++)
        memcpy(data + o * taken, c->data + o * stride + (size_t)i0 * inner, taken);
    out->dtype = c->dtype;
    out->ndim = c->ndim;
    memcpy(out->shape, c->shape, sizeof out->shape);
    out->shape[axis] = i1 - i0;
    out->data = data;
    out->bytes = outer * taken;
    return VP_OK;
}

static int cut_values(const cut *k, const vp_column *c, vp_column *out, vp_error *err) {
    const uint32_t first = c->at[k->b0];
    const size_t n = (size_t)(k->b1 - k->b0), bytes = c->at[k->b1] - first;
    uint8_t *data = vp_frame_alloc(k->to, bytes, err);
    uint32_t *at = vp_frame_alloc(k->to, (n + 1) * sizeof *at, err);
    if (!data || !at) return err->code;
    if (bytes) memcpy(data, c->data + first, bytes);
    for (size_t i = 0; i <= n; i++) at[i] = c->at[(size_t)k->b0 + i] - first;
    out->is_values = true;
    out->ndim = 1;
    out->shape[0] = (int64_t)n;
    out->data = data;
    out->bytes = bytes;
    out->at = at;
    return VP_OK;
}

static int cut_cu(const cut *k, const vp_column *c, vp_column *out, vp_error *err) {
    VP_TRY(cut_tensor(k, c, out, 0, k->b0, k->b1 + 1, err));
    uint8_t *data = (uint8_t *)(uintptr_t)out->data;
    for (int64_t i = 0; i <= k->b1 - k->b0; i++) {
        const int32_t rebased = vp_column_i32(c, k->b0 + i) - (int32_t)k->t0;
        memcpy(data + (size_t)i * sizeof rebased, &rebased, sizeof rebased);
    }
    return VP_OK;
}

/* A tensor that was read may have keys beside dtype, shape and data: they go with the part. */
static int keep_other_keys(const cut *k, const vp_column *c, vp_column *out, vp_error *err) {
    vp_cursor at = {c->raw, c->raw + c->raw_bytes};
    vp_token map, key;
    if (!c->raw || c->is_values || !vp_cursor_token(&at, &map) || map.n <= 3) return VP_OK;
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, err);
    msgpack_pack_map(&p.pk, map.n);
    vp_msgpack_tensor(&p, out);
    vp_msgpack_raw(&p, out->data, out->bytes);
    for (size_t left = map.n; left; left--) {
        const uint8_t *pair = at.p;
        vp_cursor_token(&at, &key);
        vp_cursor_skip(&at);
        if (!vp_token_is(&key, "dtype") && !vp_token_is(&key, "shape") && !vp_token_is(&key, "data"))
            vp_msgpack_raw(&p, pair, (size_t)(at.p - pair));
    }
    if (err->code) {
        vp_buf_free(&b);
        return err->code;
    }
    out->raw = (const uint8_t *)b.data;
    out->raw_bytes = b.len;
    return vp_frame_own(k->to, b.data, err);
}

static int cut_column(const cut *k, const vp_column *c, vp_error *err) {
    const vp_symbol symbol = vp_column_symbol(k->from, c);
    vp_column *out = vp_frame_add(k->to, c->name, strlen(c->name), err);
    if (!out) return err->code;
    out->symbol = symbol;
    const bool whole = k->b0 == 0 && k->b1 == k->from->B;
    if (c->is_values) return cut_values(k, c, out, err);
    if (strcmp(c->name, "cu") == 0) return cut_cu(k, c, out, err);
    int status = VP_OK;
    if (whole)
        status = cut_tensor(k, c, out, 0, 0, c->shape[0], err);
    else if (symbol == VP_SYMBOL_B)
        status = cut_tensor(k, c, out, 0, k->b0, k->b1, err);
    else if (symbol == VP_SYMBOL_T)
        status = cut_tensor(k, c, out, 0, k->t0, k->t1, err);
    else if (symbol == VP_SYMBOL_L && c->ndim > 1)
        status = cut_tensor(k, c, out, 1, k->t0, k->t1, err);
    else
        return vp_frame_fail(k->from, VP_DATA, err, "column '%s' cannot be cut by rows", c->name);
    return status ? status : keep_other_keys(k, c, out, err);
}

static int cut_all(const cut *k, vp_error *err) {
    const vp_frame *f = k->from;
    for (size_t i = 0; i < vp_map_len(f->keys); i++) {
        const char *key = vp_map_key(f->keys, i);
        const uint8_t *raw;
        size_t n;
        if (k->b1 != f->B && strcmp(key, "last") == 0) continue; /* the step goes on in the next part */
        vp_map_raw(f->keys, key, &raw, &n);
        VP_TRY(vp_map_set_raw(k->to->keys, key, raw, n, err));
    }
    for (int i = 0; i < f->ncolumns; i++) VP_TRY(cut_column(k, &f->column[i], err));
    vp_frame_measure(k->to);
    return VP_OK;
}

int vp_frame_slice(const vp_frame *f, int64_t b0, int64_t b1, vp_frame **out, vp_error *err) {
    *out = NULL;
    if (f->kind != VP_FRAME_BATCH || b0 < 0 || b1 < b0 || b1 > f->B)
        return vp_fail(err, VP_BUG, "rows %lld to %lld of a frame of %lld", (long long)b0, (long long)b1,
                       (long long)f->B);
    const vp_column *cu = vp_frame_find(f, "cu");
    cut k = {.from = f, .b0 = b0, .b1 = b1, .to = vp_frame_new(VP_FRAME_BATCH, err)};
    if (!k.to) return err->code;
    if (cu) {
        k.t0 = vp_column_i32(cu, b0);
        k.t1 = vp_column_i32(cu, b1);
    }
    k.to->number = f->number;
    k.to->offset = f->offset;
    k.to->seq = f->seq;
    k.to->B = b1 - b0;
    ((vp_frame_store *)k.to->owner)->name = ((const vp_frame_store *)f->owner)->name;
    const int status = cut_all(&k, err);
    if (status)
        vp_frame_free(k.to);
    else
        *out = k.to;
    return status;
}
