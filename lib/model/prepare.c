/* Making weights ready for a backend: products packed with q, k, v and gate, up stacked, vectors and adapters copied to
 * the device, RoPE tables. Happens at the first batch. */
#include "lib/model/room.h"
#include "lib/model/token_rows.h"
#include <stdlib.h>
#include <string.h>

static const vp_weight_entry *entry(const vp_encoder *e, vp_role role, int64_t layer) {
    return vp_weights_find(&e->model->weights, role, layer);
}

/* ---- vectors ---- */

static int upload_rows(vp_encoder *e, const vp_tensor_info *t, int64_t rows, const float **out, vp_error *err) {
    size_t cols = (size_t)vp_tensor_cols(t), n = (size_t)rows * cols;
    float *host = vp_calloc(n, sizeof *host);
    if (!host) return vp_fail_memory(err, t->name, n * sizeof *host);
    int status = VP_OK;
    for (int64_t r = 0; !status && r < rows; r++) status = vp_tensor_row(t, r, host + (size_t)r * cols, err);
    const void *device = NULL;
    if (!status) status = vp_encoder_upload(e, host, n * sizeof *host, &device, err);
    free(host);
    *out = device;
    return status;
}

static int prepare_norm(vp_encoder *e, vp_role role, int64_t layer, vp_norm_weight *norm, vp_error *err) {
    const vp_weight_entry *w = entry(e, role, layer);
    if (!w) return VP_OK;
    const int64_t at = vp_training_find(e->training, w, false), bias = vp_training_find(e->training, w, true);
    if (at >= 0) {
        norm->weight = e->training->value_on + at;
        norm->dweight = e->training->grad_on ? e->training->grad_on + at : NULL;
    } else {
        VP_TRY(upload_rows(e, w->tensor, 1, &norm->weight, err));
    }
    if (bias >= 0) {
        norm->bias = e->training->value_on + bias;
        norm->dbias = e->training->grad_on ? e->training->grad_on + bias : NULL;
        return VP_OK;
    }
    return w->bias ? upload_rows(e, w->bias, 1, &norm->bias, err) : VP_OK;
}

/* ---- linears ---- */

enum { MAX_PARTS = 3 };
typedef struct site { /* weights that share an input, stacked along their outputs */
    const vp_weight_entry *part[MAX_PARTS];
    int n;
} site;

static int prepare_lora(vp_encoder *e, const site *s, vp_linear *linear, vp_error *err) {
    const vp_model *m = e->model;
    size_t most = m->nadapters * MAX_PARTS;
    if (!most) return VP_OK;
    linear->lora = vp_calloc(most, sizeof *linear->lora);
    if (!linear->lora) return vp_fail_memory(err, "adapters", most * sizeof *linear->lora);
    for (size_t i = 0; i < m->nadapters; i++) {
        int64_t first = 0;
        for (int k = 0; k < s->n; first += s->part[k++]->rows) {
            const vp_adapter_target *t = vp_adapter_find(m->adapter[i], s->part[k]);
            if (!t) continue;
            vp_lora_part *part = &linear->lora[linear->nlora++];
            *part = (vp_lora_part){.rank = t->rank, .scale = t->scale, .first = first, .n = t->weight->rows};
            part->adapter = (int32_t)i;
            VP_TRY(upload_rows(e, t->a, t->rank, &part->a, err));
            VP_TRY(upload_rows(e, t->b, t->weight->rows, &part->b, err));
        }
    }
    return VP_OK;
}

static const vp_trained_pair *pair_of(const vp_training *t, const vp_weight_entry *w) {
    for (size_t i = 0; i < t->npairs; i++)
        if (t->pair[i].weight == w) return &t->pair[i];
    return NULL;
}

/* The parts of the adapter that is trained: its numbers and gradients where they lie in the flat space. */
static int prepare_trained(vp_encoder *e, const site *s, vp_linear *linear, vp_error *err) {
    const vp_training *t = e->training;
    if (!t || t->options.full) return VP_OK;
    linear->trained = vp_calloc(MAX_PARTS, sizeof *linear->trained);
    if (!linear->trained) return vp_fail_memory(err, "an adapter", MAX_PARTS * sizeof *linear->trained);
    int64_t first = 0;
    for (int k = 0; k < s->n; first += s->part[k++]->rows) {
        const vp_trained_pair *pair = pair_of(t, s->part[k]);
        if (!pair) continue;
        vp_lora_part *part = &linear->trained[linear->ntrained++];
        *part = (vp_lora_part){.rank = (int32_t)t->options.rank,
                               .scale = (float)(t->options.alpha / (double)t->options.rank),
                               .first = first,
                               .n = s->part[k]->rows,
                               .a = t->value_on + pair->a,
                               .b = t->value_on + pair->b};
        if (!t->grad_on) continue;
        part->da = t->grad_on + pair->a;
        part->db = t->grad_on + pair->b;
    }
    return VP_OK;
}

static int stack_bias(const vp_encoder *e, const site *s, int64_t outputs, float **bias, vp_error *err) {
    *bias = NULL;
    bool any = false;
    for (int k = 0; k < s->n; k++) any |= s->part[k]->bias != NULL;
    if (!any) return VP_OK;
    *bias = vp_calloc((size_t)outputs, sizeof **bias);
    if (!*bias) return vp_fail_memory(err, "a bias", (size_t)outputs * sizeof **bias);
    int64_t first = 0;
    for (int k = 0; k < s->n; first += s->part[k++]->rows) VP_TRY(vp_training_bias(e, s->part[k], *bias + first, err));
    return VP_OK;
}

/* With FP8 the products of queries, keys and values stay in bf16: on SmolLM2-135M they are 16 % of the layers' work (of
 * Mistral-7B's 12 %) and a third of what FP8 costs in accuracy. */
static vp_dtype type_of(const vp_encoder *e, vp_site input) {
    return e->on.type == VP_F8 && input == VP_SITE_LORA_QKV ? VP_BF16 : e->on.type;
}

/* The weights that share an input, as one product's description; bias [outputs] is the caller's. */
static int describe_linear(vp_encoder *e, int64_t layer, const vp_role *roles, int n, vp_site input, site *s,
                           vp_weight_part *part, vp_weight_desc *desc, float **bias, vp_error *err) {
    int64_t outputs = 0;
    *s = (site){.n = n};
    for (int k = 0; k < n; k++) {
        s->part[k] = entry(e, roles[k], layer);
        part[k] = vp_training_part(e, s->part[k]);
        outputs += part[k].rows;
    }
    VP_TRY(stack_bias(e, s, outputs, bias, err));
    *desc = (vp_weight_desc){.part = part,
                             .nparts = n,
                             .in = s->part[0]->cols,
                             .out = outputs,
                             .bias = *bias,
                             .compute = roles[0] == VP_W_ROUTER && e->on.type == VP_I8 ? VP_F32 : type_of(e, input),
                             .backward = e->training && e->training->options.backward,
                             .rows = e->on.rows,
                             .name = s->part[0]->module};
    return VP_OK;
}

/* Where the gradient of the numbers that begin at `at` goes; NULL: nowhere. */
static float *gradient_at(const vp_encoder *e, int64_t at) {
    return at >= 0 && e->training->grad_on ? e->training->grad_on + at : NULL;
}

/* Packs the weight, or when it is there already packs it anew. */
static int prepare_linear(vp_encoder *e, int64_t layer, const vp_role *roles, int n, vp_site input, vp_linear *linear,
                          vp_error *err) {
    site s;
    vp_weight_part part[MAX_PARTS];
    vp_weight_desc desc;
    float *bias = NULL;
    int status = describe_linear(e, layer, roles, n, input, &s, part, &desc, &bias, err);
    const bool again = linear->weight != NULL;
    if (!status && again)
        status = vp_encoder_check(e, e->on.ops->weight_update(e->on.queue, linear->weight, &desc), err);
    else if (!status)
        status = e->on.ops->weight_prepare(e->on.device, &desc, &linear->weight, err);
    free(bias);
    if (status || again) return status;
    linear->type = desc.compute;
    linear->in = desc.in;
    linear->out = desc.out;
    linear->layer = layer;
    linear->site = input;
    linear->dw = gradient_at(e, vp_training_find(e->training, s.part[0], false));
    linear->dbias = gradient_at(e, vp_training_find(e->training, s.part[0], true));
    VP_TRY(prepare_lora(e, &s, linear, err));
    return prepare_trained(e, &s, linear, err);
}

/* The same of experts: these weights of the first, of the second, ... */
static int prepare_experts(vp_encoder *e, int64_t layer, const vp_role *roles, int n, vp_linear *linear,
                           vp_error *err) {
    const vp_config *c = &e->model->config;
    const vp_weight_entry *first = entry(e, roles[0], layer);
    vp_weight_part *part = vp_calloc((size_t)(c->experts * n), sizeof *part);
    if (!part) return vp_fail_memory(err, "experts", (size_t)(c->experts * n) * sizeof *part);
    for (int64_t i = 0; i < c->experts * n; i++)
        part[i] = vp_training_part(e, vp_weights_expert(&e->model->weights, roles[i % n], layer, i / n));
    const vp_weight_desc desc = {.part = part,
                                 .nparts = (int)c->experts * n,
                                 .in = first->cols,
                                 .out = n * first->rows,
                                 .experts = (int32_t)c->experts,
                                 .compute = e->on.type,
                                 .backward = e->training && e->training->options.backward,
                                 .rows = e->on.rows,
                                 .name = first->module};
    const bool again = linear->weight != NULL;
    const int status = again ? vp_encoder_check(e, e->on.ops->weight_update(e->on.queue, linear->weight, &desc), err)
                             : e->on.ops->weight_prepare(e->on.device, &desc, &linear->weight, err);
    free(part);
    if (status || again) return status;
    linear->in = desc.in;
    linear->out = desc.out;
    linear->layer = layer;
    linear->experts = true;
    linear->dw = gradient_at(e, vp_training_find(e->training, first, false));
    return VP_OK;
}

static int prepare_linears(vp_encoder *e, int64_t i, vp_error *err) {
    static const vp_role qkv[] = {VP_W_Q, VP_W_K, VP_W_V}, o[] = {VP_W_O}, down[] = {VP_W_DOWN};
    static const vp_role gate_up[] = {VP_W_GATE, VP_W_UP}, router[] = {VP_W_ROUTER};
    vp_layer *l = &e->layer[i];
    bool gated = e->model->config.arch->gated;
    VP_TRY(prepare_linear(e, i, qkv, 3, VP_SITE_LORA_QKV, &l->qkv, err));
    VP_TRY(prepare_linear(e, i, o, 1, VP_SITE_LORA_OUT, &l->out, err));
    if (e->model->config.experts) {
        VP_TRY(prepare_linear(e, i, router, 1, VP_SITE_LORA_UP, &l->router, err));
        VP_TRY(prepare_experts(e, i, gate_up, 2, &l->up, err));
        return prepare_experts(e, i, down, 1, &l->down, err);
    }
    VP_TRY(prepare_linear(e, i, gated ? gate_up : gate_up + 1, gated ? 2 : 1, VP_SITE_LORA_UP, &l->up, err));
    return prepare_linear(e, i, down, 1, VP_SITE_LORA_DOWN, &l->down, err);
}

static int prepare_layer(vp_encoder *e, int64_t i, vp_error *err) {
    vp_layer *l = &e->layer[i];
    VP_TRY(prepare_linears(e, i, err));
    VP_TRY(prepare_norm(e, VP_W_ATTN_NORM, i, &l->attn_norm, err));
    VP_TRY(prepare_norm(e, VP_W_MLP_NORM, i, &l->mlp_norm, err));
    VP_TRY(prepare_norm(e, VP_W_Q_NORM, i, &l->q_norm, err));
    return prepare_norm(e, VP_W_K_NORM, i, &l->k_norm, err);
}

static int prepare_frequencies(vp_encoder *e, vp_error *err) {
    const vp_config *c = &e->model->config;
    const vp_tensor_info *t = e->model->weights.rope_factors;
    size_t half = (size_t)c->rotary / 2;
    float *factors = vp_calloc(half, sizeof *factors);
    e->inverse = vp_calloc(half, sizeof *e->inverse);
    int status = factors && e->inverse ? VP_OK : vp_fail_memory(err, "RoPE frequencies", half * sizeof *factors);
    if (!status && t) status = vp_tensor_row(t, 0, factors, err);
    for (size_t i = 0; !status && t && i < half; i++)
        if (!(factors[i] > 0))
            status = vp_fail(err, VP_DATA, "%s: %s has a factor of %g", t->file, t->name, factors[i]);
    if (!status) vp_rope_frequencies(c, t ? factors : NULL, e->inverse);
    free(factors);
    return status;
}

vp_dtype vp_encoder_table_type(const vp_encoder *e) {
    const bool narrow = e->on.type == VP_BF16 || e->on.type == VP_F8;
    return !e->on.separate ? VP_NDTYPES : narrow ? VP_BF16 : VP_F32;
}

/* The rows on the device: in bf16 where its products are, as the other weights; a tied output head is the same ones. */
static int pack_table(vp_encoder *e, vp_error *err) {
    const vp_weight_part part = vp_token_rows_part(e->table);
    const vp_weight_desc desc = {.part = &part,
                                 .nparts = 1,
                                 .in = e->model->config.width,
                                 .out = part.rows,
                                 .compute = vp_encoder_table_type(e),
                                 .backward = e->training && e->training->options.backward,
                                 .rows = e->on.rows,
                                 .name = "embed_tokens"};
    if (e->resident) return vp_encoder_check(e, e->on.ops->weight_update(e->on.queue, e->resident, &desc), err);
    return e->on.ops->weight_prepare(e->on.device, &desc, &e->resident, err);
}

static int prepare_table(vp_encoder *e, vp_error *err) {
    const vp_weight_entry *embed = entry(e, VP_W_EMBED, -1);
    const vp_training *t = e->training;
    if (!(e->table = vp_calloc(1, sizeof *e->table))) return vp_fail_memory(err, "the embedding", sizeof *e->table);
    vp_token_rows_set(e->table, e->model, e);
    const bool some = t && t->tokens >= 0;
    const int64_t at = some ? t->tokens : vp_training_find(t, embed, false);
    e->dtable = at >= 0 && t->grad_on ? t->grad_on + at : NULL;
    e->dfirst = some ? embed->rows - t->options.tokens : 0;
    e->table_trained = at >= 0;
    return e->on.separate ? pack_table(e, err) : VP_OK;
}

static int prepare_all(vp_encoder *e, vp_error *err) {
    const vp_config *c = &e->model->config;
    e->layer = vp_calloc((size_t)c->layers, sizeof *e->layer);
    if (!e->layer) return vp_fail_memory(err, "the layers", (size_t)c->layers * sizeof *e->layer);
    VP_TRY(vp_training_upload(e, err));
    for (int64_t i = 0; i < c->layers; i++) VP_TRY(prepare_layer(e, i, err));
    VP_TRY(prepare_norm(e, VP_W_EMBED_NORM, -1, &e->embed_norm, err));
    VP_TRY(prepare_norm(e, VP_W_FINAL_NORM, -1, &e->final_norm, err));
    VP_TRY(prepare_table(e, err));
    const vp_weight_entry *positions = entry(e, VP_W_POSITIONS, -1), *types = entry(e, VP_W_TYPES, -1);
    if (positions) VP_TRY(upload_rows(e, positions->tensor, positions->rows, &e->positions, err));
    if (types) VP_TRY(upload_rows(e, types->tensor, 1, &e->types, err)); /* every token is of type 0 */
    return prepare_frequencies(e, err);
}

int vp_encoder_prepare(vp_encoder *e, vp_error *err) {
    if (e->prepared) return VP_OK;
    int status = prepare_all(e, err);
    if (status) vp_encoder_release(e);
    if (status == VP_MEMORY && !strncmp(err->text, "out of ", 7)) vp_room_weights(e, err);
    e->prepared = !status;
    vp_source_forget(e->model->source); /* what was packed is not read again */
    return status;
}

int vp_encoder_changed(vp_encoder *e, vp_error *err) {
    e->changes++;
    if (!e->prepared || !e->training) return VP_OK;
    VP_TRY(vp_training_upload(e, err));
    if (e->resident && e->table_trained) VP_TRY(pack_table(e, err));
    if (!e->training->options.full) return VP_OK;
    for (int64_t i = 0; i < e->model->config.layers; i++) VP_TRY(prepare_linears(e, i, err));
    return VP_OK;
}

int vp_encoder_rope(vp_encoder *e, int32_t top, vp_error *err) {
    const vp_config *c = &e->model->config;
    if (!c->rotary || top < e->rope_positions) return VP_OK;
    int64_t n = e->rope_positions ? e->rope_positions : 512; /* doubling keeps what the arena strands below one half */
    while (n <= top) n *= 2;
    if (n > c->positions) n = c->positions;
    size_t half = (size_t)c->rotary / 2, count = (size_t)n * half, bytes = count * sizeof(float);
    float *host = vp_calloc(2 * count, sizeof *host);
    if (!host) return vp_fail_memory(err, "RoPE tables", 2 * bytes);
    vp_rope_tables(e->inverse, (int64_t)half, n, host, host + count);
    const void *cosines = NULL, *sines = NULL;
    int status = vp_encoder_upload(e, host, bytes, &cosines, err);
    if (!status) status = vp_encoder_upload(e, host + count, bytes, &sines, err);
    free(host);
    if (status) return status;
    e->cosines = cosines;
    e->sines = sines;
    e->rope_positions = n;
    return VP_OK;
}

void vp_encoder_release(vp_encoder *e) {
    for (int64_t i = 0; e->layer && i < e->model->config.layers; i++) {
        vp_layer *l = &e->layer[i];
        vp_linear *const linears[] = {&l->qkv, &l->out, &l->router, &l->up, &l->down};
        for (size_t k = 0; k < sizeof linears / sizeof *linears; k++) {
            if (linears[k]->weight) e->on.ops->weight_free(e->on.device, linears[k]->weight);
            free(linears[k]->lora);
            free(linears[k]->trained);
        }
    }
    if (e->resident) e->on.ops->weight_free(e->on.device, e->resident);
    free(e->layer);
    free(e->inverse);
    free(e->table);
    e->resident = NULL;
    e->layer = NULL;
    e->inverse = NULL;
    e->table = NULL;
}
