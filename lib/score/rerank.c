/* Reranking: each query's own candidates, positives and negatives, ordered by the cosine. */
#include "lib/score/measure.h"
#include "lib/score/private.h"
#include "lib/stream/json.h"
#include <stdlib.h>

enum { MRR_DEPTH = 10 };

typedef struct candidates {
    int64_t positives, negatives;
} candidates;

typedef struct rerank {
    candidates *line;
    size_t n, cap;
    int64_t total, most; /* candidates of all lines, of the longest */
} rerank;

typedef struct texts {
    vp_buf *out;
    bool candidates;
} texts;

/* A member that is an array of strings, NULL for an absent one. */
static int strings_of(const json_t *o, const char *key, const char *file, const vp_record *line, json_t **out,
                      vp_error *err) {
    *out = json_object_get(o, key);
    if (!*out || json_is_null(*out)) return *out = NULL, VP_OK;
    if (!json_is_array(*out)) return vp_score_bad(file, line, err, "'%s' is not an array", key);
    for (size_t i = 0; i < json_array_size(*out); i++)
        if (!json_is_string(json_array_get(*out, i)))
            return vp_score_bad(file, line, err, "'%s' holds something else than strings", key);
    return VP_OK;
}

typedef struct parts {
    const json_t *query;
    json_t *positive, *negative;
} parts;

static int parts_of(const json_t *o, const char *file, const vp_record *line, parts *p, vp_error *err) {
    p->query = json_object_get(o, "query");
    if (!json_is_string(p->query)) return vp_score_bad(file, line, err, "no 'query', a string");
    VP_TRY(strings_of(o, "positive", file, line, &p->positive, err));
    return strings_of(o, "negative", file, line, &p->negative, err);
}

static int take_counts(void *self, const char *file, const vp_record *line, vp_error *err) {
    rerank *r = self;
    json_t *o;
    parts p;
    VP_TRY(vp_score_object(&o, file, line, err));
    int status = parts_of(o, file, line, &p, err);
    if (!status) status = vp_grow(&r->line, &r->cap, r->n, sizeof *r->line, "queries", err);
    if (!status) {
        const candidates c = {(int64_t)json_array_size(p.positive), (int64_t)json_array_size(p.negative)};
        r->line[r->n++] = c;
        r->total += c.positives + c.negatives;
        if (c.positives + c.negatives > r->most) r->most = c.positives + c.negatives;
    }
    json_decref(o);
    return status;
}

/* Means' input: value [units, 2] of the lines that have both kinds. */
static void measure_lines(const rerank *r, const vp_vectors *q, const vp_vectors *c, vp_judged *judged, double *value) {
    int64_t at = 0;
    for (size_t i = 0; i < r->n; i++) {
        const candidates *line = &r->line[i];
        const int64_t n = line->positives + line->negatives;
        if (line->positives && line->negatives) {
            vp_binary b;
            for (int64_t j = 0; j < n; j++)
                judged[j] = (vp_judged){vp_vectors_cosine(q, (int64_t)i, c, at + j), j < line->positives};
            vp_binary_measures(judged, n, &b);
            *value++ = b.ap;
            *value++ = b.first_rank <= MRR_DEPTH ? 1 / (double)b.first_rank : 0;
        }
        at += n;
    }
}

static int measure(vp_score *s, const rerank *r, const vp_vectors *q, const vp_vectors *c, const vp_score_options *o,
                   vp_error *err) {
    for (size_t i = 0; i < r->n; i++) s->units += r->line[i].positives && r->line[i].negatives;
    vp_score_count(s, "queries_left_out", (int64_t)r->n - s->units);
    vp_judged *judged = vp_calloc((size_t)r->most + 1, sizeof *judged);
    double *value = vp_calloc((size_t)s->units * 2 + 1, sizeof *value);
    int status = judged && value ? VP_OK : vp_fail_memory(err, "queries", r->n * sizeof *value);
    if (!status) {
        measure_lines(r, q, c, judged, value);
        status = vp_score_take_means(s, value, o, err);
    }
    free(judged);
    free(value);
    return status;
}

int vp_score_rerank(vp_score *s, vp_score_file gold, vp_score_file queries, vp_score_file candidate_vectors,
                    const vp_score_options *o, vp_error *err) {
    rerank r = {0};
    vp_vectors q = {0}, c = {0};
    *s = (vp_score){.task = "rerank", .unit = "queries"};
    vp_score_name(s, "map");
    vp_score_name(s, "mrr_at_10");
    int status = vp_score_lines(gold, take_counts, &r, err);
    if (!status) status = vp_vectors_read(&q, queries, (int64_t)r.n, "queries", err);
    if (!status) status = vp_vectors_read(&c, candidate_vectors, r.total, "candidates", err);
    if (!status && r.total) status = vp_vectors_match(&q, &c, err);
    if (!status) status = measure(s, &r, &q, &c, o, err);
    vp_vectors_free(&q);
    vp_vectors_free(&c);
    free(r.line);
    return status;
}

static int put_text(vp_buf *out, int64_t line, int64_t candidate, const json_t *text, vp_error *err) {
    VP_TRY(vp_buf_printf(out, err, "{\"id\":\"%lld", (long long)line));
    if (candidate) VP_TRY(vp_buf_printf(out, err, "/%lld", (long long)candidate));
    VP_TRY(vp_buf_printf(out, err, "\",\"text\":"));
    VP_TRY(vp_json_quote(out, json_string_value(text), json_string_length(text), err));
    return vp_buf_add(out, "}\n", 2, err);
}

static int put_texts(const texts *t, const parts *p, int64_t line, vp_error *err) {
    if (!t->candidates) return put_text(t->out, line, 0, p->query, err);
    const size_t positives = json_array_size(p->positive), all = positives + json_array_size(p->negative);
    for (size_t i = 0; i < all; i++)
        VP_TRY(put_text(t->out, line, (int64_t)i + 1,
                        i < positives ? json_array_get(p->positive, i) : json_array_get(p->negative, i - positives),
                        err));
    return VP_OK;
}

static int take_texts(void *self, const char *file, const vp_record *line, vp_error *err) {
    json_t *o;
    parts p;
    VP_TRY(vp_score_object(&o, file, line, err));
    int status = parts_of(o, file, line, &p, err);
    if (!status) status = put_texts(self, &p, line->number, err);
    json_decref(o);
    return status;
}

int vp_score_rerank_texts(vp_score_file gold, bool candidates_wanted, vp_buf *out, vp_error *err) {
    texts t = {out, candidates_wanted};
    return vp_score_lines(gold, take_texts, &t, err);
}
