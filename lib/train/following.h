/* The forward passes of a run that trains elsewhere, `fwd --follow`, and its output head. The run's folder says what is
 * applied and trained, and gives the weights of every step. */
#ifndef VP_TRAIN_FOLLOWING_H
#define VP_TRAIN_FOLLOWING_H
#include "lib/model/head.h"
#include "lib/model/training.h"

typedef struct vp_following vp_following;
/* Waits until a run is alive in `folder`, then opens an encoder as it says, for the model, which gets the run's
 * adapters and is borrowed. `o` tells device, threads, attention and compute type ("f32", "tf32" or "bf16"); `dropout`
 * {attention, hidden} what the header told the run. `output`: what the caller writes to; nobody waits when nobody reads
 * it (broken_pipe). VP_DATA: the run is of another model, attention, compute type or dropout. */
typedef struct vp_follow_options {
    const char *folder;
    vp_encode_options encode;
    double attention_dropout, hidden_dropout;
    int output;
} vp_follow_options;
int vp_following_open(vp_following **f, vp_model *m, const vp_follow_options *o, vp_error *err);
/* The encoder with the weights that the batch's key `step` wants, waiting for them. VP_UPSTREAM: the run died. */
int vp_following_encoder(vp_following *f, const vp_frame *batch, vp_encoder **encoder, vp_error *err);
void vp_following_close(vp_following *f);

/* The latent layer of a run, or its projection to `project` dimensions (0: the layer), for a pooler in a process of its
 * own: `pool --follow`. Waits as above; the model is the one that the header names. VP_DATA: the run is of another
 * model; VP_USAGE: it trains no such thing. */
typedef struct vp_pooling_following vp_pooling_following;
int vp_pooling_following_open(vp_pooling_following **f, const char *folder, int64_t project, const vp_map *header,
                              int output, vp_error *err);
/* The pooler gets the numbers that the batch's key `step` wants, borrowed until it is closed. */
int vp_pooling_following_give(vp_pooling_following *f, const vp_frame *batch, vp_pooler *p, vp_error *err);
void vp_pooling_following_close(vp_pooling_following *f); /* NULL is fine */

/* The output head of a run that may train it: `loss --follow`, opened as vp_head_open does, of the model, which gets
 * the run's adapters and is borrowed. Waits as above; VP_DATA: the run is of another model. */
typedef struct vp_head_following vp_head_following;
int vp_head_following_open(vp_head_following **f, vp_model *m, const char *folder, const vp_encode_options *o,
                           int output, vp_error *err);
/* The head with the weights that the batch's key `step` wants. */
int vp_head_following_head(vp_head_following *f, const vp_frame *batch, vp_head **head, vp_error *err);
void vp_head_following_close(vp_head_following *f);

#endif
