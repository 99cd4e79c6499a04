/* Private to lib/model: what an open model holds. */
#ifndef VP_MODEL_PRIVATE_H
#define VP_MODEL_PRIVATE_H
#include "lib/model/config.h"
#include "lib/model/model.h"
#include "lib/model/weights.h"

/* One adapted linear: out += scale * (x A^T) B^T, A [rank, inputs], B [outputs, rank]. */
typedef struct vp_adapter_target {
    const vp_weight_entry *weight;
    const vp_tensor_info *a, *b;
    int32_t rank;
    float scale;
} vp_adapter_target;

typedef struct vp_adapter {
    char *path; /* absolute */
    char fingerprint[33];
    vp_source *source;
    vp_adapter_target *target; /* in the adapter file's order */
    size_t n;
    const vp_tensor_info *tokens; /* [tokens, C] embedding rows from first_token on; NULL: none */
    int64_t first_token;
} vp_adapter;

enum { VP_MAX_ADAPTERS = 16 };

struct vp_model {
    char *path;        /* absolute, as opened */
    char *transformer; /* folder of config, weights and tokenizer; NULL: path is a .gguf file */
    char fingerprint[33];
    vp_source *source;
    vp_config config;
    vp_weights weights;
    vp_settings settings;
    char *latent; /* folder of a latent layer, or NULL */
    char latent_fingerprint[33];
    char *projection; /* folder of a projection, or NULL */
    char projection_fingerprint[33];
    vp_map *input; /* how the texts of the index or stream were prepared; NULL: not known */
    vp_adapter *adapter[VP_MAX_ADAPTERS];
    size_t nadapters;
};

int vp_adapter_open(vp_adapter **a, const vp_model *m, const char *folder, vp_error *err);
/* A folder with an adapter and no model. */
bool vp_adapter_only(const char *folder);
/* The model that it names in base_model_name_or_path, with what train.json says was below it, and with it. VP_DATA: one
 * of these is not here, or another than it was trained on. *m is the caller's to close, also after a failure. */
int vp_model_open_adapted(vp_model **m, const char *folder, vp_error *err);
void vp_adapter_close(vp_adapter *a);
const vp_adapter_target *vp_adapter_find(const vp_adapter *a, const vp_weight_entry *w); /* NULL: not adapted */
/* vp_model_merge with other settings, and what `trained` (NULL: nothing) has instead of the file's numbers. */
typedef struct vp_merge_options {
    const struct vp_encoder *trained;
    const vp_settings *settings;
    vp_dtype dtype;
    int64_t max_shard;
    vp_growth growth; /* {0}: the vocabulary stays */
} vp_merge_options;
/* For vp_merge: config.json for weights of that type and the settings' attention, into the transformer's folder; and
 * what stands beside the weights, into `folder`, whose transformer lies in its folder `sub` ("": itself). */
int vp_merge_config(const vp_model *m, const vp_merge_options *o, const char *folder, vp_error *err);
int vp_merge_files(const vp_model *m, const vp_settings *s, const char *folder, const char *sub, vp_error *err);
/* Rows of its vocabulary when it is grown. */
static inline int64_t vp_grown_vocab(const vp_model *m, const vp_growth *g) {
    return g->extra ? g->keep + g->extra : m->config.vocab;
}
int vp_merge(const vp_model *m, const vp_merge_options *o, const char *folder, vp_merged *merged, vp_error *err);
/* Absolute and without links; VP_IO if it does not exist. Caller frees. */
int vp_path_absolute(const char *path, char **out, vp_error *err);

#endif
