/* What the stream's unit tests share: bytes as descriptors, records spelled as JSON, whole streams read at once. */
#ifndef VP_STREAM_SUPPORT_H
#define VP_STREAM_SUPPORT_H
#include "lib/stream/private.h"
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* A descriptor from which exactly these bytes can be read. */
static inline int fd_of(const void *data, size_t n) {
    vp_error err = {0};
    int fd = memfd_create("stream", MFD_CLOEXEC);
    if (fd < 0 || vp_write_all(fd, data, n, "memfd", &err) || lseek(fd, 0, SEEK_SET) != 0) abort();
    return fd;
}

/* Everything that was written to a memfd. */
static inline vp_buf bytes_of(int fd) {
    vp_buf b = {0};
    vp_error err = {0};
    char block[65536];
    lseek(fd, 0, SEEK_SET);
    for (ssize_t n; (n = read(fd, block, sizeof block)) > 0;)
        if (vp_buf_add(&b, block, (size_t)n, &err)) abort();
    return b;
}

/* Text of hex digits with # comments. */
static inline vp_buf bytes_of_hex(const char *text) {
    vp_buf b = {0};
    vp_error err = {0};
    for (const char *s = text; *s;) {
        if (*s == '#') {
            s += strcspn(s, "\n");
        } else if (*s == ' ' || *s == '\n') {
            s++;
        } else {
            const char pair[3] = {s[0], s[1], 0};
            char *end;
            const char byte = (char)strtoul(pair, &end, 16);
            if (end != pair + 2 || vp_buf_add(&b, &byte, 1, &err)) abort();
            s += 2;
        }
    }
    return b;
}

/* JSON to msgpack; a string "hex:00ff" becomes the bin 00 ff. */
static inline void pack_test_json(vp_msgpack *p, json_t *v) {
    const char *key;
    json_t *value;
    size_t i;
    switch (json_typeof(v)) {
    case JSON_NULL:
        msgpack_pack_nil(&p->pk);
        break;
    case JSON_TRUE:
        msgpack_pack_true(&p->pk);
        break;
    case JSON_FALSE:
        msgpack_pack_false(&p->pk);
        break;
    case JSON_INTEGER:
        msgpack_pack_int64(&p->pk, json_integer_value(v));
        break;
    case JSON_REAL:
        msgpack_pack_double(&p->pk, json_real_value(v));
        break;
    case JSON_STRING:
        if (strncmp(json_string_value(v), "hex:", 4) == 0) {
            vp_buf b = bytes_of_hex(json_string_value(v) + 4);
            msgpack_pack_bin_with_body(&p->pk, b.data, b.len);
            vp_buf_free(&b);
        } else
            vp_msgpack_strn(p, json_string_value(v), json_string_length(v));
        break;
    case JSON_ARRAY:
        msgpack_pack_array(&p->pk, json_array_size(v));
        json_array_foreach(v, i, value) pack_test_json(p, value);
        break;
    case JSON_OBJECT:
        msgpack_pack_map(&p->pk, json_object_size(v));
        json_object_foreach(v, key, value) {
            vp_msgpack_str(p, key);
            pack_test_json(p, value);
        }
    }
}

/* Append a frame around these payload bytes, with their checksum. */
static inline void add_frame(vp_buf *out, const void *data, size_t n) {
    vp_error err = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, out, &err);
    const uint64_t sum = vp_hash64(data, n);
    msgpack_pack_ext(&p.pk, n + sizeof sum, 1);
    vp_msgpack_raw(&p, &sum, sizeof sum);
    vp_msgpack_raw(&p, data, n);
    if (err.code) abort();
}

static inline void add_json(vp_buf *out, const char *json) {
    vp_error err = {0};
    vp_buf b = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &b, &err);
    json_t *v = json_loads(json, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    if (!v) {
        fprintf(stderr, "not JSON: %s\n", json);
        abort();
    }
    pack_test_json(&p, v);
    json_decref(v);
    if (err.code) abort();
    add_frame(out, b.data, b.len);
    vp_buf_free(&b);
}

/* Read a whole stream and count its frames (header and end included). */
static inline int read_stream(const void *data, size_t n, int64_t vocab, int *frames, vp_error *err) {
    *err = (vp_error){0};
    *frames = 0;
    vp_reader *r;
    vp_frame *f;
    const int fd = fd_of(data, n);
    int status = vp_reader_open(&r, fd, "input", err);
    if (!status) {
        vp_reader_set_vocab(r, vocab);
        while (!(status = vp_reader_next(r, &f, err)) && f) ++*frames;
        vp_reader_close(r);
    }
    close(fd);
    return status;
}

#define HEADER "{\"vecpipe\":1,\"kind\":\"header\",\"model\":{},\"encoder\":{},\"columns\":{},\"history\":[]}"

#endif
