/* A run's result: the adapter that was written gives the bytes of the one that was read, and its settings come back. */
#include "lib/train/output.h"
#include "lib/base/json.h"
#include "lib/file/source.h"
#include "lib/model/settings_write.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const int32_t ids[] = {5, 9, 300, 17, 4, 4, 80, 31, 7, 12}, cu[] = {0, 3, 10};
enum { MAX = 100, T = 10, C = 64 };

/* The golden adapter as a parameter space; `inner` false: names without the inner model's prefix, as LLM2Vec has. */
typedef struct space {
    vp_source *source;
    vp_param param[MAX];
    char name[MAX][160];
    vp_params params;
} space;

static void open_space(space *s, bool inner) {
    vp_error err = {0};
    if (vp_source_open(&s->source, golden_path("llama/adapter/adapter_model.safetensors"), &err)) abort();
    s->params = (vp_params){.param = s->param, .n = vp_source_count(s->source)};
    for (size_t i = 0; i < s->params.n; i++) {
        const vp_tensor_info *t = vp_source_at(s->source, i);
        static const char prefix[] = "base_model.model.", longer[] = "base_model.model.model.";
        snprintf(s->name[i], sizeof s->name[i], "%s%s", inner ? longer : prefix, t->name + strlen(longer));
        s->param[i] = (vp_param){s->name[i], vp_tensor_rows(t), vp_tensor_cols(t), s->params.count};
        s->params.count += s->param[i].rows * s->param[i].cols;
    }
    s->params.value = calloc((size_t)s->params.count, sizeof(float));
    for (size_t i = 0; i < s->params.n; i++)
        memcpy(s->params.value + s->param[i].first, vp_source_at(s->source, i)->data,
               vp_source_at(s->source, i)->bytes);
}

static void close_space(space *s) {
    free(s->params.value);
    vp_source_close(s->source);
}

static vp_lora_output lora_of(const space *s) {
    return (vp_lora_output){.params = &s->params, .base = golden_path("llama"), .alpha = 8.0, .dropout = 0.05};
}

/* hidden of llama with the adapter in `folder`. */
static float *run(const char *folder, vp_error *err) {
    vp_model *m;
    if (vp_model_open(&m, golden_path("llama"), err)) return NULL;
    packed p = pack_rows(ids, cu, 2, NULL, 0);
    float *hidden = vp_model_add_adapter(m, folder, err) ? NULL : encode(m, p.frame, "bi", 1, 0, err);
    packed_free(&p);
    vp_model_close(m);
    return hidden;
}

static void test_adapter(space *s, const char *what) {
    vp_error err = {0};
    const char *folder = linked_folder(NULL);
    vp_lora_output lora = lora_of(s);
    OK(vp_run_write_adapter(folder, &lora, &err) == VP_OK, "%s: written %s", what, err.text);
    float *want = run(golden_path("llama/adapter"), &err), *got = run(folder, &err);
    OK(want && got && !memcmp(want, got, T * C * sizeof *got), "%s: the same hidden states %s", what, err.text);
    free(got);
    for (int64_t i = 0; i < s->params.count; i++) s->params.value[i] *= 2.0f;
    lora.alpha = 4.0;
    OK(vp_run_write_adapter(folder, &lora, &err) == VP_OK, "%s: replaced %s", what, err.text);
    got = run(folder, &err);
    OK(got && memcmp(want, got, T * C * sizeof *got), "%s: B and A doubled, alpha halved: other states", what);
    for (int64_t i = 0; i < s->params.count; i++) s->params.value[i] *= 0.5f;
    free(want);
    free(got);
}

static void test_config(space *s) {
    vp_error err = {0};
    const char *folder = linked_folder(NULL), *base = NULL;
    const vp_lora_output lora = lora_of(s);
    int64_t rank = 0;
    double dropout = 0.0;
    vp_json j = {0};
    if (vp_run_write_adapter(folder, &lora, &err) || vp_json_open(&j, folder, "adapter_config.json", JSON_OBJECT, &err))
        OK(false, "%s", err.text);
    vp_json_int(&j, j.root, "r", &rank, &err);
    vp_json_real(&j, j.root, "lora_dropout", &dropout, &err);
    vp_json_str(&j, j.root, "base_model_name_or_path", &base, &err);
    OK(rank == 4 && fabs(dropout - 0.05) <= 1e-12 && base && !strcmp(base, golden_path("llama")),
       "rank, dropout and base %s", err.text);
    OK(json_array_size(json_object_get(j.root, "target_modules")) == 7, "seven target modules, each once");
    OK(json_is_null(json_object_get(j.root, "task_type")), "task_type null");
    vp_json_close(&j);
}

static void refuse(space *s, const char *name, int64_t rows, int want, const char *what) {
    vp_error err = {0};
    const vp_lora_output lora = lora_of(s);
    const vp_param kept = s->param[2];
    s->param[2].name = name;
    s->param[2].cols = kept.rows * kept.cols / rows;
    s->param[2].rows = rows;
    OK(vp_run_write_adapter(linked_folder(NULL), &lora, &err) == want, "%s: %s", what, err.text);
    s->param[2] = kept;
}

static void test_refusals(space *s) {
    const int64_t rows = s->param[2].rows;
    refuse(s, "lm_head.weight", rows, VP_BUG, "a name that is not PEFT's");
    refuse(s, "base_model.model..lora_A.weight", rows, VP_BUG, "no module");
    refuse(s, s->name[2], 2 * rows, VP_BUG, "another rank");
    s->params.value[5] = INFINITY;
    refuse(s, s->name[2], rows, VP_DATA, "a number that is not finite");
}

static void test_settings(space *s) {
    static const char *const poolings[] = {"mean", "weighted_mean", "last", "eos", "bos"};
    const vp_lora_output lora = lora_of(s);
    const char *folder = linked_folder(NULL);
    const vp_settings_place place = {.folder = folder, .transformer = "", .width = C, .adapter = true};
    for (size_t i = 0; i < sizeof poolings / sizeof *poolings; i++) {
        char pooling[20], none[] = "", both[] = "bi", query[] = "query: ";
        vp_error err = {0};
        snprintf(pooling, sizeof pooling, "%s", poolings[i]);
        const vp_settings want = {.attention = both,
                                  .pooling = pooling,
                                  .normalize = 1,
                                  .max_len = 100 + (int64_t)i,
                                  .query_prefix = query,
                                  .document_prefix = none,
                                  .prompt_pooled = i % 2};
        vp_model *m = NULL;
        int status = vp_run_write_adapter(folder, &lora, &err);
        if (!status) status = vp_settings_write(&want, &place, &err);
        if (!status) status = vp_settings_write_llm2vec(&want, folder, &err);
        if (!status) status = vp_model_open(&m, golden_path("llama"), &err);
        if (!status) status = vp_model_add_adapter(m, folder, &err);
        const vp_settings *got = status ? NULL : vp_model_settings(m);
        OK(got && !strcmp(got->attention, "bi") && !strcmp(got->pooling, pooling) && got->max_len == want.max_len &&
               got->prompt_pooled == want.prompt_pooled && got->normalize == 1,
           "%s: the settings come back with the adapter %s", pooling, err.text);
        vp_model_close(m);
    }
    char causal[] = "causal", pooling[] = "median", none[] = "", path[300];
    const vp_settings odd = {.attention = causal, .pooling = pooling, .query_prefix = none, .document_prefix = none};
    vp_error err = {0};
    OK(vp_settings_write(&odd, &place, &err) == VP_BUG, "%s", err.text);
    snprintf(path, sizeof path, "%s/1_Pooling/config.json", folder);
    remove(path);
    *strrchr(path, '/') = '\0';
    OK(remove(path) == 0, "one folder for pooling");
}

static void test_tokenizer(void) {
    vp_error err = {0};
    const char *folder = linked_folder(NULL), *base = linked_folder(golden_path("llama"));
    write_text(base, "tokenizer.json", "{}");
    write_text(base, "merges.txt", "a b\n");
    vp_buf text = {0};
    char path[300];
    snprintf(path, sizeof path, "%s/merges.txt", folder);
    for (int twice = 0; twice < 2; twice++)
        OK(vp_run_write_tokenizer(folder, base, &err) == VP_OK && vp_read_file(path, 100, &text, &err) == VP_OK &&
               !strcmp(text.data, "a b\n"),
           "the tokenizer's files, once and again %s", err.text);
    OK(vp_path_exists(folder, "tokenizer.json") && !vp_path_exists(folder, "config.json"), "and no others");
    vp_buf_free(&text);
}

int main(void) {
    space s = {0};
    open_space(&s, true);
    test_adapter(&s, "PEFT's names");
    test_config(&s);
    test_settings(&s);
    test_tokenizer();
    test_refusals(&s);
    close_space(&s);
    open_space(&s, false);
    test_adapter(&s, "LLM2Vec's names");
    close_space(&s);
    return done();
}
