/* Private to lib/train/{trainer,gradient}.c: an open trainer, and the gradient of a step. */
#ifndef VP_TRAIN_TRAINER_PRIVATE_H
#define VP_TRAIN_TRAINER_PRIVATE_H
#include "lib/train/micro.h"
#include "lib/train/trainer.h"

struct vp_trainer {
    vp_trainer_options o;
    vp_trainer_parts p;
    vp_schedule schedule;
    const vp_params *params;
    float *grad, *m, *v;           /* on the host, where the optimiser runs */
    vp_compute host;               /* what it runs on: the encoder's device where that has no memory of its own */
    int64_t head;                  /* offset of the head's rows that are trained here; -1: none */
    int64_t head_first, head_rows; /* which these are */
    float *dhead; /* their gradient, on the encoder's device; of a tied head, which is the embedding, that of the step
                     alone */
    bool tied;
    int64_t width, updates, waiting; /* waiting: steps whose gradient no update has used */
};

/* between.c: memory of the loss of a micro-batch's tokens, as vp_between; ctx is the trainer. */
int vp_trainer_between(const void *ctx, const vp_compute *on, const vp_frame *f, int64_t tokens, vp_error *err);

/* Adds the step's gradient to the encoder's (and t->dhead); all->loss gets every row's share. */
int vp_trainer_gradient(vp_trainer *t, const vp_step *s, vp_micros *all, vp_error *err);

#endif
