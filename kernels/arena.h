/* A queue's scratch memory: 256-byte aligned pieces, taken and given back like a stack, in chunks that stay for the
 * next pass. A chunk never moves, so pieces stay valid while the arena grows. Where chunks come from is the backend's.
 */
#ifndef VP_KERNELS_ARENA_H
#define VP_KERNELS_ARENA_H
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
typedef struct vp_chunk {
    char *data;
    size_t start, size; /* start: what was taken before it */
} vp_chunk;
enum { VP_MAX_CHUNKS = 64 };
typedef struct vp_arena {
    void *(*take)(void *ctx, size_t bytes); /* memory at a multiple of 256, or NULL */
    void (*give)(void *ctx, void *p);
    void *ctx;
    vp_chunk chunk[VP_MAX_CHUNKS];
    int chunks, current;
    size_t used; /* of the current chunk */
    size_t most; /* the largest top so far */
} vp_arena;

void *vp_arena_take(vp_arena *a, size_t bytes); /* NULL: there is no more */
size_t vp_arena_top(const vp_arena *a);
void vp_arena_back(vp_arena *a, size_t mark); /* to where vp_arena_top was */
/* Make room for pieces of `bytes` in all after the top, so that taking them does not grow it, and for `spare` more if
 * there is not room enough and it can be had. False: there is no more. */
bool vp_arena_reserve(vp_arena *a, size_t bytes, size_t spare);
void vp_arena_drop(vp_arena *a);
#ifdef __cplusplus
}
#endif

#endif
