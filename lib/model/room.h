/* Private to lib/model: memory for a pass before it runs, by planning it (kernels/plan.h); how many tokens a pass may
 * have; and what is said when there is too little. */
#ifndef VP_MODEL_ROOM_H
#define VP_MODEL_ROOM_H
#include "lib/model/encoder.h"

/* What a pass takes of the arena at once, above what lies there, and its floating-point operations. */
typedef struct vp_need {
    size_t bytes;
    double flops;
} vp_need;

/* A pass of rows [b0, b1): on e's queue, or on one that plans. */
typedef struct vp_planned_pass {
    int (*run)(vp_encoder *e, const struct vp_planned_pass *pass, vp_error *err);
    const vp_sequences *s;
    int64_t b0, b1;
    const void *what; /* run's own */
} vp_planned_pass;
/* The encoder must be prepared, and have RoPE tables. Where the process may have too few addresses to plan with, the
 * need is 0: not known. */
int vp_room_plan(const vp_encoder *e, const vp_planned_pass *pass, vp_need *need, vp_error *err);

/* Memory for `bytes`, at once, so that the arena does not grow while the pass runs that needs them. VP_MEMORY: there is
 * not that much; the message has the numbers, and names the option that helps. */
int vp_room_make(vp_encoder *e, const vp_planned_pass *pass, size_t bytes, vp_error *err);
/* How many tokens a pass may have: of rows that are made up, at most VP_ROOM_ROW tokens long, so many passes at a time,
 * beside `more` bytes. Of the CPU's free memory half may be used. */
typedef struct vp_room_limits {
    vp_planned_pass pass;
    size_t more;
    size_t at_once;
} vp_room_limits;
enum { VP_DEVICE_TOKENS = 32768, VP_ROOM_ROW = 512 };
/* Whether there is room for passes of so many tokens. */
int vp_room_fits(vp_encoder *e, int64_t tokens, const vp_room_limits *l, bool *fits, vp_error *err);
/* *tokens where it is 0: what fits, from VP_BATCH_TOKENS on the CPU and VP_DEVICE_TOKENS on a device downwards. */
int vp_room_tokens(vp_encoder *e, const vp_room_limits *l, int64_t *tokens, vp_error *err);

/* In place of err, which tells that a weight found no memory: how much they need together. */
int vp_room_weights(const vp_encoder *e, vp_error *err);

#endif
