/* The machine's f32 peak: fused multiply-adds on registers alone, on every thread at once. Usage: peak THREADS
 * Prints GFLOP/s (the best of several tenths of a second): the ceiling that shares in BENCHMARKS.md refer to. */
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CHAINS = 24, STEPS = 4000 }; /* more chains than latency times pipes needs */
enum { MAX_THREADS = 256, ROUNDS = 10 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define CHAINS_OF(vec, set1, fma, add, store, width)                                                                   \
    vec a[CHAINS], x = set1(0.999f), y = set1(1e-3f);                                                                  \
    _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) a[i] = set1((float)i);                                   \
    for (int s = 0; s < STEPS; s++) {                                                                                  \
        _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) a[i] = fma(a[i], x, y);                              \
    }                                                                                                                  \
    _Pragma("GCC unroll 24") for (int i = 1; i < CHAINS; i++) a[0] = add(a[0], a[i]);                                  \
    store(out, a[0]);                                                                                                  \
    return 2.0 * CHAINS * STEPS * width

__attribute__((target("avx512f"))) static double chains_avx512(float *out) {
    CHAINS_OF(__m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps, _mm512_storeu_ps, 16);
}
__attribute__((target("avx2,fma"))) static double chains_avx2(float *out) {
    CHAINS_OF(__m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps, _mm256_storeu_ps, 8);
}

static void *run(void *result) {
    double (*chains)(float *) = __builtin_cpu_supports("avx512f") ? chains_avx512 : chains_avx2;
    float out[16];
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double flop = 0, start = now(), took;
        do {
            for (int i = 0; i < 50; i++) flop += chains(out);
        } while ((took = now() - start) < 0.1);
        if (flop / took > best) best = flop / took;
    }
    volatile float keep = out[0];
    (void)keep;
    *(double *)result = best / 1e9;
    return NULL;
}

int main(int argc, char **argv) {
    long threads = argc > 1 ? strtol(argv[1], NULL, 10) : 1;
    if (threads < 1 || threads > MAX_THREADS || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        fprintf(stderr, "usage: peak THREADS (1 to %d; needs AVX2)\n", MAX_THREADS);
        return 2;
    }
    pthread_t id[MAX_THREADS];
    double rate[MAX_THREADS] = {0}, sum = 0;
    for (long i = 0; i < threads; i++)
        if (pthread_create(&id[i], NULL, run, &rate[i])) return 5;
    for (long i = 0; i < threads; i++) {
        pthread_join(id[i], NULL);
        sum += rate[i];
    }
    printf("%.1f\n", sum);
    return 0;
}
