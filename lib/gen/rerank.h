/* Reranking: how well a passage answers a query, by the token with which a decoder goes on after a question about both
 * (point-wise, as the script released with GritLM, Muennighoff et al. 2024, has it). */
#ifndef VP_GEN_RERANK_H
#define VP_GEN_RERANK_H
#include "lib/model/model.h"
#include "lib/text/text.h"

#define VP_RERANK_PROMPT                                                                                               \
    "<|user|>\nGiven a query and a passage, judge whether the passage is relevant to the query or not.\n\nQuery: "     \
    "{query}\nPassage: {title} {text}\n\nAnswer with yes if the passage is relevant to the query, and no "             \
    "otherwise.\n<|assistant|>\nAnswer:"

typedef struct vp_rerank_options {
    const char *prompt; /* holds {query} and {text}; {title} with the blank after it goes where there is no title */
    const char *yes;    /* goes on after the prompt with one token: its logit is the score */
    int64_t chars;      /* of a query, and of a text, at most (characters); >= 1 */
} vp_rerank_options;

typedef struct vp_passage {
    const char *title, *text; /* UTF-8; title NULL: none */
    size_t title_len, text_len;
} vp_passage;

typedef struct vp_reranker vp_reranker;
/* All are borrowed, the encoder open for generation with causal attention (model.h). Of the output head one row is
 * packed. VP_USAGE: the prompt lacks a place, or `yes` is not one token after it. VP_DATA: no output head. */
int vp_rerank_open(vp_reranker **r, const vp_model *m, vp_encoder *e, const vp_tokenizer *t, const vp_rerank_options *o,
                   vp_error *err);
void vp_rerank_close(vp_reranker *r);
int32_t vp_rerank_token(const vp_reranker *r); /* whose logit is the score */
/* score[i] of passage[i], i < n: the logit, at the place after the prompt. It depends on query and passage alone: what
 * the prompts begin with in common is read once, which changes no bit. NaN: the logit is not finite. VP_DATA: a prompt
 * of more tokens than the model has positions; *bad is then the passage's number. */
int vp_rerank_score(vp_reranker *r, const char *query, size_t len, const vp_passage *passage, size_t n, float *score,
                    size_t *bad, vp_error *err);

/* ---- hits as lines of JSON ---- */
/* What `knn search --text` prints: `query`, `id`, `text`, if there are any `title` and `query_text`, and others. The
 * hits of a query follow each other, best first. */
typedef struct vp_rerank_lines vp_rerank_lines;
/* hits: opened as VP_RECORDS_OBJECTS. queries: records with `id` and `text` (read here, to the end), for hits without
 * `query_text`; NULL: none. Both are borrowed. Of a query's hits the first `most` count, the others are left out. Close
 * with vp_rerank_lines_close (NULL is fine). */
int vp_rerank_lines_open(vp_rerank_lines **l, vp_reranker *r, int64_t most, vp_records *hits, vp_records *queries,
                         vp_error *err);
void vp_rerank_lines_close(vp_rerank_lines *l);
/* Append the hits of the next query to out, the highest score first, those of equal scores as they came, with `rank`
 * from 1 and `score` anew; *n of them, 0: the end. Those whose logit is not finite are the last ones, as they came, and
 * their score is null. VP_DATA names the line. */
int vp_rerank_lines_next(vp_rerank_lines *l, vp_buf *out, int64_t *n, vp_error *err);
/* The line of the i-th of these last ones; 0: there are no more. */
int64_t vp_rerank_lines_failed(const vp_rerank_lines *l, int64_t i);

#endif
