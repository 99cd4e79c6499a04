/* Low-rank adapters and their backward: for every part, out[:, first .. first + n) += scale (z A^T) B^T, z = drop(x).
 * Legend: x, dx [T, K]; out, dout [T, N]; A [R, K], B [n, R] of a part. A block of rows is dropped once, for all parts,
 * and never leaves the thread that made it; only t and u, R wide, are kept. What they add to out and to dx joins the
 * tiles of the linear's product while they are in the cache, or is added to what is there already. */
#include "kernels/cpu/drop.h"
#include "kernels/cpu/units.h"
#include <string.h>

enum { ROWS = 48 }; /* of an item: a multiple of every kernel's block */

typedef struct packed_part {
    float *b;   /* backward: B [n, R] */
    int64_t at; /* first column of t and u */
} packed_part;
typedef struct piece { /* forward: the columns of a part that lie in one panel of the linear */
    int32_t part;
    int64_t first, n;
    float *b_t; /* B^T [R, n] */
} piece;

typedef struct lora_job {
    const vp_lora_op *op;
    const vp_simd *simd;
    vp_dropper drop;
    packed_part *part;
    piece *piece;
    int64_t pieces, ranks; /* ranks: of all parts */
    /* the A of all parts, one above the other, packed: as [K, ranks] for t, as [ranks, K] for dx */
    float *stacked_t, *stacked;
    bool wants_t;   /* a db is wanted */
    float *scratch; /* per thread: z [ROWS, K], or what one tile adds to dx */
    int64_t scratch_each;
    vp_mat t, u; /* [T, ranks], scaled; 0 in rows of other adapters */
} lora_job;

/* Rows of z, one after `ld` floats: x itself when nothing is dropped. */
static const float *dropped_rows(const lora_job *j, int64_t first, int64_t n, float *buffer, int64_t *ld) {
    const vp_mat *x = &j->op->x;
    *ld = j->drop.on ? x->cols : x->ld;
    if (!j->drop.on) return vp_row(x, first);
    vp_drop_part part = {first, n, x->cols, 0, x->cols};
    vp_drop_rows(&j->drop, &part, vp_row(x, first), x->ld, buffer, *ld);
    return buffer;
}

static void clear_others(const lora_job *j, const vp_lora_part *p, int64_t first, int64_t last, float *m) {
    const int32_t *adapter_row = j->op->batch ? j->op->batch->adapter_row : NULL;
    for (int64_t i = first; i < last; i++, m += j->ranks) {
        if (adapter_row && adapter_row[i] != p->adapter)
            memset(m, 0, (size_t)p->rank * sizeof *m);
        else
            j->simd->rows->axpby(p->scale, m, 0.0f, NULL, m, p->rank);
    }
}

/* ---- forward: t = scale z A^T of all parts at once, out += t B^T ---- */
static void project_rows(void *ctx, int64_t first, int64_t last, int thread) {
    const lora_job *j = ctx;
    int64_t ld, k = j->op->x.cols;
    float *t = vp_row(&j->t, first);
    const float *x = dropped_rows(j, first, last - first, j->scratch + thread * j->scratch_each, &ld);
    j->simd->gemm->product(x, ld, j->stacked_t, k, t, j->ranks, last - first, k, j->ranks, false);
    for (int32_t i = 0; i < j->op->nparts; i++) clear_others(j, &j->op->part[i], first, last, t + j->part[i].at);
}

static void add_out(const void *ctx, const vp_panel *panel, int64_t first, int64_t rows, float *tile, int64_t ld,
                    int thread) {
    (void)thread;
    const lora_job *j = ctx;
    for (int64_t i = 0; i < j->pieces; i++) {
        const piece *p = &j->piece[i];
        if (p->first < panel->first || p->first >= panel->first + panel->n) continue;
        const int64_t rank = j->op->part[p->part].rank;
        j->simd->gemm->product(vp_row(&j->t, first) + j->part[p->part].at, j->ranks, p->b_t, rank,
                               tile + p->first - panel->first, ld, rows, rank, p->n, true);
    }
}

static void add_out_rows(void *ctx, int64_t first, int64_t last, int thread) {
    const lora_job *j = ctx;
    const vp_panel all = {.n = j->op->out.cols};
    add_out(j, &all, first, last - first, vp_row(&j->op->out, first), j->op->out.ld, thread);
}

/* ---- backward: t as above and u = scale dout B; da += u^T z and db += dout^T t a unit, dx += drop(u A) ---- */
static void lora_bwd_rows(void *ctx, int64_t first, int64_t last, int thread) {
    const lora_job *j = ctx;
    const vp_lora_op *op = j->op;
    if (j->wants_t) project_rows(ctx, first, last, thread);
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        float *u = vp_row(&j->u, first) + j->part[i].at;
        j->simd->gemm->product(vp_row(op->dout, first) + p->first, op->dout->ld, j->part[i].b, p->n, u, j->ranks,
                               last - first, p->n, p->rank, false);
        clear_others(j, p, first, last, u);
    }
}

/* Through the mask when z was dropped. Panels begin at multiples of what a packed panel of our own is wide. */
static void add_dx(const void *ctx, const vp_panel *panel, int64_t first, int64_t rows, float *tile, int64_t ld,
                   int thread) {
    const lora_job *j = ctx;
    const int64_t n = panel->n, to_ld = j->drop.on ? n : ld;
    float *to = j->drop.on ? j->scratch + thread * j->scratch_each : tile;
    j->simd->gemm->product(vp_row(&j->u, first), j->ranks, j->stacked + panel->first * j->ranks, j->ranks, to, to_ld,
                           rows, j->ranks, n, !j->drop.on);
    if (!j->drop.on) return;
    vp_drop_part part = {first, rows, j->op->x.cols, panel->first, n};
    vp_drop_rows(&j->drop, &part, to, n, to, n);
    for (int64_t i = 0; i < rows; i++) j->simd->rows->axpby(1.0f, to + i * n, 1.0f, tile + i * ld, tile + i * ld, n);
}

static void add_dx_rows(void *ctx, int64_t first, int64_t last, int thread) {
    const lora_job *j = ctx;
    const vp_panel all = {.n = j->op->x.cols};
    add_dx(j, &all, first, last - first, vp_row(j->op->dx, first), j->op->dx->ld, thread);
}

/* One product for the da of all parts: z is dropped and packed once. */
static int sum_da(vp_queue *q, const lora_job *j, const vp_units *units) {
    const vp_lora_op *op = j->op;
    bool any = false;
    float **row = vp_units_rows(q, "lora_bwd", NULL, j->ranks, op->x.cols);
    if (!row) return VP_MEMORY;
    for (int32_t i = 0; i < op->nparts; i++)
        for (int64_t r = 0; op->part[i].da && r < op->part[i].rank; r++, any = true)
            row[j->part[i].at + r] = op->part[i].da + r * op->x.cols;
    vp_units_op product = {.units = units, .left = &j->u, .right = &op->x, .drop = &j->drop, .dw = row};
    return any ? vp_units_product(q, "lora_bwd", &product) : VP_OK;
}

static int sum_db(vp_queue *q, const lora_job *j, const vp_units *units) {
    for (int32_t i = 0; i < j->op->nparts; i++) {
        const vp_lora_part *p = &j->op->part[i];
        if (!p->db) continue;
        vp_mat dout = *j->op->dout, t = j->t;
        dout.ptr = (float *)dout.ptr + p->first;
        dout.cols = p->n;
        t.ptr = (float *)t.ptr + j->part[i].at;
        t.cols = p->rank;
        vp_units_op product = {.units = units, .left = &dout, .right = &t};
        if (!(product.dw = vp_units_rows(q, "lora_bwd", p->db, p->n, p->rank))) return VP_MEMORY;
        VP_TRY(vp_units_product(q, "lora_bwd", &product));
    }
    return VP_OK;
}

/* ---- set-up ---- */
static int check_lora(vp_queue *q, const vp_lora_op *op) {
    VP_TRY(vp_check_mat(q, "lora.x", &op->x, VP_F32, op->out.rows, op->x.cols));
    VP_TRY(vp_check_mat(q, "lora.out", &op->out, VP_F32, op->x.rows, op->out.cols));
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        if (!p->a || !p->b || p->rank < 1 || p->n < 1 || p->first < 0 || p->first > op->out.cols - p->n)
            return vp_queue_fail(q, VP_BUG, "lora: part %d has rank %d and columns %lld + %lld of %lld", (int)i,
                                 (int)p->rank, (long long)p->first, (long long)p->n, (long long)op->out.cols);
    }
    return VP_OK;
}

/* Memory for a packed [k, n]. */
static int reserve(vp_queue *q, int64_t k, int64_t n, float **packed) {
    *packed = vp_queue_floats(q, "lora", vp_packed_floats(q->device->simd, k, n));
    return *packed ? VP_OK : VP_MEMORY;
}

static int stack_a(vp_queue *q, lora_job *j, bool for_t, bool for_dx) {
    const int64_t k = j->op->x.cols;
    if (for_t) VP_TRY(reserve(q, k, j->ranks, &j->stacked_t));
    if (for_dx) VP_TRY(reserve(q, j->ranks, k, &j->stacked));
    size_t mark = vp_arena_mark(q);
    float *plain = vp_queue_floats(q, "lora", j->ranks * k);
    if (!plain) return VP_MEMORY;
    for (int32_t i = 0; i < j->op->nparts; i++)
        memcpy(plain + j->part[i].at * k, j->op->part[i].a, (size_t)(j->op->part[i].rank * k) * sizeof *plain);
    if (for_t) j->simd->gemm->pack(plain, k, true, k, j->ranks, j->stacked_t);
    if (for_dx) j->simd->gemm->pack(plain, k, false, j->ranks, k, j->stacked);
    vp_arena_release(q, mark);
    return VP_OK;
}

/* `tile`: floats of the largest tile that is added to dx. */
static int lora_begin(vp_queue *q, lora_job *j, int64_t tile) {
    const vp_lora_op *op = j->op;
    size_t bytes = (size_t)op->nparts * sizeof *j->part;
    if (!(j->part = vp_arena_alloc(q, bytes)))
        return vp_queue_fail(q, VP_MEMORY, "out of memory: lora needs %zu bytes", bytes);
    for (int32_t i = 0; i < op->nparts; i++) {
        j->part[i] = (packed_part){.at = j->ranks};
        j->ranks += op->part[i].rank;
        j->wants_t = j->wants_t || op->part[i].db;
    }
    j->scratch_each = tile > ROWS * op->x.cols ? tile : ROWS * op->x.cols;
    j->scratch = vp_queue_floats(q, "lora", j->scratch_each * vp_threads_count(q->device->threads));
    j->t = j->u = (vp_mat){.dtype = VP_F32, .rows = op->x.rows, .cols = j->ranks, .ld = j->ranks};
    j->t.ptr = vp_queue_floats(q, "lora", op->x.rows * j->ranks);
    return j->scratch && j->t.ptr ? VP_OK : VP_MEMORY;
}

/* The part of [first, first + n) that lies in the panel. */
static piece cut_piece(const vp_lora_part *p, const vp_panel *panel) {
    const int64_t from = p->first > panel->first ? p->first : panel->first;
    const int64_t end = p->first + p->n, last = panel->first + panel->n;
    return (piece){.first = from, .n = (end < last ? end : last) - from};
}

static void pack_piece(void *ctx, int64_t item, int thread) {
    (void)thread;
    const lora_job *j = ctx;
    const piece *to = &j->piece[item];
    const vp_lora_part *p = &j->op->part[to->part];
    j->simd->gemm->pack(p->b + (to->first - p->first) * p->rank, p->rank, true, p->rank, to->n, to->b_t);
}

/* Weights that are kept row by row have no tiles to join: what the adapter adds comes after them. */
static bool joins(const vp_lora_op *op) {
    return op->linear && !op->linear->weight->row;
}

static int cut_pieces(vp_queue *q, lora_job *j) {
    const vp_lora_op *op = j->op;
    const vp_panel all = {.n = op->out.cols};
    const vp_panel *panel = joins(op) ? op->linear->weight->panel : &all;
    const int64_t panels = joins(op) ? op->linear->weight->panels : 1;
    size_t bytes = (size_t)(op->nparts * panels) * sizeof *j->piece;
    if (!(j->piece = vp_arena_alloc(q, bytes)))
        return vp_queue_fail(q, VP_MEMORY, "out of memory: lora needs %zu bytes", bytes);
    for (int32_t i = 0; i < op->nparts; i++)
        for (int64_t k = 0; k < panels; k++) {
            piece p = cut_piece(&op->part[i], &panel[k]);
            p.part = i;
            if (p.n <= 0) continue;
            VP_TRY(reserve(q, op->part[i].rank, p.n, &p.b_t));
            j->piece[j->pieces++] = p;
        }
    vp_threads_run(q->device->threads, j->pieces, pack_piece, j);
    return VP_OK;
}

static int lora_run(vp_queue *q, lora_job *j) {
    const vp_lora_op *op = j->op;
    if (op->linear && !op->linear->weight) return vp_queue_fail(q, VP_BUG, "lora: a linear without a weight");
    VP_TRY(lora_begin(q, j, 0));
    VP_TRY(stack_a(q, j, true, false));
    VP_TRY(cut_pieces(q, j));
    vp_rows(q, op->x.rows, ROWS, project_rows, j);
    const vp_tile_sum sum = {add_out, j};
    if (joins(op)) return vp_linear_run(q, op->linear, &sum);
    if (op->linear && op->linear->act) return vp_queue_fail(q, VP_BUG, "lora: an activation before what is added");
    if (op->linear) VP_TRY(vp_cpu_linear(q, op->linear));
    vp_rows(q, op->x.rows, ROWS, add_out_rows, j);
    return VP_OK;
}

static void pack_part(void *ctx, int64_t item, int thread) {
    (void)thread;
    const lora_job *j = ctx;
    const vp_lora_part *p = &j->op->part[item];
    j->simd->gemm->pack(p->b, p->rank, false, p->n, p->rank, j->part[item].b);
}

/* Everything that needs u: dx first, which may be the dx of the linear. */
static int add_gradients(vp_queue *q, lora_job *j) {
    const vp_lora_op *op = j->op;
    const vp_tile_sum sum = {add_dx, j};
    vp_units units;
    if (op->linear)
        VP_TRY(vp_linear_bwd_x_run(q, op->linear, &sum));
    else if (op->dx)
        vp_rows(q, op->x.rows, ROWS, add_dx_rows, j);
    VP_TRY(vp_units_make(q, "lora_bwd", op->batch, op->x.rows, &units));
    VP_TRY(sum_da(q, j, &units));
    return sum_db(q, j, &units);
}

static int lora_bwd_run(vp_queue *q, lora_job *j) {
    const vp_lora_op *op = j->op;
    const vp_weight *turned = op->linear && op->linear->weight ? op->linear->weight->backward : NULL;
    VP_TRY(lora_begin(q, j, turned ? VP_TILE * turned->widest : 0));
    VP_TRY(stack_a(q, j, j->wants_t, op->dx || op->linear));
    for (int32_t i = 0; i < op->nparts; i++) VP_TRY(reserve(q, op->part[i].n, op->part[i].rank, &j->part[i].b));
    if (!(j->u.ptr = vp_queue_floats(q, "lora_bwd", op->x.rows * j->ranks))) return VP_MEMORY;
    vp_threads_run(q->device->threads, op->nparts, pack_part, j);
    vp_rows(q, op->x.rows, ROWS, lora_bwd_rows, j);
    return add_gradients(q, j);
}

static int run(vp_queue *q, const vp_lora_op *op, const char *what, int (*how)(vp_queue *q, lora_job *j)) {
    lora_job j = {.op = op, .simd = q->device->simd};
    VP_TRY(vp_dropper_make(q, what, &op->drop, op->batch, op->x.rows, &j.drop));
    if ((op->nparts == 0 && !op->linear) || op->x.rows == 0) return VP_OK;
    size_t mark = vp_arena_mark(q);
    int status = how(q, &j);
    vp_arena_release(q, mark);
    return status;
}

int vp_cpu_lora(vp_queue *q, const vp_lora_op *op) {
    VP_TRY(check_lora(q, op));
    return run(q, op, "lora", lora_run);
}

int vp_cpu_lora_bwd(vp_queue *q, const vp_lora_op *op) {
    VP_TRY(check_lora(q, op));
    VP_TRY(vp_check_grad(q, "lora_bwd.dout", op->dout, op->x.rows, op->out.cols));
    if (op->dx) VP_TRY(vp_check_grad(q, "lora_bwd.dx", op->dx, op->x.rows, op->x.cols));
    return run(q, op, "lora_bwd", lora_bwd_run);
}
