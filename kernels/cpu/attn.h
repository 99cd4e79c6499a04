/* What attention and its backward pass share: who sees whom, where blocks of keys lie, the checks. */
#ifndef VP_CPU_ATTN_H
#define VP_CPU_ATTN_H
#include "kernels/cpu/cpu.h"

enum { VP_ATTN_BLOCK = 128 }; /* keys of a block, counted from the sequence's start */

typedef struct vp_attn_layout {
    const vp_batch *batch;
    int64_t *block_at;      /* [B + 1] first block of a sequence */
    int64_t blocks, height; /* of all sequences; keys of the highest block */
} vp_attn_layout;
typedef struct vp_attn_place {
    int64_t sequence, first, count; /* keys */
} vp_attn_place;
typedef struct vp_attn_visible { /* keys [lo, hi), less those of other segments */
    int64_t lo, hi;
} vp_attn_visible;

static inline int64_t vp_smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static inline int64_t vp_larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Shapes, offsets and tiles of a forward pass. */
int vp_attn_check(vp_queue *q, const vp_attn_op *op);
/* In the queue's arena. */
int vp_attn_layout_make(vp_queue *q, const vp_attn_op *op, vp_attn_layout *layout);
vp_attn_place vp_attn_find(const vp_attn_layout *layout, int64_t block);
/* What query i of a sequence of n tokens sees. */
vp_attn_visible vp_attn_sees(const vp_attn_op *op, int64_t sequence, int64_t i, int64_t n);
/* hide[c] = 0 where segment 0 or `own`, else -inf */
void vp_attn_hide(const uint8_t *seg, uint8_t own, int64_t n, float *hide);
/* top + log(sum of lanes); +inf when nothing was summed, so that exp(score - lse) is 0 */
float vp_attn_lse(float top, const float *lanes, int n);

#endif
