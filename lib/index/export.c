/* The live rows of one snapshot, as JSONL or as NumPy's matrix. */
#include "lib/index/store.h"
#include "lib/base/half.h"
#include "lib/stream/json.h"
#include <stdio.h>
#include <string.h>

enum { FLUSH_BYTES = 1 << 16 };

typedef struct exporter {
    vp_index *x;
    vp_snapshot snapshot;
    float scale; /* of I8 */
    int fd;
    const char *name;
    vp_buf out;
} exporter;

static int flush(exporter *e, size_t limit, vp_error *err) {
    if (e->out.len < limit) return VP_OK;
    VP_TRY(vp_write_all(e->fd, e->out.data, e->out.len, e->name, err));
    e->out.len = 0;
    return VP_OK;
}

static float element(const exporter *e, const uint8_t *row, int64_t i) {
    if (e->x->dtype == VP_I8) return e->scale * (float)(int8_t)row[i];
    uint16_t brain;
    float f;
    if (e->x->dtype == VP_BF16) {
        memcpy(&brain, row + 2 * i, sizeof brain);
        return vp_bf16_float(brain);
    }
    memcpy(&f, row + 4 * i, sizeof f);
    return f;
}

static int put_member(exporter *e, const char *key, const char *text, size_t n, vp_error *err) {
    if (!text) return VP_OK;
    VP_TRY(vp_buf_printf(&e->out, err, ",\"%s\":", key));
    return strcmp(key, "meta") == 0 ? vp_json_object(&e->out, text, n, err) : vp_json_quote(&e->out, text, n, err);
}

static int put_line(exporter *e, sqlite3_stmt *s, const uint8_t *row, vp_error *err) {
    vp_index *x = e->x;
    const char *text;
    size_t n;
    VP_TRY(vp_store_text(x, s, 2, &text, &n, err));
    if (!text) return vp_store_damaged(x, err, "an entry has no id");
    VP_TRY(vp_buf_add(&e->out, "{\"id\":", 6, err));
    VP_TRY(vp_json_quote(&e->out, text, n, err));
    VP_TRY(vp_store_text(x, s, 3, &text, &n, err));
    VP_TRY(put_member(e, "parent", text, n, err));
    const uint8_t *hash = sqlite3_column_blob(s, 4);
    if (hash && sqlite3_column_bytes(s, 4) == 16) {
        char hex[33];
        vp_hex(hex, hash, 16);
        VP_TRY(put_member(e, "hash", hex, 32, err));
    }
    VP_TRY(vp_store_text(x, s, 5, &text, &n, err));
    VP_TRY(put_member(e, "text", text, n, err));
    VP_TRY(vp_store_text(x, s, 6, &text, &n, err));
    VP_TRY(put_member(e, "meta", text, n, err));
    VP_TRY(vp_buf_printf(&e->out, err, ",\"emb\":"));
    for (int64_t i = 0; i < x->dims; i++) {
        char number[32]; /* nine digits tell any two floats apart */
        int length = snprintf(number, sizeof number, "%c%.9g", i ? ',' : '[', (double)element(e, row, i));
        VP_TRY(vp_buf_add(&e->out, number, (size_t)length, err));
    }
    return vp_buf_add(&e->out, "]}\n", 3, err);
}

static int put_floats(exporter *e, const uint8_t *row, vp_error *err) {
    for (int64_t i = 0; i < e->x->dims; i++) {
        float f = element(e, row, i);
        VP_TRY(vp_buf_add(&e->out, &f, sizeof f, err));
    }
    return VP_OK;
}

/* NumPy's format 1.0: magic, version, header length, a Python dict padded so that the data begin at a multiple of 64.
 */
static int put_npy_header(exporter *e, vp_error *err) {
    char header[128 - 10 + 1];
    int n = snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }",
                     (long long)e->snapshot.live, (long long)e->x->dims);
    memset(header + n, ' ', sizeof header - (size_t)n);
    header[117] = '\n';
    VP_TRY(vp_buf_add(&e->out, "\x93NUMPY\x01\x00\x76\x00", 10, err));
    return vp_buf_add(&e->out, header, 118, err);
}

static int put_rows(exporter *e, bool npy, vp_error *err) {
    sqlite3_stmt *s;
    bool more;
    int64_t rows = 0;
    VP_TRY(vp_snapshot_begin(&e->snapshot, e->x, err));
    e->scale = e->x->encoder ? (float)vp_map_real(e->x->encoder, "scale", 1) : 1;
    if (npy) VP_TRY(put_npy_header(e, err));
    VP_TRY(vp_store_statement(e->x, VP_SQL_ENTRIES, &s, err));
    for (;; rows++) {
        VP_TRY(vp_store_step(e->x, s, &more, err));
        if (!more) break;
        vp_place place = {sqlite3_column_int64(s, 0), sqlite3_column_int64(s, 1)};
        const uint8_t *row = vp_snapshot_row(&e->snapshot, e->x, place, err);
        if (!row) return VP_DATA;
        VP_TRY(npy ? put_floats(e, row, err) : put_line(e, s, row, err));
        VP_TRY(flush(e, FLUSH_BYTES, err));
    }
    if (rows != e->snapshot.live) return vp_store_damaged(e->x, err, "live vectors and entries differ in number");
    return flush(e, 1, err);
}

static int export_rows(vp_index *x, int fd, const char *name, bool npy, vp_error *err) {
    exporter e = {.x = x, .fd = fd, .name = name};
    int status = put_rows(&e, npy, err);
    vp_store_rollback(x);
    vp_snapshot_drop(&e.snapshot);
    vp_buf_free(&e.out);
    return status;
}

int vp_index_export_jsonl(vp_index *x, int fd, const char *name, vp_error *err) {
    return export_rows(x, fd, name, false, err);
}

int vp_index_export_npy(vp_index *x, int fd, const char *name, vp_error *err) {
    return export_rows(x, fd, name, true, err);
}
