/* A GPU on the host, to prove kernels where there is none: every thread of a block is a fiber, run in an order drawn at
 * random; barriers and exchanges are rendezvous. It stops the program, naming kernel, block and thread, at what a GPU
 * leaves undefined: shared memory read before it is written, written or read by two threads without a barrier between
 * them, or beyond its end; lanes that meet in different exchanges, or not at all; a barrier that not all reach. Device
 * memory cannot be touched but by kernels and copies. gpu.h says what each function does. */
#ifndef VP_CUDA_SHIM_H
#define VP_CUDA_SHIM_H
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define VP_DEVICE      static inline
#define VP_INLINE      inline
#define VP_BOTH        static inline
#define VP_KERNEL(...) static void
#define VP_UNROLL

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
extern dim3 vp_shim_thread, vp_shim_block, vp_shim_grid, vp_shim_threads; /* of the fiber that runs */
#define threadIdx vp_shim_thread
#define blockIdx  vp_shim_block
#define gridDim   vp_shim_grid
#define blockDim  vp_shim_threads

/* Run a kernel, given as a call, over a grid of blocks with so many bytes of shared memory. */
void vp_shim_launch(const char *name, dim3 grid, unsigned threads, size_t shared, const std::function<void()> &kernel);
/* What this thread launches and copies from now on is added to `list` and not done; NULL: it is done again. False:
 * with $VP_SHIM_GRAPHS of 0 nothing can be recorded. */
bool vp_shim_record(std::vector<std::function<void()>> *list);
/* Stop if this thread records: `what` is nothing that can be. */
void vp_shim_not_recorded(const char *what);
/* Say where and stop. */
[[noreturn]] void vp_shim_stop(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- shared memory ---- */
unsigned char *vp_shim_shared(size_t at, size_t bytes, bool write); /* checked access */
template <class T> struct vp_shared_item {
    size_t at;
    operator T() const {
        T x;
        memcpy(&x, vp_shim_shared(at, sizeof x, false), sizeof x);
        return x;
    }
    vp_shared_item &operator=(T x) {
        memcpy(vp_shim_shared(at, sizeof x, true), &x, sizeof x);
        return *this;
    }
    vp_shared_item &operator=(const vp_shared_item &other) { return *this = (T)other; }
    vp_shared_item &operator+=(T x) { return *this = (T) * this + x; }
};
template <class T> struct vp_shared {
    size_t at;
    vp_shared_item<T> operator[](int64_t i) const { return {(size_t)((int64_t)at + i * (int64_t)sizeof(T))}; }
    vp_shared_item<T> operator*() const { return {at}; }
    vp_shared operator+(int64_t i) const { return {(size_t)((int64_t)at + i * (int64_t)sizeof(T))}; }
};
struct vp_cutter {
    size_t used = 0;
    template <class T> vp_shared<T> take(unsigned n) {
        vp_shared<T> p = {used};
        used += (n * sizeof(T) + 15) / 16 * 16;
        return p;
    }
};

template <class To, class T> vp_shared<To> vp_shared_as(vp_shared<T> p) {
    return {p.at};
}

/* ---- barriers and exchanges ---- */
void vp_barrier();
void vp_warp_barrier();
/* All lanes of the warp bring `bytes` bytes; returns all lanes' in order, 64 bytes apart. `what` names the exchange:
 * all must name the same. */
const unsigned char *vp_shim_exchange(const char *what, const void *mine, size_t bytes);
template <class T> T vp_shuffle(T x, int lane) {
    T y;
    memcpy(&y, vp_shim_exchange("shuffle", &x, sizeof x) + 64 * (lane & 31), sizeof y);
    return y;
}
template <class T> T vp_shuffle_xor(T x, int lanes) {
    T y;
    const unsigned self = vp_shim_thread.x & 31;
    memcpy(&y, vp_shim_exchange("shuffle", &x, sizeof x) + 64 * ((self ^ (unsigned)lanes) & 31), sizeof y);
    return y;
}
uint32_t vp_ballot(bool yes);
inline int vp_lowest(uint32_t bits) {
    return __builtin_ctz(bits);
}

/* ---- tensor cores ---- */
void vp_mma(float d[4], const uint32_t a[4], const uint32_t b[2]);
void vp_mma_f8(float d[4], const uint32_t a[4], const uint32_t b[2]);
inline float vp_f8_float(uint32_t code) { /* the number of an E4M3 code */
    const int exponent = (int)(code >> 3 & 15), of = (int)(code & 7);
    const float size =
        (code & 0x7f) == 0x7f ? NAN : ldexpf((float)(exponent ? of + 8 : of), (exponent ? exponent : 1) - 10);
    return code & 0x80 ? -size : size;
}
void vp_shim_load_matrix4(uint32_t r[4], size_t at, bool transposed);
template <class T> void vp_load_matrix4(uint32_t r[4], vp_shared<T> row) {
    vp_shim_load_matrix4(r, row.at, false);
}
template <class T> void vp_load_matrix4_t(uint32_t r[4], vp_shared<T> row) {
    vp_shim_load_matrix4(r, row.at, true);
}

inline float vp_max(float a, float b) {
    return a != a || b != b ? NAN : a > b ? a : b;
}

/* ---- asynchronous copies: done at the wait, as late as a GPU may ---- */
void vp_shim_copy16(size_t to, const void *from, bool yes);
template <class T> void vp_copy16(vp_shared<T> to, const T *from, bool yes) {
    vp_shim_copy16(to.at, from, yes);
}
void vp_copy_commit();
void vp_shim_copy_wait(int groups);
template <int n> void vp_copy_wait() {
    vp_shim_copy_wait(n);
}

/* ---- products of warp groups (group.h) ---- */
void vp_shim_publish();
bool vp_shim_published();       /* all that was written to shared memory before a barrier */
void vp_shim_pending(int more); /* of this thread's products */

/* ---- memory of the device ---- */
void *vp_shim_malloc(size_t bytes); /* NULL: there is no more; there are $VP_SHIM_MEMORY bytes, or 1 TiB */
size_t vp_shim_left();
void vp_shim_free(void *p);
void vp_shim_copy(void *to, const void *from, size_t bytes);
/* Memory of the host's that kernels reach; NULL: there is no more. With $VP_SHIM_PINNED
 * there are so many bytes of it, and a copy from the device to other memory of the host's stops the program. */
void *vp_shim_pin(size_t bytes);
void vp_shim_unpin(void *p);

#endif
