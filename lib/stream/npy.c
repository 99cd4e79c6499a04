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
    int64_t tokens;             /* of the rows so far, for cu */
    int64_t limit, rows;        /* rows wanted, 0: all; rows of the batches of a column without rows */
    vp_row_order order;
    vp_buf piece, ready; /* a row's bytes; those whose turn has come */
};

static const char *const descr[VP_NDTYPES] = {
    [VP_F32] = "<f4", [VP_F16] = "<f2", [VP_BF16] = "<f4", [VP_F64] = "<f8", [VP_I8] = "|i1",
    [VP_U8] = "|u1",  [VP_I16] = "<i2", [VP_U16] = "<u2",  [VP_I32] = "<i4", [VP_U32] = "<u4",
    [VP_I64] = "<i8", [VP_U64] = "<u8", [VP_BOOL] = "|b1"};

int vp_npy_open(vp_npy **out, int fd, const char *column, int64_t rows, vp_error *err) {
    static const char blank[HEAD];
    vp_npy *npy = calloc(1, sizeof *npy);
    if (!npy) return vp_fail_memory(err, "a NumPy file", sizeof *npy);
    npy->fd = fd;
    npy->limit = npy->order.limit = rows;
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
    if (!npy) return;
    vp_row_order_finish(&npy->order, &npy->ready, &(vp_error){0});
    vp_buf_free(&npy->piece);
    vp_buf_free(&npy->ready);
    free(npy->column);
    free(npy);
}

bool vp_npy_full(const vp_npy *npy) {
    return vp_row_order_full(&npy->order) || (npy->limit && npy->rows >= npy->limit);
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

/* Lengths of rows become offsets: each goes on where the last ended. */
static int write_offsets(vp_npy *npy, vp_error *err) {
    for (size_t at = 0; at < npy->ready.len; at += sizeof(int32_t)) {
        int32_t length;
        memcpy(&length, npy->ready.data + at, sizeof length);
        npy->tokens += length;
        if (npy->tokens > INT32_MAX) return vp_fail(err, VP_DATA, "'cu' of all frames goes beyond 2^31");
        const int32_t offset = (int32_t)npy->tokens;
        memcpy(npy->ready.data + at, &offset, sizeof offset);
    }
    return VP_OK;
}

/* What has come into order goes into the file. */
static int flush(vp_npy *npy, bool offsets, vp_error *err) {
    int64_t bytes = offsets ? 4 : (int64_t)vp_dtype_size(npy->dtype == VP_BF16 ? VP_F32 : npy->dtype);
    for (int i = 1; i < npy->ndim; i++) bytes *= npy->shape[i];
    if (offsets) VP_TRY(write_offsets(npy, err));
    if (bytes) npy->shape[0] += (int64_t)npy->ready.len / bytes;
    VP_TRY(vp_write_all(npy->fd, npy->ready.data, npy->ready.len, "the NumPy file", err));
    npy->ready.len = 0;
    return VP_OK;
}

/* Append elements [at, at + n) as they stand in the file. */
static int add_elements(const vp_column *c, int64_t at, int64_t n, vp_buf *out, vp_error *err) {
    const int64_t size = (int64_t)vp_dtype_size(c->dtype);
    if (c->dtype != VP_BF16) return vp_buf_add(out, c->data + at * size, (size_t)(n * size), err);
    float block[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t count = n - i < BLOCK ? n - i : BLOCK;
        for (int64_t j = 0; j < count; j++) block[j] = (float)vp_column_real(c, at + i + j);
        VP_TRY(vp_buf_add(out, block, (size_t)count * sizeof *block, err));
    }
    return VP_OK;
}

/* A row's part of a column: its length for cu, its tokens, or its one element of the first dimension. */
static int add_part(vp_npy *npy, const vp_column *c, const vp_column *cu, bool by_token, int64_t b, vp_error *err) {
    int64_t inner = 1, first = b, n = 1;
    for (int i = 1; i < c->ndim; i++) inner *= c->shape[i];
    if (by_token || c == cu) {
        first = vp_column_i32(cu, b);
        n = vp_column_i32(cu, b + 1) - first;
    }
    const int32_t length = (int32_t)n;
    if (c == cu) return vp_buf_add(&npy->piece, &length, sizeof length, err);
    return add_elements(c, first * inner, n * inner, &npy->piece, err);
}

static int add_rows(vp_npy *npy, const vp_frame *f, const vp_column *c, const vp_column *cu, bool by_token,
                    vp_error *err) {
    int64_t first;
    VP_TRY(vp_row_order_frame(&npy->order, f, &first, &npy->ready, err));
    for (int64_t b = 0; b < f->B && !vp_row_order_full(&npy->order); b++) {
        npy->piece.len = 0;
        VP_TRY(add_part(npy, c, cu, by_token, b, err));
        VP_TRY(vp_row_order_put(&npy->order, vp_row_ordinal(f, b, first), npy->piece.data, npy->piece.len, &npy->ready,
                                err));
    }
    return flush(npy, c == cu, err);
}

/* A column without rows, or without bytes: as it comes. */
static int add_whole(vp_npy *npy, const vp_frame *f, const vp_column *c, int64_t inner, vp_error *err) {
    if (!inner) npy->shape[0] += c->shape[0];
    npy->rows += f->B;
    VP_TRY(add_elements(c, 0, c->shape[0] * inner, &npy->ready, err));
    return flush(npy, false, err);
}

int vp_npy_add(vp_npy *npy, const vp_frame *f, vp_error *err) {
    const vp_column *c = vp_frame_find(f, npy->column), *cu = vp_frame_find(f, "cu");
    if (!c) return vp_frame_fail(f, VP_DATA, err, "no column '%s'", npy->column);
    const bool begins = !npy->begun;
    VP_TRY(agree(npy, f, c, err));
    if (c == cu && begins) {
        VP_TRY(vp_write_all(npy->fd, &(int32_t){0}, sizeof(int32_t), "the NumPy file", err));
        npy->shape[0] = 1;
    }
    const vp_symbol symbol = vp_column_symbol(f, c);
    const bool by_token = symbol == VP_SYMBOL_T && cu && c != cu;
    int64_t inner = 1;
    for (int i = 1; i < c->ndim; i++) inner *= c->shape[i];
    if (inner && (symbol == VP_SYMBOL_B || by_token || c == cu)) return add_rows(npy, f, c, cu, by_token, err);
    return add_whole(npy, f, c, inner, err);
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
    VP_TRY(vp_row_order_finish(&npy->order, &npy->ready, err));
    if (npy->begun) VP_TRY(flush(npy, strcmp(npy->column, "cu") == 0, err));
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
