/* A model's numbers from GGUF metadata. What GGUF leaves to the tensors (vocabulary, token types, biases) is read off
 * them. */
#include "lib/model/config.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    const vp_gguf *gguf;
    const vp_source *source;
    const vp_arch *arch;
} reader;

static const char *key(const reader *r, const char *suffix, char out[96]) {
    snprintf(out, 96, "%s.%s", r->arch->gguf, suffix);
    return out;
}

static double real(const reader *r, const char *suffix, double otherwise) {
    char name[96];
    return vp_gguf_real(r->gguf, key(r, suffix, name), otherwise);
}

static const vp_tensor_info *tensor(const reader *r, vp_role role, const char *suffix) {
    char name[96], full[112];
    if (!r->arch->gguf_names || !vp_arch_name(r->arch->gguf_names, role, 0, 0, name, sizeof name)) return NULL;
    snprintf(full, sizeof full, "%s.%s", name, suffix);
    return vp_source_find(r->source, full);
}

static int read_scaling(const reader *r, vp_config *c, vp_error *err) {
    const char *type = NULL;
    size_t n = 0;
    char name[96];
    c->factor = real(r, "rope.scale_linear", 1);
    if (vp_gguf_str(r->gguf, key(r, "rope.scaling.type", name), &type, &n)) {
        bool none = n == 4 && !memcmp(type, "none", 4);
        if (!none && !(n == 6 && !memcmp(type, "linear", 6)))
            return vp_fail(err, VP_DATA, "%s: rope.scaling.type \"%.*s\" is not supported (none, linear are)",
                           vp_gguf_path(r->gguf), n > 40 ? 40 : (int)n, type);
        c->factor = none ? 1 : real(r, "rope.scaling.factor", c->factor);
    }
    c->scaling = c->factor == 1 ? VP_ROPE_PLAIN : VP_ROPE_LINEAR;
    return VP_OK;
}

static int refuse_unsupported(const reader *r, const vp_config *c, vp_error *err) {
    static const char *const zero[] = {"attention.sliding_window", "attention.clamp_kqv"};
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++)
        if (real(r, zero[i], 0) != 0)
            return vp_fail(err, VP_DATA, "%s: %s.%s is not supported", vp_gguf_path(r->gguf), r->arch->gguf, zero[i]);
    if (real(r, "attention.value_length", (double)c->head_dim) != (double)c->head_dim)
        return vp_fail(err, VP_DATA, "%s: keys and values of different widths are not supported",
                       vp_gguf_path(r->gguf));
    return VP_OK;
}

int vp_config_from_gguf(vp_config *c, const vp_source *s, vp_error *err) {
    reader r = {.gguf = vp_source_gguf(s), .source = s};
    const char *path = vp_gguf_path(r.gguf), *name = NULL;
    size_t n = 0;
    if (!vp_gguf_str(r.gguf, "general.architecture", &name, &n))
        return vp_fail(err, VP_DATA, "%s: no general.architecture", path);
    char list[200], scratch[96];
    snprintf(scratch, sizeof scratch, "%.*s.expert_count", n > 40 ? 40 : (int)n, name);
    r.arch = vp_arch_find_gguf(name, n, vp_gguf_int(r.gguf, scratch, 0) > 0);
    if (!r.arch && vp_arch_find_gguf(name, n, false))
        return vp_fail(err, VP_DATA, "%s: %s is not supported", path, scratch);
    if (!r.arch)
        return vp_fail(err, VP_DATA, "%s: architecture \"%.*s\" is not supported (%s are)", path, n > 40 ? 40 : (int)n,
                       name, vp_arch_list(true, list, sizeof list));
    *c = r.arch->base;
    c->arch = r.arch;
    c->groups = c->head_dim = c->rotary = 0;
    for (int i = 0; i < VP_CONFIG_FIELDS; i++) {
        const vp_config_field *f = &vp_config_fields[i];
        int64_t *value = (int64_t *)((char *)c + f->offset);
        if (f->gguf)
            *value =
                vp_gguf_int(r.gguf, key(&r, f->gguf, scratch), f->offset < offsetof(vp_config, groups) ? 0 : *value);
    }
    const vp_tensor_info *embed = tensor(&r, VP_W_EMBED, "weight"), *types = tensor(&r, VP_W_TYPES, "weight");
    if (!embed) return vp_fail(err, VP_DATA, "%s: no tensor token_embd.weight", path);
    c->vocab = vp_tensor_rows(embed);
    if (types) c->types = vp_tensor_rows(types);
    c->tied = !tensor(&r, VP_W_HEAD, "weight");
    c->qkv_bias = tensor(&r, VP_W_Q, "bias") != NULL;
    c->out_bias = tensor(&r, VP_W_O, "bias") != NULL;
    c->mlp_bias = tensor(&r, VP_W_DOWN, "bias") != NULL;
    c->eps = real(&r, "attention.layer_norm_epsilon", c->eps);
    c->eps = real(&r, "attention.layer_norm_rms_epsilon", c->eps);
    c->theta = real(&r, "rope.freq_base", c->theta);
    c->causal = vp_gguf_int(r.gguf, key(&r, "attention.causal", scratch), c->causal) != 0;
    c->window = 0;
    VP_TRY(read_scaling(&r, c, err));
    VP_TRY(vp_config_finish(c, path, err));
    return refuse_unsupported(&r, c, err);
}
