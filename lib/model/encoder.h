/* Private to lib/model: the encoder's parts. prepare.c makes the weights ready, batch.c turns a frame into
 * micro-batches, forward.c runs one, encoder.c is the public side. */
#ifndef VP_MODEL_ENCODER_H
#define VP_MODEL_ENCODER_H
#include "kernels/ops.h"
#include "lib/model/private.h"

/* A linear with the adapters on its input: out = x W^T + bias, then every part in order. */
typedef struct vp_linear {
    vp_weight *weight;
    int64_t in, out;
    vp_lora_part *lora;
    int32_t nlora;
} vp_linear;

typedef struct vp_norm_weight {
    const float *weight, *bias; /* resident on the device; bias may be NULL */
} vp_norm_weight;

typedef struct vp_layer {
    vp_linear qkv;                                      /* [(H + 2 G) d, C]: q, k and v of one input are one product */
    vp_linear out;                                      /* [C, H d] */
    vp_linear up;                                       /* [2 F, C] gate and up when gated, else [F, C] */
    vp_linear down;                                     /* [C, F] */
    vp_norm_weight attn_norm, mlp_norm, q_norm, k_norm; /* mlp_norm: none when attention and MLP are parallel */
} vp_layer;

struct vp_encoder {
    vp_model *model;
    const vp_backend *ops;
    vp_device *device;
    vp_queue *queue;
    char attention[12];
    vp_attention mode;
    bool segments;
    int64_t batch_tokens;
    /* filled by vp_encoder_prepare; `resident` memory lies at the bottom of the queue's arena */
    bool prepared;
    vp_layer *layer;
    vp_norm_weight embed_norm, final_norm;
    const float *positions, *types; /* [P, C], [C]; NULL: none */
    float *inverse;                 /* [rotary/2] on the host */
    const float *cosines, *sines;   /* [rope_positions, rotary/2] */
    int64_t rope_positions;
};

/* A frame's sequences on the host, checked against the model. */
typedef struct vp_sequences {
    int64_t B, T;
    int32_t *ids, *cu, *pos, *prefix; /* [T], [B+1], [T], [B]; prefix may be NULL */
    uint8_t *seg;                     /* [T] or NULL */
    int32_t top;                      /* largest position */
} vp_sequences;

/* The status of a backend call as this library's error. */
int vp_encoder_check(const vp_encoder *e, int status, vp_error *err);
/* n bytes of `host` on the device: in the queue's arena, until the caller's mark is released. */
int vp_encoder_upload(vp_encoder *e, const void *host, size_t bytes, const void **out, vp_error *err);

/* prepare.c: pack every weight, once. */
int vp_encoder_prepare(vp_encoder *e, vp_error *err);
void vp_encoder_release(vp_encoder *e);
/* RoPE tables for positions 0..top at least; called between passes. */
int vp_encoder_rope(vp_encoder *e, int32_t top, vp_error *err);

/* batch.c */
int vp_sequences_read(vp_sequences *s, const vp_encoder *e, const vp_frame *f, vp_error *err);
/* The number of row b for messages: its `row`, else b. */
int64_t vp_frame_ordinal(const vp_frame *f, int64_t b);
void vp_sequences_free(vp_sequences *s);
/* The end of the micro-batch of whole sequences that begins at b: at least one, up to `tokens` tokens. */
int64_t vp_sequences_cut(const vp_sequences *s, int64_t b, int64_t tokens);
/* Sequences [b0, b1) as a batch on the device, with ids [T]. */
int vp_batch_build(vp_encoder *e, const vp_sequences *s, int64_t b0, int64_t b1, vp_batch *batch, const int32_t **ids,
                   vp_error *err);

/* forward.c: hidden [T, C] f32 of one micro-batch into host memory. */
int vp_forward(vp_encoder *e, const vp_batch *batch, const int32_t *ids, float *hidden, vp_error *err);

#endif
