/* Reranking of lines: hits grouped by query, the queries' texts, and the lines anew. */
#include "lib/gen/rerank.h"
#include "lib/text/json_text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct hit {
    char *line;
    size_t len;
    json_t *object;     /* its members */
    vp_json_text query; /* as the line spells it */
    int64_t number;     /* of the input's lines */
    size_t order;       /* among the query's */
    float score;        /* NaN: none */
} hit;

struct vp_rerank_lines {
    vp_reranker *reranker;
    vp_records *in;
    json_t *texts; /* of the queries, by id; NULL: none */
    size_t most;   /* hits of a query */
    hit ahead;     /* the next query's first one; line NULL: none was read */
    bool ended;
    hit *hit;                        /* of this query */
    size_t n, failed, cap, passages; /* failed: the last so many have no score */
    vp_passage *passage;
    float *score;
    size_t scores;
};

static void hit_free(hit *h) {
    free(h->line);
    json_decref(h->object);
    *h = (hit){0};
}

/* ---- the queries' texts ---- */
static int add_text(json_t *texts, const vp_records *in, const vp_record *q, vp_error *err) {
    const char *name = vp_records_name(in);
    if (!q->id) return vp_fail(err, VP_DATA, "%s:%lld: no 'id'", name, (long long)q->number);
    if (json_object_getn(texts, q->id, q->id_len))
        return vp_fail(err, VP_DATA, "%s:%lld: the id '%.80s' is there already", name, (long long)q->number, q->id);
    if (json_object_setn_new(texts, q->id, q->id_len, json_stringn(q->text, q->text_len)) != 0)
        return vp_fail_memory(err, "texts of queries", q->text_len);
    return VP_OK;
}

static int read_texts(vp_rerank_lines *l, vp_records *in, vp_error *err) {
    vp_record q;
    bool got;
    if (!in) return VP_OK;
    if (!(l->texts = json_object())) return vp_fail_memory(err, "texts of queries", sizeof q);
    for (;;) {
        VP_TRY(vp_records_next(in, &q, &got, err));
        if (!got) return VP_OK;
        VP_TRY(add_text(l->texts, in, &q, err));
    }
}

int vp_rerank_lines_open(vp_rerank_lines **out, vp_reranker *r, int64_t most, vp_records *hits, vp_records *queries,
                         vp_error *err) {
    vp_rerank_lines *l = *out = vp_calloc(1, sizeof *l);
    if (!l) return vp_fail_memory(err, "hits", sizeof *l);
    *l = (vp_rerank_lines){.reranker = r, .in = hits, .most = (size_t)most};
    const int status = read_texts(l, queries, err);
    if (!status) return VP_OK;
    vp_rerank_lines_close(l);
    *out = NULL;
    return status;
}

static void forget_group(vp_rerank_lines *l) {
    for (size_t i = 0; i < l->n; i++) hit_free(&l->hit[i]);
    l->n = l->failed = 0;
}

void vp_rerank_lines_close(vp_rerank_lines *l) {
    if (!l) return;
    forget_group(l);
    hit_free(&l->ahead);
    json_decref(l->texts);
    free(l->hit);
    free(l->passage);
    free(l->score);
    free(l);
}

/* ---- hits ---- */
static int bad_hit(const vp_rerank_lines *l, const hit *h, const char *why, vp_error *err) {
    return vp_fail(err, VP_DATA, "%s:%lld: %s", vp_records_name(l->in), (long long)h->number, why);
}

static bool is_name(const json_t *v) {
    return json_is_number(v) || (json_is_string(v) && json_string_length(v));
}

static int check_hit(const vp_rerank_lines *l, hit *h, vp_error *err) {
    const json_t *title = json_object_get(h->object, "title");
    if (!is_name(json_object_get(h->object, "query")) ||
        !vp_json_text_member((vp_json_text){h->line, h->len}, "query", &h->query))
        return bad_hit(l, h, "no 'query', a string", err);
    if (!is_name(json_object_get(h->object, "id"))) return bad_hit(l, h, "no 'id', a string", err);
    if (!json_is_string(json_object_get(h->object, "text")))
        return bad_hit(l, h, "no 'text', a string: knn search --text gives it", err);
    if (title && !json_is_null(title) && !json_is_string(title)) return bad_hit(l, h, "'title' is not a string", err);
    return VP_OK;
}

/* The next line into `ahead`. */
static int read_ahead(vp_rerank_lines *l, vp_error *err) {
    vp_record record;
    bool got;
    VP_TRY(vp_records_next(l->in, &record, &got, err));
    l->ended = !got;
    if (!got) return VP_OK;
    hit *h = &l->ahead;
    h->number = record.number;
    h->len = record.line_len;
    if (!(h->line = vp_strndup(record.line, record.line_len))) return vp_fail_memory(err, "a hit", h->len);
    VP_TRY(vp_line_parse(h->line, h->len, &h->object, vp_records_name(l->in), h->number, err));
    return check_hit(l, h, err);
}

static bool same_query(const hit *a, const hit *b) {
    return a->query.n == b->query.n && memcmp(a->query.s, b->query.s, a->query.n) == 0;
}

/* The hits of the next query; `ahead` is then of another one. */
static int read_group(vp_rerank_lines *l, vp_error *err) {
    forget_group(l);
    if (!l->ahead.line && !l->ended) VP_TRY(read_ahead(l, err));
    while (!l->ended && (!l->n || same_query(&l->hit[0], &l->ahead))) {
        if (l->n < l->most) {
            VP_TRY(vp_grow(&l->hit, &l->cap, l->n, sizeof *l->hit, "hits", err));
            l->hit[l->n] = l->ahead;
            l->hit[l->n].order = l->n;
            l->n++;
            l->ahead = (hit){0};
        }
        hit_free(&l->ahead);
        VP_TRY(read_ahead(l, err));
    }
    return VP_OK;
}

/* ---- scores ---- */
static int find_query(const vp_rerank_lines *l, const hit *h, const char **s, size_t *n, vp_error *err) {
    const json_t *text = json_object_get(h->object, "query_text"), *id = json_object_get(h->object, "query");
    const bool spelled = json_is_string(id);
    const char *key = spelled ? json_string_value(id) : h->query.s;
    const size_t len = spelled ? json_string_length(id) : h->query.n;
    if (!json_is_string(text)) text = json_object_getn(l->texts, key, len);
    if (!text)
        return bad_hit(l, h, "no text of the query: tok --text before knn search --text carries it, or --queries", err);
    *s = json_string_value(text);
    *n = json_string_length(text);
    return VP_OK;
}

static int score_group(vp_rerank_lines *l, vp_error *err) {
    const char *query = NULL;
    size_t len = 0, bad = 0;
    VP_TRY(find_query(l, &l->hit[0], &query, &len, err));
    for (size_t i = 0; i < l->n; i++) {
        const json_t *o = l->hit[i].object, *title = json_object_get(o, "title"), *text = json_object_get(o, "text");
        VP_TRY(vp_grow(&l->passage, &l->passages, i, sizeof *l->passage, "hits", err));
        VP_TRY(vp_grow(&l->score, &l->scores, i, sizeof *l->score, "hits", err));
        l->passage[i] = (vp_passage){.title = json_string_value(title),
                                     .title_len = json_string_length(title),
                                     .text = json_string_value(text),
                                     .text_len = json_string_length(text)};
    }
    vp_error why = {0};
    const int status = vp_rerank_score(l->reranker, query, len, l->passage, l->n, l->score, &bad, &why);
    if (status == VP_DATA) return bad_hit(l, &l->hit[bad], why.text, err);
    if (status) *err = why;
    for (size_t i = 0; i < l->n && !status; i++) {
        l->hit[i].score = l->score[i];
        l->failed += isnan(l->score[i]) != 0;
    }
    return status;
}

static int by_score(const void *a, const void *b) {
    const hit *x = a, *y = b;
    const bool none = isnan(x->score), other = isnan(y->score);
    const int order = none - other ? none - other : (x->score < y->score) - (x->score > y->score);
    return order ? order : (x->order > y->order) - (x->order < y->order);
}

/* ---- output ---- */
static int put_member(const hit *h, const char *key, const char *before, vp_buf *out, vp_error *err) {
    vp_json_text value;
    if (!vp_json_text_member((vp_json_text){h->line, h->len}, key, &value)) return VP_OK;
    VP_TRY(vp_buf_printf(out, err, "%s\"%s\":", before, key));
    return vp_buf_add(out, value.s, value.n, err);
}

static int put_hit(const hit *h, size_t rank, vp_buf *out, vp_error *err) {
    static const char *const own[] = {"query", "rank", "id", "parent", "score", NULL};
    VP_TRY(put_member(h, "query", "{", out, err));
    VP_TRY(vp_buf_printf(out, err, ",\"rank\":%zu", rank));
    VP_TRY(put_member(h, "id", ",", out, err));
    VP_TRY(put_member(h, "parent", ",", out, err));
    if (isnan(h->score))
        VP_TRY(vp_buf_printf(out, err, ",\"score\":null"));
    else
        VP_TRY(vp_buf_printf(out, err, ",\"score\":%.9g", (double)h->score));
    const size_t at = out->len;
    VP_TRY(vp_json_text_compact((vp_json_text){h->line, h->len}, own, out, err)); /* text is among them: no {} */
    out->data[at] = ',';
    return vp_buf_add(out, "\n", 1, err);
}

int vp_rerank_lines_next(vp_rerank_lines *l, vp_buf *out, int64_t *n, vp_error *err) {
    *n = 0;
    VP_TRY(read_group(l, err));
    if (!l->n) return VP_OK;
    VP_TRY(score_group(l, err));
    qsort(l->hit, l->n, sizeof *l->hit, by_score);
    for (size_t i = 0; i < l->n; i++) VP_TRY(put_hit(&l->hit[i], i + 1, out, err));
    *n = (int64_t)l->n;
    return VP_OK;
}

int64_t vp_rerank_lines_failed(const vp_rerank_lines *l, int64_t i) {
    return i < (int64_t)l->failed ? l->hit[l->n - l->failed + (size_t)i].number : 0;
}
