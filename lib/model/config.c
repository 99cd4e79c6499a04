/* A model's numbers: the table of sizes that both readers walk, what follows from them, and the config.json reader. */
#include "lib/model/config.h"
#include <math.h>
#include <string.h>

#define FIELD(member, most, ...)                                                                                       \
    { __VA_ARGS__, offsetof(vp_config, member), most }
const vp_config_field vp_config_fields[VP_CONFIG_FIELDS] = {
    FIELD(vocab, 1 << 24, "vocab_size", NULL, NULL),
    FIELD(width, 1 << 16, "hidden_size", "n_embd", "embedding_length"),
    FIELD(ffn, 1 << 20, "intermediate_size", "n_inner", "feed_forward_length"),
    FIELD(layers, VP_MAX_LAYERS, "num_hidden_layers", "n_layer", "block_count"),
    FIELD(heads, 1 << 12, "num_attention_heads", "n_head", "attention.head_count"),
    FIELD(groups, 1 << 12, "num_key_value_heads", NULL, "attention.head_count_kv"),
    FIELD(head_dim, 1 << 12, "head_dim", NULL, "attention.key_length"),
    FIELD(positions, 1 << 24, "max_position_embeddings", "n_positions", "context_length"),
    FIELD(types, 1 << 16, "type_vocab_size", NULL, NULL),
    FIELD(rotary, 1 << 12, "rotary_dim", NULL, "rope.dimension_count"),
    FIELD(experts, VP_MOST_EXPERTS, "num_local_experts", NULL, "expert_count"),
    FIELD(top_k, VP_MOST_TOP_K, "num_experts_per_tok", NULL, "expert_used_count"),
};

static const struct {
    const char *name;
    vp_act act;
} activations[] = {
    {"silu", VP_ACT_SILU},
    {"swish", VP_ACT_SILU},
    {"gelu", VP_ACT_GELU},
    {"gelu_python", VP_ACT_GELU},
    {"gelu_pytorch_tanh", VP_ACT_GELU_TANH},
    {"gelu_new", VP_ACT_GELU_TANH},
    {"gelu_python_tanh", VP_ACT_GELU_TANH},
    {"gelu_accurate", VP_ACT_GELU_TANH},
    {"relu", VP_ACT_RELU},
    {"tanh", VP_ACT_TANH},
};

const char *vp_act_name(vp_act act) {
    size_t i = 0;
    while (i + 1 < sizeof activations / sizeof *activations && activations[i].act != act) i++;
    return activations[i].name;
}

/* Whether a model may do without. */
static bool may_be_zero(const vp_config *c, size_t offset) {
    const bool experts = offset == offsetof(vp_config, experts) || offset == offsetof(vp_config, top_k);
    return offset == offsetof(vp_config, types) || offset == offsetof(vp_config, rotary) ||
           (experts && !c->arch->experts);
}

int vp_config_finish(vp_config *c, const char *path, vp_error *err) {
    if (!c->arch->experts) c->experts = c->top_k = 0;
    if (!c->groups) c->groups = c->heads;
    if (!c->head_dim && c->heads > 0) c->head_dim = c->width / c->heads;
    if (!c->ffn && __builtin_mul_overflow(c->width, 4, &c->ffn)) c->ffn = -1; /* refused with the width */
    if (c->arch->rope == VP_ROPE_NONE)
        c->rotary = 0;
    else if (!c->rotary)
        c->rotary = c->head_dim;
    for (int i = 0; i < VP_CONFIG_FIELDS; i++) {
        const vp_config_field *f = &vp_config_fields[i];
        int64_t value = *(const int64_t *)((const char *)c + f->offset);
        if (value < (may_be_zero(c, f->offset) ? 0 : 1) || value > f->most)
            return vp_fail(err, VP_DATA, "%s: %s is %lld, not within 1..%lld", path, f->hf, (long long)value,
                           (long long)f->most);
    }
    if (c->heads % c->groups)
        return vp_fail(err, VP_DATA, "%s: %lld heads are not a multiple of %lld key/value heads", path,
                       (long long)c->heads, (long long)c->groups);
    if (c->top_k > c->experts)
        return vp_fail(err, VP_DATA, "%s: a token cannot pass %lld of %lld experts", path, (long long)c->top_k,
                       (long long)c->experts);
    if (c->rotary % 2 || c->rotary > c->head_dim)
        return vp_fail(err, VP_DATA, "%s: cannot rotate %lld of %lld channels of a head", path, (long long)c->rotary,
                       (long long)c->head_dim);
    if (!(c->eps >= 0 && c->eps < 1)) return vp_fail(err, VP_DATA, "%s: epsilon %g is not within 0..1", path, c->eps);
    if (c->rotary && !(c->theta > 0 && c->theta < 1e30 && c->factor > 0 && c->factor < 1e9 && c->low > 0 &&
                       c->high > c->low && c->high < 1e9 && c->original >= 0))
        return vp_fail(err, VP_DATA, "%s: the RoPE parameters are out of range", path);
    return VP_OK;
}

int vp_config_text(const vp_config *c, vp_buf *out, vp_error *err) {
    VP_TRY(vp_buf_printf(out, err, "arch %s\n", c->arch->name));
    for (int i = 0; i < VP_CONFIG_FIELDS; i++) {
        const int64_t value = *(const int64_t *)((const char *)c + vp_config_fields[i].offset);
        if (!c->experts && vp_config_fields[i].offset >= offsetof(vp_config, experts)) continue;
        VP_TRY(vp_buf_printf(out, err, "%s %lld\n", vp_config_fields[i].hf, (long long)value));
    }
    VP_TRY(vp_buf_printf(out, err, "eps %.9g\ntheta %.17g\nscaling %d %.17g %.17g %.17g %lld\nact %d\n", c->eps,
                         c->theta, (int)c->scaling, c->factor, c->low, c->high, (long long)c->original, (int)c->act));
    VP_TRY(vp_buf_printf(out, err, "bias %d %d %d %d\ntied %d\nwindow %d\n", c->qkv_bias, c->out_bias, c->mlp_bias,
                         c->norm_bias, c->tied, c->window));
    for (int64_t i = 0; c->window && i < c->layers; i++) VP_TRY(vp_buf_printf(out, err, "%d", c->windowed[i]));
    return VP_OK;
}

/* ---- config.json ---- */

static int refuse_partial(const vp_json *j, const json_t *o, vp_error *err) {
    double partial = 1;
    VP_TRY(vp_json_real(j, o, "partial_rotary_factor", &partial, err));
    if (partial == 1) return VP_OK;
    return vp_fail(err, VP_DATA, "%s: partial_rotary_factor %g is not supported", j->path, partial);
}

static int read_rope_type(vp_config *c, const vp_json *j, const json_t *rope, vp_error *err) {
    const char *type = "default";
    VP_TRY(vp_json_str(j, rope, "type", &type, err));
    VP_TRY(vp_json_str(j, rope, "rope_type", &type, err));
    VP_TRY(vp_json_real(j, rope, "rope_theta", &c->theta, err));
    VP_TRY(refuse_partial(j, rope, err));
    if (!strcmp(type, "default")) return VP_OK;
    bool llama3 = !strcmp(type, "llama3");
    if (!llama3 && strcmp(type, "linear"))
        return vp_fail(err, VP_DATA, "%s: rope_type \"%s\" is not supported (default, linear, llama3 are)", j->path,
                       type);
    c->scaling = llama3 ? VP_ROPE_LLAMA3 : VP_ROPE_LINEAR;
    const char *const needed[] = {"factor", "low_freq_factor", "high_freq_factor"};
    double *const value[] = {&c->factor, &c->low, &c->high};
    for (int i = 0; i < (llama3 ? 3 : 1); i++) {
        if (!json_is_number(json_object_get(rope, needed[i])))
            return vp_fail(err, VP_DATA, "%s: rope_type \"%s\" needs a number \"%s\"", j->path, type, needed[i]);
        VP_TRY(vp_json_real(j, rope, needed[i], value[i], err));
    }
    if (!llama3) return VP_OK;
    c->original = c->positions;
    VP_TRY(vp_json_int(j, rope, "original_max_position_embeddings", &c->original, err));
    return vp_json_int(j, j->root, "original_max_position_embeddings", &c->original, err);
}

/* `rope_scaling` (older) wins over `rope_parameters`, and a theta inside either over `rope_theta` beside it. */
static int read_rope(vp_config *c, const vp_json *j, vp_error *err) {
    VP_TRY(vp_json_real(j, j->root, "rope_theta", &c->theta, err));
    VP_TRY(refuse_partial(j, j->root, err));
    const char *key = vp_json_says(j->root, "rope_scaling") ? "rope_scaling" : "rope_parameters";
    if (!vp_json_says(j->root, key)) return VP_OK;
    const json_t *rope = json_object_get(j->root, key), *value;
    if (!json_is_object(rope)) return vp_fail(err, VP_DATA, "%s: \"%s\" is not an object", j->path, key);
    const char *name;
    json_object_foreach((json_t *)rope, name, value) {
        if (json_is_object(value))
            return vp_fail(err, VP_DATA, "%s: %s by layer type (\"%s\") is not supported", j->path, key, name);
    }
    return read_rope_type(c, j, rope, err);
}

static int read_layer_types(vp_config *c, const vp_json *j, vp_error *err) {
    const json_t *types = json_object_get(j->root, "layer_types");
    if (!json_is_array(types) || (int64_t)json_array_size(types) != c->layers)
        return vp_fail(err, VP_DATA, "%s: layer_types does not list %lld layers", j->path, (long long)c->layers);
    bool any = false;
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        bool sliding = type && !strcmp(type, "sliding_attention");
        if (!sliding && (!type || strcmp(type, "full_attention")))
            return vp_fail(err, VP_DATA, "%s: layer type \"%s\" is not supported", j->path, type ? type : "?");
        c->windowed[i] = sliding;
        any |= sliding;
    }
    if (!any) c->window = 0;
    return VP_OK;
}

static int read_window(vp_config *c, const vp_json *j, vp_error *err) {
    const json_t *width = json_object_get(j->root, "sliding_window");
    int64_t window = json_is_null(width) ? 0 : c->window, first = c->window_first;
    bool use = false;
    VP_TRY(vp_json_int(j, j->root, "sliding_window", &window, err));
    VP_TRY(vp_json_int(j, j->root, "max_window_layers", &first, err));
    VP_TRY(vp_json_bool(j, j->root, "use_sliding_window", &use, err));
    if (c->arch->window_rule == VP_WINDOW_NEVER || (c->arch->window_rule == VP_WINDOW_SWITCHED && !use)) window = 0;
    if (window < 0 || window > INT32_MAX || first < 0)
        return vp_fail(err, VP_DATA, "%s: the sliding window is out of range", j->path);
    c->window = (int32_t)window;
    if (!window) return VP_OK;
    if (c->arch->window_rule == VP_WINDOW_SWITCHED && vp_json_says(j->root, "layer_types"))
        return read_layer_types(c, j, err);
    for (int64_t i = c->arch->window_rule == VP_WINDOW_ALWAYS ? 0 : first; i < c->layers; i++) c->windowed[i] = 1;
    return VP_OK;
}

static int read_activation(vp_config *c, const vp_json *j, vp_error *err) {
    const char *name = NULL;
    VP_TRY(vp_json_str(j, j->root, c->arch->act_key, &name, err));
    if (!name) return VP_OK;
    for (size_t i = 0; i < sizeof activations / sizeof *activations; i++) {
        if (strcmp(activations[i].name, name)) continue;
        bool tanh_meant = c->arch->gelu_is_tanh && activations[i].act == VP_ACT_GELU;
        c->act = tanh_meant ? VP_ACT_GELU_TANH : activations[i].act;
        return VP_OK;
    }
    return vp_fail(err, VP_DATA, "%s: activation \"%s\" is not supported", j->path, name);
}

static int refuse_unsupported(const vp_config *c, const vp_json *j, vp_error *err) {
    static const char *const keys[] = {"quantization_config", "is_encoder_decoder", "add_cross_attention"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (vp_json_says(j->root, keys[i])) return vp_fail(err, VP_DATA, "%s: %s is not supported", j->path, keys[i]);
    const char *positions = "absolute";
    VP_TRY(vp_json_str(j, j->root, "position_embedding_type", &positions, err));
    if (c->arch->rope == VP_ROPE_NONE && strcmp(positions, "absolute"))
        return vp_fail(err, VP_DATA, "%s: position_embedding_type \"%s\" is not supported", j->path, positions);
    return VP_OK;
}

static int read_flags(vp_config *c, const vp_json *j, vp_error *err) {
    VP_TRY(vp_json_bool(j, j->root, "tie_word_embeddings", &c->tied, err));
    if (c->arch->bias_keys) {
        VP_TRY(vp_json_bool(j, j->root, "attention_bias", &c->qkv_bias, err));
        c->out_bias = c->qkv_bias;
        VP_TRY(vp_json_bool(j, j->root, "mlp_bias", &c->mlp_bias, err));
    }
    bool decoder = c->causal, bidirectional = !c->causal;
    VP_TRY(vp_json_bool(j, j->root, "is_decoder", &decoder, err));
    VP_TRY(vp_json_bool(j, j->root, "use_bidirectional_attention", &bidirectional, err));
    c->causal = c->causal ? !bidirectional : decoder;
    return VP_OK;
}

/* NV-Embed's config.json has the transformer's in its `text_config`. */
static int from_text_config(vp_config *c, const vp_json *j, vp_error *err) {
    const vp_json inner = {.root = json_object_get(j->root, "text_config"), .path = j->path};
    const char *type = NULL;
    if (!json_is_object(inner.root)) return vp_fail(err, VP_DATA, "%s: no object \"text_config\"", j->path);
    VP_TRY(vp_json_str(j, inner.root, "model_type", &type, err));
    if (type && !strcmp(type, "bidir_mistral")) return vp_config_from_json(c, &inner, err);
    return vp_fail(err, VP_DATA, "%s: text_config's model_type is not \"bidir_mistral\"", j->path);
}

int vp_config_from_json(vp_config *c, const vp_json *j, vp_error *err) {
    const char *type = NULL;
    VP_TRY(vp_json_str(j, j->root, "model_type", &type, err));
    if (type && !strcmp(type, "nvembed")) return from_text_config(c, j, err);
    if (!type) return vp_fail(err, VP_DATA, "%s: no model_type", j->path);
    const vp_arch *arch = vp_arch_find(type);
    char list[200];
    if (!arch)
        return vp_fail(err, VP_DATA, "%s: model_type \"%s\" is not supported (%s are)", j->path, type,
                       vp_arch_list(false, list, sizeof list));
    *c = arch->base;
    c->arch = arch;
    VP_TRY(refuse_unsupported(c, j, err));
    for (int i = 0; i < VP_CONFIG_FIELDS; i++) {
        int64_t *value = (int64_t *)((char *)c + vp_config_fields[i].offset);
        if (vp_config_fields[i].hf_old) VP_TRY(vp_json_int(j, j->root, vp_config_fields[i].hf_old, value, err));
        VP_TRY(vp_json_int(j, j->root, vp_config_fields[i].hf, value, err));
    }
    if (json_is_null(json_object_get(j->root, "num_key_value_heads"))) c->groups = 0; /* null: as many as heads */
    if (json_is_null(json_object_get(j->root, "head_dim"))) c->head_dim = 0;
    const char *const eps[] = {"layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps"};
    for (int i = 0; i < 3; i++) VP_TRY(vp_json_real(j, j->root, eps[i], &c->eps, err));
    VP_TRY(vp_json_real(j, j->root, "router_aux_loss_coef", &c->balance, err));
    VP_TRY(vp_json_real(j, j->root, "router_jitter_noise", &c->jitter, err));
    VP_TRY(read_activation(c, j, err));
    VP_TRY(read_flags(c, j, err));
    VP_TRY(read_rope(c, j, err));
    VP_TRY(vp_config_finish(c, j->path, err));
    return read_window(c, j, err);
}
