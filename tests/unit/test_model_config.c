/* Configurations: the same model spelled in other ways is the same model; what is not supported is refused by name.
 * Also the weight table: missing, misshapen and unknown tensors. */
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>

static char *fingerprint_of(const char *path, vp_error *err) {
    vp_model *m;
    if (vp_model_open(&m, path, err)) return NULL;
    char *print = vp_strndup(vp_model_fingerprint(m), 32);
    vp_model_close(m);
    return print;
}

typedef struct edit {
    const char *what, *model, *find, *with;
} edit;

/* Other spellings of the golden configs. Each must open as the very same model. */
static void test_spellings(void) {
    static const edit same[] = {
        {"no head_dim", "llama", "\"head_dim\": 16,", ""},
        {"null head_dim", "llama", "\"head_dim\": 16,", "\"head_dim\": null,"},
        {"no num_key_value_heads", "llama", "\"num_key_value_heads\": 4,", ""},
        {"default keys left out", "llama-gqa-tied", "\"rms_norm_eps\": 1e-06,", ""},
        {"no activation", "llama", "\"hidden_act\": \"silu\",", ""},
        {"swish", "llama", "\"silu\"", "\"swish\""},
        {"old rope_theta", "llama-gqa-tied",
         "\"rope_parameters\": {\n    \"rope_theta\": 100000.0,\n    \"rope_type\": \"default\"\n  }",
         "\"rope_theta\": 100000, \"rope_scaling\": null"},
        {"no rope keys", "llama",
         "\"rope_parameters\": {\n    \"rope_theta\": 10000.0,\n    \"rope_type\": \"default\"\n  },", ""},
        {"old rope_scaling", "llama3-rope", "\"rope_parameters\": {", "\"rope_theta\": 3.0, \"rope_scaling\": {"},
        {"rope type, not rope_type", "llama3-rope", "\"rope_type\"", "\"type\""},
        {"theta as an integer", "llama3-rope", "500000.0", "500000"},
        {"window left null", "mistral", "\"sliding_window\": null,",
         "\"sliding_window\": null, \"max_window_layers\": 1,"},
        {"a switched-off window", "qwen2", "\"sliding_window\": null,", "\"sliding_window\": 4,"},
        {"another transformers version", "bert", "5.23.0", "4.6.1"},
        {"a list of end tokens", "llama", "\"eos_token_id\": 2", "\"eos_token_id\": [2, 5]"},
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        vp_error err = {0};
        char *want = fingerprint_of(golden_path("%s", same[i].model), &err);
        const char *folder = linked_folder(golden_path("%s", same[i].model));
        replace_text(folder, "config.json", same[i].find, same[i].with);
        char *got = fingerprint_of(folder, &err);
        OK(want && got && !strcmp(want, got), "%s: %s is the same model %s", same[i].model, same[i].what, err.text);
        free(want);
        free(got);
    }
}

/* `with` in a config changes the model, so also its fingerprint. */
static void test_differences(void) {
    static const edit other[] = {
        {"theta", "llama", "10000.0", "10001.0"},
        {"epsilon", "llama", "1e-05", "1e-06"},
        {"a window", "mistral", "\"sliding_window\": null", "\"sliding_window\": 8"},
        {"a window by default", "mistral", "\"sliding_window\": null,", ""},
        {"scaling", "llama3-rope", "\"factor\": 8.0", "\"factor\": 4.0"},
        {"activation", "bert", "\"gelu\"", "\"gelu_new\""},
    };
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        vp_error err = {0};
        char *want = fingerprint_of(golden_path("%s", other[i].model), &err);
        const char *folder = linked_folder(golden_path("%s", other[i].model));
        replace_text(folder, "config.json", other[i].find, other[i].with);
        char *got = fingerprint_of(folder, &err);
        OK(want && got && strcmp(want, got), "%s: another %s is another model %s", other[i].model, other[i].what,
           err.text);
        free(want);
        free(got);
    }
}

typedef struct refusal {
    const char *model, *find, *with, *says;
} refusal;

static void test_refusals(void) {
    static const refusal refused[] = {
        {"llama", "\"llama\"", "\"opt\"", "model_type \"opt\" is not supported"},
        {"llama", "\"model_type\": \"llama\",", "", "no model_type"},
        {"llama", "\"model_type\": \"llama\"", "\"model_type\": 3", "\"model_type\" is not a string"},
        {"llama", "\"silu\"", "\"mish\"", "activation \"mish\""},
        {"llama", "\"default\"", "\"yarn\"", "rope_type \"yarn\""},
        {"llama", "\"default\"", "\"linear\"", "needs a number \"factor\""},
        {"llama3-rope", "\"low_freq_factor\": 1.0,", "", "needs a number \"low_freq_factor\""},
        {"llama3-rope", "\"factor\": 8.0", "\"factor\": 0", "RoPE parameters are out of range"},
        {"llama", "\"rope_theta\": 10000.0", "\"partial_rotary_factor\": 0.5", "partial_rotary_factor 0.5"},
        {"llama", "\"rope_theta\": 10000.0,", "\"full_attention\": {},", "by layer type"},
        {"llama", "\"mlp_bias\": false", "\"quantization_config\": {\"bits\": 4}", "quantization_config"},
        {"llama", "\"attention_bias\": false", "\"attention_bias\": true",
         "model.layers.0.self_attn.q_proj.bias is missing"},
        {"llama", "\"attention_bias\": false", "\"attention_bias\": 0", "\"attention_bias\" is not true or false"},
        {"llama", "\"hidden_size\": 64", "\"hidden_size\": -64", "hidden_size is -64"},
        {"llama", "\"hidden_size\": 64", "\"hidden_size\": 1e18", "\"hidden_size\" is not an integer"},
        {"llama", "\"hidden_size\": 64", "\"hidden_size\": 64.5", "\"hidden_size\" is not an integer"},
        {"llama", "\"hidden_size\": 64", "\"hidden_size\": \"64\"", "\"hidden_size\" is not an integer"},
        {"llama", "\"hidden_size\": 64", "\"hidden_size\": 72", "has shape [320, 64], not [320, 72]"},
        {"llama", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 100000", "num_hidden_layers is 100000"},
        {"llama", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3",
         "model.layers.2.input_layernorm.weight is missing"},
        {"llama", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1",
         "model.layers.1.input_layernorm.weight is not part of"},
        {"llama", "\"num_attention_heads\": 4", "\"num_attention_heads\": 0", "num_attention_heads is 0"},
        {"llama", "\"num_key_value_heads\": 4", "\"num_key_value_heads\": 3", "not a multiple of 3"},
        {"llama", "\"head_dim\": 16", "\"head_dim\": 15", "cannot rotate 15"},
        {"llama", "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1", "epsilon -1"},
        {"llama", "\"vocab_size\": 320", "\"vocab_size\": 321",
         "embed_tokens.weight has shape [320, 64], not [321, 64]"},
        {"llama", "{", "{ \"vocab_size\": 5,", "duplicate object key"},
        {"llama", "{", "[", "config.json:2: "},
        {"bert", "{", "{ \"position_embedding_type\": \"relative_key\",", "position_embedding_type \"relative_key\""},
        {"bert", "\"type_vocab_size\": 2", "\"type_vocab_size\": 3",
         "token_type_embeddings.weight has shape [2, 64], not [3, 64]"},
        {"qwen2", "\"use_sliding_window\": false", "\"use_sliding_window\": true, \"sliding_window\": -3",
         "\"sliding_window\""},
        {"qwen2", "\"qwen2\"", "\"llama\"", "self_attn.k_proj.bias is not part of a llama model"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const refusal *r = &refused[i];
        vp_error err = {0};
        vp_model *m;
        const char *folder = linked_folder(golden_path("%s", r->model));
        replace_text(folder, "config.json", r->find, r->with);
        int status = vp_model_open(&m, folder, &err);
        OK(status == VP_DATA && strstr(err.text, r->says) && !m, "%s: %s -> %s", r->model, r->with, err.text);
        vp_model_close(m);
    }
}

static void test_files(void) {
    vp_error err = {0};
    vp_model *m;
    OK(vp_model_open(&m, golden_path("nothing"), &err) == VP_IO, "no such folder: %s", err.text);
    err = (vp_error){0};
    OK(vp_model_open(&m, golden_path("llama/golden.safetensors"), &err) == VP_DATA, "a file of tensors: %s", err.text);
    err = (vp_error){0};
    OK(vp_model_open(&m, golden_path("llama/adapter"), &err) == VP_DATA && strstr(err.text, "--adapter"),
       "an adapter: %s", err.text);
    err = (vp_error){0};
    OK(vp_model_open(&m, "/dev/zero", &err) == VP_DATA, "a device: %s", err.text);
    err = (vp_error){0};
    const char *folder = linked_folder(golden_path("llama"));
    write_text(folder, "model.safetensors", "");
    OK(vp_model_open(&m, folder, &err) == VP_DATA && strstr(err.text, "model.safetensors"), "empty weights: %s",
       err.text);
}

int main(void) {
    test_spellings();
    test_differences();
    test_refusals();
    test_files();
    return done();
}
