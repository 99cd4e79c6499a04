/* Mining: batches of rows, each row through every teacher, then printed. */
#include "lib/mine/private.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 1024 }; /* rows that are searched together */

int vp_mine_bad(vp_mine *m, vp_error *err, const char *format, ...) {
    vp_error why = {0};
    va_list args;
    va_start(args, format);
    vsnprintf(why.text, sizeof why.text, format, args);
    va_end(args);
    m->is_bad = true;
    return vp_fail(err, VP_DATA, "%s", why.text);
}

/* ---- opening ---- */
static int open_teacher(vp_mine *m, vp_teacher *t, const vp_mine_teacher *from, int output, vp_error *err) {
    const vp_mine_options *o = m->o;
    const vp_search_options search = {.mode = from->source == VP_MINE_BM25 ? VP_SEARCH_BM25 : VP_SEARCH_DENSE,
                                      .device = "cpu",
                                      .threads = o->threads};
    t->source = from->source;
    VP_TRY(vp_index_open(&t->c.x, from->index, VP_INDEX_READ, err));
    VP_TRY(vp_mine_queries_open(&t->in, from, from->source != VP_MINE_BM25, output, err));
    VP_TRY(vp_catalogue_load(&t->c, vp_reader_header(t->in.reader), &search, o->label, err));
    t->mark = vp_calloc(t->c.n, sizeof *t->mark);
    t->query = vp_calloc(BATCH, sizeof *t->query);
    return t->mark && t->query ? VP_OK : vp_fail_memory(err, "a teacher", t->c.n * sizeof *t->mark);
}

int vp_mine_open(vp_mine **out, const vp_mine_options *o, const vp_mine_teacher *teacher, size_t n, int output,
                 vp_error *err) {
    vp_mine *m = vp_calloc(1, sizeof *m);
    if (!m) return vp_fail_memory(err, "a miner", sizeof *m);
    m->o = o;
    m->teacher = vp_calloc(n, sizeof *m->teacher);
    int status = m->teacher ? VP_OK : vp_fail_memory(err, "teachers", n * sizeof *m->teacher);
    if (!status) m->teachers = n;
    for (size_t i = 0; i < n && !status; i++) status = open_teacher(m, &m->teacher[i], &teacher[i], output, err);
    if (!status && o->known) status = vp_mine_known_read(m, err);
    if (status)
        vp_mine_close(m);
    else
        *out = m;
    return status;
}

void vp_mine_close(vp_mine *m) {
    if (!m) return;
    for (size_t i = 0; i < m->teachers; i++) {
        vp_teacher *t = &m->teacher[i];
        vp_catalogue_close(&t->c);
        vp_mine_queries_close(&t->in);
        vp_buf_free(&t->emb);
        vp_buf_free(&t->labels);
        vp_buf_free(&t->list);
        vp_buf_free(&t->more);
        vp_buf_free(&t->positives);
        vp_buf_free(&t->scores);
        free(t->query);
        free(t->mark);
        free(t->banned);
    }
    vp_buf *own[] = {&m->pos_bm25, &m->strings, &m->negatives, &m->names};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) vp_buf_free(own[i]);
    vp_idset_free(&m->known);
    vp_mine_row_free(&m->row);
    free(m->teacher);
    free(m->chosen);
    free(m);
}

const vp_mine_counts *vp_mine_totals(const vp_mine *m) {
    return &m->counts;
}

/* ---- a row's triple ---- */
/* Texts and ids of the chosen, and the first teacher's scores of what others chose. */
static int describe_chosen(vp_mine *m, int64_t query, vp_error *err) {
    vp_catalogue *first = &m->teacher[0].c;
    m->strings.len = m->negatives.len = 0;
    for (size_t i = 0; i < m->n; i++) {
        vp_chosen *c = &m->chosen[i];
        vp_negative neg = {.score = c->score};
        size_t at;
        VP_TRY(vp_catalogue_content(&c->teacher->c, c->row, &m->strings, &at, &neg.text.n, &neg.id.n, err));
        if (c->teacher != m->teacher) {
            int32_t row;
            VP_TRY(vp_catalogue_by_text(first, m->strings.data + at, neg.text.n, &row, err));
            if (row < 0)
                return vp_fail(err, VP_DATA, "'%s' and '%s' do not hold the same texts", first->x->path,
                               c->teacher->c.x->path);
            if (m->teacher->source == VP_MINE_BM25)
                VP_TRY(vp_catalogue_bm25(first, row, &neg.score, err));
            else
                VP_TRY(vp_catalogue_score(first, query, &row, 1, &neg.score, err));
            c->row = row;
        }
        if (m->teacher->source >= VP_MINE_BOTH && m->o->scores)
            VP_TRY(vp_catalogue_bm25(first, c->row, &neg.bm25, err));
        VP_TRY(vp_buf_add(&m->negatives, &neg, sizeof neg, err));
    }
    vp_negative *neg = (vp_negative *)(void *)m->negatives.data;
    const char *at = m->strings.data;
    for (size_t i = 0; i < m->n; i++) {
        neg[i].text.s = at;
        neg[i].id.s = at + neg[i].text.n;
        at = neg[i].id.s + neg[i].id.n;
    }
    return VP_OK;
}

/* Texts of positives that the row names by id alone, as the index has them. */
static int describe_positives(vp_mine *m, vp_buf *texts, vp_error *err) {
    vp_catalogue *c = &m->teacher[0].c;
    const int32_t *row = (const int32_t *)(const void *)m->teacher[0].positives.data;
    const size_t n = m->teacher[0].positives.len / sizeof *row;
    texts->len = m->names.len = 0;
    for (size_t i = 0; i < n; i++) {
        vp_mine_name name = {0};
        size_t at, id;
        if (row[i] < 0) return vp_mine_bad(m, err, "positive %zu is not in '%s'", i + 1, c->x->path);
        VP_TRY(vp_catalogue_content(c, row[i], texts, &at, &name.n, &id, err));
        texts->len = at + name.n;
        VP_TRY(vp_buf_add(&m->names, &name, sizeof name, err));
    }
    vp_mine_name *name = (vp_mine_name *)(void *)m->names.data;
    for (size_t i = 0, at = 0; i < n; at += name[i++].n) name[i].s = texts->data + at;
    return VP_OK;
}

static int print_triple(vp_mine *m, vp_json_text line, int64_t query, vp_buf *out, vp_error *err) {
    const bool scores = m->o->scores;
    vp_buf texts = {0};
    int status = VP_OK;
    if (!m->row.positives) status = describe_positives(m, &texts, err);
    if (!status) status = describe_chosen(m, query, err);
    if (!status) {
        const vp_triple t = {.negative = (const vp_negative *)(const void *)m->negatives.data,
                             .n = m->n,
                             .pos = m->row.positives ? m->row.positives : m->row.pos_ids,
                             .pos_score = scores ? (const float *)(const void *)m->teacher[0].scores.data : NULL,
                             .pos_bm25 =
                                 scores && m->pos_bm25.len ? (const float *)(const void *)m->pos_bm25.data : NULL,
                             .scores = scores,
                             .bm25 = scores && m->teacher->source >= VP_MINE_BOTH,
                             .positive = m->row.positives ? NULL : (const vp_mine_name *)(const void *)m->names.data};
        status = vp_mine_row_print(&m->row, line, &t, out, err);
    }
    vp_buf_free(&texts);
    return status;
}

static int mine_row(vp_mine *m, int64_t i, vp_buf *out, vp_error *err) {
    const vp_mine_query *q = &m->teacher[0].query[i];
    const vp_json_text line = {q->meta.s ? q->meta.s : "{}", q->meta.s ? q->meta.n : 2};
    const size_t wanted = (size_t)m->o->rule.n * m->teachers;
    vp_error why = {0};
    if (vp_mine_row_read(&m->row, line, q->text, q->id, &why)) return vp_mine_bad(m, err, "%s", why.text);
    m->n = m->pos_bm25.len = 0;
    for (size_t t = 0; t < m->teachers; t++) VP_TRY(vp_teacher_mine(m, &m->teacher[t], i, err));
    m->counts.few += m->n < wanted;
    if (!m->n || (m->n < wanted && m->o->few == VP_SHORT_DROP)) {
        m->counts.dropped++;
        return VP_OK;
    }
    m->counts.negatives += (int64_t)m->n;
    return print_triple(m, line, i, out, err);
}

/* ---- batches ---- */
static bool same_name(vp_mine_name a, vp_mine_name b) {
    return a.n == b.n && !a.s == !b.s && (!a.n || memcmp(a.s, b.s, a.n) == 0);
}

/* The next n rows of a teacher, and its search for them prepared. */
static int take_rows(vp_mine *m, vp_teacher *t, size_t n, vp_error *err) {
    t->emb.len = 0;
    for (size_t i = 0; i < n; i++) {
        vp_mine_query *q = &t->query[i];
        const vp_mine_query *first = &m->teacher[0].query[i];
        vp_mine_queries_take(&t->in, q);
        if (!same_name(q->id, first->id) || !same_name(q->meta, first->meta))
            return vp_fail(err, VP_DATA, "the teachers' streams are not of the same rows");
        if (q->emb) VP_TRY(vp_buf_add(&t->emb, q->emb, (size_t)t->in.dims * vp_dtype_size(t->in.dtype), err));
    }
    if (!t->in.has_emb) return VP_OK;
    const int64_t shape[] = {(int64_t)n, t->in.dims};
    vp_frame *f = vp_frame_new(VP_FRAME_BATCH, err);
    if (!f) return err->code;
    f->B = (int64_t)n;
    int status = vp_frame_put(f, "emb", t->in.dtype, 2, shape, t->emb.data, err);
    if (!status) status = vp_candidates_dense_begin(t->c.searcher, f, err);
    vp_frame_free(f);
    return status;
}

/* How many rows all teachers have ready; a stream that broke off is remembered. */
static int fill(vp_mine *m, size_t *rows, vp_error *err) {
    *rows = BATCH;
    for (size_t t = 0; t < m->teachers; t++) {
        vp_mine_queries *q = &m->teacher[t].in;
        vp_mine_queries_fill(q, BATCH, &m->late);
        if (q->rows < *rows) *rows = q->rows;
    }
    if (*rows) return VP_OK;
    if (m->late.code) {
        *err = m->late;
        return err->code;
    }
    for (size_t t = 0; t < m->teachers; t++)
        if (m->teacher[t].in.rows) return vp_fail(err, VP_DATA, "the teachers' streams are not of the same rows");
    return VP_OK;
}

int vp_mine_next(vp_mine *m, vp_buf *out, int64_t *rows, vp_error *err) {
    size_t n;
    *rows = 0;
    VP_TRY(fill(m, &n, err));
    for (size_t t = 0; t < m->teachers && n; t++) VP_TRY(take_rows(m, &m->teacher[t], n, err));
    for (size_t i = 0; i < n; i++) {
        const vp_mine_name id = m->teacher[0].query[i].id;
        vp_error why = {0};
        m->is_bad = false;
        const int status = mine_row(m, (int64_t)i, out, &why);
        if (status && m->is_bad && m->o->skip_bad)
            m->counts.skipped++;
        else if (status && m->is_bad)
            return vp_fail(err, status, "row '%.*s': %s", (int)(id.n < 80 ? id.n : 80), id.s ? id.s : "", why.text);
        else if (status)
            return vp_fail(err, status, "%s", why.text);
    }
    m->counts.rows += (int64_t)n;
    *rows = (int64_t)n;
    return VP_OK;
}
