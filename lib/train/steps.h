/* Whole training steps out of a stream: for programs that need every row of a step before the first can be worked on
 * (mask, loss, step). Memory: one step. */
#ifndef VP_TRAIN_STEPS_H
#define VP_TRAIN_STEPS_H
#include "lib/base/base.h"
#include "lib/stream/stream.h"

/* Column `target`: token ids; -1: none; this and below: a slot of bag 0, 1 of the row's column `bag`. */
enum { VP_TARGET_SLOT = -2, VP_BAGS = 2 };

typedef struct vp_step_row {
    int64_t row;     /* column `row`: unique in the step, 0 .. 2^32 - 1 */
    vp_frame_row at; /* row at.b of frame[at.frame] */
} vp_step_row;

typedef struct vp_step {
    int64_t step;
    int64_t B, T;             /* rows and tokens in all; B is the frames' key `rows` */
    int64_t generative;       /* of B: rows of text to be generated (role 3), */
    size_t generative_frames; /* which are those of the first frames */
    int64_t total;            /* steps in all, as the frames say; 0: not known */
    double weight_sum;        /* the frames' key; 0 where they have none */
    bool weighted;            /* they have it */
    vp_frame **frame;         /* [frames] in the order of the stream; columns may be put and dropped */
    size_t frames;            /* >= 1 */
    int32_t units;            /* 0: no column `unit` */
    vp_step_row *order;       /* [B] in ascending order of `row`, the generative ones last */
} vp_step;

typedef struct vp_steps vp_steps;
/* The reader is borrowed, and its header has been read. */
int vp_steps_open(vp_steps **s, vp_reader *r, vp_error *err);
/* The next step: copies, valid until the next call; *step = NULL at the end of the stream, of which vp_steps_end is the
 * end record then (valid until the reader is closed). Blocks until the step's last frame has come.
 * VP_DATA, naming the frame: no key `step` (tok --batch makes them) or one above 2^32 - 1; a step that is not greater
 * than the one before; a step that
 * is cut short by another or by the end record; `rows` absent, not the number of rows, or not the same in every frame;
 * `weight_sum` not the same, negative, or not in every frame; `row` absent, out of range, or twice; `unit` that does
 * not count from 0 through the step or goes on in the next frame, or is in some frames only; rows of role 3 beside
 * others in a frame, or after others in the step: their gradients are the first ones that are added.
 * VP_UPSTREAM: the input breaks off inside a step. */
int vp_steps_next(vp_steps *s, vp_step **step, vp_error *err);
vp_frame *vp_steps_end(const vp_steps *s); /* NULL before the end */
void vp_steps_close(vp_steps *s);

#endif
