/* The operations of a mixture of experts: routing against plain comparisons, rows there and back, products of experts
 * against those of their matrices alone, and every gradient against differences; to the byte with 1 and 3 threads,
 * whatever tokens stand beside, and however the units are shared out among calls. */
#include "tests/unit/gradients.h"
#include "tests/unit/reference.h"
#include <math.h>
#include <string.h>

static const double EPS = 1.0 / 16777216.0; /* half a unit in the last place of 1 */
static const double TOLERANCE = 3e-6;       /* as test_ops_backward_products.c */

static double at(const vp_mat *m, int64_t i, int64_t j) {
    return (double)mat_row(m, i)[j];
}

/* Memory for the routing of T tokens. */
static vp_routing make_routing(op_case *c, int64_t T, int32_t experts, int32_t top_k) {
    const size_t R = (size_t)(T * top_k + 1);
    return (vp_routing){.experts = experts,
                        .top_k = top_k,
                        .offset = case_alloc(c, (size_t)(experts + 1) * sizeof(int32_t)),
                        .token = case_alloc(c, R * sizeof(int32_t)),
                        .row = case_alloc(c, R * sizeof(int32_t)),
                        .gate = case_alloc(c, R * sizeof(float))};
}

static vp_routing random_sizes(op_case *c, int64_t T) {
    static const int32_t many[] = {1, 2, 3, 4, 8, 8, 17, 256};
    const int32_t experts = many[case_int(c, 0, 7)];
    return make_routing(c, T, experts, (int32_t)case_int(c, 1, experts < 8 ? experts : 8));
}

static vp_mat case_half(op_case *c, int64_t rows, int64_t cols) {
    vp_mat m = case_mat(c, rows, cols);
    return case_bf16(c, &m);
}

static void route(op_case *c, vp_queue *q, const vp_mat *logits, const vp_routing *to) {
    const vp_moe_op op = {.to = to, .logits = *logits};
    CASE_OK(c, c->be->route(q, &op), q);
}

/* Tokens whose logits are at least `gap` apart, so that no difference changes who is chosen. */
static vp_mat distinct_logits(op_case *c, int64_t T, int32_t experts, float gap) {
    vp_mat m = case_mat(c, T, experts);
    for (int64_t t = 0; t < T; t++)
        for (int32_t e = 0; e < experts; e++) {
            const int32_t other = (int32_t)case_int(c, 0, e);
            mat_row(&m, t)[e] = mat_row(&m, t)[other];
            mat_row(&m, t)[other] = gap * (float)(e - experts / 2);
        }
    return m;
}

/* ---- route ---- */
static bool before(const vp_mat *logits, int64_t t, int32_t a, int32_t b) {
    const float x = mat_row(logits, t)[a], y = mat_row(logits, t)[b];
    return isnan(x) || isnan(y) ? isnan(x) && (!isnan(y) || a < b) : x > y || (x == y && a < b);
}

static bool is_chosen(const vp_mat *logits, int64_t t, int32_t e, int32_t top_k) {
    int32_t better = 0;
    for (int32_t i = 0; i < logits->cols; i++) better += i != e && before(logits, t, i, e);
    return better < top_k;
}

static double gate_of(const vp_mat *logits, int64_t t, int32_t e, int32_t top_k) {
    double sum = 0;
    for (int32_t i = 0; i < logits->cols; i++)
        if (is_chosen(logits, t, i, top_k)) sum += exp(at(logits, t, i) - at(logits, t, e));
    return 1 / sum;
}

static void check_routing(op_case *c, const vp_mat *logits, const vp_routing *to) {
    int32_t r = 0, *next = case_alloc(c, (size_t)(logits->rows + 1) * sizeof *next);
    for (int32_t e = 0; e < to->experts; e++) {
        if (to->offset[e] != r) case_fail(c, "expert %d begins at %d, not %d", (int)e, (int)to->offset[e], (int)r);
        for (int64_t t = 0; t < logits->rows && !c->failure[0]; t++) {
            if (!is_chosen(logits, t, e, to->top_k)) continue;
            const double gate = gate_of(logits, t, e, to->top_k);
            if (to->token[r] != t || to->row[t * to->top_k + next[t]++] != r)
                case_fail(c, "row %d is token %d's, not %lld's", (int)r, (int)to->token[r], (long long)t);
            else if (isnan(gate) ? !isnan(to->gate[r]) : !(fabs((double)to->gate[r] - gate) <= 8 * EPS))
                case_fail(c, "gate %d is %.9g, not %.9g", (int)r, (double)to->gate[r], gate);
            r++;
        }
    }
    if (to->offset[to->experts] != r || r != logits->rows * to->top_k) case_fail(c, "%d rows", (int)r);
}

static void same_routing(op_case *c, const vp_routing *a, const vp_routing *b, int64_t R) {
    const size_t bytes = (size_t)R * sizeof(int32_t);
    if (memcmp(a->offset, b->offset, (size_t)(a->experts + 1) * sizeof(int32_t)) || memcmp(a->token, b->token, bytes) ||
        memcmp(a->row, b->row, bytes) || memcmp(a->gate, b->gate, bytes))
        case_fail(c, "the routing differs");
}

static void test_route(op_case *c) {
    const int64_t T = case_int(c, 0, 20) ? case_size(c, 300) : 0;
    const vp_routing to = random_sizes(c, T), again = make_routing(c, T, to.experts, to.top_k);
    vp_mat logits = case_mat(c, T, to.experts);
    const int64_t kind = case_int(c, 0, 3); /* large ones; ties; what is not a number */
    for (int64_t t = 0; t < T; t++)
        for (int32_t e = 0; e < to.experts; e++) {
            float *z = &mat_row(&logits, t)[e];
            *z = kind == 1 ? 40 * *z : kind == 2 ? floorf(2 * *z) : kind == 3 && !case_int(c, 0, 40) ? NAN : *z;
        }
    route(c, c->one, &logits, &to);
    route(c, c->three, &logits, &again);
    if (c->failure[0]) return;
    check_routing(c, &logits, &to);
    same_routing(c, &to, &again, T * to.top_k);
}

/* ---- permute, combine ---- */
static void check_rows(op_case *c, const vp_moe_op *op, bool combines) {
    const vp_routing *to = op->to;
    const int64_t n = op->out.rows * op->out.cols;
    double *want = case_alloc(c, (size_t)(n + 1) * sizeof *want);
    for (int64_t i = 0; i < op->out.rows; i++)
        for (int64_t j = 0; j < op->out.cols; j++)
            for (int32_t k = 0; k < (combines ? to->top_k : 1); k++) {
                const int32_t r = combines ? to->row[i * to->top_k + k] : (int32_t)i;
                const double gate = op->gated ? (double)to->gate[r] : 1;
                want[i * op->out.cols + j] += gate * at(&op->x, combines ? r : to->token[r], j);
            }
    case_near(c, combines ? "combine" : "permute", &op->out, want, NULL, EPS * (to->top_k + 1));
}

/* The same numbers in BF16: the result of F32 rounded once. */
static void check_half(op_case *c, const vp_moe_op *op, int (*run)(vp_queue *q, const vp_moe_op *op)) {
    vp_caps caps;
    c->be->caps(c->device_one, &caps);
    if (!caps.bf16_states) return;
    vp_moe_op wide = *op, half = *op;
    vp_mat x = case_copy(c, &op->x);
    half.x = case_bf16(c, &x);
    half.out = case_half(c, op->out.rows, op->out.cols);
    wide.x = x;
    wide.out = case_mat(c, op->out.rows, op->out.cols);
    CASE_OK(c, run(c->one, &half), c->one);
    CASE_OK(c, run(c->one, &wide), c->one);
    case_bf16(c, &wide.out);
    const vp_mat got = case_f32(c, &half.out);
    case_same_bytes(c, "in BF16", &got, &wide.out);
}

static void test_rows(op_case *c) {
    const int64_t T = case_size(c, 200), C = case_size(c, 300);
    const vp_routing to = random_sizes(c, T);
    const vp_mat logits = case_mat(c, T, to.experts);
    route(c, c->one, &logits, &to);
    const int64_t R = T * to.top_k;
    for (int gated = 0; gated < 2; gated++) {
        vp_moe_op there = {.to = &to, .x = case_mat(c, T, C), .out = case_mat(c, R, C), .gated = gated};
        vp_moe_op back = {.to = &to, .x = case_mat(c, R, C), .out = case_mat(c, T, C), .gated = gated};
        CASE_OK(c, c->be->permute(c->three, &there), c->three);
        CASE_OK(c, c->be->combine(c->three, &back), c->three);
        if (c->failure[0]) return;
        check_rows(c, &there, false);
        check_rows(c, &back, true);
        const vp_mat first = back.out;
        back.out = case_mat(c, T, C);
        CASE_OK(c, c->be->combine(c->one, &back), c->one);
        case_same_bytes(c, "combine", &first, &back.out);
        check_half(c, &there, c->be->permute);
        check_half(c, &back, c->be->combine);
    }
}

/* ---- the gradient of the gates: out = combine(x, gates of logits) ---- */
typedef struct gates {
    vp_routing to;
    vp_mat logits, x, dout, rows, dlogits; /* [T, E], [R, C], [T, C], [R, C], [T, E] */
} gates;

static void forward_gates(const void *p, double *out) {
    const gates *g = p;
    const int64_t C = g->x.cols;
    memset(out, 0, (size_t)(g->dout.rows * C) * sizeof *out);
    for (int32_t e = 0; e < g->to.experts; e++)
        for (int32_t r = g->to.offset[e]; r < g->to.offset[e + 1]; r++)
            for (int64_t j = 0; j < C; j++)
                out[g->to.token[r] * C + j] += gate_of(&g->logits, g->to.token[r], e, g->to.top_k) * at(&g->x, r, j);
}

static int run_gates(op_case *c, vp_queue *q, const void *p) {
    const gates *g = p;
    const vp_moe_op there = {.to = &g->to, .x = g->dout, .out = g->rows, .gated = true};
    const vp_moe_op back = {.to = &g->to, .x = g->x, .dout = &g->rows, .dlogits = &g->dlogits};
    VP_TRY(c->be->permute(q, &there));
    return c->be->route_bwd(q, &back);
}

static void test_gates(op_case *c) {
    const int64_t T = case_size(c, 40), C = case_size(c, 150);
    const int32_t experts = (int32_t)case_int(c, 1, 9);
    gates g = {.to = make_routing(c, T, experts, (int32_t)case_int(c, 1, experts < 4 ? experts : 4))};
    const int64_t R = T * g.to.top_k;
    g.logits = distinct_logits(c, T, g.to.experts, 0.1f);
    g.x = case_mat(c, R, C);
    g.dout = case_mat(c, T, C);
    g.rows = case_mat(c, R, C);
    g.dlogits = case_mat(c, T, g.to.experts);
    route(c, c->one, &g.logits, &g.to);
    gradient_pair pair = {&g, run_gates, forward_gates, g.dout, .n = 2, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"logits", g.logits, g.dlogits, false};
    pair.of[1] = (gradient_of){"rows", g.x, g.rows, false};
    check_gradients(c, &pair);
}

/* ---- products ---- */
static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)err;
    const vp_mat *m = ctx;
    memcpy(out, mat_row(m, row), (size_t)m->cols * sizeof *out);
    return VP_OK;
}

/* Of experts [from, from + n) of w [E N, K], each in two parts where N allows. */
static vp_weight *prepare(op_case *c, vp_device *d, const vp_mat *w, int32_t experts, vp_weight_desc desc) {
    const int64_t N = w->rows / experts, cut = N / 2;
    vp_weight_part *part = case_alloc(c, (size_t)(2 * experts) * sizeof *part);
    vp_mat *from = case_alloc(c, (size_t)(2 * experts) * sizeof *from);
    vp_weight *weight = NULL;
    vp_error err = {0};
    for (int32_t e = 0; e < experts; e++) {
        from[2 * e] = case_cut(w, e * N, cut);
        from[2 * e + 1] = case_cut(w, e * N + cut, N - cut);
        for (int k = 0; k < 2; k++)
            part[2 * e + k] = (vp_weight_part){from[2 * e + k].rows, read_row, &from[2 * e + k]};
    }
    desc.part = part, desc.nparts = 2 * experts, desc.experts = experts;
    desc.in = w->cols, desc.out = N;
    if (c->be->weight_prepare(d, &desc, &weight, &err)) case_fail(c, "%s", err.text);
    return weight;
}

typedef struct products {
    vp_routing to;
    vp_mat w; /* [E N, K] */
    vp_linear_op op;
    vp_weight *one, *three;
} products;

/* out of row r in double, from the expert's own matrix; size: what a bound is a multiple of */
static void multiply(const products *p, double *out, double *size) {
    const int64_t N = p->w.rows / p->to.experts;
    for (int32_t e = 0; e < p->to.experts; e++) {
        const int32_t r = p->to.offset[e];
        const vp_mat x = case_cut(&p->op.x, r, p->to.offset[e + 1] - r);
        ref_product(&x, mat_row(&p->w, e * N), N, out + r * N, size ? size + r * N : NULL);
    }
}

static products random_products(op_case *c, const vp_batch *batch) {
    const int32_t experts = (int32_t)case_int(c, 1, 6);
    products p = {.to = make_routing(c, batch->T, experts, (int32_t)case_int(c, 1, experts))};
    const int64_t N = 1 + case_size(c, 150), K = case_size(c, 150), R = batch->T * p.to.top_k;
    vp_mat logits = case_mat(c, batch->T, p.to.experts);
    if (!case_int(c, 0, 3)) /* an expert that gets all or nothing */
        for (int64_t t = 0; t < batch->T; t++) mat_row(&logits, t)[0] = 2.0f;
    route(c, c->one, &logits, &p.to);
    p.w = case_dense(c, p.to.experts * N, K);
    p.op = (vp_linear_op){.x = case_mat(c, R, K), .out = case_mat(c, R, N), .batch = batch};
    return p;
}

static int run_forward(op_case *c, vp_queue *q, const products *p) {
    vp_linear_op op = p->op;
    op.group = &p->to;
    op.weight = q == c->one ? p->one : p->three;
    return c->be->linear(q, &op);
}

/* Rows of all, or weights row by row of a type, whose numbers are that type's. */
static void check_forward(op_case *c, products *p, vp_weight_desc desc) {
    const int64_t N = p->op.out.cols, n = p->op.out.rows * N;
    double *want = case_alloc(c, (size_t)(n + 1) * sizeof *want),
           *bound = case_alloc(c, (size_t)(n + 1) * sizeof *want);
    p->one = prepare(c, c->device_one, &p->w, p->to.experts, desc);
    p->three = prepare(c, c->device_three, &p->w, p->to.experts, desc);
    if (c->failure[0]) return;
    multiply(p, want, bound);
    const double K = (double)p->w.cols, rounded = 1.1 / 254 * K; /* VP_I8: half a step of a row's largest in each */
    for (int64_t i = 0; i < n; i++)
        bound[i] = (desc.compute == VP_I8 ? rounded : 1.2 * EPS * (sqrt(K) + 4) * bound[i]) + 16 * EPS;
    CASE_OK(c, run_forward(c, c->three, p), c->three);
    const vp_mat first = case_copy(c, &p->op.out);
    CASE_OK(c, run_forward(c, c->one, p), c->one);
    case_same_bytes(c, "linear", &first, &p->op.out);
    case_near(c, "linear", &p->op.out, want, bound, 0);
    c->be->weight_free(c->device_one, p->one);
    c->be->weight_free(c->device_three, p->three);
}

static void test_linear(op_case *c) {
    const vp_batch batch = case_unit_batch(c, case_int(c, 1, 6), 70);
    products p = random_products(c, &batch);
    check_forward(c, &p, (vp_weight_desc){.compute = VP_F32});
    check_forward(c, &p, (vp_weight_desc){.compute = VP_F32, .rows = true});
    case_bf16(c, &p.w);
    case_bf16(c, &p.op.x); /* beside bf16 and I8 a backend may round them */
    check_forward(c, &p, (vp_weight_desc){.compute = VP_BF16, .rows = true});
    check_forward(c, &p, (vp_weight_desc){.compute = VP_I8, .rows = true});
}

/* A token's outputs do not see the tokens beside it: T tokens together, and some of them alone. */
static void test_alone(op_case *c) {
    const vp_batch batch = case_unit_batch(c, 1, 200);
    const int64_t T = batch.T;
    if (T == 0) return;
    products all = random_products(c, &batch), some = all;
    const bool rows = case_int(c, 0, 1);
    const int64_t from = case_int(c, 0, T - 1), n = case_int(c, 1, T - from), top_k = all.to.top_k;
    all.one = some.one =
        prepare(c, c->device_one, &all.w, all.to.experts, (vp_weight_desc){.compute = VP_F32, .rows = rows});
    vp_mat logits = case_mat(c, T, all.to.experts), x = case_mat(c, T, all.w.cols),
           out = case_mat(c, T, all.op.out.cols);
    vp_mat out_some = case_mat(c, n, out.cols);
    some.to = make_routing(c, n, all.to.experts, (int32_t)top_k);
    some.op.x = case_mat(c, n * top_k, x.cols);
    some.op.out = case_mat(c, n * top_k, out.cols);
    for (int i = 0; i < 2; i++) {
        products *p = i ? &some : &all;
        const vp_mat z = i ? case_cut(&logits, from, n) : logits, tokens = i ? case_cut(&x, from, n) : x;
        const vp_moe_op there = {.to = &p->to, .x = tokens, .out = p->op.x};
        const vp_moe_op back = {.to = &p->to, .x = p->op.out, .out = i ? out_some : out, .gated = true};
        route(c, c->one, &z, &p->to);
        CASE_OK(c, c->be->permute(c->one, &there), c->one);
        CASE_OK(c, run_forward(c, c->one, p), c->one);
        CASE_OK(c, c->be->combine(c->one, &back), c->one);
    }
    const vp_mat same = case_cut(&out, from, n);
    case_same_bytes(c, "some tokens alone", &out_some, &same);
    c->be->weight_free(c->device_one, all.one);
}

/* ---- their backward ---- */
static int run_backward(op_case *c, vp_queue *q, const void *ctx) {
    const products *p = ctx;
    vp_linear_op op = p->op;
    op.group = &p->to;
    op.weight = q == c->one ? p->one : p->three;
    VP_TRY(c->be->linear_bwd_x(q, &op));
    return c->be->linear_bwd_w(q, &op);
}

static void forward_products(const void *p, double *out) {
    multiply(p, out, NULL);
}

/* Rows [from, to) of tokens as a call of its own, in the order that its own routing has. */
static vp_mat rows_of_tokens(op_case *c, const vp_mat *m, const vp_routing *to, int64_t from, int64_t past) {
    vp_mat part = case_mat(c, (past - from) * to->top_k, m->cols);
    int64_t n = 0;
    for (int32_t r = 0; r < to->offset[to->experts]; r++)
        if (to->token[r] >= from && to->token[r] < past)
            memcpy(mat_row(&part, n++), mat_row(m, r), (size_t)m->cols * sizeof(float));
    return part;
}

static vp_routing cut_routing(op_case *c, const vp_routing *to, int64_t from, int64_t past) {
    vp_routing part = make_routing(c, past - from, to->experts, to->top_k);
    for (int32_t e = 0, n = 0; e < to->experts; part.offset[++e] = n)
        for (int32_t r = to->offset[e]; r < to->offset[e + 1]; r++)
            if (to->token[r] >= from && to->token[r] < past) part.token[n++] = to->token[r] - (int32_t)from;
    return part;
}

/* dw of two calls of whole units is dw of one. */
static void check_split(op_case *c, const products *p, const vp_mat *dw_before) {
    const vp_batch *batch = p->op.batch;
    vp_mat sum = case_copy(c, dw_before), dw = sum;
    dw.ptr = p->op.dw;
    const int64_t ends[] = {0, case_unit_cut(c, batch), batch->B};
    for (int i = 0; i < 2; i++) {
        const int64_t from = batch->cu_q[ends[i]], past = batch->cu_q[ends[i + 1]];
        const vp_batch cut = case_cut_batch(c, batch, ends[i], ends[i + 1]);
        const vp_routing to = cut_routing(c, &p->to, from, past);
        const vp_mat dout = rows_of_tokens(c, p->op.dout, &p->to, from, past);
        const vp_linear_op op = {.weight = p->one,
                                 .x = rows_of_tokens(c, &p->op.x, &p->to, from, past),
                                 .dout = &dout,
                                 .dw = sum.ptr,
                                 .group = &to,
                                 .batch = &cut};
        CASE_OK(c, c->be->linear_bwd_w(c->one, &op), c->one);
    }
    case_same_bytes(c, "dw of two calls", &sum, &dw);
}

static void test_linear_bwd(op_case *c) {
    const vp_batch batch = case_unit_batch(c, case_int(c, 1, 6), 50);
    products p = random_products(c, &batch);
    vp_mat dout = case_mat(c, p.op.x.rows, p.op.out.cols), dx = case_mat(c, p.op.x.rows, p.w.cols);
    vp_mat dw = case_dense(c, p.w.rows, p.w.cols), start = case_copy(c, &dw);
    const vp_weight_desc desc = {.compute = VP_F32, .backward = true};
    p.op.dout = &dout, p.op.dx = &dx, p.op.dw = dw.ptr;
    p.one = prepare(c, c->device_one, &p.w, p.to.experts, desc);
    p.three = prepare(c, c->device_three, &p.w, p.to.experts, desc);
    gradient_pair pair = {&p, run_backward, forward_products, dout, .n = 2, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"x", p.op.x, dx, false};
    pair.of[1] = (gradient_of){"w", p.w, dw, true};
    check_gradients(c, &pair);
    check_split(c, &p, &start);
    c->be->weight_free(c->device_one, p.one);
    c->be->weight_free(c->device_three, p.three);
}

/* In BF16 against F32 of the same numbers: one rounding of the result, and another order of sums. */
static void compare_half(op_case *c, const char *what, const vp_mat *half, const vp_mat *wide, int64_t terms) {
    const vp_mat got = half->dtype == VP_BF16 ? case_f32(c, half) : *half;
    const int64_t n = wide->rows * wide->cols;
    double *want = case_alloc(c, (size_t)(n + 1) * sizeof *want),
           *bound = case_alloc(c, (size_t)(n + 1) * sizeof *want);
    for (int64_t i = 0; i < n; i++) {
        want[i] = at(wide, i / wide->cols, i % wide->cols);
        bound[i] = (half->dtype == VP_BF16 ? 1.001 / 256 * fabs(want[i]) : 0) +
                   1.2 * EPS * (sqrt((double)terms) + 8) * (double)terms + 32 * EPS;
    }
    case_near(c, what, &got, want, bound, 0);
}

static void test_bf16(op_case *c) {
    vp_caps caps;
    c->be->caps(c->device_one, &caps);
    if (!caps.bf16_states) {
        c->skip = "its activations are F32";
        return;
    }
    const vp_batch batch = case_unit_batch(c, case_int(c, 1, 4), 60);
    products p = random_products(c, &batch), h = p;
    const int64_t R = p.op.x.rows, N = p.op.out.cols, K = p.w.cols;
    case_bf16(c, &p.w);
    vp_mat dout = case_mat(c, R, N), dx = case_mat(c, R, K), dw = case_dense(c, p.w.rows, K);
    vp_mat half_dout = case_bf16(c, &dout), half_dx = case_half(c, R, K), half_dw = case_copy(c, &dw);
    h.op.x = case_bf16(c, &p.op.x);
    h.op.out = case_half(c, R, N);
    p.op.dout = &dout, p.op.dx = &dx, p.op.dw = dw.ptr;
    h.op.dout = &half_dout, h.op.dx = &half_dx, h.op.dw = half_dw.ptr;
    p.one = prepare(c, c->device_one, &p.w, p.to.experts, (vp_weight_desc){.compute = VP_F32, .backward = true});
    h.one = prepare(c, c->device_one, &p.w, p.to.experts, (vp_weight_desc){.compute = VP_BF16, .backward = true});
    for (int i = 0; i < 2; i++) {
        CASE_OK(c, run_forward(c, c->one, i ? &h : &p), c->one);
        CASE_OK(c, run_backward(c, c->one, i ? &h : &p), c->one);
    }
    if (c->failure[0]) return;
    compare_half(c, "linear", &h.op.out, &p.op.out, K);
    compare_half(c, "dx", &half_dx, &dx, N);
    compare_half(c, "dw", &half_dw, &dw, batch.T + 1);
    c->be->weight_free(c->device_one, p.one);
    c->be->weight_free(c->device_one, h.one);
}

/* A weight that takes new rows gives what one made of them gives. */
static void test_update(op_case *c) {
    const vp_batch batch = case_unit_batch(c, 2, 40);
    products p = random_products(c, &batch), old = p;
    const int32_t experts = p.to.experts;
    const int64_t N = p.op.out.cols;
    old.w = case_dense(c, p.w.rows, p.w.cols);
    p.one = prepare(c, c->device_one, &p.w, experts, (vp_weight_desc){.compute = VP_F32});
    old.one = prepare(c, c->device_one, &old.w, experts, (vp_weight_desc){.compute = VP_F32});
    old.op.out = case_mat(c, p.op.out.rows, N);
    vp_mat *from = case_alloc(c, (size_t)experts * sizeof *from);
    vp_weight_part *parts = case_alloc(c, (size_t)experts * sizeof *parts);
    for (int32_t e = 0; e < experts; e++) {
        from[e] = case_cut(&p.w, e * N, N);
        parts[e] = (vp_weight_part){N, read_row, &from[e]};
    }
    const vp_weight_desc desc = {
        .part = parts, .nparts = experts, .in = p.w.cols, .out = N, .experts = experts, .compute = VP_F32};
    CASE_OK(c, c->be->weight_update(c->one, old.one, &desc), c->one);
    CASE_OK(c, run_forward(c, c->one, &p), c->one);
    CASE_OK(c, run_forward(c, c->one, &old), c->one);
    case_same_bytes(c, "after an update", &old.op.out, &p.op.out);
    vp_linear_op alone = p.op;
    alone.weight = p.one;
    if (c->be->linear(c->one, &alone) != VP_BUG) case_fail(c, "rows of no expert were taken");
    c->be->weight_free(c->device_one, p.one);
    c->be->weight_free(c->device_one, old.one);
}

int main(int argc, char **argv) {
    static const op_test tests[] = {
        {"route", test_route, 30},
        {"rows", test_rows, 30},
        {"gates", test_gates, 30},
        {"linear", test_linear, 20},
        {"linear_bwd", test_linear_bwd, 20},
        {"alone", test_alone, 30},
        {"bf16", test_bf16, 20},
        {"update", test_update, 10},
    };
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
