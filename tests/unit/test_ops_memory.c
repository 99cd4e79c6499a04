/* The host's memory that results come to: a backend's host_alloc, and results of any size by way of it to memory that
 * is not pinned (lib/model/compute.h). */
#include "lib/model/compute.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>

static const size_t MIB = (size_t)1 << 20;

/* Pieces that are held at once lie apart. */
static void check_apart(const vp_compute *c) {
    enum { N = 5 };
    unsigned char *p[N];
    bool good = true;
    vp_error err = {0};
    for (size_t i = 0; i < N; i++) {
        p[i] = vp_compute_host(c, "a piece", (i + 1) * MIB / 3, &err);
        if (p[i]) memset(p[i], (int)i + 1, (i + 1) * MIB / 3);
    }
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; good && k < (i + 1) * MIB / 3; k++) good = p[i] && p[i][k] == i + 1;
    OK(good, "five pieces at once, each with its own bytes %s", err.text);
    for (size_t i = 0; i < N; i++) vp_compute_host_free(c, p[i]);
}

/* Pinned memory is kept for who needs about as much. Of the CPU's the C library decides. */
static void check_kept(const vp_compute *c) {
    vp_error err = {0};
    void *const large = vp_compute_host(c, "a piece", 64 * MIB, &err);
    vp_compute_host_free(c, large);
    void *const few = vp_compute_host(c, "a piece", 8 * MIB, &err), *const most =
                                                                        vp_compute_host(c, "a piece", 60 * MIB, &err);
    OK(large && most == large && few && few != large, "what was freed is taken again, not by who needs far less");
    void *const more = vp_compute_host(c, "a piece", 65 * MIB, &err);
    OK(more && more != large, "nor by who needs more");
    vp_compute_host_free(c, more);
    vp_compute_host_free(c, few);
    vp_compute_host_free(c, most);
}

static bool on_shim(const vp_compute *c) {
    vp_caps caps;
    c->ops->caps(c->device, &caps);
    return !strcmp(caps.isa, "shim");
}

/* The shim has as many pinned bytes as this says, and lets results go to no other memory. */
static void check_scarce(const vp_compute *c) {
    vp_error err = {0};
    setenv("VP_SHIM_PINNED", "200000000", 1);
    void *p[] = {vp_compute_host(c, "a piece", 100 * MIB, &err), NULL};
    vp_compute_host_free(c, p[0]);
    p[0] = vp_compute_host(c, "a piece", 150 * MIB, &err);
    p[1] = vp_compute_host(c, "two pieces", 150 * MIB, &err);
    OK(p[0] && !p[1] && err.code == VP_MEMORY && strstr(err.text, "two pieces"),
       "what nobody uses makes way; where there is no more it is told: %s", err.text);
    vp_compute_host_free(c, p[0]);
}

static void check_fetch(const vp_compute *c, size_t bytes) {
    vp_error err = {0};
    unsigned char *from = malloc(bytes + 1), *to = calloc(bytes + 1, 1);
    const size_t mark = c->ops->arena_mark(c->queue);
    void *there = vp_compute_take(c, "results", bytes, &err);
    for (size_t i = 0; i < bytes; i++) from[i] = (unsigned char)(i * 2654435761u >> 13);
    int status = there ? vp_compute_move(c, there, from, bytes, &err) : VP_MEMORY;
    if (!status) status = vp_compute_fetch(c, to, there, bytes, &err);
    OK(!status && !memcmp(from, to, bytes) && !to[bytes], "%zu bytes come as they are %s", bytes, err.text);
    c->ops->arena_release(c->queue, mark);
    free(from);
    free(to);
}

int main(void) {
    vp_error err = {0};
    vp_compute c = {0};
    if (OK(!vp_compute_open(&c, getenv("VP_TEST_DEVICE"), 1, NULL, &err), "opens %s", err.text)) {
        check_apart(&c);
        if (c.separate) check_kept(&c);
        if (on_shim(&c)) check_scarce(&c);
        const size_t sizes[] = {0, 1, 4095, 4 * MIB, 4 * MIB + 1, 8 * MIB, 13 * MIB + 7};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) check_fetch(&c, sizes[i]);
    }
    vp_compute_close(&c);
    return done();
}
