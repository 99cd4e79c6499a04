/* Softmax over candidates against a positive or a teacher, from scores to loss and gradient. Legend: Q queries,
 * N candidates. Of a query without candidates, or whose positive is none, the loss is not a number. */
#include "kernels/cuda/log.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/vec.h"

template <bool WIDE> struct nce_rows {
    static constexpr int BLOCKS = 3;
    vp_cells s, ds; /* ds.p NULL: no gradient */
    vp_nce_op op;
    float by; /* 1 / denominator */

    /* e[k] = s[row, c + k], -infinity where it is no candidate */
    VP_INLINE void load(int64_t row, int cols, int c, int n, float e[VP_CELLS]) const {
        vp_row_load<float, WIDE>(s, row, c, n, e);
        for (int k = 0; k < VP_CELLS; k++)
            if (k >= n || (op.exclude && op.exclude[row * cols + c + k])) e[k] = -INFINITY;
    }
    VP_INLINE float taught(int64_t row, int cols, int c) const {
        return op.teacher ? op.teacher[row * cols + c] : 0.0f;
    }

    /* What a pass needs of a row it reads: held numbers would cost more registers than reading again costs. */
    template <int LANES, int SLOTS> VP_INLINE void run(const vp_row<LANES, SLOTS> &r) const {
        float top = -INFINITY, sum = 0.0f, kl = 0.0f;
        const int32_t at = r.live && op.positive ? op.positive[r.row] : -1;
        const bool in = at >= 0 && at < r.n && !(op.exclude && op.exclude[r.row * r.n + at]);
        const float own = in ? ((const float *)s.p)[r.row * s.ld + at] : NAN;
        r.each([&](int, int c, int n) {
            float e[VP_CELLS];
            load(r.row, r.n, c, n, e);
            for (int k = 0; k < VP_CELLS; k++) top = k < n ? v_max(e[k], top) : top;
        });
        top = r.max(top);
        r.each([&](int, int c, int n) {
            float e[VP_CELLS];
            load(r.row, r.n, c, n, e);
            for (int k = 0; k < VP_CELLS; k++) sum += k < n ? v_exp(e[k] - top) : 0.0f;
        });
        sum = r.sum(sum);
        const double lse = sum > 0.0f ? (double)top + vp_log((double)sum) : NAN;
        if (op.teacher) {
            r.each([&](int, int c, int n) { kl += diverge(r.row, r.n, c, n, lse); });
            kl = r.sum(kl);
        }
        if (r.live && r.lane == 0)
            op.loss[r.row] = (float)((op.teacher ? (double)kl : lse - (double)own) / op.denominator);
        if (!ds.p) return;
        r.each([&](int, int c, int n) {
            float e[VP_CELLS];
            load(r.row, r.n, c, n, e);
            for (int k = 0; k < VP_CELLS; k++) {
                e[k] = by / sum * v_exp(e[k] - top);
                if (k < n) e[k] -= by * taught(r.row, r.n, c + k);
                if (c + k == at) e[k] -= by;
            }
            vp_row_store<float, WIDE>(ds, r.row, c, n, e);
        });
    }
    /* sum t (log t - log softmax(s)) of candidates [c, c + n) */
    VP_INLINE float diverge(int64_t row, int cols, int c, int n, double lse) const {
        double kl = 0.0;
        for (int k = 0; k < n; k++) {
            const float t = taught(row, cols, c + k), score = ((const float *)s.p)[row * s.ld + c + k];
            if (t > 0.0f) kl += (double)t * (vp_log((double)t) - ((double)score - lse));
        }
        return (float)kl;
    }
};

int vp_cuda_nce(vp_queue *q, const vp_nce_op *op) {
    const int64_t Q = op->s.rows, n = op->s.cols;
    VP_TRY(vp_check_typed(q, "nce.s", &op->s, VP_F32, Q, n));
    if (op->ds) VP_TRY(vp_check_typed(q, "nce.ds", op->ds, VP_F32, Q, n));
    if (!op->positive == !op->teacher) return vp_queue_fail(q, VP_BUG, "nce: either positives or teachers");
    if (Q && !(op->denominator > 0)) return vp_queue_fail(q, VP_BUG, "nce: the denominator is not positive");
    const vp_mat none = {NULL, VP_F32, 0, 0, 0, NULL}, *ds = op->ds ? op->ds : &none;
    const float by = (float)(1.0 / op->denominator);
    vp_nce_op on = *op;
    on.ds = NULL; /* the host's */
    return vp_wide(op->s, *ds) ? vp_row_map(q, "nce", nce_rows<true>{op->s, *ds, on, by}, Q, n)
                               : vp_row_map(q, "nce", nce_rows<false>{op->s, *ds, on, by}, Q, n);
}
