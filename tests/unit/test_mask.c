/* What mask makes of steps: shares of hidden tokens, worked examples, and the same rows however a step is cut. */
#include "lib/train/mask.h"
#include "tests/unit/stream_support.h"
#include "tests/unit/tap.h"
#include <math.h>

enum { VOCAB = 1000, BOS = 0, UNDERSCORE = 95, MAX_ROWS = 5000 };

/* Tokens "t0" .. "t999", but "_" is 95; t0 is BOS and special. */
static vp_tokenizer *make_tokenizer(void) {
    char path[] = "/tmp/vp-mask-XXXXXX.json";
    const int fd = mkstemps(path, 5);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    vp_tokenizer *t = NULL;
    vp_error err = {0};
    if (!f) abort();
    fputs("{\"added_tokens\":[{\"id\":0,\"content\":\"t0\",\"special\":true}],"
          "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"_\":95",
          f);
    for (int i = 0; i < VOCAB; i++)
        if (i != UNDERSCORE) fprintf(f, ",\"t%d\":%d", i, i);
    fputs("}}}", f);
    fclose(f);
    OK(vp_tokenizer_open(&t, path, &err) == VP_OK, "the tokenizer %s", err.text);
    unlink(path);
    return t;
}

/* Rows of a step, as they go in and as they come out. */
typedef struct rows {
    int64_t n;
    int32_t *ids, *target, *unit; /* of all rows, end to end; target NULL: none */
    float *weight;
    int32_t cu[MAX_ROWS + 1], group[MAX_ROWS];
    int64_t row[MAX_ROWS];
    uint8_t role[MAX_ROWS], view[MAX_ROWS];
    bool has_roles, has_views;
    double weight_sum;
    int frames;
} rows;

static void free_rows(rows *r) {
    free(r->ids);
    free(r->target);
    free(r->unit);
    free(r->weight);
    free(r);
}

static rows *new_rows(void) {
    rows *r = vp_calloc(1, sizeof *r);
    if (!r) abort();
    return r;
}

/* `n` rows of `length` tokens, BOS and then 1, 2, ... in a row's own order. */
static rows *running_rows(int64_t n, int32_t length) {
    rows *r = new_rows();
    r->n = n;
    r->ids = vp_calloc((size_t)(n * length), sizeof *r->ids);
    if (!r->ids) abort();
    for (int64_t b = 0; b < n; b++) {
        r->row[b] = n - 1 - b;
        r->cu[b + 1] = (int32_t)(b + 1) * length;
        for (int32_t i = 0; i < length; i++)
            r->ids[b * length + i] = i ? 1 + (int32_t)(b * 37 + i * 11) % (VOCAB - 1) : BOS;
    }
    return r;
}

static void put(vp_frame *f, const char *name, vp_dtype dtype, int64_t n, const void *data) {
    vp_error err = {0};
    if (vp_frame_put(f, name, dtype, 1, &n, data, &err)) abort();
}

/* The step as a stream of frames of `cut` rows. */
static int write_step(const rows *r, int64_t step, int64_t cut) {
    const int fd = memfd_create("step", MFD_CLOEXEC);
    vp_error err = {0};
    vp_writer *w;
    vp_frame *whole = vp_frame_new(VP_FRAME_BATCH, &err), *part;
    if (!whole || vp_writer_open(&w, fd, "memfd", &err) || vp_writer_header(w, NULL, NULL, &err)) abort();
    put(whole, "cu", VP_I32, r->n + 1, r->cu);
    put(whole, "ids", VP_I32, r->cu[r->n], r->ids);
    put(whole, "row", VP_I64, r->n, r->row);
    if (r->has_roles) {
        put(whole, "group", VP_I32, r->n, r->group);
        put(whole, "role", VP_U8, r->n, r->role);
    }
    if (vp_map_set_int(whole->keys, "step", step, &err) || vp_map_set_int(whole->keys, "rows", r->n, &err) ||
        vp_map_set_bool(whole->keys, "last", true, &err))
        abort();
    for (int64_t b = 0; b < r->n; b += cut) {
        if (vp_frame_slice(whole, b, b + cut < r->n ? b + cut : r->n, &part, &err) || vp_writer_batch(w, part, &err))
            abort();
        vp_frame_free(part);
    }
    if (vp_writer_end(w, NULL, &err)) abort();
    vp_writer_close(w);
    vp_frame_free(whole);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

/* The whole of one column type, appended to an array. */
static void append(void *array, size_t have, const vp_column *c) {
    void **at = array;
    uint8_t *grown = realloc(*at, have + c->bytes + 1);
    if (!grown) abort();
    if (c->bytes) memcpy(grown + have, c->data, c->bytes);
    *at = grown;
}

static void take_frame(rows *r, const vp_frame *f) {
    const vp_column *c;
    const size_t tokens = (size_t)r->cu[r->n] * 4;
    const vp_column *cu = vp_frame_find(f, "cu");
    append(&r->ids, tokens, vp_frame_find(f, "ids"));
    if ((c = vp_frame_find(f, "target"))) append(&r->target, tokens, c);
    if ((c = vp_frame_find(f, "weight"))) append(&r->weight, tokens, c);
    append(&r->unit, (size_t)r->n * 4, vp_frame_find(f, "unit"));
    for (int64_t b = 0; b < f->B; b++) {
        r->cu[r->n + b + 1] = r->cu[r->n] + vp_column_i32(cu, b + 1);
        r->row[r->n + b] = vp_column_i64(vp_frame_find(f, "row"), b);
        if ((c = vp_frame_find(f, "group"))) r->group[r->n + b] = vp_column_i32(c, b);
        if ((c = vp_frame_find(f, "role"))) r->role[r->n + b] = c->data[b];
        if ((c = vp_frame_find(f, "view"))) r->view[r->n + b] = c->data[b];
    }
    r->n += f->B;
    r->frames++;
    r->weight_sum = vp_map_real(f->keys, "weight_sum", -1);
}

static rows *read_rows(int fd) {
    rows *r = new_rows();
    vp_error err = {0};
    vp_reader *reader;
    vp_frame *f;
    lseek(fd, 0, SEEK_SET);
    if (vp_reader_open(&reader, fd, "memfd", &err)) abort();
    while (!vp_reader_next(reader, &f, &err) && f)
        if (f->kind == VP_FRAME_BATCH) take_frame(r, f);
    if (err.code) fprintf(stderr, "%s\n", err.text), abort();
    vp_reader_close(reader);
    close(fd);
    return r;
}

/* mask on one step; NULL and *err when it fails. */
static rows *masked(const vp_mask_options *o, const vp_tokenizer *t, const rows *in, int64_t step, int64_t cut,
                    vp_error *err) {
    const int from = write_step(in, step, cut), to = memfd_create("masked", MFD_CLOEXEC);
    vp_reader *reader;
    vp_steps *steps;
    vp_step *s;
    vp_frame *f;
    vp_mask *m;
    vp_writer *w;
    *err = (vp_error){0};
    if (vp_reader_open(&reader, from, "step", err) || vp_reader_next(reader, &f, err) ||
        vp_steps_open(&steps, reader, err) || vp_steps_next(steps, &s, err) || vp_mask_open(&m, o, t, err) ||
        vp_writer_open(&w, to, "memfd", err) || vp_writer_header(w, NULL, NULL, err))
        abort();
    int status = vp_mask_step(m, s, w, err);
    if (!status) status = vp_steps_next(steps, &s, err);
    if (!status) status = vp_writer_end(w, NULL, err);
    vp_writer_close(w);
    vp_mask_close(m);
    vp_steps_close(steps);
    vp_reader_close(reader);
    close(from);
    if (!status) return read_rows(to);
    close(to);
    return NULL;
}

static bool same_rows(const rows *a, const rows *b) {
    const size_t tokens = (size_t)a->cu[a->n] * 4, n = (size_t)a->n;
    return a->n == b->n && a->weight_sum == b->weight_sum && memcmp(a->cu, b->cu, (n + 1) * 4) == 0 &&
           memcmp(a->ids, b->ids, tokens) == 0 && memcmp(a->row, b->row, n * 8) == 0 &&
           memcmp(a->unit, b->unit, n * 4) == 0 && !a->target == !b->target &&
           (!a->target || memcmp(a->target, b->target, tokens) == 0) &&
           (!a->weight || memcmp(a->weight, b->weight, tokens) == 0) && memcmp(a->group, b->group, n * 4) == 0 &&
           memcmp(a->role, b->role, n) == 0 && memcmp(a->view, b->view, n) == 0;
}

/* Other frames in and out, the same rows. */
static void check_cutting(const vp_mask_options *o, const vp_tokenizer *t, const rows *in, const rows *want) {
    vp_error err;
    vp_mask_options small = *o;
    small.batch_tokens = 1;
    rows *got = masked(&small, t, in, 7, 3, &err);
    OK(got && same_rows(want, got) && got->frames == want->unit[want->n - 1] + 1,
       "%s: the same rows with a frame a unit, %d, as in %d %s", o->kind, got ? got->frames : 0, want->frames,
       err.text);
    if (got) free_rows(got);
}

static bool near(double count, double n, double p) {
    return fabs(count - n * p) <= 4 * sqrt(n * p * (1 - p));
}

/* A million tokens: how often what was done, within four standard deviations. */
static void check_mntp(const vp_tokenizer *t) {
    vp_error err;
    const vp_mask_options o = {
        .kind = "mntp", .seed = 42, .batch_tokens = 1 << 20, .rate = 0.2, .fill = VP_FILL_BERT, .mask_token = "auto"};
    rows *in = running_rows(2000, 501), *out = masked(&o, t, in, 7, 2000, &err);
    double chosen = 0, hidden = 0, other = 0, left = 0, wrong = 0, natural = 0;
    for (int64_t b = 0; out && b < in->n; b++)
        for (int32_t i = in->cu[b]; i < in->cu[b + 1]; i++) {
            const bool is_target = i > in->cu[b] && out->target[i - 1] >= 0;
            chosen += is_target;
            hidden += is_target && out->ids[i] == UNDERSCORE;
            left += is_target && out->ids[i] == in->ids[i] && in->ids[i] != UNDERSCORE;
            other += is_target && out->ids[i] != in->ids[i] && out->ids[i] != UNDERSCORE;
            natural += in->ids[i] == UNDERSCORE;
            wrong += is_target && out->target[i - 1] != in->ids[i];
            wrong += is_target && in->ids[i] == BOS;
            wrong += !is_target && out->ids[i] != in->ids[i];
            wrong += i == in->cu[b + 1] - 1 && out->target[i] != -1;
        }
    OK(out && chosen == out->weight_sum, "weight_sum is the number of targets: %g %s", chosen, err.text);
    OK(near(chosen, 1e6, 0.2), "of 10^6 tokens %g are chosen", chosen);
    OK(near(hidden, chosen, 0.8 + 0.1 / VOCAB + 0.1 * natural / 1e6), "of those %g are hidden", hidden);
    OK(near(other, chosen, 0.1 * (VOCAB - 2) / VOCAB), "%g replaced", other);
    OK(near(left, chosen, 0.1 + 0.1 / VOCAB), "%g left", left);
    OK(wrong == 0 && natural > 0, "%g targets that are not the token after, BOS, after the end, or unseen changes",
       wrong);
    if (out) check_cutting(&o, t, in, out);
    const vp_mask_options all = {
        .kind = "mntp", .seed = 43, .rate = 1, .batch_tokens = 512, .fill = VP_FILL_ALL, .mask_token = "17"};
    rows *every = masked(&all, t, in, 7, 2000, &err);
    OK(every && every->weight_sum == 1e6 && every->ids[1] == 17 && every->ids[0] == BOS && every->ids[500] == 17,
       "rate 1 hides everything but BOS behind the token that was asked for %s", err.text);
    if (every) free_rows(every);
    if (out) free_rows(out);
    free_rows(in);
}

static void check_simcse(void) {
    vp_error err;
    const vp_mask_options o = {.kind = "simcse", .batch_tokens = 1 << 20};
    rows *in = running_rows(30, 100), *out = masked(&o, NULL, in, 7, 30, &err);
    bool right = out && out->n == 60;
    for (int64_t b = 0; right && b < 60; b++)
        right = out->row[b] == 2 * in->row[b / 2] + b % 2 && out->view[b] == b % 2 && out->group[b] == in->row[b / 2] &&
                out->unit[b] == b / 5 &&
                memcmp(out->ids + out->cu[b], in->ids + in->cu[b / 2], 100 * sizeof *in->ids) == 0;
    OK(right, "simcse: every row twice, views 0 and 1 of one group, units of five rows of 100 tokens %s", err.text);
    if (out) check_cutting(&o, NULL, in, out);
    if (out) free_rows(out);
    free_rows(in);
}

/* Examples of a query, two positives and three negatives each, in an order of their own. */
static rows *example_rows(int32_t examples, int negatives) {
    static const uint8_t role[] = {VP_ROLE_QUERY,    VP_ROLE_POSITIVE, VP_ROLE_POSITIVE,
                                   VP_ROLE_NEGATIVE, VP_ROLE_NEGATIVE, VP_ROLE_NEGATIVE};
    const int each = 3 + negatives;
    rows *r = running_rows(examples * each, 8);
    r->has_roles = true;
    for (int64_t b = 0; b < r->n; b++) {
        const int64_t original = b * 7 % r->n; /* 7 and n have no common divisor */
        r->row[b] = original;
        r->group[b] = (int32_t)(original / each);
        r->role[b] = role[original % each];
    }
    return r;
}

static void check_pairs(void) {
    vp_error err;
    vp_mask_options o = {.kind = "pairs", .seed = 5, .batch_tokens = 1 << 20, .negatives = 2};
    rows *in = example_rows(500, 3), *out = masked(&o, NULL, in, 7, 500, &err);
    int count[3] = {0}, seen[2000] = {0};
    bool right = out && out->n == 2000;
    for (int64_t b = 0; right && b < 2000; b++) {
        right = out->row[b] >= 0 && out->row[b] < 2000 && !seen[out->row[b]]++ && out->role[b] <= VP_ROLE_NEGATIVE &&
                out->group[b] == out->row[b] / 4;
        if (right) count[out->role[b]]++;
    }
    OK(right && count[0] == 500 && count[1] == 500 && count[2] == 1000,
       "pairs: one query, one positive, two negatives an example, numbered anew: %d %d %d %s", count[0], count[1],
       count[2], err.text);
    if (out) check_cutting(&o, NULL, in, out);
    if (out) free_rows(out);
    o.negatives = 7; /* of three: every one at least twice */
    out = masked(&o, NULL, in, 7, 3000, &err);
    OK(out && out->n == 500 * 9, "a list that is too short is used again: %lld rows %s", out ? (long long)out->n : -1,
       err.text);
    if (out) free_rows(out);
    free_rows(in);
    in = example_rows(10, 0);
    o.negatives = 1;
    OK(!masked(&o, NULL, in, 7, 30, &err) && err.code == VP_DATA && strstr(err.text, "no negative"),
       "an example without negatives: %s", err.text);
    o.negatives = 0;
    out = masked(&o, NULL, in, 7, 30, &err);
    OK(out && out->n == 20, "none asked for, none needed");
    if (out) free_rows(out);
    in->role[0] = VP_ROLE_NEGATIVE; /* the query of the first example */
    OK(!masked(&o, NULL, in, 7, 30, &err) && err.code == VP_DATA, "an example without a query: %s", err.text);
    free_rows(in);
}

/* GRIT's reductions (arXiv 2402.09906): rows with losses 0.5, 1.0, 1.5 and 2.0, one number a target. */
static void check_generate(void) {
    static const struct {
        const char *what;
        vp_mask_reduce reduce;
        int64_t groups;
        double want;
    } reductions[] = {{"sample", VP_REDUCE_SAMPLE, 0, 1.5},
                      {"one part", VP_REDUCE_MIXED, 1, 1.25},
                      {"token", VP_REDUCE_TOKEN, 0, 2.5},
                      {"two parts", VP_REDUCE_MIXED, 2, 1.5}};
    static const double loss[] = {0.5, 1.0, 1.5, 0, 2.0, 0};
    int32_t ids[] = {BOS, 5, 6, 7, BOS, 8};
    rows *in = new_rows();
    vp_error err;
    in->n = 2;
    in->cu[1] = 4;
    in->cu[2] = 6;
    in->row[1] = 1;
    in->ids = ids;
    for (size_t i = 0; i < sizeof reductions / sizeof *reductions; i++) {
        const vp_mask_options o = {.kind = "generate",
                                   .batch_tokens = 1 << 20,
                                   .reduce = reductions[i].reduce,
                                   .groups = reductions[i].groups};
        rows *out = masked(&o, NULL, in, 7, 2, &err);
        double sum = 0;
        for (int t = 0; out && t < 6; t++)
            if (out->target[t] >= 0) sum += (double)out->weight[t] * loss[t];
        OK(out && fabs(sum / out->weight_sum - reductions[i].want) <= 1e-6, "%s: %.6f %s", reductions[i].what,
           out ? sum / out->weight_sum : 0, err.text);
        OK(out && out->target[0] == 5 && out->target[2] == 7 && out->target[3] == -1 && out->target[4] == 8 &&
               out->target[5] == -1,
           "%s: every token predicts the next one of its row", reductions[i].what);
        if (out) check_cutting(&o, NULL, in, out);
        if (out) free_rows(out);
    }
    in->ids = NULL;
    free_rows(in);
}

static void check_opening(const vp_tokenizer *t) {
    vp_mask_options o = {.kind = "mntp", .mask_token = "no such token"};
    vp_mask *m = NULL;
    vp_error err = {0};
    OK(vp_mask_open(&m, &o, t, &err) == VP_USAGE, "%s", err.text);
    err = (vp_error){0};
    o.mask_token = "1000";
    OK(vp_mask_open(&m, &o, t, &err) == VP_USAGE, "%s", err.text);
    err = (vp_error){0};
    o.kind = "mlm";
    OK(vp_mask_open(&m, &o, t, &err) == VP_USAGE, "%s", err.text);
}

int main(void) {
    vp_tokenizer *t = make_tokenizer();
    OK(vp_tokenizer_find(t, "_", 1) == UNDERSCORE && vp_tokenizer_mask(t) == -1, "a tokenizer without a mask token");
    OK(vp_tokenizer_is_special(t, BOS) && !vp_tokenizer_is_special(t, 1), "special tokens");
    check_mntp(t);
    check_simcse();
    check_pairs();
    check_generate();
    check_opening(t);
    vp_tokenizer_close(t);
    return done();
}
