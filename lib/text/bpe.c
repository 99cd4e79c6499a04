/* Byte-pair encoding of one piece: symbols in a linked list, candidate merges in a heap by (rank, position), so that a
 * piece of n bytes costs O(n log n) whatever it holds. */
#include "lib/text/tokenizer.h"
#include <string.h>

enum { MERGED = -2 };

static int add_symbol(vp_bpe *work, int32_t id, size_t start, size_t end, vp_error *err) {
    int32_t i = (int32_t)(work->symbols.len / sizeof(vp_bpe_symbol));
    vp_bpe_symbol s = {id, i - 1, i + 1, (uint32_t)start, (uint32_t)end};
    return vp_buf_add(&work->symbols, &s, sizeof s, err);
}

static int byte_symbols(const vp_tokenizer *t, vp_bpe *work, const char *s, size_t start, size_t end, vp_error *err) {
    for (size_t i = start; i < end; i++) VP_TRY(add_symbol(work, t->byte_id[(unsigned char)s[i]], i, i + 1, err));
    return VP_OK;
}

static bool has_bytes(const vp_tokenizer *t, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (t->byte_id[(unsigned char)s[i]] < 0) return false;
    return true;
}

/* A character without a token: the unknown token, one with those before it when they are fused, or nothing. */
static int unknown_symbol(const vp_tokenizer *t, vp_bpe *work, size_t start, size_t end, bool *in_unknown,
                          vp_error *err) {
    if (t->unk < 0) return VP_OK;
    if (*in_unknown && t->fuse_unk) {
        vp_bpe_symbol *last = (vp_bpe_symbol *)(void *)(work->symbols.data + work->symbols.len) - 1;
        last->end = (uint32_t)end;
        return VP_OK;
    }
    *in_unknown = true;
    return add_symbol(work, t->unk, start, end, err);
}

static int split_symbols(const vp_tokenizer *t, vp_bpe *work, const char *s, size_t n, vp_error *err) {
    bool in_unknown = false;
    work->symbols.len = work->heap.len = 0;
    for (size_t at = 0, len = 1; at < n; at += len) {
        int32_t id;
        if (t->byte_level) {
            id = t->byte_id[(unsigned char)s[at]];
        } else {
            vp_char_at(s + at, n - at, &len);
            id = vp_words_find(&t->words, s + at, len);
        }
        if (id >= 0) {
            VP_TRY(add_symbol(work, id, at, at + len, err));
        } else if (t->byte_fallback && has_bytes(t, s + at, len)) {
            VP_TRY(byte_symbols(t, work, s, at, at + len, err));
        } else {
            VP_TRY(unknown_symbol(t, work, at, at + len, &in_unknown, err));
            continue;
        }
        in_unknown = false;
    }
    if (work->symbols.len) ((vp_bpe_symbol *)(void *)(work->symbols.data + work->symbols.len) - 1)->next = -1;
    return VP_OK;
}

static bool before(const vp_bpe_candidate *a, const vp_bpe_candidate *b) {
    return a->rank < b->rank || (a->rank == b->rank && a->at < b->at);
}

/* The pair (left, its right neighbour) as a candidate, if it can merge. */
static int push(const vp_tokenizer *t, vp_bpe *work, int32_t left, vp_error *err) {
    const vp_bpe_symbol *s = (const vp_bpe_symbol *)(const void *)work->symbols.data;
    if (left < 0 || s[left].next < 0) return VP_OK;
    const vp_merge *m = vp_merges_find(&t->merges, s[left].id, s[s[left].next].id);
    if (!m) return VP_OK;
    vp_bpe_candidate c = {m->rank, (uint32_t)left, m->id};
    VP_TRY(vp_buf_add(&work->heap, &c, sizeof c, err));
    vp_bpe_candidate *heap = (vp_bpe_candidate *)(void *)work->heap.data;
    size_t i = work->heap.len / sizeof c - 1;
    for (; i > 0 && before(&c, &heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = c;
    return VP_OK;
}

static vp_bpe_candidate pop(vp_bpe *work) {
    vp_bpe_candidate *heap = (vp_bpe_candidate *)(void *)work->heap.data;
    vp_bpe_candidate top = heap[0];
    work->heap.len -= sizeof top;
    size_t n = work->heap.len / sizeof top, i = 0;
    vp_bpe_candidate last = heap[n];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&heap[child + 1], &heap[child])) child++;
        if (!before(&heap[child], &last)) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static int merge_all(const vp_tokenizer *t, vp_bpe *work, vp_error *err) {
    int32_t n = (int32_t)(work->symbols.len / sizeof(vp_bpe_symbol));
    for (int32_t i = 0; i + 1 < n; i++) VP_TRY(push(t, work, i, err));
    vp_bpe_symbol *s = (vp_bpe_symbol *)(void *)work->symbols.data;
    while (work->heap.len) {
        vp_bpe_candidate c = pop(work);
        vp_bpe_symbol *left = &s[c.at];
        if (left->id == MERGED || left->next < 0) continue;
        vp_bpe_symbol *right = &s[left->next];
        const vp_merge *m = vp_merges_find(&t->merges, left->id, right->id);
        if (!m || m->id != c.id || m->rank != c.rank) continue; /* one of the two has merged since */
        left->id = m->id;
        left->end = right->end;
        left->next = right->next;
        right->id = MERGED;
        if (left->next >= 0) s[left->next].prev = (int32_t)c.at;
        VP_TRY(push(t, work, left->prev, err));
        VP_TRY(push(t, work, (int32_t)c.at, err));
    }
    return VP_OK;
}

int vp_bpe_word(const vp_tokenizer *t, vp_bpe *work, const char *s, size_t n, vp_tokens *out, vp_error *err) {
    if (t->ignore_merges) {
        int32_t whole = vp_words_find(&t->words, s, n);
        if (whole >= 0) return vp_tokens_add(out, whole, 0, n, err);
    }
    VP_TRY(split_symbols(t, work, s, n, err));
    VP_TRY(merge_all(t, work, err));
    const vp_bpe_symbol *symbol = (const vp_bpe_symbol *)(const void *)work->symbols.data;
    size_t count = work->symbols.len / sizeof *symbol;
    for (size_t i = 0; i < count; i++)
        if (symbol[i].id != MERGED) VP_TRY(vp_tokens_add(out, symbol[i].id, symbol[i].start, symbol[i].end, err));
    return VP_OK;
}
