/* Pooling, picking and exact search: against plain loops, and to the byte in any grouping. */
#include "tests/unit/ops_case.h"
#include "tests/unit/reference.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- pool, pick ---- */
static void test_pool(op_case *c) {
    int64_t B = case_int(c, 1, 12), C = case_size(c, 200);
    const int32_t *cu = case_offsets(c, B, 40);
    int64_t *empty = case_alloc(c, 2 * sizeof *empty), b = case_int(c, 0, B - 1);
    uint8_t *keep = case_alloc(c, (size_t)cu[B] + 1);
    for (int32_t t = 0; t < cu[B]; t++) keep[t] = case_int(c, 0, 3) > 0;
    vp_pool_op op = {.kind = (vp_pool_kind)case_int(c, VP_POOL_MEAN, VP_POOL_FIRST), .B = B, .cu = cu};
    op.keep = case_int(c, 0, 2) ? keep : NULL;
    op.x = case_mat(c, cu[B], C);
    op.out = case_mat(c, B, C);
    op.empty = empty;
    CASE_OK(c, c->be->pool(c->three, &op), c->three);
    double *want = case_alloc(c, (size_t)(B * C) * sizeof *want);
    int64_t expected = ref_pool(&op, want);
    case_near(c, "pool", &op.out, want, NULL, 4e-6);
    if (*empty != expected) case_fail(c, "%lld empty rows, not %lld", (long long)*empty, (long long)expected);
    vp_pool_op alone = op; /* offsets need not begin at 0 */
    alone.B = 1;
    alone.cu = cu + b;
    alone.out = case_mat(c, 1, C);
    alone.empty = empty + 1;
    CASE_OK(c, c->be->pool(c->one, &alone), c->one);
    vp_mat same = case_cut(&op.out, b, 1);
    case_same_bytes(c, "a sequence alone", &alone.out, &same);
}

static void test_pick(op_case *c) {
    int64_t T = case_size(c, 100), M = case_size(c, 300), C = case_size(c, 100);
    int32_t *index = case_alloc(c, (size_t)M * sizeof *index);
    vp_pick_op op = {.x = case_mat(c, T, C), .out = case_mat(c, M, C), .index = index, .M = M};
    vp_mat want = case_mat(c, M, C);
    for (int64_t m = 0; m < M; m++) {
        index[m] = (int32_t)case_int(c, 0, T - 1);
        memcpy(mat_row(&want, m), mat_row(&op.x, index[m]), (size_t)C * sizeof(float));
    }
    CASE_OK(c, c->be->pick(c->three, &op), c->three);
    case_same_bytes(c, "pick", &op.out, &want);
    index[M - 1] = (int32_t)T;
    if (!case_separate(c) && c->be->pick(c->three, &op) != VP_BUG) case_fail(c, "a row past the end was taken");
}

/* ---- topk ---- */
typedef struct block { /* rows of an index, unaligned, and the same as doubles */
    vp_mat rows;
    double *value; /* [N, D], scale included */
} block;

/* An aligned block now and then: devices have a path of its own for it. Faint: aligned, and most rows of the second
 * half are no hits. */
static block random_block(op_case *c, int64_t N, int64_t D, bool faint) {
    static const vp_dtype types[] = {VP_F32, VP_BF16, VP_I8};
    block b = {.rows = {.dtype = types[case_int(c, 0, 2)], .rows = N, .cols = D, .ld = D + case_int(c, 0, 3)}};
    size_t size = vp_dtype_size(b.rows.dtype);
    int64_t skew = faint ? 0 : case_int(c, 0, 1);
    if (!skew) b.rows.ld = (b.rows.ld + 15) / 16 * 16;
    uint8_t *data = (uint8_t *)case_alloc(c, (size_t)(N * b.rows.ld) * size + 1) + skew;
    b.rows.ptr = data;
    b.value = case_alloc(c, (size_t)(N * D) * sizeof *b.value);
    if (b.rows.dtype == VP_I8) b.rows.scale = case_floats(c, N);
    for (int64_t i = 0; i < N * D; i++) {
        float x = case_float(c);
        if (faint && i / D >= N / 2 && i / D % 397) x /= 64;
        uint8_t *at = data + (size_t)(i / D * b.rows.ld + i % D) * size;
        if (b.rows.dtype == VP_I8) {
            int8_t small = (int8_t)(x * 127.0f);
            memcpy(at, &small, 1);
            b.value[i] = (double)small * (double)b.rows.scale[i / D];
        } else {
            uint32_t bits;
            memcpy(&bits, &x, 4);
            bits &= 0xffff0000U; /* exact as bf16 */
            memcpy(&x, &bits, 4);
            memcpy(at, (uint8_t *)&bits + (4 - size), size); /* little-endian: the upper half */
            b.value[i] = (double)x;
        }
    }
    for (int64_t i = 1; i < N; i++) /* some rows are equal: ties */
        if (case_int(c, 0, 5) == 0) {
            memcpy(data + (size_t)(i * b.rows.ld) * size, data + (size_t)((i - 1) * b.rows.ld) * size,
                   (size_t)D * size);
            memcpy(b.value + i * D, b.value + (i - 1) * D, (size_t)D * sizeof *b.value);
            if (b.rows.scale) b.rows.scale[i] = b.rows.scale[i - 1];
        }
    return b;
}

static bool is_live(const uint8_t *live, int64_t i) {
    return !live || (live[i >> 3] >> (i & 7) & 1);
}

/* Every hit has its score, they stand in order, and no live row outside has a better one. */
static void check_hits(op_case *c, const vp_topk_op *op, const block *b, int64_t query) {
    const vp_hit *hit = op->best + query * op->k;
    int64_t n = op->found[query], D = op->queries.cols, live = 0;
    uint8_t *taken = case_alloc(c, (size_t)b->rows.rows);
    double worst = INFINITY, bound = 1e-5 * sqrt((double)D) * (b->rows.dtype == VP_I8 ? 127.0 : 1.0);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = hit[i].row - op->base;
        if (row < 0 || row >= b->rows.rows || taken[row] || !is_live(op->live, row)) {
            case_fail(c, "hit %lld is row %lld", (long long)i, (long long)row);
            return;
        }
        taken[row] = 1;
        double s = 0.0;
        for (int64_t j = 0; j < D; j++) s += (double)mat_row(&op->queries, query)[j] * b->value[row * D + j];
        if (!(fabs(s - (double)hit[i].score) <= bound)) case_fail(c, "score %.9g, not %.9g", (double)hit[i].score, s);
        if (i > 0 &&
            (hit[i - 1].score < hit[i].score || (hit[i - 1].score == hit[i].score && hit[i - 1].row > hit[i].row)))
            case_fail(c, "hits %lld and %lld are out of order", (long long)i - 1, (long long)i);
        worst = (double)hit[i].score;
    }
    for (int64_t r = 0; r < b->rows.rows; r++) {
        if (!is_live(op->live, r)) continue;
        live++;
        double s = 0.0;
        for (int64_t j = 0; j < D; j++) s += (double)mat_row(&op->queries, query)[j] * b->value[r * D + j];
        if (!taken[r] && n == op->k && !(s <= worst + bound)) case_fail(c, "row %lld is better", (long long)r);
    }
    if (n != (live < op->k ? live : op->k)) case_fail(c, "%lld hits of %lld rows", (long long)n, (long long)live);
}

static void compare_hits(op_case *c, const char *what, const vp_hit *a, const vp_hit *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&a[i].score, &b[i].score, sizeof a->score) != 0 || a[i].row != b[i].row)
            case_fail(c, "%s: hit %lld is row %lld (%.9g), not row %lld (%.9g)", what, (long long)i,
                      (long long)a[i].row, (double)a[i].score, (long long)b[i].row, (double)b[i].score);
}

/* The same rows at another address, further apart. */
static vp_mat moved(op_case *c, const vp_mat *m) {
    vp_mat to = *m;
    const size_t size = vp_dtype_size(m->dtype);
    to.ld += 3;
    to.ptr = (uint8_t *)case_alloc(c, (size_t)(m->rows * to.ld) * size + 1) + 1;
    for (int64_t i = 0; i < m->rows; i++)
        memcpy((uint8_t *)to.ptr + (size_t)(i * to.ld) * size, (uint8_t *)m->ptr + (size_t)(i * m->ld) * size,
               (size_t)m->cols * size);
    return to;
}

/* One query, block cut in two and moved, in either order, on three threads: the same bytes. */
static void check_split(op_case *c, const vp_topk_op *whole) {
    int64_t query = case_int(c, 0, whole->queries.rows - 1), N = whole->rows.rows;
    int64_t cut = case_int(c, 0, N / 8) * 8; /* bitmaps are cut at whole bytes */
    const vp_mat rows = moved(c, &whole->rows);
    vp_topk_op op = *whole;
    op.queries = case_cut(&whole->queries, query, 1);
    op.best = case_alloc(c, (size_t)op.k * sizeof *op.best);
    op.found = case_alloc(c, sizeof *op.found);
    bool backwards = case_int(c, 0, 1);
    for (int half = 0; half < 2; half++) {
        bool upper = half != backwards;
        int64_t from = upper ? cut : 0;
        op.rows = case_cut(&rows, from, upper ? N - cut : cut);
        op.rows.scale = whole->rows.scale ? whole->rows.scale + from : NULL;
        op.live = whole->live ? whole->live + from / 8 : NULL;
        op.base = whole->base + from;
        CASE_OK(c, c->be->topk(c->three, &op), c->three);
    }
    if (*op.found != whole->found[query]) case_fail(c, "%d hits in halves, %d whole", *op.found, whole->found[query]);
    compare_hits(c, "in halves", op.best, whole->best + query * op.k, *op.found);
}

static void check_topk(op_case *c, int64_t Q, int64_t N, int64_t D, int64_t k, bool faint) {
    block b = random_block(c, N, D, faint);
    uint8_t *live = case_alloc(c, (size_t)N / 8 + 1);
    for (int64_t i = 0; i <= N / 8; i++) live[i] = (uint8_t)case_int(c, 0, 255);
    vp_topk_op op = {.queries = case_mat(c, Q, D), .rows = b.rows, .live = case_int(c, 0, 1) ? live : NULL};
    op.base = case_int(c, 0, 1000000);
    op.k = (int32_t)k;
    op.best = case_alloc(c, (size_t)(Q * op.k) * sizeof *op.best);
    op.found = case_alloc(c, (size_t)Q * sizeof *op.found);
    CASE_OK(c, c->be->topk(c->one, &op), c->one);
    for (int64_t q = 0; q < Q; q += 7) check_hits(c, &op, &b, q);
    check_split(c, &op);
}

static void test_topk(op_case *c) {
    int64_t Q = case_size(c, 70), N = case_int(c, 0, 3) ? case_size(c, 700) : 1 + case_int(c, 0, 1500);
    int64_t D = case_size(c, 140);
    if (case_int(c, 0, 1)) D = (D + 7) / 8 * 8;
    check_topk(c, Q, N, D, case_size(c, 120), false);
}

/* Many queries whose lists are full before most of the rows are seen. */
static void test_faint(op_case *c) {
    check_topk(c, case_int(c, 33, 60), case_int(c, 1600, 2200), 8 * case_int(c, 1, 10), case_int(c, 1, 12), true);
}

/* A row of NaN is never a hit, whatever else there is. */
static void test_nan(op_case *c) {
    vp_mat rows = case_mat(c, 40, 20);
    for (int64_t r = 0; r < 40; r += 2) mat_row(&rows, r)[r % 20] = NAN;
    vp_hit *best = case_alloc(c, 30 * sizeof *best);
    int32_t *found = case_alloc(c, sizeof *found);
    vp_topk_op op = {.queries = case_mat(c, 1, 20), .rows = rows, .k = 30, .best = best, .found = found};
    CASE_OK(c, c->be->topk(c->three, &op), c->three);
    if (*found != 20) case_fail(c, "%d hits, not 20", *found);
    for (int32_t i = 0; i < *found; i++)
        if (best[i].row % 2 == 0) case_fail(c, "hit %d is a row of NaN", i);
}

int main(int argc, char **argv) {
    static const op_test tests[] = {{"pool", test_pool, 60},
                                    {"pick", test_pick, 20},
                                    {"topk", test_topk, 60},
                                    {"faint", test_faint, 10},
                                    {"nan", test_nan, 1}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
