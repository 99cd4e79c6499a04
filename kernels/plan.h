/* Plans of a computation: a backend that takes no memory and computes nothing, but counts. It stands before another
 * one, whose operations run on a queue that plans (vp_backend.queue_plan): what they take of its arena is what they
 * would take, piece by piece and for as long, down to the scratch memory inside an operation. */
#ifndef VP_KERNELS_PLAN_H
#define VP_KERNELS_PLAN_H
#include "kernels/ops.h"

typedef struct vp_planner vp_planner;
/* For computations on this device of the backend, whose weights they use. Close with vp_planner_close (NULL is fine).
 */
int vp_planner_open(vp_planner **p, const vp_backend *backend, vp_device *device, vp_error *err);
void vp_planner_close(vp_planner *p);
/* What takes the place of the backend's table and of the queue. Slots that the backend lacks are NULL here, too. Of the
 * table's other slots there are those of a queue. */
const vp_backend *vp_planner_table(const vp_planner *p);
vp_queue *vp_planner_queue(vp_planner *p);
/* Of all that ran: the most bytes of the arena at a time; and floating-point operations of products and attention, two
 * a multiply-add, as if every query saw all keys of the longest sequence. */
size_t vp_planner_bytes(const vp_planner *p);
double vp_planner_flops(const vp_planner *p);

#endif
