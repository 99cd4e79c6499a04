/* The CPU's device: threads, instruction sets, the arena, copies, and the loop that everything runs in. */
#include "kernels/cpu/cpu.h"
#include "tests/unit/tap.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const vp_backend *be;

static vp_device *open_device(int threads, const char *isa, vp_error *err) {
    vp_device_options options = {.threads = threads, .isa = isa};
    vp_device *d = NULL;
    *err = (vp_error){0};
    return be->open(&d, &options, err) ? NULL : d;
}

static void test_open(void) {
    vp_error err;
    vp_caps caps;
    vp_device *d = open_device(2, "scalar", &err);
    OK(d != NULL, "open with two threads");
    if (d) be->caps(d, &caps);
    OK(d && caps.threads == 2 && strcmp(caps.isa, "scalar") == 0 && !caps.bf16 && caps.memory > 0, "caps");
    be->close(d);
    d = open_device(1, "sse9", &err);
    OK(!d && err.code == VP_USAGE && strstr(err.text, "sse9"), "an unknown instruction set: %s", err.text);
    setenv("VP_ISA", "scalar", 1);
    d = open_device(1, NULL, &err);
    if (d) be->caps(d, &caps);
    OK(d && strcmp(caps.isa, "scalar") == 0, "VP_ISA decides when nothing is asked for");
    be->close(d);
    setenv("VP_ISA", "no such", 1);
    OK(!open_device(1, NULL, &err) && err.code == VP_USAGE, "VP_ISA is checked: %s", err.text);
    unsetenv("VP_ISA");
    be->close(NULL);
}

static void test_arena(void) {
    vp_error err = {0};
    vp_device *d = open_device(1, "scalar", &err);
    vp_queue *q = NULL;
    OK(!be->queue_open(&q, d, &err), "a queue");
    size_t start = be->arena_mark(q);
    char *first = be->arena_alloc(q, 100);
    size_t mark = be->arena_mark(q);
    bool aligned = true, kept = true;
    memset(first, 7, 100);
    for (int i = 1; i < 40; i++) { /* 20 MiB: several chunks */
        char *p = be->arena_alloc(q, (size_t)i << 15);
        aligned = aligned && p && (uintptr_t)p % 256 == 0;
        if (p) memset(p, i, (size_t)i << 15);
    }
    for (int i = 0; i < 100; i++) kept = kept && first[i] == 7;
    OK(aligned, "pieces are 256-byte aligned");
    OK(kept, "growing moves nothing");
    be->arena_release(q, mark);
    OK(be->arena_mark(q) == mark, "back at the mark");
    char *again = be->arena_alloc(q, 64), *third = be->arena_alloc(q, 64);
    be->arena_release(q, mark);
    OK(be->arena_alloc(q, 64) == again && be->arena_alloc(q, 64) == third, "released memory is used again");
    OK(!be->arena_alloc(q, SIZE_MAX - 10), "too much is refused");
    be->arena_release(q, start);
    OK(be->arena_alloc(q, 100) == first, "back at the start");
    char text[8] = "abc";
    OK(!be->copy(q, text + 1, text, 3) && strcmp(text, "aabc") == 0, "copy");
    OK(be->copy(q, NULL, text, 3) == VP_BUG && strstr(be->why(q), "copy"), "copy to nowhere: %s", be->why(q));
    OK(!be->queue_wait(q, &err), "wait");
    be->queue_close(q);
    be->close(d);
}

/* Room that was made is one run of memory, and stays where it is; a mark counts what was taken. */
static void test_reserve(void) {
    enum { PIECE = 3 << 20 };
    vp_error err = {0};
    vp_device *d = open_device(1, "scalar", &err);
    vp_queue *q = NULL;
    OK(!be->queue_open(&q, d, &err), "a queue");
    char *first = be->arena_alloc(q, 100);
    const size_t mark = be->arena_mark(q);
    bool good = first && !be->arena_reserve(q, 4 * PIECE);
    char *piece = be->arena_alloc(q, PIECE);
    for (int i = 1; i < 4; i++) good = good && (char *)be->arena_alloc(q, PIECE) == piece + i * PIECE;
    OK(good && be->arena_mark(q) == mark + 4 * PIECE, "what was made room for is one run");
    be->arena_release(q, mark);
    OK(!be->arena_reserve(q, 2 * PIECE) && be->arena_alloc(q, PIECE) == piece, "it is there again");
    be->arena_release(q, mark);
    OK(be->arena_most(q) == mark + 4 * PIECE, "the most that was taken is known");
    OK(be->arena_reserve(q, SIZE_MAX / 2) == VP_MEMORY && strstr(be->why(q), "needs"), "too much: %s", be->why(q));
    OK(be->memory_free(d) > 0, "so much memory is free: %zu", be->memory_free(d));
    be->queue_close(q);
    be->close(d);
}

/* What a plan would write is not kept from piece to piece; what lies below is. */
static void test_plan(void) {
    vp_error err = {0};
    vp_device *d = open_device(2, "scalar", &err);
    vp_queue *q = NULL;
    OK(!be->queue_plan(&q, d, &err), "a queue that plans");
    char *below = be->arena_alloc(q, 512);
    memset(below, 5, 512);
    const size_t mark = be->arena_mark(q);
    char *piece = be->arena_alloc(q, 100000);
    memset(piece, 9, 100000);
    be->arena_release(q, mark);
    const char *again = be->arena_alloc(q, (size_t)1 << 30);
    bool zeros = again == piece, kept = true;
    for (int i = 0; zeros && i < 200000; i++) zeros = again[i] == 0;
    for (int i = 0; i < 512; i++) kept = kept && below[i] == 5;
    OK(zeros, "released memory reads as zeros");
    OK(kept, "what lies below stays");
    float x[4] = {1, 2, 3, 4}, *out = be->arena_alloc(q, sizeof x);
    const vp_mat m = {.ptr = x, .dtype = VP_F32, .rows = 1, .cols = 4, .ld = 4};
    const vp_elem_op op = {.x = m, .out = {.ptr = out, .dtype = VP_F32, .rows = 1, .cols = 4, .ld = 4}, .a = 1};
    OK(!be->add(q, &op) && out[3] == 0, "nothing is computed");
    OK(!be->copy(q, out, x, sizeof x) && !memcmp(out, x, sizeof x), "columns come to it");
    x[0] = 7;
    OK(!be->copy(q, x, out, sizeof x) && (int)x[0] == 7, "and nothing comes back");
    be->queue_close(q);
    be->close(d);
}

/* ---- the loop ---- */
enum { ITEMS = 10007, LOOPS = 300, CALLERS = 3 };
typedef struct count {
    _Atomic int64_t sum;
    _Atomic int wrong;
    int threads;
} count;

static void add_item(void *ctx, int64_t item, int thread) {
    count *c = ctx;
    atomic_fetch_add(&c->sum, item + 1);
    if (thread < 0 || thread >= c->threads) atomic_fetch_add(&c->wrong, 1);
}

static void *run_loops(void *arg) {
    static const int64_t sizes[] = {0, 1, 2, 3, 5, ITEMS};
    vp_threads *pool = arg;
    for (int i = 0; i < LOOPS; i++) {
        int64_t n = sizes[i % 6];
        count c = {.threads = vp_threads_count(pool)};
        vp_threads_run(pool, n, add_item, &c);
        if (c.sum != n * (n + 1) / 2 || c.wrong) return arg;
    }
    return NULL;
}

static void test_loop(void) {
    vp_error err = {0};
    vp_threads *pool = NULL;
    OK(!vp_threads_open(&pool, 4, &err), "a pool of 4");
    pthread_t caller[CALLERS];
    bool good = true;
    for (int i = 0; i < CALLERS; i++) good = good && !pthread_create(&caller[i], NULL, run_loops, pool);
    for (int i = 0; i < CALLERS && good; i++) {
        void *failed = NULL;
        pthread_join(caller[i], &failed);
        good = good && !failed;
    }
    OK(good, "every item once, from %d callers in turn", CALLERS);
    vp_threads_close(pool);
}

static void test_failure(void) {
    vp_failure f;
    vp_error one = {.code = VP_DATA, .text = "item 8"}, two = {.code = VP_IO, .text = "item 3"}, got = {0};
    vp_failure_begin(&f);
    vp_failure_set(&f, 8, &one);
    vp_failure_set(&f, 3, &two);
    vp_failure_set(&f, 9, &one);
    OK(vp_failure_before(&f, 4) && !vp_failure_before(&f, 3), "items after a failed one are skipped");
    OK(vp_failure_end(&f, &got) == VP_IO && strcmp(got.text, "item 3") == 0, "the lowest item's failure is told");
}

int main(void) {
    be = vp_backend_cpu();
    test_open();
    test_arena();
    test_reserve();
    test_plan();
    test_loop();
    test_failure();
    return done();
}
