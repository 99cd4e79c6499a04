/* What one teacher finds for one row: ranked candidates, those that can be no negatives taken out, the score of the
 * positives, the choice. */
#include "lib/mine/private.h"
#include <stdlib.h>
#include <string.h>

/* Rows of vp_teacher.mark that were seen before are told from those of this use by its number. */
static void unmark(vp_teacher *t) {
    if (++t->marks) return;
    memset(t->mark, 0, t->c.n * sizeof *t->mark);
    t->marks = 1;
}

static bool mark(vp_teacher *t, int32_t row) {
    const bool seen = t->mark[row] == t->marks;
    t->mark[row] = t->marks;
    return seen;
}

/* ---- the ranking ---- */
static int add(vp_teacher *t, int32_t row, double score, vp_error *err) {
    const vp_candidate c = {.score = (float)score, .row = row, .key = t->c.text[row].key};
    return vp_buf_add(&t->list, &c, sizeof c, err);
}

static int row_of(vp_teacher *t, const vp_found *f, int32_t *row, vp_error *err) {
    *row = vp_catalogue_by_number(&t->c, f->n);
    return *row < 0 ? vp_store_damaged(t->c.x, err, "a hit has no entry") : VP_OK;
}

static int take_list(vp_teacher *t, const vp_found_list *l, vp_error *err) {
    for (size_t i = 0; i < l->n; i++) {
        int32_t row;
        VP_TRY(row_of(t, &l->item[i], &row, err));
        VP_TRY(add(t, row, l->item[i].score, err));
    }
    return VP_OK;
}

/* The scores of the candidates whose places are in t->more. */
static int score_rest(vp_teacher *t, int64_t query, vp_error *err) {
    const int32_t *place = (const int32_t *)(const void *)t->more.data;
    const size_t n = t->more.len / sizeof *place;
    vp_candidate *c = (vp_candidate *)(void *)t->list.data;
    int32_t *row = vp_calloc(n + 1, sizeof *row);
    float *score = vp_calloc(n + 1, sizeof *score);
    int status = row && score ? VP_OK : vp_fail_memory(err, "candidates", n * 2 * sizeof *row);
    for (size_t i = 0; i < n && !status; i++) row[i] = c[place[i]].row;
    if (!status) status = vp_catalogue_score(&t->c, query, row, n, score, err);
    for (size_t i = 0; i < n && !status; i++) c[place[i]].score = score[i];
    free(row);
    free(score);
    return status;
}

/* Both rankings by rank, the vectors' first; a row that both have keeps its better rank. */
static int merge(vp_teacher *t, int64_t query, const vp_found_list *dense, const vp_found_list *bm25, vp_error *err) {
    unmark(t);
    t->more.len = 0;
    for (size_t i = 0; i < dense->n || i < bm25->n; i++)
        for (int list = 0; list < 2; list++) {
            const vp_found_list *l = list ? bm25 : dense;
            int32_t row;
            if (i >= l->n) continue;
            VP_TRY(row_of(t, &l->item[i], &row, err));
            if (mark(t, row)) continue;
            const int32_t place = (int32_t)(t->list.len / sizeof(vp_candidate));
            if (list) VP_TRY(vp_buf_add(&t->more, &place, sizeof place, err));
            VP_TRY(add(t, row, l->item[i].score, err));
        }
    /* what the vectors found deeper than BM25 did has their score already, it is the same */
    return score_rest(t, query, err);
}

static int by_score(const void *a, const void *b) {
    const vp_candidate *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

/* The row's own negatives, by score; one that the index does not have cannot be scored. */
static int list_given(vp_mine *m, vp_teacher *t, int64_t query, vp_error *err) {
    const vp_example *e = &m->row.example.example;
    t->more.len = 0;
    for (size_t i = 1 + m->row.positives; i < e->n; i++) {
        const int32_t place = (int32_t)(t->list.len / sizeof(vp_candidate));
        int32_t row;
        VP_TRY(vp_catalogue_by_text(&t->c, e->text[i].text, e->text[i].text_len, &row, err));
        if (row < 0) return vp_mine_bad(m, err, "negative %zu is not in '%s'", i - m->row.positives, t->c.x->path);
        VP_TRY(vp_buf_add(&t->more, &place, sizeof place, err));
        VP_TRY(add(t, row, 0, err));
    }
    VP_TRY(score_rest(t, query, err));
    if (t->list.len) qsort(t->list.data, t->list.len / sizeof(vp_candidate), sizeof(vp_candidate), by_score);
    return VP_OK;
}

static int list_candidates(vp_mine *m, vp_teacher *t, int64_t i, vp_error *err) {
    const vp_mine_options *o = m->o;
    vp_searcher *s = t->c.searcher;
    vp_mine_name words = o->words ? vp_mine_row_field(&m->row, o->words) : (vp_mine_name){0};
    if (!words.s) words = m->row.query;
    t->list.len = 0;
    if (t->source == VP_MINE_GIVEN) {
        VP_TRY(vp_bm25_expression(words.s, words.n, &s->expression, err));
        return list_given(m, t, i, err);
    }
    if (t->source != VP_MINE_BM25) VP_TRY(vp_candidates_dense(s, i, o->depth, &s->list[0], err));
    if (t->source != VP_MINE_DENSE) VP_TRY(vp_candidates_bm25(s, words.s, words.n, o->depth, &s->list[1], err));
    if (t->source == VP_MINE_BOTH) return merge(t, i, &s->list[0], &s->list[1], err);
    return take_list(t, &s->list[t->source == VP_MINE_BM25], err);
}

/* ---- positives ---- */
static int ban(vp_teacher *t, int32_t row, vp_error *err) {
    for (int32_t r = t->c.text[row].record; r >= 0; r = t->c.text[r].next) {
        VP_TRY(vp_grow(&t->banned, &t->ban_cap, t->bans, sizeof *t->banned, "positives", err));
        t->banned[t->bans++] = r;
    }
    return VP_OK;
}

/* The first row of each positive: by id where every text has one, else by text. What bears its id, and what says the
 * same as any text under that id, is banned. */
static int find_positives(const vp_mine_row *r, vp_teacher *t, vp_error *err) {
    const size_t n = r->positives ? r->positives : r->pos_ids;
    t->positives.len = t->bans = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t row = -1, text = -1;
        if (r->pos_ids == n) row = vp_catalogue_by_name(&t->c, r->pos_id[i].s, r->pos_id[i].n);
        if (r->positives) {
            const vp_example_text *p = vp_mine_row_positive(r, i);
            VP_TRY(vp_catalogue_by_text(&t->c, p->text, p->text_len, &text, err));
        }
        if (row < 0) row = text;
        VP_TRY(vp_buf_add(&t->positives, &row, sizeof row, err));
        if (row >= 0) VP_TRY(ban(t, row, err));
        if (text >= 0) VP_TRY(ban(t, text, err));
    }
    for (size_t i = 0; i < r->pos_ids && r->pos_ids != n; i++) {
        const int32_t row = vp_catalogue_by_name(&t->c, r->pos_id[i].s, r->pos_id[i].n);
        if (row >= 0) VP_TRY(ban(t, row, err));
    }
    return VP_OK;
}

static int score_row(vp_teacher *t, int64_t query, int32_t row, float *score, vp_error *err) {
    if (t->source == VP_MINE_BM25) return vp_catalogue_bm25(&t->c, row, score, err);
    return vp_catalogue_score(&t->c, query, &row, 1, score, err);
}

/* The best row of a record counts: *row becomes that one. */
static int score_record(vp_teacher *t, int64_t query, int32_t *row, float *score, vp_error *err) {
    int32_t best = *row;
    VP_TRY(score_row(t, query, best, score, err));
    for (int32_t r = t->c.text[*row].next; r >= 0; r = t->c.text[r].next) {
        float s;
        VP_TRY(score_row(t, query, r, &s, err));
        if (s > *score) *score = s, best = r;
    }
    *row = best;
    return VP_OK;
}

/* The scores of the positives, into t->scores; the first teacher's are printed, with BM25's if both rankings are asked
 * for. */
static int score_positives(vp_mine *m, vp_teacher *t, int64_t query, vp_error *err) {
    int32_t *row = (int32_t *)(void *)t->positives.data;
    const size_t n = t->positives.len / sizeof *row;
    t->scores.len = 0;
    for (size_t i = 0; i < n; i++) {
        float score;
        if (row[i] < 0) return vp_mine_bad(m, err, "positive %zu is not in '%s'", i + 1, t->c.x->path);
        VP_TRY(score_record(t, query, &row[i], &score, err));
        VP_TRY(vp_buf_add(&t->scores, &score, sizeof score, err));
        if (t != m->teacher || t->source < VP_MINE_BOTH) continue;
        VP_TRY(vp_catalogue_bm25(&t->c, row[i], &score, err));
        VP_TRY(vp_buf_add(&m->pos_bm25, &score, sizeof score, err));
    }
    return VP_OK;
}

/* ---- what can be no negative ---- */
static bool is_positive(const vp_teacher *t, const vp_mine_text *c) {
    for (size_t i = 0; i < t->bans; i++) {
        const vp_mine_text *p = &t->c.text[t->banned[i]];
        if (c->record == p->record || c->same == p->same) return true;
    }
    return false;
}

static bool is_chosen(const vp_mine *m, uint64_t key) {
    for (size_t i = 0; i < m->n; i++)
        if (m->chosen[i].key == key) return true;
    return false;
}

/* The count of the reason why a row is no negative, NULL: it may be one, and is marked as seen. */
static int64_t *reason(vp_mine *m, vp_teacher *t, int32_t row) {
    const vp_mine_text *c = &t->c.text[row];
    if (c->key == m->row.key) return &m->counts.query;
    if (is_positive(t, c)) return &m->counts.positive;
    if (m->known.n && vp_mine_known(&m->known, m->row.key, c->key)) return &m->counts.known;
    if (mark(t, c->same) || (m->o->unique && is_chosen(m, c->key))) return &m->counts.duplicate;
    if (vp_catalogue_has_label(&t->c, row, &t->labels)) return &m->counts.label;
    return NULL;
}

/* Candidates [first, n) that may be negatives to the front. */
static size_t exclude(vp_mine *m, vp_teacher *t, vp_candidate *c, size_t n) {
    const size_t first = (size_t)m->o->first < n ? (size_t)m->o->first : n;
    size_t kept = 0;
    unmark(t);
    m->counts.candidates += (int64_t)n;
    m->counts.rank += (int64_t)first;
    for (size_t i = first; i < n; i++) {
        int64_t *why = reason(m, t, c[i].row);
        if (why)
            ++*why;
        else
            c[kept++] = c[i];
    }
    return kept;
}

/* ---- the choice ---- */
static int choose(vp_mine *m, vp_teacher *t, int32_t row, float score, vp_error *err) {
    VP_TRY(vp_grow(&m->chosen, &m->cap, m->n, sizeof *m->chosen, "negatives", err));
    m->chosen[m->n++] = (vp_chosen){.teacher = t, .row = row, .score = score, .key = t->c.text[row].key};
    return VP_OK;
}

/* Texts drawn from the whole index until there are `wanted`, or it has no more: each the first that may be a negative
 * from a drawn row on, round the end. */
static int fill(vp_mine *m, vp_teacher *t, int64_t query, size_t have, vp_error *err) {
    const size_t wanted = (size_t)m->o->rule.n, rows = t->c.n;
    unmark(t);
    for (size_t i = m->n - have; i < m->n; i++) mark(t, t->c.text[m->chosen[i].row].same);
    for (uint64_t draw = 0; have < wanted; have++, draw++) {
        size_t row = (size_t)(vp_mine_draw(m->o->rule.seed, m->row.key, draw) * (double)rows), tried = 0;
        float score;
        while (tried < rows && reason(m, t, (int32_t)row)) row = (row + 1) % rows, tried++;
        if (tried == rows) break;
        VP_TRY(score_row(t, query, (int32_t)row, &score, err));
        VP_TRY(choose(m, t, (int32_t)row, score, err));
        m->counts.filled++;
    }
    return VP_OK;
}

int vp_teacher_mine(vp_mine *m, vp_teacher *t, int64_t i, vp_error *err) {
    const vp_mine_options *o = m->o;
    const vp_mine_kind kind = o->rule.kind;
    if (o->label) VP_TRY(vp_catalogue_labels(&t->c, m->row.object, o->label, &t->labels, err));
    VP_TRY(list_candidates(m, t, i, err));
    VP_TRY(find_positives(&m->row, t, err));
    if (!t->positives.len) return vp_mine_bad(m, err, "no positive");
    if (o->scores || kind == VP_MINE_MARGIN || kind == VP_MINE_PERCENT)
        VP_TRY(score_positives(m, t, i, err));
    else
        t->scores.len = 0;
    const float positive =
        vp_mine_of_positives(o->positive, (const float *)(const void *)t->scores.data, t->scores.len / sizeof(float));
    vp_candidate *c = (vp_candidate *)(void *)t->list.data;
    size_t n = exclude(m, t, c, t->list.len / sizeof *c);
    n = vp_mine_choose(&o->rule, m->row.key, positive, c, n, &m->counts);
    for (size_t k = 0; k < n; k++) VP_TRY(choose(m, t, c[k].row, c[k].score, err));
    return o->few == VP_SHORT_FILL && n < (size_t)o->rule.n ? fill(m, t, i, n, err) : VP_OK;
}
