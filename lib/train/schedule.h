/* The learning rate of a step: a pure function, so that a resumed run has the same. */
#ifndef VP_TRAIN_SCHEDULE_H
#define VP_TRAIN_SCHEDULE_H
#include "lib/base/base.h"

#define VP_SCHEDULES "constant|linear|cosine"

typedef enum vp_decay { VP_DECAY_CONSTANT, VP_DECAY_LINEAR, VP_DECAY_COSINE } vp_decay;

/* f(s) = s / warm for s < warm; then with N = decay_steps, and u = (s - warm) / (N - warm) up to 1,
 * constant: 1; linear: 1 - u; cosine: (1 + cos(pi u)) / 2. N may lie beyond the steps that are done. */
typedef struct vp_schedule {
    vp_decay decay;
    double lr;            /* the highest */
    int64_t warmup_steps; /* warm */
    int64_t decay_steps;  /* N, planned: at least 1 but for constant */
} vp_schedule;

/* `decay` one of VP_SCHEDULES. `warmup`: below 1 a share of decay_steps, rounded up, else a number of steps.
 * decay_steps 0: the length is not known, which constant with a number of steps allows. VP_USAGE says what does not
 * fit. */
int vp_schedule_set(vp_schedule *s, const char *decay, double lr, double warmup, int64_t decay_steps, vp_error *err);
double vp_schedule_lr(const vp_schedule *s, int64_t step); /* steps count from 0 */

#endif
