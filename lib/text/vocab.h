/* The tables of a tokenizer: token texts by id, ids by text, merges by pair of ids. Private to lib/text. */
#ifndef VP_TEXT_VOCAB_H
#define VP_TEXT_VOCAB_H
#include "lib/base/base.h"

enum { VP_MAX_VOCAB = 1 << 24 };

/* Texts of the ids 0..n-1; an id without a token has no text. */
typedef struct vp_vocab {
    vp_buf bytes;
    uint32_t *at, *len; /* in bytes; at 0: no token */
    int32_t n;
} vp_vocab;
int vp_vocab_begin(vp_vocab *v, int64_t n, vp_error *err);
/* VP_DATA: the id is outside the vocabulary, or taken. */
int vp_vocab_set(vp_vocab *v, int64_t id, const char *s, size_t n, vp_error *err);
const char *vp_vocab_text(const vp_vocab *v, int32_t id, size_t *n); /* NULL: no token */
void vp_vocab_free(vp_vocab *v);

/* Open addressing from the text of a token, less its first `skip` bytes, to its id. */
typedef struct vp_words {
    const vp_vocab *vocab;
    int32_t *slot; /* id or -1 */
    size_t mask, skip, longest;
} vp_words;
int vp_words_begin(vp_words *w, const vp_vocab *vocab, size_t count, size_t skip, vp_error *err);
/* VP_DATA: another token has the same text. At most `count` additions. */
int vp_words_add(vp_words *w, int32_t id, vp_error *err);
int32_t vp_words_find(const vp_words *w, const char *s, size_t n); /* -1: none */
void vp_words_free(vp_words *w);

typedef struct vp_merge {
    uint64_t pair; /* left << 32 | right; VP_NO_PAIR: an empty slot */
    uint32_t rank;
    int32_t id; /* of the token that the two become */
} vp_merge;
#define VP_NO_PAIR UINT64_MAX
typedef struct vp_merges {
    vp_merge *slot;
    size_t mask;
} vp_merges;
int vp_merges_begin(vp_merges *m, size_t count, vp_error *err);
void vp_merges_add(vp_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t id); /* the last of equals stays */
const vp_merge *vp_merges_find(const vp_merges *m, int32_t left, int32_t right);          /* NULL: none */
void vp_merges_free(vp_merges *m);

/* GPT-2's alphabet of one visible character a byte: the text of a byte-level token as bytes. False: not of that
 * alphabet. `out` needs n bytes. */
bool vp_bytes_decode(const char *s, size_t n, char *out, size_t *bytes);

#endif
