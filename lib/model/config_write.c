/* A model's numbers in config.json's spelling, for folders made from files of another kind. */
#include "lib/model/config.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The shortest decimal number that is this one in f32: GGUF's reals are f32, config.json's were typed by people. */
static double shortest(double x) {
    char text[40];
    double best = x;
    for (int digits = 9; digits >= 1; digits--) {
        snprintf(text, sizeof text, "%.*e", digits - 1, x);
        double candidate = strtod(text, NULL);
        if ((float)candidate != (float)x) break;
        best = candidate;
    }
    return best;
}

static bool set(json_t *root, const char *key, json_t *value) {
    return !json_object_set_new(root, key, value);
}

static bool put_sizes(json_t *root, const vp_config *c) {
    bool ok = true, decoder = c->arch->rope != VP_ROPE_NONE;
    for (int i = 0; ok && i < VP_CONFIG_FIELDS; i++) {
        const vp_config_field *f = &vp_config_fields[i];
        bool only_decoders = f->offset == offsetof(vp_config, groups) || f->offset == offsetof(vp_config, head_dim);
        if (f->offset == offsetof(vp_config, rotary) || (only_decoders && !decoder)) continue;
        if (f->offset == offsetof(vp_config, types) && decoder) continue;
        if (f->offset >= offsetof(vp_config, experts) && !c->experts) continue;
        ok = set(root, f->hf, json_integer(*(const int64_t *)((const char *)c + f->offset)));
    }
    return ok;
}

static bool put_rope(json_t *root, const vp_config *c) {
    if (c->arch->rope == VP_ROPE_NONE) return true;
    if (!set(root, "rope_theta", json_real(shortest(c->theta)))) return false;
    if (c->scaling == VP_ROPE_PLAIN) return true;
    return set(root, "rope_scaling",
               json_pack("{s:s, s:s, s:f}", "type", "linear", "rope_type", "linear", "factor", shortest(c->factor)));
}

static bool put_flags(json_t *root, const vp_config *c) {
    bool ok = set(root, "tie_word_embeddings", json_boolean(c->tied));
    if (c->arch->bias_keys) {
        ok = ok && set(root, "attention_bias", json_boolean(c->qkv_bias));
        ok = ok && set(root, "mlp_bias", json_boolean(c->mlp_bias));
    }
    if (c->causal == c->arch->base.causal) return ok;
    return ok && set(root, c->causal ? "is_decoder" : "use_bidirectional_attention", json_true());
}

int vp_config_to_json(const vp_config *c, json_t **out, vp_error *err) {
    const char *eps = c->arch->norm == VP_NORM_LAYER ? "layer_norm_eps" : "rms_norm_eps";
    json_t *root = json_pack("{s:[s], s:s}", "architectures", c->arch->hf_class, "model_type", c->arch->name);
    bool ok = root && put_sizes(root, c) && put_rope(root, c) && put_flags(root, c) &&
              set(root, eps, json_real(shortest(c->eps))) &&
              set(root, c->arch->act_key, json_string(vp_act_name(c->act)));
    *out = ok ? root : NULL;
    if (ok) return VP_OK;
    json_decref(root);
    return vp_fail_memory(err, "config.json", 0);
}
