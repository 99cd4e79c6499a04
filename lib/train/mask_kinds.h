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
    struct vp_mask_llara *llara;
};

/* A row of an example, as mask_rows.c and mask_llara.c choose among them. */
typedef struct vp_mask_candidate {
    int32_t group;
    uint8_t role;
    int64_t row; /* as it came */
    vp_frame_row at;
    int64_t times, place; /* how often it is taken; where it stands in the stream */
} vp_mask_candidate;
/* All *n of a step but its generative rows, at most step->B, by group, role and row. VP_DATA: no columns `group` and
 * `role`. */
int vp_mask_candidates(const vp_step *step, vp_mask_candidate *c, size_t *n, vp_error *err);

/* Take row `at` as number `number` of the new step. */
int vp_mask_take(vp_mask *m, vp_frame_row at, int64_t number, vp_error *err);
/* word[4] for counter (c0, c1, step). */
void vp_mask_draw(const vp_mask *m, int64_t step, uint32_t c0, uint32_t c1, uint32_t word[4]);

/* Which rows, with which numbers; vp_mask_rows_all: all as they are. */
int vp_mask_rows_all(vp_mask *m, const vp_step *step, vp_error *err);
int vp_mask_rows_twice(vp_mask *m, const vp_step *step, vp_error *err);
int vp_mask_rows_pairs(vp_mask *m, const vp_step *step, vp_error *err);
int vp_mask_rows_grit(vp_mask *m, const vp_step *step, vp_error *err);
int vp_mask_rows_kto(vp_mask *m, const vp_step *step, vp_error *err);
int vp_mask_rows_llara(vp_mask *m, const vp_step *step, vp_error *err);
/* Columns of the step as one frame, which owns what is put; NULL in the table: none. */
int vp_mask_columns_mntp(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err);
int vp_mask_columns_views(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err);
int vp_mask_columns_generate(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err);
int vp_mask_columns_grit(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err);
int vp_mask_columns_kto(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err);
int vp_mask_columns_llara(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err);

/* VP_USAGE: no prompt by that name, or no room beside it. Close whenever `open` was called. */
int vp_mask_llara_open(vp_mask *m, const char *prompt, const vp_tokenizer *t, vp_error *err);
void vp_mask_llara_close(vp_mask *m);
/* Into the header's key `mask`, and its encoder's attention. */
int vp_mask_llara_describe(const vp_mask *m, vp_map *mask, vp_map *header, vp_error *err);

/* Where the last answer of a row of n tokens begins: its last run of kept ones; n where the last token is not. */
int32_t vp_mask_last_answer(const uint8_t *keep, int32_t n);

/* A new column of n elements (B or T) that the frame owns, to be filled; NULL: err says why. */
void *vp_mask_put(vp_frame *f, const char *name, vp_dtype dtype, int64_t n, vp_error *err);

#endif
