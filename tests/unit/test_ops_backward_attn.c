/* The backward of attention against central differences of the double-precision forward, over modes, masks, caps and
 * lengths on both sides of where owners are split, with and without dropout; to the byte: lse or none in the forward, 1
 * and 3 threads, a sequence alone. */
#include "tests/unit/gradients.h"
#include "tests/unit/reference.h"
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

int main(int argc, char **argv) {
    static const op_test tests[] = {{"short", test_short, 24}, {"long", test_long, 2}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
