/* Frames from a descriptor: exactly the bytes of the current frame, the order of records, concatenated streams as one.
 */
#include "lib/stream/private.h"
#include "lib/stream/input.h"
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { FIRST_RESERVE = 1 << 20, EXT_TYPE = 1, VERSION = 1, ZSTD_FIRST = 0x28 };

struct vp_reader {
    vp_input *in;
    char *name;
    vp_frame *header, *frame;
    vp_declared declared;
    int64_t number; /* of the next frame in the input */
    int64_t vocab;  /* 0: unknown */
    int64_t seq;    /* expected next, in this one of concatenated streams */
    int64_t batches;
    bool ended;     /* the last record was an end */
    bool finished;  /* the merged end was handed out */
    bool stepping;  /* inside a training step whose last frame has not come */
    bool stepped;   /* some frame had a step */
    int64_t step;   /* of the last frame that had one */
    vp_map *totals; /* the ends of concatenated streams, added */
};

static vp_frame *new_frame(const vp_reader *r, vp_error *err) {
    vp_frame *f = vp_frame_new(VP_FRAME_HEADER, err);
    if (f) ((vp_frame_store *)f->owner)->name = r->name;
    return f;
}

int vp_reader_open(vp_reader **out, int fd, const char *name, vp_error *err) {
    if (isatty(fd)) return vp_fail(err, VP_USAGE, "%s is a terminal: a vecpipe stream is expected", name);
    vp_reader *r = calloc(1, sizeof *r);
    if (!r) return vp_fail_memory(err, "a reader", sizeof *r);
    int status = vp_input_open(&r->in, fd, name, err);
    r->name = vp_strndup(name, strlen(name));
    if (!status && !r->name) status = vp_fail_memory(err, "a reader", strlen(name));
    if (!status && !(r->header = new_frame(r, err))) status = err->code;
    if (!status && !(r->frame = new_frame(r, err))) status = err->code;
    if (status) {
        vp_reader_close(r);
        return status;
    }
    fcntl(fd, F_SETPIPE_SZ, 1 << 20); /* advice: it may be no pipe, or too many pages are pinned */
    *out = r;
    return VP_OK;
}

void vp_reader_close(vp_reader *r) {
    if (!r) return;
    vp_input_close(r->in);
    vp_declared_free(&r->declared);
    vp_frame_free(r->header);
    vp_frame_free(r->frame);
    vp_map_free(r->totals);
    free(r->name);
    free(r);
}

void vp_reader_watch(vp_reader *r, int output) {
    vp_input_watch(r->in, output);
}
int vp_reader_keep(vp_reader *r, vp_frame **f, vp_error *err) {
    vp_frame *next = new_frame(r, err);
    if (!next) return err->code;
    *f = r->frame;
    r->frame = next;
    return VP_OK;
}
bool vp_reader_ready(vp_reader *r, int timeout_ms) {
    return vp_input_ready(r->in, timeout_ms);
}
void vp_reader_set_vocab(vp_reader *r, int64_t vocab) {
    r->vocab = vocab;
}
const vp_frame *vp_reader_header(const vp_reader *r) {
    return r->number ? r->header : NULL;
}

/* All n bytes of the current frame; its end inside them is an upstream program's death. */
static int read_exactly(vp_reader *r, const vp_frame *f, void *data, size_t n, vp_error *err) {
    size_t got;
    VP_TRY(vp_input_full(r->in, data, n, &got, err));
    return got == n ? VP_OK : vp_frame_fail(f, VP_UPSTREAM, err, "cut off: an upstream program died");
}

/* The length in the head of an ext object, whose first byte is given. */
static int read_length(vp_reader *r, const vp_frame *f, uint8_t first, size_t *length, vp_error *err) {
    uint8_t head[5] = {0};
    size_t width = 0;
    if (first >= 0xc7 && first <= 0xc9)
        width = (size_t)1 << (first - 0xc7);
    else if (first < 0xd4 || first > 0xd8) {
        if (first == ZSTD_FIRST && r->number == 0)
            VP_TRY(read_exactly(r, f, head, 3, err)); /* its magic number, cut off */
        return vp_frame_fail(f, VP_DATA, err, "not a vecpipe frame (first byte 0x%02x)", first);
    }
    VP_TRY(read_exactly(r, f, head, width + 1, err));
    *length = width ? 0 : (size_t)1 << (first - 0xd4);
    for (size_t i = 0; i < width; i++) *length = *length << 8 | head[i];
    if (head[width] != EXT_TYPE)
        return vp_frame_fail(f, VP_DATA, err, "ext type %d is not a vecpipe frame", (int8_t)head[width]);
    if (*length > VP_MAX_PAYLOAD)
        return vp_frame_fail(f, VP_DATA, err, "%zu bytes, above the limit of %zu", *length, VP_MAX_PAYLOAD);
    return VP_OK;
}

/* Memory grows with what arrives, not with what the length promises. */
static int read_payload(vp_reader *r, vp_frame *f, size_t length, vp_error *err) {
    vp_buf *payload = &((vp_frame_store *)f->owner)->payload;
    payload->len = 0;
    while (payload->len < length) {
        size_t room = payload->cap > payload->len ? payload->cap : 2 * payload->len;
        if (room < FIRST_RESERVE) room = FIRST_RESERVE;
        if (room > length) room = length;
        VP_TRY(vp_buf_reserve(payload, room, err));
        VP_TRY(read_exactly(r, f, payload->data + payload->len, room - payload->len, err));
        payload->len = room;
    }
    return VP_OK;
}

/* The next frame into f; *got = false at the end of input between frames. */
static int read_frame(vp_reader *r, vp_frame *f, bool *got, vp_error *err) {
    uint8_t first;
    size_t n, length = 0;
    vp_frame_reset(f);
    f->number = r->number;
    f->offset = vp_input_offset(r->in);
    VP_TRY(vp_input_full(r->in, &first, 1, &n, err));
    *got = n == 1;
    if (!*got) return VP_OK;
    VP_TRY(read_length(r, f, first, &length, err));
    VP_TRY(read_payload(r, f, length, err));
    r->number++;
    return vp_frame_parse(f, err);
}

static bool is_kind(const vp_map *m, const char *key, vp_kind kind) {
    vp_cursor c;
    vp_token t;
    size_t n;
    if (!vp_map_raw(m, key, &c.p, &n)) return true;
    c.end = c.p + n;
    return vp_cursor_token(&c, &t) && t.kind == kind;
}

static int check_header(const vp_frame *f, vp_error *err) {
    const int64_t version = vp_map_int(f->keys, "vecpipe", -1);
    if (version < 0) return vp_frame_fail(f, VP_DATA, err, "a header without a version ('vecpipe')");
    if (version != VERSION)
        return vp_frame_fail(f, VP_DATA, err, "version vecpipe/%lld: this program reads vecpipe/%d", (long long)version,
                             VERSION);
    if (!is_kind(f->keys, "model", VP_KIND_MAP) || !is_kind(f->keys, "encoder", VP_KIND_MAP) ||
        !is_kind(f->keys, "columns", VP_KIND_MAP))
        return vp_frame_fail(f, VP_DATA, err, "'model', 'encoder' or 'columns' is not a map");
    if (!is_kind(f->keys, "history", VP_KIND_ARRAY)) return vp_frame_fail(f, VP_DATA, err, "'history' is not a list");
    return VP_OK;
}

/* A nested map as canonical JSON; an absent one is an empty one. */
static int canonical(const vp_map *keys, const char *name, vp_buf *out, vp_error *err) {
    const uint8_t *raw;
    size_t n;
    if (!vp_map_raw(keys, name, &raw, &n)) return vp_buf_add(out, "{}", 2, err);
    return vp_msgpack_json(&(vp_cursor){raw, raw + n}, out, err);
}

/* The header of a stream that was concatenated. */
static int check_same(const vp_reader *r, const vp_frame *f, vp_error *err) {
    static const char *const same[] = {"model", "encoder", "columns"};
    int status = check_header(f, err);
    for (size_t i = 0; i < 3 && !status; i++) {
        vp_buf a = {0}, b = {0};
        status = canonical(r->header->keys, same[i], &a, err);
        if (!status) status = canonical(f->keys, same[i], &b, err);
        if (!status && (a.len != b.len || memcmp(a.data, b.data, a.len) != 0))
            status = vp_frame_fail(f, VP_DATA, err, "a concatenated stream with another '%s'", same[i]);
        vp_buf_free(&a);
        vp_buf_free(&b);
    }
    return status;
}

/* A step is a run of frames of equal `step`; its last frame, and only it, has `last`. */
static int check_step(vp_reader *r, const vp_frame *f, vp_error *err) {
    const int64_t step = vp_map_int(f->keys, "step", -1);
    const bool last = vp_map_bool(f->keys, "last", false);
    if (!vp_map_has(f->keys, "step")) {
        if (r->stepping || last)
            return vp_frame_fail(f, VP_DATA, err, "no 'step', although %s",
                                 last ? "it has 'last'" : "step is not over");
        return VP_OK;
    }
    if (step < 0) return vp_frame_fail(f, VP_DATA, err, "'step' is not a number from 0");
    if (r->stepping && step != r->step)
        return vp_frame_fail(f, VP_DATA, err, "step %lld began before the last frame of step %lld", (long long)step,
                             (long long)r->step);
    if (!r->stepping && r->stepped && step == r->step)
        return vp_frame_fail(f, VP_DATA, err, "a frame of step %lld after its last one", (long long)step);
    r->stepping = !last;
    r->stepped = true;
    r->step = step;
    return VP_OK;
}

static int take_batch(vp_reader *r, vp_frame *f, vp_error *err) {
    if (r->ended) return vp_frame_fail(f, VP_DATA, err, "a batch after the end record");
    if (f->seq != r->seq)
        return vp_frame_fail(f, VP_DATA, err, "'seq' is %lld, not %lld: a frame is missing, twice or out of order",
                             (long long)f->seq, (long long)r->seq);
    r->seq++;
    r->batches++;
    VP_TRY(check_step(r, f, err));
    return vp_frame_check(f, &r->declared, r->vocab, err);
}

/* Counts of concatenated streams are added; whatever else an end holds is the last one's. */
static int merge_totals(vp_reader *r, const vp_frame *end, vp_error *err) {
    if (!r->totals && !(r->totals = vp_map_new())) return vp_fail_memory(err, "totals", sizeof(void *));
    for (size_t i = 0; i < vp_map_len(end->keys); i++) {
        const char *key = vp_map_key(end->keys, i);
        const uint8_t *raw;
        size_t n;
        int64_t sum;
        if (vp_map_has(r->totals, key) && is_kind(end->keys, key, VP_KIND_INT) &&
            !__builtin_add_overflow(vp_map_int(r->totals, key, 0), vp_map_int(end->keys, key, 0), &sum)) {
            VP_TRY(vp_map_set_int(r->totals, key, sum, err));
            continue;
        }
        vp_map_raw(end->keys, key, &raw, &n);
        VP_TRY(vp_map_set_raw(r->totals, key, raw, n, err));
    }
    return VP_OK;
}

static int take_end(vp_reader *r, const vp_frame *f, vp_error *err) {
    if (r->ended) return vp_frame_fail(f, VP_DATA, err, "a second end record");
    if (r->stepping) return vp_frame_fail(f, VP_DATA, err, "the stream ends inside step %lld", (long long)r->step);
    if (vp_map_int(f->keys, "batches", r->seq) != r->seq)
        return vp_frame_fail(f, VP_DATA, err, "the end record counts %lld batches, but %lld came",
                             (long long)vp_map_int(f->keys, "batches", 0), (long long)r->seq);
    r->ended = true;
    return merge_totals(r, f, err);
}

/* End of input between frames: the merged end once, then nothing. */
static int take_eof(vp_reader *r, vp_frame *f, vp_frame **out, vp_error *err) {
    if (!r->ended)
        return vp_frame_fail(f, VP_UPSTREAM, err, "%s: an upstream program died",
                             r->number ? "missing, and no end record came before it" : "missing, the input is empty");
    *out = NULL;
    if (r->finished) return VP_OK;
    r->finished = true;
    f->kind = VP_FRAME_END;
    f->keys = r->totals;
    r->totals = NULL;
    *out = f;
    return VP_OK;
}

static int take_header(vp_reader *r, const vp_frame *f, vp_error *err) {
    if (!r->ended)
        return vp_frame_fail(f, VP_UPSTREAM, err, "a header before the end of the stream: an upstream program died");
    VP_TRY(check_same(r, f, err));
    r->ended = r->stepped = false;
    r->seq = 0;
    return VP_OK;
}

int vp_reader_next(vp_reader *r, vp_frame **out, vp_error *err) {
    const bool first = r->number == 0;
    vp_frame *f = first ? r->header : r->frame;
    *out = NULL;
    while (!r->finished) {
        bool got;
        VP_TRY(read_frame(r, f, &got, err));
        if (!got) return take_eof(r, f, out, err);
        if (first) {
            if (f->kind != VP_FRAME_HEADER) return vp_frame_fail(f, VP_DATA, err, "the first record is not a header");
            VP_TRY(check_header(f, err));
            VP_TRY(vp_declared_read(&r->declared, f, err));
        } else if (f->kind == VP_FRAME_BATCH) {
            VP_TRY(take_batch(r, f, err));
        } else {
            VP_TRY(f->kind == VP_FRAME_END ? take_end(r, f, err) : take_header(r, f, err));
            continue;
        }
        *out = f;
        return VP_OK;
    }
    return VP_OK;
}
