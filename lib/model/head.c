/* The output head on a device: where its weights are in the model, packing, and the operations on it. */
#include "lib/model/head.h"
#include "lib/model/token_rows.h"
#include <stdlib.h>
#include <string.h>

struct vp_head {
    vp_compute on;
    bool owns;              /* `on` was opened here */
    vp_weight *weight;      /* NULL: */
    const vp_encoder *from; /* whose table on the device it is, once that is prepared */
    float *bias;            /* [vocab], or NULL */
    int64_t width, vocab;
    const vp_weight_entry *rows; /* an untied head's */
    vp_token_rows table;         /* a tied one's */
    bool single;                 /* of `token` alone */
    int32_t token;
};

typedef struct live_rows {
    const float *rows; /* [vocab, width] */
    int64_t width;
} live_rows;

/* The entry with the head's numbers: its own, or the embedding that it is tied to. */
static int find_head(const vp_model *m, const vp_weight_entry **head, const vp_weight_entry **rows, vp_error *err) {
    *head = vp_model_has_weights(m) ? vp_weights_find(&m->weights, VP_W_HEAD, -1) : NULL;
    *rows = *head && (*head)->alias ? (*head)->alias : *head;
    if (*rows && (*rows)->tensor) return VP_OK;
    return vp_fail(err, VP_DATA, "%s: the model has no output head (lm_head) to predict tokens with", vp_model_path(m));
}

static vp_weight_desc describe(const vp_head *h, const vp_weight_part *part) {
    return (vp_weight_desc){.part = part,
                            .nparts = 1,
                            .in = h->width,
                            .out = h->vocab,
                            .bias = h->bias,
                            .compute = h->on.type,
                            .backward = !h->on.rows,
                            .rows = h->on.rows,
                            .name = "lm_head"};
}

static vp_weight_part all_rows(const vp_head *h) {
    if (!h->rows) return vp_token_rows_part(&h->table);
    return (vp_weight_part){.rows = h->vocab, .read_row = vp_weight_read_row, .ctx = h->rows};
}

static int read_single(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)row;
    const vp_head *h = ctx;
    const vp_weight_part all = all_rows(h);
    return all.read_row(all.ctx, h->token, out, err);
}

static vp_weight_part own_rows(const vp_head *h) {
    return h->single ? (vp_weight_part){.rows = 1, .read_row = read_single, .ctx = h} : all_rows(h);
}

static int keep_single(vp_head *h, vp_error *err) {
    if (!h->on.rows) return vp_fail(err, VP_BUG, "one token of a head that does not generate");
    if (h->token < 0 || h->token >= h->vocab)
        return vp_fail(err, VP_DATA, "token %d, the model has tokens below %lld", (int)h->token, (long long)h->vocab);
    if (h->bias) h->bias[0] = h->bias[h->token];
    h->vocab = 1;
    return VP_OK;
}

static int pack(vp_head *h, const vp_model *m, vp_error *err) {
    const vp_weight_entry *head, *rows;
    VP_TRY(find_head(m, &head, &rows, err));
    h->vocab = rows->rows;
    h->width = rows->cols;
    if (head->bias) {
        h->bias = vp_calloc((size_t)h->vocab, sizeof *h->bias);
        if (!h->bias) return vp_fail_memory(err, "a bias", (size_t)h->vocab * sizeof *h->bias);
        VP_TRY(vp_weight_read_bias(head, h->bias, err));
    }
    h->rows = head->alias ? NULL : rows;
    vp_token_rows_set(&h->table, m, NULL);
    if (h->single) VP_TRY(keep_single(h, err));
    if (h->from && vp_head_is_tied(h) && !h->bias && !h->single) return VP_OK;
    h->from = NULL;
    const vp_weight_part part = own_rows(h);
    const vp_weight_desc desc = describe(h, &part);
    const int status = h->on.ops->weight_prepare(h->on.device, &desc, &h->weight, err);
    vp_source_forget(m->source); /* what was packed is not read again */
    return status;
}

static int pack_again(vp_head *h, const vp_weight_part *part, vp_error *err) {
    const vp_weight_desc desc = describe(h, part);
    return vp_compute_check(&h->on, h->on.ops->weight_update(h->on.queue, h->weight, &desc), err);
}

static int read_live(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)err;
    const live_rows *l = ctx;
    memcpy(out, l->rows + row * l->width, (size_t)l->width * sizeof *out);
    return VP_OK;
}

int vp_head_set(vp_head *h, const float *rows, vp_error *err) {
    if (h->from) return VP_OK; /* the encoder's table has followed them */
    const live_rows live = {rows, h->width};
    const vp_weight_part part = {.rows = h->vocab, .read_row = read_live, .ctx = &live};
    return pack_again(h, &part, err);
}

int vp_head_set_tokens(vp_head *h, const float *rows, int64_t n, vp_error *err) {
    if (h->from) return VP_OK;
    if (h->rows || n < 0 || n > h->vocab) return vp_fail(err, VP_BUG, "rows of %lld tokens of a head", (long long)n);
    h->table.trained = rows;
    h->table.trained_first = h->vocab - n;
    const vp_weight_part part = own_rows(h);
    const int status = pack_again(h, &part, err);
    h->table.trained = NULL;
    return status;
}

static int finish_open(vp_head **out, vp_head *h, int status) {
    if (status) vp_head_close(h);
    *out = status ? NULL : h;
    return status;
}

int vp_head_open(vp_head **out, const vp_model *m, const vp_encode_options *o, vp_error *err) {
    vp_head *h = *out = vp_calloc(1, sizeof *h);
    if (!h) return vp_fail_memory(err, "an output head", sizeof *h);
    h->owns = true;
    int status = vp_compute_open(&h->on, o->device, o->threads, o->compute, err);
    if (!status) status = pack(h, m, err);
    return finish_open(out, h, status);
}

int vp_head_open_on(vp_head **out, const vp_model *m, const vp_encoder *e, vp_error *err) {
    vp_head *h = *out = vp_calloc(1, sizeof *h);
    if (!h) return vp_fail_memory(err, "an output head", sizeof *h);
    h->on = e->on;
    if (vp_encoder_table_type(e) == e->on.type) h->from = e;
    return finish_open(out, h, pack(h, m, err));
}

int vp_head_open_token(vp_head **out, const vp_model *m, const vp_compute *on, int32_t id, vp_error *err) {
    vp_head *h = *out = vp_calloc(1, sizeof *h);
    if (!h) return vp_fail_memory(err, "an output head", sizeof *h);
    h->on = *on;
    h->single = true;
    h->token = id;
    return finish_open(out, h, pack(h, m, err));
}

void vp_head_close(vp_head *h) {
    if (!h) return;
    if (h->weight) h->on.ops->weight_free(h->on.device, h->weight);
    if (h->owns) vp_compute_close(&h->on);
    free(h->bias);
    free(h);
}

bool vp_head_is_tied(const vp_head *h) {
    return !h->rows;
}

vp_compute vp_head_compute(const vp_head *h) {
    return h->on;
}

int64_t vp_head_width(const vp_head *h) {
    return h->width;
}

int64_t vp_head_vocab(const vp_head *h) {
    return h->vocab;
}

/* ---- operations ---- */

static const vp_weight *weight_of(const vp_head *h) {
    return h->from ? h->from->resident : h->weight;
}

int vp_head_logits(vp_head *h, const struct vp_mat *x, const struct vp_mat *logits, vp_error *err) {
    const vp_linear_op op = {.weight = weight_of(h), .x = *x, .out = *logits};
    VP_TRY(vp_compute_check(&h->on, h->on.ops->linear(h->on.queue, &op), err));
    return h->on.ops->queue_wait(h->on.queue, err);
}

int vp_head_xent_on(const vp_head *h, const vp_compute *c, const vp_xent_op *op, vp_error *err) {
    const int64_t M = op->x.rows;
    vp_transfer t = vp_transfer_begin(c, "the loss of tokens", err);
    vp_xent_op on = *op;
    on.head = weight_of(h);
    on.x = vp_transfer_put_mat(&t, &op->x);
    on.target = vp_transfer_put(&t, op->target, M, sizeof *op->target);
    on.weight = vp_transfer_put(&t, op->weight, M, sizeof *op->weight);
    on.loss = vp_transfer_room(&t, op->loss, M, sizeof *op->loss);
    on.logprob = vp_transfer_room(&t, op->logprob, M, sizeof *op->logprob);
    on.right = vp_transfer_room(&t, op->right, M, sizeof *op->right);
    const vp_mat dx = op->dx ? vp_transfer_room_mat(&t, op->dx) : (vp_mat){0};
    if (op->dx) on.dx = &dx;
    if (!t.status) vp_transfer_done(&t, c->ops->xent(c->queue, &on));
    vp_transfer_get(&t, op->loss, on.loss, M, sizeof *op->loss);
    vp_transfer_get(&t, op->logprob, on.logprob, M, sizeof *op->logprob);
    vp_transfer_get(&t, op->right, on.right, M, sizeof *op->right);
    if (op->dx) vp_transfer_get_mat(&t, op->dx, &dx);
    return vp_transfer_end(&t);
}

int vp_head_bag_on(const vp_head *h, const vp_compute *c, const vp_bag_op *op, vp_error *err) {
    const int64_t n = op->bags;
    vp_transfer t = vp_transfer_begin(c, "the loss of tokens", err);
    vp_bag_op on = *op;
    on.head = weight_of(h);
    on.x = vp_transfer_put_mat(&t, &op->x);
    on.target = vp_transfer_put(&t, op->target, op->target_cu[n], sizeof *op->target);
    on.weight = vp_transfer_put(&t, op->weight, n, sizeof *op->weight);
    on.loss = vp_transfer_room(&t, op->loss, n, sizeof *op->loss);
    const vp_mat dx = op->dx ? vp_transfer_room_mat(&t, op->dx) : (vp_mat){0};
    if (op->dx) on.dx = &dx;
    if (!t.status) vp_transfer_done(&t, c->ops->bag(c->queue, &on));
    vp_transfer_get(&t, op->loss, on.loss, n, sizeof *op->loss);
    if (op->dx) vp_transfer_get_mat(&t, op->dx, &dx);
    return vp_transfer_end(&t);
}

int vp_head_xent(vp_head *h, vp_xent_op *op, vp_error *err) {
    return vp_head_xent_on(h, &h->on, op, err);
}

int vp_head_bag(vp_head *h, vp_bag_op *op, vp_error *err) {
    return vp_head_bag_on(h, &h->on, op, err);
}
