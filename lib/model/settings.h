/* What a model's own files decide for the pipe: attention, pooling, normalisation, length, prompts. */
#ifndef VP_MODEL_SETTINGS_H
#define VP_MODEL_SETTINGS_H
#include "lib/base/json.h"
#include "lib/model/arch.h"
#include "lib/model/model.h"
#include "lib/file/source.h"

#define VP_OWN_CONFIG "vecpipe_config.json"

/* A plain model: the architecture's attention; weighted mean when that is causal, else mean; normalised (search
 * compares by inner product); min(context, 512) tokens; no prompts. */
int vp_settings_default(vp_settings *s, const vp_config *c, vp_error *err);
void vp_settings_free(vp_settings *s);
int vp_settings_set(char **field, const char *value, vp_error *err); /* to a copy */

/* The folder in which a sentence-transformers folder keeps its transformer, from modules.json; `folder` itself where
 * there is none. Caller frees. A module that is not supported is VP_DATA naming it. */
int vp_settings_transformer(const char *folder, char **out, vp_error *err);
/* sentence-transformers' files of `folder`, if it has a modules.json; what config.json calls the base; then
 * vp_settings_beside. max_len is cut to context. */
int vp_settings_read(vp_settings *s, const char *folder, const vp_config *c, vp_error *err);
/* llm2vec_config.json of a model or adapter folder, if there is one: bidirectional, its pooling and lengths;
 * normalised, because LLM2Vec compares by cosine; and what an adapter_config.json beside it calls the base. */
int vp_settings_llm2vec(vp_settings *s, const char *folder, const vp_config *c, vp_error *err);
/* The config of a latent-attention layer in a model or adapter folder (lib/model/latent.h), if there is one: attention,
 * pooling, normalisation, length, and whether its texts have NV-Embed's instruction format and end. */
int vp_settings_nv_embed(vp_settings *s, const char *folder, const vp_config *c, vp_error *err);
/* VP_OWN_CONFIG of a model or adapter folder, if there is one: prompt, attention, pooling, normalisation, length,
 * dims. */
int vp_settings_own(vp_settings *s, const char *folder, const vp_config *c, vp_error *err);
/* The three of them, in this order: what is read last counts. */
int vp_settings_beside(vp_settings *s, const char *folder, const vp_config *c, vp_error *err);
/* "attention", "pooling", "max_length" and "dims" of a file of ours, those that are there. */
int vp_settings_keys(vp_settings *s, const vp_json *j, const vp_config *c, vp_error *err);
bool vp_settings_is_one_of(const char *value, const char *known); /* of "A|B|C" */
int vp_settings_gguf(vp_settings *s, const vp_gguf *g, const vp_config *c, vp_error *err);
/* Replace what a header's `model` map (and its `encoder` map, NULL: none) says. Unknown spellings are VP_DATA. */
int vp_settings_from_maps(vp_settings *s, const vp_map *model, const vp_map *encoder, vp_error *err);

#endif
