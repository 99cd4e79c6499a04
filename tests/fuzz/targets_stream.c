/* vecpipe/1 streams: what every program reads first. An accepted frame goes through whatever looks into frames, and on
 * through the writer. */
#include "lib/vecpipe.h"
#include "tests/fuzz/targets.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

/* ---- seeds ---- */

static int put_columns(vp_frame *f, vp_error *err) {
    static const int32_t ids[5] = {1, 2, 3, 4, 5}, cu[3] = {0, 2, 5};
    static const float hidden[15] = {0.5f, -1, 2};
    static const uint16_t picked[8] = {0x3f80, 0xbf80};
    static const char *const names[2] = {"a", "b"}, *const texts[2] = {"some text", NULL};
    static const size_t name_lengths[2] = {1, 1}, text_lengths[2] = {9, 0};
    VP_TRY(vp_frame_put(f, "ids", VP_I32, 1, (const int64_t[]){5}, ids, err));
    VP_TRY(vp_frame_put(f, "cu", VP_I32, 1, (const int64_t[]){3}, cu, err));
    VP_TRY(vp_frame_put(f, "hidden", VP_F32, 2, (const int64_t[]){5, 3}, hidden, err));
    VP_TRY(vp_frame_put(f, "picked", VP_BF16, 2, (const int64_t[]){4, 2}, picked, err));
    VP_TRY(vp_frame_put(f, "stranger", VP_U8, 1, (const int64_t[]){5}, ids, err));
    VP_TRY(vp_frame_put_strs(f, "id", 2, names, name_lengths, err));
    return vp_frame_put_strs(f, "text", 2, texts, text_lengths, err);
}

static int write_stream(vp_writer *w, vp_map *keys, vp_frame *f, vp_error *err) {
    VP_TRY(vp_map_set_str(keys, "note", "a stranger's key", err));
    VP_TRY(vp_header_declare(keys, "ids", "I32", "T", err));
    VP_TRY(vp_header_declare(keys, "hidden", "F32", "T 3", err));
    VP_TRY(vp_header_declare(keys, "stranger", "U8", "T", err));
    VP_TRY(vp_writer_header(w, keys, "fuzz", err));
    VP_TRY(put_columns(f, err));
    VP_TRY(vp_map_set_int(f->keys, "step", 0, err));
    VP_TRY(vp_writer_batch(w, f, err));
    VP_TRY(vp_map_set_bool(f->keys, "last", true, err));
    vp_frame_drop(f, "hidden");
    VP_TRY(vp_writer_batch(w, f, err));
    vp_map *counts = vp_map_new();
    int status = vp_map_set_int(counts, "rows", 4, err);
    if (!status) status = vp_writer_end(w, counts, err);
    vp_map_free(counts);
    return status;
}

static void read_back(int fd, vp_buf *out) {
    char piece[4096];
    vp_error err = {0};
    lseek(fd, 0, SEEK_SET);
    for (ssize_t n; (n = read(fd, piece, sizeof piece)) > 0;)
        if (vp_buf_add(out, piece, (size_t)n, &err)) abort();
}

void fuzz_seed_stream(vp_buf *out, fuzz_write_stream *write) {
    vp_error err = {0};
    vp_writer *w = NULL;
    int fd;
    fuzz_memory_file(&(vp_buf){0}, &fd);
    vp_map *keys = vp_map_new();
    vp_frame *f = vp_frame_new(VP_FRAME_BATCH, &err);
    if (vp_writer_open(&w, fd, "a seed", &err) || write(w, keys, f, &err)) {
        fprintf(stderr, "fuzz: %s\n", err.text);
        abort();
    }
    read_back(fd, out);
    vp_writer_close(w);
    vp_frame_free(f);
    vp_map_free(keys);
    close(fd);
}

void stream_seeds(fuzz_seeds *s) {
    vp_buf *plain = fuzz_add_seed(s), *twice = fuzz_add_seed(s), *packed = fuzz_add_seed(s);
    vp_error err = {0};
    fuzz_seed_stream(plain, write_stream);
    if (vp_buf_add(twice, plain->data, plain->len, &err) || vp_buf_add(twice, plain->data, plain->len, &err)) abort();
    if (vp_buf_reserve(packed, ZSTD_compressBound(plain->len), &err)) abort();
    packed->len = ZSTD_compress(packed->data, packed->cap, plain->data, plain->len, 3);
    if (ZSTD_isError(packed->len)) abort();
}

/* ---- lengths and checksums ---- */

/* Bytes of the length in an ext's head at p (its type is 1), or -1. */
static int ext_width(const uint8_t *p, size_t left) {
    if (left < 2 || p[0] < 0xc7 || p[0] > 0xc9) return -1;
    int width = 1 << (p[0] - 0xc7);
    return left > (size_t)width + 1 && p[width + 1] == 1 ? width : -1;
}

/* A frame reaches to where the next one seems to begin. */
void stream_repair(vp_buf *input) {
    uint8_t *data = (uint8_t *)input->data;
    for (size_t at = 0, end; at < input->len; at = end) {
        int width = ext_width(data + at, input->len - at);
        size_t begin = at + (size_t)width + 2;
        if (width < 0 || input->len - at < (size_t)width + 10) return;
        for (end = begin + 9; end < input->len; end++)
            if (ext_width(data + end, input->len - end) >= 0) break;
        if (end > input->len) end = input->len;
        if (width == 1 && end - begin > 255) end = begin + 255;
        for (int i = 0; i < width; i++) data[at + 1 + (size_t)i] = (uint8_t)((end - begin) >> (8 * (width - 1 - i)));
        uint64_t sum = vp_hash64(data + begin + 8, end - begin - 8);
        memcpy(data + begin, &sum, sizeof sum);
    }
}

/* ---- reading ---- */

/* Refusals (VP_DATA) are fine in what looks at single columns. */
static int look_at_column(const vp_frame *f, const vp_column *c, vp_error *err) {
    vp_error why = {0};
    float *floats = NULL;
    int32_t *ints = NULL;
    int status = vp_frame_floats(f, c->name, &floats, NULL, &why);
    free(floats);
    why.code = 0;
    if (status == VP_OK || status == VP_DATA) status = vp_frame_ints(f, c->name, &ints, NULL, &why);
    free(ints);
    for (int64_t i = 0; c->is_values && i < c->shape[0] && (status == VP_OK || status == VP_DATA); i++) {
        const char *s;
        size_t n;
        char scratch[32];
        why.code = 0;
        status = vp_column_str(f, c, i, &s, &n, scratch, &why);
        if (!status && s && vp_utf8_valid(s, n) != n) return vp_fail(err, VP_BUG, "column '%s': not UTF-8", c->name);
    }
    return status == VP_OK || status == VP_DATA ? VP_OK : vp_fail(err, status, "%s", why.text);
}

static int slice(const vp_frame *f, vp_error *err) {
    vp_error why = {0};
    vp_frame *part = NULL;
    int status = f->B > 1 ? vp_frame_slice(f, 1, f->B, &part, &why) : VP_OK;
    vp_frame_free(part);
    return status == VP_OK || status == VP_DATA ? VP_OK : vp_fail(err, status, "%s", why.text);
}

static int pass_on(vp_writer *w, const vp_frame *f, vp_error *err) {
    vp_buf json = {0};
    int status = vp_map_json(f->keys, &json, err);
    vp_buf_free(&json);
    if (status) return status;
    if (f->kind == VP_FRAME_HEADER) return vp_writer_header(w, f->keys, "fuzz", err);
    if (f->kind == VP_FRAME_END) return vp_writer_end(w, f->keys, err);
    for (int i = 0; i < f->ncolumns; i++) VP_TRY(look_at_column(f, &f->column[i], err));
    VP_TRY(slice(f, err));
    return vp_writer_batch(w, f, err);
}

int stream_run(const vp_buf *input, vp_error *err) {
    int fd, null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    vp_reader *r = NULL;
    vp_writer *w = NULL;
    vp_frame *f = NULL;
    fuzz_memory_file(input, &fd);
    int status = vp_reader_open(&r, fd, "a stream", err);
    if (!status) status = vp_writer_open(&w, null, "/dev/null", err);
    if (!status) vp_reader_set_vocab(r, 100);
    while (!status) {
        status = vp_reader_next(r, &f, err);
        if (status || !f) break;
        status = pass_on(w, f, err);
    }
    vp_writer_close(w);
    vp_reader_close(r);
    close(null);
    close(fd);
    return status;
}
