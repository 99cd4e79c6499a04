/* safetensors: single files, folders, shards, the fingerprint, and everything that must be refused. */
#include "tests/modelfile.h"
#include "tests/unit/tap.h"
#include <sys/stat.h>
#include <unistd.h>

static const char path[] = "model.safetensors";
static const float data[] = {1, 2, 3, 4, 5, 6, 7, 8};

static bool refuses_path(const char *where, int code, const char *why) {
    vp_error err = {0};
    vp_source *s = NULL;
    int status = vp_source_open(&s, where, &err);
    bool passed = status == code && err.code == code && !s && strstr(err.text, why);
    if (!passed) printf("# status %d: %s\n", status, err.text);
    vp_source_close(s);
    return passed;
}

/* A file of this header and 32 bytes of data. */
static bool refuses(const char *json, const char *why) {
    vp_buf b = {0};
    safetensors(&b, json, data, sizeof data);
    write_file(path, &b);
    bool passed = refuses_path(path, VP_DATA, why) && refuses_path(path, VP_DATA, path);
    vp_buf_free(&b);
    return passed;
}

static void write_safetensors(const char *where, const char *json, const void *values, size_t n) {
    vp_buf b = {0};
    safetensors(&b, json, values, n);
    write_file(where, &b);
    vp_buf_free(&b);
}

static void write_text(const char *where, const char *text) {
    vp_buf b = {0};
    put(&b, text, strlen(text));
    write_file(where, &b);
    vp_buf_free(&b);
}

static vp_source *open_ok(const char *where) {
    vp_error err = {0};
    vp_source *s = NULL;
    if (vp_source_open(&s, where, &err)) printf("# %s\n", err.text);
    return s;
}

static void test_table(void) {
    vp_error err = {0};
    write_safetensors(path,
                      "{\"__metadata__\":{\"format\":\"pt\"},"
                      "\"b\":{\"dtype\":\"F32\",\"shape\":[2,1,2],\"data_offsets\":[8,24]},"
                      "\"none\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[8,8]},"
                      "\"i\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[24,32]},"
                      "\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[8],\"data_offsets\":[0,8]}}  ",
                      data, sizeof data);
    vp_source *s = open_ok(path);
    if (OK(s && vp_source_count(s) == 4, "four tensors")) {
        const vp_tensor_info *b = vp_source_find(s, "b"), *none = vp_source_find(s, "none");
        float row[8] = {0};
        OK(strcmp(vp_source_at(s, 0)->name, "a") == 0 && strcmp(vp_source_at(s, 1)->name, "none") == 0 &&
               vp_source_at(s, 2) == b,
           "file order is by offset");
        OK(b->ndim == 3 && vp_tensor_rows(b) == 2 && vp_tensor_cols(b) == 2, "a [2,1,2] tensor is [2,2]");
        OK(vp_tensor_row(b, 1, row, &err) == VP_OK && row[0] == 5 && row[1] == 6, "its second row");
        OK(vp_tensor_row(b, 2, row, &err) == VP_BUG, "it has no third: %s", err.text);
        err = (vp_error){0};
        OK(vp_tensor_row(none, 0, row, &err) == VP_BUG, "an empty tensor has no row");
        err = (vp_error){0};
        OK(vp_tensor_row(vp_source_find(s, "i"), 0, row, &err) == VP_DATA && strstr(err.text, "I64"),
           "integers are listed, not read: %s", err.text);
        err = (vp_error){0};
        OK(vp_tensor_row(vp_source_find(s, "a"), 0, row, &err) == VP_DATA && strstr(err.text, "F8_E4M3") &&
               strstr(err.text, path),
           "F8 too: %s", err.text);
        OK(!vp_source_gguf(s), "this is no GGUF");
    }
    vp_source_close(s);
}

static void test_bad_file(void) {
    vp_buf b = {0};
    write_file(path, &b);
    OK(refuses_path(path, VP_DATA, "too short"), "an empty file");
    const uint64_t lengths[] = {1, 100, (uint64_t)1 << 40, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < 5; i++) {
        b.len = 0;
        put_u64(&b, lengths[i]);
        write_file(path, &b);
        OK(refuses_path(path, VP_DATA, "past its end"), "a header of %llu bytes in a file of 8",
           (unsigned long long)lengths[i]);
    }
    safetensors(&b, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", data, 8);
    size_t full = b.len, refused = 0;
    for (b.len = 0; b.len < full; b.len++) {
        write_file(path, &b);
        refused += refuses_path(path, VP_DATA, path);
    }
    OK(refused == full, "cut off at any of %zu bytes: refused (%zu were)", full, refused);
    b.len = full;
    put(&b, "x", 1);
    write_file(path, &b);
    OK(refuses_path(path, VP_DATA, "1 bytes after"), "a byte too many");
    b.len = 0;
    put_u64(&b, (32 << 20) + 1);
    put_pad(&b, (33 << 20));
    write_file(path, &b);
    OK(refuses_path(path, VP_DATA, "more than 33554432"), "a header over the limit");
    OK(truncate(path, 0) == 0 && refuses_path("absent", VP_IO, "absent"), "a missing file");
    OK(mkfifo("fifo", 0600) == 0 && refuses_path("fifo", VP_IO, "not a regular file"),
       "a named pipe is not waited for");
    unlink("fifo");
    vp_buf_free(&b);
}

static void test_bad_header(void) {
#define T(dtype, shape, offsets) "{\"t\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    OK(refuses("", "header"), "no JSON");
    OK(refuses("{\"t\":", "header"), "half of a JSON");
    OK(refuses("[]", "not a JSON object"), "an array");
    OK(refuses("{}", "32 bytes after"), "data that belong to nobody");
    OK(refuses("{\"t\":1}", "no dtype"), "a tensor that is a number");
    OK(refuses("{\"t\":{}}", "no dtype"), "a tensor without members");
    OK(refuses(T("F99", "[8]", "[0,32]"), "unknown dtype 'F99'"), "an unknown type");
    OK(refuses(T("F32", "[1,1,1,1,8]", "[0,32]"), "more than 4"), "five dims");
    OK(refuses(T("F32", "[8.0]", "[0,32]"), "no integer"), "a dim with a point");
    OK(refuses(T("F32", "[-8]", "[0,32]"), "do not fit"), "a negative dim");
    OK(refuses(T("F32", "[-2,-4]", "[0,32]"), "do not fit"), "two negative dims");
    OK(refuses(T("F32", "[4611686018427387904]", "[0,32]"), "do not fit"), "bytes that overflow");
    OK(refuses(T("F32", "[4294967296,4294967296,0]", "[0,0]"), "do not fit"), "a product that overflows");
    OK(refuses(T("F32", "[99999999999999999999]", "[0,32]"), "header"), "a dim beyond 64 bits");
    OK(refuses(T("F32", "[7]", "[0,32]"), "do not fit"), "a shape smaller than its bytes");
    OK(refuses(T("F32", "[8]", "[0]"), "no [begin, end]"), "one offset");
    OK(refuses(T("F32", "[8]", "[0,32,64]"), "no [begin, end]"), "three offsets");
    OK(refuses(T("F32", "[8]", "[32,0]"), "no [begin, end]"), "offsets in reverse");
    OK(refuses(T("F32", "[8]", "[-32,0]"), "no [begin, end]"), "a negative offset");
    OK(refuses(T("F32", "[8]", "[\"0\",\"32\"]"), "no [begin, end]"), "offsets as strings");
    OK(refuses(T("F32", "[9]", "[0,36]"), "past the end"), "four bytes too many");
    OK(refuses(T("F32", "[4]", "[16,32]"), "gap"), "a gap at the start");
#undef T
#define T(name, begin, end) "\"" name "\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[" begin "," end "]}"
    OK(refuses("{" T("a", "0", "16") "," T("b", "8", "24") "}", "overlaps"), "an overlap");
    OK(refuses("{" T("a", "0", "16") "," T("b", "0", "16") "}", "overlaps"), "the same bytes twice");
    OK(refuses("{" T("a", "0", "16") "}", "16 bytes after"), "data after the last tensor");
    OK(refuses("{" T("a", "0", "16") "," T("a", "16", "32") "}", "header"), "a duplicate name");
    OK(refuses("{\"__metadata__\":{\"a\":1}," T("a", "0", "16") "}", "__metadata__"), "metadata that is no text");
    OK(refuses("{\"__metadata__\":[]," T("a", "0", "16") "}", "__metadata__"), "metadata that is an array");
    OK(refuses("{" T("a\\u0000b", "0", "16") "}", "header"), "a NUL in a name");
#undef T
    vp_buf deep = {0};
    for (int i = 0; i < 100000; i++) put(&deep, "[", 1);
    put(&deep, "", 1);
    OK(refuses(deep.data, "header"), "100,000 brackets");
    vp_buf_free(&deep);
}

static const char shard1[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
                             "\"c\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[16,24]}}";
static const char shard2[] = "{\"b\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]}}";
static const char indexed[] = "folder/model.safetensors.index.json";
#define INDEX(a, b, c) "{\"metadata\":{},\"weight_map\":{\"a\":\"" a "\",\"b\":\"" b "\",\"c\":\"" c "\"}}"

static void test_shards(uint8_t print[16]) {
    vp_error err = {0};
    mkdir("folder", 0700);
    OK(refuses_path("folder", VP_DATA, "no model.safetensors"), "an empty folder");
    write_safetensors("folder/1.safetensors", shard1, data, 24);
    write_safetensors("folder/2.safetensors", shard2, data + 6, 8);
    write_text(indexed, INDEX("1.safetensors", "2.safetensors", "1.safetensors"));
    vp_source *s = open_ok("folder");
    if (OK(s && vp_source_count(s) == 3, "two shards, three tensors")) {
        const vp_tensor_info *b = vp_source_find(s, "b");
        float row[2] = {0};
        OK(b && strcmp(b->file, "folder/2.safetensors") == 0 && vp_tensor_row(b, 0, row, &err) == VP_OK &&
               row[1] == 8 && vp_source_find(s, "a") && vp_source_find(s, "c"),
           "each from its file");
        OK(vp_source_fingerprint(s, "config", 6, print, &err) == VP_OK, "fingerprint");
    }
    vp_source_close(s);

    write_text(indexed, INDEX("1.safetensors", "1.safetensors", "1.safetensors"));
    OK(refuses_path("folder", VP_DATA, "'b': not in its shard"), "a tensor that its shard does not have");
    write_text(indexed, INDEX("1.safetensors", "3.safetensors", "1.safetensors"));
    OK(refuses_path("folder", VP_IO, "3.safetensors"), "a missing shard");
    static const char *const outside[] = {"../t", "/etc/passwd", "..", ".", "sub/1.safetensors", ""};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        char text[200];
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"%s\"}}", outside[i]);
        write_text(indexed, text);
        OK(refuses_path("folder", VP_DATA, "no plain file name"), "a shard called '%s'", outside[i]);
    }
    write_text(indexed, "{\"weight_map\":{\"a\":1}}");
    OK(refuses_path("folder", VP_DATA, "no plain file name"), "a shard that is a number");
    static const char *const bad[] = {"{\"weight_map\":{}}", "{\"weight_map\":[]}", "{}", "[]", "{", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(indexed, bad[i]);
        OK(refuses_path("folder", VP_DATA, "index.json"), "the index '%s'", bad[i]);
    }
    write_safetensors("folder/2.safetensors", shard1, data, 24);
    write_text(indexed, INDEX("1.safetensors", "2.safetensors", "1.safetensors"));
    OK(refuses_path("folder", VP_DATA, "also in"), "a tensor in two shards");
}

/* The same tensors in one file, in another order, with other metadata, under another name. */
static void test_fingerprint(const uint8_t print[16]) {
    static const char whole[] = "{\"__metadata__\":{\"x\":\"y\"},"
                                "\"b\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
                                "\"c\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]},"
                                "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[16,32]}}";
    vp_error err = {0};
    uint8_t same[16], other[16];
    write_safetensors("folder/model.safetensors", whole, (float[]){7, 8, 5, 6, 1, 2, 3, 4}, 32);
    vp_source *s = open_ok("folder");
    OK(s && vp_source_fingerprint(s, "config", 6, same, &err) == VP_OK && memcmp(print, same, 16) == 0,
       "the fingerprint does not see shards, order, metadata, or the path; a whole file goes before an index");
    OK(s && vp_source_fingerprint(s, "Config", 6, other, &err) == VP_OK && memcmp(print, other, 16) != 0,
       "it sees the config");
    vp_source_close(s);
    write_safetensors("folder/model.safetensors", whole, (float[]){7, 8, 5, 6, 1, 2, 3, 5}, 32);
    s = open_ok("folder");
    OK(s && vp_source_fingerprint(s, "config", 6, other, &err) == VP_OK && memcmp(print, other, 16) != 0,
       "it sees a value");
    vp_source_close(s);
}

/* 300 KiB: 64 KiB at the begin, the middle and the end count. */
static void test_samples(void) {
    static const size_t at[] = {0, 65535, 65536, 153600, 186367, 186368, 241664, 307199};
    static const bool seen[] = {true, true, false, true, true, false, true, true};
    static uint8_t bytes[300 << 10];
    vp_error err = {0};
    uint8_t print[16], other[16];
    for (size_t i = 0; i <= sizeof at / sizeof *at; i++) {
        if (i) bytes[at[i - 1]] = 1;
        write_safetensors(path, "{\"t\":{\"dtype\":\"U8\",\"shape\":[307200],\"data_offsets\":[0,307200]}}", bytes,
                          sizeof bytes);
        vp_source *s = open_ok(path);
        if (!s || vp_source_fingerprint(s, "", 0, i ? other : print, &err)) printf("# %s\n", err.text);
        vp_source_close(s);
        if (!i) continue;
        OK((memcmp(print, other, 16) != 0) == seen[i - 1], "byte %zu %s", at[i - 1],
           seen[i - 1] ? "counts" : "does not");
        bytes[at[i - 1]] = 0;
    }
}

int main(void) {
    char folder[] = "/tmp/vecpipe-test-XXXXXX";
    uint8_t print[16] = {0};
    if (!mkdtemp(folder) || chdir(folder) != 0) return 1;
    test_table();
    test_bad_file();
    test_bad_header();
    test_shards(print);
    test_fingerprint(print);
    test_samples();
    static const char *const files[] = {path, indexed, "folder/1.safetensors", "folder/2.safetensors",
                                        "folder/model.safetensors"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) unlink(files[i]);
    rmdir("folder");
    rmdir(folder);
    return done();
}
