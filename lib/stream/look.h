/* Looking at streams, as peek does: frames as text, rows as JSON, a column as a NumPy file, two streams compared.
 * `columns`: names separated by commas; NULL: all. A name that a batch does not have is VP_DATA. */
#ifndef VP_STREAM_LOOK_H
#define VP_STREAM_LOOK_H
#include "lib/stream/order.h"
#include "lib/stream/stream.h"

/* Append a frame as a table for people: the header's maps, or a line a column (type, shape, minimum, maximum, mean,
 * first values), or the end's counts. No control character of the input comes through. */
int vp_look_frame(const vp_frame *f, const char *columns, vp_buf *out, vp_error *err);
/* Put the rows of a batch into `order`, one JSON object a line with each row's part of every column; lines whose turn
 * has come are appended. Columns that have no rows (cu; marked positions; layers) are left out, or VP_DATA if asked for
 * by name. */
int vp_look_rows(const vp_frame *f, const char *columns, vp_row_order *order, vp_buf *out, vp_error *err);

/* One tensor column of all batches joined along its first dimension, as a NumPy file (format 1.0) of the same element
 * type (BF16 becomes F32), rows in `row` order. Offsets (`cu`) go on counting over the batches. */
typedef struct vp_npy vp_npy;
/* fd: seekable, empty, not closed; rows: only the first so many (0: all). */
int vp_npy_open(vp_npy **npy, int fd, const char *column, int64_t rows, vp_error *err);
int vp_npy_add(vp_npy *npy, const vp_frame *f, vp_error *err);
bool vp_npy_full(const vp_npy *npy); /* the rows are there: more frames change nothing */
int vp_npy_finish(vp_npy *npy, const vp_frame *header,
                  vp_error *err); /* without a batch the header's declaration counts */
void vp_npy_close(vp_npy *npy);

enum { VP_DIFF_TEXT = 176 };
/* Compare two streams by rows, however they are cut into frames: floats within `tolerance` (absolute), everything else
 * equal. Appends a line a column with its largest difference and the first place beyond the tolerance; *first (may be
 * cut short) describes the first difference, "" if there is none. Both streams are read to their ends. */
int vp_look_diff(vp_reader *a, vp_reader *b, const char *columns, double tolerance, vp_buf *out,
                 char first[VP_DIFF_TEXT], vp_error *err);

#endif
