/* Segments as a transaction sees them: committed slots and liveness from the database, vectors from mapped files. */
#include "lib/index/store.h"
#include <stdlib.h>
#include <string.h>

enum { BITMAP_BYTES = VP_SEGMENT_SLOTS / 8 };

vp_segment *vp_segments_add(vp_segments *s, int64_t id, vp_error *err) {
    if (vp_grow(&s->item, &s->cap, s->n, sizeof *s->item, "the list of segments", err)) return NULL;
    vp_segment *g = &s->item[s->n];
    *g = (vp_segment){.id = id, .bitmap = vp_calloc(1, BITMAP_BYTES)};
    if (!g->bitmap) {
        vp_fail_memory(err, "a bitmap", BITMAP_BYTES);
        return NULL;
    }
    s->n++;
    return g;
}

int vp_segments_load(vp_index *x, vp_segments *s, vp_error *err) {
    sqlite3_stmt *q;
    bool row;
    vp_segments_free(s);
    VP_TRY(vp_store_statement(x, VP_SQL_SEGMENTS, &q, err));
    for (;;) {
        VP_TRY(vp_store_step(x, q, &row, err));
        if (!row) break;
        int64_t id = sqlite3_column_int64(q, 0), slots = sqlite3_column_int64(q, 1), live = sqlite3_column_int64(q, 2);
        const void *bitmap = sqlite3_column_blob(q, 3);
        int bytes = sqlite3_column_bytes(q, 3);
        if (id < 1 || slots < 0 || slots > VP_SEGMENT_SLOTS || live < 0 || live > slots || bytes != (slots + 7) / 8 ||
            (slots && !x->dims))
            return vp_store_damaged(x, err, "a segment's row");
        vp_segment *g = vp_segments_add(s, id, err);
        if (!g) return VP_MEMORY;
        g->slots = slots;
        g->live = live;
        if (bytes) memcpy(g->bitmap, bitmap, (size_t)bytes);
    }
    sqlite3_reset(q);
    return VP_OK;
}

void vp_segments_free(vp_segments *s) {
    for (size_t i = 0; i < s->n; i++) free(s->item[i].bitmap);
    free(s->item);
    *s = (vp_segments){0};
}

static int compare_id(const void *key, const void *item) {
    int64_t a = *(const int64_t *)key, b = ((const vp_segment *)item)->id;
    return (a > b) - (a < b);
}

vp_segment *vp_segments_find(const vp_segments *s, int64_t id) {
    return s->n ? bsearch(&id, s->item, s->n, sizeof *s->item, compare_id) : NULL;
}

bool vp_segment_is_live(const vp_segment *s, int64_t slot) {
    return s->bitmap[slot >> 3] >> (slot & 7) & 1;
}

void vp_segment_set(vp_segment *s, int64_t slot, bool live) {
    if (vp_segment_is_live(s, slot) == live) return;
    s->bitmap[slot >> 3] ^= (uint8_t)(1 << (slot & 7));
    s->live += live ? 1 : -1;
    s->dirty = true;
}

int vp_segment_put(vp_index *x, vp_segment *s, vp_error *err) {
    sqlite3_stmt *q;
    VP_TRY(vp_store_statement(x, VP_SQL_SEGMENT_PUT, &q, err));
    sqlite3_bind_int64(q, 1, s->id);
    sqlite3_bind_int64(q, 2, s->slots);
    sqlite3_bind_int64(q, 3, s->live);
    sqlite3_bind_blob(q, 4, s->bitmap, (int)((s->slots + 7) / 8), SQLITE_STATIC);
    VP_TRY(vp_store_run(x, q, err));
    s->dirty = false;
    return VP_OK;
}

int vp_segment_open(vp_index *x, const vp_segment *s, int *fd, vp_error *err) {
    return vp_datafile_open(x, VP_DATAFILE_VECTORS, s->id, (int64_t)((size_t)s->slots * x->row_bytes), fd, err);
}

int vp_segment_map(vp_index *x, const vp_segment *s, vp_map_file *m, bool *gone, vp_error *err) {
    const vp_datafile_part all = {VP_DATAFILE_VECTORS, s->id, 0, (int64_t)((size_t)s->slots * x->row_bytes)};
    const uint8_t *data;
    return vp_datafile_map(x, &all, m, &data, gone, err);
}

static int is_named(void *ctx, int64_t id, bool *named, vp_error *err) {
    (void)err;
    *named = vp_segments_find(ctx, id) != NULL;
    return VP_OK;
}

int vp_segments_sweep(vp_index *x, vp_segments *s, vp_error *err) {
    return vp_datafiles_sweep(x, VP_DATAFILE_VECTORS, is_named, s, err);
}
