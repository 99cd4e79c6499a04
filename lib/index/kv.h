/* Keys and values of an index: what `knn add` stored of a stream's columns k and v, row by row, for going on from a
 * text without computing it again. */
#ifndef VP_INDEX_KV_H
#define VP_INDEX_KV_H
#include "lib/base/base.h"
#include "lib/base/dtype.h"
#include "lib/index/index.h"

/* Keys (after RoPE) and values of one record: k and v [L, n, width], layer after layer; width = G d. */
typedef struct vp_kv {
    const void *k, *v;
    vp_dtype dtype; /* VP_BF16 */
    int64_t layers, tokens, width;
    void *owned; /* private */
} vp_kv;
/* Of the live record or row `id` (of a record in chunks: a chunk's id, as hits give it); *found false: there is none.
 * VP_DATA: the index holds no keys and values, or they are damaged (a checksum is compared). Mapped: valid until
 * vp_kv_free, also while others write or compact, and after the index was closed. */
int vp_index_kv(vp_index *x, const char *id, size_t len, vp_kv *kv, bool *found, vp_error *err);
void vp_kv_free(vp_kv *kv); /* {0} is fine */

#endif
