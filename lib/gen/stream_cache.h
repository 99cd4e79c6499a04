/* Keys and values of a stream's rows, by id. */
#ifndef VP_GEN_STREAM_CACHE_H
#define VP_GEN_STREAM_CACHE_H
#include "lib/index/kv.h"
#include "lib/stream/stream.h"

typedef struct vp_stream_cache vp_stream_cache;
/* Reads the header alone. VP_IO: the file cannot be opened. */
int vp_stream_cache_open(vp_stream_cache **s, const char *path, vp_error *err);
void vp_stream_cache_close(vp_stream_cache *s);
const vp_map *vp_stream_cache_header(const vp_stream_cache *s);
/* The row `id`; reads on until it is there, and keeps what it reads. *found false: the stream ended without it. kv is
 * valid until vp_stream_cache_close and needs no freeing. VP_DATA: no such columns, a row without an id, an id twice;
 * VP_UPSTREAM: the stream breaks off. */
int vp_stream_cache_find(vp_stream_cache *s, const char *id, size_t len, vp_kv *kv, bool *found, vp_error *err);

#endif
