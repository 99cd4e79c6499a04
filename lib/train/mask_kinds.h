/* What the kinds of mask.c's table share. Private to lib/train. */
#ifndef VP_TRAIN_MASK_KINDS_H
#define VP_TRAIN_MASK_KINDS_H
#include "lib/train/mask.h"

struct vp_mask {
    vp_mask_options o; /* strings are not kept */
    int32_t mask_id;   /* mntp */
    int64_t vocab;
    uint8_t *special;  /* [vocab]; 1: never chosen */
    vp_frame_row *row; /* rows of the step that is being made, [rows] in the order of the stream */
    int64_t *number;   /* their column `row` */
    size_t rows, cap, numbers_cap;
    int64_t all_rows, all_tokens; /* written */
    double weight_sum;            /* < 0: no targets */
};

/* Take row `at` as number `number` of the new step. */
int vp_mask_take(vp_mask *m, vp_frame_row at, int64_t number, vp_error *err);
/* word[4] for counter (c0, c1, step). */
void vp_mask_draw(const vp_mask *m, int64_t step, uint32_t c0, uint32_t c1, uint32_t word[4]);

/* Which rows, with which numbers; vp_mask_rows_all: all as they are. */
int vp_mask_rows_all(vp_mask *m, const vp_step *step, vp_error *err);
int vp_mask_rows_twice(vp_mask *m, const vp_step *step, vp_error *err);
int vp_mask_rows_pairs(vp_mask *m, const vp_step *step, vp_error *err);
/* Columns of the step as one frame, which owns what is put; NULL in the table: none. */
int vp_mask_columns_mntp(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err);
int vp_mask_columns_views(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err);
int vp_mask_columns_generate(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err);

/* A new column of n elements (B or T) that the frame owns, to be filled; NULL: err says why. */
void *vp_mask_put(vp_frame *f, const char *name, vp_dtype dtype, int64_t n, vp_error *err);

#endif
