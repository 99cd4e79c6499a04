/* Objectives over candidates: InfoNCE, and distillation of a teacher's scores. Scores S [Q, columns] come in blocks of
 * products of normalised rows: queries with passages, and the same-tower ones, queries with queries and positives with
 * positives. Legend: Q queries, N passages, D width. */
#include "lib/train/objective_private.h"
#include <math.h>
#include <string.h>

typedef struct block { /* columns [first, first + n) of S: left [Q] with right [n], rows of the step */
    const int32_t *left, *right;
    int64_t first, n;
} block;

enum { MAX_BLOCKS = 3 };
typedef struct scores {
    const vp_objective *o;
    const vp_rows *r;
    vp_examples e;
    block block[MAX_BLOCKS];
    int blocks;
    int64_t columns;
    float *u, *du; /* [B, D] */
    float *s, *ds; /* [Q, columns] */
} scores;

/* ---- S and what its gradient means for u ---- */

static int gather(const scores *sc, const int32_t *rows, int64_t n, float **out, vp_error *err) {
    const int64_t D = sc->r->D;
    if (!(*out = vp_objective_alloc(sc->o, n * D, sizeof **out, err))) return VP_MEMORY;
    for (int64_t i = 0; i < n; i++) memcpy(*out + i * D, sc->u + rows[i] * D, (size_t)D * sizeof **out);
    return VP_OK;
}

static void scatter_add(const scores *sc, const int32_t *rows, int64_t n, const float *from) {
    const int64_t D = sc->r->D;
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < D; d++) sc->du[rows[i] * D + d] += from[i * D + d];
}

static vp_mat block_of(const scores *sc, const block *b, float *matrix) {
    vp_mat m = vp_objective_mat(matrix + b->first, sc->e.Q, b->n);
    m.ld = sc->columns;
    return m;
}

static int product_of(const scores *sc, const block *b, vp_bmm_op *op, vp_error *err) {
    float *left, *right;
    VP_TRY(gather(sc, b->left, sc->e.Q, &left, err));
    VP_TRY(gather(sc, b->right, b->n, &right, err));
    *op = (vp_bmm_op){.a = vp_objective_mat(left, sc->e.Q, sc->r->D),
                      .b = vp_objective_mat(right, b->n, sc->r->D),
                      .out = block_of(sc, b, sc->s),
                      .count = 1,
                      .transpose_b = true,
                      .alpha = (float)sc->o->options.scale};
    return VP_OK;
}

static int forward(const scores *sc, const block *b, vp_error *err) {
    vp_bmm_op op;
    VP_TRY(product_of(sc, b, &op, err));
    return vp_objective_check(sc->o, sc->o->ops->bmm(sc->o->queue, &op), err);
}

static int backward(const scores *sc, const block *b, vp_error *err) {
    vp_bmm_op op;
    VP_TRY(product_of(sc, b, &op, err));
    float *left = vp_objective_alloc(sc->o, sc->e.Q * sc->r->D, sizeof *left, err);
    float *right = vp_objective_alloc(sc->o, b->n * sc->r->D, sizeof *right, err);
    if (!left || !right) return VP_MEMORY;
    const vp_mat dout = block_of(sc, b, sc->ds), da = vp_objective_mat(left, sc->e.Q, sc->r->D);
    const vp_mat db = vp_objective_mat(right, b->n, sc->r->D);
    op.dout = &dout;
    op.da = &da;
    op.db = &db;
    VP_TRY(vp_objective_check(sc->o, sc->o->ops->bmm_bwd(sc->o->queue, &op), err));
    scatter_add(sc, b->left, sc->e.Q, left);
    scatter_add(sc, b->right, b->n, right);
    return VP_OK;
}

static int each_block(const scores *sc, int (*visit)(const scores *sc, const block *b, vp_error *err), vp_error *err) {
    for (int i = 0; i < sc->blocks; i++) {
        const size_t mark = sc->o->ops->arena_mark(sc->o->queue);
        const int status = visit(sc, &sc->block[i], err);
        sc->o->ops->arena_release(sc->o->queue, mark);
        if (status) return status;
    }
    return VP_OK;
}

static void add_block(scores *sc, const int32_t *left, const int32_t *right, int64_t n) {
    sc->block[sc->blocks++] = (block){.left = left, .right = right, .first = sc->columns, .n = n};
    sc->columns += n;
}

static int add_towers(scores *sc, vp_error *err) {
    const vp_same_tower tower = sc->o->options.same_tower;
    if (tower == VP_TOWER_Q || tower == VP_TOWER_BOTH) add_block(sc, sc->e.query, sc->e.query, sc->e.Q);
    if (tower != VP_TOWER_P && tower != VP_TOWER_BOTH) return VP_OK;
    int32_t *positive = vp_objective_alloc(sc->o, sc->e.Q, sizeof *positive, err);
    if (!positive) return VP_MEMORY;
    for (int64_t i = 0; i < sc->e.Q; i++) positive[i] = sc->e.candidate[sc->e.positive[i]];
    add_block(sc, positive, positive, sc->e.Q);
    return VP_OK;
}

static int make_scores(scores *sc, bool towers, vp_error *err) {
    const vp_objective *o = sc->o;
    VP_TRY(vp_objective_normalise(o, sc->r, &sc->u, err));
    add_block(sc, sc->e.query, sc->e.candidate, sc->e.N);
    if (towers) VP_TRY(add_towers(sc, err));
    sc->du = vp_objective_alloc(o, sc->r->B * sc->r->D, sizeof *sc->du, err);
    sc->s = vp_objective_alloc(o, sc->e.Q * sc->columns, sizeof *sc->s, err);
    sc->ds = vp_objective_alloc(o, sc->e.Q * sc->columns, sizeof *sc->ds, err);
    return err->code ? err->code : each_block(sc, forward, err);
}

/* ---- InfoNCE ---- */

static bool own(const scores *sc, int64_t i, int64_t c) {
    return sc->r->group[sc->e.candidate[c]] == sc->r->group[sc->e.query[i]];
}

static bool same_text(const scores *sc, int32_t a, int32_t b) {
    return sc->o->options.mask_same_text && !memcmp(sc->r->hash + (size_t)a * 16, sc->r->hash + (size_t)b * 16, 16);
}

/* What is no candidate of query i: further positives of its own, for `own` the passages of others, the positive's text
 * once more; among same-tower rows itself. */
static void exclude_of(const scores *sc, int64_t i, uint8_t *exclude) {
    const int32_t *candidate = sc->e.candidate, positive = sc->e.positive[i];
    for (int64_t c = 0; c < sc->e.N; c++) {
        if (c == positive) continue;
        const bool mine = own(sc, i, c);
        exclude[c] = mine ? sc->e.part[c] == VP_PART_POSITIVE : sc->o->options.candidates == VP_CANDIDATES_OWN;
        exclude[c] |= same_text(sc, candidate[c], candidate[positive]);
    }
    for (int k = 1; k < sc->blocks; k++) {
        const block *b = &sc->block[k];
        for (int64_t c = 0; c < b->n; c++) exclude[b->first + c] = c == i || same_text(sc, b->right[c], b->left[i]);
    }
}

static int infonce(const scores *sc, float *share, vp_error *err) {
    const int64_t Q = sc->e.Q, columns = sc->columns;
    uint8_t *exclude = vp_objective_alloc(sc->o, Q * columns, 1, err);
    if (!exclude) return VP_MEMORY;
    for (int64_t i = 0; i < Q; i++) exclude_of(sc, i, exclude + i * columns);
    const vp_mat ds = vp_objective_mat(sc->ds, Q, columns);
    vp_nce_op op = {.s = vp_objective_mat(sc->s, Q, columns),
                    .positive = sc->e.positive,
                    .exclude = exclude,
                    .denominator = (double)Q,
                    .loss = share,
                    .ds = &ds};
    return vp_objective_check(sc->o, sc->o->ops->nce(sc->o->queue, &op), err);
}

/* ---- distillation: shares [Q] and ds [Q, N] of its own, which are added with a weight ---- */

/* t = softmax of the scores of the query's own passages; the others are excluded. */
static int teach(const scores *sc, int64_t i, float *t, uint8_t *exclude, vp_error *err) {
    const double by = 1 / sc->o->options.teacher_temperature;
    double most = -INFINITY, sum = 0;
    for (int64_t c = 0; c < sc->e.N; c++) {
        exclude[c] = !own(sc, i, c);
        if (!exclude[c]) most = fmax(most, by * (double)sc->r->score[sc->e.candidate[c]]);
    }
    for (int64_t c = 0; c < sc->e.N; c++)
        if (!exclude[c]) sum += exp(by * (double)sc->r->score[sc->e.candidate[c]] - most);
    for (int64_t c = 0; c < sc->e.N; c++)
        t[c] = exclude[c] ? 0.0f : (float)(exp(by * (double)sc->r->score[sc->e.candidate[c]] - most) / sum);
    if (sum > 0) return VP_OK;
    const int32_t query = sc->e.query[i];
    return vp_fail(err, VP_DATA, "group %d has a query, row %lld, but no passage to distil", sc->r->group[query],
                   (long long)sc->r->row[query]);
}

static int divergence(const scores *sc, float *share, const vp_mat *ds, vp_error *err) {
    const int64_t Q = sc->e.Q, N = sc->e.N;
    float *t = vp_objective_alloc(sc->o, Q * N, sizeof *t, err);
    uint8_t *exclude = vp_objective_alloc(sc->o, Q * N, 1, err);
    if (!t || !exclude) return VP_MEMORY;
    for (int64_t i = 0; i < Q; i++) VP_TRY(teach(sc, i, t + i * N, exclude + i * N, err));
    vp_nce_op op = {.s = block_of(sc, &sc->block[0], sc->s),
                    .teacher = t,
                    .exclude = exclude,
                    .denominator = (double)Q,
                    .loss = share,
                    .ds = ds};
    return vp_objective_check(sc->o, sc->o->ops->nce(sc->o->queue, &op), err);
}

/* The query's passages other than its positive. */
static bool is_rival(const scores *sc, int64_t i, int64_t c) {
    return own(sc, i, c) && c != sc->e.positive[i];
}

static int margins(const scores *sc, float *share, const vp_mat *ds, vp_error *err) {
    const double by = 1 / sc->o->options.teacher_temperature;
    int64_t pairs = 0;
    for (int64_t i = 0; i < sc->e.Q; i++)
        for (int64_t c = 0; c < sc->e.N; c++) pairs += is_rival(sc, i, c);
    if (!pairs) return vp_fail(err, VP_DATA, "no example has a passage beside its positive: there is no margin");
    for (int64_t i = 0; i < sc->e.Q; i++) {
        const int64_t positive = sc->e.positive[i];
        const float *s = sc->s + i * sc->columns, *score = sc->r->score;
        float *d = (float *)ds->ptr + i * ds->ld;
        double loss = 0, total = 0;
        for (int64_t c = 0; c < sc->e.N; c++) {
            if (!is_rival(sc, i, c)) continue;
            const double wanted = (double)score[sc->e.candidate[positive]] - (double)score[sc->e.candidate[c]];
            const double off = (double)s[positive] - (double)s[c] - by * wanted;
            loss += off * off / (double)pairs;
            total += 2 * off / (double)pairs;
            d[c] = (float)(-2 * off / (double)pairs);
        }
        d[positive] = (float)total;
        share[i] = (float)loss;
    }
    return VP_OK;
}

static int distil(const scores *sc, double weight, float *share, vp_error *err) {
    const int64_t Q = sc->e.Q, N = sc->e.N;
    float *own_share = vp_objective_alloc(sc->o, Q, sizeof *own_share, err);
    float *own_ds = vp_objective_alloc(sc->o, Q * N, sizeof *own_ds, err);
    if (!own_share || !own_ds) return VP_MEMORY;
    const vp_mat ds = vp_objective_mat(own_ds, Q, N);
    VP_TRY((sc->o->options.distillation == VP_DISTIL_MARGIN ? margins : divergence)(sc, own_share, &ds, err));
    for (int64_t i = 0; i < Q; i++) {
        share[i] += (float)weight * own_share[i];
        for (int64_t c = 0; c < N; c++) sc->ds[i * sc->columns + c] += (float)weight * own_ds[i * N + c];
    }
    return VP_OK;
}

/* ---- the objectives ---- */

static int check_columns(const vp_objective *o, const vp_rows *r, bool teacher, vp_error *err) {
    if (teacher && !r->score)
        return vp_fail(err, VP_DATA,
                       "no column 'score', a teacher's for every passage: tok makes it of records with "
                       "scores");
    if (o->options.mask_same_text && !r->hash)
        return vp_fail(err, VP_DATA, "no column 'hash', by which equal texts are known: tok makes it");
    return VP_OK;
}

static int run(scores *sc, bool contrast, double teacher, float *loss, float *grad, vp_error *err) {
    const bool margin = teacher > 0 && sc->o->options.distillation == VP_DISTIL_MARGIN;
    VP_TRY(check_columns(sc->o, sc->r, teacher > 0, err));
    VP_TRY(vp_examples_make(&sc->e, sc->o, sc->r, contrast || margin, err));
    VP_TRY(make_scores(sc, contrast, err));
    float *share = vp_objective_alloc(sc->o, sc->e.Q, sizeof *share, err);
    if (!share) return VP_MEMORY;
    if (contrast) VP_TRY(infonce(sc, share, err));
    if (teacher > 0) VP_TRY(distil(sc, teacher, share, err));
    for (int64_t i = 0; i < sc->e.Q; i++) loss[sc->e.query[i]] = share[i];
    VP_TRY(each_block(sc, backward, err));
    return vp_objective_backward(sc->o, sc->r, sc->du, grad, err);
}

int vp_objective_infonce(const vp_objective *o, const vp_rows *r, float *loss, float *grad, vp_error *err) {
    return run(&(scores){.o = o, .r = r}, true, o->options.teacher_weight, loss, grad, err);
}

int vp_objective_distill(const vp_objective *o, const vp_rows *r, float *loss, float *grad, vp_error *err) {
    return run(&(scores){.o = o, .r = r}, false, 1, loss, grad, err);
}
