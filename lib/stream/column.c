/* Values out of columns: checked access, aligned copies, values as strings. */
#include "lib/stream/private.h"
#include <stdio.h>
#include <stdlib.h>

int vp_frame_need(const vp_frame *f, const char *name, vp_dtype dtype, int ndim, const int64_t *want,
                  const vp_column **out, vp_error *err) {
    const vp_column *c = vp_frame_find(f, name);
    if (!c) return vp_frame_fail(f, VP_DATA, err, "no column '%s'", name);
    if (c->is_values || c->dtype != dtype)
        return vp_frame_fail(f, VP_DATA, err, "column '%s' is %s, not %s", name,
                             c->is_values ? "VALUES" : vp_dtype_name(c->dtype), vp_dtype_name(dtype));
    if (c->ndim != ndim)
        return vp_frame_fail(f, VP_DATA, err, "column '%s' has %d dimensions, not %d", name, c->ndim, ndim);
    for (int i = 0; want && i < ndim; i++)
        if (want[i] >= 0 && c->shape[i] != want[i])
            return vp_frame_fail(f, VP_DATA, err, "column '%s': dimension %d is %lld, not %lld", name, i,
                                 (long long)c->shape[i], (long long)want[i]);
    *out = c;
    return VP_OK;
}

/* Elements of a tensor, or -1 for values. */
static int64_t count(const vp_column *c) {
    return c->is_values ? -1 : (int64_t)(c->bytes / vp_dtype_size(c->dtype));
}

int vp_frame_floats(const vp_frame *f, const char *name, float **out, int64_t *n, vp_error *err) {
    const vp_column *c = vp_frame_find(f, name);
    *out = NULL;
    if (n) *n = 0;
    if (!c) return VP_OK;
    if (c->is_values || (c->dtype != VP_F32 && c->dtype != VP_F16 && c->dtype != VP_BF16))
        return vp_frame_fail(f, VP_DATA, err, "column '%s' is not F32, F16 or BF16", name);
    const int64_t elements = count(c);
    float *x = vp_calloc((size_t)elements, sizeof *x);
    if (!x) return vp_fail_memory(err, name, (size_t)elements * sizeof *x);
    if (c->dtype == VP_F32 && elements)
        memcpy(x, c->data, c->bytes);
    else
        for (int64_t i = 0; i < elements; i++) x[i] = (float)vp_column_real(c, i);
    *out = x;
    if (n) *n = elements;
    return VP_OK;
}

int vp_frame_ints(const vp_frame *f, const char *name, int32_t **out, int64_t *n, vp_error *err) {
    const vp_column *c = vp_frame_find(f, name);
    *out = NULL;
    if (n) *n = 0;
    if (!c) return VP_OK;
    if (c->is_values || c->dtype != VP_I32) return vp_frame_fail(f, VP_DATA, err, "column '%s' is not I32", name);
    const int64_t elements = count(c);
    int32_t *x = vp_calloc((size_t)elements, sizeof *x);
    if (!x) return vp_fail_memory(err, name, c->bytes);
    if (elements) memcpy(x, c->data, c->bytes);
    *out = x;
    if (n) *n = elements;
    return VP_OK;
}

int vp_column_str(const vp_frame *f, const vp_column *c, int64_t i, const char **s, size_t *n, char scratch[32],
                  vp_error *err) {
    vp_cursor at = {c->data + c->at[i], c->data + c->at[i + 1]};
    vp_token t;
    *s = NULL;
    *n = 0;
    if (!vp_cursor_token(&at, &t)) return vp_fail(err, VP_BUG, "column '%s' is not msgpack", c->name);
    if (t.kind == VP_KIND_NIL) return VP_OK;
    *s = scratch;
    if (t.kind == VP_KIND_STR) {
        *s = (const char *)t.data;
        *n = t.n;
    } else if (t.kind == VP_KIND_INT)
        *n = (size_t)(t.negative ? snprintf(scratch, 32, "%lld", (long long)t.u)
                                 : snprintf(scratch, 32, "%llu", (unsigned long long)t.u));
    else if (t.kind == VP_KIND_REAL)
        *n = (size_t)vp_json_real_text(scratch, t.real);
    else
        return vp_frame_fail(f, VP_DATA, err, "column '%s', row %lld: neither text nor a number", c->name,
                             (long long)i);
    return VP_OK;
}
