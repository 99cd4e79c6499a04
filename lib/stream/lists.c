/* Columns of lists of integers: every row's value is an array of a fixed number of arrays. */
#include "lib/stream/private.h"
#include <stdlib.h>

int vp_frame_put_lists(vp_frame *f, const char *name, int64_t n, int64_t lists, const int32_t *cu, const int32_t *item,
                       vp_error *err) {
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, err);
    uint32_t *at = vp_frame_alloc(f, ((size_t)n + 1) * sizeof *at, err);
    for (int64_t i = 0; i < n && !err->code; i++) {
        at[i] = (uint32_t)b.len;
        msgpack_pack_array(&p.pk, (size_t)lists);
        for (int64_t k = i * lists; k < (i + 1) * lists; k++) {
            msgpack_pack_array(&p.pk, (size_t)(cu[k + 1] - cu[k]));
            for (int32_t j = cu[k]; j < cu[k + 1]; j++) msgpack_pack_int32(&p.pk, item[j]);
        }
        if (b.len > UINT32_MAX) vp_fail(err, VP_DATA, "column '%s': more than 4 GiB of lists in one frame", name);
    }
    if (err->code) {
        vp_buf_free(&b);
        return err->code;
    }
    at[n] = (uint32_t)b.len;
    return vp_frame_put_values(f, name, n, &b, at, err);
}

/* The lists of one value; *k counts them, *total their items. */
static bool read_value(vp_cursor *at, int64_t lists, int32_t *cu, int64_t *k, vp_buf *items, vp_error *err) {
    vp_token t;
    if (!vp_cursor_token(at, &t) || t.kind != VP_KIND_ARRAY || t.n != (size_t)lists) return false;
    for (int64_t l = 0; l < lists; l++) {
        vp_token list, one;
        if (!vp_cursor_token(at, &list) || list.kind != VP_KIND_ARRAY) return false;
        for (size_t i = 0; i < list.n; i++) {
            int64_t x = 0;
            if (!vp_cursor_token(at, &one) || !vp_token_int(&one, &x) || x < 0 || x > INT32_MAX) return false;
            const int32_t item = (int32_t)x;
            if (vp_buf_add(items, &item, sizeof item, err)) return false;
        }
        cu[++*k] = (int32_t)(items->len / sizeof(int32_t));
    }
    return true;
}

int vp_frame_lists(const vp_frame *f, const char *name, int64_t lists, int32_t **cu, int32_t **item, vp_error *err) {
    const vp_column *c = vp_frame_find(f, name);
    vp_buf items = {0};
    int64_t k = 0;
    *cu = *item = NULL;
    if (!c) return VP_OK;
    if (!c->is_values) return vp_frame_fail(f, VP_DATA, err, "column '%s' is not VALUES", name);
    const int64_t n = c->shape[0];
    int status = vp_buf_reserve(&items, 1, err);
    int32_t *offset = vp_calloc((size_t)(n * lists) + 1, sizeof *offset);
    if (!status && !offset) status = vp_fail_memory(err, name, (size_t)(n * lists) * sizeof *offset);
    for (int64_t i = 0; !status && i < n; i++) {
        vp_cursor at = {c->data + c->at[i], c->data + c->at[i + 1]};
        if (!read_value(&at, lists, offset, &k, &items, err))
            status = err->code ? err->code
                               : vp_frame_fail(f, VP_DATA, err, "column '%s', row %lld: not %lld lists of ids", name,
                                               (long long)i, (long long)lists);
    }
    if (status) {
        free(offset);
        vp_buf_free(&items);
        return status;
    }
    *cu = offset;
    *item = (int32_t *)(void *)items.data;
    return VP_OK;
}
