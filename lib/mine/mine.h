/* Mining hard negatives: for each query of a stream the texts of an index that come near it and do not answer it.
 * NV-Retriever's rules (arXiv 2407.15831, sections 3 and 4), FlagEmbedding's range sampling (hn_mine).
 *
 * A row is what the user has, one JSON object: `query` (or `sentence1`), its positives as texts (`positive`, `pos`,
 * `sentence2`) or ids of the index (`pos_ids`), whatever else. It comes in column `meta` of a stream that
 * `tok --query` began; of a record that has `text` instead, `text` is the query. Out comes the row with `negative`
 * (`neg` where the positives are called `pos`), `neg_ids`, `neg_scores` and `pos_scores`, on one line.
 *
 * What comes out is a function of the rows, the index and the options: not of threads, of frames or of order. */
#ifndef VP_MINE_H
#define VP_MINE_H
#include "lib/base/base.h"
#include "lib/stream/stream.h"

/* ---- which candidates may be negatives ---- */
/* Kept: all; score < limit; score < positive's - limit; score < limit * positive's. Strictly, in f32. */
#define VP_MINE_RULES(X)                                                                                               \
    X(NAIVE, "naive", 0)                                                                                               \
    X(ABS, "abs", 0.7)                                                                                                 \
    X(MARGIN, "margin", 0.05)                                                                                          \
    X(PERCENT, "percent", 0.95)
typedef enum vp_mine_kind {
#define X(e, name, best) VP_MINE_##e,
    VP_MINE_RULES(X)
#undef X
        VP_MINE_KINDS
} vp_mine_kind;
/* "margin", "margin=0.1": the name, and its limit if it is not the published best one. VP_USAGE: none such; a percent
 * that is no share in (0, 1], a margin below 0. */
int vp_mine_rule_parse(const char *s, vp_mine_kind *kind, float *limit, vp_error *err);

typedef enum vp_mine_pick { VP_PICK_FIRST, VP_PICK_SAMPLE, VP_PICK_TOP1_SAMPLE, VP_PICK_UNIFORM } vp_mine_pick;
#define VP_MINE_PICKS "first|sample|top1+sample|uniform" /* spellings, in that order */

typedef struct vp_mine_rule {
    vp_mine_kind kind;
    float limit;
    int64_t shift; /* the best so many are passed over */
    int64_t n;     /* negatives wanted */
    int64_t from;  /* of the first so many that the rule leaves; 0: of all */
    vp_mine_pick pick;
    uint64_t seed;
} vp_mine_rule;

/* Why candidates were no negatives, in the order in which it is asked; what became of the rows. */
#define VP_MINE_COUNTS(X)                                                                                              \
    X(rows, "queries")                                                                                                 \
    X(negatives, "negatives")                                                                                          \
    X(candidates, "candidates")                                                                                        \
    X(query, "the query itself")                                                                                       \
    X(positive, "known positives")                                                                                     \
    X(known, "pairs known to be near")                                                                                 \
    X(duplicate, "duplicates")                                                                                         \
    X(label, "of the same class")                                                                                      \
    X(rank, "ranked too high")                                                                                         \
    X(score, "scored too high")                                                                                        \
    X(margin, "queries by margin, their positive's score being 0 or less")                                             \
    X(filled, "negatives drawn at random")                                                                             \
    X(few, "queries with too few negatives")                                                                           \
    X(dropped, "queries left out for it")                                                                              \
    X(skipped, "bad rows skipped")
typedef struct vp_mine_counts {
#define X(name, what) int64_t name;
    VP_MINE_COUNTS(X)
#undef X
} vp_mine_counts;

typedef struct vp_candidate {
    float score;
    int32_t row;     /* the caller's */
    uint64_t key;    /* of the text: what it is drawn by */
    double priority; /* these two are vp_mine_choose's own */
    int32_t place;
} vp_candidate;
/* c[n], best first, without what can be no negative: those that the rule leaves and that were picked come to the front,
 * in their order; returns how many. `positive`: the score of the known positive. A draw is a function of seed, query
 * key and candidate key alone: sampling without replacement with odds exp(score) (Gumbel's way), or even odds. */
size_t vp_mine_choose(const vp_mine_rule *rule, uint64_t query, float positive, vp_candidate *c, size_t n,
                      vp_mine_counts *counts);

/* Append the text as it is compared: NFKC, case folded, white space as single blanks. */
int vp_mine_normalise(const char *s, size_t n, vp_buf *out, vp_error *err);
/* XXH3-64 of the normalised text; `scratch` is overwritten. */
int vp_mine_key(const char *s, size_t n, vp_buf *scratch, uint64_t *key, vp_error *err);

/* ---- mining ---- */
typedef enum vp_mine_source { VP_MINE_DENSE, VP_MINE_BM25, VP_MINE_BOTH, VP_MINE_GIVEN } vp_mine_source;
#define VP_MINE_SOURCES "dense|bm25|both|given" /* spellings, in that order */
typedef enum vp_mine_positive { VP_POSITIVE_MIN, VP_POSITIVE_MAX, VP_POSITIVE_MEAN } vp_mine_positive;
#define VP_MINE_POSITIVES "min|max|mean" /* spellings, in that order */
typedef enum vp_mine_short { VP_SHORT_KEEP, VP_SHORT_DROP, VP_SHORT_FILL } vp_mine_short;
#define VP_MINE_SHORTS "keep|drop|fill" /* spellings, in that order */

typedef struct vp_mine_options {
    vp_mine_rule rule;
    vp_mine_positive positive; /* which score counts of several positives */
    vp_mine_short few;         /* rows with fewer negatives than wanted; those with none are never kept */
    bool scores;               /* write scores; without them positives may be unknown to the index */
    bool skip_bad;
    /* mining alone */
    int64_t depth;     /* candidates of each ranking */
    int64_t first;     /* passed over at the head of the ranking, whatever they are */
    const char *label; /* field of rows and texts, one class or a list: who shares one is no negative; NULL */
    const char *words; /* field that BM25 looks for instead of the query; NULL: none */
    const char *known; /* file of rows: their positives are no negatives of an equal query; NULL: none */
    double most;       /* of rows in it that have a `score` only those above this */
    bool unique;       /* several teachers: a text once */
    int threads;       /* 0: all */
} vp_mine_options;

/* One teacher: an index that `knn add` made, texts included, and its vectors of the queries (not for BM25). */
typedef struct vp_mine_teacher {
    const char *index;
    int fd;                /* of the stream; not closed */
    const char *name;      /* of the stream, for messages */
    vp_mine_source source; /* both: the two rankings merged by rank, scores those of the vectors; given: the row's own
                              negatives by their scores; the first teacher's writes BM25's scores as well then */
} vp_mine_teacher;
/* Mine the rows of all teachers' streams, which must be the same. Of several teachers each gives rule.n negatives;
 * scores are the first one's. Memory: about 100 bytes a text of an index, and a batch of rows. VP_DATA: another encoder
 * than the index's, a text that it lacks, a positive that it lacks and that must be scored. `o` and `teacher` are
 * borrowed; `output` is watched as vp_reader_watch does. */
typedef struct vp_mine vp_mine;
int vp_mine_open(vp_mine **m, const vp_mine_options *o, const vp_mine_teacher *teacher, size_t n, int output,
                 vp_error *err);
/* Append the lines of the next rows, in `row` order; *rows: how many were read, 0 at the end. Rows that came before an
 * upstream died are mined before that is reported. */
int vp_mine_next(vp_mine *m, vp_buf *out, int64_t *rows, vp_error *err);
const vp_mine_counts *vp_mine_totals(const vp_mine *m);
void vp_mine_close(vp_mine *m);

/* Lines that were mined, to lines: the rule of the options on the candidates and scores that they hold. No index, no
 * model. */
int vp_mine_reapply(const vp_mine_options *o, int in, const char *name, int out, vp_mine_counts *counts, vp_error *err);
/* The distinct texts of all positives and negatives of the rows as records {"id":HASH,"text":...}, in the order in
 * which they come first: the corpus, where the rows are all there is (FlagEmbedding's). */
int vp_mine_texts(int in, const char *name, int out, vp_error *err);

#endif
