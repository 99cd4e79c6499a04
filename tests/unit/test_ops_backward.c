/* Every forward/backward pair but attention's against central differences of the double-precision reference, over
 * random shapes; with 1 and 3 threads to the byte; and gradients of weights to the byte however the units are shared
 * out among calls. */
#include "tests/unit/gradients.h"
#include "tests/unit/reference.h"
#include <math.h>
#include <string.h>

/* Sums of up to some hundreds of products of numbers under 1, in f32. */
static const double TOLERANCE = 2e-6;

#define BACKWARD(slot, type)                                                                                           \
    static int run_##slot(op_case *c, vp_queue *q, const void *op) {                                                   \
        return c->be->slot(q, (const type *)op);                                                                       \
    }
BACKWARD(norm_bwd, vp_norm_op)
BACKWARD(softmax_rows_bwd, vp_softmax_op)
BACKWARD(l2norm_bwd, vp_l2norm_op)
BACKWARD(act_bwd, vp_act_op)
BACKWARD(glu_bwd, vp_glu_op)
BACKWARD(embed_bwd, vp_embed_op)
BACKWARD(pool_bwd, vp_pool_op)
BACKWARD(pick_bwd, vp_pick_op)

static double at(const vp_mat *m, int64_t i, int64_t j) {
    return (double)mat_row(m, i)[j];
}

/* ---- norm ---- */
static void forward_norm(const void *op, double *out) {
    ref_norm(op, out);
}

static void check_norm_split(op_case *c, const vp_norm_op *whole, const vp_mat *dw, const vp_mat *db) {
    vp_mat sum_w = case_copy(c, dw), sum_b = case_copy(c, db);
    memset(sum_w.ptr, 0, (size_t)dw->cols * sizeof(float));
    memset(sum_b.ptr, 0, (size_t)db->cols * sizeof(float));
    vp_mat want_w = case_copy(c, &sum_w), want_b = case_copy(c, &sum_b);
    vp_norm_op all = *whole;
    all.dx = NULL;
    all.dweight = want_w.ptr;
    all.dbias = want_b.ptr;
    CASE_OK(c, c->be->norm_bwd(c->three, &all), c->three);
    int64_t ends[] = {0, case_unit_cut(c, whole->batch), whole->batch->B};
    for (int i = 0; i < 2; i++) {
        vp_batch cut = case_cut_batch(c, whole->batch, ends[i], ends[i + 1]);
        int64_t from = whole->batch->cu_q[ends[i]];
        vp_mat dout = case_cut(whole->dout, from, cut.T);
        vp_norm_op part = all;
        part.batch = &cut;
        part.x = case_cut(&whole->x, from, cut.T);
        part.dout = &dout;
        part.dweight = sum_w.ptr;
        part.dbias = sum_b.ptr;
        CASE_OK(c, c->be->norm_bwd(c->one, &part), c->one);
    }
    case_same_bytes(c, "dweight of two calls", &sum_w, &want_w);
    case_same_bytes(c, "dbias of two calls", &sum_b, &want_b);
}

static void test_norm(op_case *c) {
    vp_batch batch = case_unit_batch(c, case_int(c, 1, 5), case_int(c, 0, 3) ? 40 : 400);
    int64_t heads = case_int(c, 0, 3), d = case_size(c, 130) + 1, C = d * (heads ? heads : 1);
    vp_mat weight = case_dense(c, 1, d), bias = case_dense(c, 1, d), dw = case_dense(c, 1, d), db = case_dense(c, 1, d);
    vp_mat dx = case_mat(c, batch.T, C), dout = case_mat(c, batch.T, C);
    vp_norm_op op = {.kind = (vp_norm_kind)case_int(c, 0, 2), .eps = 1e-2f, .heads = (int32_t)heads, .batch = &batch};
    op.x = case_mat(c, batch.T, C);
    op.weight = weight.ptr;
    op.bias = bias.ptr;
    op.dout = &dout;
    op.dx = &dx;
    op.dweight = dw.ptr;
    op.dbias = db.ptr;
    gradient_pair pair = {&op, run_norm_bwd, forward_norm, dout, .n = 3, .tolerance = 2.0 * TOLERANCE};
    pair.of[0] = (gradient_of){"x", op.x, dx, false};
    pair.of[1] = (gradient_of){"weight", weight, dw, true};
    pair.of[2] = (gradient_of){"bias", bias, db, true};
    check_gradients(c, &pair);
    check_norm_split(c, &op, &dw, &db);
}

/* ---- softmax, l2norm ---- */
static void forward_softmax(const void *op, double *out) {
    ref_softmax(&((const vp_softmax_op *)op)->x, out);
}

static void test_softmax(op_case *c) {
    int64_t T = case_size(c, 40), n = case_size(c, 200);
    vp_mat dout = case_mat(c, T, n), dx = case_mat(c, T, n);
    vp_softmax_op op = {.x = case_mat(c, T, n), .out = case_mat(c, T, n), .dout = &dout, .dx = &dx};
    CASE_OK(c, c->be->softmax_rows(c->one, &op), c->one);
    gradient_pair pair = {&op, run_softmax_rows_bwd, forward_softmax, dout, .n = 1, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"x", op.x, dx, false};
    check_gradients(c, &pair);
}

static void forward_l2norm(const void *op, double *out) {
    const vp_mat *x = &((const vp_l2norm_op *)op)->x;
    for (int64_t i = 0; i < x->rows; i++) {
        double square = 0.0;
        for (int64_t j = 0; j < x->cols; j++) square += at(x, i, j) * at(x, i, j);
        for (int64_t j = 0; j < x->cols; j++) out[i * x->cols + j] = at(x, i, j) / fmax(sqrt(square), 1e-12);
    }
}

static void test_l2norm(op_case *c) {
    int64_t T = case_size(c, 40), n = case_size(c, 200) + 7; /* a norm near 0 has no useful differences */
    vp_mat dout = case_mat(c, T, n), dx = case_mat(c, T, n);
    vp_l2norm_op op = {.x = case_mat(c, T, n), .out = case_mat(c, T, n), .dout = &dout, .dx = &dx};
    gradient_pair pair = {&op, run_l2norm_bwd, forward_l2norm, dout, .n = 1, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"x", op.x, dx, false};
    check_gradients(c, &pair);
    memset(mat_row(&op.x, 0), 0, (size_t)n * sizeof(float));
    CASE_OK(c, c->be->l2norm_bwd(c->one, &op), c->one);
    for (int64_t j = 0; j < n; j++) /* clamped: divided by 1e-12 */
        if (!(fabs(at(&dx, 0, j) * 1e-12 - at(&dout, 0, j)) <= 1e-6)) case_fail(c, "a row of zeros");
}

/* ---- activations ---- */
/* Inputs in (-4, 4), none so near 0 that a difference would step over the corner of ReLU. */
static vp_mat activation_input(op_case *c, int64_t T, int64_t n) {
    vp_mat x = case_mat(c, T, n);
    for (int64_t i = 0; i < T; i++)
        for (int64_t j = 0; j < n; j++) {
            float a = 4.0f * mat_row(&x, i)[j];
            mat_row(&x, i)[j] = a > 0.0f ? a + 0.001f : a - 0.001f;
        }
    return x;
}

static void forward_act(const void *p, double *out) {
    const vp_act_op *op = p;
    for (int64_t i = 0; i < op->x.rows; i++)
        for (int64_t j = 0; j < op->x.cols; j++) out[i * op->x.cols + j] = ref_act(op->act, at(&op->x, i, j));
}

static void test_act(op_case *c) {
    int64_t T = case_size(c, 40), n = case_size(c, 200);
    vp_mat dout = case_mat(c, T, n), dx = case_mat(c, T, n);
    vp_act_op op = {.act = (vp_act)case_int(c, 0, 5), .x = activation_input(c, T, n), .dout = &dout, .dx = &dx};
    gradient_pair pair = {&op, run_act_bwd, forward_act, dout, .n = 1, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"x", op.x, dx, false};
    check_gradients(c, &pair);
}

static void forward_glu(const void *p, double *out) {
    const vp_glu_op *op = p;
    for (int64_t i = 0; i < op->gate.rows; i++)
        for (int64_t j = 0; j < op->gate.cols; j++)
            out[i * op->gate.cols + j] = ref_act(op->act, at(&op->gate, i, j)) * at(&op->up, i, j);
}

static void test_glu(op_case *c) {
    int64_t T = case_size(c, 40), n = case_size(c, 200);
    vp_mat dout = case_mat(c, T, n), dgate = case_mat(c, T, n), dup = case_mat(c, T, n);
    vp_glu_op op = {.act = (vp_act)case_int(c, 0, 5), .dout = &dout, .dgate = &dgate, .dup = &dup};
    op.gate = activation_input(c, T, n);
    op.up = case_mat(c, T, n);
    gradient_pair pair = {&op, run_glu_bwd, forward_glu, dout, .n = 2, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"gate", op.gate, dgate, false};
    pair.of[1] = (gradient_of){"up", op.up, dup, false};
    check_gradients(c, &pair);
}

/* ---- rope: its backward is itself with the other sign ---- */
typedef struct rope_pair {
    vp_rope_op op;
    vp_mat dout, dx;
} rope_pair;

static void forward_rope(const void *p, double *out) {
    ref_rope(&((const rope_pair *)p)->op, out);
}

static int run_rope(op_case *c, vp_queue *q, const void *p) {
    const rope_pair *r = p;
    vp_rope_op back = r->op;
    back.x = r->dx;
    back.sign = -1;
    for (int64_t i = 0; i < r->dx.rows; i++)
        memcpy(mat_row(&r->dx, i), mat_row(&r->dout, i), (size_t)r->dx.cols * sizeof(float));
    return c->be->rope(q, &back);
}

static void test_rope(op_case *c) {
    int32_t cu[] = {0, (int32_t)case_size(c, 60)}, d = (int32_t)case_size(c, 64), heads = (int32_t)case_int(c, 1, 3);
    vp_batch batch = case_batch(c, cu, 1);
    rope_pair p = {.op = {.batch = &batch, .heads = heads, .d = d, .sign = 1}};
    p.op.rotary = (int32_t)case_int(c, 0, d / 2) * 2;
    p.op.interleaved = case_int(c, 0, 1);
    int64_t angles = batch.T * p.op.rotary / 2 + 1;
    float *cosines = case_floats(c, angles), *sines = case_floats(c, angles);
    for (int64_t i = 0; i < angles; i++) {
        cosines[i] = cosf(3.0f * sines[i]);
        sines[i] = sinf(3.0f * sines[i]);
    }
    p.op.cos = cosines;
    p.op.sin = sines;
    p.op.x = case_mat(c, batch.T, (int64_t)heads * d);
    p.dout = case_mat(c, batch.T, (int64_t)heads * d);
    p.dx = case_mat(c, batch.T, (int64_t)heads * d);
    gradient_pair pair = {&p, run_rope, forward_rope, p.dout, .n = 1, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"x", p.op.x, p.dx, false};
    check_gradients(c, &pair);
}

/* ---- embed: linear in the table, whose rows come from `context` ---- */
static void forward_embed(const void *p, double *out) {
    const vp_embed_op *op = p;
    const vp_mat *table = op->table.ctx;
    for (int64_t t = 0; t < op->batch->T; t++)
        for (int64_t j = 0; j < op->C; j++) out[t * op->C + j] = (double)op->scale * at(table, op->ids[t], j);
}

static void test_embed(op_case *c) {
    vp_batch batch = case_unit_batch(c, case_int(c, 1, 5), 200);
    int64_t V = case_size(c, 60), C = case_size(c, 100);
    vp_mat table = case_dense(c, V, C), dtable = case_dense(c, V, C), dout = case_mat(c, batch.T, C);
    int32_t *ids = case_alloc(c, (size_t)(batch.T + 1) * sizeof *ids);
    for (int64_t t = 0; t < batch.T; t++) ids[t] = (int32_t)case_int(c, 0, V - 1);
    vp_embed_op op = {.batch = &batch, .ids = ids, .table = {V, NULL, &table}, .C = C, .scale = 1.75f, .dout = &dout};
    op.dtable = dtable.ptr;
    vp_mat sum = case_copy(c, &dtable);
    gradient_pair pair = {&op, run_embed_bwd, forward_embed, dout, .n = 1, .tolerance = 4.0 * TOLERANCE};
    pair.of[0] = (gradient_of){"table", table, dtable, true};
    check_gradients(c, &pair);
    int64_t ends[] = {0, case_int(c, 0, batch.B), batch.B};
    for (int i = 0; i < 2; i++) {
        vp_batch cut = case_cut_batch(c, &batch, ends[i], ends[i + 1]);
        vp_mat some = case_cut(&dout, batch.cu_q[ends[i]], cut.T);
        vp_embed_op part = op;
        part.batch = &cut;
        part.ids = ids + batch.cu_q[ends[i]];
        part.dout = &some;
        part.dtable = sum.ptr;
        CASE_OK(c, c->be->embed_bwd(c->three, &part), c->three);
    }
    case_same_bytes(c, "dtable of two calls", &sum, &dtable);
    if (batch.T == 0 || case_separate(c)) return;
    ids[batch.T - 1] = (int32_t)V;
    if (c->be->embed_bwd(c->one, &op) != VP_BUG) case_fail(c, "an id past the end was taken");
}

/* ---- pool, pick ---- */
static void forward_pool(const void *op, double *out) {
    ref_pool(op, out);
}

static void test_pool(op_case *c) {
    int64_t B = case_int(c, 1, 6), C = case_size(c, 100);
    int32_t *cu = case_offsets(c, B, 50);
    uint8_t *keep = case_alloc(c, (size_t)cu[B] + 1);
    for (int64_t t = 0; t < cu[B]; t++) keep[t] = case_int(c, 0, 3) > 0;
    vp_mat dout = case_mat(c, B, C), dx = case_mat(c, cu[B], C);
    vp_pool_op op = {.kind = (vp_pool_kind)case_int(c, 0, 4), .B = B, .cu = cu, .dout = &dout, .dx = &dx};
    op.keep = case_int(c, 0, 1) ? keep : NULL;
    op.x = case_mat(c, cu[B], C);
    op.out = case_mat(c, B, C);
    gradient_pair pair = {&op, run_pool_bwd, forward_pool, dout, .n = 1, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"x", op.x, dx, false};
    check_gradients(c, &pair);
}

static void forward_pick(const void *p, double *out) {
    const vp_pick_op *op = p;
    for (int64_t m = 0; m < op->M; m++)
        for (int64_t j = 0; j < op->x.cols; j++) out[m * op->x.cols + j] = at(&op->x, op->index[m], j);
}

static void test_pick(op_case *c) {
    int64_t T = case_size(c, 60), C = case_size(c, 200), M = case_int(c, 0, 40);
    int32_t *index = case_alloc(c, (size_t)(M + 1) * sizeof *index);
    for (int64_t m = 0; m < M; m++) index[m] = (int32_t)case_int(c, 0, T - 1);
    vp_mat dout = case_mat(c, M, C), dx = case_mat(c, T, C);
    vp_pick_op op = {.x = case_mat(c, T, C), .out = case_mat(c, M, C), .index = index, .M = M};
    op.dout = &dout;
    op.dx = &dx;
    gradient_pair pair = {&op, run_pick_bwd, forward_pick, dout, .n = 1, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"x", op.x, dx, false};
    check_gradients(c, &pair);
}

int main(int argc, char **argv) {
    static const op_test tests[] = {
        {"norm", test_norm, 30},   {"softmax", test_softmax, 15}, {"l2norm", test_l2norm, 15},
        {"act", test_act, 30},     {"glu", test_glu, 30},         {"rope", test_rope, 20},
        {"embed", test_embed, 20}, {"pool", test_pool, 30},       {"pick", test_pick, 20}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
