/* The queue's scratch memory: 256-byte aligned pieces, taken and given back like a stack, in chunks that stay for the
 * next pass. A chunk never moves, so pieces stay valid while the arena grows. */
#include "kernels/cpu/cpu.h"
#include <stdlib.h>
#include <sys/mman.h>

enum { ALIGN = 256 };
static const size_t FIRST_CHUNK = (size_t)1 << 20;

void *vp_pages_alloc(size_t bytes) {
    const size_t page = 4096, large = (size_t)2 << 20;
    void *p = NULL;
    if (posix_memalign(&p, bytes < 2 * large ? ALIGN : large, bytes)) return NULL;
    /* whole small pages of it, so that what lies behind keeps its own; advice: may be refused */
    if (bytes >= 2 * large) madvise(p, bytes / page * page, MADV_HUGEPAGE);
    return p;
}

static void drop_chunks(vp_queue *q, int from) {
    while (q->chunks > from) free(q->chunk[--q->chunks].data);
}

/* A chunk of at least `bytes` after the current one. Too small ones are replaced; each is twice as large as all before.
 */
static bool next_chunk(vp_queue *q, size_t bytes) {
    int next = q->chunks ? q->current + 1 : 0;
    if (next >= q->chunks || q->chunk[next].size < bytes) {
        drop_chunks(q, next);
        if (next == VP_MAX_CHUNKS) return false;
        size_t start = next ? q->chunk[next - 1].start + q->chunk[next - 1].size : 0;
        size_t size = start ? 2 * start : FIRST_CHUNK;
        if (size < bytes) size = bytes;
        void *data = vp_pages_alloc(size);
        if (!data && size > bytes) data = vp_pages_alloc(size = bytes);
        if (!data) return false;
        q->chunk[next] = (vp_chunk){.data = data, .start = start, .size = size};
        q->chunks = next + 1;
    }
    q->current = next;
    q->used = 0;
    return true;
}

void *vp_arena_alloc(vp_queue *q, size_t bytes) {
    if (bytes > SIZE_MAX / 4) return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (bytes == 0) bytes = ALIGN;
    if (q->chunks == 0 || q->chunk[q->current].size - q->used < bytes)
        if (!next_chunk(q, bytes)) return NULL;
    void *p = q->chunk[q->current].data + q->used;
    q->used += bytes;
    return p;
}

size_t vp_arena_mark(const vp_queue *q) {
    return q->chunks ? q->chunk[q->current].start + q->used : 0;
}

void vp_arena_release(vp_queue *q, size_t mark) {
    while (q->current > 0 && mark <= q->chunk[q->current].start) q->current--;
    if (q->chunks == 0) return;
    size_t used = mark - q->chunk[q->current].start;
    q->used = used < q->chunk[q->current].size ? used : q->chunk[q->current].size;
}

void vp_arena_free(vp_queue *q) {
    drop_chunks(q, 0);
    q->current = 0;
    q->used = 0;
}
