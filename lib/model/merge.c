/* A model with its adapters as one set of weights: which tensors the folder gets, and their rows, read, adapted and
 * handed on one by one. */
#include "lib/model/token_rows.h"
#include "lib/model/grow.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct item { /* one tensor of the output */
    const vp_tensor_info *tensor;
    const vp_weight_entry *entry; /* NULL: no weight of the architecture, copied as it is */
    bool bias;
    char built[200]; /* its name, where the source has another */
} item;

typedef struct merger {
    const vp_model *model;
    const vp_encoder *trained; /* or NULL */
    vp_export *out;
    vp_token_rows table; /* the embedding's rows */
    item *item;
    size_t n;
    float *row, *delta;        /* the widest row */
    float *a[VP_MAX_ADAPTERS]; /* [rank, cols] of the tensor in hand; NULL: not adapted */
    float *b;                  /* one row of the widest rank */
    const vp_adapter_target *t[VP_MAX_ADAPTERS];
    vp_growth growth;
    vp_new_rows fresh; /* of the matrix in hand */
} merger;

static const char *name_of(const item *i) {
    return *i->built ? i->built : i->tensor->name;
}

/* ---- which tensors ---- */

/* A head that is tied, but was written all the same: the embedding is what counts. */
static bool tied_head(const vp_model *m, const vp_tensor_info *t) {
    static const char head[] = "lm_head.weight";
    size_t n = strlen(t->name), k = sizeof head - 1;
    return m->config.tied && n >= k && !strcmp(t->name + n - k, head);
}

/* A folder's tensors keep their names and order. */
static int list_folder(merger *g, vp_error *err) {
    const vp_source *s = g->model->source;
    const vp_weights *w = &g->model->weights;
    size_t count = vp_source_count(s);
    item *all = vp_calloc(count, sizeof *all);
    if (!all) return vp_fail_memory(err, "a list of tensors", count * sizeof *all);
    g->item = all;
    for (size_t i = 0; i < count; i++) all[i].tensor = vp_source_at(s, i);
    for (size_t i = 0; i < w->n; i++) {
        const vp_weight_entry *e = &w->entry[i];
        if (e->tensor) all[e->tensor - all[0].tensor].entry = e;
        if (!e->bias) continue;
        all[e->bias - all[0].tensor].entry = e;
        all[e->bias - all[0].tensor].bias = true;
    }
    for (size_t i = 0; i < count; i++) {
        const vp_tensor_info *t = all[i].tensor;
        if (!all[i].entry && tied_head(g->model, t)) continue;
        if (!all[i].entry && t->storage != VP_STORE_PLAIN)
            return vp_fail(err, VP_DATA, "%s: tensor %s has type %s, which is not supported", t->file, t->name,
                           t->type);
        all[g->n++] = all[i];
    }
    return VP_OK;
}

static void add_built(merger *g, const vp_weight_entry *e, bool bias) {
    const vp_tensor_info *t = bias ? e->bias : e->tensor;
    if (!t) return;
    item *i = &g->item[g->n++];
    *i = (item){.tensor = t, .entry = e, .bias = bias};
    const char *prefix = e->role == VP_W_HEAD ? "" : g->model->config.arch->prefix;
    snprintf(i->built, sizeof i->built, "%s%s.%s", prefix, e->module, bias ? "bias" : "weight");
}

static int list_gguf(merger *g, vp_error *err) {
    const vp_weights *w = &g->model->weights;
    if (w->rope_factors)
        return vp_fail(err, VP_DATA, "%s: tensor %s: config.json cannot say these RoPE factors", w->rope_factors->file,
                       w->rope_factors->name);
    g->item = vp_calloc(2 * w->n, sizeof *g->item);
    if (!g->item) return vp_fail_memory(err, "a list of tensors", 2 * w->n * sizeof *g->item);
    for (size_t i = 0; i < w->n; i++) {
        add_built(g, &w->entry[i], false);
        add_built(g, &w->entry[i], true);
    }
    return VP_OK;
}

/* ---- values ---- */

/* All of a tensor's rows as f32; caller frees. */
static int read_all(const vp_tensor_info *t, float **out, vp_error *err) {
    int64_t rows = vp_tensor_rows(t), cols = vp_tensor_cols(t);
    *out = vp_calloc((size_t)(rows * cols), sizeof **out);
    if (!*out) return vp_fail_memory(err, t->name, (size_t)(rows * cols) * sizeof **out);
    for (int64_t r = 0; r < rows; r++) VP_TRY(vp_tensor_row(t, r, *out + r * cols, err));
    return VP_OK;
}

/* row [cols] += scale (B[r] A), B[r] [rank], A [rank, cols] */
static int adapt_row(merger *g, size_t adapter, int64_t r, int64_t cols, vp_error *err) {
    const vp_adapter_target *t = g->t[adapter];
    float *restrict delta = g->delta, *restrict row = g->row;
    VP_TRY(vp_tensor_row(t->b, r, g->b, err));
    memset(delta, 0, (size_t)cols * sizeof *delta);
    for (int32_t k = 0; k < t->rank; k++) {
        const float *restrict a = g->a[adapter] + k * cols;
        float b = g->b[k];
        for (int64_t i = 0; i < cols; i++) delta[i] += b * a[i];
    }
    for (int64_t i = 0; i < cols; i++) row[i] += t->scale * delta[i];
    return VP_OK;
}

/* Whether it gets new rows. */
static bool is_vocabulary(const merger *g, const vp_weight_entry *e) {
    return g->growth.extra && e && (e->role == VP_W_EMBED || e->role == VP_W_HEAD);
}

static int write_weight(merger *g, const vp_weight_entry *e, vp_error *err) {
    const vp_model *m = g->model;
    const bool embed = e->role == VP_W_EMBED;
    const vp_weight_part rows = embed ? vp_token_rows_part(&g->table) : vp_training_part(g->trained, e);
    for (size_t k = 0; k < m->nadapters; k++) {
        free(g->a[k]);
        g->a[k] = NULL;
        g->t[k] = vp_adapter_find(m->adapter[k], e);
        if (g->t[k]) VP_TRY(read_all(g->t[k]->a, &g->a[k], err));
    }
    const bool grows = is_vocabulary(g, e);
    const int64_t kept = grows ? g->growth.keep : e->rows;
    if (grows) VP_TRY(vp_new_rows_begin(&g->fresh, e->cols, err));
    for (int64_t r = 0; r < kept; r++) {
        VP_TRY(rows.read_row(rows.ctx, r, g->row, err));
        for (size_t k = 0; k < m->nadapters; k++)
            if (g->t[k]) VP_TRY(adapt_row(g, k, r, e->cols, err));
        VP_TRY(vp_export_values(g->out, g->row, (size_t)e->cols, err));
        if (grows) vp_new_rows_add(&g->fresh, g->row);
    }
    for (int64_t k = 0; grows && k < g->growth.extra; k++) {
        vp_new_rows_draw(&g->fresh, k, g->row);
        VP_TRY(vp_export_values(g->out, g->row, (size_t)e->cols, err));
    }
    return VP_OK;
}

static int write_item(merger *g, const item *i, vp_error *err) {
    if (!i->entry) return vp_export_bytes(g->out, i->tensor->data, i->tensor->bytes, err);
    if (!i->bias) return write_weight(g, i->entry, err);
    VP_TRY(vp_training_bias(g->trained, i->entry, g->row, err));
    return vp_export_values(g->out, g->row, (size_t)vp_tensor_cols(i->tensor), err);
}

static int allocate(merger *g, vp_error *err) {
    int64_t widest = 1, rank = 1;
    for (size_t i = 0; i < g->n; i++)
        if (vp_tensor_cols(g->item[i].tensor) > widest) widest = vp_tensor_cols(g->item[i].tensor);
    for (size_t k = 0; k < g->model->nadapters; k++)
        for (size_t i = 0; i < g->model->adapter[k]->n; i++)
            if (g->model->adapter[k]->target[i].rank > rank) rank = g->model->adapter[k]->target[i].rank;
    g->row = vp_calloc((size_t)widest, sizeof *g->row);
    g->delta = vp_calloc((size_t)widest, sizeof *g->delta);
    g->b = vp_calloc((size_t)rank, sizeof *g->b);
    return g->row && g->delta && g->b ? VP_OK : vp_fail_memory(err, "a row", (size_t)widest * sizeof *g->row);
}

static int write_weights(merger *g, const char *folder, vp_dtype dtype, int64_t max_shard, vp_error *err) {
    VP_TRY(g->model->transformer ? list_folder(g, err) : list_gguf(g, err));
    VP_TRY(allocate(g, err));
    VP_TRY(vp_export_open(&g->out, folder, max_shard, err));
    for (size_t i = 0; i < g->n; i++) {
        const item *it = &g->item[i];
        const vp_tensor_info *t = it->tensor;
        int64_t shape[VP_MAX_DIMS] = {0};
        for (int k = 0; k < t->ndim; k++) shape[k] = t->shape[k];
        if (is_vocabulary(g, it->entry)) shape[0] = vp_grown_vocab(g->model, &g->growth);
        VP_TRY(vp_export_declare(g->out, name_of(it), it->entry ? dtype : t->dtype, t->ndim, shape, err));
    }
    for (size_t i = 0; i < g->n; i++) VP_TRY(write_item(g, &g->item[i], err));
    return vp_export_finish(g->out, err);
}

static void release(merger *g) {
    vp_export_close(g->out);
    for (size_t k = 0; k < VP_MAX_ADAPTERS; k++) free(g->a[k]);
    free(g->item);
    free(g->row);
    free(g->delta);
    free(g->b);
    vp_new_rows_free(&g->fresh);
}

/* Where the transformer lies in a sentence-transformers folder: "", or the name of a folder in it. */
static const char *sub_folder(const vp_model *m) {
    if (!m->transformer) return "";
    const char *rest = m->transformer + strlen(m->path);
    return rest + strspn(rest, "/");
}

int vp_merge(const vp_model *m, const vp_merge_options *o, const char *folder, vp_merged *merged, vp_error *err) {
    if (!vp_model_has_weights(m)) return vp_fail(err, VP_DATA, "%s: a vocabulary without weights", m->path);
    merger g = {.model = m, .trained = o->trained, .growth = o->growth};
    vp_token_rows_set(&g.table, m, o->trained);
    const char *sub = sub_folder(m);
    char *inner = NULL;
    VP_TRY(vp_path_join(&inner, folder, sub, err));
    int status = *sub && mkdir(inner, 0777) ? vp_fail_errno(err, "cannot create '%s'", inner) : VP_OK;
    if (!status) status = vp_merge_files(m, o->settings, folder, sub, err);
    if (!status) status = vp_merge_config(m, o, inner, err);
    if (!status) status = write_weights(&g, inner, o->dtype, o->max_shard, err);
    if (!status)
        *merged = (vp_merged){(int64_t)g.n, vp_export_size(g.out), vp_export_files(g.out), vp_export_rounding(g.out)};
    release(&g);
    free(inner);
    return status;
}

static int check_growth(const vp_model *m, const vp_growth *g, vp_error *err) {
    const vp_weight_entry *head = vp_model_has_weights(m) ? vp_weights_find(&m->weights, VP_W_HEAD, -1) : NULL;
    if (g->extra < 1 || g->keep < 1 || (vp_model_has_weights(m) && g->keep > m->config.vocab))
        return vp_fail(err, VP_DATA, "%s: %lld rows of its vocabulary of %lld and %lld new ones", m->path,
                       (long long)g->keep, (long long)m->config.vocab, (long long)g->extra);
    return head && head->bias ? vp_fail(err, VP_DATA, "%s: an output head with a bias cannot get tokens", m->path)
                              : VP_OK;
}

int vp_model_grow(const vp_model *m, const vp_growth *growth, const char *folder, vp_dtype dtype, int64_t max_shard,
                  vp_merged *merged, vp_error *err) {
    const vp_merge_options o = {.settings = &m->settings, .dtype = dtype, .max_shard = max_shard, .growth = *growth};
    VP_TRY(check_growth(m, growth, err));
    return vp_merge(m, &o, folder, merged, err);
}

int vp_model_merge(const vp_model *m, const char *folder, vp_dtype dtype, int64_t max_shard, vp_merged *merged,
                   vp_error *err) {
    const vp_merge_options o = {.settings = &m->settings, .dtype = dtype, .max_shard = max_shard};
    return vp_merge(m, &o, folder, merged, err);
}

int vp_encoder_save(const vp_encoder *e, const vp_settings *settings, const char *folder, vp_dtype dtype,
                    vp_merged *merged, vp_error *err) {
    const vp_merge_options o = {.trained = e, .settings = settings, .dtype = dtype, .max_shard = INT64_MAX};
    return vp_merge(e->model, &o, folder, merged, err);
}
