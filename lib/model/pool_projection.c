/* The projection behind the pooling of rows: from a model's files, or with the numbers that a run trains; forward and
 * backward. Legend: B rows, C width, D its dimensions. A row with nothing to pool is zeros and stays so. */
#include "lib/model/pooler.h"
#include "lib/model/projection.h"
#include <stdlib.h>
#include <string.h>

static int load(vp_pool_projection *l, const vp_map *model, const char *folder, vp_error *err) {
    vp_projection_file f;
    const char *print = vp_map_str(model, "projection_fingerprint");
    l->width = vp_map_int(model, "width", 0);
    if (folder[0] != '/' || !print || l->width < 1)
        return vp_fail(err, VP_DATA, "the header's projection is no absolute path with a fingerprint and a width");
    int status = vp_projection_open(&f, folder, l->width, err);
    if (!status && strcmp(print, f.fingerprint) != 0)
        status = vp_fail(err, VP_DATA, "%s: the projection was changed or replaced", folder);
    const size_t n = status ? 0 : (size_t)vp_projection_count(f.dims, l->width);
    if (!status && !(l->own = vp_calloc(n, sizeof *l->own)))
        status = vp_fail_memory(err, "a projection", n * sizeof *l->own);
    if (!status) status = vp_projection_read(&f, l->width, l->own, err);
    l->value = l->own;
    l->dims = f.dims;
    memcpy(l->fingerprint, f.fingerprint, sizeof l->fingerprint);
    vp_projection_close(&f);
    return status;
}

int vp_pool_projection_set(vp_pooler *p, const vp_pool_options *o, const vp_map *model, vp_error *err) {
    const char *folder = model ? vp_map_str(model, "projection") : NULL;
    const bool fits = p->kind->makes == VP_MAKES_ROWS && !p->kind->latent;
    if (o->project && !fits)
        return vp_fail(err, VP_USAGE, "a projection goes with a vector of every text, pooled without latent attention");
    if (o->project < 0 || o->project > VP_PROJECTION_MOST)
        return vp_fail(err, VP_USAGE, "a projection to %lld dimensions", (long long)o->project);
    p->projection.dims = o->project;
    return fits && folder && !o->project ? load(&p->projection, model, folder, err) : VP_OK;
}

void vp_pool_projection_close(vp_pool_projection *l) {
    free(l->own);
    *l = (vp_pool_projection){0};
}

void vp_pooler_give_projection(vp_pooler *p, int64_t dims, int64_t width, const float *value, float *grad) {
    vp_pool_projection *l = &p->projection;
    if (p->kind->makes != VP_MAKES_ROWS || p->kind->latent) return;
    l->unexpected = dims != l->dims;
    l->width = width;
    l->value = value;
    l->grad = grad;
}

static int check(const vp_pooler *p, int64_t width, vp_error *err) {
    const vp_pool_projection *l = &p->projection;
    if (l->unexpected)
        return vp_fail(err, VP_USAGE, "the run trains another projection than one to %lld dimensions (0: none)",
                       (long long)l->dims);
    if (l->dims && !l->value) return vp_fail(err, VP_USAGE, "the run trains no projection");
    if (!l->dims || width == l->width) return VP_OK;
    return vp_fail(err, VP_DATA, "hidden states of width %lld for a projection of width %lld", (long long)width,
                   (long long)l->width);
}

static vp_mat matrix(const float *data, int64_t rows, int64_t cols) {
    return (vp_mat){.ptr = (float *)data, .dtype = VP_F32, .rows = rows, .cols = cols, .ld = cols};
}

static bool is_zero(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (x[i] < 0 || x[i] > 0) return false;
    return true;
}

int vp_pool_project(vp_pooler *p, const vp_mat *u, float **y, vp_error *err) {
    const vp_pool_projection *l = &p->projection;
    const int64_t B = u->rows, C = u->cols, D = l->dims;
    *y = NULL;
    VP_TRY(check(p, C, err));
    if (!D) return VP_OK;
    if (!(*y = vp_calloc((size_t)(B * D), sizeof **y)))
        return vp_fail_memory(err, "projected vectors", (size_t)(B * D) * sizeof **y);
    const vp_bmm_op op = {
        .a = *u, .b = matrix(l->value, D, C), .out = matrix(*y, B, D), .count = 1, .transpose_b = true, .alpha = 1};
    VP_TRY(vp_compute_check(&p->own, p->own.ops->bmm(p->own.queue, &op), err));
    const float *b = l->value + D * C;
    for (int64_t r = 0; r < B; r++)
        for (int64_t d = 0; d < D && !is_zero((const float *)u->ptr + r * C, C); d++) (*y)[r * D + d] += b[d];
    return VP_OK;
}

/* The gradient of one unit's rows [B, C], [B, D]: dW += dy^T u, db += the sum of dy. */
static int add_gradient(vp_pooler *p, const vp_mat *u, const vp_mat *dy, float *work, vp_error *err) {
    const vp_pool_projection *l = &p->projection;
    const int64_t C = u->cols, D = dy->cols, n = vp_projection_count(D, C);
    const vp_mat dw = matrix(work, D, C);
    const vp_bmm_op op = {.a = *u,
                          .b = matrix(l->value, D, C),
                          .out = *dy,
                          .count = 1,
                          .transpose_b = true,
                          .alpha = 1,
                          .dout = dy,
                          .db = &dw};
    memset(work + D * C, 0, (size_t)D * sizeof *work);
    for (int64_t r = 0; r < dy->rows; r++)
        for (int64_t d = 0; d < D; d++) work[D * C + d] += ((const float *)dy->ptr)[r * D + d];
    VP_TRY(vp_compute_check(&p->own, p->own.ops->bmm_bwd(p->own.queue, &op), err));
    for (int64_t k = 0; k < n; k++) l->grad[k] += work[k];
    return VP_OK;
}

/* One unit after the other, whichever of them a batch holds. */
static int add_units(vp_pooler *p, const vp_mat *u, const vp_mat *dy, const int32_t *unit, vp_error *err) {
    const size_t n = (size_t)vp_projection_count(dy->cols, u->cols);
    float *work = vp_calloc(n, sizeof *work);
    int status = work ? VP_OK : vp_fail_memory(err, "the gradient of a projection", n * sizeof *work);
    for (int64_t b = 0, end; !status && b < u->rows; b = end) {
        for (end = b + 1; end < u->rows && (!unit || unit[end] == unit[b]);) end++;
        const vp_mat some = matrix((const float *)u->ptr + b * u->cols, end - b, u->cols);
        const vp_mat dsome = matrix((const float *)dy->ptr + b * dy->cols, end - b, dy->cols);
        status = add_gradient(p, &some, &dsome, work, err);
    }
    free(work);
    return status;
}

int vp_pool_project_bwd(vp_pooler *p, const vp_mat *u, const int32_t *unit, float *dy, float *du, vp_error *err) {
    const vp_pool_projection *l = &p->projection;
    const int64_t B = u->rows, C = u->cols, D = l->dims;
    const vp_mat grad = matrix(dy, B, D), to = matrix(du, B, C);
    const vp_bmm_op op = {.a = *u,
                          .b = matrix(l->value, D, C),
                          .out = grad,
                          .count = 1,
                          .transpose_b = true,
                          .alpha = 1,
                          .dout = &grad,
                          .da = &to};
    for (int64_t r = 0; r < B; r++)
        if (is_zero((const float *)u->ptr + r * C, C)) memset(dy + r * D, 0, (size_t)D * sizeof *dy);
    VP_TRY(vp_compute_check(&p->own, p->own.ops->bmm_bwd(p->own.queue, &op), err));
    return l->grad ? add_units(p, u, &grad, unit, err) : VP_OK;
}
