/* What an index does not have, or has of an older text: the lines of a corpus that are worth embedding. */
#include "lib/index/store.h"
#include "lib/stream/json.h"
#include "lib/text/text.h"
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>

enum { FLUSH_BYTES = 1 << 16, META_BYTES = 1 << 20 };

typedef struct missing {
    vp_index *x;
    const vp_missing_options *o;
    vp_missing_counts *c;
    vp_records *in;
    const char *in_name;
    int out;
    vp_buf lines;       /* waiting to be written */
    vp_buf metas;       /* updates that wait: id length, meta length (SIZE_MAX: none), id, meta */
    vp_idset seen;      /* ids of the input, with their line numbers */
    int64_t generation; /* seen at the start */
    vp_buf id;          /* of the record at hand */
} missing;

static int flush_lines(missing *m, vp_error *err) {
    VP_TRY(vp_write_all(m->out, m->lines.data, m->lines.len, "standard output", err));
    m->lines.len = 0;
    return VP_OK;
}

static int put_map(missing *m, const char *key, const vp_map *map, vp_error *err) {
    if (!map) return VP_OK;
    VP_TRY(vp_buf_printf(&m->lines, err, ",\"%s\":", key));
    return vp_map_json(map, &m->lines, err);
}

static int put_head(missing *m, vp_error *err) {
    VP_TRY(vp_buf_printf(&m->lines, err, "{\"_vp\":{\"jsonl\":1,\"index\":\"%s\",\"generation\":%lld", m->x->uuid,
                         (long long)m->generation));
    VP_TRY(put_map(m, "model", m->x->model, err));
    VP_TRY(put_map(m, "encoder", m->x->encoder, err));
    VP_TRY(vp_buf_add(&m->lines, "}}\n", 3, err));
    return flush_lines(m, err);
}

/* ---- ids ---- */

static int id_from_field(missing *m, const vp_record *r, vp_error *err) {
    json_error_t why;
    json_t *object = r->meta ? json_loadb(r->meta, r->meta_len, JSON_ALLOW_NUL, &why) : NULL;
    const json_t *v = json_object_get(object, m->o->id_from);
    int status;
    if (json_is_string(v) && json_string_length(v))
        status = vp_buf_add(&m->id, json_string_value(v), json_string_length(v), err);
    else if (json_is_integer(v))
        status = vp_buf_printf(&m->id, err, "%lld", (long long)json_integer_value(v));
    else
        status = vp_fail(err, VP_DATA, "%s:%lld: no id, and no string or integer in '%s'", m->in_name,
                         (long long)r->number, m->o->id_from);
    json_decref(object);
    return status;
}

static int find_id(missing *m, const vp_record *r, const uint8_t hash[16], vp_error *err) {
    m->id.len = 0;
    if (r->id && r->id_len) return vp_buf_add(&m->id, r->id, r->id_len, err);
    if (!m->o->id_from)
        return vp_fail(err, VP_DATA, "%s:%lld: no id: give the records ids, or --id-from hash or a field", m->in_name,
                       (long long)r->number);
    if (strcmp(m->o->id_from, "hash") != 0) return id_from_field(m, r, err);
    char hex[33];
    vp_hex(hex, hash, 16);
    return vp_buf_add(&m->id, hex, 32, err);
}

/* ---- one record ---- */

typedef enum state { FRESH, CHANGED, META, SAME } state;

/* What the index knows of the record: rows that its statement gives, {count, hash, hash, meta, chunks}. */
static int look(missing *m, vp_statement which, const vp_record *r, const uint8_t hash[16], state *out, vp_error *err) {
    sqlite3_stmt *s;
    bool row;
    *out = FRESH;
    VP_TRY(vp_store_statement(m->x, which, &s, err));
    VP_TRY(vp_store_bind_text(m->x, s, 1, m->id.data, m->id.len, err));
    VP_TRY(vp_store_step(m->x, s, &row, err));
    if (row && sqlite3_column_int64(s, 0) > 0) {
        const void *least = sqlite3_column_blob(s, 1), *greatest = sqlite3_column_blob(s, 2);
        bool whole =
            sqlite3_column_type(s, 4) == SQLITE_NULL || sqlite3_column_int64(s, 4) == sqlite3_column_int64(s, 0);
        bool same_text = whole && least && greatest && sqlite3_column_bytes(s, 1) == 16 &&
                         sqlite3_column_bytes(s, 2) == 16 && memcmp(least, hash, 16) == 0 &&
                         memcmp(greatest, hash, 16) == 0;
        const void *meta = sqlite3_column_blob(s, 3);
        size_t n = (size_t)sqlite3_column_bytes(s, 3);
        bool same_meta = r->meta ? meta && n == r->meta_len && memcmp(meta, r->meta, n) == 0 : !meta;
        *out = !same_text ? CHANGED : same_meta ? SAME : META;
    }
    sqlite3_reset(s);
    return VP_OK;
}

static int pass_on(missing *m, const vp_record *r, vp_error *err) {
    const char *rest = r->line;
    if (!r->id) { /* the id goes in as the first member */
        rest = memchr(r->line, '{', r->line_len);
        if (!rest) return vp_fail(err, VP_BUG, "%s:%lld: a record without '{'", m->in_name, (long long)r->number);
        rest++;
        VP_TRY(vp_buf_add(&m->lines, "{\"id\":", 6, err));
        VP_TRY(vp_json_quote(&m->lines, m->id.data, m->id.len, err));
        VP_TRY(vp_buf_add(&m->lines, ",", 1, err));
    }
    VP_TRY(vp_buf_add(&m->lines, rest, r->line_len - (size_t)(rest - r->line), err));
    return vp_buf_add(&m->lines, "\n", 1, err);
}

static int flush_metas(missing *m, vp_error *err) {
    if (!m->metas.len) return VP_OK;
    vp_change c;
    VP_TRY(vp_change_begin(&c, m->x, err));
    int status = VP_OK;
    for (size_t at = 0; at < m->metas.len && !status;) {
        size_t len[2];
        sqlite3_stmt *s;
        memcpy(len, m->metas.data + at, sizeof len);
        const char *id = m->metas.data + at + sizeof len, *meta = len[1] == SIZE_MAX ? NULL : id + len[0];
        at += sizeof len + len[0] + (meta ? len[1] : 0);
        status = vp_store_statement(m->x, VP_SQL_RECORD_META, &s, err);
        if (!status) status = vp_store_bind_text(m->x, s, 1, id, len[0], err);
        if (!status) status = vp_store_bind_text(m->x, s, 2, meta, len[1], err);
        if (!status) sqlite3_bind_int64(s, 3, c.generation);
        if (!status) status = vp_store_run(m->x, s, err);
    }
    c.dirty = true;
    m->metas.len = 0;
    if (!status) return vp_change_commit(&c, err);
    vp_change_abort(&c);
    return status;
}

static int put_meta(missing *m, const vp_record *r, vp_error *err) {
    size_t len[2] = {m->id.len, r->meta ? r->meta_len : SIZE_MAX};
    VP_TRY(vp_buf_add(&m->metas, len, sizeof len, err));
    VP_TRY(vp_buf_add(&m->metas, m->id.data, m->id.len, err));
    if (r->meta) VP_TRY(vp_buf_add(&m->metas, r->meta, r->meta_len, err));
    return m->metas.len >= META_BYTES ? flush_metas(m, err) : VP_OK;
}

static int take_record(missing *m, const vp_record *r, vp_error *err) {
    uint8_t hash[16];
    int64_t earlier;
    state is;
    VP_TRY(vp_record_hash(r, hash, err));
    VP_TRY(find_id(m, r, hash, err));
    VP_TRY(vp_idset_add(&m->seen, m->id.data, m->id.len, r->number, &earlier, err));
    if (earlier >= 0)
        return vp_fail(err, VP_DATA, "%s: lines %lld and %lld have the same id '%.*s'", m->in_name, (long long)earlier,
                       (long long)r->number, (int)(m->id.len < 200 ? m->id.len : 200), m->id.data);
    m->c->records++;
    VP_TRY(look(m, VP_SQL_RECORD_STATE, r, hash, &is, err));
    if (is == FRESH) VP_TRY(look(m, VP_SQL_CHUNKS_STATE, r, hash, &is, err));
    m->c->fresh += is == FRESH;
    m->c->changed += is == CHANGED;
    m->c->meta += is == META;
    if (is == META) return put_meta(m, r, err);
    return is == SAME ? VP_OK : pass_on(m, r, err);
}

/* ---- pruning ---- */

/* Ids of records that the input did not have and that were there when it was begun, one after another with their
 * lengths. */
static int list_unseen(missing *m, vp_buf *ids, int64_t *n, int64_t *records, vp_error *err) {
    sqlite3_stmt *s;
    bool row;
    VP_TRY(vp_store_statement(m->x, VP_SQL_RECORDS, &s, err));
    for (*n = *records = 0;; ++*records) {
        VP_TRY(vp_store_step(m->x, s, &row, err));
        if (!row) break;
        const char *id;
        size_t len;
        int64_t line;
        VP_TRY(vp_store_text(m->x, s, 0, &id, &len, err));
        if (!id) return vp_store_damaged(m->x, err, "an entry has no id");
        if (vp_idset_find(&m->seen, id, len, &line) || sqlite3_column_int64(s, 1) > m->generation) continue;
        VP_TRY(vp_buf_add(ids, &len, sizeof len, err));
        VP_TRY(vp_buf_add(ids, id, len, err));
        ++*n;
    }
    sqlite3_reset(s);
    return VP_OK;
}

static int drop_listed(missing *m, const vp_buf *ids, vp_error *err) {
    vp_change c;
    VP_TRY(vp_change_begin(&c, m->x, err));
    int status = VP_OK;
    for (size_t at = 0, len; at < ids->len && !status; at += sizeof len + len) {
        bool dropped = false;
        memcpy(&len, ids->data + at, sizeof len);
        status = vp_change_drop_record(&c, ids->data + at + sizeof len, len, m->generation, &dropped, err);
        m->c->pruned += dropped;
    }
    if (!status) return vp_change_commit(&c, err);
    vp_change_abort(&c);
    return status;
}

static int prune(missing *m, vp_error *err) {
    if (m->c->skipped)
        return vp_fail(err, VP_DATA, "%s: not pruned: %lld lines were skipped, their records are unknown", m->in_name,
                       (long long)m->c->skipped);
    vp_buf ids = {0};
    int64_t n, records;
    int status = list_unseen(m, &ids, &n, &records, err);
    vp_store_rollback(m->x);
    if (!status && (double)n > (double)records * m->o->prune_max / 100)
        status =
            vp_fail(err, VP_DATA, "'%s': not pruned: the input lacks %lld of %lld records, more than --prune-max %g %%",
                    m->x->path, (long long)n, (long long)records, m->o->prune_max);
    if (!status && n) status = drop_listed(m, &ids, err);
    vp_buf_free(&ids);
    return status;
}

/* ---- the run ---- */

static int run(missing *m, vp_error *err) {
    VP_TRY(vp_store_setting_int(m->x, "generation", &m->generation, err));
    VP_TRY(vp_store_settings(m->x, err));
    VP_TRY(put_head(m, err));
    for (;;) {
        vp_record r;
        bool got;
        /* what is known to be missing can be embedded while the input's writer thinks */
        if (m->lines.len >= FLUSH_BYTES || (m->lines.len && !vp_records_ready(m->in, 0))) VP_TRY(flush_lines(m, err));
        VP_TRY(vp_records_next(m->in, &r, &got, err));
        if (!got) break;
        VP_TRY(take_record(m, &r, err));
    }
    m->c->skipped = vp_records_skipped(m->in);
    VP_TRY(vp_buf_printf(&m->lines, err, "{\"_vp\":{\"end\":true,\"rows\":%lld}}\n",
                         (long long)(m->c->fresh + m->c->changed)));
    VP_TRY(flush_lines(m, err));
    VP_TRY(flush_metas(m, err));
    return m->o->prune ? prune(m, err) : VP_OK;
}

int vp_index_missing(vp_index *x, int in, const char *in_name, int out, const vp_missing_options *o,
                     vp_missing_counts *c, vp_error *err) {
    missing m = {.x = x, .o = o, .c = c, .in_name = in_name, .out = out};
    *c = (vp_missing_counts){0};
    int lock = openat(x->dir, "run.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock < 0) return vp_fail_errno(err, "cannot open '%s/run.lock'", x->path);
    vp_lock_request one = {.fd = lock,
                           .exclusive = true,
                           .wait = o->wait,
                           .forever = true,
                           .path = x->path,
                           .what = "another `knn missing` runs; --wait waits for it"};
    int status = vp_lock_take(&one, err);
    if (!status) status = vp_records_open(&m.in, in, in_name, VP_RECORDS_JSONL, o->skip_bad, err);
    if (!status) {
        vp_records_watch(m.in, out);
        status = run(&m, err);
    }
    vp_records_close(m.in);
    vp_buf_free(&m.lines);
    vp_buf_free(&m.metas);
    vp_buf_free(&m.id);
    vp_idset_free(&m.seen);
    close(lock);
    return status;
}
