/* NV-Embed's settings: those of a published folder's config.json, and of VP_LATENT_CONFIG beside a result of ours, read
 * and written. */
#include "lib/model/config.h"
#include "lib/model/latent.h"
#include "lib/model/settings.h"
#include "lib/model/settings_write.h"
#include <stdlib.h>
#include <string.h>

static const char section[] = "latent_attention_config";

/* mask_type "b": attention to both sides, which is what a published folder without it has, too. */
static int read_attention(vp_settings *s, const vp_json *j, vp_error *err) {
    const char *mask = "b";
    VP_TRY(vp_json_str(j, j->root, "mask_type", &mask, err));
    if (strcmp(mask, "b") != 0) return vp_fail(err, VP_DATA, "%s: mask_type \"%s\" is not supported", j->path, mask);
    return vp_settings_set(&s->attention, "bi", err);
}

static int read_settings(vp_settings *s, const vp_json *j, vp_error *err) {
    const json_t *layer = json_object_get(j->root, section);
    bool masks = true, ends = true, normalize = true;
    VP_TRY(read_attention(s, j, err));
    VP_TRY(vp_settings_set(&s->pooling, "latent", err));
    VP_TRY(vp_json_bool(j, layer, "output_normalize", &normalize, err));
    VP_TRY(vp_json_bool(j, j->root, "is_mask_instruction", &masks, err));
    VP_TRY(vp_json_bool(j, j->root, "add_eos", &ends, err));
    s->normalize = normalize;
    s->prompt_pooled = !masks;
    s->nv_embed = ends;
    s->llm2vec = 0;
    s->doc_max_len = 0;
    free(s->chat);
    s->chat = NULL;
    return VP_OK;
}

int vp_settings_nv_embed(vp_settings *s, const char *folder, const vp_config *c, vp_error *err) {
    vp_json j;
    const bool own = vp_path_exists(folder, VP_LATENT_CONFIG);
    VP_TRY(vp_json_open_optional(&j, folder, own ? VP_LATENT_CONFIG : "config.json", JSON_OBJECT, err));
    const bool counts = j.root && (own || json_is_object(json_object_get(j.root, section)));
    int status = counts ? read_settings(s, &j, err) : VP_OK;
    if (!status && own && counts) status = vp_settings_keys(s, &j, c, err); /* which a published folder has not */
    vp_json_close(&j);
    return status;
}

int vp_settings_write_nv_embed(const vp_settings *s, const vp_latent_sizes *latent, int64_t width, const char *folder,
                               vp_error *err) {
    json_t *root = json_pack("{s:s, s:s, s:b, s:b, s:I, s:I}", "attention", s->attention, "pooling", s->pooling,
                             "is_mask_instruction", !s->prompt_pooled, "add_eos", s->nv_embed != 0, "max_length",
                             (json_int_t)s->max_len, "dims", (json_int_t)s->dims);
    json_t *layer = json_pack("{s:b}", "output_normalize", s->normalize != 0);
    if (latent && layer)
        json_object_update_new(layer, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "form",
                                                latent->plain ? "plain" : "gated", "num_latents_value",
                                                (json_int_t)latent->latents, "num_cross_heads",
                                                (json_int_t)latent->heads, "cross_dim_head",
                                                (json_int_t)latent->head_width, "inner_dim", (json_int_t)latent->inner,
                                                "latent_dim", (json_int_t)width, "hidden_dim", (json_int_t)width));
    const bool whole = root && layer && (!latent || json_object_size(layer) == 8);
    if (!whole || json_object_set(root, section, layer)) {
        json_decref(root);
        root = NULL; /* which vp_json_publish refuses */
    }
    json_decref(layer);
    const int status = vp_json_publish(folder, VP_LATENT_CONFIG, root, err);
    json_decref(root);
    return status;
}
