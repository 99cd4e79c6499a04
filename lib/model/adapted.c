/* Opening an adapter's folder as a model: the base that its adapter_config.json names, the adapters below it that a
 * train.json of `step` names, and the adapter itself. */
#include "lib/base/json.h"
#include "lib/model/model.h"
#include "lib/model/private.h"
#include <string.h>

bool vp_adapter_only(const char *folder) {
    return vp_path_exists(folder, "adapter_config.json") && !vp_path_exists(folder, "config.json");
}

static int open_base(vp_model **m, const char *folder, vp_error *err) {
    const char *base = NULL;
    vp_json j;
    VP_TRY(vp_json_open(&j, folder, "adapter_config.json", JSON_OBJECT, err));
    int status = vp_json_str(&j, j.root, "base_model_name_or_path", &base, err);
    if (!status && (!base || !*base || !vp_path_exists(base, "") || vp_adapter_only(base)))
        status =
            vp_fail(err, VP_DATA,
                    "%s: an adapter whose model '%.200s' is not here: give the model with -m and this with --adapter",
                    folder, base ? base : "");
    if (!status) status = vp_model_open(m, base, err);
    vp_json_close(&j);
    return status;
}

/* What was below the adapter when it was trained; nothing is known of one that `step` did not train. */
static int add_below(vp_model *m, const char *folder, vp_error *err) {
    const char *print = NULL;
    vp_json j;
    VP_TRY(vp_json_open_optional(&j, folder, "train.json", JSON_OBJECT, err));
    int status = j.root ? vp_json_str(&j, j.root, "fingerprint", &print, err) : VP_OK;
    if (!status && print && strcmp(print, vp_model_fingerprint(m)) != 0)
        status = vp_fail(err, VP_DATA, "%s: it was trained on a model with fingerprint %s, %s has %s", folder, print,
                         vp_model_path(m), vp_model_fingerprint(m));
    const json_t *below = j.root ? json_object_get(j.root, "adapters") : NULL;
    for (size_t i = 0; !status && i < json_array_size(below); i++) {
        const char *path = json_string_value(json_array_get(below, i));
        if (!path || !vp_path_exists(path, "adapter_config.json"))
            status = vp_fail(err, VP_DATA,
                             "%s: the adapter '%.200s' below it is not here: give the model with -m and "
                             "every adapter with --adapter",
                             folder, path ? path : "");
        else
            status = vp_model_add_adapter(m, path, err);
    }
    vp_json_close(&j);
    return status;
}

int vp_model_open_adapted(vp_model **m, const char *folder, vp_error *err) {
    VP_TRY(open_base(m, folder, err));
    VP_TRY(add_below(*m, folder, err));
    return vp_model_add_adapter(*m, folder, err);
}
