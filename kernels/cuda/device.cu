/* Device and queue of the CUDA backend: opening, memory, copies, and argument checks. */
#include "kernels/cuda/device.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/refused.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int vp_queue_fail(vp_queue *q, int code, const char *format, ...) {
    char text[sizeof q->error.text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    q->error = vp_error{}; /* the last failure is the one that `why` tells */
    return vp_fail(&q->error, code, "%s", text);
}

int vp_check_mat(vp_queue *q, const char *what, const vp_mat *m, bool bf16, int64_t rows, int64_t cols) {
    if (m->dtype != VP_F32 && !(bf16 && m->dtype == VP_BF16))
        return vp_queue_fail(q, VP_BUG, "%s: is %s, must be F32%s", what, vp_dtype_name(m->dtype),
                             bf16 ? " or BF16" : "");
    if (m->rows != rows || m->cols != cols || m->ld < cols || rows < 0 || cols < 0)
        return vp_queue_fail(q, VP_BUG, "%s: is [%lld, %lld] with rows %lld apart, must be [%lld, %lld]", what,
                             (long long)m->rows, (long long)m->cols, (long long)m->ld, (long long)rows,
                             (long long)cols);
    if (!m->ptr && rows > 0 && cols > 0) return vp_queue_fail(q, VP_BUG, "%s: no memory given", what);
    return VP_OK;
}

int vp_check_f8(vp_queue *q, const char *what, const vp_mat *m, int64_t rows, int64_t cols) {
    vp_mat codes = *m;
    if (!vp_has_f8(q->device)) return vp_queue_fail(q, VP_BUG, "%s: this device has no FP8", what);
    if (m->dtype != VP_F8) return vp_queue_fail(q, VP_BUG, "%s: is %s, must be F8_E4M3", what, vp_dtype_name(m->dtype));
    if (!m->scale || (uintptr_t)m->scale % 16 || (uintptr_t)m->ptr % 16 || m->ld % 16)
        return vp_queue_fail(q, VP_BUG, "%s: FP8 needs scales, and rows at multiples of 16 bytes", what);
    codes.dtype = VP_F32; /* the rest is any matrix's */
    return vp_check_mat(q, what, &codes, false, rows, cols);
}

void *vp_queue_take(vp_queue *q, const char *what, size_t bytes) {
    void *p = vp_arena_take(&q->arena, bytes);
    if (!p) vp_queue_fail(q, VP_MEMORY, "out of device memory: %s needs %zu bytes", what, bytes);
    return p;
}

/* Warp groups are faster where there are blocks of keys enough to begin one while another is weighed. To find out from
 * where, $VP_CUDA_GROUPS_FROM names the tokens; 0: never. */
static const long GROUPS_FROM = 512;
static int choose_groups(vp_device *d, vp_error *err) {
    const char *other = getenv("VP_CUDA_GROUPS_FROM");
    char *end = NULL;
    const long from = other && *other ? strtol(other, &end, 10) : GROUPS_FROM;
    if (end && (*end || from < 0 || from > 1 << 30))
        return vp_fail(err, VP_USAGE, "VP_CUDA_GROUPS_FROM: '%s' is no number of tokens", other);
    d->groups_from = d->major == 9 ? (int)from : 0;
    return VP_OK;
}

#ifdef VP_SHIM
static int count_devices(vp_error *err) {
    (void)err;
    return 1;
}
static int device_open(vp_device *d, vp_error *err) {
    snprintf(d->isa, sizeof d->isa, "shim");
    const char *major = getenv("VP_SHIM_MAJOR"); /* "8": a capability without FP8 */
    d->major = major && !strcmp(major, "8") ? 8 : 9;
    d->multiprocessors = 2;
    d->memory = (size_t)1 << 40;
    return choose_groups(d, err);
}
int vp_device_take(void **p, size_t bytes, const char *what, vp_error *err) {
    *p = vp_shim_malloc(bytes ? bytes : 1);
    return *p ? VP_OK : vp_fail_memory(err, what, bytes);
}
void vp_device_give(void *p) {
    vp_shim_free(p);
}
int vp_device_put(void *to, const void *from, size_t bytes, vp_error *err) {
    (void)err;
    vp_shim_copy(to, from, bytes);
    return VP_OK;
}
size_t vp_cuda_memory_free(const vp_device *d) {
    (void)d;
    return vp_shim_left();
}
int vp_launched(vp_queue *q, const char *name) {
    (void)q, (void)name;
    return VP_OK;
}
static int stream_open(vp_queue *q, vp_error *err) {
    (void)q, (void)err;
    return VP_OK;
}
static void stream_close(vp_queue *q) {
    (void)q;
}
int vp_cuda_queue_wait(vp_queue *q, vp_error *err) {
    (void)q, (void)err;
    vp_shim_not_recorded("a wait");
    return VP_OK;
}
int vp_cuda_copy(vp_queue *q, void *to, const void *from, size_t bytes) {
    if (q->plans) return VP_OK;
    if (bytes && (!to || !from)) return vp_queue_fail(q, VP_BUG, "copy: no memory given");
    if (bytes) vp_shim_copy(to, from, bytes);
    return VP_OK;
}
void *vp_device_pin(size_t bytes) {
    return vp_shim_pin(bytes);
}
void vp_device_unpin(void *p) {
    vp_shim_unpin(p);
}
#else
static int cuda_fail(vp_error *err, const char *what, cudaError_t e) {
    return vp_fail(err, VP_MEMORY, "%s: %s", what, cudaGetErrorString(e));
}
static int count_devices(vp_error *err) {
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaSuccess) return n;
    int driver = 0;
    if (e != cudaErrorInsufficientDriver || cudaDriverGetVersion(&driver) != cudaSuccess)
        cuda_fail(err, "CUDA", e);
    else if (!driver)
        vp_fail(err, VP_MEMORY, "no driver of NVIDIA's is loaded");
    else
        vp_fail(err, VP_MEMORY, "the driver knows CUDA %d.%d, %d.%d is needed", driver / 1000, driver % 1000 / 10,
                CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    return 0;
}
static int device_open(vp_device *d, vp_error *err) {
    cudaDeviceProp p;
    cudaError_t e = cudaSetDevice(d->number);
    if (e == cudaSuccess) e = cudaGetDeviceProperties(&p, d->number);
    if (e != cudaSuccess) return cuda_fail(err, "CUDA", e);
    if (p.major < 8)
        return vp_fail(err, VP_MEMORY, "%s: is of capability %d.%d, 8.0 is needed", p.name, p.major, p.minor);
    d->major = p.major;
    d->minor = p.minor;
    d->multiprocessors = p.multiProcessorCount;
    d->memory = p.totalGlobalMem;
    snprintf(d->isa, sizeof d->isa, "sm_%d%d", p.major, p.minor);
    return choose_groups(d, err);
}
int vp_device_take(void **p, size_t bytes, const char *what, vp_error *err) {
    cudaError_t e = cudaMalloc(p, bytes ? bytes : 1);
    if (e == cudaSuccess) return VP_OK;
    *p = NULL;
    cudaGetLastError();
    return vp_fail(err, VP_MEMORY, "out of device memory: %s needs %zu bytes", what, bytes);
}
void vp_device_give(void *p) {
    cudaFree(p);
}
int vp_device_put(void *to, const void *from, size_t bytes, vp_error *err) {
    cudaError_t e = bytes ? cudaMemcpy(to, from, bytes, cudaMemcpyDefault) : cudaSuccess;
    if (e == cudaSuccess) e = cudaStreamSynchronize(cudaStreamLegacy); /* what was staged has arrived for all streams */
    return e == cudaSuccess ? VP_OK : cuda_fail(err, "copy", e);
}
size_t vp_cuda_memory_free(const vp_device *d) {
    size_t bytes = 0, all;
    if (cudaSetDevice(d->number) != cudaSuccess || cudaMemGetInfo(&bytes, &all) != cudaSuccess) bytes = 0;
    cudaGetLastError();
    return bytes;
}
int vp_launched(vp_queue *q, const char *name) {
    cudaError_t e = cudaGetLastError();
    return e == cudaSuccess ? VP_OK : vp_queue_fail(q, VP_MEMORY, "%s: %s", name, cudaGetErrorString(e));
}
static int stream_open(vp_queue *q, vp_error *err) {
    cudaError_t e = cudaSetDevice(q->device->number);
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking);
    return e == cudaSuccess ? VP_OK : cuda_fail(err, "stream", e);
}
static void stream_close(vp_queue *q) {
    if (!q->stream) return;
    cudaStreamSynchronize(q->stream);
    cudaStreamDestroy(q->stream);
}
int vp_cuda_queue_wait(vp_queue *q, vp_error *err) {
    if (q->plans) return VP_OK;
    cudaError_t e = cudaStreamSynchronize(q->stream);
    if (e == cudaSuccess) return VP_OK;
    vp_queue_fail(q, VP_MEMORY, "%s", cudaGetErrorString(e));
    return cuda_fail(err, "CUDA", e);
}
int vp_cuda_copy(vp_queue *q, void *to, const void *from, size_t bytes) {
    if (q->plans) return VP_OK;
    if (bytes && (!to || !from)) return vp_queue_fail(q, VP_BUG, "copy: no memory given");
    cudaError_t e = bytes ? cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, q->stream) : cudaSuccess;
    return e == cudaSuccess ? VP_OK : vp_queue_fail(q, VP_MEMORY, "copy: %s", cudaGetErrorString(e));
}
void *vp_device_pin(size_t bytes) {
    void *p = NULL;
    if (cudaHostAlloc(&p, bytes, cudaHostAllocDefault) == cudaSuccess) return p;
    cudaGetLastError();
    return NULL;
}
void vp_device_unpin(void *p) {
    cudaFreeHost(p);
}
#endif

int vp_cuda_count(vp_error *err) {
    return count_devices(err);
}

int vp_cuda_open(vp_device **out, const vp_device_options *options, vp_error *err) {
    vp_device *d = (vp_device *)vp_calloc(1, sizeof *d);
    if (!d) return vp_fail_memory(err, "device", sizeof *d);
    d->number = options->index;
    d->tf32 = options->tf32;
    vp_pinned_open(d);
    vp_refused_open(d);
    int status = device_open(d, err);
    if (!status) status = vp_product_open(&d->product, d, err);
    if (status) {
        vp_cuda_close(d);
        return status;
    }
    *out = d;
    return VP_OK;
}

void vp_cuda_close(vp_device *d) {
    if (!d) return;
    vp_product_close(d->product);
    vp_pinned_close(d); /* d->staging, too */
    vp_refused_close(d);
    free(d);
}

void vp_cuda_caps(const vp_device *d, vp_caps *caps) {
    *caps = vp_caps{};
    caps->isa = d->isa;
    caps->threads = d->multiprocessors;
    caps->bf16 = caps->bf16_states = caps->tf32 = caps->separate = true;
    caps->fp8 = vp_has_f8(d);
    caps->memory = d->memory;
}

static void *take_chunk(void *ctx, size_t bytes) {
    vp_error none = {};
    void *p;
    (void)ctx;
    return vp_device_take(&p, bytes, "scratch", &none) ? NULL : p;
}

static void give_chunk(void *ctx, void *p) {
    vp_graphs_drop((vp_queue *)ctx);
    vp_device_give(p);
}

/* Addresses at which there is nothing. */
static void give_nothing(void *ctx, void *p) {
    (void)ctx, (void)p;
}

int vp_cuda_queue_plan(vp_queue **out, vp_device *d, vp_error *err) {
    vp_queue *q = (vp_queue *)vp_calloc(1, sizeof *q);
    if (!q) return vp_fail_memory(err, "queue", sizeof *q);
    q->device = d;
    q->plans = true;
    q->arena.give = give_nothing;
    q->arena.chunk[0] = {(char *)((size_t)1 << 12), 0, (size_t)1 << 46};
    q->arena.chunks = 1;
    *out = q;
    return VP_OK;
}

int vp_cuda_queue_open(vp_queue **out, vp_device *d, vp_error *err) {
    vp_queue *q = (vp_queue *)vp_calloc(1, sizeof *q);
    if (!q) return vp_fail_memory(err, "queue", sizeof *q);
    q->device = d;
    q->arena.take = take_chunk;
    q->arena.give = give_chunk;
    q->arena.ctx = q;
    int status = stream_open(q, err);
    if (status) {
        free(q);
        return status;
    }
    *out = q;
    return VP_OK;
}

void vp_cuda_queue_close(vp_queue *q) {
    if (!q) return;
    vp_graphs_drop(q);
    if (!q->plans) stream_close(q);
    vp_arena_drop(&q->arena);
    free(q);
}

const char *vp_cuda_why(const vp_queue *q) {
    return q->error.text;
}

void *vp_cuda_arena_alloc(vp_queue *q, size_t bytes) {
    return vp_arena_take(&q->arena, bytes);
}

size_t vp_cuda_arena_mark(const vp_queue *q) {
    return vp_arena_top(&q->arena);
}

void vp_cuda_arena_release(vp_queue *q, size_t mark) {
    vp_arena_back(&q->arena, mark);
}

size_t vp_cuda_arena_most(const vp_queue *q) {
    return q->arena.most;
}

int vp_cuda_arena_reserve(vp_queue *q, size_t bytes) {
    if (vp_arena_reserve(&q->arena, bytes, 0)) return VP_OK;
    return vp_queue_fail(q, VP_MEMORY, "out of device memory: scratch memory needs %zu bytes", bytes);
}
