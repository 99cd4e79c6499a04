/* vecpipe/1: reading and writing streams of msgpack-framed tensors (vecpipe(5)).
 *
 * Symbols of shapes: B rows (sequences), T tokens of the frame, M marked positions; every other dimension is a number.
 * A frame is read whole into one buffer and checked there (checksum, types, shapes, depth, duplicates); columns point
 * into that buffer, unaligned. Programs replace, add or drop columns and hand the same frame to the writer; columns and
 * keys that they do not know pass through. Not thread-safe: one reader or writer belongs to one thread. */
#ifndef VP_STREAM_H
#define VP_STREAM_H
#include "lib/base/base.h"
#include "lib/base/dtype.h"

/* ---- ordered map of msgpack values: control records and their nested maps ---- */
/* Values are kept as raw msgpack, so whatever a stranger's program put there passes through unchanged. */
typedef struct vp_map vp_map;
vp_map *vp_map_new(void); /* NULL: out of memory */
void vp_map_free(vp_map *m);
vp_map *vp_map_copy(const vp_map *m);
size_t vp_map_len(const vp_map *m);
const char *vp_map_key(const vp_map *m, size_t i);
bool vp_map_has(const vp_map *m, const char *key);
/* Value as a C string owned by the map, or NULL if absent or not a string (or a string with a NUL byte). */
const char *vp_map_str(const vp_map *m, const char *key);
int64_t vp_map_int(const vp_map *m, const char *key, int64_t otherwise);
double vp_map_real(const vp_map *m, const char *key, double otherwise); /* integers count */
bool vp_map_bool(const vp_map *m, const char *key, bool otherwise);
/* A nested map as a fresh copy (free it), or NULL if absent or not a map with strings for keys. */
vp_map *vp_map_sub(const vp_map *m, const char *key);
/* Element i of an array of strings, NULL past its end (owned by the map). */
const char *vp_map_str_at(const vp_map *m, const char *key, size_t i);
/* The raw msgpack of a value: *data borrowed from the map until it changes. False if absent. */
bool vp_map_raw(const vp_map *m, const char *key, const uint8_t **data, size_t *n);
/* Setters replace in place or append; keys and values are copied. value NULL for _str removes the key. */
int vp_map_set_str(vp_map *m, const char *key, const char *value, vp_error *err);
int vp_map_set_int(vp_map *m, const char *key, int64_t value, vp_error *err);
int vp_map_set_real(vp_map *m, const char *key, double value, vp_error *err); /* finite */
int vp_map_set_bool(vp_map *m, const char *key, bool value, vp_error *err);
int vp_map_set_map(vp_map *m, const char *key, const vp_map *value, vp_error *err);
int vp_map_set_strs(vp_map *m, const char *key, const char *const *value, size_t n, vp_error *err);
/* Append to an array of strings, created if absent. */
int vp_map_append_str(vp_map *m, const char *key, const char *value, vp_error *err);
void vp_map_remove(vp_map *m, const char *key);
/* The map as compact JSON with sorted keys (bin and ext as {"bin":hex}); for printing, hashing, and storing. */
int vp_map_json(const vp_map *m, vp_buf *out, vp_error *err);
/* The inverse for what JSON can hold. `what` names the source in errors (VP_DATA). */
int vp_map_from_json(vp_map **m, const char *json, size_t n, const char *what, vp_error *err);

/* ---- columns and frames ---- */
enum { VP_MAX_DIMS = 4, VP_MAX_COLUMNS = 64 };
#define VP_MAX_PAYLOAD ((size_t)256 << 20)

typedef enum vp_symbol { /* first dimension of a column */
                         VP_SYMBOL_NONE,
                         VP_SYMBOL_B,
                         VP_SYMBOL_B1,
                         VP_SYMBOL_T,
                         VP_SYMBOL_M,
                         VP_SYMBOL_L /* layers, then T */
} vp_symbol;

typedef struct vp_column {
    const char *name;
    bool is_values; /* an array of B msgpack values instead of a tensor */
    vp_dtype dtype; /* tensors */
    int ndim;
    int64_t shape[VP_MAX_DIMS];
    const uint8_t *data; /* tensor bytes, C order, little-endian, UNALIGNED; or the array's elements, raw msgpack */
    size_t bytes;        /* of data */
    const uint32_t *at;  /* values: n + 1 byte offsets into data; NULL for tensors */
    vp_symbol symbol;    /* as the schema or the header says; VP_SYMBOL_NONE: not known, goes by the shape */
    const uint8_t *raw;  /* the whole value as it was read, which the writer passes on; NULL: put by a program */
    size_t raw_bytes;
} vp_column;

typedef enum vp_frame_kind { VP_FRAME_HEADER, VP_FRAME_BATCH, VP_FRAME_END } vp_frame_kind;

typedef struct vp_frame {
    vp_frame_kind kind;
    int64_t number, offset; /* of the frame in the input: from 0; byte offset of its first byte */
    int64_t seq;            /* batches: as read; the writer numbers afresh */
    int64_t B, T;           /* from cu; B from the first B-column and T = 0 where there is no cu */
    vp_map *keys;           /* every key but columns, kind, seq (header: model, encoder, history, columns too) */
    vp_column column[VP_MAX_COLUMNS];
    int ncolumns;
    void *owner; /* the reader's or the frame's own storage */
} vp_frame;

vp_frame *vp_frame_new(vp_frame_kind kind, vp_error *err); /* empty, for producers */
void vp_frame_free(vp_frame *f);                           /* only frames made with vp_frame_new or vp_frame_slice */
const vp_column *vp_frame_find(const vp_frame *f, const char *name); /* NULL: absent */
/* The column, checked: VP_DATA naming the frame's number and offset if it is absent, of another dtype, or of another
 * number of dims; dims in `want` >= 0 must be equal (-1: any). */
int vp_frame_need(const vp_frame *f, const char *name, vp_dtype dtype, int ndim, const int64_t *want,
                  const vp_column **out, vp_error *err);
/* A copy of the tensor, aligned (64 bytes), caller frees; n elements in *n if n is not NULL. F16, BF16 and F32 convert
 * to the float form, I32 to the int form. Absent column: *out = NULL and VP_OK. */
int vp_frame_floats(const vp_frame *f, const char *name, float **out, int64_t *n, vp_error *err);
int vp_frame_ints(const vp_frame *f, const char *name, int32_t **out, int64_t *n, vp_error *err);
/* Value i of a values column as a string: a msgpack string's bytes; integers and floats are spelled in decimal into
 * `scratch`. nil gives *s = NULL. Anything else: VP_DATA. */
int vp_column_str(const vp_frame *f, const vp_column *c, int64_t i, const char **s, size_t *n, char scratch[32],
                  vp_error *err);
/* Put (replace or add) a tensor; `data` is borrowed until the frame is written or freed. */
int vp_frame_put(vp_frame *f, const char *name, vp_dtype dtype, int ndim, const int64_t *shape, const void *data,
                 vp_error *err);
/* Put B strings (NULL entries become nil), copied into the frame. */
int vp_frame_put_strs(vp_frame *f, const char *name, int64_t n, const char *const *s, const size_t *len, vp_error *err);
/* Put a column of which each of the n values is an array of `lists` arrays of integers, copied: list k of value i is
 * item[cu[i * lists + k]] .. item[cu[i * lists + k + 1]]. */
int vp_frame_put_lists(vp_frame *f, const char *name, int64_t n, int64_t lists, const int32_t *cu, const int32_t *item,
                       vp_error *err);
/* Its lists, [values * lists + 1] offsets and the items, each the caller's to free. Absent: NULL and VP_OK. VP_DATA: a
 * value that is not so, or an item below 0. */
int vp_frame_lists(const vp_frame *f, const char *name, int64_t lists, int32_t **cu, int32_t **item, vp_error *err);
void vp_frame_drop(vp_frame *f, const char *name);
/* Rows [b0, b1) of a batch as a new frame (copies; cu rebased; T- and B-columns cut; keys copied, `last` only on the
 * final part). Columns of symbol M cannot be cut: VP_DATA. */
int vp_frame_slice(const vp_frame *f, int64_t b0, int64_t b1, vp_frame **out, vp_error *err);
typedef struct vp_frame_row { /* row b of the frame-th of several frames */
    size_t frame;
    int64_t b;
} vp_frame_row;
/* These rows of `frames` >= 1 batches, in this order, as a new batch (copies) with the first one's keys and columns;
 * a row may be taken several times. VP_DATA: a column that another frame lacks or has with another type or width, or
 * that has neither B nor T first. */
int vp_frames_gather(vp_frame *const *f, size_t frames, const vp_frame_row *row, int64_t n, vp_frame **out,
                     vp_error *err);
/* Whether the batch's rows are text to be generated: role 3. They see what stands before them, whatever the stream's
 * attention, and of their states the marked ones are taken, whatever its pooling. False without rows or column `role`.
 * VP_DATA: beside other rows. */
int vp_frame_generates(const vp_frame *f, bool *generates, vp_error *err);
/* vp_fail with the frame's place before it: "standard input: frame 3 (byte 1234): why". */
int vp_frame_fail(const vp_frame *f, int code, vp_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- reading ---- */
typedef struct vp_reader vp_reader;
/* `fd` is not closed. name: "standard input" or a path, for messages. zstd is detected and decompressed. Refuses a
 * terminal (VP_USAGE). Reads nothing yet. */
int vp_reader_open(vp_reader **r, int fd, const char *name, vp_error *err);
/* The next frame, valid until the next call or vp_reader_close (the header until close): the header, batches, at the
 * end of input one end, then *f = NULL. Complete streams that were concatenated are one: a header after an end must
 * have equal model, encoder and columns and is swallowed, and counts of ends are added. End of input without `end`:
 * VP_UPSTREAM. Batches are checked: cu, ids >= 0 (and < vocabulary if vp_reader_set_vocab was called),
 * finite floats, first dims that fit, known columns' dtypes and shapes (schemas/columns.def). Never reads past the
 * frame it returns. */
int vp_reader_next(vp_reader *r, vp_frame **f, vp_error *err);
/* Waiting for a frame ends when `output`, a pipe that the program writes to, lost its reader: VP_IO with broken_pipe.
 * For every filter; without it a silent input keeps it alive after the rest of its pipeline. */
void vp_reader_watch(vp_reader *r, int output);
/* The frame that vp_reader_next gave last, not a header, becomes the caller's: to be freed by vp_frame_free before the
 * reader is closed. */
int vp_reader_keep(vp_reader *r, vp_frame **f, vp_error *err);
/* True if the next frame, or the input's end, begins to be there within timeout_ms. */
bool vp_reader_ready(vp_reader *r, int timeout_ms);
void vp_reader_set_vocab(vp_reader *r, int64_t vocab); /* from the next frame on; 0: not known */
const vp_frame *vp_reader_header(const vp_reader *r);  /* valid until close */
void vp_reader_close(vp_reader *r);

/* ---- writing ---- */
typedef struct vp_writer vp_writer;
/* `fd` is not closed. Refuses a terminal (VP_USAGE). A reader that went away is VP_IO with err->broken_pipe. */
int vp_writer_open(vp_writer **w, int fd, const char *name, vp_error *err);
/* Every call writes the whole frame before it returns (writev). Header first: its `columns` are declared by the caller
 * with vp_header_declare, or copied from the input's header; model, encoder, columns and history are written empty if
 * they are missing. `history` gains "COMMAND # vecpipe VERSION"; command NULL: nothing. keys NULL: an empty header. */
int vp_writer_header(vp_writer *w, const vp_map *keys, const char *command, vp_error *err);
int vp_writer_batch(vp_writer *w, const vp_frame *f, vp_error *err); /* splits by rows over VP_MAX_PAYLOAD */
/* The end record: batches counted by the writer, the rest from `keys` (rows, tokens, truncated, skipped, empty). */
int vp_writer_end(vp_writer *w, const vp_map *keys, vp_error *err);
void vp_writer_close(vp_writer *w);

/* Header columns: set or replace columns[name] = [dtype, [dims...]] in a header's keys; dims: "T", "B", "B+1", "M" or
 * decimal numbers, space-separated ("B 576"); dtype "VALUES" for values. */
int vp_header_declare(vp_map *header, const char *name, const char *dtype, const char *dims, vp_error *err);
int vp_header_undeclare(vp_map *header, const char *name, vp_error *err);

/* ---- column table (schemas/columns.def) ---- */
typedef struct vp_schema {
    const char *name, *dtype, *shape, *meaning; /* dtype "I32", "VALUES", "F32|BF16"; shape "T", "B 16" */
} vp_schema;
const vp_schema *vp_schema_find(const char *name); /* NULL: unknown */
extern const vp_schema vp_schemas[];               /* ended by name NULL */

#endif
