/* How a weight comes to the device: its rows are read one by one, rounded, and copied. */
#include "kernels/cuda/weight.h"
#include "lib/base/half.h"
#include <stdlib.h>

static int put_row(const vp_weight_desc *desc, vp_weight *w, int64_t row, float *line, vp_error *err) {
    const vp_weight_part *part = desc->part;
    const size_t bytes = (size_t)w->in * vp_dtype_size(w->row_type);
    int64_t of = row;
    for (; of >= part->rows; part++) of -= part->rows;
    VP_TRY(part->read_row(part->ctx, of, line, err));
    for (int64_t i = 0; w->row_type == VP_BF16 && i < w->in; i++) ((uint16_t *)line)[i] = vp_float_bf16(line[i]);
    return vp_device_put((char *)w->row + (size_t)row * bytes, line, bytes, err);
}

static int put_rows(const vp_weight_desc *desc, vp_weight *w, vp_error *err) {
    float *line = (float *)vp_calloc((size_t)w->in, sizeof *line);
    int status = line ? VP_OK : vp_fail_memory(err, "weight", (size_t)w->in * sizeof *line);
    for (int64_t row = 0; !status && row < w->out; row++) status = put_row(desc, w, row, line, err);
    free(line);
    return status;
}

int vp_cuda_weight_prepare(vp_device *d, const vp_weight_desc *desc, vp_weight **out, vp_error *err) {
    if (!desc->rows || desc->bias || (desc->compute != VP_F32 && desc->compute != VP_BF16))
        return vp_fail(err, VP_BUG, "%s: no such weight", desc->name ? desc->name : "weight");
    vp_weight *w = (vp_weight *)vp_calloc(1, sizeof *w);
    if (!w) return vp_fail_memory(err, "weight", sizeof *w);
    w->in = desc->in;
    w->out = desc->out;
    w->row_type = desc->compute;
    w->rows = true;
    int status = vp_device_take(&w->row, (size_t)(w->in * w->out) * vp_dtype_size(w->row_type), "weight", err);
    if (!status) status = put_rows(desc, w, err);
    if (status)
        vp_cuda_weight_free(d, w);
    else
        *out = w;
    return status;
}

void vp_cuda_weight_free(vp_device *, vp_weight *w) {
    if (!w) return;
    vp_device_give(w->row);
    free(w);
}
