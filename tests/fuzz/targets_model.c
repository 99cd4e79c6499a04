/* Model files: GGUF, safetensors, the index of shards. An accepted file is read to the last row of every tensor. */
#include "tests/fuzz/targets.h"
#include "tests/modelfile.h"
#include <unistd.h>

/* ---- what is done with an open source ---- */

static int read_tensors(const vp_source *s, vp_error *err) {
    for (size_t i = 0; i < vp_source_count(s); i++) {
        const vp_tensor_info *t = vp_source_at(s, i);
        if (vp_source_find(s, t->name) != t) return vp_fail(err, VP_BUG, "tensor '%s': not found again", t->name);
        int64_t rows = vp_tensor_rows(t), cols = vp_tensor_cols(t);
        if (!t->bytes || t->storage == VP_STORE_OTHER) continue;
        float *row = malloc((size_t)cols * sizeof *row); /* exact: a write past it is seen */
        if (!row) return vp_fail_memory(err, "a row", (size_t)cols * sizeof *row);
        vp_error why = {0};
        int status = vp_tensor_row(t, 0, row, &why);
        if (!status) status = vp_tensor_row(t, rows - 1, row, &why);
        free(row);
        if (status && status != VP_DATA) return vp_fail(err, status, "%s", why.text);
    }
    uint8_t print[16];
    return vp_source_fingerprint(s, "", 0, print, err);
}

static int read_source(const char *path, vp_error *err) {
    vp_source *s;
    int status = vp_source_open(&s, path, err);
    if (!status) status = read_tensors(s, err);
    vp_source_close(s);
    return status;
}

/* ---- GGUF ---- */

static void seed_values(fuzz_seeds *s) {
    vp_buf *b = fuzz_add_seed(s);
    gguf_header(b, 3, 0, 7);
    gguf_key(b, "general.architecture", VP_GGUF_STRING);
    gguf_string(b, "llama");
    gguf_key(b, "a", VP_GGUF_U64);
    put_u64(b, 5);
    gguf_key(b, "b", VP_GGUF_BOOL);
    put(b, "\1", 1);
    gguf_key(b, "c", VP_GGUF_F32);
    put_f32(b, 1e-5f);
    gguf_array(b, "strings", VP_GGUF_STRING, 3);
    gguf_string(b, "one");
    gguf_string(b, "");
    gguf_string(b, "three");
    gguf_array(b, "ints", VP_GGUF_I16, 4);
    put_u64(b, 0x0004000300020001);
    gguf_array(b, "reals", VP_GGUF_F32, 2);
    put_f32(b, 1);
    put_f32(b, 2);
}

static void seed_tensors(fuzz_seeds *s) {
    static const struct {
        uint32_t type, bytes; /* of 64 elements */
    } types[] = {{0, 256}, {1, 128}, {30, 128}, {8, 68}, {2, 36}, {3, 40}, {26, 256}};
    vp_buf *b = fuzz_add_seed(s);
    uint64_t offset = 0;
    gguf_header(b, 2, sizeof types / sizeof *types, 1);
    gguf_key(b, "general.alignment", VP_GGUF_U32);
    put_u32(b, 8);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const char name[] = {(char)('a' + i), '\0'};
        gguf_tensor(b, name, 2, (const uint64_t[]){32, 2}, types[i].type, offset);
        offset += (types[i].bytes + 7) & ~7u;
    }
    put_pad(b, 8);
    for (uint64_t i = 0; i < offset; i++) put(b, (char[]){(char)(i * 37)}, 1);
}

void gguf_seeds(fuzz_seeds *s) {
    seed_values(s);
    seed_tensors(s);
    gguf_header(fuzz_add_seed(s), 3, 0, 0);
}

/* Getters may refuse (VP_DATA), and nothing else. */
static int read_arrays(const vp_gguf *g, const char *key, vp_error *err) {
    vp_error why[3] = {0};
    const char **s;
    size_t *len;
    int64_t *ints, n, total = 0;
    float *reals;
    int status[3] = {vp_gguf_strings(g, key, &s, &len, &n, &why[0])};
    for (int64_t i = 0; i < n; i++)
        for (size_t j = 0; j < len[i]; j++) total += s[i][j];
    free((void *)s);
    free(len);
    status[1] = vp_gguf_ints(g, key, &ints, &n, &why[1]);
    for (int64_t i = 0; i < n; i++) total += ints[i] & 1;
    free(ints);
    status[2] = vp_gguf_reals(g, key, &reals, &n, &why[2]);
    for (int64_t i = 0; i < n; i++) total += reals[i] > 0;
    free(reals);
    for (int i = 0; i < 3; i++)
        if (status[i] && status[i] != VP_DATA) return vp_fail(err, VP_BUG, "%s (%lld)", why[i].text, (long long)total);
    return VP_OK;
}

int gguf_run(const vp_buf *input, vp_error *err) {
    static const char *const keys[] = {"general.architecture", "a", "b", "c", "strings", "ints", "reals"};
    int fd;
    const char *path = fuzz_memory_file(input, &fd);
    vp_gguf *g;
    int status = vp_gguf_open(&g, path, err);
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !status; i++) {
        const char *s;
        size_t n;
        vp_gguf_str(g, keys[i], &s, &n);
        vp_gguf_int(g, keys[i], 0);
        vp_gguf_real(g, keys[i], 0);
        status = read_arrays(g, keys[i], err);
    }
    vp_gguf_close(g);
    if (!status) status = read_source(path, err);
    close(fd);
    return status;
}

/* ---- safetensors ---- */

static const char tensors[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                              "\"h\":{\"dtype\":\"F16\",\"shape\":[2,4],\"data_offsets\":[32,48]},"
                              "\"f\":{\"dtype\":\"F32\",\"shape\":[2,2,2],\"data_offsets\":[0,32]},"
                              "\"e\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[48,48]},"
                              "\"b\":{\"dtype\":\"BF16\",\"shape\":[8],\"data_offsets\":[48,64]}}";
enum { DATA_BYTES = 64 };

void safetensors_seeds(fuzz_seeds *s) {
    char data[DATA_BYTES];
    for (int i = 0; i < DATA_BYTES; i++) data[i] = (char)(i * 37);
    safetensors(fuzz_add_seed(s), tensors, data, DATA_BYTES);
    safetensors(fuzz_add_seed(s), "{}   ", "", 0);
    safetensors(fuzz_add_seed(s), "{\"s\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]}}", data, 8);
}

/* The header is what lies between its length and the data. */
void safetensors_repair(vp_buf *input) {
    if (input->len < 8 + DATA_BYTES) return;
    uint64_t length = input->len - 8 - DATA_BYTES;
    memcpy(input->data, &length, sizeof length);
}

int safetensors_run(const vp_buf *input, vp_error *err) {
    int fd;
    int status = read_source(fuzz_memory_file(input, &fd), err);
    close(fd);
    return status;
}

/* ---- model.safetensors.index.json, beside two true shards ---- */

void shards_seeds(fuzz_seeds *s) {
    static const char other[] = "{\"z\":{\"dtype\":\"I64\",\"shape\":[8],\"data_offsets\":[0,64]}}";
    char data[DATA_BYTES] = {0};
    vp_buf b = {0};
    safetensors(&b, tensors, data, DATA_BYTES);
    fuzz_write_file("1", &b);
    safetensors(&b, other, data, DATA_BYTES);
    fuzz_write_file("2", &b);
    vp_buf_free(&b);
    fuzz_seed_text(s, "{\"metadata\":{\"total_size\":128},\"weight_map\":{\"h\":\"1\",\"z\":\"2\",\"f\":\"1\"}}");
    fuzz_seed_text(s, "{\"weight_map\":{\"e\":\"1\"}}");
}

int shards_run(const vp_buf *input, vp_error *err) {
    fuzz_write_file("model.safetensors.index.json", input);
    int status = read_source(".", err);
    if (status != VP_IO) return status;
    return err->code = VP_DATA; /* a shard that does not exist */
}
