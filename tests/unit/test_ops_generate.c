/* The operations of generation: attention over cached keys, products with weights row by row, sampling; each against
 * plain double precision, and to the byte whatever stands beside a query, a row of x or of logits. */
#include "lib/base/half.h"
#include "tests/unit/ops_case.h"
#include "tests/unit/reference.h"
#include <math.h>
#include <string.h>

static const double EPS = 1.0 / 16777216.0; /* half a unit in the last place of 1 */

/* ---- attention over spans ---- */
typedef struct cached {
    vp_attn_op whole, op; /* over all tokens; of the last ones over spans */
    vp_batch all, batch;
    int32_t *fresh; /* [B] queries */
} cached;

/* Numbers that bf16 has, so that a span of either type holds them. */
static void round_all(const vp_mat *m) {
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t i = 0; i < m->cols; i++) mat_row(m, r)[i] = vp_bf16_float(vp_float_bf16(mat_row(m, r)[i]));
}

/* Rows [from, from + n) of k and v as a span of either type. */
static vp_span make_span(op_case *c, const vp_mat *k, const vp_mat *v, int64_t from, int64_t n) {
    const int64_t ld = k->cols + case_int(c, 0, 3);
    const bool bf16 = case_int(c, 0, 1) == 1;
    void *to[2];
    for (int i = 0; i < 2; i++) {
        float *f = to[i] = case_alloc(c, (size_t)(n * ld + 1) * sizeof *f);
        uint16_t *h = to[i];
        const vp_mat *m = i ? v : k;
        for (int64_t r = 0; r < n; r++)
            for (int64_t j = 0; j < m->cols; j++)
                if (bf16)
                    h[r * ld + j] = vp_float_bf16(mat_row(m, from + r)[j]);
                else
                    f[r * ld + j] = mat_row(m, from + r)[j];
    }
    return (vp_span){.k = to[0], .v = to[1], .dtype = bf16 ? VP_BF16 : VP_F32, .ld = ld, .length = (int32_t)n};
}

/* The spans of the op anew: keys [0, n - own) of every sequence, own of them left to the op's k and v. */
static void cut_spans(op_case *c, cached *a) {
    const int64_t B = a->batch.B;
    const vp_span **spans = case_alloc(c, (size_t)B * sizeof *spans);
    int32_t *nspans = case_alloc(c, (size_t)B * sizeof *nspans), *cu_k = case_alloc(c, (size_t)(B + 1) * 4);
    const bool own = case_int(c, 0, 1) == 1;
    for (int64_t b = 0; b < B; b++) {
        const int64_t from = a->all.cu_q[b], n = a->all.cu_q[b + 1] - from, kept = own ? n - a->fresh[b] : n;
        vp_span *list = case_alloc(c, 4 * sizeof *list);
        int64_t at = 0;
        for (nspans[b] = 0; nspans[b] < 4 && at < kept; nspans[b]++) {
            const int64_t take = nspans[b] == 3 ? kept - at : case_int(c, 0, kept - at);
            list[nspans[b]] = make_span(c, &a->whole.k, &a->whole.v, from + at, take);
            at += take;
        }
        spans[b] = list;
        cu_k[b + 1] = cu_k[b] + (own ? a->fresh[b] : 0);
    }
    a->batch.cu_k = cu_k;
    a->op.spans = spans;
    a->op.nspans = nspans;
    a->op.most_keys = 0;
    for (int64_t b = 0; b < B; b++)
        if (a->all.cu_q[b + 1] - a->all.cu_q[b] > a->op.most_keys)
            a->op.most_keys = a->all.cu_q[b + 1] - a->all.cu_q[b];
    a->op.k = case_mat(c, cu_k[B], a->whole.k.cols);
    a->op.v = a->op.k;
    a->op.v.ptr = case_floats(c, cu_k[B] * a->op.k.ld + 1);
    for (int64_t b = 0; b < B && own; b++)
        for (int64_t i = 0; i < a->fresh[b]; i++) {
            const int64_t row = a->all.cu_q[b + 1] - a->fresh[b] + i;
            memcpy(mat_row(&a->op.k, cu_k[b] + i), mat_row(&a->whole.k, row), (size_t)a->op.k.cols * sizeof(float));
            memcpy(mat_row(&a->op.v, cu_k[b] + i), mat_row(&a->whole.v, row), (size_t)a->op.k.cols * sizeof(float));
        }
}

static void random_whole(op_case *c, cached *a) {
    static const int32_t widths[] = {8, 16, 18, 32, 64, 80, 128, 5, 256};
    const int32_t groups = (int32_t)case_int(c, 1, 3), heads = groups * (int32_t)case_int(c, 1, 4);
    const int32_t d = widths[case_int(c, 0, 8)];
    const int64_t B = case_int(c, 1, 4);
    a->all = case_batch(c, case_offsets(c, B, 700), B);
    a->whole = (vp_attn_op){.batch = &a->all, .heads = heads, .groups = groups, .d = d};
    a->whole.mode = case_int(c, 0, 3) ? VP_ATTN_CAUSAL : VP_ATTN_BI;
    a->whole.window = case_int(c, 0, 2) ? 0 : (int32_t)case_size(c, 400);
    a->whole.scale = 0.3f + 0.25f * case_float(c);
    a->whole.softcap = case_int(c, 0, 3) ? 0.0f : 2.0f + case_float(c);
    a->whole.q = case_mat(c, a->all.T, (int64_t)heads * d);
    a->whole.k = case_mat(c, a->all.T, (int64_t)groups * d);
    a->whole.v = case_mat(c, a->all.T, (int64_t)groups * d);
    a->whole.out = case_mat(c, a->all.T, (int64_t)heads * d);
    round_all(&a->whole.k);
    round_all(&a->whole.v);
}

/* The last tokens of every sequence become queries: one each, or any number. */
static void take_fresh(op_case *c, cached *a) {
    const int64_t B = a->all.B;
    int32_t *cu = case_alloc(c, (size_t)(B + 1) * sizeof *cu), *off = case_alloc(c, (size_t)B * sizeof *off);
    const bool single = case_int(c, 0, 2) == 0;
    a->fresh = case_alloc(c, (size_t)B * sizeof *a->fresh);
    for (int64_t b = 0; b < B; b++) {
        const int32_t n = a->all.cu_q[b + 1] - a->all.cu_q[b];
        a->fresh[b] = n && single ? 1 : (int32_t)case_int(c, 0, n);
        off[b] = n - a->fresh[b];
        cu[b + 1] = cu[b] + a->fresh[b];
    }
    a->batch = case_batch(c, cu, B);
    a->batch.q_off = off;
    a->op = a->whole;
    a->op.batch = &a->batch;
    a->op.q = case_mat(c, a->batch.T, a->whole.q.cols);
    a->op.out = case_mat(c, a->batch.T, a->whole.q.cols);
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < a->fresh[b]; i++)
            memcpy(mat_row(&a->op.q, cu[b] + i), mat_row(&a->whole.q, a->all.cu_q[b] + off[b] + i),
                   (size_t)a->op.q.cols * sizeof(float));
}

static void check_want(op_case *c, const cached *a, const vp_mat *out, const double *all, double bound) {
    const int64_t width = out->cols;
    double *want = case_alloc(c, (size_t)(a->batch.T * width + 1) * sizeof *want);
    for (int64_t b = 0; b < a->batch.B; b++)
        memcpy(want + a->batch.cu_q[b] * width, all + (a->all.cu_q[b] + a->batch.q_off[b]) * width,
               (size_t)(a->fresh[b] * width) * sizeof *want);
    case_near(c, "attn", out, want, NULL, bound);
}

/* In bf16 the weights of values up to 1 are rounded, and the result: half a unit in the last of 8 digits each; the same
 * bytes from other spans. */
static void check_attn_bf16(op_case *c, const cached *a, const double *want) {
    cached half = *a;
    half.op.batch = &half.batch;
    half.op.q = case_bf16(c, &half.op.q);
    for (int i = 0; i < 2; i++) {
        const vp_attn_op first = half.op;
        cut_spans(c, &half);
        half.op.k = case_bf16(c, &half.op.k);
        half.op.v = case_bf16(c, &half.op.v);
        vp_mat out = case_mat(c, a->op.out.rows, a->op.out.cols);
        half.op.out = case_bf16(c, &out);
        CASE_OK(c, c->be->attn(c->one, &half.op), c->one);
        const vp_mat got = case_f32(c, &half.op.out);
        if (i == 0) check_want(c, &half, &got, want, 3.0 / 512);
        if (i == 0) continue;
        const vp_mat before = case_f32(c, &first.out);
        case_same_bytes(c, "other spans in bf16", &got, &before);
    }
}

static void test_attn(op_case *c) {
    cached a;
    vp_caps caps;
    random_whole(c, &a);
    c->be->caps(c->device_one, &caps);
    if (caps.bf16_states) round_all(&a.whole.q);
    double *want = case_alloc(c, (size_t)(a.all.T * a.whole.out.cols + 1) * sizeof *want);
    ref_attn(&a.whole, want);
    take_fresh(c, &a);
    cut_spans(c, &a);
    CASE_OK(c, c->be->attn(c->one, &a.op), c->one);
    check_want(c, &a, &a.op.out, want, 4e-6);
    case_guards(c, "out", &a.op.out);
    /* cut otherwise, in other tiles, with 3 threads */
    cached again = a;
    again.batch = case_batch(c, a.batch.cu_q, a.batch.B);
    again.batch.q_off = a.batch.q_off;
    again.op.batch = &again.batch;
    again.op.out = case_mat(c, a.batch.T, a.op.out.cols);
    cut_spans(c, &again);
    CASE_OK(c, c->be->attn(c->three, &again.op), c->three);
    case_same_bytes(c, "other spans, other tiles, 3 threads", &again.op.out, &a.op.out);
    if (caps.bf16_states) check_attn_bf16(c, &a, want);
}

static void test_attn_refusals(op_case *c) {
    cached a;
    vp_caps caps;
    c->be->caps(c->device_one, &caps);
    if (caps.separate) return; /* offsets on a device are nothing that its host could check */
    random_whole(c, &a);
    take_fresh(c, &a);
    cut_spans(c, &a);
    int32_t *off = case_alloc(c, (size_t)a.batch.B * sizeof *off);
    for (int64_t b = 0; b < a.batch.B; b++) off[b] = a.batch.q_off[b] + 1;
    a.batch.q_off = off;
    if (a.batch.T && (c->be->attn(c->one, &a.op) != VP_BUG || !strstr(c->be->why(c->one), "do not fit")))
        case_fail(c, "a query behind the keys gave '%s'", c->be->why(c->one));
}

/* ---- appending ---- */
static void test_append(op_case *c) {
    const int64_t B = case_int(c, 1, 4), width = case_size(c, 100), ld = width + case_int(c, 0, 3);
    const vp_batch batch = case_batch(c, case_offsets(c, B, 20), B);
    const bool bf16 = case_int(c, 0, 1) == 1;
    const size_t room = (size_t)(20 * ld + 8) * sizeof(float) * 4;
    void **to[2] = {case_alloc(c, (size_t)B * sizeof(void *)), case_alloc(c, (size_t)B * sizeof(void *))};
    for (int64_t b = 0; b < B; b++)
        for (int i = 0; i < 2; i++) to[i][b] = case_alloc(c, room);
    const vp_mat m[2] = {case_mat(c, batch.T, width), case_mat(c, batch.T, width)};
    vp_kv_op op = {.batch = &batch, .k = m[0], .v = m[1], .k_to = to[0], .v_to = to[1], .ld = ld};
    op.dtype = bf16 ? VP_BF16 : VP_F32;
    CASE_OK(c, c->be->kv_append(c->three, &op), c->three);
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = batch.cu_q[b]; t < batch.cu_q[b + 1]; t++)
            for (int64_t i = 0; i < 2 * width; i++) {
                const int64_t at = (t - batch.cu_q[b]) * ld + i % width;
                const void *row = to[i / width][b];
                const float x = mat_row(&m[i / width], t)[i % width];
                const float got = bf16 ? vp_bf16_float(((const uint16_t *)row)[at]) : ((const float *)row)[at];
                if (got != (bf16 ? vp_bf16_float(vp_float_bf16(x)) : x)) case_fail(c, "row %lld differs", (long long)t);
            }
}

/* ---- products ---- */
typedef struct matrix {
    const float *data;
    int64_t cols;
} matrix;

static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)err;
    const matrix *m = ctx;
    memcpy(out, m->data + row * m->cols, (size_t)m->cols * sizeof *out);
    return VP_OK;
}

/* What the weight becomes: w itself, rounded to bf16, or to 255 levels of a row. */
static void quantise(float *w, int64_t n, int64_t k, vp_dtype type) {
    for (int64_t r = 0; r < n; r++) {
        float most = 0;
        for (int64_t i = 0; i < k; i++) most = fmaxf(most, fabsf(w[r * k + i]));
        for (int64_t i = 0; i < k; i++) {
            float *x = &w[r * k + i];
            if (type == VP_BF16) *x = vp_bf16_float(vp_float_bf16(*x));
            if (type == VP_I8 && most > 0) *x = rintf(*x * (127 / most)) * (most / 127);
        }
    }
}

/* The product of runs of a few rows, each by itself: every kind of tile and the single rows. */
static void check_runs(op_case *c, const vp_linear_op *all) {
    const vp_mat got = case_mat(c, all->out.rows, all->out.cols);
    for (int64_t at = 0, n; at < got.rows; at += n) {
        n = case_int(c, 0, 1) ? 1 : case_int(c, 1, 13);
        if (n > got.rows - at) n = got.rows - at;
        vp_linear_op run = *all;
        run.x = case_cut(&all->x, at, n);
        if (all->residual.ptr) run.residual = case_cut(&all->residual, at, n);
        run.out = case_cut(&got, at, n);
        CASE_OK(c, c->be->linear(c->three, &run), c->three);
    }
    case_same_bytes(c, "rows in runs", &got, &all->out);
}

/* BF16 in and out is the F32 result of the same numbers, rounded. */
static void check_rounded(op_case *c, const vp_linear_op *op, vp_mat *x, const vp_mat *want) {
    vp_linear_op half = *op;
    half.x = case_bf16(c, x);
    half.out = case_copy(c, want);
    half.out = case_bf16(c, &half.out);
    CASE_OK(c, c->be->linear(c->one, &half), c->one);
    CASE_OK(c, c->be->linear(c->one, op), c->one);
    vp_mat rounded = case_copy(c, want);
    case_bf16(c, &rounded);
    const vp_mat got = case_f32(c, &half.out);
    case_same_bytes(c, "in bf16", &got, &rounded);
}

static void check_rows(op_case *c, vp_dtype type) {
    const int64_t m = case_size(c, 300), n = case_size(c, 200), k = case_size(c, 300);
    float *w = case_floats(c, n * k), *bias = case_int(c, 0, 1) ? case_floats(c, n) : NULL;
    for (int64_t i = 0; i < k && n > 1; i++) w[k + i] = 0; /* a row of zeros */
    const matrix source = {w, k};
    const vp_weight_part part = {n, read_row, &source};
    const vp_weight_desc desc = {
        .part = &part, .nparts = 1, .in = k, .out = n, .bias = bias, .compute = type, .rows = true, .name = "w"};
    vp_weight *weight = NULL;
    vp_error err = {0};
    if (c->be->weight_prepare(c->device_three, &desc, &weight, &err)) {
        case_fail(c, "%s", err.text);
        return;
    }
    vp_linear_op op = {.weight = weight, .x = case_mat(c, m, k), .out = case_mat(c, m, n)};
    if (case_int(c, 0, 1)) op.residual = case_mat(c, m, n);
    CASE_OK(c, c->be->linear(c->one, &op), c->one);
    double *want = case_alloc(c, (size_t)(m * n) * sizeof *want), *size = case_alloc(c, (size_t)(m * n) * sizeof *size);
    vp_caps caps;
    c->be->caps(c->device_three, &caps);
    vp_mat x = case_copy(c, &op.x);
    if (type != VP_F32 && caps.bf16 && !caps.separate) round_all(&x);
    quantise(w, n, k, type);
    ref_product(&x, w, n, want, size);
    for (int64_t i = 0; i < m * n; i++) {
        if (bias) want[i] += (double)bias[i % n];
        if (op.residual.ptr) want[i] += (double)mat_row(&op.residual, i / n)[i % n];
        size[i] = ((double)k + 6) * EPS * (size[i] + 3);
    }
    case_near(c, "linear", &op.out, want, size, 0);
    case_guards(c, "out", &op.out);
    check_runs(c, &op);
    if (caps.bf16_states) check_rounded(c, &op, &op.x, &op.out);
    c->be->weight_free(c->device_three, weight);
}

static void test_rows(op_case *c) {
    check_rows(c, VP_F32);
    check_rows(c, VP_BF16);
    check_rows(c, VP_I8);
}

/* ---- sampling ---- */
typedef struct draws { /* rows of one distribution */
    vp_sample_op op;
    vp_mat given;
    double *p; /* [V] what they are drawn from */
} draws;

/* rows copies of random logits, with ties */
static draws make_draws(op_case *c, int64_t rows, int64_t V) {
    draws d = {.given = case_mat(c, rows, V)};
    float *first = mat_row(&d.given, 0);
    for (int64_t i = 0; i < V; i++) first[i] = 4 * roundf(first[i] * 8) / 8;
    int64_t *row = case_alloc(c, (size_t)rows * sizeof *row), *step = case_alloc(c, (size_t)rows * sizeof *step);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(mat_row(&d.given, r), first, (size_t)V * sizeof(float));
        row[r] = r;
        step[r] = 3;
    }
    d.op = (vp_sample_op){.penalty = 1, .temperature = 1, .top_p = 1, .seed = (uint64_t)case_int(c, 0, 1 << 30)};
    d.op.row = row;
    d.op.step = step;
    d.op.out = case_alloc(c, (size_t)rows * sizeof *d.op.out);
    d.p = case_alloc(c, (size_t)V * sizeof *d.p);
    return d;
}

/* What the options make of the logits: sorted by probability and id, cut, normalised. */
static void expect(op_case *c, draws *d) {
    const int64_t V = d->given.cols;
    const float *z = mat_row(&d->given, 0);
    int32_t *order = case_alloc(c, (size_t)V * sizeof *order);
    double sum = 0, all = 0;
    for (int64_t i = 0; i < V; i++) {
        d->p[i] = exp((double)z[i] / (double)d->op.temperature);
        int64_t at = i;
        for (; at > 0 && z[order[at - 1]] < z[i]; at--) order[at] = order[at - 1];
        order[at] = (int32_t)i;
    }
    const int64_t most = d->op.top_k && d->op.top_k < V ? d->op.top_k : V;
    for (int64_t i = 0; i < most; i++) all += d->p[order[i]];
    int64_t kept = 0;
    while (kept < most && (kept == 0 || sum < (double)d->op.top_p * all)) sum += d->p[order[kept++]];
    for (int64_t i = 0; i < V; i++) d->p[order[i]] = i < kept ? d->p[order[i]] / sum : 0;
}

/* Pearson's statistic over tokens that are expected at least 5 times, the others together. Its mean is the degrees of
 * freedom k, its variance 2 k: 6 deviations never happen. */
static void check_counts(op_case *c, const draws *d) {
    const int64_t rows = d->given.rows, V = d->given.cols;
    double *count = case_alloc(c, (size_t)V * sizeof *count), chi = 0, rest = 0, rest_count = 0, cells = -1;
    for (int64_t r = 0; r < rows; r++) count[d->op.out[r]]++;
    for (int64_t i = 0; i < V; i++) {
        const double want = d->p[i] * (double)rows;
        if (want == 0 && count[i] > 0) case_fail(c, "token %lld cannot be drawn", (long long)i);
        if (want < 5) {
            rest += want;
            rest_count += count[i];
        } else {
            chi += (count[i] - want) * (count[i] - want) / want;
            cells++;
        }
    }
    if (rest > 0.5) {
        chi += (rest_count - rest) * (rest_count - rest) / rest;
        cells++;
    }
    if (cells > 0 && !(chi <= cells + 6 * sqrt(2 * cells) + 6))
        case_fail(c, "chi-square %.1f with %.0f degrees of freedom", chi, cells);
}

static void test_sample(op_case *c) {
    vp_caps caps;
    c->be->caps(c->device_three, &caps);
    const int64_t rows = strcmp(caps.isa, "shim") ? 3000 : 300, V = case_int(c, 1, 60); /* fibers are slow */
    draws d = make_draws(c, rows, V);
    d.op.temperature = 0.5f + (float)case_int(c, 0, 3) * 0.4f;
    if (case_int(c, 0, 1)) d.op.top_k = (int32_t)case_int(c, 1, V + 2);
    if (case_int(c, 0, 1)) d.op.top_p = 0.05f + 0.9f * fabsf(case_float(c));
    d.op.logits = case_copy(c, &d.given);
    float *logprob = d.op.logprob = case_alloc(c, (size_t)rows * sizeof *logprob);
    expect(c, &d);
    CASE_OK(c, c->be->sample(c->three, &d.op), c->three);
    check_counts(c, &d);
    const float *z = mat_row(&d.given, 0);
    double sum = 0;
    for (int64_t i = 0; i < V; i++) sum += exp((double)z[i]);
    for (int64_t r = 0; r < rows; r++)
        if (!(fabs((double)logprob[r] - ((double)z[d.op.out[r]] - log(sum))) <= 1e-5))
            case_fail(c, "log-probability %g", (double)logprob[r]);
    /* a row alone draws what it drew */
    const int64_t r = case_int(c, 0, rows - 1);
    vp_sample_op alone = d.op;
    int32_t *got = case_alloc(c, sizeof *got);
    alone.logits = case_cut(&d.given, r, 1);
    alone.row += r;
    alone.step += r;
    alone.out = got;
    alone.logprob = NULL;
    CASE_OK(c, c->be->sample(c->one, &alone), c->one);
    if (*got != d.op.out[r]) case_fail(c, "row %lld alone gives another token", (long long)r);
}

/* Large vocabularies: the tokens that the CPU draws. */
static void test_wide(op_case *c) {
    const vp_backend *cpu = vp_backend_cpu();
    const vp_device_options options = {.threads = 1, .isa = "scalar"};
    vp_device *device = NULL;
    vp_queue *queue = NULL;
    vp_error err = {0};
    if (cpu->open(&device, &options, &err) || cpu->queue_open(&queue, device, &err)) {
        case_fail(c, "%s", err.text);
        return;
    }
    const int64_t rows = 3, V = case_int(c, 500, 40000);
    draws d = make_draws(c, rows, V);
    d.op.temperature = 0.3f + fabsf(case_float(c));
    if (case_int(c, 0, 1)) d.op.top_k = (int32_t)case_int(c, 1, V);
    if (case_int(c, 0, 1)) d.op.top_p = 0.05f + 0.9f * fabsf(case_float(c));
    d.op.logits = case_copy(c, &d.given);
    CASE_OK(c, c->be->sample(c->three, &d.op), c->three);
    vp_sample_op want = d.op;
    want.logits = case_copy(c, &d.given);
    want.out = case_alloc(c, (size_t)rows * sizeof *want.out);
    if (cpu->sample(queue, &want)) case_fail(c, "%s", cpu->why(queue));
    for (int64_t r = 0; r < rows; r++)
        if (d.op.out[r] != want.out[r])
            case_fail(c, "of %lld tokens %d is drawn, on the CPU %d", (long long)V, d.op.out[r], want.out[r]);
    cpu->queue_close(queue);
    cpu->close(device);
}

static void test_greedy(op_case *c) {
    const int64_t rows = 20, V = case_int(c, 2, 60);
    draws d = make_draws(c, rows, V);
    int64_t *cu = case_alloc(c, (size_t)(rows + 1) * sizeof *cu);
    int32_t *seen = case_alloc(c, (size_t)(rows * V) * sizeof *seen);
    d.op.temperature = 0;
    d.op.penalty = 1.5f;
    d.op.seen = seen;
    d.op.seen_cu = cu;
    for (int64_t r = 0; r < rows; r++) {
        cu[r + 1] = cu[r];
        for (int64_t i = 0; i < V; i++)
            if (case_int(c, 0, 1)) seen[cu[r + 1]++] = (int32_t)i;
    }
    d.op.logits = case_copy(c, &d.given);
    CASE_OK(c, c->be->sample(c->three, &d.op), c->three);
    for (int64_t r = 0; r < rows; r++) {
        float z[60];
        memcpy(z, mat_row(&d.given, r), (size_t)V * sizeof *z);
        for (int64_t i = cu[r]; i < cu[r + 1]; i++) z[seen[i]] *= z[seen[i]] > 0 ? 1 / 1.5f : 1.5f;
        for (int64_t i = 0; i < V; i++)
            if (z[i] > z[d.op.out[r]] * (1 + 1e-6f) && z[i] - z[d.op.out[r]] > 1e-6f)
                case_fail(c, "row %lld: token %lld is likelier", (long long)r, (long long)i);
    }
    int32_t want[20];
    memcpy(want, d.op.out, sizeof want);
    want[2] = -1;
    d.op.logits = case_copy(c, &d.given);
    mat_row(&d.op.logits, 2)[V - 1] = NAN;
    CASE_OK(c, c->be->sample(c->three, &d.op), c->three);
    if (memcmp(want, d.op.out, sizeof want) != 0) case_fail(c, "NaN in row 2 gave token %d", (int)d.op.out[2]);
}

int main(int argc, char **argv) {
    static const op_test tests[] = {{"cached", test_attn, 30},   {"refusals", test_attn_refusals, 5},
                                    {"append", test_append, 10}, {"rows", test_rows, 12},
                                    {"sample", test_sample, 30}, {"wide", test_wide, 20},
                                    {"greedy", test_greedy, 10}};
    return op_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
