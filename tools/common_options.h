/* Rows of option tables that several programs have, for what is said of them in each; and what -v says of --device. */
#ifndef VP_TOOLS_COMMON_OPTIONS_H
#define VP_TOOLS_COMMON_OPTIONS_H
#include "lib/vecpipe.h"

#define OPTION_MODEL(to, what)                                                                                         \
    { .name = "model", .letter = 'm', .kind = VP_OPT_STRING, .target = (to), .value = "PATH", .help = (what) }
#define OPTION_ADAPTER(to, what)                                                                                       \
    { .name = "adapter", .kind = VP_OPT_LIST, .target = (to), .value = "DIR", .help = (what) }
#define OPTION_COMPUTE_OF(types, to, what)                                                                             \
    { .name = "compute", .kind = VP_OPT_CHOICE, .target = (to), .choices = (types), .help = (what) }
#define OPTION_COMPUTE(to, what) OPTION_COMPUTE_OF(VP_COMPUTES, to, what)
#define OPTION_DEVICE_AS(to, what)                                                                                     \
    { .name = "device", .kind = VP_OPT_STRING, .target = (to), .value = VP_DEVICES, .help = (what) }
#define OPTION_DEVICE(to) OPTION_DEVICE_AS(to, "where to compute; else $VP_DEVICE, else auto: a GPU where there is one")
#define OPTION_BATCH_TOKENS(to, what)                                                                                  \
    {                                                                                                                  \
        .name = "batch-tokens", .kind = VP_OPT_AUTO, .target = (to), .value = "auto|N", .min = 1, .max = 1 << 24,      \
        .help = (what)                                                                                                 \
    }
#define OPTION_THREADS(to, what)                                                                                       \
    { .name = "threads", .kind = VP_OPT_INT, .target = (to), .value = "N", .max = 4096, .help = (what) }

/* With -v: what the program computes on; and at its end how much that was of `tokens`, and what the device tells. */
static inline void tell_compute(vp_compute on) {
    char name[40];
    vp_compute_describe(&on, name);
    if (vp_cli_verbose()) vp_cli_note("computes on %s", name);
}
static inline void tell_device(const vp_encoder *e) {
    tell_compute(vp_encoder_compute(e));
}
static inline void tell_repeated(const vp_encoder *e) {
    const vp_work w = vp_encoder_work(e);
    if (vp_cli_verbose() && (w.repeated || w.refused))
        vp_cli_note("%lld of %lld passes were those of before, in one launch each%s", (long long)w.repeated,
                    (long long)w.passes, w.refused ? "; some could not be recorded, and were launched as ever" : "");
}
static inline void tell_work(const vp_encoder *e, int64_t tokens) {
    if (!vp_cli_verbose() || !e || !tokens) return;
    const vp_work w = vp_encoder_work(e);
    vp_cli_note("%lld tokens at a time in %.1f MB beside the weights, %.3g GFLOP a token", (long long)w.batch_tokens,
                (double)w.bytes / 1e6, w.flops / 1e9 / (double)tokens);
    tell_repeated(e);
    const vp_compute on = vp_encoder_compute(e);
    const char *note;
    for (int i = 0; (note = vp_compute_note(&on, i)); i++) vp_cli_note("%s", note);
}

#endif
