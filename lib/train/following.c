/* Following a run: its recipe once, its weights a step (following.h). */
#include "lib/train/following.h"
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

static int open_encoder(vp_following *f, vp_model *m, const vp_follow_options *o, vp_error *err) {
    vp_recipe_file file;
    int status = vp_recipe_open(&file, o->folder, err);
    if (!status) status = check_recipe(&file.recipe, m, o, err);
    for (size_t i = 0; !status && i < file.recipe.nadapters; i++)
        status = vp_model_add_adapter(m, file.recipe.adapters[i], err);
    vp_encode_options encode = o->encode;
    encode.train = &file.recipe.train;
    if (!status) status = vp_encoder_open(&f->encoder, m, &encode, NULL, err);
    vp_recipe_close(&file);
    if (status) return status;
    if ((size_t)vp_encoder_params(f->encoder)->count * sizeof(float) != vp_follow_bytes(f->live))
        return vp_fail(err, VP_DATA, "'%s': its train.json and live do not belong together", o->folder);
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

/* ---- the head ---- */

struct vp_head_following {
    vp_follow *live;
    vp_head *head;
    float *weights; /* all that is trained */
    int64_t at;     /* of the head's rows among them; -1: it is not trained */
    int64_t tokens; /* these are those of the last so many tokens; 0: all */
    int64_t version;
};

/* Of the rows of single tokens only a tied head knows. */
static void find_rows(vp_head_following *f, const vp_recipe *r) {
    f->at = r->head;
    if (r->head >= 0 || r->tokens < 0 || !vp_head_is_tied(f->head)) return;
    f->at = r->tokens;
    f->tokens = r->train.tokens;
}

/* The head as the run's adapters leave it, and what of it the run trains. */
static int open_head(vp_head_following *f, vp_model *m, const char *folder, const vp_encode_options *o, vp_error *err) {
    vp_recipe_file file;
    int status = vp_recipe_open(&file, folder, err);
    if (!status && strcmp(file.recipe.fingerprint, vp_model_fingerprint(m)) != 0)
        status = vp_fail(err, VP_DATA, "'%s' trains another model than '%s'", folder, vp_model_path(m));
    for (size_t i = 0; !status && i < file.recipe.nadapters; i++)
        status = vp_model_add_adapter(m, file.recipe.adapters[i], err);
    if (!status) status = vp_head_open(&f->head, m, o, err);
    if (!status) find_rows(f, &file.recipe);
    vp_recipe_close(&file);
    return status;
}

static int open_live(vp_head_following *f, const char *folder, vp_error *err) {
    const size_t bytes = vp_follow_bytes(f->live);
    const int64_t V = vp_head_vocab(f->head), count = (int64_t)(bytes / sizeof(float));
    const int64_t rows = (f->tokens ? f->tokens : V) * vp_head_width(f->head);
    if (f->at >= 0 && (f->at > count || f->tokens < 0 || f->tokens > V || rows > count - f->at))
        return vp_fail(err, VP_DATA, "'%s': its train.json and live do not belong together", folder);
    if (f->at >= 0 && !(f->weights = vp_calloc(1, bytes))) return vp_fail_memory(err, "a run's weights", bytes);
    return VP_OK;
}

int vp_head_following_open(vp_head_following **out, vp_model *m, const char *folder, const vp_encode_options *o,
                           int output, vp_error *err) {
    vp_head_following *f = vp_calloc(1, sizeof *f);
    *out = NULL;
    if (!f) return vp_fail_memory(err, "following a run", sizeof *f);
    f->version = -1;
    int status = vp_follow_open(&f->live, folder, output, err);
    if (!status) status = open_head(f, m, folder, o, err);
    if (!status) status = open_live(f, folder, err);
    if (status)
        vp_head_following_close(f);
    else
        *out = f;
    return status;
}

int vp_head_following_head(vp_head_following *f, const vp_frame *batch, vp_head **head, vp_error *err) {
    const int64_t step = vp_map_int(batch->keys, "step", -1);
    if (step < 0) return vp_frame_fail(batch, VP_DATA, err, "no key step: tok --batch makes steps");
    if (f->at >= 0 && step != f->version) {
        VP_TRY(vp_follow_wait(f->live, step, f->weights, err));
        VP_TRY(f->tokens ? vp_head_set_tokens(f->head, f->weights + f->at, f->tokens, err)
                         : vp_head_set(f->head, f->weights + f->at, err));
        f->version = step;
    }
    *head = f->head;
    return VP_OK;
}

void vp_head_following_close(vp_head_following *f) {
    if (!f) return;
    vp_head_close(f->head);
    vp_follow_close(f->live);
    free(f->weights);
    free(f);
}
