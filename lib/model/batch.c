/* From a frame's columns to micro-batches of whole sequences: checks against the model, offsets, positions, attention
 * tiles. */
#include "lib/model/encoder.h"
#include <stdlib.h>
#include <string.h>

enum { TILE_ROWS = 64 }; /* query rows of an attention tile */

/* ---- reading and checking a frame ---- */

int64_t vp_frame_ordinal(const vp_frame *f, int64_t b) {
    const vp_column *row = vp_frame_find(f, "row");
    int64_t value = b;
    if (row && !row->is_values && row->dtype == VP_I64 && b < (int64_t)(row->bytes / sizeof value))
        memcpy(&value, row->data + (size_t)b * sizeof value, sizeof value);
    return value;
}

static int check_sequence(vp_sequences *s, const vp_config *c, const vp_frame *f, int64_t b, bool own, vp_error *err) {
    int64_t n = s->cu[b + 1] - s->cu[b];
    if (own && n > c->positions)
        return vp_frame_fail(
            f, VP_DATA, err, "row %lld has %lld tokens, the model has %lld positions: cut it with tok --max-len %lld",
            (long long)vp_frame_ordinal(f, b), (long long)n, (long long)c->positions, (long long)c->positions);
    for (int32_t t = s->cu[b]; t < s->cu[b + 1]; t++) {
        if (own) s->pos[t] = t - s->cu[b];
        if (s->ids[t] < 0 || s->ids[t] >= c->vocab)
            return vp_frame_fail(f, VP_DATA, err, "row %lld has token %d, the model has tokens below %lld",
                                 (long long)vp_frame_ordinal(f, b), (int)s->ids[t], (long long)c->vocab);
        if (s->pos[t] < 0 || s->pos[t] >= c->positions)
            return vp_frame_fail(f, VP_DATA, err, "row %lld has position %d, the model has positions below %lld",
                                 (long long)vp_frame_ordinal(f, b), (int)s->pos[t], (long long)c->positions);
        if (s->pos[t] > s->top) s->top = s->pos[t];
    }
    if (s->prefix && (s->prefix[b] < 0 || s->prefix[b] > n))
        return vp_frame_fail(f, VP_DATA, err, "row %lld has a prefix of %d of its %lld tokens",
                             (long long)vp_frame_ordinal(f, b), (int)s->prefix[b], (long long)n);
    return VP_OK;
}

static int check_offsets(const vp_sequences *s, int64_t offsets, const vp_frame *f, vp_error *err) {
    bool good = s->cu && s->cu[0] == 0 && offsets == s->B + 1;
    for (int64_t b = 0; good && b < s->B; b++) good = s->cu[b] <= s->cu[b + 1];
    if (good && s->cu[s->B] == s->T) return VP_OK;
    return vp_frame_fail(f, VP_DATA, err, "cu does not divide the %lld tokens into rows", (long long)s->T);
}

static int read_seg(vp_sequences *s, const vp_frame *f, bool required, vp_error *err) {
    const vp_column *seg = vp_frame_find(f, "seg");
    if (!seg && required) return vp_frame_fail(f, VP_DATA, err, "attention by segments needs the column seg");
    if (!seg) return VP_OK;
    VP_TRY(vp_frame_need(f, "seg", VP_U8, 1, &s->T, &seg, err));
    s->seg = vp_calloc((size_t)s->T, 1);
    if (!s->seg) return vp_fail_memory(err, "segments", (size_t)s->T);
    memcpy(s->seg, seg->data, (size_t)s->T);
    return VP_OK;
}

/* Rows and step count dropout's random numbers; units order the sums of gradients. */
static int read_training(vp_sequences *s, const vp_train_options *o, const vp_frame *f, vp_error *err) {
    const bool drops = o->lora_dropout > 0 || o->attention_dropout > 0 || o->hidden_dropout > 0;
    const vp_column *row = vp_frame_find(f, "row");
    const int64_t step = vp_map_int(f->keys, "step", drops ? -1 : 0);
    int64_t units = 0;
    if (step < 0 || step > UINT32_MAX || (drops && !row))
        return vp_frame_fail(f, VP_DATA, err, "dropout counts by key step and column row, which tok --batch makes");
    s->step = (uint32_t)step;
    if (row) {
        VP_TRY(vp_frame_need(f, "row", VP_I64, 1, &s->B, &row, err));
        s->row = vp_calloc((size_t)s->B, sizeof *s->row);
        if (!s->row) return vp_fail_memory(err, "rows", (size_t)s->B * sizeof *s->row);
        memcpy(s->row, row->data, (size_t)s->B * sizeof *s->row);
    }
    VP_TRY(vp_frame_ints(f, "unit", &s->unit, &units, err));
    return s->unit && units != s->B ? vp_frame_fail(f, VP_DATA, err, "unit does not fit cu") : VP_OK;
}

int vp_sequences_read(vp_sequences *s, const vp_encoder *e, const vp_frame *f, vp_error *err) {
    int64_t offsets = 0, positions = 0, prefixes = 0;
    *s = (vp_sequences){0};
    VP_TRY(vp_frame_ints(f, "ids", &s->ids, &s->T, err));
    VP_TRY(vp_frame_ints(f, "cu", &s->cu, &offsets, err));
    if (!s->ids || !s->cu || offsets < 1) return vp_frame_fail(f, VP_DATA, err, "no column %s", s->ids ? "cu" : "ids");
    s->B = offsets - 1;
    VP_TRY(check_offsets(s, offsets, f, err));
    VP_TRY(vp_frame_ints(f, "pos", &s->pos, &positions, err));
    VP_TRY(vp_frame_ints(f, "prefix", &s->prefix, &prefixes, err));
    bool own = s->pos == NULL;
    if ((!own && positions != s->T) || (s->prefix && prefixes != s->B))
        return vp_frame_fail(f, VP_DATA, err, "pos or prefix does not fit ids and cu");
    if (own) s->pos = vp_calloc((size_t)s->T, sizeof *s->pos);
    if (!s->pos) return vp_fail_memory(err, "positions", (size_t)s->T * sizeof *s->pos);
    VP_TRY(read_seg(s, f, e->segments, err));
    VP_TRY(vp_frame_generates(f, &s->causal, err));
    if (e->training) VP_TRY(read_training(s, &e->training->options, f, err));
    for (int64_t b = 0; b < s->B; b++) VP_TRY(check_sequence(s, &e->model->config, f, b, own, err));
    return VP_OK;
}

void vp_sequences_free(vp_sequences *s) {
    free(s->ids);
    free(s->cu);
    free(s->pos);
    free(s->prefix);
    free(s->seg);
    free(s->row);
    free(s->unit);
    *s = (vp_sequences){0};
}

int64_t vp_sequences_cut(const vp_sequences *s, int64_t b, int64_t tokens) {
    int64_t end = b + 1;
    while (end < s->B && s->cu[end + 1] - s->cu[b] <= tokens) end++;
    return end;
}

/* ---- small micro-batches ---- */

/* A layer is some ten launches, and as many products of its T tokens with a matrix [C, C]. One of 2^27 multiply-adds
 * takes an H100 about 5 us at the 60 TFLOP/s that it has for f32, and a launch takes the host about as long (reckoned,
 * not measured; bf16 is faster, and its limit would be higher). Larger passes gain nothing, and lose by rows that are
 * added. For models of width 576 it is 404 tokens. */
static const int64_t SMALL_PASS = (int64_t)1 << 27;

bool vp_batch_small(const vp_encoder *e, int64_t T) {
    const int64_t width = e->model->config.width;
    return e->on.ops->repeat && !e->training && T <= SMALL_PASS / (width * width);
}

/* The next of 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, ...: at most a quarter more, from 64 on. */
static int64_t next_size(int64_t T) {
    int64_t step = 16;
    while (8 * step < T) step *= 2;
    return (T + step - 1) / step * step;
}

int64_t vp_batch_rows(const vp_encoder *e, int64_t T) {
    return vp_batch_small(e, T) ? next_size(T) : T;
}

/* ---- a micro-batch on the device ---- */

typedef struct by_length {
    int32_t length, sequence;
} by_length;

static int longest_first(const void *pa, const void *pb) {
    const by_length *a = pa, *b = pb;
    if (a->length != b->length) return a->length < b->length ? 1 : -1;
    return a->sequence < b->sequence ? -1 : 1;
}

/* Tiles of every sequence, the longest sequences first, so that no thread ends with the longest work. `same`: as many
 * of them, and as long a longest sequence, as any batch of these B and T can have. Caller frees. */
static int build_tiles(const int32_t *cu, bool same, vp_batch *batch, vp_tile **out, vp_error *err) {
    by_length *order = vp_calloc((size_t)batch->B, sizeof *order);
    if (!order) return vp_fail_memory(err, "attention tiles", (size_t)batch->B * sizeof *order);
    for (int64_t b = 0; b < batch->B; b++) {
        order[b] = (by_length){cu[b + 1] - cu[b], (int32_t)b};
        batch->ntiles += (order[b].length + TILE_ROWS - 1) / TILE_ROWS;
        if (order[b].length > batch->longest) batch->longest = order[b].length;
    }
    qsort(order, (size_t)batch->B, sizeof *order, longest_first);
    if (same) {
        batch->ntiles = batch->T / TILE_ROWS + batch->B;
        batch->longest = (int32_t)batch->T;
    }
    vp_tile *tiles = *out = vp_calloc((size_t)batch->ntiles, sizeof *tiles);
    int64_t at = 0;
    for (int64_t b = 0; tiles && b < batch->B; b++) {
        for (int32_t first = 0; first < order[b].length; first += TILE_ROWS) {
            int32_t left = order[b].length - first;
            tiles[at++] = (vp_tile){order[b].sequence, first, left < TILE_ROWS ? left : TILE_ROWS};
        }
    }
    free(order);
    return tiles ? VP_OK : vp_fail_memory(err, "attention tiles", (size_t)batch->ntiles * sizeof *tiles);
}

typedef struct column { /* of the batch: n items from the first on, then zeros; data NULL: there is none */
    const void *data;
    int64_t first, n, room;
    size_t size;
    const void *device;
} column;

/* All columns in one copy: each begins at a multiple of 256 bytes of it. */
static int upload_columns(vp_encoder *e, column *c, size_t n, vp_error *err) {
    enum { ALIGN = 256 };
    size_t total = 0;
    const void *device;
    for (size_t i = 0; i < n; i++)
        if (c[i].data) total += ((size_t)c[i].room * c[i].size + ALIGN - 1) / ALIGN * ALIGN;
    char *host = vp_calloc(total, 1);
    if (!host) return vp_fail_memory(err, "a micro-batch", total);
    for (size_t i = 0, at = 0; i < n; i++) {
        const size_t bytes = (size_t)c[i].n * c[i].size;
        if (!c[i].data) continue;
        if (bytes) memcpy(host + at, (const char *)c[i].data + (size_t)c[i].first * c[i].size, bytes);
        at += ((size_t)c[i].room * c[i].size + ALIGN - 1) / ALIGN * ALIGN;
    }
    const int status = vp_encoder_upload(e, host, total, &device, err);
    free(host);
    for (size_t i = 0, at = 0; !status && i < n; i++) {
        if (!c[i].data) continue;
        c[i].device = (const char *)device + at;
        at += ((size_t)c[i].room * c[i].size + ALIGN - 1) / ALIGN * ALIGN;
    }
    return status;
}

static int upload(vp_encoder *e, const vp_sequences *s, int64_t b0, int64_t b1, const int32_t *cu, const vp_tile *tiles,
                  vp_batch *batch, const int32_t **ids, vp_error *err) {
    const int64_t t0 = s->cu[b0], t = s->cu[b1] - t0, b = b1 - b0, T = batch->T, B = batch->B;
    enum { CU, TILES, IDS, POS, SEG, PREFIX, ROW, UNIT, COLUMNS };
    column c[COLUMNS] = {
        [CU] = {cu, 0, B + 1, B + 1, sizeof *cu},   [TILES] = {tiles, 0, batch->ntiles, batch->ntiles, sizeof *tiles},
        [IDS] = {s->ids, t0, t, T, sizeof *s->ids}, [POS] = {s->pos, t0, t, T, sizeof *s->pos},
        [SEG] = {s->seg, t0, t, T, sizeof *s->seg}, [PREFIX] = {s->prefix, b0, b, B, sizeof *s->prefix},
        [ROW] = {s->row, b0, b, B, sizeof *s->row}, [UNIT] = {s->unit, b0, b, B, sizeof *s->unit}};
    VP_TRY(upload_columns(e, c, COLUMNS, err));
    batch->cu_q = batch->cu_k = c[CU].device;
    batch->tiles = c[TILES].device;
    *ids = c[IDS].device;
    batch->pos = c[POS].device;
    batch->seg = c[SEG].device;
    batch->prefix = c[PREFIX].device;
    batch->row = c[ROW].device;
    batch->unit = c[UNIT].device;
    return VP_OK;
}

/* A power of 2, so that a number of sequences comes again; more than n, for the one of the rows that are added. */
static int64_t next_count(int64_t n) {
    int64_t count = 1;
    while (count <= n) count *= 2;
    return count;
}

int vp_batch_build(vp_encoder *e, const vp_sequences *s, int64_t b0, int64_t b1, int64_t rows, vp_batch *batch,
                   const int32_t **ids, vp_error *err) {
    const int64_t t0 = s->cu[b0], n = b1 - b0;
    vp_tile *tiles = NULL;
    *batch = (vp_batch){.B = n, .T = s->cu[b1] - t0, .causal = s->causal};
    if (rows) {
        batch->B = next_count(n);
        batch->T = rows;
    }
    int32_t *cu = vp_calloc((size_t)batch->B + 1, sizeof *cu);
    if (!cu) return vp_fail_memory(err, "offsets", (size_t)batch->B * sizeof *cu);
    for (int64_t b = 0; b <= batch->B; b++) cu[b] = (int32_t)(b <= n ? s->cu[b0 + b] - t0 : batch->T);
    int status = build_tiles(cu, rows > 0, batch, &tiles, err);
    if (!status) status = upload(e, s, b0, b1, cu, tiles, batch, ids, err);
    free(tiles);
    free(cu);
    return status;
}
