/* Random cases for the tests of operations: seeded shapes and data, matrices with guarded row ends, two devices an
 * instruction set (1 and 3 threads), comparison with a bound that NaN fails, and a rerun by name:
 *     test_ops attn:seed=17:isa=avx2
 * $VP_TEST_DEVICE (cuda) names another device than the CPU; $VP_TEST_SEEDS bounds the cases of a test. All memory of a
 * case is the host's that every device reaches (pinned), so that one test is all devices'. */
#ifndef VP_OPS_CASE_H
#define VP_OPS_CASE_H
#include "kernels/ops.h"

typedef struct op_case {
    const char *isa; /* or the device, by name */
    int number;      /* of the device */
    uint64_t seed, state;
    const vp_backend *be;
    vp_queue *one, *three; /* queues on devices with 1 and 3 threads */
    vp_device *device_one, *device_three;
    void **owned; /* freed after the case */
    size_t nowned;
    char failure[300]; /* first failure, "" = none */
    const char *skip;  /* why this device is not tested so, or NULL */
} op_case;

typedef struct op_test {
    const char *name;
    void (*run)(op_case *c);
    int seeds; /* cases an instruction set */
} op_test;

/* Runs every test for seeds 1..seeds on every instruction set of this machine, or the one case named in argv[1]; prints
 * TAP and returns main's status. */
int op_main(int argc, char **argv, const op_test *tests, size_t n);

/* A failure, told once a case. */
void case_fail(op_case *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define CASE_OK(c, status, queue)                                                                                      \
    do {                                                                                                               \
        vp_error case_error_ = {0};                                                                                    \
        if ((status) != VP_OK)                                                                                         \
            case_fail(c, "%s", (c)->be->why(queue));                                                                   \
        else if ((c)->be->queue_wait(queue, &case_error_))                                                             \
            case_fail(c, "%s", case_error_.text);                                                                      \
    } while (0)

/* Whether the device is another than the CPU: its memory is not the host's, and it does not look into it to check. */
bool case_separate(const op_case *c);
/* On another device than the CPU: leave the test, for this reason. */
#define CASE_CPU_ONLY(c, reason)                                                                                       \
    do {                                                                                                               \
        if (case_separate(c)) {                                                                                        \
            (c)->skip = (reason);                                                                                      \
            return;                                                                                                    \
        }                                                                                                              \
    } while (0)

int64_t case_int(op_case *c, int64_t low, int64_t high); /* [low, high] */
float case_float(op_case *c);                            /* (-1, 1) */
int64_t case_size(op_case *c, int64_t most);             /* 1, 3, 7, 16, 17, 33, 64, 65, ... or any, at most `most` */
void *case_alloc(op_case *c, size_t bytes);
void case_free(op_case *c);                /* all that was allocated */
float *case_floats(op_case *c, int64_t n); /* random */
/* Random [rows, cols] with up to 5 columns of NaN between rows: reading or writing there shows. */
vp_mat case_mat(op_case *c, int64_t rows, int64_t cols);
vp_mat case_copy(op_case *c, const vp_mat *m);
/* The values of m, rounded to bf16 in m too, as a BF16 matrix of its own; and a BF16 matrix as F32. */
vp_mat case_bf16(op_case *c, vp_mat *m);
vp_mat case_f32(op_case *c, const vp_mat *m);
vp_mat case_cut(const vp_mat *m, int64_t first, int64_t rows); /* rows of m */
/* The NaN between rows is still there. */
void case_guards(op_case *c, const char *what, const vp_mat *m);
/* |got - want| <= bound[i] (or the one bound) everywhere. want, bound: dense [rows, cols] */
void case_near(op_case *c, const char *what, const vp_mat *got, const double *want, const double *bounds, double bound);
void case_same_bytes(op_case *c, const char *what, const vp_mat *a, const vp_mat *b);
/* cu [B + 1] with about `longest` tokens a sequence at most, some of them empty */
int32_t *case_offsets(op_case *c, int64_t B, int64_t longest);
/* A batch of these sequences with tiles of random heights, positions from 0 in each sequence, any `row`. */
vp_batch case_batch(op_case *c, const int32_t *cu, int64_t B);
/* Every other time none, else of some p at any site. */
vp_drop case_drop(op_case *c);

static inline float *mat_row(const vp_mat *m, int64_t i) {
    return (float *)m->ptr + i * m->ld;
}

#endif
