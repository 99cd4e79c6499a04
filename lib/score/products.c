/* Products by the CPU's kernels. */
#include "kernels/ops.h"
#include "lib/score/probe.h"
#include <stdlib.h>

struct vp_products {
    const vp_backend *ops;
    vp_device *device;
    vp_queue *queue;
};

int vp_products_open(vp_products **out, vp_error *err) {
    vp_products *p = *out = vp_calloc(1, sizeof *p);
    if (!p) return vp_fail_memory(err, "products", sizeof *p);
    p->ops = vp_backend_cpu();
    int status = p->ops->open(&p->device, &(vp_device_options){.threads = 1, .isa = "auto"}, err);
    if (!status) status = p->ops->queue_open(&p->queue, p->device, err);
    if (!status) return VP_OK;
    vp_products_close(p);
    *out = NULL;
    return status;
}

void vp_products_close(vp_products *p) {
    if (!p) return;
    if (p->queue) p->ops->queue_close(p->queue);
    if (p->device) p->ops->close(p->device);
    free(p);
}

static vp_mat matrix(const float *x, int64_t rows, int64_t cols) {
    return (vp_mat){.ptr = (float *)(uintptr_t)x, .dtype = VP_F32, .rows = rows, .cols = cols, .ld = cols};
}

int vp_products_rows(vp_products *p, const float *x, int64_t n, const float *w, int64_t K, int64_t D, float *out,
                     vp_error *err) {
    const vp_bmm_op op = {.a = matrix(x, n, D),
                          .b = matrix(w, K, D),
                          .out = matrix(out, n, K),
                          .count = 1,
                          .transpose_b = true,
                          .alpha = 1};
    const int status = p->ops->bmm(p->queue, &op);
    return status ? vp_fail(err, status, "%s", p->ops->why(p->queue)) : VP_OK;
}

int vp_products_columns(vp_products *p, const float *g, const float *x, int64_t n, int64_t K, int64_t D, float *out,
                        vp_error *err) {
    const vp_mat dout = matrix(g, n, K), db = matrix(out, K, D);
    const vp_bmm_op op = {.a = matrix(x, n, D),
                          .b = matrix(out, K, D), /* its shape only */
                          .count = 1,
                          .transpose_b = true,
                          .alpha = 1,
                          .dout = &dout,
                          .db = &db};
    const int status = p->ops->bmm_bwd(p->queue, &op);
    return status ? vp_fail(err, status, "%s", p->ops->why(p->queue)) : VP_OK;
}
