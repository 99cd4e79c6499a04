/* Mutations: flipped bits, interesting integers over length fields, cut, doubled and foreign pieces, numbers in text.
 */
#include "tests/fuzz/fuzz.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t fuzz_next(fuzz_rng *r) { /* splitmix64's finaliser over key + counter * golden ratio */
    uint64_t x = r->key + 0x9e3779b97f4a7c15u * ++r->counter;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

uint64_t fuzz_below(fuzz_rng *r, uint64_t n) {
    return n ? fuzz_next(r) % n : 0;
}

vp_buf *fuzz_add_seed(fuzz_seeds *s) {
    if (s->n == FUZZ_MAX_SEEDS) abort();
    return &s->item[s->n++];
}

/* 0, a power of two, or a near neighbour: 127, 2^31 - 1, 2^32, 2^63, 2^64 - 1 ... */
static uint64_t some_number(fuzz_rng *r) {
    uint64_t e = fuzz_below(r, 65), x = e < 64 ? (uint64_t)1 << e : 0;
    return fuzz_below(r, 2) ? x : x + fuzz_below(r, 5) - 2;
}

/* Replace n bytes at `at` by m others, as far as the input's limit allows. */
static void replace(vp_buf *b, size_t at, size_t n, const char *other, size_t m) {
    vp_error err = {0};
    if (b->len - n + m > FUZZ_MAX_INPUT || vp_buf_reserve(b, b->len - n + m + 1, &err)) return;
    memmove(b->data + at + m, b->data + at + n, b->len - at - n);
    if (m) memcpy(b->data + at, other, m);
    b->len = b->len - n + m;
}

static void flip_bit(vp_buf *b, fuzz_rng *r) {
    if (b->len) b->data[fuzz_below(r, b->len)] ^= (char)(1 << fuzz_below(r, 8));
}

static void set_integer(vp_buf *b, fuzz_rng *r) {
    size_t size = (size_t)1 << fuzz_below(r, 4);
    uint64_t x = some_number(r), big = __builtin_bswap64(x);
    if (b->len < size) return;
    bool swap = fuzz_below(r, 4) == 0; /* msgpack's are big-endian */
    memcpy(b->data + fuzz_below(r, b->len - size + 1), swap ? (char *)&big + 8 - size : (char *)&x, size);
}

static void nudge_integer(vp_buf *b, fuzz_rng *r) {
    uint32_t x;
    if (b->len < sizeof x) return;
    char *p = b->data + fuzz_below(r, b->len - sizeof x + 1);
    memcpy(&x, p, sizeof x);
    x += (uint32_t)fuzz_below(r, 17) - 8;
    memcpy(p, &x, sizeof x);
}

static void cut(vp_buf *b, fuzz_rng *r) {
    b->len = fuzz_below(r, b->len + 1);
}

static void delete_piece(vp_buf *b, fuzz_rng *r) {
    size_t at = fuzz_below(r, b->len), n = fuzz_below(r, 1 + fuzz_below(r, b->len - at + 1));
    replace(b, at, n, "", 0);
}

/* A piece of a seed in place of a piece of the input. */
static void splice(vp_buf *b, const fuzz_seeds *seeds, fuzz_rng *r) {
    const vp_buf *from = &seeds->item[fuzz_below(r, (uint64_t)seeds->n)];
    size_t begin = fuzz_below(r, from->len), m = fuzz_below(r, from->len - begin + 1);
    size_t at = fuzz_below(r, b->len + 1), n = fuzz_below(r, 2) ? fuzz_below(r, b->len - at + 1) : 0;
    replace(b, at, n, from->data + begin, m);
}

/* A run of one byte, such as brackets for depth. */
static void insert_run(vp_buf *b, fuzz_rng *r) {
    static const char bytes[] = "[{\"\\,: \x91\x81\xff";
    char run[4096];
    size_t n = 1 + fuzz_below(r, (uint64_t)1 << fuzz_below(r, 13));
    memset(run, bytes[fuzz_below(r, sizeof bytes)], sizeof run);
    replace(b, fuzz_below(r, b->len + 1), 0, run, n < sizeof run ? n : sizeof run);
}

/* The next number in a text becomes another one. */
static void change_number(vp_buf *b, fuzz_rng *r) {
    static const char *const odd[] = {"-1", "1e999", "-0", "0.5", "1.5e-400", "null", "true", "\"\"", "[]", "{}"};
    size_t at = fuzz_below(r, b->len), n = 0;
    while (at < b->len && !isdigit((unsigned char)b->data[at])) at++;
    while (at + n < b->len && isdigit((unsigned char)b->data[at + n])) n++;
    if (!n) return;
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)some_number(r));
    const char *other = fuzz_below(r, 3) ? text : odd[fuzz_below(r, sizeof odd / sizeof *odd)];
    replace(b, at, n, other, strlen(other));
}

void fuzz_mutate(vp_buf *input, const fuzz_seeds *seeds, fuzz_rng *r) {
    for (uint64_t times = 1 + fuzz_below(r, 1 + fuzz_below(r, 4)); times; times--) {
        switch (fuzz_below(r, 12)) {
        case 0:
        case 1:
            flip_bit(input, r);
            break;
        case 2:
        case 3:
        case 4:
            set_integer(input, r);
            break;
        case 5:
            nudge_integer(input, r);
            break;
        case 6:
            cut(input, r);
            break;
        case 7:
            delete_piece(input, r);
            break;
        case 8:
            splice(input, seeds, r);
            break;
        case 9:
            insert_run(input, r);
            break;
        default:
            change_number(input, r);
        }
    }
}
