/* Pooling on frames: kinds, kept tokens, empty rows, truncation, normalisation, picking, headers. */
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { C = 3, T = 6 };
/* Three rows: 4 tokens of which the middle two are kept, none, and 2 tokens of which none is kept. */
static const int32_t cu[] = {0, 4, 4, 6};
static const uint8_t keep[T] = {0, 1, 1, 0, 0, 0};
static const int32_t target[T] = {-1, -1, 7, -1, 0, -1};
static const float hidden[T * C] = {9, 9, 9, 1, 2, 2, 4, 5, 5, 9, 9, 9, 8, 8, 8, 6, 6, 6};

static vp_frame *make_frame(bool with_keep, bool with_target) {
    vp_error err = {0};
    vp_frame *f = vp_frame_new(VP_FRAME_BATCH, &err);
    const int64_t offsets = 4, tokens = T, shape[] = {T, C};
    if (!f || vp_frame_put(f, "cu", VP_I32, 1, &offsets, cu, &err) ||
        vp_frame_put(f, "hidden", VP_F32, 2, shape, hidden, &err) ||
        (with_keep && vp_frame_put(f, "keep", VP_U8, 1, &tokens, keep, &err)) ||
        (with_target && vp_frame_put(f, "target", VP_I32, 1, &tokens, target, &err)))
        abort();
    return f;
}

/* The first n values of the column that pooling put; how many rows were empty. */
static int64_t run(vp_frame *f, const vp_pool_options *o, const char *column, float *out, int64_t n, vp_error *err) {
    vp_pooler *p = NULL;
    int64_t empty = 0, got = 0;
    float *values = NULL;
    if (!vp_pooler_open(&p, o, NULL, err) && !vp_pooler_run(p, f, NULL, C, &empty, err))
        vp_frame_floats(f, column, &values, &got, err);
    for (int64_t i = 0; i < n; i++) out[i] = values && i < got ? values[i] : NAN;
    if (got != n) empty = -1;
    free(values);
    vp_pooler_close(p);
    return empty;
}

static bool near(const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(a[i] - b[i]) <= 1e-6f)) return false;
    return true;
}

static void test_kinds(void) {
    static const struct {
        const char *kind;
        float want[C];
    } cases[] = {
        {"mean", {2.5f, 3.5f, 3.5f}}, {"weighted_mean", {3, 4, 4}}, {"last", {4, 5, 5}},
        {"eos", {4, 5, 5}},           {"bos", {1, 2, 2}},           {"cls", {1, 2, 2}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vp_error err = {0};
        vp_frame *f = make_frame(true, false);
        float got[3 * C], zeros[2 * C] = {0};
        vp_pool_options o = {.kind = cases[i].kind, .normalize = 0};
        int64_t empty = run(f, &o, "emb", got, 3 * C, &err);
        OK(near(got, cases[i].want, C) && empty == 2 && !memcmp(got + C, zeros, sizeof zeros),
           "%s: %g %g %g, two empty rows of zeros %s", cases[i].kind, got[0], got[1], got[2], err.text);
        OK(!vp_frame_find(f, "hidden") && vp_frame_find(f, "keep"), "%s: hidden is gone, keep stays", cases[i].kind);
        vp_frame_free(f);
    }
}

static void test_lengths(void) {
    vp_error err = {0};
    float got[3 * C];
    const float unit[] = {1 / 3.0f, 2 / 3.0f, 2 / 3.0f}, cut[] = {0.4472136f, 0.8944272f};
    vp_frame *f = make_frame(true, false);
    vp_pool_options o = {.kind = "cls", .normalize = -1};
    OK(run(f, &o, "emb", got, 3 * C, &err) == 2 && near(got, unit, C), "normalised by default %s", err.text);
    vp_frame_free(f);
    f = make_frame(true, false);
    o = (vp_pool_options){.kind = "cls", .normalize = 1, .dims = 2};
    OK(run(f, &o, "emb", got, 3 * 2, &err) == 2 && near(got, cut, 2) && got[2] == 0, "cut before it is normalised %s",
       err.text);
    vp_frame_free(f);
}

static void test_pick(void) {
    vp_error err = {0};
    float got[T * C];
    vp_pool_options o = {.kind = "pick", .normalize = -1};
    vp_frame *f = make_frame(true, true);
    OK(run(f, &o, "picked", got, 2 * C, &err) == 0 && got[0] == 4 && got[C] == 8 && vp_frame_find(f, "target"),
       "pick by target %s", err.text);
    vp_frame_free(f);
    f = make_frame(true, false);
    OK(run(f, &o, "picked", got, 2 * C, &err) == 0 && got[0] == 1 && got[C] == 4, "pick by keep %s", err.text);
    vp_frame_free(f);
    f = make_frame(false, false);
    OK(run(f, &o, "picked", got, T * C, &err) == 0 && !memcmp(got, hidden, sizeof hidden), "pick everything %s",
       err.text);
    vp_frame_free(f);
}

static void test_refusals(void) {
    vp_error err = {0};
    vp_pooler *p = NULL;
    vp_pool_options o = {.kind = "max", .normalize = -1};
    OK(vp_pooler_open(&p, &o, NULL, &err) == VP_USAGE && !p, "%s", err.text);
    err = (vp_error){0};
    o.kind = NULL;
    OK(vp_pooler_open(&p, &o, NULL, &err) == VP_USAGE && !p, "%s", err.text);
    err = (vp_error){0};
    OK(vp_pool_options_set(&o, "mean", true, true, 0, &err) == VP_USAGE, "%s", err.text);
    err = (vp_error){0};
    o = (vp_pool_options){.kind = "mean", .normalize = -1, .dims = 4};
    vp_map *header = vp_map_new();
    OK(!vp_pooler_open(&p, &o, NULL, &err) && vp_pooler_describe(p, header, C, &err) == VP_USAGE, "%s", err.text);
    vp_pooler_close(p);
    vp_map_free(header);
    err = (vp_error){0};
    o.dims = 0;
    int64_t empty = 0;
    vp_frame *f = make_frame(false, false);
    OK(!vp_pooler_open(&p, &o, NULL, &err) && vp_pooler_run(p, f, NULL, C + 1, &empty, &err) == VP_DATA, "%s",
       err.text);
    vp_frame_drop(f, "hidden");
    err = (vp_error){0};
    OK(vp_pooler_run(p, f, NULL, C, &empty, &err) == VP_DATA, "%s", err.text);
    vp_pooler_close(p);
    vp_frame_free(f);
}

static void test_header(void) {
    static const char json[] = "{\"model\": {\"pooling\": \"last\", \"normalize\": false, \"dims\": 2}, \"columns\": "
                               "{\"hidden\": [\"F32\", [\"T\", 3]], \"ids\": [\"I32\", [\"T\"]]}}";
    vp_error err = {0};
    vp_map *header = NULL;
    vp_pooler *p = NULL;
    int64_t width = 0;
    vp_pool_options o = {.normalize = -1};
    if (vp_map_from_json(&header, json, sizeof json - 1, "test", &err)) abort();
    int status = vp_header_width(header, &width, &err);
    OK(!status && width == 3, "the declared width is %lld", (long long)width);
    OK(!vp_pooler_open(&p, &o, header, &err) && !vp_pooler_describe(p, header, width, &err), "the header decides %s",
       err.text);
    vp_buf out = {0};
    vp_map *encoder = vp_map_sub(header, "encoder"), *columns = vp_map_sub(header, "columns");
    OK(encoder && !strcmp(vp_map_str(encoder, "pooling"), "last") && !vp_map_bool(encoder, "normalize", true) &&
           vp_map_int(encoder, "dims", 0) == 2 && vp_map_str(encoder, "space"),
       "encoder says how it was pooled");
    int json_status = columns ? vp_map_json(columns, &out, &err) : VP_BUG;
    if (!json_status) json_status = vp_buf_add(&out, "", 1, &err);
    OK(!json_status && strstr(out.data, "\"emb\":[\"F32\",[\"B\",2]]") && !strstr(out.data, "hidden") &&
           strstr(out.data, "ids"),
       "columns: %s", out.data);
    vp_buf_free(&out);
    vp_map_free(encoder);
    vp_map_free(columns);
    vp_map_free(header);
    vp_pooler_close(p);
}

int main(void) {
    test_kinds();
    test_lengths();
    test_pick();
    test_refusals();
    test_header();
    return done();
}
