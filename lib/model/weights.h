/* The weight table of one model: every weight's role, layer, shape and place in the file. It drives loading, shape
 * checks, sizes and LoRA targets, whatever the file calls the tensors. */
#ifndef VP_MODEL_WEIGHTS_H
#define VP_MODEL_WEIGHTS_H
#include "lib/model/arch.h"
#include "lib/file/source.h"

typedef struct vp_weight_entry {
    vp_role role;
    int64_t layer;                       /* -1: not of a layer */
    int64_t expert;                      /* 0 where there is one MLP */
    int64_t rows, cols;                  /* as the product takes it: [outputs, inputs]; a vector is 1 row */
    const vp_tensor_info *tensor;        /* [rows, cols]; NULL: an output head that the file lacks */
    const vp_tensor_info *bias;          /* [rows], or NULL */
    const struct vp_weight_entry *alias; /* a tied head: the embedding, which is its one gradient and state */
    bool lora;                           /* may carry adapters */
    int64_t interleaved;                 /* head width whose rows GGUF permuted for RoPE; 0: rows are in order */
    char module[80];                     /* Hugging Face's path without prefix: "layers.0.self_attn.q_proj" */
} vp_weight_entry;

typedef struct vp_weights {
    vp_weight_entry *entry; /* global ones first, then layer by layer */
    size_t n;
    size_t at_layer, per_layer; /* first layer's entries; entries a layer */
    vp_tensor_info *part;       /* single experts' matrices of tensors that hold all of a layer's, or NULL */
    size_t nparts;
    const vp_tensor_info *rope_factors; /* GGUF's rope_freqs.weight, or NULL */
} vp_weights;

/* Find and check every weight of `c` in `s`. A missing or misshapen tensor, and a tensor that is neither in the table
 * nor of a known harmless kind (position ids, poolers, other heads), are VP_DATA naming file and tensor. `path` names
 * the source. */
int vp_weights_open(vp_weights *w, const vp_config *c, const vp_source *s, const char *path, vp_error *err);
void vp_weights_close(vp_weights *w);
/* The entry of a role (layer -1 for global ones), of experts the first's; NULL: the model has none. */
const vp_weight_entry *vp_weights_find(const vp_weights *w, vp_role role, int64_t layer);
const vp_weight_entry *vp_weights_expert(const vp_weights *w, vp_role role, int64_t layer, int64_t expert);
/* The entry whose module path is name[0..n); NULL: none. */
const vp_weight_entry *vp_weights_module(const vp_weights *w, const char *name, size_t n);
/* Whether a tensor can be read as numbers and is [rows, cols] (rows 1: a vector will do); VP_DATA names file and
 * tensor. */
int vp_tensor_check(const vp_tensor_info *t, int64_t rows, int64_t cols, vp_error *err);
/* vp_weight_part's reader; ctx is the entry. Rows come in Hugging Face's order. */
int vp_weight_read_row(const void *ctx, int64_t row, float *out, vp_error *err);
/* The bias as out[rows], in Hugging Face's order; zeros if there is none. */
int vp_weight_read_bias(const vp_weight_entry *e, float *out, vp_error *err);

#endif
