/* A training run in its folder: the model and what is trained, `live` for `fwd --follow`, checkpoints, the result. Used
 * by the program `step`, one call a step. */
#ifndef VP_TRAIN_RUN_H
#define VP_TRAIN_RUN_H
#include "lib/train/trainer.h"

typedef struct vp_run_options {
    const char *folder;          /* made if it is not there */
    bool resume;                 /* go on from its checkpoint, if there is one */
    const char *model;           /* NULL: the stream's, else $VP_MODEL */
    const char *const *adapters; /* applied in order, not trained */
    size_t nadapters;
    vp_encode_options encode; /* `train` is set by vp_run_open; attention and compute NULL: the stream's */
    vp_train_options train;   /* dropout of attention and hidden states below 0: the stream's, else none */
    vp_dtype dtype;        /* of the result; VP_NDTYPES: an adapter in f32, a model trained whole as the base has it */
    const char *objective; /* NULL: gradients come in the stream */
    vp_objective_options objective_options;
    vp_pool_options pool;       /* kind NULL: the stream's, else as objective and model have it */
    vp_latent_sizes latent;     /* of the layer that is trained where pooling is "latent" (vp_train_options.latent) */
    vp_trainer_options trainer; /* but for its schedule */
    const char *schedule;       /* one of VP_SCHEDULES */
    double lr, warmup;
    int64_t decay_steps;      /* 0: the stream's number of steps */
    int64_t checkpoint_every; /* steps; 0: at the end only */
} vp_run_options;

typedef struct vp_run vp_run;
/* What `header` (the stream's) says counts where the options are silent; where both speak and differ it is VP_USAGE. So
 * is an output head that is trained where no loss of its tokens comes, or one whose `loss` did not follow the run.
 * The folder is locked: VP_LOCKED when another run is in it. VP_USAGE: a folder with a checkpoint, without `resume`; or
 * one whose checkpoint was made with other adapters, dropout, seed, attention, compute type or optimiser. */
int vp_run_open(vp_run **r, const vp_run_options *o, const vp_map *header, vp_error *err);
int64_t vp_run_vocab(const vp_run *r); /* of the model, for the reader's checks */
const vp_encoder *vp_run_encoder(const vp_run *r);
/* Train on a step, tell the followers, and write a checkpoint when it is time. VP_DATA: not the step whose turn it is.
 */
int vp_run_step(vp_run *r, const vp_step *s, vp_trained *done, vp_error *err);
/* After the stream's end: the last checkpoint and the result: an adapter's files, without the head that was trained
 * with it, or the folder of a model; with the latent layer or the projection that was trained beside it. VP_DATA: the
 * run has no step. */
int vp_run_finish(vp_run *r, vp_error *err);
void vp_run_close(vp_run *r);

/* The step that FOLDER's checkpoint goes on with; 0 when there is none. */
int vp_run_next_step(const char *folder, int64_t *step, vp_error *err);

#endif
