/* Private to lib/gen: a sequence that grows, and how a token becomes text. */
#ifndef VP_GEN_PRIVATE_H
#define VP_GEN_PRIVATE_H
#include "lib/gen/gen.h"
#include "lib/model/cache.h"
#include "lib/text/decode.h"

typedef struct vp_stops { /* as the options have them */
    const char *const *text;
    size_t n, longest;
} vp_stops;

/* The text and the finish of an answer after one more token: `ends` says that the token is an end. */
int vp_answer_take(vp_answer *a, vp_detokenizer *d, const vp_stops *stops, int32_t id, bool ends, int64_t most,
                   vp_finish at_most, vp_error *err);
void vp_answer_free(vp_answer *a);

#endif
