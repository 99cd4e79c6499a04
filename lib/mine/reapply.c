/* Lines of rows without an index: another rule on what was mined before, and the texts that rows hold. */
#include "lib/mine/private.h"
#include "lib/stream/json.h"
#include <math.h>
#include <stdlib.h>

enum { PIECE = 1 << 16 }; /* bytes that are written at once */

typedef struct lines {
    vp_records *in;
    vp_mine_row row;
    vp_buf line;
    int out;
} lines;

typedef int take_row(void *self, lines *l, vp_json_text line, vp_error *err);

static int flush(lines *l, size_t least, vp_error *err) {
    if (l->line.len < least) return VP_OK;
    VP_TRY(vp_write_all(l->out, l->line.data, l->line.len, "standard output", err));
    l->line.len = 0;
    return VP_OK;
}

/* Every line is a row for `take`; *skipped, if not NULL, counts those that are bad, instead of an error. */
static int read_rows(lines *l, take_row *take, void *self, int64_t *skipped, vp_error *err) {
    vp_record record;
    bool got;
    for (;;) {
        vp_error why = {0};
        if (!vp_records_ready(l->in, 0)) VP_TRY(flush(l, 1, err));
        VP_TRY(vp_records_next(l->in, &record, &got, err));
        if (!got) return flush(l, 1, err);
        const vp_json_text line = {record.line, record.line_len};
        const size_t before = l->line.len;
        int status = vp_mine_row_read(&l->row, line, (vp_mine_name){0}, (vp_mine_name){0}, &why);
        if (!status) status = take(self, l, line, &why);
        if (status == VP_DATA && skipped) {
            l->line.len = before;
            ++*skipped;
        } else if (status) {
            return vp_fail(err, status, "%s:%lld: %s", vp_records_name(l->in), (long long)record.number, why.text);
        }
        VP_TRY(flush(l, PIECE, err));
    }
}

static int run(int in, const char *name, int out, take_row *take, void *self, int64_t *skipped, vp_error *err) {
    lines l = {.out = out};
    VP_TRY(vp_records_open(&l.in, in, name, VP_RECORDS_OBJECTS, false, err));
    vp_records_watch(l.in, out);
    const int status = read_rows(&l, take, self, skipped, err);
    vp_records_close(l.in);
    vp_mine_row_free(&l.row);
    vp_buf_free(&l.line);
    return status;
}

/* ---- another rule ---- */
typedef struct reapply {
    const vp_mine_options *o;
    vp_mine_counts *counts;
    vp_buf candidate, negative, pos_score, pos_bm25, scratch;
} reapply;

/* Element i of a list of numbers with n elements. */
static int number_at(const vp_mine_row *r, const char *key, size_t n, size_t i, float *x, vp_error *err) {
    const json_t *list = json_object_get(r->object, key), *v = json_array_get(list, i);
    if (json_array_size(list) != n || !json_is_number(v) || !(fabs(json_number_value(v)) <= (double)3.4e38f))
        return vp_fail(err, VP_DATA, "no '%s', a list of %zu numbers", key, n);
    *x = (float)json_number_value(v);
    return VP_OK;
}

static int take_floats(const vp_mine_row *r, const char *key, size_t n, vp_buf *out, vp_error *err) {
    out->len = 0;
    for (size_t i = 0; i < n; i++) {
        float x;
        VP_TRY(number_at(r, key, n, i, &x, err));
        VP_TRY(vp_buf_add(out, &x, sizeof x, err));
    }
    return VP_OK;
}

/* The count of the reason why the text is no negative of the row, whoever wrote it; NULL: it may be one. */
static int64_t *reason(reapply *a, const vp_mine_row *r, uint64_t key, vp_error *err) {
    if (key == r->key) return &a->counts->query;
    for (size_t i = 0; i < r->positives; i++) {
        const vp_example_text *p = vp_mine_row_positive(r, i);
        uint64_t own = 0;
        if (vp_mine_key(p->text, p->text_len, &a->scratch, &own, err) || own == key) return &a->counts->positive;
    }
    return NULL;
}

static int check_ids(const json_t *ids, size_t n, vp_error *err) {
    if (!ids) return VP_OK;
    bool good = json_array_size(ids) == n;
    for (size_t i = 0; i < n && good; i++) good = json_is_string(json_array_get(ids, i));
    return good ? VP_OK : vp_fail(err, VP_DATA, "'neg_ids' is not a list of %zu strings", n);
}

static int list_given(reapply *a, const vp_mine_row *r, vp_error *err) {
    const vp_example *e = &r->example.example;
    const size_t first = 1 + r->positives, n = e->n - first;
    const json_t *ids = json_object_get(r->object, "neg_ids");
    const bool bm25 = json_object_get(r->object, "neg_bm25") != NULL;
    a->candidate.len = a->negative.len = 0;
    VP_TRY(check_ids(ids, n, err));
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(ids, i);
        vp_candidate c = {.row = (int32_t)(a->negative.len / sizeof(vp_negative))};
        vp_negative neg = {.text = {e->text[first + i].text, e->text[first + i].text_len},
                           .id = {json_string_value(id), json_string_length(id)}};
        VP_TRY(number_at(r, "neg_scores", n, i, &neg.score, err));
        if (bm25) VP_TRY(number_at(r, "neg_bm25", n, i, &neg.bm25, err));
        VP_TRY(vp_mine_key(neg.text.s, neg.text.n, &a->scratch, &c.key, err));
        int64_t *why = reason(a, r, c.key, err);
        a->counts->candidates++;
        if (why && err->code) return err->code;
        if (why) {
            ++*why;
            continue;
        }
        c.score = neg.score;
        VP_TRY(vp_buf_add(&a->candidate, &c, sizeof c, err));
        VP_TRY(vp_buf_add(&a->negative, &neg, sizeof neg, err));
    }
    return VP_OK;
}

static int apply(void *self, lines *l, vp_json_text line, vp_error *err) {
    reapply *a = self;
    const vp_mine_row *r = &l->row;
    const size_t wanted = (size_t)a->o->rule.n, positives = r->positives;
    const bool bm25 = a->o->scores && json_object_get(r->object, "neg_bm25");
    if (!positives) return vp_fail(err, VP_DATA, "no positive");
    VP_TRY(list_given(a, r, err));
    VP_TRY(take_floats(r, "pos_scores", positives, &a->pos_score, err));
    if (bm25) VP_TRY(take_floats(r, "pos_bm25", positives, &a->pos_bm25, err));
    const float *score = (const float *)(const void *)a->pos_score.data;
    vp_candidate *c = (vp_candidate *)(void *)a->candidate.data;
    size_t n = a->candidate.len / sizeof *c;
    a->counts->rows++;
    n = vp_mine_choose(&a->o->rule, r->key, vp_mine_of_positives(a->o->positive, score, positives), c, n, a->counts);
    a->counts->few += n < wanted;
    if (!n || (n < wanted && a->o->few == VP_SHORT_DROP)) {
        a->counts->dropped++;
        return VP_OK;
    }
    a->counts->negatives += (int64_t)n;
    vp_negative *neg = (vp_negative *)(void *)a->negative.data;
    for (size_t i = 0; i < n; i++) neg[i] = neg[c[i].row]; /* they stand in their order: none is overwritten early */
    const vp_triple t = {.negative = neg,
                         .n = n,
                         .pos = positives,
                         .pos_score = a->o->scores ? score : NULL,
                         .pos_bm25 = bm25 ? (const float *)(const void *)a->pos_bm25.data : NULL,
                         .scores = a->o->scores,
                         .bm25 = bm25};
    return vp_mine_row_print(r, line, &t, &l->line, err);
}

int vp_mine_reapply(const vp_mine_options *o, int in, const char *name, int out, vp_mine_counts *counts,
                    vp_error *err) {
    reapply a = {.o = o, .counts = counts};
    const int status = run(in, name, out, apply, &a, o->skip_bad ? &counts->skipped : NULL, err);
    vp_buf *own[] = {&a.candidate, &a.negative, &a.pos_score, &a.pos_bm25, &a.scratch};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) vp_buf_free(own[i]);
    return status;
}

/* ---- the texts of rows ---- */
static int print_texts(void *self, lines *l, vp_json_text line, vp_error *err) {
    vp_idset *seen = self;
    const vp_example *e = &l->row.example.example;
    (void)line;
    for (size_t i = 1; i < e->n; i++) {
        const vp_record text = {.text = e->text[i].text, .text_len = e->text[i].text_len};
        uint8_t hash[16];
        char id[33];
        int64_t earlier;
        VP_TRY(vp_idset_add(seen, text.text, text.text_len, 0, &earlier, err));
        if (earlier >= 0) continue;
        VP_TRY(vp_record_hash(&text, hash, err));
        vp_hex(id, hash, sizeof hash);
        VP_TRY(vp_buf_printf(&l->line, err, "{\"id\":\"%s\",\"text\":", id));
        VP_TRY(vp_json_quote(&l->line, text.text, text.text_len, err));
        VP_TRY(vp_buf_add(&l->line, "}\n", 2, err));
    }
    return VP_OK;
}

int vp_mine_texts(int in, const char *name, int out, vp_error *err) {
    vp_idset seen = {0};
    const int status = run(in, name, out, print_texts, &seen, NULL, err);
    vp_idset_free(&seen);
    return status;
}
