/* Times of the CPU's operations at the shapes of the default models: products, attention, search. Usage:
 *     kernels [THREADS]      (default: 1 and all)
 * Prints a table; the best of several runs counts, since other work disturbs. */
#include "kernels/ops.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fail(const char *why) {
    fprintf(stderr, "kernels: %s\n", why);
    exit(VP_MEMORY);
}

static float *random_floats(int64_t n) {
    float *p = vp_calloc((size_t)n, sizeof *p);
    if (!p) fail("out of memory");
    uint32_t s = 1;
    for (int64_t i = 0; i < n; i++) p[i] = (float)((s = s * 1664525U + 1013904223U) >> 8) / 8388608.0f - 1.0f;
    return p;
}

static vp_mat random_mat(int64_t rows, int64_t cols) {
    return (vp_mat){.ptr = random_floats(rows * cols), .dtype = VP_F32, .rows = rows, .cols = cols, .ld = cols};
}

/* The best time of a few calls. */
#define BEST(seconds, call)                                                                                            \
    do {                                                                                                               \
        double end_ = now() + 1.0;                                                                                     \
        (seconds) = 1e9;                                                                                               \
        for (int i_ = 0; i_ < 5 || now() < end_; i_++) {                                                               \
            double start_ = now();                                                                                     \
            if (call) fail(be->why(q));                                                                                \
            double took_ = now() - start_;                                                                             \
            if (took_ < (seconds)) (seconds) = took_;                                                                  \
        }                                                                                                              \
    } while (0)

typedef struct rows_of {
    const float *data;
    int64_t cols;
} rows_of;

static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)err;
    const rows_of *m = ctx;
    memcpy(out, m->data + row * m->cols, (size_t)m->cols * sizeof *out);
    return VP_OK;
}

static void time_linear(const vp_backend *be, vp_device *d, vp_queue *q, const char *what, int64_t T, int64_t K,
                        int64_t N, vp_dtype type) {
    float *w = random_floats(N * K);
    rows_of m = {w, K};
    vp_weight_part part = {N, read_row, &m};
    vp_weight_desc desc = {.part = &part, .nparts = 1, .in = K, .out = N, .compute = type, .name = what};
    vp_weight *weight = NULL;
    vp_error err = {0};
    double start = now(), seconds;
    if (be->weight_prepare(d, &desc, &weight, &err)) fail(err.text);
    double prepare = now() - start;
    vp_linear_op op = {.weight = weight, .x = random_mat(T, K), .out = random_mat(T, N)};
    BEST(seconds, be->linear(q, &op));
    printf("linear  %-22s %-4s T=%-5lld K=%-5lld N=%-5lld %9.3f ms %8.1f GFLOP/s   (prepare %.1f ms)\n", what,
           vp_dtype_name(type), (long long)T, (long long)K, (long long)N, 1e3 * seconds,
           2e-9 * (double)(T * K * N) / seconds, 1e3 * prepare);
    be->weight_free(d, weight);
    free(w), free(op.x.ptr), free(op.out.ptr);
}

static void time_linears(const vp_backend *be, vp_device *d, vp_queue *q, vp_dtype type) {
    time_linear(be, d, q, "SmolLM2 q k v", 2048, 576, 960, type);
    time_linear(be, d, q, "SmolLM2 attention out", 2048, 576, 576, type);
    time_linear(be, d, q, "SmolLM2 gate up", 2048, 576, 3072, type);
    time_linear(be, d, q, "SmolLM2 down", 2048, 1536, 576, type);
    time_linear(be, d, q, "SmolLM2 gate up", 12, 576, 3072, type);
    time_linear(be, d, q, "MiniLM q k v", 2048, 384, 1152, type);
    time_linear(be, d, q, "MiniLM up", 2048, 384, 1536, type);
    time_linear(be, d, q, "MiniLM down", 2048, 1536, 384, type);
}

static void time_attn(const vp_backend *be, vp_queue *q, int64_t n, int64_t T, int32_t heads, int32_t groups, int32_t d,
                      vp_attention mode) {
    enum { TILE = 64 };
    int64_t B = T / n, tiles = 0;
    int32_t *cu = vp_calloc((size_t)B + 1, sizeof *cu);
    vp_tile *tile = vp_calloc((size_t)T, sizeof *tile);
    if (!cu || !tile) fail("out of memory");
    for (int64_t b = 0; b < B; b++) {
        cu[b + 1] = (int32_t)((b + 1) * n);
        for (int64_t i = 0; i < n; i += TILE)
            tile[tiles++] = (vp_tile){(int32_t)b, (int32_t)i, (int32_t)(n - i < TILE ? n - i : TILE)};
    }
    vp_batch batch = {
        .T = B * n, .B = B, .cu_q = cu, .cu_k = cu, .longest = (int32_t)n, .tiles = tile, .ntiles = tiles};
    vp_attn_op op = {.batch = &batch, .mode = mode, .heads = heads, .groups = groups, .d = d, .scale = 0.125f};
    op.q = random_mat(B * n, (int64_t)heads * d);
    op.k = random_mat(B * n, (int64_t)groups * d);
    op.v = random_mat(B * n, (int64_t)groups * d);
    op.out = random_mat(B * n, (int64_t)heads * d);
    double seconds, pairs = (double)(B * n) * (mode == VP_ATTN_BI ? (double)n : ((double)n + 1.0) / 2.0);
    BEST(seconds, be->attn(q, &op));
    printf("attn    %-22s n=%-5lld T=%-5lld H=%d G=%d d=%-3d %9.3f ms %8.1f GFLOP/s (of pairs that are seen)\n",
           mode == VP_ATTN_BI ? "bidirectional" : "causal", (long long)n, (long long)(B * n), heads, groups, d,
           1e3 * seconds, 4e-9 * pairs * heads * d / seconds);
    free(cu), free(tile), free(op.q.ptr), free(op.k.ptr), free(op.v.ptr), free(op.out.ptr);
}

static void time_rows(const vp_backend *be, vp_queue *q, int64_t T, int64_t C, int64_t F) {
    double seconds;
    float *ones = random_floats(F > C ? F : C);
    vp_norm_op norm = {
        .x = random_mat(T, C), .d = random_mat(T, C), .out = random_mat(T, C), .weight = ones, .eps = 1e-5f};
    memset(norm.d.ptr, 0, (size_t)(T * C) * sizeof(float));
    BEST(seconds, be->norm(q, &norm));
    printf("norm    x += d, RMS            T=%-5lld C=%-5lld         %9.3f ms %8.1f GB/s\n", (long long)T, (long long)C,
           1e3 * seconds, 16e-9 * (double)(T * C) / seconds);
    vp_mat both = random_mat(T, 2 * F), gate = both, up = both;
    gate.cols = up.cols = F;
    up.ptr = (float *)both.ptr + F;
    vp_glu_op glu = {.act = VP_ACT_SILU, .gate = gate, .up = up, .out = random_mat(T, F)};
    BEST(seconds, be->glu(q, &glu));
    printf("glu     SiLU                   T=%-5lld F=%-5lld         %9.3f ms %8.1f GB/s\n", (long long)T, (long long)F,
           1e3 * seconds, 12e-9 * (double)(T * F) / seconds);
    free(ones), free(norm.x.ptr), free(norm.d.ptr), free(norm.out.ptr), free(both.ptr), free(glu.out.ptr);
}

static void time_topk(const vp_backend *be, vp_queue *q, vp_dtype dtype, int64_t Q, int64_t N, int64_t D, int32_t k) {
    vp_mat rows = random_mat(N, D);
    rows.dtype = dtype;
    if (dtype != VP_F32) /* any bytes do, but not NaN */
        for (int64_t i = 0; i < N * D / 2; i++) ((uint16_t *)rows.ptr)[i] = (uint16_t)(0x3c00 + i % 997);
    vp_hit *best = vp_calloc((size_t)(Q * k), sizeof *best);
    int32_t *found = vp_calloc((size_t)Q, sizeof *found);
    if (!best || !found) fail("out of memory");
    vp_topk_op op = {.queries = random_mat(Q, D), .rows = rows, .k = k, .best = best, .found = found};
    double seconds;
    BEST(seconds, (memset(found, 0, (size_t)Q * sizeof *found), be->topk(q, &op)));
    printf("topk    %-4s Q=%-4lld k=%-3d        N=%-7lld D=%-5lld      %9.3f ms %8.1f GFLOP/s %6.1f GB/s\n",
           vp_dtype_name(dtype), (long long)Q, k, (long long)N, (long long)D, 1e3 * seconds,
           2e-9 * (double)(Q * N * D) / seconds, 1e-9 * (double)(N * D) * (double)vp_dtype_size(dtype) / seconds);
    free(best), free(found), free(op.queries.ptr), free(rows.ptr);
}

/* ---- a training step of SmolLM2-135M with adapters of rank 16: each operation beside its backward ---- */
typedef struct step_batch {
    vp_batch batch;
    const char *name;
    double pairs; /* of a query and a key */
} step_batch;

/* T tokens, rows of `shortest` to `longest` of them, units of 512. */
static step_batch make_batch(const char *name, int64_t T, int32_t shortest, int32_t longest) {
    step_batch s = {.name = name, .batch = {.T = T, .longest = longest}};
    int32_t *cu = vp_calloc((size_t)T + 1, sizeof *cu), *unit = vp_calloc((size_t)T, sizeof *unit);
    int64_t *row = vp_calloc((size_t)T, sizeof *row), B = 0;
    vp_tile *tile = vp_calloc((size_t)T, sizeof *tile);
    if (!cu || !unit || !row || !tile) fail("out of memory");
    for (int32_t at = 0, first = 0; at < T; B++) {
        int32_t n = shortest + (int32_t)(B * 7) % (longest - shortest + 1);
        n = T - at < n ? (int32_t)T - at : n;
        bool next = B > 0 && at + n - first > 512;
        first = next ? at : first;
        unit[B] = B > 0 ? unit[B - 1] + next : 0;
        row[B] = B;
        tile[B] = (vp_tile){(int32_t)B, 0, n};
        s.pairs += (double)n * n;
        cu[B + 1] = at += n;
    }
    s.batch.B = s.batch.ntiles = B;
    s.batch.cu_q = s.batch.cu_k = cu;
    s.batch.unit = unit;
    s.batch.row = row;
    s.batch.tiles = tile;
    return s;
}

static void free_batch(step_batch *s) {
    free((void *)(uintptr_t)s->batch.cu_q), free((void *)(uintptr_t)s->batch.unit);
    free((void *)(uintptr_t)s->batch.row), free((void *)(uintptr_t)s->batch.tiles);
}

static void print_pair(const char *name, const step_batch *s, double forward, double backward, double flops,
                       double flops_bwd) {
    printf("train   %-26s %-8s %9.3f ms %7.1f GFLOP/s, backward %9.3f ms %7.1f GFLOP/s\n", name, s->name, 1e3 * forward,
           1e-9 * flops / forward, 1e3 * backward, 1e-9 * flops_bwd / backward);
}

static void train_linear(const vp_backend *be, vp_device *d, vp_queue *q, const step_batch *s, const char *name,
                         int64_t K, int64_t N, vp_dtype type) {
    float *w = random_floats(N * K);
    rows_of m = {w, K};
    vp_weight_part part = {N, read_row, &m};
    vp_weight_desc desc = {.part = &part, .nparts = 1, .in = K, .out = N, .compute = type, .backward = true};
    vp_weight *weight = NULL;
    vp_error err = {0};
    if (be->weight_prepare(d, &desc, &weight, &err)) fail(err.text);
    int64_t T = s->batch.T;
    vp_mat dout = random_mat(T, N), dx = random_mat(T, K), dw = random_mat(N, K);
    vp_linear_op op = {.weight = weight, .x = random_mat(T, K), .out = random_mat(T, N), .batch = &s->batch};
    op.dout = &dout;
    op.dx = &dx;
    op.dw = dw.ptr;
    double forward, backward, flops = 2.0 * (double)(T * K * N);
    BEST(forward, be->linear(q, &op));
    BEST(backward, be->linear_bwd_x(q, &op));
    print_pair(name, s, forward, backward, flops, flops);
    BEST(backward, be->linear_bwd_w(q, &op));
    print_pair("  dw", s, forward, backward, flops, flops);
    be->weight_free(d, weight);
    free(w), free(dout.ptr), free(dx.ptr), free(dw.ptr), free(op.x.ptr), free(op.out.ptr);
}

/* Adapters of `parts` targets, `n` columns each. */
static void train_lora(const vp_backend *be, vp_queue *q, const step_batch *s, const char *name, int64_t K,
                       const int64_t *n, int parts, float p) {
    enum { RANK = 16, MOST = 3 };
    vp_lora_part part[MOST] = {0};
    int64_t T = s->batch.T, N = 0;
    float *ab[MOST], *grad[MOST];
    for (int i = 0; i < parts; i++) {
        ab[i] = random_floats(RANK * (K + n[i]));
        grad[i] = random_floats(RANK * (K + n[i]));
        part[i] =
            (vp_lora_part){.a = ab[i], .b = ab[i] + RANK * K, .rank = RANK, .scale = 1e-3f, .first = N, .n = n[i]};
        part[i].da = grad[i];
        part[i].db = grad[i] + RANK * K;
        N += n[i];
    }
    vp_mat dout = random_mat(T, N), dx = random_mat(T, K);
    vp_lora_op op = {.x = random_mat(T, K), .out = random_mat(T, N), .part = part, .nparts = parts, .dout = &dout};
    op.dx = &dx;
    op.batch = &s->batch;
    op.drop.p = p;
    double forward, backward, flops = 2.0 * RANK * (double)(T * (K * parts + N));
    BEST(forward, be->lora(q, &op));
    BEST(backward, be->lora_bwd(q, &op));
    print_pair(name, s, forward, backward, flops, 2.0 * flops + 2.0 * RANK * (double)(T * K * parts));
    for (int i = 0; i < parts; i++) free(ab[i]), free(grad[i]);
    free(dout.ptr), free(dx.ptr), free(op.x.ptr), free(op.out.ptr);
}

static void train_attn(const vp_backend *be, vp_queue *q, const step_batch *s, const char *name, float p) {
    enum { H = 9, G = 3, D = 64 };
    int64_t T = s->batch.T;
    vp_mat dout = random_mat(T, H * D), dq = random_mat(T, H * D), dk = random_mat(T, G * D), dv = random_mat(T, G * D);
    vp_attn_op op = {.batch = &s->batch, .mode = VP_ATTN_BI, .heads = H, .groups = G, .d = D, .scale = 0.125f};
    op.drop.p = p;
    op.q = random_mat(T, H * D);
    op.k = random_mat(T, G * D);
    op.v = random_mat(T, G * D);
    op.out = random_mat(T, H * D);
    op.lse = random_floats(T * H);
    op.dout = &dout;
    op.dq = &dq;
    op.dk = &dk;
    op.dv = &dv;
    double forward, backward, flops = 4.0 * s->pairs * H * D;
    BEST(forward, be->attn(q, &op));
    BEST(backward, be->attn_bwd(q, &op));
    print_pair(name, s, forward, backward, flops, 2.5 * flops);
    free(op.q.ptr), free(op.k.ptr), free(op.v.ptr), free(op.out.ptr), free(op.lse);
    free(dout.ptr), free(dq.ptr), free(dk.ptr), free(dv.ptr);
}

static void train_rows(const vp_backend *be, vp_queue *q, const step_batch *s, int64_t C, int64_t F) {
    int64_t T = s->batch.T;
    vp_mat wide[6], x = random_mat(T, C), out = random_mat(T, C), dout = random_mat(T, C), dx = random_mat(T, C);
    for (int i = 0; i < 6; i++) wide[i] = random_mat(T, F);
    float *weight = random_floats(C);
    vp_norm_op norm = {.x = x, .out = out, .weight = weight, .eps = 1e-5f, .dout = &dout, .dx = &dx};
    norm.batch = &s->batch;
    vp_glu_op glu = {.act = VP_ACT_SILU, .gate = wide[0], .up = wide[1], .out = wide[2], .dout = &wide[3]};
    glu.dgate = &wide[4];
    glu.dup = &wide[5];
    double forward, backward;
    BEST(forward, be->norm(q, &norm));
    BEST(backward, be->norm_bwd(q, &norm));
    print_pair("norm (5 and 9 a number)", s, forward, backward, 5.0 * (double)(T * C), 9.0 * (double)(T * C));
    BEST(forward, be->glu(q, &glu));
    BEST(backward, be->glu_bwd(q, &glu));
    print_pair("glu (20 and 30 a number)", s, forward, backward, 20.0 * (double)(T * F), 30.0 * (double)(T * F));
    for (int i = 0; i < 6; i++) free(wide[i].ptr);
    free(x.ptr), free(out.ptr), free(dout.ptr), free(dx.ptr), free(weight);
}

static void time_step(const vp_backend *be, vp_device *d, vp_queue *q, step_batch s) {
    static const int64_t qkv[] = {576, 192, 192}, out[] = {576}, up[] = {1536, 1536};
    vp_caps caps;
    be->caps(d, &caps);
    for (int i = 0; i < (caps.bf16 ? 2 : 1); i++) {
        const vp_dtype type = i ? VP_BF16 : VP_F32;
        train_linear(be, d, q, &s, i ? "q k v, bf16" : "q k v", 576, 960, type);
        train_linear(be, d, q, &s, i ? "attention out, bf16" : "attention out", 576, 576, type);
        train_linear(be, d, q, &s, i ? "gate up, bf16" : "gate up", 576, 3072, type);
        train_linear(be, d, q, &s, i ? "down, bf16" : "down", 1536, 576, type);
    }
    for (int i = 0; i < 2; i++) {
        float p = i ? 0.1f : 0.0f;
        train_lora(be, q, &s, i ? "adapters q k v, p 0.1" : "adapters q k v", 576, qkv, 3, p);
        train_lora(be, q, &s, i ? "adapter out, p 0.1" : "adapter out", 576, out, 1, p);
        train_lora(be, q, &s, i ? "adapters gate up, p 0.1" : "adapters gate up", 576, up, 2, p);
        train_lora(be, q, &s, i ? "adapter down, p 0.1" : "adapter down", 1536, out, 1, p);
        train_attn(be, q, &s, i ? "attention, p 0.1" : "attention", p);
    }
    train_rows(be, q, &s, 576, 1536);
    free_batch(&s);
}

static void run(int threads) {
    const vp_backend *be = vp_backend_cpu();
    vp_device *d = NULL;
    vp_queue *q = NULL;
    vp_error err = {0};
    vp_device_options options = {.threads = threads};
    if (be->open(&d, &options, &err) || be->queue_open(&q, d, &err)) fail(err.text);
    vp_caps caps;
    be->caps(d, &caps);
    printf("-- %s, %d thread%s\n", caps.isa, caps.threads, caps.threads == 1 ? "" : "s");
    time_linears(be, d, q, VP_F32);
    if (caps.bf16) time_linears(be, d, q, VP_BF16);
    time_attn(be, q, 128, 2048, 9, 3, 64, VP_ATTN_CAUSAL);
    time_attn(be, q, 512, 2048, 9, 3, 64, VP_ATTN_CAUSAL);
    time_attn(be, q, 512, 2048, 9, 3, 64, VP_ATTN_BI);
    time_attn(be, q, 128, 2048, 12, 12, 32, VP_ATTN_BI);
    time_rows(be, q, 2048, 576, 1536);
    time_topk(be, q, VP_F32, 1, 200000, 384, 10);
    time_topk(be, q, VP_BF16, 1, 200000, 384, 10);
    time_topk(be, q, VP_I8, 1, 200000, 384, 10);
    time_topk(be, q, VP_F32, 256, 50000, 384, 100);
    time_topk(be, q, VP_I8, 256, 50000, 384, 100);
    time_step(be, d, q, make_batch("8 x 128", 1024, 128, 128));
    time_step(be, d, q, make_batch("8 to 30", 1000, 8, 30));
    be->queue_close(q);
    be->close(d);
}

int main(int argc, char **argv) {
    char *end = NULL;
    long threads = argc > 1 ? strtol(argv[1], &end, 10) : 1;
    if (argc > 2 || (end && (*end || end == argv[1])) || threads < 1 || threads > 1024) {
        fprintf(stderr, "usage: kernels [THREADS]\n");
        return VP_USAGE;
    }
    run((int)threads);
    if (argc <= 1) run(0);
    return 0;
}
