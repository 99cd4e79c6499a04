/* Memory of the CPU backend: its arena's chunks, large pieces, addresses to plan with, and how much is free. */
#include "kernels/cpu/cpu.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

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

/* ---- addresses alone ---- */

static void give_range(void *ctx, void *p) {
    const vp_queue *q = ctx;
    munmap(p, q->arena.chunk[0].size);
}

int vp_arena_pretend(vp_queue *q, vp_error *err) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    size_t bytes = (size_t)1 << 42; /* or as much as the process may have */
    void *p;
    while ((p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0)) == MAP_FAILED && bytes > (size_t)1 << 28)
        bytes /= 2;
    if (p == MAP_FAILED) return vp_fail_memory(err, "a plan", bytes);
    madvise(p, bytes, MADV_NOHUGEPAGE); /* what is written of it is little, here and there */
    q->arena = (vp_arena){.give = give_range, .ctx = q, .chunk = {{.data = p, .size = bytes}}, .chunks = 1};
    return VP_OK;
}

/* Zeros again between two offsets: to the end of a page, and whole pages from there. */
static void forget(char *data, size_t from, size_t to) {
    const size_t page = 4096, next = (from + page - 1) / page * page;
    if (from < to) memset(data + from, 0, (next < to ? next : to) - from);
    if (next < to) madvise(data + next, (to - next + page - 1) / page * page, MADV_DONTNEED);
}

bool vp_arena_holds(const vp_queue *q, const void *p) {
    const vp_chunk *c = &q->arena.chunk[0];
    return (uintptr_t)p - (uintptr_t)c->data < c->size;
}

/* ---- the table's functions ---- */

void *vp_arena_alloc(vp_queue *q, size_t bytes) {
    return vp_arena_take(&q->arena, bytes);
}

size_t vp_arena_mark(const vp_queue *q) {
    return vp_arena_top(&q->arena);
}

void vp_arena_release(vp_queue *q, size_t mark) {
    const size_t top = vp_arena_top(&q->arena);
    vp_arena_back(&q->arena, mark);
    if (q->pretended) forget(q->arena.chunk[0].data, vp_arena_top(&q->arena), top);
}

size_t vp_cpu_arena_most(const vp_queue *q) {
    return q->arena.most;
}

/* Pages that are not touched cost nothing: with some to spare a pass that is a little larger than all before it keeps
 * the pages that those have touched. */
int vp_cpu_arena_reserve(vp_queue *q, size_t bytes) {
    if (vp_arena_reserve(&q->arena, bytes, bytes / 4)) return VP_OK;
    return vp_queue_fail(q, VP_MEMORY, "out of memory: scratch memory needs %zu bytes", bytes);
}

/* A number of bytes in a line of the system's tables, "NAME:  123 kB"; 0: there is none. */
static size_t kilobytes(const char *path, const char *name) {
    char line[160];
    unsigned long long n = 0;
    FILE *f = fopen(path, "re");
    while (f && !n && fgets(line, sizeof line, f))
        if (!strncmp(line, name, strlen(name)) && sscanf(line + strlen(name), " %llu kB", &n) != 1) n = 0;
    if (f) fclose(f);
    return (size_t)n << 10;
}

size_t vp_cpu_memory_free(const vp_device *d) {
    struct rlimit most;
    size_t bytes = kilobytes("/proc/meminfo", "MemAvailable:");
    (void)d;
    if (getrlimit(RLIMIT_AS, &most) || most.rlim_cur == RLIM_INFINITY) return bytes;
    const size_t used = kilobytes("/proc/self/status", "VmSize:");
    const size_t left = most.rlim_cur > used ? (size_t)most.rlim_cur - used : 1;
    return bytes && bytes < left ? bytes : left;
}
