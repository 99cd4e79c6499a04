/* The one parallel loop of the CPU backend: a pool of threads that block when idle. */
#ifndef VP_CPU_PARALLEL_H
#define VP_CPU_PARALLEL_H
#include "lib/base/base.h"
#include <pthread.h>

typedef struct vp_threads vp_threads;
/* One item; `thread` in [0, threads) is stable during the call, for per-thread scratch. */
typedef void vp_parallel_fn(void *ctx, int64_t item, int thread);

/* threads >= 1 counts the caller: threads - 1 are started. */
int vp_threads_open(vp_threads **pool, int threads, vp_error *err);
/* A pool of that many threads that runs nothing. */
int vp_threads_pretend(vp_threads **pool, int threads, vp_error *err);
void vp_threads_close(vp_threads *pool);
int vp_threads_count(const vp_threads *pool);
/* fn(ctx, i, thread) for every i in [0, n), handed out one by one in ascending order; returns when all are done. The
 * caller takes part as thread 0. Calls from several threads take turns; fn must not call it again. n = 1 runs inline.
 */
void vp_threads_run(vp_threads *pool, int64_t n, vp_parallel_fn *fn, void *ctx);

/* The failure of the lowest item of a loop whose items can fail: the same one however they were handed out. */
typedef struct vp_failure {
    pthread_mutex_t lock;
    int64_t item; /* INT64_MAX: none so far */
    vp_error error;
} vp_failure;
void vp_failure_begin(vp_failure *f);
bool vp_failure_before(vp_failure *f, int64_t item); /* an item before this one failed: skip it */
void vp_failure_set(vp_failure *f, int64_t item, const vp_error *error);
int vp_failure_end(vp_failure *f, vp_error *err); /* its code, copied into err; VP_OK: none */

#endif
