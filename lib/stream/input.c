/* Bytes from a descriptor: plain, or zstd (RFC 8878) detected by its magic number and decompressed as it comes, with a
 * bounded buffer and a capped window. */
#include "lib/stream/input.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

enum { MAGIC = 4, WINDOW_LOG = 27, COMPRESSED = 128 << 10 };
static const uint8_t magic[MAGIC] = {0x28, 0xb5, 0x2f, 0xfd};

struct vp_input {
    int fd, output; /* output: whose reader is watched, -1: none */
    char *name;
    int64_t offset;
    bool sniffed;      /* the first bytes were looked at */
    ZSTD_DCtx *zstd;   /* NULL: plain */
    bool open, filled; /* zstd: inside one of its frames; its last output filled the buffer, so there may be more */
    bool ended;        /* the descriptor is at its end */
    uint8_t *held;     /* bytes that were read and not handed out or decompressed: [at, len) */
    size_t at, len;
    uint8_t first; /* zstd: the next byte of the text, if vp_input_ready found one */
    bool has_first;
    vp_error failed; /* zstd: the data are damaged or cut off; whoever reads on meets it again */
};

int vp_input_open(vp_input **out, int fd, const char *name, vp_error *err) {
    vp_input *in = calloc(1, sizeof *in);
    if (!in) return vp_fail_memory(err, "an input", sizeof *in);
    in->fd = fd;
    in->output = -1;
    in->name = vp_strndup(name, strlen(name));
    in->held = malloc(COMPRESSED);
    if (!in->name || !in->held) {
        vp_input_close(in);
        return vp_fail_memory(err, "an input", COMPRESSED);
    }
    *out = in;
    return VP_OK;
}

void vp_input_close(vp_input *in) {
    if (!in) return;
    ZSTD_freeDCtx(in->zstd);
    free(in->name);
    free(in->held);
    free(in);
}

void vp_input_watch(vp_input *in, int output) {
    in->output = vp_watched(output);
}

int64_t vp_input_offset(const vp_input *in) {
    return in->offset;
}

/* One read(2) of what is there; a descriptor that someone made non-blocking is waited for. */
static int read_some(const vp_input *in, void *data, size_t n, size_t *got, vp_error *err) {
    bool ready, wait = in->output >= 0;
    for (;;) {
        if (wait) VP_TRY(vp_wait_input(in->fd, in->output, -1, &ready, err));
        const ssize_t r = read(in->fd, data, n);
        if (r >= 0) {
            *got = (size_t)r;
            return VP_OK;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            wait = true;
        else if (errno != EINTR)
            return vp_fail_errno(err, "cannot read %s", in->name);
    }
}

static bool may_be_zstd(const vp_input *in) {
    return in->len < MAGIC && memcmp(in->held, magic, in->len) == 0;
}

/* The next of the first bytes, one at a time; the last one decides. */
static int sniff(vp_input *in, vp_error *err) {
    size_t got;
    VP_TRY(read_some(in, in->held + in->len, 1, &got, err));
    in->len += got;
    in->ended = !got;
    if (got && may_be_zstd(in)) return VP_OK;
    in->sniffed = true;
    if (in->len != MAGIC || memcmp(in->held, magic, MAGIC) != 0) return VP_OK;
    in->zstd = ZSTD_createDCtx();
    if (!in->zstd) return vp_fail_memory(&in->failed, "zstd", (size_t)1 << WINDOW_LOG);
    const size_t status = ZSTD_DCtx_setParameter(in->zstd, ZSTD_d_windowLogMax, WINDOW_LOG);
    if (ZSTD_isError(status)) return vp_fail(&in->failed, VP_BUG, "zstd: %s", ZSTD_getErrorName(status));
    return VP_OK;
}

/* ---- zstd ---- */
static bool holds_more(const vp_input *in) {
    return in->at < in->len || in->filled;
}

/* Decompress what is held into data; *got may be 0 when more input is needed. */
static int decompress(vp_input *in, void *data, size_t n, size_t *got) {
    ZSTD_outBuffer out = {.dst = data, .size = n};
    ZSTD_inBuffer held = {.src = in->held, .size = in->len, .pos = in->at};
    const size_t hint = ZSTD_decompressStream(in->zstd, &out, &held);
    if (ZSTD_isError(hint))
        return vp_fail(&in->failed, VP_DATA, "%s: zstd data after byte %lld of what it holds: %s", in->name,
                       (long long)in->offset, ZSTD_getErrorName(hint));
    in->at = held.pos;
    in->open = hint != 0;
    in->filled = in->open && out.pos == out.size;
    *got = out.pos;
    return VP_OK;
}

/* The next compressed bytes, when none are held. */
static int refill(vp_input *in, vp_error *err) {
    in->at = in->len = 0;
    VP_TRY(read_some(in, in->held, COMPRESSED, &in->len, err));
    in->ended = !in->len;
    if (in->ended && in->open)
        return vp_fail(&in->failed, VP_UPSTREAM, "%s: zstd data cut off after byte %lld of what it holds", in->name,
                       (long long)in->offset);
    return VP_OK;
}

static int read_zstd(vp_input *in, void *data, size_t n, size_t *got, vp_error *err) {
    int status = in->failed.code;
    if (in->has_first) {
        memcpy(data, &in->first, 1);
        in->has_first = false;
        *got = 1;
        return VP_OK;
    }
    while (!status && !*got && !(in->ended && !holds_more(in)))
        status = holds_more(in) ? decompress(in, data, n, got) : refill(in, err);
    if (in->failed.code) *err = in->failed;
    return status;
}

/* ---- reading ---- */
int vp_input_read(vp_input *in, void *data, size_t n, size_t *got, vp_error *err) {
    *got = 0;
    if (!n) return VP_OK;
    while (!in->sniffed) {
        const int status = sniff(in, err);
        if (status && !in->failed.code) return status;
    }
    if (in->zstd || in->failed.code)
        VP_TRY(read_zstd(in, data, n, got, err));
    else if (in->at < in->len) {
        *got = n < in->len - in->at ? n : in->len - in->at;
        memcpy(data, in->held + in->at, *got);
        in->at += *got;
    } else
        VP_TRY(read_some(in, data, n, got, err));
    in->offset += (int64_t)*got;
    return VP_OK;
}

bool vp_input_ready(vp_input *in, int timeout_ms) {
    vp_error met_again = {0}; /* by whoever reads on */
    for (;;) {
        size_t got = 0;
        int status = VP_OK;
        if (in->has_first || in->failed.code || in->ended) return true;
        if (in->zstd && holds_more(in)) {
            status = decompress(in, &in->first, 1, &got);
            in->has_first = got;
        } else if (in->sniffed && holds_more(in))
            return true;
        else {
            struct pollfd p = {.fd = in->fd, .events = POLLIN};
            if (poll(&p, 1, timeout_ms) == 0) return false;
            if (in->sniffed && !in->zstd) return true;
            status = in->sniffed ? refill(in, &met_again) : sniff(in, &met_again);
        }
        if (status) return true;
    }
}

int vp_input_full(vp_input *in, void *data, size_t n, size_t *got, vp_error *err) {
    size_t more = 1;
    for (*got = 0; *got < n && more; *got += more) VP_TRY(vp_input_read(in, (char *)data + *got, n - *got, &more, err));
    return VP_OK;
}
