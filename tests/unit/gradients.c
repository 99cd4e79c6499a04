/* Finite differences for the pairs of operations: gradients.h tells what and why. */
#include "tests/unit/gradients.h"
#include <math.h>
#include <string.h>

static const float STEP = 1.0f / 4096.0f; /* the error of a central difference is f''' STEP^2 / 6: 1e-8 */

static double loss(const gradient_pair *p, double *out) {
    double sum = 0.0;
    p->forward(p->op, out);
    for (int64_t i = 0; i < p->dout.rows; i++)
        for (int64_t j = 0; j < p->dout.cols; j++) sum += (double)mat_row(&p->dout, i)[j] * out[i * p->dout.cols + j];
    return sum;
}

static double largest(const vp_mat *m, const vp_mat *before) {
    double most = 0.0;
    for (int64_t i = 0; i < m->rows; i++)
        for (int64_t j = 0; j < m->cols; j++)
            most = fmax(most, fabs((double)mat_row(m, i)[j] - (double)mat_row(before, i)[j]));
    return most;
}

/* Moves elements by +-STEP (all, or the one given), and compares the change of the loss with gradient . movement. The
 * movements are those that the floats really made. */
static void compare(op_case *c, const gradient_pair *p, const gradient_of *g, const vp_mat *before, double *out,
                    int64_t only) {
    vp_mat was = case_copy(c, &g->input), up = case_copy(c, &g->input);
    int64_t n = g->input.rows * g->input.cols;
    double predicted = 0.0, scale = 1.0 + largest(&g->grad, before);
    for (int64_t e = 0; e < n; e++) {
        if (only >= 0 && e != only) continue;
        float step = case_int(c, 0, 1) ? STEP : -STEP;
        int64_t i = e / g->input.cols, j = e % g->input.cols;
        float low = mat_row(&was, i)[j] - step, high = mat_row(&was, i)[j] + step;
        mat_row(&up, i)[j] = high;
        mat_row(&g->input, i)[j] = low;
        double gradient = (double)mat_row(&g->grad, i)[j] - (g->added ? (double)mat_row(before, i)[j] : 0.0);
        predicted += gradient * ((double)high - (double)low);
    }
    double below = loss(p, out);
    size_t bytes = (size_t)(g->input.rows * g->input.ld) * sizeof(float);
    if (bytes) memcpy(g->input.ptr, up.ptr, bytes);
    double above = loss(p, out);
    if (bytes) memcpy(g->input.ptr, was.ptr, bytes);
    double moved = 2.0 * (double)STEP, count = only >= 0 ? 1.0 : (double)n;
    double off = fabs(above - below - predicted), allowed = p->tolerance * scale * moved * sqrt(count);
    if (!(off <= allowed))
        case_fail(c, "%s %s %lld: the loss changes by %.9g, not %.9g (off by %.3g, allowed %.3g)", g->name,
                  only < 0 ? "all of" : "element", (long long)(only < 0 ? n : only), (above - below) / moved,
                  predicted / moved, off / moved, allowed / moved);
}

static void run(op_case *c, const gradient_pair *p, vp_queue *q) {
    CASE_OK(c, p->backward(c, q, p->op), q);
}

void check_gradients(op_case *c, const gradient_pair *p) {
    vp_mat before[MAX_INPUTS], first[MAX_INPUTS];
    for (int i = 0; i < p->n; i++) before[i] = case_copy(c, &p->of[i].grad);
    run(c, p, c->three);
    for (int i = 0; i < p->n; i++) {
        const vp_mat *g = &p->of[i].grad;
        first[i] = case_copy(c, g);
        size_t bytes = (size_t)(g->rows * g->ld) * sizeof(float);
        if (bytes) memcpy(g->ptr, before[i].ptr, bytes);
    }
    run(c, p, c->one);
    double *out = case_alloc(c, (size_t)(p->dout.rows * p->dout.cols + 1) * sizeof *out);
    for (int i = 0; i < p->n && !c->failure[0]; i++) {
        const gradient_of *g = &p->of[i];
        case_same_bytes(c, g->name, &first[i], &g->grad);
        case_guards(c, g->name, &g->grad);
        int64_t n = g->input.rows * g->input.cols;
        compare(c, p, g, &before[i], out, -1);
        for (int e = 0; e < 4 && n > 0; e++) compare(c, p, g, &before[i], out, case_int(c, 0, n - 1));
    }
}

/* ---- batches of units ---- */
vp_mat case_dense(op_case *c, int64_t rows, int64_t cols) {
    return (vp_mat){.ptr = case_floats(c, rows * cols), .dtype = VP_F32, .rows = rows, .cols = cols, .ld = cols};
}

vp_batch case_unit_batch(op_case *c, int64_t B, int64_t longest) {
    vp_batch batch = case_batch(c, case_offsets(c, B, longest), B);
    int32_t *unit = case_alloc(c, (size_t)(B + 1) * sizeof *unit);
    for (int64_t b = 1; b < B; b++) unit[b] = unit[b - 1] + (int32_t)case_int(c, 0, 1);
    batch.unit = unit;
    return batch;
}

vp_batch case_cut_batch(op_case *c, const vp_batch *batch, int64_t first, int64_t last) {
    int32_t *cu = case_alloc(c, (size_t)(last - first + 1) * sizeof *cu);
    for (int64_t b = first; b <= last; b++) cu[b - first] = batch->cu_q[b] - batch->cu_q[first];
    vp_batch cut = case_batch(c, cu, last - first);
    cut.unit = batch->unit + first;
    cut.row = batch->row + first;
    cut.adapter_row = batch->adapter_row ? batch->adapter_row + batch->cu_q[first] : NULL;
    return cut;
}

int64_t case_unit_cut(op_case *c, const vp_batch *batch) {
    int64_t b = case_int(c, 0, batch->B);
    while (b > 0 && b < batch->B && batch->unit[b] == batch->unit[b - 1]) b--;
    return b;
}
