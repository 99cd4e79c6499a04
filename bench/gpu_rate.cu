/* What cuBLASLt reaches on a model's own products with f32 sums and bf16 results, of bf16 or of FP8 (E4M3) with a scale
 * a row of either operand: the denominators of scripts/gpu-check. Usage:
 *     gpu_rate bf16|fp8 ROWS SECONDS N,K[,TIMES] ...      each product [ROWS, K] x [N, K]^T, so many times a layer
 * Prints TFLOP/s of all products in turn for so many seconds, the first candidate of each shape. */
#include <chrono>
#include <cublasLt.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>
#include <vector>

static void check(bool good, const char *what) {
    if (good) return;
    fprintf(stderr, "gpu_rate: %s failed\n", what);
    exit(5);
}

__global__ void fill(uint16_t *p, size_t n, uint32_t seed) { /* bf16 of both signs, magnitudes from 2^-7 to 1 */
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint32_t x = ((uint32_t)i ^ seed) * 2654435761u;
        x = (x ^ x >> 15) * 2246822519u;
        p[i] = (uint16_t)((x & 0x8000u) | (120u + (x >> 16) % 7) << 7 | (x & 0x7fu));
    }
}

__global__ void fill_fp8(uint8_t *p, size_t n, uint32_t seed) { /* the same of E4M3 */
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint32_t x = ((uint32_t)i ^ seed) * 2654435761u;
        x = (x ^ x >> 15) * 2246822519u;
        p[i] = (uint8_t)((x >> 8 & 0x80u) | (1u + (x >> 16) % 7) << 3 | (x & 0x7u));
    }
}

__global__ void fill_ones(float *p, size_t n) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) p[i] = 1;
}

template <class T> static T *take(size_t n) {
    T *p;
    check(cudaMalloc((void **)&p, n * sizeof *p) == cudaSuccess, "cudaMalloc");
    return p;
}

static void *random_matrix(bool fp8, size_t n, uint32_t seed) {
    void *p = take<uint16_t>(n);
    if (fp8)
        fill_fp8<<<1024, 256>>>((uint8_t *)p, n, seed);
    else
        fill<<<1024, 256>>>((uint16_t *)p, n, seed);
    return p;
}

static bool set_scales(cublasLtMatmulDesc_t what, int64_t rows, int64_t n) {
    const int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    float *w = take<float>((size_t)n), *x = take<float>((size_t)rows);
    fill_ones<<<64, 256>>>(w, (size_t)n);
    fill_ones<<<64, 256>>>(x, (size_t)rows);
    return !cublasLtMatmulDescSetAttribute(what, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode) &&
           !cublasLtMatmulDescSetAttribute(what, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode) &&
           !cublasLtMatmulDescSetAttribute(what, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &w, sizeof w) &&
           !cublasLtMatmulDescSetAttribute(what, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &x, sizeof x);
}

struct product {
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulAlgo_t algo;
    void *wp, *xp, *outp;
    double flop;
};
static const size_t WORKSPACE = 32 << 20;

static product make(cublasLtHandle_t lt, bool fp8, int64_t rows, int64_t n, int64_t k) {
    product p = {};
    const cudaDataType_t type = fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
    const cublasOperation_t turned = CUBLAS_OP_T;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found;
    size_t workspace = WORKSPACE;
    int some = 0;
    bool good = !cublasLtMatmulDescCreate(&p.what, CUBLAS_COMPUTE_32F, CUDA_R_32F) &&
                !cublasLtMatmulDescSetAttribute(p.what, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned) &&
                (!fp8 || set_scales(p.what, rows, n)) &&
                !cublasLtMatrixLayoutCreate(&p.w, type, (uint64_t)k, (uint64_t)n, k) &&
                !cublasLtMatrixLayoutCreate(&p.x, type, (uint64_t)k, (uint64_t)rows, k) &&
                !cublasLtMatrixLayoutCreate(&p.out, CUDA_R_16BF, (uint64_t)n, (uint64_t)rows, n) &&
                !cublasLtMatmulPreferenceCreate(&preference) &&
                !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                      sizeof workspace) &&
                !cublasLtMatmulAlgoGetHeuristic(lt, p.what, p.w, p.x, p.out, p.out, preference, 1, &found, &some);
    check(good && some == 1, "cublasLtMatmulAlgoGetHeuristic");
    p.algo = found.algo;
    p.wp = random_matrix(fp8, (size_t)(n * k), 1);
    p.xp = random_matrix(fp8, (size_t)(rows * k), 2);
    p.outp = random_matrix(false, (size_t)(rows * n), 3);
    p.flop = 2.0 * (double)rows * (double)n * (double)k;
    return p;
}

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int main(int argc, char **argv) {
    cublasLtHandle_t lt;
    void *workspace;
    std::vector<product> all;
    double flop = 0;
    const bool fp8 = argc > 1 && !strcmp(argv[1], "fp8");
    if (argc < 5 || (!fp8 && strcmp(argv[1], "bf16"))) {
        fprintf(stderr, "usage: gpu_rate bf16|fp8 ROWS SECONDS N,K[,TIMES] ...\n");
        return 2;
    }
    long rows = 0;
    double seconds = 0;
    check(sscanf(argv[2], "%ld", &rows) == 1 && rows > 0, argv[2]);
    check(sscanf(argv[3], "%lf", &seconds) == 1 && seconds > 0, argv[3]);
    check(!cublasLtCreate(&lt), "cublasLtCreate");
    check(cudaMalloc(&workspace, WORKSPACE) == cudaSuccess, "cudaMalloc");
    for (int i = 4; i < argc; i++) {
        long n = 0, k = 0, times = 1;
        check(sscanf(argv[i], "%ld,%ld,%ld", &n, &k, &times) >= 2 && n > 0 && k > 0, argv[i]);
        const product p = make(lt, fp8, rows, n, k);
        for (long t = 0; t < times; t++, flop += p.flop) all.push_back(p);
    }
    const float one = 1, zero = 0;
    for (int warm = 1; warm >= 0; warm--) {
        double done = 0, start = now(), end = start + (warm ? 1.0 : seconds);
        do {
            for (size_t i = 0; i < 8 * all.size(); i++) {
                const product &p = all[i % all.size()];
                check(!cublasLtMatmul(lt, p.what, &one, p.wp, p.w, p.xp, p.x, &zero, p.outp, p.out, p.outp, p.out,
                                      &p.algo, workspace, WORKSPACE, 0),
                      "cublasLtMatmul");
            }
            check(cudaDeviceSynchronize() == cudaSuccess, "a product");
            done += 8 * flop;
        } while (now() < end);
        if (!warm) printf("%.1f\n", done / (now() - start) / 1e12);
    }
    return 0;
}
