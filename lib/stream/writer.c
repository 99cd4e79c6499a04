/* Frames to a descriptor: small parts are packed, tensors stay where they are; checksum and writev go over both. Frames
 * above the payload limit are split by rows. */
#include "lib/stream/private.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

enum { MAX_PIECES = 2 * VP_MAX_COLUMNS + 2, CHECKSUM = 8 };

typedef struct piece {
    const uint8_t *data; /* NULL: `packed` from byte `at` */
    size_t at, n;
} piece;

struct vp_writer {
    int fd;
    char *name;
    size_t limit; /* of a payload */
    int64_t batches;
    bool begun, ended;
    vp_buf packed;
    size_t cut; /* bytes of `packed` that are in pieces already */
    piece piece[MAX_PIECES];
    int npieces;
    XXH3_state_t *hash;
};

int vp_writer_open(vp_writer **out, int fd, const char *name, vp_error *err) {
    if (isatty(fd))
        return vp_fail(err, VP_USAGE, "%s is a terminal: a stream is binary, send it to a file, a program or `peek`",
                       name);
    vp_writer *w = calloc(1, sizeof *w);
    if (!w) return vp_fail_memory(err, "a writer", sizeof *w);
    w->fd = fd;
    w->limit = VP_MAX_PAYLOAD;
    w->name = vp_strndup(name, strlen(name));
    w->hash = XXH3_createState();
    if (!w->name || !w->hash) {
        vp_writer_close(w);
        return vp_fail_memory(err, "a writer", sizeof *w);
    }
    fcntl(fd, F_SETPIPE_SZ, 1 << 20); /* advice */
    *out = w;
    return VP_OK;
}

void vp_writer_close(vp_writer *w) {
    if (!w) return;
    if (w->hash) XXH3_freeState(w->hash);
    vp_buf_free(&w->packed);
    free(w->name);
    free(w);
}

void vp_writer_limit(vp_writer *w, size_t payload) {
    w->limit = payload;
}

/* What was packed since the last piece becomes one. */
static void close_piece(vp_writer *w) {
    if (w->packed.len > w->cut) w->piece[w->npieces++] = (piece){.at = w->cut, .n = w->packed.len - w->cut};
    w->cut = w->packed.len;
}

static void add_piece(vp_writer *w, const void *data, size_t n) {
    close_piece(w);
    if (n) w->piece[w->npieces++] = (piece){.data = data, .n = n};
}

static const uint8_t *piece_data(const vp_writer *w, const piece *p) {
    return p->data ? p->data : (const uint8_t *)w->packed.data + p->at;
}

void vp_msgpack_tensor(vp_msgpack *p, const vp_column *c) {
    vp_msgpack_str(p, "dtype");
    vp_msgpack_str(p, vp_dtype_name(c->dtype));
    vp_msgpack_str(p, "shape");
    msgpack_pack_array(&p->pk, (size_t)c->ndim);
    for (int i = 0; i < c->ndim; i++) msgpack_pack_int64(&p->pk, c->shape[i]);
    vp_msgpack_str(p, "data");
    msgpack_pack_bin(&p->pk, c->bytes);
}

static void pack_column(vp_writer *w, vp_msgpack *p, const vp_column *c) {
    vp_msgpack_str(p, c->name);
    if (c->raw) {
        add_piece(w, c->raw, c->raw_bytes);
        return;
    }
    if (c->is_values) {
        msgpack_pack_array(&p->pk, (size_t)c->shape[0]);
    } else {
        msgpack_pack_map(&p->pk, 3);
        vp_msgpack_tensor(p, c);
    }
    add_piece(w, c->data, c->bytes);
}

/* Keys that the writer sets itself. */
static bool is_ours(const char *key, vp_frame_kind kind) {
    return strcmp(key, "kind") == 0 || (kind == VP_FRAME_HEADER && strcmp(key, "vecpipe") == 0) ||
           (kind == VP_FRAME_BATCH && (strcmp(key, "seq") == 0 || strcmp(key, "columns") == 0)) ||
           (kind == VP_FRAME_END && strcmp(key, "batches") == 0);
}

static void pack_keys(vp_msgpack *p, const vp_map *keys, vp_frame_kind kind) {
    for (size_t i = 0; i < vp_map_len(keys); i++) {
        const char *key = vp_map_key(keys, i);
        const uint8_t *raw;
        size_t n;
        if (is_ours(key, kind)) continue;
        vp_map_raw(keys, key, &raw, &n);
        vp_msgpack_str(p, key);
        vp_msgpack_raw(p, raw, n);
    }
}

/* The record's map into pieces; *total its bytes. keys may be NULL. */
static int pack_record(vp_writer *w, vp_frame_kind kind, const vp_map *keys, const vp_frame *f, size_t *total,
                       vp_error *err) {
    static const char *const names[] = {
        [VP_FRAME_HEADER] = "header", [VP_FRAME_BATCH] = "batch", [VP_FRAME_END] = "end"};
    vp_msgpack p;
    vp_msgpack_init(&p, &w->packed, err);
    w->packed.len = w->cut = 0;
    w->npieces = 0;
    size_t others = 0;
    for (size_t i = 0; keys && i < vp_map_len(keys); i++) others += !is_ours(vp_map_key(keys, i), kind);
    msgpack_pack_map(&p.pk, others + (kind == VP_FRAME_BATCH ? 3 : 2));
    if (kind == VP_FRAME_HEADER) {
        vp_msgpack_str(&p, "vecpipe");
        msgpack_pack_int(&p.pk, 1);
    }
    vp_msgpack_str(&p, "kind");
    vp_msgpack_str(&p, names[kind]);
    if (kind != VP_FRAME_HEADER) {
        vp_msgpack_str(&p, kind == VP_FRAME_BATCH ? "seq" : "batches");
        msgpack_pack_int64(&p.pk, w->batches);
    }
    if (keys) pack_keys(&p, keys, kind);
    if (kind == VP_FRAME_BATCH) {
        vp_msgpack_str(&p, "columns");
        msgpack_pack_map(&p.pk, (size_t)f->ncolumns);
        for (int i = 0; i < f->ncolumns; i++) pack_column(w, &p, &f->column[i]);
    }
    close_piece(w);
    *total = 0;
    for (int i = 0; i < w->npieces; i++) *total += w->piece[i].n;
    return err->code;
}

static int write_vectors(const vp_writer *w, struct iovec *v, int n, vp_error *err) {
    while (n) {
        ssize_t done = writev(w->fd, v, n);
        if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            poll(&(struct pollfd){.fd = w->fd, .events = POLLOUT}, 1, -1);
        else if (done < 0 && errno != EINTR)
            return vp_fail_errno(err, "cannot write %s", w->name);
        while (n && done >= 0 && (size_t)done >= v->iov_len) {
            done -= (ssize_t)v->iov_len;
            v++;
            n--;
        }
        if (n && done > 0) {
            v->iov_base = (char *)v->iov_base + done;
            v->iov_len -= (size_t)done;
        }
    }
    return VP_OK;
}

/* ext head, checksum, pieces. */
static int write_record(vp_writer *w, size_t total, vp_error *err) {
    vp_buf head = {0};
    vp_msgpack p;
    vp_msgpack_init(&p, &head, err);
    msgpack_pack_ext(&p.pk, CHECKSUM + total, 1);
    XXH3_64bits_reset(w->hash);
    struct iovec v[MAX_PIECES + 1];
    for (int i = 0; i < w->npieces; i++) {
        const uint8_t *data = piece_data(w, &w->piece[i]);
        XXH3_64bits_update(w->hash, data, w->piece[i].n);
        v[i + 1] = (struct iovec){(void *)(uintptr_t)data, w->piece[i].n};
    }
    const uint64_t sum = XXH3_64bits_digest(w->hash);
    vp_msgpack_raw(&p, &sum, sizeof sum);
    v[0] = (struct iovec){head.data, head.len};
    const int status = err->code ? err->code : write_vectors(w, v, w->npieces + 1, err);
    vp_buf_free(&head);
    return status;
}

static int write_control(vp_writer *w, vp_frame_kind kind, const vp_map *keys, vp_error *err) {
    size_t total;
    VP_TRY(pack_record(w, kind, keys, NULL, &total, err));
    if (CHECKSUM + total > w->limit) return vp_fail(err, VP_DATA, "%s: a control record of %zu bytes", w->name, total);
    return write_record(w, total, err);
}

/* model, encoder, columns and history are always there, if empty. */
static int complete_header(vp_map *m, const char *command, vp_error *err) {
    static const char *const maps[] = {"model", "encoder", "columns"};
    static const uint8_t empty_map = 0x80, empty_array = 0x90;
    for (size_t i = 0; i < 3; i++)
        if (!vp_map_has(m, maps[i])) VP_TRY(vp_map_set_raw(m, maps[i], &empty_map, 1, err));
    if (!vp_map_has(m, "history")) VP_TRY(vp_map_set_raw(m, "history", &empty_array, 1, err));
    if (!command) return VP_OK;
    vp_buf entry = {0};
    int status = vp_buf_printf(&entry, err, "%s # vecpipe %s", command, VP_VERSION);
    if (!status) status = vp_map_append_str(m, "history", entry.data, err);
    vp_buf_free(&entry);
    return status;
}

int vp_writer_header(vp_writer *w, const vp_map *keys, const char *command, vp_error *err) {
    if (w->begun) return vp_fail(err, VP_BUG, "%s: a second header", w->name);
    vp_map *m = keys ? vp_map_copy(keys) : vp_map_new();
    if (!m) return vp_fail_memory(err, "a header", sizeof(void *));
    int status = complete_header(m, command, err);
    if (!status) status = write_control(w, VP_FRAME_HEADER, m, err);
    vp_map_free(m);
    w->begun = true;
    return status;
}

static int write_rows(vp_writer *w, const vp_frame *f, int64_t b0, int64_t b1, vp_error *err) {
    vp_frame *part;
    VP_TRY(vp_frame_slice(f, b0, b1, &part, err));
    const int status = vp_writer_batch(w, part, err);
    vp_frame_free(part);
    return status;
}

int vp_writer_batch(vp_writer *w, const vp_frame *f, vp_error *err) {
    size_t total;
    if (!w->begun || w->ended) return vp_fail(err, VP_BUG, "%s: a batch outside the stream", w->name);
    VP_TRY(pack_record(w, VP_FRAME_BATCH, f->keys, f, &total, err));
    if (CHECKSUM + total <= w->limit) {
        w->batches++;
        return write_record(w, total, err);
    }
    if (f->B < 2) return vp_frame_fail(f, VP_DATA, err, "one row of %zu bytes: a frame holds %zu", total, w->limit);
    VP_TRY(write_rows(w, f, 0, f->B / 2, err));
    return write_rows(w, f, f->B / 2, f->B, err);
}

int vp_writer_end(vp_writer *w, const vp_map *keys, vp_error *err) {
    if (!w->begun || w->ended) return vp_fail(err, VP_BUG, "%s: an end outside the stream", w->name);
    w->ended = true;
    return write_control(w, VP_FRAME_END, keys, err);
}
