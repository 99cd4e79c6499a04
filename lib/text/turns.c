/* Conversations in JSON: several spellings, one list of turns. */
#include "lib/text/turns.h"
#include <stdlib.h>
#include <string.h>

static int add_turn(vp_turn_store *s, vp_speaker speaker, const json_t *text, vp_error *err) {
    if (!json_is_string(text)) return vp_fail(err, VP_DATA, "turn %zu of the conversation has no text", s->n + 1);
    VP_TRY(vp_grow(&s->turn, &s->cap, s->n, sizeof *s->turn, "a conversation", err));
    s->turn[s->n++] = (vp_turn){speaker, json_string_value(text), json_string_length(text)};
    return VP_OK;
}

static int add_message(vp_turn_store *s, const json_t *message, vp_error *err) {
    static const char *const roles[] = {"system", "user", "assistant"}; /* vp_speaker */
    const char *role = json_string_value(json_object_get(message, "role"));
    for (int i = 0; role && i < 3; i++)
        if (strcmp(role, roles[i]) == 0) return add_turn(s, (vp_speaker)i, json_object_get(message, "content"), err);
    return vp_fail(err, VP_DATA, "message %zu: its role is not system, user or assistant", s->n + 1);
}

static int add_messages(vp_turn_store *s, const json_t *messages, const char *name, vp_error *err) {
    if (!json_array_size(messages)) return vp_fail(err, VP_DATA, "'%s' is not a list of messages", name);
    for (size_t i = 0; i < json_array_size(messages); i++) VP_TRY(add_message(s, json_array_get(messages, i), err));
    return VP_OK;
}

/* user, assistant, user, ... */
static int add_texts(vp_turn_store *s, const json_t *texts, const char *name, vp_error *err) {
    if (!json_array_size(texts)) return vp_fail(err, VP_DATA, "'%s' is an empty list", name);
    for (size_t i = 0; i < json_array_size(texts); i++)
        VP_TRY(add_turn(s, i % 2 ? VP_SPEAKER_ASSISTANT : VP_SPEAKER_USER, json_array_get(texts, i), err));
    return VP_OK;
}

static bool is_there(const json_t *v) {
    return v && !json_is_null(v);
}

int vp_turns_read(vp_turn_store *s, const json_t *object, vp_error *err) {
    const json_t *messages = json_object_get(object, "messages"), *prompt = json_object_get(object, "prompt");
    s->n = 0;
    if (is_there(messages)) return add_messages(s, messages, "messages", err);
    return json_is_array(prompt) ? add_texts(s, prompt, "prompt", err) : VP_OK;
}

bool vp_turns_are_training(const json_t *object) {
    if (json_is_string(json_object_get(object, "text"))) return false;
    return is_there(json_object_get(object, "messages")) || json_is_array(json_object_get(object, "text")) ||
           (is_there(json_object_get(object, "prompt")) && is_there(json_object_get(object, "completion")));
}

/* A text by that speaker, a list of texts, or a list of messages. */
static int add_part(vp_turn_store *s, const json_t *v, const char *name, vp_speaker speaker, vp_error *err) {
    if (json_is_object(json_array_get(v, 0))) return add_messages(s, v, name, err);
    if (json_is_array(v) && speaker == VP_SPEAKER_USER) return add_texts(s, v, name, err);
    return add_turn(s, speaker, v, err);
}

static int read_label(const json_t *object, int *wanted, vp_error *err) {
    const json_t *label = json_object_get(object, "label");
    *wanted = -1;
    if (!is_there(label)) return VP_OK;
    const double number = json_is_boolean(label) ? json_is_true(label) : json_number_value(label);
    if (!(json_is_boolean(label) || json_is_number(label)) || (number != 0 && number != 1))
        return vp_fail(err, VP_DATA, "'label' is neither true nor false");
    *wanted = number == 1;
    return VP_OK;
}

int vp_turns_read_training(vp_turn_store *s, const json_t *object, int *wanted, vp_error *err) {
    const json_t *messages = json_object_get(object, "messages"), *text = json_object_get(object, "text");
    s->n = 0;
    VP_TRY(read_label(object, wanted, err));
    if (is_there(messages)) return add_messages(s, messages, "messages", err);
    if (json_is_array(text)) return add_texts(s, text, "text", err);
    VP_TRY(add_part(s, json_object_get(object, "prompt"), "prompt", VP_SPEAKER_USER, err));
    return add_part(s, json_object_get(object, "completion"), "completion", VP_SPEAKER_ASSISTANT, err);
}

void vp_turns_free(vp_turn_store *s) {
    free(s->turn);
    *s = (vp_turn_store){0};
}
