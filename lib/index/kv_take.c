/* Keys and values of a stream, on their way into an index: frames are checked against it and become records. */
#include "lib/index/kv_store.h"
#include <string.h>

void vp_kv_taken_free(vp_kv_taken *t) {
    vp_buf_free(&t->data);
    vp_buf_free(&t->scratch);
}

static const vp_column *find(const vp_frame *f, const char *name, vp_error *err) {
    const vp_column *c;
    const int64_t want[] = {-1, f->T, -1, -1};
    return vp_frame_need(f, name, VP_BF16, 4, want, &c, err) ? NULL : c;
}

/* What the frame has: sizes; layers 0: no keys and values. */
static int read_format(const vp_frame *f, vp_kv_format *out, vp_error *err) {
    *out = (vp_kv_format){0};
    const bool has_k = vp_frame_find(f, "k"), has_v = vp_frame_find(f, "v");
    if (!has_k && !has_v) return VP_OK;
    if (!has_k || !has_v)
        return vp_frame_fail(f, VP_DATA, err, "column %s without %s", has_k ? "k" : "v", has_k ? "v" : "k");
    const vp_column *k = find(f, "k", err), *v = find(f, "v", err), *cu;
    const int64_t offsets[] = {f->B + 1};
    if (!k || !v) return VP_DATA;
    VP_TRY(vp_frame_need(f, "cu", VP_I32, 1, offsets, &cu, err));
    for (int i = 0; i < 4; i++)
        if (k->shape[i] != v->shape[i])
            return vp_frame_fail(f, VP_DATA, err, "columns k and v differ in dimension %d: %lld and %lld", i,
                                 (long long)k->shape[i], (long long)v->shape[i]);
    *out = (vp_kv_format){.layers = k->shape[0], .groups = k->shape[2], .head_dim = k->shape[3]};
    if (vp_kv_format_good(out)) return VP_OK;
    return vp_frame_fail(f, VP_DATA, err, "keys and values of %lld layers, %lld heads of width %lld: out of bounds",
                         (long long)out->layers, (long long)out->groups, (long long)out->head_dim);
}

/* Against the index, or the frames before. */
static int compare(const vp_kv_taken *t, const vp_index *x, const vp_frame *f, const vp_kv_format *got, vp_error *err) {
    const vp_kv_format *want = &t->format;
    if (!want->layers && got->layers)
        return vp_frame_fail(f, VP_DATA, err, "the index '%s' is without keys and values, the stream has them: k, v",
                             x->path);
    if (want->layers && !got->layers)
        return vp_frame_fail(
            f, VP_DATA, err,
            "no columns k and v: the index '%s' holds keys and values of every row (fwd --emit emb,kv)", x->path);
    if (want->layers == got->layers && want->groups == got->groups && want->head_dim == got->head_dim) return VP_OK;
    return vp_frame_fail(f, VP_DATA, err,
                         "k and v are [%lld, T, %lld, %lld], the index '%s' holds [%lld, T, %lld, %lld]",
                         (long long)got->layers, (long long)got->groups, (long long)got->head_dim, x->path,
                         (long long)want->layers, (long long)want->groups, (long long)want->head_dim);
}

/* By the index if it has rows, else by this frame and the options. */
static int decide(vp_kv_taken *t, const vp_index *x, const vp_frame *f, const vp_kv_format *got, vp_error *err) {
    const vp_kv_options *o = &t->options;
    const bool i8 = o->coding == VP_KV_I8, asked = o->coding != VP_KV_ANY || o->zstd;
    if (asked && !got->layers)
        return vp_frame_fail(f, VP_DATA, err, "no columns k and v to store: fwd --emit emb,kv makes them");
    if (x->dims) {
        t->format = x->kv;
        if (x->kv.layers && ((o->coding != VP_KV_ANY && i8 != x->kv.i8) || (o->zstd && !x->kv.zstd)))
            return vp_fail(err, VP_DATA, "'%s': holds keys and values as %s, not as asked for", x->path,
                           vp_kv_format_name(&x->kv));
    } else {
        t->format = *got;
        t->format.i8 = i8;
        t->format.zstd = o->zstd;
    }
    t->decided = true;
    return VP_OK;
}

int vp_kv_take_frame(vp_kv_taken *t, const vp_index *x, const vp_frame *f, vp_error *err) {
    vp_kv_format got;
    VP_TRY(read_format(f, &got, err));
    if (!t->decided) VP_TRY(decide(t, x, f, &got, err));
    VP_TRY(compare(t, x, f, &got, err));
    /* at once: records would have the buffer grow, and be copied, again and again */
    return vp_buf_reserve(&t->data, t->data.len + (size_t)(f->T * vp_kv_token_bytes(&t->format)) + 1, err);
}

int vp_kv_take_row(vp_kv_taken *t, const vp_frame *f, int64_t b, vp_kv_piece *p, vp_error *err) {
    *p = (vp_kv_piece){0};
    if (!t->format.layers) return VP_OK;
    int32_t cu[2];
    memcpy(cu, vp_frame_find(f, "cu")->data + (size_t)b * sizeof *cu, sizeof cu);
    if (cu[0] < 0 || cu[1] < cu[0] || cu[1] > f->T)
        return vp_frame_fail(f, VP_DATA, err, "cu does not divide the tokens into rows");
    const vp_kv_rows rows = {.k = vp_frame_find(f, "k")->data,
                             .v = vp_frame_find(f, "v")->data,
                             .T = f->T,
                             .first = cu[0],
                             .n = cu[1] - cu[0]};
    p->at = t->data.len;
    p->tokens = rows.n;
    VP_TRY(vp_kv_encode(&t->format, &rows, &t->scratch, &t->data, err));
    p->bytes = t->data.len - p->at;
    return VP_OK;
}
