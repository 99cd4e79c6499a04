/* What the model's unit tests share: golden tensors, frames of packed sequences, comparison relative to the largest
 * value, and folders that differ from a golden model in a few files. Failures of the set-up end the test. */
#ifndef VP_MODEL_SUPPORT_H
#define VP_MODEL_SUPPORT_H
#include "lib/model/model.h"
#include "lib/file/source.h"

/* A path under tests/golden, in a static buffer of its own for each of 8 calls in turn. */
const char *golden_path(const char *format, ...) __attribute__((format(printf, 1, 2)));

typedef struct tensor { /* f32 or i32 as the file has it */
    float *f;
    int32_t *i;
    int64_t rows, cols, n;
} tensor;
/* Tensor `name` of a golden file; ends the program if there is none. Free with tensor_free. */
tensor tensor_read(const vp_source *s, const char *name);
void tensor_free(tensor *t);

/* max |a - b| / max |b|; NaN if anything is not finite. */
double relative_error(const float *a, const float *b, int64_t n);

/* Rows order[0..n) of packed ids as one batch frame, whose data live until frame_free. order NULL: all rows. */
typedef struct packed {
    vp_frame *frame;
    int32_t *ids, *cu;
} packed;
packed pack_rows(const int32_t *ids, const int32_t *cu, int64_t rows, const int64_t *order, int64_t n);
void packed_free(packed *p);

/* hidden [T, C] of a frame, the caller's to free; NULL and err set on failure. Opens and closes the encoder. */
void *copy_of(const void *p, size_t bytes); /* the caller's to free */
float *encode(vp_model *m, const vp_frame *f, const char *attention, int threads, int64_t batch_tokens, vp_error *err);
float *encode_with(vp_model *m, const vp_frame *f, const vp_encode_options *o, vp_error *err);

/* A new folder under $TMPDIR with links to every file of `from` (an absolute path; NULL: empty); removed at
 * exit. */
const char *linked_folder(const char *from);
/* Replace folder/name (a link or nothing) by a file with this text; in `find`-less form of a golden config: the same
 * file with the first occurrence of `find` replaced. */
void write_text(const char *folder, const char *name, const char *text);
void replace_text(const char *folder, const char *name, const char *find, const char *with);
void write_bytes(const char *folder, const char *name, const void *data, size_t n);

#endif
