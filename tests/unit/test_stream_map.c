/* Control maps and frames as programs use them: getters, setters, JSON, declarations, columns put and dropped, rows
 * cut. */
#include "tests/unit/stream_support.h"
#include "tests/unit/tap.h"

static bool json_is(const vp_map *m, const char *want) {
    vp_buf b = {0};
    vp_error err = {0};
    const bool same =
        !vp_map_json(m, &b, &err) && b.len == strlen(want) && memcmp(b.data ? b.data : "", want, b.len) == 0;
    if (!same) printf("# %.*s\n# %s\n", (int)b.len, b.data ? b.data : "", want);
    vp_buf_free(&b);
    return same;
}

static void test_map(void) {
    vp_error err = {0};
    vp_map *m = vp_map_new(), *inner = vp_map_new();
    static const char *const two[] = {"x", "y"};
    vp_map_set_str(m, "s", "text", &err);
    vp_map_set_int(m, "i", -5, &err);
    vp_map_set_raw(m, "r", "\xcb\x3f\xb9\x99\x99\x99\x99\x99\x9a", 9, &err); /* 0.1 */
    vp_map_set_bool(m, "b", true, &err);
    vp_map_set_strs(m, "l", two, 2, &err);
    vp_map_append_str(m, "l", "z", &err);
    vp_map_append_str(m, "fresh", "only", &err);
    vp_map_set_raw(inner, "whole", "\xca\x40\0\0\0", 5, &err); /* 2.0 */
    vp_map_set_map(m, "m", inner, &err);
    OK(!err.code && vp_map_len(m) == 7, "seven keys are set");
    OK(strcmp(vp_map_str(m, "s"), "text") == 0 && !vp_map_str(m, "i") && !vp_map_str(m, "none"), "strings");
    OK(vp_map_int(m, "i", 0) == -5 && vp_map_int(m, "s", 9) == 9 && vp_map_real(m, "i", 0) == -5, "integers");
    OK(vp_map_real(m, "r", 0) == 0.1 && vp_map_bool(m, "b", false) && vp_map_bool(m, "r", true), "reals, booleans");
    OK(strcmp(vp_map_str_at(m, "l", 2), "z") == 0 && !vp_map_str_at(m, "l", 3) && !vp_map_str_at(m, "s", 0), "lists");
    vp_map *sub = vp_map_sub(m, "m");
    OK(sub && vp_map_real(sub, "whole", 0) == 2 && !vp_map_sub(m, "s"), "nested maps");
    OK(json_is(m, "{\"b\":true,\"fresh\":[\"only\"],\"i\":-5,\"l\":[\"x\",\"y\",\"z\"],\"m\":{\"whole\":2.0},\"r\":0.1,"
                  "\"s\":\"text\"}"),
       "as JSON, keys sorted");
    vp_map_set_str(m, "s", NULL, &err);
    vp_map_remove(m, "l");
    vp_map_set_int(m, "b", 1, &err);
    OK(vp_map_len(m) == 5 && !vp_map_has(m, "s") && vp_map_int(m, "b", 0) == 1, "removed and replaced");
    OK(strcmp(vp_map_key(m, 0), "i") == 0 && !vp_map_key(m, 5), "order is kept");
    vp_map *copy = vp_map_copy(m);
    OK(copy && json_is(copy, "{\"b\":1,\"fresh\":[\"only\"],\"i\":-5,\"m\":{\"whole\":2.0},\"r\":0.1}"), "a copy");
    vp_map_free(copy);
    vp_map_free(sub);
    vp_map_free(inner);
    vp_map_free(m);
}

static void test_json(void) {
    static const char text[] = "{\"a\":[1,2.5,null,true,\"\\u0001\\u0085\\\"\"],\"b\":{\"c\":-9007199254740993}}";
    vp_error err = {0};
    vp_map *m = NULL;
    OK(!vp_map_from_json(&m, text, strlen(text), "text", &err) && json_is(m, text), "JSON there and back: %s",
       err.text);
    vp_map_free(m);
    static const char *const bad[] = {"[1]", "{\"a\":1,\"a\":2}", "{\"a\":", "", "{\"a\":[[[[[[[[1]]]]]]]]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (vp_error){0};
        OK(vp_map_from_json(&m, bad[i], strlen(bad[i]), "text", &err) == VP_DATA && !m, "refused: %s", err.text);
    }
}

static void test_declarations(void) {
    vp_error err = {0};
    vp_map *h = vp_map_new();
    vp_header_declare(h, "ids", "I32", "T", &err);
    vp_header_declare(h, "cu", "I32", "B+1", &err);
    vp_header_declare(h, "id", "VALUES", "B", &err);
    vp_header_declare(h, "emb", "F32", "B 7", &err);
    vp_header_declare(h, "emb", "F32", "B 576", &err);
    vp_header_declare(h, "k", "BF16", "L T 3 64", &err);
    OK(!err.code &&
           json_is(h, "{\"columns\":{\"cu\":[\"I32\",[\"B+1\"]],\"emb\":[\"F32\",[\"B\",576]],\"id\":[\"VALUES\","
                      "[\"B\"]],\"ids\":[\"I32\",[\"T\"]],\"k\":[\"BF16\",[\"L\",\"T\",3,64]]}}"),
       "columns are declared, and again");
    vp_header_undeclare(h, "id", &err);
    vp_header_undeclare(h, "k", &err);
    vp_header_undeclare(h, "none", &err);
    OK(!err.code &&
           json_is(
               h, "{\"columns\":{\"cu\":[\"I32\",[\"B+1\"]],\"emb\":[\"F32\",[\"B\",576]],\"ids\":[\"I32\",[\"T\"]]}}"),
       "and undeclared");
    vp_map_free(h);
    const vp_schema *s = vp_schema_find("hidden");
    OK(s && strcmp(s->dtype, "F32|BF16") == 0 && !vp_schema_find("hiddenx"), "the column table");
}

static vp_frame *sample_frame(vp_error *err) {
    static const int32_t ids[] = {1, 2, 3, 4, 5}, cu[] = {0, 2, 2, 5};
    static const uint16_t hidden[] = {0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0}; /* 1 2 3 4 5 in BF16 */
    static const float emb[] = {1, 2, 3, 4, 5, 6};
    static const char *const id[] = {"a", NULL, "ccc"};
    static const size_t len[] = {1, 0, 3};
    vp_frame *f = vp_frame_new(VP_FRAME_BATCH, err);
    vp_frame_put(f, "cu", VP_I32, 1, (int64_t[]){4}, cu, err);
    vp_frame_put(f, "ids", VP_I32, 1, (int64_t[]){5}, ids, err);
    vp_frame_put(f, "hidden", VP_BF16, 2, (int64_t[]){5, 1}, hidden, err);
    vp_frame_put(f, "emb", VP_F32, 2, (int64_t[]){3, 2}, emb, err);
    vp_frame_put(f, "other", VP_U8, 1, (int64_t[]){5}, ids, err);
    vp_frame_put_strs(f, "id", 3, id, len, err);
    vp_map_set_bool(f->keys, "last", true, err);
    return f;
}

static void test_frame(void) {
    vp_error err = {0};
    vp_frame *f = sample_frame(&err);
    const vp_column *c;
    const char *s;
    size_t n;
    char scratch[32];
    OK(!err.code && f->B == 3 && f->T == 5 && f->ncolumns == 6, "B and T follow from cu");
    OK(!vp_frame_need(f, "emb", VP_F32, 2, (int64_t[]){3, -1}, &c, &err) && c->shape[1] == 2, "a column is there");
    const int absent = vp_frame_need(f, "keep", VP_U8, 1, NULL, &c, &err);
    OK(absent == VP_DATA, "an absent one is named: %s", err.text);
    err = (vp_error){0};
    OK(vp_frame_need(f, "emb", VP_F32, 2, (int64_t[]){3, 4}, &c, &err) == VP_DATA, "a wrong size too: %s", err.text);
    err = (vp_error){0};
    float *x = NULL;
    int64_t count;
    OK(!vp_frame_floats(f, "hidden", &x, &count, &err) && count == 5 && x[0] == 1 && x[4] == 5, "BF16 is widened");
    free(x);
    OK(!vp_frame_floats(f, "none", &x, &count, &err) && !x && count == 0, "an absent column is no error");
    c = vp_frame_find(f, "id");
    OK(!vp_column_str(f, c, 2, &s, &n, scratch, &err) && n == 3 && memcmp(s, "ccc", 3) == 0, "a value as a string");
    OK(!vp_column_str(f, c, 1, &s, &n, scratch, &err) && !s && n == 0, "nil is no string");
    vp_frame_drop(f, "other");
    vp_frame_drop(f, "none");
    OK(f->ncolumns == 5 && !vp_frame_find(f, "other") && vp_frame_find(f, "cu"), "a column is dropped");
    vp_frame_free(f);
}

static void test_slice(void) {
    vp_error err = {0};
    vp_frame *f = sample_frame(&err), *part = NULL;
    OK(!vp_frame_slice(f, 1, 3, &part, &err) && part->B == 2 && part->T == 3, "rows are cut: %s", err.text);
    const vp_column *cu = vp_frame_find(part, "cu"), *ids = vp_frame_find(part, "ids");
    OK(vp_column_i32(cu, 0) == 0 && vp_column_i32(cu, 1) == 0 && vp_column_i32(cu, 2) == 3, "cu is rebased");
    OK(vp_column_i32(ids, 0) == 3 && vp_column_i32(ids, 2) == 5, "tokens go with their rows");
    OK(vp_column_real(vp_frame_find(part, "emb"), 0) == 3 && vp_column_real(vp_frame_find(part, "hidden"), 2) == 5,
       "and their vectors");
    OK(vp_map_bool(part->keys, "last", false), "the last part is the last");
    vp_frame_free(part);
    OK(!vp_frame_slice(f, 0, 1, &part, &err) && !vp_map_bool(part->keys, "last", false), "others are not");
    vp_frame_free(part);
    OK(!vp_frame_slice(f, 1, 1, &part, &err) && part->B == 0 && part->T == 0, "no rows are a frame too: %s", err.text);
    vp_frame_free(part);
    static const float marked[] = {1};
    vp_frame_put(f, "picked", VP_F32, 2, (int64_t[]){1, 1}, marked, &err);
    OK(vp_frame_slice(f, 0, 1, &part, &err) == VP_DATA && !part, "marked rows cannot be cut: %s", err.text);
    vp_frame_free(f);
}

int main(void) {
    test_map();
    test_json();
    test_declarations();
    test_frame();
    test_slice();
    return done();
}
