/* Answers and, for KTO's zero point, every prompt with the answer to another one: that of the row after it, of the last
 * row that of the first. */
#include "lib/stream/private.h"
#include "lib/train/mask_kinds.h"
#include <stdlib.h>
#include <string.h>

typedef struct answer { /* tokens [from, to) of the step; the answer is the last run of kept ones, from `begin` on */
    int32_t from, begin, to;
} answer;

/* All rows in `row` order, and all again. */
int vp_mask_rows_kto(vp_mask *m, const vp_step *step, vp_error *err) {
    if (step->generative != step->B)
        return vp_frame_fail(step->frame[0], VP_DATA, err, "rows that are no conversations (role 3): kto takes these");
    if (step->B == 1)
        return vp_frame_fail(step->frame[0], VP_DATA, err, "one row: no other row's answer to compare with");
    for (int64_t view = 0; view < 2; view++)
        for (int64_t i = 0; i < step->B; i++) VP_TRY(vp_mask_take(m, step->order[i].at, view * step->B + i, err));
    return VP_OK;
}

static answer find_answer(const vp_column *cu, const uint8_t *keep, int64_t b) {
    answer a = {.from = vp_column_i32(cu, b), .to = vp_column_i32(cu, b + 1)};
    a.begin = a.from + vp_mask_last_answer(keep + a.from, a.to - a.from);
    return a;
}

/* Prompt of one row, answer of another, at most max_len tokens. Returns their number; ids and target NULL: that alone.
 */
static int32_t join(const vp_mask *m, const int32_t *from, answer prompt, answer of, int32_t *ids, int32_t *target) {
    const int32_t before = prompt.begin - prompt.from;
    int64_t n = before + of.to - of.begin;
    if (m->o.max_len && n > m->o.max_len) n = m->o.max_len;
    for (int32_t i = 0; ids && i < n; i++) {
        ids[i] = i < before ? from[prompt.from + i] : from[of.begin + i - before];
        target[i] = -1;
        if (i && i >= before) target[i - 1] = ids[i];
    }
    return (int32_t)n;
}

static int fill(const vp_mask *m, vp_frame *f, const int32_t *from, const answer *of, vp_error *err) {
    const int64_t n = f->B / 2;
    int32_t *cu = vp_mask_put(f, "cu", VP_I32, f->B + 1, err);
    uint8_t *view = cu ? vp_mask_put(f, "view", VP_U8, f->B, err) : NULL;
    if (!view) return err->code;
    cu[0] = 0;
    for (int64_t b = 0; b < f->B; b++) {
        view[b] = b >= n;
        const int32_t tokens = join(m, from, of[b], of[b < n ? b : (b + 1 - n) % n], NULL, NULL);
        if (__builtin_add_overflow(cu[b], tokens, &cu[b + 1]))
            return vp_fail(err, VP_DATA, "a step of more than %d tokens", INT32_MAX);
    }
    const int32_t T = cu[f->B];
    int32_t *ids = vp_mask_put(f, "ids", VP_I32, T, err),
            *target = ids ? vp_mask_put(f, "target", VP_I32, T, err) : NULL;
    float *weight = target ? vp_mask_put(f, "weight", VP_F32, T, err) : NULL;
    if (!weight) return err->code;
    for (int64_t b = 0; b < f->B; b++)
        join(m, from, of[b], of[b < n ? b : (b + 1 - n) % n], ids + cu[b], target + cu[b]);
    for (int32_t t = 0; t < T; t++) weight[t] = 1;
    vp_frame_measure(f);
    return VP_OK;
}

int vp_mask_columns_kto(vp_mask *m, const vp_step *step, vp_frame *f, vp_error *err) {
    static const char *const gone[] = {"keep", "word", "pos", "seg", "prefix"};
    const vp_column *cu, *keep;
    int32_t *ids = NULL;
    VP_TRY(vp_frame_need(f, "cu", VP_I32, 1, NULL, &cu, err));
    VP_TRY(vp_frame_need(f, "keep", VP_U8, 1, (const int64_t[]){f->T}, &keep, err));
    VP_TRY(vp_frame_ints(f, "ids", &ids, NULL, err));
    answer *of = vp_calloc((size_t)f->B + 1, sizeof *of);
    int status = ids && of ? VP_OK : vp_fail_memory(err, "answers", (size_t)f->B * sizeof *of);
    for (int64_t b = 0; !status && b < f->B; b++) of[b] = find_answer(cu, keep->data, b);
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) vp_frame_drop(f, gone[i]);
    if (!status) status = fill(m, f, ids, of, err);
    free(of);
    free(ids);
    m->weight_sum = (double)step->B;
    return status;
}
