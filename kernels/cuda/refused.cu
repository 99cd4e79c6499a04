/* Shapes that the library does not compute (refused.h), and the lines about those that ran. */
#include "kernels/cuda/refused.h"
#include "kernels/cuda/device.h"
#include <mutex>
#include <string>
#include <vector>

struct refused_shape {
    vp_product_kind kind;
    int64_t N, K;
    vp_dtype type;
    vp_refusal why;
    bool ran;
};
struct vp_refused {
    std::mutex lock;
    std::vector<refused_shape> all;
    std::string line;
};

static refused_shape *find(vp_refused *r, vp_product_kind kind, int64_t N, int64_t K, vp_dtype type) {
    for (refused_shape &x : r->all)
        if (x.kind == kind && x.N == N && x.K == K && x.type == type) return &x;
    return NULL;
}

void vp_refused_open(vp_device *d) {
    d->refused = new vp_refused;
}

void vp_refused_close(vp_device *d) {
    delete d->refused;
}

void vp_refused_add(vp_device *d, vp_product_kind kind, int64_t N, int64_t K, vp_dtype type, vp_refusal why) {
    const std::lock_guard<std::mutex> hold(d->refused->lock);
    if (!find(d->refused, kind, N, K, type)) d->refused->all.push_back({kind, N, K, type, why, false});
}

void vp_refused_ran(vp_device *d, const vp_product_op *op) {
    const std::lock_guard<std::mutex> hold(d->refused->lock);
    refused_shape *x = find(d->refused, op->kind, op->N, op->K, op->type);
    if (x) x->ran = true;
}

static const char *type_name(const vp_device *d, vp_dtype type) {
    if (type == VP_F32) return d->tf32 ? "tf32" : "f32";
    return type == VP_F8 ? "fp8" : "bf16";
}

static std::string reason(const refused_shape &x) {
    if (x.why == VP_REFUSED_ALIGNMENT)
        return std::string("cuBLASLt takes multiples of ") + (x.type == VP_F8 ? "16" : "8");
    if (x.why == VP_REFUSED_MEMORY) return "there was no memory to certify algorithms of cuBLASLt";
    return "no algorithm of cuBLASLt gives a row the same bytes in every batch";
}

const char *vp_cuda_note(vp_device *d, int i) {
    vp_refused *r = d->refused;
    const std::lock_guard<std::mutex> hold(r->lock);
    for (const refused_shape &x : r->all) {
        if (!x.ran || i--) continue;
        r->line = "products of " + std::to_string(x.N) + " x " + std::to_string(x.K) + " in " + type_name(d, x.type) +
                  (x.kind == VP_PRODUCT_NN ? ", backward," : "") + " by our own kernels: " + reason(x);
        return r->line.c_str();
    }
    return NULL;
}
