/* The backward of attention against central differences of the double-precision forward, over modes, masks, caps and
 * lengths on both sides of where owners are split, with and without dropout; to the byte: lse or none in the forward, 1
 * and 3 threads, a sequence alone. */
#include "tests/unit/gradients.h"
#include "tests/unit/reference.h"
#include <math.h>
#include <string.h>

static vp_batch masked_batch(op_case *c, const int32_t *cu, int64_t B) {
    vp_batch batch = case_batch(c, cu, B);
    if (case_int(c, 0, 2) == 0) { /* runs of segments 0, 1, 2 */
        uint8_t *seg = case_alloc(c, (size_t)batch.T + 1);
        for (int64_t t = 0; t < batch.T; t++)
            seg[t] = case_int(c, 0, 9) ? (t ? seg[t - 1] : 0) : (uint8_t)case_int(c, 0, 2);
        batch.seg = seg;
    }
    if (case_int(c, 0, 2) == 0) {
        int32_t *prefix = case_alloc(c, (size_t)B * sizeof *prefix);
        for (int64_t b = 0; b < B; b++) prefix[b] = (int32_t)case_int(c, 0, 100);
        batch.prefix = prefix;
    }
    return batch;
}

static int run_attn(op_case *c, vp_queue *q, const void *op) {
    return c->be->attn_bwd(q, op);
}

static void forward_attn(const void *op, double *out) {
    ref_attn(op, out);
}

/* The forward with and without lse: the same bytes. */
static void check_forward(op_case *c, const vp_attn_op *op) {
    vp_attn_op plain = *op;
    plain.lse = NULL;
    plain.out = case_mat(c, op->out.rows, op->out.cols);
    CASE_OK(c, c->be->attn(c->one, op), c->one);
    CASE_OK(c, c->be->attn(c->three, &plain), c->three);
    case_same_bytes(c, "with and without lse", &op->out, &plain.out);
}

/* Gradients of sequence b alone, with lse and out cut from the whole. */
static void check_alone(op_case *c, const vp_attn_op *whole) {
    const vp_batch *batch = whole->batch;
    int64_t b = case_int(c, 0, batch->B - 1), from = batch->cu_q[b], n = batch->cu_q[b + 1] - from;
    int32_t *cu = case_alloc(c, 2 * sizeof *cu);
    cu[1] = (int32_t)n;
    vp_batch single = case_batch(c, cu, 1);
    single.row = batch->row + b;
    single.seg = batch->seg ? batch->seg + from : NULL;
    single.prefix = batch->prefix ? batch->prefix + b : NULL;
    vp_mat dout = case_cut(whole->dout, from, n), dq = case_mat(c, n, whole->q.cols);
    vp_mat dk = case_mat(c, n, whole->k.cols), dv = case_mat(c, n, whole->k.cols);
    vp_attn_op op = *whole;
    op.batch = &single;
    op.q = case_cut(&whole->q, from, n);
    op.k = case_cut(&whole->k, from, n);
    op.v = case_cut(&whole->v, from, n);
    op.out = case_cut(&whole->out, from, n);
    op.lse = whole->lse + from * whole->heads;
    op.dout = &dout;
    op.dq = &dq;
    op.dk = &dk;
    op.dv = &dv;
    CASE_OK(c, c->be->attn_bwd(c->three, &op), c->three);
    vp_mat same_q = case_cut(whole->dq, from, n), same_k = case_cut(whole->dk, from, n);
    vp_mat same_v = case_cut(whole->dv, from, n);
    case_same_bytes(c, "dq of a sequence alone", &dq, &same_q);
    case_same_bytes(c, "dk of a sequence alone", &dk, &same_k);
    case_same_bytes(c, "dv of a sequence alone", &dv, &same_v);
}

static void check_attention(op_case *c, const int32_t *cu, int64_t B, int32_t groups, int32_t share, int32_t d) {
    vp_batch batch = masked_batch(c, cu, B);
    int64_t T = batch.T, wide = (int64_t)groups * share * d, narrow = (int64_t)groups * d;
    vp_mat dout = case_mat(c, T, wide), dq = case_mat(c, T, wide), dk = case_mat(c, T, narrow);
    vp_mat dv = case_mat(c, T, narrow);
    vp_attn_op op = {.batch = &batch, .heads = groups * share, .groups = groups, .d = d, .dout = &dout};
    op.mode = case_int(c, 0, 1) ? VP_ATTN_CAUSAL : VP_ATTN_BI;
    op.window = case_int(c, 0, 2) ? 0 : (int32_t)case_size(c, 150);
    op.scale = 0.3f + 0.25f * case_float(c);
    op.softcap = case_int(c, 0, 3) ? 0.0f : 2.0f + case_float(c);
    op.drop = case_drop(c);
    op.q = case_mat(c, T, wide);
    op.k = case_mat(c, T, narrow);
    op.v = case_mat(c, T, narrow);
    op.out = case_mat(c, T, wide);
    op.lse = case_floats(c, T * op.heads + 1);
    op.dq = &dq;
    op.dk = &dk;
    op.dv = &dv;
    check_forward(c, &op);
    gradient_pair pair = {&op, run_attn, forward_attn, dout, .n = 3, .tolerance = 4e-6};
    pair.of[0] = (gradient_of){"q", op.q, dq, false};
    pair.of[1] = (gradient_of){"k", op.k, dk, false};
    pair.of[2] = (gradient_of){"v", op.v, dv, false};
    check_gradients(c, &pair);
    check_alone(c, &op);
    op.lse = NULL;
    if (T > 0 && c->be->attn_bwd(c->one, &op) != VP_BUG) case_fail(c, "a backward without lse ran");
}

static void test_short(op_case *c) {
    static const int32_t widths[] = {8, 16, 18, 32, 64, 5, 128, 256};
    int64_t B = case_int(c, 1, 4);
    int32_t groups = (int32_t)case_int(c, 1, 2), share = (int32_t)case_int(c, 1, 3);
    check_attention(c, case_offsets(c, B, 140), B, groups, share, widths[case_int(c, 0, 7)]);
}

/* Longer than what one owner takes, beside a short one. */
static void test_long(op_case *c) {
    int32_t *cu = case_alloc(c, 3 * sizeof *cu);
    cu[1] = (int32_t)case_int(c, 1, 40);
    cu[2] = cu[1] + (int32_t)case_int(c, 510, 560);
    check_attention(c, cu, 2, 1, 2, 7);
}

/* ---- bf16: against gradients in double, from inputs that are bf16 ---- */
/* Gradients, and how far bf16 may be off. With u = 2^-8, what rounding is by at most, and A_i = sum over c of |dO_ic|
 * (sum over j of D_ij |v_jc|): O is off by up to 2 u of that sum (P is rounded, then O), so delta_i by 2 u A_i, and the
 * rounded dS by u |dS| + 2 u P A. P is rounded by u. Each gradient is rounded once more. */
typedef struct bf16_grads {
    double *want[3], *off[3]; /* of q, k, v */
} bf16_grads;

static double value(const vp_mat *m, int64_t i, int64_t j) {
    return (double)mat_row(m, i)[j];
}

/* What query i of sequence b gives in a head. p, by: [n] */
static void add_query(const vp_attn_op *op, int64_t b, int64_t i, int64_t h, double *p, double *by, bf16_grads *g) {
    const double u = 1.01 / 256;
    const int64_t base = op->batch->cu_q[b], n = op->batch->cu_q[b + 1] - base, d = op->d;
    const int64_t at = h * d, key_at = h / (op->heads / op->groups) * d, wide = op->q.cols, narrow = op->k.cols;
    double delta = 0.0, most = 0.0;
    ref_attn_row(op, b, i, h, p);
    for (int64_t j = 0; j < n; j++)
        by[j] = op->drop.p > 0.0f ? ref_drop(&op->drop, op->batch->row[b], i * (1 << 19) + j, (int32_t)h) : 1.0;
    for (int64_t j = 0; j < n; j++)
        for (int64_t c = 0; c < d; c++) {
            const double part = p[j] * by[j] * value(op->dout, base + i, at + c) * value(&op->v, base + j, key_at + c);
            delta += part;
            most += fabs(part);
        }
    for (int64_t j = 0; j < n; j++) {
        double z = 0.0, dp = 0.0;
        for (int64_t c = 0; c < d; c++) {
            z += value(&op->q, base + i, at + c) * value(&op->k, base + j, key_at + c);
            dp += value(op->dout, base + i, at + c) * value(&op->v, base + j, key_at + c);
        }
        const double t = op->softcap > 0.0f ? tanh(z * (double)op->scale / (double)op->softcap) : 0.0;
        const double slope = (1.0 - t * t) * (double)op->scale, ds = p[j] * (dp * by[j] - delta) * slope;
        const double off = u * fabs(ds) + 2.0 * u * p[j] * most * fabs(slope), kept = p[j] * by[j];
        for (int64_t c = 0; c < d; c++) {
            const int64_t query = (base + i) * wide + at + c, key = (base + j) * narrow + key_at + c;
            const double q = value(&op->q, base + i, at + c), k = value(&op->k, base + j, key_at + c);
            const double dout = value(op->dout, base + i, at + c);
            g->want[0][query] += ds * k;
            g->off[0][query] += off * fabs(k);
            g->want[1][key] += ds * q;
            g->off[1][key] += off * fabs(q);
            g->want[2][key] += kept * dout;
            g->off[2][key] += u * kept * fabs(dout);
        }
    }
}

static void find_grads(op_case *c, const vp_attn_op *op, bf16_grads *g) {
    const int64_t T = op->batch->T;
    double *p = case_alloc(c, 2 * (size_t)(T + 1) * sizeof *p);
    for (int i = 0; i < 3; i++) {
        const size_t n = (size_t)(T * (i ? op->k.cols : op->q.cols) + 1);
        g->want[i] = case_alloc(c, n * sizeof(double));
        g->off[i] = case_alloc(c, n * sizeof(double));
    }
    for (int64_t b = 0; b < op->batch->B; b++)
        for (int64_t i = 0; i < op->batch->cu_q[b + 1] - op->batch->cu_q[b]; i++)
            for (int64_t h = 0; h < op->heads; h++) add_query(op, b, i, h, p, p + T, g);
    for (int i = 0; i < 3; i++)
        for (int64_t e = 0; e < T * (i ? op->k.cols : op->q.cols); e++)
            g->off[i][e] += (fabs(g->want[i][e]) + g->off[i][e]) / 256 + 1e-5;
}

/* Forward and backward of rows [from, from + n) of the matrices in bf16; the gradients of q, k, v as F32. */
static void run_bf16(op_case *c, vp_queue *q, const vp_attn_op *like, const vp_batch *batch, int64_t from,
                     vp_mat grads[3]) {
    const int64_t n = batch->T;
    vp_mat in[4] = {like->q, like->k, like->v, *like->dout}, out = case_mat(c, n, like->q.cols), d[3];
    vp_attn_op op = *like;
    for (int i = 0; i < 4; i++) {
        in[i] = case_cut(&in[i], from, n);
        in[i] = case_bf16(c, &in[i]);
    }
    for (int i = 0; i < 3; i++) {
        vp_mat grad = case_mat(c, n, in[i].cols);
        d[i] = case_bf16(c, &grad);
    }
    op.batch = batch;
    op.q = in[0];
    op.k = in[1];
    op.v = in[2];
    op.dout = &in[3];
    op.out = case_bf16(c, &out);
    op.lse = case_floats(c, n * op.heads + 1);
    op.dq = &d[0];
    op.dk = &d[1];
    op.dv = &d[2];
    CASE_OK(c, c->be->attn(q, &op), q);
    CASE_OK(c, c->be->attn_bwd(q, &op), q);
    for (int i = 0; i < 3; i++) grads[i] = case_f32(c, &d[i]);
}

static void check_bf16(op_case *c, const int32_t *cu, int64_t B, int32_t groups, int32_t share, int32_t d) {
    static const char *const names[] = {"dq in bf16", "dk in bf16", "dv in bf16"};
    const vp_batch batch = masked_batch(c, cu, B);
    const int64_t T = batch.T, wide = (int64_t)groups * share * d;
    vp_mat dout = case_mat(c, T, wide), got[3], again[3];
    vp_attn_op op = {.batch = &batch, .heads = groups * share, .groups = groups, .d = d, .dout = &dout};
    op.mode = case_int(c, 0, 1) ? VP_ATTN_CAUSAL : VP_ATTN_BI;
    op.window = case_int(c, 0, 2) ? 0 : (int32_t)case_size(c, 150);
    op.scale = 0.3f + 0.25f * case_float(c);
    op.softcap = case_int(c, 0, 3) ? 0.0f : 2.0f + case_float(c);
    op.drop = case_drop(c);
    op.q = case_mat(c, T, wide);
    op.k = case_mat(c, T, (int64_t)groups * d);
    op.v = case_mat(c, T, (int64_t)groups * d);
    run_bf16(c, c->one, &op, &batch, 0, got); /* rounds the inputs */
    bf16_grads grads;
    find_grads(c, &op, &grads);
    for (int i = 0; i < 3; i++) case_near(c, names[i], &got[i], grads.want[i], grads.off[i], 0.0);
    run_bf16(c, c->three, &op, &batch, 0, again);
    for (int i = 0; i < 3; i++) case_same_bytes(c, "in bf16 again", &again[i], &got[i]);
    const int64_t b = case_int(c, 0, B - 1), from = cu[b], n = cu[b + 1] - from;
    int32_t *single_cu = case_alloc(c, 2 * sizeof *single_cu);
    single_cu[1] = (int32_t)n;
    vp_batch single = case_batch(c, single_cu, 1);
    single.row = batch.row + b;
    single.seg = batch.seg ? batch.seg + from : NULL;
    single.prefix = batch.prefix ? batch.prefix + b : NULL;
    run_bf16(c, c->one, &op, &single, from, again);
    for (int i = 0; i < 3; i++) {
        const vp_mat same = case_cut(&got[i], from, n);
        case_same_bytes(c, "a sequence alone in bf16", &again[i], &same);
    }
}

static void test_bf16(op_case *c) {
    static const int32_t widths[] = {8, 64, 18, 128, 32, 5, 80, 256};
    const int64_t B = case_int(c, 1, 4);
    const int32_t groups = (int32_t)case_int(c, 1, 2), share = (int32_t)case_int(c, 1, 3);
    vp_caps caps;
    c->be->caps(c->device_one, &caps);
    if (caps.bf16_states) check_bf16(c, case_offsets(c, B, 140), B, groups, share, widths[c->seed % 8]);
}

static void test_long_bf16(op_case *c) {
    static const int32_t widths[] = {32, 64, 128, 256};
    int32_t *cu = case_alloc(c, 3 * sizeof *cu);
    vp_caps caps;
    cu[1] = (int32_t)case_int(c, 1, 20);
    cu[2] = cu[1] + (int32_t)case_int(c, 250, 300);
    c->be->caps(c->device_one, &caps);
    for (uint64_t i = 0; i < 2 && caps.bf16_states; i++) check_bf16(c, cu, 2, 1, 2, widths[(c->seed + i) % 4]);
}

int main(int argc, char **argv) {
    static const op_test tests[] = {
        {"short", test_short, 24}, {"long", test_long, 2}, {"bf16", test_bf16, 24}, {"long_bf16", test_long_bf16, 2}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
