/* Frames and what they own: columns are found, put and dropped; messages name the frame. Reading values out of columns
 * is column.c, cutting rows slice.c. */
#include "lib/stream/private.h"
#include <stdio.h>
#include <stdlib.h>

vp_frame *vp_frame_new(vp_frame_kind kind, vp_error *err) {
    vp_frame *f = calloc(1, sizeof *f);
    vp_frame_store *store = calloc(1, sizeof *store);
    vp_map *keys = vp_map_new();
    if (!f || !store || !keys) {
        free(f);
        free(store);
        vp_map_free(keys);
        vp_fail_memory(err, "a frame", sizeof *f);
        return NULL;
    }
    f->kind = kind;
    f->number = -1;
    f->owner = store;
    f->keys = keys;
    return f;
}

void vp_frame_reset(vp_frame *f) {
    vp_frame_store *store = f->owner;
    for (size_t i = 0; i < store->nblocks; i++) free(store->block[i]);
    store->nblocks = 0;
    vp_map_free(f->keys);
    *f = (vp_frame){.number = -1, .owner = store};
}

void vp_frame_free(vp_frame *f) {
    if (!f) return;
    vp_frame_store *store = f->owner;
    vp_frame_reset(f);
    vp_buf_free(&store->payload);
    free(store->block);
    free(store);
    free(f);
}

int vp_frame_own(vp_frame *f, void *block, vp_error *err) {
    vp_frame_store *store = f->owner;
    const int status = vp_grow(&store->block, &store->cap, store->nblocks, sizeof *store->block, "a frame", err);
    if (status) {
        free(block);
        return status;
    }
    store->block[store->nblocks++] = block;
    return VP_OK;
}

void *vp_frame_alloc(vp_frame *f, size_t n, vp_error *err) {
    void *block = malloc(n ? n : 1);
    if (!block) {
        vp_fail_memory(err, "a column", n);
        return NULL;
    }
    return vp_frame_own(f, block, err) ? NULL : block;
}

int vp_frame_fail(const vp_frame *f, int code, vp_error *err, const char *format, ...) {
    char why[400];
    const char *name = ((const vp_frame_store *)f->owner)->name;
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    if (f->number < 0) return vp_fail(err, code, "a new frame: %s", why);
    return vp_fail(err, code, "%s%sframe %lld (byte %lld): %s", name ? name : "", name ? ": " : "",
                   (long long)f->number, (long long)f->offset, why);
}

static vp_column *find(const vp_frame *f, const char *name, size_t n) {
    for (int i = 0; i < f->ncolumns; i++)
        if (strlen(f->column[i].name) == n && memcmp(f->column[i].name, name, n) == 0)
            return (vp_column *)(uintptr_t)&f->column[i];
    return NULL;
}

const vp_column *vp_frame_find(const vp_frame *f, const char *name) {
    return find(f, name, strlen(name));
}

vp_column *vp_frame_add(vp_frame *f, const char *name, size_t n, vp_error *err) {
    vp_column *c = find(f, name, n);
    if (c) {
        *c = (vp_column){.name = c->name};
        return c;
    }
    if (f->ncolumns == VP_MAX_COLUMNS) {
        vp_frame_fail(f, VP_DATA, err, "more than %d columns", VP_MAX_COLUMNS);
        return NULL;
    }
    char *copy = vp_frame_alloc(f, n + 1, err);
    if (!copy) return NULL;
    memcpy(copy, name, n);
    copy[n] = '\0';
    c = &f->column[f->ncolumns++];
    *c = (vp_column){.name = copy};
    return c;
}

/* What is known for certain: NONE for a column that nobody described. */
static vp_symbol known_symbol(const vp_column *c) {
    vp_column_pattern p;
    if (c->symbol != VP_SYMBOL_NONE) return c->symbol;
    if (c->is_values) return VP_SYMBOL_B;
    return vp_column_pattern_schema(c->name, &p) ? vp_column_pattern_symbol(&p) : VP_SYMBOL_NONE;
}

vp_symbol vp_column_symbol(const vp_frame *f, const vp_column *c) {
    const vp_symbol known = known_symbol(c);
    if (known != VP_SYMBOL_NONE) return known;
    if (c->shape[0] == f->B) return VP_SYMBOL_B;
    if (c->shape[0] == f->T) return VP_SYMBOL_T;
    return c->shape[0] == f->B + 1 ? VP_SYMBOL_B1 : VP_SYMBOL_M;
}

void vp_frame_measure(vp_frame *f) {
    const vp_column *cu = vp_frame_find(f, "cu");
    f->T = 0;
    if (cu && !cu->is_values && cu->dtype == VP_I32 && cu->ndim == 1 && cu->shape[0] > 0) {
        f->B = cu->shape[0] - 1;
        f->T = vp_column_i32(cu, f->B);
        return;
    }
    for (int i = 0; i < f->ncolumns; i++)
        if (known_symbol(&f->column[i]) == VP_SYMBOL_B) {
            f->B = f->column[i].shape[0];
            return;
        }
}

int vp_frame_put(vp_frame *f, const char *name, vp_dtype dtype, int ndim, const int64_t *shape, const void *data,
                 vp_error *err) {
    size_t bytes = vp_dtype_size(dtype);
    bool ok = bytes && ndim >= 1 && ndim <= VP_MAX_DIMS;
    for (int i = 0; ok && i < ndim; i++) ok = shape[i] >= 0 && !__builtin_mul_overflow(bytes, (size_t)shape[i], &bytes);
    if (!ok) return vp_fail(err, VP_BUG, "column '%s' put with an impossible type or shape", name);
    vp_column *c = vp_frame_add(f, name, strlen(name), err);
    if (!c) return err->code;
    c->dtype = dtype;
    c->ndim = ndim;
    memcpy(c->shape, shape, (size_t)ndim * sizeof *shape);
    c->data = data;
    c->bytes = bytes;
    vp_frame_measure(f);
    return VP_OK;
}

int vp_frame_put_values(vp_frame *f, const char *name, int64_t n, vp_buf *b, const uint32_t *at, vp_error *err) {
    VP_TRY(vp_frame_own(f, b->data, err));
    vp_column *c = vp_frame_add(f, name, strlen(name), err);
    if (!c) return err->code;
    c->is_values = true;
    c->ndim = 1;
    c->shape[0] = n;
    c->data = (const uint8_t *)b->data;
    c->bytes = b->len;
    c->at = at;
    vp_frame_measure(f);
    return VP_OK;
}

int vp_frame_put_strs(vp_frame *f, const char *name, int64_t n, const char *const *s, const size_t *len,
                      vp_error *err) {
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, err);
    uint32_t *at = vp_frame_alloc(f, ((size_t)n + 1) * sizeof *at, err);
    for (int64_t i = 0; i < n && !err->code; i++) {
        at[i] = (uint32_t)b.len;
        if (s[i])
            vp_msgpack_strn(&p, s[i], len[i]);
        else
            msgpack_pack_nil(&p.pk);
        if (b.len > UINT32_MAX) vp_fail(err, VP_DATA, "column '%s': more than 4 GiB of text in one frame", name);
    }
    if (err->code) {
        vp_buf_free(&b);
        return err->code;
    }
    at[n] = (uint32_t)b.len;
    return vp_frame_put_values(f, name, n, &b, at, err);
}

void vp_frame_drop(vp_frame *f, const char *name) {
    const vp_column *c = vp_frame_find(f, name);
    if (!c) return;
    const int i = (int)(c - f->column);
    memmove(&f->column[i], &f->column[i + 1], (size_t)(f->ncolumns - i - 1) * sizeof *c);
    f->ncolumns--;
    vp_frame_measure(f);
}
