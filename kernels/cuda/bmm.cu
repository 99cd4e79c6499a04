/* Batched products and their backward: out[i] = alpha a[i] (b[i] or b[i]^T); a [M, K], b [K, N] or [N, K],
 * out [M, N]. The matrices of one operation are all of one type. */
#include "kernels/cuda/product.h"
#include "kernels/cuda/rows.h"

int vp_cuda_bmm(vp_queue *q, const vp_bmm_op *op) {
    const int64_t m = op->a.rows, k = op->a.cols, n = op->transpose_b ? op->b.rows : op->b.cols;
    const vp_dtype type = op->a.dtype;
    VP_TRY(vp_check_mat(q, "bmm.a", &op->a, true, m, k));
    VP_TRY(vp_check_typed(q, "bmm.b", &op->b, type, op->transpose_b ? n : k, op->transpose_b ? k : n));
    VP_TRY(vp_check_typed(q, "bmm.out", &op->out, type, m, n));
    if (op->count <= 0) return VP_OK;
    vp_product_op p = {};
    p.kind = op->transpose_b ? VP_PRODUCT_NT : VP_PRODUCT_NN;
    p.M = m, p.N = n, p.K = k;
    p.type = p.d_type = type;
    p.a = op->a.ptr, p.lda = op->a.ld, p.stride_a = op->stride_a;
    p.b = op->b.ptr, p.ldb = op->b.ld, p.stride_b = op->stride_b;
    p.d = op->out.ptr, p.ldd = op->out.ld, p.stride_d = op->stride_out;
    p.count = op->count;
    p.alpha = &op->alpha;
    return vp_product_own(q, "bmm", &p);
}

/* db = alpha a^T dout, or of b transposed in the forward alpha dout^T a */
static int bmm_db(vp_queue *q, const vp_bmm_op *op) {
    const bool turned = op->transpose_b;
    const vp_mat *left = turned ? op->dout : &op->a, *right = turned ? &op->a : op->dout;
    vp_product_op p = {};
    p.kind = VP_PRODUCT_TN;
    p.M = op->db->rows, p.N = op->db->cols, p.K = op->a.rows;
    p.type = p.d_type = op->a.dtype;
    p.a = left->ptr, p.lda = left->ld, p.stride_a = turned ? op->stride_out : op->stride_a;
    p.b = right->ptr, p.ldb = right->ld, p.stride_b = turned ? op->stride_a : op->stride_out;
    p.d = op->db->ptr, p.ldd = op->db->ld, p.stride_d = op->stride_b;
    p.count = op->count;
    p.alpha = &op->alpha;
    return vp_product_own(q, "bmm_bwd", &p);
}

int vp_cuda_bmm_bwd(vp_queue *q, const vp_bmm_op *op) {
    const int64_t n = op->transpose_b ? op->b.rows : op->b.cols;
    const vp_dtype type = op->a.dtype;
    if (!op->dout) return vp_queue_fail(q, VP_BUG, "bmm_bwd: no gradient");
    VP_TRY(vp_check_typed(q, "bmm_bwd.dout", op->dout, type, op->a.rows, n));
    if (op->da) {
        VP_TRY(vp_check_typed(q, "bmm_bwd.da", op->da, type, op->a.rows, op->a.cols));
        vp_bmm_op da = {};
        da.a = *op->dout, da.b = op->b, da.out = *op->da;
        da.count = op->count;
        da.alpha = op->alpha;
        da.transpose_b = !op->transpose_b;
        da.stride_a = op->stride_out, da.stride_b = op->stride_b, da.stride_out = op->stride_a;
        VP_TRY(vp_cuda_bmm(q, &da));
    }
    if (!op->db || op->count <= 0) return VP_OK;
    VP_TRY(vp_check_typed(q, "bmm_bwd.db", op->db, type, op->b.rows, op->b.cols));
    return bmm_db(q, op);
}
