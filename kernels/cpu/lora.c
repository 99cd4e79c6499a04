/* Low-rank adapters and their backward: for every part, out[:, first .. first + n) += scale (z A^T) B^T, z = drop(x).
 * Legend: x, dx [T, K]; out, dout [T, N]; A [R, K], B [n, R] of a part. A block of rows is dropped once, for all parts,
 * and never leaves the thread that made it; only t and u, R wide, are kept for the sums over tokens. */
#include "kernels/cpu/drop.h"
#include "kernels/cpu/units.h"
#include <string.h>

enum { ROWS = 48 }; /* of an item: a multiple of every kernel's block */

typedef struct packed_part {
    float *a_t, *b_t; /* forward, and t of the backward: A^T [K, R], B^T [R, n] */
    float *b;         /* backward: B [n, R] */
    int64_t at;       /* first column of t and u */
} packed_part;

typedef struct lora_job {
    const vp_lora_op *op;
    const vp_simd *simd;
    vp_dropper drop;
    packed_part *part;
    float *stacked; /* backward: the A of all parts, packed as one [ranks, K] */
    int64_t ranks;  /* of all parts */
    bool wants_t;   /* a db is wanted */
    float *scratch; /* per thread: z [ROWS, K], t [ROWS, widest rank] */
    int64_t scratch_each;
    vp_mat t, u; /* backward: [T, ranks], scaled; 0 in rows of other adapters */
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

/* ---- forward ---- */
/* The end of the run of rows from `first` that this part applies to, or not. */
static int64_t same_adapter(const int32_t *adapter_row, int32_t adapter, int64_t first, int64_t last) {
    if (!adapter_row) return last;
    int64_t end = first + 1;
    while (end < last && (adapter_row[end] == adapter) == (adapter_row[first] == adapter)) end++;
    return end;
}

static void lora_rows(void *ctx, int64_t first, int64_t last, int thread) {
    const lora_job *j = ctx;
    const vp_lora_op *op = j->op;
    const int32_t *adapter_row = op->batch ? op->batch->adapter_row : NULL;
    float *z = j->scratch + thread * j->scratch_each, *t = z + ROWS * op->x.cols;
    int64_t ld, k = op->x.cols;
    const float *x = dropped_rows(j, first, last - first, z, &ld);
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        int64_t r = p->rank, end;
        for (int64_t at = first; at < last; at = end) {
            end = same_adapter(adapter_row, p->adapter, at, last);
            if (adapter_row && adapter_row[at] != p->adapter) continue;
            j->simd->gemm->product(x + (at - first) * ld, ld, j->part[i].a_t, k, t, r, end - at, k, r, false);
            j->simd->rows->axpby(p->scale, t, 0.0f, NULL, t, (end - at) * r);
            j->simd->gemm->product(t, r, j->part[i].b_t, r, vp_row(&op->out, at) + p->first, op->out.ld, end - at, r,
                                   p->n, true);
        }
    }
}

/* ---- backward: t = scale z A^T and u = scale dout B; da += u^T z and db += dout^T t a unit, dx += drop(u A) ---- */
static void clear_others(const lora_job *j, const vp_lora_part *p, int64_t first, int64_t last, float *m) {
    const int32_t *adapter_row = j->op->batch ? j->op->batch->adapter_row : NULL;
    for (int64_t i = first; i < last; i++, m += j->ranks) {
        if (adapter_row && adapter_row[i] != p->adapter)
            memset(m, 0, (size_t)p->rank * sizeof *m);
        else
            j->simd->rows->axpby(p->scale, m, 0.0f, NULL, m, p->rank);
    }
}

/* dx += u A of all parts; through the mask when z was dropped. */
static void add_dx(const lora_job *j, int64_t first, int64_t last, float *z) {
    const vp_lora_op *op = j->op;
    int64_t k = op->x.cols, n = last - first, ld = j->drop.on ? k : op->dx->ld;
    float *to = j->drop.on ? z : vp_row(op->dx, first);
    j->simd->gemm->product(vp_row(&j->u, first), j->ranks, j->stacked, j->ranks, to, ld, n, j->ranks, k, !j->drop.on);
    if (!j->drop.on) return;
    vp_drop_part part = {first, n, k, 0, k};
    vp_drop_rows(&j->drop, &part, z, k, z, k);
    for (int64_t i = 0; i < n; i++)
        j->simd->rows->axpby(1.0f, z + i * k, 1.0f, vp_row(op->dx, first + i), vp_row(op->dx, first + i), k);
}

static void lora_bwd_rows(void *ctx, int64_t first, int64_t last, int thread) {
    const lora_job *j = ctx;
    const vp_lora_op *op = j->op;
    float *z = j->scratch + thread * j->scratch_each;
    int64_t ld = 0, k = op->x.cols, n = last - first;
    const float *x = j->wants_t ? dropped_rows(j, first, n, z, &ld) : NULL;
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        float *t = vp_row(&j->t, first) + j->part[i].at, *u = vp_row(&j->u, first) + j->part[i].at;
        if (p->db) {
            j->simd->gemm->product(x, ld, j->part[i].a_t, k, t, j->ranks, n, k, p->rank, false);
            clear_others(j, p, first, last, t);
        }
        j->simd->gemm->product(vp_row(op->dout, first) + p->first, op->dout->ld, j->part[i].b, p->n, u, j->ranks, n,
                               p->n, p->rank, false);
        clear_others(j, p, first, last, u);
    }
    if (op->dx) add_dx(j, first, last, z);
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

static void pack_part(void *ctx, int64_t item, int thread) {
    (void)thread;
    const lora_job *j = ctx;
    const vp_lora_part *p = &j->op->part[item];
    const packed_part *to = &j->part[item];
    int64_t k = j->op->x.cols;
    if (to->a_t) j->simd->gemm->pack(p->a, k, true, k, p->rank, to->a_t);
    if (to->b_t) j->simd->gemm->pack(p->b, p->rank, true, p->rank, p->n, to->b_t);
    if (to->b) j->simd->gemm->pack(p->b, p->rank, false, p->n, p->rank, to->b);
}

/* Memory for a packed [k, n], unless it is not wanted. */
static int reserve(vp_queue *q, bool wanted, int64_t k, int64_t n, float **packed) {
    if (!wanted) return VP_OK;
    *packed = vp_queue_floats(q, "lora", vp_packed_floats(q->device->simd, k, n));
    return *packed ? VP_OK : VP_MEMORY;
}

static int lora_begin(vp_queue *q, lora_job *j, bool backward) {
    const vp_lora_op *op = j->op;
    int64_t widest = 1, k = op->x.cols;
    size_t bytes = (size_t)op->nparts * sizeof *j->part;
    if (!(j->part = vp_arena_alloc(q, bytes)))
        return vp_queue_fail(q, VP_MEMORY, "out of memory: lora needs %zu bytes", bytes);
    for (int32_t i = 0; i < op->nparts; i++) {
        const vp_lora_part *p = &op->part[i];
        j->part[i] = (packed_part){.at = j->ranks};
        j->ranks += p->rank;
        j->wants_t = j->wants_t || p->db;
        widest = p->rank > widest ? p->rank : widest;
        VP_TRY(reserve(q, !backward || p->db, k, p->rank, &j->part[i].a_t));
        VP_TRY(reserve(q, !backward, p->rank, p->n, &j->part[i].b_t));
        VP_TRY(reserve(q, backward, p->n, p->rank, &j->part[i].b));
    }
    j->scratch_each = ROWS * (k + widest);
    j->scratch = vp_queue_floats(q, "lora", j->scratch_each * vp_threads_count(q->device->threads));
    if (!j->scratch) return VP_MEMORY;
    vp_threads_run(q->device->threads, op->nparts, pack_part, j);
    return VP_OK;
}

static int stack_a(vp_queue *q, lora_job *j) {
    int64_t k = j->op->x.cols;
    VP_TRY(reserve(q, true, j->ranks, k, &j->stacked));
    size_t mark = vp_arena_mark(q);
    float *plain = vp_queue_floats(q, "lora_bwd", j->ranks * k);
    if (!plain) return VP_MEMORY;
    for (int32_t i = 0; i < j->op->nparts; i++)
        memcpy(plain + j->part[i].at * k, j->op->part[i].a, (size_t)(j->op->part[i].rank * k) * sizeof *plain);
    j->simd->gemm->pack(plain, k, false, j->ranks, k, j->stacked);
    vp_arena_release(q, mark);
    return VP_OK;
}

static int lora_run(vp_queue *q, lora_job *j) {
    VP_TRY(lora_begin(q, j, false));
    vp_rows(q, j->op->x.rows, ROWS, lora_rows, j);
    return VP_OK;
}

static int lora_bwd_run(vp_queue *q, lora_job *j) {
    const vp_lora_op *op = j->op;
    int64_t T = op->x.rows;
    vp_units units;
    VP_TRY(vp_units_make(q, "lora_bwd", op->batch, T, &units));
    VP_TRY(lora_begin(q, j, true));
    if (op->dx) VP_TRY(stack_a(q, j));
    j->t = j->u = (vp_mat){.dtype = VP_F32, .rows = T, .cols = j->ranks, .ld = j->ranks};
    j->t.ptr = vp_queue_floats(q, "lora_bwd", T * j->ranks);
    j->u.ptr = vp_queue_floats(q, "lora_bwd", T * j->ranks);
    if (!j->t.ptr || !j->u.ptr) return VP_MEMORY;
    vp_rows(q, T, ROWS, lora_bwd_rows, j);
    VP_TRY(sum_da(q, j, &units));
    return sum_db(q, j, &units);
}

static int run(vp_queue *q, const vp_lora_op *op, const char *what, int (*how)(vp_queue *q, lora_job *j)) {
    lora_job j = {.op = op, .simd = q->device->simd};
    VP_TRY(vp_dropper_make(q, what, &op->drop, op->batch, op->x.rows, &j.drop));
    if (op->nparts == 0 || op->x.rows == 0) return VP_OK;
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
