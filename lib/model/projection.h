/* A linear projection of pooled vectors, y = W u + b, [D', C] and [D']: GRIT's embedding head (arXiv 2402.09906,
 * gritlm's `projection`, which projects every token before the mean: the same, as a pooling's weights sum to 1). In
 * folders it is a Dense module of sentence-transformers without an activation; what it computes, pool_projection.c. */
#ifndef VP_MODEL_PROJECTION_H
#define VP_MODEL_PROJECTION_H
#include "lib/file/source.h"
#include "lib/model/model.h"
#include "lib/model/params.h"

#define VP_PROJECTION_FOLDER "2_Dense"

/* Numbers in all: W by rows, then b. */
static inline int64_t vp_projection_count(int64_t dims, int64_t width) {
    return dims * (width + 1);
}
/* Where training begins: W and b uniform in +-1/sqrt(C), by counters, so that a seed has one start. value [count]. */
void vp_projection_start(int64_t dims, int64_t width, uint64_t seed, float *value);

typedef struct vp_projection_file {
    int64_t dims;
    vp_source *source;
    char fingerprint[33];
} vp_projection_file;
/* Whether the folder, of a model or of an adapter, has one. */
bool vp_projection_exists(const char *folder);
/* The tensors are there and of their shapes for the model's width, the bias perhaps left out, or VP_DATA names what is
 * wrong; so does an activation. Close also after a failure. */
int vp_projection_open(vp_projection_file *f, const char *folder, int64_t width, vp_error *err);
int vp_projection_read(const vp_projection_file *f, int64_t width, float *value, vp_error *err);
void vp_projection_close(vp_projection_file *f);
/* FOLDER/2_Dense: config.json and model.safetensors, each under a temporary name first. */
int vp_projection_write(const char *folder, int64_t dims, int64_t width, const float *value, vp_dtype dtype,
                        vp_error *err);

#endif
