/* Packing: rows are held in a window, brought in order of length, and written as frames of a bounded number of tokens,
 * end to end; in training a whole step is held, and frames end where gradient units do. Only here are rows reordered;
 * column `row` remembers. */
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
    int32_t chunks, group, unit, prefix;
    float score;
    uint8_t role;
    bool scored;
    uint8_t hash[16];
    size_t at, n; /* tokens */
} held;

/* What the frames of a step say of it; {0}: no step. */
typedef struct step_facts {
    int64_t step, rows;
    bool in_step, last, examples, scored;
} step_facts;

/* Columns that are tensors. */
enum { ROW, HASH, IDS, CU, KEEP, WORD, CHUNKS, UNIT, GROUP, ROLE, SCORE, PREFIX, TENSORS };

struct vp_packer {
    vp_writer *writer;
    vp_pack_options o;
    vp_map *source;
    vp_buf rows;    /* of held */
    vp_buf strings; /* bytes */
    vp_buf ids, keep, word;
    vp_buf frame[TENSORS], text_at, text_len; /* of the frame that is being written */
    int64_t unscored;                         /* steps */
};

static const struct {
    const char *name;
    int tensor, string; /* which; -1: none */
    vp_dtype dtype;
} columns[] = {{"id", -1, ID, VP_NDTYPES},     {"row", ROW, -1, VP_I64},       {"hash", HASH, -1, VP_U8},
               {"ids", IDS, -1, VP_I32},       {"cu", CU, -1, VP_I32},         {"keep", KEEP, -1, VP_U8},
               {"text", -1, TEXT, VP_NDTYPES}, {"meta", -1, META, VP_NDTYPES}, {"parent", -1, PARENT, VP_NDTYPES},
               {"chunks", CHUNKS, -1, VP_I32}, {"unit", UNIT, -1, VP_I32},     {"group", GROUP, -1, VP_I32},
               {"role", ROLE, -1, VP_U8},      {"score", SCORE, -1, VP_F32},   {"word", WORD, -1, VP_I32},
               {"prefix", PREFIX, -1, VP_I32}};
enum { NCOLUMNS = sizeof columns / sizeof *columns };

/* Whether frames have column i; a step's facts add to what the options say. */
static bool wanted(const vp_pack_options *o, const step_facts *step, size_t i) {
    switch (columns[i].tensor) {
    case UNIT:
        return o->steps;
    case GROUP:
    case ROLE:
        return step->examples;
    case SCORE:
        return step->scored;
    case ROW:
    case IDS:
    case CU:
        return true;
    case KEEP:
        return !o->blocks && (o->keep || step->examples);
    case WORD:
        return o->word;
    case PREFIX:
        return !o->blocks && o->prefix;
    case CHUNKS:
        return !o->blocks && o->parent;
    default:
        break;
    }
    const int string = columns[i].string;
    return !o->blocks && !(string == TEXT && !o->text) && !(string == META && !o->meta) &&
           !(string == PARENT && !o->parent);
}

int vp_packer_declare(const vp_pack_options *o, vp_map *header, vp_error *err) {
    for (size_t i = 0; i < NCOLUMNS; i++) {
        const vp_schema *schema = vp_schema_find(columns[i].name);
        if (!schema) return vp_fail(err, VP_BUG, "column '%s' is not in the table", columns[i].name);
        if (wanted(o, &(step_facts){0}, i))
            VP_TRY(vp_header_declare(header, schema->name, schema->dtype, schema->shape, err));
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
    vp_buf *const all[] = {&p->rows, &p->strings, &p->ids, &p->keep, &p->word, &p->text_at, &p->text_len};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) vp_buf_free(all[i]);
    for (size_t i = 0; i < TENSORS; i++) vp_buf_free(&p->frame[i]);
    vp_map_free(p->source);
    free(p);
}

int vp_packer_source(vp_packer *p, const vp_map *source, vp_error *err) {
    vp_map_free(p->source);
    p->source = vp_map_copy(source);
    return p->source ? VP_OK : vp_fail_memory(err, "a map", 1);
}

int64_t vp_packer_unscored(const vp_packer *p) {
    return p->unscored;
}

bool vp_packer_holds(const vp_packer *p) {
    return p->rows.len > 0;
}

static int hold_string(vp_packer *p, span *out, const char *s, size_t n, vp_error *err) {
    *out = (span){s ? p->strings.len : SIZE_MAX, n};
    return s ? vp_buf_add(&p->strings, s, n, err) : VP_OK;
}

static int hold_keep(vp_packer *p, const vp_pack_row *row, vp_error *err) {
    VP_TRY(vp_buf_reserve(&p->keep, p->ids.len / sizeof(int32_t), err));
    if (row->keep && row->n)
        memcpy(p->keep.data + p->keep.len, row->keep, row->n);
    else if (row->n)
        memset(p->keep.data + p->keep.len, 1, row->n);
    p->keep.len += row->n;
    return VP_OK;
}

static int32_t prefix_of(const vp_pack_row *row) {
    const bool generated = row->group != VP_NO_GROUP && row->role == VP_ROLE_GENERATIVE;
    size_t n = 0;
    while (!generated && row->keep && n < row->n && !row->keep[n]) n++;
    return (int32_t)n;
}

int vp_packer_add(vp_packer *p, const vp_pack_row *row, vp_error *err) {
    held h = {.row = row->row,
              .chunks = row->chunks,
              .group = row->group,
              .role = row->role,
              .prefix = prefix_of(row),
              .score = row->score,
              .scored = row->scored,
              .at = p->ids.len / sizeof(int32_t),
              .n = row->n};
    memcpy(h.hash, row->hash, sizeof h.hash);
    VP_TRY(hold_string(p, &h.s[ID], row->id, row->id_len, err));
    VP_TRY(hold_string(p, &h.s[TEXT], p->o.text ? row->text : NULL, row->text_len, err));
    VP_TRY(hold_string(p, &h.s[META], p->o.meta ? row->meta : NULL, row->meta_len, err));
    VP_TRY(hold_string(p, &h.s[PARENT], p->o.parent ? row->parent : NULL, row->parent_len, err));
    VP_TRY(vp_buf_add(&p->ids, row->ids, row->n * sizeof *row->ids, err));
    VP_TRY(hold_keep(p, row, err));
    if (p->o.word) VP_TRY(vp_buf_add(&p->word, row->word, row->n * sizeof *row->word, err));
    VP_TRY(vp_buf_add(&p->rows, &h, sizeof h, err));
    if (p->o.steps) return VP_OK;
    bool full = p->rows.len / sizeof h >= (size_t)p->o.window || p->ids.len / sizeof(int32_t) >= WINDOW_TOKENS ||
                p->strings.len >= WINDOW_BYTES;
    return full ? vp_packer_flush(p, err) : VP_OK;
}

void vp_packer_undo(vp_packer *p, int64_t n) {
    if (!n) return;
    p->rows.len -= (size_t)n * sizeof(held);
    p->ids.len = ((const held *)(const void *)(p->rows.data + p->rows.len))->at * sizeof(int32_t);
    p->keep.len = p->ids.len / sizeof(int32_t);
    if (p->o.word) p->word.len = p->ids.len;
}

static int by_length(const void *a, const void *b) {
    const held *x = a, *y = b;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

static int add_to(vp_packer *p, int tensor, const void *data, size_t n, vp_error *err) {
    return vp_buf_add(&p->frame[tensor], data, n, err);
}

/* One row's part of the frame's tensors. */
static int gather_row(vp_packer *p, const held *h, vp_error *err) {
    VP_TRY(add_to(p, IDS, p->ids.data + h->at * sizeof(int32_t), h->n * sizeof(int32_t), err));
    const int32_t end = (int32_t)(p->frame[IDS].len / sizeof(int32_t));
    VP_TRY(add_to(p, CU, &end, sizeof end, err));
    VP_TRY(add_to(p, KEEP, p->keep.data + h->at, h->n, err));
    if (p->o.word) VP_TRY(add_to(p, WORD, p->word.data + h->at * sizeof(int32_t), h->n * sizeof(int32_t), err));
    VP_TRY(add_to(p, ROW, &h->row, sizeof h->row, err));
    VP_TRY(add_to(p, CHUNKS, &h->chunks, sizeof h->chunks, err));
    VP_TRY(add_to(p, UNIT, &h->unit, sizeof h->unit, err));
    VP_TRY(add_to(p, GROUP, &h->group, sizeof h->group, err));
    VP_TRY(add_to(p, ROLE, &h->role, sizeof h->role, err));
    VP_TRY(add_to(p, SCORE, &h->score, sizeof h->score, err));
    VP_TRY(add_to(p, PREFIX, &h->prefix, sizeof h->prefix, err));
    return add_to(p, HASH, h->hash, sizeof h->hash, err);
}

static int gather(vp_packer *p, const held *rows, size_t n, vp_error *err) {
    const int32_t zero = 0;
    for (size_t i = 0; i < TENSORS; i++) p->frame[i].len = 0;
    VP_TRY(add_to(p, CU, &zero, sizeof zero, err));
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

static int put_columns(vp_packer *p, vp_frame *f, const step_facts *step, const held *rows, size_t n, vp_error *err) {
    for (size_t i = 0; i < NCOLUMNS; i++) {
        const int tensor = columns[i].tensor;
        if (!wanted(&p->o, step, i)) continue;
        if (tensor < 0) {
            VP_TRY(put_strings(p, f, columns[i].name, columns[i].string, rows, n, err));
            continue;
        }
        const vp_buf *b = &p->frame[tensor];
        int64_t shape[] = {(int64_t)(b->len / vp_dtype_size(columns[i].dtype)), 16};
        if (tensor == HASH) shape[0] /= 16;
        VP_TRY(vp_frame_put(f, columns[i].name, columns[i].dtype, tensor == HASH ? 2 : 1, shape, b->data, err));
    }
    return p->source ? vp_map_set_map(f->keys, "source", p->source, err) : VP_OK;
}

static int put_keys(vp_frame *f, const step_facts *step, int64_t total, vp_error *err) {
    if (!step->in_step) return VP_OK;
    VP_TRY(vp_map_set_int(f->keys, "step", step->step, err));
    if (total) VP_TRY(vp_map_set_int(f->keys, "steps", total, err));
    VP_TRY(vp_map_set_int(f->keys, "rows", step->rows, err));
    return step->last ? vp_map_set_bool(f->keys, "last", true, err) : VP_OK;
}

static int write_frame(vp_packer *p, const step_facts *step, const held *rows, size_t n, vp_error *err) {
    VP_TRY(gather(p, rows, n, err));
    vp_frame *f = vp_frame_new(VP_FRAME_BATCH, err);
    if (!f) return err->code;
    int status = put_columns(p, f, step, rows, n, err);
    if (!status) status = put_keys(f, step, p->o.total, err);
    if (!status) status = vp_writer_batch(p->writer, f, err);
    vp_frame_free(f);
    return status;
}

int64_t vp_packer_drop(vp_packer *p) {
    const int64_t tokens = (int64_t)(p->ids.len / sizeof(int32_t));
    p->rows.len = p->strings.len = p->ids.len = p->keep.len = p->word.len = 0;
    return tokens;
}

int vp_packer_flush(vp_packer *p, vp_error *err) {
    held *rows = (held *)(void *)p->rows.data;
    size_t n = p->rows.len / sizeof *rows, first = 0;
    int64_t tokens = 0;
    if (n > 1) qsort(rows, n, sizeof *rows, by_length);
    for (size_t i = 0; i < n; i++) {
        if (i > first && tokens + (int64_t)rows[i].n > p->o.batch_tokens) {
            VP_TRY(write_frame(p, &(step_facts){0}, rows + first, i - first, err));
            first = i;
            tokens = 0;
        }
        tokens += (int64_t)rows[i].n;
    }
    if (first < n) VP_TRY(write_frame(p, &(step_facts){0}, rows + first, n - first, err));
    vp_packer_drop(p);
    return VP_OK;
}

/* ---- steps ---- */
static bool generates(const held *row) {
    return row->group != VP_NO_GROUP && row->role == VP_ROLE_GENERATIVE;
}

/* Rows to be generated first; they stay in order otherwise. Returns how many. */
static size_t generative_first(held *rows, held *others, size_t n) {
    size_t first = 0, rest = 0;
    for (size_t i = 0; i < n; i++)
        if (generates(&rows[i]))
            rows[first++] = rows[i];
        else
            others[rest++] = rows[i];
    if (rest) memcpy(rows + first, others, rest * sizeof *rows);
    return first;
}

static void sort_windows(held *rows, size_t n, size_t window) {
    for (size_t i = 0; i < n; i += window) qsort(rows + i, n - i < window ? n - i : window, sizeof *rows, by_length);
}

/* The order of a step's rows, those to be generated first, and their units, which no limit of frames has a part in. */
static int order_step(vp_packer *p, held *rows, size_t n, vp_error *err) {
    if (p->ids.len / sizeof(int32_t) > INT32_MAX)
        return vp_fail(err, VP_DATA, "a step of %zu tokens: more than %d", p->ids.len / sizeof(int32_t), INT32_MAX);
    int32_t *cu = vp_calloc(n + 1, sizeof *cu), *unit = vp_calloc(n + 1, sizeof *unit);
    held *others = vp_calloc(n + 1, sizeof *others);
    const bool room = cu && unit && others;
    const size_t first = room ? generative_first(rows, others, n) : 0;
    sort_windows(rows, first, (size_t)p->o.window);
    sort_windows(rows + first, n - first, (size_t)p->o.window);
    for (size_t i = 0; room && i < n; i++) cu[i + 1] = cu[i] + (int32_t)rows[i].n;
    if (room) {
        const int32_t next = vp_units_assign(cu, (int64_t)first, 0, unit);
        vp_units_assign(cu + first, (int64_t)(n - first), next, unit + first);
    }
    for (size_t i = 0; room && i < n; i++) rows[i].unit = unit[i];
    free(cu);
    free(unit);
    free(others);
    return room ? VP_OK : vp_fail_memory(err, "a step's rows", n * sizeof *rows);
}

/* Rows to be generated may stand beside examples, and need no scores then. Scores that only some rows have go: sets
 * that were mined are blended with sets that were not, and what needs scores says that there are none. */
static int describe_step(vp_packer *p, const held *rows, size_t n, int64_t number, step_facts *step, vp_error *err) {
    *step = (step_facts){.step = number, .rows = (int64_t)n, .in_step = true};
    if (!n) return VP_OK;
    const held *like = &rows[0];
    size_t alike = 0, scored = 0;
    for (size_t i = 0; i < n && generates(like); i++) like = &rows[i];
    step->examples = like->group != VP_NO_GROUP;
    for (size_t i = 0; i < n; i++) {
        if ((rows[i].group != VP_NO_GROUP) != step->examples)
            return vp_fail(err, VP_DATA, "step %lld: texts and examples of queries, or conversations, in one step",
                           (long long)number);
        if (generates(&rows[i]) != generates(like)) continue;
        alike++;
        scored += rows[i].scored;
    }
    step->scored = scored == alike;
    p->unscored += scored && !step->scored;
    return VP_OK;
}

int vp_packer_step(vp_packer *p, int64_t number, vp_error *err) {
    held *rows = (held *)(void *)p->rows.data;
    const size_t n = p->rows.len / sizeof *rows;
    step_facts step;
    VP_TRY(describe_step(p, rows, n, number, &step, err));
    VP_TRY(order_step(p, rows, n, err));
    size_t first = 0; /* of the frame, which has `held_tokens` before unit [i, end) */
    int64_t held_tokens = 0;
    for (size_t i = 0, end; i < n; i = end) {
        int64_t tokens = 0;
        for (end = i; end < n && rows[end].unit == rows[i].unit; end++) tokens += (int64_t)rows[end].n;
        const bool other = generates(&rows[i]) != generates(&rows[first]);
        if (i > first && (other || held_tokens + tokens > p->o.batch_tokens)) {
            VP_TRY(write_frame(p, &step, rows + first, i - first, err));
            first = i;
            held_tokens = 0;
        }
        held_tokens += tokens;
    }
    step.last = true;
    VP_TRY(write_frame(p, &step, rows + first, n - first, err));
    vp_packer_drop(p);
    return VP_OK;
}
