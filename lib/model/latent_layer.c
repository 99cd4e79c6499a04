/* The latent-attention layer: packing its weights, folding them for inference, and the forward pass. */
#include "lib/model/latent_layer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 256 }; /* rows of h at a time: bounds the memory of a pass */

int vp_latent_check(const vp_latent_layer *l, int status, vp_error *err) {
    return vp_compute_check(&l->o.on, status, err);
}

vp_mat vp_latent_matrix(const float *data, int64_t rows, int64_t cols) {
    return (vp_mat){.ptr = (float *)data, .dtype = VP_F32, .rows = rows, .cols = cols, .ld = cols};
}

int vp_latent_scratch(vp_latent_layer *l, int64_t rows, int64_t cols, vp_mat *m, vp_error *err) {
    const size_t bytes = (size_t)(rows * cols) * sizeof(float);
    *m = vp_latent_matrix(vp_compute_take(&l->o.on, "latent attention", bytes, err), rows, cols);
    return m->ptr ? VP_OK : VP_MEMORY;
}

/* ---- operations with this layer's numbers ---- */

vp_norm_op vp_latent_norm_op(const vp_latent_layer *l, vp_latent_role role, const vp_mat *x, const vp_mat *out) {
    return (vp_norm_op){.kind = VP_NORM_LAYER,
                        .x = *x,
                        .out = *out,
                        .weight = l->value + l->at.weight[role],
                        .bias = l->value + l->at.bias[role],
                        .eps = 1e-5f};
}

static vp_mat keys_of(const vp_latent_layer *l, const float *first) {
    const vp_latent_sizes *s = &l->o.sizes;
    return (vp_mat){.ptr = (float *)first, .dtype = VP_F32, .rows = s->latents, .cols = s->head_width, .ld = l->ld};
}

/* The columns of head 0; the stride to the next head is their number. */
static vp_mat first_head(const vp_mat *m, int64_t cols) {
    vp_mat head = *m;
    head.cols = cols;
    return head;
}

vp_bmm_op vp_latent_scores_op(const vp_latent_layer *l, const vp_mat *q, const vp_mat *p) {
    const vp_latent_sizes *s = &l->o.sizes;
    return (vp_bmm_op){.a = first_head(q, s->head_width),
                       .b = keys_of(l, l->keys),
                       .out = first_head(p, s->latents),
                       .count = s->heads,
                       .stride_a = s->head_width,
                       .stride_b = s->head_width,
                       .stride_out = s->latents,
                       .transpose_b = true,
                       .alpha = s->plain ? 1.0f : (float)(1 / sqrt((double)s->head_width))};
}

vp_bmm_op vp_latent_mix_op(const vp_latent_layer *l, const vp_mat *p, const vp_mat *o) {
    const vp_latent_sizes *s = &l->o.sizes;
    return (vp_bmm_op){.a = first_head(p, s->latents),
                       .b = keys_of(l, l->values),
                       .out = first_head(o, s->head_width),
                       .count = s->heads,
                       .stride_a = s->latents,
                       .stride_b = s->head_width,
                       .stride_out = s->head_width,
                       .alpha = 1};
}

vp_mat vp_latent_by_head(const vp_latent_layer *l, const vp_mat *p) {
    return vp_latent_matrix(p->ptr, p->rows * l->o.sizes.heads, l->o.sizes.latents);
}

/* out = x W^T + bias (+ residual) */
static int linear(vp_latent_layer *l, const vp_weight *w, const vp_mat *x, const vp_mat *residual, const vp_mat *out,
                  vp_error *err) {
    vp_linear_op op = {.weight = w, .x = *x, .out = *out};
    if (residual) op.residual = *residual;
    return vp_latent_check(l, l->o.on.ops->linear(l->o.on.queue, &op), err);
}

/* ---- weights ---- */

typedef struct rows {
    const float *data;
    int64_t cols;
} rows;

static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)err;
    const rows *r = ctx;
    memcpy(out, r->data + row * r->cols, (size_t)r->cols * sizeof *out);
    return VP_OK;
}

/* Packs [out, in], or when it is there already packs it anew. */
static int pack(vp_latent_layer *l, vp_weight **w, const float *data, const float *bias, int64_t out, int64_t in,
                const char *name, vp_error *err) {
    const rows r = {data, in};
    const vp_weight_part part = {.rows = out, .read_row = read_row, .ctx = &r};
    const vp_weight_desc desc = {.part = &part,
                                 .nparts = 1,
                                 .in = in,
                                 .out = out,
                                 .bias = bias,
                                 .compute = VP_F32,
                                 .backward = l->o.grad != NULL,
                                 .name = name};
    const vp_compute *on = &l->o.on;
    if (*w) return vp_latent_check(l, on->ops->weight_update(on->queue, *w, &desc), err);
    return on->ops->weight_prepare(on->device, &desc, w, err);
}

/* The same of a matrix that was computed. */
static int pack_made(vp_latent_layer *l, vp_weight **w, const vp_mat *m, const char *name, vp_error *err) {
    const vp_compute *on = &l->o.on;
    const size_t bytes = (size_t)(m->rows * m->cols) * sizeof(float);
    float *host = on->separate ? vp_calloc(bytes, 1) : m->ptr;
    int status = host ? vp_compute_fetch(on, host, m->ptr, bytes, err) : vp_fail_memory(err, name, bytes);
    if (!status) status = pack(l, w, host, NULL, m->rows, m->cols, name, err);
    if (on->separate) free(host);
    return status;
}

/* K and V of the latents. */
static int attend_latents(vp_latent_layer *l, vp_error *err) {
    const vp_latent_sizes *s = &l->o.sizes;
    const vp_mat latents = vp_latent_matrix(l->value + l->at.weight[VP_LATENTS], s->latents, l->o.width);
    const vp_mat context = vp_latent_matrix(l->context, s->latents, l->o.width);
    const vp_mat kept = vp_latent_matrix(l->kept, s->latents, 2 * l->inputs);
    const vp_norm_op norm = vp_latent_norm_op(l, VP_LATENT_CONTEXT, &latents, &context);
    VP_TRY(vp_latent_check(l, l->o.on.ops->norm(l->o.on.queue, &norm), err));
    const float *kv = l->o.value + l->at.weight[VP_LATENT_KV];
    VP_TRY(pack(l, &l->kv, kv, NULL, 2 * l->inputs, l->o.width, "latents.kv", err));
    return linear(l, l->kv, &context, NULL, &kept, err);
}

/* Scores from h at once, q = alpha K_k (W_q)_k [H r, C], and from p to the stream, out = (W_out)_k V_k^T [C, H r]. */
static int fold(vp_latent_layer *l, vp_error *err) {
    const vp_latent_sizes *s = &l->o.sizes;
    const int64_t C = l->o.width, d = s->head_width, scores = s->heads * s->latents;
    vp_mat q, out;
    VP_TRY(vp_latent_scratch(l, scores, C, &q, err));
    VP_TRY(vp_latent_scratch(l, C, scores, &out, err));
    const vp_bmm_op keys = {.a = keys_of(l, l->keys),
                            .b = vp_latent_matrix(l->value + l->at.weight[VP_LATENT_Q], d, C),
                            .out = vp_latent_matrix(q.ptr, s->latents, C),
                            .count = s->heads,
                            .stride_a = d,
                            .stride_b = d * C,
                            .stride_out = s->latents * C,
                            .alpha = (float)(1 / sqrt((double)d))};
    const vp_mat projection = vp_latent_matrix(l->value + l->at.weight[VP_LATENT_OUT], C, l->inputs);
    const vp_bmm_op values = {.a = first_head(&projection, d),
                              .b = keys_of(l, l->values),
                              .out = first_head(&out, s->latents),
                              .count = s->heads,
                              .stride_a = d,
                              .stride_b = d,
                              .stride_out = s->latents,
                              .transpose_b = true,
                              .alpha = 1};
    VP_TRY(vp_latent_check(l, l->o.on.ops->bmm(l->o.on.queue, &keys), err));
    VP_TRY(vp_latent_check(l, l->o.on.ops->bmm(l->o.on.queue, &values), err));
    l->o.on.ops->weight_free(l->o.on.device, l->kv);
    l->kv = NULL;
    VP_TRY(pack_made(l, &l->q, &q, "latents.q", err));
    return pack_made(l, &l->out, &out, "latents.out", err);
}

static int prepare(vp_latent_layer *l, vp_error *err) {
    const vp_latent_sizes *s = &l->o.sizes;
    const float *value = l->o.value;
    const int64_t *at = l->at.weight, *bias = l->at.bias, C = l->o.width;
    if (!l->o.value_on)
        VP_TRY(vp_compute_move(&l->o.on, (float *)l->value, value, (size_t)l->at.count * sizeof *value, err));
    if (!s->plain) VP_TRY(attend_latents(l, err));
    if (!s->plain && l->o.fold) {
        VP_TRY(fold(l, err));
    } else if (!s->plain) {
        VP_TRY(pack(l, &l->q, value + at[VP_LATENT_Q], NULL, l->inputs, C, "latents.q", err));
        VP_TRY(pack(l, &l->out, value + at[VP_LATENT_OUT], NULL, C, l->inputs, "latents.out", err));
    }
    VP_TRY(pack(l, &l->up, value + at[VP_LATENT_UP], value + bias[VP_LATENT_UP], s->plain ? s->inner : 2 * s->inner, C,
                "latents.up", err));
    return pack(l, &l->down, value + at[VP_LATENT_DOWN], value + bias[VP_LATENT_DOWN], C, s->inner, "latents.down",
                err);
}

int vp_latent_layer_changed(vp_latent_layer *l, vp_error *err) {
    const vp_compute *on = &l->o.on;
    const size_t mark = on->ops->arena_mark(on->queue);
    const int status = prepare(l, err);
    on->ops->arena_release(on->queue, mark);
    return status;
}

/* n floats of the device's that stay. */
static int keep(vp_latent_layer *l, float **out, int64_t n, vp_error *err) {
    *out = l->o.on.ops->arena_alloc(l->memory, (size_t)n * sizeof **out);
    return *out ? VP_OK : vp_fail_memory(err, "latent attention", (size_t)n * sizeof **out);
}

static int allocate(vp_latent_layer *l, vp_error *err) {
    const vp_latent_sizes *s = &l->o.sizes;
    const int64_t n = s->latents * l->inputs;
    float *copy = NULL;
    VP_TRY(l->o.on.ops->queue_open(&l->memory, l->o.on.device, err));
    if (l->o.on.separate && !l->o.value_on) VP_TRY(keep(l, &copy, l->at.count, err));
    l->value = copy ? copy : l->o.value_on ? l->o.value_on : l->o.value;
    l->keys = l->values = (float *)l->value + l->at.weight[VP_LATENTS];
    l->ld = l->o.width;
    if (!s->plain) {
        VP_TRY(keep(l, &l->context, s->latents * l->o.width, err));
        VP_TRY(keep(l, &l->kept, 2 * n, err));
        l->keys = l->kept;
        l->values = l->kept + l->inputs;
        l->ld = 2 * l->inputs;
    }
    if (!l->o.grad) return VP_OK;
    VP_TRY(keep(l, &l->dkeys, n, err));
    VP_TRY(keep(l, &l->dvalues, n, err));
    return vp_latent_clear(l, err);
}

int vp_latent_layer_open(vp_latent_layer **out, const vp_latent_layer_options *o, vp_error *err) {
    *out = NULL;
    vp_latent_layer *l = vp_calloc(1, sizeof *l);
    if (!l) return vp_fail_memory(err, "a latent layer", sizeof *l);
    l->o = *o;
    l->at = vp_latent_layout_of(&o->sizes, o->width);
    l->inputs = o->sizes.heads * o->sizes.head_width;
    int status = allocate(l, err);
    if (!status) status = vp_latent_layer_changed(l, err);
    if (status)
        vp_latent_layer_close(l);
    else
        *out = l;
    return status;
}

void vp_latent_layer_close(vp_latent_layer *l) {
    if (!l) return;
    vp_weight *const weights[] = {l->q, l->kv, l->out, l->up, l->down};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        if (weights[i]) l->o.on.ops->weight_free(l->o.on.device, weights[i]);
    if (l->memory) l->o.on.ops->queue_close(l->memory);
    free(l);
}

/* ---- forward ---- */

/* p = softmax of the scores, o = p V, x = h + o W_out^T */
static int attend(vp_latent_layer *l, vp_latent_saved *s, vp_error *err) {
    const vp_backend *ops = l->o.on.ops;
    vp_queue *queue = l->o.on.queue;
    const bool folded = l->o.fold && !l->o.sizes.plain;
    if (folded) {
        VP_TRY(linear(l, l->q, &s->u, NULL, &s->p, err));
    } else {
        if (!l->o.sizes.plain) VP_TRY(linear(l, l->q, &s->u, NULL, &s->q, err));
        const vp_bmm_op scores = vp_latent_scores_op(l, &s->q, &s->p);
        VP_TRY(vp_latent_check(l, ops->bmm(queue, &scores), err));
    }
    const vp_mat by_head = vp_latent_by_head(l, &s->p);
    const vp_softmax_op softmax = {.x = by_head, .out = by_head};
    VP_TRY(vp_latent_check(l, ops->softmax_rows(queue, &softmax), err));
    if (folded) return linear(l, l->out, &s->p, &s->h, &s->x, err);
    const vp_bmm_op mix = vp_latent_mix_op(l, &s->p, &s->o);
    VP_TRY(vp_latent_check(l, ops->bmm(queue, &mix), err));
    return l->o.sizes.plain ? VP_OK : linear(l, l->out, &s->o, &s->h, &s->x, err);
}

/* up | gate, their product, and y */
static int feed_forward(vp_latent_layer *l, vp_latent_saved *s, vp_error *err) {
    const vp_backend *ops = l->o.on.ops;
    vp_queue *queue = l->o.on.queue;
    const int64_t F = l->o.sizes.inner;
    VP_TRY(linear(l, l->up, &s->v, NULL, &s->up, err));
    if (l->o.sizes.plain) {
        const vp_act_op act = {.act = VP_ACT_GELU, .x = s->up, .out = s->mid};
        VP_TRY(vp_latent_check(l, ops->act(queue, &act), err));
        return linear(l, l->down, &s->mid, NULL, &s->y, err);
    }
    vp_mat gate = s->up, up = s->up;
    gate.cols = up.cols = F;
    gate.ptr = (float *)s->up.ptr + F;
    const vp_glu_op glu = {.act = VP_ACT_GELU, .gate = gate, .up = up, .out = s->mid};
    VP_TRY(vp_latent_check(l, ops->glu(queue, &glu), err));
    return linear(l, l->down, &s->mid, &s->x, &s->y, err);
}

static int forward(vp_latent_layer *l, const float *h, int64_t n, vp_latent_saved *s, vp_error *err) {
    const vp_latent_sizes *z = &l->o.sizes;
    const int64_t C = l->o.width;
    const bool plain = z->plain;
    s->h = vp_latent_matrix(h, n, C);
    VP_TRY(vp_latent_scratch(l, n, z->heads * z->latents, &s->p, err));
    if (!l->o.fold || plain) VP_TRY(vp_latent_scratch(l, n, l->inputs, &s->o, err));
    VP_TRY(vp_latent_scratch(l, n, plain ? z->inner : 2 * z->inner, &s->up, err));
    VP_TRY(vp_latent_scratch(l, n, z->inner, &s->mid, err));
    if (!s->y.ptr) VP_TRY(vp_latent_scratch(l, n, C, &s->y, err));
    if (plain) {
        s->q = s->u = s->h;
        s->x = s->v = s->o;
        VP_TRY(attend(l, s, err));
        return feed_forward(l, s, err);
    }
    VP_TRY(vp_latent_scratch(l, n, C, &s->u, err));
    VP_TRY(vp_latent_scratch(l, n, C, &s->x, err));
    VP_TRY(vp_latent_scratch(l, n, C, &s->v, err));
    if (!l->o.fold) VP_TRY(vp_latent_scratch(l, n, l->inputs, &s->q, err));
    const vp_norm_op norm = vp_latent_norm_op(l, VP_LATENT_NORM, &s->h, &s->u);
    VP_TRY(vp_latent_check(l, l->o.on.ops->norm(l->o.on.queue, &norm), err));
    VP_TRY(attend(l, s, err));
    const vp_norm_op second = vp_latent_norm_op(l, VP_LATENT_NORM_2, &s->x, &s->v);
    VP_TRY(vp_latent_check(l, l->o.on.ops->norm(l->o.on.queue, &second), err));
    return feed_forward(l, s, err);
}

int vp_latent_layer_forward(vp_latent_layer *l, const float *h, int64_t n, vp_latent_saved *s, vp_error *err) {
    *s = (vp_latent_saved){0};
    return forward(l, h, n, s, err);
}

int vp_latent_layer_run(vp_latent_layer *l, const float *h, int64_t n, float *y, vp_error *err) {
    const vp_compute *on = &l->o.on;
    int status = VP_OK;
    for (int64_t t = 0; t < n && !status; t += BLOCK) {
        const int64_t rows_here = n - t < BLOCK ? n - t : BLOCK;
        const size_t mark = on->ops->arena_mark(on->queue);
        vp_latent_saved s = {.y = vp_latent_matrix(y + t * l->o.width, rows_here, l->o.width)};
        status = forward(l, h + t * l->o.width, rows_here, &s, err);
        on->ops->arena_release(on->queue, mark);
    }
    return status;
}
