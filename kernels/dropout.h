/* Dropout as every backend does it: which entries are kept, and what a kept one is multiplied by. A counter of
 * Philox4x32-10 decides on 8 neighbours, 16 bits each. Counter, in words:
 *   0  attention: query << 16 | key >> 3; element-wise: (token * width + channel) >> 3; all counted from the sequence's
 *      start. The neighbour is key & 7, or (token * width + channel) & 7
 *   1  the sequence's row          2  step          3  layer << 20 | site << 14 | head
 * Nothing here knows of batches: an entry is kept or not whatever else is computed with it. */
#ifndef VP_KERNELS_DROPOUT_H
#define VP_KERNELS_DROPOUT_H
#include <stdint.h>

enum { VP_DROP_LANES = 8 }; /* entries that one counter decides on */

/* Kept where a lane >= threshold: p in units of 2^-16, rounded, halves up. p in [0, 1) */
static inline uint32_t vp_drop_threshold(float p) {
    float units = p * 65536.0f; /* exact */
    uint32_t whole = (uint32_t)units;
    return whole + (units - (float)whole >= 0.5f);
}

/* 1 / (1 - threshold / 65536), rounded once. threshold < 65536 */
static inline float vp_drop_scale(uint32_t threshold) {
    return 65536.0f / (float)(65536u - threshold);
}

static inline uint32_t vp_drop_place(uint32_t layer, uint32_t site, uint32_t head) {
    return layer << 20 | site << 14 | head;
}

/* Bit i of the result: entry i of a counter's 8 is kept. word: what Philox made of the counter; entry 2 i is the low
 * half of word i, entry 2 i + 1 the high half. */
static inline uint32_t vp_drop_keep(const uint32_t word[4], uint32_t threshold) {
    uint32_t keep = 0;
    for (uint32_t i = 0; i < VP_DROP_LANES; i++)
        keep |= (uint32_t)((word[i / 2] >> 16 * (i % 2) & 0xffffu) >= threshold) << i;
    return keep;
}

#endif
