/* GGUF: metadata getters, the tensor table, and everything that must be refused. */
#include "tests/modelfile.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <unistd.h>

static const char path[] = "t.gguf";

static bool refuses(const vp_buf *b, const char *why) {
    vp_error err = {0};
    vp_gguf *g = NULL;
    write_file(path, b);
    int status = vp_gguf_open(&g, path, &err);
    bool passed = status == VP_DATA && err.code == VP_DATA && !g && strstr(err.text, path) && strstr(err.text, why);
    if (!passed) printf("# status %d: %s\n", status, err.text);
    vp_gguf_close(g);
    return passed;
}

static vp_gguf *open_ok(const vp_buf *b) {
    vp_error err = {0};
    vp_gguf *g = NULL;
    write_file(path, b);
    if (vp_gguf_open(&g, path, &err)) printf("# %s\n", err.text);
    return g;
}

static void put_scalars(vp_buf *b) {
    gguf_key(b, "u8", VP_GGUF_U8);
    put(b, "\xff", 1);
    gguf_key(b, "i8", VP_GGUF_I8);
    put(b, "\xff", 1);
    gguf_key(b, "u16", VP_GGUF_U16);
    put(b, "\xfe\xff", 2);
    gguf_key(b, "i16", VP_GGUF_I16);
    put(b, "\xfe\xff", 2);
    gguf_key(b, "u32", VP_GGUF_U32);
    put_u32(b, 4000000000u);
    gguf_key(b, "i32", VP_GGUF_I32);
    put_u32(b, 4000000000u);
    gguf_key(b, "f32", VP_GGUF_F32);
    put_f32(b, 1.5f);
    gguf_key(b, "bool", VP_GGUF_BOOL);
    put(b, "\1", 1);
    gguf_key(b, "string", VP_GGUF_STRING);
    gguf_string(b, "text");
    gguf_key(b, "u64", VP_GGUF_U64);
    put_u64(b, UINT64_MAX);
    gguf_key(b, "i64", VP_GGUF_I64);
    put_u64(b, (uint64_t)-3);
    gguf_key(b, "f64", VP_GGUF_F64);
    const double x = -0.1;
    put(b, &x, sizeof x);
}

static void test_scalars(uint32_t version) {
    vp_buf b = {0};
    gguf_header(&b, version, 0, 12);
    put_scalars(&b);
    vp_gguf *g = open_ok(&b);
    if (OK(g != NULL, "version %u with every scalar type opens", version)) {
        const char *s = NULL;
        size_t n = 0;
        OK(vp_gguf_int(g, "u8", 0) == 255 && vp_gguf_int(g, "i8", 0) == -1, "8-bit integers");
        OK(vp_gguf_int(g, "u16", 0) == 65534 && vp_gguf_int(g, "i16", 0) == -2, "16-bit integers");
        OK(vp_gguf_int(g, "u32", 0) == 4000000000 && vp_gguf_int(g, "i32", 0) == -294967296, "32-bit integers");
        OK(vp_gguf_int(g, "i64", 0) == -3, "64-bit integers");
        OK(vp_gguf_int(g, "u64", -7) == -7, "an unsigned integer beyond int64 counts as absent");
        OK(vp_gguf_int(g, "bool", 0) == 1, "a bool is an integer");
        OK(vp_gguf_int(g, "f32", -7) == -7 && vp_gguf_int(g, "string", -7) == -7 && vp_gguf_int(g, "no", -7) == -7,
           "a key that is absent or no integer gives the default");
        OK(vp_gguf_real(g, "f32", 0) == 1.5 && vp_gguf_real(g, "f64", 0) == -0.1, "reals");
        OK(vp_gguf_real(g, "i8", 0) == -1 && vp_gguf_real(g, "string", 7) == 7,
           "an integer is a real, a string is not");
        OK(vp_gguf_str(g, "string", &s, &n) && n == 4 && memcmp(s, "text", 4) == 0, "a string");
        OK(!vp_gguf_str(g, "u8", &s, &n) && !vp_gguf_str(g, "strin", &s, &n), "no string under these keys");
        vp_error err = {0};
        int64_t *ints;
        OK(vp_gguf_ints(g, "u8", &ints, &(int64_t){0}, &err) == VP_DATA && !ints, "a scalar is no array: %s", err.text);
        OK(strcmp(vp_gguf_path(g), path) == 0, "the path is kept");
    }
    vp_gguf_close(g);
    vp_buf_free(&b);
}

static void put_arrays(vp_buf *b) {
    gguf_array(b, "strings", VP_GGUF_STRING, 3);
    gguf_string(b, "a");
    gguf_string(b, "");
    gguf_string(b, "ccc");
    gguf_array(b, "ints", VP_GGUF_I32, 2);
    put_u32(b, 5);
    put_u32(b, UINT32_MAX);
    gguf_array(b, "reals", VP_GGUF_F32, 2);
    put_f32(b, 0.25f);
    put_f32(b, -INFINITY);
    gguf_array(b, "empty", VP_GGUF_U64, 0);
}

static void check_arrays(const vp_gguf *g) {
    vp_error err = {0};
    const char **s;
    size_t *len;
    int64_t n, *ints;
    float *reals;
    OK(vp_gguf_strings(g, "strings", &s, &len, &n, &err) == VP_OK && n == 3 && len[0] == 1 && len[1] == 0 &&
           len[2] == 3 && memcmp(s[2], "ccc", 3) == 0,
       "an array of strings");
    free((void *)s);
    free(len);
    OK(vp_gguf_ints(g, "ints", &ints, &n, &err) == VP_OK && n == 2 && ints[0] == 5 && ints[1] == -1, "integers");
    free(ints);
    OK(vp_gguf_reals(g, "reals", &reals, &n, &err) == VP_OK && n == 2 && reals[0] == 0.25f && reals[1] < -1e38f,
       "reals of an array");
    free(reals);
    OK(vp_gguf_reals(g, "ints", &reals, &n, &err) == VP_OK && n == 2 && reals[1] == -1.0f, "integers as reals");
    free(reals);
    OK(vp_gguf_ints(g, "empty", &ints, &n, &err) == VP_OK && n == 0 && ints, "an empty array is not an absent one");
    free(ints);
    OK(vp_gguf_ints(g, "no", &ints, &n, &err) == VP_OK && !ints && n == 0, "an absent array");
    OK(vp_gguf_strings(g, "no", &s, &len, &n, &err) == VP_OK && !s && !len && n == 0, "absent strings");
    OK(vp_gguf_ints(g, "reals", &ints, &n, &err) == VP_DATA && !ints && strstr(err.text, "reals"),
       "reals are no integers: %s", err.text);
    err = (vp_error){0};
    OK(vp_gguf_strings(g, "ints", &s, &len, &n, &err) == VP_DATA && !s && !len, "integers are no strings: %s",
       err.text);
    err = (vp_error){0};
    OK(vp_gguf_reals(g, "strings", &reals, &n, &err) == VP_DATA && !reals, "strings are no numbers: %s", err.text);
}

static void test_arrays(void) {
    vp_buf b = {0};
    gguf_header(&b, 3, 0, 4);
    put_arrays(&b);
    vp_gguf *g = open_ok(&b);
    if (OK(g != NULL, "arrays open")) check_arrays(g);
    vp_gguf_close(g);

    size_t full = b.len, refused = 0;
    for (b.len = 0; b.len < full; b.len++) refused += refuses(&b, "");
    OK(refused == full, "cut off at any of %zu bytes: refused (%zu were)", full, refused);
    vp_buf_free(&b);
}

static void test_bad_header(void) {
    vp_buf b = {0};
    OK(refuses(&b, "not a GGUF"), "an empty file");
    put(&b, "GGUX\3\0\0\0", 8);
    OK(refuses(&b, "not a GGUF"), "another magic");
    const uint32_t versions[] = {0, 1, 4, 0x03000000};
    for (size_t i = 0; i < 4; i++) {
        b.len = 0;
        gguf_header(&b, versions[i], 0, 0);
        OK(refuses(&b, "version"), "version %u", versions[i]);
    }
    b.len = 0;
    gguf_header(&b, 3, 0, UINT64_MAX);
    OK(refuses(&b, "cut short"), "2^64-1 keys in an empty file");
    b.len = 0;
    gguf_header(&b, 3, UINT64_MAX, 0);
    OK(refuses(&b, "cut short"), "2^64-1 tensors in an empty file");
    vp_buf_free(&b);
}

/* A file with one key, the rest written by the caller after gguf_header. */
static void one_key(vp_buf *b) {
    b->len = 0;
    gguf_header(b, 3, 0, 1);
}

static void test_bad_keys(void) {
    vp_buf b = {0};
    one_key(&b);
    put_u64(&b, UINT64_MAX);
    put(&b, "x", 1);
    OK(refuses(&b, "cut short"), "a key of 2^64-1 bytes");
    one_key(&b);
    gguf_key(&b, "k", VP_GGUF_STRING);
    put_u64(&b, UINT64_MAX - 7);
    OK(refuses(&b, "'k'"), "a string of almost 2^64 bytes");
    one_key(&b);
    gguf_key(&b, "k", 13);
    put_u64(&b, 0);
    OK(refuses(&b, "unknown value type"), "an unknown type");
    one_key(&b);
    gguf_array(&b, "k", VP_GGUF_F64, (uint64_t)1 << 61);
    put_u64(&b, 0);
    OK(refuses(&b, "more elements"), "an array whose size overflows");
    one_key(&b);
    gguf_array(&b, "k", VP_GGUF_STRING, (uint64_t)1 << 61);
    put_u64(&b, 0);
    OK(refuses(&b, "more strings"), "an array of too many strings");
    one_key(&b);
    gguf_array(&b, "k", VP_GGUF_STRING, 2);
    gguf_string(&b, "");
    put_u64(&b, 1);
    OK(refuses(&b, "past the end"), "an array whose last string is cut");
    one_key(&b);
    gguf_array(&b, "k", VP_GGUF_ARRAY, 1);
    put_u32(&b, VP_GGUF_U8);
    put_u64(&b, 0);
    OK(refuses(&b, "array of arrays"), "nested arrays");
    one_key(&b);
    gguf_array(&b, "k", 77, 0);
    OK(refuses(&b, "unknown element type"), "an unknown element type");
    b.len = 0;
    gguf_header(&b, 3, 0, 2);
    gguf_key(&b, "k", VP_GGUF_U8);
    put(&b, "\1", 1);
    gguf_key(&b, "k", VP_GGUF_U8);
    put(&b, "\1", 1);
    OK(refuses(&b, "given twice"), "a duplicate key");
    const uint32_t alignments[] = {0, 3, 1u << 21, UINT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        one_key(&b);
        gguf_key(&b, "general.alignment", VP_GGUF_U32);
        put_u32(&b, alignments[i]);
        OK(refuses(&b, "power of two"), "alignment %u", alignments[i]);
    }
    one_key(&b);
    gguf_key(&b, "general.alignment", VP_GGUF_STRING);
    gguf_string(&b, "32");
    OK(refuses(&b, "power of two"), "an alignment that is a string");
    vp_buf_free(&b);
}

/* Two tensors: F32 [3,2] and Q4_0 [1,32], alignment 64. */
static void two_tensors(vp_buf *b) {
    b->len = 0;
    gguf_header(b, 3, 2, 1);
    gguf_key(b, "general.alignment", VP_GGUF_U32);
    put_u32(b, 64);
    gguf_tensor(b, "zz", 2, (const uint64_t[]){2, 3}, 0, 0);
    gguf_tensor(b, "aa", 1, (const uint64_t[]){32}, 2, 64);
    put_pad(b, 64);
    for (int i = 0; i < 6; i++) put_f32(b, (float)i);
    put_pad(b, 64);
    put(b, "\0\x3c\x10\x32\x54\x76\x98\xba\xdc\xfe\x10\x32\x54\x76\x98\xba\xdc\xfe", 18);
}

static void test_tensors(void) {
    vp_buf b = {0};
    vp_error err = {0};
    vp_source *s = NULL;
    two_tensors(&b);
    write_file(path, &b);
    if (OK(vp_source_open(&s, path, &err) == VP_OK, "two tensors open: %s", err.text)) {
        const vp_tensor_info *zz = vp_source_at(s, 0), *aa = vp_source_find(s, "aa");
        float row[32] = {0};
        OK(vp_source_count(s) == 2 && !vp_source_at(s, 2) && vp_source_gguf(s), "the table has two rows");
        OK(zz == vp_source_find(s, "zz") && strcmp(zz->name, "zz") == 0, "file order and names");
        OK(!vp_source_find(s, "a") && !vp_source_find(s, "zzz") && !vp_source_find(s, ""), "absent names");
        OK(zz->ndim == 2 && zz->shape[0] == 3 && zz->shape[1] == 2 && zz->bytes == 24, "dims are reversed");
        OK(strcmp(zz->type, "F32") == 0 && strcmp(aa->type, "Q4_0") == 0 && strcmp(aa->file, path) == 0,
           "type names and file");
        OK(vp_tensor_row(zz, 2, row, &err) == VP_OK && row[0] == 4 && row[1] == 5, "the last row of zz");
        OK(vp_tensor_rows(aa) == 1 && vp_tensor_cols(aa) == 32, "a vector is one row");
        OK(vp_tensor_row(aa, 0, row, &err) == VP_OK && row[0] == -8 && row[16] == -7, "aa is dequantised");
    }
    vp_source_close(s);
    size_t full = b.len, refused = 0;
    for (b.len = 0; b.len < full; b.len++) refused += refuses(&b, "");
    OK(refused == full, "cut off at any of %zu bytes: refused (%zu were)", full, refused);
    vp_buf_free(&b);
}

/* A file with one tensor of these fields and 4096 bytes of data. */
static bool refuses_tensor(const char *name, uint32_t ndim, const uint64_t *dims, uint32_t type, uint64_t offset,
                           const char *why) {
    vp_buf b = {0};
    char zeros[4096] = {0};
    gguf_header(&b, 3, 1, 0);
    gguf_tensor(&b, name, ndim, dims, type, offset);
    put_pad(&b, 32);
    put(&b, zeros, sizeof zeros);
    bool passed = refuses(&b, why);
    vp_buf_free(&b);
    return passed;
}

static void test_bad_tensors(void) {
    const uint64_t huge = (uint64_t)1 << 62;
#define DIMS(...) (const uint64_t[]){__VA_ARGS__}
    OK(refuses_tensor("t", 5, DIMS(1, 1, 1, 1, 1), 0, 0, "more than 4"), "five dims");
    OK(refuses_tensor("t", 1, DIMS(4), 99, 0, "unknown storage type 99"), "an unknown type");
    OK(refuses_tensor("t", 1, DIMS(4), 4, 0, "unknown storage type 4"), "a type that was removed");
    OK(refuses_tensor("t", 1, DIMS(UINT64_MAX), 0, 0, "too large"), "a dim beyond int64");
    OK(refuses_tensor("t", 3, DIMS(huge, huge, huge), 0, 0, "too large"), "a product that overflows");
    OK(refuses_tensor("t", 3, DIMS(0, huge, huge), 0, 0, "too large"), "the same beside a zero");
    OK(refuses_tensor("t", 1, DIMS(huge), 0, 0, "larger than the file"), "bytes that overflow");
    OK(refuses_tensor("t", 1, DIMS(1025), 0, 0, "past the end"), "four bytes more than there are");
    OK(refuses_tensor("t", 1, DIMS(33), 8, 0, "blocks"), "part of a block");
    OK(refuses_tensor("t", 1, DIMS(4), 0, 32, "does not begin"), "a gap");
    OK(refuses_tensor("t", 1, DIMS(4), 0, UINT64_MAX - 31, "does not begin"), "an offset that overflows");
#undef DIMS
    vp_buf b = {0};
    gguf_header(&b, 3, 2, 0);
    gguf_tensor(&b, "t", 1, (const uint64_t[]){8}, 0, 0);
    gguf_tensor(&b, "t", 1, (const uint64_t[]){8}, 0, 32);
    put_pad(&b, 32);
    for (int i = 0; i < 16; i++) put_f32(&b, 0);
    OK(refuses(&b, "also in"), "a duplicate tensor");
    b.len = 0;
    gguf_header(&b, 3, 1, 0);
    put_u64(&b, 3);
    put(&b, "a\0b", 3);
    put_u32(&b, 0);
    OK(refuses(&b, "NUL"), "a name with a NUL byte");
    vp_buf_free(&b);
}

static void test_listed_types(void) {
    vp_buf b = {0};
    vp_error err = {0};
    vp_source *s = NULL;
    char zeros[256] = {0};
    float row[256];
    gguf_header(&b, 2, 1, 0);
    gguf_tensor(&b, "blk.0.w", 2, (const uint64_t[]){256, 1}, 14, 0);
    put_pad(&b, 32);
    put(&b, zeros, 210);
    write_file(path, &b);
    if (OK(vp_source_open(&s, path, &err) == VP_OK, "a Q6_K tensor is listed: %s", err.text)) {
        OK(vp_tensor_row(vp_source_at(s, 0), 0, row, &err) == VP_DATA && strstr(err.text, path) &&
               strstr(err.text, "blk.0.w") && strstr(err.text, "Q6_K"),
           "and refused when it is read: %s", err.text);
    }
    vp_source_close(s);
    err = (vp_error){0};
    vp_gguf *g = NULL;
    OK(vp_gguf_open(&g, "absent.gguf", &err) == VP_IO && !g, "a missing file: %s", err.text);
    vp_buf_free(&b);
}

int main(void) {
    char folder[] = "/tmp/vecpipe-test-XXXXXX";
    if (!mkdtemp(folder) || chdir(folder) != 0) return 1;
    test_scalars(2);
    test_scalars(3);
    test_arrays();
    test_bad_header();
    test_bad_keys();
    test_tensors();
    test_bad_tensors();
    test_listed_types();
    unlink(path);
    rmdir(folder);
    return done();
}
