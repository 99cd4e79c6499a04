/* How a weight comes to the device: rows are read by several threads of the host, as f32, into a slab of pinned memory
 * in the type that they will have, and copied slab by slab. */
#include "kernels/cuda/weight.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/product.h"
#include "lib/base/half.h"
#include <mutex>
#include <stdlib.h>
#include <thread>
#include <vector>
extern "C" {
#include "kernels/weight_rows.h"
}

static const size_t SLAB_BYTES = (size_t)16 << 20, THREAD_BYTES = (size_t)1 << 20;
static const unsigned MOST_THREADS = 8;

static const char *name_of(const vp_weight_desc *desc) {
    return desc->name ? desc->name : "weight";
}

static int check_desc(const vp_device *d, const vp_weight_desc *desc, vp_error *err) {
    const int64_t most = INT64_C(1) << 31;
    const vp_dtype type = desc->compute;
    const bool f8 = type == VP_F8 && !desc->rows && !desc->backward && vp_has_f8(d);
    if (type != VP_F32 && type != VP_BF16 && !f8 && !(desc->rows && type == VP_I8))
        return vp_fail(err, VP_BUG, "%s: this device has no products of %s", name_of(desc), vp_dtype_name(type));
    if (desc->rows && desc->backward) return vp_fail(err, VP_BUG, "weights row by row have no backward pass");
    if (desc->in < 1 || desc->out < 1 || desc->in > most || desc->out > most)
        return vp_fail(err, VP_BUG, "%s: shape [%lld, %lld]", name_of(desc), (long long)desc->out, (long long)desc->in);
    int64_t rows = 0;
    for (int i = 0; i < desc->nparts; i++) rows += desc->part[i].rows;
    const int64_t all = desc->experts ? desc->out * desc->experts : desc->out;
    if (rows != all || (desc->experts && desc->bias))
        return vp_fail(err, VP_BUG, "%s: the parts have %lld rows, not %lld", name_of(desc), (long long)rows,
                       (long long)all);
    return VP_OK;
}

/* ---- reading ---- */
struct weight_slab {
    const vp_weight_desc *desc;
    char *data; /* [rows, ld] of desc->compute */
    int64_t ld;
    std::vector<float> scale; /* [rows] */
    int64_t first, rows;
};

/* VP_DATA: x is not finite */
static int pack_f8(const float *x, int64_t n, uint8_t *codes, int64_t ld, float *scale) {
    const float most = vp_row_largest(x, n);
    if (!isfinite(most)) return VP_DATA;
    const vp_f8_scale s = vp_f8_scale_of(most);
    for (int64_t i = 0; i < ld; i++) codes[i] = i < n ? (uint8_t)vp_f8_bits(x[i] * s.by) : 0;
    *scale = s.scale;
    return VP_OK;
}

static int read_row(weight_slab *s, int64_t row, float *line, vp_error *err) {
    const vp_weight_desc *desc = s->desc;
    const int64_t in = desc->in;
    char *to = s->data + (size_t)(row * s->ld) * vp_dtype_size(desc->compute);
    if (desc->compute == VP_F32) return vp_weight_read(desc, s->first + row, (float *)to, err);
    VP_TRY(vp_weight_read(desc, s->first + row, line, err));
    for (int64_t i = 0; desc->compute == VP_BF16 && i < in; i++) ((uint16_t *)to)[i] = vp_float_bf16(line[i]);
    float *scale = &s->scale[(size_t)row];
    if ((desc->compute == VP_I8 && vp_quantise_row(line, in, (int8_t *)to, scale)) ||
        (desc->compute == VP_F8 && pack_f8(line, in, (uint8_t *)to, s->ld, scale)))
        return vp_fail(err, VP_DATA, "%s: row %lld has a weight that is not finite", name_of(desc),
                       (long long)(s->first + row));
    return VP_OK;
}

/* Of a slab's rows, those of one thread, up to the first that fails. */
static void read_rows(weight_slab *s, int64_t first, int64_t last, vp_error *err) {
    std::vector<float> line((size_t)s->desc->in);
    for (int64_t r = first; r < last && !err->code; r++) read_row(s, r, line.data(), err);
}

/* The rows in equal parts; the failure of the lowest is told. */
static int read_slab(weight_slab *s, vp_error *err) {
    const size_t bytes = (size_t)(s->rows * s->desc->in) * sizeof(float);
    const unsigned cores = std::thread::hardware_concurrency();
    const unsigned most = cores < MOST_THREADS ? cores : MOST_THREADS;
    const int64_t wanted = (int64_t)(bytes / THREAD_BYTES), threads = wanted < 1 ? 1 : wanted < most ? wanted : most;
    const int64_t each = (s->rows + threads - 1) / threads;
    std::vector<vp_error> failed((size_t)threads);
    std::vector<std::thread> running;
    for (int64_t t = 0; t < threads; t++) {
        const int64_t first = t * each, last = first + each < s->rows ? first + each : s->rows;
        if (t + 1 < threads)
            running.emplace_back(read_rows, s, first, last, &failed[(size_t)t]);
        else
            read_rows(s, first, last, &failed[(size_t)t]);
    }
    for (std::thread &t : running) t.join();
    for (const vp_error &e : failed)
        if (e.code) return vp_fail(err, e.code, "%s", e.text);
    return VP_OK;
}

/* Everything of `desc` into the device's memory that is there, one weight at a time. */
static int put_rows(vp_device *d, vp_weight *w, const vp_weight_desc *desc, vp_error *err) {
    static std::mutex one_weight;
    const std::lock_guard<std::mutex> hold(one_weight);
    const size_t row = (size_t)w->ld * vp_dtype_size(desc->compute);
    const int64_t rows = (int64_t)(SLAB_BYTES / row), all = vp_weight_all(w);
    if (!d->staging && !(d->staging = vp_cuda_host_alloc(d, SLAB_BYTES)))
        return vp_fail_memory(err, "staging of weights", SLAB_BYTES);
    weight_slab s = {desc, (char *)d->staging, w->ld, std::vector<float>((size_t)(rows < all ? rows : all)), 0, 0};
    if (rows == 0)
        return vp_fail(err, VP_BUG, "%s: a row of %zu bytes, at most %zu are taken", name_of(desc), row, SLAB_BYTES);
    int status = VP_OK;
    for (; !status && s.first < all; s.first += s.rows) {
        s.rows = all - s.first < rows ? all - s.first : rows;
        status = read_slab(&s, err);
        if (!status) status = vp_device_put((char *)w->row + (size_t)s.first * row, s.data, (size_t)s.rows * row, err);
        if (!status && w->row_scale)
            status = vp_device_put(w->row_scale + s.first, s.scale.data(), (size_t)s.rows * sizeof(float), err);
    }
    if (!status && w->bias) status = vp_device_put(w->bias, desc->bias, (size_t)w->out * sizeof(float), err);
    return status;
}

/* ---- the table's functions ---- */
/* Products of the weight, forward and backward, whose results may be of either type. */
static int learn(vp_device *d, const vp_weight *w, vp_error *err) {
    if (w->row_type == VP_I8 || w->experts) return VP_OK; /* products of experts are our own */
    for (int i = 0; i < (w->row_type == VP_F32 ? 1 : 2); i++) {
        const vp_dtype to = i ? VP_BF16 : VP_F32;
        VP_TRY(vp_product_learn(d, VP_PRODUCT_NT, w->out, w->ld, w->row_type, to, err));
        if (w->backward) VP_TRY(vp_product_learn(d, VP_PRODUCT_NN, w->in, w->out, w->row_type, to, err));
    }
    return VP_OK;
}

static int prepare(vp_device *d, vp_weight *w, const vp_weight_desc *desc, vp_error *err) {
    const size_t all = (size_t)vp_weight_all(w), bytes = all * (size_t)w->ld * vp_dtype_size(w->row_type);
    VP_TRY(vp_device_take(&w->row, bytes, name_of(desc), err));
    if (w->row_type == VP_I8 || w->row_type == VP_F8)
        VP_TRY(vp_device_take((void **)&w->row_scale, all * sizeof(float), name_of(desc), err));
    if (desc->bias) VP_TRY(vp_device_take((void **)&w->bias, (size_t)w->out * sizeof(float), name_of(desc), err));
    VP_TRY(put_rows(d, w, desc, err));
    return learn(d, w, err);
}

int vp_cuda_weight_prepare(vp_device *d, const vp_weight_desc *desc, vp_weight **out, vp_error *err) {
    VP_TRY(check_desc(d, desc, err));
    vp_weight *w = (vp_weight *)vp_calloc(1, sizeof *w);
    if (!w) return vp_fail_memory(err, "weight", sizeof *w);
    w->in = desc->in;
    w->out = desc->out;
    w->experts = desc->experts;
    w->ld = desc->compute == VP_F8 ? (desc->in + 15) / 16 * 16 : desc->in;
    w->row_type = desc->compute;
    w->rows = desc->rows;
    w->backward = desc->backward;
    const int status = prepare(d, w, desc, err);
    if (status) {
        vp_cuda_weight_free(d, w);
        return status;
    }
    *out = w;
    return VP_OK;
}

int vp_cuda_weight_update(vp_queue *q, vp_weight *w, const vp_weight_desc *desc) {
    vp_error err = {};
    int status = check_desc(q->device, desc, &err);
    if (!status && (desc->in != w->in || desc->out != w->out || desc->experts != w->experts || !desc->bias != !w->bias))
        status = vp_fail(&err, VP_BUG, "%s: an update of another shape, [%lld, %lld] instead of [%lld, %lld]",
                         name_of(desc), (long long)desc->out, (long long)desc->in, (long long)w->out, (long long)w->in);
    if (!status && (desc->compute != w->row_type || (desc->backward && !w->backward) || w->rows))
        status = vp_fail(&err, VP_BUG, "%s: the weight is packed for another type, or for forward only", name_of(desc));
    if (!status) status = vp_cuda_queue_wait(q, &err);
    if (!status) status = put_rows(q->device, w, desc, &err);
    return status ? vp_queue_fail(q, status, "%s", err.text) : VP_OK;
}

void vp_cuda_weight_free(vp_device *d, vp_weight *w) {
    if (!w) return;
    d->freed++;
    vp_device_give(w->row);
    vp_device_give(w->row_scale);
    vp_device_give(w->bias);
    free(w);
}
