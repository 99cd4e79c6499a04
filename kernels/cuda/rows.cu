/* What operations on rows check: types that must agree, gradients that must be there. */
#include "kernels/cuda/rows.h"

int vp_check_typed(vp_queue *q, const char *what, const vp_mat *m, vp_dtype type, int64_t rows, int64_t cols) {
    if (m->dtype != type)
        return vp_queue_fail(q, VP_BUG, "%s: is %s, must be %s", what, vp_dtype_name(m->dtype), vp_dtype_name(type));
    return vp_check_mat(q, what, m, true, rows, cols);
}

int vp_check_grad(vp_queue *q, const char *what, const vp_mat *m, vp_dtype type, int64_t rows, int64_t cols) {
    return m ? vp_check_typed(q, what, m, type, rows, cols) : vp_queue_fail(q, VP_BUG, "%s: is missing", what);
}
