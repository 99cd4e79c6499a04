/* Chains of equal keys (chain.h): every position looks back for the one before it. That is n^2 / 2 comparisons, which
 * for the tens of thousands of rows of a micro-batch are fewer than what is then added up. */
#include "kernels/cuda/chain.h"

enum { THREADS = 256 };

VP_KERNEL(THREADS) clear_next(int32_t *next, int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) next[i] = -1;
}

/* A position is `next` of one position at most, so every entry has one writer. */
VP_KERNEL(THREADS) link_keys(const int32_t *key, vp_chain chain, int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    const int32_t mine = key[i];
    int64_t before = i - 1;
    while (before >= 0 && key[before] != mine) before--;
    chain.first[i] = before < 0;
    if (before >= 0) chain.next[before] = (int32_t)i;
}

int vp_chain_make(vp_queue *q, const char *what, const int32_t *key, int64_t n, vp_chain *chain) {
    chain->next = (int32_t *)vp_queue_take(q, what, (size_t)n * sizeof *chain->next);
    chain->first = chain->next ? (uint8_t *)vp_queue_take(q, what, (size_t)n) : NULL;
    if (!chain->first) return VP_MEMORY;
    VP_TRY(vp_launch(q, what, clear_next, vp_blocks(n, THREADS), THREADS, 0, chain->next, n));
    return vp_launch(q, what, link_keys, vp_blocks(n, THREADS), THREADS, 0, key, *chain, n);
}
