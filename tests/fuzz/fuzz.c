/* The driver: `fuzz ROUNDS [TARGET [FIRST]]`. One child process a target, so that what kills one reader neither stops
 * the others nor hides which round it was. TAP on standard output. */
#include "tests/fuzz/targets.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUND_SECONDS = 20 }; /* far more than any round takes: a hang */

typedef struct progress { /* shared by parent and child */
    volatile int64_t round, accepted;
} progress;

/* A reader that asks for much memory over a small input shall be told no, and then fails the test with VP_MEMORY. */
__attribute__((visibility("default"), used)) const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "allocator_may_return_null=1:max_allocation_size_mb=300:hard_rss_limit_mb=3000:detect_leaks=1";
}

/* Round r of a target: seed r for the first rounds, as it is; then damaged seeds. */
static void make_input(const fuzz_target *t, const fuzz_seeds *seeds, int64_t round, vp_buf *input) {
    vp_error err = {0};
    fuzz_rng r = {vp_hash64(t->name, strlen(t->name)) + (uint64_t)round, 0};
    bool whole = round < seeds->n;
    const vp_buf *seed = &seeds->item[whole ? (uint64_t)round : fuzz_below(&r, (uint64_t)seeds->n)];
    input->len = 0;
    if (vp_buf_add(input, seed->data, seed->len, &err)) abort();
    if (whole) return;
    fuzz_mutate(input, seeds, &r);
    if (t->repair && fuzz_below(&r, 4)) t->repair(input);
}

/* What a reader may answer. Anything else (out of memory, a bug, an error without words) is a finding. */
static bool answered(int status, const vp_error *err) {
    if (status == VP_OK) return err->code == VP_OK;
    return (status == VP_DATA || status == VP_UPSTREAM) && err->code == status && err->text[0];
}

static void run_rounds(const fuzz_target *t, int64_t first, int64_t rounds, progress *p) {
    fuzz_seeds seeds = {0};
    vp_buf input = {0};
    t->seeds(&seeds);
    for (int64_t i = first; i < first + rounds; i++) {
        vp_error err = {0};
        p->round = i;
        make_input(t, &seeds, i, &input);
        alarm(ROUND_SECONDS);
        int status = t->run(&input, &err);
        p->accepted += status == VP_OK;
        if (!answered(status, &err) || (i < seeds.n && status)) {
            fprintf(stderr, "# status %d, error %d '%s'\n", status, err.code, err.text);
            _exit(1);
        }
    }
    alarm(0);
    for (int i = 0; i < seeds.n; i++) vp_buf_free(&seeds.item[i]);
    vp_buf_free(&input);
}

/* True if the child survived all rounds without leaks. */
static bool run_target(const fuzz_target *t, int64_t first, int64_t rounds, progress *p) {
    char folder[40]; /* in memory where there is such a place: rewriting a file on a disk may wait for the disk */
    snprintf(folder, sizeof folder, "%s/vecpipe-fuzz-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    *p = (progress){0};
    fflush(stdout);
    if (!mkdtemp(folder)) return false;
    pid_t child = fork();
    if (child < 0) return false;
    if (child == 0) {
        fuzz_scratch_enter(folder);
        run_rounds(t, first, rounds, p);
        p->round = -1;
        exit(0); /* not _exit: leaks are looked for */
    }
    int how = -1;
    while (waitpid(child, &how, 0) < 0 && errno == EINTR) continue;
    fuzz_scratch_remove(folder);
    return WIFEXITED(how) && WEXITSTATUS(how) == 0;
}

static int64_t number(const char *text) {
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno || *end || end == text || n < 0) {
        fprintf(stderr, "fuzz: '%s': not a number\n", text);
        exit(2);
    }
    return n;
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: fuzz ROUNDS [TARGET [FIRST]]\n");
        return 2;
    }
    int64_t rounds = number(argv[1]), first = argc > 3 ? number(argv[3]) : 0;
    progress *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return 5;
    int run = 0, failed = 0;
    for (const fuzz_target *t = fuzz_targets; t->name; t++) {
        if (argc > 2 && strcmp(argv[2], t->name) != 0) continue;
        int64_t share = argc > 2 ? rounds : rounds / t->cost;
        bool passed = run_target(t, first, share, p);
        failed += !passed;
        printf("%sok %d - fuzz %s: ", passed ? "" : "not ", ++run, t->name);
        if (passed)
            printf("%lld rounds, %lld accepted\n", (long long)share, (long long)p->accepted);
        else if (p->round < 0)
            printf("a leak in rounds %lld to %lld\n", (long long)first, (long long)(first + share - 1));
        else
            printf("round %lld; again: %s 1 %s %lld\n", (long long)p->round, argv[0], t->name, (long long)p->round);
    }
    printf("1..%d\n", run);
    munmap(p, sizeof *p);
    return run == 0 || failed;
}
