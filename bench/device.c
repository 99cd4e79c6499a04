/* Times of single operations on a device, through its table. Usage:
 *     device search ROWS DIMS QUERIES            exact search, bf16, the best 10
 *     device attention LENGTH SEQUENCES HEADS [back]   not causal, bf16, four heads a group, width 128;
 *                                                      LENGTH-LENGTH: lengths from the one to the other
 * Prints TFLOP/s (2 n d of a search; of attention 4 n^2 d H forward, 10 backward). $VP_DEVICE names the device. */
#include "kernels/load.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const vp_backend *be;
static vp_device *device;
static vp_queue *queue;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(int status, const char *why) {
    if (!status) return;
    fprintf(stderr, "device: %s\n", why);
    exit(status);
}

static void wait_all(void) {
    vp_error err = {0};
    check(be->queue_wait(queue, &err), err.text);
}

static void *take(size_t bytes) {
    void *p = be->arena_alloc(queue, bytes);
    check(p ? VP_OK : VP_MEMORY, "out of device memory");
    return p;
}

static void *put(const void *from, size_t bytes) {
    void *p = take(bytes);
    check(be->copy(queue, p, from, bytes), be->why(queue));
    wait_all();
    return p;
}

/* n random numbers below 2 in device memory: runs of a few MiB, from another place in them each time, so that no two
 * rows are the same. */
static void *random_numbers(size_t n, vp_dtype type) {
    const size_t bytes = n * vp_dtype_size(type), pool = (size_t)16 << 20, run = pool / 2;
    uint8_t *host = vp_calloc(pool, 1), *p = take(bytes);
    check(host ? VP_OK : VP_MEMORY, "out of memory");
    uint32_t s = 1;
    for (size_t i = 0; i < pool; i += 4) {
        const float x = (float)((s = s * 1664525U + 1013904223U) >> 8) / 8388608.0f - 1.0f;
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if (type == VP_BF16) bits = (bits & 0xffff0000U) | (bits << 5 & 0x8000) | 0x3f00 | (bits >> 3 & 0xff);
        memcpy(host + i, &bits, 4);
    }
    for (size_t at = 0; at < bytes; at += run) {
        const size_t from = at / run * 7919 * 4 % run;
        check(be->copy(queue, p + at, host + from, bytes - at < run ? bytes - at : run), be->why(queue));
    }
    wait_all();
    free(host);
    return p;
}

static vp_mat random_mat(int64_t rows, int64_t cols, vp_dtype type) {
    return (vp_mat){
        .ptr = random_numbers((size_t)(rows * cols), type), .dtype = type, .rows = rows, .cols = cols, .ld = cols};
}

/* Seconds a call: the mean of at least three, for a second. */
#define MEAN(seconds, call)                                                                                            \
    do {                                                                                                               \
        int n_ = 0;                                                                                                    \
        check(call, be->why(queue));                                                                                   \
        wait_all();                                                                                                    \
        const double start_ = now();                                                                                   \
        for (; n_ < 3 || now() < start_ + 1; n_++) {                                                                   \
            check(call, be->why(queue));                                                                               \
            wait_all();                                                                                                \
        }                                                                                                              \
        (seconds) = (now() - start_) / n_;                                                                             \
    } while (0)

/* From empty lists each time. */
static int search(const vp_topk_op *op, const int32_t *empty) {
    const int status = be->copy(queue, op->found, empty, (size_t)op->queries.rows * sizeof *empty);
    return status ? status : be->topk(queue, op);
}

static void time_search(int64_t rows, int64_t dims, int64_t queries) {
    int32_t *empty = be->host_alloc(device, (size_t)queries * sizeof *empty);
    vp_topk_op op = {.k = 10};
    double seconds;
    check(empty ? VP_OK : VP_MEMORY, "out of memory");
    memset(empty, 0, (size_t)queries * sizeof *empty);
    check(be->topk ? VP_OK : VP_MEMORY, "no operation topk");
    op.queries = random_mat(queries, dims, VP_F32);
    op.rows = random_mat(rows, dims, VP_BF16);
    op.best = take((size_t)(queries * op.k) * sizeof *op.best);
    op.found = take((size_t)queries * sizeof *op.found);
    MEAN(seconds, search(&op, empty));
    printf("%.4g\n", 2e-12 * (double)rows * (double)dims * (double)queries / seconds);
    be->host_free(device, empty);
}

enum { SHARE = 4, WIDTH = 128, TILE = 64 };

typedef struct lengths {
    int64_t from, to, B;
} lengths;

static int64_t length_of(const lengths *l, int64_t b) {
    return l->B > 1 ? l->from + (l->to - l->from) * b / (l->B - 1) : l->to;
}

/* `pairs`: the sum of their squares. */
static vp_batch make_batch(const lengths *l, double *pairs) {
    int32_t *cu = vp_calloc((size_t)l->B + 1, sizeof *cu);
    vp_tile *tiles = vp_calloc((size_t)(l->B * (l->to / TILE + 1)), sizeof *tiles);
    vp_batch batch = {.B = l->B, .longest = (int32_t)l->to};
    check(cu && tiles ? VP_OK : VP_MEMORY, "out of memory");
    *pairs = 0;
    for (int64_t b = 0; b < l->B; b++) {
        const int64_t n = length_of(l, b);
        batch.T += n;
        cu[b + 1] = (int32_t)batch.T;
        *pairs += (double)n * (double)n;
        for (int64_t i = 0; i < n; i += TILE)
            tiles[batch.ntiles++] = (vp_tile){(int32_t)b, (int32_t)i, (int32_t)(n - i < TILE ? n - i : TILE)};
    }
    batch.cu_q = batch.cu_k = put(cu, ((size_t)l->B + 1) * sizeof *cu);
    batch.tiles = put(tiles, (size_t)batch.ntiles * sizeof *tiles);
    free(cu);
    free(tiles);
    return batch;
}

static lengths read_lengths(const char *text, int64_t B) {
    char *end;
    lengths l = {.B = B};
    l.from = l.to = strtoll(text, &end, 10);
    if (*end == '-') l.to = strtoll(end + 1, &end, 10);
    check(*end || l.from < 1 || l.to < l.from || B < 1 ? VP_USAGE : VP_OK, "no lengths, or no sequences");
    return l;
}

static void time_attention(lengths l, int32_t heads, bool back) {
    const int32_t groups = heads / SHARE;
    check(heads < SHARE || heads % SHARE ? VP_USAGE : VP_OK, "heads come in fours");
    double pairs;
    const vp_batch batch = make_batch(&l, &pairs);
    const int64_t T = batch.T, own = heads * WIDTH, keys = groups * WIDTH;
    vp_attn_op op = {.batch = &batch, .mode = VP_ATTN_BI, .heads = heads, .groups = groups, .d = WIDTH, .scale = 0.09f};
    op.q = random_mat(T, own, VP_BF16);
    op.k = random_mat(T, keys, VP_BF16);
    op.v = random_mat(T, keys, VP_BF16);
    op.out = random_mat(T, own, VP_BF16);
    op.lse = take((size_t)(T * heads) * sizeof *op.lse);
    const vp_mat dout = random_mat(T, own, VP_BF16), dq = random_mat(T, own, VP_BF16);
    const vp_mat dk = random_mat(T, keys, VP_BF16), dv = random_mat(T, keys, VP_BF16);
    double seconds;
    check(be->attn && be->attn_bwd ? VP_OK : VP_MEMORY, "no operation attn");
    MEAN(seconds, be->attn(queue, &op));
    op.dout = &dout;
    op.dq = &dq;
    op.dk = &dk;
    op.dv = &dv;
    if (back) MEAN(seconds, be->attn_bwd(queue, &op));
    printf("%.4g\n", (back ? 10e-12 : 4e-12) * pairs * WIDTH * heads / seconds);
}

int main(int argc, char **argv) {
    vp_device_options options = {0};
    vp_error err = {0};
    check(vp_backend_choose(NULL, &be, &options.index, &err), err.text);
    check(be->open(&device, &options, &err), err.text);
    check(be->queue_open(&queue, device, &err), err.text);
    if (argc == 5 && !strcmp(argv[1], "search"))
        time_search(atoll(argv[2]), atoll(argv[3]), atoll(argv[4]));
    else if (argc >= 5 && !strcmp(argv[1], "attention"))
        time_attention(read_lengths(argv[2], atoll(argv[3])), (int32_t)atoll(argv[4]), argc > 5);
    else
        check(VP_USAGE, "usage: device search ROWS DIMS QUERIES | attention LENGTH[-LENGTH] SEQUENCES HEADS [back]");
    be->queue_close(queue);
    be->close(device);
    return 0;
}
