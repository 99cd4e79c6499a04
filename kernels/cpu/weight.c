/* Weights of linear: cut into column panels, each packed once for the product that multiplies it. Where a panel is cut
 * and which product takes it depends on K, N and the machine, never on how many rows will come. */
#include "kernels/cpu/cpu.h"
#include "kernels/weight_rows.h"
#include <stdlib.h>
#include <string.h>

enum { PANEL_BYTES = 448 << 10, PANEL_STEP = 64, PANEL_MAX = 384 };

/* Columns a panel: as many as leave room in a 1 MiB second-level cache for the tile beside them. */
static int64_t panel_columns(int64_t words) {
    int64_t n = PANEL_BYTES / (int64_t)sizeof(float) / words / PANEL_STEP * PANEL_STEP;
    return n < PANEL_STEP ? PANEL_STEP : n > PANEL_MAX ? PANEL_MAX : n;
}

static int check_desc(const vp_device *d, const vp_weight_desc *desc, vp_error *err) {
    const int64_t most = INT64_C(1) << 31;
    const char *name = desc->name ? desc->name : "weight";
    const bool known = desc->compute == VP_BF16 || desc->compute == VP_I8;
    if (desc->compute != VP_F32 && !(desc->rows ? known : desc->compute == VP_BF16 && d->bf16))
        return vp_fail(err, VP_BUG, "%s: this processor has no products of %s", name, vp_dtype_name(desc->compute));
    if (desc->in < 1 || desc->out < 1 || desc->in > most || desc->out > most)
        return vp_fail(err, VP_BUG, "%s: shape [%lld, %lld]", name, (long long)desc->out, (long long)desc->in);
    int64_t rows = 0;
    for (int i = 0; i < desc->nparts; i++) rows += desc->part[i].rows;
    const int64_t matrices = desc->experts ? desc->experts : 1;
    if (rows != desc->out * matrices || desc->nparts % matrices || (desc->experts && desc->bias))
        return vp_fail(err, VP_BUG, "%s: the parts have %lld rows, not %lld", name, (long long)rows,
                       (long long)(desc->out * matrices));
    return VP_OK;
}

/* Rounded up to whole cache lines. */
static size_t packed_bytes(const vp_device *d, const vp_panel *p, const vp_weight *w) {
    size_t bytes = (size_t)vp_packed_floats(d->simd, w->words, p->n) * sizeof(float);
    if (p->shape) bytes = vp_product_packed_bytes(p->shape);
    if (w->compute == VP_I8) bytes = vp_bf16_i8_bytes(w->words, p->n);
    return (bytes + 63) / 64 * 64;
}

/* ---- packing, a panel an item ---- */
typedef struct packing {
    const vp_device *device;
    const vp_weight_desc *desc;
    vp_weight *weight;
    float *rows; /* [threads, widest, words] what is packed; then, but for f32, [threads, K] a row as it was read */
    vp_failure failure;
} packing;

static int read_panel(const packing *pk, const vp_panel *p, int thread, float *rows, vp_error *err) {
    const vp_weight *w = pk->weight;
    float *line = pk->rows + vp_threads_count(pk->device->threads) * w->widest * w->words + thread * w->in;
    for (int64_t i = 0; i < p->n; i++) {
        float *row = rows + i * w->words;
        VP_TRY(vp_weight_read(pk->desc, p->first + i, w->compute == VP_F32 ? row : line, err));
        if (w->compute == VP_BF16) vp_bf16_round(line, (uint16_t *)(void *)row, w->in);
        if (w->compute != VP_I8) continue;
        int8_t *to = (int8_t *)rows + i * 2 * w->words; /* two bytes a pair, the last one's second stays 0 */
        VP_TRY(vp_weight_quantise(pk->desc, p->first + i, line, w->in, to, &w->scale[p->first + i], err));
    }
    return VP_OK;
}

static int pack_panel(packing *pk, const vp_panel *p, int thread, vp_error *err) {
    int64_t words = pk->weight->words;
    float *rows = pk->rows + (int64_t)thread * pk->weight->widest * words;
    VP_TRY(read_panel(pk, p, thread, rows, err));
    if (pk->weight->compute == VP_I8)
        vp_bf16_i8_pack((const int8_t *)rows, words, p->n, p->packed);
    else if (!p->shape)
        pk->device->simd->gemm->pack(rows, words, true, words, p->n, p->packed);
    else if (vp_product_pack(p->shape, thread, rows, p->packed))
        return vp_fail(err, VP_MEMORY, "%s: oneDNN failed to pack a weight",
                       pk->desc->name ? pk->desc->name : "weight");
    return VP_OK;
}

static void pack_item(void *ctx, int64_t item, int thread) {
    packing *pk = ctx;
    vp_error err = {0};
    if (vp_failure_before(&pk->failure, item)) return;
    if (pack_panel(pk, &pk->weight->panel[item], thread, &err)) vp_failure_set(&pk->failure, item, &err);
}

static int pack_all(vp_device *d, const vp_weight_desc *desc, vp_weight *w, vp_error *err) {
    packing pk = {.device = d, .desc = desc, .weight = w};
    int64_t each = w->widest * w->words + (w->compute == VP_F32 ? 0 : w->in);
    size_t floats = (size_t)vp_threads_count(d->threads) * (size_t)each;
    if (!(pk.rows = vp_calloc(floats, sizeof(float)))) return vp_fail_memory(err, "packing a weight", floats * 4);
    vp_failure_begin(&pk.failure);
    vp_threads_run(d->threads, w->panels, pack_item, &pk);
    free(pk.rows);
    return vp_failure_end(&pk.failure, err);
}

/* generates: the panels are narrow, work for many threads where there is one row, and a piece of a slab; the library's
 * calls would take longer than a panel of them. */
static int cut_panels(vp_device *d, vp_weight *w, bool generates, vp_error *err) {
    int64_t columns = generates ? PANEL_STEP : panel_columns(w->words),
            k = w->compute == VP_BF16 ? 2 * w->words : w->in;
    w->panels = (w->out + columns - 1) / columns;
    w->widest = w->out < columns ? w->out : columns;
    if (!(w->panel = vp_calloc((size_t)w->panels, sizeof *w->panel)))
        return vp_fail_memory(err, "weight", (size_t)w->panels * sizeof *w->panel);
    size_t total = 0;
    for (int64_t i = 0; i < w->panels; i++) {
        vp_panel *p = &w->panel[i];
        p->first = i * columns;
        p->n = w->out - p->first < columns ? w->out - p->first : columns;
        p->shape = d->product && !generates ? vp_product_find(d->product, w->compute, k, p->n) : NULL;
        size_t scratch = p->shape ? vp_product_scratch_bytes(p->shape) : 0;
        if (scratch > w->scratch) w->scratch = scratch;
        total += packed_bytes(d, p, w);
    }
    w->packed = generates ? vp_slab_take(&d->slab, total, &w->slab) : vp_pages_alloc(total);
    if (!w->packed) return vp_fail_memory(err, "weight", total);
    char *at = w->packed;
    for (int64_t i = 0; i < w->panels; at += packed_bytes(d, &w->panel[i], w), i++) w->panel[i].packed = at;
    return VP_OK;
}

/* Panels of the weight that `desc` describes. The caller holds the lock. */
static int prepare(vp_device *d, const vp_weight_desc *desc, vp_weight **out, vp_error *err) {
    vp_weight *w = *out = vp_calloc(1, sizeof *w);
    if (!w) return vp_fail_memory(err, "weight", sizeof *w);
    w->in = desc->in;
    w->out = desc->out;
    w->compute = desc->compute;
    const bool rows = desc->rows && (w->compute == VP_F32 || !d->bf16);
    w->words = w->compute == VP_F32 || rows ? w->in : vp_bf16_pairs(w->in);
    if (w->compute == VP_I8 && !(w->scale = vp_calloc((size_t)w->out, sizeof(float))))
        return vp_fail_memory(err, "weight", (size_t)w->out * sizeof(float));
    if (desc->bias) {
        size_t bytes = (size_t)w->out * sizeof(float);
        if (!(w->bias = vp_calloc(1, bytes))) return vp_fail_memory(err, "bias", bytes);
        memcpy(w->bias, desc->bias, bytes);
    }
    if (rows) return vp_weight_rows_prepare(d, desc, w, err);
    VP_TRY(cut_panels(d, w, desc->rows, err));
    return pack_all(d, desc, w, err);
}

/* ---- the transpose, for dx = dout W ---- */
typedef struct transposed {
    const float *w; /* [rows, cols] */
    int64_t rows, cols;
} transposed;

static int read_column(const void *ctx, int64_t column, float *out, vp_error *err) {
    (void)err;
    const transposed *t = ctx;
    for (int64_t i = 0; i < t->rows; i++) out[i] = t->w[i * t->cols + column];
    return VP_OK;
}

/* The transpose of what `desc` describes, packed into w->backward: made first, or already there. */
static int pack_backward(vp_device *d, const vp_weight_desc *desc, vp_weight *w, vp_error *err) {
    float *dense = vp_calloc((size_t)desc->out * (size_t)desc->in, sizeof *dense);
    if (!dense) return vp_fail_memory(err, "transposing a weight", (size_t)desc->out * (size_t)desc->in * 4);
    int status = VP_OK;
    for (int64_t i = 0; i < desc->out && !status; i++) status = vp_weight_read(desc, i, dense + i * desc->in, err);
    transposed columns = {dense, desc->out, desc->in};
    vp_weight_part part = {desc->in, read_column, &columns};
    vp_weight_desc turned = {.part = &part, .nparts = 1, .in = desc->out, .out = desc->in, .compute = desc->compute};
    turned.name = desc->name;
    if (!status) status = w->backward ? pack_all(d, &turned, w->backward, err) : prepare(d, &turned, &w->backward, err);
    free(dense);
    return status;
}

int vp_cpu_weight_prepare(vp_device *d, const vp_weight_desc *desc, vp_weight **out, vp_error *err) {
    VP_TRY(check_desc(d, desc, err));
    if (desc->experts) return vp_experts_prepare(d, desc, out, err);
    vp_weight *w = NULL;
    pthread_mutex_lock(&d->prepare);
    int status = prepare(d, desc, &w, err);
    if (!status && desc->backward) status = pack_backward(d, desc, w, err);
    pthread_mutex_unlock(&d->prepare);
    if (status) {
        vp_cpu_weight_free(d, w);
        return status;
    }
    *out = w;
    return VP_OK;
}

int vp_cpu_weight_update(vp_queue *q, vp_weight *w, const vp_weight_desc *desc) {
    vp_error err = {0};
    const char *name = desc->name ? desc->name : "weight";
    int status = check_desc(q->device, desc, &err);
    if (!status && (desc->in != w->in || desc->out != w->out || !desc->bias != !w->bias))
        status = vp_fail(&err, VP_BUG, "%s: an update of another shape, [%lld, %lld] instead of [%lld, %lld]", name,
                         (long long)desc->out, (long long)desc->in, (long long)w->out, (long long)w->in);
    if (!status && (desc->experts || w->expert)) return vp_experts_update(q, w, desc);
    if (!status && (desc->compute != w->compute || (desc->backward && !w->backward) || w->row || desc->rows))
        status = vp_fail(&err, VP_BUG, "%s: the weight is packed for another type, or for forward only", name);
    if (!status && w->bias) memcpy(w->bias, desc->bias, (size_t)w->out * sizeof *w->bias);
    if (!status) status = pack_all(q->device, desc, w, &err);
    if (!status && w->backward) status = pack_backward(q->device, desc, w, &err);
    return status ? vp_queue_fail(q, status, "%s", err.text) : VP_OK;
}

void vp_cpu_weight_free(vp_device *d, vp_weight *w) {
    if (!w) return;
    vp_cpu_weight_free(d, w->backward);
    for (int32_t e = 0; e < w->experts; e++) vp_cpu_weight_free(d, w->expert[e]);
    free(w->expert);
    if (!w->slab) free(w->packed);
    vp_slab_drop(w->slab);
    free(w->panel);
    free(w->bias);
    free(w->scale);
    free(w);
}
