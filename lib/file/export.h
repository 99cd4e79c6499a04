/* Writing a model's tensors as Hugging Face folders hold them: model.safetensors, or shards with their index. Streams:
 * first every tensor is declared, then the values follow in that order; never more than a buffer is in memory. */
#ifndef VP_FILE_EXPORT_H
#define VP_FILE_EXPORT_H
#include "lib/base/base.h"
#include "lib/base/dtype.h"

/* What rounding to the output type changed, over all non-zero values that vp_export_values wrote. */
typedef struct vp_rounding {
    double largest, mean; /* |stored - value| / |value| */
    int64_t values;
} vp_rounding;

typedef struct vp_export vp_export;
/* Files go into `folder`, which exists; a shard takes at most max_shard bytes of tensors, or one larger tensor. */
int vp_export_open(vp_export **e, const char *folder, int64_t max_shard, vp_error *err);
/* One safetensors file into a descriptor that stays the caller's, to sync and close; `name` is for messages. */
int vp_export_open_fd(vp_export **e, int fd, const char *name, vp_error *err);
/* Removes nothing: an unfinished export leaves its files to whoever removes the folder. NULL is fine. */
void vp_export_close(vp_export *e);
/* One more tensor, of shape[ndim], ndim <= 4; the name is copied. All before the first value. */
int vp_export_declare(vp_export *e, const char *name, vp_dtype dtype, int ndim, const int64_t *shape, vp_error *err);
/* The next n values of the tensor whose turn it is, which is F32, F16 or BF16: rounded to the nearest, ties to even.
 * VP_DATA: a value that is not finite, or too large for the type. */
int vp_export_values(vp_export *e, const float *x, size_t n, vp_error *err);
/* The next n bytes of that tensor, as they are. */
int vp_export_bytes(vp_export *e, const void *data, size_t n, vp_error *err);
/* Sync the last file and write the index. VP_BUG: values are missing. */
int vp_export_finish(vp_export *e, vp_error *err);
vp_rounding vp_export_rounding(const vp_export *e);
int64_t vp_export_size(const vp_export *e); /* bytes of all tensors */
int64_t vp_export_files(const vp_export *e);

#endif
