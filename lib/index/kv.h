/* Keys and values of an index: what `knn add` stored of a stream's columns k and v, row by row, for going on from a
 * text without computing it again. An index holds them of all its rows or of none. */
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
 * VP_DATA: the index holds no keys and values, or they are damaged (a checksum is compared). Mapped where they are
 * stored as BF16, else decoded into memory: valid until vp_kv_free, also while others write or compact, and after the
 * index was closed. */
int vp_index_kv(vp_index *x, const char *id, size_t len, vp_kv *kv, bool *found, vp_error *err);
void vp_kv_free(vp_kv *kv); /* {0} is fine */

/* How keys and values are stored; decided when an index is made, by the first stream that is added. */
typedef enum vp_kv_coding {
    VP_KV_ANY,  /* as the index has them; BF16 in a new one */
    VP_KV_BF16, /* as they come */
    VP_KV_I8    /* a scale a token, layer and head: largest magnitude / 127 */
} vp_kv_coding;
typedef struct vp_kv_options {
    vp_kv_coding coding;
    bool zstd; /* every record compressed; false: as the index has them */
} vp_kv_options;
/* Before the first frame. An index that stores them otherwise: VP_DATA, then. */
void vp_index_add_kv(vp_index_adder *a, const vp_kv_options *o);
/* What a stream's keys and values will take, before anything of it is stored. */
typedef struct vp_kv_forecast {
    bool fresh;           /* the index is empty, and no frame with rows came before: this one decides */
    int64_t token_bytes;  /* before compression; 0: there are no keys and values */
    int64_t rows, tokens; /* of the frame, as a sample */
} vp_kv_forecast;
int vp_index_add_forecast(vp_index_adder *a, const vp_frame *f, vp_kv_forecast *c, vp_error *err);

#endif
