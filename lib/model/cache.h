/* Keys and values of sequences that grow: a prompt is appended, then token after token, perhaps behind texts whose keys
 * and values another pass has left. Legend: B sequences, C width, L layers, G key/value heads, d head width. */
#ifndef VP_MODEL_CACHE_H
#define VP_MODEL_CACHE_H
#include "lib/index/kv.h"
#include "lib/model/model.h"

/* One sequence: keys after RoPE and values of all layers, [L, capacity, G d] each, in f32. */
typedef struct vp_cache vp_cache;
/* Room for `capacity` tokens, 8 L G d bytes each; at most the model's positions (VP_DATA). The system gives the memory
 * as it is used. Close with vp_cache_close (NULL is fine). */
int vp_cache_open(vp_cache **c, const vp_encoder *e, int64_t capacity, vp_error *err);
/* Put the n tokens of another pass before those that will be appended, and after what was put there earlier: all that
 * is appended sees them, at positions behind their number. Before anything is appended. k and v [L, n, G d] are F32 or
 * BF16 and borrowed until vp_cache_close; nothing is copied, unless shift > 0: then keys are turned on by so many
 * positions (GRIT's caches begin at 0 each, wherever they stand), in a copy of the keys in their own type. VP_DATA:
 * another number of layers or another width than the model's, more tokens than it has positions, or a shift in a model
 * without RoPE. vp_cache_length counts them. */
int vp_cache_prepend(vp_cache *c, vp_encoder *e, const vp_kv *kv, int64_t shift, vp_error *err);
void vp_cache_close(vp_cache *c);
int64_t vp_cache_length(const vp_cache *c); /* tokens */

enum { VP_APPEND_TOKENS = 256 }; /* of a pass of vp_encoder_append; what bounds its memory */
/* Append ids [cu[b], cu[b+1]) to cache[b], at least one token each, and give the hidden state of each one's last token:
 * last [B, C]. The encoder is open for generation (vp_encode_options.generate) with causal attention. Tokens see what
 * the cache holds and those before them. A sequence's result does not depend on the others, nor on how its tokens were
 * divided over calls. VP_DATA: no room, or an id outside the vocabulary; the caches are then as before. */
int vp_encoder_append(vp_encoder *e, vp_cache *const *cache, int64_t B, const int32_t *ids, const int32_t *cu,
                      float *last, vp_error *err);

#endif
