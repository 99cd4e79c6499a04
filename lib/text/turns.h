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
void vp_turns_free(vp_turn_store *s);

#endif
