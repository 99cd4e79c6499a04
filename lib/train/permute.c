/* A Feistel network over Philox, with cycle walking: a permutation of the 4^h >= n numbers of 2h bits is followed from
 * i until it comes back below n, which restricts it to a permutation of 0..n-1. */
#include "lib/train/permute.h"
#include "lib/base/philox.h"

/* Halves of less than three bits have too few round functions to reach every permutation of a handful alike. */
enum { ROUNDS = 10, LEAST_BITS = 3 };
/* c3 of the counter: a layer that no model has keeps these draws apart from those of dropout and masking. */
#define COUNTER_SPACE 0xFFF00000u

static uint64_t network(const vp_permutation *p, uint64_t x, unsigned bits) {
    const uint64_t mask = ((uint64_t)1 << bits) - 1;
    uint64_t left = x >> bits, right = x & mask;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const uint32_t counter[4] = {(uint32_t)right, round | (uint32_t)(p->pass >> 32) << 8, (uint32_t)p->pass,
                                     COUNTER_SPACE | p->stream};
        uint32_t word[4];
        vp_philox(word, counter, p->seed);
        const uint64_t next = left ^ (word[0] & mask);
        left = right;
        right = next;
    }
    return left << bits | right;
}

uint64_t vp_permute(const vp_permutation *p, uint64_t i, uint64_t n) {
    unsigned bits = LEAST_BITS;
    if (n < 2) return 0;
    while (bits < 32 && (n - 1) >> (2 * bits)) bits++;
    do i = network(p, i, bits);
    while (i >= n);
    return i;
}
