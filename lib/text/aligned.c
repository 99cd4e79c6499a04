/* Storage of aligned texts and pieces. */
#include "lib/text/aligned.h"
#include <stdlib.h>
#include <string.h>

void vp_aligned_free(vp_aligned *t) {
    free(t->own_s);
    free(t->own_from);
    free(t->own_to);
    *t = (vp_aligned){0};
}

void vp_aligned_borrow(vp_aligned *t, const char *s, size_t n, uint32_t base) {
    t->s = s;
    t->from = t->to = NULL;
    t->n = n;
    t->base = base;
}

void vp_aligned_view(vp_aligned *t, const vp_aligned *of, size_t start, size_t end) {
    vp_aligned_borrow(t, of->s + start, end - start, of->base + (uint32_t)start);
    if (!of->from) return;
    t->from = of->from + start;
    t->to = of->to + start;
}

int vp_aligned_reserve(vp_aligned *t, size_t n, vp_error *err) {
    if (n > UINT32_MAX / 2)
        return vp_fail(err, VP_DATA, "a text of more than %u bytes after normalisation", UINT32_MAX / 2);
    if (n > t->cap) {
        size_t cap = t->cap + t->cap / 2;
        if (cap < n) cap = n + 64;
        char *own_s = realloc(t->own_s, cap);
        if (own_s) t->own_s = own_s;
        uint32_t *own_from = realloc(t->own_from, cap * sizeof *own_from);
        if (own_from) t->own_from = own_from;
        uint32_t *own_to = realloc(t->own_to, cap * sizeof *own_to);
        if (own_to) t->own_to = own_to;
        if (!own_s || !own_from || !own_to) return vp_fail_memory(err, "a text", cap * 9);
        t->cap = cap;
    }
    t->s = t->own_s;
    t->from = t->own_from;
    t->to = t->own_to;
    return VP_OK;
}

int vp_aligned_put(vp_aligned *t, const char *s, size_t n, uint32_t from, uint32_t to, vp_error *err) {
    if (t->n + n > t->cap || !t->from) VP_TRY(vp_aligned_reserve(t, t->n + n, err));
    for (size_t i = 0; i < n; i++) {
        t->own_s[t->n] = s[i];
        t->own_from[t->n] = from;
        t->own_to[t->n++] = to;
    }
    return VP_OK;
}

int vp_aligned_copy(vp_aligned *t, const vp_aligned *in, size_t start, size_t end, vp_error *err) {
    size_t n = end - start;
    VP_TRY(vp_aligned_reserve(t, t->n + n, err));
    if (n == 0) return VP_OK;
    memcpy(t->own_s + t->n, in->s + start, n);
    memcpy(t->own_from + t->n, in->from + start, n * 4);
    memcpy(t->own_to + t->n, in->to + start, n * 4);
    t->n += n;
    return VP_OK;
}

void vp_aligned_span(const vp_aligned *t, size_t a, size_t b, uint32_t *from, uint32_t *to) {
    if (t->from) {
        *from = t->from[a];
        *to = t->to[b - 1];
        return;
    }
    while (a > 0 && ((unsigned char)t->s[a] & 0xC0) == 0x80) a--;
    while (b < t->n && ((unsigned char)t->s[b] & 0xC0) == 0x80) b++;
    *from = t->base + (uint32_t)a;
    *to = t->base + (uint32_t)b;
}

static void free_pieces(vp_pieces *p) {
    free(p->at);
    *p = (vp_pieces){0};
}

int vp_pieces_add(vp_pieces *p, size_t start, size_t end, vp_error *err) {
    if (start >= end) return VP_OK;
    VP_TRY(vp_grow(&p->at, &p->cap, p->n, sizeof *p->at, "pieces of a text", err));
    p->at[p->n++] = (vp_piece){(uint32_t)start, (uint32_t)end};
    return VP_OK;
}

void vp_workspace_free(vp_workspace *w) {
    vp_aligned_free(&w->text);
    vp_aligned_free(&w->spare);
    free_pieces(&w->pieces);
    free_pieces(&w->other);
    vp_matcher_free(&w->matcher);
    vp_buf_free(&w->chars);
}

void vp_workspace_swap(vp_workspace *w) {
    vp_aligned t = w->text;
    w->text = w->spare;
    w->spare = t;
    vp_aligned_borrow(&w->spare, "", 0, 0);
}

int vp_workspace_own(vp_workspace *w, vp_error *err) {
    const vp_aligned *in = &w->text;
    if (in->from) return VP_OK;
    VP_TRY(vp_aligned_reserve(&w->spare, in->n + 1, err));
    for (size_t at = 0, len; at < in->n; at += len) {
        vp_char_at(in->s + at, in->n - at, &len);
        uint32_t from = in->base + (uint32_t)at;
        VP_TRY(vp_aligned_put(&w->spare, in->s + at, len, from, from + (uint32_t)len, err));
    }
    vp_workspace_swap(w);
    return VP_OK;
}
