/* Private to lib/model: a pooler, for pool.c and pool_bwd.c. */
#ifndef VP_MODEL_POOLER_H
#define VP_MODEL_POOLER_H
#include "kernels/ops.h"
#include "lib/model/model.h"

typedef struct vp_pooling {
    const char *name;
    enum { VP_MAKES_ROWS, VP_MAKES_WORDS, VP_MAKES_MARKED } makes; /* one vector a row, a word, a marked token */
    vp_pool_kind op;
} vp_pooling;

struct vp_pooler {
    const vp_pooling *kind;
    bool normalize, shift;
    int64_t dims; /* 0: all */
    const vp_backend *ops;
    vp_device *device;
    vp_queue *queue;
    float *out;     /* of the last frame */
    int64_t *rows;  /* of its words */
    int64_t before; /* rows of the frames before it */
};

int vp_pooler_check(const vp_pooler *p, int status, vp_error *err);
/* Positions to pick: target other than -1, or keep = 1 (its default) where there is no target. Caller frees. */
int vp_pooler_marked(const vp_frame *f, int64_t T, const uint8_t *keep, int32_t **index, int64_t *m, vp_error *err);

#endif
