/* Vectors with labels: what classify, cluster and words read. */
#ifndef VP_SCORE_LABELLED_H
#define VP_SCORE_LABELLED_H
#include "lib/score/private.h"

typedef struct vp_labelled {
    vp_vectors v;   /* as they are in the stream, in `row` order */
    int32_t *label; /* [n], after vp_labelled_number */
    int64_t *row;   /* [n]; the words of one sentence have the same */
    vp_buf names;   /* what labels are called */
    size_t *name;   /* [n + 1]: where the label of each begins in names */
} vp_labelled;
/* A label is the member `field` of the row's meta, a string or an integer; VP_DATA where there is none. Free also after
 * a failure. */
int vp_labelled_read(vp_labelled *x, vp_score_file f, const char *field, vp_error *err);
void vp_labelled_free(vp_labelled *x);

typedef struct vp_label_counts {
    int64_t classes; /* 0 .. classes - 1: the labels of `train`, by bytes */
    int64_t unknown; /* labels that only `test` has; they are numbered behind */
} vp_label_counts;
/* test: NULL, or a second set whose labels are named alike. */
int vp_labelled_number(vp_labelled *train, vp_labelled *test, vp_label_counts *counts, vp_error *err);

#endif
