/* The latent-attention layer that NV-Embed (arXiv 2405.17428) puts between hidden states and their mean: its sizes, its
 * tensors, and where they lie in files. What it computes is lib/model/latent_layer.h's business. */
#ifndef VP_MODEL_LATENT_H
#define VP_MODEL_LATENT_H
#include "lib/file/source.h"
#include "lib/model/params.h"

/* Zeros: as the model's width has it. `plain` is the paper's form, keys and values being the latents themselves; else
 * that of the published weights, with projections, norms, residuals and a gated feed-forward. */
typedef struct vp_latent_sizes {
    int64_t latents, heads, head_width, inner; /* r, H, d, F; of all but the options of a run, latents 0: no layer */
    bool plain;
    bool gated; /* the other form was asked for; of the options of a run alone */
} vp_latent_sizes;
#define VP_LATENT_SPEC "latents=N,heads=N,width=N,inner=N,form=gated|plain"
/* Any of VP_LATENT_SPEC, each once. VP_USAGE: something else. */
int vp_latent_parse(const char *text, vp_latent_sizes *s, vp_error *err);
/* Fills zeros for the width C: 512 latents; 8 heads, of the plain form as many as divide C; a head width of C, of the
 * plain form C / H, which it must be; F = 4 C. VP_USAGE: sizes that cannot be. */
int vp_latent_complete(vp_latent_sizes *s, int64_t width, vp_error *err);

/* Its tensors, in the order in which they lie in a flat space, and where each begins. */
typedef enum vp_latent_role {
    VP_LATENTS,        /* [r, C] */
    VP_LATENT_NORM,    /* of the hidden states: weight and bias [C] */
    VP_LATENT_CONTEXT, /* of the latents */
    VP_LATENT_Q,       /* [H d, C] */
    VP_LATENT_KV,      /* [2 H d, C]: keys' rows, then values' */
    VP_LATENT_OUT,     /* [C, H d] */
    VP_LATENT_NORM_2,  /* of the feed-forward's input */
    VP_LATENT_UP,      /* [2 F, C], values' rows, then gates'; plain: [F, C]; bias */
    VP_LATENT_DOWN,    /* [C, F]; bias */
    VP_LATENT_ROLES
} vp_latent_role;
typedef struct vp_latent_layout {
    int64_t weight[VP_LATENT_ROLES], bias[VP_LATENT_ROLES]; /* offsets; -1: this form has none */
    int64_t count;                                          /* numbers in all */
} vp_latent_layout;
vp_latent_layout vp_latent_layout_of(const vp_latent_sizes *s, int64_t width);
/* Tensor i of complete sizes, in that order: its name in a checkpoint, shape and offset. False: there are no more. */
typedef struct vp_latent_tensor {
    char name[100];
    int64_t rows, cols, first; /* a vector is 1 row */
    bool vector;
} vp_latent_tensor;
bool vp_latent_tensor_at(const vp_latent_sizes *s, int64_t width, size_t i, vp_latent_tensor *t);
/* Where training begins: latents N(0, 1), linears and their biases uniform in +-1/sqrt(inputs), norms 1 and 0; by
 * counters, so that a seed has one start. value [count]. */
void vp_latent_start(const vp_latent_sizes *s, int64_t width, uint64_t seed, float *value);

/* ---- in a folder ---- */
#define VP_LATENT_CONFIG  "nv_embed_config.json"
#define VP_LATENT_WEIGHTS "latent_attention_model.safetensors"
/* The layer of a published folder (config.json with `latent_attention_config`, its tensors among the model's), or of a
 * result of ours (VP_LATENT_CONFIG and VP_LATENT_WEIGHTS). */
typedef struct vp_latent_file {
    vp_latent_sizes sizes;
    vp_source *source;
    char fingerprint[33];
} vp_latent_file;
/* Whether the folder has such a layer. */
bool vp_latent_file_exists(const char *folder);
/* Every tensor is there and of its shape for the model's width, or VP_DATA names it. Close also after a failure. */
int vp_latent_file_open(vp_latent_file *f, const char *folder, int64_t width, vp_error *err);
int vp_latent_file_read(const vp_latent_file *f, int64_t width, float *value, vp_error *err);
void vp_latent_file_close(vp_latent_file *f);
/* VP_LATENT_WEIGHTS into the folder, under its temporary name first. VP_DATA: a number that is not finite. */
int vp_latent_file_write(const char *folder, const vp_latent_sizes *s, int64_t width, const float *value,
                         vp_dtype dtype, vp_error *err);

#endif
