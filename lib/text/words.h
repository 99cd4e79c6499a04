/* Texts that come as words: records {"words": [...]}, joined by one space, and which token belongs to which word.
 * Private to lib/text but for what text.h declares. */
#ifndef VP_TEXT_WORDS_H
#define VP_TEXT_WORDS_H
#include "lib/text/text.h"
#include <jansson.h>

/* The words of one record; {0} is empty. */
typedef struct vp_joined {
    vp_buf text, end; /* UTF-8; uint32_t: where each word ends in it */
} vp_joined;
/* Joins the member `words` of record `number` of the input `name`. VP_DATA with name:number: not an array of strings,
 * or a word is empty; or there is a member `labels` that is not an array of as many. */
int vp_words_join(vp_joined *w, const json_t *object, const char *name, int64_t number, vp_error *err);
void vp_joined_free(vp_joined *w);

#endif
