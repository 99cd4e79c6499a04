/* Dropout: keep masks recorded from an independent implementation, by every instruction set; the operation against the
 * plain definition, to the byte; a sequence alone, in another batch, cut into calls, and in place; adapters with
 * dropout against the adapters of a dropped input; and what is refused. Attention's is in test_ops_attn.c, derivatives
 * are in test_ops_backward*.c. */
#include "kernels/cpu/simd_tables.h"
#include "kernels/dropout.h"
#include "lib/base/philox.h"
#include "tests/unit/model_support.h"
#include "tests/unit/ops_case.h"
#include "tests/unit/reference.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- recorded masks ---- */
enum { MASKS = 64 };
typedef struct mask {
    uint32_t counter[4], keep;
    uint64_t key;
    float p;
} mask;

/* Lines "c0 c1 c2 c3 key p mask"; # begins a comment. */
static int read_masks(op_case *c, mask *masks) {
    FILE *f = fopen(golden_path("dropout.txt"), "r");
    char line[200];
    int n = 0;
    if (!f) case_fail(c, "%s: cannot be read", golden_path("dropout.txt"));
    while (f && n < MASKS && fgets(line, sizeof line, f)) {
        mask *m = &masks[n];
        uint32_t *w = m->counter;
        n += line[0] != '#' && sscanf(line, "%" SCNx32 " %" SCNx32 " %" SCNx32 " %" SCNx32 " %" SCNx64 " %f %" SCNx32,
                                      &w[0], &w[1], &w[2], &w[3], &m->key, &m->p, &m->keep) == 7;
    }
    if (f) fclose(f);
    return n;
}

static void test_golden(op_case *c) {
    mask masks[MASKS] = {0};
    const vp_simd *simd = NULL;
    vp_error err = {0};
    CASE_CPU_ONLY(c, "the masks are made inside kernels");
    int n = read_masks(c, masks);
    if (n != MASKS) case_fail(c, "%d masks", n);
    if (vp_simd_choose(c->isa, &simd, &err)) case_fail(c, "%s", err.text);
    for (int i = 0; i < n && simd; i++) {
        const mask *m = &masks[i];
        uint32_t word[4], threshold = vp_drop_threshold(m->p), before[4];
        vp_philox(word, m->counter, m->key);
        vp_drop_key key;
        simd->drop->begin(&key, m->key);
        uint32_t plain = vp_drop_keep(word, threshold);
        if (plain != m->keep) case_fail(c, "mask %d is %02x, not %02x", i, plain, m->keep);
        for (uint32_t back = 0; back < 17; back++) { /* wherever in a run the counter stands */
            uint8_t bits[18] = {0};
            memcpy(before, m->counter, sizeof before);
            before[0] -= back;
            simd->drop->keep(bits, back + 1, before, &key, threshold);
            if (bits[back] != m->keep) case_fail(c, "mask %d is %02x in a run of %u", i, bits[back], back + 1);
            if (bits[back + 1]) case_fail(c, "a run of %u counters wrote more", back + 1);
        }
    }
}

/* ---- the operation ---- */
static vp_drop some_drop(op_case *c) {
    vp_drop drop = case_drop(c);
    drop.p = case_int(c, 0, 1) ? 0.1f : 0.5f;
    return drop;
}

static void check_elements(op_case *c, const vp_elem_op *op, const vp_mat *x) {
    case_guards(c, "dropout", &op->out);
    for (int64_t t = 0; t < x->rows; t++)
        for (int64_t i = 0; i < x->cols; i++) {
            float by = (float)ref_drop_token(&op->drop, op->batch, t, x->cols, i), got = mat_row(&op->out, t)[i];
            float want = by > 0.0f ? mat_row(x, t)[i] * by : 0.0f;
            if (!(got == want))
                case_fail(c, "[%lld, %lld] is %.9g, not %.9g", (long long)t, (long long)i, (double)got, (double)want);
        }
}

static void test_dropout(op_case *c) {
    int64_t B = case_int(c, 1, 5), width = case_int(c, 0, 3) ? case_size(c, 200) : case_int(c, 500, 1300);
    vp_batch batch = case_batch(c, case_offsets(c, B, 60), B);
    vp_elem_op op = {.batch = &batch, .drop = some_drop(c), .x = case_mat(c, batch.T, width)};
    op.out = case_mat(c, batch.T, width);
    CASE_OK(c, c->be->dropout(c->one, &op), c->one);
    check_elements(c, &op, &op.x);
    vp_elem_op place = op;
    place.x = place.out = case_copy(c, &op.x);
    CASE_OK(c, c->be->dropout(c->three, &place), c->three);
    case_same_bytes(c, "in place, 3 threads", &place.out, &op.out);
    int64_t b = case_int(c, 0, B - 1), from = batch.cu_q[b], n = batch.cu_q[b + 1] - from;
    int32_t *cu = case_alloc(c, 2 * sizeof *cu);
    cu[1] = (int32_t)n;
    vp_batch single = case_batch(c, cu, 1);
    single.row = batch.row + b;
    vp_elem_op alone = op;
    alone.batch = &single;
    alone.x = case_cut(&op.x, from, n);
    alone.out = case_mat(c, n, width);
    CASE_OK(c, c->be->dropout(c->one, &alone), c->one);
    vp_mat same = case_cut(&op.out, from, n);
    case_same_bytes(c, "a sequence alone", &alone.out, &same);
    op.drop.p = 0.0f;
    CASE_OK(c, c->be->dropout(c->three, &op), c->three);
    case_same_bytes(c, "p = 0", &op.out, &op.x);
}

/* Kept entries are a share 1 - p: of 2^20 within six deviations. */
static void test_share(op_case *c) {
    int32_t *cu = case_alloc(c, 2 * sizeof *cu);
    cu[1] = 1024;
    vp_batch batch = case_batch(c, cu, 1);
    vp_elem_op op = {.batch = &batch, .drop = some_drop(c), .x = case_mat(c, 1024, 1024)};
    op.out = case_mat(c, 1024, 1024);
    CASE_OK(c, c->be->dropout(c->three, &op), c->three);
    double kept = 0.0, n = 1024.0 * 1024.0, p = (double)op.drop.p;
    for (int64_t t = 0; t < 1024; t++)
        for (int64_t i = 0; i < 1024; i++) kept += mat_row(&op.out, t)[i] != 0.0f;
    if (!(fabs(kept - n * (1.0 - p)) <= 6.0 * sqrt(n * p * (1.0 - p))))
        case_fail(c, "%.0f of %.0f are kept with p = %g", kept, n, p);
}

/* ---- adapters: with dropout as without it on drop(x) ---- */
static void test_lora(op_case *c) {
    int64_t B = case_int(c, 1, 5), K = case_size(c, 150), N = case_size(c, 90), R = case_size(c, 20);
    vp_batch batch = case_batch(c, case_offsets(c, B, 60), B);
    vp_lora_part part[2] = {{.rank = (int32_t)R, .scale = 0.5f, .n = N}, {.rank = 2, .scale = 2.0f, .n = N}};
    for (int i = 0; i < 2; i++) {
        part[i].a = case_floats(c, part[i].rank * K);
        part[i].b = case_floats(c, part[i].rank * N);
    }
    vp_elem_op dropped = {.batch = &batch, .drop = some_drop(c), .x = case_mat(c, batch.T, K)};
    dropped.out = case_mat(c, batch.T, K);
    vp_lora_op op = {.part = part, .nparts = 2, .batch = &batch, .x = dropped.x, .drop = dropped.drop}, plain = op;
    op.out = case_mat(c, batch.T, N);
    plain.drop.p = 0.0f;
    plain.x = dropped.out;
    plain.out = case_copy(c, &op.out);
    CASE_OK(c, c->be->dropout(c->one, &dropped), c->one);
    CASE_OK(c, c->be->lora(c->three, &op), c->three);
    CASE_OK(c, c->be->lora(c->one, &plain), c->one);
    case_same_bytes(c, "adapters", &op.out, &plain.out);
}

/* ---- refusals ---- */
static void refuse(op_case *c, const vp_elem_op *op, const char *what) {
    if (c->be->dropout(c->one, op) != VP_BUG) case_fail(c, "%s was taken", what);
}

static void test_refusals(op_case *c) {
    int32_t cu[] = {0, 3, 7};
    vp_batch batch = case_batch(c, cu, 2), changed = batch;
    const vp_elem_op op = {.batch = &batch, .drop = some_drop(c), .x = case_mat(c, 7, 9), .out = case_mat(c, 7, 9)};
    static const float ps[] = {-0.1f, 1.0f, 1.5f, NAN, 0.999999f};
    vp_elem_op bad = op;
    for (size_t i = 0; i < sizeof ps / sizeof *ps; i++) {
        bad.drop.p = ps[i];
        refuse(c, &bad, "a p out of range");
    }
    bad = op;
    bad.drop.site = 64;
    refuse(c, &bad, "a site of 7 bits");
    bad = op;
    bad.drop.layer = 4096;
    refuse(c, &bad, "a layer of 13 bits");
    bad = op;
    bad.batch = NULL;
    refuse(c, &bad, "no batch");
    bad.batch = &changed;
    changed.row = NULL;
    refuse(c, &bad, "a batch without rows");
    changed = batch;
    changed.B = 1;
    changed.T = cu[1];
    refuse(c, &bad, "a batch of fewer tokens");
}

int main(int argc, char **argv) {
    static const op_test tests[] = {{"golden", test_golden, 1},
                                    {"dropout", test_dropout, 30},
                                    {"share", test_share, 2},
                                    {"lora", test_lora, 20},
                                    {"refusals", test_refusals, 1}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
