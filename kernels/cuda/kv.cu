/* Keys and values to the end of their sequences' caches, or into host memory that the device reaches: one kernel
 * rounds and writes rows wherever they go. Legend: k and v [T, G d]. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/map.h"
#include <stdio.h>

namespace {
template <class T, class To> struct kv_map {
    vp_rows_of<const T> k, v;
    const int32_t *cu;
    int64_t B, cols, ld;
    void *const *k_to, *const *v_to;
    /* Columns [0, cols) are k's, the others v's. */
    template <bool> VP_INLINE void run(int64_t t, int first_col, int n) const {
        int64_t low = 0, high = B; /* the last sequence that begins at t or before, which is not empty */
        while (high - low > 1) {
            const int64_t middle = (low + high) / 2;
            if (cu[middle] <= t)
                low = middle;
            else
                high = middle;
        }
        for (int64_t col = first_col; col < first_col + n; col++) {
            const bool first = col < cols;
            const int64_t at = first ? col : col - cols;
            const float x = vp_float(first ? k.p[t * k.ld + at] : v.p[t * v.ld + at]);
            ((To *)(first ? k_to : v_to)[low])[(t - cu[low]) * ld + at] = vp_round<To>(x);
        }
    }
};
} // namespace

static int write_rows(vp_queue *q, const char *name, const vp_kv_op *op) {
    if (!op->batch || (op->dtype != VP_F32 && op->dtype != VP_BF16) || op->ld < op->k.cols)
        return vp_queue_fail(q, VP_BUG, "%s: no batch, or a cache of another type or width", name);
    char what[2][16];
    snprintf(what[0], sizeof what[0], "%s.k", name);
    snprintf(what[1], sizeof what[1], "%s.v", name);
    VP_TRY(vp_check_mat(q, what[0], &op->k, true, op->batch->T, op->k.cols));
    VP_TRY(vp_check_mat(q, what[1], &op->v, true, op->batch->T, op->k.cols));
    if (op->k.dtype != op->v.dtype) return vp_queue_fail(q, VP_BUG, "%s: k and v of unlike types", name);
    return vp_typed(op->k, [&](auto from) {
        using T = decltype(from);
        const auto run = [&](auto to) {
            using To = decltype(to);
            const kv_map<T, To> f = {op->k,      op->v,  op->batch->cu_q, op->batch->B,
                                     op->k.cols, op->ld, op->k_to,        op->v_to};
            return vp_map(q, name, false, f, op->batch->T, 2 * op->k.cols);
        };
        return op->dtype == VP_BF16 ? run(vp_bf16{}) : run(float{});
    });
}

int vp_cuda_kv_append(vp_queue *q, const vp_kv_op *op) {
    return write_rows(q, "kv_append", op);
}

int vp_cuda_kv_export(vp_queue *q, const vp_kv_op *op) {
    return write_rows(q, "kv_export", op);
}
