/* The table of prompts with slots (slots.h): LLaRA's as its code has it, with 8 + 8 slots, and as its paper has it (Li
 * et al., Making Large Language Models a Better Foundation for Dense Retrieval). Where code and paper differ, the code
 * is what its models were trained with. */
#include "lib/text/slots.h"
#include "lib/text/tokenizer.h"
#include <stdio.h>
#include <string.h>

static const vp_slot_prompt prompts[] = {
    {"llara",
     "\"",
     {"\", summarize the above passage within eight words: ", "\", predict the following passage within eight words: "},
     8,
     false},
    {"llara-paper", "", {" The original sentence:", " The next sentence:"}, 1, true},
};

const vp_slot_prompt *vp_slots_find(const char *name) {
    for (size_t i = 0; name && i < sizeof prompts / sizeof *prompts; i++)
        if (!strcmp(prompts[i].name, name)) return &prompts[i];
    return NULL;
}

int vp_slots_prefix(const vp_slot_prompt *p, const vp_tokenizer *t, bool specials, vp_tokens *out, vp_error *err) {
    size_t before, after;
    vp_tokenizer_specials(t, &before, &after);
    VP_TRY(vp_tokenizer_encode(t, p->prefix, strlen(p->prefix), specials, out, err));
    if (specials) out->n -= after; /* what ends a text comes after no piece */
    return VP_OK;
}

int vp_slots_suffix(const vp_slot_prompt *p, const vp_tokenizer *t, vp_slot_side side, vp_tokens *out, vp_error *err) {
    const char *text = p->suffix[side];
    char name[32];
    VP_TRY(vp_tokenizer_encode(t, text, strlen(text), false, out, err));
    for (size_t i = 0; i < p->slots; i++) {
        snprintf(name, sizeof name, "<s%zu>", (size_t)side * p->slots + i + 1);
        const int32_t id = p->eos ? t->eos : vp_tokenizer_find(t, name, strlen(name));
        if (id < 0)
            return vp_fail(err, VP_DATA, "prompt %s: the tokenizer has no %s%s", p->name,
                           p->eos ? "token that ends a text" : name,
                           p->eos ? "" : ": merge --extra-tokens 16 puts it there");
        VP_TRY(vp_tokens_add(out, id, strlen(text), strlen(text), err));
    }
    return VP_OK;
}
