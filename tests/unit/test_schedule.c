/* Learning rates: the values that PyTorch's and transformers' schedulers give, ends and refusals. */
#include "lib/train/schedule.h"
#include "tests/unit/tap.h"
#include <math.h>
#include <string.h>

static vp_schedule make(const char *decay, double warmup, int64_t steps) {
    vp_schedule s = {0};
    vp_error err = {0};
    if (vp_schedule_set(&s, decay, 2.0, warmup, steps, &err)) OK(false, "%s", err.text);
    return s;
}

static void rates(const char *what, const vp_schedule *s, const int64_t *step, const double *want, int n) {
    for (int i = 0; i < n; i++) {
        const double got = vp_schedule_lr(s, step[i]);
        OK(fabs(got - want[i]) <= 1e-12, "%s, step %lld: %.9g", what, (long long)step[i], got);
    }
}

static void refused(const char *what, const char *decay, double lr, double warmup, int64_t steps) {
    vp_schedule s;
    vp_error err = {0};
    OK(vp_schedule_set(&s, decay, lr, warmup, steps, &err) == VP_USAGE, "%s: %s", what, err.text);
}

int main(void) {
    const int64_t step[] = {0, 1, 4, 5, 10, 24, 25, 1000};
    vp_schedule s = make("constant", 4.0, 0);
    rates("constant", &s, step, (const double[]){0.0, 0.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0}, 8);
    s = make("linear", 5.0, 25);
    rates("linear", &s, step, (const double[]){0.0, 0.4, 1.6, 2.0, 1.5, 0.1, 0.0, 0.0}, 8);
    s = make("linear", 0.2, 25);
    rates("linear, a share", &s, step, (const double[]){0.0, 0.4, 1.6, 2.0, 1.5, 0.1, 0.0, 0.0}, 8);
    s = make("cosine", 5.0, 25);
    const double last = 1.0 + cos(M_PI * 0.95);
    rates("cosine", &s, step, (const double[]){0.0, 0.4, 1.6, 2.0, 1.0 + cos(M_PI * 0.25), last, 0.0, 0.0}, 8);
    s = make("linear", 0.0, 10);
    rates("no warm-up", &s, step, (const double[]){2.0, 1.8, 1.2, 1.0, 0.0}, 5);
    OK(make("linear", 0.1, 30).warmup_steps == 3, "0.1 of 30 steps is 3");
    OK(make("linear", 0.05, 30).warmup_steps == 2, "0.05 of 30 steps is 2: rounded up");
    OK(make("linear", 10.0, 10).warmup_steps == 10 &&
           vp_schedule_lr(&(vp_schedule){VP_DECAY_LINEAR, 1.0, 10, 10}, 10) == 0.0,
       "warm-up to the end");
    refused("a name", "linea", 1.0, 0.0, 10);
    refused("a rate below 0", "linear", -1.0, 0.0, 10);
    refused("no rate", "linear", NAN, 0.0, 10);
    refused("no length", "linear", 1.0, 0.0, 0);
    refused("a share of no length", "constant", 1.0, 0.5, 0);
    refused("a longer warm-up", "cosine", 1.0, 11.0, 10);
    refused("no warm-up", "cosine", 1.0, NAN, 10);
    return done();
}
