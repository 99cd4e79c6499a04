/* Objectives of rows and of tokens, as loss and step call them: worked examples, central differences of the loss on
 * random steps, PyTorch's values, and what they refuse. */
#include "kernels/ops.h"
#include "lib/train/objective.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_B = 64, MAX_D = 24 };
typedef struct step { /* rows with their columns */
    vp_rows r;
    float emb[MAX_B * MAX_D], score[MAX_B];
    int32_t group[MAX_B];
    uint8_t role[MAX_B], view[MAX_B], hash[MAX_B][16];
    int64_t row[MAX_B];
    float loss[MAX_B], grad[MAX_B * MAX_D];
} step;

static step *new_step(int64_t B, int64_t D) {
    step *s = calloc(1, sizeof *s);
    s->r = (vp_rows){.B = B, .D = D, .emb = s->emb, .group = s->group, .role = s->role, .row = s->row};
    for (int64_t b = 0; b < B; b++) s->row[b] = 10 * b;
    return s;
}

static void add(step *s, int64_t b, int32_t group, uint8_t role, float x, float y) {
    s->group[b] = group;
    s->role[b] = role;
    s->emb[b * s->r.D] = x;
    s->emb[b * s->r.D + 1] = y;
}

/* The sum of the shares in row order; NaN and err for a failure. */
static double run(const vp_objective_options *options, step *s, vp_error *err) {
    vp_objective *o;
    *err = (vp_error){0};
    int status = vp_objective_open(&o, options, err);
    if (!status) {
        status = vp_objective_rows(o, &s->r, s->loss, s->grad, err);
        vp_objective_close(o);
    }
    double sum = 0;
    for (int64_t b = 0; b < s->r.B; b++) sum += (double)s->loss[b];
    return status ? NAN : sum;
}

static vp_objective_options options_of(const char *name, double scale) {
    vp_objective_options o = VP_OBJECTIVE_DEFAULTS;
    o.name = name;
    o.scale = scale;
    return o;
}

/* ---- three queries with positives and hard negatives ---- */

static step *worked(bool negatives) {
    static const float q[3][2] = {{3, 4}, {4, 3}, {0, 2}}, p[3][2] = {{4, 3}, {3, 4}, {-3, 4}},
                       n[3][2] = {{5, 12}, {12, 5}, {-5, 12}};
    step *s = new_step(negatives ? 9 : 6, 2);
    for (int32_t i = 0; i < 3; i++) {
        add(s, i, 7 - i, 0, q[i][0], q[i][1]);
        add(s, 3 + i, 7 - i, 1, p[i][0], p[i][1]);
        if (negatives) add(s, 6 + i, 7 - i, 2, n[i][0], n[i][1]);
    }
    return s;
}

static void expect(const char *what, step *s, const vp_objective_options *o, double mean, const double *each) {
    vp_error err;
    const double got = run(o, s, &err);
    const double bound = fmax(6e-7, 1.2e-7 * o->scale); /* cosines are floats */
    bool ok = fabs(got - mean) <= bound;
    for (int i = 0; each && i < 3; i++) ok &= fabs(3 * (double)s->loss[i] - each[i]) <= 2 * bound;
    OK(ok, "%s: %.6f is %.6f%s%s", what, mean, got, err.text[0] ? ": " : "", err.text);
    for (int64_t b = 3; b < s->r.B; b++)
        if (s->loss[b] != 0) OK(false, "%s: passages carry no loss", what);
}

static void test_worked(void) {
    step *s = worked(true), *pairs = worked(false);
    vp_objective_options o = options_of("infonce", 1);
    expect("batch, scale 1", s, &o, 1.650429, (const double[]){1.629062, 1.574632, 1.747592});
    static const double want[3][2] = {{-0.020610, 0.015458}, {0.000024, -0.000032}, {0.136705, 0}};
    for (int i = 0; i < 3; i++)
        for (int d = 0; d < 2; d++)
            OK(fabs((double)s->grad[2 * i + d] - want[i][d]) <= 6e-7, "d/dq %d %d: %.6f", i, d,
               (double)s->grad[2 * i + d]);
    o.same_tower = VP_TOWER_Q;
    expect("batch + q-q, scale 1", s, &o, 1.945872, (const double[]){1.938919, 1.875892, 2.022804});
    o.scale = 20;
    expect("batch + q-q, scale 20", s, &o, 2.239319, (const double[]){1.724326, 1.717145, 3.276486});
    o.same_tower = VP_TOWER_NONE;
    expect("batch, scale 20", s, &o, 2.091797, (const double[]){1.519071, 1.519045, 3.237275});
    expect("positives only, scale 20", pairs, &o, 1.014822, (const double[]){1.171101, 1.171101, 0.702263});
    o.scale = 50;
    expect("batch, scale 50", s, &o, 3.816951, (const double[]){2.300868, 2.300868, 6.849116});
    o.candidates = VP_CANDIDATES_OWN;
    expect("own, scale 50", s, &o, 2.685530, NULL);
    o.scale = 20;
    expect("own, scale 20", s, &o, 1.374272, NULL);
    o.scale = 1;
    expect("own, scale 1", s, &o, 0.717375, NULL);
    free(s);
    free(pairs);
}

/* As two views of three texts the pairs are the same; a text that is there twice is no negative of itself. */
static void test_views(void) {
    step *s = worked(false);
    vp_objective_options o = options_of("infonce", 20);
    for (int i = 3; i < 6; i++) s->view[i] = 1;
    memset(s->role, 0, sizeof s->role);
    s->r.view = s->view;
    expect("views beside roles that are all 0", s, &o, 1.014822, NULL);
    s->r.role = NULL;
    expect("views without roles", s, &o, 1.014822, NULL);
    s->r.hash = (const uint8_t *)s->hash;
    for (int i = 0; i < 6; i++) s->hash[i][0] = (uint8_t)(i % 3);
    o.mask_same_text = true;
    expect("three texts, masked", s, &o, 1.014822, NULL);
    s->hash[1][0] = s->hash[4][0] = 0;
    vp_error err;
    const double masked = run(&o, s, &err), cosine[2][2] = {{0.96, 0.28}, {0.96, 0}};
    double want = 0.702263; /* query 2 has all candidates; 0 and 1 lose each other's */
    for (int i = 0; i < 2; i++) want += log(1 + exp(20 * (cosine[i][1] - cosine[i][0])));
    OK(fabs(masked - want / 3) <= 2e-6, "equal texts are masked: %.6f is %.6f", want / 3, masked);
    free(s);
}

/* ---- differences ---- */

static uint64_t state = 1;
static double uniform(void) { /* (-1, 1) */
    state = state * 6364136223846793005U + 1442695040888963407U;
    return ((double)(state >> 40) + 0.5) / 8388608.0 - 1.0;
}

static step *random_step(int64_t B, int64_t D, bool complete) {
    step *s = new_step(B, D);
    s->r.score = s->score;
    s->r.hash = (const uint8_t *)s->hash;
    for (int64_t b = 0; b < B; b++) {
        s->group[b] = (int32_t)(b / 4 * 3);
        s->role[b] = (uint8_t)(b % 4 < 3 ? b % 4 : 1 + (b & 4) / 4); /* every other group has two positives */
        s->score[b] = s->role[b] ? (float)uniform() : 0.0f;
        s->hash[b][3] = (uint8_t)(b % 5);
        for (int64_t d = 0; d < D; d++) s->emb[b * D + d] = (float)uniform();
    }
    if (!complete) s->role[B - 1] = 3; /* a row without counterpart */
    return s;
}

/* All elements together in random directions, and some alone. The step is large for f32 losses: the error of a central
 * difference is f''' h^2 / 6. */
static void differences(const char *what, const vp_objective_options *o, int64_t B, int64_t D, double tolerance) {
    step *s = random_step(B, D, B % 2 == 0);
    vp_error err;
    static float grad[MAX_B * MAX_D], emb[MAX_B * MAX_D];
    double most = 0, worst = 0;
    run(o, s, &err);
    const int64_t n = B * D;
    memcpy(grad, s->grad, sizeof grad);
    memcpy(emb, s->emb, sizeof emb);
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs((double)grad[i]));
    for (int t = 0; t < 12; t++) {
        const int64_t only = t < 4 ? -1 : (int64_t)((uniform() + 1) / 2 * (double)n);
        double h[MAX_B * MAX_D], value[2], predicted = 0, moved = 0;
        for (int64_t i = 0; i < n; i++) h[i] = only < 0 || only == i ? 2e-3 * uniform() : 0;
        for (int side = 0; side < 2; side++) {
            for (int64_t i = 0; i < n; i++) s->emb[i] = (float)((double)emb[i] + (side ? -h[i] : h[i]));
            value[side] = run(o, s, &err);
        }
        for (int64_t i = 0; i < n; i++) {
            const double change = (double)(float)((double)emb[i] + h[i]) - (double)(float)((double)emb[i] - h[i]);
            predicted += (double)grad[i] * change;
            moved += change * change;
        }
        const double off = fabs(value[0] - value[1] - predicted) / sqrt(moved);
        if (!(off <= worst)) worst = off;
    }
    OK(worst <= tolerance * (1 + most) && most > 1e-5, "%s: gradient off by %.2g, largest %.3g%s%s", what, worst, most,
       err.text[0] ? ": " : "", err.text);
    free(s);
}

static void test_differences(void) {
    vp_objective_options o = options_of("infonce", 5);
    differences("infonce", &o, 33, 7, 1e-3);
    o.same_tower = VP_TOWER_BOTH;
    o.mask_same_text = true;
    differences("infonce, both towers, equal texts masked", &o, 44, 5, 1e-3);
    o.same_tower = VP_TOWER_P;
    o.candidates = VP_CANDIDATES_OWN;
    o.teacher_weight = 0.7;
    o.teacher_temperature = 0.5;
    differences("infonce of own candidates, positives, and a teacher", &o, 39, 17, 1e-3);
    o = options_of("distill", 4);
    differences("distill", &o, 40, 9, 1e-3);
    o.distillation = VP_DISTIL_MARGIN;
    differences("distill of margins", &o, 27, 3, 2e-3);
    o = options_of("cosent", 6);
    differences("cosent", &o, 31, 11, 1e-3);
    o = options_of("mse", 1);
    differences("mse", &o, 60, 16, 1e-3);
}

/* What the formulas say, in double. */
static double cosine(const step *s, int64_t a, int64_t b) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t d = 0; d < s->r.D; d++) {
        const double x = (double)s->emb[a * s->r.D + d], y = (double)s->emb[b * s->r.D + d];
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    return ab / sqrt(aa * bb);
}

static void test_formulas(void) {
    enum { Q = 6 };
    step *s = random_step(4 * Q, 5, true);
    double c[Q], t[Q], cosent = 1, mse = 0, kl = 0, margin = 0;
    int pairs = 0;
    for (int i = 0; i < Q; i++) {
        c[i] = cosine(s, 4 * i, 4 * i + 1);
        t[i] = (double)s->score[4 * i + 1];
        mse += (c[i] - t[i]) * (c[i] - t[i]) / Q;
        double teacher = 0, own = 0;
        for (int k = 1; k < 4; k++) {
            teacher += exp((double)s->score[4 * i + k] / 0.3);
            own += exp(8 * cosine(s, 4 * i, 4 * i + k));
        }
        for (int k = 1; k < 4; k++) {
            const double p = exp((double)s->score[4 * i + k] / 0.3) / teacher, z = 8 * cosine(s, 4 * i, 4 * i + k);
            kl += p * (log(p) - z + log(own)) / Q;
            const double off = 8 * c[i] - z - (t[i] - (double)s->score[4 * i + k]) / 0.3;
            margin += off * off;
            pairs += k > 1;
        }
    }
    for (int i = 0; i < Q; i++)
        for (int j = 0; j < Q; j++)
            if (t[i] > t[j]) cosent += exp(8 * (c[j] - c[i]));
    vp_error err;
    vp_objective_options o = options_of("cosent", 8);
    double got = run(&o, s, &err);
    OK(fabs(got - log(cosent)) <= 2e-6, "cosent: %.6f is %.6f", log(cosent), got);
    o.name = "mse";
    got = run(&o, s, &err);
    OK(fabs(got - mse) <= 1e-6, "mse: %.6f is %.6f", mse, got);
    o.name = "distill";
    o.teacher_temperature = 0.3;
    const double divergence = run(&o, s, &err);
    OK(fabs(divergence - kl) <= 3e-6, "distill: %.6f is %.6f", kl, divergence);
    o.distillation = VP_DISTIL_MARGIN;
    got = run(&o, s, &err);
    OK(fabs(got - margin / pairs) <= 1e-5 * margin, "margins: %.6f is %.6f", margin / pairs, got);
    o = options_of("infonce", 8);
    const double alone = run(&o, s, &err);
    o.teacher_weight = 2.5;
    o.teacher_temperature = 0.3;
    got = run(&o, s, &err);
    OK(fabs(got - alone - 2.5 * divergence) <= 3e-6, "infonce with a teacher is the sum: %.6f is %.6f",
       alone + 2.5 * divergence, got);
    free(s);
}

/* ---- PyTorch ---- */

static void test_golden(const char *name) {
    vp_error err = {0};
    vp_source *source;
    if (vp_source_open(&source, golden_path("%s/golden.safetensors", name), &err)) {
        OK(false, "%s: %s", name, err.text);
        return;
    }
    tensor emb = tensor_read(source, "nce.emb"), demb = tensor_read(source, "nce.demb");
    tensor loss = tensor_read(source, "nce.loss");
    int32_t group[9];
    uint8_t role[9];
    int64_t row[9];
    float share[9], *grad = calloc((size_t)emb.n, sizeof *grad);
    for (int i = 0; i < 9; i++) {
        group[i] = i % 3;
        role[i] = (uint8_t)(i / 3);
        row[i] = i;
    }
    const vp_rows r = {.B = 9, .D = emb.cols, .emb = emb.f, .group = group, .role = role, .row = row};
    const vp_objective_options options = options_of("infonce", 20);
    vp_objective *o;
    int status = vp_objective_open(&o, &options, &err);
    if (!status) status = vp_objective_rows(o, &r, share, grad, &err);
    vp_objective_close(o);
    const double off = relative_error(grad, demb.f, emb.n);
    const double got = (double)share[0] + (double)share[1] + (double)share[2];
    OK(!status && fabs(got - (double)loss.f[0]) <= 1e-5 * (double)loss.f[0], "%s: nce.loss %.6f is %.6f", name,
       (double)loss.f[0], got);
    OK(off <= 1e-5, "%s: nce.demb off by %.2g", name, off);
    free(grad);
    tensor_free(&emb);
    tensor_free(&demb);
    tensor_free(&loss);
    vp_source_close(source);
}

/* Next-token loss of the causal hidden states that PyTorch gives, through the model's own head. */
static void test_golden_tokens(const char *name, bool tied) {
    vp_error err = {0};
    vp_source *source;
    vp_model *m;
    vp_head *head;
    if (vp_source_open(&source, golden_path("%s/golden.safetensors", name), &err) ||
        vp_model_open(&m, golden_path("%s", name), &err)) {
        OK(false, "%s: %s", name, err.text);
        return;
    }
    OK(vp_head_open(&head, m, &(vp_encode_options){.threads = 2}, &err) == VP_OK, "%s: a %s head %s", name,
       tied ? "tied" : "separate", err.text);
    tensor hidden = tensor_read(source, "causal.hidden"), logits = tensor_read(source, "causal.logits");
    const int64_t M = hidden.rows, V = vp_head_vocab(head);
    int32_t *target = calloc((size_t)M, sizeof *target);
    float *loss = calloc((size_t)M, sizeof *loss);
    uint8_t *right = calloc((size_t)M, 1);
    for (int64_t i = 0; i < M; i++) target[i] = (int32_t)(i * 31 % V);
    vp_objective *o;
    const vp_objective_options options = options_of("ntp", 20);
    int status = vp_objective_open(&o, &options, &err);
    const vp_marked marked = {.M = M, .picked = hidden.f, .target = target, .denominator = 1};
    if (!status) status = vp_objective_tokens(o, head, &marked, loss, NULL, right, &err);
    double worst = status ? NAN : 0;
    for (int64_t i = 0; i < M && !status; i++) {
        double sum = 0;
        for (int64_t v = 0; v < V; v++) sum += exp((double)logits.f[i * V + v]);
        worst = fmax(worst, fabs(log(sum) - (double)logits.f[i * V + target[i]] - (double)loss[i]));
    }
    OK(worst <= 1e-4, "%s: losses of its logits off by %.2g %s", name, worst, err.text);
    target[2] = (int32_t)V;
    OK(vp_objective_tokens(o, head, &marked, loss, NULL, NULL, &err) == VP_DATA, "%s: %s", name, err.text);
    vp_objective_close(o);
    vp_head_close(head);
    vp_model_close(m);
    vp_source_close(source);
    tensor_free(&hidden);
    tensor_free(&logits);
    free(target);
    free(loss);
    free(right);
}

/* LLaRA's bag of tokens, of PyTorch's hidden states: two branches of 8 slots behind a prefix. */
static void test_golden_bags(const char *name) {
    enum { PREFIX = 19, SLOTS = 8 };
    vp_error err = {0};
    vp_source *source;
    vp_model *m;
    vp_head *head;
    if (vp_source_open(&source, golden_path("%s/golden.safetensors", name), &err) ||
        vp_model_open(&m, golden_path("%s", name), &err) || vp_head_open(&head, m, &(vp_encode_options){0}, &err)) {
        OK(false, "%s: %s", name, err.text);
        return;
    }
    tensor hidden = tensor_read(source, "llara.hidden"), want = tensor_read(source, "llara.loss");
    tensor first = tensor_read(source, "llara.target1"), second = tensor_read(source, "llara.target2");
    int32_t *target = calloc((size_t)(first.n + second.n), sizeof *target);
    memcpy(target, first.i, (size_t)first.n * sizeof *target);
    memcpy(target + first.n, second.i, (size_t)second.n * sizeof *target);
    const int32_t cu[] = {0, SLOTS, 2 * SLOTS}, target_cu[] = {0, (int32_t)first.n, (int32_t)(first.n + second.n)};
    float loss[2] = {NAN, NAN};
    vp_bag_op op = {.x = {.ptr = hidden.f + PREFIX * hidden.cols, .dtype = VP_F32, .rows = 2 * SLOTS},
                    .bags = 2,
                    .cu = cu,
                    .target = target,
                    .target_cu = target_cu,
                    .denominator = 2,
                    .loss = loss};
    op.x.cols = op.x.ld = hidden.cols;
    const int status = vp_head_bag(head, &op, &err);
    const double got = (double)loss[0] + (double)loss[1];
    OK(!status && fabs(got - (double)want.f[0]) <= 1e-5 * (double)want.f[0], "%s: llara.loss %.6f is %.6f %s", name,
       (double)want.f[0], got, err.text);
    vp_head_close(head);
    vp_model_close(m);
    vp_source_close(source);
    tensor_free(&hidden);
    tensor_free(&want);
    tensor_free(&first);
    tensor_free(&second);
    free(target);
}

/* ---- what is refused ---- */

static void refuse(const char *what, step *s, const vp_objective_options *o, const char *word) {
    vp_error err;
    run(o, s, &err);
    OK(err.code == VP_DATA && strstr(err.text, word), "%s is refused: %s", what, err.text);
}

static void test_refusals(void) {
    vp_objective_options o = options_of("infonce", 20);
    vp_error err;
    step *s = worked(true);
    s->r.group = NULL;
    refuse("a step without groups", s, &o, "'group'");
    s->r.group = s->group;
    s->r.role = NULL;
    refuse("a step without roles", s, &o, "'role'");
    s->r.role = s->role;
    o.mask_same_text = true;
    refuse("a step without hashes", s, &o, "'hash'");
    o = options_of("cosent", 20);
    refuse("a step without scores", s, &o, "'score'");
    o = options_of("infonce", 20);
    s->role[4] = 2;
    refuse("a query without positive", s, &o, "row 10");
    s->role[4] = 0;
    refuse("two queries of a group", s, &o, "two queries");
    memset(s->role, 1, sizeof s->role);
    refuse("a step without a query", s, &o, "no row is a query");
    o.name = "nothing";
    run(&o, s, &err);
    OK(err.code == VP_USAGE, "an unknown objective: %s", err.text);
    o = options_of("infonce", -1);
    run(&o, s, &err);
    OK(err.code == VP_USAGE, "a negative scale: %s", err.text);
    OK(vp_objective_is_tokens("ntp") && !vp_objective_is_tokens("mse") && !vp_objective_is_tokens("x"), "kinds");
    free(s);
}

int main(void) {
    test_worked();
    test_views();
    test_differences();
    test_formulas();
    test_golden("llama");
    test_golden("llama-gqa-tied");
    test_golden("mistral");
    test_golden_tokens("llama", false);
    test_golden_tokens("llama-gqa-tied", true);
    test_golden_bags("llama");
    test_golden_bags("llama-gqa-tied");
    test_refusals();
    return done();
}
