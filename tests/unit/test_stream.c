/* The stream's bytes: the annotated stream in tests/streams is what the reader reads and the writer writes; msgpack-c
 * agrees; what a program does not know passes through unchanged; large frames are split; zstd and closed pipes. */
#include "tests/unit/stream_support.h"
#include "tests/unit/tap.h"
#include <errno.h>
#include <msgpack/unpack.h>
#include <signal.h>
#include <zstd.h>

static vp_buf load_hex(const char *path) {
    vp_buf text = {0};
    vp_error err = {0};
    if (vp_read_file(path, 1 << 20, &text, &err)) {
        printf("Bail out! %s\n", err.text);
        exit(1);
    }
    vp_buf b = bytes_of_hex(text.data);
    vp_buf_free(&text);
    return b;
}

static void test_read(const vp_buf *stream) {
    vp_error err = {0};
    vp_reader *r;
    vp_frame *f;
    const int fd = fd_of(stream->data, stream->len);
    OK(vp_reader_open(&r, fd, "input", &err) == VP_OK, "a reader opens");
    OK(!vp_reader_next(r, &f, &err) && f && f->kind == VP_FRAME_HEADER, "the header comes first: %s", err.text);
    OK(f && vp_map_int(f->keys, "vecpipe", 0) == 1 && f == vp_reader_header(r), "it has the version");
    OK(!vp_reader_next(r, &f, &err) && f && f->kind == VP_FRAME_BATCH, "then the batch: %s", err.text);
    OK(f && f->B == 2 && f->T == 4 && f->seq == 0 && f->number == 1 && f->offset == 67, "B, T, seq, place");
    int32_t *ids = NULL;
    int64_t n = 0;
    OK(f && !vp_frame_ints(f, "ids", &ids, &n, &err) && n == 4 && ids[0] == 5 && ids[3] == 7, "its ids");
    free(ids);
    OK(!vp_reader_next(r, &f, &err) && f && f->kind == VP_FRAME_END && vp_map_int(f->keys, "rows", 0) == 2, "the end");
    OK(!vp_reader_next(r, &f, &err) && !f, "and nothing more");
    vp_reader_close(r);
    close(fd);
}

/* A reader may hold the producer's pipe open: it must not ask for a byte that the current frame does not need. */
static void test_no_read_ahead(const vp_buf *stream) {
    static const size_t ends[] = {67, 191};
    int pipes[2];
    vp_error err = {0};
    vp_reader *r;
    vp_frame *f = NULL;
    if (pipe(pipes) != 0 || vp_reader_open(&r, pipes[0], "pipe", &err)) abort();
    alarm(20); /* a reader that waits for more would hang here */
    for (size_t i = 0, at = 0; i < 2; at = ends[i++]) {
        vp_write_all(pipes[1], stream->data + at, ends[i] - at, "pipe", &err);
        OK(!vp_reader_next(r, &f, &err) && f, "frame %zu is handed out before the next one is sent", i);
    }
    alarm(0);
    vp_reader_close(r);
    close(pipes[0]);
    close(pipes[1]);
}

/* What a program would write: rows of tokens. */
static int write_minimal(int fd, size_t limit, vp_error *err) {
    static const int32_t ids[] = {5, 9, 11, 7}, cu[] = {0, 1, 4};
    const int64_t four = 4, three = 3;
    vp_writer *w;
    VP_TRY(vp_writer_open(&w, fd, "memory", err));
    if (limit) vp_writer_limit(w, limit);
    vp_frame *f = vp_frame_new(VP_FRAME_BATCH, err);
    vp_map *end = vp_map_new();
    int status = vp_writer_header(w, NULL, NULL, err);
    if (!status) status = vp_frame_put(f, "ids", VP_I32, 1, &four, ids, err);
    if (!status) status = vp_frame_put(f, "cu", VP_I32, 1, &three, cu, err);
    if (!status) status = vp_writer_batch(w, f, err);
    if (!status) status = vp_map_set_int(end, "rows", 2, err);
    if (!status) status = vp_map_set_int(end, "tokens", 4, err);
    if (!status) status = vp_writer_end(w, end, err);
    vp_map_free(end);
    vp_frame_free(f);
    vp_writer_close(w);
    return status;
}

static void test_write(const vp_buf *stream) {
    vp_error err = {0};
    const int fd = fd_of("", 0);
    OK(write_minimal(fd, 0, &err) == VP_OK, "the minimal stream is written: %s", err.text);
    vp_buf b = bytes_of(fd);
    OK(b.len == stream->len && memcmp(b.data, stream->data, b.len) == 0, "byte for byte as annotated");
    vp_buf_free(&b);
    close(fd);
}

static bool is_str(const msgpack_object *o, const char *s) {
    return o->type == MSGPACK_OBJECT_STR && o->via.str.size == strlen(s) && memcmp(o->via.str.ptr, s, strlen(s)) == 0;
}

/* msgpack-c reads what was written, frame by frame, and finds the kinds. */
static void test_oracle(const vp_buf *stream) {
    static const char *const kinds[] = {"header", "batch", "end"};
    msgpack_unpacked outer, inner;
    msgpack_unpacked_init(&outer);
    msgpack_unpacked_init(&inner);
    size_t at = 0, frames = 0;
    while (msgpack_unpack_next(&outer, stream->data, stream->len, &at) == MSGPACK_UNPACK_SUCCESS && frames < 3) {
        const msgpack_object_ext *e = &outer.data.via.ext;
        size_t inside = 8;
        const bool ok = outer.data.type == MSGPACK_OBJECT_EXT && e->type == 1 &&
                        msgpack_unpack_next(&inner, e->ptr, e->size, &inside) == MSGPACK_UNPACK_SUCCESS &&
                        inside == e->size && inner.data.type == MSGPACK_OBJECT_MAP;
        bool found = false;
        for (uint32_t i = 0; ok && i < inner.data.via.map.size; i++)
            found |=
                is_str(&inner.data.via.map.ptr[i].key, "kind") && is_str(&inner.data.via.map.ptr[i].val, kinds[frames]);
        OK(found, "msgpack-c reads frame %zu as a %s", frames, kinds[frames]);
        frames++;
    }
    OK(frames == 3 && at == stream->len, "msgpack-c finds three frames and nothing more");
    msgpack_unpacked_destroy(&inner);
    msgpack_unpacked_destroy(&outer);
}

static int copy_stream(int in, int out, size_t limit, int64_t *batches, vp_error *err) {
    vp_reader *r = NULL;
    vp_writer *w = NULL;
    vp_frame *f = NULL;
    int status = vp_reader_open(&r, in, "input", err);
    if (!status) status = vp_writer_open(&w, out, "output", err);
    if (!status && limit) vp_writer_limit(w, limit);
    while (!status && !(status = vp_reader_next(r, &f, err)) && f) {
        if (f->kind == VP_FRAME_HEADER) status = vp_writer_header(w, f->keys, NULL, err);
        if (f->kind == VP_FRAME_BATCH) status = vp_writer_batch(w, f, err);
        if (f->kind == VP_FRAME_END) status = vp_writer_end(w, f->keys, err);
        *batches += f->kind == VP_FRAME_BATCH;
    }
    vp_reader_close(r);
    vp_writer_close(w);
    return status;
}

static const char strange_header[] = "{\"vecpipe\":1,\"kind\":\"header\",\"model\":{\"x\":[1,{\"y\":null}]},"
                                     "\"encoder\":{},\"columns\":{\"mine\":[\"F16\","
                                     "[\"B\",2]]},\"history\":[\"cat\"],\"theirs\":{\"deep\":[\"hex:00ff\",1.5,true]}}";
static const char strange_batch[] =
    "{\"kind\":\"batch\",\"seq\":0,\"step\":4,\"last\":true,\"task\":\"sts\",\"extra\":{\"a\":[1,2]},\"columns\":{"
    "\"mine\":{\"data\":\"hex:0000003c00bc0040\",\"note\":\"kept\",\"dtype\":\"F16\",\"shape\":[2,2]},"
    "\"grad.mine\":{\"dtype\":\"U8\",\"shape\":[3],\"data\":\"hex:010203\"},"
    "\"tags\":[{\"k\":\"v\"},null],\"id\":[\"a\",17]}}";

static void test_pass_through(void) {
    vp_buf in = {0};
    add_json(&in, strange_header);
    add_json(&in, strange_batch);
    add_json(&in, "{\"kind\":\"end\",\"batches\":1,\"rows\":2,\"remark\":\"fine\"}");
    vp_error err = {0};
    int64_t batches = 0;
    const int from = fd_of(in.data, in.len), to = fd_of("", 0);
    OK(copy_stream(from, to, 0, &batches, &err) == VP_OK, "a stream with unknown keys and columns: %s", err.text);
    vp_buf out = bytes_of(to);
    int frames;
    OK(!read_stream(out.data, out.len, 0, &frames, &err) && frames == 3, "its copy is a stream: %s", err.text);
    /* the writer puts its own keys first; columns and foreign keys are the bytes that came */
    vp_buf columns = {0}, key = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &columns, &err);
    json_t *v = json_loads(strange_batch, 0, NULL), *h = json_loads(strange_header, 0, NULL);
    pack_test_json(&p, json_object_get(v, "columns"));
    vp_msgpack_init(&p, &key, &err);
    pack_test_json(&p, json_object_get(h, "theirs"));
    OK(memmem(out.data, out.len, columns.data, columns.len) != NULL, "columns are the same bytes");
    OK(memmem(out.data, out.len, key.data, key.len) != NULL, "foreign keys are the same bytes");
    OK(out.len == in.len, "nothing was added or lost");
    json_decref(v);
    json_decref(h);
    vp_buf_free(&columns);
    vp_buf_free(&key);
    vp_buf_free(&out);
    vp_buf_free(&in);
    close(from);
    close(to);
}

static const char three_rows[] =
    "{\"kind\":\"batch\",\"seq\":0,\"step\":1,\"last\":true,\"columns\":{"
    "\"ids\":{\"dtype\":\"I32\",\"shape\":[4],\"data\":\"hex:01000000 02000000 03000000 04000000\"},"
    "\"cu\":{\"dtype\":\"I32\",\"shape\":[4],\"data\":\"hex:00000000 01000000 01000000 04000000\"},"
    "\"k\":{\"dtype\":\"BF16\",\"shape\":[2,4,1,1],\"data\":\"hex:0100020003000400 0500060007000800\"},"
    "\"mine\":{\"dtype\":\"U8\",\"shape\":[3,1],\"data\":\"hex:0a0b0c\",\"note\":\"kept\"},"
    "\"id\":[\"a\",null,\"c\"]}}";

/* Splitting loses nothing, keeps order, and `last` stands on the last part only. */
static void test_split(void) {
    vp_buf in = {0};
    add_json(&in, HEADER);
    add_json(&in, three_rows);
    add_json(&in, "{\"kind\":\"end\",\"batches\":1,\"rows\":3}");
    vp_error err = {0};
    int64_t batches = 0;
    int from = fd_of(in.data, in.len), to = fd_of("", 0);
    OK(copy_stream(from, to, 220, &batches, &err) == VP_OK, "a frame above the limit is written in parts: %s",
       err.text);
    vp_reader *r;
    vp_frame *f;
    lseek(to, 0, SEEK_SET);
    vp_reader_open(&r, to, "split", &err);
    vp_reader_next(r, &f, &err);
    int64_t rows = 0, tokens = 0, parts = 0;
    bool last_ok = true, values_ok = true;
    while (!vp_reader_next(r, &f, &err) && f && f->kind == VP_FRAME_BATCH) {
        const vp_column *k = vp_frame_find(f, "k"), *mine = vp_frame_find(f, "mine");
        for (int64_t t = 0; k && t < f->T; t++)
            values_ok &= vp_column_i32(vp_frame_find(f, "ids"), t) == tokens + t + 1 &&
                         k->data[2 * t] == tokens + t + 1 && k->data[2 * (f->T + t)] == tokens + t + 5;
        for (int64_t b = 0; mine && b < f->B; b++) values_ok &= mine->data[b] == 10 + rows + b;
        values_ok &= k && mine && memmem(mine->raw, mine->raw_bytes, "note", 4) != NULL;
        rows += f->B;
        tokens += f->T;
        parts++;
        last_ok &= vp_map_bool(f->keys, "last", false) == (rows == 3);
    }
    OK(!err.code && parts == 3 && rows == 3 && tokens == 4, "%lld parts hold all rows: %s", (long long)parts, err.text);
    OK(values_ok, "tokens, layers, rows and foreign keys of columns are cut where they belong");
    OK(last_ok, "'last' is on the last part only");
    vp_reader_close(r);
    close(from);
    close(to);
    from = fd_of(in.data, in.len);
    to = fd_of("", 0);
    OK(copy_stream(from, to, 100, &batches, &err) == VP_DATA, "a row above the limit is refused: %s", err.text);
    close(from);
    close(to);
    vp_buf_free(&in);
}

static void test_zstd(const vp_buf *stream) {
    char packed[512];
    vp_error err;
    int frames, wrong = 0;
    const size_t n = ZSTD_compress(packed, sizeof packed, stream->data, stream->len, 3);
    OK(!read_stream(packed, n, 0, &frames, &err) && frames == 3, "a zstd stream is decompressed: %s", err.text);
    for (size_t cut = 0; cut < n; cut++) wrong += read_stream(packed, cut, 0, &frames, &err) != VP_UPSTREAM;
    OK(wrong == 0, "a zstd stream that is cut off is an upstream's death (%d are not)", wrong);
    packed[n - 5] ^= 16;
    OK(read_stream(packed, n, 0, &frames, &err) == VP_DATA, "a damaged zstd stream is bad data: %s", err.text);
    /* frame header with a window of 2^31 bytes: no single segment, no content size */
    const uint8_t huge[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00};
    OK(read_stream(huge, sizeof huge, 0, &frames, &err) == VP_DATA, "a window above 128 MiB is refused: %s", err.text);
}

static void test_closed_pipe(void) {
    int pipes[2];
    vp_error err = {0};
    if (pipe(pipes) != 0) abort();
    close(pipes[0]);
    signal(SIGPIPE, SIG_IGN);
    OK(write_minimal(pipes[1], 0, &err) == VP_IO && err.broken_pipe, "a closed pipe is reported: %s", err.text);
    close(pipes[1]);
}

static void test_terminal(void) {
    vp_error err = {0};
    vp_writer *w = NULL;
    const int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) {
        OK(true, "no terminal to refuse # SKIP no pseudo-terminals here");
        return;
    }
    const int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
    OK(vp_writer_open(&w, terminal, "standard output", &err) == VP_USAGE && !w, "a terminal is refused: %s", err.text);
    close(terminal);
    close(master);
}

int main(void) {
    vp_buf stream = load_hex("tests/streams/minimal.hex");
    test_read(&stream);
    test_no_read_ahead(&stream);
    test_write(&stream);
    test_oracle(&stream);
    test_pass_through();
    test_split();
    test_zstd(&stream);
    test_closed_pipe();
    test_terminal();
    vp_buf_free(&stream);
    return done();
}
