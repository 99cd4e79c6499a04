/* What the operations mean, written as plainly as possible in double precision. Outputs are dense. */
#ifndef VP_REFERENCE_H
#define VP_REFERENCE_H
#include "kernels/ops.h"

/* 0 or 1 / (1 - p), p in units of 2^-16, for element `index` of a sequence: token * width + channel, or query * 2^19 +
 * key. 1 when p is 0. */
double ref_drop(const vp_drop *drop, int64_t row, int64_t index, int32_t head);
/* The same of channel i of token t of a batch. */
double ref_drop_token(const vp_drop *drop, const vp_batch *batch, int64_t t, int64_t width, int64_t i);
double ref_act(vp_act act, double x);
/* out [M, N] = x [M, K] w [N, K]^T; size [M, N] (or NULL): sum of |x w|, what a bound is a multiple of */
void ref_product(const vp_mat *x, const float *w, int64_t n, double *out, double *size);
void ref_norm(const vp_norm_op *op, double *out); /* of x as it stands, after d was added */
void ref_softmax(const vp_mat *x, double *out);
void ref_rope(const vp_rope_op *op, double *out);
void ref_attn(const vp_attn_op *op, double *out);
/* Probabilities of query i of sequence b in head h for the sequence's keys, before dropout. */
void ref_attn_row(const vp_attn_op *op, int64_t b, int64_t i, int64_t h, double *p);
int64_t ref_pool(const vp_pool_op *op, double *out); /* returns how many rows had nothing */

#endif
