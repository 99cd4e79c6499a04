/* Dropout (kernels/dropout.h) of what lies in a batch: rows of tokens, and attention's probabilities. */
#ifndef VP_CPU_DROP_H
#define VP_CPU_DROP_H
#include "kernels/cpu/cpu.h"

typedef struct vp_dropper {
    bool on; /* false: nothing is dropped, and no function below may be called */
    const vp_simd *simd;
    const vp_batch *batch;
    vp_drop drop;
    vp_drop_key key;
    uint32_t threshold;
    float scale;
} vp_dropper;

/* From an operation's `drop`, for a batch of `tokens` rows. VP_BUG: p is not in [0, 1), or what counters are made of is
 * missing or out of their range. */
int vp_dropper_make(vp_queue *q, const char *what, const vp_drop *drop, const vp_batch *batch, int64_t tokens,
                    vp_dropper *d);
/* out [rows, columns] = drop(x): the tokens [first, first + rows) of a matrix `width` wide, its columns from `column`
 * on. x and out point at the first of these elements, with ldx and ldo floats a row; out may be x. */
typedef struct vp_drop_part {
    int64_t first, rows, width, column, columns;
} vp_drop_part;
void vp_drop_rows(const vp_dropper *d, const vp_drop_part *part, const float *x, int64_t ldx, float *out, int64_t ldo);

/* Keep bits of keys [key, key + n) of one query and head of a sequence; key a multiple of 8, n <= 8 VP_DROP_KEYS. Both
 * indices count from the sequence's start. */
enum { VP_DROP_KEYS = 16 };
typedef struct vp_drop_bits {
    uint8_t bits[VP_DROP_KEYS + 2];
} vp_drop_bits;
void vp_drop_keys(const vp_dropper *d, int64_t sequence, int64_t head, int64_t query, int64_t key, int64_t n,
                  vp_drop_bits *bits);
/* p[i] = bit i ? scale p[i] : 0 */
static inline void vp_drop_apply(const vp_dropper *d, const vp_drop_bits *bits, float *p, int64_t n) {
    d->simd->drop->apply(p, p, n, bits->bits, 0, d->scale);
}

#endif
