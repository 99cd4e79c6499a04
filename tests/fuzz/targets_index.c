/* Index folders: a damaged database file, and a sound one whose values lie (the input is SQL that changes them).
 * Whatever opens is searched, exported and verified, its keys and values are read. And a record of keys and values. */
#include "lib/index/kv_store.h"
#include "lib/vecpipe.h"
#include "tests/fuzz/targets.h"
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 6, DIMS = 4, TOKENS = 12, LAYERS = 2, GROUPS = 1, HEAD = 4 };

/* ---- the index that the inputs damage ---- */

static int make_header(vp_frame *f, vp_error *err) {
    vp_map *encoder = vp_map_new(), *model = vp_map_new();
    int status = vp_map_set_str(encoder, "space", "a space", err);
    if (!status) status = vp_map_set_map(f->keys, "encoder", encoder, err);
    if (!status) status = vp_map_set_map(f->keys, "model", model, err);
    vp_map_free(encoder);
    vp_map_free(model);
    return status;
}

static int make_batch(vp_frame *f, vp_error *err) {
    static float emb[ROWS * DIMS];
    static const char *const ids[ROWS] = {"a", "b", "c#0", "c#1", "d", "e"};
    static const char *const parents[ROWS] = {NULL, NULL, "c", "c", NULL, NULL};
    static const char *const texts[ROWS] = {"one text", "two words", "a chunk", "another chunk", "", "the last one"};
    size_t id[ROWS], parent[ROWS], text[ROWS];
    for (int i = 0; i < ROWS; i++) {
        id[i] = strlen(ids[i]);
        parent[i] = parents[i] ? strlen(parents[i]) : 0;
        text[i] = strlen(texts[i]);
        emb[i * DIMS + i % DIMS] = 1;
    }
    static const int32_t cu[ROWS + 1] = {0, 2, 4, 4, 7, 9, TOKENS};
    static uint16_t kv[LAYERS * TOKENS * GROUPS * HEAD];
    const int64_t shape[] = {LAYERS, TOKENS, GROUPS, HEAD};
    for (size_t i = 0; i < sizeof kv / sizeof *kv; i++) kv[i] = (uint16_t)(0x3f80 + i);
    VP_TRY(vp_frame_put(f, "cu", VP_I32, 1, (const int64_t[]){ROWS + 1}, cu, err));
    VP_TRY(vp_frame_put(f, "k", VP_BF16, 4, shape, kv, err));
    VP_TRY(vp_frame_put(f, "v", VP_BF16, 4, shape, kv, err));
    VP_TRY(vp_frame_put(f, "emb", VP_F32, 2, (const int64_t[]){ROWS, DIMS}, emb, err));
    VP_TRY(vp_frame_put_strs(f, "id", ROWS, ids, id, err));
    VP_TRY(vp_frame_put_strs(f, "parent", ROWS, parents, parent, err));
    return vp_frame_put_strs(f, "text", ROWS, texts, text, err);
}

static int fill(vp_index *x, const vp_frame *header, const vp_frame *batch, vp_error *err) {
    vp_index_adder *a = NULL;
    int64_t deleted;
    VP_TRY(vp_index_add_open(&a, x, header, err));
    vp_index_add_kv(a, &(vp_kv_options){.coding = VP_KV_I8, .zstd = true});
    int status = vp_index_add_frame(a, batch, err);
    if (!status) status = vp_index_add_commit(a, err);
    vp_index_add_close(a);
    return status ? status : vp_index_delete(x, (const char *const[]){"b"}, (const size_t[]){1}, 1, &deleted, err);
}

static void die(const char *what, const char *why) {
    fprintf(stderr, "fuzz: %s: %s\n", what, why);
    _exit(4);
}

/* Header and batch of the seed, which are also the queries. */
static vp_frame *header, *batch;

static void make_index(void) {
    vp_error err = {0};
    vp_index *x = NULL;
    header = vp_frame_new(VP_FRAME_HEADER, &err);
    batch = vp_frame_new(VP_FRAME_BATCH, &err);
    if (!header || !batch || make_header(header, &err) || make_batch(batch, &err) ||
        vp_index_open(&x, "index", VP_INDEX_CREATE, &err) || fill(x, header, batch, &err))
        die("an index", err.text);
    vp_index_close(x); /* also moves everything from the log to the database */
    if (rename("index/index.db", "sound.db")) die("an index", "no database");
}

static void read_database(vp_buf *out) {
    vp_error err = {0};
    vp_map_file map;
    if (vp_map_open(&map, "sound.db", &err) || vp_buf_add(out, map.data, map.size, &err)) die("an index", err.text);
    vp_map_close(&map);
}

static void put_database(const vp_buf *bytes) {
    fuzz_write_file("index/index.db", bytes);
    unlink("index/index.db-wal");
    unlink("index/index.db-shm");
}

/* ---- reading ---- */

static int search(vp_index *x, vp_error *err) {
    const vp_search_options o = {.k = 3, .mode = VP_SEARCH_HYBRID, .by_parent = true, .content = true, .threads = 1};
    vp_searcher *s = NULL;
    const vp_search_result *results;
    int64_t n = 0;
    vp_buf out = {0};
    int status = vp_search_open(&s, x, header, &o, err);
    if (!status) status = vp_search_frame(s, batch, &results, &n, err);
    for (int64_t i = 0; i < n && !status; i++) {
        status = vp_search_print_jsonl(&results[i], &out, err);
        if (!status) status = vp_search_print_table(&results[i], 80, &out, err);
    }
    vp_buf_free(&out);
    vp_search_close(s);
    return status;
}

static int read_kv(vp_index *x, vp_error *err) {
    static const char *const ids[] = {"a", "b", "c#1", "e"};
    int status = VP_OK;
    for (int i = 0; i < 4 && !status; i++) {
        vp_kv kv;
        bool found;
        status = vp_index_kv(x, ids[i], strlen(ids[i]), &kv, &found, err);
        vp_kv_free(&kv);
    }
    return status;
}

static int look(vp_index *x, vp_error *err) {
    vp_index_stats stats = {0};
    vp_buf out = {0};
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    int status = vp_index_stats_read(x, &stats, err);
    if (!status) status = vp_index_stats_print(&stats, true, &out, err);
    vp_index_stats_free(&stats);
    vp_buf_free(&out);
    if (!status) status = search(x, err);
    if (!status) status = vp_index_export_jsonl(x, null, "/dev/null", err);
    if (!status) status = vp_index_export_npy(x, null, "/dev/null", err);
    if (!status) status = read_kv(x, err);
    if (!status) status = vp_index_verify(x, err);
    close(null);
    return status;
}

/* SQLite reports some damage as failed reads. */
static int read_index(vp_error *err) {
    vp_index *x = NULL;
    int status = vp_index_open(&x, "index", VP_INDEX_READ, err);
    if (!status) status = look(x, err);
    vp_index_close(x);
    if (status != VP_IO) return status;
    return err->code = VP_DATA;
}

void index_bytes_seeds(fuzz_seeds *s) {
    make_index();
    read_database(fuzz_add_seed(s));
}

int index_bytes_run(const vp_buf *input, vp_error *err) {
    put_database(input);
    return read_index(err);
}

/* ---- values: SQL whose numbers the mutations change ---- */

void index_values_seeds(fuzz_seeds *s) {
    make_index();
    fuzz_seed_text(s, "UPDATE segment SET slots=slots+0,live=live+0;UPDATE segment SET id=id+0;"
                      "UPDATE segment SET bitmap=substr(bitmap,1,999999);");
    fuzz_seed_text(s, "UPDATE extent SET slots=slots+0;UPDATE extent SET slot=slot+0;UPDATE extent SET hash=hash+0;"
                      "UPDATE extent SET segment=segment+0;");
    fuzz_seed_text(s, "UPDATE entry SET slot=slot+0 WHERE n>1;UPDATE entry SET segment=segment+0 WHERE n>1;"
                      "UPDATE entry SET n=n+0 WHERE n>3;UPDATE entry SET generation=generation+0;");
    fuzz_seed_text(s,
                   "UPDATE entry SET id=substr(id,1,99);UPDATE entry SET parent=substr(parent,1,99);"
                   "UPDATE entry SET meta=substr('',1,0) WHERE meta IS NOT NULL;UPDATE document SET n=n+0 WHERE n>2;");
    fuzz_seed_text(s, "UPDATE setting SET value=value+0 WHERE key='dims';"
                      "UPDATE setting SET value=substr(value,1,99) WHERE key='dtype';"
                      "UPDATE setting SET value=substr(value,1,999) WHERE key='encoder';"
                      "UPDATE setting SET value=substr(value,1,32) WHERE key='uuid';"
                      "UPDATE setting SET value=value+0 WHERE key='generation';");
    fuzz_seed_text(s, "UPDATE kv_span SET at=at+0,bytes=bytes+0,tokens=tokens+0,hash=hash+0 WHERE n>1;"
                      "UPDATE kv_span SET file=file+0,n=n+0 WHERE n>2;UPDATE kv_file SET bytes=bytes+0,live=live+0;"
                      "UPDATE kv_file SET id=id+0;");
    fuzz_seed_text(s, "UPDATE setting SET value=value+0 WHERE key='kv_layers';"
                      "UPDATE setting SET value=value+0 WHERE key='kv_groups';"
                      "UPDATE setting SET value=value+0 WHERE key='kv_head_dim';"
                      "UPDATE setting SET value=substr(value,1,7) WHERE key='kv';");
}

int index_values_run(const vp_buf *input, vp_error *err) {
    static vp_buf sound, sql;
    sqlite3 *db = NULL;
    if (!sound.len) read_database(&sound);
    sql.len = 0;
    if (vp_buf_add(&sql, input->data, input->len, err) || vp_buf_add(&sql, "", 1, err)) return err->code;
    put_database(&sound);
    if (sqlite3_open("index/index.db", &db) != SQLITE_OK) die("an index", "cannot be opened");
    sqlite3_exec(db, "PRAGMA synchronous=OFF", NULL, NULL, NULL);
    char *rest = sql.data; /* one by one: what is no SQL any more must not keep the others from running */
    for (const char *one; (one = strsep(&rest, ";"));) sqlite3_exec(db, one, NULL, NULL, NULL);
    sqlite3_close(db);
    return read_index(err);
}

/* ---- a record of keys and values, whose checksum held: the first byte says which format ---- */

static const vp_kv_format formats[] = {
    {LAYERS, GROUPS, HEAD, true, false}, {LAYERS, GROUPS, HEAD, false, true}, {LAYERS, GROUPS, HEAD, true, true}};

void kv_record_seeds(fuzz_seeds *s) {
    static uint16_t x[LAYERS * TOKENS * GROUPS * HEAD];
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = (uint16_t)(0xbf80 + 3 * i);
    const vp_kv_rows rows = {.k = (const uint8_t *)x, .v = (const uint8_t *)x, .T = TOKENS, .first = 3, .n = 5};
    for (int i = 0; i < 3; i++) {
        vp_error err = {0};
        vp_buf scratch = {0}, *seed = fuzz_add_seed(s);
        const char first = (char)i;
        if (vp_buf_add(seed, &first, 1, &err) || vp_kv_encode(&formats[i], &rows, &scratch, seed, &err))
            die("a record", err.text);
        vp_buf_free(&scratch);
    }
}

int kv_record_run(const vp_buf *input, vp_error *err) {
    if (!input->len) return vp_fail(err, VP_DATA, "no format");
    const uint8_t *data = (const uint8_t *)input->data;
    uint16_t *kv = vp_kv_decode(&formats[data[0] % 3], data + 1, input->len - 1, 5, err);
    if (!kv) return err->code ? err->code : vp_fail(err, VP_DATA, "damaged");
    free(kv);
    return VP_OK;
}
