/* Code points and the character classes that tokenizers name. Texts are valid UTF-8 here (vp_tokenizer_encode has
 * checked). Private to lib/text. */
#ifndef VP_TEXT_UNICODE_H
#define VP_TEXT_UNICODE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The code point at s[0..n), n > 0, and its length in bytes. */
int32_t vp_char_at(const char *s, size_t n, size_t *len);
/* The code point that ends at s + n, n > 0, and its length. */
int32_t vp_char_before(const char *s, size_t n, size_t *len);

typedef bool (*vp_char_class)(int32_t c);
bool vp_char_is_space(int32_t c);       /* Unicode White_Space */
bool vp_char_is_numeric(int32_t c);     /* Nd, Nl, No */
bool vp_char_is_punctuation(int32_t c); /* ASCII punctuation and symbols, and P* */
bool vp_char_is_control(int32_t c);     /* C* but tab and line ends: what BERT's clean_text removes */
bool vp_char_is_chinese(int32_t c);     /* BERT's CJK blocks */
bool vp_char_is_nonspacing(int32_t c);  /* Mn */
bool vp_char_is_mark(int32_t c);        /* M* */
bool vp_char_is_word(int32_t c);        /* \w: Alphabetic, M*, Nd, Pc, join controls */

#endif
