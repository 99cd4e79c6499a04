/* Architectures as data: which weights a model has, how they are called in each kind of file, and which of the forward
 * pass's choices it makes. forward.c is written once over these fields; adding a model means adding a row to arch.c.
 * Nothing here reads files. */
#ifndef VP_MODEL_ARCH_H
#define VP_MODEL_ARCH_H
#include "lib/base/base.h"
#include "kernels/ops.h"

/* Every weight that a model may have. X(role, rows, columns, per layer, LoRA target); sizes by symbol: V vocabulary,
 * C width, P positions, Y token types, Q query heads * d, K key/value heads * d, D head width, F feed-forward width, E
 * experts; columns '1': a vector. A role's bias, where the architecture has one, is a vector of its rows. In a mixture
 * of experts every one of them has a gate, an up and a down, which carry no adapters. */
#define VP_ROLES(X)                                                                                                    \
    X(EMBED, 'V', 'C', false, false)                                                                                   \
    X(POSITIONS, 'P', 'C', false, false)                                                                               \
    X(TYPES, 'Y', 'C', false, false)                                                                                   \
    X(EMBED_NORM, 'C', '1', false, false)                                                                              \
    X(FINAL_NORM, 'C', '1', false, false)                                                                              \
    X(HEAD, 'V', 'C', false, false)                                                                                    \
    X(ATTN_NORM, 'C', '1', true, false)                                                                                \
    X(Q, 'Q', 'C', true, true)                                                                                         \
    X(K, 'K', 'C', true, true)                                                                                         \
    X(V, 'K', 'C', true, true)                                                                                         \
    X(Q_NORM, 'D', '1', true, false)                                                                                   \
    X(K_NORM, 'D', '1', true, false)                                                                                   \
    X(O, 'C', 'Q', true, true)                                                                                         \
    X(MLP_NORM, 'C', '1', true, false)                                                                                 \
    X(ROUTER, 'E', 'C', true, false)                                                                                   \
    X(GATE, 'F', 'C', true, true)                                                                                      \
    X(UP, 'F', 'C', true, true)                                                                                        \
    X(DOWN, 'C', 'F', true, true)

typedef enum vp_role {
#define X(role, rows, cols, layer, lora) VP_W_##role,
    VP_ROLES(X)
#undef X
        VP_NROLES
} vp_role;

/* Names of the weights by role, without ".weight" / ".bias"; '#' stands for the layer, a second one for the expert.
 * NULL: the family has no such weight. */
typedef const char *const vp_names[VP_NROLES];

typedef enum vp_rope_scaling { VP_ROPE_PLAIN, VP_ROPE_LINEAR, VP_ROPE_LLAMA3 } vp_rope_scaling;
typedef enum vp_rope_style { VP_ROPE_NONE, VP_ROPE_HALF, VP_ROPE_INTERLEAVED } vp_rope_style;
typedef enum vp_window_rule {
    VP_WINDOW_NEVER,   /* `sliding_window` means nothing to this model */
    VP_WINDOW_ALWAYS,  /* every layer, unless it is null */
    VP_WINDOW_SWITCHED /* if `use_sliding_window`, by `layer_types` or from layer `max_window_layers` on */
} vp_window_rule;

enum { VP_MAX_LAYERS = 512 };

/* A model's numbers; an architecture's row holds the values for keys that a config leaves out. */
typedef struct vp_config {
    const struct vp_arch *arch;
    int64_t vocab, width, ffn, layers, heads, groups, head_dim, positions, types, rotary;
    int64_t experts, top_k; /* of an MLP, and how many of them a token passes; 0: the MLP is one */
    double balance, jitter; /* training's: weight of the router's balancing loss, noise on the router's inputs */
    double eps, theta;
    vp_rope_scaling scaling;
    double factor, low, high; /* VP_ROPE_LINEAR: factor; VP_ROPE_LLAMA3: all */
    int64_t original;         /* positions before VP_ROPE_LLAMA3 scaling */
    vp_act act;
    bool qkv_bias, out_bias, mlp_bias, norm_bias;
    bool tied;                       /* the output head is the embedding */
    bool causal;                     /* what a token sees unless told otherwise */
    int32_t window, window_first;    /* |i - j| < window; 0: none */
    uint8_t windowed[VP_MAX_LAYERS]; /* layers that `window` applies to */
} vp_config;

typedef struct vp_arch {
    const char *name;     /* Hugging Face's model_type, and `model.arch` in a stream */
    const char *gguf;     /* GGUF's general.architecture, or NULL */
    const char *hf_class; /* what transformers calls it, for a config.json of ours */
    const char *prefix;   /* of tensor names in a model with a head; inner models lack it */
    vp_names *names, *gguf_names;
    vp_names *gguf_old_names; /* of experts a tensor each, as files of before 2024 have them; or NULL */
    vp_norm_kind norm;
    bool post_norm; /* x = norm(x + f(x)); else x = x + f(norm(x)) */
    bool parallel;  /* attention and MLP read the same norm and are added together */
    bool gated;     /* down(act(gate x) * up x); else down(act(up x)) */
    bool experts;   /* the MLP is a mixture of them */
    bool qk_norm;   /* RMS norm of every query and key head */
    vp_rope_style rope;
    bool gguf_interleaved; /* GGUF permutes the rows of q and k into interleaved pairs */
    bool scale_embedding;  /* by sqrt(C) */
    bool bias_keys;        /* `attention_bias` and `mlp_bias` are obeyed */
    bool gelu_is_tanh;     /* "gelu" in old configs means the tanh form */
    vp_window_rule window_rule;
    const char *act_key; /* config key of the activation */
    vp_config base;      /* what a missing key means (the reference's defaults) */
} vp_arch;

typedef struct vp_role_info {
    const char *name;
    char rows, cols;
    bool per_layer, lora;
} vp_role_info;
extern const vp_role_info vp_roles[VP_NROLES];

/* By model_type / general.architecture (n bytes), with experts or without; NULL: unknown. */
const vp_arch *vp_arch_find(const char *model_type);
const vp_arch *vp_arch_find_gguf(const char *name, size_t n, bool experts);
/* "llama, mistral, ..." for messages: model types, or GGUF's architectures. */
const char *vp_arch_list(bool gguf, char *out, size_t cap);
/* The size behind a symbol of VP_ROLES ('1' gives 1). */
int64_t vp_config_size(const vp_config *c, char symbol);
/* A role's name in `names` with the layer and the expert put in; out is always terminated. False: the family has no
 * such weight. */
bool vp_arch_name(vp_names *names, vp_role role, int64_t layer, int64_t expert, char *out, size_t cap);
/* Whether a model with this config has the role at all, and whether the role has a bias. */
bool vp_config_has(const vp_config *c, vp_role role);
bool vp_config_has_bias(const vp_config *c, vp_role role);

#endif
