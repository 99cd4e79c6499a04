/* Pre-tokenisation: a text is cut into pieces at the matches of patterns; a piece never grows again. */
#include "lib/text/aligned.h"
#include <stdlib.h>
#include <string.h>

void vp_cuts_free(vp_cuts *list) {
    for (int i = 0; i < list->n; i++) {
        vp_pattern_free(&list->step[i].pattern);
        free(list->step[i].content);
    }
    list->n = 0;
}

/* What has been cut from one piece: the last span is held back, for it may still grow. */
typedef struct splitter {
    const vp_cut *cut;
    vp_pieces *out;
    size_t base, start, end; /* held span, within the piece */
    bool held, last_match, held_match;
} splitter;

static int release(splitter *s, vp_error *err) {
    if (!s->held) return VP_OK;
    s->held = false;
    return vp_pieces_add(s->out, s->base + s->start, s->base + s->end, err);
}

static int hold(splitter *s, size_t start, size_t end, bool match, vp_error *err) {
    VP_TRY(release(s, err));
    s->held = true;
    s->held_match = match;
    s->start = start;
    s->end = end;
    return VP_OK;
}

/* The next span, a match or what lies between two, in order. */
static int span(splitter *s, size_t start, size_t end, bool match, vp_error *err) {
    if (s->cut->invert) match = !match;
    bool after_match = s->last_match;
    s->last_match = match;
    bool grows = false;
    switch (s->cut->behavior) {
    case VP_SPLIT_REMOVED:
        return match ? VP_OK : vp_pieces_add(s->out, s->base + start, s->base + end, err);
    case VP_SPLIT_ISOLATED:
        return vp_pieces_add(s->out, s->base + start, s->base + end, err);
    case VP_SPLIT_CONTIGUOUS:
        grows = match == after_match;
        break;
    case VP_SPLIT_MERGED_WITH_PREVIOUS:
        grows = match && !after_match;
        break;
    case VP_SPLIT_MERGED_WITH_NEXT: /* the mirror image: a match joins what follows, unless that is a match too */
        grows = !match && s->held && s->held_match;
        break;
    }
    if (!grows || !s->held) return hold(s, start, end, match, err);
    s->end = end;
    s->held_match = match;
    return VP_OK;
}

static int split_piece(const vp_cut *cut, vp_matcher *m, const char *text, size_t base, size_t n, vp_pieces *out,
                       vp_error *err) {
    splitter s = {.cut = cut, .out = out, .base = base};
    const char *piece = text + base;
    size_t at = 0, from = 0;
    while (from < n) {
        size_t start, end;
        VP_TRY(vp_pattern_next(&cut->pattern, m, piece, n, from, &start, &end, err));
        if (start >= n) break;
        if (start > at) VP_TRY(span(&s, at, start, false, err));
        VP_TRY(span(&s, start, end, true, err));
        at = from = end;
        if (start == end) { /* an empty match cuts here; look further on */
            size_t len;
            vp_char_at(piece + from, n - from, &len);
            from += len;
        }
    }
    if (at < n) VP_TRY(span(&s, at, n, false, err));
    return release(&s, err);
}

static bool wants_prefix(const vp_cut *cut, const vp_aligned *t, uint32_t start, uint32_t end) {
    if (end - start >= cut->n && memcmp(t->s + start, cut->content, cut->n) == 0) return false;
    return !cut->first || t->from[start] == 0;
}

/* Rewrites the text, so the pieces move. The inserted bytes have the span of the character that they precede. */
static int prefix_pieces(const vp_cut *cut, vp_workspace *w, vp_error *err) {
    VP_TRY(vp_workspace_own(w, err));
    const vp_aligned *in = &w->text;
    for (size_t i = 0; i < w->pieces.n; i++) {
        const uint32_t start = w->pieces.at[i].start, end = w->pieces.at[i].end;
        const size_t moved = w->spare.n;
        if (wants_prefix(cut, in, start, end))
            VP_TRY(vp_aligned_put(&w->spare, cut->content, cut->n, in->from[start], in->to[start], err));
        VP_TRY(vp_aligned_copy(&w->spare, in, start, end, err));
        VP_TRY(vp_pieces_add(&w->other, moved, w->spare.n, err));
    }
    vp_workspace_swap(w);
    return VP_OK;
}

int vp_cut_text(const vp_cuts *list, vp_workspace *w, vp_error *err) {
    w->pieces.n = 0;
    VP_TRY(vp_pieces_add(&w->pieces, 0, w->text.n, err));
    for (int i = 0; i < list->n; i++) {
        const vp_cut *cut = &list->step[i];
        w->other.n = 0;
        if (cut->kind == VP_CUT_PREFIX) VP_TRY(prefix_pieces(cut, w, err));
        for (size_t k = 0; cut->kind == VP_CUT_SPLIT && k < w->pieces.n; k++) {
            const vp_piece p = w->pieces.at[k];
            VP_TRY(split_piece(cut, &w->matcher, w->text.s, p.start, p.end - p.start, &w->other, err));
        }
        vp_pieces done = w->pieces;
        w->pieces = w->other;
        w->other = done;
    }
    return VP_OK;
}
