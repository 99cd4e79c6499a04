/* Private to lib/index: keys and values on disk.
 *
 *   INDEX/kv-NNNNNNNN.bin   records of keys and values, append-only, each from a multiple of 64 bytes on
 *
 * A record of n tokens, L layers, G heads of width d: k then v, [L, n, G d] each, BF16; or as I8 with the F32 scales of
 * k, then of v, [L, n, G], behind them; either of them compressed on request. The table kv_span says where the record
 * of an entry lies and what its checksum is, kv_file how far a file is committed: see schema.h. They change in the
 * transactions that change entries. */
#ifndef VP_INDEX_KV_STORE_H
#define VP_INDEX_KV_STORE_H
#include "lib/index/kv.h"
#include "lib/index/store.h"

enum { VP_KV_ALIGN = 64 };

/* ---- kv_code.c: records as they are stored ---- */
/* Bytes of a token: in BF16; as the format stores it, before compression. */
int64_t vp_kv_plain_bytes(const vp_kv_format *f);
int64_t vp_kv_token_bytes(const vp_kv_format *f);
/* A format that no index can have: sizes out of bounds. */
bool vp_kv_format_good(const vp_kv_format *f);
bool vp_kv_format_equal(const vp_kv_format *a, const vp_kv_format *b);
/* "bf16", "i8 zstd"; "none". */
const char *vp_kv_format_name(const vp_kv_format *f);
/* Tokens [first, first + n) of the columns k and v [L, T, G, d], which may be unaligned. */
typedef struct vp_kv_rows {
    const uint8_t *k, *v;
    int64_t T, first, n;
} vp_kv_rows;
/* Append their record to `out`; scratch is for its use. */
int vp_kv_encode(const vp_kv_format *f, const vp_kv_rows *rows, vp_buf *scratch, vp_buf *out, vp_error *err);
/* A record of n tokens that is not stored as BF16 as it is, into memory: k then v, free(). NULL: it is damaged, or
 * (err set) out of memory. */
uint16_t *vp_kv_decode(const vp_kv_format *f, const uint8_t *data, size_t bytes, int64_t n, vp_error *err);

/* ---- kv_take.c: from frames to records that wait for a commit ---- */
typedef struct vp_kv_piece { /* a record in vp_kv_taken.data */
    size_t at, bytes;
    int64_t tokens;
} vp_kv_piece;
typedef struct vp_kv_taken {
    vp_kv_options options;
    bool decided;        /* by the index or by the stream's first frame */
    vp_kv_format format; /* layers 0: without keys and values */
    vp_buf data, scratch;
} vp_kv_taken;
/* What the frame brings must be what the index, or the stream before, has: VP_DATA. */
int vp_kv_take_frame(vp_kv_taken *t, const vp_index *x, const vp_frame *f, vp_error *err);
/* The record of row b of a frame that was taken; nothing if the stream has none. */
int vp_kv_take_row(vp_kv_taken *t, const vp_frame *f, int64_t b, vp_kv_piece *p, vp_error *err);
void vp_kv_taken_free(vp_kv_taken *t);

/* ---- kv_write.c: inside a change ---- */
/* The index, which nothing was added to yet, holds keys and values from now on. */
int vp_kv_settle(vp_index *x, const vp_kv_format *f, vp_error *err);
/* x->kv from the settings; with dims. */
int vp_kv_settings(vp_index *x, vp_error *err);
typedef struct vp_kv_writer { /* {.x = ..., .fd = -1} */
    vp_index *x;
    int fd;
    int64_t after;          /* files up to this number are not written to */
    int64_t file, at, live; /* open file: its end, and what was added to it */
    bool fresh;
} vp_kv_writer;
/* Entry n's record, behind the last file's or in a new file: written, and named. */
int vp_kv_add(vp_kv_writer *w, int64_t n, const void *data, const vp_kv_piece *p, vp_error *err);
/* What was written is on disk, and the database knows it. */
int vp_kv_writer_end(vp_kv_writer *w, vp_error *err);
void vp_kv_writer_close(vp_kv_writer *w);              /* also after a failure */
int vp_kv_drop(vp_index *x, int64_t n, vp_error *err); /* of an entry that goes */
int vp_kv_sweep(vp_index *x, vp_error *err);           /* files that nothing names */
/* Records of files that are over 25 % dead move to the end, a file and a transaction at a time; under the lock. */
int vp_kv_compact(vp_index *x, vp_error *err);

/* ---- kv.c ---- */
typedef struct vp_kv_span {
    int64_t n, file, at, bytes, tokens;
    uint64_t hash;
} vp_kv_span;
/* The columns n, file, at, bytes, tokens, hash of a row: VP_DATA if they are impossible. */
int vp_kv_span_read(vp_index *x, sqlite3_stmt *s, vp_kv_span *span, vp_error *err);
/* Every entry has its record, files have what was committed, checksums hold. */
int vp_kv_verify(vp_index *x, vp_error *err);

#endif
