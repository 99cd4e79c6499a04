/* Figures of an index, read and printed. */
#include "lib/index/kv_store.h"
#include <string.h>
#include <sys/stat.h>

static int64_t file_bytes(const vp_index *x, const char *name) {
    struct stat st;
    return fstatat(x->dir, name, &st, 0) == 0 ? (int64_t)st.st_size : 0;
}

static int read_stats(vp_index *x, vp_index_stats *s, vp_error *err) {
    vp_segments segments = {0};
    sqlite3_stmt *q;
    bool row;
    VP_TRY(vp_store_execute(x, VP_SQL_BEGIN, err));
    VP_TRY(vp_store_settings(x, err));
    VP_TRY(vp_store_setting_int(x, "generation", &s->generation, err));
    VP_TRY(vp_segments_load(x, &segments, err));
    s->segments = (int64_t)segments.n;
    for (size_t i = 0; i < segments.n; i++) {
        s->dead += segments.item[i].slots - segments.item[i].live;
        s->vector_bytes += segments.item[i].slots * (int64_t)x->row_bytes;
    }
    vp_segments_free(&segments);
    VP_TRY(vp_store_statement(x, VP_SQL_COUNTS, &q, err));
    VP_TRY(vp_store_step(x, q, &row, err));
    s->rows = sqlite3_column_int64(q, 0);
    s->records = sqlite3_column_int64(q, 1);
    s->texts = sqlite3_column_int64(q, 2);
    sqlite3_reset(q);
    s->kv = vp_kv_format_name(&x->kv);
    if (x->kv.layers) {
        VP_TRY(vp_store_statement(x, VP_SQL_KV_COUNTS, &q, err));
        VP_TRY(vp_store_step(x, q, &row, err));
        s->kv_tokens = sqlite3_column_int64(q, 0);
        s->kv_bytes = sqlite3_column_int64(q, 1);
        s->kv_file_bytes = sqlite3_column_int64(q, 2);
    }
    s->dims = x->dims;
    s->dtype = x->dims ? vp_dtype_name(x->dtype) : "";
    memcpy(s->uuid, x->uuid, sizeof s->uuid);
    s->database_bytes = file_bytes(x, "index.db") + file_bytes(x, "index.db-wal");
    if (x->model && !(s->model = vp_map_copy(x->model))) return vp_fail_memory(err, "stats", 0);
    if (x->encoder && !(s->encoder = vp_map_copy(x->encoder))) return vp_fail_memory(err, "stats", 0);
    return VP_OK;
}

int vp_index_stats_read(vp_index *x, vp_index_stats *s, vp_error *err) {
    *s = (vp_index_stats){0};
    int status = read_stats(x, s, err);
    vp_store_rollback(x);
    if (status) vp_index_stats_free(s);
    return status;
}

void vp_index_stats_free(vp_index_stats *s) {
    vp_map_free(s->model);
    vp_map_free(s->encoder);
    *s = (vp_index_stats){0};
}

static int print_json(const vp_index_stats *s, vp_buf *out, vp_error *err) {
    const struct {
        const char *key;
        int64_t value;
    } number[] = {{"rows", s->rows},
                  {"dead", s->dead},
                  {"records", s->records},
                  {"texts", s->texts},
                  {"dims", s->dims},
                  {"generation", s->generation},
                  {"segments", s->segments},
                  {"vector_bytes", s->vector_bytes},
                  {"database_bytes", s->database_bytes},
                  {"kv_tokens", s->kv_tokens},
                  {"kv_bytes", s->kv_bytes},
                  {"kv_file_bytes", s->kv_file_bytes}};
    vp_map *m = vp_map_new();
    int status = m ? vp_map_set_str(m, "index", s->uuid, err) : vp_fail_memory(err, "stats", sizeof number);
    if (!status) status = vp_map_set_str(m, "dtype", s->dtype, err);
    if (!status) status = vp_map_set_str(m, "kv", s->kv, err);
    for (size_t i = 0; i < sizeof number / sizeof *number && !status; i++)
        status = vp_map_set_int(m, number[i].key, number[i].value, err);
    if (!status && s->model) status = vp_map_set_map(m, "model", s->model, err);
    if (!status && s->encoder) status = vp_map_set_map(m, "encoder", s->encoder, err);
    if (!status) status = vp_map_json(m, out, err);
    vp_map_free(m);
    return status ? status : vp_buf_add(out, "\n", 1, err);
}

static int print_value(const char *label, const vp_map *m, const char *key, vp_buf *out, vp_error *err) {
    char shown[2000];
    vp_buf text = {0};
    if (!m || !vp_map_has(m, key)) return VP_OK;
    int status = vp_store_value_text(m, key, &text, err);
    if (!status) vp_escape(shown, sizeof shown, text.data, strlen(text.data));
    if (!status) status = vp_buf_printf(out, err, "%-12s %s\n", label, shown);
    vp_buf_free(&text);
    return status;
}

static int print_table(const vp_index_stats *s, vp_buf *out, vp_error *err) {
    const struct {
        const char *label;
        int64_t value;
    } number[] = {{"records", s->records}, {"rows", s->rows}, {"with text", s->texts}, {"dead rows", s->dead}};
    for (size_t i = 0; i < sizeof number / sizeof *number; i++)
        VP_TRY(vp_buf_printf(out, err, "%-12s %lld\n", number[i].label, (long long)number[i].value));
    if (s->dims) VP_TRY(vp_buf_printf(out, err, "%-12s %lld %s\n", "dims", (long long)s->dims, s->dtype));
    VP_TRY(vp_buf_printf(out, err, "%-12s %.1f MiB, segments: %lld\n", "vectors", (double)s->vector_bytes / 1048576,
                         (long long)s->segments));
    if (strcmp(s->kv, "none") != 0)
        VP_TRY(vp_buf_printf(out, err, "%-12s %s, %lld tokens, %.1f MiB, %.0f bytes a token\n", "keys/values", s->kv,
                             (long long)s->kv_tokens, (double)s->kv_bytes / 1048576,
                             s->kv_tokens ? (double)s->kv_bytes / (double)s->kv_tokens : 0));
    VP_TRY(vp_buf_printf(out, err, "%-12s %.1f MiB\n", "database", (double)s->database_bytes / 1048576));
    VP_TRY(print_value("model", s->model, "path", out, err));
    VP_TRY(print_value("space", s->encoder, "space", out, err));
    VP_TRY(print_value("input", s->encoder, "input", out, err));
    return vp_buf_printf(out, err, "%-12s %lld\n%-12s %s\n", "generation", (long long)s->generation, "index", s->uuid);
}

int vp_index_stats_print(const vp_index_stats *s, bool json, vp_buf *out, vp_error *err) {
    return json ? print_json(s, out, err) : print_table(s, out, err);
}
