/* What a prompt's `cache` names: looked up in an index and in a stream, which must come from the model that goes on. */
#include "lib/gen/caches.h"
#include "lib/gen/stream_cache.h"
#include "lib/text/json_text.h"
#include <stdlib.h>
#include <string.h>

enum { TEXTS = 256 }; /* before one prompt */

struct vp_caches {
    vp_index *index;         /* NULL: no documents */
    vp_stream_cache *stream; /* NULL: no queries */
    const char *documents, *queries;
};

void vp_behind_free(vp_behind *b) {
    for (size_t i = 0; i < b->n; i++) vp_kv_free(&b->kv[i]);
    free(b->kv);
    *b = (vp_behind){0};
}

/* ---- whose keys and values they are ---- */
/* Member `key`, a text or a list of texts, in one line. */
static int spell(const vp_map *m, const char *key, vp_buf *out, vp_error *err) {
    const char *s = m ? vp_map_str(m, key) : NULL;
    if (s) return vp_buf_add(out, s, strlen(s) + 1, err);
    for (size_t i = 0; m && (s = vp_map_str_at(m, key, i)); i++)
        VP_TRY(vp_buf_printf(out, err, "%s%s", i ? " " : "", s));
    return out->len ? vp_buf_add(out, "", 1, err) : vp_buf_add(out, "none", sizeof "none", err);
}

typedef struct side { /* of a comparison */
    const char *name;
    const vp_map *map;
} side;

static int match(const side *a, const side *b, const char *key, const char *what, vp_error *err) {
    vp_buf left = {0}, right = {0};
    int status = spell(a->map, key, &left, err);
    if (!status) status = spell(b->map, key, &right, err);
    if (!status && strcmp(left.data, right.data) != 0)
        status = vp_fail(err, VP_DATA, "%s: %s %s, %s has %s", a->name, what, left.data, b->name, right.data);
    vp_buf_free(&left);
    vp_buf_free(&right);
    return status;
}

static int match_model(const char *name, const vp_map *from, const vp_map *model, const char *path, vp_error *err) {
    const side a = {name, from}, b = {path, model};
    if (!from) return vp_fail(err, VP_DATA, "%s: holds nothing yet, or does not say of which model", name);
    VP_TRY(match(&a, &b, "fingerprint", "keys and values of another model: fingerprint", err));
    VP_TRY(match(&a, &b, "adapter_fingerprints", "keys and values of other adapters:", err));
    return match(&a, &b, "tokenizer", "its tokens are those of another tokenizer:", err);
}

/* The model's own map, as a header would have it. */
static int describe(const vp_model *m, const vp_tokenizer *t, vp_map **model, vp_error *err) {
    vp_map *header = vp_map_new();
    if (!header) return vp_fail_memory(err, "a map", 1);
    int status = vp_model_describe(m, header, err);
    if (!status && !(*model = vp_map_sub(header, "model"))) status = vp_fail_memory(err, "a map", 1);
    if (!status) status = vp_map_set_str(*model, "tokenizer", vp_tokenizer_fingerprint(t), err);
    vp_map_free(header);
    return status;
}

static int check_sources(const vp_caches *c, const vp_map *model, const char *path, vp_error *err) {
    vp_map *from[2] = {0}, *encoder[2] = {0};
    const vp_map *header = c->stream ? vp_stream_cache_header(c->stream) : NULL;
    int status = c->index ? vp_index_describe(c->documents, &from[0], &encoder[0], err) : VP_OK;
    if (header) from[1] = vp_map_sub(header, "model");
    if (header) encoder[1] = vp_map_sub(header, "encoder");
    if (!status && c->index) status = match_model(c->documents, from[0], model, path, err);
    if (!status && header) status = match_model(c->queries, from[1], model, path, err);
    if (!status && c->index && header)
        status = match(&(side){c->documents, encoder[0]}, &(side){c->queries, encoder[1]}, "space",
                       "vectors of encoder.space", err);
    for (int i = 0; i < 2; i++) vp_map_free(from[i]), vp_map_free(encoder[i]);
    return status;
}

int vp_caches_open(vp_caches **out, const char *documents, const char *queries, const vp_model *m,
                   const vp_tokenizer *t, vp_error *err) {
    vp_map *model = NULL;
    vp_caches *c = *out = vp_calloc(1, sizeof *c);
    if (!c) return vp_fail_memory(err, "caches", sizeof *c);
    c->documents = documents;
    c->queries = queries;
    int status = documents ? vp_index_open(&c->index, documents, VP_INDEX_READ, err) : VP_OK;
    if (!status && queries) status = vp_stream_cache_open(&c->stream, queries, err);
    if (!status) status = describe(m, t, &model, err);
    if (!status) status = check_sources(c, model, vp_model_path(m), err);
    vp_map_free(model);
    if (!status) return VP_OK;
    vp_caches_close(c);
    *out = NULL;
    return status;
}

void vp_caches_close(vp_caches *c) {
    if (!c) return;
    vp_stream_cache_close(c->stream);
    vp_index_close(c->index);
    free(c);
}

/* ---- what a record names ---- */
static int find_text(vp_caches *c, bool query, const char *id, size_t len, vp_kv *kv, vp_error *err) {
    const char *what = query ? "query" : "document", *from = query ? c->queries : c->documents;
    bool found = false;
    if (query ? !c->stream : !c->index)
        return vp_fail(err, VP_USAGE, "'cache' names a %s: --%s-cache says where it is", what, query ? "query" : "doc");
    VP_TRY(query ? vp_stream_cache_find(c->stream, id, len, kv, &found, err)
                 : vp_index_kv(c->index, id, len, kv, &found, err));
    return found ? VP_OK : vp_fail(err, VP_DATA, "no %s '%.*s' in %s", what, (int)len, id, from);
}

static int add_text(vp_caches *c, const json_t *item, vp_behind *out, vp_error *err) {
    const json_t *document = json_object_get(item, "doc"), *query = json_object_get(item, "query");
    const json_t *id = query ? query : document;
    if (json_object_size(item) != 1 || !json_is_string(id))
        return vp_fail(err, VP_DATA, "'cache' is not a list of {\"doc\": ID} and {\"query\": ID}");
    VP_TRY(vp_grow(&out->kv, &out->cap, out->n, sizeof *out->kv, "cached texts", err));
    VP_TRY(find_text(c, query, json_string_value(id), json_string_length(id), &out->kv[out->n], err));
    out->n++;
    return VP_OK;
}

int vp_caches_find(vp_caches *c, const vp_record *r, vp_behind *out, vp_error *err) {
    vp_json_text value;
    if (!vp_json_text_member((vp_json_text){r->line, r->line_len}, "cache", &value)) return VP_OK;
    json_t *list = json_loadb(value.s, value.n, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, NULL);
    int status = VP_OK;
    if (!json_is_null(list) && (!json_is_array(list) || json_array_size(list) > TEXTS))
        status = vp_fail(err, VP_DATA, "'cache' is not a list of at most %d texts", TEXTS);
    for (size_t i = 0; !status && i < json_array_size(list); i++)
        status = add_text(c, json_array_get(list, i), out, err);
    json_decref(list);
    if (status) vp_behind_free(out);
    return status;
}
