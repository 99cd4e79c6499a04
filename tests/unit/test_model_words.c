/* Pooling words: means of their tokens' states, or of those before them, and the columns that are left. */
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { T = 7, C = 1 };
/* Two rows: [BOS] t11 t12 t21, as in the recipe's example, and t11 t21 t22 without BOS. */
static const int32_t cu[] = {0, 4, 7}, words[T] = {-1, 0, 0, 1, 0, 2, 2};
static const float hidden[T * C] = {1, 2, 4, 8, 16, 32, 64};

static vp_frame *make_frame(const int32_t *word, const char *meta) {
    vp_error err = {0};
    vp_frame *f = vp_frame_new(VP_FRAME_BATCH, &err);
    const int64_t offsets = 3, tokens = T, shape[] = {T, C};
    const char *const ids[] = {"s", "t"}, *const metas[] = {meta, NULL};
    const size_t len[] = {1, 1}, meta_len[] = {meta ? strlen(meta) : 0, 0};
    if (!f || vp_frame_put(f, "cu", VP_I32, 1, &offsets, cu, &err) ||
        vp_frame_put(f, "hidden", VP_F32, 2, shape, hidden, &err) || vp_frame_put_strs(f, "id", 2, ids, len, &err) ||
        vp_frame_put_strs(f, "meta", 2, metas, meta_len, &err) ||
        (word && vp_frame_put(f, "word", VP_I32, 1, &tokens, word, &err)))
        abort();
    return f;
}

static int run(vp_pooler **p, vp_frame *f, bool shift, int64_t *empty, vp_error *err) {
    const vp_pool_options o = {.kind = "words", .normalize = -1, .shift = shift};
    *empty = 0;
    *err = (vp_error){0};
    if (vp_pooler_open(p, &o, NULL, err)) abort();
    return vp_pooler_run(*p, f, NULL, C, empty, err);
}

static bool holds(const vp_frame *f, const float *want, int64_t n) {
    vp_error err = {0};
    float *got = NULL;
    int64_t count = 0;
    if (vp_frame_floats(f, "emb", &got, &count, &err)) abort();
    const bool same = count == n && memcmp(got, want, (size_t)n * sizeof *want) == 0;
    free(got);
    return same;
}

static bool says(const vp_frame *f, const char *column, int64_t i, const char *want) {
    vp_error err = {0};
    const vp_column *c = vp_frame_find(f, column);
    const char *s = NULL;
    size_t n = 0;
    char scratch[32];
    if (!c || vp_column_str(f, c, i, &s, &n, scratch, &err)) return false;
    return want ? s && n == strlen(want) && memcmp(s, want, n) == 0 : !s;
}

static void test_states(void) {
    static const float same[] = {3, 8, 16, 48}, before[] = {1.5f, 4, 0, 24};
    vp_pooler *p;
    vp_error err;
    int64_t empty;
    vp_frame *f = make_frame(words, "{\"labels\":[\"B-PER\",7]}");
    OK(!run(&p, f, false, &empty, &err) && holds(f, same, 4) && !empty, "means of their tokens %s", err.text);
    OK(f->B == 4 && f->ncolumns == 5 && !vp_frame_find(f, "cu") && !vp_frame_find(f, "hidden"),
       "a row a word, and nothing of the sentences' columns");
    OK(says(f, "id", 1, "s#1") && says(f, "parent", 1, "s") && says(f, "id", 3, "t#2"), "named by sentence and place");
    OK(says(f, "meta", 0, "{\"label\":\"B-PER\"}") && says(f, "meta", 1, "{\"label\":7}") && says(f, "meta", 2, NULL),
       "labels");
    int64_t row[4];
    const vp_column *c = vp_frame_find(f, "row");
    memcpy(row, c->data, sizeof row);
    OK(row[0] == 0 && row[1] == 0 && row[2] == 1 && row[3] == 1, "the sentences' ordinals");
    vp_pooler_close(p);
    vp_frame_free(f);
    f = make_frame(words, NULL);
    OK(!run(&p, f, true, &empty, &err) && holds(f, before, 4), "shifted: (h_BOS + h11) / 2 and h12 %s", err.text);
    OK(empty == 1, "a first token has no state before it: zeros, counted");
    vp_pooler_close(p);
    vp_frame_free(f);
}

static void test_refusals(void) {
    static const int32_t falling[T] = {-1, 1, 1, 0, 0, 1, 1}, none[T] = {-1, -1, -1, -1, -1, -1, -1};
    const struct {
        const int32_t *word;
        const char *meta, *why;
    } bad[] = {{NULL, NULL, "no column word"},
               {falling, NULL, "word 0 after word 1"},
               {words, "{\"labels\":[\"O\"]}", "no label for word 1"}};
    vp_pooler *p;
    vp_error err;
    int64_t empty;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        vp_frame *f = make_frame(bad[i].word, bad[i].meta);
        OK(run(&p, f, false, &empty, &err) == VP_DATA && strstr(err.text, bad[i].why), "refused: %s", err.text);
        vp_pooler_close(p);
        vp_frame_free(f);
    }
    vp_frame *f = make_frame(none, NULL);
    OK(!run(&p, f, false, &empty, &err) && f->B == 0, "no words, no rows %s", err.text);
    vp_pooler_close(p);
    vp_frame_free(f);
    err = (vp_error){0};
    const vp_pool_options o = {.kind = "mean", .normalize = -1, .shift = true};
    OK(vp_pooler_open(&p, &o, NULL, &err) == VP_USAGE, "%s", err.text);
}

int main(void) {
    test_states();
    test_refusals();
    return done();
}
