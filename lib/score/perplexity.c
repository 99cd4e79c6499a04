/* Perplexity: what `loss ntp` says of every row, added up over the tokens that were predicted. */
#include "lib/score/private.h"
#include <math.h>
#include <stdlib.h>

typedef struct predicted {
    double nats;
    int64_t tokens;
} predicted;
typedef struct perplexity {
    vp_vectors v; /* without vectors: reading streams is what it shares */
    vp_buf rows;  /* predicted, a row with predictions each */
    int64_t without;
} perplexity;

typedef struct columns {
    float *loss, *weight;
    int32_t *cu, *target;
} columns;

static int read_columns(columns *c, const vp_frame *f, vp_error *err) {
    static const char *const names[] = {"loss", "weight", "cu", "target"};
    for (int i = 0; i < 4; i++)
        if (!vp_frame_find(f, names[i]))
            return vp_frame_fail(f, VP_DATA, err, "no column %s: mask generate, then fwd, pool pick, loss ntp make it",
                                 names[i]);
    VP_TRY(vp_frame_floats(f, "loss", &c->loss, NULL, err));
    VP_TRY(vp_frame_floats(f, "weight", &c->weight, NULL, err));
    VP_TRY(vp_frame_ints(f, "cu", &c->cu, NULL, err));
    return vp_frame_ints(f, "target", &c->target, NULL, err);
}

/* The row's share of the loss is weight nats / weight_sum; its targets weighing alike, that gives the nats. */
static int take_row(perplexity *p, const vp_frame *f, const columns *c, int64_t b, double weight_sum, vp_error *err) {
    predicted x = {0};
    float weight = 0;
    for (int32_t t = c->cu[b]; t < c->cu[b + 1]; t++) {
        if (c->target[t] < 0) continue;
        if (x.tokens++ && (c->weight[t] < weight || c->weight[t] > weight))
            return vp_frame_fail(f, VP_DATA, err, "row %lld: its tokens do not weigh alike", (long long)b);
        weight = c->weight[t];
    }
    p->without += !x.tokens;
    if (!x.tokens) return VP_OK;
    x.nats = c->loss[b] * weight_sum / weight;
    if (!(weight > 0) || !isfinite(x.nats))
        return vp_frame_fail(f, VP_DATA, err, "row %lld: no weight, or no finite loss", (long long)b);
    return vp_buf_add(&p->rows, &x, sizeof x, err);
}

static int take_batch(void *self, const vp_frame *f, vp_error *err) {
    columns c = {0};
    const double weight_sum = vp_map_real(f->keys, "weight_sum", 0);
    int status = read_columns(&c, f, err);
    for (int64_t b = 0; b < f->B && !status; b++) status = take_row(self, f, &c, b, weight_sum, err);
    free(c.loss);
    free(c.weight);
    free(c.cu);
    free(c.target);
    return status;
}

static void measure(void *data, const int64_t *pick, int64_t n, double *out) {
    const predicted *row = data; /* the buffer is aligned as malloc's */
    double nats = 0, tokens = 0;
    for (int64_t i = 0; i < n; i++) {
        nats += row[pick[i]].nats;
        tokens += (double)row[pick[i]].tokens;
    }
    out[0] = exp(nats / tokens);
    out[1] = nats / tokens;
}

int vp_score_perplexity(vp_score *s, vp_score_file losses, const vp_score_options *o, vp_error *err) {
    perplexity p = {0};
    *s = (vp_score){.task = "perplexity", .unit = "texts", .plain = true};
    vp_score_name(s, "perplexity");
    vp_score_name(s, "nats_per_token");
    int status = vp_vectors_stream(&p.v, losses, take_batch, &p, err);
    s->units = (int64_t)(p.rows.len / sizeof(predicted));
    vp_score_count(s, "texts_without_tokens", p.without);
    if (!status) status = vp_score_take(s, measure, p.rows.data, o, err);
    vp_vectors_free(&p.v);
    vp_buf_free(&p.rows);
    return status;
}
