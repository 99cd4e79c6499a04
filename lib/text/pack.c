/* Packing: rows are held in a window, brought in order of length, and written as frames of a bounded number of tokens,
 * end to end. Only here are rows reordered; column `row` remembers. */
#include "lib/text/text.h"
#include <stdlib.h>
#include <string.h>

/* A window is written early when it holds more than this. */
enum { WINDOW_TOKENS = 1 << 22 };
#define WINDOW_BYTES ((size_t)64 << 20)

typedef struct span {
    size_t at, n; /* in packer.strings; at SIZE_MAX: nil */
} span;
enum { ID, TEXT, META, PARENT, STRINGS };

typedef struct held {
    span s[STRINGS];
    int64_t row;
    int32_t chunks;
    uint8_t hash[16];
    size_t at, n; /* tokens */
} held;

struct vp_packer {
    vp_writer *writer;
    vp_pack_options o;
    vp_map *source;
    vp_buf rows;    /* of held */
    vp_buf strings; /* bytes */
    vp_buf ids, keep, word;
    /* of the frame that is being written */
    vp_buf frame_ids, frame_cu, frame_keep, frame_word, frame_row, frame_chunks, frame_hash, text_at, text_len;
};

static const struct {
    const char *name;
    int string; /* index of the string, -1: a tensor */
} columns[] = {{"id", ID},   {"row", -1},    {"hash", -1},   {"ids", -1},        {"cu", -1},    {"keep", -1},
               {"word", -1}, {"text", TEXT}, {"meta", META}, {"parent", PARENT}, {"chunks", -1}};
enum { NCOLUMNS = sizeof columns / sizeof *columns };

static bool wanted(const vp_pack_options *o, const char *name) {
    if (strcmp(name, "keep") == 0) return o->keep;
    if (strcmp(name, "word") == 0) return o->word;
    if (strcmp(name, "text") == 0) return o->text;
    if (strcmp(name, "meta") == 0) return o->meta;
    if (strcmp(name, "parent") == 0 || strcmp(name, "chunks") == 0) return o->parent;
    return true;
}

int vp_packer_declare(const vp_pack_options *o, vp_map *header, vp_error *err) {
    for (size_t i = 0; i < NCOLUMNS; i++) {
        const vp_schema *schema = vp_schema_find(columns[i].name);
        if (!schema) return vp_fail(err, VP_BUG, "column '%s' is not in the table", columns[i].name);
        if (wanted(o, schema->name)) VP_TRY(vp_header_declare(header, schema->name, schema->dtype, schema->shape, err));
    }
    return VP_OK;
}

int vp_packer_open(vp_packer **out, vp_writer *w, const vp_pack_options *o, vp_error *err) {
    vp_packer *p = calloc(1, sizeof *p);
    if (!p) return vp_fail_memory(err, "a packer", sizeof *p);
    p->writer = w;
    p->o = *o;
    *out = p;
    return VP_OK;
}

void vp_packer_close(vp_packer *p) {
    if (!p) return;
    vp_buf *const all[] = {&p->word,         &p->frame_word, &p->rows,     &p->strings,    &p->ids,
                           &p->keep,         &p->frame_ids,  &p->frame_cu, &p->frame_keep, &p->frame_row,
                           &p->frame_chunks, &p->frame_hash, &p->text_at,  &p->text_len};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) vp_buf_free(all[i]);
    vp_map_free(p->source);
    free(p);
}

int vp_packer_source(vp_packer *p, const vp_map *source, vp_error *err) {
    vp_map_free(p->source);
    p->source = vp_map_copy(source);
    return p->source ? VP_OK : vp_fail_memory(err, "a map", 1);
}

bool vp_packer_holds(const vp_packer *p) {
    return p->rows.len > 0;
}

static int hold_string(vp_packer *p, span *out, const char *s, size_t n, vp_error *err) {
    *out = (span){s ? p->strings.len : SIZE_MAX, n};
    return s ? vp_buf_add(&p->strings, s, n, err) : VP_OK;
}

int vp_packer_add(vp_packer *p, const vp_pack_row *row, vp_error *err) {
    held h = {.row = row->row, .chunks = row->chunks, .at = p->ids.len / sizeof(int32_t), .n = row->n};
    memcpy(h.hash, row->hash, sizeof h.hash);
    VP_TRY(hold_string(p, &h.s[ID], row->id, row->id_len, err));
    VP_TRY(hold_string(p, &h.s[TEXT], p->o.text ? row->text : NULL, row->text_len, err));
    VP_TRY(hold_string(p, &h.s[META], p->o.meta ? row->meta : NULL, row->meta_len, err));
    VP_TRY(hold_string(p, &h.s[PARENT], p->o.parent ? row->parent : NULL, row->parent_len, err));
    VP_TRY(vp_buf_add(&p->ids, row->ids, row->n * sizeof *row->ids, err));
    if (p->o.keep) VP_TRY(vp_buf_add(&p->keep, row->keep, row->n, err));
    if (p->o.word) VP_TRY(vp_buf_add(&p->word, row->word, row->n * sizeof *row->word, err));
    VP_TRY(vp_buf_add(&p->rows, &h, sizeof h, err));
    bool full = p->rows.len / sizeof h >= (size_t)p->o.window || p->ids.len / sizeof(int32_t) >= WINDOW_TOKENS ||
                p->strings.len >= WINDOW_BYTES;
    return full ? vp_packer_flush(p, err) : VP_OK;
}

static int by_length(const void *a, const void *b) {
    const held *x = a, *y = b;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

/* One row's part of the frame's tensors. */
static int gather_row(vp_packer *p, const held *h, vp_error *err) {
    VP_TRY(vp_buf_add(&p->frame_ids, p->ids.data + h->at * sizeof(int32_t), h->n * sizeof(int32_t), err));
    int32_t end = (int32_t)(p->frame_ids.len / sizeof(int32_t));
    VP_TRY(vp_buf_add(&p->frame_cu, &end, sizeof end, err));
    if (p->o.keep) VP_TRY(vp_buf_add(&p->frame_keep, p->keep.data + h->at, h->n, err));
    if (p->o.word)
        VP_TRY(vp_buf_add(&p->frame_word, p->word.data + h->at * sizeof(int32_t), h->n * sizeof(int32_t), err));
    VP_TRY(vp_buf_add(&p->frame_row, &h->row, sizeof h->row, err));
    if (p->o.parent) VP_TRY(vp_buf_add(&p->frame_chunks, &h->chunks, sizeof h->chunks, err));
    return vp_buf_add(&p->frame_hash, h->hash, sizeof h->hash, err);
}

static int gather(vp_packer *p, const held *rows, size_t n, vp_error *err) {
    const int32_t zero = 0;
    p->frame_word.len = p->frame_ids.len = p->frame_cu.len = p->frame_keep.len = p->frame_row.len =
        p->frame_chunks.len = p->frame_hash.len = 0;
    VP_TRY(vp_buf_add(&p->frame_cu, &zero, sizeof zero, err));
    for (size_t i = 0; i < n; i++) VP_TRY(gather_row(p, &rows[i], err));
    return VP_OK;
}

static int put_strings(vp_packer *p, vp_frame *f, const char *name, int which, const held *rows, size_t n,
                       vp_error *err) {
    p->text_at.len = p->text_len.len = 0;
    for (size_t i = 0; i < n; i++) {
        const span *s = &rows[i].s[which];
        const char *at = s->at == SIZE_MAX ? NULL : p->strings.data + s->at;
        VP_TRY(vp_buf_add(&p->text_at, &at, sizeof at, err));
        VP_TRY(vp_buf_add(&p->text_len, &s->n, sizeof s->n, err));
    }
    return vp_frame_put_strs(f, name, (int64_t)n, (const char *const *)(const void *)p->text_at.data,
                             (const size_t *)(const void *)p->text_len.data, err);
}

static int put_columns(vp_packer *p, vp_frame *f, const held *rows, size_t n, vp_error *err) {
    const int64_t B = (int64_t)n, B1 = B + 1, T = (int64_t)(p->frame_ids.len / sizeof(int32_t)), hash[] = {B, 16};
    for (size_t i = 0; i < NCOLUMNS; i++)
        if (columns[i].string >= 0 && wanted(&p->o, columns[i].name))
            VP_TRY(put_strings(p, f, columns[i].name, columns[i].string, rows, n, err));
    VP_TRY(vp_frame_put(f, "row", VP_I64, 1, &B, p->frame_row.data, err));
    if (p->o.parent) VP_TRY(vp_frame_put(f, "chunks", VP_I32, 1, &B, p->frame_chunks.data, err));
    VP_TRY(vp_frame_put(f, "hash", VP_U8, 2, hash, p->frame_hash.data, err));
    VP_TRY(vp_frame_put(f, "ids", VP_I32, 1, &T, p->frame_ids.data, err));
    VP_TRY(vp_frame_put(f, "cu", VP_I32, 1, &B1, p->frame_cu.data, err));
    if (p->o.keep) VP_TRY(vp_frame_put(f, "keep", VP_U8, 1, &T, p->frame_keep.data, err));
    if (p->o.word) VP_TRY(vp_frame_put(f, "word", VP_I32, 1, &T, p->frame_word.data, err));
    return p->source ? vp_map_set_map(f->keys, "source", p->source, err) : VP_OK;
}

static int write_frame(vp_packer *p, const held *rows, size_t n, vp_error *err) {
    VP_TRY(gather(p, rows, n, err));
    vp_frame *f = vp_frame_new(VP_FRAME_BATCH, err);
    if (!f) return err->code;
    int status = put_columns(p, f, rows, n, err);
    if (!status) status = vp_writer_batch(p->writer, f, err);
    vp_frame_free(f);
    return status;
}

int vp_packer_flush(vp_packer *p, vp_error *err) {
    held *rows = (held *)(void *)p->rows.data;
    size_t n = p->rows.len / sizeof *rows, first = 0;
    int64_t tokens = 0;
    if (n > 1) qsort(rows, n, sizeof *rows, by_length);
    for (size_t i = 0; i < n; i++) {
        if (i > first && tokens + (int64_t)rows[i].n > p->o.batch_tokens) {
            VP_TRY(write_frame(p, rows + first, i - first, err));
            first = i;
            tokens = 0;
        }
        tokens += (int64_t)rows[i].n;
    }
    if (first < n) VP_TRY(write_frame(p, rows + first, n - first, err));
    p->rows.len = p->strings.len = p->ids.len = p->keep.len = p->word.len = 0;
    return VP_OK;
}
