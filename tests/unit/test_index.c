/* The index through its API: exact ranking with ties across the cut, one snapshot a batch, row order, what an index
 * tells about its model. What knn does from outside is tests/py/test_index.py's business. */
#include "lib/index/rank.h"
#include "lib/vecpipe.h"
#include "tests/unit/tap.h"
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { D = 3, ROWS = 400, MAX_BATCH = 512 };

static vp_error err;
static char folder[64], path[128];

static vp_frame *make_header(void) {
    vp_frame *f = vp_frame_new(VP_FRAME_HEADER, &err);
    vp_map *model = vp_map_new(), *encoder = vp_map_new();
    vp_map_set_str(model, "path", "a model", &err);
    vp_map_set_str(encoder, "space", "here", &err);
    vp_map_set_map(f->keys, "model", model, &err);
    vp_map_set_map(f->keys, "encoder", encoder, &err);
    vp_map_free(model);
    vp_map_free(encoder);
    return f;
}

/* Rows `first`.. with ids "NAMEnumber"; emb stays the caller's. */
static vp_frame *make_batch(const char *name, int64_t first, int64_t n, const float *emb) {
    static char names[MAX_BATCH][32];
    const char *id[MAX_BATCH];
    size_t len[MAX_BATCH];
    for (int64_t i = 0; i < n; i++) {
        len[i] = (size_t)snprintf(names[i], sizeof names[i], "%s%lld", name, (long long)(first + i));
        id[i] = names[i];
    }
    vp_frame *f = vp_frame_new(VP_FRAME_BATCH, &err);
    int64_t shape[] = {n, D};
    f->B = n;
    vp_frame_put(f, "emb", VP_F32, 2, shape, emb, &err);
    vp_frame_put_strs(f, "id", n, id, len, &err);
    return f;
}

/* Few different vectors: most scores are tied. */
static void fill(float *emb, int64_t n) {
    for (int64_t i = 0; i < n * D; i++) emb[i] = (float)((i * 7 + i / 11) % 3) - 1;
}

static int add(vp_index *x, vp_frame *header, vp_frame *batch) {
    vp_index_adder *a;
    int status = vp_index_add_open(&a, x, header, &err);
    if (status) return status;
    status = vp_index_add_frame(a, batch, &err);
    if (!status) status = vp_index_add_commit(a, &err);
    vp_index_add_close(a);
    return status;
}

typedef struct scored {
    double score;
    char id[32];
} scored;

static int by_rank(const void *a, const void *b) {
    const scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return strcmp(x->id, y->id);
}

/* The whole order, by sorting every row. */
static void rank_all(const float *query, const float *emb, scored *out) {
    for (int64_t i = 0; i < ROWS; i++) {
        double sum = 0;
        for (int d = 0; d < D; d++) sum += (double)query[d] * (double)emb[i * D + d];
        out[i].score = sum;
        snprintf(out[i].id, sizeof out[i].id, "r%lld", (long long)i);
    }
    qsort(out, ROWS, sizeof *out, by_rank);
}

static bool same_order(const vp_search_result *r, const scored *want, int64_t k) {
    if (r->n != k) return false;
    for (int64_t i = 0; i < k; i++)
        if (strlen(want[i].id) != r->hit[i].id_len || memcmp(want[i].id, r->hit[i].id, r->hit[i].id_len) != 0 ||
            !(fabs(want[i].score - r->hit[i].score) <= 1e-6))
            return false;
    return true;
}

static void test_ties(vp_index *x, vp_frame *header, const float *emb) {
    float queries[8 * D];
    fill(queries, 8);
    memset(queries + (size_t)5 * D, 0, D * sizeof *queries);
    vp_frame *f = make_batch("q", 0, 8, queries);
    static const int64_t ks[] = {1, 2, 10, 57, ROWS};
    for (size_t c = 0; c < sizeof ks / sizeof *ks; c++) {
        vp_search_options o = {.k = ks[c], .threads = 1 + (int)(c % 2)};
        vp_searcher *s;
        const vp_search_result *r = NULL;
        int64_t n = 0;
        bool good = vp_search_open(&s, x, header, &o, &err) == VP_OK && vp_search_frame(s, f, &r, &n, &err) == VP_OK;
        for (int64_t i = 0; i < n && good; i++) {
            scored want[ROWS];
            rank_all(queries + i * D, emb, want);
            good = same_order(&r[i], want, ks[c]);
        }
        OK(good && n == 8, "k = %lld among ties: score, then id bytes %s", (long long)ks[c], err.text);
        vp_search_close(s);
    }
    vp_frame_free(f);
}

/* A searcher that stays open sees each commit, and one snapshot within a batch. */
static void test_open_searcher(vp_index *writer, vp_frame *header) {
    vp_index *reader;
    vp_searcher *s;
    vp_search_options o = {.k = 1};
    const float far[D] = {100, 100, 100};
    const vp_search_result *r = NULL;
    int64_t n;
    OK(vp_index_open(&reader, path, VP_INDEX_READ, &err) == VP_OK, "an index is opened twice %s", err.text);
    vp_frame *query = make_batch("q", 0, 1, far), *row = make_batch("far", 0, 1, far);
    vp_search_open(&s, reader, header, &o, &err);
    OK(vp_search_frame(s, query, &r, &n, &err) == VP_OK && r[0].hit[0].score < 1000, "before the row is there");
    OK(add(writer, header, row) == VP_OK, "a row is added %s", err.text);
    OK(vp_search_frame(s, query, &r, &n, &err) == VP_OK && r[0].hit[0].score > 1000, "the next batch finds it");
    const char *id[] = {"far0"};
    size_t len[] = {4};
    int64_t deleted;
    OK(vp_index_delete(writer, id, len, 1, &deleted, &err) == VP_OK && deleted == 1, "it is deleted");
    OK(vp_search_frame(s, query, &r, &n, &err) == VP_OK && r[0].hit[0].score < 1000, "and not found again");
    vp_search_close(s);
    vp_index_close(reader);
    vp_frame_free(query);
    vp_frame_free(row);
}

static void test_describe(void) {
    vp_map *model = NULL, *encoder = NULL;
    OK(vp_index_describe(path, &model, &encoder, &err) == VP_OK && model && encoder &&
           strcmp(vp_map_str(model, "path"), "a model") == 0 && strcmp(vp_map_str(encoder, "space"), "here") == 0,
       "an index tells its model and encoder");
    vp_map_free(model);
    vp_map_free(encoder);
}

static void test_row_order(void) {
    static const int64_t rows[] = {2, 0, 5, 1, 1, 9, 3};
    vp_row_order o = {0};
    vp_buf out = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[8];
        snprintf(text, sizeof text, "%lld ", (long long)rows[i]);
        vp_row_order_put(&o, rows[i], text, strlen(text), &out, &err);
    }
    OK(out.len == 10 && memcmp(out.data, "0 1 2 1 3 ", 10) == 0, "rows go out as their turn comes: %.*s", (int)out.len,
       out.data);
    vp_row_order_finish(&o, &out, &err);
    OK(out.len == 14 && memcmp(out.data + 10, "5 9 ", 4) == 0, "the rest at the end, in order");
    vp_buf_free(&out);
}

static void test_expression(void) {
    static const char *const cases[][2] = {
        {"a red fox", "\"a\" OR \"red\" OR \"fox\""},
        {"  x-ray \"NEAR\"* x ", "\"x\" OR \"ray\" OR \"NEAR\""},
        {"\xc3\xa9t\xc3\xa9\xe2\x80\x94na\xc3\xafve", "\"\xc3\xa9t\xc3\xa9\" OR \"na\xc3\xafve\""},
        {"\xff\xfe?", ""},
        {"", ""}};
    vp_buf out = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status = vp_bm25_expression(cases[i][0], strlen(cases[i][0]), &out, &err);
        OK(status == VP_OK && out.len == strlen(cases[i][1]) &&
               (!out.len || memcmp(out.data, cases[i][1], out.len) == 0),
           "words of a query, quoted: %s", cases[i][1]);
    }
    vp_buf_free(&out);
}

static void test_idset(void) {
    vp_idset s = {0};
    int64_t earlier, wrong = 0;
    char id[32];
    for (int64_t i = 0; i < 20000; i++) {
        int n = snprintf(id, sizeof id, "%lld", (long long)(i % 15000));
        vp_idset_add(&s, id, (size_t)n, i, &earlier, &err);
        wrong += earlier != (i < 15000 ? -1 : i - 15000);
    }
    OK(wrong == 0, "a set of ids knows where each came first");
    OK(!vp_idset_find(&s, "absent", 6, &earlier), "and what it does not have");
    vp_idset_free(&s);
}

static int remove_one(const char *file, const struct stat *st, int kind, struct FTW *at) {
    (void)st, (void)kind, (void)at;
    return remove(file);
}

int main(void) {
    static float emb[ROWS * D];
    snprintf(folder, sizeof folder, "/tmp/vp-index-XXXXXX");
    OK(mkdtemp(folder) != NULL, "a folder");
    snprintf(path, sizeof path, "%s/i", folder);
    vp_index *x;
    vp_frame *header = make_header();
    fill(emb, ROWS);
    vp_frame *batch = make_batch("r", 0, ROWS, emb);
    OK(vp_index_open(&x, path, VP_INDEX_CREATE, &err) == VP_OK, "an index is made %s", err.text);
    OK(add(x, header, batch) == VP_OK, "rows are added %s", err.text);
    test_ties(x, header, emb);
    OK(add(x, header, batch) == VP_OK, "the same rows again (the old ones are compacted away) %s", err.text);
    test_ties(x, header, emb);
    test_open_searcher(x, header);
    test_describe();
    OK(vp_index_verify(x, &err) == VP_OK, "the index verifies %s", err.text);
    vp_index_close(x);
    test_row_order();
    test_expression();
    test_idset();
    vp_frame_free(header);
    vp_frame_free(batch);
    OK(nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0, "cleaned up");
    return done();
}
