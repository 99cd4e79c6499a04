/* Counter-based random numbers: a function of counter and key, without state. */
#ifndef VP_BASE_PHILOX_H
#define VP_BASE_PHILOX_H
#include <stdint.h>

/* Philox4x32-10 (Salmon et al., SC 2011). The low word of the key is the paper's first one. */
void vp_philox(uint32_t out[4], const uint32_t counter[4], uint64_t key);

#endif
