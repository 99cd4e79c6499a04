/* Ids seen, by 128-bit hash, each with a number (a row, a line, a place). */
#ifndef VP_INDEX_IDSET_H
#define VP_INDEX_IDSET_H
#include "lib/base/base.h"

typedef struct vp_idset {
    struct vp_idset_slot *slot;
    size_t n, cap;
} vp_idset;
/* *earlier = the number (>= 0) given with the same id before, -1 if it is new (then it is added). */
int vp_idset_add(vp_idset *s, const char *id, size_t len, int64_t number, int64_t *earlier, vp_error *err);
bool vp_idset_find(const vp_idset *s, const char *id, size_t len, int64_t *number);
void vp_idset_free(vp_idset *s);

#endif
