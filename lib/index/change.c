/* A change: one transaction on the database under the writer lock, and the vectors appended for it, which are on disk
 * before the transaction names them. */
#include "lib/index/kv_store.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int vp_change_begin(vp_change *c, vp_index *x, vp_error *err) {
    *c = (vp_change){.x = x};
    vp_lock_request writer = {.fd = x->lock,
                              .byte = VP_LOCK_WRITER,
                              .exclusive = true,
                              .wait = true,
                              .path = x->path,
                              .what = "another program has been writing it for a minute"};
    if (!x->writable) return vp_fail(err, VP_BUG, "'%s': a change to an index opened for reading", x->path);
    VP_TRY(vp_lock_take(&writer, err));
    int status = vp_store_execute(x, VP_SQL_BEGIN_WRITE, err);
    if (!status) status = vp_store_settings(x, err);
    if (!status) status = vp_segments_load(x, &c->segments, err);
    if (!status) status = vp_store_setting_int(x, "generation", &c->generation, err);
    c->generation++;
    if (!status && !x->swept) status = vp_segments_sweep(x, &c->segments, err);
    if (!status && !x->swept) status = vp_kv_sweep(x, err);
    if (status) {
        vp_change_abort(c);
        return status;
    }
    x->swept = true;
    return VP_OK;
}

void vp_change_abort(vp_change *c) {
    vp_store_rollback(c->x);
    vp_segments_free(&c->segments);
    vp_lock_release(c->x->lock, VP_LOCK_WRITER);
}

int vp_change_write(vp_change *c, vp_error *err) {
    vp_index *x = c->x;
    for (size_t i = 0; i < c->segments.n; i++)
        if (c->segments.item[i].dirty) VP_TRY(vp_segment_put(x, &c->segments.item[i], err));
    VP_TRY(vp_store_setting_put(x, "generation", NULL, c->generation, err));
    return vp_store_execute(x, VP_SQL_COMMIT, err);
}

int vp_change_commit(vp_change *c, vp_error *err) {
    int status = VP_OK;
    if (c->dirty) {
        status = vp_change_write(c, err);
        if (!status) status = vp_change_compact(c, err);
        if (!status && c->x->kv.layers) status = vp_kv_compact(c->x, err);
    }
    vp_change_abort(c);
    return status;
}

static int drop_document(vp_index *x, int64_t n, vp_error *err) {
    sqlite3_stmt *get, *drop;
    bool row;
    VP_TRY(vp_store_statement(x, VP_SQL_DOCUMENT, &get, err));
    sqlite3_bind_int64(get, 1, n);
    VP_TRY(vp_store_step(x, get, &row, err));
    if (!row) return VP_OK;
    /* an FTS5 table of external content must be told the text that it forgets */
    VP_TRY(vp_store_statement(x, VP_SQL_BM25_DROP, &drop, err));
    sqlite3_bind_int64(drop, 1, n);
    sqlite3_bind_value(drop, 2, sqlite3_column_value(get, 0));
    VP_TRY(vp_store_run(x, drop, err));
    sqlite3_reset(get);
    VP_TRY(vp_store_statement(x, VP_SQL_DOCUMENT_DROP, &drop, err));
    sqlite3_bind_int64(drop, 1, n);
    return vp_store_run(x, drop, err);
}

int vp_change_drop(vp_change *c, const vp_entry *e, vp_error *err) {
    sqlite3_stmt *s;
    vp_segment *g = vp_segments_find(&c->segments, e->place.segment);
    if (!g || e->place.slot < 0 || e->place.slot >= g->slots)
        return vp_store_damaged(c->x, err, "an entry lies outside the segments");
    vp_segment_set(g, e->place.slot, false);
    VP_TRY(drop_document(c->x, e->n, err));
    if (c->x->kv.layers) VP_TRY(vp_kv_drop(c->x, e->n, err));
    VP_TRY(vp_store_statement(c->x, VP_SQL_ENTRY_DROP, &s, err));
    sqlite3_bind_int64(s, 1, e->n);
    c->dirty = true;
    return vp_store_run(c->x, s, err);
}

int vp_entries_find(vp_index *x, vp_statement which, const char *id, size_t len, vp_entries *out, vp_error *err) {
    sqlite3_stmt *s;
    bool row;
    out->n = 0;
    VP_TRY(vp_store_statement(x, which, &s, err));
    VP_TRY(vp_store_bind_text(x, s, 1, id, len, err));
    for (;;) {
        VP_TRY(vp_store_step(x, s, &row, err));
        if (!row) break;
        VP_TRY(vp_grow(&out->item, &out->cap, out->n, sizeof *out->item, "a record's entries", err));
        out->item[out->n++] = (vp_entry){.n = sqlite3_column_int64(s, 0),
                                         .place = {sqlite3_column_int64(s, 1), sqlite3_column_int64(s, 2)},
                                         .generation = sqlite3_column_int64(s, 3)};
    }
    sqlite3_reset(s);
    return VP_OK;
}

void vp_entries_free(vp_entries *e) {
    free(e->item);
    *e = (vp_entries){0};
}

static int new_segment(vp_change *c, vp_segment **out, vp_error *err) {
    VP_TRY(vp_store_execute(c->x, VP_SQL_SEGMENT_NEW, err));
    *out = vp_segments_add(&c->segments, sqlite3_last_insert_rowid(c->x->db), err);
    return *out ? VP_OK : VP_MEMORY;
}

/* Slots of a full segment. */
static int64_t segment_capacity(const vp_index *x) {
    int64_t slots = (int64_t)(((size_t)1 << 30) / x->row_bytes);
    return slots < 1 ? 1 : slots < VP_SEGMENT_SLOTS ? slots : VP_SEGMENT_SLOTS;
}

/* rows that fit into g, written behind its committed slots and synced */
static int append_to(vp_change *c, vp_segment *g, const uint8_t *vectors, int64_t rows, vp_place *place,
                     vp_error *err) {
    vp_index *x = c->x;
    int fd = -1;
    size_t bytes = (size_t)rows * x->row_bytes;
    int status = vp_segment_open(x, g, &fd, err);
    if (!status) status = vp_datafile_write(x, fd, vectors, bytes, (int64_t)((size_t)g->slots * x->row_bytes), err);
    if (!status) status = vp_datafile_sync(x, fd, g->slots == 0, err);
    if (fd >= 0) close(fd);
    VP_TRY(status);
    sqlite3_stmt *s;
    VP_TRY(vp_store_statement(x, VP_SQL_EXTENT_NEW, &s, err));
    sqlite3_bind_int64(s, 1, g->id);
    sqlite3_bind_int64(s, 2, g->slots);
    sqlite3_bind_int64(s, 3, rows);
    sqlite3_bind_int64(s, 4, (int64_t)vp_hash64(vectors, bytes));
    VP_TRY(vp_store_run(x, s, err));
    for (int64_t i = 0; i < rows; i++) {
        place[i] = (vp_place){g->id, g->slots++};
        vp_segment_set(g, place[i].slot, true);
    }
    c->dirty = true;
    return VP_OK;
}

int vp_change_append(vp_change *c, const void *vectors, int64_t rows, int64_t after, vp_place *place, vp_error *err) {
    int64_t capacity = segment_capacity(c->x);
    const uint8_t *at = vectors;
    while (rows) {
        vp_segment *g = c->segments.n ? &c->segments.item[c->segments.n - 1] : NULL;
        if (!g || g->id <= after || g->slots >= capacity) VP_TRY(new_segment(c, &g, err));
        int64_t n = rows < capacity - g->slots ? rows : capacity - g->slots;
        VP_TRY(append_to(c, g, at, n, place, err));
        at += (size_t)n * c->x->row_bytes;
        place += n;
        rows -= n;
    }
    return VP_OK;
}
