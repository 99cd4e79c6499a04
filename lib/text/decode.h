/* Tokens back to text, one at a time, and which tokens end a text. */
#ifndef VP_TEXT_DECODE_H
#define VP_TEXT_DECODE_H
#include "lib/text/text.h"

/* {.tokenizer = t}: nothing pending. A token need not end where a character does: the bytes of an unfinished one wait
 * for the next token. */
typedef struct vp_detokenizer {
    const vp_tokenizer *tokenizer; /* borrowed */
    char pending[4];
    size_t npending;
} vp_detokenizer;
/* Append the text that token `id` makes certain; special tokens have none, nor have ids that the tokenizer leaves out
 * (models often have more rows than tokens). What cannot be UTF-8 becomes U+FFFD. VP_DATA: the tokenizer has no way
 * back (WordPiece), or the id is negative. */
int vp_detokenize(vp_detokenizer *d, int32_t id, vp_buf *text, vp_error *err);
/* The end of the tokens: an unfinished character becomes U+FFFD. */
int vp_detokenize_end(vp_detokenizer *d, vp_buf *text, vp_error *err);

enum { VP_MAX_ENDS = 16 };
/* The tokens that end a text: of generation_config.json, else config.json, in a model folder; of a .gguf file its EOS
 * and EOT; else the tokenizer's EOS. `path` as for vp_tokenizer_open. */
int vp_tokenizer_ends(const vp_tokenizer *t, const char *path, int32_t ends[VP_MAX_ENDS], size_t *n, vp_error *err);

#endif
