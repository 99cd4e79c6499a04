/* A model's output head, ready for a backend: hidden states to the cross-entropy of the tokens that they must predict.
 * A tied head is the embedding. Legend: M rows, C width, V vocabulary. */
#ifndef VP_MODEL_HEAD_H
#define VP_MODEL_HEAD_H
#include "lib/model/model.h"

struct vp_compute;
struct vp_xent_op;
struct vp_bag_op;
struct vp_mat;

typedef struct vp_head vp_head;
/* Packs the head for products in both directions, which takes twice its size in memory; on an encoder that generates,
 * row by row in its type. VP_DATA: the model has no
 * output head. The first on a device of its own, of which `o` tells device, threads and compute type (VP_USAGE as for
 * vp_encoder_open); the second on an encoder's, where a tied head is its table if that lies there in the same type:
 * then it may be used once the encoder is prepared. Model and encoder stay open as long as the head
 * (borrowed). Close with vp_head_close (NULL is fine). */
int vp_head_open(vp_head **h, const vp_model *m, const vp_encode_options *o, vp_error *err);
int vp_head_open_on(vp_head **h, const vp_model *m, const vp_encoder *e, vp_error *err);
/* As the second, of one token's row alone: V is 1, and its logit has the bits that the whole head gives. VP_BUG: the
 * encoder does not generate. VP_DATA: no such token. */
int vp_head_open_token(vp_head **h, const vp_model *m, const struct vp_compute *on, int32_t id, vp_error *err);
void vp_head_close(vp_head *h);
/* From now on the head's weights are rows [V, C], copied; its bias stays. */
int vp_head_set(vp_head *h, const float *rows, vp_error *err);
/* From now on rows of a tied head's last n tokens are these, [n, C], copied. */
int vp_head_set_tokens(vp_head *h, const float *rows, int64_t n, vp_error *err);
bool vp_head_is_tied(const vp_head *h); /* its rows are the embedding's */
struct vp_compute vp_head_compute(const vp_head *h);
int64_t vp_head_width(const vp_head *h); /* C */
int64_t vp_head_vocab(const vp_head *h); /* V */
/* logits [M, V] = x [M, C] W^T + bias, both in the device's memory. */
int vp_head_logits(vp_head *h, const struct vp_mat *x, const struct vp_mat *logits, vp_error *err);
/* The backend's operations with this head as op->head; what op takes and gives is the host's memory, but for dw, which
 * is the device's. One thread at a time. */
int vp_head_xent(vp_head *h, struct vp_xent_op *op, vp_error *err);
int vp_head_bag(vp_head *h, struct vp_bag_op *op, vp_error *err);
/* The same on another queue of the head's device, one that plans (kernels/plan.h). */
int vp_head_xent_on(const vp_head *h, const struct vp_compute *on, const struct vp_xent_op *op, vp_error *err);
int vp_head_bag_on(const vp_head *h, const struct vp_compute *on, const struct vp_bag_op *op, vp_error *err);

#endif
