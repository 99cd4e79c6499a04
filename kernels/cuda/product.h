/* Products of matrices on the device, and the library behind the large ones. Legend: D [M, N], K the length of the
 * sums. An element of D is a sum in an order that its own row and column, K and the types decide: not M, nor where the
 * row stands. Products of weights go to cuBLASLt by algorithms that were certified for it when the
 * weight was prepared: product.cu, on the shim plain loops. All others, and shapes that it does not take, go to kernels
 * of our own: product_own.cu. */
#ifndef VP_CUDA_PRODUCT_H
#define VP_CUDA_PRODUCT_H
#include "kernels/cuda/cuda.h"

typedef enum vp_product_kind {
    VP_PRODUCT_NT, /* D = A B^T: A [M, K], B [N, K]. x W^T */
    VP_PRODUCT_NN, /* D = A B:   A [M, K], B [K, N]. dout W */
    VP_PRODUCT_TN  /* D = A^T B: A [K, M], B [K, N]. dout^T x */
} vp_product_kind;

typedef struct vp_product_op {
    vp_product_kind kind;
    int64_t M, N, K;
    vp_dtype type; /* of A and B: VP_F32, in which the products are too, VP_BF16, or VP_F8 (NT alone); sums are F32 */
    const void *a, *b;
    int64_t lda, ldb;
    /* VP_F8: D = scale_a[row] scale_b[column] times the sum; all four at multiples of 16 bytes, as K, lda and ldb are
     */
    const float *scale_a, *scale_b;
    /* D = the sum over p < planes of A_p B_p, p * plane_a and p * plane_b elements further: an F32 factor beside a BF16
     * one is two planes of it (vp_product_factor). 0: one */
    int planes;
    int64_t plane_a, plane_b;
    int64_t count, stride_a, stride_b, stride_d; /* that many products, elements apart; 0: one */
    const float *alpha;                          /* the host's: D = alpha times the sum; NULL: 1 */
    vp_dtype d_type;
    void *d;
    int64_t ldd;
    /* TN, F32: D += the sum over each gradient unit of the batch, whose rows K are, in their order; NULL: one unit */
    bool add;
    const vp_batch *units;
    /* NT, NN: M are the rows of experts, and those of expert e take B at e stride_b. TN: K are, their units those of
     * the batch's tokens, and expert e's sums go to D at e stride_d. Our own kernels; one plane, one product. */
    const vp_routing *group;
} vp_product_op;

/* Enqueue it. Any shape, leading dimension and alignment. `what` is for messages. */
int vp_product_run(vp_queue *q, const char *what, const vp_product_op *op);
/* The same by our own kernels in any case. */
int vp_product_own(vp_queue *q, const char *what, const vp_product_op *op);
/* x [rows, cols], F32, as a factor beside one of `type`: `to` dense, at `from` of a matrix of `of` rows. F32: a copy.
 * BF16: two planes, [2, of, cols]: the rounded numbers, and what they lack, rounded; 16 bits of them in all. */
int vp_product_factor(vp_queue *q, const char *what, const vp_mat *x, vp_dtype type, void *to, int64_t from,
                      int64_t of);
/* m itself, or rounded or widened to `type` into the queue's arena where it is of another. */
int vp_product_typed(vp_queue *q, const char *what, const vp_mat *m, vp_dtype type, vp_mat *out);

/* ---- the library: product.cu, shim/product.cc ---- */
int vp_product_open(vp_product **p, const vp_device *d, vp_error *err);
void vp_product_close(vp_product *p);
/* Find and certify how products of this kind, N and K are computed, before the first of them runs. NT and NN only. A
 * shape of which nothing can be certified is not the library's: refused.h has it then. */
int vp_product_learn(vp_device *d, vp_product_kind kind, int64_t N, int64_t K, vp_dtype type, vp_dtype d_type,
                     vp_error *err);
/* The most rows that the library takes at once of this product, learned before; 0: it is not the library's. */
int64_t vp_product_rows(const vp_device *d, const vp_product_op *op);
/* One plane, one product, no alpha, at most vp_product_rows rows; pointers and leading dimensions multiples of 16
 * bytes.
 */
int vp_product_library(vp_queue *q, const char *what, const vp_product_op *op);

#endif
