/* Hash tables of a tokenizer. Sizes are powers of two, at most half full. */
#include "lib/text/vocab.h"
#include "lib/text/unicode.h"
#include <stdlib.h>
#include <string.h>

int vp_vocab_begin(vp_vocab *v, int64_t n, vp_error *err) {
    if (n < 1 || n > VP_MAX_VOCAB) return vp_fail(err, VP_DATA, "a vocabulary of %lld tokens", (long long)n);
    v->n = (int32_t)n;
    v->at = calloc((size_t)n, 4);
    v->len = calloc((size_t)n, 4);
    if (!v->at || !v->len) return vp_fail_memory(err, "a vocabulary", (size_t)n * 8);
    return vp_buf_add(&v->bytes, "", 1, err); /* so that no token is at 0 */
}

int vp_vocab_set(vp_vocab *v, int64_t id, const char *s, size_t n, vp_error *err) {
    if (id < 0 || id >= v->n)
        return vp_fail(err, VP_DATA, "token '%.*s': id %lld is outside the vocabulary", (int)(n < 60 ? n : 60), s,
                       (long long)id);
    if (v->at[id])
        return vp_fail(err, VP_DATA, "token '%.*s': id %lld is taken", (int)(n < 60 ? n : 60), s, (long long)id);
    if (v->bytes.len + n > UINT32_MAX) return vp_fail(err, VP_DATA, "a vocabulary of more than %u bytes", UINT32_MAX);
    v->at[id] = (uint32_t)v->bytes.len;
    v->len[id] = (uint32_t)n;
    VP_TRY(vp_buf_add(&v->bytes, s, n, err));
    return vp_buf_add(&v->bytes, "", 1, err); /* terminated, for messages */
}

const char *vp_vocab_text(const vp_vocab *v, int32_t id, size_t *n) {
    if (id < 0 || id >= v->n || !v->at[id]) return NULL;
    if (n) *n = v->len[id];
    return v->bytes.data + v->at[id];
}

void vp_vocab_free(vp_vocab *v) {
    vp_buf_free(&v->bytes);
    free(v->at);
    free(v->len);
    *v = (vp_vocab){0};
}

static size_t table_size(size_t count) {
    size_t size = 64;
    while (size < 2 * count) size *= 2;
    return size;
}

int vp_words_begin(vp_words *w, const vp_vocab *vocab, size_t count, size_t skip, vp_error *err) {
    size_t size = table_size(count);
    *w = (vp_words){.vocab = vocab, .slot = malloc(size * sizeof *w->slot), .mask = size - 1, .skip = skip};
    if (!w->slot) return vp_fail_memory(err, "a vocabulary", size * sizeof *w->slot);
    memset(w->slot, 0xFF, size * sizeof *w->slot);
    return VP_OK;
}

/* The slot of this text, or the empty one where it belongs. */
static size_t find_slot(const vp_words *w, const char *s, size_t n) {
    size_t at = (size_t)vp_hash64(s, n) & w->mask;
    for (; w->slot[at] >= 0; at = (at + 1) & w->mask) {
        size_t len = 0;
        const char *text = vp_vocab_text(w->vocab, w->slot[at], &len);
        if (len - w->skip == n && memcmp(text + w->skip, s, n) == 0) break;
    }
    return at;
}

int vp_words_add(vp_words *w, int32_t id, vp_error *err) {
    size_t n = 0;
    const char *text = vp_vocab_text(w->vocab, id, &n);
    size_t at = find_slot(w, text + w->skip, n - w->skip);
    if (w->slot[at] >= 0)
        return vp_fail(err, VP_DATA, "token '%s' has two ids, %d and %d", text, (int)w->slot[at], (int)id);
    w->slot[at] = id;
    if (n - w->skip > w->longest) w->longest = n - w->skip;
    return VP_OK;
}

int32_t vp_words_find(const vp_words *w, const char *s, size_t n) {
    if (!w->slot || n > w->longest) return -1;
    return w->slot[find_slot(w, s, n)];
}

void vp_words_free(vp_words *w) {
    free(w->slot);
    *w = (vp_words){0};
}

int vp_merges_begin(vp_merges *m, size_t count, vp_error *err) {
    size_t size = table_size(count);
    m->slot = malloc(size * sizeof *m->slot);
    if (!m->slot) return vp_fail_memory(err, "merges", size * sizeof *m->slot);
    memset(m->slot, 0xFF, size * sizeof *m->slot);
    m->mask = size - 1;
    return VP_OK;
}

static vp_merge *merge_slot(const vp_merges *m, uint64_t pair) {
    uint64_t h = pair * 0x9E3779B97F4A7C15u;
    size_t at = (size_t)(h >> 29) & m->mask;
    while (m->slot[at].pair != pair && m->slot[at].pair != VP_NO_PAIR) at = (at + 1) & m->mask;
    return &m->slot[at];
}

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

void vp_merges_add(vp_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    uint64_t pair = pair_of(left, right);
    *merge_slot(m, pair) = (vp_merge){pair, rank, id};
}

const vp_merge *vp_merges_find(const vp_merges *m, int32_t left, int32_t right) {
    const vp_merge *found = merge_slot(m, pair_of(left, right));
    return found->pair == VP_NO_PAIR ? NULL : found;
}

void vp_merges_free(vp_merges *m) {
    free(m->slot);
    *m = (vp_merges){0};
}

/* GPT-2's bytes_to_unicode: visible Latin-1 stands for itself, the other 68 bytes are U+0100 and up in order. */
static int byte_of(int32_t c) {
    if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF)) return c;
    if (c < 0x100 || c > 0x143) return -1;
    int nth = c - 0x100;
    if (nth <= 0x20) return nth;                   /* 0x00-0x20 */
    return nth == 0x43 ? 0xAD : 0x7F + nth - 0x21; /* 0x7F-0xA0, then 0xAD */
}

bool vp_bytes_decode(const char *s, size_t n, char *out, size_t *bytes) {
    size_t len, kept = 0;
    for (size_t at = 0; at < n; at += len) {
        int b = byte_of(vp_char_at(s + at, n - at, &len));
        if (b < 0) return false;
        out[kept++] = (char)b;
    }
    *bytes = kept;
    return true;
}
