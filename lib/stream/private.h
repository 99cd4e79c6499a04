/* What the files of lib/stream share and nobody else includes: the bounded msgpack cursor, the packer, a frame's own
 * storage, patterns of columns, and the steps from payload to checked frame. */
#ifndef VP_STREAM_PRIVATE_H
#define VP_STREAM_PRIVATE_H
#include "lib/stream/json.h"
#include "lib/stream/stream.h"
#include <msgpack/pack.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors travel little-endian and are not swapped");

/* ---- cursor.c: msgpack, read within bounds ---- */
/* Maps are searched one key after another: so few that the square of their number is nothing. */
enum { VP_MAX_DEPTH = 8, VP_MAX_KEYS = 4096 };
typedef enum vp_kind {
    VP_KIND_NIL,
    VP_KIND_BOOL,
    VP_KIND_INT,
    VP_KIND_REAL,
    VP_KIND_STR,
    VP_KIND_BIN,
    VP_KIND_EXT,
    VP_KIND_ARRAY,
    VP_KIND_MAP
} vp_kind;
typedef struct vp_token {
    vp_kind kind;
    bool negative;       /* integers: the value is (int64_t)u when negative, u otherwise */
    int8_t ext;          /* type of an ext */
    uint64_t u;          /* integers and booleans */
    double real;         /* VP_KIND_REAL */
    const uint8_t *data; /* bytes of a string, bin or ext, not terminated */
    size_t n;            /* their number; elements of an array, pairs of a map */
} vp_token;
typedef struct vp_cursor {
    const uint8_t *p, *end;
} vp_cursor;
/* The next token; of an array or a map only its head, with a count that the bytes left could hold. False: cut off, or
 * not msgpack. */
bool vp_cursor_token(vp_cursor *c, vp_token *t);
/* Step over one value of bytes that vp_cursor_check accepted. */
void vp_cursor_skip(vp_cursor *c);
/* Check and step over one value with everything in it: complete, at most VP_MAX_DEPTH containers deep, keys that are
 * scalars and differ, strings in UTF-8, numbers finite. NULL, or why not. */
const char *vp_cursor_check(vp_cursor *c);
/* The integer as int64_t; false if it is none or does not fit. */
bool vp_token_int(const vp_token *t, int64_t *value);
bool vp_token_is(const vp_token *t, const char *s); /* a string equal to s */

/* ---- pack.c: msgpack-c into a vp_buf; failures stay in *err and are looked at once, at the end ---- */
typedef struct vp_msgpack {
    msgpack_packer pk;
    vp_buf *out;
    vp_error *err;
} vp_msgpack;
void vp_msgpack_init(vp_msgpack *p, vp_buf *out, vp_error *err);
void vp_msgpack_str(vp_msgpack *p, const char *s);
void vp_msgpack_strn(vp_msgpack *p, const char *s, size_t n);
void vp_msgpack_raw(vp_msgpack *p, const void *data, size_t n); /* msgpack made elsewhere */

/* ---- map.c ---- */
/* From checked msgpack. NULL: not a map with C strings for keys, or out of memory. */
vp_map *vp_map_parse(const uint8_t *data, size_t n);
/* Append; the key (length bytes) is known to be new and free of NUL bytes. */
int vp_map_add_raw(vp_map *m, const void *key, size_t length, const void *data, size_t n, vp_error *err);
int vp_map_set_raw(vp_map *m, const char *key, const void *data, size_t n, vp_error *err);
void vp_map_pack(const vp_map *m, vp_msgpack *p);

/* ---- json.c ---- */
/* One checked msgpack value as JSON, keys sorted; steps over it. */
int vp_msgpack_json(vp_cursor *c, vp_buf *out, vp_error *err);

/* ---- frame.c ---- */
typedef struct vp_frame_store { /* what a frame owns */
    vp_buf payload;             /* frames that were read: the bytes that columns point into */
    const char *name;           /* of the input, for messages; NULL: made by a program */
    void **block;
    size_t nblocks, cap;
} vp_frame_store;
void *vp_frame_alloc(vp_frame *f, size_t n, vp_error *err); /* lives until the frame is freed or read anew */
void vp_frame_reset(vp_frame *f);                           /* empty again; keeps the payload buffer */
vp_column *vp_frame_add(vp_frame *f, const char *name, size_t n, vp_error *err); /* zeroed; replaces its namesake */
void vp_frame_measure(vp_frame *f);                                              /* B and T from the columns */
int vp_frame_own(vp_frame *f, void *block, vp_error *err); /* free(block) with the frame; at once if this fails */
/* A column of n msgpack values; the frame takes b over, and at [n + 1] is its own. */
int vp_frame_put_values(vp_frame *f, const char *name, int64_t n, vp_buf *b, const uint32_t *at, vp_error *err);
/* First symbol of a column: what was read or declared, else the schema's, else a guess from the shape. */
vp_symbol vp_column_symbol(const vp_frame *f, const vp_column *c);

/* ---- pattern.c: what a column may be, from the schema or from a header's declaration ---- */
enum { VP_DIM_ANY = -1 }; /* other negative dims are -1 - symbol */
typedef struct vp_column_pattern {
    bool values;
    uint32_t dtypes; /* bit 1 << vp_dtype */
    int ndim;
    int64_t dim[VP_MAX_DIMS];
} vp_column_pattern;
vp_symbol vp_column_pattern_symbol(const vp_column_pattern *p);
bool vp_column_pattern_schema(const char *name,
                              vp_column_pattern *p); /* false: unknown column. grad.NAME is as NAME. */
typedef struct vp_declared {                         /* a header's `columns`, decoded */
    struct vp_declaration {
        const char *name;
        vp_column_pattern pattern;
    } * item;
    size_t n;
    vp_map *columns; /* owns the names */
} vp_declared;
int vp_declared_read(vp_declared *d, const vp_frame *header, vp_error *err);
const vp_column_pattern *vp_declared_find(const vp_declared *d, const char *name);
void vp_declared_free(vp_declared *d);

/* ---- parse.c, check.c: store->payload to a frame, and what must hold in it ---- */
int vp_frame_parse(vp_frame *f, vp_error *err);
int vp_frame_check(vp_frame *f, const vp_declared *declared, int64_t vocab, vp_error *err);

/* ---- number.c: elements of any type ---- */
bool vp_dtype_is_float(vp_dtype d);
int32_t vp_column_i32(const vp_column *c, int64_t i); /* element i of a tensor of that type */
int64_t vp_column_i64(const vp_column *c, int64_t i);
uint64_t vp_column_u64(const vp_column *c, int64_t i);
double vp_column_real(const vp_column *c, int64_t i); /* element i as a double; 64-bit integers round */
/* Index of the first element that is not finite, -1: all are (always so for integers). */
int64_t vp_column_nonfinite(const vp_column *c);

/* ---- look.c ---- */
bool vp_look_selected(const char *columns, const char *name);                 /* in a list as look.h has them */
int vp_look_check(const vp_frame *f, const char *columns, vp_error *err);     /* every name of the list is there */
int vp_look_value(const vp_column *c, int64_t i, vp_buf *out, vp_error *err); /* of a values column, as JSON */

/* ---- writer.c ---- */
void vp_msgpack_tensor(vp_msgpack *p, const vp_column *c); /* the pairs dtype, shape, data; without the bytes of data */
void vp_writer_limit(vp_writer *w, size_t payload);        /* for tests: split frames above this many bytes */

#endif
