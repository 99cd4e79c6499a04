/* What a reader sees: a read transaction and the segments that it names, mapped. */
#include "lib/index/store.h"
#include <stdlib.h>

enum { TRIES = 10 };

void vp_snapshot_drop(vp_snapshot *s) {
    for (size_t i = 0; s->map && i < s->segments.n; i++) vp_map_close(&s->map[i]);
    free(s->map);
    vp_segments_free(&s->segments);
    *s = (vp_snapshot){0};
}

static int map_segments(vp_snapshot *s, vp_index *x, bool last_try, bool *gone, vp_error *err) {
    *gone = false;
    VP_TRY(vp_segments_load(x, &s->segments, err));
    s->map = vp_calloc(s->segments.n + 1, sizeof *s->map);
    if (!s->map) return vp_fail_memory(err, "the list of maps", s->segments.n * sizeof *s->map);
    for (size_t i = 0; i < s->segments.n && !*gone; i++) {
        s->live += s->segments.item[i].live;
        VP_TRY(vp_segment_map(x, &s->segments.item[i], &s->map[i], last_try ? NULL : gone, err));
    }
    return VP_OK;
}

int vp_snapshot_begin(vp_snapshot *s, vp_index *x, vp_error *err) {
    for (int i = 1;; i++) {
        int64_t generation;
        bool gone;
        VP_TRY(vp_store_execute(x, VP_SQL_BEGIN, err));
        VP_TRY(vp_store_setting_int(x, "generation", &generation, err));
        if (s->loaded && generation == s->generation) return VP_OK;
        vp_snapshot_drop(s);
        VP_TRY(vp_store_settings(x, err));
        VP_TRY(map_segments(s, x, i == TRIES, &gone, err));
        s->generation = generation;
        s->loaded = !gone;
        if (!gone) return VP_OK;
        vp_store_rollback(x); /* compacted between the look at the database and that at the files: look again */
    }
}

const uint8_t *vp_snapshot_row(const vp_snapshot *s, vp_index *x, vp_place place, vp_error *err) {
    const vp_segment *g = vp_segments_find(&s->segments, place.segment);
    if (!g || place.slot < 0 || place.slot >= g->slots || !vp_segment_is_live(g, place.slot)) {
        vp_store_damaged(x, err, "an entry whose vector is not live");
        return NULL;
    }
    return s->map[g - s->segments.item].data + (size_t)place.slot * x->row_bytes;
}
