/* Which numbers are trained: an adapter's matrices, or the weights themselves, laid out in one flat space in the order
 * of the weight table, so that what shares an input lies together. */
#include "lib/base/philox.h"
#include "lib/model/projection.h"
#include "lib/model/token_rows.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What reads the rows of a weight that is trained. */
typedef struct vp_trained_rows {
    const vp_weight_entry *weight;
    const float *value; /* [rows, cols] */
} vp_trained_rows;

/* ---- the table ---- */

int vp_training_add(vp_training *t, size_t *cap, const char *name, int64_t rows, int64_t cols, vp_error *err) {
    VP_TRY(vp_grow(&t->param, cap, t->params.n, sizeof *t->param, "trained tensors", err));
    char *copy = vp_strndup(name, strlen(name));
    if (!copy) return vp_fail_memory(err, "a name", strlen(name));
    t->param[t->params.n++] = (vp_param){.name = copy, .rows = rows, .cols = cols, .first = t->params.count};
    t->params.count += rows * cols;
    return VP_OK;
}

/* Whether the last part of a module's path is one of the comma-separated targets. */
static bool is_target(const char *module, const char *targets) {
    const char *dot = strrchr(module, '.'), *last = dot ? dot + 1 : module;
    size_t n = strlen(last);
    for (const char *at = targets; *at;) {
        size_t length = strcspn(at, ",");
        if (length == n && !strncmp(at, last, n)) return true;
        at += length + (at[length] == ',');
    }
    return false;
}

/* Whether a target names weights of a mixture of experts. */
static bool is_expert(const vp_model *m, const char *target) {
    for (size_t i = 0; m->config.experts && i < m->weights.n; i++) {
        const vp_weight_entry *w = &m->weights.entry[i];
        const bool of_mlp =
            w->role == VP_W_ROUTER || w->role == VP_W_GATE || w->role == VP_W_UP || w->role == VP_W_DOWN;
        if (of_mlp && is_target(w->module, target)) return true;
    }
    return false;
}

/* Every target must mean something: a misspelled one would silently train less. */
static int check_targets(const vp_model *m, const char *targets, vp_error *err) {
    char one[80];
    for (const char *at = targets; *at;) {
        size_t length = strcspn(at, ",");
        snprintf(one, sizeof one, "%.*s", (int)length, at);
        bool found = false;
        for (size_t i = 0; !found && i < m->weights.n; i++)
            found = m->weights.entry[i].lora && is_target(m->weights.entry[i].module, one);
        if (!found && is_expert(m, one))
            return vp_fail(err, VP_USAGE,
                           "target '%s': experts and their router carry no adapters; train them with --full", one);
        if (!found)
            return vp_fail(err, VP_USAGE, "target '%s' is no linear of the %s model", one, m->config.arch->name);
        at += length + (at[length] == ',');
    }
    return VP_OK;
}

static const char *default_targets(const vp_model *m, char *out, size_t cap) {
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = m->weights.at_layer; i < m->weights.at_layer + m->weights.per_layer; i++) {
        const vp_weight_entry *w = &m->weights.entry[i];
        if (!w->lora) continue;
        const char *dot = strrchr(w->module, '.');
        int n = snprintf(out + at, cap - at, "%s%s", at ? "," : "", dot ? dot + 1 : w->module);
        if (n > 0 && at + (size_t)n < cap) at += (size_t)n;
    }
    return out;
}

static int layout_adapter(vp_encoder *e, vp_training *t, size_t *cap, vp_error *err) {
    const vp_weights *w = &e->model->weights;
    char name[160];
    size_t pairs = 0;
    VP_TRY(check_targets(e->model, t->options.targets, err));
    for (size_t i = 0; i < w->n; i++) {
        const vp_weight_entry *entry = &w->entry[i];
        if (!entry->lora || !is_target(entry->module, t->options.targets)) continue;
        VP_TRY(vp_grow(&t->pair, &pairs, t->npairs, sizeof *t->pair, "adapted weights", err));
        vp_trained_pair *pair = &t->pair[t->npairs++];
        *pair = (vp_trained_pair){.weight = entry, .a = t->params.count};
        snprintf(name, sizeof name, "base_model.model.%s.lora_A.weight", entry->module);
        VP_TRY(vp_training_add(t, cap, name, t->options.rank, entry->cols, err));
        pair->b = t->params.count;
        snprintf(name, sizeof name, "base_model.model.%s.lora_B.weight", entry->module);
        VP_TRY(vp_training_add(t, cap, name, entry->rows, t->options.rank, err));
    }
    return t->npairs ? VP_OK : vp_fail(err, VP_USAGE, "the adapter has no targets");
}

static int add_weight(vp_encoder *e, vp_training *t, size_t *cap, const vp_weight_entry *w, bool bias, vp_error *err) {
    char name[200];
    const char *prefix = w->role == VP_W_HEAD ? "" : e->model->config.arch->prefix;
    const bool vector = w->rows == 1;
    snprintf(name, sizeof name, "%s%s.%s", prefix, w->module, bias ? "bias" : "weight");
    if (bias) return vp_training_add(t, cap, name, 1, vector ? w->cols : w->rows, err);
    return vp_training_add(t, cap, name, w->rows, w->cols, err);
}

/* All weights that hidden states depend on; last the linears' biases, so that weights which share an input lie
 * together, as their biases do. */
static int layout_weights(vp_encoder *e, vp_training *t, size_t *cap, vp_error *err) {
    const vp_model *m = e->model;
    const vp_weights *w = &m->weights;
    t->rows = vp_calloc(w->n, sizeof *t->rows);
    if (!t->rows) return vp_fail_memory(err, "trained weights", w->n * sizeof *t->rows);
    for (size_t i = 0; i < w->n; i++) {
        const vp_weight_entry *entry = &w->entry[i];
        if (!entry->tensor || entry->role == VP_W_HEAD) continue;
        if (entry->role == VP_W_POSITIONS || entry->role == VP_W_TYPES || entry->role == VP_W_EMBED_NORM)
            return vp_fail(err, VP_DATA, "%s: weights of a %s model cannot be trained whole", m->path,
                           m->config.arch->name);
        VP_TRY(add_weight(e, t, cap, entry, false, err));
        if (entry->bias && entry->rows == 1) VP_TRY(add_weight(e, t, cap, entry, true, err));
    }
    for (size_t i = 0; i < w->n; i++)
        if (w->entry[i].bias && w->entry[i].rows > 1 && w->entry[i].role != VP_W_HEAD)
            VP_TRY(add_weight(e, t, cap, &w->entry[i], true, err));
    return VP_OK;
}

/* Rows of single tokens, behind the adapter's matrices. */
static int layout_tokens(vp_encoder *e, vp_training *t, size_t *cap, vp_error *err) {
    const vp_weight_entry *embed = vp_weights_find(&e->model->weights, VP_W_EMBED, -1);
    char name[160];
    if (t->options.tokens < 0 || t->options.tokens > embed->rows)
        return vp_fail(err, VP_USAGE, "rows of %lld tokens cannot be trained, of a vocabulary of %lld",
                       (long long)t->options.tokens, (long long)embed->rows);
    if (!t->options.tokens) return VP_OK;
    t->tokens = t->params.count;
    vp_adapter_tokens_name(e->model, name);
    return vp_training_add(t, cap, name, t->options.tokens, embed->cols, err);
}

/* The output head, behind everything else; a tied one is the embedding, which is trained with the whole model only. */
static int layout_head(vp_encoder *e, vp_training *t, size_t *cap, vp_error *err) {
    const vp_weight_entry *head = vp_weights_find(&e->model->weights, VP_W_HEAD, -1);
    t->head = -1;
    if (head && head->alias && t->options.full) t->head = vp_training_find(t, head->alias, false);
    if (t->head >= 0) t->options.head = true;
    if (t->head >= 0 || !t->options.head) return VP_OK;
    if (head && head->alias)
        return vp_fail(err, VP_USAGE, "%s: the output head is the embedding, which an adapter leaves as it is",
                       e->model->path);
    if (!head || !head->tensor)
        return vp_fail(err, VP_DATA, "%s: the model has no output head (lm_head) to train", e->model->path);
    t->head = t->params.count;
    return add_weight(e, t, cap, head, false, err);
}

/* ---- starting values ---- */

/* U(-1/sqrt(in), 1/sqrt(in)) for A, as PEFT's Kaiming start; B stays zero. */
static void start_adapter(vp_training *t) {
    for (size_t i = 0; i < t->npairs; i++) {
        const vp_trained_pair *p = &t->pair[i];
        const double bound = 1 / sqrt((double)p->weight->cols);
        float *a = t->params.value + p->a;
        uint32_t word[4] = {0};
        for (int64_t k = 0; k < t->options.rank * p->weight->cols; k++) {
            const uint32_t counter[4] = {(uint32_t)(k >> 2), (uint32_t)i, 0, VP_SITE_START << 14};
            if (!(k & 3)) vp_philox(word, counter, t->options.seed);
            a[k] = (float)(((double)word[k & 3] + 0.5) / 2147483648.0 - 1) * (float)bound;
        }
    }
}

static int copy_rows(const vp_tensor_info *from, int64_t rows, int64_t cols, float *to, vp_error *err) {
    for (int64_t r = 0; r < rows; r++) VP_TRY(vp_tensor_row(from, r, to + r * cols, err));
    return VP_OK;
}

/* As the embedding has them with the adapters below; of an adapter that is continued its own. */
static int start_tokens(const vp_encoder *e, vp_training *t, const vp_adapter *continued, vp_error *err) {
    const vp_weight_entry *embed = vp_weights_find(&e->model->weights, VP_W_EMBED, -1);
    const int64_t n = t->tokens < 0 ? 0 : t->options.tokens;
    float *rows = t->params.value + t->tokens;
    vp_token_rows now;
    if (continued && continued->tokens) return copy_rows(continued->tokens, n, embed->cols, rows, err);
    vp_token_rows_set(&now, e->model, NULL);
    const vp_weight_part part = vp_token_rows_part(&now);
    for (int64_t r = 0; r < n; r++) VP_TRY(part.read_row(part.ctx, part.rows - n + r, rows + r * embed->cols, err));
    return VP_OK;
}

static int continue_adapter(vp_training *t, const vp_adapter *a, vp_error *err) {
    for (size_t i = 0; i < t->npairs; i++) {
        const vp_trained_pair *p = &t->pair[i];
        const vp_adapter_target *from = vp_adapter_find(a, p->weight);
        if (!from || from->rank != t->options.rank)
            return vp_fail(err, VP_DATA, "%s: %s is not adapted like the other linears of its name", a->path,
                           p->weight->module);
        VP_TRY(copy_rows(from->a, from->rank, p->weight->cols, t->params.value + p->a, err));
        VP_TRY(copy_rows(from->b, p->weight->rows, from->rank, t->params.value + p->b, err));
    }
    return VP_OK;
}

static int start_weights(const vp_encoder *e, vp_training *t, vp_error *err) {
    const vp_weights *w = &e->model->weights;
    for (size_t i = 0; i < w->n; i++) {
        const vp_weight_entry *entry = &w->entry[i];
        int64_t at = vp_training_find(t, entry, false), bias = vp_training_find(t, entry, true);
        if (at < 0) continue;
        float *value = t->params.value + at;
        t->rows[i] = (vp_trained_rows){.weight = entry, .value = value};
        for (int64_t r = 0; r < entry->rows; r++) VP_TRY(vp_weight_read_row(entry, r, value + r * entry->cols, err));
        if (bias >= 0) VP_TRY(vp_weight_read_bias(entry, t->params.value + bias, err));
    }
    return VP_OK;
}

/* An adapter's head; that of a whole model is one of its weights. */
static int start_head(const vp_encoder *e, vp_training *t, vp_error *err) {
    const vp_weight_entry *head = vp_weights_find(&e->model->weights, VP_W_HEAD, -1);
    for (int64_t r = 0; t->head >= 0 && r < head->rows; r++)
        VP_TRY(vp_weight_read_row(head, r, t->params.value + t->head + r * head->cols, err));
    return VP_OK;
}

/* ---- opening ---- */

static int check_options(const vp_encoder *e, const vp_train_options *o, vp_error *err) {
    const vp_config *c = &e->model->config;
    const double rates[] = {o->lora_dropout, o->attention_dropout, o->hidden_dropout};
    if (c->arch->post_norm) return vp_fail(err, VP_DATA, "%s models cannot be trained: only decoders", c->arch->name);
    if (c->jitter > 0)
        return vp_fail(err, VP_DATA, "%s: router_jitter_noise %g: noise on routers is not supported in training",
                       e->model->path, c->jitter);
    for (int i = 0; i < 3; i++)
        if (!(rates[i] >= 0 && rates[i] < 1))
            return vp_fail(err, VP_USAGE, "a dropout of %g is not in [0, 1)", rates[i]);
    if (!o->full && !o->start && (o->rank < 1 || o->rank > 1024))
        return vp_fail(err, VP_USAGE, "an adapter of rank %lld is not between 1 and 1024", (long long)o->rank);
    return VP_OK;
}

/* A continued adapter goes on with its rows of tokens; one that has none may get some. */
static int adopt_tokens(vp_training *t, const vp_adapter *a, vp_error *err) {
    const int64_t n = a->tokens ? vp_tensor_rows(a->tokens) : t->options.tokens;
    if (t->options.tokens && t->options.tokens != n)
        return vp_fail(err, VP_USAGE, "%s: it has rows of %lld tokens, not of %lld", a->path, (long long)n,
                       (long long)t->options.tokens);
    t->options.tokens = n;
    return VP_OK;
}

/* The options of the adapter that is continued: rank and scale of its first target, all its targets' names. */
static int adopt_adapter(vp_training *t, const vp_adapter *a, vp_buf *targets, vp_error *err) {
    const vp_adapter_target *first = &a->target[0];
    t->options.rank = first->rank;
    t->options.alpha = (double)first->scale * first->rank;
    VP_TRY(adopt_tokens(t, a, err));
    for (size_t i = 0; i < a->n; i++) {
        const vp_adapter_target *target = &a->target[i];
        if (target->scale < first->scale || target->scale > first->scale || target->rank != first->rank)
            return vp_fail(err, VP_DATA, "%s: an adapter of several ranks or scales cannot be continued", a->path);
        const char *dot = strrchr(target->weight->module, '.'), *name = dot ? dot + 1 : target->weight->module;
        if (targets->len && is_target(name, targets->data)) continue;
        VP_TRY(vp_buf_printf(targets, err, "%s%s", targets->len ? "," : "", name));
    }
    return VP_OK;
}

static int set_targets(vp_encoder *e, vp_training *t, const vp_adapter *continued, vp_error *err) {
    vp_buf targets = {0};
    char all[400];
    int status = VP_OK;
    if (continued)
        status = adopt_adapter(t, continued, &targets, err);
    else
        status = vp_buf_printf(&targets, err, "%s",
                               t->options.targets ? t->options.targets : default_targets(e->model, all, sizeof all));
    t->options.targets = status ? NULL : vp_strndup(targets.data, targets.len);
    vp_buf_free(&targets);
    if (!status && !t->options.targets) status = vp_fail_memory(err, "targets", 1);
    return status;
}

/* The numbers and their gradient are the host's; where the device's memory is separate, both are there, too. */
static int allocate(vp_encoder *e, vp_training *t, vp_error *err) {
    const vp_compute *on = &e->on;
    const size_t bytes = (size_t)t->params.count * sizeof(float);
    float **const arrays[] = {&t->value_on, &t->grad_on}, **const host[] = {&t->params.value, &t->grad};
    t->params.param = t->param;
    for (int i = 0; i < (t->options.backward ? 2 : 1); i++) {
        if (!(*arrays[i] = vp_compute_take(on, "what is trained", bytes, err))) return VP_MEMORY;
        *host[i] = on->separate ? on->ops->host_alloc(on->device, bytes) : *arrays[i];
        if (!*host[i]) return vp_fail_memory(err, "what is trained", bytes);
        memset(*host[i], 0, bytes);
        VP_TRY(vp_compute_move(on, *arrays[i], *host[i], bytes, err));
    }
    return VP_OK;
}

int vp_training_upload(vp_encoder *e, vp_error *err) {
    const vp_training *t = e->training;
    if (!t || !e->on.separate) return VP_OK;
    return vp_compute_move(&e->on, t->value_on, t->params.value, (size_t)t->params.count * sizeof(float), err);
}

/* One after the other: an adapter's matrices and its rows of tokens, or the weights; the latent layer or the
 * projection; the head. */
static int lay_out(vp_encoder *e, vp_training *t, const vp_adapter *continued, const vp_train_options *o,
                   vp_error *err) {
    size_t cap = 0;
    if (!o->full) VP_TRY(set_targets(e, t, continued, err));
    VP_TRY(o->full ? layout_weights(e, t, &cap, err) : layout_adapter(e, t, &cap, err));
    if (!o->full) VP_TRY(layout_tokens(e, t, &cap, err));
    VP_TRY(vp_training_layout_latent(e, t, o, &cap, err));
    VP_TRY(vp_training_layout_projection(e, t, o, &cap, err));
    VP_TRY(layout_head(e, t, &cap, err));
    VP_TRY(allocate(e, t, err));
    VP_TRY(vp_training_start_latent(e, t, o, err));
    VP_TRY(vp_training_start_projection(e, t, o, err));
    if (o->full) return start_weights(e, t, err);
    VP_TRY(start_tokens(e, t, continued, err));
    VP_TRY(start_head(e, t, err));
    if (continued) return continue_adapter(t, continued, err);
    start_adapter(t);
    return VP_OK;
}

int vp_training_open(vp_encoder *e, const vp_train_options *o, vp_error *err) {
    VP_TRY(check_options(e, o, err));
    vp_training *t = vp_calloc(1, sizeof *t);
    if (!t) return vp_fail_memory(err, "training", sizeof *t);
    e->training = t;
    t->options = *o;
    t->options.start = NULL;
    t->tokens = -1;
    vp_adapter *continued = NULL;
    int status = o->start && !o->full ? vp_adapter_open(&continued, e->model, o->start, err) : VP_OK;
    const char *borrowed = t->options.targets;
    if (!status) status = lay_out(e, t, continued, o, err);
    if (t->options.targets == borrowed) t->options.targets = NULL;
    vp_adapter_close(continued);
    return status;
}

void vp_training_close(vp_encoder *e) {
    vp_training *t = e->training;
    if (!t) return;
    if (e->on.separate) {
        e->on.ops->host_free(e->on.device, t->params.value);
        e->on.ops->host_free(e->on.device, t->grad);
    }
    for (size_t i = 0; i < t->params.n; i++) free((char *)t->param[i].name);
    free((char *)t->options.targets);
    free(t->param);
    free(t->pair);
    free(t->rows);
    free(t);
}

/* ---- use ---- */

int64_t vp_training_find(const vp_training *t, const vp_weight_entry *w, bool bias) {
    char tail[100];
    if (!t || !t->options.full) return -1;
    int n = snprintf(tail, sizeof tail, "%s.%s", w->module, bias ? "bias" : "weight");
    for (size_t i = 0; n > 0 && i < t->params.n; i++) {
        size_t length = strlen(t->param[i].name), prefix = length - (size_t)n;
        if (t->param[i].first == t->latent_at || t->param[i].first == t->projection_at)
            break; /* no weights of the transformer's follow */
        if (length >= (size_t)n && !strcmp(t->param[i].name + prefix, tail) &&
            (!prefix || t->param[i].name[prefix - 1] == '.'))
            return t->param[i].first;
    }
    return -1;
}

static int read_trained(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)err;
    const vp_trained_rows *r = ctx;
    memcpy(out, r->value + row * r->weight->cols, (size_t)r->weight->cols * sizeof *out);
    return VP_OK;
}

vp_weight_part vp_training_part(const vp_encoder *e, const vp_weight_entry *w) {
    const vp_training *t = e ? e->training : NULL;
    size_t i = t && t->rows ? (size_t)(w - e->model->weights.entry) : 0;
    if (t && t->rows && t->rows[i].weight)
        return (vp_weight_part){.rows = w->rows, .read_row = read_trained, .ctx = &t->rows[i]};
    return (vp_weight_part){.rows = w->rows, .read_row = vp_weight_read_row, .ctx = w};
}

int vp_training_bias(const vp_encoder *e, const vp_weight_entry *w, float *out, vp_error *err) {
    const int64_t at = vp_training_find(e ? e->training : NULL, w, true);
    if (at < 0) return vp_weight_read_bias(w, out, err);
    memcpy(out, e->training->params.value + at, (size_t)(w->rows == 1 ? w->cols : w->rows) * sizeof *out);
    return VP_OK;
}

int64_t vp_encoder_head(const vp_encoder *e, bool *tied) {
    const vp_weight_entry *head = vp_weights_find(&e->model->weights, VP_W_HEAD, -1);
    *tied = head && head->alias;
    return e->training ? e->training->head : -1;
}

int64_t vp_encoder_tokens(const vp_encoder *e) {
    return e->training ? e->training->tokens : -1;
}

const vp_params *vp_encoder_params(const vp_encoder *e) {
    return e->training ? &e->training->params : NULL;
}

float *vp_encoder_gradient(const vp_encoder *e) {
    return e->training ? e->training->grad : NULL;
}

float *vp_encoder_gradient_on(const vp_encoder *e) {
    return e->training ? e->training->grad_on : NULL;
}

/* A projection's gradient is made on the host: places [*from, *past) of the space. */
static void on_host(const vp_encoder *e, int64_t *from, int64_t *past) {
    const vp_training *t = e->training;
    const bool some = e->on.separate && t->projection_at >= 0;
    *from = some ? t->projection_at : t->params.count;
    *past = *from + (some ? vp_projection_count(t->options.projection, e->model->config.width) : 0);
}

int vp_encoder_gradient_clear(vp_encoder *e, vp_error *err) {
    const vp_training *t = e->training;
    const vp_mat all = {.ptr = t->grad_on, .dtype = VP_F32, .rows = 1, .cols = t->params.count, .ld = t->params.count};
    const vp_elem_op zero = {.out = all};
    int64_t from, past;
    on_host(e, &from, &past);
    if (past > from) memset(t->grad + from, 0, (size_t)(past - from) * sizeof *t->grad);
    return vp_compute_check(&e->on, e->on.ops->fill(e->on.queue, &zero), err);
}

int vp_encoder_gradient_fetch(vp_encoder *e, vp_error *err) {
    const vp_training *t = e->training;
    int64_t from, past;
    on_host(e, &from, &past);
    VP_TRY(vp_compute_move(&e->on, t->grad, t->grad_on, (size_t)from * sizeof(float), err));
    return vp_compute_move(&e->on, t->grad + past, t->grad_on + past, (size_t)(t->params.count - past) * sizeof(float),
                           err);
}

const vp_train_options *vp_encoder_training(const vp_encoder *e) {
    return e->training ? &e->training->options : NULL;
}
