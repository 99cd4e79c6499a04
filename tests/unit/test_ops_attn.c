/* Attention against double precision over modes, widths, segments, prefixes, windows, caps and dropout; and to the
 * byte: a sequence alone, in another order, cut into other tiles, with 1 and 3 threads. */
#include "tests/unit/ops_case.h"
#include "tests/unit/reference.h"
#include <string.h>

static vp_attn_op random_attention(op_case *c, vp_batch *batch) {
    static const int32_t widths[] = {8, 16, 18, 32, 64, 80, 128, 5, 256};
    int32_t groups = (int32_t)case_int(c, 1, 3), heads = groups * (int32_t)case_int(c, 1, 3);
    int32_t d = widths[case_int(c, 0, 8)];
    int64_t B = case_int(c, 1, 5);
    *batch = case_batch(c, case_offsets(c, B, 300), B);
    int64_t T = batch->T;
    if (case_int(c, 0, 2) == 0) { /* runs of segments 0, 1, 2 */
        uint8_t *seg = case_alloc(c, (size_t)T + 1);
        for (int64_t t = 0; t < T; t++) seg[t] = case_int(c, 0, 9) ? (t ? seg[t - 1] : 0) : (uint8_t)case_int(c, 0, 2);
        batch->seg = seg;
    }
    if (case_int(c, 0, 2) == 0) {
        int32_t *prefix = case_alloc(c, (size_t)B * sizeof *prefix);
        for (int64_t b = 0; b < B; b++) prefix[b] = (int32_t)case_int(c, 0, 200);
        batch->prefix = prefix;
    }
    vp_attn_op op = {.batch = batch, .heads = heads, .groups = groups, .d = d};
    op.mode = case_int(c, 0, 1) ? VP_ATTN_CAUSAL : VP_ATTN_BI;
    op.window = case_int(c, 0, 2) ? 0 : (int32_t)case_size(c, 150);
    op.scale = 0.3f + 0.25f * case_float(c);
    op.softcap = case_int(c, 0, 3) ? 0.0f : 2.0f + case_float(c);
    op.drop = case_drop(c);
    op.q = case_mat(c, T, (int64_t)heads * d);
    op.k = case_mat(c, T, (int64_t)groups * d);
    op.v = case_mat(c, T, (int64_t)groups * d);
    op.out = case_mat(c, T, (int64_t)heads * d);
    return op;
}

/* Sequence b alone, with tiles of its own. */
static void check_alone(op_case *c, const vp_attn_op *whole) {
    const vp_batch *batch = whole->batch;
    int64_t b = case_int(c, 0, batch->B - 1), from = batch->cu_q[b], n = batch->cu_q[b + 1] - from;
    int32_t *cu = case_alloc(c, 2 * sizeof *cu);
    cu[1] = (int32_t)n;
    vp_batch single = case_batch(c, cu, 1);
    single.row = batch->row + b;
    single.seg = batch->seg ? batch->seg + from : NULL;
    single.prefix = batch->prefix ? batch->prefix + b : NULL;
    vp_attn_op op = *whole;
    op.batch = &single;
    op.q = case_cut(&whole->q, from, n);
    op.k = case_cut(&whole->k, from, n);
    op.v = case_cut(&whole->v, from, n);
    op.out = case_mat(c, n, whole->out.cols);
    CASE_OK(c, c->be->attn(c->one, &op), c->one);
    vp_mat same = case_cut(&whole->out, from, n);
    case_same_bytes(c, "a sequence alone", &op.out, &same);
}

static void test_attn(op_case *c) {
    vp_batch batch;
    vp_attn_op op = random_attention(c, &batch), again = op;
    CASE_OK(c, c->be->attn(c->one, &op), c->one);
    double *want = case_alloc(c, (size_t)(batch.T * op.out.cols + 1) * sizeof *want);
    ref_attn(&op, want);
    case_near(c, "attn", &op.out, want, NULL, 4e-6 / (1.0 - (double)op.drop.p)); /* |v| < 1 */
    vp_batch retiled = case_batch(c, batch.cu_q, batch.B);
    retiled.row = batch.row;
    retiled.seg = batch.seg;
    retiled.prefix = batch.prefix;
    again.batch = &retiled;
    again.out = case_mat(c, batch.T, op.out.cols);
    CASE_OK(c, c->be->attn(c->three, &again), c->three);
    case_same_bytes(c, "other tiles, 3 threads", &again.out, &op.out);
    check_alone(c, &op);
}

/* Scores of hundreds: one key takes all, nothing overflows. */
static void test_extremes(op_case *c) {
    vp_batch batch;
    vp_attn_op op = random_attention(c, &batch);
    op.scale = 300.0f;
    op.softcap = 0.0f;
    CASE_OK(c, c->be->attn(c->one, &op), c->one);
    double *want = case_alloc(c, (size_t)(batch.T * op.out.cols + 1) * sizeof *want);
    ref_attn(&op, want);
    /* scores of 10^4 have errors of 10^-3 */
    case_near(c, "attn", &op.out, want, NULL, 8e-3 / (1.0 - (double)op.drop.p));
}

/* ---- bf16 ---- */
static bool has_bf16(op_case *c) {
    vp_caps caps;
    c->be->caps(c->device_one, &caps);
    return caps.bf16_states;
}

/* What a bf16 call writes, as F32; out begins at an odd place now and then. */
static vp_mat run_bf16(op_case *c, vp_queue *q, const vp_attn_op *like) {
    vp_attn_op op = *like;
    vp_mat out = case_mat(c, op.out.rows, op.out.cols);
    op.out = case_bf16(c, &out);
    CASE_OK(c, c->be->attn(q, &op), q);
    for (int64_t i = 0; i < out.rows; i++)
        for (int64_t j = out.cols; j < op.out.ld; j++)
            if (((uint16_t *)op.out.ptr)[i * op.out.ld + j] != 0x7fff)
                case_fail(c, "written past the end of row %lld", (long long)i);
    return case_f32(c, &op.out);
}

/* The bound on values up to 1: P is rounded to 8 digits and so is the result, each by up to 2^-8 of it; 1e-5 for scores
 * and powers of two. Kept entries are larger by 1 / (1 - p). */
static void check_bf16(op_case *c, vp_attn_op *op, double scores) {
    vp_attn_op half = *op;
    half.q = case_bf16(c, &op->q);
    half.k = case_bf16(c, &op->k);
    half.v = case_bf16(c, &op->v);
    double *want = case_alloc(c, (size_t)(op->batch->T * op->out.cols + 1) * sizeof *want);
    ref_attn(op, want);
    vp_mat got = run_bf16(c, c->one, &half), again;
    case_near(c, "attn in bf16", &got, want, NULL, (1.0 / 128 + scores) / (1.0 - (double)op->drop.p));
    /* to the byte: in other tiles, other memory and without lse; a sequence alone */
    vp_batch other = case_batch(c, op->batch->cu_q, op->batch->B);
    other.row = op->batch->row;
    other.seg = op->batch->seg;
    other.prefix = op->batch->prefix;
    half.batch = &other;
    half.lse = NULL;
    vp_mat wide = case_f32(c, &half.k);
    half.k = case_bf16(c, &wide);
    again = run_bf16(c, c->three, &half);
    case_same_bytes(c, "other tiles in bf16", &again, &got);
    const int64_t b = case_int(c, 0, other.B - 1), from = other.cu_q[b], n = other.cu_q[b + 1] - from;
    int32_t *cu = case_alloc(c, 2 * sizeof *cu);
    cu[1] = (int32_t)n;
    vp_batch single = case_batch(c, cu, 1);
    single.row = other.row + b;
    single.seg = other.seg ? other.seg + from : NULL;
    single.prefix = other.prefix ? other.prefix + b : NULL;
    half.batch = &single;
    half.q = case_cut(&half.q, from, n);
    half.k = case_cut(&half.k, from, n);
    half.v = case_cut(&half.v, from, n);
    half.out = case_cut(&op->out, from, n);
    again = run_bf16(c, c->one, &half);
    const vp_mat same = case_cut(&got, from, n);
    case_same_bytes(c, "a sequence alone in bf16", &again, &same);
}

static void test_bf16(op_case *c) {
    vp_batch batch;
    vp_attn_op op = random_attention(c, &batch);
    op.lse = case_floats(c, batch.T * op.heads + 1);
    if (has_bf16(c)) check_bf16(c, &op, 1e-5);
}

/* Whole blocks of keys that are seen, in part or not at all, at the widths that have kernels of their own. */
static void check_long(op_case *c, int32_t d) {
    vp_batch batch;
    vp_attn_op op = random_attention(c, &batch);
    int32_t *cu = case_alloc(c, 3 * sizeof *cu);
    cu[1] = (int32_t)case_int(c, 1, 20);
    cu[2] = cu[1] + (int32_t)case_int(c, 350, 450);
    batch = case_batch(c, cu, 2);
    op.heads = 2;
    op.groups = 1;
    op.d = d;
    op.window = case_int(c, 0, 1) ? 0 : (int32_t)case_int(c, 60, 250);
    op.q = case_mat(c, batch.T, 2 * op.d);
    op.k = case_mat(c, batch.T, op.d);
    op.v = case_mat(c, batch.T, op.d);
    op.out = case_mat(c, batch.T, 2 * op.d);
    if (has_bf16(c)) check_bf16(c, &op, 1e-5);
}

static void test_long(op_case *c) {
    static const int32_t widths[] = {32, 64, 128, 256};
    check_long(c, widths[c->seed % 4]);
    check_long(c, widths[(c->seed + 1) % 4]);
}

static void test_extremes_bf16(op_case *c) {
    vp_batch batch;
    vp_attn_op op = random_attention(c, &batch);
    op.scale = 300.0f;
    op.softcap = 0.0f;
    if (has_bf16(c)) check_bf16(c, &op, 8e-3); /* scores of 10^4 have errors of 10^-3 */
}

static void test_refusals(op_case *c) {
    vp_batch batch;
    vp_caps caps;
    vp_attn_op op = random_attention(c, &batch);
    if (batch.T == 0) return;
    vp_batch less = batch;
    less.ntiles--;
    op.batch = &less;
    c->be->caps(c->device_one, &caps); /* a separate device has tiles of its own, and cannot look at these */
    if (!caps.separate && (c->be->attn(c->one, &op) != VP_BUG || !strstr(c->be->why(c->one), "cover")))
        case_fail(c, "a missing tile gave '%s'", c->be->why(c->one));
    int32_t *cu_k = case_alloc(c, (size_t)(batch.B + 1) * sizeof *cu_k);
    vp_batch cached = batch;
    cached.cu_k = cu_k;
    op.batch = &cached;
    if (c->be->attn(c->one, &op) != VP_BUG || !strstr(c->be->why(c->one), "cached"))
        case_fail(c, "other keys gave '%s'", c->be->why(c->one));
    op.batch = &batch;
    op.q.cols--;
    if (c->be->attn(c->one, &op) != VP_BUG) case_fail(c, "a narrow q was taken");
}

int main(int argc, char **argv) {
    static const op_test tests[] = {{"attn", test_attn, 60}, {"extremes", test_extremes, 10},
                                    {"bf16", test_bf16, 60}, {"extremes_bf16", test_extremes_bf16, 10},
                                    {"long", test_long, 4},  {"refusals", test_refusals, 5}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
