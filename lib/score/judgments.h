/* For retrieval alone: relevance judgments and hits as sorted tables. */
#ifndef VP_SCORE_JUDGMENTS_H
#define VP_SCORE_JUDGMENTS_H
#include "lib/score/private.h"

/* A string of the table's arena: an offset while the file is read, a pointer afterwards. */
typedef struct vp_name {
    union {
        size_t at;
        const char *s;
    };
    size_t n;
} vp_name;
int vp_name_compare(vp_name a, vp_name b); /* by bytes */

typedef struct vp_judgment { /* or a hit */
    vp_name query, document;
    double score;      /* hits */
    int32_t relevance; /* judgments; hits: of their document, 0 without one */
    bool parent;       /* hits: the document is a chunk's parent */
    int64_t line;
} vp_judgment;

typedef struct vp_judgments {
    vp_judgment *item; /* ascending by query, then document; of no two the same pair */
    size_t n, cap;
    vp_buf arena;
} vp_judgments;
/* vp_judgments_free also after a failure. */
int vp_judgments_read_qrels(vp_judgments *j, vp_score_file f, vp_error *err);
int vp_judgments_read_hits(vp_judgments *j, vp_score_file f, vp_error *err);
void vp_judgments_free(vp_judgments *j);
/* The end of the run of one query's items that begins at `begin`. */
size_t vp_judgments_query_end(const vp_judgments *j, size_t begin);

#endif
