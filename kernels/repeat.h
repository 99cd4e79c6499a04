/* Passes that come again, on a device that takes one launch of all their work for less than many: vp_backend.repeat. */
#ifndef VP_KERNELS_REPEAT_H
#define VP_KERNELS_REPEAT_H
#include <stdint.h>

/* What work(ctx) enqueues on the queue, by work itself or, of a key that came before, by one launch of the same again.
 * The key must hold all that decides what is enqueued, but not what lies at the addresses: shapes, addresses, what was
 * chosen by them. Work enqueues operations only; it does not wait, copies nothing to or from the host, and leaves the
 * arena as it was. It may be called twice: what fails while it is recorded is done plainly. */
typedef enum vp_repeated {
    VP_REPEAT_PLAIN,    /* as if work had been called */
    VP_REPEAT_RECORDED, /* and is kept for the next time */
    VP_REPEAT_AGAIN,    /* without a call of work */
    VP_REPEAT_REFUSED   /* plainly, as it cannot be recorded */
} vp_repeated;
typedef struct vp_repeat_op {
    const uint64_t *key;
    int keys;
    int (*work)(void *ctx); /* a status */
    void *ctx;
    vp_repeated *how; /* written */
} vp_repeat_op;

#endif
