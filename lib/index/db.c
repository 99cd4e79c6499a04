/* Statements of the index's database: prepared once, stepped with SQLite's results turned into statuses. */
#include "lib/index/store.h"
#include <string.h>

static const char *const statements[VP_SQL_COUNT] = {
#define X(name, sql) [VP_SQL_##name] = sql,
    VP_STATEMENTS(X)
#undef X
};

static int status_of(int sqlite) {
    switch (sqlite & 0xff) {
    case SQLITE_NOMEM:
        return VP_MEMORY;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return VP_LOCKED;
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
        return VP_IO;
    case SQLITE_MISUSE:
    case SQLITE_RANGE:
        return VP_BUG;
    default: /* CORRUPT, NOTADB, and ERROR, which our own statements meet only where the schema is not ours */
        return VP_DATA;
    }
}

int vp_store_fail(vp_index *x, vp_error *err) {
    int code = x->db ? sqlite3_extended_errcode(x->db) : SQLITE_NOMEM;
    const char *why = x->db ? sqlite3_errmsg(x->db) : "out of memory";
    int status = status_of(code);
    return vp_fail(err, status, "'%s': database%s: %s", x->path, status == VP_DATA ? " damaged" : "", why);
}

int vp_store_damaged(vp_index *x, vp_error *err, const char *what) {
    return vp_fail(err, VP_DATA, "'%s': damaged: %s", x->path, what);
}

int vp_store_statement(vp_index *x, vp_statement which, sqlite3_stmt **out, vp_error *err) {
    sqlite3_stmt **s = &x->statement[which];
    if (!*s && sqlite3_prepare_v3(x->db, statements[which], -1, SQLITE_PREPARE_PERSISTENT, s, NULL) != SQLITE_OK)
        return vp_store_fail(x, err);
    sqlite3_reset(*s);
    sqlite3_clear_bindings(*s);
    *out = *s;
    return VP_OK;
}

int vp_store_step(vp_index *x, sqlite3_stmt *s, bool *row, vp_error *err) {
    int code = sqlite3_step(s);
    *row = code == SQLITE_ROW;
    if (code == SQLITE_ROW || code == SQLITE_DONE) return VP_OK;
    int status = vp_store_fail(x, err);
    sqlite3_reset(s);
    return status;
}

int vp_store_run(vp_index *x, sqlite3_stmt *s, vp_error *err) {
    bool row;
    VP_TRY(vp_store_step(x, s, &row, err));
    sqlite3_reset(s);
    return VP_OK;
}

int vp_store_execute(vp_index *x, vp_statement which, vp_error *err) {
    sqlite3_stmt *s;
    VP_TRY(vp_store_statement(x, which, &s, err));
    return vp_store_run(x, s, err);
}

void vp_store_rollback(vp_index *x) {
    for (int i = 0; i < VP_SQL_COUNT; i++)
        if (x->statement[i]) sqlite3_reset(x->statement[i]);
    if (x->db && !sqlite3_get_autocommit(x->db)) sqlite3_exec(x->db, "ROLLBACK", NULL, NULL, NULL);
}

int vp_store_bind_text(vp_index *x, sqlite3_stmt *s, int at, const char *text, size_t n, vp_error *err) {
    if (text && sqlite3_bind_text64(s, at, text, n, SQLITE_STATIC, SQLITE_UTF8) != SQLITE_OK)
        return vp_store_fail(x, err);
    return VP_OK;
}

int vp_store_text(vp_index *x, sqlite3_stmt *s, int at, const char **text, size_t *n, vp_error *err) {
    *text = (const char *)sqlite3_column_text(s, at);
    *n = *text ? (size_t)sqlite3_column_bytes(s, at) : 0;
    return vp_utf8_valid(*text, *n) == *n ? VP_OK : vp_store_damaged(x, err, "a text that is not UTF-8");
}

int vp_store_setting_int(vp_index *x, const char *key, int64_t *value, vp_error *err) {
    sqlite3_stmt *s;
    bool row;
    VP_TRY(vp_store_statement(x, VP_SQL_SETTING, &s, err));
    VP_TRY(vp_store_bind_text(x, s, 1, key, strlen(key), err));
    VP_TRY(vp_store_step(x, s, &row, err));
    *value = row ? sqlite3_column_int64(s, 0) : 0;
    sqlite3_reset(s);
    return *value < 0 ? vp_store_damaged(x, err, "a negative setting") : VP_OK;
}

int vp_store_setting_put(vp_index *x, const char *key, const char *text, int64_t value, vp_error *err) {
    sqlite3_stmt *s;
    VP_TRY(vp_store_statement(x, VP_SQL_SETTING_PUT, &s, err));
    VP_TRY(vp_store_bind_text(x, s, 1, key, strlen(key), err));
    if (text)
        VP_TRY(vp_store_bind_text(x, s, 2, text, strlen(text), err));
    else
        sqlite3_bind_int64(s, 2, value);
    return vp_store_run(x, s, err);
}
