/* The table of kinds, and what all have in common: a step is gathered as one batch, changed, and cut into frames at the
 * borders of gradient units. */
#include "kernels/ops.h"
#include "lib/base/philox.h"
#include "lib/stream/private.h"
#include "lib/train/mask_kinds.h"
#include <stdlib.h>
#include <string.h>

typedef int rows_of(vp_mask *, const vp_step *, vp_error *);
typedef int columns_of(vp_mask *, const vp_step *, vp_frame *, vp_error *);
static const struct kind {
    const char *name;
    rows_of *rows;
    columns_of *columns;
    bool tokenizer;      /* needed */
    bool reforms;        /* other rows than before: gradient units are assigned anew */
    const char *adds[6]; /* columns */
} kinds[] = {
    {"mntp", vp_mask_rows_all, vp_mask_columns_mntp, true, false, {"target"}},
    {"simcse", vp_mask_rows_twice, vp_mask_columns_views, false, true, {"group", "view"}},
    {"pairs", vp_mask_rows_pairs, NULL, false, true, {NULL}},
    {"generate", vp_mask_rows_all, vp_mask_columns_generate, false, false, {"target", "weight"}},
    {"grit", vp_mask_rows_grit, vp_mask_columns_grit, false, true, {"target", "weight"}},
    {"kto", vp_mask_rows_kto, vp_mask_columns_kto, false, true, {"target", "weight", "view"}},
    {"llara", vp_mask_rows_llara, vp_mask_columns_llara, true, true, {"pos", "seg", "target", "weight", "bag"}},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static const struct kind *find_kind(const char *name) {
    for (size_t i = 0; i < KINDS; i++)
        if (strcmp(kinds[i].name, name) == 0) return &kinds[i];
    return NULL;
}

bool vp_mask_needs_tokenizer(const char *kind) {
    const struct kind *k = find_kind(kind);
    return k && k->tokenizer;
}

/* ---- opening ---- */
static int find_mask_token(vp_mask *m, const char *name, const vp_tokenizer *t, vp_error *err) {
    const size_t n = strlen(name);
    int64_t id = 0;
    if (strcmp(name, "auto") == 0) {
        id = vp_tokenizer_mask(t) >= 0 ? vp_tokenizer_mask(t) : vp_tokenizer_find(t, "_", 1);
    } else if (n && strspn(name, "0123456789") == n) {
        for (size_t i = 0; i < n && id < m->vocab; i++) id = 10 * id + (name[i] - '0');
    } else {
        id = vp_tokenizer_find(t, name, n);
    }
    if (id < 0 || id >= m->vocab)
        return vp_fail(err, VP_USAGE, "mask token '%s': not in the vocabulary of %lld", name, (long long)m->vocab);
    m->mask_id = (int32_t)id;
    return VP_OK;
}

static int open_vocabulary(vp_mask *m, const vp_mask_options *o, const vp_tokenizer *t, vp_error *err) {
    m->vocab = vp_tokenizer_vocab(t);
    m->special = vp_calloc((size_t)m->vocab + 1, 1);
    if (!m->special) return vp_fail_memory(err, "a vocabulary", (size_t)m->vocab);
    for (int32_t id = 0; id < m->vocab; id++) m->special[id] = vp_tokenizer_is_special(t, id);
    if (strcmp(o->kind, "llara") == 0) return vp_mask_llara_open(m, o->prompt, t, err);
    return find_mask_token(m, o->mask_token, t, err);
}

int vp_mask_open(vp_mask **out, const vp_mask_options *o, const vp_tokenizer *t, vp_error *err) {
    const struct kind *kind = find_kind(o->kind);
    if (!kind) return vp_fail(err, VP_USAGE, "'%s': the kinds are " VP_MASK_KINDS, o->kind);
    vp_mask *m = vp_calloc(1, sizeof *m);
    if (!m) return vp_fail_memory(err, "a mask", sizeof *m);
    m->o = *o;
    m->o.kind = kind->name;
    m->o.mask_token = m->o.prompt = NULL;
    const int status = kind->tokenizer ? open_vocabulary(m, o, t, err) : VP_OK;
    if (status) {
        vp_mask_close(m);
        return status;
    }
    *out = m;
    return VP_OK;
}

void vp_mask_close(vp_mask *m) {
    if (!m) return;
    vp_mask_llara_close(m);
    free(m->special);
    free(m->row);
    free(m->number);
    free(m);
}

static int describe_kind(const vp_mask *m, vp_map *mask, vp_map *header, vp_error *err) {
    static const char *const fills[] = {"bert", "all"}, *const reduces[] = {"token", "sample", "mixed"};
    const vp_mask_options *o = &m->o;
    VP_TRY(vp_map_set_str(mask, "kind", o->kind, err));
    if (strcmp(o->kind, "mntp") == 0) {
        VP_TRY(vp_map_set_real(mask, "rate", o->rate, err));
        VP_TRY(vp_map_set_str(mask, "fill", fills[o->fill], err));
        VP_TRY(vp_map_set_int(mask, "token", m->mask_id, err));
        return vp_map_set_int(mask, "seed", (int64_t)o->seed, err);
    }
    if (m->llara) return vp_mask_llara_describe(m, mask, header, err);
    if (!strcmp(o->kind, "pairs") || !strcmp(o->kind, "grit")) {
        VP_TRY(vp_map_set_int(mask, "negatives", o->negatives, err));
        VP_TRY(vp_map_set_int(mask, "seed", (int64_t)o->seed, err));
    }
    if (strcmp(o->kind, "generate") != 0 && strcmp(o->kind, "grit") != 0) return VP_OK;
    VP_TRY(vp_map_set_str(mask, "reduce", reduces[o->reduce], err));
    if (o->prefix) VP_TRY(vp_map_set_bool(mask, "prefix_lm", true, err));
    return o->reduce == VP_REDUCE_MIXED ? vp_map_set_int(mask, "groups", o->groups, err) : VP_OK;
}

int vp_mask_describe(const vp_mask *m, vp_map *header, vp_error *err) {
    const struct kind *kind = find_kind(m->o.kind);
    vp_map *mask = vp_map_new();
    int status = mask ? describe_kind(m, mask, header, err) : vp_fail_memory(err, "a map", 1);
    if (!status) status = vp_map_set_map(header, "mask", mask, err);
    vp_map_free(mask);
    for (size_t i = 0; !status && i < 6 && kind->adds[i]; i++) {
        const vp_schema *schema = vp_schema_find(kind->adds[i]);
        status = vp_header_declare(header, schema->name, schema->dtype, schema->shape, err);
    }
    if (!status && m->o.prefix) status = vp_header_declare(header, "prefix", "I32", "B", err);
    return status ? status : vp_header_declare(header, "unit", "I32", "B", err);
}

/* ---- what the kinds call ---- */
void vp_mask_draw(const vp_mask *m, int64_t step, uint32_t c0, uint32_t c1, uint32_t word[4]) {
    const uint32_t counter[4] = {c0, c1, (uint32_t)step, (uint32_t)VP_SITE_MASKING << 14};
    vp_philox(word, counter, m->o.seed);
}

int vp_mask_take(vp_mask *m, vp_frame_row at, int64_t number, vp_error *err) {
    VP_TRY(vp_grow(&m->row, &m->cap, m->rows, sizeof *m->row, "a step's rows", err));
    VP_TRY(vp_grow(&m->number, &m->numbers_cap, m->rows, sizeof *m->number, "a step's rows", err));
    m->row[m->rows] = at;
    m->number[m->rows++] = number;
    return VP_OK;
}

void *vp_mask_put(vp_frame *f, const char *name, vp_dtype dtype, int64_t n, vp_error *err) {
    void *data = vp_frame_alloc(f, (size_t)n * vp_dtype_size(dtype), err);
    return !data || vp_frame_put(f, name, dtype, 1, &n, data, err) ? NULL : data;
}

/* ---- a step ---- */
/* Units are of generative rows, the first `generative`, or of others. */
static int put_units(vp_frame *f, int64_t generative, vp_error *err) {
    int32_t *cu, *unit = vp_mask_put(f, "unit", VP_I32, f->B, err);
    if (!unit) return err->code;
    VP_TRY(vp_frame_ints(f, "cu", &cu, NULL, err));
    if (!cu) return vp_frame_fail(f, VP_DATA, err, "no column 'cu'");
    const int32_t next = vp_units_assign(cu, generative, 0, unit);
    vp_units_assign(cu + generative, f->B - generative, next, unit + generative);
    free(cu);
    return VP_OK;
}

static int put_numbers(const vp_mask *m, vp_frame *f, vp_error *err) {
    int64_t *row = vp_mask_put(f, "row", VP_I64, f->B, err);
    if (!row) return err->code;
    if (m->rows) memcpy(row, m->number, m->rows * sizeof *row);
    return VP_OK;
}

static int write_rows(vp_writer *w, const vp_frame *f, int64_t from, int64_t to, vp_error *err) {
    vp_frame *part;
    VP_TRY(vp_frame_slice(f, from, to, &part, err));
    const int status = vp_writer_batch(w, part, err);
    vp_frame_free(part);
    return status;
}

/* The frames: as many whole units as fit, of generative rows, the first `generative`, or of others. */
static int write_frames(const vp_mask *m, const vp_frame *f, int64_t generative, vp_writer *w, vp_error *err) {
    const vp_column *unit, *cu;
    VP_TRY(vp_frame_need(f, "unit", VP_I32, 1, NULL, &unit, err));
    VP_TRY(vp_frame_need(f, "cu", VP_I32, 1, NULL, &cu, err));
    int64_t first = 0;
    for (int64_t b = 0, end; b < f->B; b = end) {
        for (end = b + 1; end < f->B && vp_column_i32(unit, end) == vp_column_i32(unit, b);) end++;
        const bool full = vp_column_i32(cu, end) - vp_column_i32(cu, first) > m->o.batch_tokens;
        if (b > first && (full || b == generative)) {
            VP_TRY(write_rows(w, f, first, b, err));
            first = b;
        }
    }
    return write_rows(w, f, first, f->B, err);
}

static int make_step(vp_mask *m, const struct kind *kind, const vp_step *step, vp_frame *f, vp_error *err) {
    m->weight_sum = -1;
    VP_TRY(put_numbers(m, f, err));
    if (kind->columns) VP_TRY(kind->columns(m, step, f, err));
    if (kind->reforms || !step->units) VP_TRY(put_units(f, step->generative, err));
    VP_TRY(vp_map_set_int(f->keys, "step", step->step, err));
    if (step->total) VP_TRY(vp_map_set_int(f->keys, "steps", step->total, err));
    VP_TRY(vp_map_set_int(f->keys, "rows", f->B, err));
    VP_TRY(vp_map_set_bool(f->keys, "last", true, err)); /* cutting leaves it on the last frame alone */
    return m->weight_sum < 0 ? VP_OK : vp_map_set_real(f->keys, "weight_sum", m->weight_sum, err);
}

int vp_mask_step(vp_mask *m, const vp_step *step, vp_writer *w, vp_error *err) {
    const struct kind *kind = find_kind(m->o.kind);
    vp_frame *f;
    m->rows = 0;
    VP_TRY(kind->rows(m, step, err));
    VP_TRY(vp_frames_gather(step->frame, step->frames, m->row, (int64_t)m->rows, &f, err));
    int status = make_step(m, kind, step, f, err);
    if (!status) status = write_frames(m, f, step->generative, w, err);
    m->all_rows += f->B;
    m->all_tokens += f->T;
    vp_frame_free(f);
    return status;
}

int vp_mask_end(const vp_mask *m, vp_map *end, vp_error *err) {
    VP_TRY(vp_map_set_int(end, "rows", m->all_rows, err));
    return vp_map_set_int(end, "tokens", m->all_tokens, err);
}
