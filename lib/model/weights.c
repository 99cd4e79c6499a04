/* Matching a file's tensors with the architecture's roles: names, prefixes, shapes, leftovers. */
#include "lib/model/weights.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 160 };

/* How one file spells names. */
typedef struct spelling {
    const vp_config *config;
    const vp_source *source;
    const char *path, *prefix;
    vp_names *names;
    bool gguf;
    uint8_t *used; /* one a tensor of the source */
} spelling;

/* Tensors that belong to no role and change no hidden state: *suffix or prefix*, after the model's own prefix. */
static bool harmless(const char *name) {
    static const char *const starts[] = {"lm_head.", "cls.", "pooler.", "output.weight"};
    static const char *const ends[] = {"rotary_emb.inv_freq", "position_ids", "attn.bias", "attn.masked_bias",
                                       "rope_freqs.weight"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (!strncmp(name, starts[i], strlen(starts[i]))) return true;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t k = strlen(ends[i]);
        if (n >= k && !strcmp(name + n - k, ends[i])) return true;
    }
    return false;
}

/* Checkpoints from before 2019 call a layer norm's weight and bias gamma and beta. */
static const vp_tensor_info *find(const spelling *sp, const char *name, bool bias) {
    char full[NAME];
    const char *const suffix[2][2] = {{"weight", "gamma"}, {"bias", "beta"}};
    for (int old = 0; old < 2; old++) {
        snprintf(full, sizeof full, "%s%s.%s", sp->prefix, name, suffix[bias][old]);
        const vp_tensor_info *t = vp_source_find(sp->source, full);
        if (t) return t;
        if (!strcmp(name, "lm_head")) { /* stands beside the inner model, not in it */
            snprintf(full, sizeof full, "%s.%s", name, suffix[bias][old]);
            if ((t = vp_source_find(sp->source, full))) return t;
        }
    }
    return NULL;
}

int vp_tensor_check(const vp_tensor_info *t, int64_t rows, int64_t cols, vp_error *err) {
    bool plain = t->storage == VP_STORE_PLAIN && (t->dtype == VP_F32 || t->dtype == VP_F16 || t->dtype == VP_BF16);
    if (!plain && (t->storage == VP_STORE_PLAIN || t->storage == VP_STORE_OTHER))
        return vp_fail(err, VP_DATA, "%s: tensor %s has type %s, which is not supported", t->file, t->name, t->type);
    bool vector = rows == 1 && t->ndim == 1;
    if (vp_tensor_rows(t) == rows && vp_tensor_cols(t) == cols && (vector || t->ndim == 2)) return VP_OK;
    char shape[100] = "", want[50];
    size_t at = 0;
    for (int i = 0; i < t->ndim; i++) {
        int n = snprintf(shape + at, sizeof shape - at, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
        at += n > 0 ? (size_t)n : 0;
    }
    if (rows == 1)
        snprintf(want, sizeof want, "%lld", (long long)cols);
    else
        snprintf(want, sizeof want, "%lld, %lld", (long long)rows, (long long)cols);
    return vp_fail(err, VP_DATA, "%s: tensor %s has shape [%s], not [%s]", t->file, t->name, shape, want);
}

/* NV-Embed's layer behind the transformer, which lib/model/latent.h reads. */
static bool is_latent(const vp_config *c, const char *name) {
    static const char prefix[] = "latent_attention_model.";
    return !strcmp(c->arch->name, "bidir_mistral") && !strncmp(name, prefix, sizeof prefix - 1);
}

static size_t index_of(const vp_source *s, const vp_tensor_info *t) {
    return (size_t)(t - vp_source_at(s, 0));
}

static int take(const spelling *sp, const char *name, bool bias, int64_t rows, int64_t cols, const vp_tensor_info **out,
                vp_error *err) {
    const vp_tensor_info *t = find(sp, name, bias);
    if (!t)
        return vp_fail(err, VP_DATA, "%s: tensor %s%s.%s is missing", sp->path, sp->prefix, name,
                       bias ? "bias" : "weight");
    VP_TRY(vp_tensor_check(t, rows, cols, err));
    sp->used[index_of(sp->source, t)] = 1;
    *out = t;
    return VP_OK;
}

/* A matrix of one expert: of a tensor [E, rows, cols] that holds all of them, or a tensor by itself. */
static int take_expert(vp_weights *w, vp_weight_entry *e, const spelling *sp, vp_error *err) {
    const vp_config *c = sp->config;
    char name[NAME];
    vp_arch_name(sp->names, e->role, e->layer, e->expert, name, sizeof name);
    const vp_tensor_info *all = sp->gguf ? find(sp, name, false) : NULL;
    if (!all && sp->gguf) vp_arch_name(c->arch->gguf_old_names, e->role, e->layer, e->expert, name, sizeof name);
    if (!all) return take(sp, name, false, e->rows, e->cols, &e->tensor, err);
    if (all->ndim != 3 || all->shape[0] != c->experts)
        return vp_fail(err, VP_DATA, "%s: tensor %s does not hold the matrices of %lld experts", all->file, all->name,
                       (long long)c->experts);
    vp_tensor_info *part = &w->part[w->nparts++];
    *part = *all;
    part->ndim = 2;
    part->shape[0] = all->shape[1];
    part->shape[1] = all->shape[2];
    part->bytes = all->bytes / (size_t)c->experts;
    part->data = all->data + (size_t)e->expert * part->bytes;
    sp->used[index_of(sp->source, all)] = 1;
    e->tensor = part;
    return vp_tensor_check(part, e->rows, e->cols, err);
}

static bool of_expert(const vp_config *c, vp_role role) {
    return c->arch->experts && (role == VP_W_GATE || role == VP_W_UP || role == VP_W_DOWN);
}

static int fill(vp_weights *w, vp_role role, int64_t layer, int64_t expert, const spelling *sp, vp_error *err) {
    const vp_config *c = sp->config;
    const vp_role_info *info = &vp_roles[role];
    bool vector = info->cols == '1';
    int64_t rows = vp_config_size(c, info->rows);
    vp_weight_entry *e = &w->entry[w->n++];
    *e = (vp_weight_entry){.role = role, .layer = layer, .expert = expert};
    e->lora = info->lora && !of_expert(c, role);
    e->rows = vector ? 1 : rows;
    e->cols = vector ? rows : vp_config_size(c, info->cols);
    vp_arch_name(c->arch->names, role, layer, expert, e->module, sizeof e->module);
    if (of_expert(c, role)) return take_expert(w, e, sp, err);
    if (sp->gguf && c->arch->gguf_interleaved && (role == VP_W_Q || role == VP_W_K)) e->interleaved = c->head_dim;
    char name[NAME];
    if (!vp_arch_name(sp->names, role, layer, expert, name, sizeof name))
        return vp_fail(err, VP_DATA, "%s: this kind of file has no %s weights", sp->path, info->name);
    if (role == VP_W_HEAD && !find(sp, name, false)) return VP_OK;
    if (role == VP_W_HEAD && c->tied) return VP_OK;
    VP_TRY(take(sp, name, false, e->rows, e->cols, &e->tensor, err));
    const bool bias = role == VP_W_HEAD ? find(sp, name, true) != NULL : vp_config_has_bias(c, role); /* GPT-J's head */
    return bias ? take(sp, name, true, 1, rows, &e->bias, err) : VP_OK;
}

/* As products take them: gate and up of one expert after the other, then every expert's down. */
static int fill_experts(vp_weights *w, int64_t layer, const spelling *sp, vp_error *err) {
    const int64_t experts = sp->config->experts;
    for (int64_t e = 0; e < experts; e++) {
        VP_TRY(fill(w, VP_W_GATE, layer, e, sp, err));
        VP_TRY(fill(w, VP_W_UP, layer, e, sp, err));
    }
    for (int64_t e = 0; e < experts; e++) VP_TRY(fill(w, VP_W_DOWN, layer, e, sp, err));
    return VP_OK;
}

static int fill_all(vp_weights *w, const spelling *sp, vp_error *err) {
    const vp_config *c = sp->config;
    for (int64_t layer = -1; layer < c->layers; layer++) {
        if (layer == 0) w->at_layer = w->n;
        for (int role = 0; role < VP_NROLES; role++) {
            if (vp_roles[role].per_layer != (layer >= 0) || !vp_config_has(c, (vp_role)role)) continue;
            if (!of_expert(c, (vp_role)role)) VP_TRY(fill(w, (vp_role)role, layer, 0, sp, err));
        }
        if (layer >= 0 && c->arch->experts) VP_TRY(fill_experts(w, layer, sp, err));
        if (layer == 0) w->per_layer = w->n - w->at_layer;
    }
    return VP_OK;
}

/* Whatever is left must be harmless: an unknown tensor may be a feature that would be ignored silently. */
static int check_leftovers(vp_weights *w, const spelling *sp, vp_error *err) {
    for (size_t i = 0; i < vp_source_count(sp->source); i++) {
        const vp_tensor_info *t = vp_source_at(sp->source, i);
        if (sp->used[i]) continue;
        const char *name = t->name;
        size_t prefix = strlen(sp->config->arch->prefix);
        if (!sp->gguf && !strncmp(name, sp->config->arch->prefix, prefix)) name += prefix;
        if (!harmless(name) && !is_latent(sp->config, name))
            return vp_fail(err, VP_DATA, "%s: tensor %s is not part of a %s model as configured", t->file, t->name,
                           sp->config->arch->name);
        if (sp->gguf && !strcmp(name, "rope_freqs.weight")) {
            VP_TRY(vp_tensor_check(t, 1, sp->config->rotary / 2, err));
            w->rope_factors = t;
        }
    }
    return VP_OK;
}

int vp_weights_open(vp_weights *w, const vp_config *c, const vp_source *s, const char *path, vp_error *err) {
    *w = (vp_weights){0};
    spelling sp = {.config = c, .source = s, .path = path, .gguf = vp_source_gguf(s) != NULL};
    sp.names = sp.gguf ? c->arch->gguf_names : c->arch->names;
    sp.prefix = sp.gguf ? "" : c->arch->prefix;
    char name[NAME];
    vp_arch_name(sp.names, VP_W_EMBED, -1, 0, name, sizeof name);
    if (!find(&sp, name, false)) {
        const char *with = sp.prefix;
        sp.prefix = "";
        if (!find(&sp, name, false)) sp.prefix = with; /* the message names the usual spelling */
    }
    const size_t parts = 3 * (size_t)(c->layers * c->experts);
    size_t entries = (size_t)(VP_NROLES * (c->layers + 1)) + parts;
    w->entry = vp_calloc(entries, sizeof *w->entry);
    w->part = vp_calloc(parts, sizeof *w->part);
    sp.used = vp_calloc(vp_source_count(s), 1);
    int status =
        w->entry && w->part && sp.used ? VP_OK : vp_fail_memory(err, "the weight table", entries * sizeof *w->entry);
    if (!status) status = fill_all(w, &sp, err);
    if (!status) status = check_leftovers(w, &sp, err);
    free(sp.used);
    if (status) {
        vp_weights_close(w);
        return status;
    }
    vp_weight_entry *head = (vp_weight_entry *)vp_weights_find(w, VP_W_HEAD, -1);
    if (head && c->tied) head->alias = vp_weights_find(w, VP_W_EMBED, -1);
    return VP_OK;
}

void vp_weights_close(vp_weights *w) {
    free(w->entry);
    free(w->part);
    *w = (vp_weights){0};
}

const vp_weight_entry *vp_weights_expert(const vp_weights *w, vp_role role, int64_t layer, int64_t expert) {
    size_t first = layer < 0 ? 0 : w->at_layer + (size_t)layer * w->per_layer;
    size_t last = layer < 0 ? w->at_layer : first + w->per_layer;
    for (size_t i = first; i < last && i < w->n; i++)
        if (w->entry[i].role == role && w->entry[i].expert == expert) return &w->entry[i];
    return NULL;
}

const vp_weight_entry *vp_weights_find(const vp_weights *w, vp_role role, int64_t layer) {
    return vp_weights_expert(w, role, layer, 0);
}

const vp_weight_entry *vp_weights_module(const vp_weights *w, const char *name, size_t n) {
    for (size_t i = 0; i < w->n; i++)
        if (strlen(w->entry[i].module) == n && !memcmp(w->entry[i].module, name, n)) return &w->entry[i];
    return NULL;
}

/* GGUF stores the two halves of a head's rows as pairs: half j, index i of d/2 lies at row 2 i + j of the head. */
static int64_t stored_row(const vp_weight_entry *e, int64_t row) {
    if (!e->interleaved) return row;
    int64_t half = e->interleaved / 2, within = row % e->interleaved;
    return row - within + 2 * (within % half) + within / half;
}

int vp_weight_read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    const vp_weight_entry *e = ctx;
    return vp_tensor_row(e->tensor, stored_row(e, row), out, err);
}

int vp_weight_read_bias(const vp_weight_entry *e, float *out, vp_error *err) {
    if (!e->bias) {
        memset(out, 0, (size_t)e->rows * sizeof *out);
        return VP_OK;
    }
    if (!e->interleaved) return vp_tensor_row(e->bias, 0, out, err);
    float *stored = vp_calloc((size_t)e->rows, sizeof *stored);
    if (!stored) return vp_fail_memory(err, "a bias", (size_t)e->rows * sizeof *stored);
    int status = vp_tensor_row(e->bias, 0, stored, err);
    for (int64_t i = 0; !status && i < e->rows; i++) out[i] = stored[stored_row(e, i)];
    free(stored);
    return status;
}
