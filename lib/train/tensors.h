/* The numbers of a parameter space in a safetensors file: one tensor [rows, cols] for each parameter. */
#ifndef VP_TRAIN_TENSORS_H
#define VP_TRAIN_TENSORS_H
#include "lib/base/dtype.h"
#include "lib/model/params.h"

typedef struct vp_numbers {
    const char *suffix; /* after the parameter's name */
    float *value;       /* [count]; NULL: none of this kind */
    vp_dtype dtype;     /* in the file: VP_F32, or what the numbers are rounded to */
} vp_numbers;

/* Into a new file's descriptor; `path` is for messages. All of one kind after the other. Only reads the values.
 * VP_DATA: a number that is not finite, or too large for the type. */
int vp_tensors_write(int fd, const char *path, const vp_params *params, const vp_numbers *kind, size_t kinds,
                     vp_error *err);
/* The inverse: exactly these tensors in F32, in whatever order. */
int vp_tensors_read(const char *path, const vp_params *params, const vp_numbers *kind, size_t kinds, vp_error *err);

#endif
