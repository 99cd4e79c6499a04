/* Embedding rows of single tokens (token_rows.h), in PEFT's layout: adapter_config.json's trainable_token_indices, and
 * one tensor [tokens, C] that holds the rows themselves, however it is called. */
#include "lib/model/token_rows.h"
#include <stdio.h>
#include <string.h>

static const char ending[] = ".token_adapter.trainable_tokens_delta";

/* ---- reading ---- */

static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    const vp_token_rows *r = ctx;
    if (r->trained && row >= r->trained_first) {
        memcpy(out, r->trained + (row - r->trained_first) * r->cols, (size_t)r->cols * sizeof *out);
        return VP_OK;
    }
    for (size_t i = r->model->nadapters; i-- > 0;) {
        const vp_adapter *a = r->model->adapter[i];
        const int64_t at = row - a->first_token;
        if (a->tokens && at >= 0 && at < vp_tensor_rows(a->tokens)) return vp_tensor_row(a->tokens, at, out, err);
    }
    return r->base.read_row(r->base.ctx, row, out, err);
}

void vp_token_rows_set(vp_token_rows *r, const vp_model *m, const vp_encoder *e) {
    const vp_weight_entry *embed = vp_weights_find(&m->weights, VP_W_EMBED, -1);
    *r = (vp_token_rows){.base = vp_training_part(e, embed), .cols = embed->cols, .model = m};
    const vp_training *t = e ? e->training : NULL;
    if (!t || t->tokens < 0) return;
    r->trained = t->params.value + t->tokens;
    r->trained_first = embed->rows - t->options.tokens;
}

vp_weight_part vp_token_rows_part(const vp_token_rows *r) {
    return (vp_weight_part){.rows = r->base.rows, .read_row = read_row, .ctx = r};
}

/* ---- adapters ---- */

bool vp_adapter_has_tokens(const char *tensor) {
    const size_t n = strlen(tensor), tail = sizeof ending - 1;
    return n > tail && !strcmp(tensor + n - tail, ending);
}

void vp_adapter_tokens_name(const vp_model *m, char out[160]) {
    const vp_weight_entry *embed = vp_weights_find(&m->weights, VP_W_EMBED, -1);
    snprintf(out, 160, "base_model.model.%s%s", embed->module, ending);
}

/* The list itself, or the one of the embedding in an object by module. */
static const json_t *indices_of(const vp_json *j, const vp_weight_entry *embed) {
    const json_t *said = json_object_get(j->root, "trainable_token_indices"), *list;
    const char *module, *dot = strrchr(embed->module, '.'), *own = dot ? dot + 1 : embed->module;
    if (json_is_array(said)) return said;
    if (json_object_size(said) != 1) return NULL;
    json_object_foreach((json_t *)(uintptr_t)said, module, list) {
        const char *last = strrchr(module, '.');
        if (!strcmp(last ? last + 1 : module, own)) return list;
    }
    return NULL;
}

/* Whether it is first, first + 1, ..., below `vocab`. */
static bool consecutive(const json_t *list, int64_t vocab, int64_t *first) {
    const size_t n = json_array_size(list);
    const double start = json_number_value(json_array_get(list, 0));
    if (!n || !(start >= 0 && start <= (double)vocab - (double)n)) return false;
    *first = (int64_t)start;
    for (size_t i = 0; i < n; i++) { /* numbers are read as reals */
        const json_t *id = json_array_get(list, i);
        const double off = json_number_value(id) - (double)(*first + (int64_t)i);
        if (!json_is_number(id) || off < 0 || off > 0) return false;
    }
    return true;
}

int vp_adapter_take_tokens(vp_adapter *a, const vp_model *m, const vp_json *j, const vp_tensor_info *info,
                           vp_error *err) {
    const vp_weight_entry *embed = vp_weights_find(&m->weights, VP_W_EMBED, -1);
    const json_t *list = indices_of(j, embed);
    if (!list || !consecutive(list, embed->rows, &a->first_token))
        return vp_fail(
            err, VP_DATA,
            "%s: trainable_token_indices: only tokens of the embedding that follow each other are supported, "
            "of a vocabulary of %lld",
            j->path, (long long)embed->rows);
    if (a->tokens) return vp_fail(err, VP_DATA, "%s: tensor %s: rows of tokens twice", info->file, info->name);
    a->tokens = info;
    return vp_tensor_check(info, (int64_t)json_array_size(list), embed->cols, err);
}
