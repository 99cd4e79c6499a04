/* A checkpoint: a folder {weights.safetensors, optimizer.safetensors, state.json} that is the previous one or the new
 * one at every moment, whatever dies. What state.json says beyond `step` is its writer's business. */
#ifndef VP_TRAIN_CHECKPOINT_H
#define VP_TRAIN_CHECKPOINT_H
#include "lib/base/json.h"
#include "lib/model/params.h"

/* Write and sync a folder beside `path`, then exchange the two and remove the old one. Tensors are F32 [rows, cols]
 * under the parameters' names; the moments m and v [count] (either may be NULL) under those names with ".m" and ".v".
 * `state` is an object with the integer `step`. VP_DATA: a number that is not finite; the old checkpoint stays. VP_IO:
 * a folder of this name that is no checkpoint. */
int vp_checkpoint_save(const char *path, const vp_params *params, const float *m, const float *v, const json_t *state,
                       vp_error *err);
/* state.json alone, to decide what the parameters are: *state is the caller's to free (json_decref), integers as they
 * were. VP_IO: no checkpoint. VP_DATA: no object, or no `step` from 0. */
int vp_checkpoint_state(const char *path, json_t **state, vp_error *err);
/* The bytes that save was given, into params->value and m, v [count] (NULL: not saved). VP_DATA naming file and tensor:
 * one that is missing, unknown, of another shape or type. */
int vp_checkpoint_load(const char *path, const vp_params *params, float *m, float *v, vp_error *err);

#endif
