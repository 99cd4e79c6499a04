/* What the files of the CUDA backend share: device, queue and weight, launches, argument checks, and the functions
 * behind the slots of the table in backend.cu.
 *
 * Types. Activations are F32 (compute f32) or BF16 (compute bf16); the residual stream (embed's and norm's x),
 * statistics, losses, parameters and their gradients are F32. Kernels are written once over both types; what is read is
 * widened, and what is stored is rounded once. Every row of a result depends on its own inputs alone: on no other row
 * of the batch, and not on how many there are. */
#ifndef VP_CUDA_H
#define VP_CUDA_H
#include "kernels/arena.h"
#include "kernels/cuda/gpu.h"
#include <atomic>
extern "C" {
#include "kernels/ops.h"
}
#ifdef VP_SHIM
typedef int cudaStream_t;
#endif

struct vp_pinned;  /* pinned.cu */
struct vp_refused; /* refused.cu */
struct vp_product; /* product.h: cuBLASLt, or plain loops on the shim */
struct vp_device {
    int number, major, minor; /* compute capability */
    int multiprocessors;
    int groups_from; /* tokens of a sequence from which on warp groups attend to it in bf16; 0: it has none */
    size_t memory;
    bool tf32; /* the library's F32 products may round what they multiply to TF32 */
    char isa[16];
    vp_product *product;
    vp_pinned *pinned;
    vp_refused *refused;
    void *staging;              /* pinned, through which weights come: weight.cu */
    std::atomic<int64_t> freed; /* counts weights that were: graphs may hold their addresses */
};
struct vp_queue {
    vp_device *device;
    cudaStream_t stream;
    vp_arena arena;
    vp_error error;
    struct vp_graphs *graphs; /* graph.cu; NULL: none yet */
    bool plans;               /* its arena has addresses only: nothing is enqueued, by vp_launch or otherwise */
};

/* ---- device.cu ---- */
/* Record why an operation failed and return `code`. */
int vp_queue_fail(vp_queue *q, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* VP_BUG unless m is a matrix of this shape and F32 or, where `bf16`, BF16; `what` is "norm.x". */
int vp_check_mat(vp_queue *q, const char *what, const vp_mat *m, bool bf16, int64_t rows, int64_t cols);
/* VP_BUG unless m is an FP8 matrix of this shape, laid out as ops.h says, on a device that has them. */
int vp_check_f8(vp_queue *q, const char *what, const vp_mat *m, int64_t rows, int64_t cols);
/* `bytes` of the queue's arena, or NULL after recording VP_MEMORY for `what`. */
void *vp_queue_take(vp_queue *q, const char *what, size_t bytes);
/* The status of what was launched last. */
int vp_launched(vp_queue *q, const char *name);
/* Memory of the device that stays until it is freed; VP_MEMORY naming `what`. */
int vp_device_take(void **p, size_t bytes, const char *what, vp_error *err);
void vp_device_give(void *p);
/* Whether it has products of FP8 with a scale a row. */
static inline bool vp_has_f8(const vp_device *d) {
    return d->major == 9;
}
/* Synchronous, for preparing. */
int vp_device_put(void *to, const void *from, size_t bytes, vp_error *err);

/* Enqueue kernel(args...) on a grid of blocks of `threads` threads and `shared` bytes of shared memory. No blocks:
 * VP_OK.
 */
template <class... P, class... A>
int vp_launch(vp_queue *q, const char *name, void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared,
              A... args) {
    if (q->plans || grid.x == 0 || grid.y == 0 || grid.z == 0) return VP_OK;
#ifdef VP_SHIM
    vp_shim_launch(name, grid, threads, shared, [=] { kernel(static_cast<P>(args)...); });
#else
    if (shared > 48 << 10) {
        cudaError_t e =
            cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
        if (e != cudaSuccess) return vp_queue_fail(q, VP_BUG, "%s: %s", name, cudaGetErrorString(e));
    }
    kernel<<<grid, threads, shared, q->stream>>>(static_cast<P>(args)...);
#endif
    return vp_launched(q, name);
}

/* Blocks for n items, `each` a block. */
static inline unsigned vp_blocks(int64_t n, int64_t each) {
    return (unsigned)((n + each - 1) / each);
}
/* A matrix as kernels take it. */
template <class T> struct vp_rows_of {
    T *p;
    int64_t ld;
    vp_rows_of(const vp_mat &m) : p((T *)m.ptr), ld(m.ld) {}
};
/* Call f with a value of the matrix's element type: vp_typed(m, [&](auto type) { using T = decltype(type); ... }) */
template <class F> auto vp_typed(const vp_mat &m, F f) {
    return m.dtype == VP_BF16 ? f(vp_bf16{}) : f(float{});
}

/* The operations that are here, by the files that hold them: X(name, type of its descriptor). */
/* clang-format off */
#define VP_CUDA_ROW_OPS(X) X(glu, vp_glu_op) X(act, vp_act_op) X(embed, vp_embed_op) X(embed_bwd, vp_embed_op) X(norm, vp_norm_op) X(norm_bwd, vp_norm_op) X(softmax_rows, vp_softmax_op) X(softmax_rows_bwd, vp_softmax_op) X(l2norm, vp_l2norm_op) X(l2norm_bwd, vp_l2norm_op) X(rope, vp_rope_op) X(rope_shift, vp_rope_shift_op) X(glu_bwd, vp_glu_op) X(act_bwd, vp_act_op) X(route, vp_moe_op) X(route_bwd, vp_moe_op) X(permute, vp_moe_op) X(combine, vp_moe_op) X(add, vp_elem_op) X(dropout, vp_elem_op) X(cast, vp_elem_op) X(fill, vp_elem_op) X(quant_rows, vp_quant_op) X(pool, vp_pool_op) X(pool_bwd, vp_pool_op) X(pick, vp_pick_op) X(pick_bwd, vp_pick_op) X(sumsq, vp_optim_op) X(clip, vp_optim_op) X(adamw, vp_optim_op) X(sgd, vp_optim_op) X(rmsprop, vp_optim_op)
#define VP_CUDA_PRODUCT_OPS(X) X(linear, vp_linear_op) X(linear_bwd_x, vp_linear_op) X(linear_bwd_w, vp_linear_op) X(lora, vp_lora_op) X(lora_bwd, vp_lora_op) X(bmm, vp_bmm_op) X(bmm_bwd, vp_bmm_op) X(xent, vp_xent_op) X(bag, vp_bag_op) X(nce, vp_nce_op)
#define VP_CUDA_ATTENTION_OPS(X) X(attn, vp_attn_op) X(attn_bwd, vp_attn_op)
#define VP_CUDA_GENERATION_OPS(X) X(kv_append, vp_kv_op) X(kv_export, vp_kv_op) X(topk, vp_topk_op) X(sample, vp_sample_op)
#define VP_CUDA_OPS(X) VP_CUDA_ROW_OPS(X) VP_CUDA_PRODUCT_OPS(X) VP_CUDA_ATTENTION_OPS(X) VP_CUDA_GENERATION_OPS(X)
#define X(name, type)  int vp_cuda_##name(vp_queue *q, const type *op);
VP_CUDA_OPS(X)
#undef X

#endif
