/* A column as a NumPy file: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0. The
 * head is written last, when the length is known. */
#include "lib/stream/look.h"
#include "lib/stream/private.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { HEAD = 192, BLOCK = 4096 }; /* HEAD: a multiple of 64 that holds 4 dimensions of 19 digits */

struct vp_npy {
    int fd;
    char *column;
    bool begun;
    vp_dtype dtype;
    int ndim;
    int64_t shape[VP_MAX_DIMS]; /* shape[0] grows */
    int64_t tokens;             /* of the batches so far, for cu */
};

static const char *const descr[VP_NDTYPES] = {
    [VP_F32] = "<f4", [VP_F16] = "<f2", [VP_BF16] = "<f4", [VP_F64] = "<f8", [VP_I8] = "|i1",
    [VP_U8] = "|u1",  [VP_I16] = "<i2", [VP_U16] = "<u2",  [VP_I32] = "<i4", [VP_U32] = "<u4",
    [VP_I64] = "<i8", [VP_U64] = "<u8", [VP_BOOL] = "|b1"};

int vp_npy_open(vp_npy **out, int fd, const char *column, vp_error *err) {
    static const char blank[HEAD];
    vp_npy *npy = calloc(1, sizeof *npy);
    if (!npy) return vp_fail_memory(err, "a NumPy file", sizeof *npy);
    npy->fd = fd;
    npy->column = vp_strndup(column, strlen(column));
    const int status =
        npy->column ? vp_write_all(fd, blank, HEAD, "the NumPy file", err) : vp_fail_memory(err, "a name", 1);
    if (status)
        vp_npy_close(npy);
    else
        *out = npy;
    return status;
}

void vp_npy_close(vp_npy *npy) {
    if (npy) free(npy->column);
    free(npy);
}

/* The first column decides type and shape; the others must have the same but for their length. */
static int agree(vp_npy *npy, const vp_frame *f, const vp_column *c, vp_error *err) {
    if (c->is_values)
        return vp_frame_fail(f, VP_DATA, err, "column '%s' holds values, not numbers: JSONL can show it", c->name);
    if (!npy->begun) {
        npy->begun = true;
        npy->dtype = c->dtype;
        npy->ndim = c->ndim;
        memcpy(npy->shape, c->shape, sizeof npy->shape);
        npy->shape[0] = 0;
        return VP_OK;
    }
    bool same = npy->dtype == c->dtype && npy->ndim == c->ndim && vp_column_symbol(f, c) != VP_SYMBOL_L;
    for (int i = 1; same && i < c->ndim; i++) same = npy->shape[i] == c->shape[i];
    return same ? VP_OK
                : vp_frame_fail(f, VP_DATA, err, "column '%s' cannot be joined to those of the frames before", c->name);
}

/* Offsets of all batches together: each goes on where the last ended, whose end is its first. */
static int add_cu(vp_npy *npy, const vp_frame *f, const vp_column *c, int64_t rows, vp_error *err) {
    const int64_t first = npy->shape[0] ? 1 : 0, n = rows + 1 - first;
    if (npy->tokens + vp_column_i32(c, rows) > INT32_MAX)
        return vp_frame_fail(f, VP_DATA, err, "'cu' of all frames goes beyond 2^31");
    int32_t *offsets = vp_calloc((size_t)n, sizeof *offsets);
    if (!offsets) return vp_fail_memory(err, "offsets", (size_t)n * sizeof *offsets);
    for (int64_t i = 0; i < n; i++) offsets[i] = (int32_t)npy->tokens + vp_column_i32(c, first + i);
    const int status = vp_write_all(npy->fd, offsets, (size_t)n * sizeof *offsets, "the NumPy file", err);
    free(offsets);
    npy->tokens += vp_column_i32(c, rows);
    npy->shape[0] += n;
    return status;
}

static int add_widened(const vp_npy *npy, const vp_column *c, int64_t n, vp_error *err) {
    float block[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t count = n - i < BLOCK ? n - i : BLOCK;
        for (int64_t j = 0; j < count; j++) block[j] = (float)vp_column_real(c, i + j);
        VP_TRY(vp_write_all(npy->fd, block, (size_t)count * sizeof *block, "the NumPy file", err));
    }
    return VP_OK;
}

int vp_npy_add(vp_npy *npy, const vp_frame *f, int64_t rows, vp_error *err) {
    const vp_column *c = vp_frame_find(f, npy->column), *cu = vp_frame_find(f, "cu");
    if (!c) return vp_frame_fail(f, VP_DATA, err, "no column '%s'", npy->column);
    VP_TRY(agree(npy, f, c, err));
    if (rows > f->B) rows = f->B;
    if (c == cu) return add_cu(npy, f, c, rows, err);
    const vp_symbol symbol = vp_column_symbol(f, c);
    int64_t n = c->shape[0], inner = 1;
    if (symbol == VP_SYMBOL_B) n = rows;
    if (symbol == VP_SYMBOL_T && cu) n = vp_column_i32(cu, rows);
    for (int i = 1; i < c->ndim; i++) inner *= c->shape[i];
    npy->shape[0] += n;
    if (c->dtype == VP_BF16) return add_widened(npy, c, n * inner, err);
    return vp_write_all(npy->fd, c->data, (size_t)(n * inner) * vp_dtype_size(c->dtype), "the NumPy file", err);
}

/* No batch came: an array of length 0 of the declared type. */
static int from_declaration(vp_npy *npy, const vp_frame *header, vp_error *err) {
    vp_declared declared;
    int status = vp_declared_read(&declared, header, err);
    const vp_column_pattern *p = status ? NULL : vp_declared_find(&declared, npy->column);
    if (p && !p->values) {
        npy->dtype = VP_F32;
        while (!(p->dtypes >> npy->dtype & 1)) npy->dtype = (vp_dtype)(npy->dtype + 1);
        npy->ndim = p->ndim;
        for (int i = 1; i < p->ndim; i++) npy->shape[i] = p->dim[i] >= 0 ? p->dim[i] : 0;
    } else if (!status)
        status = vp_frame_fail(header, VP_DATA, err, "no batch, and no tensor '%s' is declared", npy->column);
    vp_declared_free(&declared);
    return status;
}

int vp_npy_finish(vp_npy *npy, const vp_frame *header, vp_error *err) {
    char head[HEAD + 1], shape[96];
    int n = 0;
    if (!npy->begun) VP_TRY(from_declaration(npy, header, err));
    for (int i = 0; i < npy->ndim; i++)
        n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%lld", i ? ", " : "", (long long)npy->shape[i]);
    memcpy(head, "\x93NUMPY\x01\x00", 8);
    head[8] = (char)(HEAD - 10);
    head[9] = 0;
    n = snprintf(head + 10, sizeof head - 10, "{'descr': '%s', 'fortran_order': False, 'shape': (%s%s), }",
                 descr[npy->dtype], shape, npy->ndim == 1 ? "," : "");
    memset(head + 10 + n, ' ', (size_t)(HEAD - 10 - n));
    head[HEAD - 1] = '\n';
    if (lseek(npy->fd, 0, SEEK_SET) != 0) return vp_fail_errno(err, "cannot write the NumPy file");
    return vp_write_all(npy->fd, head, HEAD, "the NumPy file", err);
}
