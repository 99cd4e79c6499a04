/* Keys and values inside a change: records are appended, forgotten, compacted. What the database names is on disk
 * before; a file's bytes behind what it says are nobody's. */
#include "lib/index/kv_store.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_BYTES = 1 << 30 }; /* a file that is longer gets no more records */

static int64_t aligned(int64_t n) {
    return (n + VP_KV_ALIGN - 1) & ~(int64_t)(VP_KV_ALIGN - 1);
}

/* ---- settings ---- */

int vp_kv_settle(vp_index *x, const vp_kv_format *f, vp_error *err) {
    if (sqlite3_exec(x->db, VP_SCHEMA_KV, NULL, NULL, NULL) != SQLITE_OK) return vp_store_fail(x, err);
    VP_TRY(vp_store_setting_put(x, "kv", vp_kv_format_name(f), 0, err));
    VP_TRY(vp_store_setting_put(x, "kv_layers", NULL, f->layers, err));
    VP_TRY(vp_store_setting_put(x, "kv_groups", NULL, f->groups, err));
    return vp_store_setting_put(x, "kv_head_dim", NULL, f->head_dim, err);
}

int vp_kv_settings(vp_index *x, vp_error *err) {
    const char *name;
    size_t n;
    vp_kv_format f = {0};
    x->kv = f;
    VP_TRY(vp_store_setting_int(x, "kv_layers", &f.layers, err));
    if (!f.layers) return VP_OK;
    VP_TRY(vp_store_setting_int(x, "kv_groups", &f.groups, err));
    VP_TRY(vp_store_setting_int(x, "kv_head_dim", &f.head_dim, err));
    VP_TRY(vp_store_setting_text(x, "kv", &name, &n, err));
    bool known = false;
    for (int i = 0; i < 4 && !known; i++) {
        f.i8 = i & 1;
        f.zstd = i & 2;
        known = strcmp(vp_kv_format_name(&f), name) == 0;
    }
    if (!known || !vp_kv_format_good(&f)) return vp_store_damaged(x, err, "settings of keys and values");
    x->kv = f;
    return VP_OK;
}

/* ---- appending ---- */

int vp_kv_writer_end(vp_kv_writer *w, vp_error *err) {
    if (w->fd < 0) return VP_OK;
    sqlite3_stmt *s;
    VP_TRY(vp_datafile_sync(w->x, w->fd, w->fresh, err));
    vp_kv_writer_close(w);
    VP_TRY(vp_store_statement(w->x, VP_SQL_KV_FILE_PUT, &s, err));
    sqlite3_bind_int64(s, 1, w->file);
    sqlite3_bind_int64(s, 2, w->at);
    sqlite3_bind_int64(s, 3, w->live);
    return vp_store_run(w->x, s, err);
}

void vp_kv_writer_close(vp_kv_writer *w) {
    if (w->fd >= 0) close(w->fd);
    w->fd = -1;
}

/* The last file, or a new one. */
static int open_file(vp_kv_writer *w, vp_error *err) {
    vp_index *x = w->x;
    sqlite3_stmt *s;
    bool row;
    VP_TRY(vp_store_statement(x, VP_SQL_KV_LAST, &s, err));
    VP_TRY(vp_store_step(x, s, &row, err));
    w->file = row ? sqlite3_column_int64(s, 0) : 0;
    w->at = row ? sqlite3_column_int64(s, 1) : 0;
    w->live = 0;
    sqlite3_reset(s);
    if (w->at < 0) return vp_store_damaged(x, err, "a file of keys and values of negative length");
    if (!row || w->file <= w->after || w->at >= FILE_BYTES) {
        VP_TRY(vp_store_execute(x, VP_SQL_KV_FILE_NEW, err));
        w->file = sqlite3_last_insert_rowid(x->db);
        w->at = 0;
    }
    w->fresh = w->at == 0;
    return vp_datafile_open(x, VP_DATAFILE_KV, w->file, w->at, &w->fd, err);
}

typedef struct place { /* file 0: of no bytes */
    int64_t file, at;
} place;

static int append(vp_kv_writer *w, const void *data, size_t n, place *to, vp_error *err) {
    *to = (place){0};
    if (!n) return VP_OK;
    if (w->fd >= 0 && w->at >= FILE_BYTES) VP_TRY(vp_kv_writer_end(w, err));
    if (w->fd < 0) VP_TRY(open_file(w, err));
    *to = (place){w->file, aligned(w->at)};
    VP_TRY(vp_datafile_write(w->x, w->fd, data, n, to->at, err));
    w->at = to->at + (int64_t)n;
    w->live += aligned((int64_t)n);
    return VP_OK;
}

int vp_kv_add(vp_kv_writer *w, int64_t n, const void *data, const vp_kv_piece *p, vp_error *err) {
    place to;
    sqlite3_stmt *s;
    VP_TRY(append(w, data, p->bytes, &to, err));
    VP_TRY(vp_store_statement(w->x, VP_SQL_KV_SPAN_NEW, &s, err));
    sqlite3_bind_int64(s, 1, n);
    sqlite3_bind_int64(s, 2, to.file);
    sqlite3_bind_int64(s, 3, to.at);
    sqlite3_bind_int64(s, 4, (int64_t)p->bytes);
    sqlite3_bind_int64(s, 5, p->tokens);
    sqlite3_bind_int64(s, 6, (int64_t)vp_hash64(data, p->bytes));
    return vp_store_run(w->x, s, err);
}

/* ---- forgetting ---- */

int vp_kv_drop(vp_index *x, int64_t n, vp_error *err) {
    static const vp_statement both[] = {VP_SQL_KV_SPAN_DEAD, VP_SQL_KV_SPAN_DROP};
    for (int i = 0; i < 2; i++) {
        sqlite3_stmt *s;
        VP_TRY(vp_store_statement(x, both[i], &s, err));
        sqlite3_bind_int64(s, 1, n);
        VP_TRY(vp_store_run(x, s, err));
    }
    return VP_OK;
}

static int is_named(void *ctx, int64_t id, bool *named, vp_error *err) {
    vp_index *x = ctx;
    sqlite3_stmt *s;
    *named = false;
    if (!x->kv.layers) return VP_OK;
    VP_TRY(vp_store_statement(x, VP_SQL_KV_FILE, &s, err));
    sqlite3_bind_int64(s, 1, id);
    VP_TRY(vp_store_step(x, s, named, err));
    sqlite3_reset(s);
    return VP_OK;
}

int vp_kv_sweep(vp_index *x, vp_error *err) {
    return vp_datafiles_sweep(x, VP_DATAFILE_KV, is_named, x, err);
}

/* ---- compaction ---- */

/* The first record of the file moves; *any: there was one. Its checksum stays: damage is not blessed. */
static int move_first(vp_kv_writer *w, const vp_datafile_part *file, const uint8_t *data, bool *any, vp_error *err) {
    vp_index *x = w->x;
    sqlite3_stmt *s;
    vp_kv_span span;
    place to;
    VP_TRY(vp_store_statement(x, VP_SQL_KV_FIRST_OF, &s, err));
    sqlite3_bind_int64(s, 1, file->id);
    VP_TRY(vp_store_step(x, s, any, err));
    if (!*any) return VP_OK;
    VP_TRY(vp_kv_span_read(x, s, &span, err));
    sqlite3_reset(s);
    if (!span.bytes || span.bytes > file->bytes || span.at > file->bytes - span.bytes)
        return vp_store_damaged(x, err, "keys and values outside their file");
    VP_TRY(append(w, data + span.at, (size_t)span.bytes, &to, err));
    VP_TRY(vp_store_statement(x, VP_SQL_KV_SPAN_MOVE, &s, err));
    sqlite3_bind_int64(s, 1, span.n);
    sqlite3_bind_int64(s, 2, to.file);
    sqlite3_bind_int64(s, 3, to.at);
    return vp_store_run(x, s, err);
}

/* All records of a file go behind the last one, and the file is forgotten. */
static int move_file(vp_index *x, const vp_datafile_part *file, vp_error *err) {
    vp_kv_writer w = {.x = x, .fd = -1, .after = file->id};
    vp_map_file map;
    const uint8_t *data;
    sqlite3_stmt *s;
    bool any = true;
    VP_TRY(vp_datafile_map(x, file, &map, &data, NULL, err));
    int status = vp_store_execute(x, VP_SQL_BEGIN_WRITE, err);
    while (!status && any) status = move_first(&w, file, data, &any, err);
    vp_map_close(&map);
    if (!status) status = vp_kv_writer_end(&w, err);
    vp_kv_writer_close(&w);
    VP_TRY(status);
    VP_TRY(vp_store_statement(x, VP_SQL_KV_FILE_DROP, &s, err));
    sqlite3_bind_int64(s, 1, file->id);
    VP_TRY(vp_store_run(x, s, err));
    VP_TRY(vp_store_execute(x, VP_SQL_COMMIT, err));
    vp_datafile_unlink(x, VP_DATAFILE_KV, file->id);
    return VP_OK;
}

int vp_kv_compact(vp_index *x, vp_error *err) {
    for (;;) {
        sqlite3_stmt *s;
        bool row;
        VP_TRY(vp_store_statement(x, VP_SQL_KV_WASTEFUL, &s, err));
        VP_TRY(vp_store_step(x, s, &row, err));
        const vp_datafile_part file = {.kind = VP_DATAFILE_KV,
                                       .id = row ? sqlite3_column_int64(s, 0) : 0,
                                       .bytes = row ? sqlite3_column_int64(s, 1) : 0};
        sqlite3_reset(s);
        if (!row) return VP_OK;
        VP_TRY(move_file(x, &file, err));
    }
}
