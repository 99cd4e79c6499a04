/* Kinds that choose tokens: masked next-token prediction (BehnamGhader et al., LLM2Vec) and next-token prediction with
 * GRIT's reductions. */
#include "lib/stream/private.h"
#include "lib/train/mask_kinds.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WORD 4294967296.0 /* 2^32: how many values a random word has */

/* ids [T] of the frame's own, column target [T] of -1, and where rows begin. */
static int own_tokens(vp_frame *f, int32_t **ids, int32_t **target, const vp_column **cu, vp_error *err) {
    const vp_column *c;
    VP_TRY(vp_frame_need(f, "ids", VP_I32, 1, (const int64_t[]){f->T}, &c, err));
    const uint8_t *data = c->data;
    *ids = vp_mask_put(f, "ids", VP_I32, f->T, err);
    *target = vp_mask_put(f, "target", VP_I32, f->T, err);
    if (!*ids || !*target) return err->code;
    if (f->T) memcpy(*ids, data, (size_t)f->T * sizeof **ids);
    for (int64_t t = 0; t < f->T; t++) (*target)[t] = -1;
    return vp_frame_need(f, "cu", VP_I32, 1, NULL, cu, err);
}

/* ---- mntp ---- */
/* What stands where `id` was chosen. */
static int32_t replaced(const vp_mask *m, const uint32_t word[4], int32_t id) {
    if (m->o.fill == VP_FILL_ALL || word[1] < 0.8 * WORD) return m->mask_id;
    if (word[1] < 0.9 * WORD) return (int32_t)((uint64_t)word[2] * (uint64_t)m->vocab >> 32);
    return id;
}

/* One row: n tokens. Returns its marked positions. */
static int64_t hide(const vp_mask *m, int64_t step, int64_t row, int32_t *ids, int32_t *target, int32_t n) {
    int64_t marked = 0;
    for (int32_t i = 0; i < n; i++) {
        uint32_t word[4];
        if (m->special[ids[i]]) continue;
        vp_mask_draw(m, step, (uint32_t)i, (uint32_t)row, word);
        if (!(word[0] < m->o.rate * WORD)) continue;
        if (i) {
            target[i - 1] = ids[i];
            marked++;
        }
        ids[i] = replaced(m, word, ids[i]);
    }
    return marked;
}

int vp_mask_columns_mntp(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err) {
    int32_t *ids, *target;
    const vp_column *cu;
    int64_t marked = 0;
    vp_frame_drop(f, "weight"); /* all targets weigh 1 */
    VP_TRY(own_tokens(f, &ids, &target, &cu, err));
    for (int64_t t = 0; t < f->T; t++)
        if (ids[t] < 0 || ids[t] >= m->vocab)
            return vp_fail(err, VP_DATA, "step %lld: id %d is outside the tokenizer's vocabulary of %lld",
                           (long long)step->step, ids[t], (long long)m->vocab);
    for (int64_t b = 0; b < f->B; b++) {
        const int32_t from = vp_column_i32(cu, b), n = vp_column_i32(cu, b + 1) - from;
        marked += hide(m, step->step, m->number[b], ids + from, target + from, n);
    }
    m->weight_sum = (double)marked;
    return VP_OK;
}

/* ---- generate ---- */
typedef struct answer {
    int64_t number; /* column `row` */
    int64_t b;
    int64_t targets;
} answer;

static int by_number(const void *a, const void *b) {
    const answer *x = a, *y = b;
    return (x->number > y->number) - (x->number < y->number);
}

int32_t vp_mask_last_answer(const uint8_t *keep, int32_t n) {
    while (n > 0 && keep[n - 1]) n--;
    return n;
}

/* target[i] = ids[i + 1] where that token is part of an answer and at `first` or behind it; counts them. */
static int64_t next_tokens(const int32_t *ids, const uint8_t *keep, int32_t *target, int32_t first, int32_t n) {
    int64_t targets = 0;
    for (int32_t i = first ? first - 1 : 0; i + 1 < n; i++)
        if (!keep || keep[i + 1]) {
            target[i] = ids[i + 1];
            targets++;
        }
    return targets;
}

/* The weight of each of the n rows' tokens, and weight_sum: sum(weight loss) / weight_sum is the reduction. */
static double weigh(const vp_mask *m, const answer *a, int64_t n, float *weight) {
    double sum = 0;
    const int64_t groups = m->o.reduce == VP_REDUCE_MIXED ? m->o.groups : n;
    if (m->o.reduce == VP_REDUCE_TOKEN) {
        for (int64_t i = 0; i < n; i++) weight[a[i].b] = 1;
        return (double)n;
    }
    for (int64_t i = 0, end; i < n; i = end) { /* rows [i, end) are one group */
        int64_t targets = 0;
        for (end = i; end < n && end * groups / n == i * groups / n; end++) targets += a[end].targets;
        for (int64_t k = i; targets && k < end; k++) weight[a[k].b] = (float)(1 / (double)targets);
        sum += targets > 0;
    }
    return sum;
}

static int weigh_rows(vp_mask *m, vp_frame *f, answer *a, int64_t n, const int32_t *target, const vp_column *cu,
                      vp_error *err) {
    float *weight = vp_mask_put(f, "weight", VP_F32, f->T, err);
    if (!weight) return err->code;
    float *of_row = vp_calloc((size_t)f->B + 1, sizeof *of_row);
    if (!of_row) return vp_fail_memory(err, "weights", (size_t)f->B * sizeof *of_row);
    if (n) qsort(a, (size_t)n, sizeof *a, by_number);
    m->weight_sum = weigh(m, a, n, of_row);
    for (int64_t b = 0; b < f->B; b++)
        for (int32_t t = vp_column_i32(cu, b); t < vp_column_i32(cu, b + 1); t++)
            weight[t] = target[t] >= 0 ? of_row[b] : 0;
    free(of_row);
    return VP_OK;
}

/* Column prefix, as it was or 0. */
static int own_prefix(vp_frame *f, int32_t **prefix, vp_error *err) {
    int32_t *was = NULL;
    int64_t n = 0;
    VP_TRY(vp_frame_ints(f, "prefix", &was, &n, err));
    int status = was && n != f->B ? vp_frame_fail(f, VP_DATA, err, "prefix does not fit") : VP_OK;
    if (!status && !(*prefix = vp_mask_put(f, "prefix", VP_I32, f->B, err))) status = err->code;
    for (int64_t b = 0; !status && b < f->B; b++) (*prefix)[b] = was ? was[b] : 0;
    free(was);
    return status;
}

/* Of the first n rows. */
static int predict_next(vp_mask *m, vp_frame *f, int64_t n, vp_error *err) {
    int32_t *ids, *target;
    const vp_column *cu;
    int32_t *prefix = NULL;
    VP_TRY(own_tokens(f, &ids, &target, &cu, err));
    if (m->o.prefix) VP_TRY(own_prefix(f, &prefix, err));
    const vp_column *keep = vp_frame_find(f, "keep");
    answer *a = vp_calloc((size_t)n + 1, sizeof *a);
    if (!a) return vp_fail_memory(err, "answers", (size_t)n * sizeof *a);
    for (int64_t b = 0; b < n; b++) {
        const int32_t from = vp_column_i32(cu, b), length = vp_column_i32(cu, b + 1) - from;
        const uint8_t *kept = keep ? keep->data + from : NULL;
        const int32_t first = m->o.prefix && kept ? vp_mask_last_answer(kept, length) : 0;
        a[b] = (answer){m->number[b], b, next_tokens(ids + from, kept, target + from, first, length)};
        if (prefix) prefix[b] = first;
    }
    const int status = weigh_rows(m, f, a, n, target, cu, err);
    free(a);
    return status;
}

int vp_mask_columns_generate(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err) {
    (void)step;
    return predict_next(m, f, f->B, err);
}

int vp_mask_columns_grit(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err) {
    return predict_next(m, f, step->generative, err);
}
