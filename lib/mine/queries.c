/* The rows of a stream of queries, in `row` order and without its frames. */
#include "lib/mine/private.h"
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

/* A row in `ready`: this, then id, text, meta, emb. */
typedef struct packed {
    size_t len[3]; /* SIZE_MAX: none */
    size_t emb;
} packed;

int vp_mine_queries_open(vp_mine_queries *q, const vp_mine_teacher *t, bool has_emb, int output, vp_error *err) {
    vp_frame *header;
    q->has_emb = has_emb;
    q->fd = t->fd;
    VP_TRY(vp_reader_open(&q->reader, t->fd, t->name, err));
    vp_reader_watch(q->reader, output);
    return vp_reader_next(q->reader, &header, err);
}

void vp_mine_queries_close(vp_mine_queries *q) {
    vp_error ignored = {0};
    vp_reader_close(q->reader);
    vp_row_order_finish(&q->order, &q->ready, &ignored);
    vp_buf_free(&q->piece);
    vp_buf_free(&q->ready);
    *q = (vp_mine_queries){0};
}

static int check_emb(vp_mine_queries *q, const vp_frame *f, const vp_column **emb, vp_error *err) {
    const vp_column *c = *emb = vp_frame_find(f, "emb");
    if (!c || c->is_values || c->ndim != 2) return vp_frame_fail(f, VP_DATA, err, "no column emb: put `pool` before");
    if (q->dims && (c->shape[1] != q->dims || c->dtype != q->dtype))
        return vp_frame_fail(f, VP_DATA, err, "emb has %lld %s, before %lld %s", (long long)c->shape[1],
                             vp_dtype_name(c->dtype), (long long)q->dims, vp_dtype_name(q->dtype));
    q->dims = c->shape[1];
    q->dtype = c->dtype;
    return VP_OK;
}

static int pack_row(vp_mine_queries *q, const vp_frame *f, int64_t b, const vp_column *emb, vp_error *err) {
    static const char *const names[] = {"id", "text", "meta"};
    packed p = {.emb = emb && f->B ? emb->bytes / (size_t)f->B : 0};
    q->piece.len = 0;
    VP_TRY(vp_buf_add(&q->piece, &p, sizeof p, err));
    for (int i = 0; i < 3; i++) {
        const vp_column *c = vp_frame_find(f, names[i]);
        const char *s = NULL;
        char scratch[32];
        if (c && c->is_values) VP_TRY(vp_column_str(f, c, b, &s, &p.len[i], scratch, err));
        if (s && vp_utf8_valid(s, p.len[i]) != p.len[i])
            return vp_frame_fail(f, VP_DATA, err, "row %lld: %s is not UTF-8", (long long)b, names[i]);
        if (s)
            VP_TRY(vp_buf_add(&q->piece, s, p.len[i], err));
        else
            p.len[i] = SIZE_MAX;
    }
    if (p.emb) VP_TRY(vp_buf_add(&q->piece, emb->data + (size_t)b * p.emb, p.emb, err));
    memcpy(q->piece.data, &p, sizeof p);
    return VP_OK;
}

/* How many whole rows lie in `ready` from byte `at` on. */
static size_t count_ready(const vp_mine_queries *q, size_t at) {
    size_t rows = 0;
    for (packed p; at < q->ready.len; rows++) {
        memcpy(&p, q->ready.data + at, sizeof p);
        at += sizeof p + p.emb;
        for (int i = 0; i < 3; i++) at += p.len[i] == SIZE_MAX ? 0 : p.len[i];
    }
    return rows;
}

static int take_frame(vp_mine_queries *q, const vp_frame *f, vp_error *err) {
    const vp_column *emb = NULL;
    int64_t first;
    if (q->has_emb) VP_TRY(check_emb(q, f, &emb, err));
    const size_t before = q->ready.len;
    int status = vp_row_order_frame(&q->order, f, &first, &q->ready, err);
    for (int64_t b = 0; b < f->B && !status; b++) {
        status = pack_row(q, f, b, emb, err);
        if (!status)
            status =
                vp_row_order_put(&q->order, vp_row_ordinal(f, b, first), q->piece.data, q->piece.len, &q->ready, err);
    }
    q->rows += count_ready(q, before);
    return status;
}

static bool pauses(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 0;
}

/* What waits for rows that will not come. */
static int release(vp_mine_queries *q, vp_error *err) {
    vp_error late = {0};
    const size_t before = q->ready.len;
    const int status = vp_row_order_finish(&q->order, &q->ready, &late);
    q->rows += count_ready(q, before);
    q->ended = true;
    return status ? vp_fail(err, status, "%s", late.text) : VP_OK;
}

int vp_mine_queries_fill(vp_mine_queries *q, size_t want, vp_error *err) {
    if (q->at) {
        memmove(q->ready.data, q->ready.data + q->at, q->ready.len - q->at);
        q->ready.len -= q->at;
        q->at = 0;
    }
    while (!q->ended && q->rows < want && !(q->rows && pauses(q->fd))) {
        vp_frame *f;
        int status = vp_reader_next(q->reader, &f, err);
        if (!status && f && f->kind == VP_FRAME_BATCH) status = take_frame(q, f, err);
        if (!status && f) continue;
        const int released = release(q, err);
        return status ? status : released;
    }
    return VP_OK;
}

void vp_mine_queries_take(vp_mine_queries *q, vp_mine_query *row) {
    vp_mine_name *name[] = {&row->id, &row->text, &row->meta};
    packed p;
    const char *at = q->ready.data + q->at;
    memcpy(&p, at, sizeof p);
    at += sizeof p;
    for (int i = 0; i < 3; i++) {
        const bool none = p.len[i] == SIZE_MAX;
        *name[i] = (vp_mine_name){none ? NULL : at, none ? 0 : p.len[i]};
        at += name[i]->n;
    }
    row->emb = p.emb ? (const uint8_t *)at : NULL;
    q->at = (size_t)(at + p.emb - q->ready.data);
    q->rows--;
}
