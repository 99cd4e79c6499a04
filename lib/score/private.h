/* What the tasks share: lines and vectors read, measures taken over all units and over resamples of them. */
#ifndef VP_SCORE_PRIVATE_H
#define VP_SCORE_PRIVATE_H
#include "lib/score/score.h"
#include "lib/text/text.h"
#include <jansson.h>

/* ---- lines ---- */
/* Calls `take` for each line of a file, which may be zstd; the line lives until it returns. */
typedef int (*vp_score_line)(void *self, const char *file, const vp_record *line, vp_error *err);
int vp_score_lines(vp_score_file f, vp_score_line take, void *self, vp_error *err);
/* VP_DATA "file:line: why". */
int vp_score_bad(const char *file, const vp_record *line, vp_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The number that s[n] spells, and nothing else; false: it is none, or not finite. */
bool vp_score_number(const char *s, size_t n, double *value);
/* A line as a JSON object; json_decref it. */
int vp_score_object(json_t **o, const char *file, const vp_record *line, vp_error *err);

/* ---- vectors ---- */
typedef struct vp_vectors {
    vp_buf data; /* F32 [n, dims] */
    int64_t n, dims;
    char *space; /* encoder.space; NULL: not told */
    const char *name;
} vp_vectors;
/* Each scaled to length 1, unless it is zeros. `rows` vectors are expected, a vector for each of `what`, else VP_DATA.
 * vp_vectors_free also after a failure. */
int vp_vectors_read(vp_vectors *v, vp_score_file f, int64_t rows, const char *what, vp_error *err);
/* What reading is made of: `take` is called for each batch of a stream, whose encoder.space is kept; vp_vectors_batch
 * gives a batch's vectors [B, dims] as they are (caller frees), checks and counts them. */
typedef int (*vp_score_batch)(void *self, const vp_frame *f, vp_error *err);
int vp_vectors_stream(vp_vectors *v, vp_score_file f, vp_score_batch take, void *self, vp_error *err);
int vp_vectors_batch(vp_vectors *v, const vp_frame *f, float **x, vp_error *err);
/* VP_DATA where two sets cannot be compared. */
int vp_vectors_match(const vp_vectors *a, const vp_vectors *b, vp_error *err);
double vp_vectors_cosine(const vp_vectors *a, int64_t i, const vp_vectors *b, int64_t j);
void vp_vectors_free(vp_vectors *v);

/* ---- measures ---- */
/* The measures of the units pick[n], in s->measure's order, into out; NaN where one is undefined. */
typedef void (*vp_measurer)(void *data, const int64_t *pick, int64_t n, double *out);
/* Fill the values of s's named measures over all s->units and, where asked, their intervals: resample i draws unit
 * w[j % 4] * units >> 32 with w = Philox(counter (j / 4, i, 0, 0); key seed) as its j-th. */
int vp_score_take(vp_score *s, vp_measurer measure, void *data, const vp_score_options *o, vp_error *err);
/* Means of per-unit values [units, s->n], as vp_score_take takes them. */
int vp_score_take_means(vp_score *s, const double *value, const vp_score_options *o, vp_error *err);
void vp_score_name(vp_score *s, const char *measure); /* the next one */
void vp_score_count(vp_score *s, const char *name, int64_t n);

#endif
