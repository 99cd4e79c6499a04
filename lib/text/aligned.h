/* A text on its way to tokens: bytes that remember which bytes of the given text they come from, the normalisation
 * steps that rewrite it, and the pieces that pre-tokenizers cut it into. Private to lib/text. */
#ifndef VP_TEXT_ALIGNED_H
#define VP_TEXT_ALIGNED_H
#include "lib/text/pattern.h"

/* from/to: per byte, the span of the character of the given text that it stands for. NULL: the bytes are the given
 * text's own (borrowed), from offset `base` on. */
typedef struct vp_aligned {
    const char *s;
    const uint32_t *from, *to;
    size_t n, cap;
    uint32_t base;
    char *own_s; /* storage for cap bytes and their spans, kept while s is borrowed */
    uint32_t *own_from, *own_to;
} vp_aligned;
void vp_aligned_free(vp_aligned *t);
/* Borrow s[0..n), which lies at `base` in the given text. */
void vp_aligned_borrow(vp_aligned *t, const char *s, size_t n, uint32_t base);
/* Bytes [start, end) of another text that must outlive the view. */
void vp_aligned_view(vp_aligned *t, const vp_aligned *of, size_t start, size_t end);
/* Use the storage of its own, for n bytes at least; nothing is copied from a borrowed text. */
int vp_aligned_reserve(vp_aligned *t, size_t n, vp_error *err);
/* Append s[0..n), all of one span; and bytes [start, end) of another text. */
int vp_aligned_put(vp_aligned *t, const char *s, size_t n, uint32_t from, uint32_t to, vp_error *err);
int vp_aligned_copy(vp_aligned *t, const vp_aligned *in, size_t start, size_t end, vp_error *err);
/* Span in the given text of bytes [a, b), a < b, widened to whole characters. */
void vp_aligned_span(const vp_aligned *t, size_t a, size_t b, uint32_t *from, uint32_t *to);

/* ---- normalisation ---- */
typedef enum vp_normal_kind {
    VP_NORM_CLEAN,         /* BERT: control characters out, white space to spaces */
    VP_NORM_CHINESE,       /* BERT: spaces around CJK */
    VP_NORM_NFD,           /* canonical decomposition */
    VP_NORM_NFC,           /* then composition */
    VP_NORM_NFKD,          /* compatibility decomposition */
    VP_NORM_NFKC,          /* then composition */
    VP_NORM_NO_NONSPACING, /* Mn out (BERT's strip_accents, after NFD) */
    VP_NORM_NO_MARKS,      /* M* out (StripAccents) */
    VP_NORM_LOWER,         /* each character by itself */
    VP_NORM_PREPEND,       /* content before a text that is not empty */
    VP_NORM_REPLACE,       /* each match of pattern by content */
    VP_NORM_STRIP          /* white space at the ends */
} vp_normal_kind;

typedef struct vp_norm {
    vp_normal_kind kind;
    vp_pattern pattern; /* REPLACE */
    char *content;      /* PREPEND, REPLACE */
    size_t n;
    bool left, right; /* STRIP */
} vp_norm;

enum { VP_MAX_STEPS = 32 };
typedef struct vp_norms {
    vp_norm step[VP_MAX_STEPS];
    int n;
} vp_norms;
void vp_norms_free(vp_norms *list);

/* ---- pieces ---- */
typedef struct vp_piece {
    uint32_t start, end; /* byte offsets in the aligned text */
} vp_piece;
typedef struct vp_pieces {
    vp_piece *at; /* none empty */
    size_t n, cap;
} vp_pieces;
int vp_pieces_add(vp_pieces *p, size_t start, size_t end, vp_error *err); /* empty pieces are not added */

typedef enum vp_split_behavior {
    VP_SPLIT_REMOVED,
    VP_SPLIT_ISOLATED,
    VP_SPLIT_MERGED_WITH_PREVIOUS,
    VP_SPLIT_MERGED_WITH_NEXT,
    VP_SPLIT_CONTIGUOUS
} vp_split_behavior;

typedef enum vp_cut_kind {
    VP_CUT_SPLIT, /* at the matches of pattern */
    VP_CUT_PREFIX /* content before every piece that does not start with it; `first`: only at the start of the text */
} vp_cut_kind;

typedef struct vp_cut {
    vp_cut_kind kind;
    vp_pattern pattern;
    vp_split_behavior behavior;
    bool invert, first;
    char *content;
    size_t n;
} vp_cut;

typedef struct vp_cuts {
    vp_cut step[VP_MAX_STEPS];
    int n;
} vp_cuts;
void vp_cuts_free(vp_cuts *list);

/* Storage that one thread needs while it tokenises; {0} is ready. */
typedef struct vp_workspace {
    vp_aligned text, spare;  /* swapped by every rewriting step */
    vp_pieces pieces, other; /* swapped by every cut */
    vp_matcher matcher;
    vp_buf chars; /* of the Unicode normalisation forms */
} vp_workspace;
void vp_workspace_free(vp_workspace *w);
/* After a rewriting step: w->spare becomes w->text. */
void vp_workspace_swap(vp_workspace *w);
/* A borrowed w->text becomes one with spans of its own. */
int vp_workspace_own(vp_workspace *w, vp_error *err);
/* w->text through all steps. */
int vp_normalize(const vp_norms *list, vp_workspace *w, vp_error *err);
/* w->text, as one piece, through all cuts into w->pieces. */
int vp_cut_text(const vp_cuts *list, vp_workspace *w, vp_error *err);

#endif
