/* Training examples out of JSON records. Private to lib/text and lib/mine; the result is vp_example of text.h. */
#ifndef VP_TEXT_EXAMPLES_H
#define VP_TEXT_EXAMPLES_H
#include "lib/text/text.h"
#include <jansson.h>

typedef struct vp_example_store {
    vp_example example;
    size_t cap;
    json_t *titled; /* texts that were joined of title and text; NULL: none yet */
} vp_example_store;

/* Whether the record is an example and no text: it has `query` or `sentence1`. */
bool vp_example_is(const json_t *object);
/* Texts point into `object` and the store. What is wrong is said without the record's place (VP_DATA). */
int vp_example_read(vp_example_store *s, const json_t *object, vp_error *err);
/* The query alone; the query, *positives positives (0: there are none), negatives, without scores. */
int vp_example_read_query(vp_example_store *s, const json_t *object, vp_error *err);
int vp_example_read_texts(vp_example_store *s, const json_t *object, size_t *positives, vp_error *err);
void vp_example_free(vp_example_store *s);

#endif
