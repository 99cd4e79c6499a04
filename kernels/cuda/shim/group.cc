/* Products of warp groups on the host: see group.h here and there. A matrix is read through its name's 64 bits, as the
 * PTX ISA lays them out (wgmma, matrix descriptor): address, two distances, the swizzle. */
#include "kernels/cuda/shim/group.h"
#include <deque>

namespace {
enum { WARP = 32, ROW = 128, CHUNKS = 8, K = 16 };
struct Product {
    float *d;
    int n;
    const uint32_t *a;
    uint64_t from, b;
    bool turned, add;
    std::vector<float> before; /* of d; empty: another product of it is under way */
    std::vector<float> sums;   /* this lane's of A B */
};
struct Thread {
    std::vector<std::vector<Product>> groups = {{}}; /* the last one is not committed */
    bool fenced = false;
};
std::deque<Thread> threads;

Thread &self() {
    if (threads.size() <= vp_shim_thread.x) threads.resize(vp_shim_thread.x + 1);
    return threads[vp_shim_thread.x];
}

/* Where element k of row r is: rows of A, columns of B. */
size_t place(uint64_t name, bool turned, uint32_t r, uint32_t k) {
    const size_t start = (name & 0x3fff) << 4, lead = (name >> 16 & 0x3fff) << 4, stride = (name >> 32 & 0x3fff) << 4;
    if (name >> 46 != (uint64_t)1 << 16) vp_shim_stop("a matrix whose name is %#llx", (unsigned long long)name);
    const size_t at = turned ? start + r / 64 * lead + r % 64 * 2 + k / 8 * stride + k % 8 * ROW
                             : start + r / 8 * stride + r % 8 * ROW + k * 2;
    return at ^ (at / ROW % CHUNKS) << 4;
}

float bf16_at(const unsigned char *p) {
    uint16_t bits;
    memcpy(&bits, p, sizeof bits);
    return vp_float(vp_bf16{bits});
}

/* 16 elements of a row that lie side by side, in two chunks. */
void read_row(float x[K], uint64_t name, uint32_t row) {
    for (uint32_t k = 0; k < K; k += 4) {
        const unsigned char *four = vp_shim_shared(place(name, false, row, k), 8, false);
        for (uint32_t i = 0; i < 4; i++) x[k + i] = bf16_at(four + 2 * i);
    }
}

/* Rows g and g + 8 of the warp's 16 rows of A. */
void read_a(float x[2][K], const Product &p) {
    const uint32_t lane = vp_shim_thread.x % WARP, warp = vp_shim_thread.x / WARP % 4;
    uint32_t mine[4] = {};
    if (p.a) memcpy(mine, p.a, sizeof mine);
    const unsigned char *all = vp_shim_exchange(p.a ? "group product" : "group product of shared A", mine, sizeof mine);
    for (uint32_t h = 0; h < 2; h++) {
        if (!p.a) read_row(x[h], p.from, 16 * warp + lane / 4 + 8 * h);
        for (uint32_t k = 0; k < K && p.a; k++)
            x[h][k] = bf16_at(all + 64 * (lane / 4 * 4 + k % 8 / 2) + 4 * (h + k / 8 * 2) + k % 2 * 2);
    }
}

std::vector<float> multiply(const Product &p) {
    const uint32_t t = vp_shim_thread.x % 4;
    float a[2][K], b[2][K];
    std::vector<float> sums((size_t)p.n / 2);
    read_a(a, p);
    for (uint32_t j = 0; j < (uint32_t)p.n / 8; j++) {
        const uint32_t column = 8 * j + 2 * t;
        for (uint32_t e = 0; e < 2 && !p.turned; e++) read_row(b[e], p.b, column + e);
        for (uint32_t k = 0; k < K && p.turned; k++) {
            const unsigned char *two = vp_shim_shared(place(p.b, true, column, k), 4, false);
            for (uint32_t e = 0; e < 2; e++) b[e][k] = bf16_at(two + 2 * e);
        }
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t k = 0; k < K; k++) sums[4 * j + i] += a[i / 2][k] * b[i % 2][k];
    }
    return sums;
}

bool under_way(const Thread &t, const float *d) {
    for (const auto &group : t.groups)
        for (const Product &p : group)
            if (p.d == d) return true;
    return false;
}

void finish(const Product &p) {
    const std::vector<float> sums = multiply(p);
    if (memcmp(sums.data(), p.sums.data(), sums.size() * sizeof(float)) != 0)
        vp_shim_stop("what a product reads was changed before the product was waited for");
    if (!p.before.empty()) memcpy(p.d, p.before.data(), p.before.size() * sizeof(float));
    for (size_t i = 0; i < sums.size(); i++) p.d[i] = (p.add ? p.d[i] : 0.0f) + sums[i];
}
} // namespace

void vp_group_publish() {
    vp_shim_publish();
}

void vp_group_begin() {
    self().fenced = true;
}

void vp_group_commit() {
    self().groups.push_back({});
}

void vp_shim_group_mma(float *d, int n, const uint32_t *a, uint64_t from, uint64_t b, bool turned, bool add) {
    Thread &t = self();
    Product p = {d, n, a, from, b, turned, add, {}, {}};
    if (!t.fenced) vp_shim_stop("a product without a fence before it");
    if (!vp_shim_published()) vp_shim_stop("a product of what was not published before the barrier");
    p.sums = multiply(p);
    if (!under_way(t, d)) p.before.assign(d, d + n / 2);
    for (int i = 0; i < n / 2; i++) d[i] = NAN;
    t.groups.back().push_back(p);
    vp_shim_pending(1);
}

void vp_shim_group_wait(size_t groups) {
    Thread &t = self();
    t.fenced = false;
    while (t.groups.size() > groups + 1) {
        for (const Product &p : t.groups.front()) {
            finish(p);
            vp_shim_pending(-1);
        }
        t.groups.erase(t.groups.begin());
    }
}
