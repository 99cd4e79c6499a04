/* A mixture of experts: which of them a token passes, its rows there and back, and products with weights of experts,
 * one expert's rows after the other's. Legend: T tokens, E experts, R = T top_k rows, C width; x [R, K], out [R, N]. */
#include "kernels/cpu/units.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int check_routing(vp_queue *q, const char *what, const vp_routing *to) {
    if (!to || to->experts < 1 || to->experts > VP_MOST_EXPERTS || to->top_k < 1 || to->top_k > VP_MOST_TOP_K ||
        to->top_k > to->experts)
        return vp_queue_fail(q, VP_BUG, "%s: %d of %d experts", what, to ? (int)to->top_k : 0,
                             to ? (int)to->experts : 0);
    return VP_OK;
}

/* ---- route ---- */
typedef struct route_job {
    const vp_moe_op *op;
    const vp_simd *simd;
    int32_t *expert; /* [T, top_k] ascending */
    float *gate;     /* [T, top_k] */
} route_job;

/* What is not a number is chosen before all others, and shows in the gates. */
static float rank_of(float logit) {
    return isnan(logit) ? INFINITY : logit;
}

/* The top_k largest of a row of logits, of equal ones the first; ascending by expert. */
static void choose(const float *logit, int32_t experts, int32_t top_k, int32_t *chosen) {
    bool taken[VP_MOST_EXPERTS] = {false};
    int32_t n = 0;
    for (int32_t k = 0; k < top_k; k++) {
        int32_t best = -1;
        for (int32_t e = 0; e < experts; e++)
            if (!taken[e] && (best < 0 || rank_of(logit[e]) > rank_of(logit[best]))) best = e;
        taken[best] = true;
    }
    for (int32_t e = 0; n < top_k; e++)
        if (taken[e]) chosen[n++] = e;
}

static void choose_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const route_job *j = ctx;
    const int32_t k = j->op->to->top_k;
    for (int64_t t = first; t < last; t++) {
        const float *logit = vp_row(&j->op->logits, t);
        int32_t *expert = j->expert + t * k;
        float *gate = j->gate + t * k;
        choose(logit, j->op->to->experts, k, expert);
        for (int32_t i = 0; i < k; i++) gate[i] = logit[expert[i]];
        j->simd->rows->softmax(gate, gate, k);
    }
}

/* Rows by counting: experts ascending, tokens ascending within. */
static void place_rows(const route_job *j, int64_t T) {
    const vp_routing *to = j->op->to;
    const int64_t R = T * to->top_k;
    int32_t next[VP_MOST_EXPERTS];
    memset(to->offset, 0, (size_t)(to->experts + 1) * sizeof *to->offset);
    for (int64_t i = 0; i < R; i++) to->offset[j->expert[i] + 1]++;
    for (int32_t e = 0; e < to->experts; e++) to->offset[e + 1] += to->offset[e];
    memcpy(next, to->offset, (size_t)to->experts * sizeof *next);
    for (int64_t i = 0; i < R; i++) {
        const int32_t r = next[j->expert[i]]++;
        to->row[i] = r;
        to->token[r] = (int32_t)(i / to->top_k);
        to->gate[r] = j->gate[i];
    }
}

int vp_cpu_route(vp_queue *q, const vp_moe_op *op) {
    const int64_t T = op->logits.rows;
    VP_TRY(check_routing(q, "route", op->to));
    VP_TRY(vp_check_mat(q, "route.logits", &op->logits, VP_F32, T, op->to->experts));
    const size_t mark = vp_arena_mark(q), n = (size_t)(T * op->to->top_k);
    route_job j = {.op = op, .simd = q->device->simd};
    j.expert = vp_arena_alloc(q, n * sizeof *j.expert);
    j.gate = vp_arena_alloc(q, n * sizeof *j.gate);
    const bool there = j.expert && j.gate;
    if (there) {
        vp_rows(q, T, vp_grain((int64_t)op->to->experts * op->to->top_k), choose_rows, &j);
        place_rows(&j, T);
    }
    vp_arena_release(q, mark);
    return there ? VP_OK : vp_queue_fail(q, VP_MEMORY, "out of memory: route needs %zu bytes", 2 * n * sizeof *j.gate);
}

/* ---- route_bwd: s_r = x_r . dout_r;  dlogits[t, e of r] = s_r - gate_r sum of the token's s ---- */
static int32_t expert_of(const vp_routing *to, int32_t row) {
    int32_t e = 0;
    while (to->offset[e + 1] <= row) e++;
    return e;
}

static void route_bwd_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const route_job *j = ctx;
    const vp_moe_op *op = j->op;
    const vp_routing *to = op->to;
    for (int64_t t = first; t < last; t++) {
        const int32_t *row = to->row + t * to->top_k;
        float s[VP_MOST_TOP_K], sum = 0.0f, *dlogit = vp_row(op->dlogits, t);
        memset(dlogit, 0, (size_t)to->experts * sizeof *dlogit);
        for (int32_t k = 0; k < to->top_k; k++) {
            s[k] = j->simd->grads->dot(vp_row(&op->x, row[k]), vp_row(op->dout, row[k]), op->x.cols);
            sum += s[k];
        }
        for (int32_t k = 0; k < to->top_k; k++) dlogit[expert_of(to, row[k])] = s[k] - to->gate[row[k]] * sum;
    }
}

int vp_cpu_route_bwd(vp_queue *q, const vp_moe_op *op) {
    VP_TRY(check_routing(q, "route_bwd", op->to));
    if (!op->dlogits) return vp_queue_fail(q, VP_BUG, "route_bwd: no dlogits");
    const int64_t T = op->dlogits->rows, R = T * op->to->top_k;
    VP_TRY(vp_check_grad(q, "route_bwd.dlogits", op->dlogits, T, op->to->experts));
    VP_TRY(vp_check_mat(q, "route_bwd.x", &op->x, VP_F32, R, op->x.cols));
    VP_TRY(vp_check_grad(q, "route_bwd.dout", op->dout, R, op->x.cols));
    route_job j = {.op = op, .simd = q->device->simd};
    vp_rows(q, T, vp_grain(op->x.cols * op->to->top_k), route_bwd_rows, &j);
    return VP_OK;
}

/* ---- permute, combine ---- */
static void permute_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const route_job *j = ctx;
    const vp_moe_op *op = j->op;
    const vp_routing *to = op->to;
    const int64_t C = op->x.cols;
    for (int64_t r = first; r < last; r++) {
        const float *x = vp_row(&op->x, to->token[r]);
        if (op->gated)
            j->simd->rows->axpby(to->gate[r], x, 1.0f, NULL, vp_row(&op->out, r), C);
        else
            memcpy(vp_row(&op->out, r), x, (size_t)C * sizeof *x);
    }
}

int vp_cpu_permute(vp_queue *q, const vp_moe_op *op) {
    const int64_t T = op->x.rows, C = op->x.cols;
    VP_TRY(check_routing(q, "permute", op->to));
    VP_TRY(vp_check_mat(q, "permute.x", &op->x, VP_F32, T, C));
    VP_TRY(vp_check_mat(q, "permute.out", &op->out, VP_F32, T * op->to->top_k, C));
    route_job j = {.op = op, .simd = q->device->simd};
    vp_rows(q, op->out.rows, vp_grain(C), permute_rows, &j);
    return VP_OK;
}

static void combine_rows(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const route_job *j = ctx;
    const vp_moe_op *op = j->op;
    const vp_routing *to = op->to;
    for (int64_t t = first; t < last; t++) {
        float *out = vp_row(&op->out, t);
        for (int32_t k = 0; k < to->top_k; k++) {
            const int32_t r = to->row[t * to->top_k + k];
            j->simd->rows->axpby(op->gated ? to->gate[r] : 1.0f, vp_row(&op->x, r), 1.0f, k ? out : NULL, out,
                                 op->x.cols);
        }
    }
}

int vp_cpu_combine(vp_queue *q, const vp_moe_op *op) {
    const int64_t T = op->out.rows, C = op->out.cols;
    VP_TRY(check_routing(q, "combine", op->to));
    VP_TRY(vp_check_mat(q, "combine.out", &op->out, VP_F32, T, C));
    VP_TRY(vp_check_mat(q, "combine.x", &op->x, VP_F32, T * op->to->top_k, C));
    route_job j = {.op = op, .simd = q->device->simd};
    vp_rows(q, T, vp_grain(C * op->to->top_k), combine_rows, &j);
    return VP_OK;
}

/* ---- weights of experts ---- */
static vp_weight_desc of_expert(const vp_weight_desc *desc, int32_t e) {
    vp_weight_desc one = *desc;
    one.nparts = desc->nparts / desc->experts;
    one.part = desc->part + (int64_t)e * one.nparts;
    one.experts = 0;
    return one;
}

int vp_experts_prepare(vp_device *d, const vp_weight_desc *desc, vp_weight **out, vp_error *err) {
    vp_weight *w = vp_calloc(1, sizeof *w);
    if (!w) return vp_fail_memory(err, "weight", sizeof *w);
    w->in = desc->in;
    w->out = desc->out;
    w->expert = vp_calloc((size_t)desc->experts, sizeof(vp_weight *));
    int status = w->expert ? VP_OK : vp_fail_memory(err, "experts", (size_t)desc->experts * sizeof(vp_weight *));
    for (int32_t e = 0; !status && e < desc->experts; e++) {
        const vp_weight_desc one = of_expert(desc, e);
        status = vp_cpu_weight_prepare(d, &one, &w->expert[w->experts++], err);
    }
    if (status)
        vp_cpu_weight_free(d, w);
    else
        *out = w;
    return status;
}

int vp_experts_update(vp_queue *q, vp_weight *w, const vp_weight_desc *desc) {
    if (desc->experts != w->experts) return vp_queue_fail(q, VP_BUG, "an update of another number of experts");
    for (int32_t e = 0; e < w->experts; e++) {
        const vp_weight_desc one = of_expert(desc, e);
        VP_TRY(vp_cpu_weight_update(q, w->expert[e], &one));
    }
    return VP_OK;
}

/* ---- their products ---- */
static int check_experts(vp_queue *q, const char *what, const vp_linear_op *op, int64_t rows) {
    VP_TRY(check_routing(q, what, op->group));
    if (!op->weight || op->weight->experts != op->group->experts)
        return vp_queue_fail(q, VP_BUG, "%s: no weight of %d experts", what, (int)op->group->experts);
    if (op->act != VP_ACT_NONE || op->residual.ptr || op->dbias)
        return vp_queue_fail(q, VP_BUG, "%s: experts have no bias, activation or residual", what);
    if (op->group->offset[op->group->experts] != rows)
        return vp_queue_fail(q, VP_BUG, "%s: %lld rows are not the experts' %d", what, (long long)rows,
                             (int)op->group->offset[op->group->experts]);
    return VP_OK;
}

static vp_mat rows_of(const vp_mat *m, const vp_routing *to, int32_t e) {
    vp_mat part = *m;
    part.ptr = vp_row(m, to->offset[e]);
    part.rows = to->offset[e + 1] - to->offset[e];
    return part;
}

int vp_experts_linear(vp_queue *q, const vp_linear_op *op) {
    VP_TRY(check_experts(q, "linear", op, op->x.rows));
    VP_TRY(vp_check_mat(q, "linear.out", &op->out, VP_F32, op->x.rows, op->weight->out));
    for (int32_t e = 0; e < op->weight->experts; e++) {
        const vp_linear_op one = {.weight = op->weight->expert[e],
                                  .x = rows_of(&op->x, op->group, e),
                                  .out = rows_of(&op->out, op->group, e)};
        VP_TRY(vp_cpu_linear(q, &one));
    }
    return VP_OK;
}

int vp_experts_bwd_x(vp_queue *q, const vp_linear_op *op) {
    if (!op->dout || !op->dx) return vp_queue_fail(q, VP_BUG, "linear_bwd_x: no gradient");
    VP_TRY(check_experts(q, "linear_bwd_x", op, op->dout->rows));
    VP_TRY(vp_check_mat(q, "linear_bwd_x.dx", op->dx, VP_F32, op->dout->rows, op->weight->in));
    for (int32_t e = 0; e < op->weight->experts; e++) {
        const vp_mat dout = rows_of(op->dout, op->group, e), dx = rows_of(op->dx, op->group, e);
        const vp_linear_op one = {.weight = op->weight->expert[e], .dout = &dout, .dx = &dx};
        VP_TRY(vp_cpu_linear_bwd_x(q, &one));
    }
    return VP_OK;
}

/* The tokens' units as units of one expert's rows. */
static void cut_units(const vp_routing *to, int32_t e, const vp_units *tokens, vp_units *rows) {
    int64_t r = to->offset[e];
    rows->count = tokens->count;
    for (int64_t u = 0; u <= tokens->count; u++) {
        while (r < to->offset[e + 1] && to->token[r] < tokens->first[u]) r++;
        rows->first[u] = r - to->offset[e];
    }
}

static int sum_expert(vp_queue *q, const vp_linear_op *op, int32_t e, const vp_units *units) {
    const vp_mat dout = rows_of(op->dout, op->group, e), x = rows_of(&op->x, op->group, e);
    const int64_t N = op->weight->out, K = op->weight->in;
    vp_units_op product = {.units = units, .left = &dout, .right = &x};
    product.dw = vp_units_rows(q, "linear_bwd_w", op->dw + e * N * K, N, K);
    return product.dw ? vp_units_product(q, "linear_bwd_w", &product) : VP_MEMORY;
}

static int sum_experts(vp_queue *q, const vp_linear_op *op) {
    vp_units tokens, rows;
    VP_TRY(vp_units_make(q, "linear_bwd_w", op->batch, op->x.rows / op->group->top_k, &tokens));
    const size_t bytes = (size_t)(tokens.count + 1) * sizeof *rows.first;
    if (!(rows.first = vp_arena_alloc(q, bytes)))
        return vp_queue_fail(q, VP_MEMORY, "out of memory: linear_bwd_w needs %zu bytes", bytes);
    for (int32_t e = 0; e < op->weight->experts; e++) {
        const size_t mark = vp_arena_mark(q);
        cut_units(op->group, e, &tokens, &rows);
        VP_TRY(sum_expert(q, op, e, &rows));
        vp_arena_release(q, mark);
    }
    return VP_OK;
}

int vp_experts_bwd_w(vp_queue *q, const vp_linear_op *op) {
    if (!op->dout || !op->dw) return vp_queue_fail(q, VP_BUG, "linear_bwd_w: no gradient");
    VP_TRY(check_experts(q, "linear_bwd_w", op, op->dout->rows));
    VP_TRY(vp_check_mat(q, "linear_bwd_w.dout", op->dout, VP_F32, op->x.rows, op->weight->out));
    VP_TRY(vp_check_mat(q, "linear_bwd_w.x", &op->x, VP_F32, op->dout->rows, op->weight->in));
    const size_t mark = vp_arena_mark(q);
    const int status = sum_experts(q, op);
    vp_arena_release(q, mark);
    return status;
}
