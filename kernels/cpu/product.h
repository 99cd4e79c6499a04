/* Products of fixed tiles with packed weight panels by oneDNN. The only door to that library: product.c. */
#ifndef VP_CPU_PRODUCT_H
#define VP_CPU_PRODUCT_H
#include "lib/base/base.h"
#include "lib/base/dtype.h"

enum { VP_TILE = 64, VP_TILE_SHORT = 16 }; /* rows; tails and short inputs use the short one */

typedef struct vp_product vp_product;             /* engine, streams, cache of shapes */
typedef struct vp_product_shape vp_product_shape; /* the two primitives of one (type, K, n), certified */

int vp_product_open(vp_product **p, int threads, vp_error *err);
void vp_product_close(vp_product *p);

/* x [rows, K] . w [n, K]^T -> out [rows, n] for rows = 64 and 16; x and w of `type`, F32 or BF16, out and its sums in
 * f32. NULL: the caller uses its own kernel, because oneDNN's is no faster (BF16 without AMX), is not there, or failed
 * the certification: a row must give the same bytes in either tile, at every position, whatever stands in the other
 * rows. Found once and kept. Not thread-safe. */
const vp_product_shape *vp_product_find(vp_product *p, vp_dtype type, int64_t k, int64_t n);
size_t vp_product_packed_bytes(const vp_product_shape *s);
size_t vp_product_scratch_bytes(const vp_product_shape *s); /* of vp_product_run, per thread */
/* w [n, K] dense -> packed (64-byte aligned). Thread-safe with distinct `thread` in [0, threads). */
int vp_product_pack(const vp_product_shape *s, int thread, void *w, void *packed);
/* rows is VP_TILE or VP_TILE_SHORT; x [rows, K] and out [rows, n] dense; non-zero: oneDNN failed. */
int vp_product_run(const vp_product_shape *s, int thread, int rows, const void *x, const void *packed, float *out,
                   void *scratch);

#endif
