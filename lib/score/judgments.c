/* Reading relevance judgments (BEIR's or TREC's columns) and hits (JSON lines). */
#include "lib/score/judgments.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FIELDS = 5 };

int vp_name_compare(vp_name a, vp_name b) {
    const size_t n = a.n < b.n ? a.n : b.n;
    const int order = n ? memcmp(a.s, b.s, n) : 0;
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int keep_name(vp_judgments *j, const char *s, size_t n, vp_name *out, vp_error *err) {
    *out = (vp_name){.at = j->arena.len, .n = n};
    return vp_buf_add(&j->arena, s, n, err);
}

static int add(vp_judgments *j, const vp_judgment *item, vp_error *err) {
    VP_TRY(vp_grow(&j->item, &j->cap, j->n, sizeof *j->item, "judgments or hits", err));
    j->item[j->n++] = *item;
    return VP_OK;
}

/* ---- judgments ---- */

/* Fields between tabs, or between runs of blanks where the line has no tab; at most MAX_FIELDS. */
static int split(const vp_record *line, const char *field[MAX_FIELDS], size_t len[MAX_FIELDS]) {
    const char *s = line->line, *end = s + line->line_len;
    const bool tabs = line->line_len && memchr(s, '\t', line->line_len);
    int n = 0;
    while (end > s && (end[-1] == '\r' || end[-1] == ' ')) end--;
    while (s < end && n < MAX_FIELDS) {
        while (!tabs && s < end && *s == ' ') s++;
        const char *stop = memchr(s, tabs ? '\t' : ' ', (size_t)(end - s));
        if (!stop) stop = end;
        field[n] = s;
        len[n++] = (size_t)(stop - s);
        s = stop < end ? stop + 1 : end;
    }
    return n;
}

static int take_judgment(void *self, const char *file, const vp_record *line, vp_error *err) {
    vp_judgments *j = self;
    const char *field[MAX_FIELDS];
    size_t len[MAX_FIELDS];
    vp_judgment item = {.line = line->number};
    double relevance;
    const int n = split(line, field, len);
    if (n != 3 && n != 4)
        return vp_score_bad(file, line, err, "%d columns: a judgment is QUERY<tab>DOCUMENT<tab>RELEVANCE", n);
    if (!vp_score_number(field[n - 1], len[n - 1], &relevance)) {
        if (line->number == 1) return VP_OK; /* headings */
        return vp_score_bad(file, line, err, "the relevance is not a number");
    }
    if (relevance != floor(relevance) || fabs(relevance) > INT32_MAX)
        return vp_score_bad(file, line, err, "relevance %g is not an integer", relevance);
    if (!len[0] || !len[n - 2]) return vp_score_bad(file, line, err, "an identifier is empty");
    item.relevance = (int32_t)relevance;
    VP_TRY(keep_name(j, field[0], len[0], &item.query, err));
    VP_TRY(keep_name(j, field[n - 2], len[n - 2], &item.document, err));
    return add(j, &item, err);
}

/* ---- hits ---- */

/* A member that names something: a string, or an integer as it is spelled. */
static int take_name(vp_judgments *j, const json_t *value, const char *key, const char *file, const vp_record *line,
                     vp_name *out, vp_error *err) {
    char spelled[24];
    if (json_is_integer(value)) {
        const int n = snprintf(spelled, sizeof spelled, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return keep_name(j, spelled, (size_t)n, out, err);
    }
    if (!json_is_string(value) || !json_string_length(value))
        return vp_score_bad(file, line, err, "no '%s', a string", key);
    return keep_name(j, json_string_value(value), json_string_length(value), out, err);
}

static int add_hit(vp_judgments *j, const json_t *o, const char *file, const vp_record *line, vp_error *err) {
    vp_judgment item = {.line = line->number};
    const json_t *score = json_object_get(o, "score"), *parent = json_object_get(o, "parent");
    item.parent = parent && !json_is_null(parent);
    VP_TRY(take_name(j, json_object_get(o, "query"), "query", file, line, &item.query, err));
    VP_TRY(take_name(j, item.parent ? parent : json_object_get(o, "id"), item.parent ? "parent" : "id", file, line,
                     &item.document, err));
    if (!json_is_number(score) && !json_is_null(score)) return vp_score_bad(file, line, err, "no 'score', a number");
    item.score = json_is_null(score) ? -HUGE_VAL : json_number_value(score);
    return add(j, &item, err);
}

static int take_hit(void *self, const char *file, const vp_record *line, vp_error *err) {
    json_t *o;
    VP_TRY(vp_score_object(&o, file, line, err));
    const int status = add_hit(self, o, file, line, err);
    json_decref(o);
    return status;
}

/* ---- tables ---- */

static int by_pair(const void *a, const void *b) {
    const vp_judgment *x = a, *y = b;
    int order = vp_name_compare(x->query, y->query);
    if (!order) order = vp_name_compare(x->document, y->document);
    if (!order) order = (x->score < y->score) - (x->score > y->score);
    return order ? order : (x->line > y->line) - (x->line < y->line);
}

/* Sort; of the chunks of one parent the best stays, any other repetition is an error. */
static int finish(vp_judgments *j, const char *file, vp_error *err) {
    size_t kept = 0;
    for (size_t i = 0; i < j->n; i++) {
        j->item[i].query.s = j->arena.data + j->item[i].query.at;
        j->item[i].document.s = j->arena.data + j->item[i].document.at;
    }
    if (j->n) qsort(j->item, j->n, sizeof *j->item, by_pair);
    for (size_t i = 0; i < j->n; i++) {
        const vp_judgment *x = &j->item[i], *before = kept ? &j->item[kept - 1] : NULL;
        if (!before || vp_name_compare(before->query, x->query) || vp_name_compare(before->document, x->document)) {
            j->item[kept++] = *x;
            continue;
        }
        if (x->parent && before->parent) continue;
        return vp_fail(err, VP_DATA, "%s:%lld: query '%.*s' has '%.*s' on line %lld already", file,
                       (long long)(x->line > before->line ? x->line : before->line),
                       (int)(x->query.n < 80 ? x->query.n : 80), x->query.s,
                       (int)(x->document.n < 80 ? x->document.n : 80), x->document.s,
                       (long long)(x->line > before->line ? before->line : x->line));
    }
    j->n = kept;
    return VP_OK;
}

static int read_table(vp_judgments *j, vp_score_file f, vp_score_line take, const char *what, vp_error *err) {
    *j = (vp_judgments){0};
    VP_TRY(vp_score_lines(f, take, j, err));
    if (!j->n) return vp_fail(err, VP_DATA, "%s: no %s", f.name, what);
    return finish(j, f.name, err);
}

int vp_judgments_read_qrels(vp_judgments *j, vp_score_file f, vp_error *err) {
    return read_table(j, f, take_judgment, "judgments", err);
}

int vp_judgments_read_hits(vp_judgments *j, vp_score_file f, vp_error *err) {
    return read_table(j, f, take_hit, "hits", err);
}

void vp_judgments_free(vp_judgments *j) {
    free(j->item);
    vp_buf_free(&j->arena);
    *j = (vp_judgments){0};
}

size_t vp_judgments_query_end(const vp_judgments *j, size_t begin) {
    size_t end = begin;
    while (end < j->n && !vp_name_compare(j->item[end].query, j->item[begin].query)) end++;
    return end;
}
