/* quant_rows: activations that no other kernel leaves in FP8 (the attention's output, what a gate without one gives).
 */
#include "kernels/cuda/f8.h"

struct quant_rows {
    vp_cells x;
    template <bool WIDE> VP_INLINE void get(int64_t i, int j, int n, float (&v)[VP_CELLS]) const {
        vp_load8<vp_either, WIDE>(x, i, j, n, v);
    }
};

int vp_cuda_quant_rows(vp_queue *q, const vp_quant_op *op) {
    const int64_t rows = op->x.rows, cols = op->x.cols;
    VP_TRY(vp_check_mat(q, "quant_rows.x", &op->x, true, rows, cols));
    VP_TRY(vp_check_f8(q, "quant_rows.out", &op->out, rows, cols));
    return vp_f8_run(q, "quant_rows", vp_wide(op->x), quant_rows{op->x}, op->out);
}
