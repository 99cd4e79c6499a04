/* Generation: prompts to texts, many at a time, each with a cache of its own. What a prompt gives depends on the
 * prompt, its row and the seed, not on those beside it. */
#ifndef VP_GEN_H
#define VP_GEN_H
#include "lib/gen/caches.h"
#include "lib/model/model.h"
#include "lib/text/dialog.h"
#include "lib/text/text.h"

typedef enum vp_finish {
    VP_FINISH_NONE,
    VP_FINISH_END,
    VP_FINISH_STOP,
    VP_FINISH_LENGTH,
    VP_FINISH_CONTEXT,
    VP_FINISH_FAILED
} vp_finish;
/* "end" (a token that ends a text), "stop" (a stop text), "length" (max_tokens), "context" (the model has no more
 * positions), "failed" (its logits were not finite: what there is of it is no answer); NULL for VP_FINISH_NONE */
const char *vp_finish_name(vp_finish f);

typedef struct vp_gen_options {
    int64_t max_tokens; /* of an answer, its end included; >= 1 */
    double temperature; /* 0: the likeliest token */
    int64_t top_k;      /* 0: all */
    double top_p;       /* in (0, 1] */
    double penalty;     /* of tokens that the prompt or the answer has already, as CTRL's (Keskar et al. 2019); 1:
                           none */
    uint64_t seed;
    const char *const *stop; /* texts (UTF-8) that end an answer, and are no part of it; borrowed */
    size_t nstops;
    const char *end; /* a token's text that ends an answer, beside those that the model's files name; NULL: none */
    int64_t batch;   /* prompts that run together, >= 1 */
    bool logprobs;
    bool rope_shift; /* keys of cached texts are moved to where the texts stand; else each begins at position 0 */
} vp_gen_options;

/* An answer, complete or growing. */
typedef struct vp_answer {
    int64_t row, number; /* as the prompt was added; counted from 0 */
    vp_buf text;         /* UTF-8; without its end */
    size_t certain;      /* bytes that nothing to come can take back */
    int32_t *id;         /* [tokens], the end among them */
    float *logprob;      /* [tokens] of the model's distribution before penalty and temperature; NULL: not wanted */
    int64_t tokens;
    vp_finish finish; /* VP_FINISH_NONE: growing */
} vp_answer;

typedef struct vp_gen vp_gen;
/* Tokenizer and encoder are borrowed; the encoder is open for generation with causal attention (model.h). VP_DATA: a
 * model without an output head, or a tokenizer without a way back to text. Memory: the encoder's, the head's, and
 * a cache (lib/model/cache.h) for each prompt that runs, of its tokens and its answer's. */
int vp_gen_open(vp_gen **g, const vp_model *m, vp_encoder *e, const vp_tokenizer *t, const vp_gen_options *o,
                vp_error *err);
void vp_gen_close(vp_gen *g);
/* A prompt begins; ids are copied, row < 2^32 counts its random numbers. VP_DATA: it is empty, leaves no room in the
 * model's positions, or has an id outside the vocabulary. Not when vp_gen_full. */
int vp_gen_add(vp_gen *g, const int32_t *ids, size_t n, int64_t row, vp_error *err);
/* The same behind texts whose keys and values are there, borrowed until its answer is complete. It sees them all; its
 * first token's position is the number of theirs. The penalty does not know their tokens. VP_DATA: keys and values of
 * another shape than the model's. */
int vp_gen_add_behind(vp_gen *g, const vp_behind *behind, const int32_t *ids, size_t n, int64_t row, vp_error *err);
/* As many prompts run as may, or so many answers wait for one before them that no more should begin. */
bool vp_gen_full(const vp_gen *g);
int64_t vp_gen_waiting(const vp_gen *g); /* answers that there can be at a time */
bool vp_gen_idle(const vp_gen *g);       /* no prompt runs */
/* One token for every prompt that runs. */
int vp_gen_step(vp_gen *g, vp_error *err);
/* The oldest answer that was not dropped, growing or complete; NULL: none. Valid until it is dropped. */
const vp_answer *vp_gen_first(const vp_gen *g);
void vp_gen_drop(vp_gen *g);            /* the first, which is complete */
int64_t vp_gen_tokens(const vp_gen *g); /* of all answers so far */

/* ---- prompts ---- */
/* The ids of a record's prompt (append): its text, or the conversation, in the dialog's format (NULL: text only). BOS
 * comes from the tokenizer, EOS does not; `begin`, "" or what vp_tokenizer_begin gives, stands before a text. VP_DATA:
 * a conversation without a dialog. */
int vp_gen_prompt(const vp_tokenizer *t, const vp_dialog *d, const char *begin, const vp_record *r, vp_tokens *out,
                  vp_error *err);
/* Append text as a terminal may get it, where control characters could do anything: only newline and tab go through. */
int vp_gen_printable(const char *text, size_t n, vp_buf *out, vp_error *err);
/* Append an answer as a line of JSON: the prompt's id and other members (JSON objects as vp_record.meta; NULL: none),
 * text, tokens, finish, and with logprobs a list [id, logprob] a token. */
typedef struct vp_gen_line {
    const char *id, *meta, *prompt; /* NULL: none */
    size_t id_len, meta_len, prompt_len;
} vp_gen_line;
int vp_gen_write(const vp_answer *a, const vp_gen_line *l, vp_buf *out, vp_error *err);

#endif
