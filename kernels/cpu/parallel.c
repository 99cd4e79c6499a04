/* The one parallel loop: workers sleep on a condition variable, a loop wakes as many as it has items for, and items are
 * handed out by one atomic counter. What an item computes must not depend on who computes it.
 *
 * A step of generation is hundreds of loops of some 50 us, and to wake a thread takes about as long: who waits looks
 * for a while before it sleeps. */
#include "kernels/cpu/parallel.h"
#include <stdatomic.h>
#include <stdlib.h>

enum { LOOKS = 1000 }; /* some 20 to 50 us, as long as the machine's pause is */

typedef struct worker {
    vp_threads *threads;
    pthread_t thread;
    int id;
} worker;

struct vp_threads {
    pthread_mutex_t turn; /* one loop at a time */
    pthread_mutex_t lock; /* everything below but `next` */
    pthread_cond_t work, idle;
    vp_parallel_fn *fn;
    void *ctx;
    int64_t n;
    _Atomic int64_t next;
    _Atomic int invited; /* workers that may still join the loop */
    _Atomic int running; /* workers that have joined it; these three are looked at without the lock, too */
    _Atomic bool stop;
    bool pretends;
    int started;
    worker *workers;
};

static void look(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void take_items(vp_threads *pool, vp_parallel_fn *fn, void *ctx, int64_t n, int thread) {
    int64_t i;
    while ((i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed)) < n) fn(ctx, i, thread);
}

static void *worker_main(void *arg) {
    worker *self = arg;
    vp_threads *pool = self->threads;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        if (!pool->stop && pool->invited == 0) {
            pthread_mutex_unlock(&pool->lock);
            for (int i = 0; i < LOOKS && !pool->stop && pool->invited == 0; i++) look();
            pthread_mutex_lock(&pool->lock);
        }
        while (!pool->stop && pool->invited == 0) pthread_cond_wait(&pool->work, &pool->lock);
        if (pool->stop) break;
        pool->invited--;
        pool->running++;
        vp_parallel_fn *fn = pool->fn;
        void *ctx = pool->ctx;
        int64_t n = pool->n;
        pthread_mutex_unlock(&pool->lock);
        take_items(pool, fn, ctx, n, self->id);
        pthread_mutex_lock(&pool->lock);
        if (--pool->running == 0) pthread_cond_signal(&pool->idle);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

int vp_threads_count(const vp_threads *pool) {
    return pool->started + 1;
}

void vp_threads_run(vp_threads *pool, int64_t n, vp_parallel_fn *fn, void *ctx) {
    if (n <= 0 || pool->pretends) return;
    pthread_mutex_lock(&pool->turn);
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    int help = n - 1 < pool->started ? (int)(n - 1) : pool->started;
    if (help > 0) {
        pthread_mutex_lock(&pool->lock);
        pool->fn = fn;
        pool->ctx = ctx;
        pool->n = n;
        pool->invited = help;
        if (help == pool->started)
            pthread_cond_broadcast(&pool->work);
        else
            for (int i = 0; i < help; i++) pthread_cond_signal(&pool->work);
        pthread_mutex_unlock(&pool->lock);
    }
    take_items(pool, fn, ctx, n, 0);
    if (help > 0) {
        pthread_mutex_lock(&pool->lock);
        pool->invited = 0; /* whoever has not woken yet is not needed */
        pthread_mutex_unlock(&pool->lock);
        for (int i = 0; i < LOOKS && pool->running > 0; i++) look();
        pthread_mutex_lock(&pool->lock);
        while (pool->running > 0) pthread_cond_wait(&pool->idle, &pool->lock);
        pthread_mutex_unlock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->turn);
}

int vp_threads_pretend(vp_threads **pool, int threads, vp_error *err) {
    VP_TRY(vp_threads_open(pool, 1, err));
    (*pool)->pretends = true;
    (*pool)->started = threads - 1;
    return VP_OK;
}

int vp_threads_open(vp_threads **out, int threads, vp_error *err) {
    vp_threads *pool = vp_calloc(1, sizeof *pool);
    if (!pool) return vp_fail_memory(err, "thread pool", sizeof *pool);
    pthread_mutex_init(&pool->turn, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->idle, NULL);
    int wanted = threads > 1 ? threads - 1 : 0;
    if (wanted > 0 && !(pool->workers = vp_calloc((size_t)wanted, sizeof *pool->workers))) {
        vp_threads_close(pool);
        return vp_fail_memory(err, "thread pool", (size_t)wanted * sizeof *pool->workers);
    }
    for (int i = 0; i < wanted; i++) {
        pool->workers[i] = (worker){.threads = pool, .id = i + 1};
        int failed = pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]);
        if (failed) {
            vp_threads_close(pool);
            return vp_fail(err, VP_MEMORY, "threads: cannot start thread %d of %d", i + 2, threads);
        }
        pool->started++;
    }
    *out = pool;
    return VP_OK;
}

void vp_threads_close(vp_threads *pool) {
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->started && !pool->pretends; i++) pthread_join(pool->workers[i].thread, NULL);
    free(pool->workers);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->idle);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->turn);
    free(pool);
}

void vp_failure_begin(vp_failure *f) {
    *f = (vp_failure){.item = INT64_MAX};
    pthread_mutex_init(&f->lock, NULL);
}

bool vp_failure_before(vp_failure *f, int64_t item) {
    pthread_mutex_lock(&f->lock);
    bool failed = f->item < item;
    pthread_mutex_unlock(&f->lock);
    return failed;
}

void vp_failure_set(vp_failure *f, int64_t item, const vp_error *error) {
    pthread_mutex_lock(&f->lock);
    if (item < f->item) {
        f->item = item;
        f->error = *error;
    }
    pthread_mutex_unlock(&f->lock);
}

int vp_failure_end(vp_failure *f, vp_error *err) {
    pthread_mutex_destroy(&f->lock);
    return f->item == INT64_MAX ? VP_OK : vp_fail(err, f->error.code, "%s", f->error.text);
}
