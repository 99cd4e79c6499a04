/* Private to lib/train/objective*.c: the row of the table, an open objective, and a step's rows as examples. */
#ifndef VP_TRAIN_OBJECTIVE_PRIVATE_H
#define VP_TRAIN_OBJECTIVE_PRIVATE_H
#include "kernels/ops.h"
#include "lib/train/objective.h"

typedef int vp_objective_rows_fn(const vp_objective *o, const vp_rows *r, float *loss, float *grad, vp_error *err);

typedef struct vp_objective_kind {
    const char *name;
    vp_objective_form form;
    bool bags;                  /* slots count */
    bool balances;              /* the model's balancing loss is added: it trains next tokens */
    vp_objective_rows_fn *rows; /* NULL for tokens */
} vp_objective_kind;

struct vp_objective {
    vp_objective_options options;
    const vp_objective_kind *kind;
    const vp_backend *ops; /* a device of its own with one thread, for objectives of rows */
    vp_device *device;
    vp_queue *queue;
};

/* objective_nce.c, objective_cosine.c, objective_kto.c */
vp_objective_rows_fn vp_objective_infonce, vp_objective_distill, vp_objective_cosent, vp_objective_mse,
    vp_objective_kto;

/* objective_bag.c: vp_objective_tokens of the marked positions [first, last), which are whole units. */
int vp_objective_llara(const vp_objective *o, vp_head *head, const vp_marked *t, int64_t first, int64_t last,
                       float *loss, float *grad, uint8_t *right, vp_error *err);

/* A backend call's status as an error. */
int vp_objective_check(const vp_objective *o, int status, vp_error *err);
/* n zeroed items in the queue's arena, until vp_objective_rows returns; NULL: VP_MEMORY is recorded. */
void *vp_objective_alloc(const vp_objective *o, int64_t n, size_t size, vp_error *err);
/* u [B, D] = emb / max(length, 1e-12); and grad [B, D] of emb from du. */
int vp_objective_normalise(const vp_objective *o, const vp_rows *r, float **u, vp_error *err);
int vp_objective_backward(const vp_objective *o, const vp_rows *r, float *du, float *grad, vp_error *err);

static inline vp_mat vp_objective_mat(const float *p, int64_t rows, int64_t cols) {
    return (vp_mat){.ptr = (float *)(uintptr_t)p, .dtype = VP_F32, .rows = rows, .cols = cols, .ld = cols};
}

/* ---- examples.c ---- */
typedef enum vp_part { VP_PART_QUERY, VP_PART_POSITIVE, VP_PART_NEGATIVE, VP_PART_NONE } vp_part;
typedef struct vp_examples {
    int64_t Q, N;       /* queries and passages, each in `row` order */
    int32_t *query;     /* [Q] rows */
    int32_t *positive;  /* [Q] passages; -1: none */
    int32_t *candidate; /* [N] rows of the passages */
    uint8_t *part;      /* [N] vp_part of the passages */
} vp_examples;
/* VP_DATA: columns `group`, `role` or `view` are missing, no query, two queries of a group, and, when they are
 * `needed`, a query without positive. In the queue's arena. */
int vp_examples_make(vp_examples *e, const vp_objective *o, const vp_rows *r, bool needed, vp_error *err);

#endif
