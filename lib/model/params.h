/* The trained numbers of a run as one flat space, in table order: what the optimiser walks, checkpoints hold and `live`
 * carries. */
#ifndef VP_MODEL_PARAMS_H
#define VP_MODEL_PARAMS_H
#include "lib/base/base.h"

typedef struct vp_param {
    const char *name;   /* of the tensor in a file: PEFT's key for adapters, Hugging Face's for weights */
    int64_t rows, cols; /* a vector is 1 row */
    int64_t first;      /* offset of its numbers in the space */
} vp_param;

typedef struct vp_params {
    const vp_param *param;
    size_t n;
    int64_t count; /* numbers in all */
    float *value;  /* [count] */
} vp_params;

#endif
