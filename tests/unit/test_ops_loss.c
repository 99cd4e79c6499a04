/* The losses on the backend: cross-entropy of a head, bags of tokens, softmax over candidates. Against plain sums in
 * double and their central differences; the worked examples of the papers' recipes; to the byte with 1 and 3 threads,
 * and a row alone or among others. */
#include "tests/unit/gradients.h"
#include "tests/unit/reference.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double TOLERANCE = 4e-6; /* sums of some hundreds of numbers under 1, in f32 */

static double logits_lse(const double *z, int64_t n) {
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, z[i]);
    for (int64_t i = 0; i < n; i++) sum += exp(z[i] - most);
    return most + log(sum);
}

static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)err;
    const vp_mat *m = ctx;
    memcpy(out, mat_row(m, row), (size_t)m->cols * sizeof *out);
    return VP_OK;
}

static vp_weight *prepare(op_case *c, vp_device *d, const vp_mat *w, const float *bias) {
    vp_weight_part part = {w->rows, read_row, w};
    vp_weight_desc desc = {.part = &part, .nparts = 1, .in = w->cols, .out = w->rows, .compute = VP_F32, .name = "w"};
    desc.backward = true;
    desc.bias = bias;
    vp_weight *weight = NULL;
    vp_error err = {0};
    if (c->be->weight_prepare(d, &desc, &weight, &err)) case_fail(c, "%s", err.text);
    return weight;
}

typedef struct head { /* one head on both devices */
    vp_mat w;
    float *bias;
    vp_weight *one, *three;
} head;

static head make_head(op_case *c, int64_t V, int64_t C, bool bias) {
    head h = {.w = case_dense(c, V, C), .bias = bias ? case_floats(c, V) : NULL};
    h.one = prepare(c, c->device_one, &h.w, h.bias);
    h.three = prepare(c, c->device_three, &h.w, h.bias);
    return h;
}

static void free_head(op_case *c, head *h) {
    c->be->weight_free(c->device_one, h->one);
    c->be->weight_free(c->device_three, h->three);
}

static double *head_logits(const head *h, const vp_mat *x) {
    double *z = calloc((size_t)(x->rows * h->w.rows) + 1, sizeof *z);
    ref_product(x, h->w.ptr, h->w.rows, z, NULL);
    for (int64_t i = 0; i < x->rows * h->w.rows && h->bias; i++) z[i] += (double)h->bias[i % h->w.rows];
    return z;
}

static vp_mat ones(op_case *c, int64_t n) {
    vp_mat m = case_dense(c, 1, n);
    for (int64_t i = 0; i < n; i++) mat_row(&m, 0)[i] = 1.0f;
    return m;
}

/* ---- xent ---- */
typedef struct xent_pair {
    vp_xent_op op;
    head head;
} xent_pair;

static void forward_xent(const void *p, double *out) {
    const xent_pair *x = p;
    const vp_xent_op *op = &x->op;
    const int64_t V = x->head.w.rows;
    double *z = head_logits(&x->head, &op->x);
    for (int64_t i = 0; i < op->x.rows; i++) {
        const double weight = op->weight ? (double)op->weight[i] : 1;
        out[i] =
            op->target[i] < 0 ? 0 : weight * (logits_lse(z + i * V, V) - z[i * V + op->target[i]]) / op->denominator;
    }
    free(z);
}

static int run_xent(op_case *c, vp_queue *q, const void *p) {
    const xent_pair *x = p;
    vp_xent_op op = x->op;
    op.head = q == c->one ? x->head.one : x->head.three;
    return c->be->xent(q, &op);
}

static int32_t *case_targets(op_case *c, int64_t M, int64_t V) {
    int32_t *target = case_alloc(c, (size_t)M * sizeof *target);
    for (int64_t i = 0; i < M; i++) target[i] = case_int(c, 0, 4) ? (int32_t)case_int(c, 0, V - 1) : -1;
    return target;
}

/* Rows one by one, without gradients of the head, as in one call. */
static void check_rows_alone(op_case *c, const xent_pair *p, int64_t step) {
    const vp_xent_op *all = &p->op;
    for (int64_t i = 0; i < all->x.rows; i += step) {
        vp_mat dx = case_mat(c, 1, all->x.cols), want = case_cut(all->dx, i, 1);
        float *loss = case_floats(c, 2), *logprob = loss + 1;
        uint8_t *right = case_alloc(c, 1);
        vp_xent_op op = *all;
        op.head = p->head.three;
        op.x = case_cut(&all->x, i, 1);
        op.target += i;
        op.weight = all->weight ? all->weight + i : NULL;
        op.loss = loss;
        op.logprob = logprob;
        op.right = right;
        op.dx = &dx;
        op.dw = NULL;
        CASE_OK(c, c->be->xent(c->three, &op), c->three);
        case_same_bytes(c, "dx of a row alone", &dx, &want);
        if (memcmp(loss, all->loss + i, sizeof *loss) || memcmp(logprob, all->logprob + i, sizeof *logprob) ||
            *right != all->right[i])
            case_fail(c, "row %lld alone has another loss", (long long)i);
        op.dx = NULL;
        CASE_OK(c, c->be->xent(c->three, &op), c->three);
        if (memcmp(loss, all->loss + i, sizeof *loss)) case_fail(c, "without a gradient the loss is another");
    }
}

static void check_values(op_case *c, const xent_pair *p) {
    const vp_xent_op *op = &p->op;
    const int64_t M = op->x.rows, V = p->head.w.rows;
    double *want = case_alloc(c, (size_t)(M + 1) * sizeof *want), *z = head_logits(&p->head, &op->x);
    const vp_mat got = {.ptr = op->loss, .dtype = VP_F32, .rows = 1, .cols = M, .ld = M};
    forward_xent(p, want);
    case_near(c, "loss", &got, want, NULL, 3e-5);
    for (int64_t i = 0; i < M; i++) {
        double most = -INFINITY, own = op->target[i] < 0 ? NAN : z[i * V + op->target[i]];
        for (int64_t v = 0; v < V; v++) most = fmax(most, z[i * V + v]);
        if (op->right[i] != (own >= most) && !(fabs(own - most) < 1e-5))
            case_fail(c, "right of row %lld", (long long)i);
        const double logprob = op->target[i] < 0 ? 0 : own - logits_lse(z + i * V, V);
        if (!(fabs((double)op->logprob[i] - logprob) <= 3e-5)) case_fail(c, "logprob of row %lld", (long long)i);
    }
    free(z);
}

static xent_pair make_xent(op_case *c, int64_t M, int64_t V, int64_t C) {
    xent_pair p = {.head = make_head(c, V, C, case_int(c, 0, 1))};
    p.op.x = case_mat(c, M, C);
    p.op.target = case_targets(c, M, V);
    p.op.weight = case_int(c, 0, 1) ? case_floats(c, M) : NULL;
    p.op.denominator = 0.5 + (double)case_int(c, 0, 4);
    p.op.loss = case_floats(c, M);
    p.op.logprob = case_floats(c, M);
    p.op.right = case_alloc(c, (size_t)M + 1);
    return p;
}

static void test_xent(op_case *c) {
    const int64_t M = case_size(c, 90), V = case_size(c, 400), C = case_size(c, 70);
    xent_pair p = make_xent(c, M, V, C);
    vp_mat dx = case_mat(c, M, C), dw = case_dense(c, V, C);
    p.op.dx = &dx;
    p.op.dw = dw.ptr;
    gradient_pair pair = {&p, run_xent, forward_xent, ones(c, M), .n = 2, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"x", p.op.x, dx, false};
    pair.of[1] = (gradient_of){"w", p.head.w, dw, true};
    check_gradients(c, &pair);
    check_values(c, &p);
    check_rows_alone(c, &p, 1 + M / 8);
    free_head(c, &p.head);
}

/* More rows than the logits of 64 MiB: several chunks. */
static void test_xent_chunks(op_case *c) {
    const int64_t M = 70, V = 300000, C = 8;
    xent_pair p = make_xent(c, M, V, C);
    vp_mat dx = case_mat(c, M, C);
    p.op.dx = &dx;
    if (run_xent(c, c->one, &p)) case_fail(c, "%s", c->be->why(c->one));
    check_values(c, &p);
    check_rows_alone(c, &p, 23);
    free_head(c, &p.head);
}

/* ---- bags ---- */
typedef struct bag_pair {
    vp_bag_op op;
    head head;
} bag_pair;

static void forward_bag(const void *p, double *out) {
    const bag_pair *b = p;
    const int64_t V = b->head.w.rows;
    double *z = head_logits(&b->head, &b->op.x), *most = calloc((size_t)V, sizeof *most);
    for (int64_t i = 0; i < b->op.bags; i++) {
        const int32_t n = b->op.target_cu[i + 1] - b->op.target_cu[i];
        double nll = 0;
        for (int64_t v = 0; v < V; v++) most[v] = -INFINITY;
        for (int64_t r = b->op.cu[i]; r < b->op.cu[i + 1]; r++)
            for (int64_t v = 0; v < V; v++) most[v] = fmax(most[v], z[r * V + v]);
        for (int32_t t = 0; t < n; t++) nll += logits_lse(most, V) - most[b->op.target[b->op.target_cu[i] + t]];
        out[i] = n ? (double)b->op.weight[i] * nll / n / b->op.denominator : 0;
    }
    free(z);
    free(most);
}

static int run_bag(op_case *c, vp_queue *q, const void *p) {
    const bag_pair *b = p;
    vp_bag_op op = b->op;
    op.head = q == c->one ? b->head.one : b->head.three;
    return c->be->bag(q, &op);
}

static void test_bag(op_case *c) {
    const int64_t bags = case_int(c, 1, 6), V = case_size(c, 200) + 2, C = case_size(c, 40);
    int32_t *cu = case_alloc(c, (size_t)(bags + 1) * sizeof *cu), *target_cu = case_alloc(c, (size_t)(bags + 1) * 4);
    for (int64_t i = 0; i < bags; i++) {
        cu[i + 1] = cu[i] + (int32_t)case_int(c, 1, 9);
        target_cu[i + 1] = target_cu[i] + (int32_t)case_int(c, 0, V < 5 ? V : 5);
    }
    int32_t *target = case_alloc(c, (size_t)(target_cu[bags] + 1) * sizeof *target);
    for (int64_t i = 0; i < bags; i++)
        for (int32_t t = target_cu[i]; t < target_cu[i + 1]; t++) /* distinct */
            target[t] = (int32_t)((t - target_cu[i] + i * 7) % V);
    bag_pair b = {.head = make_head(c, V, C, false)};
    vp_mat dx = case_mat(c, cu[bags], C);
    b.op = (vp_bag_op){.x = case_mat(c, cu[bags], C), .bags = bags, .cu = cu, .target = target, .target_cu = target_cu};
    b.op.weight = case_floats(c, bags);
    b.op.denominator = 2.5;
    b.op.loss = case_floats(c, bags);
    b.op.dx = &dx;
    /* differences are taken of single elements too, whose step of 2^-12 may cross a tie: the bound is wider */
    gradient_pair pair = {&b, run_bag, forward_bag, ones(c, bags), .n = 1, .tolerance = 2e-3};
    pair.of[0] = (gradient_of){"x", b.op.x, dx, false};
    check_gradients(c, &pair);
    double *want = case_alloc(c, (size_t)(bags + 1) * sizeof *want);
    const vp_mat got = {.ptr = b.op.loss, .dtype = VP_F32, .rows = 1, .cols = bags, .ld = bags};
    forward_bag(&b, want);
    case_near(c, "loss", &got, want, NULL, 3e-5);
    free_head(c, &b.head);
}

/* ---- nce ---- */
static void forward_nce(const void *p, double *out) {
    const vp_nce_op *op = p;
    const int64_t N = op->s.cols;
    double *s = calloc((size_t)N + 1, sizeof *s);
    for (int64_t i = 0; i < op->s.rows; i++) {
        for (int64_t j = 0; j < N; j++)
            s[j] = op->exclude && op->exclude[i * N + j] ? -INFINITY : (double)mat_row(&op->s, i)[j];
        const double lse = logits_lse(s, N);
        double loss = op->teacher ? 0 : lse - s[op->positive[i]];
        for (int64_t j = 0; j < N && op->teacher; j++) {
            const double t = (double)op->teacher[i * N + j];
            if (t > 0) loss += t * (log(t) - s[j] + lse);
        }
        out[i] = loss / op->denominator;
    }
    free(s);
}

static int run_nce(op_case *c, vp_queue *q, const void *p) {
    return c->be->nce(q, (const vp_nce_op *)p);
}

static float *case_teacher(op_case *c, const uint8_t *exclude, int64_t Q, int64_t N) {
    float *t = case_floats(c, Q * N);
    for (int64_t i = 0; i < Q; i++) {
        float sum = 0;
        for (int64_t j = i * N; j < (i + 1) * N; j++) sum += t[j] = exclude[j] ? 0 : fabsf(t[j]);
        for (int64_t j = i * N; j < (i + 1) * N; j++) t[j] /= sum;
    }
    return t;
}

static void test_nce(op_case *c) {
    const int64_t Q = case_size(c, 40), N = case_size(c, 150);
    int32_t *positive = case_alloc(c, (size_t)Q * sizeof *positive);
    uint8_t *exclude = case_alloc(c, (size_t)(Q * N));
    for (int64_t i = 0; i < Q * N; i++) exclude[i] = case_int(c, 0, 3) == 0;
    for (int64_t i = 0; i < Q; i++) exclude[i * N + (positive[i] = (int32_t)case_int(c, 0, N - 1))] = 0;
    vp_mat ds = case_mat(c, Q, N);
    vp_nce_op op = {.s = case_mat(c, Q, N), .exclude = exclude, .denominator = (double)case_int(c, 1, 5)};
    op.loss = case_floats(c, Q);
    op.ds = &ds;
    if (case_int(c, 0, 1))
        op.teacher = case_teacher(c, exclude, Q, N);
    else
        op.positive = positive;
    gradient_pair pair = {&op, run_nce, forward_nce, ones(c, Q), .n = 1, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"s", op.s, ds, false};
    check_gradients(c, &pair);
    double *want = case_alloc(c, (size_t)(Q + 1) * sizeof *want);
    const vp_mat got = {.ptr = op.loss, .dtype = VP_F32, .rows = 1, .cols = Q, .ld = Q};
    forward_nce(&op, want);
    case_near(c, "loss", &got, want, NULL, 1e-5);
    op.ds = NULL;
    float *again = op.loss = case_floats(c, Q);
    CASE_OK(c, c->be->nce(c->one, &op), c->one);
    if (memcmp(again, got.ptr, (size_t)Q * sizeof *again)) case_fail(c, "without a gradient the loss is another");
}

/* ---- worked examples: the head is the identity, so that rows are logits ---- */
static head identity(op_case *c, int64_t n) {
    head h = {.w = case_dense(c, n, n)};
    for (int64_t i = 0; i < n * n; i++) ((float *)h.w.ptr)[i] = i % (n + 1) == 0 ? 1.0f : 0.0f;
    h.one = prepare(c, c->device_one, &h.w, NULL);
    h.three = prepare(c, c->device_three, &h.w, NULL);
    return h;
}

static void expect_near(op_case *c, const char *what, double got, double want) {
    if (!(fabs(got - want) <= 6e-7)) case_fail(c, "%s is %.7f, not %.6f", what, got, want);
}

/* A copy that every device reaches. */
static void *reached(op_case *c, const void *from, size_t bytes) {
    void *to = case_alloc(c, bytes);
    memcpy(to, from, bytes);
    return to;
}

/* MNTP: positions 1 and 3 of 0 2 1 3 2 are predicted from 0 and 2. */
static void test_worked_mntp(op_case *c) {
    static const float logits[5][4] = {{1, 0, 0, 0}, {0, 2, 0, 0}, {0, 0, 1, 1}, {3, 0, 0, 0}, {0, 0, 0, 1}};
    static const int32_t target[5] = {2, -1, 3, -1, -1};
    head h = identity(c, 4);
    vp_xent_op op = {.x = {.dtype = VP_F32, .rows = 5, .cols = 4, .ld = 4}, .head = h.one};
    op.x.ptr = reached(c, logits, sizeof logits);
    op.target = reached(c, target, sizeof target);
    op.denominator = 1;
    const float *loss = op.loss = case_floats(c, 5);
    CASE_OK(c, c->be->xent(c->one, &op), c->one);
    expect_near(c, "row 0", (double)loss[0], 1.743668);
    expect_near(c, "row 2", (double)loss[2], 1.006409);
    op.denominator = 2;
    CASE_OK(c, c->be->xent(c->one, &op), c->one);
    expect_near(c, "the mean", (double)loss[0] + (double)loss[1] + (double)loss[2] + (double)loss[3], 1.375039);
    free_head(c, &h);
}

/* LLaRA's two suffixes of 8 slots; ties of the maximum go to the first slot. */
static void test_worked_bag(op_case *c) {
    static const float rows[16][6] = {
        {0, 0, 0, 1, 0, -1}, {0, 0, 0, 0, 2, 0}, {1, 0, 0, 0, 0, 3}, {0, .5f, 0, 0, 0, 0}, [8] = {0, 0, 0, 0, 1, 0}};
    static const int32_t cu[] = {0, 8, 16}, target[] = {3, 5, 4}, target_cu[] = {0, 2, 3};
    head h = identity(c, 6);
    const vp_mat dx = case_dense(c, 16, 6);
    vp_bag_op op = {.x = dx, .head = h.one, .bags = 2, .cu = cu, .target_cu = target_cu};
    op.x.ptr = reached(c, rows, sizeof rows);
    op.target = reached(c, target, sizeof target);
    op.denominator = 10;
    const float *loss = op.loss = case_floats(c, 2);
    op.dx = &dx;
    CASE_OK(c, c->be->bag(c->one, &op), c->one);
    expect_near(c, "bow_1", (double)loss[0], 0.157122);
    expect_near(c, "bow_2", (double)loss[1], 0.104359);
    expect_near(c, "the mean", ((double)loss[0] + (double)loss[1]) / 2, 0.130740);
    expect_near(c, "d z_2", (double)mat_row(&dx, 0)[2], exp(-3.571218) / 10);
    for (int r = 1; r < 8; r++) expect_near(c, "a slot that lost", (double)mat_row(&dx, r)[2], 0);
    free_head(c, &h);
}

int main(int argc, char **argv) {
    static const op_test tests[] = {
        {"xent", test_xent, 12}, {"xent_chunks", test_xent_chunks, 1}, {"bag", test_bag, 8},
        {"nce", test_nce, 12},   {"worked_mntp", test_worked_mntp, 1}, {"worked_bag", test_worked_bag, 1},
    };
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
