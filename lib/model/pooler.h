/* Private to lib/model: a pooler, for pool.c and pool_bwd.c. */
#ifndef VP_MODEL_POOLER_H
#define VP_MODEL_POOLER_H
#include "kernels/ops.h"
#include "lib/model/latent_layer.h"
#include "lib/model/model.h"

typedef struct vp_pooling {
    const char *name;
    enum { VP_MAKES_ROWS, VP_MAKES_WORDS, VP_MAKES_MARKED } makes; /* one vector a row, a word, a marked token */
    vp_pool_kind op;
    bool latent; /* of what the latent layer makes of the states */
} vp_pooling;

/* pool_latent.c: the layer behind "latent", and whose numbers it has. */
typedef struct vp_pool_latent {
    vp_latent_sizes sizes;
    int64_t width;
    float *own;            /* [count] from a file; NULL: they are another's */
    const float *value;    /* NULL: none has come */
    const float *value_on; /* those of an encoder's training on its device, and their gradient */
    float *grad;
    const vp_encoder *encoder; /* whose numbers, or device, it uses */
    int64_t seen;              /* of the encoder's changes */
    bool stale;                /* the layer's weights are not those of `value` */
    vp_latent_layer *layer;
    char fingerprint[33]; /* "": it is being trained */
} vp_pool_latent;

/* pool_projection.c: what follows the pooling of rows, and whose numbers it has. */
typedef struct vp_pool_projection {
    int64_t dims, width; /* D, C; dims 0: none */
    float *own;          /* W [D, C] and b [D] from a file; NULL: they are another's */
    const float *value;  /* NULL: none has come */
    float *grad;
    bool unexpected;      /* one of other dimensions has come */
    char fingerprint[33]; /* "": it is being trained */
} vp_pool_projection;

struct vp_pooler {
    const vp_pooling *kind;
    bool normalize, shift;
    int64_t dims;   /* 0: all */
    vp_compute own; /* the device that is its own: the CPU's, or the latent layer's where no encoder has it */
    vp_pool_latent latent;
    vp_pool_projection projection;
    float *out;     /* of the last frame */
    int64_t *rows;  /* of its words */
    int64_t before; /* rows of the frames before it */
};

/* vp_pooler_run of states x [T, width] that lie in the memory of `on` (BF16 or F32). */
int vp_pooler_run_on(vp_pooler *p, const vp_compute *on, vp_frame *f, const vp_mat *x, int64_t *empty, vp_error *err);
/* Positions to pick: target other than -1, or keep = 1 (its default) where there is no target. Caller frees. */
int vp_pooler_marked(const vp_frame *f, int64_t T, const uint8_t *keep, int32_t **index, int64_t *m, vp_error *err);

/* The layer that the header's map names, loaded. VP_USAGE: it names none. */
int vp_pool_latent_load(vp_pool_latent *l, const vp_map *model, vp_error *err);
/* The layer as its numbers are now, for states of this width. */
int vp_pool_latent_layer(vp_pooler *p, int64_t width, vp_latent_layer **layer, vp_error *err);
void vp_pool_latent_close(vp_pool_latent *l);

/* That of the options, or loaded from the folder that the header's map names. VP_USAGE: not with this kind. */
int vp_pool_projection_set(vp_pooler *p, const vp_pool_options *o, const vp_map *model, vp_error *err);
void vp_pool_projection_close(vp_pool_projection *l);
/* *y [B, D] of pooled u [B, C], the caller's; NULL: there is no projection. */
int vp_pool_project(vp_pooler *p, const vp_mat *u, float **y, vp_error *err);
/* du [B, C] of dy [B, D], which is set to 0 where there was nothing to pool; the projection's own gradient is added,
 * one gradient unit after the other (unit [B]; NULL: each row is one). */
int vp_pool_project_bwd(vp_pooler *p, const vp_mat *u, const int32_t *unit, float *dy, float *du, vp_error *err);

#endif
