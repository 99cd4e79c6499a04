/* A step of training: from the frames of a step, with or without gradients, to changed weights. Gradients that came in
 * the stream (grad.emb, grad.picked) are those of what `fwd | pool` sent; where there are none, the same pooling and
 * objective run here, on the same values, so that both ways end in the same bytes. */
#ifndef VP_TRAIN_TRAINER_H
#define VP_TRAIN_TRAINER_H
#include "lib/model/training.h"
#include "lib/train/objective.h"
#include "lib/train/schedule.h"
#include "lib/train/steps.h"

#define VP_OPTIMIZERS "adamw|sgd|rmsprop"
typedef enum vp_optimizer { VP_ADAMW, VP_SGD, VP_RMSPROP } vp_optimizer;

typedef struct vp_trainer_options {
    vp_optimizer optimizer;
    double beta1, beta2, eps, decay; /* beta1 is SGD's momentum */
    double clip;                     /* largest length of the gradient; 0: any */
    int64_t accumulate;              /* steps whose gradients' mean makes one update, >= 1 */
    int64_t batch_tokens;            /* tokens of a micro-batch: whole units, at least one; 0: vp_encoder_fit's */
    int64_t activations;             /* bytes of tapes at a time, at least a unit's; the others: computed twice */
} vp_trainer_options;
#define VP_TRAINER_DEFAULTS                                                                                            \
    { .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .clip = 1, .accumulate = 1, .activations = (int64_t)2 << 30 }

/* What computes; all borrowed. Without objective, gradients must come; head: of objectives of tokens, and where it is
 * trained: its gradient is that of the cross-entropy of `target`, also when the gradient of what is below it came. */
typedef struct vp_trainer_parts {
    vp_encoder *encoder; /* opened with vp_encode_options.train and `backward`, and warm */
    vp_pooler *pooler;
    const vp_objective *objective;
    vp_head *head;
    double balance; /* factor of the balancing loss of experts' routers, beside a loss of next tokens; 0: none */
} vp_trainer_parts;

typedef struct vp_trainer vp_trainer;
int vp_trainer_open(vp_trainer **t, const vp_trainer_options *o, const vp_trainer_parts *parts, vp_error *err);
void vp_trainer_close(vp_trainer *t);
void vp_trainer_plan(vp_trainer *t, const vp_schedule *schedule); /* before the first step */

typedef struct vp_trained { /* what a step did */
    double loss;            /* the sum of its rows' shares, */
    double generative;      /* of those of generative rows (role 3) */
    double norm, lr;        /* norm: of the gradient, before clipping; 0 if it was not an update's turn */
    int64_t rows, tokens;
    bool updated;
} vp_trained;
/* The gradient of a step, and the update. VP_DATA naming step and row: a loss or gradient that is not finite; nothing
 * was changed then. */
int vp_trainer_step(vp_trainer *t, const vp_step *s, vp_trained *done, vp_error *err);

/* What a checkpoint holds besides the numbers themselves. The moments are NULL where the optimiser has none. */
typedef struct vp_trainer_state {
    float *m, *v;    /* [vp_params.count], the trainer's own: a checkpoint may be read into them */
    int64_t updates; /* done so far */
    int64_t waiting; /* the last steps, which no update has used yet: their gradients are not held */
} vp_trainer_state;
vp_trainer_state vp_trainer_state_of(const vp_trainer *t);
/* To be called after the numbers were read from a checkpoint, too. */
int vp_trainer_resume(vp_trainer *t, int64_t updates, vp_error *err);

#endif
