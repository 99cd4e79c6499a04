/* The library of products on the device: cuBLASLt, with algorithms that certify.cu has found to give a row the same
 * bytes wherever it stands and however many there are. The only other file that names cuBLASLt. */
#ifndef VP_SHIM
#include "kernels/cuda/plan.h"
#include "kernels/cuda/refused.h"
#include <algorithm>

/* Matrices of cuBLASLt are column-major, so that D^T [N, M] = op(B) A^T: B comes first, and is turned where ours is
 * not.
 */
static cudaDataType_t type_of(vp_dtype type) {
    return type == VP_F8 ? CUDA_R_8F_E4M3 : type == VP_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* Each element of D times the scale of its row of A and that of its row of B. The library has it on sm_90 alone, for
 * NT, BF16 or F32 results; sums are promoted to F32 on the way, as fast accumulation is off unless asked for. */
static cublasStatus_t set_scales(cublasLtMatmulDesc_t product, const vp_plan_scales &scales) {
    const int32_t rows = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const struct {
        cublasLtMatmulDescAttributes_t mode, pointer;
        const float *scale;
    } sides[] = {{CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scales.b},
                 {CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scales.a}};
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    for (const auto &side : sides) {
        if (!status) status = cublasLtMatmulDescSetAttribute(product, side.mode, &rows, sizeof rows);
        if (!status) status = cublasLtMatmulDescSetAttribute(product, side.pointer, &side.scale, sizeof side.scale);
    }
    return status;
}

vp_plan_call::vp_plan_call(const vp_plan_shape &s, int64_t M, int64_t lda, int64_t ldb, int64_t ldd,
                           vp_plan_scales scales) {
    const cublasOperation_t turned = CUBLAS_OP_T;
    const uint64_t k = (uint64_t)s.K, n = (uint64_t)s.N, m = (uint64_t)M;
    const bool nt = s.kind == VP_PRODUCT_NT;
    status = cublasLtMatmulDescCreate(&product, s.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!status && nt)
        status = cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned);
    if (!status && s.type == VP_F8) status = set_scales(product, scales);
    if (!status) status = cublasLtMatrixLayoutCreate(&b, type_of(s.type), nt ? k : n, nt ? n : k, ldb);
    if (!status) status = cublasLtMatrixLayoutCreate(&a, type_of(s.type), k, m, lda);
    if (!status) status = cublasLtMatrixLayoutCreate(&d, type_of(s.d_type), n, m, ldd);
}

vp_plan_call::~vp_plan_call() {
    if (product) cublasLtMatmulDescDestroy(product);
    for (cublasLtMatrixLayout_t m : {a, b, d})
        if (m) cublasLtMatrixLayoutDestroy(m);
}

cublasStatus_t vp_plan_run(cublasLtHandle_t library, const vp_plan_call &call, const cublasLtMatmulAlgo_t *algo,
                           const void *a, const void *b, void *d, void *workspace, cudaStream_t stream) {
    const float one = 1.0f, zero = 0.0f;
    if (call.status) return call.status;
    return cublasLtMatmul(library, call.product, &one, b, call.b, a, call.a, &zero, d, call.d, d, call.d, algo,
                          workspace, VP_PLAN_WORKSPACE, stream);
}

int vp_plan_class(int64_t M) {
    return M <= 32 ? 0 : M <= 256 ? 1 : M <= 2048 ? 2 : 3;
}

static vp_plan_shape shape_of(const vp_product *p, const vp_product_op *op) {
    return {op->kind, op->N, op->K, op->type, op->d_type, p->tf32 && op->type == VP_F32};
}

static const vp_plan *find(const vp_product *p, const vp_plan_shape &shape) {
    const auto at = std::find_if(p->plans.begin(), p->plans.end(), [&](const vp_plan &x) { return x.shape == shape; });
    return at == p->plans.end() ? NULL : &*at;
}

int vp_product_open(vp_product **out, const vp_device *d, vp_error *err) {
    vp_product *p = new vp_product;
    const cublasStatus_t status = cublasLtCreate(&p->library);
    if (status) {
        delete p;
        return vp_fail(err, VP_MEMORY, "cuBLASLt: cannot start (status %d)", (int)status);
    }
    p->tf32 = d->tf32;
    vp_plan_load(p, d);
    *out = p;
    return VP_OK;
}

void vp_product_close(vp_product *p) {
    if (!p) return;
    cublasLtDestroy(p->library);
    delete p;
}

int vp_product_learn(vp_device *d, vp_product_kind kind, int64_t N, int64_t K, vp_dtype type, vp_dtype d_type,
                     vp_error *err) {
    vp_product *p = d->product;
    const int64_t step = type == VP_F8 ? 16 : 8; /* rows of all types then lie at multiples of 16 bytes */
    const std::lock_guard<std::mutex> hold(p->lock);
    vp_plan plan = {};
    plan.shape = {kind, N, K, type, d_type, p->tf32 && type == VP_F32};
    if (N % step || K % step) vp_refused_add(d, kind, N, K, type, VP_REFUSED_ALIGNMENT);
    if (N % step || K % step) return VP_OK;
    if (const vp_plan *known = find(p, plan.shape)) {
        if (!known->rows) vp_refused_add(d, kind, N, K, type, VP_REFUSED_ALGORITHMS);
        return VP_OK;
    }
    const cudaError_t e = cudaSetDevice(d->number);
    if (e != cudaSuccess) return vp_fail(err, VP_MEMORY, "CUDA: %s", cudaGetErrorString(e));
    const bool tried = vp_plan_certify(p->library, &plan);
    if (tried) vp_plan_save(p, &plan);
    if (!plan.rows) vp_refused_add(d, kind, N, K, type, tried ? VP_REFUSED_ALGORITHMS : VP_REFUSED_MEMORY);
    p->plans.push_back(plan);
    return VP_OK;
}

int64_t vp_product_rows(const vp_device *d, const vp_product_op *op) {
    if (op->planes > 1 || op->count > 1 || op->alpha || op->add) return 0;
    const std::lock_guard<std::mutex> hold(d->product->lock);
    const vp_plan *plan = find(d->product, shape_of(d->product, op));
    return plan ? plan->rows : 0;
}

int vp_product_library(vp_queue *q, const char *what, const vp_product_op *op) {
    const vp_plan_shape shape = shape_of(q->device->product, op);
    cublasLtMatmulAlgo_t algo;
    {
        const std::lock_guard<std::mutex> hold(q->device->product->lock);
        algo = find(q->device->product, shape)->algo[vp_plan_class(op->M)];
    }
    void *workspace = vp_queue_take(q, what, VP_PLAN_WORKSPACE);
    if (!workspace) return VP_MEMORY;
    if (q->plans) return VP_OK;
    const vp_plan_call call(shape, op->M, op->lda, op->ldb, op->ldd, {op->scale_a, op->scale_b});
    const cublasStatus_t status =
        vp_plan_run(q->device->product->library, call, &algo, op->a, op->b, op->d, workspace, q->stream);
    return status ? vp_queue_fail(q, VP_MEMORY, "%s: cuBLASLt failed (status %d)", what, (int)status) : VP_OK;
}
#endif
