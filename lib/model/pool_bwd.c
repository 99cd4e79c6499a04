/* Pooling backwards: from the gradient of a frame's vectors, or of its marked rows, to that of its hidden states. */
#include "lib/model/pooler.h"
#include <stdlib.h>

typedef struct job {
    vp_pooler *p;
    const vp_compute *on;
    const uint8_t *keep; /* on the host, as cu; of a unit, its own */
    int64_t T, width, B, dims;
    int32_t *cu;
    const int32_t *unit;    /* [B] on the host, NULL: each row is one */
    vp_mat hidden, dhidden; /* on the device */
} job;

static vp_mat matrix(const float *data, int64_t rows, int64_t cols) {
    return (vp_mat){.ptr = (float *)data, .dtype = VP_F32, .rows = rows, .cols = cols, .ld = cols};
}

static int unpick(job *j, const vp_frame *f, const float *grad, int64_t rows, vp_error *err) {
    int32_t *index = NULL;
    int64_t m = 0;
    int status = vp_pooler_marked(f, j->T, j->keep, &index, &m, err);
    if (!status && m != rows)
        status = vp_frame_fail(f, VP_DATA, err, "a gradient of %lld rows, but %lld are marked", (long long)rows,
                               (long long)m);
    vp_transfer t = vp_transfer_begin(j->on, "gradients of marked rows", err);
    t.status = status;
    const vp_mat host = matrix(grad, m, j->width), dout = vp_transfer_put_mat(&t, &host);
    const vp_pick_op op = {.x = j->hidden,
                           .out = dout,
                           .index = vp_transfer_put(&t, index, m, sizeof *index),
                           .M = m,
                           .dout = &dout,
                           .dx = &j->dhidden};
    if (!t.status) vp_transfer_done(&t, j->on->ops->pick_bwd(j->on->queue, &op));
    free(index);
    return vp_transfer_end(&t);
}

/* dv [B, all] of the vectors v, from the gradient [B, dims] of v's first dims, normalised. */
static int unnormalize(const job *j, const vp_mat *v, const vp_mat *dout, const vp_mat *dv, vp_error *err) {
    const vp_compute *on = j->on;
    const vp_elem_op zero = {.out = *dv};
    vp_mat x = *v, d = *dv;
    x.cols = d.cols = j->dims;
    const vp_elem_op copy = {.x = *dout, .out = d, .a = 1};
    const vp_l2norm_op norm = {.x = x, .out = x, .dout = dout, .dx = &d};
    VP_TRY(vp_compute_check(on, on->ops->fill(on->queue, &zero), err));
    if (!j->p->normalize) return vp_compute_check(on, on->ops->add(on->queue, &copy), err);
    return vp_compute_check(on, on->ops->l2norm_bwd(on->queue, &norm), err);
}

/* du [B, C] of the pooled vectors u, which are pooled and projected again; where there is a projection, on the CPU. */
static int unproject(const job *j, const vp_pool_op *pool, const vp_mat *dout, const vp_mat *du, vp_error *err) {
    vp_pooler *p = j->p;
    const size_t n = (size_t)(j->B * p->projection.dims);
    float *y = NULL, *dy = NULL;
    if (p->normalize || n) VP_TRY(vp_compute_check(j->on, j->on->ops->pool(j->on->queue, pool), err));
    if (!n) return unnormalize(j, &pool->out, dout, du, err);
    int status = vp_pool_project(p, &pool->out, &y, err);
    if (!status && !(dy = vp_calloc(n, sizeof *dy)))
        status = vp_fail_memory(err, "gradients of embeddings", n * sizeof *dy);
    const vp_mat v = matrix(y, j->B, p->projection.dims), dv = matrix(dy, j->B, p->projection.dims);
    if (!status) status = unnormalize(j, &v, dout, &dv, err);
    if (!status) status = vp_pool_project_bwd(p, &pool->out, j->unit, dy, du->ptr, err);
    free(y);
    free(dy);
    return status;
}

/* dhidden of the job's rows, whose offsets cu has. */
static int unpool(const job *j, const float *grad, vp_error *err) {
    const vp_compute *on = j->on;
    const size_t bytes = (size_t)(j->B * j->width) * sizeof(float);
    int64_t empty = 0;
    vp_transfer t = vp_transfer_begin(on, "gradients of embeddings", err);
    const vp_mat host = matrix(grad, j->B, j->dims), dout = vp_transfer_put_mat(&t, &host);
    const vp_mat du = matrix(vp_compute_take(on, t.what, bytes, err), j->B, j->width);
    const vp_pool_op op = {.kind = j->p->kind->op,
                           .B = j->B,
                           .cu = vp_transfer_put(&t, j->cu, j->B + 1, sizeof *j->cu),
                           .keep = vp_transfer_put(&t, j->keep, j->hidden.rows, sizeof *j->keep),
                           .x = j->hidden,
                           .out = matrix(vp_compute_take(on, t.what, bytes, err), j->B, j->width),
                           .empty = vp_transfer_room(&t, &empty, 1, sizeof empty),
                           .dout = &du,
                           .dx = &j->dhidden};
    if (!du.ptr || !op.out.ptr) t.status = VP_MEMORY;
    if (!t.status) t.status = unproject(j, &op, &dout, &du, err);
    if (!t.status) vp_transfer_done(&t, on->ops->pool_bwd(on->queue, &op));
    return vp_transfer_end(&t);
}

/* Rows [b0, b1), a gradient unit: forward through the latent layer, and back. */
static int unpool_unit(const job *j, vp_latent_layer *layer, int64_t b0, int64_t b1, const float *grad, vp_error *err) {
    const int64_t from = j->cu[b0], tokens = j->cu[b1] - from, at = from * j->width;
    vp_latent_saved saved;
    vp_mat dy;
    if (!tokens) return VP_OK;
    job unit = {.p = j->p, .on = j->on, .keep = j->keep ? j->keep + from : NULL, .T = tokens, .width = j->width};
    unit.B = b1 - b0;
    unit.dims = j->dims;
    unit.cu = vp_calloc((size_t)unit.B + 1, sizeof *unit.cu);
    if (!unit.cu) return vp_fail_memory(err, "a unit", (size_t)unit.B * sizeof *unit.cu);
    for (int64_t b = 0; b <= unit.B; b++) unit.cu[b] = j->cu[b0 + b] - (int32_t)from;
    int status = vp_latent_layer_forward(layer, (const float *)j->hidden.ptr + at, tokens, &saved, err);
    if (!status) status = vp_latent_scratch(layer, tokens, j->width, &dy, err);
    if (!status) {
        unit.hidden = saved.y;
        unit.dhidden = dy;
        status = unpool(&unit, grad + b0 * j->dims, err);
    }
    if (!status) status = vp_latent_layer_backward(layer, &saved, dy.ptr, (float *)j->dhidden.ptr + at, err);
    free(unit.cu);
    return status;
}

static int unpool_latent(const job *j, const float *grad, vp_error *err) {
    vp_latent_layer *layer;
    int status = VP_OK;
    VP_TRY(vp_pool_latent_layer(j->p, j->width, &layer, err));
    const vp_compute *on = &layer->o.on;
    for (int64_t b = 0, end; !status && b < j->B; b = end) {
        for (end = b + 1; end < j->B && (!j->unit || j->unit[end] == j->unit[b]);) end++;
        const size_t mark = on->ops->arena_mark(on->queue);
        status = unpool_unit(j, layer, b, end, grad, err);
        on->ops->arena_release(on->queue, mark);
    }
    return status;
}

static int unpool_rows(job *j, const vp_frame *f, const float *grad, vp_error *err) {
    int64_t offsets = 0, n = 0;
    int32_t *unit = NULL;
    VP_TRY(vp_frame_ints(f, "cu", &j->cu, &offsets, err));
    if (!j->cu || offsets != j->B + 1) return vp_frame_fail(f, VP_DATA, err, "no column cu");
    int status = vp_frame_ints(f, "unit", &unit, &n, err);
    if (!status && unit && n != j->B) status = vp_frame_fail(f, VP_DATA, err, "column unit does not fit");
    j->unit = unit;
    if (!status) status = j->p->kind->latent ? unpool_latent(j, grad, err) : unpool(j, grad, err);
    free(unit);
    return status;
}

static int unpool_frame(job *j, const vp_frame *f, const float *grad, int64_t rows, vp_error *err) {
    bool picks;
    VP_TRY(vp_pooler_picks_of(j->p, f, &picks, err));
    if (j->p->kind->makes == VP_MAKES_WORDS) return vp_fail(err, VP_USAGE, "vectors of words are not trained");
    if (picks) return unpick(j, f, grad, rows, err);
    if (rows != f->B)
        return vp_frame_fail(f, VP_DATA, err, "a gradient of %lld rows, there are %lld", (long long)rows,
                             (long long)f->B);
    return unpool_rows(j, f, grad, err);
}

int vp_pooler_backward(vp_pooler *p, const vp_frame *f, const float *hidden, int64_t width, const float *grad,
                       int64_t rows, float *dhidden, vp_error *err) {
    const vp_compute on = vp_pooler_place(p);
    job j = {.p = p, .on = &on, .T = f->T, .width = width, .B = f->B, .dims = vp_pooler_dims(p, width)};
    const vp_column *keep = vp_frame_find(f, "keep");
    if (keep) VP_TRY(vp_frame_need(f, "keep", VP_U8, 1, &j.T, &keep, err));
    j.keep = keep ? keep->data : NULL;
    const vp_mat x = matrix(hidden, j.T, width), dx = matrix(dhidden, j.T, width);
    vp_transfer t = vp_transfer_begin(&on, "gradients of hidden states", err);
    j.hidden = vp_transfer_put_mat(&t, &x);
    j.dhidden = vp_transfer_room_mat(&t, &dx);
    if (!t.status) t.status = unpool_frame(&j, f, grad, rows, err);
    vp_transfer_get_mat(&t, &dx, &j.dhidden);
    free(j.cu);
    return vp_transfer_end(&t);
}

int vp_pooler_vectors(const vp_pooler *p, const vp_frame *f, int64_t *vectors, vp_error *err) {
    bool picks;
    *vectors = f->B;
    VP_TRY(vp_pooler_picks_of(p, f, &picks, err));
    if (!picks) return VP_OK;
    int64_t T = f->T;
    int32_t *index = NULL;
    const vp_column *keep = vp_frame_find(f, "keep");
    if (keep) VP_TRY(vp_frame_need(f, "keep", VP_U8, 1, &T, &keep, err));
    int status = vp_pooler_marked(f, T, keep ? keep->data : NULL, &index, vectors, err);
    free(index);
    return status;
}

const char *vp_pooler_kind(const vp_pooler *p) {
    return p->kind->name;
}

bool vp_pooler_picks(const vp_pooler *p) {
    return p->kind->makes == VP_MAKES_MARKED;
}

int vp_pooler_picks_of(const vp_pooler *p, const vp_frame *f, bool *picks, vp_error *err) {
    VP_TRY(vp_frame_generates(f, picks, err));
    *picks |= vp_pooler_picks(p);
    return VP_OK;
}

int64_t vp_pooler_dims(const vp_pooler *p, int64_t width) {
    if (vp_pooler_picks(p)) return width;
    return p->dims ? p->dims : p->projection.dims ? p->projection.dims : width;
}
