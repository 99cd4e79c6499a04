/* The CPU backend's table. A slot that is not here is one that the CPU does not have. */
#include "kernels/cpu/device.h"

static const vp_backend cpu = {
    .name = "cpu",
    .open = vp_cpu_open,
    .close = vp_cpu_close,
    .caps = vp_cpu_caps,
    .queue_open = vp_cpu_queue_open,
    .queue_close = vp_cpu_queue_close,
    .queue_wait = vp_cpu_queue_wait,
    .why = vp_cpu_why,
    .arena_alloc = vp_arena_alloc,
    .arena_mark = vp_arena_mark,
    .arena_release = vp_arena_release,
    .host_alloc = vp_cpu_host_alloc,
    .host_free = vp_cpu_host_free,
    .copy = vp_cpu_copy,
    .weight_prepare = vp_cpu_weight_prepare,
    .weight_free = vp_cpu_weight_free,
    .embed = vp_cpu_embed,
    .norm = vp_cpu_norm,
    .linear = vp_cpu_linear,
    .lora = vp_cpu_lora,
    .bmm = vp_cpu_bmm,
    .softmax_rows = vp_cpu_softmax_rows,
    .rope = vp_cpu_rope,
    .attn = vp_cpu_attn,
    .glu = vp_cpu_glu,
    .act = vp_cpu_act,
    .add = vp_cpu_add,
    .cast = vp_cpu_cast,
    .fill = vp_cpu_fill,
    .pool = vp_cpu_pool,
    .pick = vp_cpu_pick,
    .l2norm = vp_cpu_l2norm,
    .topk = vp_cpu_topk,
};

const vp_backend *vp_backend_cpu(void) {
    return &cpu;
}
