/* A tokenizer with more tokens: special ones are put behind the vocabulary of a folder's tokenizer.json, and what
 * tokenizer_config.json lists is kept in step. */
#include "lib/base/json.h"
#include "lib/text/text.h"
#include <stdio.h>
#include <string.h>

static json_t *describe(const char *content) {
    return json_pack("{s:s, s:b, s:b, s:b, s:b, s:b}", "content", content, "single_word", 0, "lstrip", 0, "rstrip", 0,
                     "normalized", 0, "special", 1);
}

/* An item of tokenizer.json's list. */
static bool add_token(json_t *list, const char *content, int64_t id) {
    json_t *item = describe(content);
    const bool ok = item && !json_object_set_new(item, "id", json_integer((json_int_t)id));
    if (ok) return !json_array_append_new(list, item);
    json_decref(item);
    return false;
}

static bool add_all(json_t *list, json_t *by_id, int64_t first, int64_t n) {
    char content[32], key[32];
    bool ok = true;
    for (int64_t i = 0; ok && i < n; i++) {
        snprintf(content, sizeof content, "<s%lld>", (long long)i + 1);
        snprintf(key, sizeof key, "%lld", (long long)(first + i));
        ok = add_token(list, content, first + i) && (!by_id || !json_object_set_new(by_id, key, describe(content)));
    }
    return ok;
}

static int check_new(const vp_tokenizer *t, const char *folder, int64_t n, vp_error *err) {
    char content[32];
    for (int64_t i = 1; i <= n; i++) {
        snprintf(content, sizeof content, "<s%lld>", (long long)i);
        if (vp_tokenizer_find(t, content, strlen(content)) >= 0)
            return vp_fail(err, VP_DATA, "'%s': its tokenizer has a token %s already", folder, content);
    }
    return VP_OK;
}

static int load(const char *folder, json_t **tokens, json_t **config, vp_error *err) {
    VP_TRY(vp_json_load(tokens, folder, "tokenizer.json", err));
    if (!vp_path_exists(folder, "tokenizer_config.json")) return VP_OK;
    return vp_json_load(config, folder, "tokenizer_config.json", err);
}

static int extend(const char *folder, json_t *tokens, json_t *config, int64_t first, int64_t n, vp_error *err) {
    json_t *list = json_object_get(tokens, "added_tokens"), *by_id = json_object_get(config, "added_tokens_decoder");
    bool ok = true;
    if (!json_is_array(list)) { /* absent, or null */
        list = json_array();
        ok = !json_object_set_new(tokens, "added_tokens", list);
    }
    if (!ok || !add_all(list, json_is_object(by_id) ? by_id : NULL, first, n))
        return vp_fail_memory(err, "tokens", (size_t)n);
    VP_TRY(vp_json_publish(folder, "tokenizer.json", tokens, err));
    return config ? vp_json_publish(folder, "tokenizer_config.json", config, err) : VP_OK;
}

int vp_tokenizer_extend(const char *folder, int64_t n, vp_error *err) {
    vp_tokenizer *t;
    json_t *tokens = NULL, *config = NULL;
    VP_TRY(vp_tokenizer_open(&t, folder, err));
    const int64_t first = vp_tokenizer_vocab(t);
    int status = check_new(t, folder, n, err);
    vp_tokenizer_close(t);
    if (!status) status = load(folder, &tokens, &config, err);
    if (!status) status = extend(folder, tokens, config, first, n, err);
    json_decref(config);
    json_decref(tokens);
    return status;
}
