/* Private to lib/model: a pass over caches, between cache.c and forward.c. */
#ifndef VP_MODEL_CACHED_H
#define VP_MODEL_CACHED_H
#include "lib/model/cache.h"
#include "lib/model/pass.h"

typedef struct vp_cached { /* of a batch's B sequences */
    vp_cache *const *cache;
    vp_span *span;         /* all spans of all sequences, made anew for every layer */
    const int32_t *cu;     /* [B + 1] offsets of the tokens that are appended */
    const vp_span **spans; /* [B] */
    int32_t *nspans;       /* [B] */
    void **k_to, **v_to;   /* [B] */
} vp_cached;

/* Append the keys and values of `op` to the layer's caches, then attention of its queries over all that they hold. */
int vp_cached_attend(vp_pass *p, const vp_attn_op *op, int64_t layer, vp_error *err);

#endif
