/* What the program `loss` puts into frames: losses and gradients in the place of what they are of. `step` comes to the
 * same numbers by lib/train/gradient.c, through the same functions of objective.h. */
#ifndef VP_TRAIN_LOSSES_H
#define VP_TRAIN_LOSSES_H
#include "lib/train/objective.h"

typedef struct vp_loss_counts {
    int64_t targets, right; /* marked tokens, and how many of them are the likeliest ones; added to */
} vp_loss_counts;
/* A frame with `picked` [M, C] and targets gets loss [B] and grad.picked [M, C]. VP_DATA, naming the frame: columns
 * that are missing or do not fit, a loss that is not finite. */
int vp_loss_frame(const vp_objective *o, vp_head *head, vp_frame *f, vp_loss_counts *counts, vp_error *err);
/* The same frame gets reference [B], the log-probability of each row's targets, and no gradient. */
int vp_reference_frame(const vp_objective *o, vp_head *head, vp_frame *f, vp_error *err);
/* A whole step: rows' `emb` [B, D] become grad.emb [B, D], generative rows' `picked` of the joint form grad.picked;
 * those of answers grad.picked and grad.logprob [B]. *sum: the step's loss. head: NULL for objectives of rows. */
int vp_loss_step(const vp_objective *o, vp_head *head, vp_step *s, vp_loss_counts *counts, double *sum, vp_error *err);

#endif
