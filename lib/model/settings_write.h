/* What a result is for, in the files by which sentence-transformers, LLM2Vec and our own programs load it. */
#ifndef VP_MODEL_SETTINGS_WRITE_H
#define VP_MODEL_SETTINGS_WRITE_H
#include "lib/model/latent.h"
#include "lib/model/model.h"

/* Each file is written through a temporary name. */
typedef struct vp_settings_place {
    const char *folder, *transformer; /* the transformer's folder in it; "": itself */
    int64_t width;                    /* C */
    bool adapter; /* beside an adapter; else beside weights, whose config.json tells the attention */
} vp_settings_place;
/* sentence-transformers' modules.json, sentence_bert_config.json, config_sentence_transformers.json and
 * 1_Pooling/config.json. Beside an adapter with attention "bi" the first module is a class in bidirectional.py, for
 * which SentenceTransformer(FOLDER) wants trust_remote_code=True. VP_BUG: a pooling without a name there. */
int vp_settings_write(const vp_settings *s, const vp_settings_place *place, vp_error *err);
/* llm2vec_config.json, which says "bi": without it our --adapter, like LLM2Vec, takes the base's settings. */
int vp_settings_write_llm2vec(const vp_settings *s, const char *folder, vp_error *err);
/* VP_LATENT_CONFIG: the same settings with the sizes of a latent layer (NULL: none is in the folder), for our own
 * programs alone: sentence-transformers has no such module. */
int vp_settings_write_nv_embed(const vp_settings *s, const vp_latent_sizes *latent, int64_t width, const char *folder,
                               vp_error *err);
/* VP_OWN_CONFIG, of settings with a `chat`: what no file of others can say. */
int vp_settings_write_own(const vp_settings *s, const char *folder, vp_error *err);

#endif
