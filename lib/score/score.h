/* Figures from embeddings or hits and judgments, defined as scipy, scikit-learn, trec_eval and MTEB define them.
 *
 * Files are descriptors with a name for messages; none is closed. A judgment that cannot be read is VP_DATA with
 * "name:line". Vectors come as streams with a column emb, F32 or BF16 [B, D], and count in `row` order: the first
 * vector belongs to the first judgment. Streams that are compared must be of one encoder.space where they tell it. */
#ifndef VP_SCORE_H
#define VP_SCORE_H
#include "lib/base/base.h"

typedef struct vp_score_file {
    int fd;
    const char *name;
} vp_score_file;

typedef struct vp_score_options {
    int64_t bootstrap; /* resamples of the units for the intervals, at most 1e6; 0: no intervals */
    uint64_t seed;
} vp_score_options;

enum { VP_SCORE_MEASURES = 16, VP_SCORE_COUNTS = 4 };

typedef struct vp_score_measure {
    const char *name; /* as MTEB spells it: "ndcg_at_10" */
    double value;     /* correlations -1..1, the others 0..1 */
    double low, high; /* 95 % percentile interval, where score.intervals */
} vp_score_measure;

typedef struct vp_score {
    const char *task, *unit; /* "retrieval", "queries" */
    int64_t units;           /* what the measures are over, and what is resampled */
    int n;                   /* measure[0] is the main one */
    bool intervals;
    bool plain;   /* measures are no shares: tables show them as they are, not times 100 */
    bool centred; /* intervals are moved so that resamples lie around the value: drawing twice the same biases some */
    vp_score_measure measure[VP_SCORE_MEASURES];
    int ncounts; /* what else a reader should know: queries without hits, ... */
    struct {
        const char *name;
        int64_t n;
    } count[VP_SCORE_COUNTS];
} vp_score;

/* gold: a line a pair that begins with a number and a tab. Spearman's (ties get their mean rank) and Pearson's
 * correlation of it with the cosine of the pair's vectors. Undefined where all are equal: VP_DATA. */
int vp_score_sts(vp_score *s, vp_score_file gold, vp_score_file first, vp_score_file second, const vp_score_options *o,
                 vp_error *err);
/* The same with labels 0 and 1: average precision, best accuracy and best F1 over all thresholds on the cosine; pairs
 * of equal cosine are decided alike. One label must be 1. */
int vp_score_pairs(vp_score *s, vp_score_file gold, vp_score_file first, vp_score_file second,
                   const vp_score_options *o, vp_error *err);

typedef struct vp_search_files {
    vp_score_file qrels, hits;
    vp_buf *run;           /* NULL, or gets the judged queries' hits as a TREC run */
    vp_score *difference;  /* NULL, or gets the means of hits' measures less those of `against`, query by query; its
                              counts are of `against` */
    vp_score_file against; /* the hits of another system */
} vp_search_files;
/* qrels: query, document, relevance (an integer; below 1 is not relevant) between tabs, after a line of headings if
 * there is one, or TREC's four columns. hits: JSON lines with query, id, score, in any order; where they have a parent,
 * it is the document, with its best hit. A query's hits count by descending score, ties by descending id bytes, as
 * trec_eval has it. The mean is over the judged queries: one without hits counts as zero. */
int vp_score_retrieval(vp_score *s, const vp_search_files *f, const vp_score_options *o, vp_error *err);

/* gold: JSON lines {"query": text, "positive": [text...], "negative": [text...]}. queries: a vector a line; candidates:
 * the vectors of each line's positives, then of its negatives. Lines that lack one or the other are left out of the
 * mean and counted. Ties count against the query where only the first relevant one matters. */
int vp_score_rerank(vp_score *s, vp_score_file gold, vp_score_file queries, vp_score_file candidates,
                    const vp_score_options *o, vp_error *err);
/* Append the texts of such a file as the records that those vectors are made of, {"id","text"} a line: ids are the
 * line's number, candidates "LINE/1", "LINE/2", ... */
int vp_score_rerank_texts(vp_score_file gold, bool candidates, vp_buf *out, vp_error *err);

/* losses: a stream that `loss ntp` (or mntp) made of every row. perplexity: exp of nats_per_token, the mean negative
 * log-likelihood over all predicted tokens. VP_DATA where the tokens of a row do not weigh alike. */
int vp_score_perplexity(vp_score *s, vp_score_file losses, const vp_score_options *o, vp_error *err);

/* answers: JSON lines with a `text`, as gen writes it, and `answers`, a list of texts, or one `answer`. match: the
 * share of the texts that hold one of them, exact_match: that are one, both in lower case, without ASCII punctuation
 * and the words a, an, the, blanks folded. Lines whose answers leave nothing are left out and counted. */
int vp_score_match(vp_score *s, vp_score_file answers, const vp_score_options *o, vp_error *err);

/* Below, each row of a stream with emb has a label: the member `label` of its meta, a string or an integer. Vectors
 * count as they are in the stream, not scaled. Labels that only the test has are wrong whatever is answered, and
 * counted. */

typedef struct vp_classify_options {
    const char *label;
    int64_t samples_per_label; /* of the training rows, drawn by the seed; 0: all of them, once */
    int64_t experiments;       /* so many times */
} vp_classify_options;
/* Logistic regression (L2, C = 1, trained to convergence) on the training rows; accuracy and F1 (macro) on the test
 * rows, means over the experiments. Intervals are over the test rows. */
int vp_score_classify(vp_score *s, vp_score_file train, vp_score_file test, const vp_classify_options *classifier,
                      const vp_score_options *o, vp_error *err);

/* k-means with as many clusters as there are labels, ten starts by the seed; V-measure, homogeneity, completeness. */
int vp_score_cluster(vp_score *s, vp_score_file vectors, const char *label, const vp_score_options *o, vp_error *err);

typedef struct vp_words_options {
    const char *label;
    int64_t steps;
    int64_t rows; /* sentences of either stream, the first so many; 0: all */
} vp_words_options;
/* Rows are words; those of one sentence follow each other with the same `row`. A linear probe is trained for so many
 * steps of 8 sentences as LLM2Vec does it: dropout 0.1 on the vectors, mean cross-entropy, AdamW with rate 5e-4 that
 * falls to 0 in a line, no decay, gradients clipped to length 1. accuracy: the share of test words right. */
int vp_score_words(vp_score *s, vp_score_file train, vp_score_file test, const vp_words_options *words,
                   const vp_score_options *o, vp_error *err);

/* Append for a person (measures times 100) or as one JSON object (as they are). */
int vp_score_print_table(const vp_score *s, vp_buf *out, vp_error *err);
int vp_score_print_json(const vp_score *s, vp_buf *out, vp_error *err);

#endif
