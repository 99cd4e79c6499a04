/* Normalisation steps, each one pass from w->text to w->spare. Alignment follows the tokenizers library: a character
 * that replaces another has its span, one that is inserted has its predecessor's, a composed one its first character's.
 */
#include "lib/text/aligned.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void vp_norms_free(vp_norms *list) {
    for (int i = 0; i < list->n; i++) {
        vp_pattern_free(&list->step[i].pattern);
        free(list->step[i].content);
    }
    list->n = 0;
}

static int put_char(vp_aligned *out, int32_t c, uint32_t from, uint32_t to, vp_error *err) {
    utf8proc_uint8_t s[4];
    utf8proc_ssize_t n = utf8proc_encode_char(c, s);
    return vp_aligned_put(out, (const char *)s, (size_t)n, from, to, err);
}

static int one_char(const vp_norm *step, const vp_aligned *in, size_t at, int32_t c, size_t len, vp_aligned *out,
                    vp_error *err) {
    uint32_t from = in->from[at], to = in->to[at];
    switch (step->kind) {
    case VP_NORM_CLEAN:
        if (c == 0xFFFD || vp_char_is_control(c)) return VP_OK;
        return vp_char_is_space(c) ? vp_aligned_put(out, " ", 1, from, to, err)
                                   : vp_aligned_put(out, in->s + at, len, from, to, err);
    case VP_NORM_CHINESE:
        if (!vp_char_is_chinese(c)) return vp_aligned_put(out, in->s + at, len, from, to, err);
        VP_TRY(vp_aligned_put(out, " ", 1, from, to, err));
        VP_TRY(vp_aligned_put(out, in->s + at, len, from, to, err));
        return vp_aligned_put(out, " ", 1, from, to, err);
    case VP_NORM_NO_NONSPACING:
        return vp_char_is_nonspacing(c) ? VP_OK : vp_aligned_put(out, in->s + at, len, from, to, err);
    case VP_NORM_NO_MARKS:
        return vp_char_is_mark(c) ? VP_OK : vp_aligned_put(out, in->s + at, len, from, to, err);
    default: /* VP_NORM_LOWER; U+0130 is the one character whose lower case is two */
        VP_TRY(put_char(out, c == 0x130 ? 'i' : utf8proc_tolower(c), from, to, err));
        return c == 0x130 ? put_char(out, 0x307, from, to, err) : VP_OK;
    }
}

static int each_char(const vp_norm *step, const vp_aligned *in, vp_aligned *out, vp_error *err) {
    bool lower = step->kind == VP_NORM_LOWER, clean = step->kind == VP_NORM_CLEAN;
    VP_TRY(vp_aligned_reserve(out, in->n + 16, err));
    for (size_t at = 0, len; at < in->n; at += len) {
        unsigned char b = (unsigned char)in->s[at];
        len = 1;
        if (b < 0x80 && !(clean && (b < 32 || b == 127))) {
            char kept = (char)(lower && b >= 'A' && b <= 'Z' ? b + 32 : b);
            VP_TRY(vp_aligned_put(out, &kept, 1, in->from[at], in->to[at], err));
            continue;
        }
        int32_t c = vp_char_at(in->s + at, in->n - at, &len);
        VP_TRY(one_char(step, in, at, c, len, out, err));
    }
    return VP_OK;
}

/* ---- Unicode normalisation forms ---- */
typedef struct form_char {
    int32_t c, combining; /* canonical combining class */
    uint32_t from, to, order;
} form_char;

static int add_decomposed(vp_buf *list, int32_t c, bool compatibility, uint32_t from, uint32_t to, vp_error *err) {
    utf8proc_int32_t part[32];
    int boundary = 0;
    utf8proc_option_t how = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    if (compatibility) how |= UTF8PROC_COMPAT;
    utf8proc_ssize_t n = utf8proc_decompose_char(c, part, 32, how, &boundary);
    if (n < 0 || n > 32) return vp_fail(err, VP_DATA, "U+%04X cannot be decomposed", (unsigned)c);
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        form_char f = {part[i], utf8proc_get_property(part[i])->combining_class, from, to, (uint32_t)list->len};
        VP_TRY(vp_buf_add(list, &f, sizeof f, err));
    }
    return VP_OK;
}

static int by_class(const void *a, const void *b) {
    const form_char *x = a, *y = b;
    return x->combining != y->combining ? x->combining - y->combining : (x->order > y->order) - (x->order < y->order);
}

/* Canonical ordering: every run of marks by combining class, equal ones in the order they came. */
static void order_marks(form_char *f, size_t n) {
    for (size_t i = 0, end; i < n; i = end + 1) {
        bool sorted = true;
        for (end = i; end < n && f[end].combining; end++)
            if (end > i && f[end].combining < f[end - 1].combining) sorted = false;
        if (!sorted) qsort(f + i, end - i, sizeof *f, by_class);
    }
}

/* The primary composite of a pair, or 0. */
static int32_t compose_pair(int32_t a, int32_t b) {
    utf8proc_int32_t pair[2] = {a, b};
    return utf8proc_normalize_utf32(pair, 2, UTF8PROC_STABLE | UTF8PROC_COMPOSE) == 1 ? pair[0] : 0;
}

/* Canonical composition in place; returns the new length. */
static size_t compose(form_char *f, size_t n) {
    size_t kept = 0, starter = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        bool blocked = starter == SIZE_MAX || (kept - 1 > starter && f[kept - 1].combining >= f[i].combining);
        int32_t both = blocked ? 0 : compose_pair(f[starter].c, f[i].c);
        if (both) {
            f[starter].c = both;
            continue;
        }
        if (f[i].combining == 0) starter = kept;
        f[kept++] = f[i];
    }
    return kept;
}

static int flush_form(vp_buf *list, bool composed, vp_aligned *out, vp_error *err) {
    form_char *f = (form_char *)(void *)list->data;
    size_t n = list->len / sizeof *f;
    order_marks(f, n);
    if (composed) n = compose(f, n);
    for (size_t i = 0; i < n; i++) VP_TRY(put_char(out, f[i].c, f[i].from, f[i].to, err));
    list->len = 0;
    return VP_OK;
}

/* ASCII never composes with what comes before it, so the text is worked on in stretches that end before ASCII
 * characters. */
static int to_form(const vp_norm *step, const vp_aligned *in, vp_buf *list, vp_aligned *out, vp_error *err) {
    bool composed = step->kind == VP_NORM_NFC || step->kind == VP_NORM_NFKC;
    bool compatibility = step->kind == VP_NORM_NFKD || step->kind == VP_NORM_NFKC;
    list->len = 0;
    VP_TRY(vp_aligned_reserve(out, in->n + 16, err));
    for (size_t at = 0, len; at < in->n; at += len) {
        int32_t c = vp_char_at(in->s + at, in->n - at, &len);
        if (c < 0x80) {
            VP_TRY(flush_form(list, composed, out, err));
            if (at + 1 >= in->n || (unsigned char)in->s[at + 1] < 0x80) {
                VP_TRY(vp_aligned_copy(out, in, at, at + 1, err));
                continue;
            }
        }
        VP_TRY(add_decomposed(list, c, compatibility, in->from[at], in->to[at], err));
    }
    return flush_form(list, composed, out, err);
}

/* ---- strings ---- */
static int replace(const vp_norm *step, vp_workspace *w, vp_error *err) {
    const vp_aligned *in = &w->text;
    size_t at = 0, from = 0, start, end;
    while (from <= in->n) {
        VP_TRY(vp_pattern_next(&step->pattern, &w->matcher, in->s, in->n, from, &start, &end, err));
        if (start > in->n) break;
        VP_TRY(vp_aligned_copy(&w->spare, in, at, start, err));
        size_t before = end ? end - 1 : 0; /* inserted text has the span of the byte before it */
        VP_TRY(vp_aligned_put(&w->spare, step->content, step->n, end ? in->from[before] : 0, end ? in->to[before] : 0,
                              err));
        at = end;
        from = end;
        if (end == start && from < in->n) {
            size_t len;
            vp_char_at(in->s + from, in->n - from, &len);
            from += len;
        } else if (end == start) {
            break;
        }
    }
    return vp_aligned_copy(&w->spare, in, at, in->n, err);
}

static int strip(const vp_norm *step, const vp_aligned *in, vp_aligned *out, vp_error *err) {
    size_t start = 0, end = in->n, len;
    while (step->left && start < end && vp_char_is_space(vp_char_at(in->s + start, end - start, &len))) start += len;
    while (step->right && end > start && vp_char_is_space(vp_char_before(in->s + start, end - start, &len))) end -= len;
    return vp_aligned_copy(out, in, start, end, err);
}

static int apply(const vp_norm *step, vp_workspace *w, vp_error *err) {
    vp_aligned *in = &w->text, *out = &w->spare;
    switch (step->kind) {
    case VP_NORM_NFD:
    case VP_NORM_NFC:
    case VP_NORM_NFKD:
    case VP_NORM_NFKC:
        return to_form(step, in, &w->chars, out, err);
    case VP_NORM_PREPEND:
        if (in->n) VP_TRY(vp_aligned_put(out, step->content, step->n, in->from[0], in->to[0], err));
        return vp_aligned_copy(out, in, 0, in->n, err);
    case VP_NORM_REPLACE:
        return replace(step, w, err);
    case VP_NORM_STRIP:
        return strip(step, in, out, err);
    default:
        return each_char(step, in, out, err);
    }
}

int vp_normalize(const vp_norms *list, vp_workspace *w, vp_error *err) {
    if (!list->n) return VP_OK;
    VP_TRY(vp_workspace_own(w, err));
    for (int i = 0; i < list->n; i++) {
        VP_TRY(apply(&list->step[i], w, err));
        vp_workspace_swap(w);
    }
    return VP_OK;
}
