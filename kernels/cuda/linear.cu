/* linear and its backward. Products go to the library or to our own kernels (product.h); what comes after their sums is
 * one more pass over F32 sums (join.cu), where there is something, in pieces of rows. Legend: x [T, K], out [T, N]. */
#include "kernels/cuda/linear.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/units.h"

/* Of a piece's sums: what stays in the second-level cache; or more, for so many rows that reading the weights anew for
 * each piece takes less time than its product; within bounds, for very wide results. */
static const int64_t CACHED_BYTES = 16 << 20, ENOUGH_ROWS = 1024, MOST_BYTES = 128 << 20, ROWS_STEP = 128;

/* out = x times the weight, and what joins */
struct linear_job {
    const char *what;
    vp_product_kind kind; /* NT, or NN: backward */
    const vp_weight *w;
    vp_mat x;
    vp_join_op join;         /* sums and first are the pieces' */
    const vp_routing *group; /* of experts: nothing joins */
};

static int multiply(vp_queue *q, const linear_job *j, int64_t first, const vp_mat *to) {
    vp_product_op op = {};
    op.kind = j->kind;
    op.M = to->rows;
    op.N = to->cols;
    op.K = j->kind == VP_PRODUCT_NT ? j->w->ld : j->x.cols;
    op.type = j->w->row_type;
    if (op.type == VP_F8) {
        op.scale_a = j->x.scale + first;
        op.scale_b = j->w->row_scale;
    }
    op.a = (const char *)j->x.ptr + (size_t)(first * j->x.ld) * vp_dtype_size(op.type);
    op.lda = j->x.ld;
    op.b = j->w->row;
    op.ldb = j->w->ld;
    op.d = to->ptr;
    op.ldd = to->ld;
    op.d_type = to->dtype;
    op.group = j->group;
    op.stride_b = j->group ? j->w->out * j->w->in : 0;
    return vp_product_run(q, j->what, &op);
}

static int join_piece(vp_queue *q, const linear_job *j, int64_t first, const vp_mat *sums) {
    vp_join_op join = j->join;
    join.sums = *sums;
    join.first = first;
    join.out.ptr = (char *)join.out.ptr + (size_t)(first * join.out.ld) * vp_dtype_size(join.out.dtype);
    join.out.rows = sums->rows;
    return vp_join(q, j->what, &join);
}

static int64_t piece_rows(int64_t ld) {
    const int64_t row = ld * (int64_t)sizeof(float), cached = CACHED_BYTES / row, bound = MOST_BYTES / row,
                  enough = bound < ENOUGH_ROWS ? bound : ENOUGH_ROWS,
                  rows = (cached > enough ? cached : enough) / ROWS_STEP * ROWS_STEP;
    return rows ? rows : ROWS_STEP;
}

static int run_pieces(vp_queue *q, const linear_job *j) {
    const int64_t T = j->join.out.rows, N = j->join.out.cols, ld = (N + 3) / 4 * 4, most = piece_rows(ld);
    vp_mat sums = {NULL, VP_F32, T < most ? T : most, N, ld, NULL};
    sums.ptr = vp_queue_take(q, j->what, (size_t)(sums.rows * ld) * sizeof(float));
    if (!sums.ptr) return VP_MEMORY;
    for (int64_t first = 0; first < T; first += most) {
        sums.rows = T - first < most ? T - first : most;
        VP_TRY(multiply(q, j, first, &sums));
        VP_TRY(join_piece(q, j, first, &sums));
    }
    return VP_OK;
}

static int run(vp_queue *q, linear_job *j) {
    const vp_join_op *join = &j->join;
    if (join->out.rows == 0) return VP_OK;
    const size_t mark = vp_arena_top(&q->arena);
    const bool plain = !join->rank && !join->bias && join->act == VP_ACT_NONE && !join->residual.ptr;
    const vp_mat x = j->x;
    int status = vp_product_typed(q, j->what, &x, j->w->row_type, &j->x);
    if (!status) status = plain ? multiply(q, j, 0, &join->out) : run_pieces(q, j);
    vp_arena_back(&q->arena, mark);
    return status;
}

/* ---- forward ---- */
/* Rows are experts' where, and only where, the weight is. */
static int check_group(vp_queue *q, const char *what, const vp_linear_op *op, const vp_rank_sum *rank, int64_t rows) {
    const vp_routing *group = op->group;
    if ((group ? group->experts : 0) != op->weight->experts)
        return vp_queue_fail(q, VP_BUG, "%s: a weight of %d experts for rows of %d", what, (int)op->weight->experts,
                             group ? (int)group->experts : 0);
    if (!group) return VP_OK;
    if (rank || op->act != VP_ACT_NONE || op->residual.ptr || op->dbias)
        return vp_queue_fail(q, VP_BUG, "%s: experts have no bias, activation or residual", what);
    if (group->top_k < 1 || rows % group->top_k)
        return vp_queue_fail(q, VP_BUG, "%s: %lld rows are not the experts'", what, (long long)rows);
    return VP_OK;
}

static int check_linear(vp_queue *q, const vp_linear_op *op) {
    if (!op->weight) return vp_queue_fail(q, VP_BUG, "linear: no weight");
    VP_TRY(op->weight->row_type == VP_F8 ? vp_check_f8(q, "linear.x", &op->x, op->x.rows, op->weight->in)
                                         : vp_check_mat(q, "linear.x", &op->x, true, op->x.rows, op->weight->in));
    VP_TRY(vp_check_mat(q, "linear.out", &op->out, true, op->x.rows, op->weight->out));
    if (op->residual.ptr) VP_TRY(vp_check_mat(q, "linear.residual", &op->residual, true, op->x.rows, op->weight->out));
    return VP_OK;
}

int vp_linear_run(vp_queue *q, const vp_linear_op *op, const vp_rank_sum *rank) {
    VP_TRY(check_linear(q, op));
    VP_TRY(check_group(q, "linear", op, rank, op->x.rows));
    if (op->x.rows == 0) return VP_OK;
    if (op->weight->rows) return vp_linear_rows(q, op);
    linear_job j = {"linear", VP_PRODUCT_NT, op->weight, op->x, {}, op->group};
    j.join.out = op->out;
    j.join.rank = rank;
    j.join.bias = op->weight->bias;
    j.join.act = op->act;
    j.join.residual = op->residual;
    return run(q, &j);
}

int vp_cuda_linear(vp_queue *q, const vp_linear_op *op) {
    return vp_linear_run(q, op, NULL);
}

/* ---- backward ---- */
static int check_dout(vp_queue *q, const char *what, const vp_linear_op *op) {
    if (!op->weight || !op->dout) return vp_queue_fail(q, VP_BUG, "%s: no weight or no gradient", what);
    if (op->act != VP_ACT_NONE) return vp_queue_fail(q, VP_BUG, "%s: activations are not part of it", what);
    return vp_check_mat(q, what, op->dout, true, op->dout->rows, op->weight->out);
}

int vp_linear_bwd_x_run(vp_queue *q, const vp_linear_op *op, const vp_rank_sum *rank) {
    VP_TRY(check_dout(q, "linear_bwd_x.dout", op));
    VP_TRY(check_group(q, "linear_bwd_x", op, rank, op->dout->rows));
    if (!op->weight->backward) return vp_queue_fail(q, VP_BUG, "linear_bwd_x: the weight is packed for forward only");
    if (!op->dx) return vp_queue_fail(q, VP_BUG, "linear_bwd_x: no dx");
    VP_TRY(vp_check_mat(q, "linear_bwd_x.dx", op->dx, true, op->dout->rows, op->weight->in));
    linear_job j = {"linear_bwd_x", VP_PRODUCT_NN, op->weight, *op->dout, {}, op->group};
    j.join.out = *op->dx;
    j.join.rank = rank;
    return run(q, &j);
}

int vp_cuda_linear_bwd_x(vp_queue *q, const vp_linear_op *op) {
    return vp_linear_bwd_x_run(q, op, NULL);
}

/* dbias[j] += the sum of a unit's rows, unit by unit; a thread owns a column. */
enum { BIAS_THREADS = 64 };
template <class T>
VP_KERNEL(BIAS_THREADS)
bias_kernel(vp_rows_of<const T> dout, vp_units units, int64_t cols, float *dbias) {
    const int64_t j = (int64_t)blockIdx.x * BIAS_THREADS + threadIdx.x;
    if (j >= cols) return;
    float total = dbias[j];
    vp_units_walk(units, [&](int64_t first, int64_t past) {
        float sum = 0.0f;
        for (int64_t t = first; t < past; t++) sum += vp_float(dout.p[t * dout.ld + j]);
        total += sum;
    });
    dbias[j] = total;
}

static int sum_bias(vp_queue *q, const vp_linear_op *op) {
    vp_units units;
    VP_TRY(vp_units_make(q, "linear_bwd_w", op->batch, op->dout->rows, &units));
    return vp_typed(*op->dout, [&](auto type) {
        using T = decltype(type);
        return vp_launch(q, "linear_bwd_w", bias_kernel<T>, vp_blocks(op->dout->cols, BIAS_THREADS), BIAS_THREADS, 0,
                         vp_rows_of<const T>(*op->dout), units, op->dout->cols, op->dbias);
    });
}

int vp_cuda_linear_bwd_w(vp_queue *q, const vp_linear_op *op) {
    VP_TRY(check_dout(q, "linear_bwd_w.dout", op));
    VP_TRY(check_group(q, "linear_bwd_w", op, NULL, op->dout->rows));
    if (!op->dw) return vp_queue_fail(q, VP_BUG, "linear_bwd_w: no dw");
    VP_TRY(vp_check_mat(q, "linear_bwd_w.x", &op->x, true, op->dout->rows, op->weight->in));
    const size_t mark = vp_arena_top(&q->arena);
    const bool bf16 = op->dout->dtype == VP_BF16 && op->x.dtype == VP_BF16;
    vp_mat dout, x;
    vp_product_op p = {};
    int status = vp_product_typed(q, "linear_bwd_w", op->dout, bf16 ? VP_BF16 : VP_F32, &dout);
    if (!status) status = vp_product_typed(q, "linear_bwd_w", &op->x, bf16 ? VP_BF16 : VP_F32, &x);
    if (!status) {
        p.kind = VP_PRODUCT_TN;
        p.M = op->weight->out, p.N = op->weight->in, p.K = dout.rows;
        p.type = dout.dtype;
        p.a = dout.ptr, p.lda = dout.ld;
        p.b = x.ptr, p.ldb = x.ld;
        p.d = op->dw, p.ldd = p.N;
        p.d_type = VP_F32;
        p.add = true;
        p.units = op->batch;
        p.group = op->group;
        p.stride_d = op->group ? p.M * p.N : 0;
        status = vp_product_run(q, "linear_bwd_w", &p);
    }
    vp_arena_back(&q->arena, mark);
    return status || !op->dbias ? status : sum_bias(q, op);
}
