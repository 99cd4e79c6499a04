/* Everything that must hold of an index. */
#include "lib/index/kv_store.h"
#include <string.h>

static int check_database(vp_index *x, vp_error *err) {
    sqlite3_stmt *s;
    bool row;
    VP_TRY(vp_store_statement(x, VP_SQL_CHECK_DATABASE, &s, err));
    VP_TRY(vp_store_step(x, s, &row, err));
    const char *text = row ? (const char *)sqlite3_column_text(s, 0) : NULL;
    int status = VP_OK;
    if (!text || strcmp(text, "ok") != 0)
        status = vp_fail(err, VP_DATA, "'%s': damaged: %.200s", x->path, text ? text : "no answer from the database");
    sqlite3_reset(s);
    return status;
}

/* The extents of a segment tile its slots, and the file has the bytes that were committed. */
static int check_extents(vp_index *x, const vp_segment *g, const uint8_t *data, vp_error *err) {
    sqlite3_stmt *s;
    int64_t next = 0;
    bool row;
    VP_TRY(vp_store_statement(x, VP_SQL_EXTENTS, &s, err));
    sqlite3_bind_int64(s, 1, g->id);
    for (;;) {
        VP_TRY(vp_store_step(x, s, &row, err));
        if (!row) break;
        int64_t slot = sqlite3_column_int64(s, 0), slots = sqlite3_column_int64(s, 1);
        if (slot != next || slots < 1 || slots > g->slots - slot)
            return vp_fail(err, VP_DATA, "'%s': damaged: the extents of segment %lld have a gap at slot %lld", x->path,
                           (long long)g->id, (long long)next);
        next += slots;
        uint64_t hash = vp_hash64(data + (size_t)slot * x->row_bytes, (size_t)slots * x->row_bytes);
        if ((int64_t)hash != sqlite3_column_int64(s, 2))
            return vp_fail(err, VP_DATA, "'%s': damaged: checksum of segment %lld, slots %lld to %lld", x->path,
                           (long long)g->id, (long long)slot, (long long)(next - 1));
    }
    sqlite3_reset(s);
    if (next != g->slots)
        return vp_fail(err, VP_DATA, "'%s': damaged: the extents of segment %lld end at slot %lld of %lld", x->path,
                       (long long)g->id, (long long)next, (long long)g->slots);
    return VP_OK;
}

static int check_segments(vp_index *x, const vp_snapshot *p, vp_error *err) {
    for (size_t i = 0; i < p->segments.n; i++) {
        const vp_segment *g = &p->segments.item[i];
        int64_t live = 0;
        for (int64_t j = 0; j < (g->slots + 7) / 8; j++) live += __builtin_popcount(g->bitmap[j]);
        if (live != g->live)
            return vp_fail(err, VP_DATA, "'%s': damaged: segment %lld has %lld live rows, not %lld", x->path,
                           (long long)g->id, (long long)live, (long long)g->live);
        VP_TRY(check_extents(x, g, p->map[i].data, err));
    }
    return VP_OK;
}

/* Every entry's vector is live, and, places being unique, every live vector has an entry if there are as many. */
static int check_entries(vp_index *x, const vp_snapshot *p, vp_error *err) {
    sqlite3_stmt *s;
    int64_t n = 0;
    bool row;
    VP_TRY(vp_store_statement(x, VP_SQL_PLACES, &s, err));
    for (;;) {
        VP_TRY(vp_store_step(x, s, &row, err));
        if (!row) break;
        vp_place place = {sqlite3_column_int64(s, 0), sqlite3_column_int64(s, 1)};
        if (!vp_snapshot_row(p, x, place, err)) return VP_DATA;
        n++;
    }
    if (n != p->live)
        return vp_fail(err, VP_DATA, "'%s': damaged: %lld live vectors for %lld entries", x->path, (long long)p->live,
                       (long long)n);
    VP_TRY(vp_store_statement(x, VP_SQL_CHECK_DOCUMENTS, &s, err));
    VP_TRY(vp_store_step(x, s, &row, err));
    return row ? vp_store_damaged(x, err, "a text without an entry") : VP_OK;
}

int vp_index_verify(vp_index *x, vp_error *err) {
    vp_snapshot p = {0};
    int status = check_database(x, err);
    if (!status) status = vp_snapshot_begin(&p, x, err);
    if (!status) status = check_segments(x, &p, err);
    if (!status) status = check_entries(x, &p, err);
    vp_store_rollback(x);
    vp_snapshot_drop(&p);
    if (!status) status = vp_kv_verify(x, err);
    /* FTS5 asks for its check by an INSERT, which a read-only database refuses */
    if (!status && !sqlite3_db_readonly(x->db, "main")) status = vp_store_execute(x, VP_SQL_CHECK_BM25, err);
    return status;
}
