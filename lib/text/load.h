/* What the two loaders share, and the parts of tokenizer.json. Private to lib/text. */
#ifndef VP_TEXT_LOAD_H
#define VP_TEXT_LOAD_H
#include "lib/base/json.h"
#include "lib/file/source.h"
#include "lib/text/tokenizer.h"

/* A token's id: an integer in 0 .. VP_MAX_VOCAB - 1, else -1. */
int64_t vp_json_token_id(const json_t *v);
/* One more step of a list; VP_DATA when the list is full. */
int vp_norms_push(vp_norms *list, vp_normal_kind kind, vp_norm **step, vp_error *err);
int vp_cuts_push(vp_cuts *list, vp_cut_kind kind, vp_cut **step, vp_error *err);
/* A cut at the matches of a regular expression, or at the characters of a class. */
int vp_cuts_push_regex(vp_cuts *list, const char *regex, vp_split_behavior behavior, vp_error *err);
int vp_cuts_push_class(vp_cuts *list, vp_char_class is, vp_split_behavior behavior, vp_error *err);
int vp_norms_push_text(vp_norms *list, vp_normal_kind kind, const char *content, vp_error *err);
extern const char vp_gpt2_regex[];
/* BERT's normalisation (strip_accents includes the decomposition) and cuts. */
int vp_norms_push_bert(vp_norms *list, bool clean, bool chinese, bool accents, bool lower, vp_error *err);
int vp_cuts_push_bert(vp_cuts *list, vp_error *err);

/* Put a token of a vocabulary in its place; of a byte-level one as the bytes that its text stands for. */
int vp_tokenizer_set_token(vp_tokenizer *t, int64_t id, const char *s, size_t n, vp_error *err);
/* Fill words (and byte_id) of a BPE from the vocabulary. */
int vp_tokenizer_index_bpe(vp_tokenizer *t, vp_error *err);
/* The merge of two tokens, given by their texts as the file spells them. VP_DATA: one of the three is no token. */
int vp_tokenizer_add_merge(vp_tokenizer *t, uint32_t rank, const char *left, size_t nleft, const char *right,
                           size_t nright, vp_error *err);
int vp_template_put(vp_template *around, bool before, int64_t id, vp_error *err);
/* Fingerprint of the filled tables and of `settings`, a canonical spelling of everything else that decides. */
int vp_tokenizer_seal(vp_tokenizer *t, const char *settings, size_t n, vp_error *err);

/* ---- GGUF's byte-level tokenizers, for the loader and the exporter ---- */
enum { VP_TOKEN_NORMAL = 1, VP_TOKEN_UNKNOWN = 2, VP_TOKEN_CONTROL = 3, VP_TOKEN_USER_DEFINED = 4 };
enum { VP_GGUF_CUTS = 4 };
typedef struct vp_gguf_cuts { /* how text is cut before byte-pair encoding */
    const char *name;
    const char *regex[VP_GGUF_CUTS]; /* one after the other, each match isolated; NULL: no more */
    bool add_bos, ignore_merges;
} vp_gguf_cuts;
/* By tokenizer.ggml.pre; VP_DATA naming one that is not supported. */
int vp_gguf_cuts_find(const vp_gguf *g, const vp_gguf_cuts **out, vp_error *err);

/* ---- sections of tokenizer.json; the section may be null ---- */
int vp_load_normalizer(const vp_json *j, const json_t *o, vp_norms *out, vp_error *err);
/* Also sets *byte_level. */
int vp_load_pre_tokenizer(const vp_json *j, const json_t *o, vp_cuts *out, bool *byte_level, vp_norms *norms,
                          vp_error *err);
int vp_load_post_processor(const vp_json *j, const json_t *o, vp_template *out, vp_error *err);

#endif
