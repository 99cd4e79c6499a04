/* Tensors and settings as files hold them: Hugging Face folders (sharded safetensors), sentence-transformers folders
 * and GGUF files, mapped, never copied. What the tensors mean is arch.h's business. */
#ifndef VP_FILE_SOURCE_H
#define VP_FILE_SOURCE_H
#include "lib/base/base.h"
#include "lib/base/dtype.h"

typedef enum vp_storage {
    VP_STORE_PLAIN, /* dtype says */
    VP_STORE_Q8_0,  /* GGUF's blocks of 32: f16 d, 32 x i8 q; w = d q */
    VP_STORE_Q4_0,  /* f16 d, 16 bytes (element i low, i + 16 high nibble of byte i); w = d (q - 8) */
    VP_STORE_Q4_1,  /* f16 d, f16 m, nibbles as above; w = d q + m */
    VP_STORE_OTHER  /* listed, so that a message can name it; cannot be read */
} vp_storage;

typedef struct vp_tensor_info {
    char *name;
    const char *file; /* path of the file that holds it, borrowed from the source */
    const char *type; /* the storage type's name in its format: "F32", "Q4_1", "Q6_K" */
    vp_storage storage;
    vp_dtype dtype; /* VP_STORE_PLAIN: F32, F16, BF16 (others are listed but cannot be read as f32) */
    int ndim;
    int64_t shape[4];    /* row-major, outermost first (GGUF's order is reversed at load) */
    const uint8_t *data; /* in the mapping, unaligned */
    size_t bytes;
} vp_tensor_info;

typedef struct vp_source vp_source;
/* A safetensors file, a folder with model.safetensors or model.safetensors.index.json (every shard), or a .gguf file.
 * Everything is bounds-checked before use: VP_DATA names the file and tensor; VP_IO: a file that cannot be opened. A
 * file must not shrink while it is open. An open source is read-only: any thread may use it. */
int vp_source_open(vp_source **s, const char *path, vp_error *err);
void vp_source_close(vp_source *s);
/* What was read of its files need not stay in memory (vp_map_forget). */
void vp_source_forget(const vp_source *s);
size_t vp_source_count(const vp_source *s);
const vp_tensor_info *vp_source_at(const vp_source *s, size_t i);           /* in file order; NULL past the end */
const vp_tensor_info *vp_source_find(const vp_source *s, const char *name); /* NULL: absent */
/* A tensor is taken as [rows, cols] with cols = product of the inner dims; a vector [n] (and a scalar) is one row. */
int64_t vp_tensor_rows(const vp_tensor_info *t);
int64_t vp_tensor_cols(const vp_tensor_info *t);
/* Row r as cols f32 values, widened or dequantised exactly as the formats define (f32 arithmetic). VP_DATA naming file,
 * tensor and type if the type cannot be read. */
int vp_tensor_row(const vp_tensor_info *t, int64_t r, float *out, vp_error *err);
/* XXH3-128 over config text, the tensor table (name, dtype, shape) and fixed 64 KiB samples of every tensor: begin,
 * middle, end; the same for the same weights wherever they lie, whatever the shards. */
int vp_source_fingerprint(const vp_source *s, const char *config, size_t n, uint8_t out[16], vp_error *err);

/* ---- GGUF metadata ---- */
typedef enum vp_gguf_type {
    VP_GGUF_U8,
    VP_GGUF_I8,
    VP_GGUF_U16,
    VP_GGUF_I16,
    VP_GGUF_U32,
    VP_GGUF_I32,
    VP_GGUF_F32,
    VP_GGUF_BOOL,
    VP_GGUF_STRING,
    VP_GGUF_ARRAY,
    VP_GGUF_U64,
    VP_GGUF_I64,
    VP_GGUF_F64
} vp_gguf_type;
typedef struct vp_gguf vp_gguf;
/* Metadata and tensor table of a .gguf file, version 2 or 3 (also vocabulary-only files, which have no tensors). Keys
 * are C strings; an absent key, or one of another type, gives false, `otherwise`, or -1. */
int vp_gguf_open(vp_gguf **g, const char *path, vp_error *err);
void vp_gguf_close(vp_gguf *g);
const char *vp_gguf_path(const vp_gguf *g);
bool vp_gguf_str(const vp_gguf *g, const char *key, const char **s, size_t *n); /* borrowed, not terminated */
int64_t vp_gguf_int(const vp_gguf *g, const char *key, int64_t otherwise);      /* any integer type or bool */
double vp_gguf_real(const vp_gguf *g, const char *key, double otherwise);       /* integers count */
/* All strings of an array of strings, in O(n): pointers into the mapping, not terminated; caller frees both arrays.
 * Absent: *s = NULL, *n = 0, VP_OK (in the next two as well); an array of another type: VP_DATA naming the key. */
int vp_gguf_strings(const vp_gguf *g, const char *key, const char ***s, size_t **len, int64_t *n, vp_error *err);
/* Integers (or bools), or any numbers, of an array, converted; caller frees. */
int vp_gguf_ints(const vp_gguf *g, const char *key, int64_t **out, int64_t *n, vp_error *err);
int vp_gguf_reals(const vp_gguf *g, const char *key, float **out, int64_t *n, vp_error *err);
/* The GGUF behind a source that was opened from one, else NULL. */
const vp_gguf *vp_source_gguf(const vp_source *s);

#endif
