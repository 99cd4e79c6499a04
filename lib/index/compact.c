/* Compaction: the live rows of segments that are over 25 % dead move into new segments, synced; one transaction
 * switches the entries over and forgets the old ones; their files are unlinked last. Killed before the transaction: the
 * new files are swept; after it: the old ones are. Readers of older snapshots keep what they have mapped. */
#include "lib/index/store.h"
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 8 << 20 };

static bool is_wasteful(const vp_segment *s) {
    return (s->slots - s->live) * 4 > s->slots;
}

typedef struct mover {
    vp_change *c;
    int64_t after;   /* last segment before the compaction */
    vp_buf vectors;  /* of the rows gathered */
    int64_t *n;      /* [block] their entries */
    vp_place *place; /* [block] */
    int64_t rows, block;
} mover;

static int flush(mover *m, vp_error *err) {
    vp_index *x = m->c->x;
    VP_TRY(vp_change_append(m->c, m->vectors.data, m->rows, m->after, m->place, err));
    for (int64_t i = 0; i < m->rows; i++) {
        sqlite3_stmt *s;
        VP_TRY(vp_store_statement(x, VP_SQL_ENTRY_MOVE, &s, err));
        sqlite3_bind_int64(s, 1, m->n[i]);
        sqlite3_bind_int64(s, 2, m->place[i].segment);
        sqlite3_bind_int64(s, 3, m->place[i].slot);
        VP_TRY(vp_store_run(x, s, err));
    }
    m->rows = 0;
    m->vectors.len = 0;
    return VP_OK;
}

/* The next entries of a segment, from slot `from` on: at most a block, read before any of them moves. */
static int gather(mover *m, const vp_segment *g, const uint8_t *vectors, int64_t *from, vp_error *err) {
    vp_index *x = m->c->x;
    sqlite3_stmt *s;
    bool row = true;
    VP_TRY(vp_store_statement(x, VP_SQL_ENTRIES_OF, &s, err));
    sqlite3_bind_int64(s, 1, g->id);
    sqlite3_bind_int64(s, 2, *from);
    while (m->rows < m->block) {
        VP_TRY(vp_store_step(x, s, &row, err));
        if (!row) break;
        int64_t slot = sqlite3_column_int64(s, 1);
        if (slot < *from || slot >= g->slots) return vp_store_damaged(x, err, "an entry lies outside its segment");
        VP_TRY(vp_buf_add(&m->vectors, vectors + (size_t)slot * x->row_bytes, x->row_bytes, err));
        m->n[m->rows++] = sqlite3_column_int64(s, 0);
        *from = slot + 1;
    }
    sqlite3_reset(s);
    if (!row) *from = g->slots;
    return VP_OK;
}

static int move_segment(mover *m, size_t index, vp_error *err) {
    vp_change *c = m->c;
    vp_segment g = c->segments.item[index]; /* the list grows while rows move */
    vp_map_file map;
    int64_t from = 0;
    VP_TRY(vp_segment_map(c->x, &g, &map, NULL, err));
    int status = VP_OK;
    while (!status && from < g.slots) {
        status = gather(m, &g, map.data, &from, err);
        if (!status && m->rows == m->block) status = flush(m, err);
    }
    vp_map_close(&map);
    static const vp_statement forget[] = {VP_SQL_EXTENTS_DROP, VP_SQL_SEGMENT_DROP};
    for (int i = 0; i < 2 && !status; i++) {
        sqlite3_stmt *s;
        status = vp_store_statement(c->x, forget[i], &s, err);
        if (status) break;
        sqlite3_bind_int64(s, 1, g.id);
        status = vp_store_run(c->x, s, err);
    }
    c->segments.item[index].dirty = false;
    return status;
}

static int move_all(mover *m, size_t segments, vp_error *err) {
    vp_change *c = m->c;
    m->block = (int64_t)(BLOCK_BYTES / c->x->row_bytes) + 1;
    m->n = vp_calloc((size_t)m->block, sizeof *m->n);
    m->place = vp_calloc((size_t)m->block, sizeof *m->place);
    if (!m->n || !m->place) return vp_fail_memory(err, "compaction", (size_t)m->block * 24);
    VP_TRY(vp_store_execute(c->x, VP_SQL_BEGIN_WRITE, err));
    c->generation++; /* searchers that stay open look again */
    for (size_t i = 0; i < segments; i++)
        if (is_wasteful(&c->segments.item[i])) VP_TRY(move_segment(m, i, err));
    VP_TRY(flush(m, err));
    return vp_change_write(c, err);
}

int vp_change_compact(vp_change *c, vp_error *err) {
    size_t segments = c->segments.n, wasteful = 0;
    for (size_t i = 0; i < segments; i++) wasteful += is_wasteful(&c->segments.item[i]);
    if (!wasteful) return VP_OK;
    mover m = {.c = c, .after = c->segments.item[segments - 1].id};
    int status = move_all(&m, segments, err);
    for (size_t i = 0; i < segments && !status; i++)
        if (is_wasteful(&c->segments.item[i])) vp_datafile_unlink(c->x, VP_DATAFILE_VECTORS, c->segments.item[i].id);
    vp_buf_free(&m.vectors);
    free(m.n);
    free(m.place);
    return status;
}
