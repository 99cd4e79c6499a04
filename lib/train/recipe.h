/* run/train.json: what `fwd --follow` must do as `step` does it, so that both compute the same hidden states. */
#ifndef VP_TRAIN_RECIPE_H
#define VP_TRAIN_RECIPE_H
#include "lib/base/json.h"
#include "lib/model/training.h"

typedef struct vp_recipe {
    const char *fingerprint; /* of the model */
    const char *attention;
    const char *compute;         /* "f32", "tf32" or "bf16": type of the products */
    const char *const *adapters; /* folders, in order: applied, not trained */
    size_t nadapters;
    vp_train_options train; /* its targets are named; `start` and `backward` do not matter here */
    int64_t latent;         /* where the latent layer's numbers begin in `live`, their sizes in `train`; -1: none */
    int64_t projection;     /* where a projection's numbers begin, to train.projection dimensions; -1: none */
    int64_t head;           /* where the output head's rows begin in `live`; -1: they are not trained */
    int64_t tokens;         /* where rows of single tokens (train.tokens) begin in `live`; -1: they are not trained */
} vp_recipe;

/* The recipe as JSON, the caller's to free; the same recipe gives the same text. */
int vp_recipe_json(const vp_recipe *r, json_t **out, vp_error *err);

typedef struct vp_recipe_file {
    vp_recipe recipe;       /* into json */
    vp_latent_sizes latent; /* that its train options point to */
    vp_json json;
    const char **adapters;
} vp_recipe_file;
/* FOLDER/train.json. VP_IO: it is not there. VP_DATA: not one of ours. Close also after a failure. */
int vp_recipe_open(vp_recipe_file *r, const char *folder, vp_error *err);
void vp_recipe_close(vp_recipe_file *r);

#endif
