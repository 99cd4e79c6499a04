/* Block packing, as masked and next-token training on running text does it: texts end to end, cut every `n` tokens, so
 * that attention crosses from one text to the next. */
#include "lib/text/blocks.h"
#include <stdlib.h>
#include <string.h>

int vp_blocks_add(vp_blocks *b, const int32_t *ids, size_t n, vp_error *err) {
    if (b->taken) { /* what was handed out makes room */
        const size_t rest = b->ids.len - b->taken;
        memmove(b->ids.data, b->ids.data + b->taken, rest);
        b->ids.len = rest;
        b->taken = 0;
    }
    return vp_buf_add(&b->ids, ids, n * sizeof *ids, err);
}

const int32_t *vp_blocks_next(vp_blocks *b) {
    const size_t bytes = (size_t)b->n * sizeof(int32_t);
    if (b->ids.len - b->taken < bytes) return NULL;
    const char *block = b->ids.data + b->taken;
    b->taken += bytes;
    return (const int32_t *)(const void *)block;
}

int64_t vp_blocks_rest(const vp_blocks *b) {
    return (int64_t)((b->ids.len - b->taken) / sizeof(int32_t));
}

void vp_blocks_free(vp_blocks *b) {
    vp_buf_free(&b->ids);
    b->taken = 0;
}
