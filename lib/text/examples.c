/* One record, one example: a query, the texts that answer it and those that do not, with a teacher's or an annotator's
 * scores if there are any. The keys of several data sets' customs are read. */
#include "lib/text/examples.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The first of these members that is there and not null. */
static const json_t *member(const json_t *object, const char *const *names, const char **name) {
    for (size_t i = 0; names[i]; i++) {
        const json_t *v = json_object_get(object, names[i]);
        *name = names[i];
        if (v && !json_is_null(v)) return v;
    }
    *name = names[0];
    return NULL;
}

/* LLaRA's rows: a text, and what it must rebuild and foretell. */
static bool is_passage(const json_t *object) {
    return json_object_get(object, "input") && !json_object_get(object, "query") &&
           (json_object_get(object, "output_summarize") || json_object_get(object, "output_predict"));
}

bool vp_example_is(const json_t *object) {
    return json_object_get(object, "query") || json_object_get(object, "sentence1") || is_passage(object);
}

static void set_text(vp_example_text *t, const json_t *v) {
    t->text = json_string_value(v);
    t->text_len = json_string_length(v);
}

/* {title, text}, tevatron's: as one string, which the store keeps. */
static int set_document(vp_example_store *s, vp_example_text *t, const json_t *v, const char *name, vp_error *err) {
    const json_t *title = json_object_get(v, "title"), *text = json_object_get(v, "text");
    if (!json_is_string(text) || (title && !json_is_null(title) && !json_is_string(title)))
        return vp_fail(err, VP_DATA, "'%s' has no 'text', or one or a 'title' that is no string", name);
    if (!json_string_length(title)) {
        set_text(t, text);
        return VP_OK;
    }
    const vp_record parts = {.title = json_string_value(title),
                             .title_len = json_string_length(title),
                             .text = json_string_value(text),
                             .text_len = json_string_length(text)};
    vp_buf joined = {0};
    int status = vp_record_text(&parts, &joined, err);
    json_t *made = status ? NULL : json_stringn(joined.data, joined.len);
    if (!s->titled) s->titled = json_array();
    if (!status && json_array_append_new(s->titled, made)) status = vp_fail_memory(err, "a text", joined.len);
    if (!status) set_text(t, made);
    vp_buf_free(&joined);
    return status;
}

/* A string, [instruction, text], or {title, text}. */
static int add_text(vp_example_store *s, const json_t *v, const char *name, uint8_t role, vp_error *err) {
    vp_example *e = &s->example;
    vp_example_text t = {.role = role};
    const json_t *instruction = json_array_get(v, 0);
    if (json_is_string(v)) {
        set_text(&t, v);
    } else if (json_array_size(v) == 2 && json_is_string(instruction) && json_is_string(json_array_get(v, 1))) {
        set_text(&t, json_array_get(v, 1));
        t.instruction = json_string_value(instruction);
        t.instruction_len = json_string_length(instruction);
    } else if (json_is_object(v)) {
        VP_TRY(set_document(s, &t, v, name, err));
    } else {
        return vp_fail(err, VP_DATA, "'%s' is neither a string nor [instruction, text] nor {title, text}", name);
    }
    VP_TRY(vp_grow(&e->text, &s->cap, e->n, sizeof *e->text, "an example", err));
    e->text[e->n++] = t;
    return VP_OK;
}

/* A string, or a list of texts. */
static int add_texts(vp_example_store *s, const json_t *v, const char *name, uint8_t role, vp_error *err) {
    if (!json_is_array(v)) return add_text(s, v, name, role, err);
    for (size_t i = 0; i < json_array_size(v); i++) VP_TRY(add_text(s, json_array_get(v, i), name, role, err));
    return VP_OK;
}

static int set_score(vp_example_text *t, const json_t *v, const char *name, vp_error *err) {
    const double score = json_number_value(v);
    if (!json_is_number(v) || !(fabs(score) <= (double)3.4e38f))
        return vp_fail(err, VP_DATA, "'%s' holds something other than a number", name);
    t->score = (float)score;
    return VP_OK;
}

/* One score for each of the texts [first, last). */
static int take_scores(vp_example *e, const json_t *v, const char *name, size_t first, size_t last, vp_error *err) {
    if (!json_is_array(v) || json_array_size(v) != last - first)
        return vp_fail(err, VP_DATA, "'%s' is not a list of %zu numbers, one for each text", name, last - first);
    for (size_t i = first; i < last; i++) VP_TRY(set_score(&e->text[i], json_array_get(v, i - first), name, err));
    e->scored = true;
    return VP_OK;
}

static int read_scores(vp_example *e, const json_t *object, size_t positives, vp_error *err) {
    const json_t *all = json_object_get(object, "scores"), *one = json_object_get(object, "score");
    const json_t *pos = json_object_get(object, "pos_scores"), *neg = json_object_get(object, "neg_scores");
    if (all && !json_is_null(all)) return take_scores(e, all, "scores", 1, e->n, err);
    if (pos && !json_is_null(pos)) {
        VP_TRY(take_scores(e, pos, "pos_scores", 1, 1 + positives, err));
        if (e->n == 1 + positives) return VP_OK;
        if (!neg) return vp_fail(err, VP_DATA, "'pos_scores' without 'neg_scores'");
        return take_scores(e, neg, "neg_scores", 1 + positives, e->n, err);
    }
    if (!one || json_is_null(one)) return VP_OK;
    if (e->n != 2) return vp_fail(err, VP_DATA, "one 'score' for %zu texts: 'scores' is a list", e->n - 1);
    e->scored = true;
    return set_score(&e->text[1], one, "score", err);
}

static void begin(vp_example_store *s) {
    s->example.n = 0;
    s->example.scored = false;
    json_array_clear(s->titled);
}

int vp_example_read_query(vp_example_store *s, const json_t *object, vp_error *err) {
    static const char *const queries[] = {"query", "sentence1", NULL};
    static const char *const instructions[] = {"instruction", "prompt", NULL};
    const char *name, *own_name;
    vp_example *e = &s->example;
    begin(s);
    const json_t *v = member(object, queries, &name), *own = member(object, instructions, &own_name);
    VP_TRY(add_text(s, v, name, VP_ROLE_QUERY, err));
    if (own) {
        if (!json_is_string(own)) return vp_fail(err, VP_DATA, "'%s' is not a string", own_name);
        e->text[0].instruction = json_string_value(own);
        e->text[0].instruction_len = json_string_length(own);
    }
    return VP_OK;
}

static const json_t *positive_of(const json_t *object, const char **name) {
    static const char *const names[] = {"positive", "pos", "sentence2", "positive_passages", NULL};
    return member(object, names, name);
}

int vp_example_read_texts(vp_example_store *s, const json_t *object, size_t *positives, vp_error *err) {
    static const char *const negative[] = {"negative", "neg", "negative_passages", NULL};
    const char *name;
    VP_TRY(vp_example_read_query(s, object, err));
    const json_t *v = positive_of(object, &name);
    if (v) VP_TRY(add_texts(s, v, name, VP_ROLE_POSITIVE, err));
    *positives = s->example.n - 1;
    v = member(object, negative, &name);
    return v ? add_texts(s, v, name, VP_ROLE_NEGATIVE, err) : VP_OK;
}

/* What it must rebuild is the text itself where nothing else is said. */
static int read_passage(vp_example_store *s, const json_t *object, vp_error *err) {
    static const char *const rebuilt[] = {"output_summarize", "input", NULL};
    const json_t *next = json_object_get(object, "output_predict");
    const char *name;
    begin(s);
    VP_TRY(add_text(s, json_object_get(object, "input"), "input", VP_ROLE_QUERY, err));
    const json_t *v = member(object, rebuilt, &name);
    VP_TRY(add_text(s, v, name, VP_ROLE_POSITIVE, err));
    return next && !json_is_null(next) ? add_text(s, next, "output_predict", VP_ROLE_POSITIVE, err) : VP_OK;
}

int vp_example_read(vp_example_store *s, const json_t *object, vp_error *err) {
    size_t positives;
    const char *name;
    if (is_passage(object)) return read_passage(s, object, err);
    VP_TRY(vp_example_read_texts(s, object, &positives, err));
    positive_of(object, &name);
    if (!positives) return vp_fail(err, VP_DATA, "no '%s' for the query", name);
    return read_scores(&s->example, object, positives, err);
}

void vp_example_free(vp_example_store *s) {
    free(s->example.text);
    json_decref(s->titled);
    *s = (vp_example_store){0};
}
