/* Philox4x32-10: ten rounds of two 32x32 -> 64 bit products. */
#include "lib/base/philox.h"
#include <string.h>

enum { ROUNDS = 10 };
#define MULTIPLY_0 UINT64_C(0xD2511F53)
#define MULTIPLY_1 UINT64_C(0xCD9E8D57)
#define WEYL_0     UINT32_C(0x9E3779B9)
#define WEYL_1     UINT32_C(0xBB67AE85)

void vp_philox(const uint32_t counter[4], uint64_t key, uint32_t out[4]) {
    uint32_t c[4], k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    memcpy(c, counter, sizeof c);
    for (int i = 0; i < ROUNDS; i++, k0 += WEYL_0, k1 += WEYL_1) {
        const uint64_t a = MULTIPLY_0 * c[0], b = MULTIPLY_1 * c[2];
        const uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k1,
                                  (uint32_t)a};
        memcpy(c, next, sizeof c);
    }
    memcpy(out, c, sizeof c);
}
