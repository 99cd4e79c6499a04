/* A text cut at words until it has few enough tokens, as LLM2Vec's doc_max_length does it. Private to lib/text. */
#ifndef VP_TEXT_SHORTEN_H
#define VP_TEXT_SHORTEN_H
#include "lib/text/text.h"

typedef struct vp_shortener { /* {0} is empty; reused from text to text */
    vp_buf words;
    vp_tokens tokens;
} vp_shortener;
/* While *text, tokenised without specials, has more than `limit` tokens, of which only the first `most` are counted
 * (0: all), its first floor(words * limit / tokens) words remain, joined by one space; words are what white space
 * separates. *cut: whether that happened; *text then points into `s` and lives until the next call. */
int vp_text_shorten(vp_shortener *s, const vp_tokenizer *t, int64_t limit, int64_t most, const char **text, size_t *n,
                    bool *cut, vp_error *err);
void vp_shortener_free(vp_shortener *s);
/* Bytes of its first `characters`; 0: of all. */
size_t vp_text_first(const char *text, size_t n, int64_t characters);
/* Bytes of the text without the white space at its end, and bytes of that at its beginning. */
size_t vp_text_stripped(const char *text, size_t n);
size_t vp_text_indent(const char *text, size_t n);

#endif
