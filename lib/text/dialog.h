/* Conversations as one text, in the format that a chat model was trained on. */
#ifndef VP_TEXT_DIALOG_H
#define VP_TEXT_DIALOG_H
#include "lib/text/text.h"

/* Formats by name; "auto" is what the model's chat template is found to be. */
#define VP_DIALOGS "chatml|llama3|llama2|mistral|gemma|zephyr|grit"

typedef struct vp_dialog vp_dialog;
/* Whether `name`, which may be NULL, is one of VP_DIALOGS. */
bool vp_dialog_known(const char *name);
/* `name`: one of VP_DIALOGS, or "auto": by the marks in the template of tokenizer_config.json, chat_template.jinja or
 * GGUF's tokenizer.chat_template, which is recognised, not run: of its text only ChatML's default system turn is taken.
 * `path` as for vp_tokenizer_open. VP_USAGE: no such name; VP_DATA: no template, or none of these. */
int vp_dialog_open(vp_dialog **d, const char *path, const char *name, vp_error *err);
void vp_dialog_close(vp_dialog *d);
/* Ends of turns by "</s>" become the tokenizer's own EOS where it has no such token; prompts of grit and zephyr begin
 * with its BOS where it puts none before texts. Once, before anything is rendered. */
int vp_dialog_spell(vp_dialog *d, const vp_tokenizer *t, vp_error *err);
/* Append the text of a conversation up to where the answer begins: system (at most one, first), user, assistant, user,
 * ... An assistant's turn at the end is not closed: the answer goes on with it. BOS is the tokenizer's business.
 * VP_DATA: another order, or a system turn where the format has none. */
int vp_dialog_render(const vp_dialog *d, const vp_turn *turn, size_t n, vp_buf *out, vp_error *err);
/* Append a whole conversation, as it is trained on: answers lose the white space around them, each is closed by the end
 * of turns, and nothing follows the last one. `answers`: appends [from, to) of each with its end, pairs of size_t,
 * places in `out`. VP_DATA as above. */
int vp_dialog_render_answers(const vp_dialog *d, const vp_turn *turn, size_t n, vp_buf *out, vp_buf *answers,
                             vp_error *err);
/* The token that ends a turn, as text. */
const char *vp_dialog_end(const vp_dialog *d);

#endif
