/* Cross-entropy of a linear head, and its form for bags of tokens. Legend: M rows, C width, V vocabulary. The logits of
 * a chunk of rows are turned into their own gradient in place, then into dx; chunks only bound the memory. */
#include "kernels/cuda/device.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/log.h"
#include "kernels/cuda/map.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/vec.h"

static const int64_t LOGITS_BYTES = 64 << 20, STEP = 64;

/* Rows of a chunk: whole tiles of a product where that many fit. */
static int64_t chunk_rows(int64_t ld) {
    const int64_t rows = LOGITS_BYTES / (int64_t)sizeof(float) / ld;
    return rows >= STEP ? rows / STEP * STEP : rows > 0 ? rows : 1;
}

static vp_mat rows_of(const vp_mat *m, int64_t first, int64_t rows) {
    vp_mat part = *m;
    part.ptr = (char *)m->ptr + (size_t)(first * m->ld) * vp_dtype_size(m->dtype);
    part.rows = rows;
    return part;
}

/* Logits without memory yet: rows at multiples of 16 bytes. */
static vp_mat logits_of(const vp_weight *head) {
    return {NULL, VP_F32, 0, head->out, (head->out + 3) / 4 * 4, NULL};
}

static int take_floats(vp_queue *q, const char *what, int64_t n, void **p) {
    *p = vp_queue_take(q, what, (size_t)n * sizeof(float));
    return *p ? VP_OK : VP_MEMORY;
}

static int check_head(vp_queue *q, const char *what, const vp_weight *head, const vp_mat *x, const vp_mat *dx,
                      int64_t dw_first) {
    if (!head || dw_first < 0 || dw_first >= head->out)
        return vp_queue_fail(q, VP_BUG, "%s: no head, or not %lld of its rows", what, (long long)dw_first);
    VP_TRY(vp_check_mat(q, what, x, true, x->rows, head->in));
    return dx ? vp_check_mat(q, what, dx, true, x->rows, x->cols) : VP_OK;
}

static int compute_logits(vp_queue *q, const vp_weight *head, const vp_mat *x, int64_t first, const vp_mat *logits) {
    vp_linear_op op = {};
    op.weight = head;
    op.x = rows_of(x, first, logits->rows);
    op.out = *logits;
    return vp_cuda_linear(q, &op);
}

/* dw [V - from, C] += dlogits[:, from:]^T x, of the chunk's rows in one sum; in BF16 where head and x are. */
static int compute_dw(vp_queue *q, const vp_weight *head, const vp_mat *x, const vp_mat *dlogits, float *dw,
                      int64_t from) {
    const vp_dtype type = head->row_type == VP_BF16 && x->dtype == VP_BF16 ? VP_BF16 : VP_F32;
    vp_mat left, right;
    VP_TRY(vp_product_typed(q, "head", dlogits, type, &left));
    VP_TRY(vp_product_typed(q, "head", x, type, &right));
    vp_product_op p = {};
    p.kind = VP_PRODUCT_TN;
    p.M = head->out - from, p.N = head->in, p.K = dlogits->rows;
    p.type = type;
    p.a = (const char *)left.ptr + (size_t)from * vp_dtype_size(type), p.lda = left.ld;
    p.b = right.ptr, p.ldb = right.ld;
    p.d = dw, p.ldd = head->in;
    p.add = true;
    return vp_product_run(q, "head", &p);
}

/* What the gradient of a chunk's logits becomes: dx and dw of rows `first` and on. */
struct head_grads {
    const vp_weight *head;
    const vp_mat *x, *dx;
    float *dw;
    int64_t dw_first;
};
static int compute_grads(vp_queue *q, const head_grads *g, int64_t first, const vp_mat *dlogits) {
    const size_t mark = vp_arena_top(&q->arena);
    const vp_mat x = rows_of(g->x, first, dlogits->rows);
    int status = VP_OK;
    if (g->dx) {
        const vp_mat dx = rows_of(g->dx, first, dlogits->rows);
        vp_linear_op op = {};
        op.weight = g->head;
        op.dout = dlogits;
        op.dx = &dx;
        status = vp_cuda_linear_bwd_x(q, &op);
    }
    if (!status && g->dw) status = compute_dw(q, g->head, &x, dlogits, g->dw, g->dw_first);
    vp_arena_back(&q->arena, mark);
    return status;
}

/* ---- one target a row. Of a target beyond the head the loss is not a number ---- */
template <bool WIDE> struct xent_rows {
    vp_cells z;
    vp_xent_op op;
    int64_t first;
    bool gradient;
    template <int LANES, int SLOTS> VP_INLINE void run(const vp_row<LANES, SLOTS> &r) const {
        const int64_t i = first + r.row;
        const int32_t target = r.live ? op.target[i] : -1;
        const bool known = target >= 0 && target < r.n;
        const float own = known ? ((const float *)z.p)[r.row * z.ld + target] : 0.0f;
        float v[vp_row<LANES, SLOTS>::HELD][VP_CELLS], top = -INFINITY, sum = 0.0f;
        r.each([&](int s, int c, int n) {
            vp_row_load<float, WIDE>(z, r.row, c, n, v[s]);
            for (int k = 0; k < VP_CELLS; k++) top = k < n ? v_max(v[s][k], top) : top;
        });
        top = r.max(top);
        r.each([&](int s, int c, int n) {
            if (!SLOTS) vp_row_load<float, WIDE>(z, r.row, c, n, v[s]);
            for (int k = 0; k < VP_CELLS; k++) {
                v[s][k] = v_exp(v[s][k] - top);
                sum += k < n ? v[s][k] : 0.0f;
            }
        });
        sum = r.sum(sum);
        const double share = (op.weight && r.live ? (double)op.weight[i] : 1.0) / op.denominator;
        if (r.live && r.lane == 0) tell(i, target, known, share, (double)top - (double)own + vp_log((double)sum));
        if (r.live && r.lane == 0 && op.right) op.right[i] = known && own >= top;
        if (!gradient) return;
        const float by = known ? (float)(share / (double)sum) : 0.0f;
        r.each([&](int s, int c, int n) {
            if (!SLOTS) vp_row_load<float, WIDE>(z, r.row, c, n, v[s]);
            for (int k = 0; k < VP_CELLS; k++) {
                const float e = known ? by * (SLOTS ? v[s][k] : v_exp(v[s][k] - top)) : 0.0f;
                v[s][k] = known && c + k == target ? e - (float)share : e;
            }
            vp_row_store<float, WIDE>(z, r.row, c, n, v[s]);
        });
    }
    VP_INLINE void tell(int64_t i, int32_t target, bool known, double share, double nll) const {
        const float none = target < 0 ? 0.0f : NAN;
        op.loss[i] = known ? (float)(share * nll) : none;
        if (op.logprob) op.logprob[i] = known ? (float)-nll : none;
    }
};

static int xent_chunk(vp_queue *q, const vp_xent_op *op, int64_t first, const vp_mat *logits) {
    const head_grads grads = {op->head, &op->x, op->dx, op->dw, op->dw_first};
    const bool gradient = op->dx || op->dw;
    vp_xent_op on = *op;
    on.head = NULL, on.dx = NULL; /* the host's */
    VP_TRY(compute_logits(q, op->head, &op->x, first, logits));
    VP_TRY(vp_wide(*logits)
               ? vp_row_map(q, "xent", xent_rows<true>{*logits, on, first, gradient}, logits->rows, logits->cols)
               : vp_row_map(q, "xent", xent_rows<false>{*logits, on, first, gradient}, logits->rows, logits->cols));
    return gradient ? compute_grads(q, &grads, first, logits) : VP_OK;
}

int vp_cuda_xent(vp_queue *q, const vp_xent_op *op) {
    VP_TRY(check_head(q, "xent", op->head, &op->x, op->dx, op->dw_first));
    vp_mat logits = logits_of(op->head);
    const int64_t M = op->x.rows, most = chunk_rows(logits.ld);
    if (M && !(op->denominator > 0)) return vp_queue_fail(q, VP_BUG, "xent: the denominator is not positive");
    if (!M) return VP_OK;
    const size_t mark = vp_arena_top(&q->arena);
    int status = take_floats(q, "xent", (M < most ? M : most) * logits.ld, &logits.ptr);
    for (int64_t first = 0; !status && first < M; first += most) {
        logits.rows = M - first < most ? M - first : most;
        status = xent_chunk(q, op, first, &logits);
    }
    vp_arena_back(&q->arena, mark);
    return status;
}

/* ---- bags: the host reads cu and target_cu, kernels their copies ---- */
struct bag_args { /* of bags [first, first + count) of a chunk, whose rows of x begin at cu[first] */
    const int32_t *cu, *target, *target_cu;
    int64_t first;
    vp_cells logits, most, dz; /* [rows of the chunk, V], [count, V] */
};

struct bag_max { /* most = the maximum over a bag's rows */
    bag_args p;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float v[VP_CELLS], top[VP_CELLS];
        const int32_t from = p.cu[p.first];
        for (int k = 0; k < VP_CELLS; k++) top[k] = -INFINITY;
        for (int32_t r = p.cu[p.first + i]; r < p.cu[p.first + i + 1]; r++) {
            vp_load8<float, WIDE>(p.logits, r - from, j, n, v);
            for (int k = 0; k < VP_CELLS; k++) top[k] = v_max(v[k], top[k]);
        }
        vp_store8<float, WIDE>(p.most, i, j, n, top);
    }
};

template <bool WIDE> struct bag_loss { /* loss, and dz = the gradient of `most` but what the targets take off */
    bag_args p;
    const float *weight;
    double denominator;
    float *loss;
    template <int LANES, int SLOTS> VP_INLINE void run(const vp_row<LANES, SLOTS> &r) const {
        const int64_t i = p.first + r.row;
        const int32_t t0 = r.live ? p.target_cu[i] : 0, targets = r.live ? p.target_cu[i + 1] - t0 : 0;
        float v[vp_row<LANES, SLOTS>::HELD][VP_CELLS], top = -INFINITY, sum = 0.0f;
        r.each([&](int s, int c, int n) {
            vp_row_load<float, WIDE>(p.most, r.row, c, n, v[s]);
            for (int k = 0; k < VP_CELLS; k++) top = k < n ? v_max(v[s][k], top) : top;
        });
        top = r.max(top);
        r.each([&](int s, int c, int n) {
            if (!SLOTS) vp_row_load<float, WIDE>(p.most, r.row, c, n, v[s]);
            for (int k = 0; k < VP_CELLS; k++) {
                v[s][k] = v_exp(v[s][k] - top);
                sum += k < n ? v[s][k] : 0.0f;
            }
        });
        sum = r.sum(sum);
        const double share = (weight && r.live ? (double)weight[i] : 1.0) / denominator;
        const float by = targets ? (float)(share / (double)sum) : 0.0f;
        r.each([&](int s, int c, int n) {
            if (!SLOTS) vp_row_load<float, WIDE>(p.most, r.row, c, n, v[s]);
            for (int k = 0; k < VP_CELLS; k++) v[s][k] = targets ? by * (SLOTS ? v[s][k] : v_exp(v[s][k] - top)) : 0.0f;
            vp_row_store<float, WIDE>(p.dz, r.row, c, n, v[s]);
        });
        if (!r.live || r.lane) return;
        double nll = 0.0;
        for (int32_t t = t0; t < t0 + targets; t++)
            nll +=
                (double)top - (double)((const float *)p.most.p)[r.row * p.most.ld + p.target[t]] + vp_log((double)sum);
        loss[i] = targets ? (float)(share * nll / targets) : 0.0f;
    }
};

enum { TARGET_THREADS = 32 };
VP_KERNEL(TARGET_THREADS) bag_targets(bag_args p, const float *weight, double denominator) {
    const int64_t b = blockIdx.x, i = p.first + b;
    const int32_t t0 = p.target_cu[i], targets = p.target_cu[i + 1] - t0;
    const double share = (weight ? (double)weight[i] : 1.0) / denominator;
    for (int32_t t = (int32_t)threadIdx.x; t < targets; t += TARGET_THREADS)
        ((float *)p.dz.p)[b * p.dz.ld + p.target[t0 + t]] -= (float)(share / targets);
}

struct bag_spread { /* logits become their gradient: dz where the row was the first to have the maximum */
    bag_args p;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float v[VP_CELLS], top[VP_CELLS], dz[VP_CELLS];
        const int32_t from = p.cu[p.first];
        vp_load8<float, WIDE>(p.most, i, j, n, top);
        vp_load8<float, WIDE>(p.dz, i, j, n, dz);
        for (int32_t r = p.cu[p.first + i]; r < p.cu[p.first + i + 1]; r++) {
            vp_load8<float, WIDE>(p.logits, r - from, j, n, v);
            for (int k = 0; k < VP_CELLS; k++) {
                const bool won = v[k] >= top[k];
                v[k] = won ? dz[k] : 0.0f;
                if (won) top[k] = INFINITY;
            }
            vp_store8<float, WIDE>(p.logits, r - from, j, n, v);
        }
    }
};

static int check_bags(vp_queue *q, const vp_bag_op *op) {
    VP_TRY(check_head(q, "bag", op->head, &op->x, op->dx, op->dw_first));
    if (op->bags < 0 || (op->bags && !(op->denominator > 0)))
        return vp_queue_fail(q, VP_BUG, "bag: the denominator is not positive");
    for (int64_t i = 0; i < op->bags; i++) {
        const bool targets = op->target_cu[i] < op->target_cu[i + 1];
        if (op->cu[i] > op->cu[i + 1] || op->cu[i + 1] > op->x.rows || (targets && op->cu[i] == op->cu[i + 1]))
            return vp_queue_fail(q, VP_BUG, "bag: bag %lld has no rows, or others than there are", (long long)i);
    }
    return VP_OK;
}

/* Bags [first, last), whose logits have V columns. */
static int bag_chunk(vp_queue *q, const vp_bag_op *op, bag_args p, int64_t last) {
    const head_grads grads = {op->head, &op->x, op->dx, op->dw, op->dw_first};
    const int64_t count = last - p.first, V = op->head->out, row = op->cu[p.first];
    vp_mat logits = logits_of(op->head), most = logits, dz = logits;
    logits.rows = op->cu[last] - row;
    most.rows = dz.rows = count;
    VP_TRY(take_floats(q, "bag", logits.rows * logits.ld, &logits.ptr));
    VP_TRY(take_floats(q, "bag", count * most.ld, &most.ptr));
    VP_TRY(take_floats(q, "bag", count * dz.ld, &dz.ptr));
    VP_TRY(compute_logits(q, op->head, &op->x, row, &logits));
    const bool wide = vp_wide(logits);
    p.logits = logits, p.most = most, p.dz = dz;
    VP_TRY(vp_map(q, "bag", wide, bag_max{p}, count, V));
    VP_TRY(wide ? vp_row_map(q, "bag", bag_loss<true>{p, op->weight, op->denominator, op->loss}, count, V)
                : vp_row_map(q, "bag", bag_loss<false>{p, op->weight, op->denominator, op->loss}, count, V));
    if (!op->dx && !op->dw) return VP_OK;
    VP_TRY(vp_launch(q, "bag", bag_targets, (unsigned)count, TARGET_THREADS, 0, p, op->weight, op->denominator));
    VP_TRY(vp_map(q, "bag", wide, bag_spread{p}, count, V));
    return compute_grads(q, &grads, row, &logits);
}

/* A copy of the host's [n] that kernels can read. */
static int upload(vp_queue *q, const int32_t *from, int64_t n, const int32_t **to) {
    void *p = vp_queue_take(q, "bag", (size_t)n * sizeof *from);
    *to = (const int32_t *)p;
    return p ? vp_cuda_copy(q, p, from, (size_t)n * sizeof *from) : VP_MEMORY;
}

int vp_cuda_bag(vp_queue *q, const vp_bag_op *op) {
    VP_TRY(check_bags(q, op));
    const size_t mark = vp_arena_top(&q->arena);
    const int64_t rows = chunk_rows(logits_of(op->head).ld);
    bag_args p = {NULL, op->target, NULL, 0, NULL, NULL, NULL};
    int status = upload(q, op->cu, op->bags + 1, &p.cu);
    if (!status) status = upload(q, op->target_cu, op->bags + 1, &p.target_cu);
    while (!status && p.first < op->bags) { /* whole bags up to a chunk's rows, at least one */
        const size_t chunk = vp_arena_top(&q->arena);
        int64_t last = p.first + 1;
        while (last < op->bags && op->cu[last + 1] - op->cu[p.first] <= rows) last++;
        status = bag_chunk(q, op, p, last);
        p.first = last;
        vp_arena_back(&q->arena, chunk);
    }
    vp_arena_back(&q->arena, mark);
    return status;
}
