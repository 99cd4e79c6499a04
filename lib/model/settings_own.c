/* vecpipe_config.json: what a result's prompt is, where no file of others can say it. Read after those, so it counts.
 */
#include "lib/base/json.h"
#include "lib/model/settings.h"
#include "lib/model/settings_write.h"
#include <stdlib.h>
#include <string.h>

static const char file[] = "vecpipe_config.json";

static int replace(char **field, const char *value, vp_error *err) {
    char *copy = vp_strndup(value, strlen(value));
    if (!copy) return vp_fail_memory(err, "a setting", strlen(value));
    free(*field);
    *field = copy;
    return VP_OK;
}

static int read_all(vp_settings *s, const vp_json *j, const vp_config *c, vp_error *err) {
    const char *chat = NULL, *pooling = s->pooling;
    bool normalize = s->normalize != 0;
    VP_TRY(vp_json_str(j, j->root, "chat", &chat, err));
    VP_TRY(vp_json_str(j, j->root, "pooling", &pooling, err));
    VP_TRY(vp_json_bool(j, j->root, "normalize", &normalize, err));
    VP_TRY(vp_json_int(j, j->root, "max_length", &s->max_len, err));
    if (s->max_len < 1) return vp_fail(err, VP_DATA, "%s: a maximum length of %lld", j->path, (long long)s->max_len);
    if (!vp_settings_is_pooling(pooling))
        return vp_fail(err, VP_DATA, "%s: pooling \"%s\" is none of " VP_POOLINGS, j->path, pooling);
    if (s->max_len > c->positions) s->max_len = c->positions;
    s->normalize = normalize;
    if (chat) VP_TRY(replace(&s->chat, chat, err));
    return replace(&s->pooling, pooling, err);
}

int vp_settings_own(vp_settings *s, const char *folder, const vp_config *c, vp_error *err) {
    vp_json j;
    VP_TRY(vp_json_open_optional(&j, folder, file, JSON_OBJECT, err));
    const int status = j.root ? read_all(s, &j, c, err) : VP_OK;
    vp_json_close(&j);
    return status;
}

int vp_settings_write_own(const vp_settings *s, const char *folder, vp_error *err) {
    json_t *root = json_pack("{s:s, s:s, s:b, s:I}", "chat", s->chat, "pooling", s->pooling, "normalize", s->normalize,
                             "max_length", (json_int_t)s->max_len);
    const int status = vp_json_publish(folder, file, root, err);
    json_decref(root);
    return status;
}
