/* The device that a model computes on, and numbers on their way to it and back: the one place in lib/model that opens
 * one. Where a device has memory of its own (`separate`), what an operation takes must have been brought there. */
#ifndef VP_MODEL_COMPUTE_H
#define VP_MODEL_COMPUTE_H
#include "kernels/load.h"

typedef struct vp_compute {
    const vp_backend *ops;
    vp_device *device;
    vp_queue *queue;
    /* of the linears' products, VP_F32 or VP_BF16; with `rows` of their weights, VP_I8 too; where it embeds, VP_F8 (q,
     * k and v are VP_BF16 then) */
    vp_dtype type;
    vp_dtype state; /* of activations, but for the residual stream: VP_F32; VP_BF16 where `type` is not and it can */
    bool tf32;      /* VP_F32 products may round their inputs to TF32 */
    bool rows;      /* weights are kept row by row, for generation */
    bool embeds;    /* forward alone, no adapters */
    bool separate;  /* its memory is not the host's */
} vp_compute;

/* The device that `device` names (kernels/load.h; NULL: $VP_DEVICE, else "auto") with a queue, and the type of products
 * that `compute` names (VP_COMPUTES, NULL: auto) on it; c->rows and c->embeds are set before. VP_USAGE: no such name,
 * or not this type on this machine. VP_MEMORY: no such device. Close with vp_compute_close, also after a failure. */
int vp_compute_open(vp_compute *c, const char *device, int threads, const char *compute, vp_error *err);
void vp_compute_close(vp_compute *c);
/* "f32", "tf32", "bf16", "i8" or "fp8" */
const char *vp_compute_name(const vp_compute *c);
/* Name and processor of the device, as "cuda sm_90", into out. */
void vp_compute_describe(const vp_compute *c, char out[40]);
/* What there is to know of how it has computed so far, a line each, i = 0, 1, ...; NULL: no more. The device's until
 * the next call. */
const char *vp_compute_note(const vp_compute *c, int i);
/* The status of an operation as this library's error. */
int vp_compute_check(const vp_compute *c, int status, vp_error *err);

/* ---- memory: on the queue's arena, until the caller's mark is released ---- */
/* `bytes` for `what`; NULL: err says why. */
void *vp_compute_take(const vp_compute *c, const char *what, size_t bytes, vp_error *err);
/* Copy, in any direction, after everything that was enqueued before, and wait for it. to NULL, or `from` itself: no
 * copy.
 */
int vp_compute_move(const vp_compute *c, void *to, const void *from, size_t bytes, vp_error *err);

/* ---- results: memory of the host ---- */
/* Memory that vp_compute_move fills at full speed, pinned where that exists; not cleared. For what is large: there is
 * not much of it. NULL: err says why. Any thread may give it back, as long as the device is open; NULL is fine. */
void *vp_compute_host(const vp_compute *c, const char *what, size_t bytes, vp_error *err);
void vp_compute_host_free(const vp_compute *c, void *p);
/* vp_compute_move to any memory of the host, by way of two pinned pieces: while one is copied on, the next is on its
 * way. */
int vp_compute_fetch(const vp_compute *c, void *to, const void *from, size_t bytes, vp_error *err);

/* What an operation takes and gives, from the host's memory and back to it. Where that is the device's, too, nothing is
 * copied: every function returns what it was given. NULL stays NULL. A failure stays in `status`, and what follows does
 * nothing; vp_transfer_end gives back what was taken, and tells. */
typedef struct vp_transfer {
    const vp_compute *c;
    const char *what; /* for messages */
    vp_error *err;
    size_t mark;
    int status;
} vp_transfer;
vp_transfer vp_transfer_begin(const vp_compute *c, const char *what, vp_error *err);
/* n items of `size` bytes that are read; room for what is written. */
const void *vp_transfer_put(vp_transfer *t, const void *host, int64_t n, size_t size);
void *vp_transfer_room(vp_transfer *t, void *host, int64_t n, size_t size);
/* The same of matrices; rows between which the host leaves room have it on the device, too. */
vp_mat vp_transfer_put_mat(vp_transfer *t, const vp_mat *host);
vp_mat vp_transfer_room_mat(vp_transfer *t, const vp_mat *host);
/* The status of the operation; then what it wrote, to the host. */
void vp_transfer_done(vp_transfer *t, int status);
void vp_transfer_get(vp_transfer *t, void *host, const void *device, int64_t n, size_t size);
void vp_transfer_get_mat(vp_transfer *t, const vp_mat *host, const vp_mat *device);
int vp_transfer_end(vp_transfer *t);

#endif
