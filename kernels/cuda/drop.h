/* Dropout (kernels/dropout.h) in kernels: the keep bits of 8 neighbours, of attention's probabilities and of a row's
 * elements. A vp_dropper is made by the host from an operation's `drop` and given to a kernel by value. */
#ifndef VP_CUDA_DROP_H
#define VP_CUDA_DROP_H
#include "kernels/cuda/cuda.h"
#include "kernels/dropout.h"

struct vp_dropper {
    bool on; /* false: nothing is dropped, and no function below may be called */
    uint64_t seed;
    uint32_t step, place, threshold;
    float scale;        /* of what is kept */
    const int64_t *row; /* [B] */
    const int32_t *cu;  /* [B + 1] */
    int64_t B;
};

/* For a batch of `tokens` rows. VP_BUG: p is not in [0, 1), or what counters are made of is missing or out of their
 * range. */
int vp_dropper_make(vp_queue *q, const char *what, const vp_drop *drop, const vp_batch *batch, int64_t tokens,
                    vp_dropper *d);

/* Keep bits of a counter's 8 entries. `row` is the ordinal of the sequence. */
VP_DEVICE uint32_t vp_drop_bits(const vp_dropper &d, uint32_t place, uint32_t row, uint32_t first) {
    const uint32_t counter[4] = {first, row, d.step, place};
    uint32_t word[4];
    vp_philox(word, counter, d.seed);
    return vp_drop_keep(word, d.threshold);
}

/* Attention: bit i is key `key` + i of a query in a head, i < 8, key a multiple of 8; both count from the start of the
 * sequence, whose ordinal (batch.row) is `row`. */
VP_DEVICE uint32_t vp_drop_keys(const vp_dropper &d, uint32_t row, uint32_t head, uint32_t query, uint32_t key) {
    return vp_drop_bits(d, d.place | head, row, query << 16 | key / VP_DROP_LANES);
}

/* A token's place in its sequence. */
struct vp_drop_token {
    uint32_t row;  /* the sequence's ordinal */
    int64_t token; /* from the sequence's start */
};
VP_DEVICE vp_drop_token vp_drop_find(const vp_dropper &d, int64_t token) {
    const int64_t b = vp_drop_sequence(d.cu, d.B, token);
    return {(uint32_t)d.row[b], token - d.cu[b]};
}

/* Elements of rows that are `width` wide: bit i is column `column` + i of a token, i < 8. */
VP_DEVICE uint32_t vp_drop_columns(const vp_dropper &d, const vp_drop_token &t, int64_t width, int64_t column) {
    const int64_t at = t.token * width + column;
    const uint32_t first = (uint32_t)(at / VP_DROP_LANES), skip = (uint32_t)(at % VP_DROP_LANES);
    uint32_t bits = vp_drop_bits(d, d.place, t.row, first) >> skip;
    if (skip) bits |= vp_drop_bits(d, d.place, t.row, first + 1) << (VP_DROP_LANES - skip);
    return bits & 0xffu;
}

#endif
