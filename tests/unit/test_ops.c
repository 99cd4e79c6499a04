/* Row-wise operations against double precision, and to the byte with 1 and 3 threads and row by row; the bounds of our
 * own exp, tanh and erf over their whole range. */
#include "kernels/cpu/simd_tables.h"
#include "lib/base/half.h"
#include "tests/unit/ops_case.h"
#include "tests/unit/reference.h"
#include <math.h>
#include <string.h>

static const double EPS = 1.0 / 16777216.0; /* half a unit in the last place of 1 */

static double *doubles(op_case *c, int64_t n) {
    return case_alloc(c, (size_t)(n + 1) * sizeof(double));
}

/* ---- functions ---- */
typedef struct function {
    const char *name;
    void (*ours)(const float *x, float *out, int64_t n);
    double (*exact)(double x);
    float from, to;
    double relative, absolute;
} function;

static void check_function(op_case *c, const function *f) {
    enum { N = 200003 };
    float *x = case_alloc(c, N * sizeof *x), *y = case_alloc(c, N * sizeof *y);
    for (int i = 0; i < N; i++) x[i] = f->from + (f->to - f->from) * ((float)i / (float)(N - 1));
    f->ours(x, y, N);
    for (int i = 0; i < N; i++) {
        double want = f->exact((double)x[i]), off = fabs((double)y[i] - want);
        if (!(off <= fabs(want) * f->relative + f->absolute))
            case_fail(c, "%s(%.9g) is %.9g, not %.9g", f->name, (double)x[i], (double)y[i], want);
    }
}

static void test_functions(op_case *c) {
    const vp_simd *simd = NULL;
    vp_error err = {0};
    CASE_CPU_ONLY(c, "the functions are inside kernels");
    if (vp_simd_choose(c->isa, &simd, &err)) {
        case_fail(c, "%s", err.text);
        return;
    }
    const vp_simd_acts *a = simd->acts;
    const function functions[] = {{"exp", a->exp, exp, -87.3f, 88.7f, 3.0 * EPS, 0.0},
                                  {"exp", a->exp, exp, -1.0f, 1.0f, 3.0 * EPS, 0.0},
                                  {"exp", a->exp, exp, -200.0f, -87.2f, 3.0 * EPS, 0x1p-126},
                                  {"tanh", a->tanh, tanh, -12.0f, 12.0f, 4.0 * EPS, 0.0},
                                  {"tanh", a->tanh, tanh, -0.7f, 0.7f, 4.0 * EPS, 0.0},
                                  {"erf", a->erf, erf, -6.0f, 6.0f, 4.0 * EPS, 0.0},
                                  {"erf", a->erf, erf, -0.01f, 0.01f, 4.0 * EPS, 0.0}};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) check_function(c, &functions[i]);
    const float special[] = {-INFINITY, INFINITY, NAN, 0.0f};
    float e[4], t[4], r[4];
    a->exp(special, e, 4);
    a->tanh(special, t, 4);
    a->erf(special, r, 4);
    if (!(e[0] == 0.0f && e[1] == INFINITY && isnan(e[2]) && e[3] == 1.0f)) case_fail(c, "exp of special values");
    if (!(t[0] == -1.0f && t[1] == 1.0f && isnan(t[2]) && t[3] == 0.0f)) case_fail(c, "tanh of special values");
    if (!(r[0] == -1.0f && r[1] == 1.0f && isnan(r[2]) && r[3] == 0.0f)) case_fail(c, "erf of special values");
}

/* ---- embed ---- */
typedef struct table {
    const vp_mat *m;
    int64_t broken; /* reading this row fails */
} table;

static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    const table *t = ctx;
    if (row == t->broken) return vp_fail(err, VP_DATA, "row %lld: damaged", (long long)row);
    memcpy(out, mat_row(t->m, row), (size_t)t->m->cols * sizeof *out);
    return VP_OK;
}

static void check_embed_failures(op_case *c, vp_embed_op *op, table *t, int32_t *ids) {
    t->broken = ids[op->batch->T - 1];
    int64_t first = 0;
    while (ids[first] != t->broken) first++;
    if (t->broken < op->table.rows && c->be->embed(c->three, op) != VP_DATA) case_fail(c, "a broken row was read");
    t->broken = -1;
    ids[first] = (int32_t)(op->table.rows + op->extra.rows);
    if (c->be->embed(c->three, op) != VP_BUG) case_fail(c, "an id past the end was taken");
}

/* Both tables on the device, as F32 or BF16. */
static vp_weight *make_resident(op_case *c, const vp_embed_op *op, vp_dtype type) {
    const vp_weight_part part[] = {op->table, op->extra};
    const vp_weight_desc desc = {
        .part = part, .nparts = 2, .in = op->C, .out = op->table.rows + op->extra.rows, .compute = type, .rows = true};
    vp_weight *w = NULL;
    vp_error err = {0};
    if (c->be->weight_prepare(c->device_three, &desc, &w, &err)) case_fail(c, "%s", err.text);
    return w;
}

static void test_embed(op_case *c) {
    int64_t T = case_size(c, 500), V = case_size(c, 90), C = case_size(c, 200), extra = case_int(c, 0, 3);
    const bool separate = case_separate(c), half = separate && case_int(c, 0, 1);
    vp_mat rows = case_mat(c, V, C), more = case_mat(c, extra, C);
    if (half) { /* the numbers are BF16's */
        case_bf16(c, &rows);
        case_bf16(c, &more);
    }
    table first = {&rows, -1}, second = {&more, -1};
    int32_t *ids = case_alloc(c, (size_t)T * sizeof *ids), cu[] = {0, (int32_t)T};
    for (int64_t t = 0; t < T; t++) ids[t] = (int32_t)case_int(c, 0, V + extra - 1);
    vp_batch batch = case_batch(c, cu, 1);
    vp_embed_op op = {.batch = &batch, .ids = ids, .table = {V, read_row, &first}, .extra = {extra, read_row, &second}};
    op.C = C;
    op.scale = case_int(c, 0, 1) ? 1.0f : 7.5f;
    op.positions = case_int(c, 0, 1) ? case_floats(c, T * C) : NULL;
    op.types = case_int(c, 0, 1) ? case_floats(c, C) : NULL;
    op.out = case_mat(c, T, C);
    vp_weight *resident = separate ? make_resident(c, &op, half ? VP_BF16 : VP_F32) : NULL;
    op.resident = resident;
    CASE_OK(c, c->be->embed(c->three, &op), c->three);
    if (separate) c->be->weight_free(c->device_three, resident);
    double *want = doubles(c, T * C);
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = 0; j < C; j++) {
            const vp_mat *m = ids[t] < V ? &rows : &more;
            want[t * C + j] = (double)op.scale * (double)mat_row(m, ids[t] < V ? ids[t] : ids[t] - V)[j] +
                              (op.positions ? (double)op.positions[t * C + j] : 0.0) +
                              (op.types ? (double)op.types[j] : 0.0);
        }
    case_near(c, "embed", &op.out, want, NULL, 40.0 * EPS);
    if (!separate) check_embed_failures(c, &op, &first, ids);
}

/* ---- norm ---- */
/* Rows that a backend holds in registers, now and then some that it does not. */
static int64_t row_length(op_case *c, int64_t most) {
    return case_int(c, 0, 9) ? case_size(c, most) : case_int(c, 1000, 9000);
}

/* rstd[t * heads + h] is 1 / deviation: out = (x - mean) rstd weight. */
static void check_rstd(op_case *c, const vp_norm_op *op) {
    int64_t heads = op->heads > 0 ? op->heads : 1, n = op->x.cols / heads;
    for (int64_t i = 0; i < op->x.rows * heads; i++) {
        const float *x = mat_row(&op->x, i / heads) + i % heads * n;
        double mean = 0.0, square = 0.0;
        for (int64_t j = 0; j < n && op->kind == VP_NORM_LAYER; j++) mean += (double)x[j] / (double)n;
        for (int64_t j = 0; j < n; j++) square += pow((double)x[j] - mean, 2.0) / (double)n;
        double want = 1.0 / sqrt(square + (double)op->eps);
        if (!(fabs((double)op->rstd[i] - want) <= 100.0 * EPS * want)) case_fail(c, "rstd %lld", (long long)i);
    }
}

/* One row of x as it was, by itself. */
static void check_row_alone(op_case *c, const vp_norm_op *all, const vp_mat *x) {
    const int64_t t = case_int(c, 0, all->x.rows - 1);
    const vp_mat same = case_cut(&all->out, t, 1);
    vp_norm_op op = *all;
    op.x = case_cut(x, t, 1);
    op.out = case_mat(c, 1, all->out.cols);
    op.rstd = NULL;
    if (op.d.ptr) op.d = case_cut(&all->d, t, 1);
    CASE_OK(c, c->be->norm(c->one, &op), c->one);
    case_same_bytes(c, "a row alone", &op.out, &same);
}

static void test_norm(op_case *c) {
    int64_t T = case_size(c, 70), heads = case_int(c, 0, 3), n = row_length(c, 700), C = n * (heads ? heads : 1);
    vp_norm_op op = {.kind = (vp_norm_kind)case_int(c, VP_NORM_RMS, VP_NORM_LAYER), .x = case_mat(c, T, C)};
    op.out = case_mat(c, T, C);
    op.heads = (int32_t)heads;
    op.weight = case_floats(c, n);
    op.bias = op.kind == VP_NORM_LAYER ? case_floats(c, n) : NULL;
    op.eps = 1e-5f;
    if (case_int(c, 0, 1)) op.d = case_mat(c, T, C);
    op.rstd = case_alloc(c, (size_t)(T * (heads ? heads : 1)) * sizeof *op.rstd);
    vp_norm_op again = op;
    again.rstd = NULL;
    again.out = again.x = case_copy(c, &op.x); /* in place, as post-norm does */
    vp_mat sum = case_copy(c, &op.x), whole = case_copy(c, &op.x);
    for (int64_t i = 0; i < T * C && op.d.ptr; i++) mat_row(&sum, i / C)[i % C] += mat_row(&op.d, i / C)[i % C];
    CASE_OK(c, c->be->norm(c->one, &op), c->one);
    CASE_OK(c, c->be->norm(c->three, &again), c->three);
    case_same_bytes(c, "x += d", &op.x, &sum);
    case_same_bytes(c, "3 threads, in place", &again.out, &op.out);
    check_rstd(c, &op);
    check_row_alone(c, &op, &whole);
    double *want = doubles(c, T * C);
    ref_norm(&op, want);
    /* |x| / deviation <= sqrt(n); one column has its own value as its mean */
    case_near(c, "norm", &op.out, want, NULL, (n == 1 ? 2000.0 : 24.0 * sqrt((double)n)) * EPS);
}

/* ---- softmax, l2norm ---- */
static void test_softmax(op_case *c) {
    int64_t T = case_size(c, 40), n = row_length(c, 500);
    vp_softmax_op op = {.x = case_mat(c, T, n), .out = case_mat(c, T, n)};
    for (int64_t i = 0; i < T * n; i++) mat_row(&op.x, i / n)[i % n] *= 20.0f;
    vp_softmax_op again = {.x = op.x, .out = case_mat(c, T, n)};
    CASE_OK(c, c->be->softmax_rows(c->one, &op), c->one);
    CASE_OK(c, c->be->softmax_rows(c->three, &again), c->three);
    case_same_bytes(c, "3 threads", &again.out, &op.out);
    double *want = doubles(c, T * n);
    ref_softmax(&op.x, want);
    case_near(c, "softmax", &op.out, want, NULL, 40.0 * EPS);
}

static void test_l2norm(op_case *c) {
    int64_t T = case_size(c, 40), n = row_length(c, 500);
    float *norms = case_floats(c, T);
    vp_l2norm_op op = {.x = case_mat(c, T, n), .out = case_mat(c, T, n), .norm = norms};
    memset(mat_row(&op.x, 0), 0, (size_t)n * sizeof(float)); /* a zero row stays zero */
    CASE_OK(c, c->be->l2norm(c->three, &op), c->three);
    double *want = doubles(c, T * n);
    for (int64_t t = 0; t < T; t++) {
        double sum = 0.0;
        for (int64_t j = 0; j < n; j++) sum += pow((double)mat_row(&op.x, t)[j], 2.0);
        double norm = fmax(sqrt(sum), 1e-12);
        for (int64_t j = 0; j < n; j++) want[t * n + j] = (double)mat_row(&op.x, t)[j] / norm;
        if (!(fabs((double)norms[t] - norm) <= norm * 32.0 * EPS)) case_fail(c, "norm %lld", (long long)t);
    }
    case_near(c, "l2norm", &op.out, want, NULL, 40.0 * EPS);
}

/* ---- rope ---- */
static void test_rope(op_case *c) {
    int64_t B = case_int(c, 1, 3);
    const int32_t *cu = case_offsets(c, B, 90);
    vp_batch batch = case_batch(c, cu, B);
    int32_t heads = (int32_t)case_int(c, 1, 4), d = 2 * (int32_t)case_size(c, 70);
    int32_t rotary = case_int(c, 0, 1) ? d : 2 * (int32_t)case_int(c, 0, d / 2);
    vp_rope_op op = {.batch = &batch, .x = case_mat(c, batch.T, (int64_t)heads * d), .heads = heads, .d = d};
    op.rotary = rotary;
    op.interleaved = case_int(c, 0, 1);
    op.sign = case_int(c, 0, 1) ? 1 : -1;
    int64_t n = 200 * (rotary / 2);
    float *co = case_alloc(c, (size_t)(n + 1) * sizeof *co), *si = case_alloc(c, (size_t)(n + 1) * sizeof *si);
    for (int64_t i = 0; i < n; i++) {
        co[i] = (float)cos((double)i * 0.37);
        si[i] = (float)sin((double)i * 0.37);
    }
    op.cos = co;
    op.sin = si;
    double *want = doubles(c, batch.T * op.x.cols);
    ref_rope(&op, want);
    vp_rope_op again = op;
    again.x = case_copy(c, &op.x);
    CASE_OK(c, c->be->rope(c->one, &op), c->one);
    CASE_OK(c, c->be->rope(c->three, &again), c->three);
    case_same_bytes(c, "3 threads", &again.x, &op.x);
    case_near(c, "rope", &op.x, want, NULL, 4.0 * EPS);
}

/* ---- rope_shift ---- */
/* Keys of the positions of a batch, in f32: x at these positions, each s further on. */
static vp_mat keys_at(op_case *c, vp_rope_op rope, const vp_mat *x, int32_t further) {
    int32_t *pos = case_alloc(c, (size_t)(rope.batch->T + 1) * sizeof *pos);
    vp_batch batch = *rope.batch;
    for (int64_t t = 0; t < batch.T; t++) pos[t] = batch.pos[t] + further;
    batch.pos = pos;
    rope.batch = &batch;
    rope.x = case_copy(c, x);
    CASE_OK(c, c->be->rope(c->one, &rope), c->one);
    return rope.x;
}

/* k in bf16, shifted there, and as f32 again */
static vp_mat shift_bf16(op_case *c, vp_rope_shift_op op, vp_queue *q) {
    const vp_mat wide = op.k;
    op.k.dtype = VP_BF16;
    op.k.ptr = case_alloc(c, (size_t)(wide.rows * wide.ld) * sizeof(uint16_t));
    uint16_t *h = op.k.ptr;
    for (int64_t i = 0; i < wide.rows * wide.cols; i++)
        h[i / wide.cols * wide.ld + i % wide.cols] = vp_float_bf16(mat_row(&wide, i / wide.cols)[i % wide.cols]);
    CASE_OK(c, c->be->rope_shift(q, &op), q);
    vp_mat out = case_copy(c, &wide);
    for (int64_t i = 0; i < wide.rows * wide.cols; i++)
        mat_row(&out, i / wide.cols)[i % wide.cols] = vp_bf16_float(h[i / wide.cols * wide.ld + i % wide.cols]);
    return out;
}

static void test_rope_shift(op_case *c) {
    enum { POSITIONS = 400 };
    const int64_t B = case_int(c, 1, 3);
    const vp_batch batch = case_batch(c, case_offsets(c, B, 90), B);
    const int32_t heads = (int32_t)case_int(c, 1, 4), d = 2 * (int32_t)case_size(c, 70);
    const int32_t rotary = case_int(c, 0, 1) ? d : 2 * (int32_t)case_int(c, 0, d / 2), half = rotary / 2;
    const int32_t further = (int32_t)case_int(c, 0, 300);
    float *co = case_alloc(c, (size_t)(POSITIONS * half + 1) * sizeof *co);
    float *si = case_alloc(c, (size_t)(POSITIONS * half + 1) * sizeof *si);
    for (int32_t i = 0; i < POSITIONS * half; i++) {
        const double angle = (double)(i / half) / (1 + i % half);
        co[i] = (float)cos(angle);
        si[i] = (float)sin(angle);
    }
    const vp_mat x = case_mat(c, batch.T, (int64_t)heads * d);
    vp_rope_op rope = {.batch = &batch, .heads = heads, .d = d, .rotary = rotary, .sign = 1, .cos = co, .sin = si};
    rope.interleaved = case_int(c, 0, 1) == 1;
    const vp_mat there = keys_at(c, rope, &x, further);
    double *want = case_alloc(c, (size_t)(batch.T * x.cols + 1) * sizeof *want);
    for (int64_t i = 0; i < batch.T * x.cols; i++) want[i] = (double)mat_row(&there, i / x.cols)[i % x.cols];
    vp_rope_shift_op op = {.k = keys_at(c, rope, &x, 0), .heads = heads, .d = d, .rotary = rotary};
    op.interleaved = rope.interleaved;
    op.cos = co + further * half;
    op.sin = si + further * half;
    const vp_mat bf16 = shift_bf16(c, op, c->one), again = shift_bf16(c, op, c->three);
    CASE_OK(c, c->be->rope_shift(c->three, &op), c->three);
    case_near(c, "f32", &op.k, want, NULL, 16 * EPS);
    case_guards(c, "f32", &op.k);
    case_near(c, "bf16", &bf16, want, NULL, 2.5 / 256); /* two roundings of numbers up to 1.42, the first one turned */
    case_same_bytes(c, "3 threads", &again, &bf16);
}

/* ---- activations ---- */
static void test_activations(op_case *c) {
    int64_t T = case_size(c, 40), n = case_size(c, 500);
    vp_mat both = case_mat(c, T, 2 * n), gate = both, up = both; /* gate and up are columns of one matrix */
    gate.cols = up.cols = n;
    up.ptr = (float *)both.ptr + n;
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = 0; j < n; j++) mat_row(&gate, t)[j] *= 12.0f;
    vp_glu_op glu = {.act = (vp_act)case_int(c, VP_ACT_NONE, VP_ACT_TANH), .gate = gate, .up = up};
    glu.out = case_mat(c, T, n);
    vp_act_op act = {.act = glu.act, .x = case_mat(c, T, n), .out = case_mat(c, T, n)};
    for (int64_t t = 0; t < T; t++) memcpy(mat_row(&act.x, t), mat_row(&gate, t), (size_t)n * sizeof(float));
    CASE_OK(c, c->be->glu(c->three, &glu), c->three);
    CASE_OK(c, c->be->act(c->one, &act), c->one);
    double *want = doubles(c, T * n), *product = doubles(c, T * n), *bound = doubles(c, T * n);
    for (int64_t i = 0; i < T * n; i++) {
        double x = (double)mat_row(&gate, i / n)[i % n];
        want[i] = ref_act(glu.act, x);
        product[i] = want[i] * (double)mat_row(&up, i / n)[i % n];
        bound[i] = 8.0 * EPS * (fabs(x) + 0.01); /* GELU's tail is a difference of numbers near 1/2 x */
    }
    case_near(c, "act", &act.out, want, bound, 0.0);
    case_near(c, "glu", &glu.out, product, bound, 0.0);
}

/* Far out, where exp overflows and underflows; a NaN stays one. */
static void test_act_range(op_case *c) {
    enum { N = 4003 };
    vp_act_op op = {.x = case_mat(c, 1, N), .out = case_mat(c, 1, N)};
    double *want = doubles(c, N), *bound = doubles(c, N);
    for (int a = VP_ACT_NONE; a <= VP_ACT_TANH; a++) {
        op.act = (vp_act)a;
        for (int i = 0; i < N; i++) {
            const float x = 200.0f * ((float)i / (float)(N - 1)) - 100.0f;
            mat_row(&op.x, 0)[i] = x;
            want[i] = ref_act(op.act, (double)x);
            bound[i] = 8.0 * EPS * (fabs((double)x) + 0.01);
        }
        CASE_OK(c, c->be->act(c->one, &op), c->one);
        case_near(c, "act", &op.out, want, bound, 0.0);
        mat_row(&op.x, 0)[7] = NAN;
        CASE_OK(c, c->be->act(c->one, &op), c->one);
        if (!isnan(mat_row(&op.out, 0)[7])) case_fail(c, "activation %d of NaN", a);
    }
}

/* ---- element-wise ---- */
static void test_elements(op_case *c) {
    int64_t T = case_size(c, 300), n = case_size(c, 300);
    vp_elem_op op = {.x = case_mat(c, T, n), .a = case_float(c), .b = case_float(c), .out = case_mat(c, T, n)};
    if (case_int(c, 0, 1)) op.y = case_mat(c, T, n);
    CASE_OK(c, c->be->add(c->three, &op), c->three);
    double *want = doubles(c, T * n);
    for (int64_t i = 0; i < T * n; i++)
        want[i] = (double)op.a * (double)mat_row(&op.x, i / n)[i % n] +
                  (op.y.ptr ? (double)op.b * (double)mat_row(&op.y, i / n)[i % n] : 0.0);
    case_near(c, "add", &op.out, want, NULL, 4.0 * EPS);
    vp_mat half = {.ptr = case_alloc(c, (size_t)(T * n) * 2), .dtype = VP_BF16, .rows = T, .cols = n, .ld = n};
    vp_elem_op down = {.x = op.x, .out = half}, up = {.x = half, .out = op.out};
    CASE_OK(c, c->be->cast(c->three, &down), c->three);
    CASE_OK(c, c->be->cast(c->one, &up), c->one);
    for (int64_t i = 0; i < T * n; i++) want[i] = (double)mat_row(&op.x, i / n)[i % n];
    case_near(c, "bf16 and back", &op.out, want, NULL, 1.0 / 512.0);
    vp_elem_op fill = {.a = 0.25f, .out = op.out};
    CASE_OK(c, c->be->fill(c->three, &fill), c->three);
    for (int64_t i = 0; i < T * n; i++) want[i] = 0.25;
    case_near(c, "fill", &op.out, want, NULL, 0.0);
}

/* Ties go to even, NaN stays NaN, what is too large becomes infinite. */
static void test_bf16(op_case *c) {
    static const uint32_t from[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x7f800000, 0x7fc00001, 0x7f800001, 0x7f7fffff};
    static const uint16_t to[] = {0x3f80, 0x3f82, 0x3f81, 0x7f80, 0x7fc0, 0x7fc0, 0x7f80};
    enum { N = sizeof to / sizeof *to };
    uint16_t *got = case_alloc(c, N * sizeof *got);
    uint32_t *copy = case_alloc(c, sizeof from);
    memcpy(copy, from, sizeof from);
    vp_elem_op op = {.x = {.ptr = copy, .dtype = VP_F32, .rows = 1, .cols = N, .ld = N},
                     .out = {.ptr = got, .dtype = VP_BF16, .rows = 1, .cols = N, .ld = N}};
    CASE_OK(c, c->be->cast(c->one, &op), c->one);
    for (int i = 0; i < N; i++) {
        const bool good = isnan(vp_bf16_float(to[i])) ? isnan(vp_bf16_float(got[i])) : got[i] == to[i];
        if (!good) case_fail(c, "%08x became %04x, not %04x", from[i], got[i], to[i]);
    }
}

int main(int argc, char **argv) {
    static const op_test tests[] = {{"functions", test_functions, 1},
                                    {"embed", test_embed, 40},
                                    {"norm", test_norm, 60},
                                    {"softmax", test_softmax, 40},
                                    {"l2norm", test_l2norm, 30},
                                    {"rope", test_rope, 40},
                                    {"rope_shift", test_rope_shift, 40},
                                    {"activations", test_activations, 40},
                                    {"act_range", test_act_range, 1},
                                    {"elements", test_elements, 30},
                                    {"bf16", test_bf16, 1}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
