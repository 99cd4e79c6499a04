/* The arena's chunks: which passes take a new one, and what is had where there is not enough for all that is wished. */
#include "kernels/arena.h"
#include "tests/unit/tap.h"
#include <stdlib.h>

typedef struct memory {
    size_t most; /* bytes of a chunk */
    int taken, given;
} memory;

static void *take(void *ctx, size_t bytes) {
    memory *m = ctx;
    if (bytes > m->most) return NULL;
    m->taken++;
    return aligned_alloc(256, (bytes + 255) / 256 * 256);
}

static void give(void *ctx, void *p) {
    ((memory *)ctx)->given++;
    free(p);
}

/* A pass over what is kept already: room for it, its pieces, back again. */
static bool pass(vp_arena *a, size_t bytes, size_t spare) {
    const size_t mark = vp_arena_top(a);
    const bool good =
        vp_arena_reserve(a, bytes, spare) && vp_arena_take(a, bytes / 2) && vp_arena_take(a, bytes / 2 - 256);
    vp_arena_back(a, mark);
    return good;
}

int main(void) {
    const size_t MiB = (size_t)1 << 20;
    memory m = {.most = 100 * MiB};
    vp_arena a = {.take = take, .give = give, .ctx = &m};
    OK(vp_arena_take(&a, 1000) && m.taken == 1, "a piece that stays makes the first chunk");
    OK(pass(&a, 8 * MiB, 2 * MiB) && m.taken == 2, "a pass beside it takes one");
    OK(pass(&a, 8 * MiB, 2 * MiB) && m.taken == 2, "the next one keeps it");
    OK(pass(&a, 9 * MiB, 9 * MiB / 4) && m.taken == 2, "so does one a little larger");
    OK(pass(&a, 10 * MiB, 10 * MiB / 4) && m.taken == 2, "up to what there was to spare");
    OK(pass(&a, 12 * MiB, 3 * MiB) && m.taken == 3 && m.given == 1, "a larger one takes another instead");
    OK(pass(&a, 4 * MiB, MiB) && m.taken == 3, "a smaller one keeps that");
    OK(pass(&a, 90 * MiB, 20 * MiB) && m.taken == 4, "where there is nothing to spare it is done without");
    OK(!pass(&a, 101 * MiB, 0), "what is not there is refused");
    vp_arena_drop(&a);
    OK(m.taken == m.given, "all is given back");
    return done();
}
