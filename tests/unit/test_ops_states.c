/* Products of BF16 activations, on devices that have such (caps.bf16_states): against the same operation of the same
 * numbers in F32, within one rounding of the result and what another order of sums and factors of 16 bits make; and to
 * the byte however the rows are shared out among calls. Half of the shapes are a product library's, multiples of 8. */
#include "tests/unit/gradients.h"
#include <math.h>
#include <string.h>

static const double EPS = 1.0 / 16777216.0; /* half a unit in the last place of 1 */
static const double HALF = 1.001 / 256.0;   /* what rounding to BF16 may change, of the number */

static bool has_states(op_case *c) {
    vp_caps caps;
    c->be->caps(c->device_one, &caps);
    if (!caps.bf16_states) c->skip = "its activations are F32";
    return caps.bf16_states;
}

static int64_t sized(op_case *c, int64_t most) {
    return most < 8 || case_int(c, 0, 1) ? case_size(c, most) : 8 * case_int(c, 1, most / 8);
}

static vp_mat case_half(op_case *c, int64_t rows, int64_t cols) {
    vp_mat m = case_mat(c, rows, cols);
    return case_bf16(c, &m);
}

/* got is want, rounded once where it is BF16, but for `slack`. */
static void compare(op_case *c, const char *what, const vp_mat *got, const vp_mat *want, double slack) {
    const bool half = got->dtype == VP_BF16;
    const vp_mat wide = half ? case_f32(c, got) : *got;
    const int64_t n = want->rows * want->cols;
    double *values = case_alloc(c, (size_t)n * sizeof *values), *bounds = case_alloc(c, (size_t)n * sizeof *bounds);
    for (int64_t i = 0; i < n; i++) {
        values[i] = (double)mat_row(want, i / want->cols)[i % want->cols];
        bounds[i] = slack + (half ? HALF * fabs(values[i]) : 0);
    }
    case_near(c, what, &wide, values, bounds, 0);
}

/* n products of numbers under 1, summed in two orders */
static double order(int64_t n) {
    return EPS * (sqrt((double)n) + 8) * (double)n;
}

static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)err;
    const vp_mat *m = ctx;
    memcpy(out, mat_row(m, row), (size_t)m->cols * sizeof *out);
    return VP_OK;
}

/* The same numbers, which are BF16's, in both types. */
typedef struct weights {
    vp_weight *half, *wide;
    float *bias;
} weights;

static vp_weight *prepare(op_case *c, const vp_mat *w, const float *bias, vp_dtype type) {
    const vp_weight_part part = {w->rows, read_row, w};
    vp_weight_desc desc = {.part = &part, .nparts = 1, .in = w->cols, .out = w->rows, .compute = type, .bias = bias};
    desc.backward = true;
    vp_weight *weight = NULL;
    vp_error err = {0};
    if (c->be->weight_prepare(c->device_one, &desc, &weight, &err)) case_fail(c, "%s", err.text);
    return weight;
}

static weights make_weights(op_case *c, int64_t n, int64_t k, bool bias) {
    vp_mat w = case_dense(c, n, k);
    case_bf16(c, &w);
    weights both = {.bias = bias ? case_floats(c, n) : NULL};
    both.half = prepare(c, &w, both.bias, VP_BF16);
    both.wide = prepare(c, &w, both.bias, VP_F32);
    return both;
}

static void free_weights(op_case *c, const weights *w) {
    c->be->weight_free(c->device_one, w->half);
    c->be->weight_free(c->device_one, w->wide);
}

/* ---- linear ---- */
/* Some rows have the bytes that they have among all, on the device that has learned the product. */
static void check_cut(op_case *c, const vp_linear_op *whole) {
    const int64_t T = whole->x.rows, first = case_int(c, 0, T - 1), n = case_int(c, 1, T - first);
    vp_linear_op part = *whole;
    part.x = case_cut(&whole->x, first, n);
    part.out = case_half(c, n, whole->out.cols);
    if (part.residual.ptr) {
        part.residual = case_cut(&whole->residual, first, n);
        part.residual.rows = n;
    }
    CASE_OK(c, c->be->linear(c->one, &part), c->one);
    const vp_mat same = case_cut(&whole->out, first, n), want = case_f32(c, &same), got = case_f32(c, &part.out);
    case_same_bytes(c, "rows alone", &got, &want);
}

static void test_linear(op_case *c) {
    if (!has_states(c)) return;
    const int64_t T = case_size(c, 200), K = sized(c, 300), N = sized(c, 300);
    const weights w = make_weights(c, N, K, case_int(c, 0, 1));
    vp_mat x = case_mat(c, T, K), residual = case_mat(c, T, N);
    vp_linear_op op = {.weight = w.half, .x = case_bf16(c, &x), .out = case_half(c, T, N)}, plain = op;
    op.act = plain.act = (vp_act)case_int(c, VP_ACT_NONE, VP_ACT_TANH);
    plain.weight = w.wide;
    plain.x = x;
    plain.out = case_mat(c, T, N);
    const int64_t with = case_int(c, 0, 2); /* a residual: none, F32, BF16 */
    if (with) op.residual = with == 2 ? case_bf16(c, &residual) : residual;
    if (with) plain.residual = residual;
    CASE_OK(c, c->be->linear(c->one, &op), c->one);
    CASE_OK(c, c->be->linear(c->one, &plain), c->one);
    compare(c, "linear", &op.out, &plain.out, 1.2 * order(K) + 32 * EPS);
    check_cut(c, &op);
    free_weights(c, &w);
}

static void test_linear_bwd(op_case *c) {
    if (!has_states(c)) return;
    const vp_batch batch = case_unit_batch(c, case_int(c, 1, 5), 60);
    const int64_t T = batch.T, K = sized(c, 200), N = sized(c, 200);
    const weights w = make_weights(c, N, K, false);
    vp_mat x = case_mat(c, T, K), dout = case_mat(c, T, N), half_dout, half_dx = case_half(c, T, K);
    vp_mat dx = case_mat(c, T, K), dw = case_dense(c, N, K), half_dw = case_copy(c, &dw);
    vp_mat db = case_dense(c, 1, N), half_db = case_copy(c, &db);
    vp_linear_op op = {.weight = w.half, .x = case_bf16(c, &x), .batch = &batch}, plain = op;
    half_dout = case_bf16(c, &dout);
    op.dout = &half_dout, plain.dout = &dout;
    op.dx = &half_dx, plain.dx = &dx;
    op.dw = half_dw.ptr, plain.dw = dw.ptr;
    op.dbias = half_db.ptr, plain.dbias = db.ptr;
    plain.weight = w.wide;
    plain.x = x;
    CASE_OK(c, c->be->linear_bwd_x(c->one, &op), c->one);
    CASE_OK(c, c->be->linear_bwd_w(c->one, &op), c->one);
    CASE_OK(c, c->be->linear_bwd_x(c->one, &plain), c->one);
    CASE_OK(c, c->be->linear_bwd_w(c->one, &plain), c->one);
    compare(c, "dx", &half_dx, &dx, order(N));
    compare(c, "dw", &half_dw, &dw, order(T + 1));
    compare(c, "dbias", &half_db, &db, order(T + 1));
    free_weights(c, &w);
}

/* ---- certification: the shapes of the golden models and SmolLM2, in the types that a product library takes ---- */
static void check_place(op_case *c, const vp_linear_op *whole, int64_t first, int64_t n) {
    vp_linear_op part = *whole;
    part.x = case_cut(&whole->x, first, n);
    part.out = case_mat(c, n, whole->out.cols);
    if (whole->out.dtype == VP_BF16) part.out = case_bf16(c, &part.out);
    CASE_OK(c, c->be->linear(c->one, &part), c->one);
    const vp_mat same = case_cut(&whole->out, first, n);
    const bool half = whole->out.dtype == VP_BF16;
    const vp_mat want = half ? case_f32(c, &same) : same, got = half ? case_f32(c, &part.out) : part.out;
    case_same_bytes(c, "rows elsewhere", &got, &want);
}

static void test_certified(op_case *c) {
    static const int64_t shape[][2] = {{64, 192}, {112, 64}, {576, 1536}, {1536, 576}};
    static const int64_t place[][2] = {{0, 1}, {77, 1}, {5, 17}, {64, 128}, {63, 129}};
    if (!has_states(c)) return;
    const int64_t *s = shape[c->seed % 4], T = 260;
    const weights w = make_weights(c, s[1], s[0], false);
    vp_mat x = case_mat(c, T, s[0]);
    const vp_mat half_x = case_bf16(c, &x);
    for (int i = 0; i < 3; i++) { /* F32; BF16 to F32; BF16 */
        vp_linear_op op = {.weight = i ? w.half : w.wide, .x = i ? half_x : x, .out = case_mat(c, T, s[1])};
        if (i == 2) op.out = case_bf16(c, &op.out);
        CASE_OK(c, c->be->linear(c->one, &op), c->one);
        for (size_t p = 0; p < sizeof place / sizeof *place; p++) check_place(c, &op, place[p][0], place[p][1]);
    }
    free_weights(c, &w);
}

/* ---- lora ---- */
typedef struct adapters {
    vp_lora_part part[2];
    vp_mat da[2], db[2];
} adapters;

static adapters make_adapters(op_case *c, int64_t K, int64_t N) {
    adapters a = {0};
    for (int i = 0; i < 2; i++) {
        const int64_t rank = case_size(c, 24), n = sized(c, N), first = case_int(c, 0, N - n);
        a.part[i] = (vp_lora_part){.rank = (int32_t)rank, .scale = 0.7f, .first = first, .n = n, .adapter = i};
        a.part[i].a = case_floats(c, rank * K);
        a.part[i].b = case_floats(c, n * rank);
        a.da[i] = case_dense(c, rank, K);
        a.db[i] = case_dense(c, n, rank);
    }
    return a;
}

/* With gradients of its own that begin as those of `a`. */
static adapters copy_adapters(op_case *c, const adapters *a) {
    adapters copy = *a;
    for (int i = 0; i < 2; i++) {
        copy.da[i] = case_copy(c, &a->da[i]);
        copy.db[i] = case_copy(c, &a->db[i]);
        copy.part[i].da = copy.da[i].ptr;
        copy.part[i].db = copy.db[i].ptr;
    }
    return copy;
}

static void run_lora(op_case *c, const vp_lora_op *op) {
    CASE_OK(c, c->be->lora(c->one, op), c->one);
    CASE_OK(c, c->be->lora_bwd(c->one, op), c->one);
}

/* Alone or along with a linear; the F32 factors lose 2^-16, and meet K, N or T numbers and R sums of them. */
static void test_lora(op_case *c) {
    if (!has_states(c)) return;
    vp_batch batch = case_unit_batch(c, case_int(c, 1, 5), 60);
    const int64_t T = batch.T, K = sized(c, 150), N = sized(c, 150), along = case_int(c, 0, 1);
    int32_t *adapter_row = case_alloc(c, (size_t)(T + 1) * sizeof *adapter_row);
    for (int64_t t = 0; t < T; t++) adapter_row[t] = (int32_t)case_int(c, 0, 2);
    batch.adapter_row = case_int(c, 0, 1) ? adapter_row : NULL;
    const weights w = make_weights(c, N, K, false);
    const adapters start = make_adapters(c, K, N);
    const adapters half = copy_adapters(c, &start), wide = copy_adapters(c, &start);
    vp_mat x = case_mat(c, T, K), out = case_mat(c, T, N), dout = case_mat(c, T, N), dx = case_mat(c, T, K);
    vp_lora_op op = {.x = case_bf16(c, &x), .out = case_bf16(c, &out), .nparts = 2, .batch = &batch}, plain = op;
    vp_mat half_dout = case_bf16(c, &dout), half_dx = case_bf16(c, &dx);
    op.drop = plain.drop = case_drop(c);
    op.part = half.part, plain.part = wide.part;
    op.dout = &half_dout, plain.dout = &dout;
    op.dx = &half_dx, plain.dx = &dx;
    plain.x = x, plain.out = out;
    vp_linear_op linear = {.weight = w.half, .x = op.x, .out = op.out, .dout = op.dout, .dx = op.dx}, other = linear;
    other = (vp_linear_op){.weight = w.wide, .x = x, .out = out, .dout = &dout, .dx = &dx};
    if (along) op.linear = &linear, plain.linear = &other;
    run_lora(c, &op);
    run_lora(c, &plain);
    const double lost = 4.0 / 65536, scale = op.drop.p > 0.5f ? 4 : 1.5, terms = sqrt((double)(24 * (K + N + T)));
    compare(c, "lora", &op.out, &plain.out, order(K) + lost * terms * scale);
    compare(c, "dx", &half_dx, &dx, order(N) + lost * terms * scale);
    for (int i = 0; i < 2; i++) {
        compare(c, "da", &half.da[i], &wide.da[i], lost * terms * scale * sqrt((double)T + 1));
        compare(c, "db", &half.db[i], &wide.db[i], lost * terms * scale * sqrt((double)T + 1));
    }
    free_weights(c, &w);
}

/* ---- bmm, and cross-entropy ---- */
static void test_bmm(op_case *c) {
    if (!has_states(c)) return;
    const int64_t count = case_int(c, 1, 3), M = sized(c, 70), K = sized(c, 70), N = sized(c, 70);
    vp_mat a = case_mat(c, count * M, K), b = case_mat(c, count * N, K), out = case_mat(c, count * M, N);
    const vp_mat half_a = case_bf16(c, &a), half_b = case_bf16(c, &b), half_out = case_bf16(c, &out);
    vp_bmm_op op = {.a = half_a, .b = half_b, .out = half_out, .transpose_b = true, .alpha = 0.6f, .count = count};
    vp_bmm_op plain = op;
    plain.a = a, plain.b = b, plain.out = out;
    for (int i = 0; i < 2; i++) {
        vp_bmm_op *p = i ? &plain : &op;
        p->stride_a = M * p->a.ld, p->stride_b = N * p->b.ld, p->stride_out = M * p->out.ld;
        p->a.rows = p->out.rows = M;
        p->b.rows = N;
        CASE_OK(c, c->be->bmm(c->one, p), c->one);
    }
    compare(c, "bmm", &half_out, &out, order(K));
}

/* The gradient of the logits, whose magnitudes sum to at most twice the row's share, is rounded before its products. */
static void test_xent(op_case *c) {
    if (!has_states(c)) return;
    const int64_t M = case_size(c, 90), V = sized(c, 300), C = sized(c, 100);
    const weights w = make_weights(c, V, C, case_int(c, 0, 1));
    vp_mat x = case_mat(c, M, C), dx = case_mat(c, M, C), half_dx = case_half(c, M, C);
    vp_mat dw = case_dense(c, V, C), half_dw = case_copy(c, &dw), loss[2];
    int32_t *target = case_alloc(c, (size_t)M * sizeof *target);
    for (int64_t i = 0; i < M; i++) target[i] = case_int(c, 0, 4) ? (int32_t)case_int(c, 0, V - 1) : -1;
    vp_xent_op op = {.x = case_bf16(c, &x), .head = w.half, .target = target, .denominator = 2}, plain = op;
    plain.x = x;
    plain.head = w.wide;
    op.dx = &half_dx, plain.dx = &dx;
    op.dw = half_dw.ptr, plain.dw = dw.ptr;
    for (int i = 0; i < 2; i++) loss[i] = case_dense(c, 1, M);
    op.loss = loss[0].ptr, plain.loss = loss[1].ptr;
    CASE_OK(c, c->be->xent(c->one, &op), c->one);
    CASE_OK(c, c->be->xent(c->one, &plain), c->one);
    compare(c, "loss", &loss[0], &loss[1], 3e-5);
    compare(c, "dx", &half_dx, &dx, HALF + order(V) / 2);
    compare(c, "dw", &half_dw, &dw, HALF * (double)M / 2 + order(M));
    free_weights(c, &w);
}

int main(int argc, char **argv) {
    static const op_test tests[] = {{"linear", test_linear, 30},
                                    {"linear_bwd", test_linear_bwd, 15},
                                    {"certified", test_certified, 4},
                                    {"lora", test_lora, 20},
                                    {"bmm", test_bmm, 15},
                                    {"xent", test_xent, 10}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
