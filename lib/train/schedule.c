/* Learning-rate schedules (schedule.h). */
#include "lib/train/schedule.h"
#include <math.h>
#include <string.h>

static const char *const names[] = {
    [VP_DECAY_CONSTANT] = "constant", [VP_DECAY_LINEAR] = "linear", [VP_DECAY_COSINE] = "cosine"};

int vp_schedule_set(vp_schedule *s, const char *decay, double lr, double warmup, int64_t decay_steps, vp_error *err) {
    int kind = 0;
    while (kind < 3 && strcmp(names[kind], decay) != 0) kind++;
    if (kind == 3) return vp_fail(err, VP_USAGE, "schedule '%s': not one of %s", decay, VP_SCHEDULES);
    if (!(lr >= 0.0 && isfinite(lr))) return vp_fail(err, VP_USAGE, "learning rate %g: not a number from 0", lr);
    if (!(warmup >= 0.0 && warmup <= 0x1p53)) return vp_fail(err, VP_USAGE, "warm-up %g: not a number from 0", warmup);
    if (decay_steps < 0) return vp_fail(err, VP_USAGE, "%lld steps of decay", (long long)decay_steps);
    const bool share = warmup > 0.0 && warmup < 1.0;
    if (decay_steps == 0 && (share || kind != VP_DECAY_CONSTANT))
        return vp_fail(err, VP_USAGE, "%s needs the number of steps", share ? "a share for warm-up" : names[kind]);
    *s = (vp_schedule){.decay = (vp_decay)kind, .lr = lr, .decay_steps = decay_steps};
    /* 0.1 of 30 is 3 steps, though the product in binary is a little more */
    s->warmup_steps = (int64_t)ceil(share ? warmup * (double)decay_steps - 1e-9 : warmup);
    if (kind != VP_DECAY_CONSTANT && s->warmup_steps > decay_steps)
        return vp_fail(err, VP_USAGE, "%lld steps of warm-up, more than the %lld planned", (long long)s->warmup_steps,
                       (long long)decay_steps);
    return VP_OK;
}

double vp_schedule_lr(const vp_schedule *s, int64_t step) {
    if (step < s->warmup_steps) return s->lr * (double)step / (double)s->warmup_steps;
    if (s->decay == VP_DECAY_CONSTANT) return s->lr;
    if (step >= s->decay_steps) return 0.0;
    const double left = (double)(s->decay_steps - step) / (double)(s->decay_steps - s->warmup_steps);
    if (s->decay == VP_DECAY_LINEAR) return s->lr * left;
    return s->lr * 0.5 * (1.0 + cos(3.14159265358979323846 * (1.0 - left)));
}
