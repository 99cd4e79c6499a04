/* Element types, by safetensors' names. Shared by the library and the backends; holds no code but two small lookups. */
#ifndef VP_BASE_DTYPE_H
#define VP_BASE_DTYPE_H
#include <stddef.h>

/* One row a type: enumerator, safetensors' name, bytes an element. Block-quantised GGUF types are storage only:
 * they are read through lib/model (vp_tensor_row_f32) and never travel in a stream. */
#define VP_DTYPES(X)                                                                                                   \
    X(F32, "F32", 4)                                                                                                   \
    X(F16, "F16", 2)                                                                                                   \
    X(BF16, "BF16", 2)                                                                                                 \
    X(F64, "F64", 8)                                                                                                   \
    X(I8, "I8", 1)                                                                                                     \
    X(U8, "U8", 1)                                                                                                     \
    X(I16, "I16", 2)                                                                                                   \
    X(U16, "U16", 2)                                                                                                   \
    X(I32, "I32", 4)                                                                                                   \
    X(U32, "U32", 4)                                                                                                   \
    X(I64, "I64", 8)                                                                                                   \
    X(U64, "U64", 8)                                                                                                   \
    X(BOOL, "BOOL", 1)

typedef enum vp_dtype {
#define X(e, name, size) VP_##e,
    VP_DTYPES(X)
#undef X
        VP_NDTYPES,
    VP_F8 /* F8_E4M3, 1 byte: operands of products, on a device; no tensor of a file or a stream is of it here */
} vp_dtype;

size_t vp_dtype_size(vp_dtype d);      /* bytes an element */
const char *vp_dtype_name(vp_dtype d); /* "F32" */
/* The type called `name` (n bytes, not terminated), or VP_NDTYPES if there is none. */
vp_dtype vp_dtype_find(const char *name, size_t n);

#endif
