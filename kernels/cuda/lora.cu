/* Low-rank adapters and their backward: for every part, out[:, first .. first + n) += scale (z A^T) B^T, z = drop(x).
 * Legend: x, dx [T, K]; out, dout [T, N]; A [R, K], B [n, R] of a part; t, u [T, ranks], of all parts side by side.
 * Products of BF16 activations with the F32 factors A, B, t, u take those as two planes of BF16, 16 bits of them; z is
 * then x or 0, its scale in t and u. What t and u add joins the linear's sums (join.cu), or what is there already. */
#include "kernels/cuda/device.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/map.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rows.h"

struct lora_scale_part { /* columns [at, at + rank) of t or u */
    int32_t at, rank, adapter;
    float scale;
};
struct lora_job {
    const vp_lora_op *op;
    const char *what;
    vp_dropper drop;
    int64_t ranks; /* of all parts */
    bool folded;   /* dropout's scale is in t and u, not in z */
    vp_mat z, t, u;
    lora_scale_part part[VP_RANK_PARTS];
};

/* ---- z ---- */
struct lora_drop_map {
    vp_cells x, z;
    vp_dropper drop;
    float scale;
    int64_t width;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        const uint32_t keep = vp_drop_columns(drop, vp_drop_find(drop, i), width, j);
        float v[VP_CELLS];
        vp_load8<vp_either, WIDE>(x, i, j, n, v);
        for (int k = 0; k < VP_CELLS; k++) v[k] = keep >> k & 1u ? scale * v[k] : 0.0f;
        vp_store8<vp_either, WIDE>(z, i, j, n, v);
    }
};

static int take(vp_queue *q, const char *what, vp_dtype type, int64_t rows, int64_t cols, vp_mat *m) {
    *m = {NULL, type, rows, cols, cols, NULL};
    m->ptr = vp_queue_take(q, what, (size_t)(rows * cols) * vp_dtype_size(type));
    return m->ptr ? VP_OK : VP_MEMORY;
}

static int make_z(vp_queue *q, lora_job *j) {
    const vp_mat *x = &j->op->x;
    j->z = *x;
    if (!j->drop.on) return VP_OK;
    VP_TRY(take(q, j->what, x->dtype, x->rows, x->cols, &j->z));
    const lora_drop_map map = {*x, j->z, j->drop, j->folded ? 1.0f : j->drop.scale, x->cols};
    return vp_map(q, j->what, vp_wide(*x, j->z), map, x->rows, x->cols);
}

/* ---- t and u ---- */
/* times their part's scale; 0 in rows of other adapters */
struct lora_scale_map {
    vp_cells m;
    const int32_t *adapter_row;
    int nparts;
    lora_scale_part part[VP_RANK_PARTS];
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float v[VP_CELLS];
        vp_load8<float, WIDE>(m, i, j, n, v);
        for (int p = 0; p < nparts; p++) {
            const bool other = adapter_row && adapter_row[i] != part[p].adapter;
            for (int k = 0; k < VP_CELLS; k++)
                if (j + k >= part[p].at && j + k < part[p].at + part[p].rank)
                    v[k] = other ? 0.0f : part[p].scale * v[k];
        }
        vp_store8<float, WIDE>(m, i, j, n, v);
    }
};

static int scale_ranks(vp_queue *q, const lora_job *j, const vp_mat *m) {
    lora_scale_map map = {*m, j->op->batch ? j->op->batch->adapter_row : NULL, j->op->nparts, {}};
    for (int32_t i = 0; i < j->op->nparts; i++) map.part[i] = j->part[i];
    return vp_map(q, j->what, vp_wide(*m), map, m->rows, m->cols);
}

/* One of a product's operands as the F32 factor beside one of `type`, [rows, cols]: *to with room for its planes. */
static int take_factor(vp_queue *q, const lora_job *j, vp_dtype type, int64_t rows, int64_t cols, void **to) {
    const int planes = type == VP_BF16 ? 2 : 1;
    *to = vp_queue_take(q, j->what, (size_t)(planes * rows * cols) * vp_dtype_size(type));
    return *to ? VP_OK : VP_MEMORY;
}

static vp_product_op product_of(vp_product_kind kind, int64_t M, int64_t N, int64_t K, vp_dtype type) {
    vp_product_op p = {};
    p.kind = kind;
    p.M = M, p.N = N, p.K = K;
    p.type = type;
    p.planes = type == VP_BF16 ? 2 : 1;
    p.d_type = VP_F32;
    return p;
}

/* t = scale z A^T of all parts at once */
static int make_t(vp_queue *q, lora_job *j) {
    const vp_lora_op *op = j->op;
    const vp_dtype type = j->z.dtype;
    void *a;
    VP_TRY(take_factor(q, j, type, j->ranks, op->x.cols, &a));
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        const vp_mat from = {(void *)p->a, VP_F32, p->rank, op->x.cols, op->x.cols, NULL};
        VP_TRY(vp_product_factor(q, j->what, &from, type, a, j->part[i].at, j->ranks));
    }
    VP_TRY(take(q, j->what, VP_F32, op->x.rows, j->ranks, &j->t));
    vp_product_op product = product_of(VP_PRODUCT_NT, op->x.rows, j->ranks, op->x.cols, type);
    product.a = j->z.ptr, product.lda = j->z.ld;
    product.b = a, product.ldb = op->x.cols;
    product.plane_b = j->ranks * op->x.cols;
    product.d = j->t.ptr, product.ldd = j->ranks;
    VP_TRY(vp_product_own(q, j->what, &product));
    return scale_ranks(q, j, &j->t);
}

static const void *dout_of(const vp_lora_op *op, const vp_lora_part *p) {
    return (const char *)op->dout->ptr + (size_t)p->first * vp_dtype_size(op->dout->dtype);
}

/* u = scale dout B, a part after the other */
static int make_u(vp_queue *q, lora_job *j) {
    const vp_lora_op *op = j->op;
    const vp_dtype type = op->dout->dtype;
    VP_TRY(take(q, j->what, VP_F32, op->x.rows, j->ranks, &j->u));
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        const vp_mat from = {(void *)p->b, VP_F32, p->n, p->rank, p->rank, NULL};
        void *b;
        VP_TRY(take_factor(q, j, type, p->n, p->rank, &b));
        VP_TRY(vp_product_factor(q, j->what, &from, type, b, 0, p->n));
        vp_product_op product = product_of(VP_PRODUCT_NN, op->x.rows, p->rank, p->n, type);
        product.a = dout_of(op, p), product.lda = op->dout->ld;
        product.b = b, product.ldb = p->rank;
        product.plane_b = p->n * p->rank;
        product.d = (float *)j->u.ptr + j->part[i].at, product.ldd = j->ranks;
        VP_TRY(vp_product_own(q, j->what, &product));
    }
    return scale_ranks(q, j, &j->u);
}

/* ---- forward: out += t B^T ---- */
static int join_to(vp_queue *q, const lora_job *j, const vp_rank_sum *rank, const vp_mat *to) {
    vp_join_op join = {};
    join.sums = join.out = *to;
    join.rank = rank;
    return vp_join(q, j->what, &join);
}

static int lora_run(vp_queue *q, lora_job *j) {
    const vp_lora_op *op = j->op;
    if (op->linear && !op->linear->weight) return vp_queue_fail(q, VP_BUG, "lora: a linear without a weight");
    if (op->nparts == 0) return vp_linear_run(q, op->linear, NULL);
    VP_TRY(make_z(q, j));
    VP_TRY(make_t(q, j));
    vp_rank_sum rank = {(const float *)j->t.ptr, j->ranks, op->nparts, {}, {}};
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        rank.part[i] = {p->b, p->first, p->n, p->rank, 1, p->rank, j->part[i].at};
    }
    if (op->linear && !op->linear->weight->rows) return vp_linear_run(q, op->linear, &rank);
    if (op->linear && op->linear->act) return vp_queue_fail(q, VP_BUG, "lora: an activation before what is added");
    if (op->linear) VP_TRY(vp_linear_run(q, op->linear, NULL));
    return join_to(q, j, &rank, &op->out);
}

/* ---- backward: da += u^T z and db += dout^T t a unit, dx += drop(u A) ---- */
static int add_dx(vp_queue *q, const lora_job *j) {
    const vp_lora_op *op = j->op;
    vp_rank_sum rank = {(const float *)j->u.ptr, j->ranks, op->nparts, {}, j->drop};
    if (j->folded) rank.drop.scale = 1.0f;
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        rank.part[i] = {p->a, 0, op->x.cols, 1, op->x.cols, p->rank, j->part[i].at};
    }
    if (op->linear) return vp_linear_bwd_x_run(q, op->linear, op->nparts ? &rank : NULL);
    return op->dx ? join_to(q, j, &rank, op->dx) : VP_OK;
}

/* One product for the da of all parts, of which one after the other is wanted, in a copy of them. */
static int sum_da(vp_queue *q, const lora_job *j) {
    const vp_lora_op *op = j->op;
    const int64_t K = op->x.cols;
    const vp_dtype type = j->z.dtype;
    void *u;
    vp_mat da;
    VP_TRY(take(q, j->what, VP_F32, j->ranks, K, &da));
    VP_TRY(take_factor(q, j, type, op->x.rows, j->ranks, &u));
    VP_TRY(vp_product_factor(q, j->what, &j->u, type, u, 0, op->x.rows));
    vp_product_op product = product_of(VP_PRODUCT_TN, j->ranks, K, op->x.rows, type);
    product.a = u, product.lda = j->ranks;
    product.plane_a = op->x.rows * j->ranks;
    product.b = j->z.ptr, product.ldb = j->z.ld;
    product.d = da.ptr, product.ldd = K;
    product.add = true;
    product.units = op->batch;
    for (int back = 0; back < 2; back++) {
        for (int32_t i = 0; i < op->nparts; i++) {
            float *copy = (float *)da.ptr + j->part[i].at * K, *own = op->part[i].da;
            const size_t bytes = (size_t)(op->part[i].rank * K) * sizeof(float);
            if (own) VP_TRY(vp_cuda_copy(q, back ? own : copy, back ? copy : own, bytes));
        }
        if (!back) VP_TRY(vp_product_own(q, j->what, &product));
    }
    return VP_OK;
}

static int sum_db(vp_queue *q, const lora_job *j) {
    const vp_lora_op *op = j->op;
    const vp_dtype type = op->dout->dtype;
    void *t;
    VP_TRY(take_factor(q, j, type, op->x.rows, j->ranks, &t));
    VP_TRY(vp_product_factor(q, j->what, &j->t, type, t, 0, op->x.rows));
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        if (!p->db) continue;
        vp_product_op product = product_of(VP_PRODUCT_TN, p->n, p->rank, op->x.rows, type);
        product.a = dout_of(op, p), product.lda = op->dout->ld;
        product.b = (char *)t + (size_t)j->part[i].at * vp_dtype_size(type), product.ldb = j->ranks;
        product.plane_b = op->x.rows * j->ranks;
        product.d = p->db, product.ldd = p->rank;
        product.add = true;
        product.units = op->batch;
        VP_TRY(vp_product_own(q, j->what, &product));
    }
    return VP_OK;
}

static int lora_bwd_run(vp_queue *q, lora_job *j) {
    bool wants_a = false, wants_b = false;
    for (int32_t i = 0; i < j->op->nparts; i++) {
        wants_a = wants_a || j->op->part[i].da;
        wants_b = wants_b || j->op->part[i].db;
    }
    if (j->op->nparts) VP_TRY(make_u(q, j));
    if (j->op->linear || j->op->dx) VP_TRY(add_dx(q, j));
    if (wants_a || wants_b) VP_TRY(make_z(q, j));
    if (wants_b) VP_TRY(make_t(q, j));
    if (wants_a) VP_TRY(sum_da(q, j));
    return wants_b ? sum_db(q, j) : VP_OK;
}

/* ---- set-up ---- */
static int check_lora(vp_queue *q, const vp_lora_op *op) {
    VP_TRY(vp_check_mat(q, "lora.x", &op->x, true, op->out.rows, op->x.cols));
    VP_TRY(vp_check_mat(q, "lora.out", &op->out, true, op->x.rows, op->out.cols));
    if (op->nparts > VP_RANK_PARTS)
        return vp_queue_fail(q, VP_BUG, "lora: %d parts, at most %d are taken", (int)op->nparts, (int)VP_RANK_PARTS);
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        if (!p->a || !p->b || p->rank < 1 || p->n < 1 || p->first < 0 || p->first > op->out.cols - p->n)
            return vp_queue_fail(q, VP_BUG, "lora: part %d has rank %d and columns %lld + %lld of %lld", (int)i,
                                 (int)p->rank, (long long)p->first, (long long)p->n, (long long)op->out.cols);
    }
    return VP_OK;
}

static int run(vp_queue *q, const vp_lora_op *op, const char *what, int (*how)(vp_queue *q, lora_job *j)) {
    lora_job j = {};
    j.op = op;
    j.what = what;
    VP_TRY(vp_dropper_make(q, what, &op->drop, op->batch, op->x.rows, &j.drop));
    if ((op->nparts == 0 && !op->linear) || op->x.rows == 0) return VP_OK;
    j.folded = j.drop.on && op->x.dtype == VP_BF16;
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        j.part[i] = {(int32_t)j.ranks, p->rank, p->adapter, p->scale * (j.folded ? j.drop.scale : 1.0f)};
        j.ranks += p->rank;
    }
    const size_t mark = vp_arena_top(&q->arena);
    const int status = how(q, &j);
    vp_arena_back(&q->arena, mark);
    return status;
}

int vp_cuda_lora(vp_queue *q, const vp_lora_op *op) {
    VP_TRY(check_lora(q, op));
    return run(q, op, "lora", lora_run);
}

int vp_cuda_lora_bwd(vp_queue *q, const vp_lora_op *op) {
    VP_TRY(check_lora(q, op));
    VP_TRY(vp_check_grad(q, "lora_bwd.dout", op->dout, op->x.dtype, op->x.rows, op->out.cols));
    if (op->dx) VP_TRY(vp_check_grad(q, "lora_bwd.dx", op->dx, op->x.dtype, op->x.rows, op->x.cols));
    return run(q, op, "lora_bwd", lora_bwd_run);
}
