/* Opening an index: the folder, its locks, its database, its settings. */
#include "lib/index/kv_store.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUSY_MILLISECONDS = 60000 };

static int open_database(vp_index *x, int flags, const char *uri, vp_error *err) {
    vp_buf path = {0};
    VP_TRY(vp_buf_printf(&path, err, "%s/index.db", x->path));
    sqlite3_close(x->db);
    x->db = NULL;
    int code = sqlite3_open_v2(uri ? uri : path.data, &x->db, flags, NULL), keep = 1;
    vp_buf_free(&path);
    if (code != SQLITE_OK) return vp_store_fail(x, err);
    sqlite3_extended_result_codes(x->db, 1);
    sqlite3_busy_timeout(x->db, BUSY_MILLISECONDS);
    sqlite3_db_config(x->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(x->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(x->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(x->db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    /* the -wal is never unlinked by path: after a `swap` that path could be another index's */
    sqlite3_file_control(x->db, "main", SQLITE_FCNTL_PERSIST_WAL, &keep);
    if (sqlite3_exec(x->db,
                     "PRAGMA synchronous=FULL; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;"
                     "PRAGMA journal_size_limit=16777216;",
                     NULL, NULL, NULL) != SQLITE_OK)
        return vp_store_fail(x, err);
    return VP_OK;
}

static int pragma_int(vp_index *x, const char *sql, int64_t *value, vp_error *err) {
    sqlite3_stmt *s = NULL;
    int status = VP_OK;
    if (sqlite3_prepare_v2(x->db, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
        status = vp_store_fail(x, err);
    else
        *value = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return status;
}

static int check_version(vp_index *x, vp_error *err) {
    int64_t application = 0, version = 0, tables = 0;
    VP_TRY(pragma_int(x, "PRAGMA application_id", &application, err));
    VP_TRY(pragma_int(x, "PRAGMA user_version", &version, err));
    if (application != VP_SCHEMA_APPLICATION) return vp_fail(err, VP_DATA, "'%s': not an index of vecpipe", x->path);
    if (version < VP_SCHEMA_VERSION || version > VP_SCHEMA_VERSION_KV)
        return vp_fail(err, VP_DATA, "'%s': an index of version %lld, this program knows versions %d to %d", x->path,
                       (long long)version, VP_SCHEMA_VERSION, VP_SCHEMA_VERSION_KV);
    return pragma_int(x, "SELECT count(*) FROM sqlite_schema", &tables, err); /* opens the -wal */
}

/* A database in a folder that we cannot write to: as it is if its -wal and -shm allow it, else, when there is nothing
 * in the -wal, as a file that cannot change. */
static int open_read_only(vp_index *x, vp_error *err) {
    vp_error first = {0};
    int status = open_database(x, SQLITE_OPEN_READONLY, NULL, &first);
    if (!status) status = check_version(x, &first);
    if (!status) return VP_OK;
    struct stat wal;
    if (status != VP_IO || (fstatat(x->dir, "index.db-wal", &wal, 0) == 0 && wal.st_size > 0))
        return vp_fail(err, status, "%s", first.text);
    vp_buf uri = {0};
    status = vp_buf_printf(&uri, err, "file:");
    for (const char *c = x->path; *c && !status; c++)
        status = vp_buf_printf(&uri, err, strchr("?#%", *c) ? "%%%02x" : "%c", (unsigned char)*c);
    if (!status) status = vp_buf_printf(&uri, err, "/index.db?immutable=1");
    if (!status) status = open_database(x, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, uri.data, err);
    vp_buf_free(&uri);
    return status ? status : check_version(x, err);
}

static int open_folder(vp_index *x, vp_error *err) {
    x->dir = open(x->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (x->dir < 0 && errno == ENOTDIR) return vp_fail(err, VP_DATA, "'%s': not an index: not a folder", x->path);
    if (x->dir < 0) return vp_fail_errno(err, "cannot open '%s'", x->path);
    if (faccessat(x->dir, "index.db", F_OK, 0) != 0 && errno == ENOENT)
        return vp_fail(err, VP_DATA, "'%s': not an index: no index.db in it", x->path);
    x->lock = openat(x->dir, "lock", (x->writable ? O_RDWR | O_CREAT : O_RDONLY) | O_CLOEXEC, 0666);
    if (x->lock < 0 && x->writable) return vp_fail_errno(err, "cannot open '%s/lock'", x->path);
    return VP_OK;
}

/* Open what lies at the path; *moved: a `swap` put another folder there meanwhile. */
static int open_once(vp_index *x, bool *moved, vp_error *err) {
    VP_TRY(open_folder(x, err));
    vp_lock_request opening = {
        .fd = x->lock, .byte = VP_LOCK_OPENING, .wait = true, .path = x->path, .what = "another program exchanges it"};
    if (x->lock >= 0) VP_TRY(vp_lock_take(&opening, err));
    struct stat at_path, opened;
    *moved = stat(x->path, &at_path) != 0 || fstat(x->dir, &opened) != 0 || at_path.st_ino != opened.st_ino ||
             at_path.st_dev != opened.st_dev;
    int status = VP_OK;
    if (!*moved) {
        bool can_write =
            faccessat(x->dir, ".", W_OK, AT_EACCESS) == 0 && faccessat(x->dir, "index.db", W_OK, AT_EACCESS) == 0;
        if (can_write || x->writable) {
            status = open_database(x, SQLITE_OPEN_READWRITE, NULL, err);
            if (!status) status = check_version(x, err);
        } else
            status = open_read_only(x, err);
        if (!status) status = vp_store_settings(x, err);
    }
    if (x->lock >= 0) vp_lock_release(x->lock, VP_LOCK_OPENING);
    return status;
}

static void close_files(vp_index *x) {
    for (int i = 0; i < VP_SQL_COUNT; i++) {
        sqlite3_finalize(x->statement[i]);
        x->statement[i] = NULL;
    }
    sqlite3_close(x->db);
    if (x->lock >= 0) close(x->lock);
    if (x->dir >= 0) close(x->dir);
    x->db = NULL;
    x->lock = x->dir = -1;
}

int vp_index_open(vp_index **out, const char *path, vp_index_mode mode, vp_error *err) {
    *out = NULL;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    vp_index *x = vp_calloc(1, sizeof *x);
    if (!x || !(x->path = vp_strndup(path, n))) {
        free(x);
        return vp_fail_memory(err, "an index", sizeof *x + n);
    }
    x->dir = x->lock = -1;
    x->writable = mode != VP_INDEX_READ;
    vp_buf database = {0};
    int status = vp_buf_printf(&database, err, "%s/index.db", x->path);
    if (!status && mode == VP_INDEX_CREATE && access(database.data, F_OK) != 0 && errno == ENOENT)
        status = vp_index_create(x->path, err);
    vp_buf_free(&database);
    for (bool moved = true; !status && moved;) {
        close_files(x);
        status = open_once(x, &moved, err);
    }
    if (status)
        vp_index_close(x);
    else
        *out = x;
    return status;
}

void vp_index_close(vp_index *x) {
    if (!x) return;
    vp_store_rollback(x);
    close_files(x);
    vp_map_free(x->model);
    vp_map_free(x->encoder);
    free(x->path);
    free(x);
}

int vp_store_setting_text(vp_index *x, const char *key, const char **text, size_t *n, vp_error *err) {
    sqlite3_stmt *s;
    bool row;
    VP_TRY(vp_store_statement(x, VP_SQL_SETTING, &s, err));
    VP_TRY(vp_store_bind_text(x, s, 1, key, strlen(key), err));
    VP_TRY(vp_store_step(x, s, &row, err));
    const char *value = row ? (const char *)sqlite3_column_text(s, 0) : NULL;
    *text = value ? value : "";
    *n = value ? (size_t)sqlite3_column_bytes(s, 0) : 0;
    return VP_OK;
}

static int setting_map(vp_index *x, const char *key, vp_map **map, vp_error *err) {
    const char *text;
    size_t n;
    vp_error why = {0};
    VP_TRY(vp_store_setting_text(x, key, &text, &n, err));
    if (vp_map_from_json(map, text, n, x->path, &why))
        return vp_fail(err, VP_DATA, "'%s': damaged: setting %s: %s", x->path, key, why.text);
    return VP_OK;
}

static int dtype_of_settings(vp_index *x, int64_t dims, vp_error *err) {
    const char *name;
    size_t n;
    VP_TRY(vp_store_setting_text(x, "dtype", &name, &n, err));
    vp_dtype dtype = vp_dtype_find(name, n);
    if (dtype != VP_F32 && dtype != VP_BF16 && dtype != VP_I8) return vp_store_damaged(x, err, "an unknown dtype");
    if (dims > 1 << 20) return vp_store_damaged(x, err, "too many dims");
    x->dtype = dtype;
    x->row_bytes = (size_t)dims * vp_dtype_size(dtype);
    return VP_OK;
}

static int read_settings(vp_index *x, vp_error *err) {
    const char *uuid;
    size_t n;
    VP_TRY(vp_store_setting_text(x, "uuid", &uuid, &n, err));
    if (n != 32 || strspn(uuid, "0123456789abcdef") != 32) return vp_store_damaged(x, err, "no uuid");
    memcpy(x->uuid, uuid, 33);
    int64_t dims;
    VP_TRY(vp_store_setting_int(x, "dims", &dims, err));
    if (!dims) return VP_OK;
    VP_TRY(dtype_of_settings(x, dims, err));
    vp_map_free(x->model);
    vp_map_free(x->encoder);
    x->model = x->encoder = NULL;
    VP_TRY(setting_map(x, "model", &x->model, err));
    VP_TRY(setting_map(x, "encoder", &x->encoder, err));
    VP_TRY(vp_kv_settings(x, err));
    x->dims = dims;
    return VP_OK;
}

int vp_store_settings(vp_index *x, vp_error *err) {
    if (x->dims) return VP_OK;
    int status = read_settings(x, err);
    /* a statement left open would hold its snapshot, and a later change would begin from an old state */
    if (x->statement[VP_SQL_SETTING]) sqlite3_reset(x->statement[VP_SQL_SETTING]);
    return status;
}

int vp_index_describe(const char *path, vp_map **model, vp_map **encoder, vp_error *err) {
    *model = *encoder = NULL;
    vp_index *x;
    VP_TRY(vp_index_open(&x, path, VP_INDEX_READ, err));
    *model = x->model;
    *encoder = x->encoder;
    x->model = x->encoder = NULL;
    vp_index_close(x);
    return VP_OK;
}

int vp_store_value_text(const vp_map *m, const char *key, vp_buf *out, vp_error *err) {
    const uint8_t *raw;
    size_t n;
    if (!m || !vp_map_raw(m, key, &raw, &n)) return vp_buf_printf(out, err, "(none)");
    if (vp_map_str(m, key)) return vp_buf_printf(out, err, "%s", vp_map_str(m, key));
    vp_map *sub = vp_map_sub(m, key);
    int status = VP_OK;
    if (sub)
        status = vp_map_json(sub, out, err);
    else
        for (size_t i = 0; i < n && !status; i++) status = vp_buf_printf(out, err, "%02x", raw[i]);
    vp_map_free(sub);
    return status ? status : vp_buf_printf(out, err, "%s", "");
}

/* The encoder of the index and that of a stream must have the same value. `what`: what it means if they do not. */
static int match_value(const vp_index *x, const vp_map *encoder, const char *key, const char *what, vp_error *err) {
    vp_buf mine = {0}, theirs = {0};
    int status = vp_store_value_text(x->encoder, key, &mine, err);
    if (!status) status = vp_store_value_text(encoder, key, &theirs, err);
    if (!status && strcmp(mine.data, theirs.data) != 0)
        status = vp_fail(err, VP_DATA, "'%s': %s: encoder.%s %s, the stream's is %s", x->path, what, key, mine.data,
                         theirs.data);
    vp_buf_free(&mine);
    vp_buf_free(&theirs);
    return status;
}

int vp_store_match(vp_index *x, const vp_map *header, bool documents, vp_error *err) {
    VP_TRY(vp_store_settings(x, err));
    if (!x->dims) return VP_OK;
    vp_map *encoder = vp_map_sub(header, "encoder");
    int status = match_value(x, encoder, "space", "holds vectors of another encoder", err);
    if (!status && documents) status = match_value(x, encoder, "input", "its texts were prepared otherwise", err);
    vp_map_free(encoder);
    return status;
}
