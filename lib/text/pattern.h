/* What a text is split at or replaced by: a regular expression, a literal string, or a class of characters.
 * Private to lib/text. */
#ifndef VP_TEXT_PATTERN_H
#define VP_TEXT_PATTERN_H
#include "lib/base/base.h"
#include "lib/text/unicode.h"

typedef struct vp_pattern {
    void *regex; /* pcre2_code; or */
    char *literal;
    size_t n;
    vp_char_class is; /* or */
} vp_pattern;
/* Oniguruma's syntax, as tokenizer.json uses it, on PCRE2; what the two read differently is translated, or VP_DATA. */
int vp_pattern_regex(vp_pattern *p, const char *s, size_t n, vp_error *err);
int vp_pattern_literal(vp_pattern *p, const char *s, size_t n, vp_error *err);
void vp_pattern_free(vp_pattern *p);

/* What matching needs, one a thread. {0} is ready; nothing is allocated before the first regular expression. */
typedef struct vp_matcher {
    void *data, *context, *stack;
} vp_matcher;
void vp_matcher_free(vp_matcher *m);

/* The first match in s[0..n) that starts at or after `from`; *start = n + 1 when there is none. Matches may be empty.
 */
int vp_pattern_next(const vp_pattern *p, vp_matcher *m, const char *s, size_t n, size_t from, size_t *start,
                    size_t *end, vp_error *err);

#endif
