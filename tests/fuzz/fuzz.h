/* A seeded mutation fuzzer for the readers: round i of a target is the same input on every machine.
 * fuzz.c drives, mutate.c damages, targets.c has one row a reader. */
#ifndef VP_TESTS_FUZZ_H
#define VP_TESTS_FUZZ_H
#include "lib/base/base.h"

typedef struct fuzz_rng { /* counter-based: nothing but (key, counter) decides the next number */
    uint64_t key, counter;
} fuzz_rng;
uint64_t fuzz_next(fuzz_rng *r);
uint64_t fuzz_below(fuzz_rng *r, uint64_t n); /* 0..n-1; 0 for n = 0 */

enum { FUZZ_MAX_SEEDS = 16, FUZZ_MAX_INPUT = 1 << 18 };
typedef struct fuzz_seeds {
    vp_buf item[FUZZ_MAX_SEEDS]; /* small valid inputs */
    int n;
} fuzz_seeds;
vp_buf *fuzz_add_seed(fuzz_seeds *s); /* an empty one */

typedef struct fuzz_target {
    const char *name;
    int cost; /* the number of rounds is divided by it */
    void (*seeds)(fuzz_seeds *s);
    /* Make lengths and checksums true again in most rounds, so that damage reaches what lies behind them; or NULL. */
    void (*repair)(vp_buf *input);
    /* Read all of the input and free everything: the reader's status. */
    int (*run)(const vp_buf *input, vp_error *err);
} fuzz_target;
extern const fuzz_target fuzz_targets[]; /* ended by name NULL */

/* Damage the input in one to four places, with pieces of other seeds at hand. */
void fuzz_mutate(vp_buf *input, const fuzz_seeds *seeds, fuzz_rng *r);

#endif
