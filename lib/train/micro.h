/* Private to lib/train: a step as micro-batches, each a frame of whole gradient units that the model takes at once. */
#ifndef VP_TRAIN_MICRO_H
#define VP_TRAIN_MICRO_H
#include "lib/model/training.h"
#include "lib/train/steps.h"

typedef struct vp_micro {
    vp_frame *f; /* rows [b0, b0 + f->B) of the step's frame[frame] */
    size_t frame;
    int64_t b0;
    float *hidden;      /* [T, C] while it waits for its gradient, of vp_compute_host */
    vp_tape *tape;      /* NULL: nothing was kept */
    const float *given; /* gradient of its vectors, in the frame's; NULL: none came */
    int64_t vectors;    /* [vectors, D] */
} vp_micro;

typedef struct vp_micros {
    vp_micro *item;
    size_t n, generative; /* items [0, generative) are those of the step's generative frames */
    bool gradients;       /* every frame had them */
    float **given;        /* [frames] of size[frame] numbers */
    int64_t *size;
    float **loss; /* [frames] a row's share each: column `loss`, or to be filled in */
    size_t frames;
} vp_micros;

/* Takes the columns of gradients and loss out of the step's frames and cuts these. VP_DATA: gradients in some frames
 * only, of another shape than the pooler's vectors, or without column `loss`. */
int vp_micros_open(vp_micros *m, const vp_step *s, const vp_pooler *pooler, int64_t width, int64_t batch_tokens,
                   vp_error *err);
/* `on`: whose vp_compute_host hidden states are. */
void vp_micros_close(vp_micros *m, const vp_compute *on);

#endif
