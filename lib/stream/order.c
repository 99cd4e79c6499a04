/* Pieces that belong to rows, held until their turn: memory is bounded by the window in which rows were reordered. */
#include "lib/stream/order.h"
#include "lib/stream/private.h"
#include <stdlib.h>
#include <string.h>

struct vp_row_piece {
    int64_t row;
    char *data;
    size_t n;
};

bool vp_row_order_full(const vp_row_order *o) {
    return o->limit && o->out >= o->limit;
}

static int let_out(vp_row_order *o, const char *data, size_t n, vp_buf *out, vp_error *err) {
    if (vp_row_order_full(o)) return VP_OK;
    o->out++;
    return vp_buf_add(out, data, n, err);
}

static int release(vp_row_order *o, size_t count, vp_buf *out, vp_error *err) {
    int status = VP_OK;
    for (size_t i = 0; i < count; i++) {
        if (!status) status = let_out(o, o->piece[i].data, o->piece[i].n, out, err);
        o->next = o->piece[i].row + 1;
        free(o->piece[i].data);
    }
    o->n -= count;
    if (count && o->n) memmove(o->piece, o->piece + count, o->n * sizeof *o->piece);
    return status;
}

int vp_row_order_put(vp_row_order *o, int64_t row, const char *data, size_t n, vp_buf *out, vp_error *err) {
    if (row == INT64_MAX) row--; /* there is always a next one */
    if (row <= o->next) {
        VP_TRY(let_out(o, data, n, out, err));
        if (row == o->next) o->next++;
        size_t ready = 0;
        while (ready < o->n && o->piece[ready].row - (int64_t)ready <= o->next) ready++;
        return release(o, ready, out, err);
    }
    VP_TRY(vp_grow(&o->piece, &o->cap, o->n, sizeof *o->piece, "rows that wait", err));
    char *copy = vp_strndup(n ? data : "", n);
    if (!copy) return vp_fail_memory(err, "a row that waits", n);
    size_t at = o->n++;
    for (; at && o->piece[at - 1].row > row; at--) o->piece[at] = o->piece[at - 1];
    o->piece[at] = (struct vp_row_piece){row, copy, n};
    return VP_OK;
}

int vp_row_order_frame(vp_row_order *o, const vp_frame *f, int64_t *first, vp_buf *out, vp_error *err) {
    if (f->seq == 0 || o->ended) {
        VP_TRY(release(o, o->n, out, err));
        o->next = o->seen = 0;
    }
    o->ended = vp_map_bool(f->keys, "last", false);
    *first = o->seen;
    o->seen += f->B;
    return VP_OK;
}

int64_t vp_row_ordinal(const vp_frame *f, int64_t b, int64_t first) {
    const vp_column *row = vp_frame_find(f, "row");
    if (!row || row->is_values || row->dtype != VP_I64 || row->ndim != 1) return first + b;
    return vp_column_i64(row, b);
}

int vp_row_order_finish(vp_row_order *o, vp_buf *out, vp_error *err) {
    const int status = release(o, o->n, out, err);
    free(o->piece);
    *o = (vp_row_order){.limit = o->limit, .out = o->out};
    return status;
}
