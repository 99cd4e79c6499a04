/* Rows of several batches, in any order and as often as wanted, as one new batch. */
#include "lib/stream/private.h"
#include <stdlib.h>

typedef struct source {
    vp_frame *const *f;
    const vp_frame_row *row;
    int64_t n; /* rows */
    int64_t T; /* tokens */
    vp_frame *to;
} source;

static int64_t first_token(const vp_frame *f, int64_t b) {
    const vp_column *cu = vp_frame_find(f, "cu");
    return cu ? vp_column_i32(cu, b) : 0;
}

/* The column of this name in the frame of row i, which must be as in the first one. */
static int find_same(const source *s, int64_t i, const vp_column *like, const vp_column **out, vp_error *err) {
    const vp_frame *f = s->f[s->row[i].frame];
    const vp_column *c = vp_frame_find(f, like->name);
    bool same = c && c->is_values == like->is_values && c->ndim == like->ndim && c->dtype == like->dtype;
    for (int d = 1; same && d < like->ndim; d++) same = c->shape[d] == like->shape[d];
    *out = c;
    return same ? VP_OK : vp_frame_fail(f, VP_DATA, err, "column '%s' is not as in frames before", like->name);
}

static int gather_tensor(const source *s, const vp_column *like, vp_column *out, bool tokens, vp_error *err) {
    size_t inner = vp_dtype_size(like->dtype);
    for (int d = 1; d < like->ndim; d++) inner *= (size_t)like->shape[d];
    const size_t count = (size_t)(tokens ? s->T : s->n);
    uint8_t *data = vp_frame_alloc(s->to, count * inner, err), *at = data;
    if (!data) return err->code;
    for (int64_t i = 0; i < s->n; i++) {
        const vp_frame *f = s->f[s->row[i].frame];
        const vp_column *c;
        VP_TRY(find_same(s, i, like, &c, err));
        const int64_t b = s->row[i].b, from = tokens ? first_token(f, b) : b;
        const size_t bytes = (size_t)((tokens ? first_token(f, b + 1) : b + 1) - from) * inner;
        if (bytes) memcpy(at, c->data + (size_t)from * inner, bytes);
        at += bytes;
    }
    out->dtype = like->dtype;
    out->ndim = like->ndim;
    memcpy(out->shape, like->shape, sizeof out->shape);
    out->shape[0] = (int64_t)count;
    out->data = data;
    out->bytes = count * inner;
    return VP_OK;
}

static int gather_values(const source *s, const vp_column *like, vp_column *out, vp_error *err) {
    vp_buf b = {0};
    uint32_t *at = vp_frame_alloc(s->to, ((size_t)s->n + 1) * sizeof *at, err);
    int status = at ? vp_buf_reserve(&b, 1, err) : err->code;
    for (int64_t i = 0; !status && i < s->n; i++) {
        const vp_column *c;
        status = find_same(s, i, like, &c, err);
        at[i] = (uint32_t)b.len;
        if (!status) {
            const uint32_t from = c->at[s->row[i].b], to = c->at[s->row[i].b + 1];
            status = vp_buf_add(&b, c->data + from, to - from, err);
        }
        if (!status && b.len > UINT32_MAX)
            status = vp_fail(err, VP_DATA, "column '%s': more than 4 GiB in one step", like->name);
    }
    if (status) {
        vp_buf_free(&b);
        return status;
    }
    at[s->n] = (uint32_t)b.len;
    *out = (vp_column){.name = out->name,
                       .is_values = true,
                       .ndim = 1,
                       .shape = {s->n},
                       .data = (const uint8_t *)b.data,
                       .bytes = b.len,
                       .at = at};
    return vp_frame_own(s->to, b.data, err);
}

static int gather_cu(source *s, vp_column *out, vp_error *err) {
    int32_t *cu = vp_frame_alloc(s->to, ((size_t)s->n + 1) * sizeof *cu, err);
    if (!cu) return err->code;
    cu[0] = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const vp_frame *f = s->f[s->row[i].frame];
        const int64_t length = first_token(f, s->row[i].b + 1) - first_token(f, s->row[i].b);
        if (length > INT32_MAX - cu[i]) return vp_fail(err, VP_DATA, "more than %d tokens in one step", INT32_MAX);
        cu[i + 1] = cu[i] + (int32_t)length;
    }
    s->T = cu[s->n];
    out->dtype = VP_I32;
    out->ndim = 1;
    out->shape[0] = s->n + 1;
    out->data = (const uint8_t *)cu;
    out->bytes = ((size_t)s->n + 1) * sizeof *cu;
    return VP_OK;
}

static int gather_column(source *s, const vp_column *like, vp_error *err) {
    const vp_symbol symbol = vp_column_symbol(s->f[0], like);
    if (strcmp(like->name, "cu") == 0) return VP_OK;
    vp_column *out = vp_frame_add(s->to, like->name, strlen(like->name), err);
    if (!out) return err->code;
    if (like->is_values) return gather_values(s, like, out, err);
    if (symbol != VP_SYMBOL_B && symbol != VP_SYMBOL_T)
        return vp_frame_fail(s->f[0], VP_DATA, err, "column '%s' cannot be taken apart by rows", like->name);
    VP_TRY(gather_tensor(s, like, out, symbol == VP_SYMBOL_T, err));
    out->symbol = symbol;
    return VP_OK;
}

int vp_frames_gather(vp_frame *const *f, size_t frames, const vp_frame_row *row, int64_t n, vp_frame **out,
                     vp_error *err) {
    *out = NULL;
    for (int64_t i = 0; i < n; i++)
        if (row[i].frame >= frames || row[i].b < 0 || row[i].b >= f[row[i].frame]->B)
            return vp_fail(err, VP_BUG, "a row that is in no frame");
    source s = {.f = f, .row = row, .n = n, .to = vp_frame_new(VP_FRAME_BATCH, err)};
    if (!s.to) return err->code;
    vp_map *keys = vp_map_copy(f[0]->keys);
    int status = keys ? VP_OK : vp_fail_memory(err, "a map", 1);
    if (keys) {
        vp_map_free(s.to->keys);
        s.to->keys = keys;
    }
    if (!status && vp_frame_find(f[0], "cu")) {
        vp_column *cu = vp_frame_add(s.to, "cu", 2, err);
        status = cu ? gather_cu(&s, cu, err) : err->code;
    }
    for (int i = 0; !status && i < f[0]->ncolumns; i++) status = gather_column(&s, &f[0]->column[i], err);
    if (status) {
        vp_frame_free(s.to);
        return status;
    }
    vp_frame_measure(s.to);
    s.to->B = n;
    *out = s.to;
    return VP_OK;
}
