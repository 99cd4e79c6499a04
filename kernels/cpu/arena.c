/* Memory of the CPU backend: its arena's chunks, and large pieces. */
#include "kernels/cpu/cpu.h"
#include <stdlib.h>
#include <sys/mman.h>

void *vp_pages_alloc(size_t bytes) {
    const size_t page = 4096, large = (size_t)2 << 20;
    void *p = NULL;
    if (posix_memalign(&p, bytes < 2 * large ? 256 : large, bytes)) return NULL;
    /* whole small pages of it, so that what lies behind keeps its own; advice: may be refused */
    if (bytes >= 2 * large) madvise(p, bytes / page * page, MADV_HUGEPAGE);
    return p;
}

static void *take_pages(void *ctx, size_t bytes) {
    (void)ctx;
    return vp_pages_alloc(bytes);
}

static void give_pages(void *ctx, void *p) {
    (void)ctx;
    free(p);
}

void vp_arena_open(vp_queue *q) {
    q->arena.take = take_pages;
    q->arena.give = give_pages;
}

void *vp_arena_alloc(vp_queue *q, size_t bytes) {
    return vp_arena_take(&q->arena, bytes);
}

size_t vp_arena_mark(const vp_queue *q) {
    return vp_arena_top(&q->arena);
}

void vp_arena_release(vp_queue *q, size_t mark) {
    vp_arena_back(&q->arena, mark);
}
