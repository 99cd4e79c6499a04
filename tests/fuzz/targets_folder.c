/* Model folders: config.json, settings and adapters beside the tiny weights that they are about, and a GGUF model. */
#include "lib/vecpipe.h"
#include "tests/fuzz/targets.h"
#include "tests/modelfile.h"
#include <sys/stat.h>

/* ---- a LLaMA of one layer: width 8, two heads, feed-forward 32, vocabulary 16 ---- */

typedef struct tiny_tensor {
    const char *hf, *gguf;
    int rows, cols; /* cols 0: a vector */
} tiny_tensor;
static const tiny_tensor tiny[] = {
    {"model.embed_tokens.weight", "token_embd.weight", 16, 8},
    {"model.norm.weight", "output_norm.weight", 8, 0},
    {"model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", 8, 0},
    {"model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", 8, 8},
    {"model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", 8, 8},
    {"model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", 8, 8},
    {"model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight", 8, 8},
    {"model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", 8, 0},
    {"model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight", 32, 8},
    {"model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight", 32, 8},
    {"model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", 8, 32},
};
enum { TINY = sizeof tiny / sizeof *tiny };

static const char config[] =
    "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":32,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":2,\"vocab_size\":16,\"max_position_embeddings\":64,"
    "\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,"
    "\"eos_token_id\":[2],\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
    "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":32}}";
static const char plain[] =
    "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":0,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"vocab_size\":16,\"tie_word_embeddings\":true}";

/* A safetensors file of n F32 tensors [rows, cols] of zeros. */
static void write_tensors(const char *path, const tiny_tensor *t, int n) {
    vp_buf json = {0}, file = {0};
    vp_error err = {0};
    size_t end = 0;
    for (int i = 0; i < n; i++) {
        size_t begin = end;
        end += 4 * (size_t)(t[i].rows * (t[i].cols ? t[i].cols : 1));
        if (vp_buf_printf(&json, &err,
                          t[i].cols ? "%c\"%s\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":"
                                    : "%c\"%s\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":",
                          i ? ',' : '{', t[i].hf, t[i].rows, t[i].cols) ||
            vp_buf_printf(&json, &err, "[%zu,%zu]}", begin, end))
            abort();
    }
    put(&json, "}", 2);
    char *zeros = calloc(1, end);
    if (!zeros) abort();
    safetensors(&file, json.data, zeros, end);
    write_file(path, &file);
    free(zeros);
    vp_buf_free(&json);
    vp_buf_free(&file);
}

static int open_model(const char *path, const char *adapter, vp_error *err) {
    vp_model *m = NULL;
    int status = vp_model_open(&m, path, err);
    if (!status && adapter) status = vp_model_add_adapter(m, adapter, err);
    if (!status) {
        vp_map *header = vp_map_new();
        status = vp_model_describe(m, header, err);
        vp_map_free(header);
    }
    vp_model_close(m);
    return status;
}

void fuzz_tiny_model(void) {
    write_tensors("model.safetensors", tiny, TINY);
    fuzz_write_text("config.json", config);
}

/* ---- config.json ---- */

void config_seeds(fuzz_seeds *s) {
    write_tensors("model.safetensors", tiny, TINY);
    fuzz_seed_text(s, config);
    fuzz_seed_text(s, plain);
}

int config_run(const vp_buf *input, vp_error *err) {
    fuzz_write_file("config.json", input);
    return open_model(".", NULL, err);
}

/* ---- sentence-transformers', LLM2Vec's and NV-Embed's settings: one input, for every file that fits it ---- */

void settings_seeds(fuzz_seeds *s) {
    static const tiny_tensor latent[] = {
        {"latent_attention_model.latents", "", 2, 8},    {"latent_attention_model.mlp.0.weight", "", 4, 8},
        {"latent_attention_model.mlp.0.bias", "", 4, 0}, {"latent_attention_model.mlp.2.weight", "", 8, 4},
        {"latent_attention_model.mlp.2.bias", "", 8, 0},
    };
    write_tensors("model.safetensors", tiny, TINY);
    write_tensors("latent_attention_model.safetensors", latent, sizeof latent / sizeof *latent);
    fuzz_write_text("config.json", plain);
    mkdir("1_Pooling", 0700);
    fuzz_write_text("1_Pooling/config.json", "{\"pooling_mode_mean_tokens\":true}");
    fuzz_seed_text(
        s, "[{\"idx\":0,\"name\":\"0\",\"path\":\"\",\"type\":\"sentence_transformers.models.Transformer\"},"
           "{\"idx\":1,\"name\":\"1\",\"path\":\"1_Pooling\",\"type\":\"sentence_transformers.models.Pooling\"},"
           "{\"idx\":2,\"name\":\"2\",\"path\":\"2_Normalize\",\"type\":\"a.Normalize\"}]");
    fuzz_seed_text(s,
                   "{\"pooling_mode\":\"mean\",\"include_prompt\":true,\"max_seq_length\":32,\"do_lower_case\":false,"
                   "\"prompts\":{\"query\":\"q: \",\"document\":\"d: \"},\"default_prompt_name\":\"query\","
                   "\"max_length\":32,\"skip_instruction\":true}");
    fuzz_seed_text(s, "{\"attention\":\"bi\",\"pooling\":\"latent\",\"is_mask_instruction\":true,\"add_eos\":true,"
                      "\"max_length\":32,\"dims\":0,\"latent_attention_config\":{\"output_normalize\":true,"
                      "\"form\":\"plain\",\"num_latents_value\":2,\"num_cross_heads\":2,\"cross_dim_head\":4,"
                      "\"inner_dim\":4,\"latent_dim\":8,\"hidden_dim\":8}}");
    fuzz_seed_text(s, "{\"chat\":\"llara\",\"attention\":\"causal\",\"pooling\":\"mean\",\"normalize\":true,"
                      "\"max_length\":32,\"dims\":0}");
}

int settings_run(const vp_buf *input, vp_error *err) {
    static const char *const others[] = {
        "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
        "llm2vec_config.json",   "nv_embed_config.json",      "vecpipe_config.json"};
    if (input->len && input->data[0] == '[')
        fuzz_write_file("modules.json", input);
    else
        for (size_t i = 0; i < sizeof others / sizeof *others; i++) fuzz_write_file(others[i], input);
    int status = open_model(".", NULL, err);
    if (status != VP_IO) return status;
    return err->code = VP_DATA; /* a module's folder that does not exist */
}

/* ---- adapter_config.json ---- */

static const char adapter[] = "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"],"
                              "\"bias\":\"none\",\"use_dora\":false,\"use_rslora\":true,"
                              "\"trainable_token_indices\":{\"embed_tokens\":[14,15]},"
                              "\"rank_pattern\":{\".*q_proj\":2},\"alpha_pattern\":{\"layers.0.self_attn.q_proj\":8}}";

void adapter_seeds(fuzz_seeds *s) {
    static const tiny_tensor lora[] = {
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "", 2, 8},
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", "", 8, 2},
        {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", "", 2, 8},
    };
    write_tensors("model.safetensors", tiny, TINY);
    fuzz_write_text("config.json", plain);
    mkdir("adapter", 0700);
    write_tensors("adapter/adapter_model.safetensors", lora, sizeof lora / sizeof *lora);
    fuzz_seed_text(s, adapter);
}

int adapter_run(const vp_buf *input, vp_error *err) {
    fuzz_write_file("adapter/adapter_config.json", input);
    return open_model(".", "adapter", err);
}

/* ---- a GGUF model ---- */

void gguf_model_seeds(fuzz_seeds *s) {
    static const struct {
        const char *key;
        uint32_t value;
    } sizes[] = {{"llama.embedding_length", 8},     {"llama.feed_forward_length", 32},    {"llama.block_count", 1},
                 {"llama.attention.head_count", 2}, {"llama.attention.head_count_kv", 2}, {"llama.context_length", 64},
                 {"llama.rope.dimension_count", 4}, {"tokenizer.ggml.eos_token_id", 2}};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    vp_buf *b = fuzz_add_seed(s);
    uint64_t offset = 0;
    gguf_header(b, 3, TINY, SIZES + 2);
    gguf_key(b, "general.architecture", VP_GGUF_STRING);
    gguf_string(b, "llama");
    gguf_key(b, "llama.attention.layer_norm_rms_epsilon", VP_GGUF_F32);
    put_f32(b, 1e-5f);
    for (int i = 0; i < SIZES; i++) {
        gguf_key(b, sizes[i].key, VP_GGUF_U32);
        put_u32(b, sizes[i].value);
    }
    for (int i = 0; i < TINY; i++) {
        const uint64_t rows = (uint64_t)tiny[i].rows, cols = (uint64_t)tiny[i].cols;
        gguf_tensor(b, tiny[i].gguf, cols ? 2 : 1, cols ? (const uint64_t[]){cols, rows} : &rows, 0, offset);
        offset += 4 * rows * (cols ? cols : 1);
    }
    put_pad(b, 32);
    for (uint64_t i = 0; i < offset; i += 4) put_f32(b, 0);
}

int gguf_model_run(const vp_buf *input, vp_error *err) {
    fuzz_write_file("model.gguf", input);
    return open_model("model.gguf", NULL, err);
}
