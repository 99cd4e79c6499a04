/* The bounded msgpack cursor: every length and count is held against the bytes that are left before it is believed, and
 * nothing is allocated by what the input claims. Reads all of msgpack; knows nothing of frames. */
#include "lib/stream/private.h"
#include <math.h>
#include <stdlib.h>

static bool take(vp_cursor *c, size_t n, const uint8_t **data) {
    if ((size_t)(c->end - c->p) < n) return false;
    *data = c->p;
    c->p += n;
    return true;
}

/* A big-endian unsigned number of `width` bytes. */
static bool take_uint(vp_cursor *c, size_t width, uint64_t *value) {
    const uint8_t *p;
    if (!take(c, width, &p)) return false;
    *value = 0;
    for (size_t i = 0; i < width; i++) *value = *value << 8 | p[i];
    return true;
}

/* Strings, bins and exts: `length` bytes follow (for an ext after its type). */
static bool take_bytes(vp_cursor *c, vp_token *t, vp_kind kind, uint64_t length) {
    t->kind = kind;
    if (kind == VP_KIND_EXT) {
        const uint8_t *type;
        if (!take(c, 1, &type)) return false;
        t->ext = (int8_t)*type;
    }
    t->n = (size_t)length;
    return take(c, t->n, &t->data);
}

/* An element has at least one byte, a pair two. */
static bool take_container(const vp_cursor *c, vp_token *t, vp_kind kind, uint64_t count) {
    t->kind = kind;
    t->n = (size_t)count;
    return count <= (size_t)(c->end - c->p) / (kind == VP_KIND_MAP ? 2 : 1);
}

static bool take_sized(vp_cursor *c, vp_token *t, vp_kind kind, size_t width) {
    uint64_t n;
    if (!take_uint(c, width, &n)) return false;
    return kind >= VP_KIND_ARRAY ? take_container(c, t, kind, n) : take_bytes(c, t, kind, n);
}

static bool take_int(vp_cursor *c, vp_token *t, size_t width, bool is_signed) {
    t->kind = VP_KIND_INT;
    if (!take_uint(c, width, &t->u)) return false;
    const uint64_t sign = (uint64_t)1 << (8 * width - 1);
    t->negative = is_signed && (t->u & sign);
    if (t->negative) t->u |= ~(sign - 1);
    return true;
}

static bool take_real(vp_cursor *c, vp_token *t, size_t width) {
    uint64_t bits;
    t->kind = VP_KIND_REAL;
    if (!take_uint(c, width, &bits)) return false;
    if (width == 4) {
        const uint32_t low = (uint32_t)bits;
        float x;
        memcpy(&x, &low, sizeof x);
        t->real = (double)x;
    } else
        memcpy(&t->real, &bits, sizeof t->real);
    return true;
}

/* Heads that name a type; its length or value follows. */
static bool take_typed(vp_cursor *c, vp_token *t, uint8_t b) {
    switch (b) {
    case 0xc0:
        return true;
    case 0xc2:
    case 0xc3:
        t->kind = VP_KIND_BOOL;
        t->u = b & 1u;
        return true;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return take_sized(c, t, VP_KIND_BIN, (size_t)1 << (b - 0xc4));
    case 0xc7:
    case 0xc8:
    case 0xc9:
        return take_sized(c, t, VP_KIND_EXT, (size_t)1 << (b - 0xc7));
    case 0xca:
        return take_real(c, t, 4);
    case 0xcb:
        return take_real(c, t, 8);
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        return take_int(c, t, (size_t)1 << (b - 0xcc), false);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return take_int(c, t, (size_t)1 << (b - 0xd0), true);
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
        return take_bytes(c, t, VP_KIND_EXT, (uint64_t)1 << (b - 0xd4));
    case 0xd9:
    case 0xda:
    case 0xdb:
        return take_sized(c, t, VP_KIND_STR, (size_t)1 << (b - 0xd9));
    case 0xdc:
    case 0xdd:
        return take_sized(c, t, VP_KIND_ARRAY, (size_t)2 << (b - 0xdc));
    case 0xde:
    case 0xdf:
        return take_sized(c, t, VP_KIND_MAP, (size_t)2 << (b - 0xde));
    default:
        return false; /* 0xc1 is not used */
    }
}

bool vp_cursor_token(vp_cursor *c, vp_token *t) {
    const uint8_t *first;
    *t = (vp_token){.kind = VP_KIND_NIL};
    if (!take(c, 1, &first)) return false;
    const uint8_t b = *first;
    if (b >= 0xc0 && b < 0xe0) return take_typed(c, t, b);
    /* heads that hold the value or the length themselves */
    if (b >= 0xa0 && b < 0xc0) return take_bytes(c, t, VP_KIND_STR, b & 31u);
    if (b >= 0x90 && b < 0xa0) return take_container(c, t, VP_KIND_ARRAY, b & 15u);
    if (b >= 0x80 && b < 0x90) return take_container(c, t, VP_KIND_MAP, b & 15u);
    t->kind = VP_KIND_INT;
    t->negative = b >= 0xe0;
    t->u = t->negative ? ~(uint64_t)0xff | b : b;
    return true;
}

void vp_cursor_skip(vp_cursor *c) {
    vp_token t;
    for (size_t left = 1; left && vp_cursor_token(c, &t); left--) {
        if (t.kind == VP_KIND_ARRAY) left += t.n;
        if (t.kind == VP_KIND_MAP) left += 2 * t.n;
    }
}

/* Any total order in which equal keys are neighbours. 1 and 1.0 differ, the spellings of one integer do not. */
static int compare_keys(const void *a, const void *b) {
    const vp_token *x = a, *y = b;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    if (x->negative != y->negative) return x->negative ? -1 : 1;
    if (x->u != y->u) return x->u < y->u ? -1 : 1;
    if (x->ext != y->ext) return x->ext < y->ext ? -1 : 1;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    if (x->kind == VP_KIND_REAL) return (x->real > y->real) - (x->real < y->real);
    return x->n ? memcmp(x->data, y->data, x->n) : 0;
}

static const char *check_value(vp_cursor *c, int depth);

static const char *check_scalar(const vp_token *t) {
    if (t->kind == VP_KIND_STR && vp_utf8_valid((const char *)t->data, t->n) != t->n)
        return "a string is not valid UTF-8";
    if (t->kind == VP_KIND_REAL && !isfinite(t->real)) return "a number is not finite";
    return NULL;
}

static const char *check_pairs(vp_cursor *c, vp_token *key, size_t n, int depth) {
    for (size_t i = 0; i < n; i++) {
        if (!vp_cursor_token(c, &key[i])) return "not a complete msgpack value";
        if (key[i].kind >= VP_KIND_ARRAY) return "a map key is not a scalar";
        const char *why = check_scalar(&key[i]);
        if (!why) why = check_value(c, depth);
        if (why) return why;
    }
    qsort(key, n, sizeof *key, compare_keys);
    for (size_t i = 1; i < n; i++)
        if (compare_keys(&key[i - 1], &key[i]) == 0) return "a key appears twice in one map";
    return NULL;
}

static const char *check_map(vp_cursor *c, size_t n, int depth) {
    if (n > VP_MAX_KEYS) return "a map has more than 4096 keys";
    vp_token few[16], *key = n <= 16 ? few : malloc(n * sizeof *key);
    if (!key) return "out of memory for the keys of a map";
    const char *why = check_pairs(c, key, n, depth);
    if (key != few) free(key);
    return why;
}

/* depth: containers around this value. */
static const char *check_value(vp_cursor *c, int depth) {
    vp_token t;
    if (!vp_cursor_token(c, &t)) return "not a complete msgpack value";
    if (t.kind < VP_KIND_ARRAY) return check_scalar(&t);
    if (depth >= VP_MAX_DEPTH) return "nested more than 8 deep";
    if (t.kind == VP_KIND_MAP) return check_map(c, t.n, depth + 1);
    const char *why = NULL;
    for (size_t i = 0; i < t.n && !why; i++) why = check_value(c, depth + 1);
    return why;
}

const char *vp_cursor_check(vp_cursor *c) {
    return check_value(c, 0);
}

bool vp_token_int(const vp_token *t, int64_t *value) {
    if (t->kind != VP_KIND_INT || (!t->negative && t->u > INT64_MAX)) return false;
    *value = (int64_t)t->u;
    return true;
}

bool vp_token_is(const vp_token *t, const char *s) {
    return t->kind == VP_KIND_STR && t->n == strlen(s) && memcmp(t->data, s, t->n) == 0;
}
