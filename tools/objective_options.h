/* The options of objectives, in the option tables of loss and step: the same names, defaults and help. */
#ifndef VP_TOOLS_OBJECTIVE_OPTIONS_H
#define VP_TOOLS_OBJECTIVE_OPTIONS_H
#include "lib/vecpipe.h"

static struct objective_settings {
    vp_objective_options defaults;
    int candidates, same_tower, distillation, bag;
} objective = {.defaults = VP_OBJECTIVE_DEFAULTS};

/* Rows of a vp_option table, with their heading. */
#define OBJECTIVE_OPTIONS                                                                                              \
    {.kind = VP_OPT_GROUP, .help = "Objective"},                                                                       \
        {.name = "scale",                                                                                              \
         .kind = VP_OPT_REAL,                                                                                          \
         .target = &objective.defaults.scale,                                                                          \
         .value = "X",                                                                                                 \
         .min = 1e-6,                                                                                                  \
         .max = 1e6,                                                                                                   \
         .help = "multiplies cosines: 1 / temperature"},                                                               \
        {.name = "candidates",                                                                                         \
         .kind = VP_OPT_CHOICE,                                                                                        \
         .target = &objective.candidates,                                                                              \
         .choices = VP_CANDIDATES_CHOICES,                                                                             \
         .help = "infonce: every passage of the step, or the query's own"},                                            \
        {.name = "same-tower",                                                                                         \
         .kind = VP_OPT_CHOICE,                                                                                        \
         .target = &objective.same_tower,                                                                              \
         .choices = VP_SAME_TOWER_CHOICES,                                                                             \
         .help = "infonce: other queries, other positives as negatives too"},                                          \
        {.name = "mask-same-text",                                                                                     \
         .kind = VP_OPT_FLAG,                                                                                          \
         .target = &objective.defaults.mask_same_text,                                                                 \
         .help = "infonce: a text equal to the positive is no negative"},                                              \
        {.name = "teacher-weight",                                                                                     \
         .kind = VP_OPT_REAL,                                                                                          \
         .target = &objective.defaults.teacher_weight,                                                                 \
         .value = "X",                                                                                                 \
         .max = 1e6,                                                                                                   \
         .help = "infonce: add X times the loss of distill"},                                                          \
        {.name = "teacher-temperature",                                                                                \
         .kind = VP_OPT_REAL,                                                                                          \
         .target = &objective.defaults.teacher_temperature,                                                            \
         .value = "X",                                                                                                 \
         .min = 1e-6,                                                                                                  \
         .max = 1e6,                                                                                                   \
         .help = "distill: divides the teacher's scores"},                                                             \
        {.name = "bag-weight",                                                                                         \
         .kind = VP_OPT_REAL,                                                                                          \
         .target = &objective.defaults.bag_weight,                                                                     \
         .value = "X",                                                                                                 \
         .max = 1e6,                                                                                                   \
         .help = "llara: of the bags' terms beside the next tokens'"},                                                 \
        {.name = "bag",                                                                                                \
         .kind = VP_OPT_CHOICE,                                                                                        \
         .target = &objective.bag,                                                                                     \
         .choices = "mean|sum",                                                                                        \
         .help = "llara: over the tokens of a bag"},                                                                   \
        {.name = "lambda-rep",                                                                                         \
         .kind = VP_OPT_REAL,                                                                                          \
         .target = &objective.defaults.lambda_rep,                                                                     \
         .value = "X",                                                                                                 \
         .max = 1e6,                                                                                                   \
         .help = "grit: of the loss of embeddings; 0: none"},                                                          \
        {.name = "lambda-gen",                                                                                         \
         .kind = VP_OPT_REAL,                                                                                          \
         .target = &objective.defaults.lambda_gen,                                                                     \
         .value = "X",                                                                                                 \
         .max = 1e6,                                                                                                   \
         .help = "grit: of the loss of generated tokens; 0: none"},                                                    \
        {.name = "beta",                                                                                               \
         .kind = VP_OPT_REAL,                                                                                          \
         .target = &objective.defaults.beta,                                                                           \
         .value = "X",                                                                                                 \
         .min = 1e-6,                                                                                                  \
         .max = 1e6,                                                                                                   \
         .help = "kto: multiplies log-ratios to the reference"},                                                       \
        {.name = "desirable",                                                                                          \
         .kind = VP_OPT_REAL,                                                                                          \
         .target = &objective.defaults.desirable,                                                                      \
         .value = "X",                                                                                                 \
         .max = 1e6,                                                                                                   \
         .help = "kto: weight of answers that are wanted"},                                                            \
        {.name = "undesirable",                                                                                        \
         .kind = VP_OPT_REAL,                                                                                          \
         .target = &objective.defaults.undesirable,                                                                    \
         .value = "X",                                                                                                 \
         .max = 1e6,                                                                                                   \
         .help = "kto: weight of those that are not"},                                                                 \
    {                                                                                                                  \
        .name = "distillation", .kind = VP_OPT_CHOICE, .target = &objective.distillation,                              \
        .choices = VP_DISTILLATION_CHOICES, .help = "distill: softmaxes, or differences to the positive's score"       \
    }

/* What was asked for, of the objective called `name`. */
static inline vp_objective_options objective_options(const char *name) {
    vp_objective_options o = objective.defaults;
    o.name = name;
    o.candidates = (vp_candidates)objective.candidates;
    o.same_tower = (vp_same_tower)objective.same_tower;
    o.bag_sum = objective.bag == 1;
    o.distillation = (vp_distillation)objective.distillation;
    return o;
}

#endif
