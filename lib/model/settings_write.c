/* A result's settings as files (settings_write.h); settings.c is the way back. */
#include "lib/model/settings_write.h"
#include "lib/base/json.h"
#include "lib/model/projection.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct pooling_names {
    const char *ours, *llm2vec, *sentence_transformers;
} pooling_names;

/* eos and last are the same token, as bos and cls are: the tokenizer decides which it is. */
static const pooling_names poolings[] = {
    {"mean", "mean", "mean"},
    {"weighted_mean", "weighted_mean", "weightedmean"},
    {"last", "last_token", "lasttoken"},
    {"eos", "eos_token", "lasttoken"},
    {"bos", "bos_token", "cls"},
    {"cls", "bos_token", "cls"},
};

static int find_pooling(const vp_settings *s, const pooling_names **pooling, vp_error *err) {
    for (size_t i = 0; i < sizeof poolings / sizeof *poolings; i++) {
        *pooling = &poolings[i];
        if (strcmp(poolings[i].ours, s->pooling) == 0) return VP_OK;
    }
    return vp_fail(err, VP_BUG, "pooling '%s' has no name in a result's files", s->pooling);
}

/* The JSON, made for this alone, is freed. */
static int write_new(const char *folder, const char *name, json_t *root, vp_error *err) {
    int status = vp_json_publish(folder, name, root, err);
    json_decref(root);
    return status;
}

int vp_settings_write_llm2vec(const vp_settings *s, const char *folder, vp_error *err) {
    const pooling_names *pooling;
    VP_TRY(find_pooling(s, &pooling, err));
    return write_new(folder, "llm2vec_config.json",
                     json_pack("{s:s, s:I, s:I, s:b}", "pooling_mode", pooling->llm2vec, "max_length",
                               (json_int_t)s->max_len, "doc_max_length",
                               s->doc_max_len ? (json_int_t)s->doc_max_len : (json_int_t)VP_DOC_MAX_LEN,
                               "skip_instruction", !s->prompt_pooled),
                     err);
}

/* ---- sentence-transformers ---- */

/* Attention to both sides is no setting of an adapter: the base's config decides. Whoever does not trust the code gets
 * an error, never the vectors of a causal model. */
static const char both_sides[] =
    "\"\"\"Attention to both sides in every layer, as this adapter was trained.\"\"\"\n"
    "import transformers\n"
    "from sentence_transformers.models import Transformer\n\n\n"
    "class BidirectionalTransformer(Transformer):\n"
    "    def __init__(self, *args, **kwargs):\n"
    "        super().__init__(*args, **kwargs)\n"
    "        if tuple(int(n) for n in transformers.__version__.split(\".\")[:2]) < (5, 2):\n"
    "            raise ImportError(\"is_causal = False needs transformers 5.2 or later\")\n"
    "        self.auto_model.config.is_causal = False\n";

static json_t *module(int at, const char *path, const char *type) {
    char index[16];
    snprintf(index, sizeof index, "%d", at);
    return json_pack("{s:i, s:s, s:s, s:s}", "idx", at, "name", index, "path", path, "type", type);
}

#define ST_MODULE(name) "sentence_transformers.models." name

static int write_modules(const vp_settings *s, const vp_settings_place *p, vp_error *err) {
    const bool code = p->adapter && strcmp(s->attention, "bi") == 0;
    const char *first = code ? "bidirectional.BidirectionalTransformer" : ST_MODULE("Transformer");
    json_t *modules =
        json_pack("[o, o]", module(0, p->transformer, first), module(1, "1_Pooling", ST_MODULE("Pooling")));
    bool bad =
        modules && s->projection && json_array_append_new(modules, module(2, VP_PROJECTION_FOLDER, ST_MODULE("Dense")));
    const int last = s->projection ? 3 : 2;
    bad |=
        modules && s->normalize &&
        json_array_append_new(modules, module(last, last == 3 ? "3_Normalize" : "2_Normalize", ST_MODULE("Normalize")));
    if (bad) {
        json_decref(modules);
        modules = NULL;
    }
    int status = code ? vp_publish_file(p->folder, "bidirectional.py", both_sides, strlen(both_sides), err) : VP_OK;
    if (status) {
        json_decref(modules);
        return status;
    }
    return write_new(p->folder, "modules.json", modules, err);
}

static int write_pooling(const vp_settings *s, const vp_settings_place *p, vp_error *err) {
    const pooling_names *pooling;
    char *path;
    VP_TRY(find_pooling(s, &pooling, err));
    VP_TRY(vp_path_join(&path, p->folder, "1_Pooling", err));
    int status = mkdir(path, 0777) && errno != EEXIST ? vp_fail_errno(err, "cannot create '%s'", path) : VP_OK;
    if (!status)
        status = write_new(path, "config.json",
                           json_pack("{s:I, s:s, s:b}", "embedding_dimension", (json_int_t)p->width, "pooling_mode",
                                     pooling->sentence_transformers, "include_prompt", s->prompt_pooled != 0),
                           err);
    free(path);
    return status;
}

int vp_settings_write(const vp_settings *s, const vp_settings_place *p, vp_error *err) {
    char *inner;
    VP_TRY(write_pooling(s, p, err));
    VP_TRY(vp_path_join(&inner, p->folder, p->transformer, err));
    int status = write_new(inner, "sentence_bert_config.json",
                           json_pack("{s:I, s:b}", "max_seq_length", (json_int_t)s->max_len, "do_lower_case", 0), err);
    free(inner);
    if (!status)
        status = write_new(p->folder, "config_sentence_transformers.json",
                           json_pack("{s:{s:s, s:s}, s:n, s:s}", "prompts", "query", s->query_prefix, "document",
                                     s->document_prefix, "default_prompt_name", "similarity_fn_name", "cosine"),
                           err);
    return status ? status : write_modules(s, p, err);
}
