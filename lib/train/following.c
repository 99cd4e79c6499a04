/* Following a run: its recipe once, its weights a step (following.h). */
#include "lib/train/following.h"
#include "lib/model/projection.h"
#include "lib/train/live.h"
#include "lib/train/recipe.h"
#include <stdlib.h>
#include <string.h>

struct vp_following {
    vp_follow *live;
    vp_encoder *encoder;
    int64_t version; /* of the encoder's weights; -1: none yet */
};

static int check_recipe(const vp_recipe *r, const vp_model *m, const vp_follow_options *o, vp_error *err) {
    if (strcmp(r->fingerprint, vp_model_fingerprint(m)) != 0)
        return vp_fail(err, VP_DATA, "'%s' trains another model than '%s'", o->folder, vp_model_path(m));
    if (strcmp(r->attention, o->encode.attention) != 0)
        return vp_fail(err, VP_DATA, "'%s' trains with attention '%s', not '%s'", o->folder, r->attention,
                       o->encode.attention);
    if (strcmp(r->compute, o->encode.compute) != 0)
        return vp_fail(err, VP_DATA, "'%s' trains with compute type '%s', not '%s'", o->folder, r->compute,
                       o->encode.compute);
    const double a = r->train.attention_dropout - o->attention_dropout, h = r->train.hidden_dropout - o->hidden_dropout;
    if (a < 0 || a > 0 || h < 0 || h > 0)
        return vp_fail(err, VP_DATA, "'%s' trains with dropout %g and %g, not %g and %g", o->folder,
                       r->train.attention_dropout, r->train.hidden_dropout, o->attention_dropout, o->hidden_dropout);
    return VP_OK;
}

static const char apart[] = "'%s': its train.json and live do not belong together";

/* Sizes of a latent layer or a projection that `live` has no room for are not allocated. */
static int check_sizes(const vp_following *f, vp_recipe_file *file, const vp_model *m, const char *folder,
                       vp_error *err) {
    const int64_t width = vp_model_width(m), all = (int64_t)(vp_follow_bytes(f->live) / sizeof(float));
    const int64_t dims = file->recipe.train.projection;
    if (dims && vp_projection_count(dims, width) > all) return vp_fail(err, VP_DATA, apart, folder);
    if (!file->recipe.train.latent) return VP_OK;
    VP_TRY(vp_latent_complete(&file->latent, width, err));
    if (vp_latent_layout_of(&file->latent, width).count <= all) return VP_OK;
    return vp_fail(err, VP_DATA, apart, folder);
}

static int open_encoder(vp_following *f, vp_model *m, const vp_follow_options *o, vp_error *err) {
    vp_recipe_file file;
    int status = vp_recipe_open(&file, o->folder, err);
    if (!status) status = check_recipe(&file.recipe, m, o, err);
    if (!status) status = check_sizes(f, &file, m, o->folder, err);
    for (size_t i = 0; !status && i < file.recipe.nadapters; i++)
        status = vp_model_add_adapter(m, file.recipe.adapters[i], err);
    vp_encode_options encode = o->encode;
    encode.train = &file.recipe.train;
    if (!status) status = vp_encoder_open(&f->encoder, m, &encode, NULL, err);
    vp_recipe_close(&file);
    if (status) return status;
    if ((size_t)vp_encoder_params(f->encoder)->count * sizeof(float) != vp_follow_bytes(f->live))
        return vp_fail(err, VP_DATA, apart, o->folder);
    return VP_OK;
}

int vp_following_open(vp_following **out, vp_model *m, const vp_follow_options *o, vp_error *err) {
    vp_following *f = vp_calloc(1, sizeof *f);
    *out = NULL;
    if (!f) return vp_fail_memory(err, "following a run", sizeof *f);
    f->version = -1;
    int status = vp_follow_open(&f->live, o->folder, o->output, err);
    if (!status) status = open_encoder(f, m, o, err);
    if (status)
        vp_following_close(f);
    else
        *out = f;
    return status;
}

int vp_following_encoder(vp_following *f, const vp_frame *batch, vp_encoder **encoder, vp_error *err) {
    const int64_t step = vp_map_int(batch->keys, "step", -1);
    if (step < 0) return vp_frame_fail(batch, VP_DATA, err, "no key step: tok --batch makes steps");
    if (step != f->version) {
        VP_TRY(vp_follow_wait(f->live, step, vp_encoder_params(f->encoder)->value, err));
        VP_TRY(vp_encoder_changed(f->encoder, err));
        f->version = step;
    }
    *encoder = f->encoder;
    return VP_OK;
}

void vp_following_close(vp_following *f) {
    if (!f) return;
    vp_encoder_close(f->encoder);
    vp_follow_close(f->live);
    free(f);
}

/* ---- a part of what is trained: the head, the latent layer, a projection ---- */

typedef struct part {
    vp_follow *live;
    float *weights; /* all that is trained */
    int64_t at;     /* of the part's among them; -1: it is not trained */
    int64_t version;
} part;

static void close_part(part *p) {
    vp_follow_close(p->live);
    free(p->weights);
}

/* Room for the weights, of which the part's are `count` from `at`. */
static int open_weights(part *p, int64_t at, int64_t count, const char *folder, vp_error *err) {
    const size_t bytes = vp_follow_bytes(p->live);
    const int64_t all = (int64_t)(bytes / sizeof(float));
    p->version = -1;
    p->at = at;
    if (at >= 0 && (at > all || count > all - at)) return vp_fail(err, VP_DATA, apart, folder);
    if (at >= 0 && !(p->weights = vp_calloc(1, bytes))) return vp_fail_memory(err, "a run's weights", bytes);
    return VP_OK;
}

static int open_recipe(vp_recipe_file *file, const char *folder, const char *fingerprint, vp_error *err) {
    VP_TRY(vp_recipe_open(file, folder, err));
    if (fingerprint && strcmp(file->recipe.fingerprint, fingerprint) == 0) return VP_OK;
    return vp_fail(err, VP_DATA, "'%s' trains another model than the stream's", folder);
}

/* *changed: the batch's step wants others than the last one did. */
static int follow(part *p, const vp_frame *batch, bool *changed, vp_error *err) {
    const int64_t step = vp_map_int(batch->keys, "step", -1);
    if (step < 0) return vp_frame_fail(batch, VP_DATA, err, "no key step: tok --batch makes steps");
    *changed = p->at >= 0 && step != p->version;
    if (!*changed) return VP_OK;
    VP_TRY(vp_follow_wait(p->live, step, p->weights, err));
    p->version = step;
    return VP_OK;
}

/* ---- the head ---- */

struct vp_head_following {
    part part;
    vp_head *head;
    int64_t tokens; /* the part is the rows of the last so many; 0: all */
};

/* Of the rows of single tokens only a tied head knows. */
static int open_rows(vp_head_following *f, const vp_recipe *r, const char *folder, vp_error *err) {
    const bool some = r->head < 0 && r->tokens >= 0 && vp_head_is_tied(f->head);
    const int64_t V = vp_head_vocab(f->head);
    f->tokens = some ? r->train.tokens : 0;
    if (f->tokens < 0 || f->tokens > V) return vp_fail(err, VP_DATA, apart, folder);
    return open_weights(&f->part, some ? r->tokens : r->head, (f->tokens ? f->tokens : V) * vp_head_width(f->head),
                        folder, err);
}

/* The head as the run's adapters leave it, and what of it the run trains. */
static int open_head(vp_head_following *f, vp_model *m, const char *folder, const vp_encode_options *o, vp_error *err) {
    vp_recipe_file file;
    int status = open_recipe(&file, folder, vp_model_fingerprint(m), err);
    for (size_t i = 0; !status && i < file.recipe.nadapters; i++)
        status = vp_model_add_adapter(m, file.recipe.adapters[i], err);
    if (!status) status = vp_head_open(&f->head, m, o, err);
    if (!status) status = open_rows(f, &file.recipe, folder, err);
    vp_recipe_close(&file);
    return status;
}

int vp_head_following_open(vp_head_following **out, vp_model *m, const char *folder, const vp_encode_options *o,
                           int output, vp_error *err) {
    vp_head_following *f = vp_calloc(1, sizeof *f);
    *out = NULL;
    if (!f) return vp_fail_memory(err, "following a run", sizeof *f);
    int status = vp_follow_open(&f->part.live, folder, output, err);
    if (!status) status = open_head(f, m, folder, o, err);
    if (status)
        vp_head_following_close(f);
    else
        *out = f;
    return status;
}

int vp_head_following_head(vp_head_following *f, const vp_frame *batch, vp_head **head, vp_error *err) {
    bool changed = false;
    VP_TRY(follow(&f->part, batch, &changed, err));
    const float *rows = changed ? f->part.weights + f->part.at : NULL;
    if (changed)
        VP_TRY(f->tokens ? vp_head_set_tokens(f->head, rows, f->tokens, err) : vp_head_set(f->head, rows, err));
    *head = f->head;
    return VP_OK;
}

void vp_head_following_close(vp_head_following *f) {
    if (!f) return;
    vp_head_close(f->head);
    close_part(&f->part);
    free(f);
}

/* ---- what pools ---- */

struct vp_pooling_following {
    part part;
    vp_latent_sizes sizes;
    int64_t width, project; /* project 0: the latent layer */
};

static int open_latent(vp_pooling_following *f, const vp_recipe_file *file, const char *folder, vp_error *err) {
    if (file->recipe.latent < 0)
        return vp_fail(err, VP_USAGE, "'%s' trains no latent-attention layer: step --pool latent", folder);
    f->sizes = file->latent;
    VP_TRY(vp_latent_complete(&f->sizes, f->width, err));
    return open_weights(&f->part, file->recipe.latent, vp_latent_layout_of(&f->sizes, f->width).count, folder, err);
}

static int open_projection(vp_pooling_following *f, const vp_recipe_file *file, const char *folder, vp_error *err) {
    if (file->recipe.train.projection != f->project)
        return vp_fail(err, VP_USAGE, "'%s' trains no projection to %lld dimensions: step --project", folder,
                       (long long)f->project);
    return open_weights(&f->part, file->recipe.projection, vp_projection_count(f->project, f->width), folder, err);
}

static int open_pooling_part(vp_pooling_following *f, const char *folder, const vp_map *header, vp_error *err) {
    vp_recipe_file file;
    vp_map *model = vp_map_sub(header, "model");
    int status = open_recipe(&file, folder, model ? vp_map_str(model, "fingerprint") : NULL, err);
    f->width = model ? vp_map_int(model, "width", 0) : 0;
    if (!status) status = f->project ? open_projection(f, &file, folder, err) : open_latent(f, &file, folder, err);
    vp_recipe_close(&file);
    vp_map_free(model);
    return status;
}

int vp_pooling_following_open(vp_pooling_following **out, const char *folder, int64_t project, const vp_map *header,
                              int output, vp_error *err) {
    vp_pooling_following *f = vp_calloc(1, sizeof *f);
    *out = NULL;
    if (!f) return vp_fail_memory(err, "following a run", sizeof *f);
    f->project = project;
    int status = vp_follow_open(&f->part.live, folder, output, err);
    if (!status) status = open_pooling_part(f, folder, header, err);
    if (status)
        vp_pooling_following_close(f);
    else
        *out = f;
    return status;
}

int vp_pooling_following_give(vp_pooling_following *f, const vp_frame *batch, vp_pooler *p, vp_error *err) {
    bool changed = false;
    VP_TRY(follow(&f->part, batch, &changed, err));
    if (changed && f->project)
        vp_pooler_give_projection(p, f->project, f->width, f->part.weights + f->part.at, NULL);
    else if (changed)
        vp_pooler_give(p, &f->sizes, f->width, f->part.weights + f->part.at);
    return VP_OK;
}

void vp_pooling_following_close(vp_pooling_following *f) {
    if (!f) return;
    close_part(&f->part);
    free(f);
}
