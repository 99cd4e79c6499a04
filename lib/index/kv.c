/* Reading keys and values: of one record, mapped where they lie; and of all, checked. */
#include "lib/index/kv_store.h"
#include <stdlib.h>

enum { TRIES = 10 };

typedef struct held { /* vp_kv.owned */
    vp_map_file map;
    uint16_t *decoded;
} held;

void vp_kv_free(vp_kv *kv) {
    held *h = kv->owned;
    if (h) {
        vp_map_close(&h->map);
        free(h->decoded);
        free(h);
    }
    *kv = (vp_kv){0};
}

int vp_kv_span_read(vp_index *x, sqlite3_stmt *s, vp_kv_span *span, vp_error *err) {
    *span = (vp_kv_span){.n = sqlite3_column_int64(s, 0),
                         .file = sqlite3_column_int64(s, 1),
                         .at = sqlite3_column_int64(s, 2),
                         .bytes = sqlite3_column_int64(s, 3),
                         .tokens = sqlite3_column_int64(s, 4),
                         .hash = (uint64_t)sqlite3_column_int64(s, 5)};
    const int64_t most = (int64_t)VP_MAX_PAYLOAD; /* what a row of a stream can have */
    const bool sound = span->at >= 0 && span->at < (int64_t)1 << 48 && span->at % VP_KV_ALIGN == 0 &&
                       span->bytes >= 0 && span->bytes <= 2 * most && span->tokens >= 0 &&
                       span->tokens <= most / vp_kv_plain_bytes(&x->kv);
    if (sound && (x->kv.zstd || span->bytes == span->tokens * vp_kv_token_bytes(&x->kv))) return VP_OK;
    return vp_store_damaged(x, err, "an impossible record of keys and values");
}

static int damaged(const vp_index *x, const char *id, size_t len, vp_error *err) {
    char shown[200];
    vp_escape(shown, sizeof shown, id, len);
    return vp_fail(err, VP_DATA, "'%s': damaged: keys and values of '%s': checksum", x->path, shown);
}

/* Of the snapshot that the transaction sees. */
static int read_span(vp_index *x, const char *id, size_t len, vp_kv_span *span, bool *found, vp_error *err) {
    sqlite3_stmt *s;
    VP_TRY(vp_store_settings(x, err));
    if (!x->kv.layers) return vp_fail(err, VP_DATA, "'%s': holds no keys and values (fwd --emit emb,kv)", x->path);
    VP_TRY(vp_store_statement(x, VP_SQL_KV_SPAN, &s, err));
    VP_TRY(vp_store_bind_text(x, s, 1, id, len, err));
    VP_TRY(vp_store_step(x, s, found, err));
    if (!*found) return VP_OK;
    if (sqlite3_column_type(s, 0) == SQLITE_NULL) return vp_store_damaged(x, err, "an entry without keys and values");
    return vp_kv_span_read(x, s, span, err);
}

/* The record's bytes, mapped; looked up again if a compaction was faster. */
static int map_span(vp_index *x, const char *id, size_t len, vp_kv_span *span, held *h, const uint8_t **data,
                    bool *found, vp_error *err) {
    for (int i = 1;; i++) {
        bool gone = false;
        int status = vp_store_execute(x, VP_SQL_BEGIN, err);
        if (!status) status = read_span(x, id, len, span, found, err);
        const vp_datafile_part part = {VP_DATAFILE_KV, span->file, span->at, span->bytes};
        if (!status && *found) status = vp_datafile_map(x, &part, &h->map, data, i == TRIES ? NULL : &gone, err);
        vp_store_rollback(x);
        if (status || !gone) return status;
    }
}

int vp_index_kv(vp_index *x, const char *id, size_t len, vp_kv *kv, bool *found, vp_error *err) {
    vp_kv_span span = {0};
    const uint8_t *data;
    held *h = vp_calloc(1, sizeof *h);
    *kv = (vp_kv){.owned = h};
    *found = false;
    if (!h) return vp_fail_memory(err, "keys and values", sizeof *h);
    int status = map_span(x, id, len, &span, h, &data, found, err);
    if (!status && *found) {
        const vp_kv_format *f = &x->kv;
        const size_t half = (size_t)(span.tokens * vp_kv_plain_bytes(f)) / 2;
        bool sound = vp_hash64(data, (size_t)span.bytes) == span.hash;
        if (sound && (f->i8 || f->zstd)) {
            h->decoded = vp_kv_decode(f, data, (size_t)span.bytes, span.tokens, err);
            sound = h->decoded;
            data = (const uint8_t *)h->decoded;
            vp_map_close(&h->map);
        }
        *kv = (vp_kv){
            .dtype = VP_BF16, .layers = f->layers, .tokens = span.tokens, .width = f->groups * f->head_dim, .owned = h};
        if (sound) kv->k = data, kv->v = data + half;
        if (!sound) status = err->code ? err->code : damaged(x, id, len, err);
    }
    if (status || !*found) vp_kv_free(kv);
    return status;
}

/* ---- verifying ---- */

static int check_spans(vp_index *x, const vp_datafile_part *file, const uint8_t *data, int64_t live, vp_error *err) {
    sqlite3_stmt *s;
    int64_t end = 0, found = 0;
    bool row;
    VP_TRY(vp_store_statement(x, VP_SQL_KV_SPANS_OF, &s, err));
    sqlite3_bind_int64(s, 1, file->id);
    for (;;) {
        vp_kv_span span;
        VP_TRY(vp_store_step(x, s, &row, err));
        if (!row) break;
        VP_TRY(vp_kv_span_read(x, s, &span, err));
        if (span.at < end || span.bytes > file->bytes || span.at > file->bytes - span.bytes)
            return vp_store_damaged(x, err, "records of keys and values overlap or lie outside their file");
        end = span.at + span.bytes;
        found += (span.bytes + VP_KV_ALIGN - 1) / VP_KV_ALIGN * VP_KV_ALIGN;
        if (vp_hash64(data + span.at, (size_t)span.bytes) != span.hash) {
            const char *id;
            size_t len;
            VP_TRY(vp_store_text(x, s, 6, &id, &len, err));
            return damaged(x, id, len, err);
        }
    }
    sqlite3_reset(s);
    return found == live ? VP_OK : vp_store_damaged(x, err, "the live bytes of a file of keys and values");
}

/* Rows of the check that find nothing are what must hold. */
static int check_none(vp_index *x, vp_statement which, const char *what, vp_error *err) {
    sqlite3_stmt *s;
    bool row;
    VP_TRY(vp_store_statement(x, which, &s, err));
    VP_TRY(vp_store_step(x, s, &row, err));
    sqlite3_reset(s);
    return row ? vp_store_damaged(x, err, what) : VP_OK;
}

static int check_all(vp_index *x, bool *gone, bool last_try, vp_error *err) {
    sqlite3_stmt *s;
    bool row;
    VP_TRY(check_none(x, VP_SQL_CHECK_KV, "an entry without keys and values", err));
    VP_TRY(check_none(x, VP_SQL_CHECK_KV_SPANS, "keys and values without an entry or a file", err));
    VP_TRY(vp_store_statement(x, VP_SQL_KV_FILES, &s, err));
    while (!*gone) {
        VP_TRY(vp_store_step(x, s, &row, err));
        if (!row) break;
        const vp_datafile_part file = {
            .kind = VP_DATAFILE_KV, .id = sqlite3_column_int64(s, 0), .bytes = sqlite3_column_int64(s, 1)};
        vp_map_file map;
        const uint8_t *data;
        if (file.bytes < 0 || file.bytes >= (int64_t)1 << 48) return vp_store_damaged(x, err, "a length of a file");
        VP_TRY(vp_datafile_map(x, &file, &map, &data, last_try ? NULL : gone, err));
        int status = *gone ? VP_OK : check_spans(x, &file, data, sqlite3_column_int64(s, 2), err);
        vp_map_close(&map);
        VP_TRY(status);
    }
    return VP_OK;
}

int vp_kv_verify(vp_index *x, vp_error *err) {
    for (int i = 1;; i++) {
        bool gone = false;
        int status = vp_store_execute(x, VP_SQL_BEGIN, err);
        if (!status) status = vp_store_settings(x, err);
        if (!status && x->kv.layers) status = check_all(x, &gone, i == TRIES, err);
        vp_store_rollback(x);
        if (status || !gone) return status;
    }
}
