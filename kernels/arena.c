/* Scratch memory as a stack of chunks: arena.h. */
#include "kernels/arena.h"
#include <stdbool.h>
#include <stdint.h>

enum { ALIGN = 256 };
static const size_t FIRST_CHUNK = (size_t)1 << 20;

static void drop_chunks(vp_arena *a, int from) {
    while (a->chunks > from) a->give(a->ctx, a->chunk[--a->chunks].data);
}

/* A chunk of at least `bytes` after the current one. Too small ones are replaced; each is twice as large as all before.
 */
static bool next_chunk(vp_arena *a, size_t bytes) {
    int next = a->chunks ? a->current + 1 : 0;
    if (next >= a->chunks || a->chunk[next].size < bytes) {
        drop_chunks(a, next);
        if (next == VP_MAX_CHUNKS) return false;
        size_t start = next ? a->chunk[next - 1].start + a->chunk[next - 1].size : 0;
        size_t size = start ? 2 * start : FIRST_CHUNK;
        if (size < bytes) size = bytes;
        void *data = a->take(a->ctx, size);
        if (!data && size > bytes) data = a->take(a->ctx, size = bytes);
        if (!data) return false;
        a->chunk[next] = (vp_chunk){.data = data, .start = start, .size = size};
        a->chunks = next + 1;
    }
    a->current = next;
    a->used = 0;
    return true;
}

void *vp_arena_take(vp_arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 4) return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (bytes == 0) bytes = ALIGN;
    if (a->chunks == 0 || a->chunk[a->current].size - a->used < bytes)
        if (!next_chunk(a, bytes)) return NULL;
    void *p = a->chunk[a->current].data + a->used;
    a->used += bytes;
    return p;
}

size_t vp_arena_top(const vp_arena *a) {
    return a->chunks ? a->chunk[a->current].start + a->used : 0;
}

void vp_arena_back(vp_arena *a, size_t mark) {
    while (a->current > 0 && mark <= a->chunk[a->current].start) a->current--;
    if (a->chunks == 0) return;
    size_t used = mark - a->chunk[a->current].start;
    a->used = used < a->chunk[a->current].size ? used : a->chunk[a->current].size;
}

void vp_arena_drop(vp_arena *a) {
    drop_chunks(a, 0);
    a->current = 0;
    a->used = 0;
}
