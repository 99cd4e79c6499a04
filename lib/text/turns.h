/* Prompts and conversations out of JSON records. Private to lib/text; the result is vp_turn of text.h. */
#ifndef VP_TEXT_TURNS_H
#define VP_TEXT_TURNS_H
#include "lib/text/text.h"
#include <jansson.h>

typedef struct vp_turn_store {
    vp_turn *turn;
    size_t n, cap;
} vp_turn_store;

/* `messages`, a list of {role, content}, or `prompt`, a list of texts: user, assistant, user, ... Texts point into
 * `object`. n = 0: it has neither. What is wrong is said without the record's place (VP_DATA). */
int vp_turns_read(vp_turn_store *s, const json_t *object, vp_error *err);
/* What is trained on: `messages`; or a list of texts as `text`, user, assistant, ...; or `prompt` (a text, or such a
 * list) with its `completion`, a text or one message. *wanted: `label` of the record as 1 or 0, else -1. */
int vp_turns_read_training(vp_turn_store *s, const json_t *object, int *wanted, vp_error *err);
/* Whether the record is such a conversation, and no text. */
bool vp_turns_are_training(const json_t *object);
void vp_turns_free(vp_turn_store *s);

#endif
