/* The CUDA backend's table. A slot that is not here is one that it does not have. */
#include "kernels/cuda/device.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/weight.h"
extern "C" {
#include "kernels/load.h"
}

static vp_backend make_table() {
    vp_backend b = {};
    b.name = "cuda";
    b.open = vp_cuda_open;
    b.close = vp_cuda_close;
    b.caps = vp_cuda_caps;
    b.note = vp_cuda_note;
    b.queue_open = vp_cuda_queue_open;
    b.queue_plan = vp_cuda_queue_plan;
    b.queue_close = vp_cuda_queue_close;
    b.queue_wait = vp_cuda_queue_wait;
    b.why = vp_cuda_why;
    b.arena_alloc = vp_cuda_arena_alloc;
    b.arena_mark = vp_cuda_arena_mark;
    b.arena_release = vp_cuda_arena_release;
    b.arena_most = vp_cuda_arena_most;
    b.arena_reserve = vp_cuda_arena_reserve;
    b.memory_free = vp_cuda_memory_free;
    b.host_alloc = vp_cuda_host_alloc;
    b.host_free = vp_cuda_host_free;
    b.copy = vp_cuda_copy;
    b.repeat = vp_cuda_repeat;
    b.weight_prepare = vp_cuda_weight_prepare;
    b.weight_update = vp_cuda_weight_update;
    b.weight_free = vp_cuda_weight_free;
#define X(name, type) b.name = vp_cuda_##name;
    VP_CUDA_OPS(X)
#undef X
    return b;
}

extern "C" __attribute__((visibility("default"))) const vp_backend *vp_backend_cuda(size_t size, int *devices,
                                                                                    vp_error *err) {
    static const vp_backend table = make_table();
    *devices = vp_cuda_count(err);
    return size == sizeof table ? &table : NULL;
}
