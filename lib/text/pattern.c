/* Patterns: PCRE2 with its just-in-time compiler and limits on what a match may cost, memmem, and character classes. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "lib/text/pattern.h"
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define MAX_REGEX ((size_t)16384)

void vp_pattern_free(vp_pattern *p) {
    pcre2_code_free(p->regex);
    free(p->literal);
    *p = (vp_pattern){0};
}

int vp_pattern_literal(vp_pattern *p, const char *s, size_t n, vp_error *err) {
    if (n == 0) return vp_fail(err, VP_DATA, "an empty pattern");
    p->literal = vp_strndup(s, n);
    p->n = n;
    return p->literal ? VP_OK : vp_fail_memory(err, "a pattern", n);
}

/* Members of Oniguruma's \w: with the numbers of Latin-1. */
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\xB2\\xB3\\xB9\\xBC-\\xBE"

/* One escape of Oniguruma in PCRE2's words; NULL: the same in both. "": cannot be said. */
static const char *translate_escape(char letter, bool in_class) {
    switch (letter) {
    case 's':
        return "\\p{White_Space}"; /* PCRE2's \s also takes U+180E */
    case 'S':
        return "\\P{White_Space}";
    case 'w':
        return in_class ? WORD : "[" WORD "]";
    case 'W':
        return in_class ? "" : "[^" WORD "]";
    case 'h': /* a hexadecimal digit there, horizontal space here */
    case 'H':
    case 'R':
    case 'X':
    case 'y':
    case 'Y':
    case 'O':
    case 'N':
        return "";
    default:
        return NULL;
    }
}

/* Bytes of the escape at s: two, or a whole \p{...}. */
static size_t escape_length(const char *s, size_t n) {
    if (n < 3 || (s[1] != 'p' && s[1] != 'P') || s[2] != '{') return 2;
    const char *close = memchr(s, '}', n);
    return close ? (size_t)(close - s) + 1 : n;
}

static int translate(const char *s, size_t n, vp_buf *out, vp_error *err) {
    bool in_class = false;
    for (size_t i = 0, len; i < n; i += len) {
        bool escape = s[i] == '\\' && i + 1 < n;
        len = escape ? escape_length(s + i, n - i) : 1;
        const char *said = escape ? translate_escape(s[i + 1], in_class) : NULL;
        /* intersections of classes; {n,m}+ repeats there and is possessive here */
        bool differs = (said && !*said) || (in_class && s[i] == '&' && i + 1 < n && s[i + 1] == '&') ||
                       (!in_class && s[i] == '}' && i + 1 < n && s[i + 1] == '+');
        if (differs) return vp_fail(err, VP_DATA, "regular expression '%.*s': unsupported at byte %zu", (int)n, s, i);
        VP_TRY(said ? vp_buf_add(out, said, strlen(said), err) : vp_buf_add(out, s + i, len, err));
        if (!escape && s[i] == '[')
            in_class = true;
        else if (!escape && s[i] == ']')
            in_class = false;
    }
    return VP_OK;
}

int vp_pattern_regex(vp_pattern *p, const char *s, size_t n, vp_error *err) {
    if (n == 0) return vp_fail(err, VP_DATA, "an empty pattern");
    if (n > MAX_REGEX) return vp_fail(err, VP_DATA, "a regular expression longer than %zu bytes", MAX_REGEX);
    vp_buf text = {0};
    int status = translate(s, n, &text, err);
    if (!status) {
        int code;
        PCRE2_SIZE at;
        p->regex = pcre2_compile((PCRE2_SPTR)text.data, text.len,
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
        if (!p->regex) {
            PCRE2_UCHAR why[120];
            pcre2_get_error_message(code, why, sizeof why);
            status = vp_fail(err, VP_DATA, "regular expression '%.*s': %s", (int)n, s, (char *)why);
        } else {
            pcre2_jit_compile(p->regex, PCRE2_JIT_COMPLETE); /* where there is no JIT, matching interprets */
        }
    }
    vp_buf_free(&text);
    return status;
}

void vp_matcher_free(vp_matcher *m) {
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    *m = (vp_matcher){0};
}

static int prepare(vp_matcher *m, vp_error *err) {
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create((size_t)32 << 10, (size_t)1 << 20, NULL);
    if (!m->data || !m->context || !m->stack) {
        vp_matcher_free(m);
        return vp_fail_memory(err, "a regular expression's stack", (size_t)1 << 20);
    }
    pcre2_set_match_limit(m->context, 20000000);
    pcre2_set_depth_limit(m->context, 1000000);
    pcre2_set_heap_limit(m->context, 64 << 10); /* KiB */
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return VP_OK;
}

static int next_regex(const vp_pattern *p, vp_matcher *m, const char *s, size_t n, size_t from, size_t *start,
                      size_t *end, vp_error *err) {
    if (!m->data) VP_TRY(prepare(m, err));
    int got = pcre2_match(p->regex, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (got == PCRE2_ERROR_JIT_STACKLIMIT)
        got = pcre2_match(p->regex, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data, m->context);
    if (got == PCRE2_ERROR_NOMATCH) {
        *start = n + 1;
        return VP_OK;
    }
    if (got < 0) {
        PCRE2_UCHAR why[120];
        pcre2_get_error_message(got, why, sizeof why);
        return vp_fail(err, VP_DATA, "the tokenizer's regular expression on a text of %zu bytes: %s", n, (char *)why);
    }
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(m->data);
    *start = at[0];
    *end = at[1];
    if (*end < *start) return vp_fail(err, VP_DATA, "the tokenizer's regular expression matches backwards");
    return VP_OK;
}

int vp_pattern_next(const vp_pattern *p, vp_matcher *m, const char *s, size_t n, size_t from, size_t *start,
                    size_t *end, vp_error *err) {
    if (p->regex) return next_regex(p, m, s, n, from, start, end, err);
    *start = n + 1;
    if (p->literal) {
        const char *at = memmem(s + from, n - from, p->literal, p->n);
        if (at) {
            *start = (size_t)(at - s);
            *end = *start + p->n;
        }
        return VP_OK;
    }
    for (size_t len; from < n; from += len) {
        if (!p->is(vp_char_at(s + from, n - from, &len))) continue;
        *start = from;
        *end = from + len;
        break;
    }
    return VP_OK;
}
