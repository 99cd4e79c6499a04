/* Queries of people as FTS5 expressions. */
#include "lib/index/rank.h"
#include <utf8proc.h>

enum { MAX_WORDS = 256 }; /* a longer query is a document: its first words decide */

/* What FTS5's unicode61 takes for part of a word: letters, numbers, private use; marks belong to their letter. */
static bool is_word(utf8proc_int32_t code) {
    utf8proc_category_t c = utf8proc_category(code);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NO) || c == UTF8PROC_CATEGORY_CO;
}

int vp_bm25_expression(const char *text, size_t n, vp_buf *out, vp_error *err) {
    vp_idset seen = {0};
    size_t at = 0, start = 0;
    int status = VP_OK;
    out->len = 0;
    while (!status && start < n && seen.n < MAX_WORDS) {
        utf8proc_int32_t code = -1;
        utf8proc_ssize_t len = 1;
        if (at < n) {
            len = utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(n - at), &code);
            if (len <= 0) len = 1;
            if (code >= 0 && is_word(code)) {
                at += (size_t)len;
                continue;
            }
        }
        if (at > start) {
            int64_t earlier;
            status = vp_idset_add(&seen, text + start, at - start, 0, &earlier, err);
            if (!status && earlier < 0)
                status = vp_buf_printf(out, err, "%s\"%.*s\"", out->len ? " OR " : "", (int)(at - start), text + start);
        }
        at += (size_t)len;
        start = at;
    }
    vp_idset_free(&seen);
    return status;
}
