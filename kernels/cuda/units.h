/* Gradient units on the device: runs of whole sequences whose weight gradients are summed by themselves, and then added
 * in order. Kernels find them in the batch; the host need not know where they lie. */
#ifndef VP_CUDA_UNITS_H
#define VP_CUDA_UNITS_H
#include "kernels/cuda/cuda.h"

struct vp_units {
    const int32_t *cu, *unit; /* [B + 1], [B]; unit NULL: one unit of all rows */
    int64_t B, rows;
};
/* The units of `rows` rows from a batch; one when there is no batch or it tells none. VP_BUG: its sequences are not
 * these rows. */
static inline int vp_units_make(vp_queue *q, const char *what, const vp_batch *batch, int64_t rows, vp_units *units) {
    *units = {NULL, NULL, 0, rows};
    if (!batch || !batch->unit) return VP_OK;
    if (!batch->cu_q || batch->T != rows)
        return vp_queue_fail(q, VP_BUG, "%s: the batch's sequences do not span %lld rows", what, (long long)rows);
    *units = {batch->cu_q, batch->unit, batch->B, rows};
    return VP_OK;
}
/* body(first, past) for the rows of every unit that has some, in order */
template <class F> VP_DEVICE void vp_units_walk(const vp_units &u, F body) {
    if (!u.unit && u.rows > 0) body((int64_t)0, u.rows);
    for (int64_t b = 0; u.unit && b < u.B;) {
        const int64_t first = u.cu[b];
        const int32_t unit = u.unit[b];
        while (b < u.B && u.unit[b] == unit) b++;
        if (u.cu[b] > first) body(first, (int64_t)u.cu[b]);
    }
}

/* The same for rows of expert e, which are ascending by token: the rows of the units that have some. */
template <class F> VP_DEVICE void vp_units_walk_expert(const vp_units &u, const vp_routing &to, int e, F body) {
    const int32_t first = to.offset[e], past = to.offset[e + 1];
    const auto row_of = [&](int64_t token) { /* the first one of this token or a later one */
                                             int32_t low = first, high = past;
                                             while (low < high) {
                                                 const int32_t middle = low + (high - low) / 2;
                                                 if (to.token[middle] < token)
                                                     low = middle + 1;
                                                 else
                                                     high = middle;
                                             }
                                             return (int64_t)low;
    };
    vp_units_walk(u, [&](int64_t from, int64_t to_token) {
        const int64_t low = row_of(from), high = row_of(to_token);
        if (high > low) body(low, high);
    });
}

#endif
