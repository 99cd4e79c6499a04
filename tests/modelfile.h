/* Builders of small GGUF and safetensors files, for the unit tests and as the fuzzer's seeds. Little-endian machines
 * only, like the library. Out of memory ends the test. */
#ifndef VP_TESTS_MODELFILE_H
#define VP_TESTS_MODELFILE_H
#include "lib/file/source.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void put(vp_buf *b, const void *data, size_t n) {
    vp_error err = {0};
    if (vp_buf_add(b, data, n, &err)) abort();
}
static inline void put_u32(vp_buf *b, uint32_t x) {
    put(b, &x, sizeof x);
}
static inline void put_u64(vp_buf *b, uint64_t x) {
    put(b, &x, sizeof x);
}
static inline void put_f32(vp_buf *b, float x) {
    put(b, &x, sizeof x);
}
static inline void put_pad(vp_buf *b, size_t alignment) {
    while (b->len % alignment) put(b, "", 1);
}

/* GGUF: header, then keys with their values, then tensor rows, then padding and data. */
static inline void gguf_header(vp_buf *b, uint32_t version, uint64_t tensors, uint64_t values) {
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, tensors);
    put_u64(b, values);
}
static inline void gguf_string(vp_buf *b, const char *s) {
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}
static inline void gguf_key(vp_buf *b, const char *key, uint32_t type) {
    gguf_string(b, key);
    put_u32(b, type);
}
static inline void gguf_array(vp_buf *b, const char *key, uint32_t type, uint64_t n) {
    gguf_key(b, key, VP_GGUF_ARRAY);
    put_u32(b, type);
    put_u64(b, n);
}
static inline void gguf_tensor(vp_buf *b, const char *name, uint32_t ndim, const uint64_t *dims, uint32_t type,
                               uint64_t offset) {
    gguf_string(b, name);
    put_u32(b, ndim);
    put(b, dims, ndim * sizeof *dims);
    put_u32(b, type);
    put_u64(b, offset);
}

/* A safetensors file of this header and n bytes of data. */
static inline void safetensors(vp_buf *b, const char *json, const void *data, size_t n) {
    b->len = 0;
    put_u64(b, strlen(json));
    put(b, json, strlen(json));
    put(b, data, n);
}

static inline void write_file(const char *path, const vp_buf *b) {
    FILE *f = fopen(path, "wb");
    if (!f || (b->len && fwrite(b->data, 1, b->len, f) != b->len) || fclose(f) != 0) abort();
}

#endif
