/* linear, lora and bmm against double precision, and to the byte: a row alone, in any batch, at any place, with 1 and 3
 * threads. Products of bf16 against the same of rounded numbers. */
#include "kernels/cpu/cpu.h"
#include "lib/base/half.h"
#include "tests/unit/ops_case.h"
#include "tests/unit/reference.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double EPS = 1.0 / 16777216.0; /* half a unit in the last place of 1 */

/* ---- linear ---- */
typedef struct matrix {
    const float *data;
    int64_t cols;
} matrix;

static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)err;
    const matrix *m = ctx;
    memcpy(out, m->data + row * m->cols, (size_t)m->cols * sizeof *out);
    return VP_OK;
}

static vp_weight *prepare_as(op_case *c, vp_device *d, vp_dtype compute, const float *w, int64_t n, int64_t k,
                             const float *bias) {
    int64_t cut = case_int(c, 0, n);
    matrix top = {w, k}, rest = {w + cut * k, k};
    vp_weight_part parts[] = {{cut, read_row, &top}, {n - cut, read_row, &rest}};
    vp_weight_desc desc = {
        .part = parts, .nparts = 2, .in = k, .out = n, .bias = bias, .compute = compute, .name = "w"};
    desc.backward = compute == VP_BF16;
    vp_weight *weight = NULL;
    vp_error err = {0};
    if (c->be->weight_prepare(d, &desc, &weight, &err)) case_fail(c, "%s", err.text);
    return weight;
}

static vp_weight *prepare(op_case *c, vp_device *d, const float *w, int64_t n, int64_t k, const float *bias) {
    return prepare_as(c, d, VP_F32, w, n, k, bias);
}

static void check_linear_values(op_case *c, const vp_linear_op *op, const float *w, const float *bias) {
    int64_t T = op->x.rows, N = op->out.cols;
    double *want = case_alloc(c, (size_t)(T * N) * sizeof *want),
           *bound = case_alloc(c, (size_t)(T * N) * sizeof *want);
    ref_product(&op->x, w, N, want, bound);
    for (int64_t i = 0; i < T * N; i++) {
        /* K roundings, which cancel as sqrt(K) does. Activations have a slope of at most 1.13 and err by a few units.
         */
        bound[i] = 1.2 * EPS * (sqrt((double)op->x.cols) + 4.0) * bound[i] + 16.0 * EPS;
        double z = want[i] + (bias ? (double)bias[i % N] : 0.0);
        want[i] = ref_act(op->act, z);
        bound[i] += 8.0 * EPS * (1.0 + fabs(z));
        if (op->residual.ptr) want[i] += (double)mat_row(&op->residual, i / N)[i % N];
    }
    case_near(c, "linear", &op->out, want, bound, 0.0);
}

/* Some rows of the batch, moved elsewhere among others: the same bytes. */
static void check_linear_rows(op_case *c, const vp_linear_op *whole) {
    int64_t T = whole->x.rows, some = case_size(c, T);
    int64_t *from = case_alloc(c, (size_t)some * sizeof *from);
    vp_linear_op part = *whole;
    part.x = case_mat(c, some, whole->x.cols);
    part.out = case_mat(c, some, whole->out.cols);
    part.residual.ptr = NULL;
    vp_mat want = case_mat(c, some, whole->out.cols);
    vp_linear_op plain = *whole;
    plain.out = case_mat(c, T, whole->out.cols);
    plain.residual.ptr = NULL;
    CASE_OK(c, c->be->linear(c->one, &plain), c->one);
    for (int64_t i = 0; i < some; i++) {
        from[i] = case_int(c, 0, T - 1);
        memcpy(mat_row(&part.x, i), mat_row(&whole->x, from[i]), (size_t)whole->x.cols * sizeof(float));
        memcpy(mat_row(&want, i), mat_row(&plain.out, from[i]), (size_t)whole->out.cols * sizeof(float));
    }
    CASE_OK(c, c->be->linear(c->one, &part), c->one);
    case_same_bytes(c, "rows elsewhere", &part.out, &want);
}

static void test_linear(op_case *c) {
    int64_t T = case_size(c, 300), K = case_size(c, 700), N = case_size(c, 500);
    float *w = case_floats(c, N * K), *bias = case_int(c, 0, 1) ? case_floats(c, N) : NULL;
    vp_weight *one = prepare(c, c->device_one, w, N, K, bias), *three = prepare(c, c->device_three, w, N, K, bias);
    if (!one || !three) return;
    vp_linear_op op = {.weight = one, .x = case_mat(c, T, K), .out = case_mat(c, T, N)};
    op.act = (vp_act)case_int(c, VP_ACT_NONE, VP_ACT_TANH);
    if (case_int(c, 0, 1)) op.residual = case_mat(c, T, N);
    vp_linear_op again = op;
    again.weight = three;
    again.out = op.residual.ptr && case_int(c, 0, 1) ? (again.residual = case_copy(c, &op.residual)) /* in place */
                                                     : case_mat(c, T, N);
    CASE_OK(c, c->be->linear(c->one, &op), c->one);
    CASE_OK(c, c->be->linear(c->three, &again), c->three);
    check_linear_values(c, &op, w, bias);
    case_same_bytes(c, "3 threads", &again.out, &op.out);
    check_linear_rows(c, &op);
    c->be->weight_free(c->device_one, one);
    c->be->weight_free(c->device_three, three);
}

/* ---- linear in bf16: as that of f32, of rounded inputs and weights ---- */
static vp_mat rounded(op_case *c, const vp_mat *m) {
    vp_mat copy = case_copy(c, m);
    for (int64_t i = 0; i < m->rows; i++)
        for (int64_t j = 0; j < m->cols; j++) mat_row(&copy, i)[j] = vp_bf16_float(vp_float_bf16(mat_row(m, i)[j]));
    return copy;
}

/* dx = dout W, of the same weight, whose transpose is turned [K, N]. */
static void check_backward_bf16(op_case *c, const vp_weight *one, const vp_weight *three, const vp_mat *w, int64_t T) {
    vp_mat dout = case_mat(c, T, w->rows), plain = rounded(c, &dout);
    vp_mat dx = case_mat(c, T, w->cols), again = case_mat(c, T, w->cols);
    float *turned = case_alloc(c, (size_t)(w->rows * w->cols) * sizeof *turned);
    for (int64_t i = 0; i < w->rows; i++)
        for (int64_t j = 0; j < w->cols; j++) turned[j * w->rows + i] = mat_row(w, i)[j];
    vp_linear_op op = {.weight = one, .dout = &dout, .dx = &dx};
    CASE_OK(c, c->be->linear_bwd_x(c->one, &op), c->one);
    op.weight = three;
    op.dx = &again;
    CASE_OK(c, c->be->linear_bwd_x(c->three, &op), c->three);
    case_same_bytes(c, "dx with 3 threads", &again, &dx);
    check_linear_values(c, &(vp_linear_op){.x = plain, .out = dx}, turned, NULL);
}

static void check_forward_bf16(op_case *c, const vp_weight *one, const vp_weight *three, const float *w,
                               const float *bias, int64_t T) {
    vp_linear_op op = {.weight = one, .x = case_mat(c, T, one->in), .out = case_mat(c, T, one->out)};
    op.act = (vp_act)case_int(c, VP_ACT_NONE, VP_ACT_TANH);
    if (case_int(c, 0, 1)) op.residual = case_mat(c, T, one->out);
    vp_linear_op again = op, plain = op;
    again.weight = three;
    again.out = case_mat(c, T, one->out);
    CASE_OK(c, c->be->linear(c->one, &op), c->one);
    CASE_OK(c, c->be->linear(c->three, &again), c->three);
    case_same_bytes(c, "3 threads", &again.out, &op.out);
    plain.x = rounded(c, &op.x);
    check_linear_values(c, &plain, w, bias);
    check_linear_rows(c, &op);
}

static void test_linear_bf16(op_case *c) {
    int64_t T = case_size(c, 200), K = case_size(c, 700), N = case_size(c, 500);
    vp_mat w = {.ptr = case_floats(c, N * K), .dtype = VP_F32, .rows = N, .cols = K, .ld = K}, plain = rounded(c, &w);
    float *bias = case_int(c, 0, 1) ? case_floats(c, N) : NULL;
    vp_caps caps;
    c->be->caps(c->device_one, &caps);
    vp_weight *one = prepare_as(c, c->device_one, VP_BF16, w.ptr, N, K, bias);
    if (!caps.bf16) {
        const bool refused = !one && strstr(c->failure, "no products of BF16");
        c->failure[0] = '\0';
        if (!refused) case_fail(c, "not refused by a device without bf16");
        return;
    }
    vp_weight *three = prepare_as(c, c->device_three, VP_BF16, w.ptr, N, K, bias);
    if (!one || !three) return;
    check_forward_bf16(c, one, three, plain.ptr, bias, T);
    check_backward_bf16(c, one, three, &plain, T);
    c->be->weight_free(c->device_one, one);
    c->be->weight_free(c->device_three, three);
}

/* Our own kernel, which stands back where the library's is certified: values, and a row moved elsewhere. */
static void test_own_bf16(op_case *c) {
    CASE_CPU_ONLY(c, "it is the CPU's");
    const vp_simd *simd = c->device_one->simd;
    int64_t M = case_size(c, 70), K = case_size(c, 300), N = case_size(c, 100), words = vp_bf16_pairs(K);
    if (!c->device_one->bf16) return;
    vp_mat x = case_mat(c, M, K), w = case_mat(c, N, K), out = case_mat(c, M, N), lone = case_mat(c, 1, N);
    float *xs = case_alloc(c, (size_t)(M * words) * sizeof *xs), *ws = case_alloc(c, (size_t)(N * words) * sizeof *ws);
    float *panels = case_alloc(c, (size_t)vp_packed_floats(simd, words, N) * sizeof *panels);
    for (int64_t i = 0; i < M; i++) vp_bf16_round(mat_row(&x, i), (uint16_t *)(xs + i * words), K);
    for (int64_t i = 0; i < N; i++) vp_bf16_round(mat_row(&w, i), (uint16_t *)(ws + i * words), K);
    simd->gemm->pack(ws, words, true, words, N, panels);
    vp_bf16_product((uint16_t *)xs, panels, out.ptr, out.ld, M, words, N);
    int64_t some = case_int(c, 0, M - 1);
    vp_bf16_product((uint16_t *)(xs + some * words), panels, lone.ptr, lone.ld, 1, words, N);
    vp_mat of_all = case_cut(&out, some, 1), plain = rounded(c, &w);
    case_same_bytes(c, "a row alone", &lone, &of_all);
    float *dense = case_alloc(c, (size_t)(N * K) * sizeof *dense);
    for (int64_t i = 0; i < N; i++) memcpy(dense + i * K, mat_row(&plain, i), (size_t)K * sizeof *dense);
    check_linear_values(c, &(vp_linear_op){.x = rounded(c, &x), .out = out}, dense, NULL);
}

/* Every pattern of bits that is a number, but subnormal ones, which become zeros; what is past the end stays. */
static void test_round_bf16(op_case *c) {
    CASE_CPU_ONLY(c, "it is the CPU's");
    enum { N = 64 };
    float x[N];
    uint16_t out[N + 2];
    const int64_t n = case_int(c, 1, N);
    if (!c->device_one->bf16) return;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)case_int(c, 0, UINT32_MAX);
        if (case_int(c, 0, 1)) bits = (bits & 0xffff0000U) | 0x8000U; /* half way between two */
        x[i] = vp_float_from_bits((bits >> 23 & 255) == 255 ? bits & 0xff800000U : bits);
    }
    memset(out, 0x55, sizeof out);
    vp_bf16_round(x, out, n);
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = vp_float_bits(x[i]);
        const uint16_t want = bits >> 23 & 255 ? vp_float_bf16(x[i]) : (uint16_t)(bits >> 16 & 0x8000);
        if (out[i] != want) case_fail(c, "%a is %04x, not %04x", (double)x[i], out[i], want);
    }
    if (out[n] != (n % 2 ? 0 : 0x5555) || out[n + 1] != 0x5555) case_fail(c, "wrong past the end");
}

static int fail_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)ctx, (void)out;
    return row >= 5 ? vp_fail(err, VP_DATA, "row %lld: damaged", (long long)row) : VP_OK;
}

/* A reader's failure comes through, that of the lowest panel; a wrong shape is refused. */
static void test_refusals(op_case *c) {
    vp_weight_part part = {900, fail_row, NULL};
    vp_weight_desc desc = {.part = &part, .nparts = 1, .in = 40, .out = 900, .compute = VP_F32};
    vp_weight *w = NULL;
    vp_error err = {0};
    if (c->be->weight_prepare(c->device_three, &desc, &w, &err) != VP_DATA || strcmp(err.text, "row 5: damaged") != 0)
        case_fail(c, "a failing reader gave '%s'", err.text);
    desc.out = 901;
    err = (vp_error){0};
    if (c->be->weight_prepare(c->device_one, &desc, &w, &err) != VP_BUG || w) case_fail(c, "901 of 900 rows taken");
    w = prepare(c, c->device_one, case_floats(c, 12), 3, 4, NULL);
    vp_linear_op op = {.weight = w, .x = case_mat(c, 2, 5), .out = case_mat(c, 2, 3)};
    if (c->be->linear(c->one, &op) != VP_BUG || !strstr(c->be->why(c->one), "linear.x"))
        case_fail(c, "x with 5 columns of 4 gave '%s'", c->be->why(c->one));
    op.x = case_mat(c, 0, 4);
    op.out = case_mat(c, 0, 3);
    CASE_OK(c, c->be->linear(c->one, &op), c->one);
    c->be->weight_free(c->device_one, w);
}

/* ---- lora ---- */
static bool applies(const vp_lora_op *op, const vp_lora_part *p, int64_t t) {
    return !op->batch->adapter_row || op->batch->adapter_row[t] == p->adapter;
}

static void lora_reference(op_case *c, const vp_lora_op *op, double *want, double *bound) {
    int64_t T = op->x.rows, N = op->out.cols;
    for (int64_t i = 0; i < T * N; i++) {
        want[i] = (double)mat_row(&op->out, i / N)[i % N];
        bound[i] = 4.0 * EPS * (1.0 + fabs(want[i]));
    }
    for (int32_t k = 0; k < op->nparts; k++) {
        const vp_lora_part *p = &op->part[k];
        double *t = case_alloc(c, (size_t)(T * p->rank) * sizeof *t), *size = case_alloc(c, (size_t)(T * p->rank) * 8);
        ref_product(&op->x, p->a, p->rank, t, size);
        for (int64_t i = 0; i < T; i++)
            for (int64_t j = 0; j < p->n && applies(op, p, i); j++)
                for (int64_t r = 0; r < p->rank; r++) {
                    double b = (double)p->scale * (double)p->b[j * p->rank + r];
                    want[i * N + p->first + j] += t[i * p->rank + r] * b;
                    bound[i * N + p->first + j] +=
                        EPS * (double)(op->x.cols + p->rank + 8) * size[i * p->rank + r] * fabs(b);
                }
    }
}

static void test_lora(op_case *c) {
    int64_t T = case_size(c, 130), K = case_size(c, 100), N = case_size(c, 150);
    int32_t nparts = (int32_t)case_int(c, 1, 4);
    vp_lora_part *part = case_alloc(c, (size_t)nparts * sizeof *part);
    for (int32_t i = 0; i < nparts; i++) {
        int64_t first = case_int(c, 0, N - 1), n = case_int(c, 1, N - first), rank = case_size(c, 40);
        part[i] = (vp_lora_part){.a = case_floats(c, rank * K),
                                 .b = case_floats(c, n * rank),
                                 .rank = (int32_t)rank,
                                 .scale = case_float(c),
                                 .first = first,
                                 .n = n,
                                 .adapter = (int32_t)case_int(c, 0, 2)};
    }
    int32_t *rows = case_alloc(c, (size_t)T * sizeof *rows);
    for (int64_t t = 0; t < T; t++) rows[t] = (int32_t)case_int(c, 0, 2);
    vp_batch batch = {.T = T, .adapter_row = case_int(c, 0, 1) ? rows : NULL};
    vp_lora_op op = {.x = case_mat(c, T, K), .out = case_mat(c, T, N), .part = part, .nparts = nparts, .batch = &batch};
    double *want = case_alloc(c, (size_t)(T * N) * sizeof *want),
           *bound = case_alloc(c, (size_t)(T * N) * sizeof *want);
    lora_reference(c, &op, want, bound);
    vp_lora_op again = op, alone = op;
    again.out = case_copy(c, &op.out);
    int64_t row = case_int(c, 0, T - 1);
    vp_mat start = case_copy(c, &op.out);
    vp_batch single = {.T = 1, .adapter_row = batch.adapter_row ? rows + row : NULL};
    alone.batch = &single;
    alone.x = case_cut(&op.x, row, 1);
    alone.out = case_cut(&start, row, 1);
    CASE_OK(c, c->be->lora(c->one, &op), c->one);
    CASE_OK(c, c->be->lora(c->three, &again), c->three);
    CASE_OK(c, c->be->lora(c->one, &alone), c->one);
    case_near(c, "lora", &op.out, want, bound, 0.0);
    case_same_bytes(c, "3 threads", &again.out, &op.out);
    vp_mat same = case_cut(&op.out, row, 1);
    case_same_bytes(c, "a row alone", &alone.out, &same);
}

/* ---- bmm ---- */
static void test_bmm(op_case *c) {
    int64_t M = case_size(c, 70), K = case_size(c, 70), N = case_size(c, 70), count = case_int(c, 1, 4);
    vp_mat a = case_mat(c, M * count, K), b = case_mat(c, N * count, K), out = case_mat(c, M * count, N);
    float *bt = case_alloc(c, (size_t)(count * K * N) * sizeof *bt),
          *dense = case_alloc(c, (size_t)(N * K) * sizeof *bt);
    vp_bmm_op op = {.a = a,
                    .b = b,
                    .out = out,
                    .count = count,
                    .stride_a = M * a.ld,
                    .stride_b = N * b.ld,
                    .stride_out = M * out.ld,
                    .transpose_b = true,
                    .alpha = case_int(c, 0, 1) ? 1.0f : case_float(c)};
    op.a.rows = op.out.rows = M;
    op.b.rows = N;
    CASE_OK(c, c->be->bmm(c->three, &op), c->three);
    double *want = case_alloc(c, (size_t)(M * N) * sizeof *want),
           *bound = case_alloc(c, (size_t)(M * N) * sizeof *want);
    for (int64_t i = 0; i < count; i++) {
        for (int64_t r = 0; r < N; r++)
            for (int64_t k = 0; k < K; k++) bt[(i * K + k) * N + r] = dense[r * K + k] = mat_row(&b, i * N + r)[k];
        vp_mat ai = case_cut(&a, i * M, M), got = case_cut(&out, i * M, M);
        ref_product(&ai, dense, N, want, bound);
        for (int64_t e = 0; e < M * N; e++) {
            want[e] *= (double)op.alpha;
            bound[e] = EPS * ((double)K + 4.0) * (bound[e] + 1.0);
        }
        case_near(c, "bmm", &got, want, bound, 0.0);
    }
    vp_bmm_op other = op; /* the same numbers the other way round */
    other.b = (vp_mat){.ptr = bt, .dtype = VP_F32, .rows = K, .cols = N, .ld = N};
    other.stride_b = K * N;
    other.transpose_b = false;
    other.out = case_mat(c, M * count, N);
    vp_mat all = other.out;
    other.out.rows = M;
    other.stride_out = M * all.ld;
    CASE_OK(c, c->be->bmm(c->one, &other), c->one);
    case_same_bytes(c, "b transposed", &all, &out);
}

int main(int argc, char **argv) {
    static const op_test tests[] = {{"linear", test_linear, 60},
                                    {"linear-bf16", test_linear_bf16, 40},
                                    {"own-bf16", test_own_bf16, 40},
                                    {"round-bf16", test_round_bf16, 40},
                                    {"refusals", test_refusals, 1},
                                    {"lora", test_lora, 60},
                                    {"bmm", test_bmm, 40}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
