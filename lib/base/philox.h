/* Counter-based random numbers: a function of counter and key, without state. */
#ifndef VP_BASE_PHILOX_H
#define VP_BASE_PHILOX_H
#include "lib/base/anywhere.h"
#include <stdint.h>

/* Philox4x32-10 (Salmon et al., SC 2011): ten rounds of two 32 x 32 to 64 bit products over a counter of four words.
 * The low word of the key is the paper's first one. */
VP_ANYWHERE void vp_philox(uint32_t out[4], const uint32_t counter[4], uint64_t key) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

#endif
