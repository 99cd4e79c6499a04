/* What stands around a text for the chat models that LLM2Vec was made of, by the base model's name, and for NV-Embed.
 */
#ifndef VP_TEXT_CHAT_H
#define VP_TEXT_CHAT_H

#define VP_CHAT_NV_EMBED "NV-Embed" /* no chat, but a format of instructions and an end (arXiv 2405.17428) */
#define VP_CHAT_GRIT     "grit"   /* GRIT's format of instructions (arXiv 2402.09906), and the one with ends that it */
#define VP_CHAT_ZEPHYR   "zephyr" /* was compared with: BOS and ends are spelled out, the tokenizer adds none */
#define VP_CHAT_EOS      "{eos}"  /* as `after`: the tokenizer's end of text, unless it puts one there itself */

typedef struct vp_chat {
    const char *model;          /* its name, without the owner */
    const char *before, *after; /* of the instruction and the text */
    const char *end;            /* what else follows for EOS pooling; NULL: as the architecture has it */
    const char *task[2];        /* before and after an instruction, where there is one; NULL: nothing. Texts of such a
                                   format keep the white space at their end */
    const char *bare;           /* GRIT: what stands before a text without one */
} vp_chat;

/* The row of a model by its name or path, of which what follows the last slash counts; NULL: not listed. */
const vp_chat *vp_chat_find(const char *name);
/* The names in the list, as a message has them: "A, B, C". */
const char *vp_chat_models(void);
/* What LLM2Vec appends for EOS pooling, after the chat's own end: chat NULL: an unlisted model of architecture `arch`
 * (NULL: not known); "": nothing. */
const char *vp_chat_end(const vp_chat *chat, const char *arch);

#endif
