/* Pooling as a step on frames: hidden states to one vector a row or a word, or to the marked rows. The arithmetic is
 * the backend's. */
#include "lib/model/encoder.h"
#include "lib/model/pool_words.h"
#include "lib/model/pooler.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const vp_pooling kinds[] = {
    {"mean", VP_MAKES_ROWS, VP_POOL_MEAN, false},   {"weighted_mean", VP_MAKES_ROWS, VP_POOL_WEIGHTED_MEAN, false},
    {"last", VP_MAKES_ROWS, VP_POOL_LAST, false},   {"eos", VP_MAKES_ROWS, VP_POOL_EOS, false},
    {"bos", VP_MAKES_ROWS, VP_POOL_FIRST, false},   {"cls", VP_MAKES_ROWS, VP_POOL_FIRST, false},
    {"latent", VP_MAKES_ROWS, VP_POOL_MEAN, true},  {"words", VP_MAKES_WORDS, VP_POOL_MEAN, false},
    {"pick", VP_MAKES_MARKED, VP_POOL_MEAN, false},
};

static int find_kind(const char *name, const vp_pooling **kind, vp_error *err) {
    if (!name) return vp_fail(err, VP_USAGE, "no pooling: give one of " VP_POOLINGS "|words|pick");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        *kind = &kinds[i];
        if (!strcmp(kinds[i].name, name)) return VP_OK;
    }
    return vp_fail(err, VP_USAGE, "pooling '%s' is none of " VP_POOLINGS "|words|pick", name);
}

int vp_pool_options_set(vp_pool_options *o, const char *kind, bool normalize, bool no_normalize, int64_t dims,
                        vp_error *err) {
    const vp_pooling *row;
    if (normalize && no_normalize) return vp_fail(err, VP_USAGE, "--normalize and --no-normalize exclude each other");
    *o = (vp_pool_options){.normalize = no_normalize ? 0 : normalize ? 1 : -1, .dims = dims};
    if (!kind || !strcmp(kind, "auto")) return VP_OK;
    o->kind = kind;
    return find_kind(kind, &row, err);
}

static int set_up(vp_pooler *p, const vp_pool_options *o, const vp_map *model, vp_error *err) {
    VP_TRY(find_kind(o->kind ? o->kind : model ? vp_map_str(model, "pooling") : NULL, &p->kind, err));
    if (o->shift && p->kind->makes != VP_MAKES_WORDS) return vp_fail(err, VP_USAGE, "--shift: only for words");
    p->shift = o->shift;
    p->normalize = p->kind->makes != VP_MAKES_WORDS && (!model || vp_map_bool(model, "normalize", true));
    if (o->normalize >= 0) p->normalize = o->normalize;
    p->dims = o->dims > 0 ? o->dims : model ? vp_map_int(model, "dims", 0) : 0;
    if (p->dims < 0) return vp_fail(err, VP_DATA, "the header's model.dims is %lld", (long long)p->dims);
    if (p->kind->latent && !o->trained) VP_TRY(vp_pool_latent_load(&p->latent, model, err));
    VP_TRY(vp_pool_projection_set(p, o, model, err));
    return vp_compute_open(&p->own, p->kind->latent && o->device ? o->device : "cpu", 1, NULL, err);
}

int vp_pooler_open(vp_pooler **out, const vp_pool_options *o, const vp_map *header, vp_error *err) {
    vp_pooler *p = vp_calloc(1, sizeof *p);
    if (!p) return vp_fail_memory(err, "a pooler", sizeof *p);
    vp_map *model = header ? vp_map_sub(header, "model") : NULL;
    int status = set_up(p, o, model, err);
    vp_map_free(model);
    if (status) {
        vp_pooler_close(p);
        p = NULL;
    }
    *out = p;
    return status;
}

void vp_pooler_close(vp_pooler *p) {
    if (!p) return;
    vp_pool_latent_close(&p->latent);
    vp_pool_projection_close(&p->projection);
    vp_compute_close(&p->own);
    free(p->out);
    free(p->rows);
    free(p);
}

/* ---- headers ---- */

static void read_width(const char *json, size_t n, const char *name, int64_t *width) {
    json_t *columns = json_loadb(json, n, 0, NULL);
    const json_t *dims = json_array_get(json_object_get(columns, name), 1);
    if (json_array_size(dims) == 2) *width = json_integer_value(json_array_get(dims, 1));
    json_decref(columns);
}

int vp_header_width(const vp_map *header, int64_t *width, vp_error *err) {
    return vp_header_width_of(header, "hidden", width, err);
}

int vp_header_width_of(const vp_map *header, const char *name, int64_t *width, vp_error *err) {
    *width = 0;
    vp_map *columns = vp_map_sub(header, "columns");
    vp_buf json = {0};
    int status = columns ? vp_map_json(columns, &json, err) : VP_OK;
    if (columns && !status) read_width(json.data, json.len, name, width);
    vp_buf_free(&json);
    vp_map_free(columns);
    return status;
}

static int describe(const vp_pooler *p, vp_map *encoder, int64_t dims, vp_error *err) {
    VP_TRY(vp_map_set_str(encoder, "pooling", p->shift ? "words_shifted" : p->kind->name, err));
    if (p->kind->makes == VP_MAKES_MARKED) return VP_OK;
    const char *print = *p->latent.fingerprint ? p->latent.fingerprint : p->projection.fingerprint;
    if (*print) VP_TRY(vp_map_set_str(encoder, "projection", print, err));
    VP_TRY(vp_map_set_bool(encoder, "normalize", p->normalize, err));
    return vp_map_set_int(encoder, "dims", dims, err);
}

int vp_pooler_describe(const vp_pooler *p, vp_map *header, int64_t width, vp_error *err) {
    const int64_t all = p->projection.dims && width ? p->projection.dims : width;
    if (p->dims > all && all)
        return vp_fail(err, VP_USAGE, "--dims %lld: there are only %lld", (long long)p->dims, (long long)all);
    int64_t dims = p->dims ? p->dims : all;
    char shape[40];
    const bool picks = p->kind->makes == VP_MAKES_MARKED;
    snprintf(shape, sizeof shape, picks ? "M %lld" : "B %lld", (long long)(picks ? width : dims));
    VP_TRY(p->kind->makes == VP_MAKES_WORDS ? vp_words_declare(header, err)
                                            : vp_header_undeclare(header, "hidden", err));
    if (width) VP_TRY(vp_header_declare(header, picks ? "picked" : "emb", "F32", shape, err));
    vp_map *encoder = vp_map_sub(header, "encoder");
    if (!encoder) encoder = vp_map_new();
    int status = encoder ? describe(p, encoder, dims, err) : vp_fail_memory(err, "a map", 1);
    if (!status) status = vp_map_set_map(header, "encoder", encoder, err);
    vp_map_free(encoder);
    return status ? status : vp_encoder_space(header, err);
}

/* ---- frames ---- */

int vp_pooler_marked(const vp_frame *f, int64_t T, const uint8_t *keep, int32_t **index, int64_t *m, vp_error *err) {
    int64_t n = 0;
    int32_t *target = NULL;
    VP_TRY(vp_frame_ints(f, "target", &target, &n, err));
    int status = target && n != T ? vp_frame_fail(f, VP_DATA, err, "target does not fit") : VP_OK;
    *index = vp_calloc((size_t)T, sizeof **index);
    if (!status && !*index) status = vp_fail_memory(err, "marked positions", (size_t)T * sizeof **index);
    *m = 0;
    for (int64_t t = 0; !status && t < T; t++)
        if (target ? target[t] != -1 : !keep || keep[t]) (*index)[(*m)++] = (int32_t)t;
    free(target);
    return status;
}

static int pick(vp_pooler *p, const vp_compute *on, vp_frame *f, const vp_mat *x, const uint8_t *keep, vp_error *err) {
    int32_t *index = NULL;
    int64_t m = 0;
    int status = vp_pooler_marked(f, x->rows, keep, &index, &m, err);
    if (!status && !(p->out = vp_calloc((size_t)(m * x->cols), sizeof *p->out)))
        status = vp_fail_memory(err, "picked rows", (size_t)(m * x->cols) * sizeof *p->out);
    if (!status) {
        const vp_mat out = {.ptr = p->out, .dtype = VP_F32, .rows = m, .cols = x->cols, .ld = x->cols};
        vp_transfer t = vp_transfer_begin(on, "pooling", err);
        const vp_pick_op op = {.x = *x,
                               .out = vp_transfer_room_mat(&t, &out),
                               .index = vp_transfer_put(&t, index, m, sizeof *index),
                               .M = m};
        if (!t.status) vp_transfer_done(&t, on->ops->pick(on->queue, &op));
        vp_transfer_get_mat(&t, &out, &op.out);
        status = vp_transfer_end(&t);
    }
    free(index);
    const int64_t shape[] = {m, x->cols};
    return status ? status : vp_frame_put(f, "picked", VP_F32, 2, shape, p->out, err);
}

/* p->out [B, C]: a vector for each of the B runs of x that cu bounds, its first `dims` normalised (0: as they are). */
static int compute_runs(vp_pooler *p, const vp_compute *on, const vp_mat *x, const int32_t *cu, int64_t B,
                        const uint8_t *keep, int64_t dims, int64_t *empty, vp_error *err) {
    const vp_mat out = {.ptr = p->out, .dtype = VP_F32, .rows = B, .cols = x->cols, .ld = x->cols};
    vp_transfer t = vp_transfer_begin(on, "pooling", err);
    const vp_pool_op op = {.kind = p->kind->op,
                           .B = B,
                           .cu = vp_transfer_put(&t, cu, B + 1, sizeof *cu),
                           .keep = vp_transfer_put(&t, keep, x->rows, sizeof *keep),
                           .x = *x,
                           .out = vp_transfer_room_mat(&t, &out),
                           .empty = (int64_t *)(uintptr_t)vp_transfer_put(&t, empty, 1, sizeof *empty)};
    vp_mat kept = op.out;
    kept.cols = dims;
    const vp_l2norm_op norm = {.x = kept, .out = kept};
    if (!t.status) vp_transfer_done(&t, on->ops->pool(on->queue, &op));
    if (!t.status && p->normalize && dims) vp_transfer_done(&t, on->ops->l2norm(on->queue, &norm));
    vp_transfer_get_mat(&t, &out, &op.out);
    vp_transfer_get(&t, empty, op.empty, 1, sizeof *empty);
    return vp_transfer_end(&t);
}

/* Column emb [B, dims]. A projection follows on the pooler's own device, the CPU. */
static int pool_runs(vp_pooler *p, const vp_compute *on, vp_frame *f, const vp_mat *x, const int32_t *cu, int64_t B,
                     const uint8_t *keep, int64_t *empty, vp_error *err) {
    const int64_t dims = vp_pooler_dims(p, x->cols), all = p->projection.dims ? p->projection.dims : x->cols;
    float *projected = NULL;
    if (dims > all) return vp_frame_fail(f, VP_USAGE, err, "--dims: there are only %lld", (long long)all);
    p->out = vp_calloc((size_t)(B * x->cols), sizeof *p->out);
    if (!p->out) return vp_fail_memory(err, "embeddings", (size_t)(B * x->cols) * sizeof *p->out);
    VP_TRY(compute_runs(p, on, x, cu, B, keep, p->projection.dims ? 0 : dims, empty, err));
    vp_mat out = {.ptr = p->out, .dtype = VP_F32, .rows = B, .cols = x->cols, .ld = x->cols};
    VP_TRY(vp_pool_project(p, &out, &projected, err));
    if (projected) {
        free(p->out);
        p->out = projected;
    }
    for (int64_t b = 1; dims < all && b < B; b++)
        memmove(p->out + b * dims, p->out + b * all, (size_t)dims * sizeof *p->out);
    out.ptr = p->out;
    out.cols = out.ld = dims;
    const vp_l2norm_op norm = {.x = out, .out = out};
    if (projected && p->normalize) VP_TRY(vp_compute_check(&p->own, p->own.ops->l2norm(p->own.queue, &norm), err));
    const int64_t shape[] = {B, dims};
    return vp_frame_put(f, "emb", VP_F32, 2, shape, p->out, err);
}

/* What the latent layer makes of the states x, y [T, C] on the arena. */
static int attend_latents(vp_pooler *p, const vp_compute *on, const vp_mat *x, vp_mat *y, vp_error *err) {
    const size_t bytes = (size_t)(x->rows * x->cols) * sizeof(float);
    vp_latent_layer *layer;
    vp_mat f32 = *x;
    VP_TRY(vp_pool_latent_layer(p, x->cols, &layer, err));
    *y = (vp_mat){.dtype = VP_F32, .rows = x->rows, .cols = x->cols, .ld = x->cols};
    if (!(y->ptr = vp_compute_take(on, "latent attention", bytes, err))) return VP_MEMORY;
    if (x->dtype != VP_F32) {
        f32 = *y;
        if (!(f32.ptr = vp_compute_take(on, "latent attention", bytes, err))) return VP_MEMORY;
        const vp_elem_op cast = {.x = *x, .out = f32};
        VP_TRY(vp_compute_check(on, on->ops->cast(on->queue, &cast), err));
    }
    return vp_latent_layer_run(layer, f32.ptr, x->rows, y->ptr, err);
}

static int pool(vp_pooler *p, const vp_compute *on, vp_frame *f, const vp_mat *x, const uint8_t *keep, int64_t *empty,
                vp_error *err) {
    int64_t offsets = 0;
    int32_t *cu = NULL;
    VP_TRY(vp_frame_ints(f, "cu", &cu, &offsets, err));
    int status = cu && offsets > 0 ? VP_OK : vp_frame_fail(f, VP_DATA, err, "no column cu");
    const size_t mark = on->ops->arena_mark(on->queue);
    vp_mat of = *x;
    if (!status && p->kind->latent) status = attend_latents(p, on, x, &of, err);
    if (!status) status = pool_runs(p, on, f, &of, cu, offsets - 1, keep, empty, err);
    on->ops->arena_release(on->queue, mark);
    free(cu);
    return status;
}

static int pool_words(vp_pooler *p, const vp_compute *on, vp_frame *f, const vp_mat *x, int64_t *empty, vp_error *err) {
    vp_word_spans w;
    const int64_t sentences = f->B;
    int status = vp_word_spans_find(&w, f, p->shift, err);
    free(p->rows);
    p->rows = vp_calloc((size_t)w.n + 1, sizeof *p->rows);
    if (!status && !p->rows) status = vp_fail_memory(err, "words", (size_t)w.n * sizeof *p->rows);
    if (!status) status = vp_words_frame(&w, f, p->before, p->rows, err);
    if (!status) status = pool_runs(p, on, f, x, w.cu, w.n, w.keep, empty, err);
    p->before += sentences;
    vp_word_spans_free(&w);
    return status;
}

int vp_pooler_run_on(vp_pooler *p, const vp_compute *on, vp_frame *f, const vp_mat *x, int64_t *empty, vp_error *err) {
    int64_t T = f->T;
    const vp_column *keep = vp_frame_find(f, "keep");
    if (keep) VP_TRY(vp_frame_need(f, "keep", VP_U8, 1, &T, &keep, err));
    const uint8_t *mask = keep ? keep->data : NULL;
    bool picks;
    free(p->out);
    p->out = NULL;
    VP_TRY(vp_pooler_picks_of(p, f, &picks, err));
    if (picks) return pick(p, on, f, x, mask, err);
    if (p->kind->makes == VP_MAKES_WORDS) return pool_words(p, on, f, x, empty, err);
    return pool(p, on, f, x, mask, empty, err);
}

/* Words are counted from frame to frame; a latent layer is large. */
bool vp_pooler_alike(const vp_pooler *p) {
    return p->kind->makes != VP_MAKES_WORDS && !p->kind->latent;
}

vp_compute vp_pooler_place(const vp_pooler *p) {
    return p->latent.encoder ? p->latent.encoder->on : p->own;
}

int vp_pooler_run(vp_pooler *p, vp_frame *f, const float *hidden, int64_t width, int64_t *empty, vp_error *err) {
    float *own = NULL;
    int64_t n = 0;
    if (!hidden) {
        VP_TRY(vp_frame_floats(f, "hidden", &own, &n, err));
        if (!own || n != f->T * width) {
            free(own);
            return vp_frame_fail(f, VP_DATA, err, "no column hidden [%lld, %lld]", (long long)f->T, (long long)width);
        }
        hidden = own;
    }
    const vp_compute on = vp_pooler_place(p);
    const vp_mat host = {.ptr = (float *)hidden, .dtype = VP_F32, .rows = f->T, .cols = width, .ld = width};
    vp_transfer t = vp_transfer_begin(&on, "hidden states", err);
    const vp_mat x = vp_transfer_put_mat(&t, &host);
    if (!t.status) t.status = vp_pooler_run_on(p, &on, f, &x, empty, err);
    const int status = vp_transfer_end(&t);
    free(own);
    if (!status) vp_frame_drop(f, "hidden");
    return status;
}
