/* Device and queue of the CPU backend, argument checks, the loop over rows. */
#include "kernels/cpu/device.h"
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int usable_threads(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

int vp_cpu_open(vp_device **out, const vp_device_options *options, vp_error *err) {
    int threads = options->threads > 0 ? options->threads : usable_threads();
    const char *forced = getenv("VP_ISA");
    const char *isa = options->isa ? options->isa : forced && *forced ? forced : "auto";
    vp_device *d = vp_calloc(1, sizeof *d);
    if (!d) return vp_fail_memory(err, "device", sizeof *d);
    pthread_mutex_init(&d->prepare, NULL);
    int status = vp_simd_choose(isa, &d->simd, err);
    if (!status) d->bf16 = vp_bf16_supported(d->simd);
    if (!status) status = vp_threads_open(&d->threads, threads, err);
    const vp_simd *best = NULL;
    if (!status) status = vp_simd_choose("auto", &best, err);
    /* oneDNN chooses its instructions by itself: who forces lesser ones gets our own products */
    if (!status && d->simd == best) status = vp_product_open(&d->product, threads, err);
    if (status) {
        vp_cpu_close(d);
        return status;
    }
    *out = d;
    return VP_OK;
}

void vp_cpu_close(vp_device *d) {
    if (!d) return;
    vp_product_close(d->product);
    vp_threads_close(d->threads);
    pthread_mutex_destroy(&d->prepare);
    vp_slab_drop(d->slab);
    free(d);
}

void vp_cpu_caps(const vp_device *d, vp_caps *caps) {
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGE_SIZE);
    *caps = (vp_caps){.isa = d->simd->name,
                      .threads = vp_threads_count(d->threads),
                      .bf16 = d->bf16,
                      .memory = pages > 0 && size > 0 ? (size_t)pages * (size_t)size : 0};
}

int vp_cpu_queue_open(vp_queue **out, vp_device *d, vp_error *err) {
    vp_queue *q = vp_calloc(1, sizeof *q);
    if (!q) return vp_fail_memory(err, "queue", sizeof *q);
    q->device = d;
    vp_arena_open(q);
    *out = q;
    return VP_OK;
}

int vp_cpu_queue_plan(vp_queue **out, vp_device *d, vp_error *err) {
    vp_queue *q = vp_calloc(1, sizeof *q);
    if (!q || !(q->pretended = vp_calloc(1, sizeof *q->pretended))) {
        free(q);
        return vp_fail_memory(err, "a queue", sizeof *q);
    }
    *q->pretended = *d;
    q->device = q->pretended;
    int status = vp_threads_pretend(&q->pretended->threads, vp_threads_count(d->threads), err);
    if (status) q->pretended->threads = NULL;
    if (!status) status = vp_arena_pretend(q, err);
    if (status) {
        vp_cpu_queue_close(q);
        return status;
    }
    *out = q;
    return VP_OK;
}

void vp_cpu_queue_close(vp_queue *q) {
    if (!q) return;
    vp_arena_drop(&q->arena);
    if (q->pretended) vp_threads_close(q->pretended->threads);
    free(q->pretended);
    free(q);
}

/* Calls complete before they return, and return their failure: nothing is left to report. */
int vp_cpu_queue_wait(vp_queue *q, vp_error *err) {
    (void)q, (void)err;
    return VP_OK;
}

const char *vp_cpu_why(const vp_queue *q) {
    return q->error.text;
}

/* A queue that plans has the batch's columns brought to it, by which operations cut their work, and nothing else. */
int vp_cpu_copy(vp_queue *q, void *to, const void *from, size_t bytes) {
    if (q->pretended && (!from || !vp_arena_holds(q, to) || vp_arena_holds(q, from))) return VP_OK;
    if (bytes && (!to || !from)) return vp_queue_fail(q, VP_BUG, "copy: no memory given");
    if (bytes) memmove(to, from, bytes);
    return VP_OK;
}

void *vp_cpu_host_alloc(vp_device *d, size_t bytes) {
    (void)d;
    return vp_calloc(bytes ? bytes : 1, 1);
}

void vp_cpu_host_free(vp_device *d, void *p) {
    (void)d;
    free(p);
}

int vp_queue_fail(vp_queue *q, int code, const char *format, ...) {
    char text[sizeof q->error.text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    q->error = (vp_error){0}; /* the last failure is the one that `why` tells */
    return vp_fail(&q->error, code, "%s", text);
}

int vp_check_mat(vp_queue *q, const char *what, const vp_mat *m, vp_dtype dtype, int64_t rows, int64_t cols) {
    if (m->dtype != dtype)
        return vp_queue_fail(q, VP_BUG, "%s: is %s, must be %s", what, vp_dtype_name(m->dtype), vp_dtype_name(dtype));
    if (m->rows != rows || m->cols != cols || m->ld < cols || rows < 0 || cols < 0)
        return vp_queue_fail(q, VP_BUG, "%s: is [%lld, %lld] with rows %lld apart, must be [%lld, %lld]", what,
                             (long long)m->rows, (long long)m->cols, (long long)m->ld, (long long)rows,
                             (long long)cols);
    if (!m->ptr && rows > 0 && cols > 0) return vp_queue_fail(q, VP_BUG, "%s: no memory given", what);
    return VP_OK;
}

int vp_check_grad(vp_queue *q, const char *what, const vp_mat *m, int64_t rows, int64_t cols) {
    return m ? vp_check_mat(q, what, m, VP_F32, rows, cols) : vp_queue_fail(q, VP_BUG, "%s: is missing", what);
}

float *vp_queue_floats(vp_queue *q, const char *what, int64_t count) {
    size_t n = count > 0 ? (size_t)count : 0;
    float *p = n <= SIZE_MAX / sizeof *p ? vp_arena_alloc(q, n * sizeof *p) : NULL;
    if (!p) vp_queue_fail(q, VP_MEMORY, "out of memory: %s needs %zu bytes", what, n * sizeof *p);
    return p;
}

/* ---- rows in chunks ---- */
typedef struct row_loop {
    int64_t n, grain;
    vp_rows_fn *fn;
    void *ctx;
} row_loop;

static void row_chunk(void *ctx, int64_t item, int thread) {
    const row_loop *l = ctx;
    int64_t first = item * l->grain, last = first + l->grain;
    l->fn(l->ctx, first, last < l->n ? last : l->n, thread);
}

void vp_rows(vp_queue *q, int64_t n, int64_t grain, vp_rows_fn *fn, void *ctx) {
    row_loop l = {.n = n, .grain = grain > 0 ? grain : 1, .fn = fn, .ctx = ctx};
    vp_threads_run(q->device->threads, (n + l.grain - 1) / l.grain, row_chunk, &l);
}

int64_t vp_grain(int64_t work) {
    enum { CHUNK = 32768 }; /* floats: some microseconds, more than handing out costs */
    return work > 0 && work < CHUNK ? CHUNK / work : 1;
}
