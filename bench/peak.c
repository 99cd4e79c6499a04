/* The machine's peak: fused multiply-adds on registers alone, on every thread at once. Usage: peak THREADS [bf16]
 * In f32, or of bf16 numbers with f32 sums. Prints GFLOP/s (the best of several tenths of a second): the ceiling that
 * shares in BENCHMARKS.md refer to. */
#include <immintrin.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CHAINS = 24, STEPS = 4000 }; /* more chains than latency times pipes needs */
enum { MAX_THREADS = 256, ROUNDS = 10 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define CHAINS_OF(vec, number, set1, fma, add, store, width)                                                           \
    vec a[CHAINS];                                                                                                     \
    number x = (number)set1(0.999f), y = (number)set1(1e-3f);                                                          \
    _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) a[i] = set1((float)i);                                   \
    for (int s = 0; s < STEPS; s++) {                                                                                  \
        _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) a[i] = fma(a[i], x, y);                              \
    }                                                                                                                  \
    _Pragma("GCC unroll 24") for (int i = 1; i < CHAINS; i++) a[0] = add(a[0], a[i]);                                  \
    store(out, a[0]);                                                                                                  \
    return 2.0 * CHAINS * STEPS * width

__attribute__((target("avx512f"))) static double chains_avx512(float *out) {
    CHAINS_OF(__m512, __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps, _mm512_storeu_ps, 16);
}
__attribute__((target("avx2,fma"))) static double chains_avx2(float *out) {
    CHAINS_OF(__m256, __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps, _mm256_storeu_ps, 8);
}

__attribute__((target("avx512f,avx512bf16"))) static double chains_bf16(float *out) {
    CHAINS_OF(__m512, __m512bh, _mm512_set1_ps, _mm512_dpbf16_ps, _mm512_add_ps, _mm512_storeu_ps, 32);
}

typedef struct job {
    double (*chains)(float *out);
    double rate;
} job;

static void *run(void *arg) {
    job *j = arg;
    float out[16];
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double flop = 0, start = now(), took;
        do {
            for (int i = 0; i < 50; i++) flop += j->chains(out);
        } while ((took = now() - start) < 0.1);
        if (flop / took > best) best = flop / took;
    }
    volatile float keep = out[0];
    (void)keep;
    j->rate = best / 1e9;
    return NULL;
}

int main(int argc, char **argv) {
    const long threads = argc > 1 ? strtol(argv[1], NULL, 10) : 1;
    const bool bf16 = argc > 2, sets = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (threads < 1 || threads > MAX_THREADS || !sets || (bf16 && strcmp(argv[2], "bf16") != 0) || argc > 3) {
        fprintf(stderr, "usage: peak THREADS [bf16] (1 to %d; needs AVX2)\n", MAX_THREADS);
        return 2;
    }
    if (bf16 && !__builtin_cpu_supports("avx512bf16")) {
        fprintf(stderr, "peak: this processor has no instructions for bf16\n");
        return 5;
    }
    pthread_t id[MAX_THREADS];
    job of[MAX_THREADS];
    double sum = 0;
    for (long i = 0; i < threads; i++) {
        of[i].chains = bf16 ? chains_bf16 : __builtin_cpu_supports("avx512f") ? chains_avx512 : chains_avx2;
        if (pthread_create(&id[i], NULL, run, &of[i])) return 5;
    }
    for (long i = 0; i < threads; i++) {
        pthread_join(id[i], NULL);
        sum += of[i].rate;
    }
    printf("%.1f\n", sum);
    return 0;
}
