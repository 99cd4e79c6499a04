/* Running text cut into blocks of equal length. Private to lib/text. */
#ifndef VP_TEXT_BLOCKS_H
#define VP_TEXT_BLOCKS_H
#include "lib/base/base.h"

typedef struct vp_blocks {
    int64_t n;    /* tokens of a block, >= 1 */
    vp_buf ids;   /* of int32_t */
    size_t taken; /* bytes of it that were handed out */
} vp_blocks;      /* {.n = N} is empty */

int vp_blocks_add(vp_blocks *b, const int32_t *ids, size_t n, vp_error *err);
/* The next n tokens, valid until the next call of vp_blocks_add; NULL: there are fewer. */
const int32_t *vp_blocks_next(vp_blocks *b);
int64_t vp_blocks_rest(const vp_blocks *b); /* tokens that were not handed out */
void vp_blocks_free(vp_blocks *b);

#endif
