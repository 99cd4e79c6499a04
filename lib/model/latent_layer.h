/* What the latent-attention layer computes, on a device. Private to lib/model.
 *
 * h [n, C] hidden states, A [r, C] latents, H heads of width d, F inner width; LN: layer norms, eps 1e-5. Published
 * form: K | V = LN(A) W_kv^T                                        [r, H d] each x = h + concat_k softmax((LN(h)
 * W_q^T)_k K_k^T / sqrt(d)) V_k  W_out^T y = x + (a * gelu(g)) W_down^T + b_down,   a | g = LN(x) W_up^T + b_up The
 * paper's (equations 2 to 4): x = concat_k softmax(h_k A_k^T) A_k, y = gelu(x W_up^T + b_up) W_down^T + b_down. */
#ifndef VP_MODEL_LATENT_LAYER_H
#define VP_MODEL_LATENT_LAYER_H
#include "lib/model/latent.h"
#include "lib/model/training.h"

typedef struct vp_latent_layer vp_latent_layer;
typedef struct vp_latent_layer_options {
    vp_latent_sizes sizes; /* complete */
    int64_t width;         /* C */
    vp_compute on;         /* its products are f32, whatever the type */
    const float *value;    /* [count], borrowed, on the host */
    const float *value_on; /* the same on the device, kept equal by the caller; NULL: the layer keeps a copy there */
    float *grad;           /* [count] on the device that the backward adds to, borrowed; NULL: forward passes only */
    /* For inference: W_q^T K and V W_out once, so that a head costs r products of width C instead of d and twice r of
     * width d. The same numbers but for rounding. */
    bool fold;
} vp_latent_layer_options;
int vp_latent_layer_open(vp_latent_layer **l, const vp_latent_layer_options *o, vp_error *err);
void vp_latent_layer_close(vp_latent_layer *l); /* NULL is fine */
/* To be called after the numbers changed. */
int vp_latent_layer_changed(vp_latent_layer *l, vp_error *err);
/* y [n, C] of h [n, C], both on the device, a block of rows at a time; a row's result depends on nothing but the row.
 */
int vp_latent_layer_run(vp_latent_layer *l, const float *h, int64_t n, float *y, vp_error *err);

/* Forward and back through the n rows of one gradient unit: y as above, then, when the caller has made dy [n, C] from
 * it, dh [n, C] written over and the gradient of the numbers added to, all on the device. What lies between them is on
 * the queue's arena. */
typedef struct vp_latent_saved {
    vp_mat h, u, q, p, o, x, v, up, mid, y;
} vp_latent_saved;
int vp_latent_layer_forward(vp_latent_layer *l, const float *h, int64_t n, vp_latent_saved *s, vp_error *err);
int vp_latent_layer_backward(vp_latent_layer *l, const vp_latent_saved *s, const float *dy, float *dh, vp_error *err);
/* When a step's units are done: the gradient of keys and values, which all of them share, goes on to the latents. */
int vp_latent_layer_finish(vp_latent_layer *l, vp_error *err);

/* ---- for latent_layer.c and latent_bwd.c ---- */
struct vp_latent_layer {
    vp_latent_layer_options o;
    vp_latent_layout at;
    int64_t inputs;                        /* H d */
    vp_queue *memory;                      /* its arena holds what follows, as long as the layer is open */
    const float *value;                    /* [count] on the device */
    vp_weight *q, *kv, *out, *up, *down;   /* folded: q is W_q^T K / sqrt(d) [H r, C], out (V W_out)^T [C, H r] */
    float *context, *keys, *values, *kept; /* LN(A) [r, C]; [r, H d] each, in `kept`, or the latents */
    int64_t ld;                            /* from one key to the next */
    float *dkeys, *dvalues;                /* [r, H d]: of the step so far */
};
/* dkeys and dvalues to zero. */
int vp_latent_clear(vp_latent_layer *l, vp_error *err);
int vp_latent_check(const vp_latent_layer *l, int status, vp_error *err);
/* [rows, cols] f32 on the queue's arena. */
int vp_latent_scratch(vp_latent_layer *l, int64_t rows, int64_t cols, vp_mat *m, vp_error *err);
vp_mat vp_latent_matrix(const float *data, int64_t rows, int64_t cols);
vp_norm_op vp_latent_norm_op(const vp_latent_layer *l, vp_latent_role role, const vp_mat *x, const vp_mat *out);
/* scores = alpha q K^T and mixed = p V, a head at a time; p is [n, H r]. */
vp_bmm_op vp_latent_scores_op(const vp_latent_layer *l, const vp_mat *q, const vp_mat *p);
vp_bmm_op vp_latent_mix_op(const vp_latent_layer *l, const vp_mat *p, const vp_mat *o);
/* p's rows by head: [n H, r]. */
vp_mat vp_latent_by_head(const vp_latent_layer *l, const vp_mat *p);

#endif
