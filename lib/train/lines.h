/* A data set: the records of one file, one a line, found by one pass over it. Private to lib/train. */
#ifndef VP_TRAIN_LINES_H
#define VP_TRAIN_LINES_H
#include "lib/base/base.h"
#include "lib/train/train.h"

typedef struct vp_lines {
    char *name;      /* for messages and the head */
    vp_map_file map; /* the file, or the temporary that it was decompressed to */
    bool jsonl;
    size_t n;        /* records: lines that are not blank */
    uint64_t *start; /* [n + skip] where each begins */
    size_t skip;     /* 1: the first is a _vp head */
    uint64_t *blank; /* [blanks] for every blank line, how many entries of start stand before it */
    size_t blanks;
} vp_lines;

/* `path` NULL or "-": standard input. A regular file is mapped; a pipe or zstd file is first copied to a temporary that
 * has no name. A record longer than 64 MiB: VP_DATA. A file that begins with a _vp line and does not end with the one
 * that counts its records: VP_UPSTREAM. After a failure vp_lines_close is due, too. */
int vp_lines_open(vp_lines *l, const char *path, vp_mix_lines format, vp_error *err);
void vp_lines_close(vp_lines *l);
/* Append record i < n and a newline: a JSON object as it is spelled, a line of text as {"id":"SET:LINE","text":...}.
 * Not UTF-8, not an object, or a _vp line: VP_DATA with name:line. */
int vp_lines_append(const vp_lines *l, size_t i, size_t set, vp_buf *out, vp_error *err);

#endif
