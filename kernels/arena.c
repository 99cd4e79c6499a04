/* Scratch memory as a stack of chunks: arena.h. */
#include "kernels/arena.h"
#include <stdbool.h>
#include <stdint.h>

enum { ALIGN = 256 };
static const size_t FIRST_CHUNK = (size_t)1 << 20;

static void drop_chunks(vp_arena *a, int from) {
    while (a->chunks > from) a->give(a->ctx, a->chunk[--a->chunks].data);
}

/* A chunk of at least `bytes` after the current one, which replaces one that is too small: with `spare` more if that
 * can be had, and of `percent` of all before it, if that is more. Steps that grow so keep the chunks few. */
static bool have_chunk(vp_arena *a, size_t bytes, size_t spare, size_t percent) {
    int next = a->chunks ? a->current + 1 : 0;
    if (next < a->chunks && a->chunk[next].size >= bytes) return true;
    drop_chunks(a, next);
    if (next == VP_MAX_CHUNKS) return false;
    size_t all = 0;
    for (int i = 0; i < next; i++) all += a->chunk[i].size;
    size_t size = all ? all / 100 * percent : FIRST_CHUNK;
    if (size < bytes + spare) size = bytes + spare;
    void *data = a->take(a->ctx, size);
    if (!data && size > bytes) data = a->take(a->ctx, size = bytes);
    if (!data) return false;
    a->chunk[next] = (vp_chunk){.data = data, .size = size};
    a->chunks = next + 1;
    return true;
}

static size_t aligned(size_t bytes) {
    return bytes ? (bytes + ALIGN - 1) / ALIGN * ALIGN : ALIGN;
}

void *vp_arena_take(vp_arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 4) return NULL;
    bytes = aligned(bytes);
    if (a->chunks == 0 || a->chunk[a->current].size - a->used < bytes) {
        const size_t top = vp_arena_top(a);
        const int next = a->chunks ? a->current + 1 : 0;
        if (!have_chunk(a, bytes, 0, 50)) return NULL;
        a->current = next;
        a->chunk[next].start = top;
        a->used = 0;
    }
    void *p = a->chunk[a->current].data + a->used;
    a->used += bytes;
    if (vp_arena_top(a) > a->most) a->most = vp_arena_top(a);
    return p;
}

bool vp_arena_reserve(vp_arena *a, size_t bytes, size_t spare) {
    if (bytes > SIZE_MAX / 4 || spare > SIZE_MAX / 4) return false;
    bytes = aligned(bytes);
    if (a->chunks && a->chunk[a->current].size - a->used >= bytes) return true;
    return have_chunk(a, bytes, spare, 25);
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
