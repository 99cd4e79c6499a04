/* VP_OWN_CONFIG: what a result's prompt is, where no file of others can say it. Read after those, so it counts. */
#include "lib/base/json.h"
#include "lib/model/settings.h"
#include "lib/model/settings_write.h"
#include <stdlib.h>
#include <string.h>

int vp_settings_keys(vp_settings *s, const vp_json *j, const vp_config *c, vp_error *err) {
    const char *attention = s->attention, *pooling = s->pooling;
    int64_t length = s->max_len;
    VP_TRY(vp_json_str(j, j->root, "attention", &attention, err));
    VP_TRY(vp_json_str(j, j->root, "pooling", &pooling, err));
    VP_TRY(vp_json_int(j, j->root, "max_length", &length, err));
    VP_TRY(vp_json_int(j, j->root, "dims", &s->dims, err));
    if (!vp_settings_is_one_of(attention, VP_ATTENTIONS))
        return vp_fail(err, VP_DATA, "%s: attention \"%s\" is none of " VP_ATTENTIONS, j->path, attention);
    if (!vp_settings_is_one_of(pooling, VP_POOLINGS))
        return vp_fail(err, VP_DATA, "%s: pooling \"%s\" is none of " VP_POOLINGS, j->path, pooling);
    if (length < 1 || s->dims < 0) return vp_fail(err, VP_DATA, "%s: max_length or dims is out of range", j->path);
    s->max_len = length < c->positions ? length : c->positions;
    if (attention != s->attention) VP_TRY(vp_settings_set(&s->attention, attention, err));
    return pooling != s->pooling ? vp_settings_set(&s->pooling, pooling, err) : VP_OK;
}

/* Texts have one form: a prompt with slots, or NV-Embed's. */
static int read_all(vp_settings *s, const vp_json *j, const vp_config *c, vp_error *err) {
    const char *chat = NULL;
    bool normalize = s->normalize != 0, prefix = false;
    VP_TRY(vp_settings_keys(s, j, c, err));
    VP_TRY(vp_json_str(j, j->root, "chat", &chat, err));
    VP_TRY(vp_json_bool(j, j->root, "normalize", &normalize, err));
    VP_TRY(vp_json_bool(j, j->root, "prefix", &prefix, err));
    s->normalize = normalize;
    s->prefix = prefix;
    if (!chat) return VP_OK;
    s->nv_embed = 0;
    return vp_settings_set(&s->chat, chat, err);
}

int vp_settings_own(vp_settings *s, const char *folder, const vp_config *c, vp_error *err) {
    vp_json j;
    VP_TRY(vp_json_open_optional(&j, folder, VP_OWN_CONFIG, JSON_OBJECT, err));
    const int status = j.root ? read_all(s, &j, c, err) : VP_OK;
    vp_json_close(&j);
    return status;
}

int vp_settings_write_own(const vp_settings *s, const char *folder, vp_error *err) {
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:b, s:I, s:I}", "chat", s->chat, "attention", s->attention, "pooling", s->pooling,
                  "normalize", s->normalize != 0, "max_length", (json_int_t)s->max_len, "dims", (json_int_t)s->dims);
    int status = root && s->prefix && json_object_set_new(root, "prefix", json_true())
                     ? vp_fail_memory(err, VP_OWN_CONFIG, 1)
                     : VP_OK;
    if (!status) status = vp_json_publish(folder, VP_OWN_CONFIG, root, err);
    json_decref(root);
    return status;
}
