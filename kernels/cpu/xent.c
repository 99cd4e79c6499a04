/* Cross-entropy of a linear head, and its form for bags of tokens. Legend: M rows, C width, V vocabulary. The logits of
 * a chunk of rows are turned into their own gradient in place, then into dx; chunks only bound the memory. */
#include "kernels/cpu/units.h"
#include <math.h>
#include <string.h>

enum { LOGITS_BYTES = 64 << 20 };

/* Rows of a chunk: whole tiles where that many fit, so that only the last one of a call is padded. */
static int64_t chunk_rows(int64_t vocab) {
    const int64_t rows = LOGITS_BYTES / (int64_t)sizeof(float) / vocab;
    return rows >= VP_TILE ? rows / VP_TILE * VP_TILE : rows > 0 ? rows : 1;
}

static vp_mat rows_of(const vp_mat *m, int64_t first, int64_t rows) {
    vp_mat part = *m;
    part.ptr = vp_row(m, first);
    part.rows = rows;
    return part;
}

static int check_head(vp_queue *q, const char *what, const vp_weight *head, const vp_mat *x, const vp_mat *dx,
                      int64_t dw_first) {
    if (!head || dw_first < 0 || dw_first >= head->out)
        return vp_queue_fail(q, VP_BUG, "%s: no head, or not %lld of its rows", what, (long long)dw_first);
    VP_TRY(vp_check_mat(q, what, x, VP_F32, x->rows, head->in));
    return dx ? vp_check_mat(q, what, dx, VP_F32, x->rows, x->cols) : VP_OK;
}

static int compute_logits(vp_queue *q, const vp_weight *head, const vp_mat *x, int64_t first, const vp_mat *logits) {
    vp_linear_op op = {.weight = head, .x = rows_of(x, first, logits->rows), .out = *logits};
    return vp_cpu_linear(q, &op);
}

static int compute_dx(vp_queue *q, const vp_weight *head, const vp_mat *dx, int64_t first, const vp_mat *dlogits) {
    const vp_mat part = rows_of(dx, first, dlogits->rows);
    vp_linear_op op = {.weight = head, .dout = dlogits, .dx = &part};
    return vp_cpu_linear_bwd_x(q, &op);
}

/* dw [V - from, C] += dlogits[:, from:]^T x */
static int compute_dw(vp_queue *q, const vp_weight *head, const vp_mat *x, int64_t first, const vp_mat *dlogits,
                      float *dw, int64_t from) {
    const vp_mat input = rows_of(x, first, dlogits->rows);
    vp_mat left = *dlogits;
    left.ptr = (float *)left.ptr + from;
    left.cols -= from;
    vp_units units;
    size_t mark = vp_arena_mark(q);
    int status = vp_units_make(q, "head", NULL, dlogits->rows, &units);
    vp_units_op product = {.units = &units, .left = &left, .right = &input};
    if (!status && !(product.dw = vp_units_rows(q, "head", dw, left.cols, head->in))) status = VP_MEMORY;
    if (!status) status = vp_units_product(q, "head", &product);
    vp_arena_release(q, mark);
    return status;
}

/* ---- one target a row ---- */
typedef struct xent_job {
    const vp_xent_op *op;
    const vp_simd *simd;
    vp_mat logits; /* [chunk, V] */
    int64_t first;
    bool gradient;
} xent_job;

static void xent_row(const xent_job *j, int64_t r) {
    const vp_xent_op *op = j->op;
    const int64_t i = j->first + r, n = j->logits.cols;
    float *z = vp_row(&j->logits, r), sum;
    const int32_t target = op->target[i];
    if (target < 0) {
        op->loss[i] = 0.0f;
        if (op->logprob) op->logprob[i] = 0.0f;
        if (op->right) op->right[i] = 0;
        if (j->gradient) memset(z, 0, (size_t)n * sizeof *z);
        return;
    }
    const double share = (op->weight ? (double)op->weight[i] : 1.0) / op->denominator;
    const float own = z[target], most = j->simd->loss->exponents(z, !j->gradient, n, &sum);
    const double nll = (double)most - (double)own + log((double)sum);
    op->loss[i] = (float)(share * nll);
    if (op->logprob) op->logprob[i] = (float)-nll;
    if (op->right) op->right[i] = own >= most;
    if (!j->gradient) return;
    j->simd->attn->scale(z, (float)(share / (double)sum), n);
    z[target] -= (float)share;
}

static void xent_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    for (int64_t r = first; r < last; r++) xent_row(ctx, r);
}

static int xent_chunk(vp_queue *q, xent_job *j) {
    const vp_xent_op *op = j->op;
    const int64_t rows = j->logits.rows;
    VP_TRY(compute_logits(q, op->head, &op->x, j->first, &j->logits));
    vp_rows(q, rows, vp_grain(j->logits.cols), xent_rows, j);
    if (op->dx) VP_TRY(compute_dx(q, op->head, op->dx, j->first, &j->logits));
    return op->dw ? compute_dw(q, op->head, &op->x, j->first, &j->logits, op->dw, op->dw_first) : VP_OK;
}

int vp_cpu_xent(vp_queue *q, const vp_xent_op *op) {
    VP_TRY(check_head(q, "xent", op->head, &op->x, op->dx, op->dw_first));
    const int64_t M = op->x.rows, V = op->head->out, most = chunk_rows(V);
    for (int64_t i = 0; i < M; i++)
        if (op->target[i] >= V) return vp_queue_fail(q, VP_BUG, "xent: target %d is outside the head", op->target[i]);
    if (M && !(op->denominator > 0)) return vp_queue_fail(q, VP_BUG, "xent: the denominator is not positive");
    xent_job j = {.op = op, .simd = q->device->simd, .gradient = op->dx || op->dw};
    j.logits = (vp_mat){.dtype = VP_F32, .cols = V, .ld = V};
    const size_t mark = vp_arena_mark(q);
    int status = VP_OK;
    if (M && !(j.logits.ptr = vp_queue_floats(q, "xent", (M < most ? M : most) * V))) status = VP_MEMORY;
    for (; !status && j.first < M; j.first += j.logits.rows) {
        j.logits.rows = M - j.first < most ? M - j.first : most;
        status = xent_chunk(q, &j);
    }
    vp_arena_release(q, mark);
    return status;
}

/* ---- bags ---- */
typedef struct bag_job {
    const vp_bag_op *op;
    const vp_simd *simd;
    vp_mat logits;       /* [rows of the chunk, V] */
    int64_t first, last; /* bags of the chunk */
    float *scratch;      /* [threads, 2, V] */
} bag_job;

/* rows [n, V] of logits become their gradient: dz of the entries of which the row was the first to have the maximum. */
static void spread(float *rows, int64_t n, int64_t V, const float *dz, float *most) {
    for (int64_t r = 0; r < n; r++)
        for (int64_t v = 0; v < V; v++) {
            float *z = rows + r * V + v;
            const bool won = *z >= most[v];
            *z = won ? dz[v] : 0.0f;
            if (won) most[v] = INFINITY;
        }
}

static void bag(const bag_job *j, int64_t i, float *most, float *z) {
    const vp_bag_op *op = j->op;
    const int64_t V = j->logits.cols, n = op->cu[i + 1] - op->cu[i], targets = op->target_cu[i + 1] - op->target_cu[i];
    float *rows = vp_row(&j->logits, op->cu[i] - op->cu[j->first]), sum;
    op->loss[i] = 0.0f;
    if (!targets) {
        memset(rows, 0, (size_t)(n * V) * sizeof *rows);
        return;
    }
    memcpy(most, rows, (size_t)V * sizeof *most);
    for (int64_t r = 1; r < n; r++) j->simd->loss->max(rows + r * V, most, V);
    memcpy(z, most, (size_t)V * sizeof *z);
    const double top = (double)j->simd->loss->exponents(z, false, V, &sum);
    const double share = (op->weight ? (double)op->weight[i] : 1.0) / op->denominator;
    j->simd->attn->scale(z, (float)(share / (double)sum), V);
    double nll = 0;
    for (int32_t t = op->target_cu[i]; t < op->target_cu[i + 1]; t++) {
        nll += top - (double)most[op->target[t]] + log((double)sum);
        z[op->target[t]] -= (float)(share / (double)targets);
    }
    op->loss[i] = (float)(share * nll / (double)targets);
    if (op->dx || op->dw) spread(rows, n, V, z, most);
}

static void bag_item(void *ctx, int64_t item, int thread) {
    const bag_job *j = ctx;
    float *scratch = j->scratch + 2 * thread * j->logits.cols;
    bag(j, j->first + item, scratch, scratch + j->logits.cols);
}

/* Whole bags up to a chunk's rows, at least one. */
static void next_bags(bag_job *j, int64_t most) {
    const int32_t *cu = j->op->cu;
    for (j->last = j->first + 1; j->last < j->op->bags && cu[j->last + 1] - cu[j->first] <= most;) j->last++;
    j->logits.rows = cu[j->last] - cu[j->first];
}

static int bag_chunk(vp_queue *q, bag_job *j) {
    const vp_bag_op *op = j->op;
    const int64_t V = j->logits.cols, first = op->cu[j->first];
    if (!(j->logits.ptr = vp_queue_floats(q, "bag", j->logits.rows * V))) return VP_MEMORY;
    VP_TRY(compute_logits(q, op->head, &op->x, first, &j->logits));
    vp_threads_run(q->device->threads, j->last - j->first, bag_item, j);
    if (op->dx) VP_TRY(compute_dx(q, op->head, op->dx, first, &j->logits));
    return op->dw ? compute_dw(q, op->head, &op->x, first, &j->logits, op->dw, op->dw_first) : VP_OK;
}

static int check_bags(vp_queue *q, const vp_bag_op *op) {
    VP_TRY(check_head(q, "bag", op->head, &op->x, op->dx, op->dw_first));
    if (op->bags < 0 || (op->bags && !(op->denominator > 0)))
        return vp_queue_fail(q, VP_BUG, "bag: the denominator is not positive");
    for (int64_t i = 0; i < op->bags; i++) {
        const bool targets = op->target_cu[i] < op->target_cu[i + 1];
        if (op->cu[i] > op->cu[i + 1] || op->cu[i + 1] > op->x.rows || (targets && op->cu[i] == op->cu[i + 1]))
            return vp_queue_fail(q, VP_BUG, "bag: bag %lld has no rows, or others than there are", (long long)i);
        for (int32_t t = op->target_cu[i]; t < op->target_cu[i + 1]; t++)
            if (op->target[t] < 0 || op->target[t] >= op->head->out)
                return vp_queue_fail(q, VP_BUG, "bag: target %d is outside the head", op->target[t]);
    }
    return VP_OK;
}

int vp_cpu_bag(vp_queue *q, const vp_bag_op *op) {
    VP_TRY(check_bags(q, op));
    const int64_t V = op->head->out;
    bag_job j = {.op = op, .simd = q->device->simd, .logits = {.dtype = VP_F32, .cols = V, .ld = V}};
    const size_t mark = vp_arena_mark(q);
    int status = VP_OK;
    if (!(j.scratch = vp_queue_floats(q, "bag", 2 * V * vp_threads_count(q->device->threads)))) status = VP_MEMORY;
    for (; !status && j.first < op->bags; j.first = j.last) {
        const size_t chunk = vp_arena_mark(q);
        next_bags(&j, chunk_rows(V));
        status = bag_chunk(q, &j);
        vp_arena_release(q, chunk);
    }
    vp_arena_release(q, mark);
    return status;
}
