/* LoRA adapters: both name depths, scales, patterns, order; what PEFT can do and we do not is refused by name. */
#include "tests/modelfile.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <stdlib.h>

static const int32_t ids[] = {5, 9, 300, 17, 4, 4, 80, 31, 7, 12}, cu[] = {0, 3, 10};

/* hidden of llama with these adapters, or NULL. */
static float *run(const char *const *adapter, int n, vp_error *err) {
    vp_model *m;
    if (vp_model_open(&m, golden_path("llama"), err)) return NULL;
    packed p = pack_rows(ids, cu, 2, NULL, 0);
    int status = VP_OK;
    for (int i = 0; !status && i < n; i++) status = vp_model_add_adapter(m, adapter[i], err);
    float *hidden = status ? NULL : encode(m, p.frame, "bi", 1, 0, err);
    packed_free(&p);
    vp_model_close(m);
    return hidden;
}

/* What `edited` gives against the plain adapter: equal to the byte, or not. */
static void compare(const char *what, const char *edited, bool equal) {
    vp_error err = {0};
    const char *const plain[] = {golden_path("llama/adapter")}, *const other[] = {edited};
    float *a = run(plain, 1, &err), *b = run(other, 1, &err);
    bool same = a && b && !memcmp(a, b, 10 * 64 * sizeof *a);
    OK(a && b && same == equal, "%s: %s %s", what, equal ? "the same bytes" : "other values", err.text);
    free(a);
    free(b);
}

static const char *edited(const char *find, const char *with) {
    const char *folder = linked_folder(golden_path("llama/adapter"));
    replace_text(folder, "adapter_config.json", find, with);
    return folder;
}

/* The adapter with `find` replaced in its tensors' names. */
static const char *renamed(const char *find, const char *with) {
    const char *folder = linked_folder(golden_path("llama/adapter"));
    vp_buf file = {0}, json = {0}, out = {0};
    vp_error err = {0};
    if (vp_read_file(golden_path("llama/adapter/adapter_model.safetensors"), 1 << 20, &file, &err)) abort();
    uint64_t n;
    memcpy(&n, file.data, sizeof n);
    for (const char *at = file.data + 8, *end = at + n; at < end;) {
        bool hit = (size_t)(end - at) >= strlen(find) && !memcmp(at, find, strlen(find));
        put(&json, hit ? with : at, hit ? strlen(with) : 1);
        at += hit ? strlen(find) : 1;
    }
    put(&json, "", 1);
    safetensors(&out, json.data, file.data + 8 + n, file.len - 8 - n);
    write_bytes(folder, "adapter_model.safetensors", out.data, out.len);
    vp_buf_free(&file);
    vp_buf_free(&json);
    vp_buf_free(&out);
    return folder;
}

/* alpha 4 and rank 4: 4 / sqrt(4) = 8 / 4. */
static const char *rank_stabilised(void) {
    const char *folder = edited("\"lora_alpha\": 8", "\"lora_alpha\": 4");
    replace_text(folder, "adapter_config.json", "\"use_rslora\": false", "\"use_rslora\": true");
    return folder;
}

static void test_scales(void) {
    compare("the inner model's names", renamed("model.model.layers", "model.layers"), true);
    compare("alpha 8 and rank 4 by patterns", edited("\"alpha_pattern\": {}", "\"alpha_pattern\": {\".*\": 8.0}"),
            true);
    compare("another alpha", edited("\"lora_alpha\": 8", "\"lora_alpha\": 9"), false);
    compare("rank-stabilised", edited("\"use_rslora\": false", "\"use_rslora\": true"), false);
    compare("alpha over the root of the rank", rank_stabilised(), true);
    compare("alpha of one module", edited("\"alpha_pattern\": {}", "\"alpha_pattern\": {\"layers.1.mlp.up_proj\": 16}"),
            false);
    compare("alpha of no module", edited("\"alpha_pattern\": {}", "\"alpha_pattern\": {\"up_pro\": 16}"), true);
    compare("the first pattern counts",
            edited("\"alpha_pattern\": {}", "\"alpha_pattern\": {\"[a-z]*_proj\": 8, \"q_proj\": 1}"), true);
    compare("dropout is for training", edited("\"lora_dropout\": 0.0", "\"lora_dropout\": 0.5"), true);
}

static void test_order(void) {
    vp_error err = {0};
    const char *a = golden_path("llama/adapter"), *b = edited("\"lora_alpha\": 8", "\"lora_alpha\": -8");
    const char *const none[] = {NULL}, *const opposite[] = {a, b};
    float *base = run(none, 0, &err), *both = run(opposite, 2, &err);
    double e = base && both ? relative_error(both, base, 10 * 64) : 1;
    OK(e <= 1e-4, "an adapter and its opposite: %.1e %s", e, err.text);
    free(base);
    free(both);
}

static void refuse(const char *what, const char *folder, const char *says, int want) {
    vp_error err = {0};
    vp_model *m = NULL;
    int status = vp_model_open(&m, golden_path("llama"), &err);
    if (!status) status = vp_model_add_adapter(m, folder, &err);
    OK(status == want && strstr(err.text, says), "%s: %s", what, err.text);
    vp_model_close(m);
}

static void test_refusals(void) {
    static const char *const config[][3] = {
        {"\"use_dora\": false", "\"use_dora\": true", "use_dora"},
        {"\"bias\": \"none\"", "\"bias\": \"all\"", "bias \"all\""},
        {"\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]", "modules_to_save"},
        {"\"lora_bias\": false", "\"lora_bias\": true", "lora_bias"},
        {"\"LORA\"", "\"IA3\"", "peft_type \"IA3\""},
        {"\"fan_in_fan_out\": false", "\"fan_in_fan_out\": true", "fan_in_fan_out"},
        {"\"layer_replication\": null", "\"layer_replication\": [[0, 2]]", "layer_replication"},
        {"\"trainable_token_indices\": null", "\"trainable_token_indices\": [1]", "trainable_token_indices"},
        {"\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"", "init_lora_weights \"pissa\""},
        {"\"r\": 4", "\"r\": 5", "rank 5 for"},
        {"\"rank_pattern\": {}", "\"rank_pattern\": {\"k_proj\": 3}", "rank 3 for model.layers.0.self_attn.k_proj"},
        {"\"rank_pattern\": {}", "\"rank_pattern\": {\"(\": 3}", "not a regular expression"},
        {"\"rank_pattern\": {}", "\"rank_pattern\": [4]", "\"rank_pattern\" is not an object"},
        {"\"alpha_pattern\": {}", "\"alpha_pattern\": {\"(((.+)+)+)+_\": 3}", "cannot be matched"},
        {"\"alpha_pattern\": {}", "\"alpha_pattern\": {\".*\": \"x\"}", "is not a number"},
    };
    for (size_t i = 0; i < sizeof config / sizeof *config; i++)
        refuse(config[i][1], edited(config[i][0], config[i][1]), config[i][2], VP_DATA);
    refuse("a key of no weight", renamed("self_attn.", "attn."), "matches no weight of the llama model", VP_DATA);
    refuse("a key without the start", renamed("base_model.", ""), "matches no weight", VP_DATA);
    refuse("another model's shapes", golden_path("llama-gqa-tied/adapter"), "not [64, 4]", VP_DATA);
    refuse("no such folder", golden_path("nothing"), "nothing", VP_IO);
    refuse("a model", golden_path("bert"), "adapter_config.json", VP_IO);
}

int main(void) {
    test_scales();
    test_order();
    test_refusals();
    return done();
}
