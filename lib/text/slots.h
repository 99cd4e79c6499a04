/* Prompts that end in slots, tokens whose states stand for the text (LLaRA): which pieces of text stand around it, and
 * their tokens. Every piece is tokenised by itself. */
#ifndef VP_TEXT_SLOTS_H
#define VP_TEXT_SLOTS_H
#include "lib/text/text.h"

typedef enum vp_slot_side { VP_SLOTS_SELF, VP_SLOTS_NEXT } vp_slot_side;

typedef struct vp_slot_prompt {
    const char *name;
    const char *prefix;    /* before the text */
    const char *suffix[2]; /* after it, by vp_slot_side: slots that rebuild the text, or foretell the next one */
    size_t slots;          /* that follow a suffix */
    bool eos; /* each is the tokenizer's EOS; else those of SELF are <s1>, <s2>, ..., of NEXT the ones after */
} vp_slot_prompt;

/* Spellings of the names. */
#define VP_SLOT_PROMPTS "llara|llara-paper"
const vp_slot_prompt *vp_slots_find(const char *name); /* NULL: none by that name */
/* Append the prefix, with what the tokenizer puts before a text where `specials`; or a suffix with its slots, which
 * come last. VP_DATA: the tokenizer lacks a slot. */
int vp_slots_prefix(const vp_slot_prompt *p, const vp_tokenizer *t, bool specials, vp_tokens *out, vp_error *err);
int vp_slots_suffix(const vp_slot_prompt *p, const vp_tokenizer *t, vp_slot_side side, vp_tokens *out, vp_error *err);

#endif
