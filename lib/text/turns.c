/* Conversations in JSON: two spellings, one list of turns. */
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

int vp_turns_read(vp_turn_store *s, const json_t *object, vp_error *err) {
    const json_t *messages = json_object_get(object, "messages"), *prompt = json_object_get(object, "prompt");
    s->n = 0;
    if (messages && !json_is_null(messages)) {
        if (!json_array_size(messages)) return vp_fail(err, VP_DATA, "'messages' is not a list of messages");
        for (size_t i = 0; i < json_array_size(messages); i++) VP_TRY(add_message(s, json_array_get(messages, i), err));
        return VP_OK;
    }
    if (!json_is_array(prompt)) return VP_OK;
    if (!json_array_size(prompt)) return vp_fail(err, VP_DATA, "'prompt' is an empty list");
    for (size_t i = 0; i < json_array_size(prompt); i++)
        VP_TRY(add_turn(s, i % 2 ? VP_SPEAKER_ASSISTANT : VP_SPEAKER_USER, json_array_get(prompt, i), err));
    return VP_OK;
}

void vp_turns_free(vp_turn_store *s) {
    free(s->turn);
    *s = (vp_turn_store){0};
}
