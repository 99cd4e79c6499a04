/* The device that a model computes on, and numbers on their way to it and back: the one place in lib/model that opens
 * one. Where a device has memory of its own (`separate`), what an operation takes must have been brought there. */
#ifndef VP_MODEL_COMPUTE_H
#define VP_MODEL_COMPUTE_H
#include "kernels/ops.h"

typedef struct vp_compute {
    const vp_backend *ops;
    vp_device *device;
    vp_queue *queue;
    vp_dtype type;  /* of the linears' products, VP_F32 or VP_BF16; with `rows` of their weights, VP_I8 too */
    vp_dtype state; /* of activations, but for the residual stream: VP_F32, or VP_BF16 where `type` is and it can */
    bool rows;      /* weights are kept row by row, for generation */
    bool separate;  /* its memory is not the host's */
} vp_compute;

/* The device that `device` names (kernels/load.h; NULL: $VP_DEVICE, else "auto") with a queue, and the type of products
 * that `compute` names (VP_COMPUTES, NULL: auto) on it; c->rows is set before. VP_USAGE: no such name, or not this type
 * on this machine. VP_MEMORY: no such device. Close with vp_compute_close, also after a failure. */
int vp_compute_open(vp_compute *c, const char *device, int threads, const char *compute, vp_error *err);
void vp_compute_close(vp_compute *c);
const char *vp_compute_name(vp_dtype type);
/* The status of an operation as this library's error. */
int vp_compute_check(const vp_compute *c, int status, vp_error *err);

/* ---- memory: on the queue's arena, until the caller's mark is released ---- */
/* `bytes` for `what`; NULL: err says why. */
void *vp_compute_take(const vp_compute *c, const char *what, size_t bytes, vp_error *err);
/* What operations read in the place of `host`: a copy, or where the memory is the host's `host` itself. NULL stays
 * NULL. The host's memory may be changed or freed after the operations have run on the CPU, at once elsewhere. */
int vp_compute_put(const vp_compute *c, const char *what, const void *host, size_t bytes, const void **out,
                   vp_error *err);
/* What operations write in the place of `host`; vp_compute_move brings it there. NULL stays NULL. */
int vp_compute_room(const vp_compute *c, const char *what, void *host, size_t bytes, void **out, vp_error *err);
/* Copy, in any direction, after everything that was enqueued before, and wait for it. to NULL, or `from` itself: no
 * copy.
 */
int vp_compute_move(const vp_compute *c, void *to, const void *from, size_t bytes, vp_error *err);

#endif
