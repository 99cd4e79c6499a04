/* Two frames on their way: ahead.h. */
#include "lib/model/ahead.h"
#include "lib/model/encoder.h"
#include <pthread.h>
#include <stdlib.h>

typedef enum state { FREE, GIVEN, DONE } state;
typedef struct place {
    vp_ahead *ahead;
    int number;
    pthread_t thread;
    bool started;
    state state;
    vp_encoder *encoder; /* the thread's */
    int status;
    vp_error error;
} place;
struct vp_ahead {
    pthread_mutex_t lock; /* of the places' states, and `stop` */
    pthread_cond_t changed;
    vp_encoder *encoder;
    vp_ahead_fn *fn;
    void *ctx;
    place place[VP_AHEAD];
    int next, oldest; /* to be given and taken */
    bool stop;
};

/* A device is a thread's: its queue is opened by the thread that uses it. */
static void work(place *p) {
    p->error = (vp_error){0};
    p->status = VP_OK;
    if (!p->encoder) p->status = vp_encoder_twin(p->ahead->encoder, &p->encoder, &p->error);
    if (!p->status) p->status = p->ahead->fn(p->ahead->ctx, p->number, p->encoder, &p->error);
}

static void *place_main(void *arg) {
    place *p = arg;
    vp_ahead *a = p->ahead;
    pthread_mutex_lock(&a->lock);
    for (;;) {
        while (!a->stop && p->state != GIVEN) pthread_cond_wait(&a->changed, &a->lock);
        if (a->stop) break;
        pthread_mutex_unlock(&a->lock);
        work(p);
        pthread_mutex_lock(&a->lock);
        p->state = DONE;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

int vp_ahead_open(vp_ahead **out, vp_encoder *e, vp_ahead_fn *fn, void *ctx, vp_error *err) {
    bool fits;
    *out = NULL;
    VP_TRY(vp_encoder_fits_twice(e, &fits, err));
    if (!fits) return VP_OK;
    vp_ahead *a = vp_calloc(1, sizeof *a);
    if (!a) return vp_fail_memory(err, "frames ahead", sizeof *a);
    a->encoder = e;
    a->fn = fn;
    a->ctx = ctx;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    for (int i = 0; i < VP_AHEAD; i++) {
        a->place[i] = (place){.ahead = a, .number = i};
        a->place[i].started = !pthread_create(&a->place[i].thread, NULL, place_main, &a->place[i]);
        if (a->place[i].started) continue;
        vp_ahead_close(a);
        return vp_fail(err, VP_MEMORY, "threads: cannot start one for frames ahead");
    }
    *out = a;
    return VP_OK;
}

static bool is_free(vp_ahead *a, int number) {
    pthread_mutex_lock(&a->lock);
    const bool yes = a->place[number].state == FREE;
    pthread_mutex_unlock(&a->lock);
    return yes;
}

int vp_ahead_place(vp_ahead *a) {
    return is_free(a, a->next) ? a->next : -1;
}

bool vp_ahead_idle(vp_ahead *a) {
    return is_free(a, a->oldest);
}

void vp_ahead_give(vp_ahead *a) {
    pthread_mutex_lock(&a->lock);
    a->place[a->next].state = GIVEN;
    a->next = (a->next + 1) % VP_AHEAD;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

int vp_ahead_take(vp_ahead *a, bool wait, int *status, vp_error *err) {
    place *p = &a->place[a->oldest];
    pthread_mutex_lock(&a->lock);
    while (wait && p->state == GIVEN) pthread_cond_wait(&a->changed, &a->lock);
    const bool done = p->state == DONE;
    if (done) p->state = FREE;
    pthread_mutex_unlock(&a->lock);
    if (!done) return -1;
    a->oldest = (a->oldest + 1) % VP_AHEAD;
    *status = p->status;
    if (p->status) *err = p->error;
    return p->number;
}

void vp_ahead_close(vp_ahead *a) {
    if (!a) return;
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    for (int i = 0; i < VP_AHEAD; i++) {
        if (a->place[i].started) pthread_join(a->place[i].thread, NULL);
        vp_encoder_twin_close(a->place[i].encoder, a->encoder);
    }
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    free(a);
}
