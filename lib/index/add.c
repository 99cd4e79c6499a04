/* Adding a stream: batches are checked and copied as they come, then committed together. Rows that `missing` asked for
 * carry the generation that it saw; a record that changed since keeps its newer version. */
#include "lib/index/kv_store.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COMMIT_BYTES ((size_t)64 << 20)
enum { COMMIT_SECONDS = 5 };

typedef struct piece { /* of adder.strings; n = SIZE_MAX: absent */
    size_t at, n;
} piece;
typedef struct pending {
    piece id, parent, text, meta;
    uint8_t hash[16];
    bool has_hash, existed; /* existed: the record was in the index before this stream */
    int32_t chunks;         /* 0: not known */
    int64_t generation;     /* that `missing` saw, -1: none */
    vp_kv_piece kv;
} pending;

struct vp_index_adder {
    vp_index *x;
    const vp_map *header;
    vp_index_counts counts;
    int64_t dims;
    vp_dtype dtype;
    size_t row_bytes;
    vp_buf vectors, strings;
    vp_kv_taken kv;
    pending *row;
    size_t n, cap;
    struct timespec since; /* when the oldest waiting frame came */
    bool has_texts;        /* the index, when this stream began */
    int64_t rows_seen;     /* ordinal of the next row where the stream has no `row` */
    vp_idset ids;          /* of the stream, with their ordinals */
    vp_idset records;      /* with chunks that this stream has begun to write; number 1: existed before */
    vp_entries entries;
};

static int see_texts(vp_index_adder *a, vp_error *err) {
    sqlite3_stmt *q;
    bool row;
    VP_TRY(vp_store_statement(a->x, VP_SQL_TEXTED, &q, err));
    VP_TRY(vp_store_step(a->x, q, &row, err));
    a->has_texts = row && sqlite3_column_int(q, 0);
    sqlite3_reset(q);
    return VP_OK;
}

int vp_index_add_open(vp_index_adder **out, vp_index *x, const vp_frame *header, vp_error *err) {
    VP_TRY(vp_store_match(x, header->keys, true, err));
    vp_index_adder *a = vp_calloc(1, sizeof *a);
    if (!a) return vp_fail_memory(err, "adding", sizeof *a);
    a->x = x;
    a->header = header->keys;
    const int status = see_texts(a, err);
    if (status)
        free(a);
    else
        *out = a;
    return status;
}

void vp_index_add_kv(vp_index_adder *a, const vp_kv_options *o) {
    a->kv.options = *o;
}

int vp_index_add_forecast(vp_index_adder *a, const vp_frame *f, vp_kv_forecast *c, vp_error *err) {
    *c = (vp_kv_forecast){.fresh = !a->x->dims && !a->kv.decided, .rows = f->B, .tokens = f->T};
    if (f->B == 0) return VP_OK;
    VP_TRY(vp_kv_take_frame(&a->kv, a->x, f, err));
    if (a->kv.format.layers) c->token_bytes = vp_kv_token_bytes(&a->kv.format);
    return VP_OK;
}

const vp_index_counts *vp_index_add_counts(const vp_index_adder *a) {
    return &a->counts;
}

void vp_index_add_close(vp_index_adder *a) {
    if (!a) return;
    vp_buf_free(&a->vectors);
    vp_buf_free(&a->strings);
    vp_kv_taken_free(&a->kv);
    vp_idset_free(&a->ids);
    vp_idset_free(&a->records);
    vp_entries_free(&a->entries);
    free(a->row);
    free(a);
}

/* ---- taking a frame ---- */

typedef struct columns {
    const vp_column *emb, *id, *parent, *text, *meta, *hash, *row, *chunks;
    int64_t generation;
} columns;

static int check_dims(vp_index_adder *a, const vp_frame *f, const vp_column *emb, vp_error *err) {
    int64_t dims = a->dims ? a->dims : a->x->dims;
    vp_dtype dtype = a->dims ? a->dtype : a->x->dtype;
    if (emb->is_values || emb->ndim != 2 || emb->shape[1] < 1 || emb->shape[1] > 1 << 20)
        return vp_frame_fail(f, VP_DATA, err, "emb is not a tensor [B, D]");
    if (emb->dtype != VP_F32 && emb->dtype != VP_BF16 && emb->dtype != VP_I8)
        return vp_frame_fail(f, VP_DATA, err, "emb is %s: an index holds F32, BF16 or I8", vp_dtype_name(emb->dtype));
    if (dims && (emb->shape[1] != dims || emb->dtype != dtype))
        return vp_frame_fail(f, VP_DATA, err, "emb is %s of %lld dims, the index '%s' holds %s of %lld",
                             vp_dtype_name(emb->dtype), (long long)emb->shape[1], a->x->path, vp_dtype_name(dtype),
                             (long long)dims);
    a->dims = emb->shape[1];
    a->dtype = emb->dtype;
    a->row_bytes = (size_t)a->dims * vp_dtype_size(a->dtype);
    return VP_OK;
}

/* The generation that `missing` saw, from the batch or the header; -1 if the rows are not its answer for this index. */
static int64_t source_generation(const vp_index_adder *a, const vp_frame *f) {
    vp_map *source = vp_map_sub(vp_map_has(f->keys, "source") ? f->keys : a->header, "source");
    const char *index = source ? vp_map_str(source, "index") : NULL;
    int64_t generation = index && strcmp(index, a->x->uuid) == 0 ? vp_map_int(source, "generation", -1) : -1;
    vp_map_free(source);
    return generation;
}

static int find_columns(vp_index_adder *a, const vp_frame *f, columns *c, vp_error *err) {
    *c = (columns){.emb = vp_frame_find(f, "emb"),
                   .id = vp_frame_find(f, "id"),
                   .parent = vp_frame_find(f, "parent"),
                   .text = vp_frame_find(f, "text"),
                   .meta = vp_frame_find(f, "meta"),
                   .hash = vp_frame_find(f, "hash"),
                   .row = vp_frame_find(f, "row"),
                   .chunks = vp_frame_find(f, "chunks")};
    if (!c->emb) return vp_frame_fail(f, VP_DATA, err, "no column emb: put `pool` before");
    if (!c->id)
        return vp_frame_fail(f, VP_DATA, err,
                             "no column id: tok gives it from JSONL records, or from lines as their number");
    if (!c->text && a->has_texts)
        return vp_frame_fail(f, VP_DATA, err,
                             "no column text, but the index '%s' holds texts: say --text to the tok before",
                             a->x->path);
    VP_TRY(check_dims(a, f, c->emb, err));
    VP_TRY(vp_kv_take_frame(&a->kv, a->x, f, err));
    const vp_column *values[] = {c->id, c->parent, c->text, c->meta};
    for (int i = 0; i < 4; i++)
        if (values[i] && !values[i]->is_values)
            return vp_frame_fail(f, VP_DATA, err, "column %s holds no strings", values[i]->name);
    int64_t sixteen[] = {f->B, 16}, one[] = {f->B};
    if (c->hash) VP_TRY(vp_frame_need(f, "hash", VP_U8, 2, sixteen, &c->hash, err));
    if (c->row) VP_TRY(vp_frame_need(f, "row", VP_I64, 1, one, &c->row, err));
    if (c->chunks) VP_TRY(vp_frame_need(f, "chunks", VP_I32, 1, one, &c->chunks, err));
    c->generation = source_generation(a, f);
    return VP_OK;
}

static int take_string(vp_index_adder *a, const vp_frame *f, const vp_column *c, int64_t i, piece *p, vp_error *err) {
    char scratch[32];
    const char *s = NULL;
    size_t n = 0;
    *p = (piece){a->strings.len, SIZE_MAX};
    if (c) VP_TRY(vp_column_str(f, c, i, &s, &n, scratch, err));
    if (!s) return VP_OK;
    if (vp_utf8_valid(s, n) != n)
        return vp_frame_fail(f, VP_DATA, err, "row %lld: %s is not UTF-8", (long long)i, c->name);
    p->n = n;
    return vp_buf_add(&a->strings, s, n, err);
}

static int take_row(vp_index_adder *a, const vp_frame *f, const columns *c, int64_t i, vp_error *err) {
    VP_TRY(vp_grow(&a->row, &a->cap, a->n, sizeof *a->row, "rows", err));
    pending *p = &a->row[a->n];
    *p = (pending){.generation = c->generation, .has_hash = c->hash != NULL};
    VP_TRY(take_string(a, f, c->id, i, &p->id, err));
    VP_TRY(take_string(a, f, c->parent, i, &p->parent, err));
    VP_TRY(take_string(a, f, c->text, i, &p->text, err));
    VP_TRY(take_string(a, f, c->meta, i, &p->meta, err));
    const char *id = a->strings.data + p->id.at;
    int64_t ordinal = a->rows_seen + i, earlier;
    if (p->id.n == SIZE_MAX || p->id.n == 0) return vp_frame_fail(f, VP_DATA, err, "row %lld has no id", (long long)i);
    if (p->meta.n != SIZE_MAX && !vp_json_is_object(a->strings.data + p->meta.at, p->meta.n))
        return vp_frame_fail(f, VP_DATA, err, "row %lld: meta is not a JSON object", (long long)i);
    if (c->hash) memcpy(p->hash, c->hash->data + 16 * i, 16);
    if (c->row) memcpy(&ordinal, c->row->data + 8 * i, 8);
    if (c->chunks) memcpy(&p->chunks, c->chunks->data + 4 * i, 4);
    if (ordinal < 0) return vp_frame_fail(f, VP_DATA, err, "row %lld: a negative row", (long long)i);
    VP_TRY(vp_idset_add(&a->ids, id, p->id.n, ordinal, &earlier, err));
    if (earlier >= 0)
        return vp_frame_fail(f, VP_DATA, err, "rows %lld and %lld have the same id '%.*s'", (long long)earlier,
                             (long long)ordinal, (int)(p->id.n < 200 ? p->id.n : 200), id);
    VP_TRY(vp_kv_take_row(&a->kv, f, i, &p->kv, err));
    a->n++;
    return VP_OK;
}

static bool is_due(const vp_index_adder *a) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return a->vectors.len + a->strings.len + a->kv.data.len + a->n * sizeof *a->row >= COMMIT_BYTES ||
           now.tv_sec - a->since.tv_sec >= COMMIT_SECONDS;
}

int vp_index_add_frame(vp_index_adder *a, const vp_frame *f, vp_error *err) {
    columns c;
    size_t rows = a->n, strings = a->strings.len, kv = a->kv.data.len;
    if (f->B == 0) return VP_OK;
    int status = find_columns(a, f, &c, err);
    if (!status && !a->n) clock_gettime(CLOCK_MONOTONIC, &a->since);
    for (int64_t i = 0; i < f->B && !status; i++) status = take_row(a, f, &c, i, err);
    if (!status) status = vp_buf_add(&a->vectors, c.emb->data, (size_t)f->B * a->row_bytes, err);
    if (status) { /* of this frame nothing is committed, of those before it everything */
        a->n = rows;
        a->strings.len = strings;
        a->kv.data.len = kv;
        return status;
    }
    a->rows_seen += f->B;
    return is_due(a) ? vp_index_add_commit(a, err) : VP_OK;
}

int vp_index_add_texts(vp_index_adder *a, vp_frame *f, vp_error *err) {
    const int64_t shape[] = {f->B, 1};
    float *zeros = vp_calloc((size_t)f->B + 1, sizeof *zeros);
    if (!zeros) return vp_fail_memory(err, "vectors", (size_t)f->B * sizeof *zeros);
    int status = VP_OK;
    if (vp_frame_find(f, "emb") || !vp_frame_find(f, "text"))
        status = vp_frame_fail(f, VP_DATA, err, "an index without vectors takes what `tok --text` gives");
    if (!status) status = vp_frame_put(f, "emb", VP_F32, 2, shape, zeros, err);
    if (!status) status = vp_index_add_frame(a, f, err);
    free(zeros);
    return status;
}

/* ---- committing ---- */

static const char *string_of(const vp_index_adder *a, piece p) {
    return p.n == SIZE_MAX ? NULL : a->strings.data + p.at;
}

static int put_map(vp_index *x, const vp_map *header, const char *key, vp_error *err) {
    vp_map *map = vp_map_sub(header, key);
    vp_buf json = {0};
    int status = map ? vp_map_json(map, &json, err) : vp_buf_add(&json, "{}", 2, err);
    if (!status) status = vp_buf_add(&json, "", 1, err);
    if (!status) status = vp_store_setting_put(x, key, json.data, 0, err);
    vp_map_free(map);
    vp_buf_free(&json);
    return status;
}

/* The first stream decides what the index holds; every other must agree with it. */
static int settle(vp_index_adder *a, vp_error *err) {
    vp_index *x = a->x;
    if (!x->dims) {
        VP_TRY(vp_store_setting_put(x, "dims", NULL, a->dims, err));
        VP_TRY(vp_store_setting_put(x, "dtype", vp_dtype_name(a->dtype), 0, err));
        VP_TRY(put_map(x, a->header, "model", err));
        VP_TRY(put_map(x, a->header, "encoder", err));
        if (a->kv.format.layers) VP_TRY(vp_kv_settle(x, &a->kv.format, err));
    }
    VP_TRY(vp_store_match(x, a->header, true, err));
    if (x->dims != a->dims || x->dtype != a->dtype)
        return vp_fail(err, VP_DATA, "'%s': holds %s of %lld dims, the stream's emb is %s of %lld", x->path,
                       vp_dtype_name(x->dtype), (long long)x->dims, vp_dtype_name(a->dtype), (long long)a->dims);
    if (!vp_kv_format_equal(&x->kv, &a->kv.format))
        return vp_fail(err, VP_DATA, "'%s': another stream began it with keys and values: %s, this one's: %s", x->path,
                       vp_kv_format_name(&x->kv), vp_kv_format_name(&a->kv.format));
    return VP_OK;
}

/* Make room for a row: drop what its record had, or, for a further chunk, only what has its id. *keep = false: the
 * record changed since `missing` looked. */
static int make_room(vp_index_adder *a, vp_change *c, pending *p, bool *keep, vp_error *err) {
    bool is_chunk = p->parent.n != SIZE_MAX;
    piece record = is_chunk ? p->parent : p->id;
    const char *name = string_of(a, record);
    int64_t existed = 0;
    *keep = true;
    if (!is_chunk || !vp_idset_find(&a->records, name, record.n, &existed)) {
        VP_TRY(vp_entries_find(a->x, VP_SQL_RECORD, name, record.n, &a->entries, err));
        existed = a->entries.n > 0;
        for (size_t i = 0; i < a->entries.n; i++)
            if (p->generation >= 0 && a->entries.item[i].generation > p->generation) *keep = false;
        if (!*keep) return VP_OK;
        for (size_t i = 0; i < a->entries.n; i++) VP_TRY(vp_change_drop(c, &a->entries.item[i], err));
        int64_t earlier;
        if (is_chunk) VP_TRY(vp_idset_add(&a->records, name, record.n, existed, &earlier, err));
    }
    p->existed = existed == 1;
    VP_TRY(vp_entries_find(a->x, VP_SQL_ENTRY, string_of(a, p->id), p->id.n, &a->entries, err));
    for (size_t i = 0; i < a->entries.n; i++) VP_TRY(vp_change_drop(c, &a->entries.item[i], err));
    return VP_OK;
}

static int insert(vp_index_adder *a, const vp_change *c, const pending *p, vp_place place, vp_kv_writer *kv,
                  vp_error *err) {
    vp_index *x = a->x;
    sqlite3_stmt *s;
    VP_TRY(vp_store_statement(x, VP_SQL_ENTRY_NEW, &s, err));
    VP_TRY(vp_store_bind_text(x, s, 1, string_of(a, p->id), p->id.n, err));
    VP_TRY(vp_store_bind_text(x, s, 2, string_of(a, p->parent), p->parent.n, err));
    if (p->chunks > 0) sqlite3_bind_int(s, 3, p->chunks);
    if (p->has_hash) sqlite3_bind_blob(s, 4, p->hash, 16, SQLITE_STATIC);
    VP_TRY(vp_store_bind_text(x, s, 5, string_of(a, p->meta), p->meta.n, err));
    sqlite3_bind_int64(s, 6, place.segment);
    sqlite3_bind_int64(s, 7, place.slot);
    sqlite3_bind_int64(s, 8, c->generation);
    VP_TRY(vp_store_run(x, s, err));
    int64_t n = sqlite3_last_insert_rowid(x->db);
    if (x->kv.layers) VP_TRY(vp_kv_add(kv, n, a->kv.data.data + p->kv.at, &p->kv, err));
    if (p->text.n == SIZE_MAX) return VP_OK;
    static const vp_statement both[] = {VP_SQL_DOCUMENT_NEW, VP_SQL_BM25_NEW};
    for (int i = 0; i < 2; i++) {
        VP_TRY(vp_store_statement(x, both[i], &s, err));
        sqlite3_bind_int64(s, 1, n);
        VP_TRY(vp_store_bind_text(x, s, 2, string_of(a, p->text), p->text.n, err));
        VP_TRY(vp_store_run(x, s, err));
    }
    return VP_OK;
}

static bool is_zero(const char *data, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (data[i]) return false;
    return true;
}

/* Drop, append, insert: the whole of one transaction. Rows that are kept move to the front of the waiting ones. */
static int write_rows(vp_index_adder *a, vp_change *c, vp_place *place, vp_index_counts *counts, vp_error *err) {
    size_t kept = 0;
    VP_TRY(settle(a, err));
    for (size_t i = 0; i < a->n; i++) {
        bool keep;
        VP_TRY(make_room(a, c, &a->row[i], &keep, err));
        counts->dropped += !keep;
        if (!keep) continue;
        char *vector = a->vectors.data + kept * a->row_bytes;
        if (kept != i) memmove(vector, a->vectors.data + i * a->row_bytes, a->row_bytes);
        a->row[kept++] = a->row[i];
        counts->zero += is_zero(vector, a->row_bytes);
        counts->added += !a->row[i].existed;
        counts->replaced += a->row[i].existed;
    }
    VP_TRY(vp_change_append(c, a->vectors.data, (int64_t)kept, 0, place, err));
    vp_kv_writer kv = {.x = a->x, .fd = -1};
    int status = VP_OK;
    for (size_t i = 0; i < kept && !status; i++) status = insert(a, c, &a->row[i], place[i], &kv, err);
    if (!status) status = vp_kv_writer_end(&kv, err);
    vp_kv_writer_close(&kv);
    return status;
}

int vp_index_add_commit(vp_index_adder *a, vp_error *err) {
    if (!a->n) return VP_OK;
    vp_change c;
    vp_index_counts counts = a->counts;
    vp_place *place = vp_calloc(a->n, sizeof *place);
    if (!place) return vp_fail_memory(err, "places of rows", a->n * sizeof *place);
    int status = vp_change_begin(&c, a->x, err);
    if (!status) {
        status = write_rows(a, &c, place, &counts, err);
        if (status)
            vp_change_abort(&c);
        else
            status = vp_change_commit(&c, err);
    }
    free(place);
    counts.commits++;
    if (!status) a->counts = counts;
    a->n = 0;
    a->strings.len = a->vectors.len = a->kv.data.len = 0;
    return status;
}
