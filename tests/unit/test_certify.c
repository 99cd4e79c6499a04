/* The promise under all others: a row of a product has the same bytes alone, in any batch, at any place in it, with 1
 * and 2 threads. For the shapes of the golden models, SmolLM2 and MiniLM, in f32 and bf16, under every instruction set
 * that oneDNN can be held to (it reads DNNL_MAX_CPU_ISA once, so each runs in a process of its own). Says which shapes
 * our own kernels took over. */
#include "kernels/cpu/cpu.h"
#include "tests/unit/ops_case.h"
#include "tests/unit/tap.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 200 };
typedef struct shape {
    int64_t k, n;
} shape;
static const shape shapes[] = {
    /* golden models: C = 64, F = 112, heads of 16 and 32 */
    {64, 32},
    {64, 64},
    {64, 112},
    {64, 128},
    {64, 192},
    {64, 224},
    {64, 256},
    {64, 320},
    {112, 64},
    {128, 64},
    /* SmolLM2: q k v together and apart, out, gate and up, down */
    {576, 960},
    {576, 576},
    {576, 192},
    {576, 1536},
    {576, 3072},
    {1536, 576},
    /* MiniLM */
    {384, 1152},
    {384, 384},
    {384, 1536},
    {1536, 384},
};

typedef struct table {
    const float *data;
    int64_t cols;
} table;

static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)err;
    const table *t = ctx;
    memcpy(out, t->data + row * t->cols, (size_t)t->cols * sizeof *out);
    return VP_OK;
}

typedef struct setting {
    const vp_backend *be;
    vp_device *device;
    vp_queue *queue;
    vp_weight *weight;
} setting;

static void open_setting(op_case *c, setting *s, int threads, const float *w, shape sh, vp_dtype type) {
    table t = {w, sh.k};
    vp_weight_part part = {sh.n, read_row, &t};
    vp_weight_desc desc = {.part = &part, .nparts = 1, .in = sh.k, .out = sh.n, .compute = type, .name = "w"};
    vp_device_options options = {.threads = threads, .isa = "auto"};
    vp_error err = {0};
    s->be = vp_backend_cpu();
    if (s->be->open(&s->device, &options, &err) || s->be->queue_open(&s->queue, s->device, &err) ||
        s->be->weight_prepare(s->device, &desc, &s->weight, &err))
        case_fail(c, "%s", err.text);
}

static void close_setting(setting *s) {
    s->be->weight_free(s->device, s->weight);
    s->be->queue_close(s->queue);
    s->be->close(s->device);
}

static void multiply(op_case *c, const setting *s, const vp_mat *x, const vp_mat *out) {
    vp_linear_op op = {.weight = s->weight, .x = *x, .out = *out};
    CASE_OK(c, s->be->linear(s->queue, &op), s->queue);
}

static int tasks(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/task");
    for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

/* M rows, chosen and ordered at random, must have the bytes that they have among all MOST. */
static void check_rows(op_case *c, const setting *s, const vp_mat *x, const vp_mat *want, int64_t M) {
    vp_mat some = case_mat(c, M, x->cols), out = case_mat(c, M, want->cols), expected = case_mat(c, M, want->cols);
    for (int64_t i = 0; i < M; i++) {
        int64_t from = case_int(c, 0, MOST - 1);
        memcpy(mat_row(&some, i), mat_row(x, from), (size_t)x->cols * sizeof(float));
        memcpy(mat_row(&expected, i), mat_row(want, from), (size_t)want->cols * sizeof(float));
    }
    multiply(c, s, &some, &out);
    case_same_bytes(c, "rows elsewhere", &out, &expected);
}

static bool wanted(int64_t M, shape s) {
    static const int64_t some[] = {1, 2, 15, 16, 17, 31, 33, 47, 49, 63, 64, 65, 80, 97, 113, 128, 129, 191, 200};
    if (s.k * s.n <= 128 * 128) return true;
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        if (some[i] == M) return true;
    return false;
}

static void check_shape(shape sh, vp_dtype type) {
    op_case c = {.be = vp_backend_cpu(), .state = (uint64_t)(sh.k * 10007 + sh.n)};
    setting one = {0}, two = {0};
    const float *w = case_floats(&c, sh.k * sh.n);
    int expected = tasks() + 1; /* the second thread of `two` */
    open_setting(&c, &one, 1, w, sh, type);
    open_setting(&c, &two, 2, w, sh, type);
    int own = 0, panels = 0;
    if (!c.failure[0]) {
        vp_mat x = case_mat(&c, MOST, sh.k), want = case_mat(&c, MOST, sh.n);
        multiply(&c, &one, &x, &want);
        for (int64_t M = 1; M <= MOST; M++)
            if (wanted(M, sh)) check_rows(&c, M % 2 ? &two : &one, &x, &want, M);
        for (; panels < one.weight->panels; panels++) own += one.weight->panel[panels].shape == NULL;
        if (tasks() != expected) case_fail(&c, "%d threads, not %d: oneDNN has made a team", tasks(), expected);
    }
    OK(!c.failure[0], "%s K=%d N=%d: %d of %d panels by our own kernel%s%s", vp_dtype_name(type), (int)sh.k, (int)sh.n,
       own, panels, c.failure[0] ? ": " : "", c.failure);
    close_setting(&one);
    close_setting(&two);
    for (size_t i = 0; i < c.nowned; i++) free(c.owned[i]);
    free(c.owned);
}

static bool has_bf16(void) { /* without a device, which would wake oneDNN in this process */
    const vp_simd *simd;
    return !vp_simd_choose("auto", &simd, &(vp_error){0}) && vp_bf16_supported(simd);
}

static int run_shapes(bool bf16) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_shape(shapes[i], VP_F32);
    for (size_t i = 0; bf16 && i < sizeof shapes / sizeof *shapes; i++) check_shape(shapes[i], VP_BF16);
    return tap_failed != 0;
}

/* All shapes in a child held to this instruction set; its numbered lines go on in ours. */
static void run_held(const char *isa, bool bf16) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (isa)
            setenv("DNNL_MAX_CPU_ISA", isa, 1);
        else
            unsetenv("DNNL_MAX_CPU_ISA");
        printf("# oneDNN held to %s\n", isa ? isa : "nothing");
        _exit(run_shapes(bf16));
    }
    int status = -1;
    bool good = child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    tap_run += (bf16 ? 2 : 1) * (int)(sizeof shapes / sizeof *shapes);
    OK(good, "every shape with oneDNN held to %s", isa ? isa : "nothing");
}

int main(void) {
    static const char *const isas[] = {NULL, "AVX512_CORE", "AVX2", "SSE41"};
    const bool bf16 = has_bf16();
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) run_held(isas[i], bf16);
    if (!bf16) OK(true, "bf16 # SKIP this processor has no instructions for it");
    return done();
}
