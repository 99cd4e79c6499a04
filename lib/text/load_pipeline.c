/* Sections of tokenizer.json that make the pipeline: normalizer, pre_tokenizer, post_processor. Every type that is not
 * known here, and every value that a known type may not have, is an error that names it. */
#include "lib/text/load.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 8 };

static int type_of(const vp_json *j, const char *section, const json_t *o, const char **type, vp_error *err) {
    *type = NULL;
    if (!json_is_object(o)) return vp_fail(err, VP_DATA, "%s: %s: not an object", j->path, section);
    VP_TRY(vp_json_str(j, o, "type", type, err));
    return *type ? VP_OK : vp_fail(err, VP_DATA, "%s: %s without a type", j->path, section);
}

static int unsupported(const vp_json *j, const char *section, const char *what, vp_error *err) {
    return vp_fail(err, VP_DATA, "%s: %s '%s' is not supported", j->path, section, what);
}

/* The elements of a Sequence. */
static int elements(const vp_json *j, const json_t *o, const char *key, int depth, const json_t **list, vp_error *err) {
    *list = json_object_get(o, key);
    if (!json_is_array(*list)) return vp_fail(err, VP_DATA, "%s: a Sequence without '%s'", j->path, key);
    if (depth >= MAX_DEPTH) return vp_fail(err, VP_DATA, "%s: '%s' nested too deep", j->path, key);
    return VP_OK;
}

/* {"String": s} or {"Regex": s}. */
static int load_pattern(const vp_json *j, const json_t *o, vp_pattern *out, vp_error *err) {
    const json_t *pattern = json_object_get(o, "pattern");
    const char *regex = NULL, *literal = NULL;
    if (json_is_object(pattern)) {
        VP_TRY(vp_json_str(j, pattern, "Regex", &regex, err));
        VP_TRY(vp_json_str(j, pattern, "String", &literal, err));
    }
    if (!regex == !literal) return vp_fail(err, VP_DATA, "%s: a pattern that is neither a Regex nor a String", j->path);
    if (regex) return vp_pattern_regex(out, regex, strlen(regex), err);
    return vp_pattern_literal(out, literal, strlen(literal), err);
}

/* ---- normalizer ---- */
static int load_bert_normalizer(const vp_json *j, const json_t *o, vp_norms *out, vp_error *err) {
    bool clean = true, chinese = true, lower = true;
    VP_TRY(vp_json_bool(j, o, "clean_text", &clean, err));
    VP_TRY(vp_json_bool(j, o, "handle_chinese_chars", &chinese, err));
    VP_TRY(vp_json_bool(j, o, "lowercase", &lower, err));
    bool accents = lower; /* null: as lowercase */
    VP_TRY(vp_json_bool(j, o, "strip_accents", &accents, err));
    return vp_norms_push_bert(out, clean, chinese, accents, lower, err);
}

static int load_strip(const vp_json *j, const json_t *o, vp_norms *out, vp_error *err) {
    vp_norm *step = NULL;
    VP_TRY(vp_norms_push(out, VP_NORM_STRIP, &step, err));
    step->left = step->right = true;
    VP_TRY(vp_json_bool(j, o, "strip_left", &step->left, err));
    return vp_json_bool(j, o, "strip_right", &step->right, err);
}

static int load_replacing(const vp_json *j, const json_t *o, bool prepend, vp_norms *out, vp_error *err) {
    const char *content = NULL;
    VP_TRY(vp_json_str(j, o, prepend ? "prepend" : "content", &content, err));
    if (!content) return vp_fail(err, VP_DATA, "%s: a Prepend or Replace without its text", j->path);
    VP_TRY(vp_norms_push_text(out, prepend ? VP_NORM_PREPEND : VP_NORM_REPLACE, content, err));
    return prepend ? VP_OK : load_pattern(j, o, &out->step[out->n - 1].pattern, err);
}

static int load_norm(const vp_json *j, const json_t *o, int depth, vp_norms *out, vp_error *err) {
    static const struct {
        const char *type;
        vp_normal_kind kind;
    } plain[] = {{"NFC", VP_NORM_NFC},   {"NFD", VP_NORM_NFD},         {"NFKC", VP_NORM_NFKC},
                 {"NFKD", VP_NORM_NFKD}, {"Lowercase", VP_NORM_LOWER}, {"StripAccents", VP_NORM_NO_MARKS}};
    const char *type;
    VP_TRY(type_of(j, "normalizer", o, &type, err));
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        vp_norm *step = NULL;
        if (strcmp(type, plain[i].type) == 0) return vp_norms_push(out, plain[i].kind, &step, err);
    }
    if (strcmp(type, "BertNormalizer") == 0) return load_bert_normalizer(j, o, out, err);
    if (strcmp(type, "Strip") == 0) return load_strip(j, o, out, err);
    if (strcmp(type, "Prepend") == 0) return load_replacing(j, o, true, out, err);
    if (strcmp(type, "Replace") == 0) return load_replacing(j, o, false, out, err);
    if (strcmp(type, "Sequence") != 0) return unsupported(j, "normalizer", type, err);
    const json_t *list, *item;
    size_t i;
    VP_TRY(elements(j, o, "normalizers", depth, &list, err));
    json_array_foreach((json_t *)(uintptr_t)list, i, item) VP_TRY(load_norm(j, item, depth + 1, out, err));
    return VP_OK;
}

int vp_load_normalizer(const vp_json *j, const json_t *o, vp_norms *out, vp_error *err) {
    return !o || json_is_null(o) ? VP_OK : load_norm(j, o, 0, out, err);
}

/* ---- pre_tokenizer ---- */
static int load_behavior(const vp_json *j, const json_t *o, vp_split_behavior *out, vp_error *err) {
    static const struct {
        const char *name;
        vp_split_behavior behavior;
    } names[] = {{"Removed", VP_SPLIT_REMOVED},
                 {"Isolated", VP_SPLIT_ISOLATED},
                 {"MergedWithPrevious", VP_SPLIT_MERGED_WITH_PREVIOUS},
                 {"MergedWithNext", VP_SPLIT_MERGED_WITH_NEXT},
                 {"Contiguous", VP_SPLIT_CONTIGUOUS}};
    const char *name = "Isolated";
    VP_TRY(vp_json_str(j, o, "behavior", &name, err));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i].name) != 0) continue;
        *out = names[i].behavior;
        return VP_OK;
    }
    return unsupported(j, "behavior", name, err);
}

static int push_prefix(vp_cuts *out, const char *content, bool first, vp_error *err) {
    vp_cut *cut = NULL;
    VP_TRY(vp_cuts_push(out, VP_CUT_PREFIX, &cut, err));
    cut->first = first;
    cut->n = strlen(content);
    cut->content = vp_strndup(content, cut->n);
    return cut->content ? VP_OK : vp_fail_memory(err, "a pre-tokenizer", cut->n);
}

static int load_byte_level(const vp_json *j, const json_t *o, vp_cuts *out, vp_error *err) {
    bool prefix = true, regex = true;
    VP_TRY(vp_json_bool(j, o, "add_prefix_space", &prefix, err));
    VP_TRY(vp_json_bool(j, o, "use_regex", &regex, err));
    if (prefix) VP_TRY(push_prefix(out, " ", false, err));
    return regex ? vp_cuts_push_regex(out, vp_gpt2_regex, VP_SPLIT_ISOLATED, err) : VP_OK;
}

static int load_split(const vp_json *j, const json_t *o, vp_cuts *out, vp_error *err) {
    vp_cut *cut = NULL;
    VP_TRY(vp_cuts_push(out, VP_CUT_SPLIT, &cut, err));
    VP_TRY(load_behavior(j, o, &cut->behavior, err));
    VP_TRY(vp_json_bool(j, o, "invert", &cut->invert, err));
    return load_pattern(j, o, &cut->pattern, err);
}

/* Spaces become the replacement wherever they stand, so that part is a normalisation here: nothing after a Metaspace
 * looks for spaces, and nothing before it is allowed to. */
static int load_metaspace(const vp_json *j, const json_t *o, vp_cuts *out, vp_norms *norms, vp_error *err) {
    const char *mark = "\xe2\x96\x81", *scheme = "always";
    bool split = true;
    if (out->n) return vp_fail(err, VP_DATA, "%s: a Metaspace after another pre-tokenizer is not supported", j->path);
    VP_TRY(vp_json_str(j, o, "replacement", &mark, err));
    VP_TRY(vp_json_str(j, o, "prepend_scheme", &scheme, err));
    VP_TRY(vp_json_bool(j, o, "split", &split, err));
    bool never = strcmp(scheme, "never") == 0, first = strcmp(scheme, "first") == 0;
    if (!never && !first && strcmp(scheme, "always") != 0) return unsupported(j, "prepend_scheme", scheme, err);
    VP_TRY(vp_norms_push_text(norms, VP_NORM_REPLACE, mark, err));
    VP_TRY(vp_pattern_literal(&norms->step[norms->n - 1].pattern, " ", 1, err));
    if (!never) VP_TRY(push_prefix(out, mark, first, err));
    if (!split) return VP_OK;
    vp_cut *cut = NULL;
    VP_TRY(vp_cuts_push(out, VP_CUT_SPLIT, &cut, err));
    cut->behavior = VP_SPLIT_MERGED_WITH_NEXT;
    return vp_pattern_literal(&cut->pattern, mark, strlen(mark), err);
}

static int load_digits(const vp_json *j, const json_t *o, vp_cuts *out, vp_error *err) {
    bool individual = false;
    VP_TRY(vp_json_bool(j, o, "individual_digits", &individual, err));
    return vp_cuts_push_class(out, vp_char_is_numeric, individual ? VP_SPLIT_ISOLATED : VP_SPLIT_CONTIGUOUS, err);
}

/* \w+|[^\w\s]+ : runs of word characters, runs of the rest, without white space. */
static int push_whitespace(vp_cuts *out, vp_error *err) {
    VP_TRY(vp_cuts_push_class(out, vp_char_is_space, VP_SPLIT_REMOVED, err));
    return vp_cuts_push_class(out, vp_char_is_word, VP_SPLIT_CONTIGUOUS, err);
}

static int load_cut(const vp_json *j, const json_t *o, int depth, vp_cuts *out, bool *byte_level, vp_norms *norms,
                    vp_error *err) {
    const char *type;
    VP_TRY(type_of(j, "pre_tokenizer", o, &type, err));
    if (*byte_level) return vp_fail(err, VP_DATA, "%s: a pre_tokenizer after ByteLevel is not supported", j->path);
    if (strcmp(type, "ByteLevel") == 0) {
        *byte_level = true;
        return load_byte_level(j, o, out, err);
    }
    if (strcmp(type, "Split") == 0) return load_split(j, o, out, err);
    if (strcmp(type, "Digits") == 0) return load_digits(j, o, out, err);
    if (strcmp(type, "BertPreTokenizer") == 0) return vp_cuts_push_bert(out, err);
    if (strcmp(type, "Whitespace") == 0) return push_whitespace(out, err);
    if (strcmp(type, "WhitespaceSplit") == 0) return vp_cuts_push_class(out, vp_char_is_space, VP_SPLIT_REMOVED, err);
    if (strcmp(type, "Metaspace") == 0) return load_metaspace(j, o, out, norms, err);
    if (strcmp(type, "Punctuation") == 0) {
        vp_split_behavior behavior = VP_SPLIT_ISOLATED;
        VP_TRY(load_behavior(j, o, &behavior, err));
        return vp_cuts_push_class(out, vp_char_is_punctuation, behavior, err);
    }
    if (strcmp(type, "Sequence") != 0) return unsupported(j, "pre_tokenizer", type, err);
    const json_t *list, *item;
    size_t i;
    VP_TRY(elements(j, o, "pretokenizers", depth, &list, err));
    json_array_foreach((json_t *)(uintptr_t)list, i, item)
        VP_TRY(load_cut(j, item, depth + 1, out, byte_level, norms, err));
    return VP_OK;
}

int vp_load_pre_tokenizer(const vp_json *j, const json_t *o, vp_cuts *out, bool *byte_level, vp_norms *norms,
                          vp_error *err) {
    *byte_level = false;
    return !o || json_is_null(o) ? VP_OK : load_cut(j, o, 0, out, byte_level, norms, err);
}

/* ---- post_processor ---- */
static int put_special(const vp_json *j, const json_t *specials, const json_t *item, bool before, vp_template *out,
                       vp_error *err) {
    const char *name = NULL;
    VP_TRY(vp_json_str(j, item, "id", &name, err));
    const json_t *ids = name ? json_object_get(json_object_get(specials, name), "ids") : NULL, *id;
    if (!json_array_size(ids)) return vp_fail(err, VP_DATA, "%s: a template's special token without ids", j->path);
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)ids, i, id) {
        int64_t value = vp_json_token_id(id);
        if (value < 0) return vp_fail(err, VP_DATA, "%s: a template's id is no id", j->path);
        VP_TRY(vp_template_put(out, before, value, err));
    }
    return VP_OK;
}

static int load_template(const vp_json *j, const json_t *o, vp_template *out, vp_error *err) {
    const json_t *single = json_object_get(o, "single"), *specials = json_object_get(o, "special_tokens"), *item;
    bool before = true;
    size_t i;
    if (!json_is_array(single)) return vp_fail(err, VP_DATA, "%s: a template without 'single'", j->path);
    json_array_foreach((json_t *)(uintptr_t)single, i, item) {
        const json_t *special = json_object_get(item, "SpecialToken"), *text = json_object_get(item, "Sequence");
        if (special) {
            VP_TRY(put_special(j, specials, special, before, out, err));
            continue;
        }
        if (!text || !before) return vp_fail(err, VP_DATA, "%s: a template that does not hold one text", j->path);
        before = false;
    }
    return before ? vp_fail(err, VP_DATA, "%s: a template that does not hold one text", j->path) : VP_OK;
}

/* BertProcessing and RobertaProcessing: "cls": [text, id], "sep": [text, id]. */
static int load_cls_sep(const vp_json *j, const json_t *o, vp_template *out, vp_error *err) {
    for (int i = 0; i < 2; i++) {
        int64_t id = vp_json_token_id(json_array_get(json_object_get(o, i ? "sep" : "cls"), 1));
        if (id < 0) return vp_fail(err, VP_DATA, "%s: a post_processor without '%s'", j->path, i ? "sep" : "cls");
        VP_TRY(vp_template_put(out, i == 0, id, err));
    }
    return VP_OK;
}

/* Around what earlier processors have put. */
static int wrap(const vp_template *outer, vp_template *out, vp_error *err) {
    vp_template whole = *outer;
    for (int i = 0; i < out->nbefore; i++) VP_TRY(vp_template_put(&whole, true, out->before[i], err));
    vp_template inner = *out;
    inner.nbefore = whole.nbefore;
    memcpy(inner.before, whole.before, sizeof inner.before);
    for (int i = 0; i < outer->nafter; i++) VP_TRY(vp_template_put(&inner, false, outer->after[i], err));
    *out = inner;
    return VP_OK;
}

static int load_post(const vp_json *j, const json_t *o, int depth, vp_template *out, vp_error *err) {
    const char *type;
    vp_template outer = {0};
    VP_TRY(type_of(j, "post_processor", o, &type, err));
    if (strcmp(type, "ByteLevel") == 0) return VP_OK; /* trims offsets only; ours cover all of a token's bytes */
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list, *item;
        size_t i;
        VP_TRY(elements(j, o, "processors", depth, &list, err));
        json_array_foreach((json_t *)(uintptr_t)list, i, item) VP_TRY(load_post(j, item, depth + 1, out, err));
        return VP_OK;
    }
    if (strcmp(type, "TemplateProcessing") == 0)
        VP_TRY(load_template(j, o, &outer, err));
    else if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        VP_TRY(load_cls_sep(j, o, &outer, err));
    else
        return unsupported(j, "post_processor", type, err);
    return wrap(&outer, out, err);
}

int vp_load_post_processor(const vp_json *j, const json_t *o, vp_template *out, vp_error *err) {
    return !o || json_is_null(o) ? VP_OK : load_post(j, o, 0, out, err);
}
