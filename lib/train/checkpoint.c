/* Saving and loading checkpoints (checkpoint.h). */
#include "lib/train/checkpoint.h"
#include "lib/train/tensors.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char weights_file[] = "weights.safetensors", optimizer_file[] = "optimizer.safetensors",
                  state_file[] = "state.json";
enum { STATE_MAX = 1 << 20 };

static bool has_step(const json_t *state) {
    const json_t *step = json_object_get(state, "step");
    return json_is_integer(step) && json_integer_value(step) >= 0;
}

/* The file folder/name, new and synced. */
static int write_tensors(const char *folder, const char *name, const vp_params *params, const vp_numbers *kind,
                         size_t kinds, vp_error *err) {
    char *path;
    VP_TRY(vp_path_join(&path, folder, name, err));
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    int status =
        fd < 0 ? vp_fail_errno(err, "cannot create '%s'", path) : vp_tensors_write(fd, path, params, kind, kinds, err);
    if (!status && fsync(fd) != 0) status = vp_fail_errno(err, "cannot sync '%s'", path);
    if (fd >= 0) close(fd);
    free(path);
    return status;
}

static int write_state(const char *folder, const json_t *state, vp_error *err) {
    char *text = json_dumps(state, JSON_INDENT(2) | JSON_SORT_KEYS);
    if (!text) return vp_fail_memory(err, state_file, 0);
    int status = vp_write_file(folder, state_file, text, strlen(text), err);
    free(text);
    return status;
}

static int write_all(const char *folder, const vp_params *params, const float *m, const float *v, const json_t *state,
                     vp_error *err) {
    /* vp_tensors_write only reads */
    const vp_numbers weights = {.suffix = "", .value = params->value},
                     moments[] = {{.suffix = ".m", .value = (float *)(uintptr_t)m},
                                  {.suffix = ".v", .value = (float *)(uintptr_t)v}};
    VP_TRY(write_tensors(folder, weights_file, params, &weights, 1, err));
    if (m || v) VP_TRY(write_tensors(folder, optimizer_file, params, moments, 2, err));
    return write_state(folder, state, err);
}

int vp_checkpoint_save(const char *path, const vp_params *params, const float *m, const float *v, const json_t *state,
                       vp_error *err) {
    if (!has_step(state)) return vp_fail(err, VP_BUG, "checkpoint: a state without its step");
    vp_publish_folder p;
    VP_TRY(vp_publish_folder_open(&p, path, state_file, err));
    int status = write_all(p.temporary, params, m, v, state, err);
    if (!status) return vp_publish_folder_commit(&p, err);
    vp_publish_folder_abort(&p);
    return status;
}

int vp_checkpoint_state(const char *path, json_t **state, vp_error *err) {
    char *file;
    vp_buf text = {0};
    json_error_t why;
    *state = NULL;
    VP_TRY(vp_path_join(&file, path, state_file, err));
    int status = vp_read_file(file, STATE_MAX, &text, err);
    if (!status) {
        *state = json_loadb(text.data, text.len, JSON_REJECT_DUPLICATES, &why);
        if (!*state)
            status = vp_fail(err, VP_DATA, "%s:%d: %s", file, why.line, why.text);
        else if (!has_step(*state))
            status = vp_fail(err, VP_DATA, "%s: \"step\" is not an integer from 0", file);
    }
    if (status) {
        json_decref(*state);
        *state = NULL;
    }
    vp_buf_free(&text);
    free(file);
    return status;
}

int vp_checkpoint_load(const char *path, const vp_params *params, float *m, float *v, vp_error *err) {
    const vp_numbers weights = {.suffix = "", .value = params->value},
                     moments[] = {{.suffix = ".m", .value = m}, {.suffix = ".v", .value = v}};
    char *file = NULL;
    VP_TRY(vp_path_join(&file, path, weights_file, err));
    int status = vp_tensors_read(file, params, &weights, 1, err);
    free(file);
    if (status || (!m && !v)) return status;
    VP_TRY(vp_path_join(&file, path, optimizer_file, err));
    status = vp_tensors_read(file, params, moments, 2, err);
    free(file);
    return status;
}
