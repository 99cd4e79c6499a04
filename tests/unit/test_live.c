/* run/live between processes: what is published arrives whole, a dead writer is noticed, its file is not taken for a
 * living one, and nobody waits for a reader of ours that is gone. */
#include "lib/train/live.h"
#include "tests/unit/tap.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { N = 40000, ROUNDS = 300 };

static char folder[] = "/tmp/test_live.XXXXXX";

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The weights of a version: the slot that was written last is told from any other, number by number. */
static void weights(float *w, int64_t version) {
    for (int i = 0; i < N; i++) w[i] = (float)version + (float)(i % 1000) / 1024.0f;
}

static bool are_weights(const float *w, int64_t version) {
    for (int i = 0; i < N; i++)
        if (w[i] != (float)version + (float)(i % 1000) / 1024.0f) return false;
    return true;
}

static void quit(bool well) {
    _exit(well ? 0 : 1);
}

static vp_live *create(int64_t version, vp_error *err) {
    float *w = malloc(N * sizeof *w);
    vp_live *l = NULL;
    weights(w, version);
    if (!vp_live_lock(&l, folder, err)) vp_live_begin(l, version, w, N * sizeof *w, err);
    free(w);
    return l;
}

static bool publish(vp_live *l, int64_t version) {
    static float w[N];
    vp_error err = {0};
    weights(w, version);
    return vp_live_publish(l, version, w, &err) == VP_OK;
}

/* A writer: version 0, then one more for every byte that comes. */
static pid_t start_writer(int requests, int started) {
    pid_t pid = fork();
    if (pid) return pid;
    vp_error err = {0};
    vp_live *l = create(0, &err);
    char byte = 0;
    if (!l || write(started, &byte, 1) != 1) quit(false);
    for (int64_t v = 1; read(requests, &byte, 1) == 1; v++)
        if (!publish(l, v)) quit(false);
    quit(true);
    return 0;
}

static bool ended_well(pid_t pid) {
    int status = 0;
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void test_one_process(float *w) {
    vp_error err = {0}, other = {0}, past = {0}, twice = {0};
    vp_live *l = create(5, &err);
    vp_follow *f = NULL;
    OK(l && !create(0, &other) && other.code == VP_LOCKED, "a second writer: %s", other.text);
    OK(vp_follow_open(&f, folder, -1, &err) == VP_OK && vp_follow_bytes(f) == N * sizeof *w, "opened %s", err.text);
    OK(vp_follow_wait(f, 5, w, &err) == VP_OK && are_weights(w, 5), "the starting weights %s", err.text);
    OK(publish(l, 6) && vp_follow_wait(f, 6, w, &err) == VP_OK && are_weights(w, 6), "the next ones");
    OK(vp_follow_wait(f, 5, w, &err) == VP_OK && are_weights(w, 5), "those before them are still there");
    OK(publish(l, 7) && vp_follow_wait(f, 5, w, &past) == VP_DATA, "those before these are not: %s", past.text);
    OK(vp_live_publish(l, 7, w, &twice) == VP_BUG, "a version twice: %s", twice.text);
    vp_live_close(l);
    vp_error dead = {0};
    OK(vp_follow_wait(f, 7, w, &err) == VP_OK, "what a writer left, counts");
    OK(vp_follow_wait(f, 8, w, &dead) == VP_UPSTREAM, "what it did not write: %s", dead.text);
    vp_follow_close(f);
}

static void test_lockstep(float *w) {
    int ask[2], started[2];
    char byte = 0;
    if (pipe(ask) || pipe(started)) abort();
    pid_t pid = start_writer(ask[0], started[1]);
    close(ask[0]);
    vp_error err = {0};
    vp_follow *f = NULL;
    bool well = read(started[0], &byte, 1) == 1 && vp_follow_open(&f, folder, -1, &err) == VP_OK;
    const double start = now();
    for (int64_t v = 0; well && v < ROUNDS; v++) {
        well = vp_follow_wait(f, v, w, &err) == VP_OK && are_weights(w, v);
        if (well && write(ask[1], &byte, 1) != 1) well = false;
    }
    OK(well, "%d steps in turn %s", (int)ROUNDS, err.text);
    OK(now() - start < 0.05 * ROUNDS, "woken, not by the clock: %.1f ms a step", 1e3 * (now() - start) / ROUNDS);
    kill(pid, SIGKILL);
    const double killed = now();
    OK(vp_follow_wait(f, ROUNDS + 1, w, &err) == VP_UPSTREAM, "the writer killed: %s", err.text);
    OK(now() - killed < 1.0, "noticed after %.0f ms", 1e3 * (now() - killed));
    waitpid(pid, NULL, 0);
    vp_follow_close(f);
    close(ask[1]);
    close(started[0]);
    close(started[1]);
}

/* The writer runs as fast as it can; whatever a reader gets must be whole. */
static void test_hammer(float *w) {
    vp_error err = {0};
    vp_live *l = create(0, &err);
    pid_t pid = fork();
    if (!pid) {
        for (int64_t v = 1;; v++)
            if (!publish(l, v)) quit(false);
    }
    vp_follow *f = NULL;
    int64_t got = 0, torn = 0, version = 0, other = 0;
    if (vp_follow_open(&f, folder, -1, &err)) OK(false, "%s", err.text);
    for (double end = now() + 0.7; f && now() < end;) {
        vp_error past = {0};
        int status = vp_follow_wait(f, version, w, &past);
        got += status == VP_OK;
        torn += status == VP_OK && !are_weights(w, version);
        other += status != VP_OK && status != VP_DATA;
        const char *at = strstr(past.text, "at step ");
        version = at ? strtoll(at + 8, NULL, 10) : version + 1;
    }
    OK(got > 10 && torn == 0 && other == 0, "%lld read, %lld torn, %lld failed", (long long)got, (long long)torn,
       (long long)other);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    vp_follow_close(f);
    vp_live_close(l);
}

/* A reader that starts on what a dead run left waits for the next. */
static void test_stale(void) {
    pid_t pid = fork();
    if (!pid) {
        static float w[N];
        vp_error err = {0};
        vp_follow *f;
        quit(!vp_follow_open(&f, folder, -1, &err) && !vp_follow_wait(f, 700, w, &err) && are_weights(w, 700));
    }
    usleep(200000);
    int status;
    OK(waitpid(pid, &status, WNOHANG) == 0, "a dead run's file is not taken");
    vp_error err = {0};
    vp_live *l = create(700, &err);
    OK(ended_well(pid), "the next run's is %s", err.text);
    vp_live_close(l);
}

/* A reader whose own output nobody reads: in `open` (no writer), or in `wait`. */
static void test_output_gone(const char *what, bool writer) {
    int output[2];
    vp_error err = {0};
    vp_live *l = writer ? create(0, &err) : NULL;
    if (pipe(output)) abort();
    pid_t pid = fork();
    if (!pid) {
        static float w[N];
        vp_follow *f = NULL;
        vp_live_close(l);
        close(output[0]);
        int status = vp_follow_open(&f, folder, output[1], &err);
        if (!status && writer) status = vp_follow_wait(f, 9, w, &err);
        quit(status == VP_IO && err.broken_pipe);
    }
    close(output[1]);
    usleep(150000);
    const double start = now();
    close(output[0]);
    OK(ended_well(pid) && now() - start < 1.0, "nobody reads us, %s: after %.0f ms", what, 1e3 * (now() - start));
    vp_live_close(l);
}

static void test_damage(float *w) {
    char path[64];
    vp_error err = {0}, small = {0};
    vp_live *l = create(3, &err);
    vp_follow *f = NULL;
    snprintf(path, sizeof path, "%s/live", folder);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    OK(pwrite(fd, "x", 1, 5000) == 1 && vp_follow_open(&f, folder, -1, &err) == VP_OK &&
           vp_follow_wait(f, 3, w, &err) == VP_DATA,
       "%s", err.text);
    OK(ftruncate(fd, 4096) == 0 && vp_follow_wait(f, 3, w, &small) == VP_DATA, "%s", small.text);
    vp_follow_close(f);
    vp_error wrong = {0};
    OK(vp_follow_open(&f, folder, -1, &wrong) == VP_DATA, "%s", wrong.text);
    close(fd);
    vp_live_close(l);
}

int main(void) {
    static float w[N];
    if (!mkdtemp(folder)) return 1;
    test_output_gone("no run yet", false);
    test_one_process(w);
    test_lockstep(w);
    test_hammer(w);
    test_stale();
    test_output_gone("waiting for a step", true);
    test_damage(w);
    vp_error err = {0};
    vp_live *l = create(0, &err);
    OK(l != NULL, "after all of them the folder is free again %s", err.text);
    vp_live_close(l);
    char path[64];
    snprintf(path, sizeof path, "%s/live", folder);
    unlink(path);
    OK(rmdir(folder) == 0, "nothing else is left");
    return done();
}
