/* Row-wise operations wherever and however their matrices lie: rows at multiples of 16 bytes or anywhere, F32 or BF16.
 * F32 gives the same bytes in all; BF16 gives, bit for bit, what F32 gives of the same numbers, rounded once; and a
 * device agrees with the CPU. Rows are of every length that a backend treats in its own way. */
#include "lib/base/half.h"
#include "tests/unit/gradients.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST = 5 };

/* What the operations want beside matrices. */
typedef struct setting {
    vp_act act;
    vp_norm_kind kind;
    int32_t heads, d;
    float *weight, *bias, *cos, *sin;
    vp_batch batch;
    vp_drop drop;
    vp_pool_kind pool;
    uint8_t *keep;
    int32_t *index;
} setting;

typedef struct subject {
    const char *name;
    int (*run)(const vp_backend *be, vp_queue *q, const setting *s, const vp_mat *m);
    int n;            /* matrices */
    const char *kind; /* of each: r read, w written (or both); R, W: always F32 */
} subject;

/* ---- the operations ---- */
#define RUN(name) static int name(const vp_backend *be, vp_queue *q, const setting *s, const vp_mat *m)
RUN(run_glu) {
    return be->glu(q, &(vp_glu_op){.act = s->act, .gate = m[0], .up = m[1], .out = m[2]});
}
RUN(run_glu_bwd) {
    const vp_glu_op op = {.act = s->act, .gate = m[0], .up = m[1], .dout = &m[2], .dgate = &m[3], .dup = &m[4]};
    return be->glu_bwd(q, &op);
}
RUN(run_act) {
    return be->act(q, &(vp_act_op){.act = s->act, .x = m[0], .out = m[1]});
}
RUN(run_act_bwd) {
    return be->act_bwd(q, &(vp_act_op){.act = s->act, .x = m[0], .dout = &m[1], .dx = &m[2]});
}
RUN(run_add) {
    (void)s;
    return be->add(q, &(vp_elem_op){.x = m[0], .y = m[1], .out = m[2], .a = 0.7f, .b = -1.3f});
}
RUN(run_dropout) {
    return be->dropout(q, &(vp_elem_op){.x = m[0], .out = m[1], .drop = s->drop, .batch = &s->batch});
}
RUN(run_norm) {
    const vp_norm_op op = {
        .kind = s->kind, .x = m[0], .d = m[1], .out = m[2], .weight = s->weight, .bias = s->bias, .eps = 1e-5f};
    return be->norm(q, &op);
}
RUN(run_norm_heads) { /* in place, as queries and keys are */
    const vp_norm_op op = {
        .kind = s->kind, .x = m[0], .out = m[0], .weight = s->weight, .heads = s->heads, .eps = 1e-5f};
    return be->norm(q, &op);
}
RUN(run_norm_bwd) {
    const vp_norm_op op = {.kind = s->kind,
                           .x = m[0],
                           .dout = &m[1],
                           .dx = &m[2],
                           .dweight = m[3].ptr,
                           .dbias = m[4].ptr,
                           .weight = s->weight,
                           .eps = 1e-5f,
                           .batch = &s->batch};
    return be->norm_bwd(q, &op);
}
RUN(run_norm_heads_bwd) {
    const vp_norm_op op = {
        .kind = s->kind, .x = m[0], .dout = &m[1], .dx = &m[1], .weight = s->weight, .heads = s->heads, .eps = 1e-5f};
    return be->norm_bwd(q, &op);
}
RUN(run_softmax) {
    (void)s;
    return be->softmax_rows(q, &(vp_softmax_op){.x = m[0], .out = m[1]});
}
RUN(run_softmax_bwd) {
    (void)s;
    return be->softmax_rows_bwd(q, &(vp_softmax_op){.out = m[0], .dout = &m[1], .dx = &m[2]});
}
RUN(run_l2norm) {
    (void)s;
    return be->l2norm(q, &(vp_l2norm_op){.x = m[0], .out = m[1]});
}
RUN(run_l2norm_bwd) {
    (void)s;
    return be->l2norm_bwd(q, &(vp_l2norm_op){.x = m[0], .dout = &m[1], .dx = &m[2]});
}
RUN(run_rope) {
    const vp_rope_op op = {.batch = &s->batch,
                           .x = m[0],
                           .heads = s->heads,
                           .d = s->d,
                           .rotary = s->d / 2 * 2,
                           .interleaved = s->kind == VP_NORM_LAYER,
                           .sign = 1,
                           .cos = s->cos,
                           .sin = s->sin};
    return be->rope(q, &op);
}
static vp_pool_op pool_op(const setting *s, const vp_mat *x, const vp_mat *out) {
    return (vp_pool_op){.kind = s->pool, .B = s->batch.B, .cu = s->batch.cu_q, .keep = s->keep, .x = *x, .out = *out};
}
RUN(run_pool) {
    const vp_pool_op op = pool_op(s, &m[0], &m[1]);
    return be->pool(q, &op);
}
RUN(run_pool_bwd) {
    vp_pool_op op = pool_op(s, &m[0], &m[1]);
    op.dout = &m[1];
    op.dx = &m[0];
    return be->pool_bwd(q, &op);
}
RUN(run_pick) {
    return be->pick(q, &(vp_pick_op){.x = m[0], .out = m[1], .index = s->index, .M = m[1].rows});
}
RUN(run_pick_bwd) {
    const vp_pick_op op = {.x = m[0], .out = m[1], .index = s->index, .M = m[1].rows, .dout = &m[1], .dx = &m[0]};
    return be->pick_bwd(q, &op);
}

/* ---- layouts ---- */
/* The numbers of a dense matrix in another type, aligned or not, NaN between rows. */
static vp_mat lay(op_case *c, const vp_mat *from, vp_dtype type, bool aligned) {
    const size_t size = vp_dtype_size(type);
    vp_mat m = {.dtype = type, .rows = from->rows, .cols = from->cols};
    m.ld = aligned ? (m.cols + 7) / 8 * 8 : m.cols + case_int(c, 1, 4);
    const size_t bytes = (size_t)(m.rows * m.ld + 1) * size;
    char *p = case_alloc(c, bytes);
    memset(p, 0xff, bytes);
    m.ptr = aligned ? p : p + size;
    for (int64_t i = 0; i < m.rows; i++)
        for (int64_t j = 0; j < m.cols; j++) {
            const float x = mat_row(from, i)[j];
            if (type == VP_F32)
                mat_row(&m, i)[j] = x;
            else
                ((uint16_t *)m.ptr)[i * m.ld + j] = vp_float_bf16(x);
        }
    return m;
}

/* Dense again, as F32; what lies between rows must be as it was. */
static vp_mat gather(op_case *c, const char *what, const vp_mat *m) {
    static const unsigned char untouched[4] = {0xff, 0xff, 0xff, 0xff};
    const size_t size = vp_dtype_size(m->dtype);
    vp_mat dense = case_dense(c, m->rows, m->cols);
    for (int64_t i = 0; i < m->rows; i++)
        for (int64_t j = 0; j < (i + 1 < m->rows ? m->ld : m->cols); j++) {
            const char *at = (const char *)m->ptr + (size_t)(i * m->ld + j) * size;
            if (j >= m->cols && memcmp(at, untouched, size)) case_fail(c, "%s: written between rows", what);
            if (j >= m->cols) continue;
            uint16_t half;
            memcpy(&half, at, sizeof half);
            mat_row(&dense, i)[j] = m->dtype == VP_F32 ? mat_row(m, i)[j] : vp_bf16_float(half);
        }
    return dense;
}

/* Numbers that are BF16 too. */
static void round_all(vp_mat *m) {
    for (int64_t i = 0; i < m->rows * m->cols; i++)
        ((float *)m->ptr)[i] = vp_bf16_float(vp_float_bf16(((float *)m->ptr)[i]));
}

/* One run from these numbers, in one layout; what it writes, dense. */
static void run_layout(op_case *c, const subject *t, const setting *s, const vp_mat *from, vp_dtype type, bool aligned,
                       vp_mat *results) {
    vp_mat m[MOST];
    for (int i = 0; i < t->n; i++) {
        const bool fixed = t->kind[i] == 'R' || t->kind[i] == 'W', dense = from[i].rows == 1;
        m[i] = lay(c, &from[i], fixed ? VP_F32 : type, aligned || dense); /* a row of its own is a plain array */
    }
    CASE_OK(c, t->run(c->be, c->three, s, m), c->three);
    for (int i = 0; i < t->n; i++) results[i] = gather(c, t->name, &m[i]);
}

/* Sums of up to 9,003 products in f32, in two orders. */
static void compare_cpu(op_case *c, const subject *t, const setting *s, const vp_mat *from, const vp_mat *got) {
    op_case cpu = *c;
    vp_mat want[MOST];
    vp_error err = {0};
    const vp_device_options options = {.threads = 1, .isa = "auto"};
    cpu.be = vp_backend_cpu();
    if (cpu.be->open(&cpu.device_three, &options, &err) || cpu.be->queue_open(&cpu.three, cpu.device_three, &err)) {
        case_fail(c, "%s", err.text);
        return;
    }
    cpu.device_one = cpu.device_three;
    cpu.owned = NULL;
    cpu.nowned = 0;
    run_layout(&cpu, t, s, from, VP_F32, false, want);
    for (int i = 0; i < t->n; i++) {
        double *exact = case_alloc(c, (size_t)(want[i].rows * want[i].cols) * sizeof *exact), most = 1.0;
        for (int64_t k = 0; k < want[i].rows * want[i].cols; k++) {
            exact[k] = (double)((float *)want[i].ptr)[k];
            most = fmax(most, fabs(exact[k]));
        }
        case_near(c, t->name, &got[i], exact, NULL, 2e-6 * most);
    }
    if (cpu.failure[0]) case_fail(c, "the CPU: %s", cpu.failure);
    case_free(&cpu);
    cpu.be->queue_close(cpu.three);
    cpu.be->close(cpu.device_three);
}

static void check(op_case *c, const subject *t, const setting *s, vp_mat *from) {
    vp_mat want[MOST], got[MOST];
    vp_caps caps;
    c->be->caps(c->device_three, &caps);
    for (int i = 0; i < t->n; i++) round_all(&from[i]);
    run_layout(c, t, s, from, VP_F32, false, want);
    if (case_separate(c)) compare_cpu(c, t, s, from, want);
    for (int layout = 1; layout < 4; layout++) {
        const vp_dtype type = layout & 2 ? VP_BF16 : VP_F32;
        if (type == VP_BF16 && !caps.bf16_states) continue;
        run_layout(c, t, s, from, type, layout & 1, got);
        for (int i = 0; i < t->n; i++) {
            const bool half = type == VP_BF16 && (t->kind[i] == 'r' || t->kind[i] == 'w');
            vp_mat expected = case_copy(c, &want[i]);
            if (half) round_all(&expected);
            char what[80];
            snprintf(what, sizeof what, "%s, %s%s, matrix %d", t->name, half ? "bf16" : "f32",
                     layout & 1 ? ", aligned" : "", i);
            case_same_bytes(c, what, &got[i], &expected);
        }
    }
}

/* ---- cases ---- */
static int64_t row_length(op_case *c) {
    static const int64_t lengths[] = {1,    5,    8,    64,   77,   256,  257,  264,  576,
                                      1000, 1024, 1032, 2049, 4096, 5000, 8192, 8200, 9003};
    return case_int(c, 0, 2) ? lengths[case_int(c, 0, (int64_t)(sizeof lengths / sizeof *lengths) - 1)]
                             : 8 * case_int(c, 1, 100);
}

static setting some_setting(op_case *c, int64_t cols) {
    const int64_t B = case_int(c, 1, 3);
    setting s = {.act = (vp_act)case_int(c, VP_ACT_NONE, VP_ACT_TANH),
                 .kind = (vp_norm_kind)case_int(c, VP_NORM_RMS, VP_NORM_LAYER),
                 .weight = case_floats(c, cols),
                 .bias = case_floats(c, cols),
                 .drop = case_drop(c),
                 .pool = (vp_pool_kind)case_int(c, VP_POOL_MEAN, VP_POOL_FIRST)};
    s.batch = case_unit_batch(c, B, cols > 1000 ? 5 : 30);
    s.heads = (int32_t)case_int(c, 1, 3);
    while (cols % s.heads) s.heads--;
    s.d = (int32_t)(cols / s.heads);
    s.cos = case_floats(c, 40 * (s.d / 2 + 1));
    s.sin = case_floats(c, 40 * (s.d / 2 + 1));
    s.keep = case_alloc(c, (size_t)s.batch.T + 1);
    s.index = case_alloc(c, (size_t)(s.batch.T + 1) * sizeof *s.index);
    for (int64_t t = 0; t < s.batch.T; t++) {
        s.keep[t] = case_int(c, 0, 3) > 0;
        s.index[t] = (int32_t)case_int(c, 0, s.batch.T - 1);
    }
    return s;
}

static void run_subjects(op_case *c, const subject *t, size_t n) {
    const int64_t cols = row_length(c);
    const setting s = some_setting(c, cols);
    for (size_t k = 0; k < n && !c->failure[0]; k++) {
        vp_mat from[MOST];
        for (int i = 0; i < t[k].n; i++) {
            const bool weight = t[k].run == run_norm_bwd && i > 2,
                       pooled = (t[k].run == run_pool || t[k].run == run_pool_bwd) && i;
            from[i] = case_dense(c, weight ? 1 : pooled ? s.batch.B : s.batch.T, cols);
        }
        check(c, &t[k], &s, from);
    }
}

static void test_elements(op_case *c) {
    static const subject subjects[] = {{"glu", run_glu, 3, "rrw"},        {"glu_bwd", run_glu_bwd, 5, "rrrww"},
                                       {"act", run_act, 2, "rw"},         {"act_bwd", run_act_bwd, 3, "rrw"},
                                       {"add", run_add, 3, "rrw"},        {"add to f32", run_add, 3, "RrW"},
                                       {"dropout", run_dropout, 2, "rw"}, {"dropout of f32", run_dropout, 2, "Rw"},
                                       {"rope", run_rope, 1, "w"}};
    run_subjects(c, subjects, sizeof subjects / sizeof *subjects);
}

static void test_rows(op_case *c) {
    static const subject subjects[] = {{"norm", run_norm, 3, "Wrw"},
                                       {"norm to f32", run_norm, 3, "WrW"},
                                       {"norm of heads", run_norm_heads, 1, "w"},
                                       {"norm_bwd", run_norm_bwd, 5, "RrWWW"},
                                       {"norm_bwd of heads", run_norm_heads_bwd, 2, "rw"},
                                       {"softmax", run_softmax, 2, "rw"},
                                       {"softmax_bwd", run_softmax_bwd, 3, "rrw"},
                                       {"l2norm", run_l2norm, 2, "rw"},
                                       {"l2norm_bwd", run_l2norm_bwd, 3, "rrw"}};
    run_subjects(c, subjects, sizeof subjects / sizeof *subjects);
}

static void test_sequences(op_case *c) {
    static const subject subjects[] = {{"pool", run_pool, 2, "rW"},
                                       {"pool_bwd", run_pool_bwd, 2, "wR"},
                                       {"pick", run_pick, 2, "rw"},
                                       {"pick_bwd", run_pick_bwd, 2, "wr"}};
    run_subjects(c, subjects, sizeof subjects / sizeof *subjects);
}

int main(int argc, char **argv) {
    static const op_test tests[] = {
        {"elements", test_elements, 30}, {"rows", test_rows, 30}, {"sequences", test_sequences, 20}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
