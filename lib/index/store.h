/* Inside the index: the open folder, its database, its locks, its segment files, and a change to it. index.h tells the
 * layout. Functions return statuses; a failure leaves the store usable only for closing. */
#ifndef VP_INDEX_STORE_H
#define VP_INDEX_STORE_H
#include "lib/index/idset.h"
#include "lib/index/index.h"
#include "lib/index/schema.h"
#include "lib/base/dtype.h"
#include <sqlite3.h>

/* A segment takes no more slots than this, nor more than 1 GiB: bitmaps stay small, compaction works in pieces. */
enum { VP_SEGMENT_SLOTS = 1 << 18 };

typedef struct vp_kv_format { /* of keys and values; layers 0: none */
    int64_t layers, groups, head_dim;
    bool i8, zstd;
} vp_kv_format;

struct vp_index {
    char *path;
    int dir;  /* the folder: files are reached through it, so that a `swap` does not matter to who has it open */
    int lock; /* INDEX/lock, -1 in a read-only folder without one */
    bool writable, swept;
    sqlite3 *db;
    sqlite3_stmt *statement[VP_SQL_COUNT]; /* prepared at first use */
    char uuid[33];
    /* 0 and NULL until the first stream was added; never change afterwards */
    int64_t dims;
    vp_dtype dtype;
    size_t row_bytes;
    vp_map *model, *encoder;
    vp_kv_format kv;
};

/* ---- create.c, store.c: opening; db.c: statements ---- */
/* An empty index at `path` (no slash at its end). Nothing happens, and VP_OK, if something other than an empty folder
 * is there already: opening it tells what it is. */
int vp_index_create(const char *path, vp_error *err);
/* Read settings into x if it has none yet (another program may have added the first stream). */
int vp_store_settings(vp_index *x, vp_error *err);
/* The statement, reset and without bindings. */
int vp_store_statement(vp_index *x, vp_statement which, sqlite3_stmt **out, vp_error *err);
/* One step: *row says whether there is a row. */
int vp_store_step(vp_index *x, sqlite3_stmt *s, bool *row, vp_error *err);
/* Step a statement that gives no rows, and reset it. */
int vp_store_run(vp_index *x, sqlite3_stmt *s, vp_error *err);
int vp_store_execute(vp_index *x, vp_statement which, vp_error *err); /* without bindings */
void vp_store_rollback(vp_index *x); /* also resets every statement; nothing to do outside a transaction */
/* What SQLite reports about x's last call, as a status: damage is VP_DATA, a full disk VP_IO. */
int vp_store_fail(vp_index *x, vp_error *err);
int vp_store_damaged(vp_index *x, vp_error *err, const char *what); /* VP_DATA: "'PATH': damaged: what" */
int vp_store_bind_text(vp_index *x, sqlite3_stmt *s, int at, const char *text, size_t n,
                       vp_error *err); /* NULL: null */
/* Column `at` of a row as UTF-8 (VP_DATA if it is not), NULL and 0 for null; valid until the next step. */
int vp_store_text(vp_index *x, sqlite3_stmt *s, int at, const char **text, size_t *n, vp_error *err);
/* A text setting, "" if absent; valid until the statement runs again. */
int vp_store_setting_text(vp_index *x, const char *key, const char **text, size_t *n, vp_error *err);
int vp_store_setting_int(vp_index *x, const char *key, int64_t *value, vp_error *err); /* absent: 0 */
int vp_store_setting_put(vp_index *x, const char *key, const char *text, int64_t value, vp_error *err);

/* ---- lock.c ---- */
enum { VP_LOCK_WRITER = 0, VP_LOCK_OPENING = 1 }; /* bytes of INDEX/lock */
/* Take an OFD lock on one byte; waits up to a minute (wait_forever: as long as it takes), then VP_LOCKED. `what` is for
 * the message. */
typedef struct vp_lock_request {
    int fd, byte;
    bool exclusive, wait, forever;
    const char *path, *what;
} vp_lock_request;
int vp_lock_take(const vp_lock_request *r, vp_error *err);
void vp_lock_release(int fd, int byte);

/* ---- datafile.c ---- */
typedef enum vp_datafile { VP_DATAFILE_VECTORS, VP_DATAFILE_KV } vp_datafile;
/* For writing, created if need be, cut to its committed bytes (a shorter one is VP_DATA); under the writer lock. Close
 * *fd, also after a failure, if it is not -1. */
int vp_datafile_open(vp_index *x, vp_datafile kind, int64_t id, int64_t committed, int *fd, vp_error *err);
int vp_datafile_write(vp_index *x, int fd, const void *data, size_t n, int64_t at, vp_error *err);
/* What was written is on disk when it returns; fresh: the file's name, too. */
int vp_datafile_sync(vp_index *x, int fd, bool fresh, vp_error *err);
typedef struct vp_datafile_part {
    vp_datafile kind;
    int64_t id, at, bytes;
} vp_datafile_part;
/* Committed bytes, mapped: *data is where the part begins; close m. A shorter file is VP_DATA. *gone (if not NULL)
 * instead of a failure when there is no such file: it was compacted away after the caller's snapshot began. */
int vp_datafile_map(vp_index *x, const vp_datafile_part *part, vp_map_file *m, const uint8_t **data, bool *gone,
                    vp_error *err);
/* Unlink files that the database does not name; under the writer lock. */
typedef int vp_datafile_named(void *ctx, int64_t id, bool *named, vp_error *err);
int vp_datafiles_sweep(vp_index *x, vp_datafile kind, vp_datafile_named *named, void *ctx, vp_error *err);
void vp_datafile_unlink(vp_index *x, vp_datafile kind, int64_t id);

/* ---- segment.c ---- */
typedef struct vp_place {
    int64_t segment, slot;
} vp_place;
typedef struct vp_segment {
    int64_t id, slots, live;
    uint8_t *bitmap; /* of VP_SEGMENT_SLOTS bits */
    bool dirty;
} vp_segment;
typedef struct vp_segments {
    vp_segment *item;
    size_t n, cap;
} vp_segments;
int vp_segments_load(vp_index *x, vp_segments *s, vp_error *err);
void vp_segments_free(vp_segments *s);
/* A new one at the end; NULL: out of memory. Earlier pointers into the list are void. */
vp_segment *vp_segments_add(vp_segments *s, int64_t id, vp_error *err);
/* NULL: there is none of that id. */
vp_segment *vp_segments_find(const vp_segments *s, int64_t id);
bool vp_segment_is_live(const vp_segment *s, int64_t slot);
void vp_segment_set(vp_segment *s, int64_t slot, bool live);
int vp_segment_put(vp_index *x, vp_segment *s, vp_error *err); /* its row of the database */
/* The committed bytes, mapped; a shorter file is VP_DATA. *gone (if not NULL) instead of a failure when there is no
 * such file: it was compacted away after the caller's snapshot began. */
int vp_segment_map(vp_index *x, const vp_segment *s, vp_map_file *m, bool *gone, vp_error *err);
/* The file for writing, created if need be, cut to its committed slots; under the writer lock. */
int vp_segment_open(vp_index *x, const vp_segment *s, int *fd, vp_error *err);
/* Unlink segment files that the database does not name; under the writer lock. */
int vp_segments_sweep(vp_index *x, vp_segments *s, vp_error *err);

/* ---- snapshot.c: what a reader sees ---- */
typedef struct vp_snapshot {
    bool loaded;
    int64_t generation;
    vp_segments segments;
    vp_map_file *map; /* [segments] */
    int64_t live;     /* rows */
} vp_snapshot;
/* Begin a read transaction (end it with vp_store_rollback); what it sees is what *s shows. A snapshot of the same
 * generation is kept as it is. {0} is none. */
int vp_snapshot_begin(vp_snapshot *s, vp_index *x, vp_error *err);
void vp_snapshot_drop(vp_snapshot *s);
/* The row of an entry, which must be live; NULL: it is not (VP_DATA). */
const uint8_t *vp_snapshot_row(const vp_snapshot *s, vp_index *x, vp_place place, vp_error *err);

/* ---- change.c: one transaction under the writer lock ---- */
typedef struct vp_entry {
    int64_t n, generation;
    vp_place place;
} vp_entry;
typedef struct vp_entries {
    vp_entry *item;
    size_t n, cap;
} vp_entries;
/* `which`: VP_SQL_RECORD, all entries of the record `id`; VP_SQL_ENTRY, the one with this very id. */
int vp_entries_find(vp_index *x, vp_statement which, const char *id, size_t len, vp_entries *out, vp_error *err);
void vp_entries_free(vp_entries *e);

typedef struct vp_change {
    vp_index *x;
    vp_segments segments;
    int64_t generation; /* that this change makes */
    bool dirty;         /* something was changed: a commit has something to do */
} vp_change;
int vp_change_begin(vp_change *c, vp_index *x, vp_error *err); /* on failure there is nothing to abort */
/* Mark a row dead and take it out of the catalogue. */
int vp_change_drop(vp_change *c, const vp_entry *e, vp_error *err);
/* All entries of a record, unless one of them changed after generation `seen`. */
int vp_change_drop_record(vp_change *c, const char *id, size_t len, int64_t seen, bool *dropped, vp_error *err);
/* Append vectors [rows] behind the last segment, or from a new one on when that is full or its id <= after; they become
 * live, with an extent for each piece, and are on disk when it returns. place: [rows], where they went. */
int vp_change_append(vp_change *c, const void *vectors, int64_t rows, int64_t after, vp_place *place, vp_error *err);
/* Commit, compact what is over 25 % dead, release the lock; ends the change also when it fails. */
int vp_change_commit(vp_change *c, vp_error *err);
void vp_change_abort(vp_change *c); /* roll back, release the lock */
/* Inside vp_change_commit: segments and generation into the database, COMMIT; compaction (compact.c). */
int vp_change_write(vp_change *c, vp_error *err);
int vp_change_compact(vp_change *c, vp_error *err);

/* ---- json.c ---- */
/* A stored JSON object as one line; anything else is written as a string. */
int vp_json_object(vp_buf *out, const char *s, size_t n, vp_error *err);
bool vp_json_is_object(const char *s, size_t n);

/* Append a value as text that does not depend on the order of keys (the index keeps maps as JSON): a string as it is, a
 * map as sorted JSON, anything else as its msgpack in hex, "(none)" if there is none; terminated. */
int vp_store_value_text(const vp_map *m, const char *key, vp_buf *out, vp_error *err);
/* VP_DATA naming both unless the header's encoder.space, and with `documents` encoder.input, are the index's. */
int vp_store_match(vp_index *x, const vp_map *header, bool documents, vp_error *err);

#endif
