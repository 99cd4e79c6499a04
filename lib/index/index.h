/* The index: vectors, texts and their catalogue in one folder; adding, finding what is missing, deleting,
 * searching. Exact, incremental, safe against being killed at any moment.
 *
 * On disk, for an index INDEX:
 *   INDEX/index.db         SQLite (WAL, synchronous=FULL): settings, rows, extents, liveness, BM25; lib/index/schema.h
 *   INDEX/index.db-wal -shm  SQLite's; they stay when the last program closes the index
 *   INDEX/seg-NNNNNNNN.vec vectors only: [rows, D] little-endian F32, BF16 or I8, row after row, append-only
 *   INDEX/kv-NNNNNNNN.bin  keys and values, if it has them; lib/index/kv_store.h
 *   INDEX/lock             byte 0: held (OFD write lock) by whoever writes; byte 1: read-locked while an index is being
 *                          opened, write-locked by `swap` while it exchanges two folders
 *   INDEX/run.lock         held by one `missing` at a time
 * What counts is what the database says: bytes of a segment beyond its committed rows, and segments that the database
 * does not name, are left-overs of a killed writer; the next writer cuts and unlinks them. Segment numbers are never
 * used twice, so a reader's snapshot never opens another's file under the same name.
 *
 * Symbols: D dimensions, B rows of a frame, k hits. A record is what the user's id names; it is one row, or, when it
 * was cut into chunks, several rows that have it as their parent. One vp_index belongs to one thread. */
#ifndef VP_INDEX_H
#define VP_INDEX_H
#include "lib/base/base.h"
#include "lib/stream/order.h"
#include "lib/stream/stream.h"

typedef struct vp_index vp_index;
typedef enum vp_index_mode {
    VP_INDEX_READ,  /* a folder that cannot be written to is fine */
    VP_INDEX_WRITE, /* must exist */
    VP_INDEX_CREATE /* made, empty, when there is nothing at the path: whole or not at all; of two creators one wins */
} vp_index_mode;
/* VP_IO: no such folder; VP_DATA: not an index, damaged, or of another version. Close with vp_index_close (NULL is
 * fine). */
int vp_index_open(vp_index **x, const char *path, vp_index_mode mode, vp_error *err);
void vp_index_close(vp_index *x);

/* What an index knows about its model: the `model` and `encoder` maps of the first stream that was added, as fresh
 * copies (free them); NULL when nothing was added yet. For opening an index as a model. */
int vp_index_describe(const char *path, vp_map **model, vp_map **encoder, vp_error *err);

/* ---- figures ---- */
typedef struct vp_index_stats {
    char uuid[33];
    int64_t rows, dead; /* live rows; rows of the segments that are dead */
    int64_t records;    /* rows that are not chunks, plus distinct parents */
    int64_t texts;      /* rows with a text (BM25 knows them) */
    int64_t dims;       /* 0: nothing was added yet */
    const char *dtype;  /* "F32", "" */
    int64_t generation; /* grows by one with every commit */
    int64_t segments, vector_bytes, database_bytes;
    const char *kv;                             /* how keys and values are stored (kv.h); "none" */
    int64_t kv_tokens, kv_bytes, kv_file_bytes; /* of live rows; of the files: with what is dead */
    vp_map *model, *encoder;                    /* or NULL */
} vp_index_stats;
int vp_index_stats_read(vp_index *x, vp_index_stats *s, vp_error *err);
void vp_index_stats_free(vp_index_stats *s);
/* Append one JSON object and a newline, or a table for a person. */
int vp_index_stats_print(const vp_index_stats *s, bool json, vp_buf *out, vp_error *err);

/* ---- adding ---- */
typedef struct vp_index_counts {
    int64_t added, replaced; /* rows of records that were new; that were there before */
    int64_t dropped;         /* rows whose record changed in the index after `missing` looked (key `source`) */
    int64_t zero;            /* of those added or replaced: vectors of zeros, rows with nothing to pool */
    int64_t commits;
} vp_index_counts;
typedef struct vp_index_adder vp_index_adder;
/* `header` is the stream's: its encoder.space must be the index's (VP_DATA names both), its encoder.input that of the
 * documents so far; an empty index takes both, model, dtype and D from the first stream. Borrowed until close. */
int vp_index_add_open(vp_index_adder **a, vp_index *x, const vp_frame *header, vp_error *err);
/* Take a batch: emb [B, D] F32, BF16 or I8 and id, and if present parent, chunks, hash, text, meta. Rows are copied and
 * wait for the next commit, which happens here once 64 MiB or 5 s have gathered. VP_DATA: no emb or id, an id twice in
 * one stream (named, with both rows), bytes that are not UTF-8, no texts where the index held some when the stream
 * began; nothing of that frame is committed then. */
int vp_index_add_frame(vp_index_adder *a, const vp_frame *f, vp_error *err);
/* The same of texts alone, for BM25: each row gets a vector of one zero. VP_DATA: the stream has vectors, or no texts.
 */
int vp_index_add_texts(vp_index_adder *a, vp_frame *f, vp_error *err);
/* Make durable what waits: one transaction, under the writer lock. Call it before waiting for input, and at the end
 * (also when the upstream died: what came counts). Compacts segments that are over 25 % dead. */
int vp_index_add_commit(vp_index_adder *a, vp_error *err);
const vp_index_counts *vp_index_add_counts(const vp_index_adder *a);
void vp_index_add_close(vp_index_adder *a); /* does not commit */

/* ---- what is missing ---- */
typedef struct vp_missing_options {
    const char *id_from; /* NULL: ids are required; "hash"; else a field of the record: for records without an id */
    bool skip_bad, wait; /* wait: for another `missing` on this index, instead of VP_LOCKED */
    bool prune;          /* delete the records that the input does not have */
    double prune_max;    /* refuse (VP_DATA) to delete more than this percentage of the records */
} vp_missing_options;
typedef struct vp_missing_counts {
    int64_t records, fresh, changed, meta, pruned, skipped; /* meta: only the other fields changed, updated in place */
} vp_missing_counts;
/* Reads JSONL records from `in`, writes to `out` a first line {"_vp":{"jsonl":1,"index":UUID,"generation":G,"model":{},
 * "encoder":{}}} (the maps only when the index has them), the lines of new and changed records as they came (a record
 * that got its id from id_from is passed on with that id put in), and a last line {"_vp":{"end":true,"rows":n}}. The
 * index must be open for writing. Holds run.lock until it returns. A second record of one id: VP_DATA naming both
 * lines. */
int vp_index_missing(vp_index *x, int in, const char *in_name, int out, const vp_missing_options *o,
                     vp_missing_counts *c, vp_error *err);

/* ---- deleting ---- */
/* Records by id (all their chunks), in one transaction. *deleted counts records; unknown ids are none. */
int vp_index_delete(vp_index *x, const char *const *id, const size_t *len, size_t n, int64_t *deleted, vp_error *err);

/* ---- searching ---- */
typedef enum vp_search_mode { VP_SEARCH_DENSE, VP_SEARCH_BM25, VP_SEARCH_HYBRID } vp_search_mode;
typedef struct vp_search_options {
    int64_t k;
    vp_search_mode mode; /* hybrid: reciprocal ranks, sum of 1 / (60 + rank) over the two lists of max(100, 10 k) */
    bool by_parent;      /* only the best row of each record */
    bool content;        /* also fetch text and meta */
    const char *device;  /* one of VP_DEVICES; NULL: $VP_DEVICE, else auto, which is the CPU here */
    int threads;         /* 0: all */
} vp_search_options;
typedef struct vp_search_hit {
    double score;
    const char *id, *parent, *text, *meta; /* not terminated; parent NULL: not a chunk; text, meta NULL: none */
    size_t id_len, parent_len, text_len, meta_len;
} vp_search_hit;
typedef struct vp_search_result {
    const char *query; /* its id; spelled `row` where the stream has no ids */
    const char *text;  /* its text, NULL when the stream carries none */
    size_t query_len, text_len;
    int64_t row;
    vp_search_hit *hit; /* best first: higher score, then id bytes */
    int64_t n;          /* k, or fewer when the index has no more */
} vp_search_result;
typedef struct vp_searcher vp_searcher;
/* The header's encoder.space must be the index's (not asked of BM25 alone). */
int vp_search_open(vp_searcher **s, vp_index *x, const vp_frame *header, const vp_search_options *o, vp_error *err);
/* All queries of a batch on one snapshot: emb [B, D] and, for BM25, text. *results: [B], valid until the next call. */
int vp_search_frame(vp_searcher *s, const vp_frame *f, const vp_search_result **results, int64_t *n, vp_error *err);
/* Name and processor of the device on which the vectors were searched, "cpu avx512"; "": none were. */
void vp_search_device(const vp_searcher *s, char out[40]);
void vp_search_close(vp_searcher *s);
/* Append a result's hits as JSON lines {query, rank, id, parent, score, text, meta, query_text} (absent ones left out),
 * or as a
 * table for a person: the query, then rank, score, id, and the title in `meta` or the text, cut to `width` columns. */
int vp_search_print_jsonl(const vp_search_result *r, vp_buf *out, vp_error *err);
int vp_search_print_table(const vp_search_result *r, int width, vp_buf *out, vp_error *err);

/* ---- the whole ---- */
/* Everything that must hold: SQLite's own check, rows against extents and liveness, extents against files and
 * checksums, BM25 against the texts. VP_DATA with the first thing that does not. */
int vp_index_verify(vp_index *x, vp_error *err);
/* Live rows in the order in which they came, one JSON object a line: id, parent, hash, text, meta, emb (nine digits, so
 * that floats round-trip). Absent ones are left out. */
int vp_index_export_jsonl(vp_index *x, int fd, const char *name, vp_error *err);
/* The same rows as NumPy's [N, D] little-endian f32. */
int vp_index_export_npy(vp_index *x, int fd, const char *name, vp_error *err);
/* Exchange two index folders in one step (both must be indexes on one file system). */
int vp_index_swap(const char *a, const char *b, vp_error *err);

#endif
