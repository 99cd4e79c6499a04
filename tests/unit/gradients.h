/* Finite differences for the pairs of operations. The loss is sum dout * out, out computed by the double-precision
 * reference from the float inputs as they stand, so that central differences of it carry no rounding to speak of. */
#ifndef VP_GRADIENTS_H
#define VP_GRADIENTS_H
#include "tests/unit/ops_case.h"

enum { MAX_INPUTS = 4 };
typedef struct gradient_of {
    const char *name;
    vp_mat input; /* what the reference reads */
    vp_mat grad;  /* what the backward writes, or adds to when `added` */
    bool added;
} gradient_of;

typedef struct gradient_pair {
    const void *op;
    int (*backward)(op_case *c, vp_queue *q, const void *op);
    void (*forward)(const void *op, double *out); /* in double; out dense, of dout's shape */
    vp_mat dout;
    gradient_of of[MAX_INPUTS];
    int n;
    double tolerance; /* of one element, times 1 + the largest element of its gradient */
} gradient_pair;

/* The backward with 1 and with 3 threads gives the same bytes, and those agree with differences: for every input, all
 * elements moved at once in random directions, and some elements alone. */
void check_gradients(op_case *c, const gradient_pair *pair);

/* [rows, cols] without gaps between rows, as arrays of weights are. */
vp_mat case_dense(op_case *c, int64_t rows, int64_t cols);
/* Sequences with units of one or more sequences each. */
vp_batch case_unit_batch(op_case *c, int64_t B, int64_t longest);
/* Sequences [first, last) of a batch, as a call of their own. */
vp_batch case_cut_batch(op_case *c, const vp_batch *batch, int64_t first, int64_t last);
/* A sequence that begins a unit, or B: calls may be cut there. */
int64_t case_unit_cut(op_case *c, const vp_batch *batch);

#endif
