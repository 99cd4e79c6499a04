/* What cuBLASLt reaches on a model's own products, bf16 with f32 sums: the denominator of scripts/gpu-check. Usage:
 *     gpu_rate ROWS SECONDS N,K[,TIMES] ...      each product [ROWS, K] x [N, K]^T, so many times a layer
 * Prints TFLOP/s of all products in turn for so many seconds, the first candidate of each shape. */
#include <chrono>
#include <cublasLt.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
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

static uint16_t *random_matrix(size_t n, uint32_t seed) {
    uint16_t *p;
    check(cudaMalloc((void **)&p, n * sizeof *p) == cudaSuccess, "cudaMalloc");
    fill<<<1024, 256>>>(p, n, seed);
    return p;
}

struct product {
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulAlgo_t algo;
    void *wp, *xp, *outp;
    double flop;
};
static const size_t WORKSPACE = 32 << 20;

static product make(cublasLtHandle_t lt, int64_t rows, int64_t n, int64_t k) {
    product p = {};
    const cublasOperation_t turned = CUBLAS_OP_T;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found;
    size_t workspace = WORKSPACE;
    int some = 0;
    bool good = !cublasLtMatmulDescCreate(&p.what, CUBLAS_COMPUTE_32F, CUDA_R_32F) &&
                !cublasLtMatmulDescSetAttribute(p.what, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned) &&
                !cublasLtMatrixLayoutCreate(&p.w, CUDA_R_16BF, (uint64_t)k, (uint64_t)n, k) &&
                !cublasLtMatrixLayoutCreate(&p.x, CUDA_R_16BF, (uint64_t)k, (uint64_t)rows, k) &&
                !cublasLtMatrixLayoutCreate(&p.out, CUDA_R_16BF, (uint64_t)n, (uint64_t)rows, n) &&
                !cublasLtMatmulPreferenceCreate(&preference) &&
                !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                      sizeof workspace) &&
                !cublasLtMatmulAlgoGetHeuristic(lt, p.what, p.w, p.x, p.out, p.out, preference, 1, &found, &some);
    check(good && some == 1, "cublasLtMatmulAlgoGetHeuristic");
    p.algo = found.algo;
    p.wp = random_matrix((size_t)(n * k), 1);
    p.xp = random_matrix((size_t)(rows * k), 2);
    p.outp = random_matrix((size_t)(rows * n), 3);
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
    if (argc < 4) {
        fprintf(stderr, "usage: gpu_rate ROWS SECONDS N,K[,TIMES] ...\n");
        return 2;
    }
    long rows = 0;
    double seconds = 0;
    check(sscanf(argv[1], "%ld", &rows) == 1 && rows > 0, argv[1]);
    check(sscanf(argv[2], "%lf", &seconds) == 1 && seconds > 0, argv[2]);
    check(!cublasLtCreate(&lt), "cublasLtCreate");
    check(cudaMalloc(&workspace, WORKSPACE) == cudaSuccess, "cudaMalloc");
    for (int i = 3; i < argc; i++) {
        long n = 0, k = 0, times = 1;
        check(sscanf(argv[i], "%ld,%ld,%ld", &n, &k, &times) >= 2 && n > 0 && k > 0, argv[i]);
        const product p = make(lt, rows, n, k);
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
