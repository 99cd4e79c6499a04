/* What an objective hides, predicts and compares: columns added to, and rows chosen from, whole steps of ids. */
#ifndef VP_TRAIN_MASK_H
#define VP_TRAIN_MASK_H
#include "lib/text/text.h"
#include "lib/train/steps.h"

#define VP_MASK_KINDS   "mntp|simcse|pairs|generate|grit|kto|llara"
#define VP_MASK_FILLS   "bert|all" /* spellings of vp_mask_fill, in that order */
#define VP_MASK_REDUCES "token|sample|mixed"
typedef enum vp_mask_fill { VP_FILL_BERT, VP_FILL_ALL } vp_mask_fill;
typedef enum vp_mask_reduce { VP_REDUCE_TOKEN, VP_REDUCE_SAMPLE, VP_REDUCE_MIXED } vp_mask_reduce;

typedef struct vp_mask_options {
    const char *kind; /* one of VP_MASK_KINDS */
    uint64_t seed;
    int64_t batch_tokens; /* of a frame; a longer gradient unit is a frame of its own */
    /* mntp */
    double rate;       /* a token is chosen with this probability, 0 .. 1 */
    vp_mask_fill fill; /* BERT: of the chosen 80 % hidden, 10 % replaced by a random id, 10 % left; ALL: all hidden */
    const char *mask_token; /* "auto": the tokenizer's, else that of "_"; a number: an id; else the token's text */
    /* pairs */
    int64_t negatives; /* of an example, >= 0 */
    /* generate */
    vp_mask_reduce reduce;
    int64_t groups; /* VP_REDUCE_MIXED: sub-batches of a step, >= 1 */
    bool prefix;    /* of a row the last answer alone is predicted, and what stands before it is seen by all of it */
    /* llara, kto */
    int64_t max_len; /* of a row: the text, or the answer, is cut; 0: any */
    /* llara */
    const char *prompt; /* one of VP_SLOT_PROMPTS (lib/text/slots.h) */
    bool no_next;       /* no next-token targets */
    bool no_next_text;  /* slots rebuild their text, none foretells the next one */
} vp_mask_options;

typedef struct vp_mask vp_mask;
/* `t` is needed by mntp and llara (borrowed while opening). VP_USAGE: an unknown kind, a mask token that there is none
 * of. */
int vp_mask_open(vp_mask **m, const vp_mask_options *o, const vp_tokenizer *t, vp_error *err);
void vp_mask_close(vp_mask *m);
bool vp_mask_needs_tokenizer(const char *kind);
/* Columns and key `mask` (kind and what goes with it) of a header. */
int vp_mask_describe(const vp_mask *m, vp_map *header, vp_error *err);
/* One step, written as frames of whole gradient units with the keys step, rows, weight_sum (where there are targets)
 * and last. What is in a row depends on seed, step and row alone, not on how the step was cut into frames.
 *
 * Random numbers: Philox4x32-10, key = seed, counter (c0, c1, step, VP_SITE_MASKING << 14).
 * mntp: c0 = token from the row's start, c1 = `row`; word 0 < rate 2^32: chosen; word 1 < 0.8 2^32: hidden, else
 * < 0.9 2^32: replaced by id word 2 * V >> 32, else left. target[i - 1] = the token that stood at i; the first token of
 * a row has nothing before it that could predict it. Specials of the tokenizer are never chosen. simcse: every row
 * twice, one after the other: `row` 2r and 2r+1, `view` 0 and 1, `group` r. pairs: of every `group` the query, one
 * positive and `negatives` negatives, drawn without replacement and from the whole list again when it is used up; c1 =
 * group, c0 = 0: the positive, c0 = k: the k-th negative, c0 and 2^31 + round of the list; rows are numbered anew in
 * the old order. generate: target[i] = ids[i+1] where keep[i+1] is 1 (of the row's last run of such tokens alone where
 * `prefix`, and column prefix is what stands before it); weights so that sum(weight loss) / weight_sum is the mean over
 * rows of a row's sum (token: its weight_sum is the number of rows, not the sum of weights), of a row's mean (sample),
 * or the mean over `groups` runs of rows, in row order, of the run's token mean (mixed). llara: of every `group` the
 * query, as row 0, 1, ...; the positives, at most two, tell what its slots must predict; a text by itself predicts
 * itself, but not every text of the first step, unless no_next_text. grit: the generative rows (role 3) as generate has
 * them, in frames of their own, first; the others as pairs has them; the generative rows' numbers follow theirs. kto:
 * conversations alone, numbered in their order, and as many rows behind them, view 1, each of one row's prompt and the
 * last answer of the row after it; what such an answer's tokens predict is all that is marked. */
int vp_mask_step(vp_mask *m, const vp_step *step, vp_writer *w, vp_error *err);
/* Texts so far of which no slot has a next one to foretell, though it should; 0 for all kinds but llara. */
int64_t vp_mask_alone(const vp_mask *m);
/* Rows and tokens that were written, in an end record. */
int vp_mask_end(const vp_mask *m, vp_map *end, vp_error *err);

#endif
