/* Keys and values of sequences that grow: a prompt is appended, then token after token. Legend: B sequences, C width,
 * L layers, G key/value heads, d head width. */
#ifndef VP_MODEL_CACHE_H
#define VP_MODEL_CACHE_H
#include "lib/model/model.h"

/* One sequence: keys after RoPE and values of all layers, [L, capacity, G d] each, in f32. */
typedef struct vp_cache vp_cache;
/* Room for `capacity` tokens, 8 L G d bytes each; at most the model's positions (VP_DATA). The system gives the memory
 * as it is used. Close with vp_cache_close (NULL is fine). */
int vp_cache_open(vp_cache **c, const vp_encoder *e, int64_t capacity, vp_error *err);
void vp_cache_close(vp_cache *c);
int64_t vp_cache_length(const vp_cache *c);     /* tokens */
void vp_cache_cut(vp_cache *c, int64_t length); /* forget the tokens from `length` on */

enum { VP_APPEND_TOKENS = 256 }; /* of a pass of vp_encoder_append; what bounds its memory */
/* Append ids [cu[b], cu[b+1]) to cache[b], at least one token each, and give the hidden state of each one's last token:
 * last [B, C]. The encoder is open for generation (vp_encode_options.generate) with causal attention. Tokens see what
 * the cache holds and those before them. A sequence's result does not depend on the others, nor on how its tokens were
 * divided over calls. VP_DATA: no room, or an id outside the vocabulary; the caches are then as before. */
int vp_encoder_append(vp_encoder *e, vp_cache *const *cache, int64_t B, const int32_t *ids, const int32_t *cu,
                      float *last, vp_error *err);

#endif
