/* Training a model: which of its numbers are trained, a forward pass that leaves what the backward needs, and the
 * backward pass. What the loss is, and what the optimiser does with the gradient, is lib/train's business. */
#ifndef VP_MODEL_TRAINING_H
#define VP_MODEL_TRAINING_H
#include "lib/model/compute.h"
#include "lib/model/latent.h"
#include "lib/model/model.h"

/* What a layer keeps between forward and backward: everything; all but the MLP's inner values; its input only. */
typedef enum vp_recompute { VP_RECOMPUTE_NONE, VP_RECOMPUTE_MLP, VP_RECOMPUTE_LAYER } vp_recompute;
#define VP_RECOMPUTES "none|mlp|layer" /* spellings, in that order */
#define VP_LORA_ALL   "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"

/* Training as an encoder's option (vp_encode_options.train): the passes get dropout, and trained numbers. Of two
 * encoders with equal options, model and numbers, one with `backward` and one without, the forward passes give the same
 * bytes. */
typedef struct vp_train_options {
    bool full;           /* every weight is trained, but the output head; else a LoRA adapter */
    bool head;           /* the output head is trained, too; where it is tied, `full` trains it anyway */
    int64_t rank;        /* of the adapter, r */
    double alpha;        /* its scale is alpha / r */
    int64_t tokens;      /* beside an adapter: embedding rows of the last so many tokens, as a tied head's; 0: none */
    const char *targets; /* last parts of module names, comma-separated; NULL: VP_LORA_ALL */
    const char *start;   /* folder of an adapter: continue it (its rank, alpha, targets, tokens); or NULL */
    const vp_latent_sizes *latent; /* a latent-attention layer is trained beside it, whole; NULL: none. Zeros: as
                                      `start` or the model has it, or as its width does */
    int64_t projection;            /* dimensions of a projection of pooled vectors, trained whole beside it; 0: none */
    double lora_dropout;           /* of the adapter's inputs */
    double attention_dropout;      /* of attention probabilities */
    double hidden_dropout;         /* of what attention and MLP add to the residual stream */
    uint64_t seed;                 /* of dropout and of the adapter's start */
    bool backward;                 /* false: forward passes only */
    vp_recompute recompute;
} vp_train_options;

/* The trained numbers and their gradient, valid until the encoder is closed: at first the adapter's start (A uniform in
 * +-1/sqrt(inputs), B zero, as PEFT; or as `start` has them), or the model's weights. NULL where nothing is trained. */
const vp_params *vp_encoder_params(const vp_encoder *e);
/* [count]: vp_encoder_backward adds to the one on the device (its address is for operations that add to parts of it);
 * _clear sets that to zero, _fetch brings it to the host's, which is the same where the memory is. */
float *vp_encoder_gradient(const vp_encoder *e);
float *vp_encoder_gradient_on(const vp_encoder *e);
int vp_encoder_gradient_clear(vp_encoder *e, vp_error *err);
int vp_encoder_gradient_fetch(vp_encoder *e, vp_error *err);
/* vp_model_merge of the model as it is trained now, in one file, with these settings. */
int vp_encoder_save(const vp_encoder *e, const vp_settings *settings, const char *folder, vp_dtype dtype,
                    vp_merged *merged, vp_error *err);
/* Where the output head's rows [V, C] begin among them; -1: they are not trained. *tied: they are the embedding's, with
 * which they have one gradient and one state. */
int64_t vp_encoder_head(const vp_encoder *e, bool *tied);
/* Where the rows [train.tokens, C] of single tokens begin; -1: none are trained. */
int64_t vp_encoder_tokens(const vp_encoder *e);
/* Where the latent layer's numbers begin among them; -1: none is trained. */
int64_t vp_encoder_latent(const vp_encoder *e);
/* Where the projection's numbers begin, W [projection, C] and a bias; -1: none is trained. */
int64_t vp_encoder_projection(const vp_encoder *e);
/* To be called after the numbers changed: full training packs the weights anew. */
int vp_encoder_changed(vp_encoder *e, vp_error *err);
/* What the adapter is, as options that would make its like (strings owned by the encoder). */
const vp_train_options *vp_encoder_training(const vp_encoder *e);

/* What a forward pass of one micro-batch leaves for its backward. Its matrices lie in the device's memory, which works
 * like a stack: a tape is good until a mark that was set before it is released, and freed (NULL is fine) after that. */
typedef struct vp_tape vp_tape;
/* Packs the weights: once, before the first mark. */
int vp_encoder_warm(vp_encoder *e, vp_error *err);
size_t vp_encoder_mark(const vp_encoder *e);
void vp_encoder_release_to(vp_encoder *e, size_t mark);
void vp_tape_free(vp_tape *t);
/* Bytes that the tape of T tokens takes, about. */
size_t vp_tape_bytes(const vp_encoder *e, int64_t tokens);
/* `tokens`, or where that is 0 how many a micro-batch of both ways may have beside `kept` bytes of other tapes. */
int vp_encoder_fit(vp_encoder *e, int64_t tokens, int64_t kept, int64_t *out, vp_error *err);
/* What a step computes on the encoder's device between the two passes of a micro-batch, above its tape: memory is
 * planned for it, too. run computes on `on`, whose queue plans (kernels/plan.h), for the frame, or where that is NULL
 * for so many made-up tokens. Borrowed; a run of NULL: nothing. */
typedef struct vp_between {
    int (*run)(const void *ctx, const vp_compute *on, const vp_frame *f, int64_t tokens, vp_error *err);
    const void *ctx;
} vp_between;
void vp_encoder_between(vp_encoder *e, const vp_between *between);
/* hidden [T, C] of a whole frame as one micro-batch, into the caller's memory; tape NULL: nothing is kept. With dropout
 * the frame needs column `row` and key `step`. Without column `unit` it is one gradient unit. */
int vp_encoder_forward(vp_encoder *e, const vp_frame *f, float *hidden, vp_tape **tape, vp_error *err);
/* Add the gradient of a loss to vp_encoder_gradient, given dhidden [T, C]. Weight gradients are summed one unit after
 * another: however the units are spread over calls, in their order, the sums are the same bytes. */
int vp_encoder_backward(vp_encoder *e, vp_tape *tape, const float *dhidden, vp_error *err);
int64_t vp_encoder_width(const vp_encoder *e); /* C */

/* The balancing loss of the routers of a mixture of E experts (Switch Transformer, equations 4 to 6, of all layers'
 * tokens together, as transformers has it): of one gradient unit
 *     E sum over e of f_e P_e
 * f_e: the fraction of its tokens, of every layer, that pass expert e; P_e: the mean of the softmax of their logits. It
 * crosses tokens: a unit is what it is defined for, because a micro-batch holds whole ones. */
double vp_encoder_balance(const vp_encoder *e); /* its weight by the model's configuration; 0: none */
typedef struct vp_balance {
    int64_t B;                /* rows of the tape's frame, */
    const int32_t *cu, *unit; /* [B + 1], [B] */
    const double *share;      /* [B] a unit's loss counts the sum of its rows' */
    float *loss;              /* [B] that is added to its first row's */
} vp_balance;
/* vp_encoder_backward of the tape adds its gradient. Takes memory above the tape. */
int vp_tape_balance(vp_encoder *e, vp_tape *t, const vp_balance *b, vp_error *err);
/* ---- the latent layer of a pooler of that kind; others are left as they are ---- */
/* It is the one that the encoder trains, or where it trains none its own file's, computed on the encoder's device. The
 * encoder is borrowed until the pooler is closed. */
void vp_pooler_use(vp_pooler *p, const vp_encoder *e);
/* Or it has these numbers, borrowed: to be called again after they changed. */
void vp_pooler_give(vp_pooler *p, const vp_latent_sizes *s, int64_t width, const float *value);
/* The same of a pooler with vp_pool_options.project, of whose numbers these are W [dims, width] and a bias;
 * vp_pooler_use gives an encoder's. Their gradient is added to `grad`, NULL: none is wanted. */
void vp_pooler_give_projection(vp_pooler *p, int64_t dims, int64_t width, const float *value, float *grad);
/* When the gradient of a step's last micro-batch was made: what all of them share goes on to the latents. */
int vp_pooler_finish(vp_pooler *p, vp_error *err);

/* Where a pooler computes: with a latent layer on that one's device. */
vp_compute vp_pooler_place(const vp_pooler *p);
/* The device that an encoder computes on, for what computes beside it. */
vp_compute vp_encoder_compute(const vp_encoder *e);

#endif
