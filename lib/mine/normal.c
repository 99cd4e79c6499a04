/* Texts as they are compared: what differs only in case, in compatibility characters or in white space is the same. */
#include "lib/mine/mine.h"
#include <stdlib.h>
#include <utf8proc.h>

/* White space as single blanks, none at the ends; ASCII letters to lower case. */
static int squeeze(const char *s, size_t n, vp_buf *out, vp_error *err) {
    VP_TRY(vp_buf_reserve(out, out->len + n + 1, err));
    char *to = out->data + out->len;
    bool blank = false;
    for (size_t i = 0; i < n; i++) {
        const char c = s[i];
        if (c == ' ' || (c >= '\t' && c <= '\r')) {
            blank = true;
            continue;
        }
        if (blank && to > out->data + out->len) *to++ = ' ';
        blank = false;
        *to++ = c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
    }
    out->len = (size_t)(to - out->data);
    return VP_OK;
}

static bool is_ascii(const char *s, size_t n) {
    unsigned char all = 0;
    for (size_t i = 0; i < n; i++) all |= (unsigned char)s[i];
    return all < 0x80;
}

int vp_mine_normalise(const char *s, size_t n, vp_buf *out, vp_error *err) {
    if (is_ascii(s, n)) return squeeze(s, n, out, err);
    utf8proc_uint8_t *folded = NULL;
    const utf8proc_ssize_t len = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &folded,
                                              UTF8PROC_STABLE | UTF8PROC_COMPAT | UTF8PROC_COMPOSE | UTF8PROC_CASEFOLD);
    if (len == UTF8PROC_ERROR_NOMEM) return vp_fail_memory(err, "a text", n);
    if (len < 0) return vp_fail(err, VP_DATA, "a text is not UTF-8");
    const int status = squeeze((const char *)folded, (size_t)len, out, err);
    free(folded);
    return status;
}

int vp_mine_key(const char *s, size_t n, vp_buf *scratch, uint64_t *key, vp_error *err) {
    scratch->len = 0;
    VP_TRY(vp_mine_normalise(s, n, scratch, err));
    *key = vp_hash64(scratch->data, scratch->len);
    return VP_OK;
}
