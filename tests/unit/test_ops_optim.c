/* The optimisers against their formulas in double, update after update; sums of squares and updates to the byte with 1
 * and 3 threads. */
#include "tests/unit/ops_case.h"
#include <math.h>
#include <string.h>

enum { UPDATES = 5 };

/* One number of the space in double, as ops.h writes it. */
typedef void update_fn(const vp_optim_op *op, double g, double *p, double *m, double *v);

static void want_adamw(const vp_optim_op *op, double g, double *p, double *m, double *v) {
    *p *= 1.0 - op->lr * op->decay;
    *m = op->beta1 * *m + (1.0 - op->beta1) * g;
    *v = op->beta2 * *v + (1.0 - op->beta2) * g * g;
    double first = *m / (1.0 - pow(op->beta1, (double)op->t)), second = *v / (1.0 - pow(op->beta2, (double)op->t));
    *p -= op->lr * first / (sqrt(second) + op->eps);
}

static void want_sgd(const vp_optim_op *op, double g, double *p, double *m, double *v) {
    (void)v;
    *m = op->beta1 * *m + g + op->decay * *p;
    *p -= op->lr * *m;
}

static void want_rmsprop(const vp_optim_op *op, double g, double *p, double *m, double *v) {
    (void)m;
    double all = g + op->decay * *p;
    *v = op->beta2 * *v + (1.0 - op->beta2) * all * all;
    *p -= op->lr * all / (sqrt(*v) + op->eps);
}

typedef int slot_fn(vp_queue *q, const vp_optim_op *op);

typedef struct space {
    float *p, *m, *v;
} space;

enum { PAST = 8 }; /* numbers behind a space, which stay as they are */
static space new_space(op_case *c, int64_t n, const float *start) {
    const size_t bytes = (size_t)(n + PAST) * 4;
    space s = {case_floats(c, n + PAST), case_alloc(c, bytes), case_alloc(c, bytes)};
    memset(s.m, 0, bytes);
    memset(s.v, 0, bytes);
    for (int64_t i = n; i < n + PAST; i++) s.p[i] = s.m[i] = s.v[i] = 0.5f;
    if (start) memcpy(s.p, start, (size_t)n * 4);
    return s;
}

static vp_optim_op aim(const vp_optim_op *op, const space *s) {
    vp_optim_op at = *op;
    at.master = s->p;
    at.m = op->beta1 > 0.0 ? s->m : NULL;
    at.v = s->v;
    return at;
}

/* UPDATES updates of n numbers, by 1 thread, 3 threads, and in double. */
static void check(op_case *c, vp_optim_op op, slot_fn *slot, update_fn *want) {
    op.n = case_int(c, 0, 1) ? case_size(c, 2000) : case_int(c, 16000, 70000);
    const int64_t n = op.n;
    op.grad = case_floats(c, n + PAST);
    space one = new_space(c, n, NULL), three = new_space(c, n, one.p);
    double *p = case_alloc(c, (size_t)n * 8), *m = case_alloc(c, (size_t)n * 8), *v = case_alloc(c, (size_t)n * 8);
    for (int64_t i = 0; i < n; i++) p[i] = (double)one.p[i];
    memset(m, 0, (size_t)n * 8);
    memset(v, 0, (size_t)n * 8);
    for (op.t = 1; op.t <= UPDATES; op.t++) {
        for (int64_t i = 0; i < n; i++) op.grad[i] = case_float(c) * (i % 7 ? 1.0f : 1e-4f);
        vp_optim_op a = aim(&op, &one), b = aim(&op, &three);
        CASE_OK(c, slot(c->one, &a), c->one);
        CASE_OK(c, slot(c->three, &b), c->three);
        for (int64_t i = 0; i < n; i++) want(&op, (double)op.grad[i], &p[i], &m[i], &v[i]);
    }
    for (int64_t i = n; i < n + PAST; i++)
        if (one.p[i] != 0.5f || one.m[i] != 0.5f || one.v[i] != 0.5f) case_fail(c, "written past the end");
    if (memcmp(one.p, three.p, (size_t)n * 4) || memcmp(one.m, three.m, (size_t)n * 4) ||
        memcmp(one.v, three.v, (size_t)n * 4))
        case_fail(c, "1 and 3 threads: other bytes");
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)one.p[i] - p[i]) <= 4e-6)) /* of numbers around 1, moved by about 0.1 */
            case_fail(c, "number %lld of %lld: %.9g, not %.9g", (long long)i, (long long)n, (double)one.p[i], p[i]);
}

static void test_adamw(op_case *c) {
    vp_optim_op op = {.lr = 0.02, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    op.decay = case_int(c, 0, 1) ? 0.1 : 0.0;
    check(c, op, c->be->adamw, want_adamw);
    op.n = 1;
    op.grad = op.master = op.m = op.v = case_floats(c, 1);
    if (c->be->adamw(c->one, &op) != VP_BUG) case_fail(c, "update 0 was taken");
    op.m = NULL;
    if (c->be->adamw(c->one, &op) != VP_BUG) case_fail(c, "no moments were taken");
}

static void test_sgd(op_case *c) {
    vp_optim_op op = {.lr = 0.02};
    op.beta1 = case_int(c, 0, 1) ? 0.9 : 0.0;
    op.decay = case_int(c, 0, 1) ? 0.1 : 0.0;
    check(c, op, c->be->sgd, want_sgd);
}

static void test_rmsprop(op_case *c) {
    vp_optim_op op = {.lr = 0.01, .beta1 = 0.0, .beta2 = 0.99, .eps = 1e-8};
    op.decay = case_int(c, 0, 1) ? 0.1 : 0.0;
    check(c, op, c->be->rmsprop, want_rmsprop);
}

static void test_sumsq(op_case *c) {
    const int64_t n = case_int(c, 0, 1) ? case_size(c, 3000) : case_int(c, 16000, 200000);
    double *one = case_alloc(c, 2 * sizeof *one), *three = one + 1, want = 0.0;
    int *finite = case_alloc(c, sizeof *finite);
    vp_optim_op op = {.grad = case_floats(c, n), .n = n, .sum = one, .finite = finite};
    CASE_OK(c, c->be->sumsq(c->one, &op), c->one);
    if (*finite != 1) case_fail(c, "finite numbers are not");
    op.sum = three;
    CASE_OK(c, c->be->sumsq(c->three, &op), c->three);
    for (int64_t i = 0; i < n; i++) want += (double)op.grad[i] * (double)op.grad[i];
    if (memcmp(one, three, sizeof *one)) case_fail(c, "1 and 3 threads: %.17g and %.17g", *one, *three);
    if (!(fabs(*one - want) <= 1e-12 * want)) case_fail(c, "%.17g, not %.17g", *one, want);
    const float bad[] = {NAN, INFINITY, -INFINITY, 3.4e38f};
    for (int k = 0; k < 4; k++) {
        op.grad[case_int(c, 0, n - 1)] = bad[3 - k]; /* the large one first: it is finite */
        CASE_OK(c, c->be->sumsq(c->three, &op), c->three);
        if (*finite != (k == 0)) case_fail(c, "%g: finite is %d", (double)bad[3 - k], *finite);
    }
}

static void test_clip(op_case *c) {
    vp_mat all = case_mat(c, 1, case_int(c, 1, 40000)), before = case_copy(c, &all);
    vp_optim_op op = {.grad = mat_row(&all, 0), .n = all.cols, .clip = 0.37};
    CASE_OK(c, c->be->clip(c->three, &op), c->three);
    for (int64_t i = 0; i < all.cols; i++)
        if (mat_row(&all, 0)[i] != mat_row(&before, 0)[i] * 0.37f) case_fail(c, "number %lld", (long long)i);
    case_guards(c, "clip", &all);
}

int main(int argc, char **argv) {
    static const op_test tests[] = {{"adamw", test_adamw, 12},
                                    {"sgd", test_sgd, 12},
                                    {"rmsprop", test_rmsprop, 12},
                                    {"sumsq", test_sumsq, 12},
                                    {"clip", test_clip, 8}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
