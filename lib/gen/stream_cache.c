/* Rows of a stream with their columns k and v, kept in memory by id. Legend: B rows, T tokens of a frame, n of a row,
 * L layers, G key/value heads, d head width. */
#include "lib/gen/stream_cache.h"
#include "lib/index/idset.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct vp_stream_cache {
    char *path;
    int fd;
    vp_reader *reader;
    bool ended;
    vp_idset ids; /* with their places in `row` */
    vp_kv *row;   /* k is a block of its own: k, then v */
    size_t n, cap;
};

int vp_stream_cache_open(vp_stream_cache **out, const char *path, vp_error *err) {
    vp_frame *header;
    vp_stream_cache *s = *out = vp_calloc(1, sizeof *s);
    if (!s) return vp_fail_memory(err, "a cache", sizeof *s);
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    int status = s->fd < 0 ? vp_fail_errno(err, "cannot open '%s'", path) : VP_OK;
    if (!status && !(s->path = vp_strndup(path, strlen(path)))) status = vp_fail_memory(err, "a path", strlen(path));
    if (!status) status = vp_reader_open(&s->reader, s->fd, path, err);
    if (!status) status = vp_reader_next(s->reader, &header, err);
    if (!status) return VP_OK;
    vp_stream_cache_close(s);
    *out = NULL;
    return status;
}

void vp_stream_cache_close(vp_stream_cache *s) {
    if (!s) return;
    for (size_t i = 0; i < s->n; i++) free((void *)(uintptr_t)s->row[i].k);
    free(s->row);
    vp_idset_free(&s->ids);
    vp_reader_close(s->reader);
    if (s->fd >= 0) close(s->fd);
    free(s->path);
    free(s);
}

const vp_map *vp_stream_cache_header(const vp_stream_cache *s) {
    return vp_reader_header(s->reader)->keys;
}

typedef struct columns { /* of one frame */
    const vp_column *id, *k, *v;
    int32_t *cu; /* [B+1] */
} columns;

static int find_columns(const vp_frame *f, columns *c, vp_error *err) {
    int64_t offsets = 0;
    const int64_t any[] = {-1, f->T, -1, -1};
    *c = (columns){.id = vp_frame_find(f, "id")};
    if (!c->id || !c->id->is_values) return vp_frame_fail(f, VP_DATA, err, "no column 'id'");
    VP_TRY(vp_frame_need(f, "k", VP_BF16, 4, any, &c->k, err));
    VP_TRY(vp_frame_need(f, "v", VP_BF16, 4, c->k->shape, &c->v, err));
    VP_TRY(vp_frame_ints(f, "cu", &c->cu, &offsets, err));
    return offsets == f->B + 1 ? VP_OK : vp_frame_fail(f, VP_DATA, err, "no column 'cu'");
}

/* Tokens [cu[b], cu[b+1]) of k and v [L, T, G, d] as [L, n, G d]. */
static int copy_row(const vp_frame *f, const columns *c, int64_t b, vp_kv *kv, vp_error *err) {
    const int64_t n = (int64_t)c->cu[b + 1] - c->cu[b];
    *kv = (vp_kv){.dtype = VP_BF16, .layers = c->k->shape[0], .tokens = n, .width = c->k->shape[2] * c->k->shape[3]};
    const size_t token = (size_t)kv->width * sizeof(uint16_t), layer = (size_t)n * token;
    const size_t half = (size_t)kv->layers * layer;
    char *to = vp_calloc(2, half);
    if (!to) return vp_fail_memory(err, "keys and values", 2 * half);
    for (int64_t l = 0; l < kv->layers && layer; l++) {
        const size_t from = (size_t)(l * f->T + c->cu[b]) * token;
        memcpy(to + (size_t)l * layer, c->k->data + from, layer);
        memcpy(to + half + (size_t)l * layer, c->v->data + from, layer);
    }
    kv->k = to;
    kv->v = to + half;
    return VP_OK;
}

static int take_row(vp_stream_cache *s, const vp_frame *f, const columns *c, int64_t b, vp_error *err) {
    char scratch[32];
    const char *id;
    size_t len;
    int64_t earlier;
    VP_TRY(vp_column_str(f, c->id, b, &id, &len, scratch, err));
    if (!id) return vp_frame_fail(f, VP_DATA, err, "row %lld of the frame has no id", (long long)b);
    VP_TRY(vp_grow(&s->row, &s->cap, s->n, sizeof *s->row, "cached texts", err));
    VP_TRY(vp_idset_add(&s->ids, id, len, (int64_t)s->n, &earlier, err));
    if (earlier >= 0) return vp_frame_fail(f, VP_DATA, err, "'%.*s' is there twice", (int)len, id);
    VP_TRY(copy_row(f, c, b, &s->row[s->n], err));
    s->n++;
    return VP_OK;
}

static int take_frame(vp_stream_cache *s, vp_error *err) {
    vp_frame *f;
    columns c = {0};
    VP_TRY(vp_reader_next(s->reader, &f, err));
    s->ended = !f;
    if (!f || f->kind != VP_FRAME_BATCH || !f->B) return VP_OK;
    int status = find_columns(f, &c, err);
    for (int64_t b = 0; !status && b < f->B; b++) status = take_row(s, f, &c, b, err);
    free(c.cu);
    return status;
}

int vp_stream_cache_find(vp_stream_cache *s, const char *id, size_t len, vp_kv *kv, bool *found, vp_error *err) {
    int64_t place;
    while (!(*found = vp_idset_find(&s->ids, id, len, &place)) && !s->ended) VP_TRY(take_frame(s, err));
    if (*found) *kv = s->row[place];
    return VP_OK;
}
