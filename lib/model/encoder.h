/* Private to lib/model: the encoder's parts. prepare.c makes the weights ready, batch.c turns a frame into
 * micro-batches, forward.c runs one, backward.c returns; trained.c holds what is trained; encoder.c is the public side.
 */
#ifndef VP_MODEL_ENCODER_H
#define VP_MODEL_ENCODER_H
#include "lib/model/compute.h"
#include "lib/model/private.h"
#include "lib/model/training.h"

/* A linear with the adapters on its input: out = x W^T + bias, then every part in order. */
typedef struct vp_linear {
    vp_weight *weight;
    vp_dtype type; /* of its product */
    int64_t in, out;
    vp_lora_part *lora; /* of adapters that stay as they are */
    int32_t nlora;
    vp_lora_part *trained; /* of the one that is trained */
    int32_t ntrained;
    float *dw, *dbias; /* [out, in], [out] gradients when the weight itself is trained, else NULL */
    bool experts;      /* it is one of each: rows are the routing's, in and out an expert's */
    int64_t layer;
    vp_site site; /* of its input's dropout */
} vp_linear;

typedef struct vp_norm_weight {
    const float *weight, *bias; /* resident on the device; bias may be NULL */
    float *dweight, *dbias;     /* gradients when they are trained, else NULL */
} vp_norm_weight;

/* trained.c: what is trained, in one flat space. */
typedef struct vp_trained_pair { /* an adapted weight: A [rank, inputs], B [outputs, rank] */
    const vp_weight_entry *weight;
    int64_t a, b; /* offsets in the space */
} vp_trained_pair;
typedef struct vp_training {
    vp_train_options options; /* targets and start are copies */
    vp_params params;
    vp_param *param;           /* names are copies */
    float *grad;               /* [params.count], NULL without backward */
    float *value_on, *grad_on; /* the same on the device; where memory is not separate, params.value and grad */
    vp_trained_pair *pair;     /* an adapter's */
    size_t npairs;
    vp_between between;
    struct vp_trained_rows *rows; /* full: one a weight, what reads its rows */
    vp_latent_sizes latent;       /* that is trained */
    int64_t latent_at;            /* its offset; -1: none is trained */
    int64_t projection_at;        /* the same of a projection */
    int64_t head;                 /* offset of the output head; -1: it is not trained */
    int64_t tokens;               /* offset of the rows of single tokens; -1: none are */
} vp_training;
/* One more tensor at the end of the space, of `cap` places. */
int vp_training_add(vp_training *t, size_t *cap, const char *name, int64_t rows, int64_t cols, vp_error *err);
int vp_training_open(vp_encoder *e, const vp_train_options *o, vp_error *err);
void vp_training_close(vp_encoder *e);
/* The numbers as they are now, to the device. */
int vp_training_upload(vp_encoder *e, vp_error *err);
/* Offset of a trained weight (its bias: `bias`) in the space; -1: not trained. */
int64_t vp_training_find(const vp_training *t, const vp_weight_entry *w, bool bias);
/* The rows of a weight, or its bias [rows], as they are now: trained, or the file's (also when e is NULL). */
vp_weight_part vp_training_part(const vp_encoder *e, const vp_weight_entry *w);
int vp_training_bias(const vp_encoder *e, const vp_weight_entry *w, float *out, vp_error *err);

/* trained_latent.c: the latent layer's tensors behind the adapter's or the weights, and where they begin: with those of
 * o->start, else of the model, else anew. */
int vp_training_layout_latent(vp_encoder *e, vp_training *t, const vp_train_options *o, size_t *cap, vp_error *err);
int vp_training_start_latent(const vp_encoder *e, vp_training *t, const vp_train_options *o, vp_error *err);
/* trained_projection.c: the same of a projection. */
int vp_training_layout_projection(vp_encoder *e, vp_training *t, const vp_train_options *o, size_t *cap, vp_error *err);
int vp_training_start_projection(const vp_encoder *e, vp_training *t, const vp_train_options *o, vp_error *err);

typedef struct vp_layer {
    vp_linear qkv;                                      /* [(H + 2 G) d, C]: q, k and v of one input are one product */
    vp_linear out;                                      /* [C, H d] */
    vp_linear router;                                   /* [E, C], where the MLP is a mixture of experts */
    vp_linear up;                                       /* [2 F, C] gate and up when gated, else [F, C] */
    vp_linear down;                                     /* [C, F] */
    vp_norm_weight attn_norm, mlp_norm, q_norm, k_norm; /* mlp_norm: none when attention and MLP are parallel */
} vp_layer;

struct vp_encoder {
    vp_model *model;
    vp_compute on;
    char attention[12];
    vp_attention mode;
    bool segments;
    int64_t batch_tokens; /* 0: not chosen yet */
    vp_work work;
    float *hidden; /* of its last run: the host's memory that copies reach (vp_compute_host) */
    uint16_t *kv;
    vp_training *training; /* NULL: as the model stands, without dropout */
    /* filled by vp_encoder_prepare; `resident` memory lies at the bottom of the queue's arena */
    bool prepared;
    int64_t changes; /* of the trained numbers, for what packs them elsewhere */
    vp_layer *layer;
    vp_norm_weight embed_norm, final_norm;
    struct vp_token_rows *table; /* the embedding's rows */
    vp_weight *resident;         /* the same on the device, where its memory is separate; else NULL */
    bool table_trained;          /* some of its rows are */
    float *dtable;               /* [V - dfirst, C] gradient of those from dfirst on that are trained, else NULL */
    int64_t dfirst;
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
    int64_t *row;                     /* [B], in training, else NULL */
    int32_t *unit;                    /* [B], in training where the frame has them, else NULL */
    uint32_t step;
    int32_t top; /* largest position */
    bool causal; /* rows of role 3 */
} vp_sequences;

/* Weights that are not numbers, or overflow, must not travel on as vectors: VP_DATA naming the row. */
int vp_hidden_check(const vp_encoder *e, const vp_frame *f, const vp_sequences *s, const float *hidden, vp_error *err);
/* The status of a backend call as this library's error. */
int vp_encoder_check(const vp_encoder *e, int status, vp_error *err);
/* n bytes of `host` on the device: in the queue's arena, until the caller's mark is released. */
int vp_encoder_upload(vp_encoder *e, const void *host, size_t bytes, const void **out, vp_error *err);

/* For ahead.c: whether memory holds two micro-batches at a time, of a device with memory of its own; where the tokens
 * of one are not chosen yet, so many that it does. The encoder is prepared then. */
int vp_encoder_fits_twice(vp_encoder *e, bool *fits, vp_error *err);
/* The same encoder, prepared, with a queue of its own, for another thread. */
int vp_encoder_twin(const vp_encoder *e, vp_encoder **twin, vp_error *err);
/* What it did is added to e's. NULL is fine. */
void vp_encoder_twin_close(vp_encoder *twin, vp_encoder *e);

/* prepare.c: pack every weight, once. */
int vp_encoder_prepare(vp_encoder *e, vp_error *err);
void vp_encoder_release(vp_encoder *e);
/* The type of the table of tokens on a device with memory of its own; VP_NDTYPES: there is none. */
vp_dtype vp_encoder_table_type(const vp_encoder *e);
/* RoPE tables for positions 0..top at least; called between passes. */
int vp_encoder_rope(vp_encoder *e, int32_t top, vp_error *err);

/* batch.c */
int vp_sequences_read(vp_sequences *s, const vp_encoder *e, const vp_frame *f, vp_error *err);
/* The number of row b for messages: its `row`, else b. */
int64_t vp_frame_ordinal(const vp_frame *f, int64_t b);
void vp_sequences_free(vp_sequences *s);
/* The end of the micro-batch of whole sequences that begins at b: at least one, up to `tokens` tokens. */
int64_t vp_sequences_cut(const vp_sequences *s, int64_t b, int64_t tokens);
/* Whether passes of so many tokens are repeated (vp_backend.repeat): where launches take longer than what they do, and
 * nothing is trained. */
bool vp_batch_small(const vp_encoder *e, int64_t T);
/* How many rows such a pass gets, so that few sizes are many passes': T, or up to a quarter more (or 15). Else T. */
int64_t vp_batch_rows(const vp_encoder *e, int64_t T);
/* Sequences [b0, b1) as a batch on the device, with ids [T]. rows: as they are (0), or as a batch of so many rows:
 * those behind the sequences' are one sequence more, of tokens 0, and empty ones follow up to a power of 2. What is
 * decided on the host then depends on rows and that power alone, and a row's result, as ever, on its own sequence. */
int vp_batch_build(vp_encoder *e, const vp_sequences *s, int64_t b0, int64_t b1, int64_t rows, vp_batch *batch,
                   const int32_t **ids, vp_error *err);

/* forward.c: what a pass takes and leaves beside its batch; NULL: nothing of it. */
struct vp_exported;
struct vp_cached;
typedef struct vp_pass_options {
    uint32_t step;                      /* of dropout */
    vp_tape *tape;                      /* what its backward needs */
    const struct vp_cached *cached;     /* over what the sequences' caches hold, behind which the tokens' own keys go */
    const struct vp_exported *exported; /* where keys and values go */
    float *hidden;                      /* [rows, C] on the host */
    const vp_mat *states;               /* [rows, C] on the device, of the state type */
    int64_t rows;                       /* the first of the batch's; 0: all */
    bool repeats;                       /* passes of this batch's shape come again: vp_batch_small */
} vp_pass_options;
int vp_forward(vp_encoder *e, const vp_batch *batch, const int32_t *ids, const vp_pass_options *o, vp_error *err);

#endif
