/* Frames ahead: on a device with memory of its own two frames are on their way at a time, each with a queue, memory and
 * a thread of its own, so that the device computes one while the host prepares, takes, checks and writes the other. The
 * weights are the encoder's. A frame's result does not depend on the one beside it. */
#ifndef VP_MODEL_AHEAD_H
#define VP_MODEL_AHEAD_H
#include "lib/model/model.h"

enum { VP_AHEAD = 2 };
typedef struct vp_ahead vp_ahead;
/* What is to be done with the caller's frame of that place, 0 or 1, on one of the threads; the encoder is the one given
 * to vp_ahead_open with a queue of its own. */
typedef int vp_ahead_fn(void *ctx, int place, vp_encoder *e, vp_error *err);
/* Prepares the encoder, which is borrowed and not to be used otherwise until vp_ahead_close. *a is NULL where there is
 * nothing to gain, on the CPU, or no memory for two micro-batches. */
int vp_ahead_open(vp_ahead **a, vp_encoder *e, vp_ahead_fn *fn, void *ctx, vp_error *err);
/* The place of the next frame; -1: both are on their way, or done and not taken. */
int vp_ahead_place(vp_ahead *a);
void vp_ahead_give(vp_ahead *a); /* begin with that place */
bool vp_ahead_idle(vp_ahead *a); /* nothing was given that was not taken */
/* The place that was given longest ago, if it is done or `wait`; -1: none. *status and err are those of its function.
 */
int vp_ahead_take(vp_ahead *a, bool wait, int *status, vp_error *err);
/* Waits for what is on its way; vp_encoder_work then counts all of it. NULL is fine. */
void vp_ahead_close(vp_ahead *a);

#endif
