/* New rows for the embedding and the output head, where a vocabulary gets tokens. Private to lib/model. */
#ifndef VP_MODEL_GROW_H
#define VP_MODEL_GROW_H
#include "lib/base/base.h"

/* The sums, a column each, from which new rows are drawn. {0} is empty. */
typedef struct vp_new_rows {
    double *sum, *square; /* [cols] */
    int64_t cols, rows;   /* rows: so far */
} vp_new_rows;
/* Begin anew with columns of another number. Free with vp_new_rows_free. */
int vp_new_rows_begin(vp_new_rows *r, int64_t cols, vp_error *err);
void vp_new_rows_add(vp_new_rows *r, const float *row); /* [cols] */
/* Row k: every column uniform, with the mean and the deviation of those that were added; the same k, the same row. */
void vp_new_rows_draw(const vp_new_rows *r, int64_t k, float *out);
void vp_new_rows_free(vp_new_rows *r);

#endif
