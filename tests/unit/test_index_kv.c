/* Keys and values in an index through its API: what comes back of every format, of rows that were replaced, deleted,
 * moved; what streams are refused; what damage is named. Kills and full disks: tests/py/test_kv_faults.py. */
#include "lib/base/half.h"
#include "lib/vecpipe.h"
#include "tests/unit/tap.h"
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { L = 3, G = 2, HEAD = 8, D = 4, ROWS = 40, MOST = 4000 };

static vp_error err;
static char folder[64], path[160];

typedef struct batch {
    vp_frame *f;
    int32_t cu[ROWS + 1];
    uint16_t *k, *v;
    float emb[ROWS * D];
    char name[ROWS][16];
} batch;

/* Row i has tokens(i) tokens; its numbers are a function of seed, row, layer and place. */
static int32_t tokens(int64_t row) {
    return (int32_t)(row * 7 % 23);
}

static uint16_t number(int seed, int64_t row, int64_t layer, int64_t at, bool is_v) {
    const uint64_t key[] = {(uint64_t)seed, (uint64_t)row, (uint64_t)layer, (uint64_t)at, is_v};
    return vp_float_bf16((float)(int32_t)(uint32_t)vp_hash64(key, sizeof key) * 1e-8f);
}

static void fill(batch *b, int seed, int64_t first, int64_t n, int64_t layers) {
    const int64_t T = b->cu[n];
    for (int64_t l = 0; l < layers; l++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t at = 0; at < tokens(first + i) * G * HEAD; at++) {
                const int64_t to = (l * T + b->cu[i]) * G * HEAD + at;
                b->k[to] = number(seed, first + i, l, at, false);
                b->v[to] = number(seed, first + i, l, at, true);
            }
}

/* Rows first.. as "r<number>"; layers 0: without keys and values. */
static batch *make_batch(int seed, int64_t first, int64_t n, int64_t layers) {
    batch *b = vp_calloc(1, sizeof *b);
    const char *id[ROWS];
    size_t len[ROWS];
    b->f = vp_frame_new(VP_FRAME_BATCH, &err);
    for (int64_t i = 0; i < n; i++) {
        len[i] = (size_t)snprintf(b->name[i], sizeof b->name[i], "r%lld", (long long)(first + i));
        id[i] = b->name[i];
        b->cu[i + 1] = b->cu[i] + tokens(first + i);
        b->emb[i * D] = (float)seed;
        b->emb[i * D + 1] = (float)(first + i);
    }
    b->k = vp_calloc((size_t)(layers + 1) * MOST * G * HEAD, 2);
    b->v = vp_calloc((size_t)(layers + 1) * MOST * G * HEAD, 2);
    fill(b, seed, first, n, layers);
    const int64_t T = b->cu[n], emb[] = {n, D}, cu[] = {n + 1}, kv[] = {layers, T, G, HEAD};
    vp_frame_put(b->f, "cu", VP_I32, 1, cu, b->cu, &err);
    vp_frame_put(b->f, "emb", VP_F32, 2, emb, b->emb, &err);
    vp_frame_put_strs(b->f, "id", n, id, len, &err);
    if (layers) vp_frame_put(b->f, "k", VP_BF16, 4, kv, b->k, &err);
    if (layers) vp_frame_put(b->f, "v", VP_BF16, 4, kv, b->v, &err);
    return b;
}

static void free_batch(batch *b) {
    vp_frame_free(b->f);
    free(b->k);
    free(b->v);
    free(b);
}

static int add_with(vp_index *x, batch *b, const vp_kv_options *o) {
    vp_frame *header = vp_frame_new(VP_FRAME_HEADER, &err);
    vp_index_adder *a;
    int status = vp_index_add_open(&a, x, header, &err);
    if (!status) {
        if (o) vp_index_add_kv(a, o);
        status = vp_index_add_frame(a, b->f, &err);
        if (!status) status = vp_index_add_commit(a, &err);
        vp_index_add_close(a);
    }
    vp_frame_free(header);
    free_batch(b);
    return status;
}

static int add(vp_index *x, batch *b) {
    return add_with(x, b, NULL);
}

/* Largest |x - stored| in units of the head's largest value; -1: it is not there, or of another shape. */
static double compare(const vp_kv *kv, int seed, int64_t row) {
    const int64_t n = tokens(row);
    double worst = 0;
    if (kv->layers != L || kv->tokens != n || kv->width != G * HEAD || kv->dtype != VP_BF16) return -1;
    for (int64_t l = 0; l < L; l++)
        for (int64_t h = 0; h < 2 * n * G; h++) {
            const bool is_v = h >= n * G;
            const int64_t head = is_v ? h - n * G : h;
            const uint16_t *got = (const uint16_t *)(is_v ? kv->v : kv->k) + (l * n * G + head) * HEAD;
            double most = 0, off = 0;
            for (int64_t i = 0; i < HEAD; i++) {
                const double want = (double)vp_bf16_float(number(seed, row, l, head * HEAD + i, is_v));
                most = fmax(most, fabs(want));
                off = fmax(off, fabs(want - (double)vp_bf16_float(got[i])));
            }
            worst = fmax(worst, off / most);
        }
    return worst;
}

/* The worst of rows [first, end); a row that is not there counts as -1 and shows. */
static double compare_rows(vp_index *x, int seed, int64_t first, int64_t end) {
    double worst = 0;
    for (int64_t i = first; i < end; i++) {
        char id[16];
        vp_kv kv;
        bool found;
        const size_t len = (size_t)snprintf(id, sizeof id, "r%lld", (long long)i);
        if (vp_index_kv(x, id, len, &kv, &found, &err) || !found) return -1;
        const double e = compare(&kv, seed, i);
        vp_kv_free(&kv);
        if (e < 0) return -1;
        worst = fmax(worst, e);
    }
    return worst;
}

static vp_index *fresh(const char *name) {
    vp_index *x = NULL;
    err = (vp_error){0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    OK(vp_index_open(&x, path, VP_INDEX_CREATE, &err) == VP_OK, "an index %s %s", name, err.text);
    return x;
}

static int delete_rows(vp_index *x, int64_t first, int64_t end) {
    char name[ROWS][16];
    const char *id[ROWS];
    size_t len[ROWS], n = 0;
    int64_t deleted;
    for (int64_t i = first; i < end; i++, n++) {
        len[n] = (size_t)snprintf(name[n], sizeof name[n], "r%lld", (long long)i);
        id[n] = name[n];
    }
    return vp_index_delete(x, id, len, n, &deleted, &err);
}

static void test_format(const char *name, const vp_kv_options *o, double bound) {
    vp_index *x = fresh(name);
    OK(!add_with(x, make_batch(1, 0, ROWS, L), o), "%s: rows are added %s", name, err.text);
    const double e = compare_rows(x, 1, 0, ROWS);
    OK(e >= 0 && e <= bound, "%s: they come back within %.5f: %.5f %s", name, bound, e, err.text);
    OK(!vp_index_verify(x, &err), "%s: verifies %s", name, err.text);
    vp_kv kv, held;
    bool found;
    OK(!vp_index_kv(x, "nobody", 6, &kv, &found, &err) && !found && !kv.owned, "%s: an unknown id is not found", name);
    OK(!vp_index_kv(x, "r3", 2, &held, &found, &err) && found, "%s: a row is held %s", name, err.text);
    OK(!add(x, make_batch(2, 0, 20, L)) && !delete_rows(x, 5, 15), "%s: replaced and deleted %s", name, err.text);
    const double late = compare_rows(x, 2, 15, 20), early = compare_rows(x, 2, 0, 5),
                 kept = compare_rows(x, 1, 20, ROWS);
    OK(late >= 0 && late <= bound && early >= 0 && early <= bound && kept >= 0 && kept <= bound,
       "%s: after compaction each row has its own: %.5f %.5f %.5f %s", name, early, late, kept, err.text);
    OK(!vp_index_verify(x, &err), "%s: verifies %s", name, err.text);
    vp_index_stats s;
    vp_index_stats_read(x, &s, &err);
    int64_t want = 0;
    for (int64_t i = 0; i < ROWS; i++) want += i < 5 || i >= 15 ? tokens(i) : 0;
    OK(s.kv_tokens == want && s.kv_file_bytes < s.kv_bytes * 4 / 3 + 64 * ROWS,
       "%s: %lld tokens in %lld bytes of files", name, (long long)s.kv_tokens, (long long)s.kv_file_bytes);
    vp_index_stats_free(&s);
    vp_index_close(x);
    const double still = compare(&held, 1, 3);
    OK(still >= 0 && still <= bound, "%s: what was held stays, also after the index was closed", name);
    vp_kv_free(&held);
}

static void refused(vp_index *x, batch *b, const vp_kv_options *o, const char *part, const char *what) {
    const int status = add_with(x, b, o);
    OK(status == VP_DATA && strstr(err.text, part), "%s is refused: %s", what, err.text);
    err = (vp_error){0};
}

static batch *without(batch *b, const char *name) {
    vp_frame_drop(b->f, name);
    return b;
}

static void test_refusals(void) {
    const vp_kv_options i8 = {.coding = VP_KV_I8}, zstd = {.zstd = true};
    vp_index *x = fresh("with.idx"), *y = fresh("without.idx");
    OK(!add(x, make_batch(1, 0, 5, L)) && !add(y, make_batch(1, 0, 5, 0)), "one with, one without %s", err.text);
    refused(x, make_batch(1, 5, 5, 0), NULL, "no columns k and v", "a stream without them");
    refused(y, make_batch(1, 5, 5, L), NULL, "without keys and values", "a stream with them");
    refused(x, make_batch(1, 5, 5, L + 1), NULL, "[4, T, 2, 8]", "another number of layers");
    refused(x, without(make_batch(1, 5, 5, L), "v"), NULL, "column k without v", "k alone");
    refused(x, without(make_batch(1, 5, 5, L), "cu"), NULL, "dimension 1", "k of more tokens than there are");
    refused(x, make_batch(1, 5, 5, L), &i8, "as bf16", "i8 in an index of bf16");
    refused(x, make_batch(1, 5, 5, L), &zstd, "as bf16", "zstd in an index without");
    refused(y, make_batch(1, 5, 5, 0), &i8, "no columns k and v to store", "i8 of nothing");
    batch *b = make_batch(1, 5, 5, L);
    const int64_t wrong[] = {L, b->cu[5], G, HEAD};
    vp_frame_put(b->f, "k", VP_I16, 4, wrong, b->k, &err);
    refused(x, b, NULL, "I16", "another type");
    vp_kv kv;
    bool found;
    OK(vp_index_kv(y, "r1", 2, &kv, &found, &err) == VP_DATA && strstr(err.text, "holds no keys"), "%s", err.text);
    err = (vp_error){0};
    OK(compare_rows(x, 1, 0, 5) == 0 && !vp_index_verify(x, &err), "nothing changed %s", err.text);
    vp_index_close(x);
    vp_index_close(y);
}

/* Change a byte of the file of keys and values, or its length. */
static void damage(const char *name, off_t at, off_t length) {
    char file[240];
    uint8_t byte;
    snprintf(file, sizeof file, "%s/%s/kv-00000001.bin", folder, name);
    int fd = open(file, O_RDWR);
    if (length >= 0 && ftruncate(fd, length) != 0) abort();
    if (length < 0 && pread(fd, &byte, 1, at) == 1) {
        byte ^= 16;
        if (pwrite(fd, &byte, 1, at) != 1) abort();
    }
    close(fd);
}

static void test_damage(const char *name, const vp_kv_options *o) {
    vp_index *x = fresh(name);
    vp_kv kv;
    bool found;
    OK(!add_with(x, make_batch(1, 0, 10, L), o), "%s: rows %s", name, err.text);
    damage(name, 20, -1); /* r0 has no tokens, so the first bytes are r1's */
    OK(vp_index_kv(x, "r1", 2, &kv, &found, &err) == VP_DATA && strstr(err.text, "'r1'"), "a byte: %s", err.text);
    err = (vp_error){0};
    OK(vp_index_verify(x, &err) == VP_DATA && strstr(err.text, "'r1'"), "verify: %s", err.text);
    err = (vp_error){0};
    OK(compare_rows(x, 1, 2, 10) >= 0, "the others are read %s", err.text);
    damage(name, 0, 100);
    OK(vp_index_kv(x, "r9", 2, &kv, &found, &err) == VP_DATA && strstr(err.text, "were committed"), "cut: %s",
       err.text);
    err = (vp_error){0};
    OK(vp_index_verify(x, &err) == VP_DATA && strstr(err.text, "were committed"), "verify: %s", err.text);
    err = (vp_error){0};
    OK(add(x, make_batch(1, 20, 2, L)) == VP_DATA, "and nothing is added: %s", err.text);
    vp_index_close(x);
}

static int unlink_one(const char *file, const struct stat *st, int type, struct FTW *f) {
    (void)st, (void)type, (void)f;
    return remove(file);
}

int main(void) {
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/kv-XXXXXX", parent && strlen(parent) < 40 ? parent : "/tmp");
    if (!mkdtemp(folder)) return 1;
    test_format("bf16.idx", NULL, 0);
    test_format("zstd.idx", &(vp_kv_options){.zstd = true}, 0);
    test_format("i8.idx", &(vp_kv_options){.coding = VP_KV_I8}, 1 / 254.0 + 1 / 256.0);
    test_format("i8-zstd.idx", &(vp_kv_options){.coding = VP_KV_I8, .zstd = true}, 1 / 254.0 + 1 / 256.0);
    test_refusals();
    test_damage("damaged.idx", NULL);
    test_damage("damaged-zstd.idx", &(vp_kv_options){.zstd = true});
    nftw(folder, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
    return done();
}
