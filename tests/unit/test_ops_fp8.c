/* FP8: rows quantised inside the norm, inside the gate and alone, bit for bit as the same operation's F32 result is
 * quantised here, by a search among E4M3's numbers; products of them within what another order of their sums makes, and
 * to the byte however the rows are shared out among calls. */
#include "tests/unit/gradients.h"
#include <math.h>
#include <string.h>

static const double EPS = 1.0 / 16777216.0; /* half a unit in the last place of 1 */
static const double HALF = 1.001 / 256.0;   /* what rounding to BF16 may change, of the number */
enum { UNTOUCHED = 0xa5 };

/* ---- E4M3 here ---- */
static double number_of(unsigned code) {
    const int exponent = (int)(code >> 3 & 15), of = (int)(code & 7);
    const double size = exponent ? ldexp(1 + of / 8.0, exponent - 7) : ldexp(of / 8.0, -6);
    return (code & 0x7f) == 0x7f ? NAN : code & 0x80 ? -size : size;
}

static unsigned code_of(float x) {
    const double size = fabs((double)x);
    const unsigned sign = signbit(x) ? 0x80 : 0;
    unsigned low = 0, high = 0x7e;
    if (isnan(x)) return 0x7f;
    if (size >= 448) return sign | high;
    while (high - low > 1) { /* number_of(low) <= size < number_of(high) */
        const unsigned middle = (low + high) / 2;
        if (number_of(middle) <= size)
            low = middle;
        else
            high = middle;
    }
    const double up = number_of(high) - size, down = size - number_of(low);
    return sign | (up < down || (up == down && high % 2 == 0) ? high : low);
}

/* ---- cases ---- */
static bool is_there(const op_case *c) {
    vp_caps caps;
    c->be->caps(c->device_one, &caps);
    return caps.fp8;
}

static bool has_fp8(op_case *c) {
    if (!is_there(c)) c->skip = "it has no FP8";
    return is_there(c);
}

static int64_t sized(op_case *c, int64_t most) {
    return case_int(c, 0, 1) ? case_size(c, most) : 16 * case_int(c, 1, most / 16);
}

static int64_t width_of(const vp_mat *m) {
    return (m->cols + 15) / 16 * 16;
}

static vp_mat case_f8(op_case *c, int64_t rows, int64_t cols) {
    vp_mat m = {.dtype = VP_F8, .rows = rows, .cols = cols};
    m.ld = width_of(&m) + 16 * case_int(c, 0, 1);
    m.ptr = case_alloc(c, (size_t)(rows * m.ld));
    memset(m.ptr, UNTOUCHED, (size_t)(rows * m.ld));
    m.scale = case_alloc(c, (size_t)rows * sizeof *m.scale);
    for (int64_t i = 0; i < rows; i++) m.scale[i] = NAN;
    return m;
}

static vp_mat case_half(op_case *c, vp_mat *m) {
    return case_int(c, 0, 1) ? case_bf16(c, m) : *m;
}

/* Rows of very different sizes, one of zeros and, where `odd`, some that are too small, or not finite. */
static void stretch(op_case *c, const vp_mat *m, bool odd) {
    for (int64_t i = 0; i < m->rows; i++) {
        const int64_t kind = case_int(c, 0, odd ? 9 : 4), at = case_int(c, 0, m->cols - 1);
        const float by = kind == 0 ? 0.0f : kind == 6 ? 1e-33f : ldexpf(1, (int)case_int(c, -20, 20));
        for (int64_t j = 0; j < m->cols; j++) mat_row(m, i)[j] *= by * (kind == 1 && j % 7 ? 0.001f : 1.0f);
        if (kind == 7) mat_row(m, i)[at] = INFINITY;
        if (kind == 8) mat_row(m, i)[at] = NAN;
    }
}

/* got is `want`, F32, quantised; the row's end holds zeros, what is behind it is as it was. */
static void check_codes(op_case *c, const char *what, const vp_mat *got, const vp_mat *want) {
    for (int64_t i = 0; i < got->rows; i++) {
        const unsigned char *codes = (const unsigned char *)got->ptr + i * got->ld;
        float most = 0;
        for (int64_t j = 0; j < got->cols && !isnan(most); j++) {
            const float size = fabsf(mat_row(want, i)[j]);
            most = isnan(size) || size > most ? size : most;
        }
        const bool none = most < ldexpf(1, -100);
        const float scale = none ? 0 : most / 448, by = none ? 0 : 448 / most;
        if (isfinite(most) ? got->scale[i] != scale : isfinite(got->scale[i]))
            case_fail(c, "%s: row %lld has scale %g, not %g", what, (long long)i, (double)got->scale[i], (double)scale);
        for (int64_t j = 0; j < got->ld; j++) {
            const bool in = j < got->cols;
            const unsigned code = in ? code_of(mat_row(want, i)[j] * by) : j < width_of(got) ? 0 : UNTOUCHED;
            if (codes[j] != code)
                case_fail(c, "%s: [%lld, %lld] is %02x, not %02x", what, (long long)i, (long long)j, codes[j], code);
        }
    }
}

/* ---- what leaves rows in FP8 ---- */
static void quant_rows_case(op_case *c) {
    const int64_t T = case_size(c, 40), C = case_int(c, 0, 9) ? sized(c, 700) : case_int(c, 8000, 17000);
    vp_mat x = case_mat(c, C > 8000 ? 2 : T, C);
    stretch(c, &x, true);
    vp_quant_op op = {.x = case_half(c, &x), .out = case_f8(c, x.rows, C)};
    CASE_OK(c, c->be->quant_rows(c->one, &op), c->one);
    check_codes(c, "quant_rows", &op.out, &x);
}

static void norm_case(op_case *c) {
    const int64_t T = case_size(c, 40), C = case_int(c, 0, 9) ? sized(c, 600) : case_int(c, 2000, 9000);
    vp_mat x = case_mat(c, C > 1000 ? 2 : T, C), d = case_mat(c, x.rows, C);
    stretch(c, &x, false);
    vp_norm_op plain = {.kind = (vp_norm_kind)case_int(c, VP_NORM_RMS, VP_NORM_LAYER), .eps = 1e-5f};
    plain.weight = case_floats(c, C);
    if (plain.kind == VP_NORM_LAYER) plain.bias = case_floats(c, C);
    if (case_int(c, 0, 3)) plain.d = case_int(c, 0, 3) ? case_bf16(c, &d) : d;
    vp_norm_op op = plain;
    plain.x = x;
    op.x = case_copy(c, &x);
    plain.out = case_mat(c, x.rows, C);
    op.out = case_f8(c, x.rows, C);
    CASE_OK(c, c->be->norm(c->one, &plain), c->one);
    CASE_OK(c, c->be->norm(c->one, &op), c->one);
    check_codes(c, "norm", &op.out, &plain.out);
    case_same_bytes(c, "x += d", &op.x, &plain.x);
    op.heads = 1;
    if (c->be->norm(c->one, &op) != VP_BUG) case_fail(c, "norm: heads in FP8 are not refused");
}

static void glu_case(op_case *c) {
    const int64_t T = case_size(c, 40), F = case_int(c, 0, 9) ? sized(c, 600) : case_int(c, 8200, 17000);
    vp_mat both = case_mat(c, F > 8000 ? 2 : T, 2 * F);
    stretch(c, &both, false);
    vp_mat from = case_half(c, &both), half = both;
    half.cols = from.cols = F;
    vp_glu_op op = {.act = (vp_act)case_int(c, VP_ACT_NONE, VP_ACT_TANH), .gate = from, .up = from}, plain = op;
    op.up.ptr = (char *)from.ptr + (size_t)F * vp_dtype_size(from.dtype);
    op.out = case_f8(c, both.rows, F);
    plain.gate = plain.up = half;
    plain.up.ptr = mat_row(&half, 0) + F;
    plain.out = case_mat(c, both.rows, F);
    CASE_OK(c, c->be->glu(c->one, &plain), c->one);
    CASE_OK(c, c->be->glu(c->one, &op), c->one);
    check_codes(c, "glu", &op.out, &plain.out);
}

/* ---- products ---- */
static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)err;
    const vp_mat *m = ctx;
    memcpy(out, mat_row(m, row), (size_t)m->cols * sizeof *out);
    return VP_OK;
}

static int prepare(op_case *c, const vp_mat *w, const float *bias, bool backward, vp_weight **out) {
    const vp_weight_part part = {w->rows, read_row, w};
    vp_weight_desc desc = {.part = &part, .nparts = 1, .in = w->cols, .out = w->rows, .compute = VP_F8, .bias = bias};
    vp_error err = {0};
    desc.backward = backward;
    return c->be->weight_prepare(c->device_one, &desc, out, &err);
}

/* What a row of numbers is after it was quantised here. */
static void round_row(float *x, int64_t n) {
    float most = 0;
    for (int64_t j = 0; j < n; j++) most = fmaxf(most, fabsf(x[j]));
    const bool none = most < ldexpf(1, -100);
    for (int64_t j = 0; j < n; j++) x[j] = none ? 0 : (float)number_of(code_of(x[j] * (448 / most))) * (most / 448);
}

/* What a GPU's sums of FP8 may lose, of the sum of magnitudes: sm_90 aligns the products of a step, and what was summed
 * before, to the largest of them and keeps 13 bits or so after its leading one. A wrong scale or row is off by far
 * more, about 1 / sqrt(K) of it. */
static double lost_in_sums(const op_case *c) {
    vp_caps caps;
    c->be->caps(c->device_one, &caps);
    return strcmp(caps.isa, "shim") ? 0x1p-9 : 0; /* the host's has f32 sums */
}

/* out = x W^T (+ bias) (+ residual) in f64, and how far a sum may be from it */
static void check_linear(op_case *c, const vp_linear_op *op, const vp_mat *w, const float *bias, const vp_mat *added) {
    const int64_t T = op->out.rows, N = op->out.cols, K = w->cols;
    const bool half = op->out.dtype == VP_BF16;
    const double lost = lost_in_sums(c);
    double *want = case_alloc(c, (size_t)(T * N) * sizeof *want),
           *bound = case_alloc(c, (size_t)(T * N) * sizeof *bound);
    for (int64_t i = 0; i < T * N; i++) {
        const unsigned char *x = (const unsigned char *)op->x.ptr + i / N * op->x.ld;
        const double scale = (double)op->x.scale[i / N];
        double sum = 0, size = 0;
        for (int64_t k = 0; k < K; k++) {
            const double one = number_of(x[k]) * scale * (double)mat_row(w, i % N)[k];
            sum += one;
            size += fabs(one);
        }
        if (bias) sum += (double)bias[i % N];
        if (added->ptr) sum += (double)mat_row(added, i / N)[i % N];
        want[i] = op->act == VP_ACT_RELU && sum < 0 ? 0 : sum;
        bound[i] = EPS * ((double)K * size + 8 * fabs(sum) + 8) + lost * size + (half ? HALF * fabs(want[i]) : 0);
    }
    const vp_mat got = half ? case_f32(c, &op->out) : op->out;
    case_near(c, "linear", &got, want, bound, 0);
}

/* Rows [first, first + n) have the bytes that they have among all, on the device that has learned the product; their
 * scales lie at a multiple of 16 bytes. */
static void check_cut(op_case *c, const vp_linear_op *whole, int64_t first, int64_t n) {
    vp_linear_op part = *whole;
    part.x = case_cut(&whole->x, first, n);
    part.x.scale += first;
    part.out = case_cut(&whole->out, 0, n);
    part.out.ptr = case_alloc(c, (size_t)(n * part.out.ld) * vp_dtype_size(part.out.dtype));
    if (part.residual.ptr) part.residual = case_cut(&whole->residual, first, n);
    CASE_OK(c, c->be->linear(c->one, &part), c->one);
    const vp_mat same = case_cut(&whole->out, first, n);
    const bool half = same.dtype == VP_BF16;
    const vp_mat want = half ? case_f32(c, &same) : same, got = half ? case_f32(c, &part.out) : part.out;
    case_same_bytes(c, "rows alone", &got, &want);
}

/* So many rows that the library takes them in pieces, or what follows the sums does; the last ones are right. */
static void check_pieces(op_case *c, bool wide) {
    const int64_t T = wide ? 1100 : 8300, K = 16, N = wide ? 4112 : 16;
    vp_mat w = case_mat(c, N, K), x = case_mat(c, T, K);
    vp_quant_op quant = {.x = x, .out = case_f8(c, T, K)};
    vp_linear_op op = {.x = quant.out, .out = case_mat(c, T, N)};
    vp_weight *weight = NULL;
    stretch(c, &x, false);
    if (prepare(c, &w, wide ? case_floats(c, N) : NULL, false, &weight)) case_fail(c, "the weight is not packed");
    if (!weight) return;
    op.weight = weight;
    CASE_OK(c, c->be->quant_rows(c->one, &quant), c->one);
    CASE_OK(c, c->be->linear(c->one, &op), c->one);
    check_cut(c, &op, 0, 8);
    check_cut(c, &op, T - 100, 100);
    c->be->weight_free(c->device_one, weight);
}

static void linear_case(op_case *c) {
    const int64_t T = case_size(c, 150), K = sized(c, 300), N = sized(c, 200);
    vp_mat w = case_mat(c, N, K), x = case_mat(c, T, K), residual = case_mat(c, T, N), out = case_mat(c, T, N);
    const float *bias = case_int(c, 0, 2) ? NULL : case_floats(c, N);
    vp_quant_op quant = {.x = x, .out = case_f8(c, T, K)};
    vp_linear_op op = {.x = quant.out, .out = case_half(c, &out)};
    vp_weight *weight = NULL;
    stretch(c, &w, false);
    for (int64_t i = 0; i < N; i++) /* sums of no more than a few hundred */
        for (int64_t j = 0; j < K; j++) mat_row(&w, i)[j] = fminf(fmaxf(mat_row(&w, i)[j], -4), 4);
    if (prepare(c, &w, bias, false, &weight)) case_fail(c, "linear: the weight is not packed");
    if (!weight) return;
    op.weight = weight;
    if (bias && case_int(c, 0, 1)) op.act = VP_ACT_RELU;
    const bool with = op.act == VP_ACT_NONE && case_int(c, 0, 2) == 0;
    if (with) op.residual = case_half(c, &residual);
    CASE_OK(c, c->be->quant_rows(c->one, &quant), c->one);
    CASE_OK(c, c->be->linear(c->one, &op), c->one);
    for (int64_t i = 0; i < N; i++) round_row(mat_row(&w, i), K);
    check_linear(c, &op, &w, bias, with ? &residual : &(vp_mat){0});
    const int64_t first = case_int(c, 0, (T - 1) / 4) * 4;
    check_cut(c, &op, first, case_int(c, 1, T - first));
    c->be->weight_free(c->device_one, weight);
}

static void test_pieces(op_case *c) {
    if (!has_fp8(c)) return;
    check_pieces(c, false);
    check_pieces(c, true);
}

/* ---- what is refused ---- */
static void test_refusals(op_case *c) {
    vp_mat w = case_mat(c, 32, 48), x = case_mat(c, 4, 48), bad = case_copy(c, &w);
    vp_linear_op op = {.x = x, .out = case_mat(c, 4, 32)};
    vp_weight *weight = NULL;
    if (!is_there(c)) { /* neither imitated nor replaced by another type */
        if (!prepare(c, &w, NULL, false, &weight)) case_fail(c, "weights of FP8 are not refused");
        return;
    }
    if (!prepare(c, &w, NULL, true, &weight)) case_fail(c, "a backward pass is not refused");
    mat_row(&bad, 3)[5] = NAN;
    if (prepare(c, &bad, NULL, false, &weight) != VP_DATA) case_fail(c, "weights that are not finite are taken");
    if (prepare(c, &w, NULL, false, &weight)) case_fail(c, "the weight is not packed");
    op.weight = weight;
    if (c->be->linear(c->one, &op) != VP_BUG) case_fail(c, "an F32 input of an FP8 weight is taken");
    vp_quant_op quant = {.x = x, .out = case_f8(c, 4, 48)};
    quant.out.scale = NULL;
    if (c->be->quant_rows(c->one, &quant) != VP_BUG) case_fail(c, "FP8 without scales is taken");
    quant.out = case_f8(c, 4, 48);
    quant.out.ptr = (char *)quant.out.ptr + 8;
    if (c->be->quant_rows(c->one, &quant) != VP_BUG) case_fail(c, "rows that lie anywhere are taken");
    c->be->weight_free(c->device_one, weight);
}

/* ---- some cases a seed: they are small, and on the host's GPU there is one seed ---- */
#define SOME(name)                                                                                                     \
    static void test_##name(op_case *c) {                                                                              \
        for (int i = 0; i < 6 && has_fp8(c); i++) name##_case(c);                                                      \
    }
SOME(quant_rows)
SOME(norm)
SOME(glu)
SOME(linear)

int main(int argc, char **argv) {
    static const op_test tests[] = {
        {"quant_rows_fp8", test_quant_rows, 10}, {"norm_fp8", test_norm, 10},    {"glu_fp8", test_glu, 10},
        {"linear_fp8", test_linear, 10},         {"pieces_fp8", test_pieces, 1}, {"refusals_fp8", test_refusals, 1}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
