/* Shared by the benchmarks in C. */
#ifndef VP_BENCH_H
#define VP_BENCH_H
#include "lib/base/base.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Seconds: with one thread of the processor, so that other work on the machine disturbs less; else the clock's. */
static inline double now(int threads) {
    struct timespec t;
    clock_gettime(threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void check(int status, const vp_error *err) {
    if (!status) return;
    fprintf(stderr, "bench: %s\n", err->text);
    exit(status);
}

#endif
