/* The latent-attention layer as a part of what is trained. */
#include "lib/model/encoder.h"
#include <string.h>

/* The folder whose layer training begins with; NULL: none, it begins anew. */
static const char *folder_of(const vp_encoder *e, const vp_train_options *o) {
    return o->start && vp_latent_file_exists(o->start) ? o->start : e->model->latent;
}

static bool agrees(int64_t asked, int64_t have) {
    return !asked || asked == have;
}

/* What was asked for, where it is that of the folder. */
static int take_sizes(vp_training *t, const vp_train_options *o, const char *folder, int64_t width, vp_error *err) {
    vp_latent_file f;
    const vp_latent_sizes *asked = o->latent;
    int status = vp_latent_file_open(&f, folder, width, err);
    t->latent = f.sizes;
    const bool same = agrees(asked->latents, f.sizes.latents) && agrees(asked->heads, f.sizes.heads) &&
                      agrees(asked->head_width, f.sizes.head_width) && agrees(asked->inner, f.sizes.inner) &&
                      agrees(asked->plain, f.sizes.plain) && !(asked->gated && f.sizes.plain);
    if (!status && !same)
        status = vp_fail(err, VP_USAGE, "%s: its latent layer, which training goes on with, has other sizes", folder);
    vp_latent_file_close(&f);
    return status;
}

int vp_training_layout_latent(vp_encoder *e, vp_training *t, const vp_train_options *o, size_t *cap, vp_error *err) {
    const int64_t width = e->model->config.width;
    const char *folder = folder_of(e, o);
    vp_latent_tensor tensor;
    t->latent_at = -1;
    if (!o->latent) return VP_OK;
    t->latent = *o->latent;
    t->options.latent = &t->latent;
    if (folder) VP_TRY(take_sizes(t, o, folder, width, err));
    VP_TRY(vp_latent_complete(&t->latent, width, err));
    t->latent_at = t->params.count;
    for (size_t i = 0; vp_latent_tensor_at(&t->latent, width, i, &tensor); i++)
        VP_TRY(vp_training_add(t, cap, tensor.name, tensor.rows, tensor.cols, err));
    return VP_OK;
}

int vp_training_start_latent(const vp_encoder *e, vp_training *t, const vp_train_options *o, vp_error *err) {
    const int64_t width = e->model->config.width;
    const char *folder = folder_of(e, o);
    vp_latent_file f;
    if (t->latent_at < 0) return VP_OK;
    float *value = t->params.value + t->latent_at;
    if (!folder) {
        vp_latent_start(&t->latent, width, t->options.seed, value);
        return VP_OK;
    }
    int status = vp_latent_file_open(&f, folder, width, err);
    if (!status) status = vp_latent_file_read(&f, width, value, err);
    vp_latent_file_close(&f);
    return status;
}

int64_t vp_encoder_latent(const vp_encoder *e) {
    return e->training ? e->training->latent_at : -1;
}
