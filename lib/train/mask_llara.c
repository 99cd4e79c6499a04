/* LLaRA's pre-training rows (Li et al., Making Large Language Models a Better Foundation for Dense Retrieval): a text
 * between the pieces of its prompt, with slots that must predict the tokens of the text itself and slots that must
 * predict those of the next one, neither of which sees the other. Legend: p, n, s0, s1 tokens of the prefix, the text
 * and the two suffixes with their slots. */
#include "lib/stream/private.h"
#include "lib/text/slots.h"
#include "lib/train/mask_kinds.h"
#include <stdlib.h>
#include <string.h>

typedef struct goals { /* the rows whose tokens a text's slots must predict */
    vp_frame_row at[2];
    bool has[2];
} goals;

struct vp_mask_llara {
    const vp_slot_prompt *prompt;
    vp_tokens prefix, suffix[2], specials; /* specials: what the tokenizer puts around a text */
    size_t before;                         /* of them, before it */
    goals *goal;                           /* of the rows that were taken */
    size_t cap;
    /* the step's columns */
    vp_buf ids, pos, seg, target, weight, cu, bag, bag_cu;
    int64_t with[2], tokens; /* rows that have something to predict, by suffix; next-token targets */
    int64_t alone;           /* of all steps: rows without a next text, where one is wanted */
};

/* ---- opening ---- */

int vp_mask_llara_open(vp_mask *m, const char *prompt, const vp_tokenizer *t, vp_error *err) {
    struct vp_mask_llara *l = m->llara = vp_calloc(1, sizeof *l);
    size_t after;
    if (!l) return vp_fail_memory(err, "a mask", sizeof *l);
    if (!(l->prompt = vp_slots_find(prompt)))
        return vp_fail(err, VP_USAGE, "--prompt: '%s' is none of " VP_SLOT_PROMPTS, prompt);
    vp_tokenizer_specials(t, &l->before, &after);
    VP_TRY(vp_tokenizer_encode(t, "", 0, true, &l->specials, err));
    VP_TRY(vp_slots_prefix(l->prompt, t, true, &l->prefix, err));
    for (int k = 0; k < 2; k++) VP_TRY(vp_slots_suffix(l->prompt, t, (vp_slot_side)k, &l->suffix[k], err));
    const int64_t around = (int64_t)(l->prefix.n + l->suffix[0].n + l->suffix[1].n);
    if (m->o.max_len && m->o.max_len <= around)
        return vp_fail(err, VP_USAGE, "--max-len %lld leaves no room beside the %lld tokens of the prompt",
                       (long long)m->o.max_len, (long long)around);
    return VP_OK;
}

void vp_mask_llara_close(vp_mask *m) {
    struct vp_mask_llara *l = m->llara;
    if (!l) return;
    vp_tokens *const tokens[] = {&l->prefix, &l->suffix[0], &l->suffix[1], &l->specials};
    vp_buf *const bufs[] = {&l->ids, &l->pos, &l->seg, &l->target, &l->weight, &l->cu, &l->bag, &l->bag_cu};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) vp_tokens_free(tokens[i]);
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) vp_buf_free(bufs[i]);
    free(l->goal);
    free(l);
}

int vp_mask_llara_describe(const vp_mask *m, vp_map *mask, vp_map *header, vp_error *err) {
    VP_TRY(vp_map_set_str(mask, "prompt", m->llara->prompt->name, err));
    VP_TRY(vp_map_set_int(mask, "max_len", m->o.max_len, err));
    VP_TRY(vp_map_set_bool(mask, "next_tokens", !m->o.no_next, err));
    if (m->o.no_next_text) VP_TRY(vp_map_set_bool(mask, "next_text", false, err));
    vp_map *encoder = vp_map_sub(header, "encoder");
    if (!encoder) encoder = vp_map_new();
    int status = encoder ? vp_map_set_str(encoder, "attention", "segments", err) : vp_fail_memory(err, "a map", 1);
    if (!status) status = vp_map_set_map(header, "encoder", encoder, err);
    vp_map_free(encoder);
    return status;
}

/* ---- which rows ---- */

static int take(vp_mask *m, vp_frame_row at, int64_t number, const goals *goal, vp_error *err) {
    struct vp_mask_llara *l = m->llara;
    VP_TRY(vp_grow(&l->goal, &l->cap, m->rows, sizeof *l->goal, "a step's rows", err));
    l->goal[m->rows] = *goal;
    return vp_mask_take(m, at, number, err);
}

/* Texts by themselves: each rebuilds itself. */
static int take_texts(vp_mask *m, const vp_step *step, vp_error *err) {
    for (int64_t i = 0; i < step->B; i++) {
        const vp_step_row *r = &step->order[i];
        VP_TRY(take(m, r->at, i, &(goals){.at = {r->at}, .has = {true}}, err));
    }
    return VP_OK;
}

/* An example [0, n): its text, what that must rebuild, and perhaps the next text. */
static int take_example(vp_mask *m, const vp_step *step, const vp_mask_candidate *c, size_t n, int64_t number,
                        vp_error *err) {
    const vp_frame *f = step->frame[c->at.frame];
    goals goal = {0};
    bool fits = n >= 2 && n <= 3 && c[0].role == VP_ROLE_QUERY;
    for (size_t i = 1; fits && i < n; i++) {
        fits = c[i].role == VP_ROLE_POSITIVE;
        goal.at[i - 1] = c[i].at;
        goal.has[i - 1] = i < 2 || !m->o.no_next_text;
    }
    if (!fits)
        return vp_frame_fail(f, VP_DATA, err, "example %d is no text with one or two that it must predict", c->group);
    return take(m, c->at, number, &goal, err);
}

int vp_mask_rows_llara(vp_mask *m, const vp_step *step, vp_error *err) {
    if (step->generative)
        return vp_frame_fail(step->frame[0], VP_DATA, err, "rows of role 3, to be generated: mask grit takes them");
    if (!step->B || !vp_frame_find(step->frame[0], "group")) return take_texts(m, step, err);
    size_t n;
    vp_mask_candidate *c = vp_calloc((size_t)step->B + 1, sizeof *c);
    if (!c) return vp_fail_memory(err, "a step's rows", (size_t)step->B * sizeof *c);
    int status = vp_mask_candidates(step, c, &n, err);
    int64_t number = 0;
    for (size_t i = 0, end; !status && i < n; i = end) {
        for (end = i + 1; end < n && c[end].group == c[i].group;) end++;
        status = take_example(m, step, c + i, end - i, number++, err);
    }
    free(c);
    return status;
}

/* ---- columns ---- */

/* A row's tokens without what the tokenizer put around them. */
static int text_of(const vp_mask *m, const vp_frame *f, int64_t b, const int32_t *ids, size_t *from, size_t *to,
                   vp_error *err) {
    const struct vp_mask_llara *l = m->llara;
    const vp_column *cu;
    VP_TRY(vp_frame_need(f, "cu", VP_I32, 1, NULL, &cu, err));
    *from = (size_t)vp_column_i32(cu, b);
    *to = (size_t)vp_column_i32(cu, b + 1);
    for (size_t i = *from; i < *to; i++)
        if (ids[i] < 0 || ids[i] >= m->vocab)
            return vp_frame_fail(f, VP_DATA, err, "id %d is outside the tokenizer's vocabulary of %lld", ids[i],
                                 (long long)m->vocab);
    const size_t after = l->specials.n - l->before, bytes = sizeof *ids;
    if (l->before && *to - *from >= l->before && !memcmp(ids + *from, l->specials.id, l->before * bytes))
        *from += l->before;
    if (after && *to - *from >= after && !memcmp(ids + *to - after, l->specials.id + l->before, after * bytes))
        *to -= after;
    return VP_OK;
}

static int put_token(struct vp_mask_llara *l, int32_t id, int32_t pos, uint8_t seg, int32_t target, float weight,
                     vp_error *err) {
    VP_TRY(vp_buf_add(&l->ids, &id, sizeof id, err));
    VP_TRY(vp_buf_add(&l->pos, &pos, sizeof pos, err));
    VP_TRY(vp_buf_add(&l->seg, &seg, sizeof seg, err));
    VP_TRY(vp_buf_add(&l->target, &target, sizeof target, err));
    return vp_buf_add(&l->weight, &weight, sizeof weight, err);
}

/* Prefix and text, segment 0, each predicting the next one of the text; then both suffixes, segments 1 and 2, from the
 * same position on. The weights of slots come when all rows are known. */
static int put_row(vp_mask *m, const int32_t *text, size_t n, const bool wanted[2], vp_error *err) {
    struct vp_mask_llara *l = m->llara;
    const size_t p = l->prefix.n, whole = p + n;
    for (size_t i = 0; i < whole; i++) {
        const bool predicts = !m->o.no_next && i + 1 >= p && i + 1 < whole;
        l->tokens += predicts;
        VP_TRY(put_token(l, i < p ? l->prefix.id[i] : text[i - p], (int32_t)i, 0, predicts ? text[i + 1 - p] : -1,
                         predicts ? 1 : 0, err));
    }
    for (int k = 0; k < 2; k++) {
        const vp_tokens *suffix = &l->suffix[k];
        for (size_t i = 0; i < suffix->n; i++) {
            const bool slot = wanted[k] && i + l->prompt->slots >= suffix->n;
            VP_TRY(put_token(l, suffix->id[i], (int32_t)(whole + i), (uint8_t)(k + 1), slot ? VP_TARGET_SLOT - k : -1,
                             0, err));
        }
    }
    const int32_t end = (int32_t)(l->ids.len / sizeof end);
    return vp_buf_add(&l->cu, &end, sizeof end, err);
}

static int by_id(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The distinct tokens of a goal that are no marks, ascending, as the next list. */
static int put_bag(vp_mask *m, const vp_step *step, const goals *goal, int k, bool *any, vp_error *err) {
    struct vp_mask_llara *l = m->llara;
    const size_t first = l->bag.len / sizeof(int32_t);
    size_t from = 0, to = 0;
    int32_t *ids = NULL;
    if (goal->has[k]) {
        const vp_frame *f = step->frame[goal->at[k].frame];
        VP_TRY(vp_frame_ints(f, "ids", &ids, NULL, err));
        int status = ids ? text_of(m, f, goal->at[k].b, ids, &from, &to, err)
                         : vp_frame_fail(f, VP_DATA, err, "no column 'ids'");
        for (size_t i = from; !status && i < to; i++)
            if (!m->special[ids[i]]) status = vp_buf_add(&l->bag, &ids[i], sizeof *ids, err);
        free(ids);
        VP_TRY(status);
    }
    const size_t n = l->bag.len / sizeof(int32_t) - first;
    int32_t *bag = (int32_t *)(void *)l->bag.data + first;
    size_t kept = 0;
    if (n) qsort(bag, n, sizeof *bag, by_id);
    for (size_t i = 0; i < n; i++)
        if (!i || bag[i] != bag[kept - 1]) bag[kept++] = bag[i];
    l->bag.len = (first + kept) * sizeof(int32_t);
    const int32_t end = (int32_t)(first + kept);
    *any = kept > 0;
    l->with[k] += *any;
    return vp_buf_add(&l->bag_cu, &end, sizeof end, err);
}

/* Of a bag: 1 / (rows that have one for this suffix), halved where both suffixes have some. */
static void weigh_slots(struct vp_mask_llara *l) {
    const int32_t *target = (const int32_t *)(const void *)l->target.data;
    float *weight = (float *)(void *)l->weight.data;
    const int64_t terms = (l->with[0] > 0) + (l->with[1] > 0), T = (int64_t)(l->target.len / sizeof *target);
    for (int64_t t = 0; t < T; t++)
        if (target[t] <= VP_TARGET_SLOT) weight[t] = (float)(1 / (double)(terms * l->with[VP_TARGET_SLOT - target[t]]));
}

static int put(vp_frame *f, const char *name, vp_dtype dtype, const vp_buf *b, vp_error *err) {
    void *data = vp_mask_put(f, name, dtype, (int64_t)(b->len / vp_dtype_size(dtype)), err);
    if (!data) return err->code;
    if (b->len) memcpy(data, b->data, b->len);
    return VP_OK;
}

/* Columns of the tokens as they were, and what examples are, go. */
static int replace_columns(const struct vp_mask_llara *l, vp_frame *f, vp_error *err) {
    static const char *const gone[] = {"keep", "word", "prefix", "group", "role", "score", "view"};
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) vp_frame_drop(f, gone[i]);
    VP_TRY(put(f, "cu", VP_I32, &l->cu, err));
    VP_TRY(put(f, "ids", VP_I32, &l->ids, err));
    VP_TRY(put(f, "pos", VP_I32, &l->pos, err));
    VP_TRY(put(f, "seg", VP_U8, &l->seg, err));
    VP_TRY(put(f, "target", VP_I32, &l->target, err));
    VP_TRY(put(f, "weight", VP_F32, &l->weight, err));
    vp_frame_measure(f);
    return vp_frame_put_lists(f, "bag", f->B, 2, (const int32_t *)(const void *)l->bag_cu.data,
                              (const int32_t *)(const void *)l->bag.data, err);
}

/* Rows that were made for something else would train without a word half of what is wanted. */
static int check_next(vp_mask *m, const vp_frame *f, vp_error *err) {
    struct vp_mask_llara *l = m->llara;
    if (m->o.no_next_text) return VP_OK;
    if (!m->all_rows && f->B && !l->with[1])
        return vp_frame_fail(f, VP_DATA, err,
                             "of the first step's %lld texts none has a next one: make them with `rows passages`, or "
                             "give --no-next-text",
                             (long long)f->B);
    l->alone += f->B - l->with[1];
    return VP_OK;
}

int64_t vp_mask_alone(const vp_mask *m) {
    return m->llara ? m->llara->alone : 0;
}

int vp_mask_columns_llara(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err) {
    struct vp_mask_llara *l = m->llara;
    const int32_t zero = 0;
    const size_t around = l->prefix.n + l->suffix[0].n + l->suffix[1].n;
    vp_buf *const bufs[] = {&l->ids, &l->pos, &l->seg, &l->target, &l->weight, &l->cu, &l->bag, &l->bag_cu};
    int32_t *ids = NULL;
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) bufs[i]->len = 0;
    l->with[0] = l->with[1] = l->tokens = 0;
    VP_TRY(vp_frame_ints(f, "ids", &ids, NULL, err));
    int status = ids ? vp_buf_add(&l->cu, &zero, sizeof zero, err) : vp_frame_fail(f, VP_DATA, err, "no column 'ids'");
    if (!status) status = vp_buf_add(&l->bag_cu, &zero, sizeof zero, err);
    for (int64_t b = 0; !status && b < f->B; b++) {
        size_t from = 0, to = 0;
        bool wanted[2];
        status = text_of(m, f, b, ids, &from, &to, err);
        const size_t room = m->o.max_len ? (size_t)m->o.max_len - around : to - from;
        for (int k = 0; !status && k < 2; k++) status = put_bag(m, step, &l->goal[b], k, &wanted[k], err);
        if (!status) status = put_row(m, ids + from, to - from < room ? to - from : room, wanted, err);
    }
    free(ids);
    VP_TRY(status);
    VP_TRY(check_next(m, f, err));
    weigh_slots(l);
    m->weight_sum = (double)l->tokens;
    return replace_columns(l, f, err);
}
