/* Certification of cuBLASLt's algorithms, and the file of verdicts. An algorithm is allowed when every row gets the
 * bytes that the reference algorithm gave it among all rows: alone, among 17, at the ends of the classes of M and next
 * to them, among some numbers between, and among all, at several offsets. Of those that are allowed the fastest one is
 * taken for each class of M, so that neither the class nor the place of a row shows in its result. Leading dimensions
 * are addresses only. */
#ifndef VP_SHIM
#include "kernels/cuda/plan.h"
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static const int64_t MOST_ROWS = 8192, ROWS_STEP = 128;
static const size_t MOST_BYTES = (size_t)768 << 20; /* of inputs and results */
enum { CANDIDATES = 16, FILL_THREADS = 256 };

/* ---- data and comparison ---- */
/* Numbers in (-1, 1) whose sums round differently in every order: SplitMix64 of the index. */
template <class T> VP_KERNEL(FILL_THREADS) fill_kernel(T *p, int64_t n, uint64_t seed) {
    const int64_t i = (int64_t)blockIdx.x * FILL_THREADS + threadIdx.x;
    if (i >= n) return;
    uint64_t z = seed + (uint64_t)i * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    if constexpr (sizeof(T) == 1) /* codes of every magnitude, but NaN */
        p[i] = (T)((z & 0x7f) < 0x7f ? z & 0xff : 0);
    else
        p[i] = vp_round<T>((float)(z >> 40) / 8388608.0f - 1.0f);
}

/* *differ = 1 where two arrays are not the same; whoever finds it writes the same. */
VP_KERNEL(FILL_THREADS) compare_kernel(const uint16_t *a, const uint16_t *b, int64_t n, int *differ) {
    const int64_t i = (int64_t)blockIdx.x * FILL_THREADS + threadIdx.x;
    if (i < n && a[i] != b[i]) *differ = 1;
}

/* What certifying one shape needs. */
struct trial {
    cublasLtHandle_t library;
    vp_plan_shape shape;
    int64_t rows;
    cudaStream_t stream = NULL;
    cudaEvent_t begin = NULL, end = NULL;
    void *a = NULL, *b = NULL, *reference = NULL, *out = NULL, *workspace = NULL;
    float *scale_a = NULL, *scale_b = NULL, *scale_at = NULL; /* of FP8: of all rows, of B's, of the rows of a run */
    int *differ = NULL;

    ~trial() {
        for (void *p :
             {a, b, reference, out, workspace, (void *)scale_a, (void *)scale_b, (void *)scale_at, (void *)differ})
            vp_device_give(p);
        if (begin) cudaEventDestroy(begin);
        if (end) cudaEventDestroy(end);
        if (stream) cudaStreamDestroy(stream);
    }
    size_t size() const { return vp_dtype_size(shape.type); }
    size_t d_size() const { return vp_dtype_size(shape.d_type); }
};

template <class T> static void fill(const trial &t, void *p, int64_t n, uint64_t seed) {
    fill_kernel<T><<<vp_blocks(n, FILL_THREADS), FILL_THREADS, 0, t.stream>>>((T *)p, n, seed);
}

static bool take(void *p, size_t bytes) { /* p: where the pointer goes */
    vp_error none = {};
    return !vp_device_take((void **)p, bytes, "certification", &none);
}

static bool begin_trial(trial *t) {
    const size_t row = (size_t)t->shape.K * t->size() + 2 * (size_t)t->shape.N * t->d_size();
    const int64_t fit = (int64_t)(MOST_BYTES / row) / ROWS_STEP * ROWS_STEP;
    t->rows = fit < ROWS_STEP ? ROWS_STEP : fit < MOST_ROWS ? fit : MOST_ROWS;
    const int64_t in = t->rows * t->shape.K, weights = t->shape.N * t->shape.K;
    const size_t results = (size_t)(t->rows * t->shape.N) * t->d_size();
    const size_t scales = (size_t)(t->rows + t->shape.N) * sizeof(float);
    const bool f8 = t->shape.type == VP_F8;
    if (!take(&t->a, (size_t)in * t->size()) || !take(&t->b, (size_t)weights * t->size()) ||
        !take(&t->reference, results) || !take(&t->out, results) || !take(&t->workspace, VP_PLAN_WORKSPACE) ||
        !take(&t->differ, sizeof *t->differ))
        return false;
    if (f8 && (!take(&t->scale_a, scales) || !take(&t->scale_b, scales) || !take(&t->scale_at, scales))) return false;
    if (cudaStreamCreateWithFlags(&t->stream, cudaStreamNonBlocking) != cudaSuccess ||
        cudaEventCreate(&t->begin) != cudaSuccess || cudaEventCreate(&t->end) != cudaSuccess)
        return false;
    if (f8) {
        fill<uint8_t>(*t, t->a, in, 1);
        fill<uint8_t>(*t, t->b, weights, 2);
        fill<float>(*t, t->scale_a, t->rows, 3);
        fill<float>(*t, t->scale_b, t->shape.N, 4);
    } else if (t->shape.type == VP_BF16) {
        fill<vp_bf16>(*t, t->a, in, 1);
        fill<vp_bf16>(*t, t->b, weights, 2);
    } else {
        fill<float>(*t, t->a, in, 1);
        fill<float>(*t, t->b, weights, 2);
    }
    return cudaGetLastError() == cudaSuccess;
}

static vp_plan_call call_of(const vp_plan_shape &s, int64_t M, vp_plan_scales scales) {
    return vp_plan_call(s, M, s.K, s.kind == VP_PRODUCT_NT ? s.K : s.N, s.N, scales);
}

/* Rows [first, first + M) of a by this algorithm. */
static bool run(const trial &t, const cublasLtMatmulAlgo_t &algo, int64_t first, int64_t M, void *out) {
    const vp_plan_shape &s = t.shape;
    if (t.scale_a && cudaMemcpyAsync(t.scale_at, t.scale_a + first, (size_t)M * sizeof(float), cudaMemcpyDeviceToDevice,
                                     t.stream) != cudaSuccess)
        return false;
    const vp_plan_call call = call_of(s, M, {t.scale_at, t.scale_b});
    const void *a = (const char *)t.a + (size_t)(first * s.K) * t.size();
    return vp_plan_run(t.library, call, &algo, a, t.b, out, t.workspace, t.stream) == CUBLAS_STATUS_SUCCESS;
}

static bool same_as_reference(const trial &t, int64_t first, int64_t M) {
    const int64_t words = M * t.shape.N * (int64_t)(t.d_size() / sizeof(uint16_t));
    const void *reference = (const char *)t.reference + (size_t)(first * t.shape.N) * t.d_size();
    int differ = 1;
    cudaMemsetAsync(t.differ, 0, sizeof differ, t.stream);
    compare_kernel<<<vp_blocks(words, FILL_THREADS), FILL_THREADS, 0, t.stream>>>(
        (const uint16_t *)reference, (const uint16_t *)t.out, words, t.differ);
    cudaMemcpyAsync(&differ, t.differ, sizeof differ, cudaMemcpyDefault, t.stream);
    return cudaStreamSynchronize(t.stream) == cudaSuccess && !differ;
}

/* Rows [first, first + M) over what cannot be a result, and whether they are the reference's. */
static bool same_alone(const trial &t, const cublasLtMatmulAlgo_t &algo, int64_t first, int64_t M) {
    cudaMemsetAsync(t.out, 0xff, (size_t)(M * t.shape.N) * t.d_size(), t.stream);
    return run(t, algo, first, M, t.out) && same_as_reference(t, first, M);
}

/* Whether the algorithm gives the reference's bytes to all rows, however they are cut. */
static bool allowed(const trial &t, const cublasLtMatmulAlgo_t &algo) {
    static const int64_t probe[][2] = {{1, 0},   {1, 77},   {17, 0},    {17, 5},    {32, 3},     {33, 40},
                                       {128, 0}, {128, 64}, {129, 0},   {129, 63},  {256, 0},    {257, 9},
                                       {520, 7}, {1000, 0}, {1000, 11}, {2048, 64}, {2049, 130}, {4160, 1000}};
    if (!same_alone(t, algo, 0, t.rows)) return false;
    for (const auto &p : probe) {
        const int64_t M = p[0] < t.rows ? p[0] : t.rows, first = p[1] < t.rows - M ? p[1] : t.rows - M;
        if (!same_alone(t, algo, first, M)) return false;
    }
    return true;
}

/* ---- candidates ---- */
struct candidate { /* named, as nvcc 13 does not take a list of the library's nameless structure */
    cublasLtMatmulAlgo_t algo;
};
using candidates = std::vector<candidate>;

static bool splits(const cublasLtMatmulAlgo_t &algo) {
    int32_t parts = 0;
    size_t written = 0;
    const cublasStatus_t s =
        cublasLtMatmulAlgoConfigGetAttribute(&algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts, sizeof parts, NULL);
    return s != CUBLAS_STATUS_SUCCESS || parts > 1;
}

/* What the library proposes for M rows, without splitting K, added to the list. */
static void propose(const trial &t, int64_t M, candidates *list) {
    const vp_plan_shape &s = t.shape;
    const vp_plan_call call = call_of(s, M, {t.scale_at, t.scale_b});
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE, alignment = 16;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    cublasLtMatmulPreference_t wish = NULL;
    int n = 0;
    if (call.status || cublasLtMatmulPreferenceCreate(&wish)) return;
    cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &VP_PLAN_WORKSPACE,
                                         sizeof VP_PLAN_WORKSPACE);
    cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes);
    for (auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                       CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        cublasLtMatmulPreferenceSetAttribute(wish, which, &alignment, sizeof alignment);
    if (cublasLtMatmulAlgoGetHeuristic(t.library, call.product, call.b, call.a, call.d, call.d, wish, CANDIDATES, found,
                                       &n) != CUBLAS_STATUS_SUCCESS)
        n = 0;
    for (int i = 0; i < n; i++) {
        bool known = found[i].state != CUBLAS_STATUS_SUCCESS || splits(found[i].algo);
        for (const candidate &c : *list) known = known || !memcmp(&c.algo, &found[i].algo, sizeof c.algo);
        if (!known) list->push_back({found[i].algo});
    }
    cublasLtMatmulPreferenceDestroy(wish);
}

/* Milliseconds of M rows, the best of three. */
static float time_of(const trial &t, const cublasLtMatmulAlgo_t &algo, int64_t M) {
    float best = INFINITY;
    for (int i = 0; i < 4; i++) {
        float ms = INFINITY;
        cudaEventRecord(t.begin, t.stream);
        if (!run(t, algo, 0, M, t.out)) return INFINITY;
        cudaEventRecord(t.end, t.stream);
        if (cudaEventSynchronize(t.end) != cudaSuccess || cudaEventElapsedTime(&ms, t.begin, t.end) != cudaSuccess)
            return INFINITY;
        if (i && ms < best) best = ms; /* the first run warms up */
    }
    return best;
}

static void choose(const trial &t, const candidates &set, vp_plan *plan) {
    static const int64_t typical[VP_PLAN_CLASSES] = {16, 128, 1024, MOST_ROWS};
    for (int c = 0; c < VP_PLAN_CLASSES; c++) {
        float best = INFINITY;
        plan->algo[c] = set[0].algo;
        for (const candidate &x : set) {
            const float ms = time_of(t, x.algo, typical[c] < t.rows ? typical[c] : t.rows);
            if (ms < best) {
                best = ms;
                plan->algo[c] = x.algo;
            }
        }
    }
    plan->rows = t.rows;
}

bool vp_plan_certify(cublasLtHandle_t library, vp_plan *plan) {
    trial t = {library, plan->shape, 0};
    candidates list, set;
    plan->rows = 0;
    if (!begin_trial(&t)) {
        cudaGetLastError();
        return false;
    }
    for (int64_t M : {t.rows, (int64_t)1000, (int64_t)128, (int64_t)16}) propose(t, M < t.rows ? M : t.rows, &list);
    /* The first that agrees with itself is the reference of all. */
    for (size_t i = 0; i < list.size() && set.empty(); i++) {
        if (!run(t, list[i].algo, 0, t.rows, t.reference) || !allowed(t, list[i].algo)) continue;
        for (size_t k = i; k < list.size(); k++)
            if (k == i || allowed(t, list[k].algo)) set.push_back(list[k]);
    }
    if (!set.empty()) choose(t, set, plan);
    cudaStreamSynchronize(t.stream);
    cudaGetLastError();
    return true;
}

/* ---- the file: a line a shape, kind N K type d_type rows and the algorithms' words in hex ---- */
static bool make_folder(const std::string &path) {
    return mkdir(path.c_str(), 0777) == 0 || errno == EEXIST;
}

static std::string cache_folder() {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    std::string folder = cache && cache[0] == '/' ? cache : home && home[0] == '/' ? std::string(home) + "/.cache" : "";
    if (folder.empty() || !make_folder(folder) || !make_folder(folder += "/vecpipe")) return "";
    return folder;
}

static bool parse(const char *text, vp_plan *plan) {
    long long N, K, rows;
    int kind, type, d_type, used = 0;
    if (sscanf(text, "product %d %lld %lld %d %d %lld%n", &kind, &N, &K, &type, &d_type, &rows, &used) != 6)
        return false;
    plan->shape = {(vp_product_kind)kind, N, K, (vp_dtype)type, (vp_dtype)d_type, false};
    plan->rows = rows;
    if (rows < 0 || rows > MOST_ROWS) return false;
    for (auto &algo : plan->algo)
        for (uint64_t &word : algo.data) {
            unsigned long long x;
            int n = 0;
            if (sscanf(text += used, "%llx%n", &x, &n) != 1) return false;
            word = x;
            used = n;
        }
    return true;
}

/* What the library does not accept any more is learned again. */
static bool accepted(const vp_product *p, const vp_plan &plan) {
    alignas(16) static const float some[4] = {}; /* scales must lie so; not read */
    const vp_plan_shape &s = plan.shape;
    for (int c = 0; c < VP_PLAN_CLASSES && plan.rows; c++) {
        cublasLtMatmulHeuristicResult_t result;
        const vp_plan_call call = call_of(s, 16, {some, some});
        if (call.status ||
            cublasLtMatmulAlgoCheck(p->library, call.product, call.b, call.a, call.d, call.d, &plan.algo[c], &result) ||
            result.workspaceSize > VP_PLAN_WORKSPACE)
            return false;
    }
    return true;
}

void vp_plan_load(vp_product *p, const vp_device *d) {
    cudaDeviceProp chip;
    const std::string folder = cache_folder();
    if (folder.empty() || cudaGetDeviceProperties(&chip, d->number) != cudaSuccess) return;
    std::string name = chip.name;
    for (char &c : name)
        if (!isalnum((unsigned char)c)) c = '-';
    p->cache = folder + "/products-" + std::to_string(cublasLtGetVersion()) + "-" + d->isa + "-" + name;
    if (p->tf32) p->cache += "-tf32";
    FILE *f = fopen(p->cache.c_str(), "re");
    char line[1024];
    while (f && fgets(line, sizeof line, f)) {
        vp_plan plan = {};
        if (!strchr(line, '\n') || !parse(line, &plan)) continue;
        plan.shape.tf32 = p->tf32 && plan.shape.type == VP_F32;
        if (accepted(p, plan)) p->plans.push_back(plan);
    }
    if (f) fclose(f);
}

/* One write of a whole line, so that programs that learn at the same time do not mix. */
void vp_plan_save(const vp_product *p, const vp_plan *plan) {
    if (p->cache.empty()) return;
    const vp_plan_shape &s = plan->shape;
    char text[1024];
    int n = snprintf(text, sizeof text, "product %d %lld %lld %d %d %lld", (int)s.kind, (long long)s.N, (long long)s.K,
                     (int)s.type, (int)s.d_type, (long long)plan->rows);
    for (const auto &algo : plan->algo)
        for (const uint64_t word : algo.data)
            n += snprintf(text + n, sizeof text - (size_t)n, " %llx", (unsigned long long)word);
    text[n++] = '\n';
    const int fd = open(p->cache.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return;
    if (write(fd, text, (size_t)n) != n) unlink(p->cache.c_str());
    close(fd);
}
#endif
