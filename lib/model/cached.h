/* Private to lib/model: a pass over caches, between cache.c and forward.c. */
#ifndef VP_MODEL_CACHED_H
#define VP_MODEL_CACHED_H
#include "lib/model/cache.h"
#include "lib/model/pass.h"

typedef struct vp_cached {           /* of a batch's B sequences and all layers, on the device */
    const vp_span *const *spans;     /* [L, B] */
    const int32_t *nspans;           /* [B] */
    void *const *k_to, *const *v_to; /* [L, B] where what is appended goes */
    int32_t most_keys;               /* of a sequence */
} vp_cached;

/* Append the keys and values of `op` to the layer's caches, then attention of its queries over all that they hold. */
int vp_cached_attend(vp_pass *p, const vp_attn_op *op, int64_t layer, vp_error *err);

#endif
