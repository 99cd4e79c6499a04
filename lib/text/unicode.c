/* Character classes over utf8proc's tables, with the few sets that it does not have spelled out. BERT's three classes
 * (control, nonspacing, punctuation) are those of Unicode 8, as in the tokenizers library. */
#include "lib/text/unicode.h"
#include <utf8proc.h>

int32_t vp_char_at(const char *s, size_t n, size_t *len) {
    if ((unsigned char)*s < 0x80) {
        *len = 1;
        return *s;
    }
    utf8proc_int32_t c;
    utf8proc_ssize_t got = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &c);
    *len = got > 0 ? (size_t)got : 1;
    return got > 0 ? c : 0xFFFD;
}

int32_t vp_char_before(const char *s, size_t n, size_t *len) {
    size_t at = n - 1;
    while (at > 0 && n - at < 4 && ((unsigned char)s[at] & 0xC0) == 0x80) at--;
    return vp_char_at(s + at, n - at, len);
}

static bool in_category(int32_t c, unsigned set) {
    return set >> utf8proc_category(c) & 1;
}
#define CATEGORY(name) (1u << UTF8PROC_CATEGORY_##name)

enum { WAS_CONTROL = 1, WAS_NONSPACING = 2, WAS_PUNCTUATION = 4 };
static const struct changed {
    int32_t first, last;
    uint8_t classes;
} changed_since_8[] = {
#include "lib/text/unicode8.def"
};

/* Whether c is of the categories of `set`, or was of class `was` if it has changed since Unicode 8. */
static bool in_class(int32_t c, unsigned set, uint8_t was) {
    size_t low = 0, high = sizeof changed_since_8 / sizeof *changed_since_8;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct changed *r = &changed_since_8[middle];
        if (c >= r->first && c <= r->last) return r->classes & was;
        if (c > r->last)
            low = middle + 1;
        else
            high = middle;
    }
    return in_category(c, set);
}

bool vp_char_is_space(int32_t c) {
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

bool vp_char_is_numeric(int32_t c) {
    if (c < 0x80) return c >= '0' && c <= '9';
    return in_category(c, CATEGORY(ND) | CATEGORY(NL) | CATEGORY(NO));
}

bool vp_char_is_punctuation(int32_t c) {
    if (c < 0x80) return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    return in_class(
        c, CATEGORY(PC) | CATEGORY(PD) | CATEGORY(PS) | CATEGORY(PE) | CATEGORY(PI) | CATEGORY(PF) | CATEGORY(PO),
        WAS_PUNCTUATION);
}

bool vp_char_is_control(int32_t c) {
    if (c < 0x80) return (c < 32 && c != '\t' && c != '\n' && c != '\r') || c == 127;
    return in_class(c, CATEGORY(CC) | CATEGORY(CF) | CATEGORY(CS) | CATEGORY(CO), WAS_CONTROL);
}

bool vp_char_is_chinese(int32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

bool vp_char_is_nonspacing(int32_t c) {
    return c >= 0x300 && in_class(c, CATEGORY(MN), WAS_NONSPACING);
}
bool vp_char_is_mark(int32_t c) {
    return c >= 0x300 && in_category(c, CATEGORY(MN) | CATEGORY(MC) | CATEGORY(ME));
}

bool vp_char_is_word(int32_t c) {
    if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
        (c >= 0x1F170 && c <= 0x1F189))
        return true; /* Other_Alphabetic symbols: circled, squared and negative letters */
    return c == 0x200C || c == 0x200D ||
           in_category(c, CATEGORY(LU) | CATEGORY(LL) | CATEGORY(LT) | CATEGORY(LM) | CATEGORY(LO) | CATEGORY(MN) |
                              CATEGORY(MC) | CATEGORY(ME) | CATEGORY(ND) | CATEGORY(NL) | CATEGORY(PC));
}
