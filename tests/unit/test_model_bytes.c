/* A text's vector is the same bytes alone, in any batch and order, with any number of threads and micro-batch size. */
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>

enum { ROWS = 64 };

typedef struct texts {
    int32_t ids[ROWS * 100], cu[ROWS + 1];
} texts;

/* 64 rows of 0 to 99 tokens. */
static void make_texts(texts *t) {
    uint32_t state = 12345;
    t->cu[0] = 0;
    for (int b = 0; b < ROWS; b++) {
        state = state * 1664525 + 1013904223;
        t->cu[b + 1] = t->cu[b] + (int32_t)(state >> 16) % 100;
        for (int32_t i = t->cu[b]; i < t->cu[b + 1]; i++) {
            state = state * 1664525 + 1013904223;
            t->ids[i] = 3 + (int32_t)(state >> 16) % 300;
        }
    }
}

typedef struct way {
    const char *name;
    int threads;
    int64_t batch_tokens, stride; /* rows in the order 0, stride, 2 stride, ... modulo ROWS */
    bool alone;
} way;

/* Rows in `got` against the rows of the reference, each where the order put it. */
static bool same_rows(const float *got, const float *want, const texts *t, const int64_t *order, int64_t n, int64_t C) {
    for (int64_t i = 0; i < n; i++) {
        int64_t b = order[i], length = t->cu[b + 1] - t->cu[b];
        if (memcmp(got, want + t->cu[b] * C, (size_t)(length * C) * sizeof *got)) return false;
        got += length * C;
    }
    return true;
}

static bool run_way(vp_model *m, const texts *t, const way *w, const float *want, vp_error *err) {
    int64_t order[ROWS], C = vp_model_width(m);
    bool same = true;
    for (int64_t i = 0; i < ROWS; i++) order[i] = i * w->stride % ROWS;
    int64_t each = w->alone ? 1 : ROWS;
    for (int64_t i = 0; same && i < ROWS; i += each * (w->alone ? 9 : 1)) {
        packed p = pack_rows(t->ids, t->cu, ROWS, order + i, each);
        float *got = encode(m, p.frame, NULL, w->threads, w->batch_tokens, err);
        same = got && same_rows(got, want, t, order + i, each, C);
        free(got);
        packed_free(&p);
    }
    return same;
}

static void check_model(const char *name, bool adapter, const texts *t) {
    static const way ways[] = {
        {"again", 1, 0, 1, false},
        {"two threads", 2, 0, 1, false},
        {"three threads", 3, 0, 1, false},
        {"another order", 1, 0, 13, false},
        {"row by row", 2, 1, 1, false},
        {"100 tokens at a time", 1, 100, 29, false},
        {"all at once", 2, 1 << 20, 13, false},
        {"each alone", 1, 0, 1, true},
    };
    vp_error err = {0};
    vp_model *m = NULL;
    int status = vp_model_open(&m, golden_path("%s", name), &err);
    if (!status && adapter) status = vp_model_add_adapter(m, golden_path("%s/adapter", name), &err);
    packed p = pack_rows(t->ids, t->cu, ROWS, NULL, 0);
    float *want = status ? NULL : encode(m, p.frame, NULL, 1, 0, &err);
    OK(want != NULL, "%s%s runs %s", name, adapter ? " with its adapter" : "", err.text);
    for (size_t i = 0; want && i < sizeof ways / sizeof *ways; i++)
        OK(run_way(m, t, &ways[i], want, &err), "%s%s, %s: same bytes %s", name, adapter ? " with its adapter" : "",
           ways[i].name, err.text);
    free(want);
    packed_free(&p);
    vp_model_close(m);
}

int main(void) {
    static texts t;
    make_texts(&t);
    check_model("llama-gqa-tied", false, &t);
    check_model("llama", true, &t);
    check_model("mistral-window", false, &t);
    check_model("gptj", false, &t);
    check_model("mixtral", false, &t);
    check_model("bert", false, &t);
    return done();
}
