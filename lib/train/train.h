/* Public training API: what is read in which order. */
#ifndef VP_TRAIN_H
#define VP_TRAIN_H
#include "lib/base/base.h"

/* ---- mix: data sets to steps of rows; every row is a function of seed, files and step alone ---- */
typedef enum vp_mix_lines { VP_MIX_LINES_AUTO, VP_MIX_LINES_YES, VP_MIX_LINES_NO } vp_mix_lines;
#define VP_MIX_LINES_CHOICES "auto|yes|no" /* spellings, in that order */
/* All sets blended; a batch's rows from one set; the same, and what fills no such batch, blended. */
typedef enum vp_mix_batches { VP_MIX_BLENDED, VP_MIX_SAME, VP_MIX_POOLED } vp_mix_batches;
#define VP_MIX_BATCHES_CHOICES "blended|same|pooled"

typedef struct vp_mix_set {
    const char *path; /* "-": standard input */
    double weight;    /* share of its rows that an epoch takes; above 1 rows repeat; (0, VP_MIX_WEIGHT_MAX] */
} vp_mix_set;
#define VP_MIX_WEIGHT_MAX 1000.0
#define VP_MIX_STEPS_MAX  4294967295 /* a step is a word of the random numbers' counter */

typedef struct vp_mix_options {
    const vp_mix_set *set;
    size_t sets; /* 1 .. 65536 */
    uint64_t seed;
    int64_t batch; /* rows of a step, >= 1 */
    int64_t steps; /* 0: as `epochs` says */
    double epochs; /* > 0; used when steps is 0 */
    vp_mix_batches batches;
    vp_mix_lines lines; /* AUTO: text unless the name ends in .jsonl, .ndjson or .json (.zst), or it starts with { */
    bool in_order;      /* do not shuffle */
    const vp_mix_set *beside; /* sets whose rows, blended, stand behind those of `set` in each step; NULL: none */
    size_t besides;
    int64_t beside_batch; /* how many; the sets that have fewer steps in an epoch begin another one */
} vp_mix_options;

typedef struct vp_mix vp_mix;
/* Finds the lines of every file: 8 bytes of memory a line. An epoch takes round(weight * rows), at least one row, of
 * every set, shuffles them and cuts them into batches; what fills no batch is left out, another part in the next epoch.
 * VP_IO: a file cannot be read. VP_DATA: a set too small to fill one batch of its own (VP_MIX_SAME), fewer rows than
 * one batch, or no rows for `steps`. Empty files are no error: the whole may have 0 steps. */
int vp_mix_open(vp_mix **m, const vp_mix_options *o, vp_error *err);
void vp_mix_close(vp_mix *m);
int64_t vp_mix_batch(const vp_mix *m); /* rows of a step, those of `beside` included */
int64_t vp_mix_steps(const vp_mix *m); /* in all, from step 0 on */
/* Append the first line, {"_vp":{"jsonl":1,...}}, of a stream that starts at step `start`. */
int vp_mix_head(const vp_mix *m, int64_t start, vp_buf *out, vp_error *err);
/* Append row 0 <= k < vp_mix_batch of step 0 <= step < steps as one line of JSON. A bad record: VP_DATA with file:line.
 */
int vp_mix_row(const vp_mix *m, int64_t step, int64_t k, vp_buf *out, vp_error *err);
/* Look at every record of every set, in the files' order: VP_DATA for the first bad one. */
int vp_mix_check(const vp_mix *m, vp_error *err);

#endif
