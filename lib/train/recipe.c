/* run/train.json, written and read (recipe.h). */
#include "lib/train/recipe.h"
#include "lib/model/projection.h"
#include <stdlib.h>
#include <string.h>

static json_t *adapters_json(const vp_recipe *r) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < r->nadapters; i++)
        if (json_array_append_new(list, json_string(r->adapters[i]))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static bool put_place(json_t *o, const char *key, int64_t at) {
    return at < 0 || !json_object_set_new(o, key, json_integer((json_int_t)at));
}

static json_t *latent_json(const vp_recipe *r) {
    const vp_latent_sizes *s = r->train.latent;
    return json_pack("{s:I,s:I,s:I,s:I,s:b,s:I}", "latents", (json_int_t)s->latents, "heads", (json_int_t)s->heads,
                     "width", (json_int_t)s->head_width, "inner", (json_int_t)s->inner, "plain", s->plain, "at",
                     (json_int_t)r->latent);
}

int vp_recipe_json(const vp_recipe *r, json_t **out, vp_error *err) {
    const vp_train_options *t = &r->train;
    const char *compute = strcmp(r->compute, "f32") ? r->compute : NULL; /* NULL: not written */
    json_t *root = json_pack("{s:i,s:s,s:s,s:s*,s:o,s:b,s:f,s:f,s:I}", "vecpipe_train", 1, "fingerprint",
                             r->fingerprint, "attention", r->attention, "compute", compute, "adapters",
                             adapters_json(r), "full", t->full, "attention_dropout", t->attention_dropout,
                             "hidden_dropout", t->hidden_dropout, "seed", (json_int_t)t->seed);
    json_t *lora = t->full ? NULL
                           : json_pack("{s:I,s:f,s:f,s:s}", "rank", (json_int_t)t->rank, "alpha", t->alpha, "dropout",
                                       t->lora_dropout, "targets", t->targets);
    bool ok = root && (t->full || (lora && !json_object_set_new(root, "lora", lora)));
    ok = ok && (!t->latent || !json_object_set_new(root, "latent", latent_json(r)));
    ok = ok && (!t->projection || !json_object_set_new(root, "projection",
                                                       json_pack("{s:I,s:I}", "dims", (json_int_t)t->projection, "at",
                                                                 (json_int_t)r->projection)));
    if (ok && put_place(root, "head", r->head) && put_place(root, "tokens", r->tokens) &&
        (r->tokens < 0 || put_place(lora, "tokens", t->tokens))) {
        *out = root;
        return VP_OK;
    }
    json_decref(root);
    return vp_fail_memory(err, "train.json", 1);
}

static int read_lora(vp_recipe_file *f, vp_error *err) {
    vp_train_options *t = &f->recipe.train;
    const json_t *lora = json_object_get(f->json.root, "lora");
    VP_TRY(vp_json_int(&f->json, lora, "rank", &t->rank, err));
    VP_TRY(vp_json_real(&f->json, lora, "alpha", &t->alpha, err));
    VP_TRY(vp_json_real(&f->json, lora, "dropout", &t->lora_dropout, err));
    VP_TRY(vp_json_str(&f->json, lora, "targets", &t->targets, err));
    VP_TRY(vp_json_int(&f->json, lora, "tokens", &t->tokens, err));
    if (lora && t->targets) return VP_OK;
    return vp_fail(err, VP_DATA, "%s: it does not say which adapter is trained", f->json.path);
}

static int read_adapters(vp_recipe_file *f, vp_error *err) {
    const json_t *list = json_object_get(f->json.root, "adapters");
    const size_t n = json_array_size(list);
    f->adapters = vp_calloc(n, sizeof *f->adapters);
    if (!f->adapters) return vp_fail_memory(err, "adapters", n * sizeof *f->adapters);
    for (size_t i = 0; i < n; i++)
        if (!(f->adapters[i] = json_string_value(json_array_get(list, i))))
            return vp_fail(err, VP_DATA, "%s: an adapter is not a path", f->json.path);
    f->recipe.adapters = f->adapters;
    f->recipe.nadapters = n;
    return VP_OK;
}

static int read_latent(vp_recipe_file *f, vp_error *err) {
    const json_t *latent = json_object_get(f->json.root, "latent");
    vp_latent_sizes *s = &f->latent;
    if (!latent) return VP_OK;
    VP_TRY(vp_json_int(&f->json, latent, "latents", &s->latents, err));
    VP_TRY(vp_json_int(&f->json, latent, "heads", &s->heads, err));
    VP_TRY(vp_json_int(&f->json, latent, "width", &s->head_width, err));
    VP_TRY(vp_json_int(&f->json, latent, "inner", &s->inner, err));
    VP_TRY(vp_json_bool(&f->json, latent, "plain", &s->plain, err));
    VP_TRY(vp_json_int(&f->json, latent, "at", &f->recipe.latent, err));
    f->recipe.train.latent = s;
    if (s->latents > 0 && s->heads > 0 && s->head_width > 0 && s->inner > 0 && f->recipe.latent >= 0) return VP_OK;
    return vp_fail(err, VP_DATA, "%s: a latent layer of these sizes cannot be", f->json.path);
}

static int read_projection(vp_recipe_file *f, vp_error *err) {
    vp_recipe *r = &f->recipe;
    const json_t *projection = json_object_get(f->json.root, "projection");
    if (!projection) return VP_OK;
    VP_TRY(vp_json_int(&f->json, projection, "dims", &r->train.projection, err));
    VP_TRY(vp_json_int(&f->json, projection, "at", &r->projection, err));
    if (r->train.projection > 0 && r->train.projection <= VP_PROJECTION_MOST && r->projection >= 0) return VP_OK;
    return vp_fail(err, VP_DATA, "%s: a projection of this size cannot be", f->json.path);
}

static int read_all(vp_recipe_file *f, vp_error *err) {
    vp_recipe *r = &f->recipe;
    const json_t *root = f->json.root;
    int64_t version = 0, seed = 0;
    VP_TRY(vp_json_int(&f->json, root, "vecpipe_train", &version, err));
    if (version != 1) return vp_fail(err, VP_DATA, "%s: written by another version", f->json.path);
    VP_TRY(vp_json_str(&f->json, root, "fingerprint", &r->fingerprint, err));
    VP_TRY(vp_json_str(&f->json, root, "attention", &r->attention, err));
    r->compute = "f32";
    VP_TRY(vp_json_str(&f->json, root, "compute", &r->compute, err));
    VP_TRY(vp_json_bool(&f->json, root, "full", &r->train.full, err));
    VP_TRY(vp_json_real(&f->json, root, "attention_dropout", &r->train.attention_dropout, err));
    VP_TRY(vp_json_real(&f->json, root, "hidden_dropout", &r->train.hidden_dropout, err));
    VP_TRY(vp_json_int(&f->json, root, "seed", &seed, err));
    VP_TRY(vp_json_int(&f->json, root, "head", &r->head, err));
    VP_TRY(vp_json_int(&f->json, root, "tokens", &r->tokens, err));
    r->train.seed = (uint64_t)seed;
    r->train.head = r->head >= 0;
    if (!r->fingerprint || !r->attention)
        return vp_fail(err, VP_DATA, "%s: it does not say which model and attention", f->json.path);
    VP_TRY(read_adapters(f, err));
    VP_TRY(read_latent(f, err));
    VP_TRY(read_projection(f, err));
    return r->train.full ? VP_OK : read_lora(f, err);
}

int vp_recipe_open(vp_recipe_file *f, const char *folder, vp_error *err) {
    *f = (vp_recipe_file){.recipe = {.latent = -1, .projection = -1, .head = -1, .tokens = -1}};
    VP_TRY(vp_json_open(&f->json, folder, "train.json", JSON_OBJECT, err));
    return read_all(f, err);
}

void vp_recipe_close(vp_recipe_file *f) {
    free(f->adapters);
    vp_json_close(&f->json);
    *f = (vp_recipe_file){0};
}
