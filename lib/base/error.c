/* Statuses, errors, the growable buffer and aligned allocation. */
#include "lib/base/base.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail_v(vp_error *err, int code, const char *suffix, const char *format, va_list args) {
    if (err->code) return err->code;
    err->code = code;
    int n = vsnprintf(err->text, sizeof err->text, format, args);
    if (suffix && n >= 0 && (size_t)n < sizeof err->text)
        snprintf(err->text + n, sizeof err->text - (size_t)n, ": %s", suffix);
    return code;
}

int vp_fail(vp_error *err, int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    code = fail_v(err, code, NULL, format, args);
    va_end(args);
    return code;
}

int vp_fail_errno(vp_error *err, const char *format, ...) {
    const char *why = strerror(errno);
    if (!err->code) err->broken_pipe = errno == EPIPE;
    va_list args;
    va_start(args, format);
    int code = fail_v(err, VP_IO, why, format, args);
    va_end(args);
    return code;
}

int vp_fail_memory(vp_error *err, const char *what, size_t bytes) {
    return vp_fail(err, VP_MEMORY, "out of memory: %s needs %zu bytes", what, bytes);
}

void *vp_calloc(size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + 63) & ~(size_t)63;
    void *p = aligned_alloc(64, bytes ? bytes : 64);
    if (p) memset(p, 0, bytes ? bytes : 64);
    return p;
}

char *vp_strndup(const char *s, size_t n) {
    char *copy = malloc(n + 1);
    if (!copy) return NULL;
    memcpy(copy, s, n);
    copy[n] = '\0';
    return copy;
}

int vp_grow(void *items, size_t *cap, size_t n, size_t size, const char *what, vp_error *err) {
    if (n < *cap) return VP_OK;
    const size_t grown = *cap ? 2 * *cap : 16;
    void *list;
    memcpy(&list, items, sizeof list); /* a T * as a void *, without aliasing the two */
    list = grown > SIZE_MAX / 2 / size ? NULL : realloc(list, grown * size);
    if (!list) return vp_fail_memory(err, what, grown * size);
    memcpy(items, &list, sizeof list);
    *cap = grown;
    return VP_OK;
}

int vp_buf_reserve(vp_buf *b, size_t cap, vp_error *err) {
    if (cap <= b->cap) return VP_OK;
    size_t grown = b->cap + b->cap / 2;
    if (grown < cap) grown = cap;
    if (grown < 64) grown = 64;
    if (grown > SIZE_MAX / 2) return vp_fail_memory(err, "a buffer", cap);
    grown = (grown + 63) & ~(size_t)63;
    char *data = aligned_alloc(64, grown);
    if (!data) return vp_fail_memory(err, "a buffer", grown);
    if (b->len) memcpy(data, b->data, b->len);
    free(b->data);
    b->data = data;
    b->cap = grown;
    return VP_OK;
}

int vp_buf_add(vp_buf *b, const void *data, size_t n, vp_error *err) {
    if (n > SIZE_MAX / 2 - b->len) return vp_fail_memory(err, "a buffer", n);
    VP_TRY(vp_buf_reserve(b, b->len + n, err));
    if (n) memcpy(b->data + b->len, data, n);
    b->len += n;
    return VP_OK;
}

int vp_buf_printf(vp_buf *b, vp_error *err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0) return vp_fail(err, VP_BUG, "cannot format '%s'", format);
    VP_TRY(vp_buf_reserve(b, b->len + (size_t)n + 1, err));
    va_start(args, format);
    vsnprintf(b->data + b->len, (size_t)n + 1, format, args);
    va_end(args);
    b->len += (size_t)n;
    return VP_OK;
}

void vp_buf_free(vp_buf *b) {
    free(b->data);
    *b = (vp_buf){0};
}
