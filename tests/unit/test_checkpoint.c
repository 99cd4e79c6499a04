/* Checkpoints: what is saved is loaded to the byte; a writer killed at any moment leaves the previous or the new one;
 * what does not fit is refused by name. */
#include "lib/train/checkpoint.h"
#include "tests/unit/tap.h"
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 3 * 5 + 7 + 1 * 4000 };
static const vp_param table[] = {
    {"model.a.lora_A.weight", 3, 5, 0}, {"model.norm.weight", 1, 7, 15}, {"model.a.lora_B.weight", 4000, 1, 22}};
static char root[] = "/tmp/test_checkpoint.XXXXXX", path[64];

typedef struct space {
    float value[COUNT], m[COUNT], v[COUNT];
} space;

static vp_params params_of(space *s) {
    return (vp_params){.param = table, .n = 3, .count = COUNT, .value = s->value};
}

static void fill(space *s, int64_t step) {
    for (int i = 0; i < COUNT; i++) {
        s->value[i] = (float)step + (float)i / 8192.0f;
        s->m[i] = -s->value[i];
        s->v[i] = s->value[i] * 1e-30f;
    }
    s->value[3] = -0.0f;
}

static int save(space *s, int64_t step, vp_error *err) {
    fill(s, step);
    const vp_params p = params_of(s);
    json_t *state = json_pack("{s:I, s:I, s:{s:s}}", "step", (json_int_t)step, "seed", INT64_C(9007199254740993),
                              "base", "fingerprint", "00ff");
    int status = vp_checkpoint_save(path, &p, s->m, s->v, state, err);
    json_decref(state);
    return status;
}

/* The step that the checkpoint is of, all of it; -1: it is not whole. */
static int64_t load(space *s, vp_error *err) {
    json_t *state;
    space *want = malloc(sizeof *want);
    const vp_params p = params_of(s);
    int64_t step = -1;
    if (!vp_checkpoint_state(path, &state, err) && !vp_checkpoint_load(path, &p, s->m, s->v, err)) {
        step = json_integer_value(json_object_get(state, "step"));
        fill(want, step);
        if (memcmp(want, s, sizeof *want) ||
            json_integer_value(json_object_get(state, "seed")) != INT64_C(9007199254740993))
            step = -1;
    }
    json_decref(state);
    free(want);
    return step;
}

static int count_entries(void) {
    int n = 0;
    DIR *d = opendir(root);
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void test_round_trip(space *s) {
    vp_error none = {0}, err = {0};
    OK(load(s, &none) == -1 && none.code == VP_IO, "none yet: %s", none.text);
    OK(save(s, 0, &err) == VP_OK && load(s, &err) == 0, "the first one, to the byte %s", err.text);
    OK(save(s, 1, &err) == VP_OK && load(s, &err) == 1, "the next takes its place %s", err.text);
    OK(count_entries() == 1, "and is all that is left");
    const vp_params p = params_of(s);
    OK(vp_checkpoint_load(path, &p, NULL, NULL, &err) == VP_OK, "the weights alone %s", err.text);
}

static void test_not_finite(space *s) {
    vp_error err = {0}, ok = {0};
    fill(s, 2);
    s->m[17] = NAN;
    json_t *state = json_pack("{s:i}", "step", 2);
    const vp_params p = params_of(s);
    OK(vp_checkpoint_save(path, &p, s->m, s->v, state, &err) == VP_DATA, "a moment that is not finite: %s", err.text);
    json_decref(state);
    OK(load(s, &ok) == 1 && count_entries() == 1, "the one before stays %s", ok.text);
}

/* A child saves 1, 2, 3, ... and is killed at some moment. */
static void test_killed(space *s) {
    int64_t last = 1, whole = 0;
    enum { KILLS = 40 };
    int kills = 0;
    for (; kills < KILLS || (last <= 5 && kills < 20 * KILLS); kills++) { /* a busy machine takes longer to save */
        const int k = kills;
        pid_t pid = fork();
        if (!pid)
            for (int64_t step = last + 1;; step++) {
                vp_error err = {0};
                if (save(s, step, &err)) _exit(1);
            }
        usleep((useconds_t)(500 + 12347 * k % 60000 + k / KILLS * 60000));
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        vp_error err = {0};
        const int64_t step = load(s, &err);
        if (step < last) OK(false, "kill %d: step %lld after %lld: %s", k, (long long)step, (long long)last, err.text);
        whole += step >= last;
        last = step >= last ? step : last;
    }
    OK(whole == kills && last > 5, "killed %d times, up to step %lld: always whole", kills, (long long)last);
    vp_error err = {0};
    OK(save(s, last + 1, &err) == VP_OK && count_entries() == 1, "the next save sweeps up %s", err.text);
}

static void refuse(const char *what, const vp_params *p, float *m, float *v) {
    vp_error err = {0};
    OK(vp_checkpoint_load(path, p, m, v, &err) == VP_DATA, "%s: %s", what, err.text);
}

static void test_refusals(space *s) {
    vp_param other[3];
    vp_params p = params_of(s);
    p.param = other;
    memcpy(other, table, sizeof other);
    other[0].rows = 5;
    other[0].cols = 3;
    refuse("another shape", &p, s->m, s->v);
    memcpy(other, table, sizeof other);
    other[2].name = "model.b.lora_B.weight";
    refuse("another name", &p, s->m, s->v);
    memcpy(other, table, sizeof other);
    p.n = 2;
    refuse("more than there should be", &p, s->m, s->v);
    p.n = 3;
    refuse("moments that nobody wants", &p, s->m, NULL);
}

static void test_states(space *s) {
    static const char *const bad[] = {
        "", "[1]", "{\"step\": -1}", "{\"step\": 1.5}", "{\"seed\": 1}", "{\"step\": 1, \"step\": 2}"};
    char file[100];
    snprintf(file, sizeof file, "%s/state.json", path);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FILE *f = fopen(file, "w");
        fputs(bad[i], f);
        fclose(f);
        vp_error err = {0};
        json_t *state;
        OK(vp_checkpoint_state(path, &state, &err) == VP_DATA && !state, "state %s: %s", bad[i], err.text);
    }
    unlink(file);
    vp_error err = {0};
    OK(save(s, 9, &err) == VP_IO, "a folder that is no checkpoint is not replaced: %s", err.text);
}

int main(void) {
    static space s;
    if (!mkdtemp(root)) return 1;
    snprintf(path, sizeof path, "%s/checkpoint", root);
    test_round_trip(&s);
    test_not_finite(&s);
    test_killed(&s);
    test_refusals(&s);
    test_states(&s);
    char file[100];
    static const char *const left[] = {"/weights.safetensors", "/optimizer.safetensors", ""};
    for (int i = 0; i < 3; i++) {
        snprintf(file, sizeof file, "%s%s", path, left[i]);
        remove(file);
    }
    OK(rmdir(root) == 0, "nothing else is left");
    return done();
}
