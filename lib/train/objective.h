/* Objectives: what a step's vectors are trained for, as a loss a row and the gradient of their sum. `loss` and `step`
 * call the same functions, so that both give the same bytes. Legend: M marked positions, C width, B rows of a step,
 * D embedding width. A step's loss is the sum of its rows' shares, in `row` order, in double. */
#ifndef VP_TRAIN_OBJECTIVE_H
#define VP_TRAIN_OBJECTIVE_H
#include "lib/model/head.h"
#include "lib/train/steps.h"

/* Spellings; the objectives of tokens take `picked`, the others `emb`. */
#define VP_OBJECTIVES "mntp|ntp|llara|infonce|cosent|mse|distill|grit|kto"
/* What a loss is of. JOINT: of the tokens of the step's generative rows (role 3), and of its other rows. ANSWERS: of
 * rows whose one number is the log-probability of their marked tokens. */
typedef enum vp_objective_form { VP_FORM_ROWS, VP_FORM_TOKENS, VP_FORM_JOINT, VP_FORM_ANSWERS } vp_objective_form;

typedef enum vp_candidates { VP_CANDIDATES_BATCH, VP_CANDIDATES_OWN } vp_candidates;
#define VP_CANDIDATES_CHOICES "batch|own" /* spellings, in that order */
typedef enum vp_same_tower { VP_TOWER_NONE, VP_TOWER_Q, VP_TOWER_P, VP_TOWER_BOTH } vp_same_tower;
#define VP_SAME_TOWER_CHOICES "none|q|p|both"
typedef enum vp_distillation { VP_DISTIL_KL, VP_DISTIL_MARGIN } vp_distillation;
#define VP_DISTILLATION_CHOICES "kl|margin"

typedef struct vp_objective_options {
    const char *name;              /* one of VP_OBJECTIVES */
    double scale;                  /* of cosines: 1 / temperature; not of mse */
    vp_candidates candidates;      /* infonce: the passages of every example, or of the query's own */
    vp_same_tower same_tower;      /* infonce: other queries (q), other positives against the positive (p) */
    bool mask_same_text;           /* infonce: a candidate with the positive's `hash` is none */
    double teacher_weight;         /* infonce: this times the loss of `distill` is added */
    double teacher_temperature;    /* scores are divided by it */
    double bag_weight;             /* llara: of the bags' terms beside the next tokens' */
    bool bag_sum;                  /* llara: sums over a bag's tokens, not means */
    vp_distillation distillation;  /* KL divergence of the softmaxes, or mean squared error of the margins */
    double lambda_rep, lambda_gen; /* grit: of infonce's loss and of ntp's; 0: it is not computed */
    double beta;                   /* kto: multiplies log-ratios */
    double desirable, undesirable; /* kto: weights of the two kinds of rows */
} vp_objective_options;
#define VP_OBJECTIVE_DEFAULTS                                                                                          \
    {                                                                                                                  \
        .scale = 20, .teacher_temperature = 1, .bag_weight = 0.1, .lambda_rep = 1, .lambda_gen = 1, .beta = 0.1,       \
        .desirable = 1, .undesirable = 1                                                                               \
    }

typedef struct vp_objective vp_objective;
/* VP_USAGE: no name or an unknown one, a number out of range. Options that the objective does not have are ignored. */
int vp_objective_open(vp_objective **o, const vp_objective_options *options, vp_error *err);
void vp_objective_close(vp_objective *o);
/* VP_FORM_ROWS also for names that are none. */
vp_objective_form vp_objective_form_of(const char *name);
vp_objective_form vp_objective_form_in(const vp_objective *o);
bool vp_objective_is_tokens(const char *name); /* it takes `picked` alone: TOKENS, ANSWERS */
bool vp_objective_has_head(const char *name);  /* every form but ROWS */
/* What it has to do with rows of role 3, and with others; the others' loss may be left out by its weight (0). */
bool vp_objective_wants_tokens(const vp_objective *o);
bool vp_objective_wants_rows(const vp_objective *o);
/* Factor of the balancing loss of experts' routers: 1 of ntp, lambda_gen of grit, 0 of others. */
double vp_objective_balance(const vp_objective *o);

/* ---- of tokens: the cross-entropy of a linear head, of mntp and ntp; of llara that of bags, too ---- */
typedef struct vp_marked {
    int64_t M;
    const float *picked;   /* [M, C], the head's C */
    const int32_t *target; /* [M]; negative: none */
    const float *weight;   /* [M], or NULL: 1, and no slots */
    double denominator;    /* of the whole step: the sum of all tokens' weights */
    const int32_t *unit;   /* [M] gradient units, ascending: dhead gets one sum a unit; NULL: one unit */
    float *dhead; /* [V - dhead_first, C] gradient of the head's rows from there on, added to; NULL: not wanted */
    int64_t dhead_first;
    const int32_t *bag;               /* [M] bag of a slot, ascending; negative: a token; NULL: no slots */
    const int32_t *bag_cu, *bag_item; /* tokens of bag i: bag_item[bag_cu[i]] .. */
} vp_marked;
/* loss [M]: weight times negative log-likelihood, over the denominator; llara: with a bag's first slot bag_weight times
 * weight times the mean (or sum) of its tokens' negative log-likelihoods, by the maximum of its slots' logits.
 * grad [M, C], or NULL. right [M], or NULL: 1
 * where no token is likelier than the target. A row's results do not depend on the others, and dhead's not on how the
 * units are shared out among calls. VP_DATA: a target outside the vocabulary, a denominator that is not positive. */
int vp_objective_tokens(const vp_objective *o, vp_head *head, const vp_marked *t, float *loss, float *grad,
                        uint8_t *right, vp_error *err);

/* ---- of rows: the others. Absent columns are NULL ---- */
typedef struct vp_rows { /* a whole step, in ascending `row` */
    int64_t B, D;
    const float *emb;           /* [B, D], of any length: objectives normalise */
    const int32_t *group;       /* [B] */
    const uint8_t *role, *view; /* [B] */
    const float *score;         /* [B] */
    const float *reference;     /* [B] */
    const uint8_t *hash;        /* [B, 16] */
    const int64_t *row;         /* [B], for messages */
    void *owned;                /* what vp_rows_free frees */
} vp_rows;
/* loss [B], grad [B, D]. Rows of a group are an example: the query is role 0, its positive the first of role 1, further
 * passages are roles 1 and 2; where a view is not 0, or there are no roles, view 0 is the query and view 1 the
 * positive. A query carries its example's share; rows without counterpart get zeros. infonce, S = scale cos(q_i, p_j)
 * over its candidates: mean over queries of log sum exp S_i - S_i,positive distill, the own passages: mean over queries
 * of KL(softmax(score / T) || softmax(S_i)), or mean over all pairs of
 *              ((S_positive - S_other) - (score_positive - score_other) / T)^2
 *     cosent, pairs c = cos(q, positive): log(1 + sum over score_i > score_j of exp(scale (c_j - c_i)))
 *     mse, the same pairs: mean of (c - score)^2
 * VP_DATA: a column is missing; an example without what the objective compares, or with two queries. */
int vp_objective_rows(const vp_objective *o, const vp_rows *r, float *loss, float *grad, vp_error *err);

/* VP_DATA: the step has rows to be generated, and the objective no loss for them. */
int vp_objective_check_step(const vp_objective *o, const vp_step *s, vp_error *err);

/* A step's rows in `row` order out of its frames, but for its generative ones. emb[frame]: [rows of the frame, D];
 * NULL: their column `emb`, which tells D. VP_DATA: a column of another type or shape, or in some frames only. */
int vp_rows_gather(vp_rows *r, const vp_step *s, const float *const *emb, int64_t D, vp_error *err);
void vp_rows_free(vp_rows *r);
/* The other way: to[frame] [rows of the frame, width] from what is in `row` order, [B, width]. */
void vp_rows_scatter(const vp_step *s, int64_t width, const float *from, float *const *to);

/* ---- targets of a frame ---- */
typedef struct vp_targets {
    int64_t M;
    int32_t *position, *target; /* [M] tokens of the frame, ascending; what they must predict */
    int32_t *row, *unit;        /* [M] the row that the token belongs to, and the row's gradient unit */
    float *weight;              /* [M] */
    double denominator;         /* the step's weight_sum */
    int64_t tokens;             /* of M that are no slots */
    int32_t *bag;               /* [M] bag of a slot, VP_BAGS a row; -1: a token; NULL: no slots */
    int32_t *bag_cu, *bag_item; /* column `bag` */
} vp_targets;
/* Marked are tokens with a target, and slots. VP_DATA: no column `target`, no key `weight_sum`, a weight that is
 * negative, slots without their bag. Free with vp_targets_free. */
int vp_targets_read(vp_targets *t, const vp_frame *f, vp_error *err);
void vp_targets_free(vp_targets *t);
/* What vp_objective_tokens takes, but for picked and dhead; borrows t's. */
vp_marked vp_targets_marked(const vp_targets *t);
/* loss [B] a row: the sum of its targets' shares [M], in order, in double. */
void vp_targets_rows(const vp_targets *t, const float *share, int64_t B, float *loss);
/* logprob [B] a row: the sum of its targets' log-probabilities, by an objective of tokens or of answers; 0 without any.
 * picked [M, C] as vp_marked has it. */
int vp_targets_logprob(const vp_targets *t, const vp_objective *o, vp_head *head, const float *picked, int64_t B,
                       float *logprob, vp_error *err);
/* Weights, so that the gradient of vp_objective_tokens is that of the sum over rows of gradient[b] logprob[b]. */
void vp_targets_weigh(vp_targets *t, const float *gradient);

#endif
