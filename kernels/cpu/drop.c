/* Dropout of what lies in a batch (drop.h), and the operation `dropout`. */
#include "kernels/cpu/drop.h"
#include "kernels/dropout.h"

int vp_dropper_make(vp_queue *q, const char *what, const vp_drop *drop, const vp_batch *batch, int64_t tokens,
                    vp_dropper *d) {
    *d = (vp_dropper){.simd = q->device->simd, .batch = batch, .drop = *drop};
    if (drop->p == 0.0f) return VP_OK;
    if (!(drop->p > 0.0f && drop->p < 1.0f) || vp_drop_threshold(drop->p) > 0xffff)
        return vp_queue_fail(q, VP_BUG, "%s: dropout of %g", what, (double)drop->p);
    if (drop->site >= VP_DROP_SITES || drop->layer >= VP_DROP_LAYERS)
        return vp_queue_fail(q, VP_BUG, "%s: dropout at site %u of layer %u", what, drop->site, drop->layer);
    if (!batch || !batch->row || !batch->cu_q || batch->cu_q[0] != 0 || batch->cu_q[batch->B] != tokens)
        return vp_queue_fail(q, VP_BUG, "%s: dropout needs the rows of sequences that span the tokens", what);
    for (int64_t b = 0; b < batch->B; b++) {
        int64_t n = batch->cu_q[b + 1] - batch->cu_q[b];
        if (n < 0 || n > VP_DROP_QUERIES)
            return vp_queue_fail(q, VP_BUG, "%s: dropout of a sequence of %lld tokens", what, (long long)n);
    }
    d->threshold = vp_drop_threshold(drop->p);
    d->scale = vp_drop_scale(d->threshold);
    d->simd->drop->begin(&d->key, drop->seed);
    d->on = true;
    return VP_OK;
}

static void drop_run(const vp_dropper *d, int64_t row, int64_t index, const float *x, int64_t n, float *out) {
    enum { RUN = 512 };
    uint8_t bits[RUN / VP_DROP_LANES + 3] = {0};
    uint32_t counter[4] = {0, (uint32_t)row, d->drop.step, vp_drop_place(d->drop.layer, d->drop.site, 0)};
    for (int64_t i = 0; i < n; i += RUN) {
        int64_t part = n - i < RUN ? n - i : RUN, skip = (index + i) % VP_DROP_LANES;
        counter[0] = (uint32_t)((index + i) / VP_DROP_LANES);
        d->simd->drop->keep(bits, (skip + part + VP_DROP_LANES - 1) / VP_DROP_LANES, counter, &d->key, d->threshold);
        d->simd->drop->apply(x + i, out + i, part, bits, skip, d->scale);
    }
}

void vp_drop_rows(const vp_dropper *d, const vp_drop_part *part, const float *x, int64_t ldx, float *out, int64_t ldo) {
    const vp_batch *batch = d->batch;
    int64_t b = vp_drop_sequence(batch->cu_q, batch->B, part->first);
    for (int64_t i = 0; i < part->rows; i++) {
        while (batch->cu_q[b + 1] <= part->first + i) b++;
        int64_t token = part->first + i - batch->cu_q[b];
        drop_run(d, batch->row[b], token * part->width + part->column, x + i * ldx, part->columns, out + i * ldo);
    }
}

void vp_drop_keys(const vp_dropper *d, int64_t sequence, int64_t head, int64_t query, int64_t key, int64_t n,
                  vp_drop_bits *bits) {
    uint32_t counter[4] = {(uint32_t)query << 16 | (uint32_t)key / VP_DROP_LANES, (uint32_t)d->batch->row[sequence],
                           d->drop.step, vp_drop_place(d->drop.layer, d->drop.site, (uint32_t)head)};
    d->simd->drop->keep(bits->bits, (n + VP_DROP_LANES - 1) / VP_DROP_LANES, counter, &d->key, d->threshold);
}

/* ---- dropout: out = drop(x); its backward is the same of the gradient ---- */
typedef struct drop_job {
    const vp_elem_op *op;
    vp_dropper drop;
} drop_job;

static void drop_chunk(void *ctx, int64_t first, int64_t last, int thread) {
    (void)thread;
    const drop_job *j = ctx;
    const vp_elem_op *op = j->op;
    if (j->drop.on) {
        vp_drop_part part = {first, last - first, op->x.cols, 0, op->x.cols};
        vp_drop_rows(&j->drop, &part, vp_row(&op->x, first), op->x.ld, vp_row(&op->out, first), op->out.ld);
        return;
    }
    for (int64_t t = first; t < last; t++)
        j->drop.simd->rows->axpby(1.0f, vp_row(&op->x, t), 0.0f, NULL, vp_row(&op->out, t), op->x.cols);
}

int vp_cpu_dropout(vp_queue *q, const vp_elem_op *op) {
    VP_TRY(vp_check_mat(q, "dropout.x", &op->x, VP_F32, op->out.rows, op->out.cols));
    VP_TRY(vp_check_mat(q, "dropout.out", &op->out, VP_F32, op->out.rows, op->out.cols));
    drop_job j = {.op = op};
    VP_TRY(vp_dropper_make(q, "dropout", &op->drop, op->batch, op->x.rows, &j.drop));
    vp_rows(q, op->x.rows, vp_grain(4 * op->x.cols), drop_chunk, &j);
    return VP_OK;
}
