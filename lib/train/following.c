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
