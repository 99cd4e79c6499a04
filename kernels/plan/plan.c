/* The backend that counts: kernels/plan.h. Every operation goes on to the backend that is planned for; those that are
 * products are counted on the way. */
#include "kernels/plan.h"
#include <stdlib.h>

struct vp_queue { /* this backend's own: it is the planner */
    vp_backend table;
    const vp_backend *of;
    vp_queue *planned; /* of `of` */
    double flops;
};
struct vp_planner {
    vp_queue queue;
};

/* ---- floating-point operations ---- */

static double product(const vp_mat *x, const vp_mat *out) {
    return 2 * (double)x->rows * (double)x->cols * (double)out->cols;
}

static double count_linear(const vp_linear_op *op) {
    return product(&op->x, &op->out);
}

static double count_linear_bwd_x(const vp_linear_op *op) {
    return product(op->dout, op->dx);
}

static double count_linear_bwd_w(const vp_linear_op *op) {
    return product(&op->x, op->dout);
}

/* Of the adapters alone: x A^T and t B^T. */
static double count_adapters(const vp_lora_op *op) {
    double sum = 0;
    for (int32_t i = 0; i < op->nparts; i++)
        sum += 2 * (double)op->x.rows * op->part[i].rank * (double)(op->x.cols + op->part[i].n);
    return sum;
}

static double count_lora(const vp_lora_op *op) {
    return count_adapters(op) + (op->linear ? count_linear(op->linear) : 0);
}

/* t again where dB is wanted; u = dout B, dA, dB; dx. */
static double count_lora_bwd(const vp_lora_op *op) {
    return 3 * count_adapters(op) + (op->linear ? count_linear_bwd_x(op->linear) : 0);
}

static double count_bmm(const vp_bmm_op *op) {
    return (double)op->count * product(&op->a, &op->out);
}

static double count_bmm_bwd(const vp_bmm_op *op) {
    return 2 * count_bmm(op);
}

/* Scores and their products with values. */
static double count_attn(const vp_attn_op *op) {
    return 4 * (double)op->q.rows * (double)op->batch->longest * (double)op->q.cols;
}

static double count_attn_bwd(const vp_attn_op *op) {
    return 2.5 * count_attn(op); /* five products instead of two */
}

/* ---- operations on their way ---- */
/* clang-format off */
#define COUNTED(X) \
    X(linear, vp_linear_op) X(linear_bwd_x, vp_linear_op) X(linear_bwd_w, vp_linear_op) \
    X(lora, vp_lora_op) X(lora_bwd, vp_lora_op) X(bmm, vp_bmm_op) X(bmm_bwd, vp_bmm_op) \
    X(attn, vp_attn_op) X(attn_bwd, vp_attn_op)
/* clang-format on */
#define PASS(name, type)                                                                                               \
    static int pass_##name(vp_queue *q, const type *op) {                                                              \
        return q->of->name(q->planned, op);                                                                            \
    }
#define COUNT(name, type)                                                                                              \
    static int counted_##name(vp_queue *q, const type *op) {                                                           \
        q->flops += count_##name(op);                                                                                  \
        return pass_##name(q, op);                                                                                     \
    }
VP_OPERATIONS(PASS)
COUNTED(COUNT)

/* ---- the queue ---- */

static int queue_wait(vp_queue *q, vp_error *err) {
    return q->of->queue_wait(q->planned, err);
}

static const char *why(const vp_queue *q) {
    return q->of->why(q->planned);
}

static void *arena_alloc(vp_queue *q, size_t bytes) {
    return q->of->arena_alloc(q->planned, bytes);
}

static size_t arena_mark(const vp_queue *q) {
    return q->of->arena_mark(q->planned);
}

static void arena_release(vp_queue *q, size_t mark) {
    q->of->arena_release(q->planned, mark);
}

static int copy(vp_queue *q, void *to, const void *from, size_t bytes) {
    return q->of->copy(q->planned, to, from, bytes);
}

static int repeat(vp_queue *q, const vp_repeat_op *op) {
    (void)q; /* work knows it */
    *op->how = VP_REPEAT_PLAIN;
    return op->work(op->ctx);
}

/* ---- the planner ---- */

int vp_planner_open(vp_planner **out, const vp_backend *backend, vp_device *device, vp_error *err) {
    vp_planner *p = vp_calloc(1, sizeof *p);
    if (!p) return vp_fail_memory(err, "a plan", sizeof *p);
    vp_backend *t = &p->queue.table;
    p->queue.of = backend;
    *t = (vp_backend){.name = backend->name,
                      .queue_wait = queue_wait,
                      .why = why,
                      .arena_alloc = arena_alloc,
                      .arena_mark = arena_mark,
                      .arena_release = arena_release,
                      .copy = copy,
                      .repeat = backend->repeat ? repeat : NULL};
#define SET_PASS(op, type)                                                                                             \
    if (backend->op) t->op = pass_##op;
#define SET_COUNT(op, type)                                                                                            \
    if (backend->op) t->op = counted_##op;
    VP_OPERATIONS(SET_PASS)
    COUNTED(SET_COUNT)
    const int status = backend->queue_plan(&p->queue.planned, device, err);
    if (status) {
        free(p);
        return status;
    }
    *out = p;
    return VP_OK;
}

void vp_planner_close(vp_planner *p) {
    if (!p) return;
    p->queue.of->queue_close(p->queue.planned);
    free(p);
}

const vp_backend *vp_planner_table(const vp_planner *p) {
    return &p->queue.table;
}

vp_queue *vp_planner_queue(vp_planner *p) {
    return &p->queue;
}

size_t vp_planner_bytes(const vp_planner *p) {
    return p->queue.of->arena_most(p->queue.planned);
}

double vp_planner_flops(const vp_planner *p) {
    return p->queue.flops;
}
