/* What a model's own files decide for the pipe: attention, pooling, normalisation, length, prompts. */
#ifndef VP_MODEL_SETTINGS_H
#define VP_MODEL_SETTINGS_H
#include "lib/model/arch.h"
#include "lib/model/model.h"
#include "lib/file/source.h"

/* A plain model: the architecture's attention; weighted mean when that is causal, else mean; normalised (search
 * compares by inner product); min(context, 512) tokens; no prompts. */
int vp_settings_default(vp_settings *s, const vp_config *c, vp_error *err);
void vp_settings_free(vp_settings *s);

/* The folder in which a sentence-transformers folder keeps its transformer, from modules.json; `folder` itself where
 * there is none. Caller frees. A module that is not supported (Dense, ...) is VP_DATA naming it. */
int vp_settings_transformer(const char *folder, char **out, vp_error *err);
/* sentence-transformers' files of `folder`, if it has a modules.json; what config.json calls the base; then
 * llm2vec_config.json. max_len is cut to context. */
int vp_settings_read(vp_settings *s, const char *folder, const vp_config *c, vp_error *err);
/* llm2vec_config.json of a model or adapter folder, if there is one: bidirectional, its pooling and lengths;
 * normalised, because LLM2Vec compares by cosine; and what an adapter_config.json beside it calls the base. */
int vp_settings_llm2vec(vp_settings *s, const char *folder, const vp_config *c, vp_error *err);
/* vecpipe_config.json of a model or adapter folder, if there is one: prompt, pooling, normalisation, length. */
int vp_settings_own(vp_settings *s, const char *folder, const vp_config *c, vp_error *err);
bool vp_settings_is_pooling(const char *name); /* one of VP_POOLINGS */
int vp_settings_gguf(vp_settings *s, const vp_gguf *g, const vp_config *c, vp_error *err);
/* Replace what a header's `model` map (and its `encoder` map, NULL: none) says. Unknown spellings are VP_DATA. */
int vp_settings_from_maps(vp_settings *s, const vp_map *model, const vp_map *encoder, vp_error *err);

#endif
