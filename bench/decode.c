/* Speed of generation on a model, and what share of memory's it is. Usage: decode MODEL [THREADS [TYPE]]   (default: 1,
 * every type). For each type of weights, prompts of 128, 512 and 2048 tokens: the tokens/s at which they are taken up.
 * Then prompts of 16 tokens, 1 and 8 at a time: the mean of 128 steps, tokens/s, and the bytes of weights that a step
 * reads over the rate of a plain read of 512 MiB in the same run. With one thread times are of the processor, so that
 * other work on the machine disturbs less; with more they are the clock's. */
#include "bench/bench.h"
#include "lib/file/source.h"
#include "lib/vecpipe.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { STEPS = 128, PROMPT = 16, LONGEST = 2048 };

typedef uint64_t block __attribute__((vector_size(64)));

/* Bytes a second of one thread that adds up memory, the best of several passes. */
static double read_rate(void) {
    const size_t bytes = (size_t)512 << 20, n = bytes / sizeof(block);
    block *p = aligned_alloc((size_t)2 << 20, bytes), sum[4] = {0};
    double best = 1e9;
    if (!p) exit(VP_MEMORY);
    madvise(p, bytes, MADV_HUGEPAGE); /* as weights lie; advice: may be refused */
    memset(p, 1, bytes);
    for (int pass = 0; pass < 12; pass++) {
        const double start = now(1);
        for (size_t i = 0; i < n; i += 4)
            for (size_t k = 0; k < 4; k++) sum[k] += p[i + k];
        const double took = now(1) - start;
        if (took < best) best = took;
    }
    volatile uint64_t keep = (sum[0] + sum[1] + sum[2] + sum[3])[0];
    (void)keep;
    free(p);
    return (double)bytes / best;
}

/* Numbers of a step's products: the matrices of the file, but for the embedding where the head is another. */
static double product_weights(const char *path) {
    vp_error err = {0};
    vp_source *s = NULL;
    double all = 0, embedding = 0;
    check(vp_source_open(&s, path, &err), &err);
    for (size_t i = 0; i < vp_source_count(s); i++) {
        const vp_tensor_info *t = vp_source_at(s, i);
        const double n = (double)vp_tensor_rows(t) * (double)vp_tensor_cols(t);
        if (t->ndim == 2) all += n;
        if (strstr(t->name, "embed_tokens") || strstr(t->name, "token_embd")) embedding = n;
    }
    const bool head = vp_source_find(s, "lm_head.weight") || vp_source_find(s, "output.weight");
    vp_source_close(s);
    return head ? all - embedding : all;
}

/* Seconds of a step of B prompts of n tokens, the mean of `steps`; *first: of the one that takes the prompts up. */
static double mean_step(vp_model *m, vp_tokenizer *t, const char *type, int threads, int64_t B, size_t n, int steps,
                        double *first) {
    vp_error err = {0};
    vp_encoder *e = NULL;
    vp_gen *g = NULL;
    const vp_encode_options encode = {.threads = threads, .compute = type, .attention = "causal", .generate = true};
    const vp_gen_options o = {.max_tokens = STEPS + 2, .top_p = 1, .penalty = 1, .batch = B, .temperature = 1};
    int32_t ids[LONGEST];
    check(vp_encoder_open(&e, m, &encode, NULL, &err), &err);
    check(vp_gen_open(&g, m, e, t, &o, &err), &err);
    for (int64_t b = 0; b <= B; b++) { /* the first one makes the weights ready */
        for (size_t i = 0; i < n; i++) ids[i] = (int32_t)(100 + (i * 7919 + (size_t)b) % 5000);
        if (b == 1)
            while (!vp_gen_idle(g)) check(vp_gen_step(g, &err), &err);
        check(vp_gen_add(g, ids, n, b, &err), &err);
    }
    double start = now(threads);
    check(vp_gen_step(g, &err), &err);
    *first = now(threads) - start;
    const int64_t before = vp_gen_tokens(g);
    start = now(threads);
    for (int i = 0; i < steps && !vp_gen_idle(g); i++) check(vp_gen_step(g, &err), &err);
    const double took = now(threads) - start;
    const int64_t tokens = vp_gen_tokens(g) - before; /* fewer than B a step where answers have ended */
    vp_gen_close(g);
    vp_encoder_close(e);
    return tokens ? took * (double)B / (double)tokens : 0;
}

int main(int argc, char **argv) {
    static const char *const types[] = {"f32", "bf16", "i8"};
    static const double size[] = {4, 2, 1};
    vp_error err = {0};
    vp_model *m = NULL;
    vp_tokenizer *t = NULL;
    double asked = 1;
    if (argc < 2 || argc > 4 || (argc > 2 && !vp_cli_real(argv[2], &asked)) || !(asked >= 1 && asked <= 1024)) {
        fprintf(stderr, "usage: decode MODEL [THREADS [TYPE]]\n");
        return VP_USAGE;
    }
    const int threads = (int)asked;
    check(vp_model_open(&m, argv[1], &err), &err);
    check(vp_tokenizer_open(&t, vp_model_transformer(m), &err), &err);
    const double rate = read_rate(), weights = product_weights(vp_model_transformer(m));
    printf("%d threads; a thread reads %.1f GB/s; %.1f million weights\n", threads, rate / 1e9, weights / 1e6);
    for (int i = 0; i < 3; i++) {
        double first;
        if (argc > 3 && strcmp(argv[3], types[i])) continue;
        for (size_t n = 128; n <= LONGEST; n *= 4) {
            mean_step(m, t, types[i], threads, 1, n, 0, &first);
            printf("%-5s prompt of %zu: %.0f tokens/s\n", types[i], n, (double)n / first);
        }
        for (int64_t B = 1; B <= 8; B *= 8) {
            const double step = mean_step(m, t, types[i], threads, B, PROMPT, STEPS, &first), read = weights * size[i];
            printf("%-5s %lld at a time: %.2f ms a step, %.1f tokens/s, weights at %.1f GB/s, %.0f %% of a read\n",
                   types[i], (long long)B, 1e3 * step, (double)B / step, read / step / 1e9, 100 * read / step / rate);
        }
    }
    vp_tokenizer_close(t);
    vp_model_close(m);
    return 0;
}
