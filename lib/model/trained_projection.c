/* The projection of pooled vectors as a part of what is trained. */
#include "lib/model/encoder.h"
#include "lib/model/projection.h"

/* The folder whose projection training begins with; NULL: none, it begins anew. */
static const char *folder_of(const vp_encoder *e, const vp_train_options *o) {
    return o->start && vp_projection_exists(o->start) ? o->start : e->model->projection;
}

int vp_training_layout_projection(vp_encoder *e, vp_training *t, const vp_train_options *o, size_t *cap,
                                  vp_error *err) {
    const int64_t width = e->model->config.width;
    t->projection_at = -1;
    if (!o->projection) return VP_OK;
    if (o->projection < 0 || o->projection > VP_PROJECTION_MOST)
        return vp_fail(err, VP_USAGE, "a projection to %lld dimensions", (long long)o->projection);
    if (o->latent) return vp_fail(err, VP_USAGE, "a projection is not trained behind latent attention");
    t->projection_at = t->params.count;
    VP_TRY(vp_training_add(t, cap, "projection.weight", o->projection, width, err));
    return vp_training_add(t, cap, "projection.bias", 1, o->projection, err);
}

static int read_start(float *value, const char *folder, int64_t dims, int64_t width, vp_error *err) {
    vp_projection_file f;
    int status = vp_projection_open(&f, folder, width, err);
    if (!status && f.dims != dims)
        status = vp_fail(err, VP_USAGE, "%s: its projection, which training goes on with, has %lld dimensions", folder,
                         (long long)f.dims);
    if (!status) status = vp_projection_read(&f, width, value, err);
    vp_projection_close(&f);
    return status;
}

int vp_training_start_projection(const vp_encoder *e, vp_training *t, const vp_train_options *o, vp_error *err) {
    const int64_t width = e->model->config.width;
    const char *folder = folder_of(e, o);
    if (t->projection_at < 0) return VP_OK;
    float *value = t->params.value + t->projection_at;
    if (folder) return read_start(value, folder, o->projection, width, err);
    vp_projection_start(o->projection, width, t->options.seed, value);
    return VP_OK;
}

int64_t vp_encoder_projection(const vp_encoder *e) {
    return e->training ? e->training->projection_at : -1;
}
