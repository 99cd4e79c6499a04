/* Philox4x32-10 (Salmon et al., SC 2011): random words as a function of a counter and a key, so that a draw does not
 * depend on what was drawn before it, on threads or on the machine. */
#ifndef VP_BASE_PHILOX_H
#define VP_BASE_PHILOX_H
#include <stdint.h>

/* key: the 64-bit seed, low word first. */
void vp_philox(const uint32_t counter[4], uint64_t key, uint32_t out[4]);

#endif
