/* The latent layer behind the pooling of that name: from a model's files, folded, or with the numbers that a run
 * trains.
 */
#include "lib/model/encoder.h"
#include "lib/model/pooler.h"
#include <stdlib.h>
#include <string.h>

static int read_file(vp_pool_latent *l, const vp_latent_file *f, vp_error *err) {
    const size_t n = (size_t)vp_latent_layout_of(&f->sizes, l->width).count;
    l->own = vp_calloc(n, sizeof *l->own);
    if (!l->own) return vp_fail_memory(err, "a latent layer", n * sizeof *l->own);
    l->value = l->own;
    l->sizes = f->sizes;
    memcpy(l->fingerprint, f->fingerprint, sizeof l->fingerprint);
    return vp_latent_file_read(f, l->width, l->own, err);
}

int vp_pool_latent_load(vp_pool_latent *l, const vp_map *model, vp_error *err) {
    vp_latent_file f;
    const char *folder = model ? vp_map_str(model, "latent") : NULL;
    const char *print = model ? vp_map_str(model, "latent_fingerprint") : NULL;
    if (!folder) return vp_fail(err, VP_USAGE, "the model has no latent-attention layer");
    l->width = vp_map_int(model, "width", 0);
    if (folder[0] != '/' || !print || l->width < 1)
        return vp_fail(err, VP_DATA, "the header's latent layer is no absolute path with a fingerprint and a width");
    int status = vp_latent_file_open(&f, folder, l->width, err);
    if (!status && strcmp(print, f.fingerprint) != 0)
        status = vp_fail(err, VP_DATA, "%s: the latent layer was changed or replaced", folder);
    if (!status) status = read_file(l, &f, err);
    vp_latent_file_close(&f);
    return status;
}

static int open_layer(vp_pooler *p, vp_error *err) {
    vp_pool_latent *l = &p->latent;
    const vp_latent_layer_options o = {.sizes = l->sizes,
                                       .width = l->width,
                                       .on = vp_pooler_place(p),
                                       .value = l->value,
                                       .value_on = l->value_on,
                                       .grad = l->grad,
                                       .fold = l->own != NULL};
    return vp_latent_layer_open(&l->layer, &o, err);
}

int vp_pool_latent_layer(vp_pooler *p, int64_t width, vp_latent_layer **layer, vp_error *err) {
    vp_pool_latent *l = &p->latent;
    const int64_t changes = l->encoder ? l->encoder->changes : 0;
    if (!l->value) return vp_fail(err, VP_USAGE, "the run trains no latent-attention layer");
    if (width != l->width)
        return vp_fail(err, VP_DATA, "hidden states of width %lld for a latent layer of width %lld", (long long)width,
                       (long long)l->width);
    if (!l->layer)
        VP_TRY(open_layer(p, err));
    else if (l->stale || l->seen != changes)
        VP_TRY(vp_latent_layer_changed(l->layer, err));
    l->seen = changes;
    l->stale = false;
    *layer = l->layer;
    return VP_OK;
}

void vp_pool_latent_close(vp_pool_latent *l) {
    vp_latent_layer_close(l->layer);
    free(l->own);
    *l = (vp_pool_latent){0};
}

void vp_pooler_use(vp_pooler *p, const vp_encoder *e) {
    vp_pool_latent *l = &p->latent;
    const vp_training *t = e->training;
    if (t && t->projection_at >= 0)
        vp_pooler_give_projection(p, t->options.projection, e->model->config.width, t->params.value + t->projection_at,
                                  t->grad ? t->grad + t->projection_at : NULL);
    if (!p->kind->latent || l->encoder == e) return;
    l->encoder = e;
    if (!t || t->latent_at < 0) return;
    l->sizes = t->latent;
    l->width = e->model->config.width;
    l->value = t->params.value + t->latent_at;
    l->value_on = t->value_on + t->latent_at;
    l->grad = t->grad_on ? t->grad_on + t->latent_at : NULL;
}

void vp_pooler_give(vp_pooler *p, const vp_latent_sizes *s, int64_t width, const float *value) {
    vp_pool_latent *l = &p->latent;
    if (!p->kind->latent) return;
    l->sizes = *s;
    l->width = width;
    l->value = value;
    l->stale = true;
}

int vp_pooler_finish(vp_pooler *p, vp_error *err) {
    return p->latent.layer ? vp_latent_layer_finish(p->latent.layer, err) : VP_OK;
}
