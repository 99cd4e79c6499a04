/* Private to lib/file: the tensor table that safetensors.c and gguf.c fill and source.c serves. */
#ifndef VP_FILE_SOURCE_TABLE_H
#define VP_FILE_SOURCE_TABLE_H
#include "lib/file/source.h"

typedef struct vp_table {
    vp_tensor_info *tensor; /* file order */
    size_t n, cap;
    size_t *by_name; /* indices in ascending name order, once sealed */
} vp_table;

/* Append a tensor with its name copied. */
int vp_table_add(vp_table *t, const vp_tensor_info *info, const char *name, size_t name_len, vp_error *err);
/* Sort the names; a duplicate is VP_DATA. Afterwards the table no longer changes. */
int vp_table_seal(vp_table *t, vp_error *err);
void vp_table_free(vp_table *t);
/* The table of an open source, in name order through by_name. */
const vp_table *vp_source_table(const vp_source *s);

/* *elements = product of the dims; false if it overflows, taking 0 as 1 so that products of any part do not either. */
bool vp_shape_elements(int ndim, const int64_t *shape, int64_t *elements);

/* Append the tensors of a mapped safetensors file; `path` is kept as their file. */
int vp_safetensors_read(vp_table *t, const vp_map_file *m, const char *path, vp_error *err);
const vp_table *vp_gguf_table(const vp_gguf *g);
void vp_gguf_forget(const vp_gguf *g); /* vp_source_forget of the one file */

#endif
