/* The table of architectures. Defaults are those of transformers' configuration classes, so that a config which leaves
 * a key out means the same here. */
#include "lib/model/arch.h"
#include <stdio.h>
#include <string.h>

const vp_role_info vp_roles[VP_NROLES] = {
#define X(role, rows, cols, layer, lora) {#role, rows, cols, layer, lora},
    VP_ROLES(X)
#undef X
};

static vp_names decoder_names = {
    [VP_W_EMBED] = "embed_tokens",
    [VP_W_FINAL_NORM] = "norm",
    [VP_W_HEAD] = "lm_head",
    [VP_W_ATTN_NORM] = "layers.#.input_layernorm",
    [VP_W_Q] = "layers.#.self_attn.q_proj",
    [VP_W_K] = "layers.#.self_attn.k_proj",
    [VP_W_V] = "layers.#.self_attn.v_proj",
    [VP_W_Q_NORM] = "layers.#.self_attn.q_norm",
    [VP_W_K_NORM] = "layers.#.self_attn.k_norm",
    [VP_W_O] = "layers.#.self_attn.o_proj",
    [VP_W_MLP_NORM] = "layers.#.post_attention_layernorm",
    [VP_W_GATE] = "layers.#.mlp.gate_proj",
    [VP_W_UP] = "layers.#.mlp.up_proj",
    [VP_W_DOWN] = "layers.#.mlp.down_proj",
};

static vp_names mixtral_names = {
    [VP_W_EMBED] = "embed_tokens",
    [VP_W_FINAL_NORM] = "norm",
    [VP_W_HEAD] = "lm_head",
    [VP_W_ATTN_NORM] = "layers.#.input_layernorm",
    [VP_W_Q] = "layers.#.self_attn.q_proj",
    [VP_W_K] = "layers.#.self_attn.k_proj",
    [VP_W_V] = "layers.#.self_attn.v_proj",
    [VP_W_O] = "layers.#.self_attn.o_proj",
    [VP_W_MLP_NORM] = "layers.#.post_attention_layernorm",
    [VP_W_ROUTER] = "layers.#.block_sparse_moe.gate",
    [VP_W_GATE] = "layers.#.block_sparse_moe.experts.#.w1",
    [VP_W_UP] = "layers.#.block_sparse_moe.experts.#.w3",
    [VP_W_DOWN] = "layers.#.block_sparse_moe.experts.#.w2",
};

static vp_names gptj_names = {
    [VP_W_EMBED] = "wte",           [VP_W_FINAL_NORM] = "ln_f",     [VP_W_HEAD] = "lm_head",
    [VP_W_ATTN_NORM] = "h.#.ln_1",  [VP_W_Q] = "h.#.attn.q_proj",   [VP_W_K] = "h.#.attn.k_proj",
    [VP_W_V] = "h.#.attn.v_proj",   [VP_W_O] = "h.#.attn.out_proj", [VP_W_UP] = "h.#.mlp.fc_in",
    [VP_W_DOWN] = "h.#.mlp.fc_out",
};

static vp_names bert_names = {
    [VP_W_EMBED] = "embeddings.word_embeddings",
    [VP_W_POSITIONS] = "embeddings.position_embeddings",
    [VP_W_TYPES] = "embeddings.token_type_embeddings",
    [VP_W_EMBED_NORM] = "embeddings.LayerNorm",
    [VP_W_Q] = "encoder.layer.#.attention.self.query",
    [VP_W_K] = "encoder.layer.#.attention.self.key",
    [VP_W_V] = "encoder.layer.#.attention.self.value",
    [VP_W_O] = "encoder.layer.#.attention.output.dense",
    [VP_W_ATTN_NORM] = "encoder.layer.#.attention.output.LayerNorm",
    [VP_W_UP] = "encoder.layer.#.intermediate.dense",
    [VP_W_DOWN] = "encoder.layer.#.output.dense",
    [VP_W_MLP_NORM] = "encoder.layer.#.output.LayerNorm",
};

static vp_names gguf_decoder_names = {
    [VP_W_EMBED] = "token_embd",
    [VP_W_FINAL_NORM] = "output_norm",
    [VP_W_HEAD] = "output",
    [VP_W_ATTN_NORM] = "blk.#.attn_norm",
    [VP_W_Q] = "blk.#.attn_q",
    [VP_W_K] = "blk.#.attn_k",
    [VP_W_V] = "blk.#.attn_v",
    [VP_W_Q_NORM] = "blk.#.attn_q_norm",
    [VP_W_K_NORM] = "blk.#.attn_k_norm",
    [VP_W_O] = "blk.#.attn_output",
    [VP_W_MLP_NORM] = "blk.#.ffn_norm",
    [VP_W_GATE] = "blk.#.ffn_gate",
    [VP_W_UP] = "blk.#.ffn_up",
    [VP_W_DOWN] = "blk.#.ffn_down",
};

static vp_names gguf_mixtral_names = {
    [VP_W_EMBED] = "token_embd",
    [VP_W_FINAL_NORM] = "output_norm",
    [VP_W_HEAD] = "output",
    [VP_W_ATTN_NORM] = "blk.#.attn_norm",
    [VP_W_Q] = "blk.#.attn_q",
    [VP_W_K] = "blk.#.attn_k",
    [VP_W_V] = "blk.#.attn_v",
    [VP_W_O] = "blk.#.attn_output",
    [VP_W_MLP_NORM] = "blk.#.ffn_norm",
    [VP_W_ROUTER] = "blk.#.ffn_gate_inp",
    [VP_W_GATE] = "blk.#.ffn_gate_exps",
    [VP_W_UP] = "blk.#.ffn_up_exps",
    [VP_W_DOWN] = "blk.#.ffn_down_exps",
};

static vp_names gguf_mixtral_old_names = {
    [VP_W_GATE] = "blk.#.ffn_gate.#",
    [VP_W_UP] = "blk.#.ffn_up.#",
    [VP_W_DOWN] = "blk.#.ffn_down.#",
};

static vp_names gguf_bert_names = {
    [VP_W_EMBED] = "token_embd",
    [VP_W_POSITIONS] = "position_embd",
    [VP_W_TYPES] = "token_types",
    [VP_W_EMBED_NORM] = "token_embd_norm",
    [VP_W_Q] = "blk.#.attn_q",
    [VP_W_K] = "blk.#.attn_k",
    [VP_W_V] = "blk.#.attn_v",
    [VP_W_O] = "blk.#.attn_output",
    [VP_W_ATTN_NORM] = "blk.#.attn_output_norm",
    [VP_W_UP] = "blk.#.ffn_up",
    [VP_W_DOWN] = "blk.#.ffn_down",
    [VP_W_MLP_NORM] = "blk.#.layer_output_norm",
};

/* What the defaults of all causal models with RoPE share. */
#define DECODER .theta = 10000, .causal = true, .factor = 1, .low = 1, .high = 4

static const vp_arch archs[] = {
    {
        .name = "llama",
        .hf_class = "LlamaForCausalLM",
        .gguf = "llama",
        .prefix = "model.",
        .names = &decoder_names,
        .gguf_names = &gguf_decoder_names,
        .norm = VP_NORM_RMS,
        .gated = true,
        .rope = VP_ROPE_HALF,
        .gguf_interleaved = true,
        .bias_keys = true,
        .act_key = "hidden_act",
        .base = {DECODER, .eps = 1e-6, .act = VP_ACT_SILU, .vocab = 32000, .width = 4096, .ffn = 11008, .layers = 32,
                 .heads = 32, .positions = 2048},
    },
    {
        .name = "mistral",
        .hf_class = "MistralForCausalLM",
        .prefix = "model.",
        .names = &decoder_names,
        .norm = VP_NORM_RMS,
        .gated = true,
        .rope = VP_ROPE_HALF,
        .window_rule = VP_WINDOW_ALWAYS,
        .act_key = "hidden_act",
        .base = {DECODER, .eps = 1e-6, .act = VP_ACT_SILU, .vocab = 32000, .width = 4096, .ffn = 14336, .layers = 32,
                 .heads = 32, .groups = 8, .positions = 131072, .window = 4096},
    },
    {
        /* In GGUF a llama with experts. */
        .name = "mixtral",
        .hf_class = "MixtralForCausalLM",
        .gguf = "llama",
        .prefix = "model.",
        .names = &mixtral_names,
        .gguf_names = &gguf_mixtral_names,
        .gguf_old_names = &gguf_mixtral_old_names,
        .norm = VP_NORM_RMS,
        .gated = true,
        .experts = true,
        .rope = VP_ROPE_HALF,
        .gguf_interleaved = true,
        .window_rule = VP_WINDOW_ALWAYS,
        .act_key = "hidden_act",
        .base = {.theta = 1e6,
                 .causal = true,
                 .factor = 1,
                 .low = 1,
                 .high = 4,
                 .eps = 1e-5,
                 .act = VP_ACT_SILU,
                 .vocab = 32000,
                 .width = 4096,
                 .ffn = 14336,
                 .layers = 32,
                 .heads = 32,
                 .groups = 8,
                 .positions = 131072,
                 .experts = 8,
                 .top_k = 2,
                 .balance = 0.001},
    },
    {
        /* NV-Embed's: attention to both sides, whatever the window says */
        .name = "bidir_mistral",
        .hf_class = "MistralForCausalLM",
        .prefix = "embedding_model.",
        .names = &decoder_names,
        .norm = VP_NORM_RMS,
        .gated = true,
        .rope = VP_ROPE_HALF,
        .act_key = "hidden_act",
        .base = {.theta = 10000,
                 .factor = 1,
                 .low = 1,
                 .high = 4,
                 .eps = 1e-6,
                 .act = VP_ACT_SILU,
                 .vocab = 32000,
                 .width = 4096,
                 .ffn = 14336,
                 .layers = 32,
                 .heads = 32,
                 .groups = 8,
                 .positions = 131072},
    },
    {
        .name = "qwen2",
        .hf_class = "Qwen2ForCausalLM",
        .gguf = "qwen2",
        .prefix = "model.",
        .names = &decoder_names,
        .gguf_names = &gguf_decoder_names,
        .norm = VP_NORM_RMS,
        .gated = true,
        .rope = VP_ROPE_HALF,
        .window_rule = VP_WINDOW_SWITCHED,
        .act_key = "hidden_act",
        .base = {DECODER, .eps = 1e-6, .act = VP_ACT_SILU, .vocab = 151936, .width = 4096, .ffn = 22016, .layers = 32,
                 .heads = 32, .groups = 32, .positions = 32768, .window = 4096, .window_first = 28, .qkv_bias = true},
    },
    {
        .name = "qwen3",
        .hf_class = "Qwen3ForCausalLM",
        .gguf = "qwen3",
        .prefix = "model.",
        .names = &decoder_names,
        .gguf_names = &gguf_decoder_names,
        .norm = VP_NORM_RMS,
        .gated = true,
        .qk_norm = true,
        .rope = VP_ROPE_HALF,
        .bias_keys = true,
        .window_rule = VP_WINDOW_SWITCHED,
        .act_key = "hidden_act",
        .base = {DECODER, .eps = 1e-6, .act = VP_ACT_SILU, .vocab = 151936, .width = 4096, .ffn = 22016, .layers = 32,
                 .heads = 32, .groups = 32, .head_dim = 128, .positions = 32768, .window = 4096, .window_first = 28},
    },
    {
        .name = "gemma",
        .hf_class = "GemmaForCausalLM",
        .prefix = "model.",
        .names = &decoder_names,
        .norm = VP_NORM_RMS_PLUS1,
        .gated = true,
        .rope = VP_ROPE_HALF,
        .scale_embedding = true,
        .bias_keys = true,
        .gelu_is_tanh = true,
        .act_key = "hidden_act",
        .base = {DECODER, .eps = 1e-6, .act = VP_ACT_GELU_TANH, .vocab = 256000, .width = 3072, .ffn = 24576,
                 .layers = 28, .heads = 16, .groups = 16, .head_dim = 256, .positions = 8192, .tied = true},
    },
    {
        .name = "gptj",
        .hf_class = "GPTJForCausalLM",
        .prefix = "transformer.",
        .names = &gptj_names,
        .norm = VP_NORM_LAYER,
        .parallel = true,
        .rope = VP_ROPE_INTERLEAVED,
        .act_key = "activation_function",
        .base = {DECODER, .act = VP_ACT_GELU_TANH, .vocab = 50400, .width = 4096, .layers = 28, .heads = 16,
                 .positions = 2048, .rotary = 64, .eps = 1e-5, .mlp_bias = true, .norm_bias = true},
    },
    {
        .name = "bert",
        .hf_class = "BertModel",
        .gguf = "bert",
        .prefix = "bert.",
        .names = &bert_names,
        .gguf_names = &gguf_bert_names,
        .norm = VP_NORM_LAYER,
        .post_norm = true,
        .rope = VP_ROPE_NONE,
        .act_key = "hidden_act",
        .base = {.vocab = 30522,
                 .width = 768,
                 .ffn = 3072,
                 .layers = 12,
                 .heads = 12,
                 .positions = 512,
                 .types = 2,
                 .eps = 1e-12,
                 .act = VP_ACT_GELU,
                 .qkv_bias = true,
                 .out_bias = true,
                 .mlp_bias = true,
                 .norm_bias = true,
                 .tied = true},
    },
};
enum { NARCHS = sizeof archs / sizeof *archs };

const vp_arch *vp_arch_find(const char *model_type) {
    for (int i = 0; i < NARCHS; i++)
        if (!strcmp(archs[i].name, model_type)) return &archs[i];
    return NULL;
}

const vp_arch *vp_arch_find_gguf(const char *name, size_t n, bool experts) {
    for (int i = 0; i < NARCHS; i++) {
        const vp_arch *a = &archs[i];
        if (a->gguf && a->experts == experts && strlen(a->gguf) == n && !memcmp(a->gguf, name, n)) return a;
    }
    return NULL;
}

const char *vp_arch_list(bool gguf, char *out, size_t cap) {
    size_t at = 0;
    for (int i = 0; i < NARCHS && at < cap; i++) {
        const char *name = gguf ? archs[i].gguf : archs[i].name;
        if (!name || (gguf && archs[i].experts)) continue; /* GGUF calls those as their kin */
        int n = snprintf(out + at, cap - at, "%s%s", at ? ", " : "", name);
        at += n > 0 ? (size_t)n : 0;
    }
    return out;
}

int64_t vp_config_size(const vp_config *c, char symbol) {
    switch (symbol) {
    case 'V':
        return c->vocab;
    case 'C':
        return c->width;
    case 'P':
        return c->positions;
    case 'Y':
        return c->types;
    case 'Q':
        return c->heads * c->head_dim;
    case 'K':
        return c->groups * c->head_dim;
    case 'D':
        return c->head_dim;
    case 'F':
        return c->ffn;
    case 'E':
        return c->experts;
    default:
        return 1;
    }
}

bool vp_arch_name(vp_names *names, vp_role role, int64_t layer, int64_t expert, char *out, size_t cap) {
    const char *pattern = (*names)[role];
    size_t at = 0;
    int64_t next = layer;
    out[0] = '\0';
    for (const char *p = pattern; p && *p && at < cap;) {
        const size_t plain = strcspn(p, "#");
        int n = snprintf(out + at, cap - at, "%.*s", (int)plain, p);
        if (!plain) {
            n = snprintf(out + at, cap - at, "%lld", (long long)next);
            next = expert;
        }
        p += plain ? plain : 1;
        at += n > 0 ? (size_t)n : 0;
    }
    return pattern != NULL;
}

bool vp_config_has(const vp_config *c, vp_role role) {
    const vp_arch *a = c->arch;
    switch (role) {
    case VP_W_GATE:
        return a->gated;
    case VP_W_Q_NORM:
    case VP_W_K_NORM:
        return a->qk_norm;
    default:
        return (*a->names)[role] != NULL;
    }
}

bool vp_config_has_bias(const vp_config *c, vp_role role) {
    switch (role) {
    case VP_W_Q:
    case VP_W_K:
    case VP_W_V:
        return c->qkv_bias;
    case VP_W_O:
        return c->out_bias;
    case VP_W_GATE:
    case VP_W_UP:
    case VP_W_DOWN:
        return c->mlp_bias;
    case VP_W_EMBED_NORM:
    case VP_W_FINAL_NORM:
    case VP_W_ATTN_NORM:
    case VP_W_MLP_NORM:
        return c->norm_bias;
    default:
        return false;
    }
}
