/* merge: merged weights against base with adapters on the fly and against PyTorch; GGUF bases; rounding; what is
 * refused. */
#include "lib/base/half.h"
#include "lib/file/source.h"
#include "tests/modelfile.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>

/* hidden of the golden rows, bidirectional; NULL on failure. */
static float *run(vp_model *m, const tensor *ids, const tensor *cu, vp_error *err) {
    packed p = pack_rows(ids->i, cu->i, cu->n - 1, NULL, 0);
    float *hidden = encode(m, p.frame, "bi", 1, 0, err);
    packed_free(&p);
    return hidden;
}

/* The model of `path` with n adapters; NULL on failure. */
static vp_model *open_with(const char *path, const char *const *adapter, int n, vp_error *err) {
    vp_model *m;
    if (vp_model_open(&m, path, err)) return NULL;
    for (int i = 0; i < n; i++)
        if (vp_model_add_adapter(m, adapter[i], err)) {
            vp_model_close(m);
            return NULL;
        }
    return m;
}

/* Merge m into a new folder and open that. */
static vp_model *merged(const vp_model *m, vp_dtype dtype, int64_t shard, vp_merged *what, vp_error *err) {
    const char *folder = linked_folder(NULL);
    if (vp_model_merge(m, folder, dtype, shard, what, err)) return NULL;
    return open_with(folder, NULL, 0, err);
}

static void test_golden(const char *name) {
    vp_error err = {0};
    vp_source *golden = NULL;
    vp_merged what;
    const char *const adapter[] = {golden_path("%s/adapter", name)};
    vp_model *base = open_with(golden_path("%s", name), adapter, 1, &err);
    vp_model *single = base ? merged(base, VP_F32, 1 << 30, &what, &err) : NULL;
    if (!OK(single && !vp_source_open(&golden, golden_path("%s/golden.safetensors", name), &err), "%s: merged %s", name,
            err.text))
        return;
    tensor ids = tensor_read(golden, "ids"), cu = tensor_read(golden, "cu");
    tensor want = tensor_read(golden, "lora.bidir.hidden");
    float *fly = run(base, &ids, &cu, &err), *got = run(single, &ids, &cu, &err);
    double e = fly && got ? relative_error(got, fly, want.n) : 1, g = got ? relative_error(got, want.f, want.n) : 1;
    OK(e <= 1e-5, "%s: against adapters on the fly: %.1e %s", name, e, err.text);
    OK(g <= 1e-4, "%s: against PyTorch: %.1e", name, g);
    OK(what.files == 1 && what.rounding.largest == 0, "%s: one file, nothing lost in f32", name);
    free(fly);
    free(got);
    tensor_free(&ids);
    tensor_free(&cu);
    tensor_free(&want);
    vp_source_close(golden);
    vp_model_close(base);
    vp_model_close(single);
}

static const int32_t some_ids[] = {5, 9, 300, 17, 4, 4, 80, 31, 7, 12}, some_cu[] = {0, 3, 10};

static void test_stacked(void) {
    vp_error err = {0};
    vp_merged what;
    const char *other = linked_folder(golden_path("llama/adapter"));
    replace_text(other, "adapter_config.json", "\"lora_alpha\": 8", "\"lora_alpha\": -3");
    const char *const both[] = {golden_path("llama/adapter"), other};
    tensor ids = {.i = (int32_t *)some_ids, .n = 10}, cu = {.i = (int32_t *)some_cu, .n = 3};
    vp_model *base = open_with(golden_path("llama"), both, 2, &err);
    vp_model *one = open_with(golden_path("llama"), both, 1, &err);
    vp_model *shards = base ? merged(base, VP_F32, 20000, &what, &err) : NULL;
    float *fly = base ? run(base, &ids, &cu, &err) : NULL, *got = shards ? run(shards, &ids, &cu, &err) : NULL;
    float *first = one ? run(one, &ids, &cu, &err) : NULL;
    double e = fly && got ? relative_error(got, fly, 10 * 64) : 1;
    OK(e <= 1e-5 && what.files > 3, "two adapters, in shards: %.1e %s", e, err.text);
    OK(first && got && !(relative_error(first, got, 10 * 64) <= 1e-3), "the second adapter counts");
    free(fly);
    free(got);
    free(first);
    vp_model_close(base);
    vp_model_close(one);
    vp_model_close(shards);
}

static void test_tied(void) {
    vp_error err = {0};
    vp_merged what;
    const char *folder = linked_folder(NULL);
    vp_source *s = NULL, *base = NULL;
    vp_model *m = open_with(golden_path("llama-gqa-tied"), NULL, 0, &err);
    int status = m ? vp_model_merge(m, folder, VP_F32, 1 << 30, &what, &err) : VP_BUG;
    if (!status) status = vp_source_open(&s, folder, &err);
    if (!status) status = vp_source_open(&base, golden_path("llama-gqa-tied"), &err);
    OK(!status && !vp_source_find(s, "lm_head.weight"), "a tied head is not written %s", err.text);
    bool same = !status && vp_source_count(s) == (size_t)what.tensors;
    for (size_t i = 0; same && i < vp_source_count(s); i++) {
        const vp_tensor_info *a = vp_source_at(s, i), *b = vp_source_find(base, a->name);
        same = b && a->bytes == b->bytes && !memcmp(a->data, b->data, a->bytes);
    }
    OK(same, "without adapters: the same names and bytes");
    vp_source_close(s);
    vp_source_close(base);
    vp_model_close(m);
}

/* ---- rounding ---- */

static void test_halves(void) {
    int64_t wrong = 0;
    for (uint32_t h = 0; h < 0x7f80; h++) {
        float x = vp_bf16_float((uint16_t)h), next = vp_bf16_float((uint16_t)(h + 1));
        float middle = vp_float_from_bits(h << 16 | 0x8000); /* between the two, a tie */
        wrong += vp_float_bf16(x) != h || vp_float_bf16(-x) != (h | 0x8000);
        wrong += vp_float_bf16(middle) != h + (h & 1) || vp_float_bf16(nextafterf(middle, next)) != h + 1;
        wrong += vp_float_bf16(nextafterf(middle, x)) != h;
    }
    OK(wrong == 0, "f32 to bf16: %d wrong", (int)wrong);
    wrong = 0;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float x = vp_f16_float((uint16_t)h), next = h + 1 < 0x7c00 ? vp_f16_float((uint16_t)(h + 1)) : 65536;
        float middle = x + (next - x) / 2;
        wrong += vp_float_f16(x) != h || vp_float_f16(-x) != (h | 0x8000);
        wrong += vp_float_f16(middle) != h + (h & 1) || vp_float_f16(nextafterf(middle, next)) != h + 1;
        wrong += vp_float_f16(nextafterf(middle, x)) != h;
    }
    OK(wrong == 0, "f32 to f16: %d wrong", (int)wrong);
}

/* least and most: what the largest relative difference must lie between; f16 loses much of the smallest values. */
static void test_types(vp_dtype dtype, double least, double most) {
    vp_error err = {0};
    vp_merged what = {0};
    const char *const adapter[] = {golden_path("llama/adapter")};
    vp_model *base = open_with(golden_path("llama"), adapter, 1, &err);
    vp_model *half = base ? merged(base, dtype, 1 << 30, &what, &err) : NULL;
    double largest = what.rounding.largest, mean = what.rounding.mean;
    OK(half && largest >= least && largest <= most && mean > 0 && mean < largest,
       "%s: largest difference %.1e, mean %.1e %s", vp_dtype_name(dtype), largest, mean, err.text);
    vp_model_close(base);
    vp_model_close(half);
}

/* ---- the writer ---- */

static void test_writer(void) {
    const float values[] = {1, -2.5f, 70000}, bad[] = {NAN, 0, 0};
    const int64_t shape[] = {3}, none[] = {0, 4};
    const struct {
        const char *what;
        vp_dtype dtype;
        const float *x;
        size_t n;
        int status;
    } cases[] = {
        {"f32", VP_F32, values, 3, VP_OK},
        {"bf16", VP_BF16, values, 3, VP_OK},
        {"too large for f16", VP_F16, values, 3, VP_DATA},
        {"not a number", VP_F32, bad, 3, VP_DATA},
        {"values missing", VP_F32, values, 2, VP_BUG},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vp_error err = {0};
        vp_export *e = NULL;
        vp_source *s = NULL;
        const char *folder = linked_folder(NULL);
        int status = vp_export_open(&e, folder, 1, &err);
        if (!status) status = vp_export_declare(e, "empty \"one\"", VP_F32, 2, none, &err);
        if (!status) status = vp_export_declare(e, "x", cases[i].dtype, 1, shape, &err);
        if (!status) status = vp_export_values(e, cases[i].x, cases[i].n, &err);
        if (!status) status = vp_export_finish(e, &err);
        OK(status == cases[i].status, "writer, %s: status %d %s", cases[i].what, status, err.text);
        if (!status) {
            float row[3] = {0};
            const vp_tensor_info *x = vp_source_open(&s, folder, &err) ? NULL : vp_source_find(s, "x");
            bool read = x && !vp_tensor_row(x, 0, row, &err);
            OK(read && row[0] == 1 && row[1] == -2.5f && fabsf(row[2] - 70000) < 200, "it reads back %s", err.text);
            OK(s && vp_source_find(s, "empty \"one\""), "an empty tensor with quotes in its name");
        }
        vp_source_close(s);
        vp_export_close(e);
    }
}

int main(void) {
    static const char *const names[] = {"llama", "llama-gqa-tied", "mistral", "qwen2"};
    for (size_t i = 0; i < 4; i++) test_golden(names[i]);
    test_stacked();
    test_tied();
    test_halves();
    test_types(VP_BF16, 0x1p-9, 0x1p-8);
    test_types(VP_F16, 0x1p-12, 0.5);
    test_writer();
    return done();
}
