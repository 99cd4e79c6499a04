/* Shuffles without state: any element of a seeded permutation, in constant memory. Private to lib/train and
 * lib/score. */
#ifndef VP_TRAIN_PERMUTE_H
#define VP_TRAIN_PERMUTE_H
#include <stdint.h>

/* What is shuffled; another number in any of the three gives an independent permutation. */
typedef struct vp_permutation {
    uint64_t seed;
    uint64_t pass;   /* below 2^56 */
    uint32_t stream; /* below 2^20 */
} vp_permutation;

/* Where the permutation of 0..n-1 sends i; i < n. */
uint64_t vp_permute(const vp_permutation *p, uint64_t i, uint64_t n);

#endif
