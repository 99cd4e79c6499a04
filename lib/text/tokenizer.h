/* A tokenizer in memory: the fixed pipeline added tokens -> normalisation -> cuts -> model -> template, which the two
 * loaders (load_json.c, load_gguf.c) fill. Private to lib/text. */
#ifndef VP_TEXT_TOKENIZER_H
#define VP_TEXT_TOKENIZER_H
#include "lib/text/aligned.h"
#include "lib/text/text.h"
#include "lib/text/vocab.h"
#include <pthread.h>

typedef enum vp_token_model { VP_TOKENS_BPE, VP_TOKENS_WORDPIECE } vp_token_model;

/* A token that is recognised in the text before the model sees it. */
typedef struct vp_added_token {
    int32_t id;
    bool single_word, lstrip, rstrip, special;
} vp_added_token;

/* Added tokens that are looked for in the same text (the given one, or the normalised one). */
typedef struct vp_added {
    vp_vocab texts; /* by index into token */
    vp_added_token *token;
    int32_t n;
    vp_words words;
    bool first[256];  /* bytes that a token begins with */
    uint32_t *length; /* the distinct lengths, longest first */
    size_t nlengths;
} vp_added;

enum { VP_MAX_TEMPLATE = 16 };
typedef struct vp_template {
    int32_t before[VP_MAX_TEMPLATE], after[VP_MAX_TEMPLATE];
    int nbefore, nafter;
} vp_template;

typedef struct vp_scratch vp_scratch;
struct vp_tokenizer {
    vp_added raw, normalized; /* looked for in the given text, in the normalised text */
    vp_norms norms;
    vp_cuts cuts;
    vp_token_model model;
    bool byte_level; /* the model's alphabet is bytes: token texts are kept as the bytes they stand for */
    vp_vocab vocab;
    vp_words words;      /* BPE: every token; WordPiece: those that begin a word */
    vp_words continuing; /* WordPiece: those that go on with one, by the text after the prefix */
    vp_merges merges;
    int32_t byte_id[256]; /* byte-level: token of each byte; byte fallback: <0xNN>; -1: none */
    bool byte_fallback, ignore_merges, fuse_unk;
    int32_t unk;     /* -1: none */
    size_t max_word; /* WordPiece: longer words, in characters, are unknown */
    vp_template around;
    int32_t bos, eos, mask; /* -1: none */
    char fingerprint[33];
    pthread_mutex_t lock; /* of idle */
    vp_scratch *idle;     /* scratch that no thread uses at the moment */
};

int vp_tokens_add(vp_tokens *t, int32_t id, size_t start, size_t end, vp_error *err);

typedef struct vp_bpe_symbol {
    int32_t id, prev, next; /* neighbours, -1 at the ends */
    uint32_t start, end;    /* id -2: merged into the one before */
} vp_bpe_symbol;
typedef struct vp_bpe_candidate {
    uint32_t rank, at; /* the left symbol */
    int32_t id;
} vp_bpe_candidate;
/* What merging one piece needs. */
typedef struct vp_bpe {
    vp_buf symbols, heap; /* of vp_bpe_symbol, vp_bpe_candidate */
} vp_bpe;
/* Append the tokens of one piece s[0..n), with spans within it. */
int vp_bpe_word(const vp_tokenizer *t, vp_bpe *work, const char *s, size_t n, vp_tokens *out, vp_error *err);
int vp_wordpiece_word(const vp_tokenizer *t, const char *s, size_t n, vp_tokens *out, vp_error *err);

/* ---- added tokens ---- */
int vp_added_begin(vp_added *a, size_t count, vp_error *err);
int vp_added_add(vp_added *a, const vp_added_token *token, const char *s, size_t n, vp_error *err);
/* After the last one. */
int vp_added_finish(vp_added *a, vp_error *err);
/* The first token in s[0..n) at or after `from`: its span with the white space that it takes, or *id = -1. */
void vp_added_next(const vp_added *a, const char *s, size_t n, size_t from, size_t *start, size_t *end, int32_t *id);
void vp_added_free(vp_added *a);

/* ---- loading ---- */
bool vp_tokenizer_is_gguf(const char *path); /* by its name */
int vp_tokenizer_load_json(vp_tokenizer *t, const char *folder, const char *name, vp_error *err);
int vp_tokenizer_load_gguf(vp_tokenizer *t, const char *path, vp_error *err);

#endif
