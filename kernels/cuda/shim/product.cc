/* The library of products on the shim: plain loops, one chain of fused products an element, K ascending. It takes what
 * cuBLASLt takes: shapes that were learned, whose rows can lie at multiples of 16 bytes, but for those of which
 * $VP_SHIM_UNCERTIFIED says, as "320x64 64x320", that nothing can be certified. */
#include "kernels/cuda/refused.h"
#include <algorithm>
#include <bit>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <vector>

using Shape = std::tuple<int, int64_t, int64_t, int, int>;
struct vp_product {
    std::mutex lock;
    bool tf32;
    std::set<Shape> learned;
};

namespace {
enum { ROWS = 4, LANES = 8 };
typedef float Lanes __attribute__((vector_size(4 * LANES)));

Shape shape_of(const vp_product_op *op) {
    return {op->kind, op->N, op->K, op->type, op->d_type};
}

/* A fraction of ten bits. */
float to_tf32(float x) {
    uint32_t bits = std::bit_cast<uint32_t>(x);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0xfffu + (bits >> 13 & 1)) & ~0x1fffu;
    return std::bit_cast<float>(bits);
}

float read(const void *p, vp_dtype type, bool tf32, int64_t i) {
    if (type == VP_F8) return vp_f8_float(((const uint8_t *)p)[i]);
    if (type == VP_BF16) return vp_float(((const vp_bf16 *)p)[i]);
    const float x = ((const float *)p)[i];
    return tf32 ? to_tf32(x) : x;
}

/* Columns [n, n + LANES) of D for all rows: B's columns packed [K, LANES] first. */
void columns(const vp_product_op *op, bool tf32, int64_t n, const std::vector<float> &a, std::vector<Lanes> &packed) {
    const int64_t lanes = std::min<int64_t>(LANES, op->N - n);
    for (int64_t k = 0; k < op->K; k++)
        for (int64_t j = 0; j < LANES; j++)
            packed[k][j] = j < lanes ? read(op->b, op->type, tf32,
                                            op->kind == VP_PRODUCT_NT ? (n + j) * op->ldb + k : k * op->ldb + n + j)
                                     : 0.0f;
    for (int64_t m = 0; m < op->M; m += ROWS) {
        Lanes sum[ROWS] = {};
        const int64_t rows = std::min<int64_t>(ROWS, op->M - m);
        for (int64_t k = 0; k < op->K; k++)
            for (int64_t r = 0; r < ROWS; r++)
                for (int j = 0; j < LANES; j++)
                    sum[r][j] = __builtin_fmaf(a[(m + r) * op->K + k], packed[k][j], sum[r][j]);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < lanes; j++) {
                const int64_t at = (m + r) * op->ldd + n + j;
                const float x = op->scale_a ? sum[r][j] * op->scale_a[m + r] * op->scale_b[n + j] : sum[r][j];
                if (op->d_type == VP_BF16)
                    ((vp_bf16 *)op->d)[at] = vp_round<vp_bf16>(x);
                else
                    ((float *)op->d)[at] = x;
            }
    }
}

void multiply(const vp_product_op *op, bool tf32) {
    std::vector<float> a((size_t)((op->M + ROWS) * op->K));
    std::vector<Lanes> packed((size_t)op->K);
    for (int64_t m = 0; m < op->M; m++)
        for (int64_t k = 0; k < op->K; k++) a[(size_t)(m * op->K + k)] = read(op->a, op->type, tf32, m * op->lda + k);
    for (int64_t n = 0; n < op->N; n += LANES) columns(op, tf32, n, a, packed);
}

bool is_uncertified(int64_t N, int64_t K) {
    const char *all = getenv("VP_SHIM_UNCERTIFIED");
    const std::string shape = " " + std::to_string(N) + "x" + std::to_string(K) + " ";
    return all && (" " + std::string(all) + " ").find(shape) != std::string::npos;
}
} // namespace

int vp_product_open(vp_product **p, const vp_device *d, vp_error *err) {
    (void)err;
    *p = new vp_product;
    (*p)->tf32 = d->tf32;
    return VP_OK;
}

void vp_product_close(vp_product *p) {
    delete p;
}

int vp_product_learn(vp_device *d, vp_product_kind kind, int64_t N, int64_t K, vp_dtype type, vp_dtype d_type,
                     vp_error *err) {
    (void)err;
    const std::lock_guard<std::mutex> hold(d->product->lock);
    const int64_t step = type == VP_F8 ? 16 : 8;
    if (N % step || K % step)
        vp_refused_add(d, kind, N, K, type, VP_REFUSED_ALIGNMENT);
    else if (is_uncertified(N, K))
        vp_refused_add(d, kind, N, K, type, VP_REFUSED_ALGORITHMS);
    else
        d->product->learned.insert({kind, N, K, type, d_type});
    return VP_OK;
}

int64_t vp_product_rows(const vp_device *d, const vp_product_op *op) {
    const std::lock_guard<std::mutex> hold(d->product->lock);
    const bool plain = op->planes <= 1 && op->count <= 1 && !op->alpha && !op->add;
    return plain && d->product->learned.count(shape_of(op)) ? 8192 : 0;
}

int vp_product_library(vp_queue *q, const char *what, const vp_product_op *op) {
    const bool tf32 = q->device->product->tf32;
    if (!q->plans) vp_shim_launch(what, dim3(1), 1, 0, [op = *op, tf32] { multiply(&op, tf32); });
    return VP_OK;
}
