/* How cuBLASLt computes the products of a weight: what product.cu runs and certify.cu finds. Not part of the shim. */
#ifndef VP_CUDA_PLAN_H
#define VP_CUDA_PLAN_H
#include "kernels/cuda/product.h"
#include <cublasLt.h>
#include <mutex>
#include <string>
#include <vector>

/* Which algorithm computes M rows depends on the class of M alone: up to 32, 256, 2,048 and more. */
enum { VP_PLAN_CLASSES = 4 };
static const size_t VP_PLAN_WORKSPACE = (size_t)32 << 20;

struct vp_plan_shape {
    vp_product_kind kind; /* NT or NN */
    int64_t N, K;
    vp_dtype type, d_type;
    bool tf32; /* of VP_F32: inputs are rounded to TF32 */
    bool operator==(const vp_plan_shape &) const = default;
};
struct vp_plan {
    vp_plan_shape shape;
    int64_t rows; /* the most for which it was certified; 0: nothing was */
    cublasLtMatmulAlgo_t algo[VP_PLAN_CLASSES];
};

struct vp_product {
    std::mutex lock;
    cublasLtHandle_t library;
    bool tf32;                  /* of the device: all F32 shapes are */
    std::vector<vp_plan> plans; /* of shapes that were learned, in this process or before */
    std::string cache;          /* the file of verdicts for this library and chip; "": there is none */
};

/* The descriptors of one product. Of FP8 the scales of rows of A and of B stand in them; to ask what the library has
 * for a shape, they are not read. */
struct vp_plan_scales {
    const float *a, *b;
};
struct vp_plan_call {
    cublasLtMatmulDesc_t product = NULL;
    cublasLtMatrixLayout_t a = NULL, b = NULL, d = NULL;
    cublasStatus_t status;
    vp_plan_call(const vp_plan_shape &s, int64_t M, int64_t lda, int64_t ldb, int64_t ldd, vp_plan_scales scales);
    ~vp_plan_call();
    vp_plan_call(const vp_plan_call &) = delete;
    void operator=(const vp_plan_call &) = delete;
};
cublasStatus_t vp_plan_run(cublasLtHandle_t library, const vp_plan_call &call, const cublasLtMatmulAlgo_t *algo,
                           const void *a, const void *b, void *d, void *workspace, cudaStream_t stream);
int vp_plan_class(int64_t M);

/* certify.cu */
/* Find what computes a shape; rows stays 0 where nothing can be certified. False: there is no memory to try. */
bool vp_plan_certify(cublasLtHandle_t library, vp_plan *plan);
/* The file's name for this library and chip, and what it holds. */
void vp_plan_load(vp_product *p, const vp_device *d);
void vp_plan_save(const vp_product *p, const vp_plan *plan);

#endif
