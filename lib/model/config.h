/* Reading a model's numbers from config.json or from GGUF metadata, in the spellings of both, old and new. Whatever
 * would change the result and is not supported is VP_DATA naming it. */
#ifndef VP_MODEL_CONFIG_H
#define VP_MODEL_CONFIG_H
#include "lib/model/arch.h"
#include "lib/base/json.h"
#include "lib/file/source.h"

int vp_config_from_json(vp_config *c, const vp_json *j, vp_error *err);
/* `s` is the opened file: sizes that GGUF leaves to the tensors (vocabulary, biases) are taken from it. */
int vp_config_from_gguf(vp_config *c, const vp_source *s, vp_error *err);
/* The config in config.json's spelling; caller decrefs. What Hugging Face's format cannot say is left out: reading it
 * back tells. */
int vp_config_to_json(const vp_config *c, json_t **out, vp_error *err);
/* Every number that decides a result, one line each, in a fixed order: the config's part of the weight fingerprint. The
 * same model spelled differently gives the same text. */
int vp_config_text(const vp_config *c, vp_buf *out, vp_error *err);

/* Inverse frequencies [rotary/2] with the config's scaling, in f32 step by step as the reference computes them;
 * `factors` [rotary/2] (GGUF's rope_freqs) divides them when not NULL. */
void vp_rope_frequencies(const vp_config *c, const float *factors, float *out);
/* Cosines and sines [n, rotary/2] of positions 0..n-1, computed in double from f32 angles, rounded once. */
void vp_rope_tables(const float *inverse, int64_t half, int64_t n, float *cosines, float *sines);

/* config.json's name of an activation. */
const char *vp_act_name(vp_act act);

/* ---- shared by the two readers ---- */
/* Fill what follows from other numbers (head width, groups, rotary width) and check every size; `path` is for messages.
 */
int vp_config_finish(vp_config *c, const char *path, vp_error *err);

typedef struct vp_config_field {
    const char *hf, *hf_old; /* config.json keys; hf_old NULL: none */
    const char *gguf;        /* after "ARCH."; NULL: none */
    size_t offset;           /* of an int64_t in vp_config */
    int64_t most;            /* the largest value that is believed */
} vp_config_field;
enum { VP_CONFIG_FIELDS = 12 };
extern const vp_config_field vp_config_fields[VP_CONFIG_FIELDS];

#endif
