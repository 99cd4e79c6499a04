/* How texts become tokens: chosen from what was asked for, what is remembered of the documents before, and what the
 * model's files say; and how a header tells it (`encoder.input`). */
#ifndef VP_TEXT_INPUT_H
#define VP_TEXT_INPUT_H
#include "lib/text/conversation.h"

typedef struct vp_input_options { /* what was asked for; strings NULL: not */
    const char *instruction, *layout, *query_layout;
    const char *chat;               /* "auto", "none", a model's name (lib/text/chat.h), or a prompt's (slots.h) */
    int64_t max_len, query_max_len; /* 0: not asked for */
    int64_t gen_max_len;            /* of texts to be generated; 0: as max_len */
    int64_t doc_max_len;            /* 0: none; below: not asked for */
    int64_t chunk, overlap;         /* 0: not asked for */
    int64_t block;                  /* tokens of a block of running text; 0: texts are rows */
    int truncation;                 /* 0: not asked for; else 1 + vp_truncation */
    bool query;                     /* the texts are queries */
    bool words;                     /* the texts are words, each of which is to be found again */
    bool no_specials;
    bool prefix; /* what stands before a text sees all of itself, also where attention is causal */
} vp_input_options;

typedef struct vp_input_model { /* what the model's files say; strings NULL: nothing */
    const char *query_prefix, *document_prefix;
    const char *arch, *pooling;
    const char *chat;         /* the prompt that it was trained with */
    const char *base_name[2]; /* LLM2Vec: what the base model is called */
    int64_t max_len, doc_max_len;
    const char *eos;     /* vp_tokenizer_eos; NULL: none */
    const char *mark[2]; /* vp_tokenizer_marks: BOS, EOS */
    bool prompt_pooled;
    bool prefix; /* as in vp_input_options */
    bool llm2vec;
    bool nv_embed; /* its texts have the format VP_CHAT_NV_EMBED */
} vp_input_model;

typedef struct vp_input {             /* borrows the strings of what it was chosen from */
    vp_prompt_options texts, queries; /* queries: of training examples */
    const char *side, *specials;
    const char *chat,
        *end;           /* the model whose chat it is, or the prompt's name; what follows for EOS pooling; "": none */
    const char *dialog; /* of conversations: a name of VP_DIALOGS, or "auto" */
    bool spelled;       /* their format spells out BOS and EOS */
    bool prefix;
    vp_buf instruction, before, after, task[2]; /* strings of its own */
    const vp_input_options *asked;
} vp_input;

/* VP_USAGE: options that exclude each other. */
int vp_input_check(const vp_input_options *asked, vp_error *err);
/* What was asked for stands; where nothing was, what `head` (the encoder.input that the input's own head brings; NULL:
 * none) says of documents, else the model. The chat, its end, doc_max_len, text_only and prefix come, for queries too,
 * from `known` (the encoder.input of the documents that are there already; NULL: none), so that both are prepared
 * alike. Running text has no prompt and is not cut, words have no chat and are not cut at words. VP_USAGE: a chat of
 * that name is not known, `prefix` without a format that tells instruction and text apart and that a result remembers;
 * VP_DATA: the same of `known`, or no end of text where texts are to have one. */
int vp_input_choose(vp_input *in, const vp_input_options *asked, const vp_input_model *model, const vp_map *head,
                    const vp_map *known, vp_error *err);
/* Fill encoder.input. */
int vp_input_describe(const vp_input *in, vp_map *input, vp_error *err);
/* How conversations become rows; borrows all three. */
vp_conversation_options vp_input_conversation(const vp_input *in, const vp_tokenizer *t, const vp_dialog *d);
void vp_input_free(vp_input *in);

#endif
