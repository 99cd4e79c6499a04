/* One vector a word: where the words of a frame stand, and the frame of words that comes of it. Private to lib/model.
 */
#ifndef VP_MODEL_POOL_WORDS_H
#define VP_MODEL_POOL_WORDS_H
#include "lib/stream/stream.h"

/* The words of a frame that have a token, in order: word i of sentence[i] is the mean of the states [cu[i], cu[i + 1])
 * with keep. */
typedef struct vp_word_spans {
    int64_t n;
    int32_t *cu;       /* [n + 1], of which cu[0] = 0 and cu[n] = T; 0 0 when n is 0 */
    int32_t *sentence; /* [n]: the row */
    int32_t *index;    /* [n]: the word's place in it, the value of column `word` */
    uint8_t *keep;     /* [T] */
} vp_word_spans;
/* From columns cu and word. With `shift` a token's state is the one before it: what predicts it after masked next-token
 * training; a row's first token has none. VP_DATA: words that do not ascend. Free also after a failure. */
int vp_word_spans_find(vp_word_spans *w, const vp_frame *f, bool shift, vp_error *err);
void vp_word_spans_free(vp_word_spans *w);

/* Leave the frame nothing but the words' columns: id SENTENCE#k and parent (where the sentences have an id), meta with
 * {"label": labels[k]} (where their meta has `labels`), and row, the sentence's. `first` is the ordinal of the frame's
 * first row if it has no `row`; rows [n] is borrowed as the column until the frame is written. */
int vp_words_frame(const vp_word_spans *w, vp_frame *f, int64_t first, int64_t *rows, vp_error *err);
/* The same for a header's declarations. */
int vp_words_declare(vp_map *header, vp_error *err);

#endif
