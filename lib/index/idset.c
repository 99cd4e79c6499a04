/* A set of ids by XXH3-128 (open addressing, at most 2/3 full): 32 bytes an id, whatever its length. Two different ids
 * of one hash would be taken for the same: 2^-128 a pair. */
#include "lib/index/idset.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct vp_idset_slot {
    uint64_t low, high;
    int64_t number; /* + 1; 0: free */
};

static struct vp_idset_slot *find(const vp_idset *s, XXH128_hash_t h) {
    size_t i = h.low64 & (s->cap - 1);
    while (s->slot[i].number && (s->slot[i].low != h.low64 || s->slot[i].high != h.high64)) i = (i + 1) & (s->cap - 1);
    return &s->slot[i];
}

static int grow(vp_idset *s, vp_error *err) {
    vp_idset larger = {.n = s->n, .cap = s->cap ? 2 * s->cap : 1024};
    larger.slot = vp_calloc(larger.cap, sizeof *larger.slot);
    if (!larger.slot) return vp_fail_memory(err, "the set of ids", larger.cap * sizeof *larger.slot);
    for (size_t i = 0; i < s->cap; i++)
        if (s->slot[i].number) *find(&larger, (XXH128_hash_t){s->slot[i].low, s->slot[i].high}) = s->slot[i];
    free(s->slot);
    *s = larger;
    return VP_OK;
}

int vp_idset_add(vp_idset *s, const char *id, size_t len, int64_t number, int64_t *earlier, vp_error *err) {
    if (3 * (s->n + 1) > 2 * s->cap) VP_TRY(grow(s, err));
    XXH128_hash_t h = XXH3_128bits(id, len);
    struct vp_idset_slot *slot = find(s, h);
    *earlier = slot->number - 1;
    if (slot->number) return VP_OK;
    *slot = (struct vp_idset_slot){h.low64, h.high64, number + 1};
    s->n++;
    return VP_OK;
}

bool vp_idset_find(const vp_idset *s, const char *id, size_t len, int64_t *number) {
    if (!s->cap) return false;
    *number = find(s, XXH3_128bits(id, len))->number - 1;
    return *number >= 0;
}

void vp_idset_free(vp_idset *s) {
    free(s->slot);
    *s = (vp_idset){0};
}
