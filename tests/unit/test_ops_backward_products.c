/* The backward of linear, lora and bmm against central differences of plain sums in double; to the byte with 1 and 3
 * threads, and gradients of weights however the units are shared out among calls. */
#include "tests/unit/gradients.h"
#include "tests/unit/reference.h"
#include <string.h>

static const double TOLERANCE = 3e-6; /* sums of up to some hundreds of products of numbers under 1, in f32 */

static double at(const vp_mat *m, int64_t i, int64_t j) {
    return (double)mat_row(m, i)[j];
}

/* ---- linear ---- */
typedef struct linear_pair {
    vp_linear_op op;
    vp_mat w, bias;         /* [N, K], [1, N] */
    vp_weight *one, *three; /* of the devices */
} linear_pair;

static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)err;
    const vp_mat *m = ctx;
    memcpy(out, mat_row(m, row), (size_t)m->cols * sizeof *out);
    return VP_OK;
}

static vp_weight *prepare(op_case *c, vp_device *d, const vp_mat *w, bool backward) {
    vp_weight_part part = {w->rows, read_row, w};
    vp_weight_desc desc = {.part = &part, .nparts = 1, .in = w->cols, .out = w->rows, .compute = VP_F32, .name = "w"};
    desc.backward = backward;
    vp_weight *weight = NULL;
    vp_error err = {0};
    if (c->be->weight_prepare(d, &desc, &weight, &err)) case_fail(c, "%s", err.text);
    return weight;
}

static void forward_linear(const void *p, double *out) {
    const linear_pair *l = p;
    ref_product(&l->op.x, l->w.ptr, l->w.rows, out, NULL);
    for (int64_t i = 0; i < l->op.x.rows * l->w.rows; i++) out[i] += at(&l->bias, 0, i % l->w.rows);
}

static int run_linear(op_case *c, vp_queue *q, const void *p) {
    const linear_pair *l = p;
    vp_linear_op op = l->op;
    op.weight = q == c->one ? l->one : l->three;
    VP_TRY(c->be->linear_bwd_x(q, &op));
    return c->be->linear_bwd_w(q, &op);
}

/* Two calls of whole units, with rows of dx and the sums of dw and dbias as in one. */
static void check_linear_split(op_case *c, const linear_pair *l, const vp_mat *dw_before, const vp_mat *db_before) {
    const vp_batch *batch = l->op.batch;
    vp_mat sum = case_copy(c, dw_before), bias_sum = case_copy(c, db_before);
    const vp_mat dw = {.ptr = l->op.dw, .dtype = VP_F32, .rows = sum.rows, .cols = sum.cols, .ld = sum.ld};
    const vp_mat db = {.ptr = l->op.dbias, .dtype = VP_F32, .rows = 1, .cols = sum.rows, .ld = sum.rows};
    int64_t ends[] = {0, case_unit_cut(c, batch), batch->B};
    for (int i = 0; i < 2; i++) {
        vp_batch cut = case_cut_batch(c, batch, ends[i], ends[i + 1]);
        int64_t from = batch->cu_q[ends[i]];
        vp_mat dout = case_cut(l->op.dout, from, cut.T), dx = case_mat(c, cut.T, l->w.cols);
        vp_linear_op part = l->op;
        part.batch = &cut;
        part.weight = l->one;
        part.x = case_cut(&l->op.x, from, cut.T);
        part.dout = &dout;
        part.dx = &dx;
        part.dw = sum.ptr;
        part.dbias = bias_sum.ptr;
        CASE_OK(c, c->be->linear_bwd_x(c->one, &part), c->one);
        CASE_OK(c, c->be->linear_bwd_w(c->one, &part), c->one);
        vp_mat same = case_cut(l->op.dx, from, cut.T);
        case_same_bytes(c, "dx of two calls", &dx, &same);
    }
    case_same_bytes(c, "dw of two calls", &sum, &dw);
    case_same_bytes(c, "dbias of two calls", &bias_sum, &db);
}

static void test_linear(op_case *c) {
    vp_batch batch = case_unit_batch(c, case_int(c, 1, 6), 70);
    int64_t N = case_size(c, 150), K = case_int(c, 0, 9) ? case_size(c, 150) : 500 + case_size(c, 100);
    linear_pair l = {.op = {.batch = &batch}, .w = case_dense(c, N, K), .bias = case_dense(c, 1, N)};
    vp_mat dout = case_mat(c, batch.T, N), dx = case_mat(c, batch.T, K), dw = case_dense(c, N, K);
    vp_mat db = case_dense(c, 1, N), before = case_copy(c, &dw), bias_before = case_copy(c, &db);
    l.op.x = case_mat(c, batch.T, K);
    l.op.dout = &dout;
    l.op.dx = &dx;
    l.op.dw = dw.ptr;
    l.op.dbias = db.ptr;
    l.one = prepare(c, c->device_one, &l.w, true);
    l.three = prepare(c, c->device_three, &l.w, true);
    gradient_pair pair = {&l, run_linear, forward_linear, dout, .n = 3, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"x", l.op.x, dx, false};
    pair.of[1] = (gradient_of){"w", l.w, dw, true};
    pair.of[2] = (gradient_of){"bias", l.bias, db, true};
    check_gradients(c, &pair);
    check_linear_split(c, &l, &before, &bias_before);
    vp_weight *forward = prepare(c, c->device_one, &l.w, false);
    vp_linear_op op = l.op;
    op.weight = forward;
    if (c->be->linear_bwd_x(c->one, &op) != VP_BUG) case_fail(c, "a weight packed for forward only was taken");
    c->be->weight_free(c->device_one, forward);
    c->be->weight_free(c->device_one, l.one);
    c->be->weight_free(c->device_three, l.three);
}

/* A weight that takes new rows gives what one made of them gives, forward and backward. */
static void test_update(op_case *c) {
    int64_t T = case_size(c, 70), N = case_size(c, 400), K = case_size(c, 150);
    vp_mat old = case_dense(c, N, K), now = case_dense(c, N, K), dout = case_mat(c, T, N), dx[2];
    float *bias = case_floats(c, N), *old_bias = case_floats(c, N);
    vp_weight_part part[] = {{N, read_row, &old}, {N, read_row, &now}};
    vp_weight_desc desc = {.part = &part[0], .nparts = 1, .in = K, .out = N, .bias = old_bias, .compute = VP_F32};
    vp_weight *weight[2] = {0};
    vp_linear_op op = {.x = case_mat(c, T, K), .dout = &dout};
    vp_mat out[2] = {case_mat(c, T, N), case_mat(c, T, N)};
    vp_error err = {0};
    desc.backward = true;
    for (int i = 0; i < 2; i++) {
        if (c->be->weight_prepare(c->device_three, &desc, &weight[i], &err)) case_fail(c, "%s", err.text);
        desc.part = &part[1];
        desc.bias = bias;
    }
    CASE_OK(c, c->be->weight_update(c->three, weight[0], &desc), c->three);
    for (int i = 0; i < 2; i++) {
        dx[i] = case_mat(c, T, K);
        op.weight = weight[i];
        op.out = out[i];
        op.dx = &dx[i];
        CASE_OK(c, c->be->linear(c->three, &op), c->three);
        CASE_OK(c, c->be->linear_bwd_x(c->three, &op), c->three);
    }
    case_same_bytes(c, "out", &out[0], &out[1]);
    case_same_bytes(c, "dx", &dx[0], &dx[1]);
    desc.bias = NULL;
    if (c->be->weight_update(c->three, weight[0], &desc) != VP_BUG) case_fail(c, "an update without the bias ran");
    desc.bias = bias;
    desc.in = K + 1;
    if (c->be->weight_update(c->three, weight[0], &desc) != VP_BUG) case_fail(c, "an update of another width ran");
    for (int i = 0; i < 2; i++) c->be->weight_free(c->device_three, weight[i]);
}

/* The library's own tiles: a device that chose its instruction set by itself gives the gradients within the bound. */
static void test_linear_auto(op_case *c) {
    vp_device_options options = {.threads = 2, .isa = "auto"};
    vp_device *device = NULL;
    vp_queue *q = NULL;
    vp_error err = {0};
    if (c->be->open(&device, &options, &err) || c->be->queue_open(&q, device, &err)) {
        case_fail(c, "%s", err.text);
        return;
    }
    int64_t T = case_size(c, 200), N = case_size(c, 150), K = case_size(c, 150);
    vp_mat w = case_dense(c, N, K), dout = case_mat(c, T, N), dx = case_mat(c, T, K), turned = case_dense(c, K, N);
    for (int64_t i = 0; i < N; i++)
        for (int64_t k = 0; k < K; k++) mat_row(&turned, k)[i] = mat_row(&w, i)[k];
    vp_linear_op op = {.weight = prepare(c, device, &w, true), .dout = &dout, .dx = &dx};
    if (c->be->linear_bwd_x(q, &op)) case_fail(c, "%s", c->be->why(q));
    double *want = case_alloc(c, (size_t)(T * K) * sizeof *want);
    ref_product(&dout, turned.ptr, K, want, NULL);
    case_near(c, "dx", &dx, want, NULL, 2e-5);
    c->be->weight_free(device, (vp_weight *)(uintptr_t)op.weight);
    c->be->queue_close(q);
    c->be->close(device);
}

/* ---- lora ---- */
static int run_lora(op_case *c, vp_queue *q, const void *op) {
    return c->be->lora_bwd(q, op);
}

static void forward_lora(const void *p, double *out) {
    const vp_lora_op *op = p;
    memset(out, 0, (size_t)(op->out.rows * op->out.cols) * sizeof *out);
    for (int64_t t = 0; t < op->x.rows; t++)
        for (int32_t i = 0; i < op->nparts; i++) {
            const vp_lora_part *part = &op->part[i];
            if (op->batch->adapter_row && op->batch->adapter_row[t] != part->adapter) continue;
            for (int32_t r = 0; r < part->rank; r++) {
                double sum = 0.0;
                for (int64_t k = 0; k < op->x.cols; k++)
                    sum += at(&op->x, t, k) * ref_drop_token(&op->drop, op->batch, t, op->x.cols, k) *
                           (double)part->a[r * op->x.cols + k];
                for (int64_t n = 0; n < part->n; n++)
                    out[t * op->out.cols + part->first + n] +=
                        (double)part->scale * sum * (double)part->b[n * part->rank + r];
            }
        }
}

/* da and db of the second part by two calls of whole units. */
static void check_lora_split(op_case *c, const vp_lora_op *whole, const vp_mat *before, const vp_mat *after) {
    vp_mat sum[2] = {case_copy(c, &before[0]), case_copy(c, &before[1])};
    int64_t ends[] = {0, case_unit_cut(c, whole->batch), whole->batch->B};
    for (int i = 0; i < 2; i++) {
        vp_batch cut = case_cut_batch(c, whole->batch, ends[i], ends[i + 1]);
        int64_t from = whole->batch->cu_q[ends[i]];
        vp_lora_part part = whole->part[1];
        part.da = sum[0].ptr;
        part.db = sum[1].ptr;
        vp_mat dout = case_cut(whole->dout, from, cut.T);
        vp_lora_op op = *whole;
        op.part = &part;
        op.nparts = 1;
        op.batch = &cut;
        op.x = case_cut(&whole->x, from, cut.T);
        op.out = case_cut(&whole->out, from, cut.T);
        op.dout = &dout;
        op.dx = NULL;
        CASE_OK(c, c->be->lora_bwd(c->three, &op), c->three);
    }
    case_same_bytes(c, "da of two calls", &sum[0], &after[0]);
    case_same_bytes(c, "db of two calls", &sum[1], &after[1]);
}

static void test_lora(op_case *c) {
    vp_batch batch = case_unit_batch(c, case_int(c, 1, 5), 60);
    int64_t K = case_size(c, 130), n = case_size(c, 70), N = n + case_int(c, 0, 40);
    int32_t *adapter_row = case_alloc(c, (size_t)(batch.T + 1) * sizeof *adapter_row);
    for (int64_t t = 0; t < batch.T; t++) adapter_row[t] = (int32_t)case_int(c, 0, 2);
    batch.adapter_row = case_int(c, 0, 1) ? adapter_row : NULL;
    vp_lora_part part[2] = {{.first = N - n, .n = n, .scale = 0.7f, .rank = 3, .adapter = 0},
                            {.n = n, .scale = 0.3f, .rank = (int32_t)case_size(c, 24), .adapter = 1}};
    vp_mat a[2], b[2], grad[2][2], before[2];
    for (int i = 0; i < 2; i++) {
        a[i] = case_dense(c, part[i].rank, K);
        b[i] = case_dense(c, n, part[i].rank);
        grad[i][0] = case_dense(c, part[i].rank, K);
        grad[i][1] = case_dense(c, n, part[i].rank);
        part[i].a = a[i].ptr;
        part[i].b = b[i].ptr;
        part[i].da = grad[i][0].ptr;
        part[i].db = grad[i][1].ptr;
    }
    for (int i = 0; i < 2; i++) before[i] = case_copy(c, &grad[1][i]);
    vp_mat dout = case_mat(c, batch.T, N), dx = case_mat(c, batch.T, K);
    vp_lora_op op = {.part = part, .nparts = 2, .batch = &batch, .dout = &dout, .dx = &dx};
    op.x = case_mat(c, batch.T, K);
    op.out = case_mat(c, batch.T, N);
    op.drop = case_drop(c);
    gradient_pair pair = {&op, run_lora, forward_lora, dout, .n = 4, .tolerance = 2.0 * TOLERANCE};
    pair.of[0] = (gradient_of){"x", op.x, dx, true};
    pair.of[1] = (gradient_of){"a", a[1], grad[1][0], true};
    pair.of[2] = (gradient_of){"b", b[1], grad[1][1], true};
    pair.of[3] = (gradient_of){"other a", a[0], grad[0][0], true};
    check_gradients(c, &pair);
    check_lora_split(c, &op, before, grad[1]);
}

/* A linear taken along, over several panels of it, gives the bytes of the linear and then the adapters. */
static void test_lora_linear(op_case *c) {
    vp_batch batch = case_unit_batch(c, case_int(c, 1, 5), 60);
    int64_t K = 380 + case_size(c, 130), N = 380 + case_size(c, 130), n = case_int(c, 1, N);
    vp_mat w = case_dense(c, N, K), dout = case_mat(c, batch.T, N), out[2], dx[2];
    vp_weight *one = prepare(c, c->device_one, &w, true), *three = prepare(c, c->device_three, &w, true);
    vp_lora_part part[2] = {{.first = N - n, .n = n, .scale = 0.7f, .rank = 3},
                            {.n = n, .scale = 0.3f, .rank = (int32_t)case_size(c, 24)}};
    for (int i = 0; i < 2; i++) {
        part[i].a = case_floats(c, part[i].rank * K);
        part[i].b = case_floats(c, part[i].rank * n);
        out[i] = case_mat(c, batch.T, N);
        dx[i] = case_mat(c, batch.T, K);
    }
    vp_lora_op apart = {.part = part, .nparts = 2, .batch = &batch, .dout = &dout, .dx = &dx[0], .drop = case_drop(c)};
    apart.x = case_mat(c, batch.T, K);
    apart.out = out[0];
    vp_linear_op first = {.weight = one, .x = apart.x, .out = out[0], .dout = &dout, .dx = &dx[0]}, along = first;
    vp_lora_op fused = apart;
    along.weight = three;
    along.out = fused.out = out[1];
    along.dx = fused.dx = &dx[1];
    fused.linear = &along;
    CASE_OK(c, c->be->linear(c->one, &first), c->one);
    CASE_OK(c, c->be->lora(c->one, &apart), c->one);
    CASE_OK(c, c->be->lora(c->three, &fused), c->three);
    CASE_OK(c, c->be->linear_bwd_x(c->one, &first), c->one);
    CASE_OK(c, c->be->lora_bwd(c->one, &apart), c->one);
    CASE_OK(c, c->be->lora_bwd(c->three, &fused), c->three);
    case_same_bytes(c, "out", &out[1], &out[0]);
    case_same_bytes(c, "dx", &dx[1], &dx[0]);
    c->be->weight_free(c->device_one, one);
    c->be->weight_free(c->device_three, three);
}

/* ---- bmm ---- */
static int run_bmm(op_case *c, vp_queue *q, const void *op) {
    return c->be->bmm_bwd(q, op);
}

static void forward_bmm(const void *p, double *out) { /* matrices of a stack follow each other row by row */
    const vp_bmm_op *op = p;
    int64_t M = op->a.rows, N = op->out.cols, K = op->a.cols;
    for (int64_t i = 0; i < op->count; i++)
        for (int64_t m = 0; m < M; m++)
            for (int64_t n = 0; n < N; n++) {
                const float *a = mat_row(&op->a, m) + i * op->stride_a, *b = (float *)op->b.ptr + i * op->stride_b;
                double sum = 0.0;
                for (int64_t k = 0; k < K; k++)
                    sum += (double)a[k] * (double)(op->transpose_b ? b[n * op->b.ld + k] : b[k * op->b.ld + n]);
                out[(i * M + m) * N + n] = (double)op->alpha * sum;
            }
}

static void test_bmm(op_case *c) {
    int64_t count = case_int(c, 1, 4), M = case_size(c, 60), N = case_size(c, 60), K = case_size(c, 60);
    bool turned = case_int(c, 0, 1);
    int64_t rows = turned ? N : K, cols = turned ? K : N;
    vp_mat a = case_mat(c, count * M, K), da = a, b = case_mat(c, count * rows, cols), db = b;
    vp_mat dout = case_mat(c, count * M, N);
    da = case_copy(c, &a);
    db = case_copy(c, &b);
    vp_mat one_dout = case_cut(&dout, 0, M), one_da = case_cut(&da, 0, M), one_db = case_cut(&db, 0, rows);
    vp_bmm_op op = {.count = count, .transpose_b = turned, .alpha = 0.6f, .dout = &one_dout, .da = &one_da};
    op.db = &one_db;
    op.a = case_cut(&a, 0, M);
    op.b = case_cut(&b, 0, rows);
    op.out = one_dout;
    op.stride_a = M * a.ld;
    op.stride_b = rows * b.ld;
    op.stride_out = M * dout.ld;
    gradient_pair pair = {&op, run_bmm, forward_bmm, dout, .n = 2, .tolerance = TOLERANCE};
    pair.of[0] = (gradient_of){"a", a, da, false};
    pair.of[1] = (gradient_of){"b", b, db, false};
    check_gradients(c, &pair);
}

int main(int argc, char **argv) {
    static const op_test tests[] = {{"linear", test_linear, 20},           {"linear_auto", test_linear_auto, 5},
                                    {"update", test_update, 15},           {"lora", test_lora, 20},
                                    {"lora_linear", test_lora_linear, 15}, {"bmm", test_bmm, 20}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
