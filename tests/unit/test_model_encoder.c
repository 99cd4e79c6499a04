/* What the encoder refuses in a frame, and shapes at the edges: no rows, empty rows, the last position. */
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 256, V = 320 };

typedef struct setup {
    const char *what, *model, *attention;
    int32_t length, token; /* one row of `length` times this token */
    int32_t pos, prefix;   /* put as columns when >= 0 (pos: of every token) */
    int status;
    const char *says;
} setup;

static int run(const setup *s, vp_error *err) {
    static int32_t ids[2 * CONTEXT], pos[2 * CONTEXT];
    vp_model *m;
    for (int32_t i = 0; i < s->length; i++) {
        ids[i] = s->token;
        pos[i] = s->pos;
    }
    const int32_t cu[] = {0, s->length};
    const int64_t one = 1, T = s->length, row = 41;
    VP_TRY(vp_model_open(&m, golden_path("%s", s->model), err));
    packed p = pack_rows(ids, cu, 1, NULL, 0);
    int status = vp_frame_put(p.frame, "row", VP_I64, 1, &one, &row, err);
    if (!status && s->pos >= 0) status = vp_frame_put(p.frame, "pos", VP_I32, 1, &T, pos, err);
    if (!status && s->prefix >= 0) status = vp_frame_put(p.frame, "prefix", VP_I32, 1, &one, &s->prefix, err);
    if (!status) {
        float *hidden = encode(m, p.frame, s->attention, 1, 0, err);
        status = err->code;
        free(hidden);
    }
    packed_free(&p);
    vp_model_close(m);
    return status;
}

static void test_rows(void) {
    static const setup cases[] = {
        {"as long as the model", "llama", "causal", CONTEXT, 3, -1, -1, VP_OK, ""},
        {"as long as the table of positions", "bert", "bi", CONTEXT, 3, -1, -1, VP_OK, ""},
        {"no token", "llama", "causal", 0, 3, -1, -1, VP_OK, ""},
        {"one too long", "llama", "causal", CONTEXT + 1, 3, -1, -1, VP_DATA, "row 41 has 257 tokens"},
        {"one too long for the table", "bert", "bi", CONTEXT + 1, 3, -1, -1, VP_DATA, "--max-len 256"},
        {"longer than the model with positions of its own", "llama", "causal", CONTEXT + 9, 3, 5, -1, VP_OK, ""},
        {"the last position", "bert", "bi", 4, 3, CONTEXT - 1, -1, VP_OK, ""},
        {"a position too far", "bert", "bi", 4, 3, CONTEXT, -1, VP_DATA, "row 41 has position 256"},
        {"the last token", "llama", "bi", 4, V - 1, -1, -1, VP_OK, ""},
        {"an unknown token", "llama", "bi", 4, V, -1, -1, VP_DATA, "row 41 has token 320"},
        {"a negative token", "llama", "bi", 4, -1, -1, -1, VP_DATA, "token -1"},
        {"a prefix of all", "llama", "causal", 4, 3, -1, 4, VP_OK, ""},
        {"a prefix of more", "llama", "causal", 4, 3, -1, 5, VP_DATA, "row 41 has a prefix of 5"},
        {"segments without a column", "llama", "segments", 4, 3, -1, -1, VP_DATA, "column seg"},
        {"unknown attention", "llama", "both", 4, 3, -1, -1, VP_USAGE, "\"both\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vp_error err = {0};
        int status = run(&cases[i], &err);
        OK(status == cases[i].status && strstr(err.text, cases[i].says), "%s, %s: %s", cases[i].model, cases[i].what,
           err.text);
    }
}

/* hidden of the tokens 5 6 7 8 under `attention` with this prefix. */
static float *with_prefix(vp_model *m, const char *attention, int32_t prefix, vp_error *err) {
    static const int32_t ids[] = {5, 6, 7, 8}, cu[] = {0, 4};
    const int64_t one = 1;
    packed p = pack_rows(ids, cu, 1, NULL, 0);
    float *hidden = NULL;
    if (!vp_frame_put(p.frame, "prefix", VP_I32, 1, &one, &prefix, err))
        hidden = encode(m, p.frame, attention, 1, 0, err);
    packed_free(&p);
    return hidden;
}

static void test_prefix(void) {
    vp_error err = {0};
    vp_model *m = NULL;
    if (vp_model_open(&m, golden_path("llama"), &err)) abort();
    const size_t bytes = 4 * 64 * sizeof(float);
    float *causal = with_prefix(m, "causal", 0, &err), *part = with_prefix(m, "causal", 2, &err);
    float *whole = with_prefix(m, "causal", 4, &err), *bi = with_prefix(m, "bi", 0, &err);
    bool run_all = causal && part && whole && bi;
    OK(run_all && !memcmp(whole, bi, bytes), "a prefix of everything is bidirectional %s", err.text);
    OK(run_all && memcmp(part, causal, bytes) && memcmp(part, bi, bytes), "a part of it is neither");
    free(causal);
    free(part);
    free(whole);
    free(bi);
    vp_model_close(m);
}

static void test_no_rows(void) {
    vp_error err = {0};
    vp_model *m = NULL;
    const int32_t cu[] = {0};
    if (vp_model_open(&m, golden_path("bert"), &err)) abort();
    packed p = pack_rows(cu, cu, 0, NULL, 0);
    float *hidden = encode(m, p.frame, NULL, 1, 0, &err);
    OK(hidden != NULL, "a frame without rows %s", err.text);
    free(hidden);
    packed_free(&p);
    vp_model_close(m);
}

int main(void) {
    test_rows();
    test_prefix();
    test_no_rows();
    return done();
}
