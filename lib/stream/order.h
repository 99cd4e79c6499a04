/* Rows in `row` order: tok packs rows of like length together, people get them as they were in the input. */
#ifndef VP_STREAM_ORDER_H
#define VP_STREAM_ORDER_H
#include "lib/stream/stream.h"

/* What belongs to rows, in `row` order: pieces come in any order within a window, ordinals count from 0. {0} is empty;
 * set `limit` before the first piece to let only so many out (0: all). */
typedef struct vp_row_order {
    struct vp_row_piece *piece; /* waiting, ascending */
    size_t n, cap;
    int64_t next, seen; /* the ordinal whose turn it is; rows of the frames before */
    int64_t limit, out; /* pieces that came out */
    bool ended;         /* the step's last frame has come */
} vp_row_order;

/* Before the pieces of a frame: where a stream or a step begins, ordinals count from 0 again, and what still waits is
 * appended to `out`. *first: the ordinal of the frame's first row if the frame has no column `row`. */
int vp_row_order_frame(vp_row_order *o, const vp_frame *f, int64_t *first, vp_buf *out, vp_error *err);
/* The ordinal of row b of a frame: its `row`, else first + b. */
int64_t vp_row_ordinal(const vp_frame *f, int64_t b, int64_t first);
/* Append to `out` the piece if its turn has come (and those that waited for it), else keep a copy. */
int vp_row_order_put(vp_row_order *o, int64_t row, const char *data, size_t n, vp_buf *out, vp_error *err);
bool vp_row_order_full(const vp_row_order *o); /* the limit is reached: nothing more will come out */
/* At the end: everything that still waits, gaps or not; frees what *o holds, but counts stay. */
int vp_row_order_finish(vp_row_order *o, vp_buf *out, vp_error *err);

#endif
