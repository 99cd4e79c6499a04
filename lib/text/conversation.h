/* Conversations, and running texts, as rows of tokens that a model learns to generate: which tokens are answers is
 * found from places in the text, not from lengths of parts. Private to lib/text. */
#ifndef VP_TEXT_CONVERSATION_H
#define VP_TEXT_CONVERSATION_H
#include "lib/text/dialog.h"

typedef struct vp_conversation_options { /* borrowed */
    const vp_tokenizer *tokenizer;
    const vp_dialog *dialog; /* NULL: there is no format for conversations */
    const char *bos;   /* put before them, and the tokenizer adds nothing; NULL: it adds what it adds before texts */
    int64_t max_len;   /* tokens, cut at the end; 0: any */
    int64_t max_chars; /* of a turn, cut first; 0: any */
} vp_conversation_options;

typedef struct vp_conversation { /* {0} is empty; reused from one to the next */
    vp_buf text, answers;        /* answers: pairs of size_t, places in text */
    vp_buf turns, keep;
    vp_tokens tokens;
    size_t targets; /* tokens that are kept, but for the first of all, which nothing predicts */
    bool truncated;
} vp_conversation;
/* A conversation, or, where turn is NULL, `text`, all of which is to be generated. tokens, and keep for each of them: 1
 * for what belongs to an answer or its end. VP_DATA: turns in an order that the format does not have, or no format. */
int vp_conversation_make(vp_conversation *c, const vp_conversation_options *o, const vp_record *r, vp_error *err);
/* The dialog by that name, spelled for the tokenizer; NULL where it is "auto" and the model in `path` has none that is
 * known. */
int vp_conversation_dialog(vp_dialog **d, const char *path, const char *name, const vp_tokenizer *t, vp_error *err);
void vp_conversation_free(vp_conversation *c);

#endif
