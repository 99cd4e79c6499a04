/* What the files of the CPU backend share: device, queue and weight, argument checks, and the functions behind the
 * slots of the table in backend.c. */
#ifndef VP_CPU_H
#define VP_CPU_H
#include "kernels/arena.h"
#include "kernels/cpu/bf16.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/simd_tables.h"
#include "kernels/ops.h"
#include <pthread.h>

typedef struct vp_slab vp_slab; /* slab.c */
struct vp_device {
    vp_threads *threads;
    const vp_simd *simd;
    bool bf16;               /* products of bf16 are there */
    vp_product *product;     /* NULL: an instruction set was forced; our own products */
    pthread_mutex_t prepare; /* weights are prepared one at a time */
    vp_slab *slab;           /* that they take memory of; NULL: none yet */
};

struct vp_queue {
    vp_device *device;
    vp_arena arena;
    vp_error error;
    /* Of a queue that plans, its own: `device` with threads that run nothing; else NULL. What a loop would have
     * computed is zeros then, for what follows it. */
    vp_device *pretended;
};

typedef struct vp_panel { /* columns [first, first + n) of a weight */
    int64_t first, n;
    const vp_product_shape *shape; /* NULL: our own kernel */
    void *packed;                  /* within the weight's */
} vp_panel;
struct vp_weight {
    int64_t in, out;
    vp_dtype compute; /* VP_F32, VP_BF16; for generation VP_I8, too: inputs are rounded to bf16, as those numbers are */
    int64_t words;    /* 4-byte ones of a row of inputs: `in` floats, or pairs of bf16 */
    float *bias;      /* [out] or NULL */
    float *scale;     /* [out] of VP_I8, else NULL */
    vp_panel *panel;
    int64_t panels;
    int64_t widest;
    void *packed;        /* of all panels */
    vp_slab *slab;       /* that `packed` or `row` is a piece of, or NULL */
    size_t scratch;      /* of the library, per thread */
    vp_weight *backward; /* its transpose [in, out], or NULL */
    /* linear_rows.c: no panels then */
    char *row; /* [out, in] of `compute`, or NULL */
    /* experts.c: a weight each, nothing else of the above but in and out */
    vp_weight **expert; /* [experts], or NULL */
    int32_t experts;
};

/* Record why an operation failed and return `code`. */
int vp_queue_fail(vp_queue *q, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* VP_BUG unless m is a host matrix of this type and shape; `what` is "norm.x". */
int vp_check_mat(vp_queue *q, const char *what, const vp_mat *m, vp_dtype dtype, int64_t rows, int64_t cols);
/* The same of a gradient in f32 that must be there. */
int vp_check_grad(vp_queue *q, const char *what, const vp_mat *m, int64_t rows, int64_t cols);
/* `count` floats of the queue's arena, or NULL after recording VP_MEMORY for `what`. */
float *vp_queue_floats(vp_queue *q, const char *what, int64_t count);

static inline float *vp_row(const vp_mat *m, int64_t i) {
    return (float *)m->ptr + i * m->ld;
}

/* Floats of b [K, N] packed for our own product. */
static inline int64_t vp_packed_floats(const vp_simd *simd, int64_t k, int64_t n) {
    int64_t nr = simd->gemm->nr;
    return (n + nr - 1) / nr * nr * k;
}

/* Run fn over [0, n) in chunks of `grain` items: the loop of every row-wise operation. */
typedef void vp_rows_fn(void *ctx, int64_t first, int64_t last, int thread);
void vp_rows(vp_queue *q, int64_t n, int64_t grain, vp_rows_fn *fn, void *ctx);
/* Rows a chunk so that a chunk is worth handing out: `work` is about the floats touched by a row. */
int64_t vp_grain(int64_t work);

/* arena.c */
/* Memory that begins at a multiple of 256, not zeroed; in large pages where the system gives them. NULL: there is none;
 * released by free. */
void *vp_pages_alloc(size_t bytes);
void vp_arena_open(vp_queue *q);
/* An arena of addresses alone: what is not written takes no memory. */
int vp_arena_pretend(vp_queue *q, vp_error *err);
bool vp_arena_holds(const vp_queue *q, const void *p);
void *vp_arena_alloc(vp_queue *q, size_t bytes);
size_t vp_arena_mark(const vp_queue *q);
void vp_arena_release(vp_queue *q, size_t mark);
size_t vp_cpu_arena_most(const vp_queue *q);
int vp_cpu_arena_reserve(vp_queue *q, size_t bytes);
size_t vp_cpu_memory_free(const vp_device *d);

/* slab.c */
/* A piece of `bytes`, not zeroed, at a multiple of 256, of *open or of a new slab that takes its place. NULL: there is
 * none. *of is dropped when the piece is not used any more, and *open at the end (NULL is fine). One thread at a time
 * takes; any may drop. */
void *vp_slab_take(vp_slab **open, size_t bytes, vp_slab **of);
void vp_slab_drop(vp_slab *s);

/* weight.c, linear.c */
int vp_cpu_weight_prepare(vp_device *d, const vp_weight_desc *desc, vp_weight **w, vp_error *err);
int vp_cpu_weight_update(vp_queue *q, vp_weight *w, const vp_weight_desc *desc);
void vp_cpu_weight_free(vp_device *d, vp_weight *w);
int vp_cpu_linear(vp_queue *q, const vp_linear_op *op);
/* What joins the sums of a product before its epilogue: rows [first, first + rows) of the columns of one panel, in
 * `tile`, ld floats a row. */
typedef struct vp_tile_sum {
    void (*add)(const void *ctx, const vp_panel *p, int64_t first, int64_t rows, float *tile, int64_t ld, int thread);
    const void *ctx;
} vp_tile_sum;
/* vp_cpu_linear and vp_cpu_linear_bwd_x with it (NULL: nothing joins). */
int vp_linear_run(vp_queue *q, const vp_linear_op *op, const vp_tile_sum *sum);
int vp_linear_bwd_x_run(vp_queue *q, const vp_linear_op *op, const vp_tile_sum *sum);
/* linear_rows.c: weights that are kept row by row; row `row` of any weight as I8, VP_DATA if it is not finite */
int vp_weight_quantise(const vp_weight_desc *desc, int64_t row, const float *x, int64_t n, int8_t *out, float *scale,
                       vp_error *err);
int vp_weight_rows_prepare(vp_device *d, const vp_weight_desc *desc, vp_weight *w, vp_error *err);
int vp_linear_rows(vp_queue *q, const vp_linear_op *op);
/* lora.c, bmm.c, linear_bwd.c, drop.c */
int vp_cpu_lora(vp_queue *q, const vp_lora_op *op);
int vp_cpu_bmm(vp_queue *q, const vp_bmm_op *op);
int vp_cpu_dropout(vp_queue *q, const vp_elem_op *op);
int vp_cpu_linear_bwd_x(vp_queue *q, const vp_linear_op *op);
int vp_cpu_linear_bwd_w(vp_queue *q, const vp_linear_op *op);
int vp_cpu_lora_bwd(vp_queue *q, const vp_lora_op *op);
int vp_cpu_bmm_bwd(vp_queue *q, const vp_bmm_op *op);
/* experts.c */
int vp_cpu_route(vp_queue *q, const vp_moe_op *op);
int vp_cpu_route_bwd(vp_queue *q, const vp_moe_op *op);
int vp_cpu_permute(vp_queue *q, const vp_moe_op *op);
int vp_cpu_combine(vp_queue *q, const vp_moe_op *op);
/* Weights of experts, and products with them, one expert after the other. */
int vp_experts_prepare(vp_device *d, const vp_weight_desc *desc, vp_weight **w, vp_error *err);
int vp_experts_update(vp_queue *q, vp_weight *w, const vp_weight_desc *desc);
int vp_experts_linear(vp_queue *q, const vp_linear_op *op);
int vp_experts_bwd_x(vp_queue *q, const vp_linear_op *op);
int vp_experts_bwd_w(vp_queue *q, const vp_linear_op *op);
/* rows_bwd.c */
int vp_cpu_embed_bwd(vp_queue *q, const vp_embed_op *op);
int vp_cpu_norm_bwd(vp_queue *q, const vp_norm_op *op);
int vp_cpu_softmax_rows_bwd(vp_queue *q, const vp_softmax_op *op);
int vp_cpu_glu_bwd(vp_queue *q, const vp_glu_op *op);
int vp_cpu_act_bwd(vp_queue *q, const vp_act_op *op);
int vp_cpu_l2norm_bwd(vp_queue *q, const vp_l2norm_op *op);
/* rows.c */
int vp_check_act(vp_queue *q, const char *what, vp_act act);
int vp_cpu_embed(vp_queue *q, const vp_embed_op *op);
int vp_cpu_norm(vp_queue *q, const vp_norm_op *op);
int vp_cpu_softmax_rows(vp_queue *q, const vp_softmax_op *op);
int vp_cpu_rope(vp_queue *q, const vp_rope_op *op);
int vp_cpu_rope_shift(vp_queue *q, const vp_rope_shift_op *op);
int vp_cpu_glu(vp_queue *q, const vp_glu_op *op);
int vp_cpu_act(vp_queue *q, const vp_act_op *op);
int vp_cpu_add(vp_queue *q, const vp_elem_op *op);
int vp_cpu_cast(vp_queue *q, const vp_elem_op *op);
int vp_cpu_fill(vp_queue *q, const vp_elem_op *op);
int vp_cpu_l2norm(vp_queue *q, const vp_l2norm_op *op);
/* attn.c, attn_bwd.c, pool.c, topk.c */
int vp_cpu_attn(vp_queue *q, const vp_attn_op *op);
int vp_cpu_attn_bwd(vp_queue *q, const vp_attn_op *op);
int vp_cpu_pool(vp_queue *q, const vp_pool_op *op);
int vp_cpu_pool_bwd(vp_queue *q, const vp_pool_op *op);
int vp_cpu_pick(vp_queue *q, const vp_pick_op *op);
int vp_cpu_pick_bwd(vp_queue *q, const vp_pick_op *op);
int vp_cpu_topk(vp_queue *q, const vp_topk_op *op);
/* attn_cached.c, sample.c */
int vp_attn_cached(vp_queue *q, const vp_attn_op *op);
int vp_cpu_kv_append(vp_queue *q, const vp_kv_op *op);
int vp_cpu_sample(vp_queue *q, const vp_sample_op *op);
/* optim.c */
int vp_cpu_sumsq(vp_queue *q, const vp_optim_op *op);
int vp_cpu_clip(vp_queue *q, const vp_optim_op *op);
int vp_cpu_adamw(vp_queue *q, const vp_optim_op *op);
int vp_cpu_sgd(vp_queue *q, const vp_optim_op *op);
int vp_cpu_rmsprop(vp_queue *q, const vp_optim_op *op);
/* xent.c, nce.c */
int vp_cpu_xent(vp_queue *q, const vp_xent_op *op);
int vp_cpu_bag(vp_queue *q, const vp_bag_op *op);
int vp_cpu_nce(vp_queue *q, const vp_nce_op *op);

#endif
