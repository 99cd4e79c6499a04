/* What a model's own files decide, what a header carries on, and the identity of the space. */
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODULE(type, path) "{\"type\": \"sentence_transformers.models." type "\", \"path\": \"" path "\"}"

static vp_model *open_ok(const char *path) {
    vp_error err = {0};
    vp_model *m = NULL;
    if (vp_model_open(&m, path, &err)) OK(false, "%s opens: %s", path, err.text);
    return m;
}

static void check(const char *what, const char *path, const char *attention, const char *pooling, int normalize,
                  int64_t max_len) {
    vp_model *m = open_ok(path);
    if (!m) return;
    const vp_settings *s = vp_model_settings(m);
    OK(!strcmp(s->attention, attention) && !strcmp(s->pooling, pooling) && s->normalize == normalize &&
           s->max_len == max_len,
       "%s: %s, %s, normalize %d, %lld tokens", what, s->attention, s->pooling, s->normalize, (long long)s->max_len);
    vp_model_close(m);
}

/* A sentence-transformers folder: the golden BERT, modules.json and the pooling module's config (a link into a folder,
 * so that cleaning up needs no recursion). */
static const char *transformer_folder(const char *modules, const char *pooling) {
    const char *folder = linked_folder(golden_path("bert")), *module = linked_folder(golden_path("llama/adapter"));
    char link[300], text[600];
    write_text(module, "config.json", pooling);
    snprintf(link, sizeof link, "%s/1_Pooling", folder);
    if (symlink(module, link)) abort();
    snprintf(text, sizeof text, "[%s]", modules);
    write_text(folder, "modules.json", text);
    return folder;
}

static void test_plain(void) {
    check("a plain causal model", golden_path("llama"), "causal", "weighted_mean", 1, 256);
    check("a plain bidirectional model", golden_path("bert"), "bi", "mean", 1, 256);
    const char *folder = linked_folder(golden_path("bert"));
    replace_text(folder, "config.json", "\"is_decoder\": false", "\"is_decoder\": true");
    check("a BERT decoder", folder, "causal", "weighted_mean", 1, 256);
}

static void test_sentence_transformers(void) {
    const char *both = MODULE("Transformer", "") "," MODULE("Pooling", "1_Pooling");
    const char *all =
        MODULE("Transformer", "") "," MODULE("Pooling", "1_Pooling") "," MODULE("Normalize", "2_Normalize");
    check("without Normalize", transformer_folder(both, "{\"pooling_mode_mean_tokens\": true}"), "bi", "mean", 0, 256);
    check("with Normalize", transformer_folder(all, "{\"pooling_mode_cls_token\": true}"), "bi", "cls", 1, 256);
    check("the newer spelling", transformer_folder(all, "{\"pooling_mode\": \"lasttoken\"}"), "bi", "last", 1, 256);
    check("weighted", transformer_folder(all, "{\"pooling_mode\": [\"weightedmean\"]}"), "bi", "weighted_mean", 1, 256);
    const char *folder = transformer_folder(all, "{\"pooling_mode\": \"mean\"}");
    write_text(folder, "sentence_bert_config.json", "{\"max_seq_length\": 77, \"do_lower_case\": false}");
    check("its length", folder, "bi", "mean", 1, 77);
    write_text(folder, "sentence_bert_config.json", "{\"max_seq_length\": 10000}");
    check("a length beyond the positions", folder, "bi", "mean", 1, 256);
    write_text(folder, "sentence_bert_config.json", "{\"max_seq_length\": null, \"do_lower_case\": true}");
    write_text(folder, "tokenizer_config.json", "{\"model_max_length\": 99, \"do_lower_case\": true}");
    check("the tokenizer's length", folder, "bi", "mean", 1, 99);
    write_text(folder, "tokenizer_config.json",
               "{\"model_max_length\": 1000000000000000019884624838656, \"do_lower_case\": true}");
    check("a tokenizer without a limit", folder, "bi", "mean", 1, 256);
}

static void test_prompts(void) {
    static const char *const configs[][3] = {
        {"{\"prompts\": {\"query\": \"q: \", \"passage\": \"p: \"}}", "q: ", "p: "},
        {"{\"prompts\": {\"query\": \"q: \", \"document\": \"\"}, \"default_prompt_name\": \"query\"}", "q: ", ""},
        {"{\"prompts\": {\"sts\": \"s: \"}, \"default_prompt_name\": \"sts\"}", "s: ", "s: "},
        {"{\"prompts\": {\"sts\": \"s: \"}, \"default_prompt_name\": null}", "", ""},
        {"{\"prompts\": {}}", "", ""},
    };
    const char *folder = transformer_folder(MODULE("Transformer", ""), "{}");
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        write_text(folder, "config_sentence_transformers.json", configs[i][0]);
        vp_model *m = open_ok(folder);
        const vp_settings *s = m ? vp_model_settings(m) : NULL;
        OK(s && !strcmp(s->query_prefix, configs[i][1]) && !strcmp(s->document_prefix, configs[i][2]), "prompts %s",
           configs[i][0]);
        vp_model_close(m);
    }
}

static void refuse(const char *folder, const char *says) {
    vp_error err = {0};
    vp_model *m;
    OK(vp_model_open(&m, folder, &err) == VP_DATA && strstr(err.text, says), "refused: %s", err.text);
    vp_model_close(m);
}

static void test_refusals(void) {
    const char *both = MODULE("Transformer", "") "," MODULE("Pooling", "1_Pooling");
    refuse(transformer_folder(MODULE("Transformer", "") "," MODULE("Dense", "2_Dense"), "{}"), "Dense");
    refuse(transformer_folder(MODULE("Transformer", "../llama"), "{}"), "../llama");
    refuse(transformer_folder(MODULE("Pooling", "1_Pooling"), "{}"), "first module");
    refuse(transformer_folder("7", "{}"), "element 0");
    refuse(transformer_folder(both, "{\"pooling_mode_max_tokens\": true}"), "\"max\"");
    refuse(transformer_folder(both, "{\"pooling_mode_max_tokens\": true, \"pooling_mode_cls_token\": true}"),
           "together");
    refuse(transformer_folder(both, "{\"pooling_mode\": [\"mean\", \"cls\"]}"), "more than one");
    const char *folder = transformer_folder(both, "{}");
    write_text(folder, "sentence_bert_config.json", "{\"do_lower_case\": true}");
    refuse(folder, "do_lower_case");
    write_text(folder, "sentence_bert_config.json", "{\"max_seq_length\": 0}");
    refuse(folder, "maximum length");
    folder = linked_folder(golden_path("llama"));
    write_text(folder, "llm2vec_config.json", "{\"pooling_mode\": \"latent\"}");
    refuse(folder, "\"latent\"");
}

static void test_llm2vec(void) {
    const char *folder = linked_folder(golden_path("llama"));
    write_text(folder, "llm2vec_config.json",
               "{\"pooling_mode\": \"eos_token\", \"max_length\": 100, \"skip_instruction\": false}");
    check("LLM2Vec", folder, "bi", "eos", 1, 100);
}

/* What tok is told: the limit of texts, what the base is called. */
static void check_base(const char *what, const vp_model *m, int llm2vec, int64_t doc_max_len, const char *name,
                       const char *adapters) {
    const vp_settings *s = vp_model_settings(m);
    const char *got = s->base_name[0] ? s->base_name[0] : "", *of_adapter = s->base_name[1] ? s->base_name[1] : "";
    OK(s->llm2vec == llm2vec && s->doc_max_len == doc_max_len && !strcmp(got, name) && !strcmp(of_adapter, adapters),
       "%s: LLM2Vec %d, %lld tokens, base '%s' and '%s'", what, s->llm2vec, (long long)s->doc_max_len, got, of_adapter);
}

static void test_llm2vec_text(void) {
    vp_error err = {0};
    const char *folder = linked_folder(golden_path("llama")), *adapter = linked_folder(golden_path("llama/adapter"));
    replace_text(folder, "config.json", "{", "{\"_name_or_path\": \"a/b\",");
    vp_model *m = open_ok(folder);
    if (!m) return;
    check_base("a plain model", m, 0, 0, "a/b", "");
    OK(!vp_model_add_adapter(m, adapter, &err), "a plain adapter %s", err.text);
    check_base("a plain adapter", m, 0, 0, "a/b", "");
    write_text(adapter, "llm2vec_config.json", "{}");
    replace_text(adapter, "adapter_config.json",
                 "\"base_model_name_or_path\": ", "\"base_model_name_or_path\": \"c/d\", \"was\": ");
    OK(!vp_model_add_adapter(m, adapter, &err), "an LLM2Vec adapter %s", err.text);
    check_base("an LLM2Vec adapter", m, 1, 400, "a/b", "c/d");
    vp_model_close(m);
    write_text(folder, "llm2vec_config.json", "{\"doc_max_length\": 77}");
    m = open_ok(folder);
    if (!m) return;
    check_base("an LLM2Vec folder", m, 1, 77, "a/b", "");
    vp_model_close(m);
    write_text(folder, "llm2vec_config.json", "{\"doc_max_length\": 0}");
    refuse(folder, "a maximum length of 0");
}

/* ---- headers ---- */

static void space_of(vp_map *header, char out[33]) {
    vp_error err = {0};
    vp_encoder_space(header, &err);
    vp_map *encoder = vp_map_sub(header, "encoder");
    snprintf(out, 33, "%s", encoder && vp_map_str(encoder, "space") ? vp_map_str(encoder, "space") : "");
    vp_map_free(encoder);
}

static void test_space(void) {
    static const char *const same[] = {
        "{\"model\": {\"path\": \"/b\", \"fingerprint\": \"f\", \"tokenizer\": \"t\", \"width\": 3}, \"encoder\": "
        "{\"compute\": \"bf16\", \"input\": {}, \"pooling\": \"mean\", \"normalize\": true, \"dims\": 8}}"};
    static const char *const other[] = {
        "{\"model\": {\"fingerprint\": \"g\", \"tokenizer\": \"t\"}, \"encoder\": {\"pooling\": \"mean\", "
        "\"normalize\": true, \"dims\": 8}}",
        "{\"model\": {\"fingerprint\": \"f\", \"tokenizer\": \"u\"}, \"encoder\": {\"pooling\": \"mean\", "
        "\"normalize\": true, \"dims\": 8}}",
        "{\"model\": {\"fingerprint\": \"f\", \"tokenizer\": \"t\", \"adapter_fingerprints\": [\"a\"]}, \"encoder\": "
        "{\"pooling\": \"mean\", \"normalize\": true, \"dims\": 8}}",
        "{\"model\": {\"fingerprint\": \"f\", \"tokenizer\": \"t\"}, \"encoder\": {\"pooling\": \"last\", "
        "\"normalize\": true, \"dims\": 8}}",
        "{\"model\": {\"fingerprint\": \"f\", \"tokenizer\": \"t\"}, \"encoder\": {\"pooling\": \"mean\", "
        "\"normalize\": false, \"dims\": 8}}",
        "{\"model\": {\"fingerprint\": \"f\", \"tokenizer\": \"t\"}, \"encoder\": {\"pooling\": \"mean\", "
        "\"normalize\": true, \"dims\": 4}}",
        "{\"model\": {\"fingerprint\": \"f\", \"tokenizer\": \"t\"}, \"encoder\": {\"attention\": \"bi\", \"pooling\": "
        "\"mean\", \"normalize\": true, \"dims\": 8}}",
        "{\"model\": {\"fingerprint\": \"ft\"}, \"encoder\": {\"pooling\": \"mean\", \"normalize\": true, \"dims\": "
        "8}}",
    };
    const char *base = "{\"model\": {\"path\": \"/a\", \"fingerprint\": \"f\", \"tokenizer\": \"t\"}, \"encoder\": "
                       "{\"pooling\": \"mean\", \"normalize\": true, \"dims\": 8}}";
    char want[33], got[33];
    vp_error err = {0};
    vp_map *m = NULL;
    vp_map_from_json(&m, base, strlen(base), "test", &err);
    space_of(m, want);
    vp_map_free(m);
    OK(strlen(want) == 32, "a space of 32 digits: %s", want);
    for (size_t i = 0; i < sizeof other / sizeof *other + 1; i++) {
        const char *json = i ? other[i - 1] : same[0];
        vp_map_from_json(&m, json, strlen(json), "test", &err);
        space_of(m, got);
        vp_map_free(m);
        OK((strcmp(want, got) == 0) == (i == 0), "%s space: %s", i ? "another" : "the same", json);
    }
}

static void test_header(void) {
    vp_error err = {0};
    vp_model *m = open_ok(golden_path("llama")), *again = NULL;
    vp_map *header = vp_map_new();
    int status = m && header ? vp_model_add_adapter(m, golden_path("llama/adapter"), &err) : VP_BUG;
    if (!status) status = vp_model_describe(m, header, &err);
    vp_map *model = vp_map_sub(header, "model");
    OK(!status && model && !strcmp(vp_map_str(model, "arch"), "llama") && vp_map_int(model, "width", 0) == 64 &&
           vp_map_str_at(model, "adapters", 0) && !vp_map_str_at(model, "adapters", 1),
       "a model describes itself %s", err.text);
    if (!status) status = vp_map_set_str(model, "pooling", "cls", &err);
    if (!status) status = vp_map_set_map(header, "model", model, &err);
    OK(!status && !vp_model_from_header(&again, header, &err) && !strcmp(vp_model_settings(again)->pooling, "cls"),
       "and is opened from its header, with what that says %s", err.text);
    vp_model_close(again);
    vp_model_close(m);
    static const char *const wrong[][2] = {{"fingerprint", "00000000000000000000000000000000"},
                                           {"fingerprint", ""},
                                           {"path", "tests/golden/llama"},
                                           {"pooling", "max"},
                                           {"pooling", "mean|last"},
                                           {"attention", "sideways"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        err = (vp_error){0};
        vp_map *copy = vp_map_copy(header), *other = vp_map_copy(model);
        vp_map_set_str(other, wrong[i][0], wrong[i][1], &err);
        vp_map_set_map(copy, "model", other, &err);
        OK(vp_model_from_header(&again, copy, &err) == VP_DATA && !again, "%s \"%s\": %s", wrong[i][0], wrong[i][1],
           err.text);
        vp_map_free(copy);
        vp_map_free(other);
    }
    vp_map_free(model);
    vp_map_free(header);
}

int main(void) {
    test_plain();
    test_sentence_transformers();
    test_prompts();
    test_refusals();
    test_llm2vec();
    test_llm2vec_text();
    test_space();
    test_header();
    return done();
}
