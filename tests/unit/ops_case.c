/* Random cases for the tests of operations: ops_case.h tells what and why. */
#include "tests/unit/ops_case.h"
#include "kernels/load.h"
#include "lib/base/half.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void case_fail(op_case *c, const char *format, ...) {
    if (c->failure[0]) return;
    va_list args;
    va_start(args, format);
    vsnprintf(c->failure, sizeof c->failure, format, args);
    va_end(args);
}

bool case_separate(const op_case *c) {
    vp_caps caps;
    c->be->caps(c->device_one, &caps);
    return caps.separate;
}

/* SplitMix64 */
static uint64_t next(op_case *c) {
    uint64_t z = c->state += 0x9e3779b97f4a7c15U;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
    z = (z ^ z >> 27) * 0x94d049bb133111ebU;
    return z ^ z >> 31;
}

int64_t case_int(op_case *c, int64_t low, int64_t high) {
    return low + (int64_t)(next(c) % (uint64_t)(high - low + 1));
}

float case_float(op_case *c) {
    return ((float)(next(c) >> 40) + 0.5f) / 8388608.0f - 1.0f;
}

int64_t case_size(op_case *c, int64_t most) {
    static const int64_t sizes[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 48, 63, 64, 65, 96, 127, 129, 200};
    int64_t n =
        case_int(c, 0, 3) ? sizes[case_int(c, 0, (int64_t)(sizeof sizes / sizeof *sizes) - 1)] : case_int(c, 1, most);
    return n < most ? n : most;
}

void *case_alloc(op_case *c, size_t bytes) {
    void *p = c->be->host_alloc(c->device_one, bytes ? bytes : 1);
    void **owned = realloc(c->owned, (c->nowned + 1) * sizeof *owned);
    if (!p || !owned) {
        fprintf(stderr, "out of memory\n");
        exit(VP_MEMORY);
    }
    c->owned = owned;
    c->owned[c->nowned++] = p;
    return memset(p, 0, bytes);
}

void case_free(op_case *c) {
    for (size_t i = 0; i < c->nowned; i++) c->be->host_free(c->device_one, c->owned[i]);
    free(c->owned);
    c->owned = NULL;
    c->nowned = 0;
}

float *case_floats(op_case *c, int64_t n) {
    float *p = case_alloc(c, (size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++) p[i] = case_float(c);
    return p;
}

vp_mat case_mat(op_case *c, int64_t rows, int64_t cols) {
    int64_t ld = cols + case_int(c, 0, 5);
    float *p = case_alloc(c, (size_t)(rows * ld) * sizeof *p);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < ld; j++) p[i * ld + j] = j < cols ? case_float(c) : NAN;
    return (vp_mat){.ptr = p, .dtype = VP_F32, .rows = rows, .cols = cols, .ld = ld};
}

vp_mat case_copy(op_case *c, const vp_mat *m) {
    vp_mat copy = *m;
    size_t bytes = (size_t)(m->rows * m->ld) * vp_dtype_size(m->dtype);
    copy.ptr = case_alloc(c, bytes);
    if (bytes) memcpy(copy.ptr, m->ptr, bytes);
    return copy;
}

vp_mat case_bf16(op_case *c, vp_mat *m) {
    vp_mat half = *m;
    half.dtype = VP_BF16;
    half.ld = m->cols + case_int(c, 0, 1) * 3;
    half.ptr = case_alloc(c, (size_t)(m->rows * half.ld) * sizeof(uint16_t));
    for (int64_t i = 0; i < m->rows; i++)
        for (int64_t j = 0; j < half.ld; j++) {
            uint16_t bits = j < m->cols ? vp_float_bf16(mat_row(m, i)[j]) : 0x7fff;
            ((uint16_t *)half.ptr)[i * half.ld + j] = bits;
            if (j < m->cols) mat_row(m, i)[j] = vp_bf16_float(bits);
        }
    return half;
}

vp_mat case_f32(op_case *c, const vp_mat *m) {
    vp_mat wide = {.dtype = VP_F32, .rows = m->rows, .cols = m->cols, .ld = m->cols};
    wide.ptr = case_alloc(c, (size_t)(m->rows * m->cols) * sizeof(float));
    for (int64_t i = 0; i < m->rows; i++)
        for (int64_t j = 0; j < m->cols; j++)
            mat_row(&wide, i)[j] = vp_bf16_float(((const uint16_t *)m->ptr)[i * m->ld + j]);
    return wide;
}

vp_mat case_cut(const vp_mat *m, int64_t first, int64_t rows) {
    vp_mat cut = *m;
    cut.ptr = (char *)m->ptr + (size_t)(first * m->ld) * vp_dtype_size(m->dtype);
    cut.rows = rows;
    return cut;
}

void case_guards(op_case *c, const char *what, const vp_mat *m) {
    for (int64_t i = 0; i < m->rows; i++)
        for (int64_t j = m->cols; j < m->ld; j++)
            if (!isnan(mat_row(m, i)[j])) case_fail(c, "%s: written past the end of row %lld", what, (long long)i);
}

void case_near(op_case *c, const char *what, const vp_mat *got, const double *want, const double *bounds,
               double bound) {
    case_guards(c, what, got);
    for (int64_t i = 0; i < got->rows; i++)
        for (int64_t j = 0; j < got->cols; j++) {
            double g = (double)mat_row(got, i)[j], w = want[i * got->cols + j];
            double b = bounds ? bounds[i * got->cols + j] : bound;
            if (!(fabs(g - w) <= b))
                case_fail(c, "%s[%lld,%lld] is %.9g, not %.9g (off by %.3g, allowed %.3g)", what, (long long)i,
                          (long long)j, g, w, fabs(g - w), b);
        }
}

void case_same_bytes(op_case *c, const char *what, const vp_mat *a, const vp_mat *b) {
    if (a->rows != b->rows || a->cols != b->cols) case_fail(c, "%s: shapes differ", what);
    size_t bytes = (size_t)a->cols * sizeof(float);
    for (int64_t i = 0; i < a->rows; i++)
        if (memcmp(mat_row(a, i), mat_row(b, i), bytes) != 0)
            case_fail(c, "%s: the bytes of row %lld differ", what, (long long)i);
}

int32_t *case_offsets(op_case *c, int64_t B, int64_t longest) {
    int32_t *cu = case_alloc(c, (size_t)(B + 1) * sizeof *cu);
    for (int64_t b = 0; b < B; b++) {
        int32_t n = case_int(c, 0, 9) ? (int32_t)case_size(c, longest) : 0;
        cu[b + 1] = cu[b] + n;
    }
    return cu;
}

vp_batch case_batch(op_case *c, const int32_t *cu, int64_t B) {
    int64_t T = cu[B], n = 0;
    vp_tile *tiles = case_alloc(c, (size_t)(T + 1) * sizeof *tiles);
    int32_t *pos = case_alloc(c, (size_t)(T + 1) * sizeof *pos), longest = 0;
    int32_t height = (int32_t)case_size(c, 100);
    int64_t *row = case_alloc(c, (size_t)(B + 1) * sizeof *row);
    for (int64_t b = 0; b < B; b++) {
        int32_t length = cu[b + 1] - cu[b];
        row[b] = case_int(c, 0, 0xffffffff);
        longest = length > longest ? length : longest;
        for (int32_t i = 0; i < length; i++) pos[cu[b] + i] = i;
        for (int32_t at = 0; at < length; at += height)
            tiles[n++] = (vp_tile){(int32_t)b, at, length - at < height ? length - at : height};
    }
    vp_batch batch = {.T = T, .B = B, .cu_q = cu, .cu_k = cu, .pos = pos, .row = row, .longest = longest};
    batch.tiles = tiles;
    batch.ntiles = n;
    return batch;
}

vp_drop case_drop(op_case *c) {
    static const float ps[] = {0.0f, 0.0f, 0.0f, 0.1f, 0.3f, 0.75f};
    return (vp_drop){.p = ps[case_int(c, 0, 5)],
                     .seed = next(c),
                     .step = (uint32_t)case_int(c, 0, 1000000),
                     .layer = (uint32_t)case_int(c, 0, 4095),
                     .site = (uint32_t)case_int(c, 0, 63)};
}

/* ---- running ---- */
static bool open_device(op_case *c, int threads, vp_device **d, vp_queue **q, vp_error *err) {
    vp_device_options options = {.threads = threads, .index = c->number, .isa = c->isa};
    return !c->be->open(d, &options, err) && !c->be->queue_open(q, *d, err);
}

static void close_devices(op_case *c) {
    c->be->queue_close(c->one);
    c->be->queue_close(c->three);
    c->be->close(c->device_one);
    c->be->close(c->device_three);
    c->one = c->three = NULL;
    c->device_one = c->device_three = NULL;
}

static void run_seed(op_case *c, const op_test *t, uint64_t seed) {
    c->seed = c->state = seed;
    for (const char *p = t->name; *p; p++) c->state = c->state * 131 + (unsigned char)*p;
    c->failure[0] = '\0';
    t->run(c);
    case_free(c);
}

static void run_test(op_case *c, const op_test *t, uint64_t first, uint64_t last) {
    int failures = 0;
    char rerun[500] = "";
    c->skip = NULL;
    for (uint64_t seed = first; seed <= last; seed++) {
        run_seed(c, t, seed);
        if (c->failure[0] && failures++ == 0)
            snprintf(rerun, sizeof rerun, "%s:seed=%llu:isa=%s: %s", t->name, (unsigned long long)seed, c->isa,
                     c->failure);
    }
    if (c->skip)
        OK(true, "%s on %s # SKIP %s", t->name, c->isa, c->skip);
    else
        OK(failures == 0, "%s on %s, %llu cases%s%s", t->name, c->isa, (unsigned long long)(last - first + 1),
           failures ? "; rerun " : "", rerun);
}

/* name[:seed=N][:isa=NAME] */
typedef struct selection {
    char name[40], isa[20];
    uint64_t seed;
} selection;

static bool parse_selection(selection *s, const char *text) {
    size_t n = strcspn(text, ":");
    if (n >= sizeof s->name) return false;
    memcpy(s->name, text, n);
    for (text += n; *text == ':'; text += n) {
        text++;
        n = strcspn(text, ":");
        if (strncmp(text, "seed=", 5) == 0)
            s->seed = strtoull(text + 5, NULL, 10);
        else if (strncmp(text, "isa=", 4) == 0 && n - 4 < sizeof s->isa)
            memcpy(s->isa, text + 4, n - 4);
        else
            return false;
    }
    return true;
}

static uint64_t last_seed(const selection *s, const op_test *t) {
    const char *most = getenv("VP_TEST_SEEDS");
    const uint64_t n = most ? strtoull(most, NULL, 10) : 0, all = (uint64_t)t->seeds;
    return s->seed ? s->seed : n && n < all ? n : all;
}

/* The tests selected, on a device of one instruction set. */
static void run_isa(op_case *c, const selection *s, const op_test *tests, size_t n) {
    vp_error err = {0};
    if (open_device(c, 1, &c->device_one, &c->one, &err) && open_device(c, 3, &c->device_three, &c->three, &err)) {
        for (size_t t = 0; t < n; t++)
            if (!s->name[0] || strcmp(s->name, tests[t].name) == 0)
                run_test(c, &tests[t], s->seed ? s->seed : 1, last_seed(s, &tests[t]));
    } else {
        OK(err.code == VP_USAGE && strcmp(c->isa, "scalar") != 0, "%s # SKIP %s", c->isa, err.text);
    }
    close_devices(c);
}

int op_main(int argc, char **argv, const op_test *tests, size_t n) {
    static const char *const isas[] = {"avx512", "avx2", "scalar"};
    selection s = {0};
    vp_error err = {0};
    const char *device = getenv("VP_TEST_DEVICE");
    op_case c = {.isa = device, .be = vp_backend_cpu()};
    if (argc > 2 || (argc == 2 && !parse_selection(&s, argv[1]))) {
        fprintf(stderr, "usage: [VP_TEST_DEVICE=" VP_DEVICES "] %s [NAME[:seed=N][:isa=NAME]]\n", argv[0]);
        return VP_USAGE;
    }
    if (device && vp_backend_choose(device, &c.be, &c.number, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return err.code;
    }
    for (size_t i = 0; !device && i < sizeof isas / sizeof *isas; i++) {
        c.isa = isas[i];
        if (!s.isa[0] || strcmp(s.isa, isas[i]) == 0) run_isa(&c, &s, tests, n);
    }
    if (device) run_isa(&c, &s, tests, n);
    return done();
}
