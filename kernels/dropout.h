/* Dropout as every backend does it: which entries are kept, and what a kept one is multiplied by. A counter of
 * Philox4x32-10 decides on 8 neighbours, 16 bits each. Counter, in words:
 *   0  attention: query << 16 | key >> 3; element-wise: (token * width + channel) >> 3; all counted from the sequence's
 *      start. The neighbour is key & 7, or (token * width + channel) & 7
 *   1  the sequence's row          2  step          3  layer << 20 | site << 14 | head
 * Nothing here knows of batches: an entry is kept or not whatever else is computed with it. */
#ifndef VP_KERNELS_DROPOUT_H
#define VP_KERNELS_DROPOUT_H
#include "lib/base/anywhere.h"
#include "lib/base/philox.h"

enum {
    VP_DROP_LANES = 8, /* entries that one counter decides on */
    /* heads take 14 bits of a counter, sites 6, layers 12; queries 16; an element's index / 8 takes 32 */
    VP_DROP_QUERIES = 1 << 16,
    VP_DROP_SITES = 1 << 6,
    VP_DROP_LAYERS = 1 << 12
};

/* Kept where a lane >= threshold: p in units of 2^-16, rounded, halves up. p in [0, 1) */
VP_ANYWHERE uint32_t vp_drop_threshold(float p) {
    float units = p * 65536.0f; /* exact */
    uint32_t whole = (uint32_t)units;
    return whole + (units - (float)whole >= 0.5f);
}

/* 1 / (1 - threshold / 65536), rounded once. threshold < 65536 */
VP_ANYWHERE float vp_drop_scale(uint32_t threshold) {
    return 65536.0f / (float)(65536u - threshold);
}

VP_ANYWHERE uint32_t vp_drop_place(uint32_t layer, uint32_t site, uint32_t head) {
    return layer << 20 | site << 14 | head;
}

/* Which of B sequences has a token: the last one that begins at or before it. cu [B + 1], B > 0 */
VP_ANYWHERE int64_t vp_drop_sequence(const int32_t *cu, int64_t B, int64_t token) {
    int64_t low = 0, high = B;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (cu[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Bit i of the result: entry i of a counter's 8 is kept. word: what Philox made of the counter; entry 2 i is the low
 * half of word i, entry 2 i + 1 the high half. */
VP_ANYWHERE uint32_t vp_drop_keep(const uint32_t word[4], uint32_t threshold) {
    uint32_t keep = 0;
    for (uint32_t i = 0; i < VP_DROP_LANES; i++)
        keep |= (uint32_t)((word[i / 2] >> 16 * (i % 2) & 0xffffu) >= threshold) << i;
    return keep;
}

#endif
