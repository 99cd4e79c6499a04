/* Memory of weights that are kept row by row: pieces of slabs in large pages. A model's matrices are mostly smaller
 * than what large pages are asked for one by one, and reading them at the speed of memory needs those. */
#include "kernels/cpu/cpu.h"
#include <stdatomic.h>
#include <stdlib.h>

enum { ALIGN = 256 };
static const size_t SLAB = (size_t)32 << 20;

struct vp_slab {
    char *data;
    size_t used, size;
    atomic_int holders; /* pieces, and the device that takes more of it */
};

static vp_slab *open_slab(size_t bytes) {
    vp_slab *s = vp_calloc(1, sizeof *s);
    if (!s) return NULL;
    s->size = bytes < SLAB / 2 ? SLAB : bytes;
    s->data = vp_pages_alloc(s->size);
    if (!s->data && s->size > bytes) s->data = vp_pages_alloc(s->size = bytes);
    atomic_init(&s->holders, 1);
    if (s->data) return s;
    free(s);
    return NULL;
}

void vp_slab_drop(vp_slab *s) {
    if (!s || atomic_fetch_sub(&s->holders, 1) > 1) return;
    free(s->data);
    free(s);
}

void *vp_slab_take(vp_slab **open, size_t bytes, vp_slab **of) {
    if (bytes > SIZE_MAX / 4) return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (!*open || (*open)->size - (*open)->used < bytes) {
        vp_slab *s = open_slab(bytes);
        if (!s) return NULL;
        if (s->size == bytes) { /* nothing is left of it for others */
            *of = s;
            return s->data;
        }
        vp_slab_drop(*open);
        *open = s;
    }
    *of = *open;
    atomic_fetch_add(&(*of)->holders, 1);
    void *p = (*of)->data + (*of)->used;
    (*of)->used += bytes;
    return p;
}
